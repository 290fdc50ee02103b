#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "db/compaction_pick.h"
#include "store_fixture.h"
#include "table_fixture.h"

#define MIB (1ull << 20)

static table_fixture fixture;
static lsm_versions versions;
static lsm_compaction picked;
static aidb_tag_fate fate;

static aidb_tag_fate fate_of(void *context, aidb_tag tag) {
	(void)context;
	(void)tag;
	return fate;
}

static int set_up(void **state) {
	(void)state;
	table_fixture_create(&fixture, 16);
	fixture.host.tag_fate = fate_of;
	versions = (lsm_versions){0};
	assert_ok(lsm_versions_init(&fixture.arena.arena, &fixture.heap, &versions, 0));
	picked = (lsm_compaction){0};
	fate = AIDB_TAG_OPEN;
	return 0;
}

static int tear_down(void **state) {
	(void)state;
	lsm_compaction_free(&picked);
	table_fixture_destroy(&fixture);
	return 0;
}

typedef struct description {
	int level;
	uint64_t number;
	const char *smallest, *largest;
	uint64_t mib;
	uint64_t deletes; /* of 100 entries */
	aidb_tag tag;
} description;

static void add(const description *files, uint32_t count) {
	lsm_arena *arena = &fixture.arena.arena;
	lsm_version_edit edit = {.add_memtable = -1, .remove_memtable = -1, .added_count = count};
	lsm_ref refs[64];
	uint8_t levels[64];

	assert_true(count <= 64);
	for (uint32_t i = 0; i < count; i++) {
		lsm_sstable_properties properties = {.file_bytes = files[i].mib * MIB,
											 .entries = 100,
											 .deletes = files[i].deletes,
											 .max_tag = files[i].tag,
											 .root_level = 1};

		refs[i] = lsm_file_create(arena, &fixture.heap, files[i].number, &properties, text(files[i].smallest), 0,
								  text(files[i].largest), 0);
		levels[i] = (uint8_t)files[i].level;
	}
	edit.added_files = refs;
	edit.added_levels = levels;
	lsm_version_install(arena, &versions, lsm_version_build(arena, &fixture.heap, &versions, &edit), &edit);
}

#define ADD(...) add((const description[])__VA_ARGS__, sizeof((const description[])__VA_ARGS__) / sizeof(description))

static bool pick(void) {
	lsm_compaction_rules rules = {.level1_bytes = 100 * MIB, .file_bytes = 10 * MIB, .host = &fixture.host};
	bool found;

	lsm_compaction_free(&picked);
	assert_ok(lsm_compaction_pick(&fixture.arena.arena, lsm_version_current(&fixture.arena.arena, &versions), &rules,
								  &picked, &found));
	return found;
}

/* The numbers of the inputs, those of the output level after a bar. */
static void assert_inputs(int level, int output_level, const char *expected) {
	char shown[256] = "";

	assert_int_equal(picked.level, level);
	assert_int_equal(picked.output_level, output_level);
	for (uint32_t i = 0; i < picked.upper_count + picked.lower_count; i++) {
		size_t length = strlen(shown);

		snprintf(shown + length, sizeof(shown) - length, "%s%s%u", i > 0 ? " " : "",
				 i == picked.upper_count ? "| " : "", (unsigned)table_fixture_file(&fixture, picked.inputs[i])->number);
	}
	assert_string_equal(shown, expected);
}

static void test_nothing_due(void **state) {
	(void)state;
	assert_false(pick());
	ADD({{0, 10, "a", "z", 10, 0, 0},
		 {0, 11, "a", "z", 10, 0, 0},
		 {0, 12, "a", "z", 10, 0, 0},
		 {1, 1, "a", "z", 90, 0, 0}});
	assert_false(pick());
}

static void test_level0_takes_what_overlaps(void **state) {
	(void)state;
	ADD({{0, 13, "c", "e", 10, 0, 0}, /* by way of 12 */
		 {0, 12, "b", "d", 10, 0, 0},
		 {0, 11, "x", "z", 10, 0, 0},
		 {0, 10, "a", "b", 10, 0, 0}, /* the oldest */
		 {1, 1, "a", "a", 20, 0, 0},
		 {1, 2, "d", "f", 20, 0, 0},
		 {1, 3, "g", "z", 20, 0, 0}});
	assert_true(pick());
	assert_inputs(0, 1, "13 12 10 | 1 2");
	assert_false(picked.move);
}

static void test_level0_moves_what_stands_alone(void **state) {
	(void)state;
	ADD({{0, 13, "g", "h", 10, 0, 0},
		 {0, 12, "e", "f", 10, 0, 0},
		 {0, 11, "c", "d", 10, 0, 0},
		 {0, 10, "b", "b", 10, 0, 0},
		 {1, 1, "a", "a", 20, 0, 0}});
	assert_true(pick());
	assert_inputs(0, 1, "10");
	assert_true(picked.move);
}

