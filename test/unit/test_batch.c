/* db/batch.h: operations as bytes, and what a batch refuses. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>

#include "db/batch.h"
#include "store_fixture.h"

static void batch_counts_operations_and_bytes(void **state) {
	aidb_batch *batch = aidb_batch_create();

	(void)state;
	assert_non_null(batch);
	assert_int_equal(aidb_batch_count(batch), 0);
	assert_int_equal(aidb_batch_bytes(batch), 0);
	assert_ok(aidb_batch_put(batch, text("key"), text("value")));
	assert_int_equal(aidb_batch_bytes(batch), 8 + AIDB_BATCH_OPERATION_BYTES);
	assert_ok(aidb_batch_delete(batch, text("other")));
	assert_ok(aidb_batch_put(batch, text(""), text("")));
	assert_int_equal(aidb_batch_count(batch), 3);
	assert_int_equal(aidb_batch_bytes(batch), 13 + 3 * AIDB_BATCH_OPERATION_BYTES);
	aidb_batch_clear(batch);
	assert_int_equal(aidb_batch_count(batch), 0);
	assert_int_equal(aidb_batch_bytes(batch), 0);
	aidb_batch_destroy(batch);
	aidb_batch_destroy(NULL);
}

static void operations_come_back_as_they_were_added(void **state) {
	uint64_t random = store_seed("test_batch");
	aidb_batch *batch = aidb_batch_create();
	char bytes[AIDB_MAX_KEY_BYTES + 5000];
	uint64_t replay = random;
	lsm_reader reader;

	(void)state;
	memset(bytes, 'x', sizeof(bytes));
	for (int i = 0; i < 1000; i++) {
		aidb_slice key = {bytes, store_random_below(&random, AIDB_MAX_KEY_BYTES + 1)};
		aidb_slice value = {bytes + 1, store_random_below(&random, 5000)};

		if (store_random_below(&random, 4) == 0) {
			assert_ok(aidb_batch_delete(batch, key));
		} else {
			assert_ok(aidb_batch_put(batch, key, value));
		}
	}
	reader = lsm_reader_of(batch->operations.data, batch->operations.size);
	for (int i = 0; i < 1000; i++) {
		size_t key_bytes = store_random_below(&replay, AIDB_MAX_KEY_BYTES + 1);
		size_t value_bytes = store_random_below(&replay, 5000);
		bool deletes = store_random_below(&replay, 4) == 0;
		lsm_entry entry;

		assert_true(lsm_read_operation(&reader, &entry));
		assert_int_equal(lsm_kind_of(entry.trailer), deletes ? LSM_KIND_DELETE : LSM_KIND_PUT);
		assert_int_equal(entry.key.size, key_bytes);
		assert_int_equal(entry.value.size, deletes ? 0 : value_bytes);
	}
	assert_int_equal(lsm_reader_left(&reader), 0);
	aidb_batch_destroy(batch);
}

static void malformed_operations_are_told(void **state) {
	aidb_batch *batch = aidb_batch_create();
	uint8_t bytes[64];
	uint8_t large[LSM_MAX_VARINT64 + AIDB_MAX_KEY_BYTES + 8] = {LSM_KIND_DELETE};
	lsm_reader reader;
	lsm_entry entry;
	size_t size;

	(void)state;
	assert_ok(aidb_batch_put(batch, text("key"), text("some value")));
	size = batch->operations.size;
	memcpy(bytes, batch->operations.data, size);
	for (size_t cut = 0; cut < size; cut++) {
		uint8_t *exact = malloc(cut + 1); /* so that a sanitizer sees a read beyond the end */

		memcpy(exact + 1, bytes, cut);
		reader = lsm_reader_of(exact + 1, cut);
		assert_false(lsm_read_operation(&reader, &entry));
		free(exact);
	}
	for (unsigned kind = 0; kind < 256; kind++) {
		bytes[0] = (uint8_t)kind;
		reader = lsm_reader_of(bytes, size);
		assert_int_equal(lsm_read_operation(&reader, &entry), kind >= LSM_KIND_PUT && kind <= LSM_KIND_DELETE_NOTED);
	}
	lsm_put_varint(large + 1, AIDB_MAX_KEY_BYTES + 1);
	reader = lsm_reader_of(large, sizeof(large));
	assert_false(lsm_read_operation(&reader, &entry));
	lsm_put_varint(large + 1, AIDB_MAX_KEY_BYTES);
	reader = lsm_reader_of(large, sizeof(large));
	assert_true(lsm_read_operation(&reader, &entry));
	aidb_batch_destroy(batch);
}

