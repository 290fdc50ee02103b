#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "format/filter.h"
#include "store/table.h"
#include "store_fixture.h"
#include "table_fixture.h"

#define CACHE_SETS 64u
#define LOOKUPS 4000u
#define STEPS 20000u

static const lsm_table_reading readings[] = {
	{.use = LSM_CACHE_FILL, .priority = LSM_CACHE_LOW},
	{.use = LSM_CACHE_PEEK, .priority = LSM_CACHE_LOW},
	{.use = LSM_CACHE_BYPASS, .priority = LSM_CACHE_LOW, .readahead_bytes = LSM_READAHEAD_MAX_BYTES},
};
#define READINGS (sizeof(readings) / sizeof(readings[0]))

/* Tables are read inside an epoch. */
static void begin_reading(table_fixture *fixture, uint32_t cache_sets) {
	table_fixture_create(fixture, cache_sets);
	lsm_epoch_enter(&fixture->arena.arena, fixture->source.member);
}

static void end_reading(table_fixture *fixture) {
	lsm_epoch_leave(&fixture->arena.arena, fixture->source.member);
	table_fixture_destroy(fixture);
}

static int set_up(void **state) {
	static table_fixture fixture;

	begin_reading(&fixture, CACHE_SETS);
	*state = &fixture;
	return 0;
}

static int tear_down(void **state) {
	end_reading(*state);
	return 0;
}

/* Some large values, keys with very many versions, and enough for an index of three levels. */
static void fill(entry_list *list, uint64_t *seed, uint32_t entries) {
	for (uint32_t i = 0; i < entries; i++) {
		bool large = store_random_below(seed, 100) == 0;

		entries_add_random(list, seed, entries / 3, 8, large ? 20000 : 60);
	}
	for (uint32_t i = 1; i < 2000; i++) {
		entries_add_text(list, "key0500", i, i % 7 == 0 ? NULL : "one of very many versions");
	}
	entries_sort(list);
}

/* ---- Point lookups --------------------------------------------------------------------------------------- */

static bool see_even(void *argument, aidb_tag tag) {
	(void)argument;
	return tag % 2 == 0;
}

/* The entry that a reader is to find; NULL: none. */
static const lsm_entry *find_visible(const entry_list *list, const lsm_view *view, aidb_slice key) {
	for (uint32_t i = entries_find(list, key, UINT64_MAX); i < list->count; i++) {
		if (!lsm_equal(list->entries[i].key, key)) {
			break;
		}
		if (lsm_view_sees(view, &list->entries[i])) {
			return &list->entries[i];
		}
	}
	return NULL;
}

static void check_get(table_fixture *fixture, const lsm_table *table, const entry_list *list, lsm_cache_use use,
					  aidb_slice key, aidb_sequence sequence) {
	aidb_buffer value = {NULL, 0, 0};
	lsm_lookup lookup = {.view = {.sequence = sequence, .tag_visible = see_even},
						 .key = key,
						 .hash = lsm_filter_hash(key),
						 .value = &value};
	const lsm_entry *expected = find_visible(list, &lookup.view, key);

	assert_ok(lsm_table_get(&fixture->source, table, use, &lookup));
	assert_int_equal(lookup.decided, expected != NULL);
	if (expected != NULL) {
		assert_int_equal(lookup.version, lsm_sequence_of(expected->trailer));
		assert_int_equal(lookup.deleted, lsm_is_delete(expected->trailer));
		assert_true(lookup.deleted || lsm_equal((aidb_slice){value.data, value.size}, lsm_user_value(expected)));
	}
	aidb_buffer_free(&value);
}

static void check_gets(table_fixture *fixture, lsm_ref file, const entry_list *list, uint64_t *seed) {
	lsm_table table = lsm_table_of(table_fixture_file(fixture, file));

	for (uint32_t i = 0; i < LOOKUPS; i++) {
		const lsm_entry *entry = &list->entries[store_random_below(seed, list->count)];
		lsm_cache_use use = (lsm_cache_use)store_random_below(seed, 3);
		aidb_sequence sequence = store_random_below(seed, 3) == 0
									 ? LSM_MAX_SEQUENCE
									 : lsm_sequence_of(entry->trailer) + store_random_below(seed, 3) - 1;
		uint8_t key[AIDB_MAX_KEY_BYTES + 1];
		aidb_slice target = {key, entry->key.size};

		memcpy(key, entry->key.data, entry->key.size);
		key[target.size] = (uint8_t)store_random(seed);
		target.size += store_random_below(seed, 4) == 0;
		check_get(fixture, &table, list, use, target, sequence);
	}
}

