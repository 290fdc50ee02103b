/* Options: defaults that fit each other, and refusals that name the option. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <sys/mman.h>

#include "format/record.h"
#include "store_fixture.h"

#define MIB (1ull << 20)

static void zero_means_the_documented_defaults(void **state) {
	aidb_options options;

	(void)state;
	memset(&options, 0xff, sizeof(options));
	aidb_options_init(&options);
	assert_ok(aidb_options_resolve(&options));
	assert_int_equal(options.memory_bytes, 256 * MIB);
	assert_int_equal(options.write_buffer_bytes, 32 * MIB);
	assert_int_equal(options.members, 128);
	assert_int_equal(options.log_segment_bytes, 16 * MIB);
	assert_int_equal(options.file_bytes, 32 * MIB);
	assert_int_equal(options.filter_bits, 10);
	assert_true(options.compression_set);
	assert_int_equal(options.compression_default, AIDB_COMPRESSION_SNAPPY);
	assert_false(options.create_if_missing || options.error_if_exists || options.no_background);
}

static void no_compression_can_be_asked_for(void **state) {
	aidb_options options = {.compression_set = true, .compression_default = AIDB_COMPRESSION_NONE};

	(void)state;
	assert_ok(aidb_options_resolve(&options));
	assert_int_equal(options.compression_default, AIDB_COMPRESSION_NONE);
}

static void resolved_options_stay_as_they_are(void **state) {
	static const uint64_t sizes[] = {AIDB_MIN_MEMORY_BYTES, 17 * MIB + 12345, 64 * MIB, 1000 * MIB,
									 AIDB_MAX_MEMORY_BYTES};

	(void)state;
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		aidb_options options = {.memory_bytes = sizes[i]};
		aidb_options again;

		assert_ok(aidb_options_resolve(&options));
		again = options;
		assert_ok(aidb_options_resolve(&again));
		assert_memory_equal(&again, &options, sizeof(options));
		assert_int_equal(options.memory_bytes, sizes[i]);
		assert_in_range(options.write_buffer_bytes, MIB, sizes[i] / 5);
		assert_in_range(options.log_segment_bytes, MIB, 16 * MIB);
		assert_in_range(options.file_bytes, 2 * MIB, 32 * MIB);
	}
}

static void write_buffer_alone_implies_the_memory(void **state) {
	aidb_options options = {.write_buffer_bytes = 16 * MIB};

	(void)state;
	assert_ok(aidb_options_resolve(&options));
	assert_int_equal(options.memory_bytes, 128 * MIB);
}

static void expect_refused(aidb_options options, const char *name) {
	aidb_options before = options;

	assert_status(aidb_options_resolve(&options), AIDB_INVALID);
	expect_error_names(name, NULL);
	assert_memory_equal(&options, &before, sizeof(options));
}

static void values_out_of_range_are_refused_by_name(void **state) {
	(void)state;
	expect_refused((aidb_options){.memory_bytes = AIDB_MIN_MEMORY_BYTES - 1}, "memory_bytes");
	expect_refused((aidb_options){.memory_bytes = AIDB_MAX_MEMORY_BYTES + 1}, "memory_bytes");
	expect_refused((aidb_options){.memory_bytes = 64 * MIB, .write_buffer_bytes = MIB - 1}, "write_buffer_bytes");
	expect_refused((aidb_options){.memory_bytes = 64 * MIB, .write_buffer_bytes = 13 * MIB}, "write_buffer_bytes");
	expect_refused((aidb_options){.write_buffer_bytes = UINT64_MAX}, "bytes");
	expect_refused((aidb_options){.write_buffer_bytes = 1ull << 61}, "bytes");
	expect_refused((aidb_options){.members = 65537}, "members");
	expect_refused((aidb_options){.log_segment_bytes = LSM_LOG_BLOCK_BYTES}, "log_segment_bytes");
	expect_refused((aidb_options){.log_segment_bytes = 3 * LSM_LOG_BLOCK_BYTES}, "log_segment_bytes");
	expect_refused((aidb_options){.file_bytes = 65535}, "file_bytes");
	expect_refused((aidb_options){.file_bytes = 1024 * MIB + 1}, "file_bytes");
	expect_refused((aidb_options){.filter_bits = 21}, "filter_bits");
	expect_refused((aidb_options){.compression_set = true, .compression_default = (aidb_compression)7},
				   "compression_default");
}

/* All of an arena's structures must find room in it, or the caller is told before anything begins. */
static void arena_too_small_for_its_members_is_refused(void **state) {
	aidb_options options = {.memory_bytes = AIDB_MIN_MEMORY_BYTES, .members = 65536};
	void *memory = mmap(NULL, AIDB_MIN_MEMORY_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	(void)state;
	assert_true(memory != MAP_FAILED);
	assert_status(aidb_arena_format(memory, AIDB_MIN_MEMORY_BYTES, &options), AIDB_INVALID);
	expect_error_names("members", NULL);
	options = (aidb_options){.memory_bytes = AIDB_MIN_MEMORY_BYTES + 1};
	assert_status(aidb_arena_format(memory, AIDB_MIN_MEMORY_BYTES, &options), AIDB_INVALID);
	options = (aidb_options){0};
	assert_ok(aidb_arena_format(memory, AIDB_MIN_MEMORY_BYTES, &options));
	munmap(memory, AIDB_MIN_MEMORY_BYTES);
}

static void memory_without_an_arena_is_refused(void **state) {
	static _Alignas(4096) char memory[65536];
	aidb_host host;
	aidb_db *db;

	(void)state;
	aidb_host_init(&host);
	assert_status(aidb_attach(memory, &host, "/nowhere", &db), AIDB_INVALID);
}

/* The smallest and the default store of every option at its lower or upper bound do open and take a write. */
static void bounds_themselves_work(void **state) {
	const aidb_options kinds[] = {
		{.memory_bytes = AIDB_MIN_MEMORY_BYTES},
		{.memory_bytes = AIDB_MIN_MEMORY_BYTES, .members = 1},
		{.memory_bytes = AIDB_MIN_MEMORY_BYTES, .write_buffer_bytes = AIDB_MIN_MEMORY_BYTES / 5},
		{.memory_bytes = AIDB_MIN_MEMORY_BYTES, .log_segment_bytes = 2 * LSM_LOG_BLOCK_BYTES, .filter_bits = 1},
		{.memory_bytes = 32 * MIB, .file_bytes = 65536, .filter_bits = 20},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
		aidb_options options = kinds[i];
		test_store store;

		options.create_if_missing = true;
		store_make(&store, &options);
		store_open(&store);
		must_put(store.db, "key", "value", AIDB_SYNC);
		assert_ok(aidb_flush(store.db));
		expect(store.db, "key", "value");
		store_close(&store);
		store_destroy(&store);
	}
}

/* What is fixed at creation comes from the store; the rest may change from one start to the next. */
static void store_opens_with_other_options(void **state) {
	aidb_options options = store_small_options();
	char key[32];
	test_store store;

	(void)state;
	store_make(&store, &options);
	store_open(&store);
	for (int i = 0; i < 2000; i++) {
		snprintf(key, sizeof(key), "key%d", i);
		must_put(store.db, key, "one", AIDB_WRITE);
	}
	assert_ok(aidb_flush(store.db));
	must_put(store.db, "key0", "two", AIDB_WRITE);
	store_crash(&store);

	store.options = (aidb_options){.memory_bytes = 64 * MIB, .log_segment_bytes = 1 << 20, .filter_bits = 5};
	assert_ok(aidb_options_resolve(&store.options));
	store_open(&store);
	expect(store.db, "key0", "two");
	for (int i = 1; i < 2000; i++) {
		snprintf(key, sizeof(key), "key%d", i);
		expect(store.db, key, "one");
		must_put(store.db, key, "three", AIDB_WRITE);
	}
	store_crash(&store);
	store_open(&store);
	expect(store.db, "key0", "two");
	expect(store.db, "key1999", "three");
	store_close(&store);
	store_destroy(&store);
}

static void existence_is_as_asked_for(void **state) {
	aidb_options options = store_small_options();
	char directory[STORE_PATH_BYTES], absent[STORE_PATH_BYTES + 16];
	aidb_db *db;

	(void)state;
	directory_make(directory);
	snprintf(absent, sizeof(absent), "%s/absent", directory);
	options.create_if_missing = false;
	assert_status(aidb_open(absent, &options, &db), AIDB_NOT_FOUND);
	options.create_if_missing = true;
	options.no_background = true;
	options.error_if_exists = true;
	assert_ok(aidb_open(absent, &options, &db));
	must_put(db, "key", "value", AIDB_SYNC);
	aidb_close(db);
	assert_status(aidb_open(absent, &options, &db), AIDB_EXISTS);
	expect_error_names(absent, NULL);
	options.error_if_exists = false;
	options.create_if_missing = false;
	assert_ok(aidb_open(absent, &options, &db));
	expect(db, "key", "value");
	aidb_close(db);
	aidb_close(NULL);
	assert_ok(aidb_destroy(absent));
	options.create_if_missing = false;
	assert_status(aidb_open(absent, &options, &db), AIDB_NOT_FOUND);
	directory_remove(directory);
}

int main(void) {
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(zero_means_the_documented_defaults),
		cmocka_unit_test(no_compression_can_be_asked_for),
		cmocka_unit_test(resolved_options_stay_as_they_are),
		cmocka_unit_test(write_buffer_alone_implies_the_memory),
		cmocka_unit_test(values_out_of_range_are_refused_by_name),
		cmocka_unit_test(arena_too_small_for_its_members_is_refused),
		cmocka_unit_test(memory_without_an_arena_is_refused),
		cmocka_unit_test(bounds_themselves_work),
		cmocka_unit_test(store_opens_with_other_options),
		cmocka_unit_test(existence_is_as_asked_for),
	};

	return cmocka_run_group_tests_name("options", tests, NULL, NULL);
}