/* A batch that has lost an operation is not committed without it. */
static void refused_operation_spoils_the_batch_until_cleared(void **state) {
	aidb_options options = store_small_options();
	aidb_batch *batch = aidb_batch_create();
	char key[AIDB_MAX_KEY_BYTES + 1];
	test_store store;

	(void)state;
	memset(key, 'k', sizeof(key));
	store_make(&store, &options);
	store_open(&store);
	assert_ok(aidb_batch_put(batch, text("kept?"), text("no")));
	assert_status(aidb_batch_put(batch, (aidb_slice){key, sizeof(key)}, text("")), AIDB_LIMIT);
	expect_error_names("1025", "1024", NULL);
	assert_status(aidb_batch_delete(batch, (aidb_slice){key, sizeof(key)}), AIDB_LIMIT);
	assert_status(aidb_write(store.db, NULL, batch, NULL), AIDB_LIMIT);
	expect(store.db, "kept?", NULL);
	aidb_batch_clear(batch);
	assert_ok(aidb_batch_put(batch, (aidb_slice){key, AIDB_MAX_KEY_BYTES}, text("longest")));
	assert_ok(aidb_write(store.db, NULL, batch, NULL));
	key[AIDB_MAX_KEY_BYTES] = '\0';
	expect(store.db, key, "longest");
	store_close(&store);
	store_destroy(&store);
	aidb_batch_destroy(batch);
}

static void later_of_two_operations_stands(void **state) {
	aidb_options options = store_small_options();
	aidb_batch *batch = aidb_batch_create();
	test_store store;

	(void)state;
	store_make(&store, &options);
	store_open(&store);
	assert_ok(aidb_batch_put(batch, text("a"), text("1")));
	assert_ok(aidb_batch_put(batch, text("b"), text("1")));
	assert_ok(aidb_batch_delete(batch, text("c")));
	assert_ok(aidb_batch_put(batch, text("a"), text("2")));
	assert_ok(aidb_batch_delete(batch, text("b")));
	assert_ok(aidb_batch_put(batch, text("c"), text("2")));
	assert_ok(aidb_write(store.db, NULL, batch, NULL));
	for (int round = 0; round < 3; round++) {
		expect(store.db, "a", "2");
		expect(store.db, "b", NULL);
		expect(store.db, "c", "2");
		if (round == 0) {
			store_crash(&store);
			store_open(&store);
		} else {
			assert_ok(aidb_flush(store.db));
		}
	}
	store_close(&store);
	store_destroy(&store);
	aidb_batch_destroy(batch);
}

static void expect_deletion(aidb_db *db, const char *key, const char *note, bool known) {
	aidb_buffer value = {0};
	aidb_sequence version = 7;

	assert_status(aidb_get(db, NULL, text(key), &value, &version), AIDB_NOT_FOUND);
	assert_int_equal(value.size, strlen(note));
	assert_memory_equal(value.data == NULL ? "" : value.data, note, strlen(note));
	assert_int_equal(version != 0, known);
	aidb_buffer_free(&value);
}

/* Who finds a key deleted is told when, and what its deletion says; through log and files, while a snapshot needs it. */
static void deletion_bears_a_note(void **state) {
	aidb_options options = store_small_options();
	aidb_batch *batch = aidb_batch_create();
	aidb_snapshot snapshot;
	test_store store;

	(void)state;
	store_make(&store, &options);
	store_open(&store);
	assert_ok(aidb_put(store.db, NULL, text("noted"), text("old")));
	assert_ok(aidb_put(store.db, NULL, text("plain"), text("old")));
	assert_ok(aidb_batch_delete_noted(batch, text("noted"), text("went there")));
	assert_ok(aidb_batch_delete(batch, text("plain")));
	assert_ok(aidb_write(store.db, NULL, batch, NULL));
	expect_deletion(store.db, "noted", "went there", true);
	expect_deletion(store.db, "plain", "", true);
	expect_deletion(store.db, "never", "", false);
	store_crash(&store);
	store_open(&store);
	assert_ok(aidb_snapshot_acquire(store.db, &snapshot));
	aidb_snapshot_lower(store.db, &snapshot, 1);
	expect_deletion(store.db, "noted", "went there", true);
	assert_ok(aidb_flush(store.db));
	expect_deletion(store.db, "noted", "went there", true);
	expect_deletion(store.db, "plain", "", true);
	aidb_snapshot_release(store.db, &snapshot);
	store_close(&store);
	store_destroy(&store);
	aidb_batch_destroy(batch);
}

int main(void) {
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(batch_counts_operations_and_bytes),
		cmocka_unit_test(operations_come_back_as_they_were_added),
		cmocka_unit_test(malformed_operations_are_told),
		cmocka_unit_test(refused_operation_spoils_the_batch_until_cleared),
		cmocka_unit_test(later_of_two_operations_stands),
		cmocka_unit_test(deletion_bears_a_note),
	};

	return cmocka_run_group_tests_name("batch", tests, NULL, NULL);
}
