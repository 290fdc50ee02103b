/* db/log.h: segments that are made, used again and given up, what is written when, and what happens when that fails. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "db/db.h"
#include "store_fixture.h"

/* ---- Formats ------------------------------------------------------------------------------------------- */

static void payload_head_comes_back(void **state) {
	const lsm_payload_head head = {.sequence = LSM_MAX_SEQUENCE,
								   .synced = 0x0102030405060708ull,
								   .tag = UINT64_MAX,
								   .state = AIDB_BATCH_ABORT,
								   .count = 0x90abcdefu};
	lsm_payload_head read;
	uint8_t bytes[LSM_PAYLOAD_HEAD_BYTES + 1];
	lsm_reader reader;

	(void)state;
	lsm_payload_head_write(bytes, &head);
	bytes[LSM_PAYLOAD_HEAD_BYTES] = 77;
	reader = lsm_reader_of(bytes, sizeof(bytes));
	assert_true(lsm_payload_head_read(&reader, &read));
	assert_int_equal(read.sequence, head.sequence);
	assert_int_equal(read.synced, head.synced);
	assert_true(read.tag == head.tag);
	assert_int_equal(read.state, head.state);
	assert_int_equal(read.count, head.count);
	assert_int_equal(lsm_read_u8(&reader), 77);
}

static bool head_is_read(const lsm_payload_head *head, unsigned state_byte, size_t size) {
	uint8_t bytes[LSM_PAYLOAD_HEAD_BYTES];
	lsm_payload_head read;
	lsm_reader reader;

	lsm_payload_head_write(bytes, head);
	bytes[24] = (uint8_t)state_byte;
	reader = lsm_reader_of(bytes, size);
	return lsm_payload_head_read(&reader, &read);
}

static void malformed_payload_heads_are_refused(void **state) {
	lsm_payload_head head = {.sequence = 5};

	(void)state;
	for (size_t size = 0; size < LSM_PAYLOAD_HEAD_BYTES; size++) {
		assert_false(head_is_read(&head, 0, size));
	}
	assert_true(head_is_read(&head, AIDB_BATCH_ABORT, LSM_PAYLOAD_HEAD_BYTES));
	assert_false(head_is_read(&head, AIDB_BATCH_ABORT + 1, LSM_PAYLOAD_HEAD_BYTES));
	head.sequence = 0;
	assert_false(head_is_read(&head, 0, LSM_PAYLOAD_HEAD_BYTES));
	head.sequence = LSM_MAX_SEQUENCE + 1;
	assert_false(head_is_read(&head, 0, LSM_PAYLOAD_HEAD_BYTES));
}

static void segment_names_come_back(void **state) {
	static const uint64_t numbers[] = {0, 1, 0xa3, 0xfedcba9876543210ull, UINT64_MAX};
	static const char *const others[] = {"",
										 "1.log",
										 "00000000000000a3.lob",
										 "00000000000000a3_log",
										 "g0000000000000a3.log",
										 "00000000000000a3.log2",
										 "MANIFEST",
										 "0000000000000 a3.log"};
	uint64_t number;

	(void)state;
	for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++) {
		char path[64];

		lsm_segment_path("dir", numbers[i], path, sizeof(path));
		assert_memory_equal(path, "dir/", 4);
		assert_true(lsm_segment_number(path + 4, &number));
		assert_true(number == numbers[i]);
	}
	for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++) {
		assert_false(lsm_segment_number(others[i], &number));
	}
}

/* Whatever lies before it, a record takes no more log than was reserved for it. */
static void bound_holds_for_every_place_and_size(void **state) {
	uint64_t random = store_seed("test_log");
	lsm_log log = {.geometry = {.store_id = 1}};

	(void)state;
	for (int i = 0; i < 200000; i++) {
		uint64_t near = (1 + store_random_below(&random, 64)) * LSM_LOG_BLOCK_BYTES;
		uint64_t position = near + store_random_below(&random, 160) - 80;
		uint64_t size = LSM_PAYLOAD_HEAD_BYTES + (i % 2 == 0 ? store_random_below(&random, 400000)
															 : store_random_below(&random, 5) * LSM_LOG_BLOCK_BYTES +
																   store_random_below(&random, 160));

		log.geometry.segment_bytes = (uint64_t)2 * LSM_LOG_BLOCK_BYTES << store_random_below(&random, 4);
		assert_in_range(lsm_record_end(&log.geometry, position, size) - position, size, lsm_log_bound(&log, size));
	}
}

/* ---- Segments ------------------------------------------------------------------------------------------ */

static char filler[1 << 16];

