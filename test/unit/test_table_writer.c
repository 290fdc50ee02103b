#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "store_fixture.h"
#include "table_fixture.h"

static const lsm_sstable_options options = {.filter_bits = 10, .compression = AIDB_COMPRESSION_NONE};
static table_fixture fixture;
static int writes_left; /* before the disk is full */
static uint32_t syncs;

static int limited_write(void *context, int file, const void *data, size_t size, uint64_t offset) {
	if (writes_left-- <= 0) {
		return ENOSPC;
	}
	return fixture.arena.host->file_write(context, file, data, size, offset);
}

static int counted_sync(void *context, int file) {
	syncs++;
	return fixture.arena.host->file_sync(context, file);
}

static int set_up(void **state) {
	(void)state;
	table_fixture_create(&fixture, 16);
	fixture.host.file_write = limited_write;
	fixture.host.file_sync = counted_sync;
	writes_left = 1000000;
	syncs = 0;
	return 0;
}

static int tear_down(void **state) {
	(void)state;
	table_fixture_destroy(&fixture);
	return 0;
}

static aidb_status write_entries(lsm_table_writer *writer, uint32_t count) {
	aidb_status rc = AIDB_OK;
	char value[1000] = "";

	for (uint32_t i = 0; i < count && rc == AIDB_OK; i++) {
		char key[16];
		lsm_entry entry = {{key, 8}, lsm_trailer(count - i, LSM_KIND_PUT), {value, sizeof(value)}};

		snprintf(key, sizeof(key), "%08u", i);
		rc = lsm_table_writer_add(writer, &entry);
	}
	return rc;
}

static unsigned tables(void) {
	return directory_count(fixture.directory, ".sst", NULL, NULL);
}

static void test_description(void **state) {
	lsm_table_description made;
	lsm_table_writer *writer;
	char path[LSM_PATH_BYTES];

	(void)state;
	assert_ok(lsm_table_writer_create(&fixture.host, fixture.directory, 5, &options, &writer));
	assert_ok(write_entries(writer, 2000));
	assert_in_range(lsm_table_writer_bytes(writer), 1900000, 2100000);
	assert_ok(lsm_table_writer_finish(writer, &made));
	assert_int_equal(syncs, 1);
	assert_true(lsm_equal(made.smallest, text("00000000")) && lsm_equal(made.largest, text("00001999")));
	assert_int_equal(made.smallest_trailer, lsm_trailer(2000, LSM_KIND_PUT));
	assert_int_equal(made.largest_trailer, lsm_trailer(1, LSM_KIND_PUT));
	assert_int_equal(made.properties.entries, 2000);
	lsm_table_writer_destroy(writer);
	lsm_sstable_path(fixture.directory, 5, path);
	assert_int_equal(file_bytes_of(path), made.properties.file_bytes);
}

static void test_unfinished_goes(void **state) {
	lsm_table_writer *writer;

	(void)state;
	assert_ok(lsm_table_writer_create(&fixture.host, fixture.directory, 1, &options, &writer));
	assert_ok(write_entries(writer, 1000));
	assert_int_equal(tables(), 1);
	lsm_table_writer_destroy(writer);
	assert_int_equal(tables(), 0);
}

static void test_full_disk(void **state) {
	(void)state;
	for (int writes = 0; writes < 5; writes++) {
		lsm_table_description made;
		lsm_table_writer *writer;
		aidb_status rc;

		writes_left = writes;
		assert_ok(lsm_table_writer_create(&fixture.host, fixture.directory, 1, &options, &writer));
		rc = write_entries(writer, 2000);
		if (rc == AIDB_OK) {
			rc = lsm_table_writer_finish(writer, &made);
		}
		assert_int_equal(rc, AIDB_NO_SPACE);
		expect_error_names("000001.sst", NULL);
		lsm_table_writer_destroy(writer);
		assert_int_equal(tables(), 0);
	}
}

static void test_never_overwrites(void **state) {
	lsm_table_writer *writer, *second;

	(void)state;
	assert_ok(lsm_table_writer_create(&fixture.host, fixture.directory, 1, &options, &writer));
	assert_status(lsm_table_writer_create(&fixture.host, fixture.directory, 1, &options, &second), AIDB_IO);
	assert_int_equal(tables(), 1);
	lsm_table_writer_destroy(writer);
}

int main(void) {
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_description, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_unfinished_goes, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_full_disk, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_never_overwrites, set_up, tear_down),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