static void test_get(void **state) {
	table_fixture *fixture = *state;
	uint64_t seed = store_seed("test_table");
	entry_list list = {0};

	fill(&list, &seed, 12000);
	for (int compression = 0; compression < 2; compression++) {
		lsm_ref file = table_fixture_write(fixture, &list, 0, list.count, (aidb_compression)compression);

		check_gets(fixture, file, &list, &seed);
	}
	assert_true(fixture->source.filter_checks > 0 && fixture->source.filter_skips > 0);
	entries_free(&list);
}

/* Versions that the reader does not see are passed over, through as many blocks as they take. */
static void test_get_behind_invisible_versions(void **state) {
	table_fixture *fixture = *state;
	entry_list list = {0};
	uint8_t tagged[200] = {1}; /* the tag is 1, which see_even does not */
	lsm_table table;

	entries_add_text(&list, "a", 9, "before");
	for (aidb_sequence sequence = 2; sequence < 3000; sequence++) {
		entries_add(&list, text("k"), lsm_trailer(sequence, LSM_KIND_PUT | LSM_KIND_TAGGED),
					(aidb_slice){tagged, sizeof(tagged)});
	}
	entries_add_text(&list, "k", 1, "behind");
	entries_add_text(&list, "l", 9, "after");
	entries_sort(&list);
	table = lsm_table_of(
		table_fixture_file(fixture, table_fixture_write(fixture, &list, 0, list.count, AIDB_COMPRESSION_SNAPPY)));
	check_get(fixture, &table, &list, LSM_CACHE_FILL, text("k"), LSM_MAX_SEQUENCE);
	check_get(fixture, &table, &list, LSM_CACHE_FILL, text("k"), 1500);
	check_get(fixture, &table, &list, LSM_CACHE_FILL, text("j"), LSM_MAX_SEQUENCE);
	entries_free(&list);
}

static void test_cached_get_reads_nothing(void **state) {
	table_fixture *fixture = *state;
	entry_list list = {0};
	lsm_table table;
	uint32_t reads;

	entries_add_text(&list, "key", 1, "value");
	table =
		lsm_table_of(table_fixture_file(fixture, table_fixture_write(fixture, &list, 0, 1, AIDB_COMPRESSION_SNAPPY)));
	check_get(fixture, &table, &list, LSM_CACHE_FILL, text("key"), 1);
	reads = fixture->reads;
	assert_int_equal(fixture->source.cache_misses, 4); /* root, filter, leaf, data */
	check_get(fixture, &table, &list, LSM_CACHE_FILL, text("key"), 1);
	check_get(fixture, &table, &list, LSM_CACHE_PEEK, text("key"), 1);
	assert_int_equal(fixture->reads, reads);
	assert_int_equal(fixture->source.cache_hits, 8);
	check_get(fixture, &table, &list, LSM_CACHE_BYPASS, text("key"), 1);
	assert_int_equal(fixture->reads, reads + 4);
	entries_free(&list);
}

/* ---- Cursors --------------------------------------------------------------------------------------------- */

static void test_cursor(void **state) {
	table_fixture *fixture = *state;
	uint64_t seed = store_seed("test_table");
	entry_list list = {0};
	lsm_table table;

	fill(&list, &seed, 6000);
	table = lsm_table_of(
		table_fixture_file(fixture, table_fixture_write(fixture, &list, 0, list.count, AIDB_COMPRESSION_SNAPPY)));
	for (size_t i = 0; i < READINGS; i++) {
		lsm_cursor *cursor;

		assert_ok(lsm_table_cursor_create(&fixture->source, &table, &readings[i], &cursor));
		entries_check_cursor(cursor, &list, &seed, STEPS);
		assert_int_equal(lsm_cache_loading(&fixture->arena.arena, &fixture->cache), 0);
		cursor->ops->close(cursor);
	}
	entries_free(&list);
}

/* Fills all frames of the cache with something else. */
static void overwrite_cache(table_fixture *fixture) {
	static uint64_t id = 1ull << 60;
	const lsm_arena *arena = &fixture->arena.arena;

	for (int i = 0; i < 8 * LSM_CACHE_WAYS; i++) {
		lsm_frame frame;

		if (lsm_cache_reserve(arena, &fixture->cache, fixture->source.member, id++, LSM_CACHE_HIGH, &frame)) {
			memset(frame.data, 0xee, LSM_BLOCK_BYTES);
			frame.size = LSM_BLOCK_BYTES;
			lsm_cache_publish(arena, &fixture->cache, &frame);
		}
	}
}

