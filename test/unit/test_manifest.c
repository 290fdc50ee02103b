#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "store/manifest.h"
#include "store_fixture.h"
#include "table_fixture.h"

#define FILES 7u

static const lsm_manifest_header header = {.store_id = 0x1122334455667788,
										   .segment_bytes = 65536,
										   .next_file_number = 4711,
										   .last_sequence = 123456789,
										   .log_start = 987654321,
										   .edit = 17};

/* The files that are to come out of the manifest, in this order. */
static const struct expected {
	uint64_t number;
	int level;
	const char *smallest, *largest;
} expected[FILES] = {{9, 0, "a", "z"}, {8, 0, "", "c"},  {3, 1, "a", "b"},  {4, 1, "c", "d"},
					 {1, 2, "a", "d"}, {2, 6, "x", "y"}, {12, 6, "y1", "z"}};

typedef struct manifest_fixture {
	table_fixture tables;
	lsm_versions versions;
	int failing; /* the step that fails; 0: none */
	int step;
	char path[LSM_PATH_BYTES];
} manifest_fixture;

static manifest_fixture fixture;

static lsm_sstable_properties properties_of(uint64_t number) {
	return (lsm_sstable_properties){.file_bytes = number << 33,
									.entries = number + 1,
									.deletes = number + 2,
									.min_sequence = number + 3,
									.max_sequence = number + 4,
									.max_tag = number << 60,
									.raw_bytes = number + 5,
									.root = {number + 6, (uint32_t)number + 7},
									.root_level = 1 + (uint32_t)number % 3};
}

/* ---- A host whose n-th step fails -------------------------------------------------------------------------- */

static int fails(void) {
	return ++fixture.step == fixture.failing ? EIO : 0;
}

static int failing_open(void *context, const char *path, int flags, int *file) {
	int error = (flags & AIDB_FILE_CREATE) != 0 ? fails() : 0;

	return error != 0 ? error : fixture.tables.arena.host->file_open(context, path, flags, file);
}

static int failing_truncate(void *context, int file, uint64_t size) {
	int error = fails();

	return error != 0 ? error : fixture.tables.arena.host->file_truncate(context, file, size);
}

static int failing_write(void *context, int file, const void *data, size_t size, uint64_t offset) {
	int error = fails();

	/* half of it gets there */
	fixture.tables.arena.host->file_write(context, file, data, error != 0 ? size / 2 : size, offset);
	return error;
}

static int failing_sync(void *context, int file) {
	int error = fails();

	return error != 0 ? error : fixture.tables.arena.host->file_sync(context, file);
}

static int failing_rename(void *context, const char *from, const char *to) {
	int error = fails();

	return error != 0 ? error : fixture.tables.arena.host->file_rename(context, from, to);
}

static int failing_directory_sync(void *context, const char *path) {
	int error = fails();

	return error != 0 ? error : fixture.tables.arena.host->directory_sync(context, path);
}

static int set_up(void **state) {
	lsm_arena *arena = &fixture.tables.arena.arena;
	lsm_version_edit edit = {.add_memtable = -1, .remove_memtable = -1, .added_count = FILES};
	lsm_ref files[FILES];
	uint8_t levels[FILES];

	fixture = (manifest_fixture){.failing = 0};
	table_fixture_create(&fixture.tables, 16);
	fixture.tables.host.file_open = failing_open;
	fixture.tables.host.file_truncate = failing_truncate;
	fixture.tables.host.file_write = failing_write;
	fixture.tables.host.file_sync = failing_sync;
	fixture.tables.host.file_rename = failing_rename;
	fixture.tables.host.directory_sync = failing_directory_sync;
	arena->waiting.host = &fixture.tables.host;
	snprintf(fixture.path, sizeof(fixture.path), "%s/MANIFEST", fixture.tables.directory);
	assert_ok(lsm_versions_init(arena, &fixture.tables.heap, &fixture.versions, 0));
	for (uint32_t i = 0; i < FILES; i++) {
		lsm_sstable_properties properties = properties_of(expected[i].number);

		files[i] =
			lsm_file_create(arena, &fixture.tables.heap, expected[i].number, &properties, text(expected[i].smallest),
							expected[i].number * 3, text(expected[i].largest), expected[i].number * 5);
		levels[i] = (uint8_t)expected[i].level;
	}
	edit.added_files = files;
	edit.added_levels = levels;
	lsm_version_install(arena, &fixture.versions,
						lsm_version_build(arena, &fixture.tables.heap, &fixture.versions, &edit), &edit);
	*state = &fixture;
	return 0;
}