/* Puts `count` values of `bytes` each under keys that repeat after a hundred. */
static void fill(aidb_db *db, unsigned count, size_t bytes, aidb_durability durability) {
	char key[32];

	memset(filler, 'f', sizeof(filler));
	for (unsigned i = 0; i < count; i++) {
		snprintf(key, sizeof(key), "filler %u", i % 100);
		assert_ok(
			aidb_put(db, &(aidb_write_options){.durability = durability}, text(key), (aidb_slice){filler, bytes}));
	}
}

static void segments_are_preallocated_and_used_again(void **state) {
	aidb_options options = store_small_options();
	char first[STORE_PATH_BYTES], last[STORE_PATH_BYTES];
	uint32_t allocated = 0;
	test_store store;

	(void)state;
	options.log_segment_bytes = 512 << 10;
	store_make(&store, &options);
	store_open(&store);
	for (int round = 0; round < 30; round++) {
		fill(store.db, 100, 5000, AIDB_WRITE);
		store_settle(store.db);
		if (round % 4 == 0) {
			assert_ok(aidb_flush(store.db));
		}
		if (round == 14) {
			allocated = atomic_load(&faults.allocations);
		}
	}
	assert_true(atomic_load(&faults.allocations) - allocated <= 3); /* for some 15 segments */
	assert_ok(aidb_flush(store.db));
	assert_in_range(directory_count(store.directory, ".log", first, last), 1, 5);
	assert_int_equal(file_bytes_of(first), options.log_segment_bytes);
	assert_int_equal(file_bytes_of(last), options.log_segment_bytes);
	assert_true(strcmp(strrchr(first, '/'), "/0000000000000010.log") >= 0);
	store_destroy(&store);
}

/* A segment that was used before is full of old records: none of them comes back. */
static void recycled_segments_give_only_what_is_new(void **state) {
	aidb_options options = store_small_options();
	test_store store;
	char key[32];

	(void)state;
	store_make(&store, &options);
	store_open(&store);
	for (int round = 0; round < 6; round++) {
		fill(store.db, 300, 1000, AIDB_WRITE);
		assert_ok(aidb_flush(store.db));
		for (unsigned i = 0; i < 100; i++) {
			snprintf(key, sizeof(key), "filler %u", i);
			assert_ok(aidb_delete(store.db, &(aidb_write_options){.durability = AIDB_WRITE}, text(key)));
		}
		must_put(store.db, "round", key, AIDB_WRITE);
		store_crash(&store);
		store_open(&store);
		expect(store.db, "round", "filler 99");
		for (unsigned i = 0; i < 100; i++) {
			snprintf(key, sizeof(key), "filler %u", i);
			expect(store.db, key, NULL);
		}
	}
	assert_true(atomic_load(&faults.renames) > 10);
	store_destroy(&store);
}

static void background_work_prepares_segments_ahead(void **state) {
	aidb_options options = store_small_options();
	test_store store;
	bool did;

	(void)state;
	store_make(&store, &options);
	store_open(&store);
	fill(store.db, 1, 40000, AIDB_LAZY);
	assert_int_equal(directory_count(store.directory, ".log", NULL, NULL), 1);
	assert_ok(aidb_work(store.db, AIDB_WORK_LOG, &did));
	assert_false(did); /* one round is enough */
	assert_int_equal(directory_count(store.directory, ".log", NULL, NULL), 2);
	assert_ok(aidb_work(store.db, AIDB_WORK_LOG, &did));
	assert_false(did);
	store_destroy(&store);
}

/* ---- Writing and syncing ------------------------------------------------------------------------------- */

static void durability_is_what_was_asked_for(void **state) {
	aidb_options options = store_small_options();
	aidb_stats before, after;
	test_store store;

	(void)state;
	store_make(&store, &options);
	store_open(&store);
	before = stats_of(store.db);
	must_put(store.db, "lazy", "1", AIDB_LAZY);
	after = stats_of(store.db);
	assert_int_equal(after.log_writes, before.log_writes);
	assert_int_equal(after.log_syncs, before.log_syncs);
	must_put(store.db, "written", "1", AIDB_WRITE);
	after = stats_of(store.db);
	assert_int_equal(after.log_writes, before.log_writes + 1);
	assert_int_equal(after.log_syncs, before.log_syncs);
	must_put(store.db, "lost", "1", AIDB_LAZY);
	store_crash(&store);
	store_open(&store);
	expect(store.db, "lazy", "1");
	expect(store.db, "written", "1");
	expect(store.db, "lost", NULL);

	must_put(store.db, "lazy", "2", AIDB_LAZY);
	before = stats_of(store.db);
	assert_ok(aidb_sync(store.db));
	after = stats_of(store.db);
	assert_int_equal(after.log_syncs, before.log_syncs + 1);
	assert_ok(aidb_sync(store.db));
	assert_int_equal(stats_of(store.db).log_syncs, after.log_syncs);
	must_put(store.db, "synced", "2", AIDB_SYNC);
	assert_int_equal(stats_of(store.db).log_syncs, after.log_syncs + 1);
	assert_int_equal(stats_of(store.db).commits, 2);
	store_crash(&store);
	store_open(&store);
	expect(store.db, "lazy", "2");
	expect(store.db, "synced", "2");
	must_put(store.db, "closed", "3", AIDB_LAZY);
	store_close(&store);
	store_open(&store);
	expect(store.db, "closed", "3");
	store_destroy(&store);
}

