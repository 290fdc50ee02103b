#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "db/db.h"
#include "store_fixture.h"

#define KEYS 3000u
#define VERSIONS 4000u

static test_store store;
static aidb_db *db;

static int set_up(void **state) {
	aidb_options options = store_small_options();

	(void)state;
	store_make(&store, &options);
	store_open(&store);
	db = store.db;
	return 0;
}

static int tear_down(void **state) {
	(void)state;
	store_destroy(&store);
	return 0;
}

static unsigned tables(void) {
	return directory_count(store.directory, ".sst", NULL, NULL);
}

static uint64_t files(void) {
	aidb_stats stats = stats_of(db);
	uint64_t count = 0;

	for (int level = 0; level < AIDB_LEVELS; level++) {
		count += stats.level_files[level];
	}
	return count;
}

static void set(uint32_t number, const char *value) {
	char key[16], whole[120];

	snprintf(key, sizeof(key), "%08u", number);
	snprintf(whole, sizeof(whole), "%-100s%08u", value, number * 2654435761u);
	must_put(db, key, whole, AIDB_LAZY);
}

static void expect_number(uint32_t number, const char *value) {
	char key[16], whole[120];

	snprintf(key, sizeof(key), "%08u", number);
	snprintf(whole, sizeof(whole), "%-100s%08u", value == NULL ? "" : value, number * 2654435761u);
	expect(db, key, value == NULL ? NULL : whole);
}

/* Four files in level 0, each with all keys. */
static void fill_level0(void) {
	static const char *const values[] = {"first", "second", "third", "fourth"};

	for (int round = 0; round < 4; round++) {
		for (uint32_t i = 0; i < KEYS; i++) {
			set(i, values[round]);
		}
		assert_ok(aidb_flush(db));
	}
}

static void test_merge(void **state) {
	bool did;

	(void)state;
	fill_level0();
	assert_int_equal(stats_of(db).entries, 4 * KEYS);
	assert_ok(aidb_work(db, AIDB_WORK_COMPACT, &did));
	assert_true(did);
	assert_int_equal(stats_of(db).entries, KEYS);
	assert_int_equal(stats_of(db).level_files[0], 0);
	assert_true(stats_of(db).level_files[1] > 3); /* of 64 KiB each */
	assert_int_equal(stats_of(db).compactions, 1);
	assert_int_equal(tables(), files());
	for (uint32_t i = 0; i < KEYS; i += 7) {
		expect_number(i, "fourth");
	}
	assert_ok(aidb_work(db, AIDB_WORK_COMPACT, &did));
	assert_false(did);
	store_crash(&store);
	store_open(&store);
	db = store.db;
	expect_number(KEYS - 1, "fourth");
}

/* Keys that only grow are never rewritten. */
static void test_moves(void **state) {
	uint32_t next = 0;

	(void)state;
	for (int round = 0; round < 20; round++) {
		for (uint32_t i = 0; i < KEYS; i++) {
			set(next++, "value");
		}
		assert_ok(aidb_flush(db));
		store_settle(db);
	}
	assert_int_equal(stats_of(db).compactions, 0);
	assert_true(stats_of(db).moves > 10);
	assert_int_equal(tables(), 20);
	expect_number(0, "value");
	expect_number(next - 1, "value");
}

/* Nor do many small flushes leave many small files. */
static void test_small_files_join(void **state) {
	(void)state;
	for (uint32_t i = 0; i < 400; i++) {
		set(i, "value");
		assert_ok(aidb_flush(db));
		store_settle(db);
	}
	assert_in_range(files(), 1, 10);
	assert_int_equal(tables(), files());
	expect_number(17, "value");
}

static void erase(uint32_t number) {
	char key[16];

	snprintf(key, sizeof(key), "%08u", number);
	assert_ok(aidb_delete(db, &(aidb_write_options){.durability = AIDB_LAZY}, text(key)));
}

