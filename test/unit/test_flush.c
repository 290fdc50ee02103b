#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "db/db.h"
#include "store_fixture.h"

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

static void set(const char *key, const char *value) {
	must_put(db, key, value, AIDB_LAZY);
}

static void set_tagged(const char *key, const char *value, aidb_tag tag) {
	aidb_batch *batch = aidb_batch_create();

	assert_ok(aidb_batch_put(batch, text(key), text(value)));
	assert_ok(aidb_write(db, &(aidb_write_options){.durability = AIDB_LAZY, .state = AIDB_BATCH_PREPARED, .tag = tag},
						 batch, NULL));
	aidb_batch_destroy(batch);
}

static unsigned tables(void) {
	return directory_count(store.directory, ".sst", NULL, NULL);
}

static const lsm_sstable_properties *first_file(void) {
	const lsm_version *version = lsm_version_current(&db->arena, &db->shared->versions);

	assert_true(lsm_level_count(version, 0) > 0);
	return &lsm_level_file(&db->arena, version, 0, 0)->properties;
}

static uint64_t how_many(aidb_durations durations) {
	uint64_t count = 0;

	for (int i = 0; i < AIDB_DURATION_BUCKETS; i++) {
		count += durations.counts[i];
	}
	return count;
}

/* What waits is timed, and what does not is not. */
static void test_durations(void **state) {
	(void)state;
	set("a", "1");
	assert_int_equal(how_many(stats_of(db).commit_durations), 0);
	faults.sync_delay_us = 20000;
	must_put(db, "a", "2", AIDB_SYNC);
	faults.sync_delay_us = 0;
	assert_int_equal(how_many(stats_of(db).commit_durations), 1);
	assert_int_equal(how_many(stats_of(db).log_sync_durations), stats_of(db).log_syncs);
	assert_true(stats_of(db).commit_durations.sum_us >= 20000);
	for (int i = 0; i < 11; i++) { /* up to 16 ms */
		assert_int_equal(stats_of(db).commit_durations.counts[i], 0);
	}
	assert_ok(aidb_flush(db));
	assert_int_equal(how_many(stats_of(db).flush_durations), 1);
}

static void test_file_and_log(void **state) {
	(void)state;
	set("a", "1");
	set("b", "2");
	assert_ok(aidb_flush(db));
	assert_int_equal(tables(), 1);
	assert_int_equal(stats_of(db).level_files[0], 1);
	assert_int_equal(stats_of(db).flushes, 1);
	assert_int_equal(first_file()->entries, 2);
	assert_int_equal(stats_of(db).log_live_bytes, 0);
	expect(db, "a", "1");
	assert_ok(aidb_flush(db)); /* nothing to do */
	assert_int_equal(stats_of(db).flushes, 1);
	store_crash(&store);
	store_open(&store);
	db = store.db;
	expect(db, "a", "1");
	expect(db, "b", "2");
}

static void test_only_what_is_needed(void **state) {
	aidb_snapshot snapshot;

	(void)state;
	set("k", "1");
	set("k", "2");
	assert_ok(aidb_snapshot_acquire(db, &snapshot));
	set("k", "3");
	set("k", "4");
	assert_ok(aidb_flush(db));
	assert_int_equal(first_file()->entries, 2);
	expect_at(db, snapshot.sequence, "k", "2");
	expect(db, "k", "4");
	aidb_snapshot_release(db, &snapshot);
}

/* What was written and deleted in one memtable leaves nothing, where nothing lies below. */
static void test_nothing_left(void **state) {
	(void)state;
	set("k", "1");
	assert_ok(aidb_delete(db, NULL, text("k")));
	assert_ok(aidb_flush(db));
	assert_int_equal(tables(), 0);
	assert_int_equal(stats_of(db).flushes, 1);
	set("k", "2");
	assert_ok(aidb_flush(db));
	assert_ok(aidb_delete(db, NULL, text("k")));
	assert_ok(aidb_flush(db));
	assert_int_equal(tables(), 2); /* the tombstone hides the one below */
	expect(db, "k", NULL);
}

static aidb_tag_fate decide(aidb_tag tag) {
	return tag == 1 ? AIDB_TAG_COMMITTED : tag == 2 ? AIDB_TAG_ABORTED : AIDB_TAG_OPEN;
}

