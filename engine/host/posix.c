/*
 * What Linux gives every host: waiting by futex, the clock, files and directories by POSIX calls. See aidb_host_init.
 */
#define _GNU_SOURCE 1
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "aidb.h"

#define FILE_MODE 0600
#define DIRECTORY_MODE 0700
#define MAX_WAIT_US 1000000u
#define ZEROES_BYTES (64u << 10)

/* ---- Waiting ------------------------------------------------------------------------------------------- */

static int host_wait(void *context, uint32_t *word, uint32_t expected, uint64_t timeout_us, aidb_wait_reason reason) {
	uint64_t us = timeout_us < MAX_WAIT_US ? timeout_us : MAX_WAIT_US;
	struct timespec timeout = {.tv_sec = (time_t)(us / 1000000), .tv_nsec = (long)(us % 1000000) * 1000};

	(void)context;
	(void)reason;
	/* Not FUTEX_PRIVATE: forked processes wait on the same word. Every outcome is an early return at worst. */
	(void)syscall(SYS_futex, word, FUTEX_WAIT, expected, &timeout, NULL, 0);
	return 0;
}

static void host_wake(void *context, uint32_t *word) {
	(void)context;
	(void)syscall(SYS_futex, word, FUTEX_WAKE, INT32_MAX, NULL, NULL, 0);
}

static void host_yield(void *context) {
	(void)context;
	(void)sched_yield();
}

