#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "store/version.h"
#include "store_fixture.h"
#include "table_fixture.h"

#define READERS 3u
#define CHANGES 3000u

static table_fixture fixture;
static lsm_versions *versions;
static lsm_memtable *memtables;
static uint64_t removed[16];
static uint32_t removed_count;

static int set_up(void **state) {
	lsm_arena *arena = &fixture.arena.arena;

	table_fixture_create(&fixture, 16);
	versions = lsm_at(arena, fixture_take(&fixture.arena, sizeof(*versions), 64));
	memtables = lsm_at(arena, fixture_take(&fixture.arena, LSM_MEMTABLES * sizeof(*memtables), 64));
	assert_ok(lsm_versions_init(arena, &fixture.heap, versions, 0));
	memtables[0].number = 1;
	removed_count = 0;
	*state = &fixture;
	return 0;
}

static int tear_down(void **state) {
	(void)state;
	table_fixture_destroy(&fixture);
	return 0;
}

static lsm_ref make_file(uint64_t number, const char *smallest, const char *largest) {
	lsm_sstable_properties properties = {.file_bytes = 100 * number, .entries = number, .root_level = 1};
	lsm_ref file = lsm_file_create(&fixture.arena.arena, &fixture.heap, number, &properties, text(smallest),
								   lsm_trailer(9, LSM_KIND_PUT), text(largest), lsm_trailer(1, LSM_KIND_PUT));

	assert_int_not_equal(file, 0);
	return file;
}

static const lsm_version *current(void) {
	return lsm_version_current(&fixture.arena.arena, versions);
}

static void apply(const lsm_version_edit *edit) {
	lsm_arena *arena = &fixture.arena.arena;
	lsm_ref version;

	assert_true(lsm_latch_acquire(&arena->waiting, &versions->latch));
	version = lsm_version_build(arena, &fixture.heap, versions, edit);
	assert_int_not_equal(version, 0);
	lsm_version_install(arena, versions, version, edit);
	lsm_latch_release(&arena->waiting, &versions->latch);
}

static void change_files(const lsm_ref *added, const uint8_t *levels, uint32_t added_count, const lsm_ref *gone,
						 uint32_t gone_count) {
	apply(&(lsm_version_edit){.add_memtable = -1,
							  .remove_memtable = -1,
							  .added_files = added,
							  .added_levels = levels,
							  .added_count = added_count,
							  .removed_files = gone,
							  .removed_count = gone_count});
}

static void note_removed(void *argument, uint64_t number) {
	assert_ptr_equal(argument, &removed);
	assert_true(removed_count < 16);
	removed[removed_count++] = number;
}

static void reclaim(void) {
	lsm_versions_reclaim(&fixture.arena.arena, &fixture.heap, versions, memtables, note_removed, &removed);
}

/* Numbers of the level's files, in its order. */
static void assert_level(int level, uint32_t count, const uint64_t *numbers) {
	assert_int_equal(lsm_level_count(current(), level), count);
	for (uint32_t i = 0; i < count; i++) {
		assert_int_equal(lsm_level_file(&fixture.arena.arena, current(), level, i)->number, numbers[i]);
	}
}

static void test_order_of_levels(void **state) {
	lsm_ref files[6] = {make_file(3, "k", "m"), make_file(5, "a", "c"), make_file(4, "x", "z"),
						make_file(8, "a", "z"), make_file(6, "b", "d"), make_file(7, "q", "r")};

	(void)state;
	change_files(files, (const uint8_t[]){1, 1, 1, 0, 0, 0}, 6, NULL, 0);
	assert_level(0, 3, (const uint64_t[]){8, 7, 6});
	assert_level(1, 3, (const uint64_t[]){5, 3, 4});
	assert_level(2, 0, NULL);
	assert_int_equal(current()->number, 2);
	assert_true(lsm_equal(lsm_file_largest(lsm_level_file(&fixture.arena.arena, current(), 1, 0)), text("c")));
}

static void test_find_and_overlap(void **state) {
	lsm_arena *arena = &fixture.arena.arena;
	lsm_ref files[2] = {make_file(1, "b", "d"), make_file(2, "f", "h")};
	const lsm_file *first;

	(void)state;
	change_files(files, (const uint8_t[]){3, 3}, 2, NULL, 0);
	assert_int_equal(lsm_level_find(arena, current(), 3, text("a")), 0);
	assert_int_equal(lsm_level_find(arena, current(), 3, text("d")), 0);
	assert_int_equal(lsm_level_find(arena, current(), 3, text("e")), 1);
	assert_int_equal(lsm_level_find(arena, current(), 3, text("h")), 1);
	assert_int_equal(lsm_level_find(arena, current(), 3, text("i")), 2);
	assert_int_equal(lsm_level_find(arena, current(), 4, text("a")), 0);
	first = lsm_level_file(arena, current(), 3, 0);
	assert_true(lsm_file_overlaps(first, text("a"), text("b")));
	assert_true(lsm_file_overlaps(first, text("c"), text("c")));
	assert_true(lsm_file_overlaps(first, text("d"), text("z")));
	assert_false(lsm_file_overlaps(first, text("da"), text("e")));
	assert_false(lsm_file_overlaps(first, text(""), text("a")));
}

