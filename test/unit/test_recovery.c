/* db/recovery.h: what comes back after a crash, and which damage is told apart from a torn tail. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/checksum.h"
#include "base/coding.h"
#include "db/db.h"
#include "store_fixture.h"

#define MAX_RECORDS 16
#define BIG_VALUE_BYTES 40000u

/* ---- Logs with known records --------------------------------------------------------------------------- */

/* A store with a log of some records, record i putting "key i"; and where each lies. */
typedef struct known_log {
	test_store store;
	unsigned count;
	uint64_t begin[MAX_RECORDS]; /* positions in the log */
	uint64_t end[MAX_RECORDS];
	char path[STORE_PATH_BYTES]; /* of the only segment */
	uint64_t segment_bytes;
} known_log;

static uint64_t log_position(const aidb_db *db) {
	return db->shared->commits.next_position;
}

static void write_record(known_log *log, aidb_durability durability, size_t value_bytes) {
	aidb_db *db = log->store.db;
	char key[32];
	char *value = malloc(value_bytes + 1);

	snprintf(key, sizeof(key), "key %u", log->count);
	memset(value, 'v', value_bytes);
	value[value_bytes] = '\0';
	log->begin[log->count] = lsm_record_begin(&db->shared->log.geometry, log_position(db));
	must_put(db, key, value, durability);
	log->end[log->count] = log_position(db);
	log->count++;
	free(value);
}

static void make_log(known_log *log) {
	aidb_options options = store_small_options();

	*log = (known_log){0};
	store_make(&log->store, &options);
	store_open(&log->store);
	log->segment_bytes = options.log_segment_bytes;
}

static void crash_log(known_log *log) {
	store_crash(&log->store);
	assert_int_equal(directory_count(log->store.directory, ".log", log->path, NULL), 1);
}

static bool holds_key(const test_store *store, unsigned number) {
	aidb_buffer value = {0};
	char key[32];
	aidb_status rc;

	snprintf(key, sizeof(key), "key %u", number);
	rc = aidb_get(store->db, NULL, text(key), &value, NULL);
	if (rc == AIDB_OK) {
		for (size_t i = 0; i < value.size; i++) {
			assert_int_equal(value.data[i], 'v');
		}
	} else {
		assert_int_equal(rc, AIDB_NOT_FOUND);
	}
	aidb_buffer_free(&value);
	return rc == AIDB_OK;
}

/* The store has the first `count` records and no other. */
static void expect_records(const test_store *store, unsigned count, unsigned of) {
	for (unsigned i = 0; i < of; i++) {
		if (holds_key(store, i) != (i < count)) {
			print_error("record %u should be %s: the first %u of %u were to stay\n", i, i < count ? "there" : "gone",
						count, of);
		}
		assert_int_equal(holds_key(store, i), i < count);
	}
}

/* What is left of the directory when the log's bytes from `cut` on were lost in one of several ways. */
static void tear(const known_log *log, uint64_t cut, unsigned manner, test_store *torn) {
	char path[STORE_PATH_BYTES];
	uint64_t random = cut;

	*torn = (test_store){.options = log->store.options};
	directory_copy(log->store.directory, torn->directory);
	directory_count(torn->directory, ".log", path, NULL);
	switch (manner) {
	case 0:
		file_zero(path, cut, log->segment_bytes);
		break;
	case 1: /* half of it came, in the wrong order */
		file_zero(path, cut, cut + 1 + (log->segment_bytes - cut) / 2);
		break;
	default: {
		size_t size;
		uint8_t *bytes = file_load(path, &size);

		for (uint64_t at = cut; at < size; at++) {
			bytes[at] = (uint8_t)store_random(&random) | 1;
		}
		file_store(path, bytes, size);
		free(bytes);
	}
	}
}

static void expect_torn_log(const known_log *log, uint64_t cut, unsigned manner) {
	unsigned whole = 0;
	test_store torn;

	while (whole < log->count && log->end[whole] <= cut) {
		whole++;
	}
	tear(log, cut, manner, &torn);
	store_open(&torn);
	expect_records(&torn, whole, log->count);
	must_put(torn.db, "after", "new", AIDB_WRITE);
	store_crash(&torn);
	store_open(&torn);
	expect_records(&torn, whole, log->count);
	expect(torn.db, "after", "new");
	store_destroy(&torn);
}