static uint64_t host_clock_us(void *context) {
	struct timespec now;

	(void)context;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

/* ---- Files --------------------------------------------------------------------------------------------- */

static int open_file(const char *path, int flags, int *file) {
	int opened;

	do {
		opened = open(path, flags | O_CLOEXEC, FILE_MODE);
	} while (opened < 0 && errno == EINTR);
	if (opened < 0) {
		return errno;
	}
	*file = opened;
	return 0;
}

static int host_file_open(void *context, const char *path, int flags, int *file) {
	bool writes = (flags & AIDB_FILE_WRITE) != 0;
	int posix = !writes ? O_RDONLY : (flags & AIDB_FILE_READ) != 0 ? O_RDWR : O_WRONLY;

	(void)context;
	posix |= (flags & AIDB_FILE_CREATE) != 0 ? O_CREAT : 0;
	posix |= (flags & AIDB_FILE_EXCLUSIVE) != 0 ? O_EXCL : 0;
	return open_file(path, posix, file);
}

static void host_file_close(void *context, int file) {
	(void)context;
	close(file); /* after EINTR it is closed on Linux; what matters was synced before */
}

static int host_file_read(void *context, int file, void *data, size_t size, uint64_t offset, size_t *got) {
	size_t done = 0;

	(void)context;
	while (done < size) {
		ssize_t part = pread(file, (char *)data + done, size - done, (off_t)(offset + done));

		if (part == 0) {
			break;
		}
		if (part < 0 && errno != EINTR) {
			return errno;
		}
		done += part > 0 ? (size_t)part : 0;
	}
	*got = done;
	return 0;
}

static int host_file_write(void *context, int file, const void *data, size_t size, uint64_t offset) {
	size_t done = 0;

	(void)context;
	while (done < size) {
		ssize_t part = pwrite(file, (const char *)data + done, size - done, (off_t)(offset + done));

		if (part == 0) {
			return ENOSPC; /* no progress and no reason given: space is the likely one */
		}
		if (part < 0 && errno != EINTR) {
			return errno;
		}
		done += part > 0 ? (size_t)part : 0;
	}
	return 0;
}

/* Never repeated after an error: what a second call reports says nothing about the data of the first. */
static int host_file_sync(void *context, int file) {
	int result;

	(void)context;
	do {
		result = fdatasync(file);
	} while (result != 0 && errno == EINTR);
	return result == 0 ? 0 : errno;
}

static int host_file_size(void *context, int file, uint64_t *size) {
	struct stat status;

	(void)context;
	if (fstat(file, &status) != 0) {
		return errno;
	}
	*size = (uint64_t)status.st_size;
	return 0;
}

static int host_file_truncate(void *context, int file, uint64_t size) {
	int result;

	(void)context;
	do {
		result = ftruncate(file, (off_t)size);
	} while (result != 0 && errno == EINTR);
	return result == 0 ? 0 : errno;
}

static int write_zeroes(void *context, int file, uint64_t from, uint64_t to) {
	static const char zeroes[ZEROES_BYTES];
	int error = 0;

	while (from < to && error == 0) {
		size_t part = to - from < sizeof(zeroes) ? (size_t)(to - from) : sizeof(zeroes);

		error = host_file_write(context, file, zeroes, part, from);
		from += part;
	}
	return error;
}

static int host_file_allocate(void *context, int file, uint64_t size) {
	uint64_t present;
	int error;

	error = host_file_size(context, file, &present);
	if (error != 0 || size == 0) {
		return error;
	}
	do {
		error = posix_fallocate(file, 0, (off_t)size);
	} while (error == EINTR);
	if (error == EOPNOTSUPP || error == EINVAL) {
		/* The file system cannot reserve space. Written zeroes do; holes below the present size stay holes. */
		error = write_zeroes(context, file, present, size);
	}
	return error;
}

static int host_file_rename(void *context, const char *from, const char *to) {
	(void)context;
	return rename(from, to) == 0 ? 0 : errno;
}

static int host_file_remove(void *context, const char *path) {
	(void)context;
	return unlink(path) == 0 ? 0 : errno;
}

static int host_file_link(void *context, const char *from, const char *to) {
	(void)context;
	return link(from, to) == 0 ? 0 : errno;
}

static int host_file_lock(void *context, const char *path, int *file) {
	int opened = -1;
	int error = open_file(path, O_RDWR | O_CREAT, &opened);
	int result;

	(void)context;
	if (error != 0) {
		return error;
	}
	do {
		result = flock(opened, LOCK_EX | LOCK_NB);
	} while (result != 0 && errno == EINTR);
	if (result != 0) {
		error = errno;
		close(opened);
		return error;
	}
	*file = opened;
	return 0;
}

/* ---- Directories --------------------------------------------------------------------------------------- */

static int host_directory_create(void *context, const char *path) {
	struct stat status;

	(void)context;
	if (mkdir(path, DIRECTORY_MODE) == 0) {
		return 0;
	}
	if (errno != EEXIST) {
		return errno;
	}
	if (stat(path, &status) != 0) {
		return errno;
	}
	return S_ISDIR(status.st_mode) ? 0 : ENOTDIR;
}

static int host_directory_remove(void *context, const char *path) {
	(void)context;
	return rmdir(path) == 0 ? 0 : errno;
}

static int host_directory_sync(void *context, const char *path) {
	int directory = -1;
	int error = open_file(path, O_RDONLY | O_DIRECTORY, &directory);

	(void)context;
	if (error != 0) {
		return error;
	}
	error = fsync(directory) == 0 ? 0 : errno;
	close(directory);
	return error == EINVAL ? 0 : error; /* a file system that has no such operation keeps names by other means */
}

static int host_directory_list(void *context, const char *path, void (*each)(void *argument, const char *name),
							   void *argument) {
	DIR *directory = opendir(path);
	int error;

	(void)context;
	if (directory == NULL) {
		return errno;
	}
	for (;;) {
		const struct dirent *entry;

		errno = 0; /* how readdir tells its end from an error */
		entry = readdir(directory);
		if (entry == NULL) {
			break;
		}
		if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0) {
			each(argument, entry->d_name);
		}
	}
	error = errno;
	closedir(directory);
	return error;
}

/* ---- The table ----------------------------------------------------------------------------------------- */

void aidb_host_init(aidb_host *host) {
	*host = (aidb_host){.file_open = host_file_open,
						.file_close = host_file_close,
						.file_read = host_file_read,
						.file_write = host_file_write,
						.file_sync = host_file_sync,
						.file_allocate = host_file_allocate,
						.file_truncate = host_file_truncate,
						.file_size = host_file_size,
						.file_rename = host_file_rename,
						.file_remove = host_file_remove,
						.file_link = host_file_link,
						.file_lock = host_file_lock,
						.directory_create = host_directory_create,
						.directory_remove = host_directory_remove,
						.directory_sync = host_directory_sync,
						.directory_list = host_directory_list,
						.clock_us = host_clock_us,
						.wait = host_wait,
						.wake = host_wake,
						.yield = host_yield};
}
