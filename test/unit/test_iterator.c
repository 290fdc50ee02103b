#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "db/db.h"
#include "store_fixture.h"

#define MANY_VERSIONS 200u
#define MANY_TOMBSTONES 30000u

static test_store store;
static aidb_db *db;

static int set_up(void **state) {
	aidb_options options = store_small_options();

	(void)state;
	store_make(&store, &options);
	store_open(&store);
	db = store.db;
	return 0;
}

static int tear_down(void **state) {
	(void)state;
	store_destroy(&store);
	return 0;
}

static void set(const char *key, const char *value) {
	must_put(db, key, value, AIDB_LAZY);
}

static void unset(const char *key) {
	assert_ok(aidb_delete(db, &(aidb_write_options){.durability = AIDB_LAZY}, text(key)));
}

static void set_tagged(const char *key, const char *value, aidb_tag tag) {
	aidb_batch *batch = aidb_batch_create();

	assert_ok(aidb_batch_put(batch, text(key), text(value)));
	assert_ok(aidb_write(db, &(aidb_write_options){.durability = AIDB_LAZY, .state = AIDB_BATCH_PREPARED, .tag = tag},
						 batch, NULL));
	aidb_batch_destroy(batch);
}

static aidb_iterator *iterate(const aidb_read_options *options) {
	aidb_iterator *iterator;

	assert_ok(aidb_iterator_create(db, options, &iterator));
	assert_false(aidb_iterator_valid(iterator));
	return iterator;
}

/* NULL: at an end. */
static void assert_on(const aidb_iterator *iterator, const char *key) {
	assert_ok(aidb_iterator_status(iterator));
	assert_int_equal(aidb_iterator_valid(iterator), key != NULL);
	if (key != NULL) {
		aidb_slice at = aidb_iterator_key(iterator);

		if (!lsm_equal(at, text(key))) {
			print_error("on \"%.*s\" instead of \"%s\"\n", (int)at.size, (const char *)at.data, key);
		}
		assert_true(lsm_equal(at, text(key)));
	}
}

static void assert_value(const aidb_iterator *iterator, const char *value) {
	assert_true(lsm_equal(aidb_iterator_value(iterator), text(value)));
}

/* Puts what has been written into a file; `deep` files are merged with what they meet. */
static void sink(bool deep) {
	assert_ok(aidb_flush(db));
	if (deep) {
		store_settle(db);
	}
}

/* ---- Seeks, bounds, directions -------------------------------------------------------------------------- */

static void test_empty_store(void **state) {
	aidb_iterator *iterator = iterate(NULL);

	(void)state;
	aidb_iterator_seek_first(iterator);
	assert_on(iterator, NULL);
	aidb_iterator_seek_last(iterator);
	assert_on(iterator, NULL);
	aidb_iterator_next(iterator);
	aidb_iterator_prev(iterator);
	assert_on(iterator, NULL);
	aidb_iterator_destroy(iterator);
	aidb_iterator_destroy(NULL);
}

static void check_bounds(const aidb_read_options *options) {
	aidb_iterator *iterator = iterate(options);

	aidb_iterator_seek_first(iterator);
	assert_on(iterator, "c");
	aidb_iterator_prev(iterator);
	assert_on(iterator, NULL);
	aidb_iterator_seek_last(iterator);
	assert_on(iterator, "g");
	aidb_iterator_next(iterator);
	assert_on(iterator, NULL);
	aidb_iterator_seek(iterator, text(""));
	assert_on(iterator, "c");
	aidb_iterator_seek(iterator, text("d"));
	assert_on(iterator, "e");
	aidb_iterator_seek(iterator, text("h"));
	assert_on(iterator, NULL);
	aidb_iterator_seek_for_prev(iterator, text("z"));
	assert_on(iterator, "g");
	aidb_iterator_seek_for_prev(iterator, text("e"));
	assert_on(iterator, "e");
	aidb_iterator_seek_for_prev(iterator, text("f"));
	assert_on(iterator, "e");
	aidb_iterator_seek_for_prev(iterator, text("b"));
	assert_on(iterator, NULL);
	aidb_iterator_seek_first(iterator);
	aidb_iterator_next(iterator);
	assert_on(iterator, "e");
	aidb_iterator_prev(iterator);
	assert_on(iterator, "c");
	aidb_iterator_next(iterator);
	aidb_iterator_next(iterator);
	assert_on(iterator, "g");
	aidb_iterator_prev(iterator);
	aidb_iterator_next(iterator);
	assert_on(iterator, "g");
	aidb_iterator_destroy(iterator);
}