/* ---- Torn tails ---------------------------------------------------------------------------------------- */

static void log_torn_at_any_byte_gives_the_whole_records_before(void **state) {
	known_log log;

	(void)state;
	make_log(&log);
	for (int i = 0; i < 5; i++) {
		write_record(&log, AIDB_WRITE, (size_t)i * 7);
	}
	crash_log(&log);
	for (uint64_t cut = log.begin[2]; cut <= log.end[4]; cut++) {
		expect_torn_log(&log, cut, (unsigned)(cut % 3));
	}
	store_destroy(&log.store);
}

static void record_over_several_blocks_is_torn_as_a_whole(void **state) {
	uint64_t random = store_seed("test_recovery");
	known_log log;

	(void)state;
	make_log(&log);
	write_record(&log, AIDB_WRITE, 10);
	write_record(&log, AIDB_WRITE, BIG_VALUE_BYTES);
	write_record(&log, AIDB_WRITE, 10);
	crash_log(&log);
	for (uint64_t near = 0; near < 16; near++) {
		expect_torn_log(&log, log.begin[1] + near, (unsigned)(near % 3));
		expect_torn_log(&log, LSM_LOG_BLOCK_BYTES - 8 + near, (unsigned)(near % 3));
		expect_torn_log(&log, log.end[1] - 8 + near, (unsigned)(near % 3));
		expect_torn_log(&log, log.begin[1] + store_random_below(&random, BIG_VALUE_BYTES), (unsigned)(near % 3));
	}
	store_destroy(&log.store);
}

/* A tail that was cut must not come back when the log has grown up to where it lay. */
static void cut_tail_stays_cut(void **state) {
	known_log log;

	(void)state;
	make_log(&log);
	for (int i = 0; i < 3; i++) {
		write_record(&log, AIDB_WRITE, 20);
	}
	crash_log(&log);
	file_flip(log.path, log.begin[1], 0xff);
	store_open(&log.store);
	expect_records(&log.store, 1, 3);
	must_put(log.store.db, "key x", "vvvvvvvvvvvvvvvvvvvv", AIDB_WRITE);
	assert_int_equal(log_position(log.store.db), log.end[1]);
	store_crash(&log.store);
	store_open(&log.store);
	expect_records(&log.store, 1, 3);
	store_destroy(&log.store);
}

/* ---- Damage -------------------------------------------------------------------------------------------- */

static void expect_corrupt_log(const known_log *log, uint64_t offset, uint64_t told) {
	char number[32];
	test_store damaged;
	char path[STORE_PATH_BYTES];

	tear(log, log->segment_bytes, 0, &damaged);
	directory_count(damaged.directory, ".log", path, NULL);
	file_flip(path, offset, 0x10);
	snprintf(number, sizeof(number), "offset %llu:", (unsigned long long)told);
	for (unsigned attempt = 0; attempt < (offset % 8 == 0 ? 2 : 1); attempt++) { /* the first changes nothing */
		aidb_status rc = store_try_open(&damaged);

		if (rc != AIDB_CORRUPT) {
			print_error("byte %llu flipped, of the record at %llu\n", (unsigned long long)offset,
						(unsigned long long)told);
		}
		assert_status(rc, AIDB_CORRUPT);
		expect_error_names(path, number, NULL);
	}
	if (offset % 8 == 0) {
		file_flip(path, offset, 0x10);
		store_open(&damaged);
		expect_records(&damaged, log->count, log->count);
	}
	store_destroy(&damaged);
}

static void damage_in_synced_log_is_told(void **state) {
	known_log log;

	(void)state;
	make_log(&log);
	for (int i = 0; i < 5; i++) {
		write_record(&log, AIDB_SYNC, 10);
	}
	crash_log(&log);
	for (unsigned i = 0; i < 4; i += i == 0 ? 2 : 1) {
		for (uint64_t offset = log.begin[i]; offset < log.end[i]; offset++) {
			expect_corrupt_log(&log, offset, i == 0 ? 0 : log.end[i - 1]);
		}
	}
	store_destroy(&log.store);
}

