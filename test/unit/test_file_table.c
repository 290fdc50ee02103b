#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "store/file_table.h"
#include "store_fixture.h"
#include "table_fixture.h"

#define FILES (2 * LSM_OPEN_FILES)
#define THREADS 6u
#define PINS 4000u

static aidb_host host; /* counts, and passes on */
static int (*next_open)(void *context, const char *path, int flags, int *file);
static void (*next_close)(void *context, int file);
static _Atomic int opened, closed;

static int open_file(void *context, const char *path, int flags, int *file) {
	atomic_fetch_add(&opened, 1);
	return next_open(context, path, flags, file);
}

static void close_file(void *context, int file) {
	atomic_fetch_add(&closed, 1);
	next_close(context, file);
}

/* Files 1 to FILES, each of 8 bytes: its number. */
static int set_up(void **state) {
	static table_fixture fixture;

	table_fixture_create(&fixture, 16);
	for (uint64_t number = 1; number <= FILES; number++) {
		char path[LSM_PATH_BYTES];

		lsm_sstable_path(fixture.directory, number, path);
		file_store(path, &number, sizeof(number));
	}
	host = *fixture.arena.host;
	next_open = host.file_open;
	next_close = host.file_close;
	host.file_open = open_file;
	host.file_close = close_file;
	opened = closed = 0;
	lsm_file_table_destroy(fixture.files);
	assert_ok(lsm_file_table_create(&host, fixture.directory, &fixture.files));
	*state = &fixture;
	return 0;
}

static int tear_down(void **state) {
	table_fixture_destroy(*state);
	return opened == closed ? 0 : -1;
}

static bool is_file(int file, uint64_t number) {
	uint64_t read = 0;
	size_t got = 0;

	return host.file_read(host.context, file, &read, sizeof(read), 0, &got) == 0 && read == number;
}

static void test_path(void **state) {
	char path[LSM_PATH_BYTES];

	(void)state;
	lsm_sstable_path("/some/where", 123, path);
	assert_string_equal(path, "/some/where/000123.sst");
	lsm_sstable_path("d", 12345678901, path);
	assert_string_equal(path, "d/12345678901.sst");
}

static void test_stays_open(void **state) {
	table_fixture *fixture = *state;
	int first, again;

	assert_ok(lsm_file_table_pin(fixture->files, 7, &first));
	assert_ok(lsm_file_table_pin(fixture->files, 7, &again));
	assert_int_equal(first, again);
	lsm_file_table_unpin(fixture->files, 7, first);
	lsm_file_table_unpin(fixture->files, 7, again);
	assert_ok(lsm_file_table_pin(fixture->files, 7, &again));
	assert_true(is_file(again, 7));
	lsm_file_table_unpin(fixture->files, 7, again);
	assert_int_equal(opened, 1);
	assert_int_equal(closed, 0);
}

static void test_oldest_goes(void **state) {
	table_fixture *fixture = *state;
	int pinned, file;

	assert_ok(lsm_file_table_pin(fixture->files, 1, &pinned));
	for (uint64_t number = 2; number <= LSM_OPEN_FILES + 10; number++) {
		assert_ok(lsm_file_table_pin(fixture->files, number, &file));
		assert_true(is_file(file, number));
		lsm_file_table_unpin(fixture->files, number, file);
	}
	assert_int_equal(opened - closed, LSM_OPEN_FILES);
	assert_true(is_file(pinned, 1));
	opened = closed = 0;
	assert_ok(lsm_file_table_pin(fixture->files, 2, &file)); /* the first to go */
	lsm_file_table_unpin(fixture->files, 2, file);
	assert_int_equal(opened, 1);
	assert_ok(lsm_file_table_pin(fixture->files, LSM_OPEN_FILES, &file));
	lsm_file_table_unpin(fixture->files, LSM_OPEN_FILES, file);
	assert_int_equal(opened, 1);
	lsm_file_table_unpin(fixture->files, 1, pinned);
	opened = closed = 0;
	lsm_file_table_destroy(fixture->files);
	assert_int_equal(closed, LSM_OPEN_FILES);
	opened = closed = 0;
	assert_ok(lsm_file_table_create(&host, fixture->directory, &fixture->files));
}