/* Lazy commits alone go round the ring several times: those that come write out what is in their way. */
static void ring_is_written_out_by_those_who_need_it(void **state) {
	aidb_options options = store_small_options();
	test_store store;
	char key[32];

	(void)state;
	options.memory_bytes = 64 << 20;
	options.write_buffer_bytes = 12 << 20; /* so that no flush writes the log */
	options.log_segment_bytes = 1 << 20;
	store_make(&store, &options);
	store_open(&store);
	while (store.db->shared->commits.next_position < 3 * store.db->shared->log.ring_bytes) {
		fill(store.db, 100, 5000, AIDB_LAZY);
	}
	assert_int_equal(stats_of(store.db).flushes, 0);
	assert_true(stats_of(store.db).log_writes > 0);
	assert_ok(aidb_sync(store.db));
	store_crash(&store);
	store_open(&store);
	for (unsigned i = 0; i < 100; i++) {
		aidb_buffer value = {0};

		snprintf(key, sizeof(key), "filler %u", i);
		assert_ok(aidb_get(store.db, NULL, text(key), &value, NULL));
		assert_true(lsm_equal((aidb_slice){value.data, value.size}, (aidb_slice){filler, 5000}));
		aidb_buffer_free(&value);
	}
	store_destroy(&store);
}

static void host_is_asked_before_the_log_is_written(void **state) {
	aidb_options options = store_small_options();
	test_store store;
	uint32_t calls;

	(void)state;
	store_make(&store, &options);
	store_open(&store);
	calls = atomic_load(&faults.before_log_calls);
	must_put(store.db, "key", "lazy", AIDB_LAZY);
	assert_int_equal(atomic_load(&faults.before_log_calls), calls);
	must_put(store.db, "key", "written", AIDB_WRITE);
	assert_int_equal(atomic_load(&faults.before_log_calls), calls + 1);
	atomic_store(&faults.before_log_error, EIO);
	assert_status(put(store.db, "key", "refused", AIDB_WRITE), AIDB_IO);
	faults_clear();
	assert_status(put(store.db, "key", "off", AIDB_WRITE), AIDB_IO);
	store_crash(&store);
	store_open(&store);
	expect(store.db, "key", "written");
	store_destroy(&store);
}

/* ---- Failures ------------------------------------------------------------------------------------------ */

/* After a failed write or sync: no more writes, reads as before, and a new start has all that was acknowledged. With
 * AIDB_LAZY it is the background that meets the failure. */
static void expect_log_failure(_Atomic int *fault, aidb_durability durability) {
	aidb_options options = store_small_options();
	aidb_reservation reservation;
	aidb_batch *batch = aidb_batch_create();
	test_store store;

	store_make(&store, &options);
	store_open(&store);
	must_put(store.db, "before", "acknowledged", AIDB_SYNC);
	must_put(store.db, "lazy", "acknowledged", AIDB_LAZY);
	assert_ok(aidb_batch_put(batch, text("reserved"), text("in vain")));
	assert_ok(aidb_write_reserve(store.db, batch, &reservation));
	assert_false(stats_of(store.db).writes_off);
	atomic_store(fault, EIO);
	if (durability == AIDB_LAZY) {
		bool did;

		assert_status(aidb_work(store.db, AIDB_WORK_LOG, &did), AIDB_IO);
	} else {
		assert_status(put(store.db, "before", "failed", durability), AIDB_IO);
	}
	expect_error_names(store.directory, ".log", strerror(EIO), "reopen", NULL);
	atomic_store(fault, 0);
	assert_true(stats_of(store.db).writes_off);
	for (int kind = AIDB_SYNC; kind <= AIDB_LAZY; kind++) {
		assert_status(put(store.db, "more", "refused", (aidb_durability)kind), AIDB_IO);
	}
	assert_status(aidb_write_commit(store.db, &(aidb_write_options){.durability = AIDB_LAZY}, &reservation, NULL),
				  AIDB_IO);
	assert_status(aidb_write_reserve(store.db, batch, &reservation), AIDB_IO);
	assert_status(aidb_sync(store.db), AIDB_IO);
	assert_status(aidb_flush(store.db), AIDB_IO);
	expect(store.db, "before", "acknowledged");
	expect(store.db, "lazy", "acknowledged");
	expect(store.db, "more", NULL);
	expect(store.db, "reserved", NULL);
	store_crash(&store);
	store_open(&store);
	expect(store.db, "more", NULL);
	expect(store.db, "reserved", NULL);
	must_put(store.db, "more", "works again", AIDB_SYNC);
	expect(store.db, "more", "works again");
	store_destroy(&store);
	aidb_batch_destroy(batch);
}

