#define _GNU_SOURCE 1
#include "store_fixture.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "host/thread_host.h"

#define MAX_FILES 4096
#define ROOM_FOR_NAME 300

static void must(bool holds, const char *what) {
	if (!holds) {
		fprintf(stderr, "# the test cannot go on: %s: %s\n", what, strerror(errno));
		abort();
	}
}

/* ---- Random numbers ------------------------------------------------------------------------------------ */

uint64_t store_seed(const char *program) {
	static uint64_t seed;

	if (seed == 0) {
		const char *given = getenv("AIDB_SEED");
		struct timespec now;

		clock_gettime(CLOCK_REALTIME, &now);
		seed = given != NULL ? strtoull(given, NULL, 0) : (uint64_t)now.tv_sec * 1000003u ^ (uint64_t)now.tv_nsec;
		seed += seed == 0;
		fprintf(stderr, "# %s: AIDB_SEED=%llu\n", program, (unsigned long long)seed);
	}
	return seed;
}

uint64_t store_random(uint64_t *state) {
	uint64_t mix = *state += 0x9e3779b97f4a7c15ull;

	mix = (mix ^ mix >> 30) * 0xbf58476d1ce4e5b9ull;
	mix = (mix ^ mix >> 27) * 0x94d049bb133111ebull;
	return mix ^ mix >> 31;
}

uint64_t store_random_below(uint64_t *state, uint64_t limit) {
	return store_random(state) % limit;
}

/* ---- Directories --------------------------------------------------------------------------------------- */

void directory_make(char path[STORE_PATH_BYTES]) {
	const char *base = getenv("TMPDIR");

	snprintf(path, STORE_PATH_BYTES, "%s/aidb-store.XXXXXX", base != NULL ? base : "/tmp");
	must(mkdtemp(path) != NULL, path);
}

static void each_name(const char *path, void (*visit)(void *argument, const char *name), void *argument) {
	DIR *directory = opendir(path);
	const struct dirent *entry;

	must(directory != NULL, path);
	while ((entry = readdir(directory)) != NULL) {
		if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0) {
			visit(argument, entry->d_name);
		}
	}
	closedir(directory);
}

static void remove_name(void *argument, const char *name) {
	char path[STORE_PATH_BYTES + ROOM_FOR_NAME];

	snprintf(path, sizeof(path), "%s/%s", (const char *)argument, name);
	must(unlink(path) == 0, path);
}

void directory_remove(const char *path) {
	each_name(path, remove_name, (void *)path);
	must(rmdir(path) == 0, path);
}

typedef struct copying {
	const char *from;
	const char *to;
} copying;

static void copy_name(void *argument, const char *name) {
	const copying *copy = argument;
	char from[STORE_PATH_BYTES + ROOM_FOR_NAME], to[STORE_PATH_BYTES + ROOM_FOR_NAME];
	uint8_t *data;
	size_t size;

	snprintf(from, sizeof(from), "%s/%s", copy->from, name);
	snprintf(to, sizeof(to), "%s/%s", copy->to, name);
	data = file_load(from, &size);
	file_store(to, data, size);
	free(data);
}

void directory_copy(const char *from, char to[STORE_PATH_BYTES]) {
	copying copy = {.from = from, .to = to};

	directory_make(to);
	each_name(from, copy_name, &copy);
}

typedef struct counting {
	const char *suffix;
	unsigned count;
	char first[STORE_PATH_BYTES];
	char last[STORE_PATH_BYTES];
} counting;

static void count_name(void *argument, const char *name) {
	counting *count = argument;
	size_t length = strlen(name), suffix_length = strlen(count->suffix);

	if (length < suffix_length || strcmp(name + length - suffix_length, count->suffix) != 0) {
		return;
	}
	if (count->count == 0 || strcmp(name, count->first) < 0) {
		snprintf(count->first, sizeof(count->first), "%s", name);
	}
	if (count->count == 0 || strcmp(name, count->last) > 0) {
		snprintf(count->last, sizeof(count->last), "%s", name);
	}
	count->count++;
}

unsigned directory_count(const char *path, const char *suffix, char first[STORE_PATH_BYTES],
						 char last[STORE_PATH_BYTES]) {
	counting count = {.suffix = suffix};

	each_name(path, count_name, &count);
	if (first != NULL && count.count > 0) {
		must(snprintf(first, STORE_PATH_BYTES, "%s/%s", path, count.first) < STORE_PATH_BYTES, "path");
	}
	if (last != NULL && count.count > 0) {
		must(snprintf(last, STORE_PATH_BYTES, "%s/%s", path, count.last) < STORE_PATH_BYTES, "path");
	}
	return count.count;
}

uint64_t file_bytes_of(const char *path) {
	struct stat status;

	must(stat(path, &status) == 0, path);
	return (uint64_t)status.st_size;
}

void file_flip(const char *path, uint64_t offset, uint8_t mask) {
	int file = open(path, O_RDWR);
	uint8_t byte = 0;

	must(file >= 0 && pread(file, &byte, 1, (off_t)offset) == 1, path);
	byte ^= mask;
	must(pwrite(file, &byte, 1, (off_t)offset) == 1, path);
	close(file);
}