static void damage_far_before_the_end_of_synced_log_is_told(void **state) {
	known_log log;

	(void)state;
	make_log(&log);
	write_record(&log, AIDB_SYNC, 10);
	write_record(&log, AIDB_SYNC, 10);
	write_record(&log, AIDB_SYNC, BIG_VALUE_BYTES);
	write_record(&log, AIDB_SYNC, 10);
	crash_log(&log);
	expect_corrupt_log(&log, log.begin[1] + 9, log.end[0]);
	expect_corrupt_log(&log, log.begin[2] + 1000, log.end[1]);
	expect_corrupt_log(&log, LSM_LOG_BLOCK_BYTES + 100, log.end[1]);
	store_destroy(&log.store);
}

static void damaged_segment_header_is_told(void **state) {
	known_log log;

	(void)state;
	make_log(&log);
	for (int i = 0; i < 4; i++) {
		write_record(&log, AIDB_SYNC, 10);
	}
	crash_log(&log);
	for (uint64_t offset = 0; offset < LSM_SEGMENT_HEADER_BYTES; offset++) {
		expect_corrupt_log(&log, offset, 0);
	}
	store_destroy(&log.store);
}

/* What was not synced may be damaged by a power failure in any order: it is the tail, and is cut. */
static void damage_in_the_unsynced_tail_is_cut(void **state) {
	known_log log;

	(void)state;
	make_log(&log);
	for (int i = 0; i < 3; i++) {
		write_record(&log, AIDB_SYNC, 10);
	}
	for (int i = 0; i < 5; i++) {
		write_record(&log, AIDB_WRITE, 10);
	}
	crash_log(&log);
	for (uint64_t offset = log.begin[5]; offset < log.end[5]; offset++) {
		test_store damaged;
		char path[STORE_PATH_BYTES];

		tear(&log, log.segment_bytes, 0, &damaged);
		directory_count(damaged.directory, ".log", path, NULL);
		file_flip(path, offset, 0x10);
		store_open(&damaged);
		expect_records(&damaged, 5, log.count);
		store_destroy(&damaged);
	}
	expect_corrupt_log(&log, log.begin[1] + 20, log.end[0]); /* the tail's records know what had been synced */
	store_destroy(&log.store);
}

/* ---- Several segments ---------------------------------------------------------------------------------- */

/* A store whose log goes over several segments, none of it flushed; returns how many keys it has. */
static unsigned make_long_log(test_store *store, aidb_durability durability) {
	aidb_options options = store_small_options();
	char value[1001];
	char key[32];
	unsigned count = 0;

	memset(value, 'v', 1000);
	value[1000] = '\0';
	store_make(store, &options);
	store_open(store);
	while (log_position(store->db) < 4 * options.log_segment_bytes + 5000) {
		snprintf(key, sizeof(key), "key %u", count++);
		must_put(store->db, key, value, durability);
	}
	assert_int_equal(stats_of(store->db).flushes, 0);
	assert_int_equal(directory_count(store->directory, ".log", NULL, NULL), 5);
	return count;
}

static void segment_path(const test_store *store, uint64_t segment, char path[STORE_PATH_BYTES]) {
	lsm_segment_path(store->directory, segment, path, STORE_PATH_BYTES);
}

static void log_over_several_segments_comes_back(void **state) {
	test_store store;
	unsigned count;

	(void)state;
	count = make_long_log(&store, AIDB_WRITE);
	store_crash(&store);
	for (int round = 0; round < 2; round++) {
		store_open(&store);
		expect_records(&store, count, count + 1);
		store_crash(&store);
	}
	store_destroy(&store);
}