/* More pins than places: the rest are open only as long as they are pinned. */
static void test_all_pinned(void **state) {
	table_fixture *fixture = *state;
	int files[FILES + 1];

	for (uint64_t number = 1; number <= FILES; number++) {
		assert_ok(lsm_file_table_pin(fixture->files, number, &files[number]));
	}
	for (uint64_t number = 1; number <= FILES; number++) {
		assert_true(is_file(files[number], number));
		lsm_file_table_unpin(fixture->files, number, files[number]);
	}
	assert_int_equal(opened, FILES);
	assert_int_equal(closed, FILES - LSM_OPEN_FILES);
}

static void test_forget(void **state) {
	table_fixture *fixture = *state;
	int file;

	lsm_file_table_forget(fixture->files, 3); /* not open */
	assert_ok(lsm_file_table_pin(fixture->files, 3, &file));
	lsm_file_table_forget(fixture->files, 3);
	assert_int_equal(closed, 0); /* still being read */
	assert_true(is_file(file, 3));
	lsm_file_table_unpin(fixture->files, 3, file);
	assert_int_equal(closed, 1);
	assert_ok(lsm_file_table_pin(fixture->files, 4, &file));
	lsm_file_table_unpin(fixture->files, 4, file);
	lsm_file_table_forget(fixture->files, 4);
	assert_int_equal(closed, 2);
}

static void test_clear(void **state) {
	table_fixture *fixture = *state;
	int kept, file;

	assert_ok(lsm_file_table_pin(fixture->files, 1, &kept));
	for (uint64_t number = 2; number <= 4; number++) {
		assert_ok(lsm_file_table_pin(fixture->files, number, &file));
		lsm_file_table_unpin(fixture->files, number, file);
	}
	lsm_file_table_clear(fixture->files);
	assert_int_equal(closed, 3);
	assert_true(is_file(kept, 1)); /* still being read */
	lsm_file_table_unpin(fixture->files, 1, kept);
	assert_int_equal(closed, 4);
}

static void test_missing_file(void **state) {
	table_fixture *fixture = *state;
	int file = -7;

	assert_status(lsm_file_table_pin(fixture->files, FILES + 1, &file), AIDB_CORRUPT);
	expect_error_names(".sst", "missing", NULL);
	closed = opened; /* what did not open is not closed */
}

static void pin_at_random(arena_fixture *arena, unsigned number, void *argument) {
	table_fixture *fixture = argument;
	uint64_t seed = number;

	for (uint32_t i = 0; i < PINS; i++) {
		uint64_t one = 1 + fixture_random(&seed) % FILES, other = 1 + fixture_random(&seed) % FILES;
		int one_file = -1, other_file = -1;

		EXPECT(arena, lsm_file_table_pin(fixture->files, one, &one_file) == AIDB_OK);
		EXPECT(arena, lsm_file_table_pin(fixture->files, other, &other_file) == AIDB_OK);
		EXPECT(arena, is_file(one_file, one));
		EXPECT(arena, is_file(other_file, other));
		lsm_file_table_unpin(fixture->files, one, one_file);
		if (i % 64 == 0) {
			lsm_file_table_forget(fixture->files, other);
		}
		lsm_file_table_unpin(fixture->files, other, other_file);
	}
}

static void test_threads(void **state) {
	table_fixture *fixture = *state;

	fixture_run_threads(&fixture->arena, THREADS, pin_at_random, fixture);
	assert_int_equal(fixture_failures(&fixture->arena), 0);
	assert_in_range(opened - closed, 1, LSM_OPEN_FILES);
}

int main(void) {
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_path, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_stays_open, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_oldest_goes, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_all_pinned, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_forget, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_clear, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_missing_file, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_threads, set_up, tear_down),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