static void test_deleted_keys_go(void **state) {
	(void)state;
	fill_level0();
	for (uint32_t i = 0; i < KEYS; i++) {
		erase(i);
	}
	assert_ok(aidb_flush(db));
	store_settle(db);
	assert_int_equal(stats_of(db).entries, 0);
	assert_int_equal(tables(), 0);
	expect_number(5, NULL);
}

/* A merge above other levels keeps the tombstones that hide something there. */
static void test_tombstones_stay_while_they_hide(void **state) {
	bool did;

	(void)state;
	for (uint32_t i = 0; i < 20 * KEYS; i++) {
		set(i, "value");
	}
	assert_ok(aidb_flush(db));
	store_settle(db);
	assert_true(stats_of(db).level_files[2] > 0);
	for (uint32_t i = 0; i < 4 * KEYS; i++) {
		erase(i % KEYS);
		if (i % KEYS == KEYS - 1) {
			assert_ok(aidb_flush(db));
		}
	}
	do {
		assert_ok(aidb_work(db, AIDB_WORK_COMPACT, &did));
		for (uint32_t i = 0; i < KEYS; i += 10) {
			expect_number(i, NULL);
		}
		expect_number(KEYS, "value");
	} while (did);
	assert_true(stats_of(db).compactions > 0);
}

static void test_snapshots_keep(void **state) {
	aidb_snapshot snapshot;

	(void)state;
	for (uint32_t i = 0; i < KEYS; i++) {
		set(i, "old");
	}
	assert_ok(aidb_snapshot_acquire(db, &snapshot));
	fill_level0();
	store_settle(db);
	assert_int_equal(stats_of(db).entries, 2 * KEYS);
	expect_at(db, snapshot.sequence, "no such key", NULL);
	aidb_snapshot_release(db, &snapshot);
	fill_level0();
	store_settle(db);
	assert_int_equal(stats_of(db).entries, KEYS);
}

/* However many versions a key has, they stay in one file of a level. */
static void test_keys_are_not_split(void **state) {
	const lsm_version *version;

	(void)state;
	atomic_store(&faults.snapshot_floor, 1);
	for (uint32_t i = 0; i < VERSIONS; i++) {
		set(i % 3, "one of many");
		if (i % 500 == 499) {
			assert_ok(aidb_flush(db));
		}
	}
	assert_ok(aidb_flush(db));
	store_settle(db);
	version = lsm_version_current(&db->arena, &db->shared->versions);
	assert_true(lsm_level_count(version, 1) > 1);
	for (uint32_t i = 1; i < lsm_level_count(version, 1); i++) {
		assert_true(lsm_compare(lsm_file_largest(lsm_level_file(&db->arena, version, 1, i - 1)),
								lsm_file_smallest(lsm_level_file(&db->arena, version, 1, i))) < 0);
	}
	assert_int_equal(stats_of(db).entries, VERSIONS);
}

static aidb_tag_fate fate;

static aidb_tag_fate decide(aidb_tag tag) {
	(void)tag;
	return fate;
}

static void test_settled_tags_are_stripped(void **state) {
	aidb_batch *batch = aidb_batch_create();
	bool did;

	(void)state;
	fate = AIDB_TAG_OPEN;
	faults.tag_fate = decide;
	assert_ok(aidb_batch_put(batch, text("k"), text("v")));
	assert_ok(aidb_write(db, &(aidb_write_options){.durability = AIDB_LAZY, .state = AIDB_BATCH_PREPARED, .tag = 9},
						 batch, NULL));
	aidb_batch_destroy(batch);
	assert_ok(aidb_flush(db));
	assert_ok(aidb_work(db, AIDB_WORK_COMPACT, &did));
	assert_false(did);
	expect(db, "k", NULL);
	fate = AIDB_TAG_COMMITTED;
	assert_ok(aidb_work(db, AIDB_WORK_COMPACT, &did));
	assert_true(did);
	expect(db, "k", "v");
	assert_ok(aidb_work(db, AIDB_WORK_COMPACT, &did));
	assert_false(did);
}