static void missing_segment_is_told(void **state) {
	(void)state;
	for (uint64_t segment = 0; segment < 4; segment++) {
		char path[STORE_PATH_BYTES];
		test_store store;

		make_long_log(&store, AIDB_SYNC);
		store_crash(&store);
		segment_path(&store, segment, path);
		assert_int_equal(unlink(path), 0);
		assert_status(store_try_open(&store), AIDB_CORRUPT);
		expect_error_names(store.directory, ".log: offset", NULL); /* where the first lost record begins */
		assert_status(store_try_open(&store), AIDB_CORRUPT);
		assert_int_equal(directory_count(store.directory, ".log", NULL, NULL), 4);
		store_destroy(&store);
	}
}

static void damaged_header_of_a_later_segment_is_told(void **state) {
	char path[STORE_PATH_BYTES];
	test_store store;
	unsigned count;

	(void)state;
	count = make_long_log(&store, AIDB_SYNC);
	store_crash(&store);
	for (uint64_t segment = 0; segment < 4; segment++) {
		segment_path(&store, segment, path);
		file_flip(path, 9, 0x01);
		assert_status(store_try_open(&store), AIDB_CORRUPT);
		expect_error_names(store.directory, ".log: offset", NULL);
		file_flip(path, 9, 0x01);
	}
	store_open(&store);
	expect_records(&store, count, count + 1);
	store_destroy(&store);
}

/* A segment that was being made when the power went: its header is not yet that of its name. */
static void unfinished_segment_is_no_damage(void **state) {
	char first[STORE_PATH_BYTES], path[STORE_PATH_BYTES];
	test_store store;
	uint8_t *old;
	size_t size;
	unsigned count;

	(void)state;
	count = make_long_log(&store, AIDB_SYNC);
	store_crash(&store);
	directory_count(store.directory, ".log", first, NULL);
	old = file_load(first, &size);
	for (uint64_t segment = 5; segment < 8; segment++) {
		segment_path(&store, segment, path);
		file_store(path, old, segment == 7 ? 0 : size);
	}
	free(old);
	store_open(&store);
	expect_records(&store, count, count + 1);
	assert_int_equal(directory_count(store.directory, ".log", NULL, NULL), 5);
	store_destroy(&store);
}

static void unsynced_segments_beyond_a_tear_are_cut(void **state) {
	char path[STORE_PATH_BYTES];
	test_store store;
	unsigned count;

	(void)state;
	count = make_long_log(&store, AIDB_WRITE);
	store_crash(&store);
	segment_path(&store, 2, path);
	file_zero(path, 1000, file_bytes_of(path));
	store_open(&store);
	expect_records(&store, 0, 0);
	assert_true(holds_key(&store, 0) && holds_key(&store, count / 4));
	for (unsigned i = count * 3 / 4; i < count; i++) {
		assert_false(holds_key(&store, i));
	}
	must_put(store.db, "after", "new", AIDB_WRITE);
	store_crash(&store);
	store_open(&store);
	expect(store.db, "after", "new");
	for (unsigned i = count * 3 / 4; i < count; i++) {
		assert_false(holds_key(&store, i));
	}
	store_destroy(&store);
}

/* ---- Files --------------------------------------------------------------------------------------------- */

/* A closed store with a few SSTables and some log; returns how many keys it has. */
static unsigned make_files(test_store *store) {
	aidb_options options = store_small_options();
	unsigned count = 0;
	char key[32];

	store_make(store, &options);
	store_open(store);
	for (int flush = 0; flush < 4; flush++) {
		for (int i = 0; i < 50; i++) {
			snprintf(key, sizeof(key), "key %u", count++);
			must_put(store->db, key, "vvv", AIDB_WRITE);
		}
		if (flush < 3) {
			assert_ok(aidb_flush(store->db));
		}
	}
	store_crash(store);
	assert_int_equal(directory_count(store->directory, ".sst", NULL, NULL), 3);
	return count;
}

static void missing_table_is_told_by_name(void **state) {
	char path[STORE_PATH_BYTES];
	test_store store;

	(void)state;
	make_files(&store);
	directory_count(store.directory, ".sst", path, NULL);
	assert_int_equal(unlink(path), 0);
	assert_status(store_try_open(&store), AIDB_CORRUPT);
	expect_error_names(path, "missing", NULL);
	assert_int_equal(directory_count(store.directory, ".sst", NULL, NULL), 2);
	store_destroy(&store);
}