static void test_memtables(void **state) {
	(void)state;
	apply(&(lsm_version_edit){.add_memtable = 2, .remove_memtable = -1});
	apply(&(lsm_version_edit){.add_memtable = 1, .remove_memtable = -1});
	assert_int_equal(current()->memtable_count, 3);
	assert_memory_equal(current()->memtables, ((const uint32_t[]){1, 2, 0}), 3 * sizeof(uint32_t));
	memtables[0].number = 1;
	apply(&(lsm_version_edit){.add_memtable = -1, .remove_memtable = 0});
	assert_memory_equal(current()->memtables, ((const uint32_t[]){1, 2}), 2 * sizeof(uint32_t));
	assert_int_equal(memtables[0].number, 1);
	reclaim();
	assert_int_equal(memtables[0].number, 0);
}

/* What a reader may hold stays until he leaves. */
static void test_retired_stays_while_read(void **state) {
	lsm_arena *arena = &fixture.arena.arena;
	uint32_t member = fixture_member(&fixture.arena);
	lsm_ref old = make_file(1, "a", "b"), new;
	const lsm_version *seen;
	uint64_t used;

	(void)state;
	change_files(&old, (const uint8_t[]){0}, 1, NULL, 0);
	reclaim();
	used = fixture.heap.used_bytes;
	lsm_epoch_enter(arena, member);
	seen = current();
	new = make_file(2, "a", "b");
	change_files(&new, (const uint8_t[]){1}, 1, &old, 1);
	reclaim();
	assert_int_equal(removed_count, 0);
	assert_int_equal(lsm_level_file(arena, seen, 0, 0)->number, 1);
	lsm_epoch_leave(arena, member);
	reclaim();
	assert_int_equal(removed_count, 1);
	assert_int_equal(removed[0], 1);
	assert_int_equal(fixture.heap.used_bytes, used); /* as many versions and files as before */
}

static void test_move(void **state) {
	lsm_ref file = make_file(5, "a", "b");

	(void)state;
	change_files(&file, (const uint8_t[]){1}, 1, NULL, 0);
	change_files(&file, (const uint8_t[]){2}, 1, &file, 1);
	reclaim();
	assert_int_equal(removed_count, 0);
	assert_level(1, 0, NULL);
	assert_level(2, 1, (const uint64_t[]){5});
}

static void test_heap_exhausted(void **state) {
	lsm_arena *arena = &fixture.arena.arena;
	lsm_version_edit edit = {.add_memtable = -1, .remove_memtable = -1};
	const lsm_version *before = current();

	(void)state;
	while (lsm_heap_allocate(arena, &fixture.heap, 32) != 0) {}
	assert_true(lsm_latch_acquire(&arena->waiting, &versions->latch));
	assert_int_equal(lsm_version_build(arena, &fixture.heap, versions, &edit), 0);
	lsm_latch_release(&arena->waiting, &versions->latch);
	assert_ptr_equal(current(), before);
	assert_int_equal(lsm_file_create(arena, &fixture.heap, 1, &(lsm_sstable_properties){0}, text("a"), 0, text("b"), 0),
					 0);
}

/* Readers look at files while versions come and go; freed memory is overwritten by whoever gets it next. */
static void read_versions(arena_fixture *shared, unsigned number, void *argument) {
	const lsm_arena *arena = &shared->arena;
	uint32_t member = fixture_member(shared);
	_Atomic uint32_t *done = argument;

	(void)number;
	while (atomic_load(done) == 0) {
		lsm_epoch_enter(arena, member);
		const lsm_version *version = lsm_version_current(arena, versions);

		EXPECT(shared, lsm_level_count(version, 1) == 4);
		for (uint32_t i = 0; i < lsm_level_count(version, 1); i++) {
			const lsm_file *file = lsm_level_file(arena, version, 1, i);

			EXPECT(shared, file->properties.file_bytes == 100 * file->number);
			EXPECT(shared, file->smallest_bytes == 1 && file->keys[0] == 'a' + 2 * i);
		}
		lsm_epoch_leave(arena, member);
	}
}

static void ignore_removed(void *argument, uint64_t number) {
	(void)argument;
	(void)number;
}

static void change_versions(arena_fixture *shared, unsigned number, void *argument) {
	static const char *keys[] = {"a", "c", "e", "g"};
	uint64_t next_number = 10;

	if (number > 0) {
		read_versions(shared, number, argument);
		return;
	}
	for (uint32_t i = 0; i < CHANGES; i++) {
		lsm_ref gone = current()->files[current()->level_begin[1] + i % 4];
		lsm_ref added = make_file(next_number++, keys[i % 4], keys[i % 4]);

		change_files(&added, (const uint8_t[]){1}, 1, &gone, 1);
		lsm_versions_reclaim(&shared->arena, &fixture.heap, versions, memtables, ignore_removed, NULL);
	}
	atomic_store((_Atomic uint32_t *)argument, 1);
}

static void test_readers_and_changes(void **state) {
	lsm_ref files[4] = {make_file(1, "a", "a"), make_file(2, "c", "c"), make_file(3, "e", "e"), make_file(4, "g", "g")};
	_Atomic uint32_t done = 0;

	(void)state;
	change_files(files, (const uint8_t[]){1, 1, 1, 1}, 4, NULL, 0);
	fixture_run_threads(&fixture.arena, READERS + 1, change_versions, &done);
	assert_int_equal(fixture_failures(&fixture.arena), 0);
}

int main(void) {
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_order_of_levels, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_find_and_overlap, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_memtables, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_retired_stays_while_read, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_move, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_heap_exhausted, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_readers_and_changes, set_up, tear_down),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