void file_zero(const char *path, uint64_t from, uint64_t to) {
	uint8_t *zeroes = calloc(1, to - from + 1);
	int file = open(path, O_RDWR);

	must(file >= 0 && pwrite(file, zeroes, to - from, (off_t)from) == (ssize_t)(to - from), path);
	close(file);
	free(zeroes);
}

void file_cut(const char *path, uint64_t size) {
	must(truncate(path, (off_t)size) == 0, path);
}

uint8_t *file_load(const char *path, size_t *size) {
	int file = open(path, O_RDONLY);
	uint8_t *data;

	*size = file_bytes_of(path);
	data = malloc(*size + 1);
	must(file >= 0 && data != NULL && read(file, data, *size) == (ssize_t)*size, path);
	close(file);
	return data;
}

void file_store(const char *path, const void *data, size_t size) {
	int file = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);

	must(file >= 0 && write(file, data, size) == (ssize_t)size, path);
	close(file);
}

/* ---- Faults -------------------------------------------------------------------------------------------- */

store_faults faults;

/* The functions that the faults stand in front of; those of all thread hosts are the same. */
static aidb_host below;
static _Atomic uint8_t kinds[MAX_FILES]; /* store_file of each descriptor */

void faults_clear(void) {
	faults = (store_faults){0};
}

static bool has_suffix(const char *path, const char *suffix) {
	size_t length = strlen(path), suffix_length = strlen(suffix);

	return length >= suffix_length && strcmp(path + length - suffix_length, suffix) == 0;
}

static store_file kind_of_path(const char *path) {
	if (has_suffix(path, ".log")) {
		return STORE_LOG;
	}
	if (has_suffix(path, ".sst")) {
		return STORE_TABLE;
	}
	return has_suffix(path, "/MANIFEST.new") ? STORE_MANIFEST : STORE_OTHER;
}

static store_file kind_of_file(int file) {
	return (store_file)atomic_load(&kinds[file]);
}

static int faulty_open(void *context, const char *path, int flags, int *file) {
	int error = below.file_open(context, path, flags, file);

	if (error == 0) {
		must(*file < MAX_FILES, "too many open files");
		atomic_store(&kinds[*file], (uint8_t)kind_of_path(path));
	}
	return error;
}

static int faulty_write(void *context, int file, const void *data, size_t size, uint64_t offset) {
	int error = atomic_load(&faults.write_error[kind_of_file(file)]);

	return error != 0 ? error : below.file_write(context, file, data, size, offset);
}

static int faulty_sync(void *context, int file) {
	int error = atomic_load(&faults.sync_error[kind_of_file(file)]);
	uint32_t delay_us = atomic_load(&faults.sync_delay_us);

	(void)context;
	atomic_fetch_add(&faults.syncs, 1);
	if (delay_us > 0) {
		sleep_us(delay_us);
	}
	return error;
}

static int count_directory_sync(void *context, const char *path) {
	(void)context;
	(void)path;
	atomic_fetch_add(&faults.syncs, 1);
	return 0;
}

static int faulty_allocate(void *context, int file, uint64_t size) {
	int error = atomic_load(&faults.allocate_error);

	atomic_fetch_add(&faults.allocations, 1);
	return error != 0 ? error : below.file_allocate(context, file, size);
}

static int counted_rename(void *context, const char *from, const char *to) {
	atomic_fetch_add(&faults.renames, 1);
	return below.file_rename(context, from, to);
}

static int faulty_wait(void *context, uint32_t *word, uint32_t expected, uint64_t timeout_us, aidb_wait_reason reason) {
	int error = atomic_load(reason == AIDB_WAIT_REPLICA || reason == AIDB_WAIT_STREAM ? &faults.replica_error
																					  : &faults.room_error);

	if (error != 0 && reason >= AIDB_WAIT_ROOM) {
		return error;
	}
	return below.wait(context, word, expected, timeout_us, reason);
}

static int before_log_write(void *context) {
	(void)context;
	atomic_fetch_add(&faults.before_log_calls, 1);
	return atomic_load(&faults.before_log_error);
}

static void fault_point(void *context, const char *name) {
	(void)context;
	if (faults.at_point != NULL) {
		faults.at_point(name);
	}
}

static aidb_tag_fate tag_fate(void *context, aidb_tag tag) {
	(void)context;
	return faults.tag_fate == NULL ? AIDB_TAG_OPEN : faults.tag_fate(tag);
}

static aidb_sequence snapshot_floor(void *context) {
	aidb_sequence given = atomic_load(&faults.snapshot_floor);

	(void)context;
	return given != 0 ? given : AIDB_SEQUENCE_LATEST;
}

static void stay_silent(void *context, aidb_log_level level, const char *message) {
	(void)context;
	(void)level;
	(void)message;
}