static void test_bounds_and_directions(void **state) {
	aidb_read_options inside = {.lower = text("b"), .upper = text("h")};
	aidb_read_options exact = {.lower = text("c"), .upper = text("i")};
	static const char *keys[] = {"a", "c", "e", "g", "i", "k"};

	(void)state;
	for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++) {
		set(keys[i], "old");
		if (i % 2 == 0) {
			sink(false);
		}
		set(keys[i], "new");
	}
	check_bounds(&inside);
	check_bounds(&exact);
	sink(true);
	check_bounds(&inside);
	check_bounds(&exact);
}

/* A key with so many versions that they are skipped by seeking, in front of and behind the one that is seen. */
static void test_many_versions(void **state) {
	aidb_snapshot snapshot;

	(void)state;
	set("a", "first");
	set("z", "last");
	for (uint32_t i = 0; i < MANY_VERSIONS; i++) {
		set("k", "older");
	}
	set("k", "seen");
	assert_ok(aidb_snapshot_acquire(db, &snapshot));
	for (uint32_t i = 0; i < MANY_VERSIONS; i++) {
		set("k", "newer");
	}
	unset("k");
	for (int round = 0; round < 3; round++) {
		aidb_iterator *iterator = iterate(&(aidb_read_options){.sequence = snapshot.sequence});

		aidb_iterator_seek_first(iterator);
		aidb_iterator_next(iterator);
		assert_on(iterator, "k");
		assert_value(iterator, "seen");
		aidb_iterator_next(iterator);
		assert_on(iterator, "z");
		aidb_iterator_prev(iterator);
		assert_on(iterator, "k");
		assert_value(iterator, "seen");
		aidb_iterator_prev(iterator);
		assert_on(iterator, "a");
		aidb_iterator_destroy(iterator);
		iterator = iterate(NULL);
		aidb_iterator_seek_last(iterator);
		aidb_iterator_prev(iterator);
		assert_on(iterator, "a");
		aidb_iterator_next(iterator);
		assert_on(iterator, "z");
		aidb_iterator_destroy(iterator);
		sink(round > 0);
	}
	aidb_snapshot_release(db, &snapshot);
}

static bool see_two(void *argument, aidb_tag tag) {
	(void)argument;
	return tag == 2;
}

static void test_tags(void **state) {
	(void)state;
	set("a", "plain");
	set_tagged("a", "of one", 1);
	set_tagged("b", "of one", 1);
	set_tagged("c", "of two", 2);
	set_tagged("c", "of one", 1);
	for (int round = 0; round < 2; round++) {
		aidb_iterator *iterator = iterate(&(aidb_read_options){.tag_visible = see_two});

		aidb_iterator_seek_first(iterator);
		assert_on(iterator, "a");
		assert_value(iterator, "plain");
		aidb_iterator_next(iterator);
		assert_on(iterator, "c");
		assert_value(iterator, "of two");
		aidb_iterator_next(iterator);
		assert_on(iterator, NULL);
		aidb_iterator_seek_last(iterator);
		assert_on(iterator, "c");
		assert_value(iterator, "of two");
		aidb_iterator_prev(iterator);
		assert_on(iterator, "a");
		assert_value(iterator, "plain");
		aidb_iterator_destroy(iterator);
		iterator = iterate(NULL);
		aidb_iterator_seek_last(iterator);
		assert_on(iterator, "a");
		aidb_iterator_destroy(iterator);
		sink(true);
	}
}

/* ---- What is not seen ---------------------------------------------------------------------------------------- */

static uint64_t told; /* tags, a bit each */

static void tell(void *argument, aidb_tag tag) {
	assert_ptr_equal(argument, &told);
	assert_in_range(tag, 1, 63);
	told |= 1ull << tag;
}

static aidb_read_options curious(aidb_sequence sequence) {
	return (aidb_read_options){.sequence = sequence, .tag_visible = see_two, .unseen = tell, .unseen_argument = &told};
}