static void test_tags(void **state) {
	(void)state;
	faults.tag_fate = decide;
	set_tagged("a", "committed", 1);
	set_tagged("b", "aborted", 2);
	assert_ok(aidb_flush(db));
	assert_int_equal(first_file()->entries, 1);
	assert_int_equal(first_file()->max_tag, 0);
	expect(db, "a", "committed");
	set_tagged("a", "open", 3);
	assert_ok(aidb_flush(db));
	assert_int_equal(first_file()->max_tag, 3);
	expect(db, "a", "committed");
}

/* ---- Failures ---------------------------------------------------------------------------------------------- */

static void test_full_disk(void **state) {
	(void)state;
	set("a", "1");
	faults.write_error[STORE_TABLE] = ENOSPC;
	assert_status(aidb_flush(db), AIDB_NO_SPACE);
	assert_int_equal(tables(), 0);
	assert_int_equal(db->shared->flush_error, AIDB_NO_SPACE);
	expect(db, "a", "1");
	faults_clear();
	faults.sync_error[STORE_TABLE] = EIO;
	assert_status(aidb_flush(db), AIDB_IO);
	assert_int_equal(tables(), 0);
	faults_clear();
	faults.write_error[STORE_MANIFEST] = ENOSPC;
	assert_status(aidb_flush(db), AIDB_NO_SPACE);
	assert_int_equal(tables(), 0);
	expect(db, "a", "1");
	faults_clear();
	set("b", "2");
	assert_ok(aidb_flush(db));
	assert_int_equal(db->shared->flush_error, AIDB_OK);
	assert_int_equal(stats_of(db).memtable_bytes < 1000, 1);
	expect(db, "a", "1");
	expect(db, "b", "2");
}

/* When it is not known which manifest stands, files that it may name must stay. */
static void test_manifest_in_doubt(void **state) {
	(void)state;
	set("a", "1");
	faults.sync_error[STORE_MANIFEST] = EIO;
	assert_status(aidb_flush(db), AIDB_IO);
	assert_int_equal(tables(), 1);
	faults_clear();
	expect(db, "a", "1");
	store_crash(&store);
	store_open(&store); /* clears up */
	db = store.db;
	expect(db, "a", "1");
	assert_ok(aidb_flush(db));
	assert_int_equal(tables(), 1);
	expect(db, "a", "1");
}

static void test_no_memory_for_the_list(void **state) {
	lsm_heap *heap = &db->shared->heap;
	lsm_ref taken[4096];
	uint32_t count = 0;

	(void)state;
	must_put(db, "a", "1", AIDB_WRITE);
	/* large pieces first, then what is left of the small ones: all of it */
	for (uint64_t bytes = LSM_HEAP_MAX_BYTES; bytes >= LSM_HEAP_MIN_BYTES; bytes /= 2) {
		lsm_ref ref;

		while (count < 4096 && (ref = lsm_heap_allocate(&db->arena, heap, bytes)) != 0) {
			taken[count++] = ref;
		}
	}
	assert_true(count < 4096);
	assert_status(aidb_flush(db), AIDB_NO_MEMORY);
	assert_int_equal(tables(), 0);
	expect(db, "a", "1");
	(void)taken;
	store_crash(&store);
	store_open(&store);
	db = store.db;
	expect(db, "a", "1");
}

static aidb_tag_fate poison(aidb_tag tag) {
	(void)tag;
	atomic_store(&db->shared->poisoned, 1);
	return AIDB_TAG_OPEN;
}

/* The heap gives nothing in an arena that another's death has poisoned, which is not for want of memory. */
static void test_poisoned_while_writing(void **state) {
	(void)state;
	set_tagged("a", "1", 1);
	assert_ok(aidb_sync(db));
	faults.tag_fate = poison;
	assert_status(aidb_flush(db), AIDB_POISONED);
	faults.tag_fate = NULL;
	assert_int_equal(tables(), 0);
	store_crash(&store);
	store_open(&store);
	db = store.db;
	assert_ok(aidb_flush(db));
	assert_int_equal(first_file()->max_tag, 1);
}

static void test_interrupted(void **state) {
	char key[16];

	(void)state;
	for (int i = 0; i < 20000; i++) {
		snprintf(key, sizeof(key), "%08d", i);
		set(key, "");
	}
	atomic_store(&faults.room_error, EINTR);
	assert_status(aidb_flush(db), AIDB_INTERRUPTED);
	atomic_store(&faults.room_error, 0);
	assert_ok(aidb_flush(db));
	expect(db, "00012345", "");
}

int main(void) {
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_durations, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_file_and_log, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_only_what_is_needed, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_nothing_left, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_tags, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_full_disk, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_manifest_in_doubt, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_no_memory_for_the_list, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_poisoned_while_writing, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_interrupted, set_up, tear_down),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
