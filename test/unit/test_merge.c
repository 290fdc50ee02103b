#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "store/merge.h"
#include "store_fixture.h"
#include "table_fixture.h"

#define MAX_SOURCES 9u
#define ROUNDS 150u
#define STEPS 2000u

typedef struct sources {
	entry_list lists[MAX_SOURCES];
	entry_list all; /* what the merge is to show */
	uint32_t count;
	lsm_cursor *merge;
} sources;

static void open_merge(sources *merged) {
	lsm_cursor *cursors[MAX_SOURCES];

	for (uint32_t i = 0; i < merged->count; i++) {
		for (uint32_t j = 0; j < merged->lists[i].count; j++) {
			const lsm_entry *entry = &merged->lists[i].entries[j];

			entries_add(&merged->all, entry->key, entry->trailer, entry->value);
		}
		entries_sort(&merged->lists[i]);
		cursors[i] = entries_cursor(&merged->lists[i], AIDB_OK, 0);
	}
	entries_sort(&merged->all);
	assert_ok(lsm_merge_create(cursors, merged->count, &merged->merge));
}

static void close_merge(sources *merged) {
	merged->merge->ops->close(merged->merge);
	for (uint32_t i = 0; i < merged->count; i++) {
		entries_free(&merged->lists[i]);
	}
	entries_free(&merged->all);
}

static void test_random_walks(void **state) {
	uint64_t seed = store_seed("test_merge");

	(void)state;
	for (uint32_t round = 0; round < ROUNDS; round++) {
		sources merged = {.count = 1 + (uint32_t)store_random_below(&seed, MAX_SOURCES)};
		uint32_t keys = 1 + (uint32_t)store_random_below(&seed, 60);

		for (uint32_t i = 0; i < merged.count; i++) {
			for (uint64_t j = store_random_below(&seed, 50); j > 0; j--) {
				entries_add_random(&merged.lists[i], &seed, keys, 6, 8);
			}
		}
		entries_add_text(&merged.lists[0], "key", 1, "at least one");
		open_merge(&merged);
		entries_check_cursor(merged.merge, &merged.all, &seed, STEPS);
		close_merge(&merged);
	}
}

/* Of one version in several sources, the first source's is shown, whatever the direction. */
static void test_newer_source_wins(void **state) {
	sources merged = {.count = 3};
	lsm_cursor *merge;

	(void)state;
	entries_add_text(&merged.lists[0], "b", 5, "newest");
	entries_add_text(&merged.lists[1], "b", 5, "newer");
	entries_add_text(&merged.lists[2], "b", 5, "old");
	entries_add_text(&merged.lists[2], "a", 1, "first");
	entries_add_text(&merged.lists[1], "c", 9, "last");
	open_merge(&merged);
	merge = merged.merge;
	merge->ops->seek(merge, text("b"), UINT64_MAX);
	assert_true(lsm_equal(merge->entry.value, text("newest")));
	merge->ops->next(merge);
	assert_true(lsm_equal(merge->entry.value, text("last")));
	merge->ops->prev(merge);
	assert_true(lsm_equal(merge->entry.value, text("newest")));
	merge->ops->prev(merge);
	assert_true(lsm_equal(merge->entry.value, text("first")));
	merge->ops->prev(merge);
	assert_false(merge->valid);
	close_merge(&merged);
}

static void test_seek_before(void **state) {
	sources merged = {.count = 2};
	lsm_cursor *merge;

	(void)state;
	entries_add_text(&merged.lists[0], "b", 7, "b7");
	entries_add_text(&merged.lists[1], "b", 3, "b3");
	entries_add_text(&merged.lists[1], "d", 3, "d3");
	open_merge(&merged);
	merge = merged.merge;
	lsm_merge_seek_before(merge, text("c"), UINT64_MAX);
	assert_true(lsm_equal(merge->entry.value, text("b3")));
	lsm_merge_seek_before(merge, text("b"), lsm_trailer(3, 0xff));
	assert_true(lsm_equal(merge->entry.value, text("b7")));
	lsm_merge_seek_before(merge, text("b"), lsm_trailer(7, 0xff));
	assert_false(merge->valid);
	assert_int_equal(merge->status, AIDB_OK);
	lsm_merge_seek_before(merge, text("z"), 0);
	assert_true(lsm_equal(merge->entry.value, text("d3")));
	merge->ops->prev(merge);
	merge->ops->prev(merge);
	assert_true(lsm_equal(merge->entry.value, text("b7")));
	close_merge(&merged);
}