static void cut_table_is_told_by_name(void **state) {
	char path[STORE_PATH_BYTES];
	test_store store;

	(void)state;
	make_files(&store);
	directory_count(store.directory, ".sst", NULL, path);
	file_cut(path, file_bytes_of(path) - 1);
	assert_status(store_try_open(&store), AIDB_CORRUPT);
	expect_error_names(path, NULL);
	file_cut(path, 0);
	assert_status(store_try_open(&store), AIDB_CORRUPT);
	store_destroy(&store);
}

/* Found when it is read, since starting reads no blocks; and never served. */
static void damaged_table_is_told_by_its_readers(void **state) {
	char path[STORE_PATH_BYTES];
	test_store store;
	unsigned count, told = 0;

	(void)state;
	count = make_files(&store);
	directory_count(store.directory, ".sst", path, NULL);
	for (uint64_t offset = 0; offset < file_bytes_of(path); offset += 61) {
		file_flip(path, offset, 0x04);
		store_open(&store);
		for (unsigned i = 0; i < count; i++) {
			aidb_buffer value = {0};
			char key[32];
			aidb_status rc;

			snprintf(key, sizeof(key), "key %u", i);
			rc = aidb_get(store.db, NULL, text(key), &value, NULL);
			if (rc == AIDB_CORRUPT) {
				expect_error_names(path, NULL);
				told++;
			} else {
				assert_status(rc, AIDB_OK);
				assert_true(lsm_equal((aidb_slice){value.data, value.size}, text("vvv")));
			}
			aidb_buffer_free(&value);
		}
		store_crash(&store);
		file_flip(path, offset, 0x04);
	}
	assert_true(told > 0);
	store_destroy(&store);
}

static void unfinished_files_are_removed(void **state) {
	char path[STORE_PATH_BYTES + 32];
	test_store store;
	unsigned count;

	(void)state;
	count = make_files(&store);
	snprintf(path, sizeof(path), "%s/000777.sst", store.directory);
	file_store(path, "half a table", 12);
	snprintf(path, sizeof(path), "%s/12345678.sst", store.directory);
	file_store(path, "", 0);
	snprintf(path, sizeof(path), "%s/MANIFEST.new", store.directory);
	file_store(path, "half a manifest", 15);
	snprintf(path, sizeof(path), "%s/notes.sst", store.directory);
	file_store(path, "not ours", 8);
	store_open(&store);
	expect_records(&store, count, count + 1);
	assert_int_equal(directory_count(store.directory, ".sst", NULL, NULL), 4);
	assert_ok(aidb_flush(store.db));
	store_crash(&store);
	store_open(&store);
	expect_records(&store, count, count + 1);
	assert_int_equal(directory_count(store.directory, "notes.sst", NULL, NULL), 1);
	store_destroy(&store);
}

/* ---- The manifest -------------------------------------------------------------------------------------- */

static void damaged_manifest_is_told(void **state) {
	char path[STORE_PATH_BYTES];
	test_store store;
	uint64_t bytes;
	unsigned count;

	(void)state;
	count = make_files(&store);
	directory_count(store.directory, "MANIFEST", path, NULL);
	bytes = file_bytes_of(path);
	for (uint64_t offset = 0; offset < bytes; offset++) {
		file_flip(path, offset, 0x20);
		assert_status(store_try_open(&store), AIDB_CORRUPT);
		expect_error_names(path, "offset", NULL);
		file_flip(path, offset, 0x20);
	}
	store_open(&store);
	expect_records(&store, count, count + 1);
	store_destroy(&store);
}

static void cut_manifest_is_told(void **state) {
	char path[STORE_PATH_BYTES];
	test_store store;
	uint8_t *bytes;
	size_t size;

	(void)state;
	make_files(&store);
	directory_count(store.directory, "MANIFEST", path, NULL);
	bytes = file_load(path, &size);
	for (size_t cut = 0; cut < size; cut += cut < 100 ? 1 : 7) {
		file_store(path, bytes, cut);
		assert_status(store_try_open(&store), AIDB_CORRUPT);
		expect_error_names(path, NULL);
	}
	assert_int_equal(directory_count(store.directory, ".sst", NULL, NULL), 3);
	free(bytes);
	store_destroy(&store);
}