static uint64_t told_of_get(aidb_sequence sequence, const char *key) {
	aidb_read_options options = curious(sequence);
	aidb_status rc = aidb_get(db, &options, text(key), NULL, NULL);
	uint64_t result = told;

	assert_true(rc == AIDB_OK || rc == AIDB_NOT_FOUND);
	told = 0;
	return result;
}

static uint64_t told_of_range(aidb_sequence sequence, const char *lower, const char *upper, bool backward) {
	aidb_read_options options = curious(sequence);
	aidb_iterator *iterator;
	uint64_t result;

	options.lower = text(lower);
	options.upper = text(upper);
	iterator = iterate(&options);
	if (backward) {
		for (aidb_iterator_seek_last(iterator); aidb_iterator_valid(iterator); aidb_iterator_prev(iterator)) {}
	} else {
		for (aidb_iterator_seek_first(iterator); aidb_iterator_valid(iterator); aidb_iterator_next(iterator)) {}
	}
	assert_ok(aidb_iterator_status(iterator));
	aidb_iterator_destroy(iterator);
	result = told;
	told = 0;
	return result;
}

static void assert_told(aidb_sequence sequence, const char *lower, const char *upper, uint64_t tags) {
	assert_int_equal(told_of_range(sequence, lower, upper, false), tags);
	assert_int_equal(told_of_range(sequence, lower, upper, true), tags);
}

static void check_unseen(aidb_sequence then, uint64_t many) {
	assert_int_equal(told_of_get(then, "a"), 1u << 3);
	assert_int_equal(told_of_get(then, "c"), 0);
	assert_int_equal(told_of_get(then, "d"), 1u << 4 | 1u << 5);
	assert_int_equal(told_of_get(then, "e"), many);
	assert_int_equal(told_of_get(then, "nothing"), 0);
	assert_told(then, "a", "b", 1u << 3);
	assert_told(then, "c", "d", 0);
	assert_told(then, "c", "e", 1u << 4 | 1u << 5);
	assert_told(then, "a", "z", 1u << 3 | 1u << 4 | 1u << 5 | many);
	assert_told(then, "m", "z", 0);
}

/* Readers are told of what is too new, though it lies below newer versions, and of what is not visible to them, also where
 * they find nothing. */
static void test_tells_of_unseen(void **state) {
	const uint64_t many = ((1ull << 40) - 1) & ~((1ull << 10) - 1);
	aidb_snapshot snapshot;

	(void)state;
	set("a", "then");
	set("c", "then");
	set_tagged("c", "of two", 2);
	set("e", "then");
	set_tagged("d", "of four", 4); /* older than the snapshot, and not visible */
	assert_ok(aidb_snapshot_acquire(db, &snapshot));
	set_tagged("a", "of three", 3);
	set("a", "plain above it");
	sink(false);
	set_tagged("d", "of five", 5);
	unset("d");
	for (aidb_tag tag = 10; tag < 40; tag++) {
		set_tagged("e", "one of many", tag);
		set("e", "and a plain one");
	}
	for (int round = 0; round < 3; round++) {
		check_unseen(snapshot.sequence, many);
		sink(round > 0);
	}
	assert_int_equal(told_of_range(aidb_current_sequence(db), "a", "z", false), 0);
	aidb_snapshot_release(db, &snapshot);
}

static void test_sees_one_moment(void **state) {
	aidb_iterator *iterator;

	(void)state;
	set("a", "then");
	set("c", "then");
	iterator = iterate(NULL);
	set("a", "now");
	set("b", "now");
	unset("c");
	aidb_iterator_seek_first(iterator);
	assert_on(iterator, "a");
	assert_value(iterator, "then");
	aidb_iterator_next(iterator);
	assert_on(iterator, "c");
	assert_int_equal(stats_of(db).snapshots, 1);
	aidb_iterator_destroy(iterator);
	assert_int_equal(stats_of(db).snapshots, 0);
}

/* ---- What an idle iterator holds ------------------------------------------------------------------------- */