static int tear_down(void **state) {
	(void)state;
	fixture.tables.arena.arena.waiting.host = fixture.tables.arena.host;
	table_fixture_destroy(&fixture.tables);
	return 0;
}

/* ---- Tests --------------------------------------------------------------------------------------------------- */

static aidb_status write_manifest(uint64_t edit) {
	const lsm_arena *arena = &fixture.tables.arena.arena;
	lsm_manifest_header written = header;

	written.edit = edit;
	return lsm_manifest_write(arena, fixture.tables.directory, &written, lsm_version_current(arena, &fixture.versions));
}

static aidb_status check_file(void *argument, int level, uint64_t number, const lsm_sstable_properties *properties,
							  aidb_slice smallest, uint64_t smallest_trailer, aidb_slice largest,
							  uint64_t largest_trailer) {
	uint32_t *count = argument;
	const struct expected *file = &expected[*count];
	lsm_sstable_properties made = properties_of(number);

	assert_true(*count < FILES);
	++*count;
	assert_int_equal(level, file->level);
	assert_int_equal(number, file->number);
	assert_int_equal(properties->file_bytes, made.file_bytes);
	assert_int_equal(properties->entries, made.entries);
	assert_int_equal(properties->deletes, made.deletes);
	assert_int_equal(properties->min_sequence, made.min_sequence);
	assert_int_equal(properties->max_sequence, made.max_sequence);
	assert_int_equal(properties->max_tag, made.max_tag);
	assert_int_equal(properties->raw_bytes, made.raw_bytes);
	assert_int_equal(properties->root.offset, made.root.offset);
	assert_int_equal(properties->root.size, made.root.size);
	assert_int_equal(properties->root_level, made.root_level);
	assert_true(lsm_equal(smallest, text(file->smallest)));
	assert_true(lsm_equal(largest, text(file->largest)));
	assert_int_equal(smallest_trailer, number * 3);
	assert_int_equal(largest_trailer, number * 5);
	return AIDB_OK;
}

static aidb_status read_manifest(lsm_manifest_header *read, uint32_t *count) {
	*count = 0;
	return lsm_manifest_read(&fixture.tables.host, fixture.tables.directory, read, check_file, count);
}

static void assert_reads(uint64_t edit) {
	lsm_manifest_header read;
	uint32_t count;

	assert_ok(read_manifest(&read, &count));
	assert_int_equal(count, FILES);
	assert_int_equal(read.edit, edit);
	assert_int_equal(read.store_id, header.store_id);
	assert_int_equal(read.segment_bytes, header.segment_bytes);
	assert_int_equal(read.next_file_number, header.next_file_number);
	assert_int_equal(read.last_sequence, header.last_sequence);
	assert_int_equal(read.log_start, header.log_start);
}

static void test_round_trip(void **state) {
	(void)state;
	assert_ok(write_manifest(17));
	assert_reads(17);
	assert_ok(write_manifest(18));
	assert_reads(18);
	assert_int_equal(directory_count(fixture.tables.directory, "MANIFEST.new", NULL, NULL), 0);
}

static void test_none(void **state) {
	lsm_manifest_header read;
	uint32_t count;

	(void)state;
	assert_status(read_manifest(&read, &count), AIDB_NOT_FOUND);
}