static void put_faults_before(aidb_host *host) {
	below = *host;
	host->file_open = faulty_open;
	host->file_write = faulty_write;
	host->file_sync = faulty_sync;
	host->directory_sync = count_directory_sync;
	host->file_allocate = faulty_allocate;
	host->file_rename = counted_rename;
	host->wait = faulty_wait;
	host->before_log_write = before_log_write;
	host->fault_point = fault_point;
	host->tag_fate = tag_fate;
	host->snapshot_floor = snapshot_floor;
	host->log = stay_silent; /* the failures are asked for */
}

/* ---- Stores -------------------------------------------------------------------------------------------- */

aidb_options store_small_options(void) {
	return (aidb_options){.memory_bytes = AIDB_MIN_MEMORY_BYTES,
						  .write_buffer_bytes = 1 << 20,
						  .members = 16,
						  .log_segment_bytes = 64 << 10,
						  .file_bytes = 64 << 10,
						  .compression_set = true,
						  .create_if_missing = true};
}

void store_make(test_store *store, const aidb_options *options) {
	*store = (test_store){.options = *options};
	assert_ok(aidb_options_resolve(&store->options));
	directory_make(store->directory);
	faults_clear();
}

static void let_go(test_store *store) {
	aidb_detach(store->db);
	store->db = NULL;
	lsm_thread_host_destroy(store->base);
	store->base = NULL;
	munmap(store->memory, store->memory_bytes);
}

void store_destroy(test_store *store) {
	faults_clear();
	if (store->db != NULL) {
		let_go(store);
	}
	directory_remove(store->directory);
}

aidb_status store_try_open(test_store *store) {
	aidb_status rc;

	must(store->db == NULL, "the store is open");
	store->memory_bytes = store->options.memory_bytes;
	store->memory =
		mmap(NULL, store->memory_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	must(store->memory != MAP_FAILED, "mmap");
	must(lsm_thread_host_create(store->options.members, &store->base) == AIDB_OK, "thread host");
	store->host = *store->base;
	put_faults_before(&store->host);
	rc = aidb_arena_format(store->memory, store->memory_bytes, &store->options);
	if (rc == AIDB_OK) {
		rc = aidb_attach(store->memory, &store->host, store->directory, &store->db);
	}
	if (rc == AIDB_OK) {
		rc = aidb_start(store->db);
	}
	if (rc != AIDB_OK) {
		let_go(store);
	}
	return rc;
}

void store_open(test_store *store) {
	assert_ok(store_try_open(store));
}

void store_close(test_store *store) {
	assert_ok(aidb_stop(store->db));
	let_go(store);
}

void store_crash(test_store *store) {
	let_go(store);
}

void store_settle(aidb_db *db) {
	bool flushed = true, compacted = true;

	while (flushed || compacted) {
		assert_ok(aidb_work(db, AIDB_WORK_FLUSH, &flushed));
		assert_ok(aidb_work(db, AIDB_WORK_COMPACT, &compacted));
	}
}

/* ---- Shorthands ---------------------------------------------------------------------------------------- */

aidb_status put(aidb_db *db, const char *key, const char *value, aidb_durability durability) {
	return aidb_put(db, &(aidb_write_options){.durability = durability}, text(key), text(value));
}

void must_put(aidb_db *db, const char *key, const char *value, aidb_durability durability) {
	assert_ok(put(db, key, value, durability));
}

void expect_at(aidb_db *db, aidb_sequence sequence, const char *key, const char *value) {
	aidb_buffer found = {0};
	aidb_status rc = aidb_get(db, &(aidb_read_options){.sequence = sequence}, text(key), &found, NULL);

	if (rc == AIDB_OK && (value == NULL || !lsm_equal((aidb_slice){found.data, found.size}, text(value)))) {
		print_error("\"%s\" is \"%.*s\" instead of %s\n", key, (int)found.size, found.data,
					value == NULL ? "absent" : value);
	} else if (rc != (value == NULL ? AIDB_NOT_FOUND : AIDB_OK)) {
		print_error("\"%s\": %s (%s)\n", key, aidb_status_text(rc), aidb_last_error());
	}
	assert_int_equal(rc, value == NULL ? AIDB_NOT_FOUND : AIDB_OK);
	if (value != NULL) {
		assert_true(lsm_equal((aidb_slice){found.data, found.size}, text(value)));
	}
	aidb_buffer_free(&found);
}

void expect(aidb_db *db, const char *key, const char *value) {
	expect_at(db, 0, key, value);
}

void expect_error_names(const char *first, ...) {
	va_list words;

	va_start(words, first);
	for (const char *word = first; word != NULL; word = va_arg(words, const char *)) {
		if (strstr(aidb_last_error(), word) == NULL) {
			print_error("\"%s\" does not name \"%s\"\n", aidb_last_error(), word);
		}
		assert_non_null(strstr(aidb_last_error(), word));
	}
	va_end(words);
}

aidb_stats stats_of(aidb_db *db) {
	aidb_stats stats;

	aidb_stats_get(db, &stats);
	return stats;
}

void sleep_us(uint64_t us) {
	struct timespec time = {.tv_sec = (time_t)(us / 1000000), .tv_nsec = (long)(us % 1000000) * 1000};

	nanosleep(&time, NULL);
}