/* A source that gets more entries as soon as it has been sought in, as a memtable may: the first has only "a". */
typedef struct growing {
	lsm_cursor base;
	int at;
	int count;
} growing;

static const char *const growing_keys[] = {"a", "k", "x", "z"};

static void growing_stand(lsm_cursor *base, int at) {
	growing *cursor = (growing *)base;

	cursor->at = at;
	base->valid = at >= 0 && at < cursor->count;
	if (base->valid) {
		base->entry = (lsm_entry){text(growing_keys[at]), lsm_trailer(9, LSM_KIND_PUT), text("")};
	}
}

static void growing_seek(lsm_cursor *base, aidb_slice key, uint64_t trailer) {
	growing *cursor = (growing *)base;
	int at = 0;

	(void)trailer;
	while (at < cursor->count && lsm_compare(text(growing_keys[at]), key) < 0) {
		at++;
	}
	growing_stand(base, at);
	cursor->count = 4;
}

static void growing_seek_first(lsm_cursor *base) {
	growing_stand(base, 0);
}

static void growing_seek_last(lsm_cursor *base) {
	growing_stand(base, ((growing *)base)->count - 1);
}

static void growing_next(lsm_cursor *base) {
	growing_stand(base, ((growing *)base)->at + 1);
}

static void growing_prev(lsm_cursor *base) {
	growing_stand(base, ((growing *)base)->at - 1);
}

static void growing_close(lsm_cursor *base) {
	(void)base;
}

static void test_seek_before_in_a_source_that_grows(void **state) {
	static const lsm_cursor_ops ops = {.seek = growing_seek,
									   .seek_first = growing_seek_first,
									   .seek_last = growing_seek_last,
									   .next = growing_next,
									   .prev = growing_prev,
									   .close = growing_close};
	growing source = {.base = {.ops = &ops}, .count = 1};
	lsm_cursor *cursors[] = {&source.base};
	lsm_cursor *merge;

	(void)state;
	assert_ok(lsm_merge_create(cursors, 1, &merge));
	lsm_merge_seek_before(merge, text("m"), UINT64_MAX);
	assert_true(merge->valid);
	assert_true(lsm_compare(merge->entry.key, text("m")) < 0);
	merge->ops->close(merge);
}

static void test_no_sources(void **state) {
	sources merged = {.count = 0};

	(void)state;
	open_merge(&merged);
	merged.merge->ops->seek_first(merged.merge);
	assert_false(merged.merge->valid);
	merged.merge->ops->seek_last(merged.merge);
	assert_false(merged.merge->valid);
	assert_int_equal(merged.merge->status, AIDB_OK);
	close_merge(&merged);
}

/* An error of any source ends the walk and is handed on; a seek past it recovers. */
static void test_errors(void **state) {
	entry_list good = {0}, bad = {0};
	lsm_cursor *cursors[2];
	lsm_cursor *merge;

	(void)state;
	entries_add_text(&good, "a", 1, "");
	entries_add_text(&good, "c", 1, "");
	entries_add_text(&good, "e", 1, "");
	entries_add_text(&bad, "b", 1, "");
	entries_add_text(&bad, "d", 1, "");
	cursors[0] = entries_cursor(&good, AIDB_OK, 0);
	cursors[1] = entries_cursor(&bad, AIDB_CORRUPT, 1);
	assert_ok(lsm_merge_create(cursors, 2, &merge));
	merge->ops->seek_first(merge);
	merge->ops->next(merge);
	assert_true(merge->valid);
	merge->ops->next(merge);
	assert_false(merge->valid);
	assert_int_equal(merge->status, AIDB_CORRUPT);
	merge->ops->seek_last(merge);
	assert_int_equal(merge->status, AIDB_CORRUPT);
	merge->ops->seek(merge, text("e"), UINT64_MAX);
	assert_true(merge->valid);
	assert_int_equal(merge->status, AIDB_OK);
	merge->ops->prev(merge);
	assert_false(merge->valid);
	assert_int_equal(merge->status, AIDB_CORRUPT);
	merge->ops->close(merge);
	entries_free(&good);
	entries_free(&bad);
}

int main(void) {
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_random_walks),
		cmocka_unit_test(test_newer_source_wins),
		cmocka_unit_test(test_seek_before),
		cmocka_unit_test(test_no_sources),
		cmocka_unit_test(test_seek_before_in_a_source_that_grows),
		cmocka_unit_test(test_errors),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