/* Whichever step fails, one of the two is there whole; the old one unless the error is AIDB_IO. */
static void test_failing_steps(void **state) {
	int steps;

	(void)state;
	fixture.step = 0;
	assert_ok(write_manifest(100));
	steps = fixture.step;
	assert_true(steps >= 6);
	for (fixture.failing = 1; fixture.failing <= steps; fixture.failing++) {
		fixture.step = 0;
		assert_status(write_manifest(200), AIDB_IO);
		assert_reads(fixture.failing == steps ? 200 : 100);
	}
	fixture.failing = 0;
	assert_ok(write_manifest(300));
	assert_reads(300);
}

static aidb_status accept_file(void *argument, int level, uint64_t number, const lsm_sstable_properties *properties,
							   aidb_slice smallest, uint64_t smallest_trailer, aidb_slice largest,
							   uint64_t largest_trailer) {
	(void)argument, (void)number, (void)smallest_trailer, (void)largest_trailer;
	assert_true(level < AIDB_LEVELS && properties->root_level <= LSM_MAX_INDEX_LEVEL);
	assert_true(smallest.size <= AIDB_MAX_KEY_BYTES && largest.size <= AIDB_MAX_KEY_BYTES);
	return AIDB_OK;
}

static aidb_status read_damaged(void) {
	lsm_manifest_header read;

	return lsm_manifest_read(&fixture.tables.host, fixture.tables.directory, &read, accept_file, NULL);
}

static void test_every_flipped_byte_is_noticed(void **state) {
	uint64_t size;

	(void)state;
	assert_ok(write_manifest(1));
	size = file_bytes_of(fixture.path);
	for (uint64_t offset = 0; offset < size; offset++) {
		file_flip(fixture.path, offset, 0x41);
		assert_status(read_damaged(), AIDB_CORRUPT);
		expect_error_names("MANIFEST", "offset", NULL);
		file_flip(fixture.path, offset, 0x41);
	}
	assert_reads(1);
}

static void test_every_cut_is_noticed(void **state) {
	(void)state;
	assert_ok(write_manifest(1));
	for (uint64_t size = file_bytes_of(fixture.path); size-- > 0;) {
		file_cut(fixture.path, size);
		assert_status(read_damaged(), AIDB_CORRUPT);
	}
}

/* Writes the bytes with a checksum that is right. */
static void store_sealed(uint8_t *bytes, size_t size) {
	lsm_put_u64(bytes + size - 8, lsm_hash64(bytes, size - 8, 0));
	file_store(fixture.path, bytes, size);
}

/* Nonsense under a good checksum is refused, or at least harms nobody. */
static void test_nonsense(void **state) {
	uint64_t seed = store_seed("test_manifest");
	uint8_t *bytes, *changed;
	size_t size;

	(void)state;
	assert_ok(write_manifest(1));
	bytes = file_load(fixture.path, &size);
	changed = malloc(size);
	assert_non_null(changed);
	for (uint32_t i = 0; i < 3000; i++) {
		memcpy(changed, bytes, size);
		changed[12 + store_random_below(&seed, size - 20)] ^= (uint8_t)(1 + store_random_below(&seed, 255));
		store_sealed(changed, size);
		(void)read_damaged();
	}
	memcpy(changed, bytes, size);
	changed[64] = AIDB_LEVELS; /* the first file's level */
	store_sealed(changed, size);
	assert_status(read_damaged(), AIDB_CORRUPT);
	expect_error_names("offset 64", NULL);
	memcpy(changed, bytes, size);
	lsm_put_u32(changed + 8, LSM_MANIFEST_VERSION + 1);
	store_sealed(changed, size);
	assert_status(read_damaged(), AIDB_UNSUPPORTED);
	free(changed);
	free(bytes);
}

int main(void) {
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_round_trip, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_none, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_failing_steps, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_every_flipped_byte_is_noticed, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_every_cut_is_noticed, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_nonsense, set_up, tear_down),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