static void assert_holds_nothing(void) {
	lsm_shared *shared = db->shared;

	assert_int_equal(lsm_cache_loading(&db->arena, &shared->cache), 0);
	assert_int_equal(lsm_epoch_safe(&db->arena), atomic_load(&shared->epochs.current));
}

/* Everything that the iterator stood on is retired and given back between its steps, and it goes on all the same. */
static void test_idle_iterator_stops_nothing(void **state) {
	aidb_iterator *forward, *backward;
	char key[16];

	(void)state;
	for (int i = 0; i < 20; i++) {
		snprintf(key, sizeof(key), "%04d", i);
		set(key, key);
		if (i % 6 == 0) {
			sink(false);
		}
	}
	forward = iterate(NULL);
	backward = iterate(NULL);
	aidb_iterator_seek_first(forward);
	aidb_iterator_seek_last(backward);
	for (int i = 0; i < 20; i++) {
		assert_holds_nothing();
		snprintf(key, sizeof(key), "%04d", i);
		assert_on(forward, key);
		assert_value(forward, key);
		snprintf(key, sizeof(key), "%04d", 19 - i);
		assert_on(backward, key);
		assert_value(backward, key);
		set("0007", "another");
		unset("0008");
		sink(true);
		assert_int_equal(db->shared->versions.retired_versions, 0);
		assert_int_equal(db->shared->versions.retired_files, 0);
		aidb_iterator_next(forward);
		aidb_iterator_prev(backward);
	}
	assert_on(forward, NULL);
	assert_on(backward, NULL);
	aidb_iterator_destroy(forward);
	aidb_iterator_destroy(backward);
}

/* A wait, or an interrupt, gets through while very many entries are passed over. */
static void test_long_runs(void **state) {
	aidb_iterator *iterator;
	char key[16];

	(void)state;
	set("a", "first");
	set("z", "last");
	for (uint32_t i = 0; i < MANY_TOMBSTONES; i++) {
		snprintf(key, sizeof(key), "k%06u", i);
		unset(key);
	}
	iterator = iterate(NULL);
	aidb_iterator_seek_first(iterator);
	atomic_store(&faults.room_error, EINTR);
	aidb_iterator_next(iterator);
	assert_false(aidb_iterator_valid(iterator));
	assert_int_equal(aidb_iterator_status(iterator), AIDB_INTERRUPTED);
	aidb_iterator_seek_last(iterator);
	assert_on(iterator, "z");
	aidb_iterator_prev(iterator);
	assert_int_equal(aidb_iterator_status(iterator), AIDB_INTERRUPTED);
	assert_holds_nothing();
	atomic_store(&faults.room_error, 0);
	aidb_iterator_seek_first(iterator);
	assert_on(iterator, "a");
	aidb_iterator_next(iterator);
	assert_on(iterator, "z");
	aidb_iterator_prev(iterator);
	assert_on(iterator, "a");
	aidb_iterator_destroy(iterator);
}

/* ---- The cache --------------------------------------------------------------------------------------------- */

static uint64_t scan_misses(bool skip_cache_fill) {
	aidb_iterator *iterator = iterate(&(aidb_read_options){.skip_cache_fill = skip_cache_fill});
	uint64_t before = stats_of(db).cache_misses;
	uint32_t count = 0;

	for (aidb_iterator_seek_first(iterator); aidb_iterator_valid(iterator); aidb_iterator_next(iterator)) {
		count++;
	}
	assert_int_equal(count, 3000);
	aidb_iterator_destroy(iterator);
	return stats_of(db).cache_misses - before;
}

static void test_cache_filling(void **state) {
	char key[16], value[101];
	uint64_t first;

	(void)state;
	memset(value, 'v', 100);
	value[100] = '\0';
	for (int i = 0; i < 3000; i++) {
		snprintf(key, sizeof(key), "%06d", i);
		set(key, value);
	}
	sink(false);
	first = scan_misses(true);
	assert_true(first > 50);
	assert_int_equal(scan_misses(true), first);
	assert_int_equal(scan_misses(false), first);
	assert_int_equal(scan_misses(false), 0);
}

int main(void) {
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_empty_store, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_bounds_and_directions, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_many_versions, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_tags, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_tells_of_unseen, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_sees_one_moment, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_idle_iterator_stops_nothing, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_long_runs, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_cache_filling, set_up, tear_down),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