static void failed_write_turns_writes_off(void **state) {
	(void)state;
	expect_log_failure(&faults.write_error[STORE_LOG], AIDB_WRITE);
	expect_log_failure(&faults.write_error[STORE_LOG], AIDB_SYNC);
}

static void failed_sync_turns_writes_off(void **state) {
	(void)state;
	expect_log_failure(&faults.sync_error[STORE_LOG], AIDB_SYNC);
}

static void failure_in_the_background_turns_writes_off(void **state) {
	(void)state;
	expect_log_failure(&faults.write_error[STORE_LOG], AIDB_LAZY);
	expect_log_failure(&faults.sync_error[STORE_LOG], AIDB_LAZY);
}

/* Puts "key <number>" and says so in *acknowledged, until the store refuses. */
static aidb_status put_until_refused(aidb_db *db, unsigned *acknowledged) {
	aidb_status rc;

	do {
		char key[32];

		snprintf(key, sizeof(key), "key %u", *acknowledged);
		rc = aidb_put(db, &(aidb_write_options){.durability = AIDB_WRITE}, text(key), (aidb_slice){filler, 1000});
		*acknowledged += rc == AIDB_OK;
	} while (rc == AIDB_OK);
	return rc;
}

static void expect_acknowledged(aidb_db *db, unsigned count) {
	char key[32];

	for (unsigned i = 0; i < count; i++) {
		snprintf(key, sizeof(key), "key %u", i);
		assert_ok(aidb_get(db, NULL, text(key), NULL, NULL));
	}
	snprintf(key, sizeof(key), "key %u", count);
	expect(db, key, NULL);
}

/* No room for a segment: told when it is reserved, before anything is promised. */
static void full_disk_stops_writes_until_there_is_space(void **state) {
	aidb_options options = store_small_options();
	unsigned acknowledged = 0;
	test_store store;
	bool did;

	(void)state;
	memset(filler, 'f', sizeof(filler));
	store_make(&store, &options);
	store_open(&store);
	for (int round = 0; round < 3; round++) {
		unsigned before = acknowledged;

		atomic_store(&faults.allocate_error, ENOSPC);
		assert_status(put_until_refused(store.db, &acknowledged), AIDB_NO_SPACE);
		expect_error_names(store.directory, ".log", strerror(ENOSPC), NULL);
		assert_true(acknowledged > before);
		assert_status(put_until_refused(store.db, &acknowledged), AIDB_NO_SPACE);
		assert_status(aidb_work(store.db, AIDB_WORK_LOG, &did), AIDB_NO_SPACE);
		assert_ok(aidb_sync(store.db));
		assert_false(stats_of(store.db).writes_off);
		expect_acknowledged(store.db, acknowledged);
		atomic_store(&faults.allocate_error, 0);
		fill(store.db, 1, 2000, AIDB_SYNC);
	}
	atomic_store(&faults.allocate_error, ENOSPC);
	put_until_refused(store.db, &acknowledged);
	store_crash(&store);
	faults_clear();
	store_open(&store);
	expect_acknowledged(store.db, acknowledged);
	store_destroy(&store);
}

int main(void) {
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(payload_head_comes_back),
		cmocka_unit_test(malformed_payload_heads_are_refused),
		cmocka_unit_test(segment_names_come_back),
		cmocka_unit_test(bound_holds_for_every_place_and_size),
		cmocka_unit_test(segments_are_preallocated_and_used_again),
		cmocka_unit_test(recycled_segments_give_only_what_is_new),
		cmocka_unit_test(background_work_prepares_segments_ahead),
		cmocka_unit_test(durability_is_what_was_asked_for),
		cmocka_unit_test(ring_is_written_out_by_those_who_need_it),
		cmocka_unit_test(host_is_asked_before_the_log_is_written),
		cmocka_unit_test(failed_write_turns_writes_off),
		cmocka_unit_test(failed_sync_turns_writes_off),
		cmocka_unit_test(failure_in_the_background_turns_writes_off),
		cmocka_unit_test(full_disk_stops_writes_until_there_is_space),
	};

	return cmocka_run_group_tests_name("log", tests, NULL, NULL);
}