/* Files of this process that have no name any more. */
static unsigned removed_open(void) {
	DIR *descriptors = opendir("/proc/self/fd");
	unsigned count = 0;

	assert_non_null(descriptors);
	for (struct dirent *entry = readdir(descriptors); entry != NULL; entry = readdir(descriptors)) {
		char target[PATH_MAX];
		ssize_t bytes = readlinkat(dirfd(descriptors), entry->d_name, target, sizeof(target) - 1);

		target[bytes > 0 ? bytes : 0] = '\0';
		count += strstr(target, ".sst (deleted)") != NULL;
	}
	closedir(descriptors);
	return count;
}

/* Another process, which does but read, keeps no file open that was removed. */
static void test_removed_files_are_closed(void **state) {
	aidb_db *other;

	(void)state;
	assert_ok(aidb_attach(store.memory, &store.host, store.directory, &other));
	for (uint32_t round = 1; round <= 3; round++) {
		fill_level0();
		for (uint32_t i = 0; i < KEYS; i++) {
			char key[16];

			snprintf(key, sizeof(key), "%08u", i);
			assert_ok(aidb_get(other, &(aidb_read_options){.skip_cache_fill = true}, text(key), NULL, NULL));
		}
		store_settle(db);
		/* few files at first, then more than are remembered */
		for (uint32_t i = 0; i < (round < 3 ? round : 2 * LSM_REMOVED_FILES); i++) {
			set(0, "another");
			assert_ok(aidb_flush(db));
			store_settle(db);
		}
		assert_true(removed_open() > 0);
		assert_ok(aidb_get(other, NULL, text("00000000"), NULL, NULL));
		assert_int_equal(removed_open(), 0);
	}
	aidb_detach(other);
}

static void test_failures_change_nothing(void **state) {
	bool did;

	(void)state;
	fill_level0();
	faults.write_error[STORE_TABLE] = ENOSPC;
	assert_status(aidb_work(db, AIDB_WORK_COMPACT, &did), AIDB_NO_SPACE);
	assert_int_equal(db->shared->compact_error, AIDB_NO_SPACE);
	assert_int_equal(tables(), 4);
	faults_clear();
	faults.write_error[STORE_MANIFEST] = ENOSPC;
	assert_status(aidb_work(db, AIDB_WORK_COMPACT, &did), AIDB_NO_SPACE);
	assert_int_equal(tables(), 4);
	faults_clear();
	atomic_store(&faults.room_error, EINTR);
	assert_status(aidb_work(db, AIDB_WORK_COMPACT, &did), AIDB_INTERRUPTED);
	assert_int_equal(tables(), 4);
	faults_clear();
	expect_number(1, "fourth");
	assert_ok(aidb_work(db, AIDB_WORK_COMPACT, &did));
	assert_int_equal(db->shared->compact_error, AIDB_OK);
	assert_int_equal(tables(), files());
	expect_number(1, "fourth");
}

static void test_damaged_input(void **state) {
	char first[STORE_PATH_BYTES];
	bool did;

	(void)state;
	fill_level0();
	assert_int_equal(directory_count(store.directory, ".sst", first, NULL), 4);
	file_flip(first, 100, 1);
	assert_status(aidb_work(db, AIDB_WORK_COMPACT, &did), AIDB_CORRUPT);
	expect_error_names(first, "offset", NULL);
	assert_int_equal(tables(), 4);
	expect_number(1, "fourth");
}

int main(void) {
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_merge, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_moves, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_small_files_join, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_deleted_keys_go, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_tombstones_stay_while_they_hide, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_snapshots_keep, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_keys_are_not_split, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_settled_tags_are_stripped, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_removed_files_are_closed, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_failures_change_nothing, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_damaged_input, set_up, tear_down),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