static void manifest_of_a_newer_version_is_refused(void **state) {
	char path[STORE_PATH_BYTES];
	test_store store;
	uint8_t *bytes;
	size_t size;

	(void)state;
	make_files(&store);
	directory_count(store.directory, "MANIFEST", path, NULL);
	bytes = file_load(path, &size);
	lsm_put_u32(bytes + 8, LSM_MANIFEST_VERSION + 1);
	lsm_put_u64(bytes + size - 8, lsm_hash64(bytes, size - 8, 0));
	file_store(path, bytes, size);
	free(bytes);
	assert_status(store_try_open(&store), AIDB_UNSUPPORTED);
	expect_error_names(path, "version 3", NULL);
	assert_int_equal(directory_count(store.directory, ".sst", NULL, NULL), 3);
	store_destroy(&store);
}

/* Without its manifest a store is damaged; it is no empty directory in which a new one may be made. */
static void missing_manifest_is_told_and_nothing_removed(void **state) {
	char path[STORE_PATH_BYTES];
	test_store store;

	(void)state;
	make_files(&store);
	directory_count(store.directory, "MANIFEST", path, NULL);
	assert_int_equal(unlink(path), 0);
	assert_status(store_try_open(&store), AIDB_CORRUPT);
	expect_error_names(path, NULL);
	assert_int_equal(directory_count(store.directory, ".sst", NULL, NULL), 3);
	assert_int_equal(directory_count(store.directory, "MANIFEST", NULL, NULL), 0);
	store_destroy(&store);
}

/* ---- Again and again ----------------------------------------------------------------------------------- */

static void recovery_twice_gives_the_same(void **state) {
	aidb_sequence sequence;
	test_store store;
	unsigned count;

	(void)state;
	count = make_files(&store);
	store_open(&store);
	sequence = aidb_current_sequence(store.db);
	expect_records(&store, count, count + 1);
	for (int round = 0; round < 3; round++) {
		store_crash(&store);
		store_open(&store);
		expect_records(&store, count, count + 1);
		assert_int_equal(aidb_current_sequence(store.db), sequence);
	}
	store_close(&store);
	store_open(&store);
	expect_records(&store, count, count + 1);
	assert_int_equal(aidb_current_sequence(store.db), sequence);
	store_destroy(&store);
}

/* A store whose log is larger than its memtables: recovery has to flush on the way. */
static unsigned make_large_log(test_store *store) {
	aidb_options options = store_small_options();
	char value[2001];
	char key[32];
	unsigned count;

	options.memory_bytes = 64 << 20;
	options.write_buffer_bytes = 12 << 20;
	memset(value, 'v', 2000);
	value[2000] = '\0';
	store_make(store, &options);
	store_open(store);
	for (count = 0; count < 3000; count++) {
		snprintf(key, sizeof(key), "key %u", count);
		must_put(store->db, key, value, AIDB_WRITE);
	}
	assert_int_equal(stats_of(store->db).flushes, 0);
	store_crash(store);
	store->options = store_small_options();
	assert_ok(aidb_options_resolve(&store->options));
	return count;
}

static void log_larger_than_memory_comes_back(void **state) {
	test_store store;
	unsigned count;

	(void)state;
	count = make_large_log(&store);
	store_open(&store);
	assert_true(stats_of(store.db).flushes >= 2);
	expect_records(&store, count, count + 1);
	must_put(store.db, "after", "new", AIDB_WRITE);
	store_crash(&store);
	store_open(&store);
	expect_records(&store, count, count + 1);
	expect(store.db, "after", "new");
	store_destroy(&store);
}

static const char *dying_point;
static unsigned points_to_go;

static void die_at_point(const char *name) {
	if (strcmp(name, dying_point) == 0 && points_to_go-- == 0) {
		_exit(42);
	}
}

/* Starts the store in a process that dies at the n-th time that it comes to the point. */
static void die_while_starting(test_store *store, const char *point, unsigned n) {
	pid_t child;
	int status = 0;

	dying_point = point;
	points_to_go = n;
	fflush(NULL);
	child = fork();
	if (child == 0) {
		faults.at_point = die_at_point;
		_exit(store_try_open(store) == AIDB_OK ? 1 : 2);
	}
	assert_true(child > 0);
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 42);
}