/* Tombstones are not moved to where nothing lies below: there a merge drops them. */
static void test_tombstones_are_not_moved_to_the_bottom(void **state) {
	(void)state;
	ADD({{0, 13, "g", "h", 10, 0, 0},
		 {0, 12, "e", "f", 10, 0, 0},
		 {0, 11, "c", "d", 10, 0, 0},
		 {0, 10, "b", "b", 10, 1, 0}});
	assert_true(pick());
	assert_inputs(0, 1, "10");
	assert_false(picked.move);
	ADD({{4, 1, "x", "y", 10, 0, 0}});
	assert_true(pick());
	assert_true(picked.move);
}

/* Little data joins a small neighbour, so that many small flushes do not leave many small files. */
static void test_small_neighbours_join(void **state) {
	(void)state;
	ADD({{0, 13, "g", "h", 1, 0, 0},
		 {0, 12, "e", "f", 1, 0, 0},
		 {0, 11, "c", "d", 1, 0, 0},
		 {0, 10, "n", "n", 1, 0, 0},
		 {1, 1, "k", "k", 3, 0, 0},
		 {1, 2, "m", "m", 2, 0, 0},
		 {1, 3, "o", "o", 2, 0, 0},
		 {1, 4, "p", "p", 1, 0, 0}});
	assert_true(pick());
	assert_inputs(0, 1, "10 | 2 3"); /* 5 of 10 MiB: room for no more */
}

static void test_fullest_level_goes_first(void **state) {
	(void)state;
	ADD({{0, 20, "a", "z", 10, 0, 0},
		 {0, 21, "a", "z", 10, 0, 0},
		 {0, 22, "a", "z", 10, 0, 0},
		 {0, 23, "a", "z", 10, 0, 0}, /* 4 of 4 */
		 {1, 1, "a", "c", 60, 0, 0},
		 {1, 2, "d", "f", 60, 0, 0},     /* 120 of 100 */
		 {2, 3, "a", "z", 1100, 0, 0}}); /* 1100 of 1000 */
	assert_true(pick());
	assert_inputs(1, 2, "1 | 3");
	ADD({{0, 24, "a", "z", 10, 0, 0}}); /* 5 of 4 */
	assert_true(pick());
	assert_inputs(0, 1, "24 23 22 21 20 | 1 2");
}

static void test_least_overlap(void **state) {
	(void)state;
	ADD({{1, 1, "a", "c", 50, 0, 0},
		 {1, 2, "d", "f", 50, 0, 0},
		 {1, 3, "g", "i", 50, 0, 0},
		 {2, 4, "a", "b", 50, 0, 0},
		 {2, 5, "c", "d", 50, 0, 0},
		 {2, 6, "h", "h", 40, 0, 0}});
	assert_true(pick());
	assert_inputs(1, 2, "3 | 6");
	/* and of all that lies below, only what is beyond the output level counts for the bottom */
	assert_int_equal(picked.deeper_begin[AIDB_LEVELS], 0);
	ADD({{3, 7, "a", "b", 50, 0, 0}, {6, 8, "a", "b", 50, 0, 0}});
	assert_true(pick());
	assert_int_equal(picked.deeper_begin[3], 0);
	assert_int_equal(picked.deeper_begin[4], 1);
	assert_int_equal(picked.deeper_begin[AIDB_LEVELS], 2);
	assert_int_equal(table_fixture_file(&fixture, picked.deeper[1])->number, 8);
}

static void test_last_level_has_no_measure(void **state) {
	(void)state;
	ADD({{6, 1, "a", "z", 100000000, 0, 0}});
	assert_false(pick());
}

static void test_tombstones_go_down(void **state) {
	(void)state;
	ADD({{1, 1, "a", "c", 10, 51, 0}});
	assert_false(pick()); /* nothing below */
	ADD({{3, 2, "b", "c", 10, 90, 0}});
	assert_true(pick());
	assert_inputs(1, 2, "1");
	assert_true(picked.move);
}

static void test_tombstones_meet_what_they_hide(void **state) {
	(void)state;
	ADD({{2, 1, "a", "c", 10, 51, 0}, {3, 2, "b", "c", 10, 90, 0}});
	assert_true(pick());
	assert_inputs(2, 3, "1 | 2");
	assert_false(picked.move);
}

static void test_settled_tags(void **state) {
	(void)state;
	ADD({{0, 10, "a", "c", 10, 0, 0}, {0, 11, "b", "d", 10, 0, 0}, {6, 1, "a", "c", 10, 0, 77}});
	assert_false(pick());
	fate = AIDB_TAG_COMMITTED;
	assert_true(pick());
	assert_inputs(6, 6, "1");
	assert_false(picked.move);
	ADD({{0, 12, "d", "e", 10, 0, 78}}); /* never in place: its number says how old a file of level 0 is */
	assert_true(pick());
	assert_inputs(0, 1, "12 11 10");
	assert_false(picked.move);
}

int main(void) {
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_nothing_due, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_level0_takes_what_overlaps, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_level0_moves_what_stands_alone, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_tombstones_are_not_moved_to_the_bottom, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_small_neighbours_join, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_fullest_level_goes_first, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_least_overlap, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_last_level_has_no_measure, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_tombstones_go_down, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_tombstones_meet_what_they_hide, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_settled_tags, set_up, tear_down),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