/* Between the steps of a cursor the cache may lose everything. */
static void test_cursor_keeps_no_frame(void **state) {
	static table_fixture tiny;
	uint64_t seed = store_seed("test_table");
	entry_list list = {0};
	lsm_cursor *cursor;
	lsm_table table;
	uint32_t at = 0;

	(void)state;
	begin_reading(&tiny, 1);
	fill(&list, &seed, 3000);
	table = lsm_table_of(
		table_fixture_file(&tiny, table_fixture_write(&tiny, &list, 0, list.count, AIDB_COMPRESSION_SNAPPY)));
	assert_ok(lsm_table_cursor_create(&tiny.source, &table, &readings[0], &cursor));
	for (cursor->ops->seek_first(cursor); cursor->valid; cursor->ops->next(cursor)) {
		assert_true(entries_equal(&cursor->entry, &list.entries[at]));
		if (store_random_below(&seed, 10) == 0) {
			overwrite_cache(&tiny);
			assert_true(entries_equal(&cursor->entry, &list.entries[at]));
		}
		at++;
	}
	assert_ok(cursor->status);
	assert_int_equal(at, list.count);
	cursor->ops->close(cursor);
	entries_free(&list);
	end_reading(&tiny);
}

/* Going through a file in order takes few and large reads. */
static void test_readahead(void **state) {
	table_fixture *fixture = *state;
	entry_list list = {0};
	lsm_table table;
	char value[1024];

	memset(value, 'v', sizeof(value) - 1);
	value[sizeof(value) - 1] = '\0';
	for (uint32_t i = 0; i < 4000; i++) {
		char key[16];

		snprintf(key, sizeof(key), "%08u", i);
		entries_add_text(&list, key, 1, value);
	}
	table = lsm_table_of(
		table_fixture_file(fixture, table_fixture_write(fixture, &list, 0, list.count, AIDB_COMPRESSION_NONE)));
	for (size_t i = 0; i < READINGS; i++) {
		lsm_cursor *cursor;
		uint32_t count = 0, reads;

		fixture->reads = 0;
		assert_ok(lsm_table_cursor_create(&fixture->source, &table, &readings[i], &cursor));
		for (cursor->ops->seek_first(cursor); cursor->valid; cursor->ops->next(cursor)) {
			count++;
		}
		reads = fixture->reads;
		cursor->ops->close(cursor);
		assert_int_equal(count, list.count);
		assert_in_range(reads, 1, 60); /* 4 MiB: 16 of 256 KiB, some smaller ones at first, and the index */
	}
	entries_free(&list);
}

static void test_level_cursor(void **state) {
	table_fixture *fixture = *state;
	uint64_t seed = store_seed("test_table");
	entry_list list = {0};
	lsm_ref files[40];
	uint32_t count = 0, begin = 0;

	fill(&list, &seed, 3000);
	while (begin < list.count) {
		uint32_t end = begin + 1 + (uint32_t)store_random_below(&seed, 300);

		end = end > list.count || count == 39 ? list.count : end;
		files[count++] = table_fixture_write(fixture, &list, begin, end, AIDB_COMPRESSION_SNAPPY);
		begin = end;
	}
	for (size_t i = 0; i < READINGS; i++) {
		lsm_cursor *cursor;

		assert_ok(lsm_level_cursor_create(&fixture->source, files, count, &readings[i], &cursor));
		entries_check_cursor(cursor, &list, &seed, STEPS);
		cursor->ops->close(cursor);
	}
	entries_free(&list);
}

/* ---- Places ---------------------------------------------------------------------------------------------- */

static void test_locate_and_count(void **state) {
	table_fixture *fixture = *state;
	entry_list list = {0};
	lsm_table table;
	lsm_table_place first, middle, end;
	uint64_t seed = store_seed("test_table");
	uint64_t entries;

	for (uint32_t i = 0; i < 5000; i++) {
		uint64_t value[8];
		char key[16];

		snprintf(key, sizeof(key), "%08u", i);
		for (int j = 0; j < 8; j++) {
			value[j] = store_random(&seed);
		}
		entries_add(&list, text(key), lsm_trailer(1, LSM_KIND_PUT), (aidb_slice){value, sizeof(value)});
	}
	table = lsm_table_of(
		table_fixture_file(fixture, table_fixture_write(fixture, &list, 0, list.count, AIDB_COMPRESSION_SNAPPY)));
	assert_ok(lsm_table_locate(&fixture->source, &table, text(""), UINT64_MAX, &first));
	assert_ok(lsm_table_locate(&fixture->source, &table, text("00002500"), UINT64_MAX, &middle));
	assert_ok(lsm_table_locate(&fixture->source, &table, text("1"), UINT64_MAX, &end));
	assert_false(first.beyond || middle.beyond);
	assert_true(end.beyond);
	assert_int_equal(first.block.offset, 0);
	assert_in_range(middle.block.offset, table.root.offset * 4 / 10, table.root.offset * 6 / 10);
	assert_ok(lsm_table_count(&fixture->source, &table, first.block, text("00000003"), text("00000010"), &entries));
	assert_int_equal(entries, 7);
	assert_ok(
		lsm_table_count(&fixture->source, &table, first.block, (aidb_slice){NULL, 0}, text("00000010"), &entries));
	assert_int_equal(entries, 10);
	entries_free(&list);
}