static void death_during_recovery_changes_nothing(void **state) {
	test_store store;
	unsigned count;

	(void)state;
	count = make_large_log(&store);
	die_while_starting(&store, "replayed", 100);
	die_while_starting(&store, "flush_written", 0);
	die_while_starting(&store, "manifest_written", 0);
	die_while_starting(&store, "replayed", 900);
	die_while_starting(&store, "flush_written", 1);
	store_open(&store);
	expect_records(&store, count, count + 1);
	store_destroy(&store);
}

static void failed_start_may_be_tried_again(void **state) {
	test_store store;
	unsigned count;

	(void)state;
	count = make_large_log(&store);
	store.options.create_if_missing = true;
	atomic_store(&faults.write_error[STORE_TABLE], 28); /* ENOSPC */
	assert_status(store_try_open(&store), AIDB_NO_SPACE);
	faults_clear();
	store_open(&store);
	expect_records(&store, count, count + 1);
	store_destroy(&store);
}

/* ---- Ownership ----------------------------------------------------------------------------------------- */

static void second_opener_is_refused(void **state) {
	aidb_options options = store_small_options();
	char directory[STORE_PATH_BYTES];
	aidb_db *db, *other;
	pid_t child;
	int status = 0;

	(void)state;
	options.no_background = true;
	directory_make(directory);
	assert_ok(aidb_open(directory, &options, &db));
	must_put(db, "key", "value", AIDB_SYNC);
	assert_status(aidb_open(directory, &options, &other), AIDB_IN_USE);
	expect_error_names(directory, NULL);
	assert_status(aidb_destroy(directory), AIDB_IN_USE);
	fflush(NULL);
	child = fork();
	if (child == 0) {
		_exit(aidb_open(directory, &options, &other) == AIDB_IN_USE ? 0 : 1);
	}
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(status, 0);
	expect(db, "key", "value");
	aidb_close(db);
	assert_ok(aidb_open(directory, &options, &db));
	expect(db, "key", "value");
	aidb_close(db);
	assert_ok(aidb_destroy(directory));
}

int main(void) {
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(log_torn_at_any_byte_gives_the_whole_records_before),
		cmocka_unit_test(record_over_several_blocks_is_torn_as_a_whole),
		cmocka_unit_test(cut_tail_stays_cut),
		cmocka_unit_test(damage_in_synced_log_is_told),
		cmocka_unit_test(damage_far_before_the_end_of_synced_log_is_told),
		cmocka_unit_test(damaged_segment_header_is_told),
		cmocka_unit_test(damage_in_the_unsynced_tail_is_cut),
		cmocka_unit_test(log_over_several_segments_comes_back),
		cmocka_unit_test(missing_segment_is_told),
		cmocka_unit_test(damaged_header_of_a_later_segment_is_told),
		cmocka_unit_test(unfinished_segment_is_no_damage),
		cmocka_unit_test(unsynced_segments_beyond_a_tear_are_cut),
		cmocka_unit_test(missing_table_is_told_by_name),
		cmocka_unit_test(cut_table_is_told_by_name),
		cmocka_unit_test(damaged_table_is_told_by_its_readers),
		cmocka_unit_test(unfinished_files_are_removed),
		cmocka_unit_test(damaged_manifest_is_told),
		cmocka_unit_test(cut_manifest_is_told),
		cmocka_unit_test(manifest_of_a_newer_version_is_refused),
		cmocka_unit_test(missing_manifest_is_told_and_nothing_removed),
		cmocka_unit_test(recovery_twice_gives_the_same),
		cmocka_unit_test(log_larger_than_memory_comes_back),
		cmocka_unit_test(death_during_recovery_changes_nothing),
		cmocka_unit_test(failed_start_may_be_tried_again),
		cmocka_unit_test(second_opener_is_refused),
	};

	return cmocka_run_group_tests_name("recovery", tests, NULL, NULL);
}
