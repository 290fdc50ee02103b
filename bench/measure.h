/*
 * measure.h: clocks, memory, disk space, medians and arguments, for the benchmarks. All of it ends the program with a
 * message when it fails: a benchmark that went wrong has no result. Include it first, for the sake of _GNU_SOURCE.
 */
#ifndef BENCH_MEASURE_H
#define BENCH_MEASURE_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1
#endif

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MIB ((uint64_t)1 << 20)
#define MAX_REPETITIONS 99

__attribute__((format(printf, 1, 2), noreturn)) static inline void fail(const char *format, ...) {
	va_list arguments;

	fflush(stdout);
	fprintf(stderr, "%s: ", program_invocation_short_name);
	va_start(arguments, format);
	vfprintf(stderr, format, arguments);
	va_end(arguments);
	fputc('\n', stderr);
	exit(1);
}

/* ---- Time, memory, space --------------------------------------------------------------------------------- */

static inline double now_seconds(void) {
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static inline void sleep_seconds(double seconds) {
	struct timespec time = {.tv_sec = (time_t)seconds, .tv_nsec = (long)((seconds - (double)(time_t)seconds) * 1e9)};

	nanosleep(&time, NULL);
}

/* Processor time of this process, all of its threads, in the program and in the kernel. */
static inline double cpu_seconds(void) {
	struct rusage usage;

	getrusage(RUSAGE_SELF, &usage);
	return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
		   (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

/* A number from a file of /proc/self, by the name at the beginning of its line. */
static inline uint64_t proc_number(const char *path, const char *name) {
	FILE *file = fopen(path, "r");
	char line[256];
	uint64_t number;

	if (file == NULL) {
		fail("cannot read %s: %s", path, strerror(errno));
	}
	while (fgets(line, sizeof(line), file) != NULL) {
		size_t size = strlen(name);

		if (strncmp(line, name, size) == 0 && sscanf(line + size, ": %" SCNu64, &number) == 1) {
			fclose(file);
			return number;
		}
	}
	fail("%s has no line %s", path, name);
}

/* "VmHWM" (the most that was resident so far), "VmRSS", "RssAnon", "RssShmem". */
static inline uint64_t memory_bytes(const char *name) {
	return proc_number("/proc/self/status", name) * 1024;
}

/* What the files of a directory take on disk. */
static inline uint64_t disk_bytes(const char *directory) {
	DIR *files = opendir(directory);
	const struct dirent *file;
	uint64_t bytes = 0;

	if (files == NULL) {
		fail("cannot list %s: %s", directory, strerror(errno));
	}
	while ((file = readdir(files)) != NULL) {
		struct stat status;

		if (fstatat(dirfd(files), file->d_name, &status, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(status.st_mode)) {
			bytes += (uint64_t)status.st_blocks * 512;
		}
	}
	closedir(files);
	return bytes;
}

/* ---- Scratch directories --------------------------------------------------------------------------------- */

static inline char *path_in(const char *directory, const char *name) {
	char *path;

	if (asprintf(&path, "%s/%s", directory, name) < 0) {
		fail("out of memory");
	}
	return path;
}

/* Removes a directory of files and of directories of files; one that is not there is no error. */
static inline void remove_directory(const char *path) {
	DIR *files = opendir(path);
	const struct dirent *file;

	if (files == NULL) {
		return;
	}
	while ((file = readdir(files)) != NULL) {
		char *inner;

		if (strcmp(file->d_name, ".") == 0 || strcmp(file->d_name, "..") == 0) {
			continue;
		}
		inner = path_in(path, file->d_name);
		if (unlink(inner) != 0 && (errno == EISDIR || errno == EPERM)) {
			remove_directory(inner);
		}
		free(inner);
	}
	closedir(files);
	if (rmdir(path) != 0) {
		fprintf(stderr, "cannot remove %s: %s\n", path, strerror(errno));
	}
}

static char *scratch;
static pid_t scratch_owner;

static inline void scratch_remove(void) {
	if (getpid() == scratch_owner) {
		remove_directory(scratch);
	}
}

/* A new directory below `parent`, or TMPDIR, or /tmp; removed when this process exits. Once in a program. */
static inline const char *scratch_create(const char *parent) {
	if (parent == NULL) {
		parent = getenv("TMPDIR") != NULL ? getenv("TMPDIR") : "/tmp";
	}
	scratch = path_in(parent, "aidb-bench.XXXXXX");
	if (mkdtemp(scratch) == NULL) {
		fail("cannot make a directory in %s: %s", parent, strerror(errno));
	}
	scratch_owner = getpid();
	atexit(scratch_remove);
	return scratch;
}

/* ---- Processes ------------------------------------------------------------------------------------------- */

/* Zeroed memory that forked processes share. */
static inline void *shared_memory(size_t size) {
	void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	if (memory == MAP_FAILED) {
		fail("cannot map %zu bytes: %s", size, strerror(errno));
	}
	return memory;
}

/* fork() with nothing left in stdio's buffers to be written twice. */
static inline pid_t start_process(void) {
	pid_t process;

	fflush(NULL);
	process = fork();
	if (process < 0) {
		fail("cannot fork: %s", strerror(errno));
	}
	return process;
}

/* False when it did not end with status 0; says so. */
static inline bool process_succeeded(pid_t process, const char *what) {
	int status;

	while (waitpid(process, &status, 0) < 0) {
		if (errno != EINTR) {
			fail("cannot wait for %s: %s", what, strerror(errno));
		}
	}
	if (WIFSIGNALED(status)) {
		fprintf(stderr, "%s: killed by signal %d (%s)\n", what, WTERMSIG(status), strsignal(WTERMSIG(status)));
	}
	return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

/* ---- Statistics ------------------------------------------------------------------------------------------ */

typedef struct sample_set {
	double values[MAX_REPETITIONS];
	unsigned count;
} sample_set;

static inline void samples_add(sample_set *samples, double value) {
	samples->values[samples->count++] = value;
}

static inline int compare_doubles(const void *left, const void *right) {
	double a = *(const double *)left;
	double b = *(const double *)right;

	return a < b ? -1 : a > b;
}

typedef struct spread {
	double median, low, high;
} spread;

static inline spread spread_of(const sample_set *samples) {
	double sorted[MAX_REPETITIONS];
	unsigned count = samples->count;

	if (count == 0) {
		return (spread){0};
	}
	memcpy(sorted, samples->values, count * sizeof(sorted[0]));
	qsort(sorted, count, sizeof(sorted[0]), compare_doubles);
	return (spread){(sorted[(count - 1) / 2] + sorted[count / 2]) / 2, sorted[0], sorted[count - 1]};
}

/* One line that bench/run repeats in its summary. `target` 0: none. */
static inline void print_result(const char *what, double value, const char *unit, double target, bool at_most) {
	bool met = at_most ? value <= target : value >= target;

	printf("result: %-40s %8.2f %s", what, value, unit);
	if (target > 0) {
		printf(" (target: at %s %.2f, %s)", at_most ? "most" : "least", target, met ? "met" : "missed");
	}
	putchar('\n');
}

/* ---- Arguments ------------------------------------------------------------------------------------------- */

/* A whole number with an optional k, M or G, which mean thousands. */
static inline uint64_t parse_number(const char *option, const char *text, uint64_t low, uint64_t high) {
	char *end;
	uint64_t number;

	errno = 0;
	number = strtoull(text, &end, 10);
	if (end != text && *end != '\0' && end[1] == '\0') {
		uint64_t unit = *end == 'k' ? 1000 : *end == 'M' ? 1000000 : *end == 'G' ? 1000000000 : 0;

		end += unit != 0;
		errno = unit != 0 && number > UINT64_MAX / unit ? ERANGE : errno;
		number *= unit;
	}
	if (end == text || *end != '\0' || errno != 0 || *text == '-' || number < low || number > high) {
		fail("%s wants a number from %" PRIu64 " to %" PRIu64 ", not \"%s\"", option, low, high, text);
	}
	return number;
}

#endif
