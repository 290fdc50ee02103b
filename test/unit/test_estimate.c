#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "store_fixture.h"

#define KEYS 60000u
#define BLOCK_ENTRIES 60u /* no more fit a block */

static const aidb_slice none = {NULL, 0};

static void key_of(uint32_t number, char key[16]) {
	snprintf(key, 16, "%08u", number);
}

static void fill(aidb_db *db, uint64_t *seed, uint32_t begin, uint32_t end) {
	for (uint32_t i = begin; i < end; i++) {
		char key[16], value[65];

		key_of(i, key);
		for (int j = 0; j < 64; j++) {
			value[j] = (char)('!' + store_random_below(seed, 90));
		}
		value[64] = '\0';
		must_put(db, key, value, AIDB_LAZY);
	}
}

static uint64_t estimate(aidb_db *db, uint32_t begin, uint32_t end, uint64_t *bytes) {
	char lower[16], upper[16];
	uint64_t entries;

	key_of(begin, lower);
	key_of(end, upper);
	assert_ok(aidb_estimate(db, text(lower), text(upper), &entries, bytes));
	return entries;
}

/* Within a fifth and two blocks. */
static void check_ranges(aidb_db *db, uint64_t *seed, uint32_t keys) {
	for (int i = 0; i < 300; i++) {
		uint32_t begin = (uint32_t)store_random_below(seed, keys);
		uint32_t width = (uint32_t)store_random_below(seed, i % 3 == 0 ? 30 : keys - begin);
		uint64_t bytes;
		uint64_t entries = estimate(db, begin, begin + width, &bytes);
		uint64_t tolerance = width / 5 + 2 * BLOCK_ENTRIES;

		width = begin + width > keys ? keys - begin : width;
		assert_in_range(entries + tolerance, width, width + 2 * tolerance);
		assert_in_range(bytes, entries * 40, entries * 200);
	}
}

/* A range within one block is counted. */
static void check_small_ranges(aidb_db *db, uint64_t *seed) {
	uint32_t exact = 0;
	uint64_t bytes;

	for (int i = 0; i < 200; i++) {
		uint32_t begin = (uint32_t)store_random_below(seed, KEYS - 5);

		exact += estimate(db, begin, begin + 5, &bytes) == 5;
	}
	assert_in_range(exact, 150, 200);
}

static void test_files(void **state) {
	uint64_t seed = store_seed("test_estimate");
	aidb_options options = store_small_options();
	uint64_t entries, bytes;
	test_store store;

	(void)state;
	store_make(&store, &options);
	store_open(&store);
	fill(store.db, &seed, 0, KEYS);
	assert_ok(aidb_flush(store.db));
	store_settle(store.db);
	check_ranges(store.db, &seed, KEYS);
	check_small_ranges(store.db, &seed);
	assert_ok(aidb_estimate(store.db, none, none, &entries, &bytes));
	assert_int_equal(entries, KEYS);
	assert_ok(aidb_estimate(store.db, text("x"), none, &entries, &bytes));
	assert_int_equal(entries, 0);
	assert_int_equal(bytes, 0);
	assert_ok(aidb_estimate(store.db, text("00000100"), text("00000100"), &entries, &bytes));
	assert_int_equal(entries, 0);
	store_destroy(&store);
}

static void test_memtable(void **state) {
	uint64_t seed = store_seed("test_estimate");
	aidb_options options = store_small_options();
	test_store store;

	(void)state;
	store_make(&store, &options);
	store_open(&store);
	fill(store.db, &seed, 0, 6000);
	assert_int_equal(stats_of(store.db).level_files[0], 0);
	check_ranges(store.db, &seed, 6000);
	store_destroy(&store);
}

static void test_empty(void **state) {
	aidb_options options = store_small_options();
	uint64_t entries, bytes;
	test_store store;

	(void)state;
	store_make(&store, &options);
	store_open(&store);
	assert_ok(aidb_estimate(store.db, none, none, &entries, &bytes));
	assert_int_equal(entries, 0);
	assert_int_equal(bytes, 0);
	store_destroy(&store);
}

int main(void) {
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_files),
		cmocka_unit_test(test_memtable),
		cmocka_unit_test(test_empty),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