/* ---- Damage ------------------------------------------------------------------------------------------------ */

/* Reads everything; either all is as written or an error with path and offset comes out. */
static bool read_all(table_fixture *fixture, const lsm_table *table, const entry_list *list) {
	lsm_cursor *cursor;
	uint32_t at = 0;
	aidb_status rc;

	assert_ok(lsm_table_cursor_create(&fixture->source, table, &readings[2], &cursor));
	for (cursor->ops->seek_first(cursor); cursor->valid; cursor->ops->next(cursor)) {
		assert_true(at < list->count && entries_equal(&cursor->entry, &list->entries[at]));
		at++;
	}
	rc = cursor->status;
	cursor->ops->close(cursor);
	if (rc == AIDB_OK) {
		assert_int_equal(at, list->count);
		return true;
	}
	assert_true(rc == AIDB_CORRUPT || rc == AIDB_UNSUPPORTED);
	expect_error_names(".sst", "offset", NULL);
	return false;
}

static void test_damage(void **state) {
	table_fixture *fixture = *state;
	uint64_t seed = store_seed("test_table");
	entry_list list = {0};
	char path[LSM_PATH_BYTES];
	uint32_t noticed = 0;
	lsm_table table;

	for (uint32_t i = 0; i < 2000; i++) {
		entries_add_random(&list, &seed, 2000, 5, 40);
	}
	entries_sort(&list);
	table = lsm_table_of(
		table_fixture_file(fixture, table_fixture_write(fixture, &list, 0, list.count, AIDB_COMPRESSION_SNAPPY)));
	lsm_sstable_path(fixture->directory, table.number, path);
	for (uint32_t i = 0; i < 500; i++) {
		uint64_t offset = store_random_below(&seed, table.root.offset + table.root.size);
		uint8_t mask = (uint8_t)(1 + store_random_below(&seed, 255));

		file_flip(path, offset, mask);
		noticed += !read_all(fixture, &table, &list);
		file_flip(path, offset, mask);
	}
	assert_true(noticed > 400); /* a cursor reads no filters */
	assert_true(read_all(fixture, &table, &list));
	file_cut(path, table.root.offset / 2);
	assert_false(read_all(fixture, &table, &list));
	expect_error_names("ends before", NULL);
	entries_free(&list);
}

/* Handles that point outside of the file are refused before anything is allocated. */
static void test_wild_handles(void **state) {
	table_fixture *fixture = *state;
	entry_list list = {0};
	lsm_handle wild[] = {{0, UINT32_MAX}, {UINT64_MAX - 3, 100}, {1u << 30, 100}, {0, LSM_MAX_BLOCK_BYTES}};
	aidb_buffer memory = {NULL, 0, 0};
	lsm_table table;
	lsm_block block;

	entries_add_text(&list, "key", 1, "value");
	table = lsm_table_of(table_fixture_file(fixture, table_fixture_write(fixture, &list, 0, 1, AIDB_COMPRESSION_NONE)));
	for (size_t i = 0; i < sizeof(wild) / sizeof(wild[0]); i++) {
		lsm_block_request request = {
			.file_number = table.number, .file_bytes = table.file_bytes, .handle = wild[i], .use = LSM_CACHE_FILL};

		assert_status(lsm_block_fetch(&fixture->source, &request, &memory, &block), AIDB_CORRUPT);
		expect_error_names("000001.sst", "offset", NULL);
	}
	assert_int_equal(memory.capacity, 0);
	entries_free(&list);
}

int main(void) {
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_get, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_get_behind_invisible_versions, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_cached_get_reads_nothing, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_cursor, set_up, tear_down),
		cmocka_unit_test(test_cursor_keeps_no_frame),
		cmocka_unit_test_setup_teardown(test_readahead, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_level_cursor, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_locate_and_count, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_damage, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_wild_handles, set_up, tear_down),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
