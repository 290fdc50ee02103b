#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "store/memtable_cursor.h"
#include "store_fixture.h"
#include "table_fixture.h"

#define REGION_BYTES (8u << 20)

typedef struct memtable_fixture {
	arena_fixture arena;
	lsm_memtable *memtable;
	lsm_cursor *cursor;
} memtable_fixture;

static int set_up(void **state) {
	static memtable_fixture fixture;

	fixture_create(&fixture.arena, REGION_BYTES + (1 << 20), 4);
	fixture.memtable = lsm_at(&fixture.arena.arena, fixture_take(&fixture.arena, sizeof(lsm_memtable), 8));
	fixture.memtable->begin = fixture_take(&fixture.arena, REGION_BYTES, 8);
	fixture.memtable->end = fixture.memtable->begin + REGION_BYTES / LSM_REF_UNIT;
	lsm_memtable_reset(&fixture.arena.arena, fixture.memtable, 1, 0);
	assert_ok(lsm_memtable_cursor_create(&fixture.arena.arena, fixture.memtable, &fixture.cursor));
	*state = &fixture;
	return 0;
}

static int tear_down(void **state) {
	memtable_fixture *fixture = *state;

	fixture->cursor->ops->close(fixture->cursor);
	fixture_destroy(&fixture->arena);
	return 0;
}

static void insert(memtable_fixture *fixture, const lsm_entry *entry, uint64_t seed) {
	uint64_t bytes = lsm_memtable_node_bytes(seed, 0, entry->key.size, entry->value.size);
	lsm_ref piece = lsm_memtable_reserve(fixture->memtable, bytes);

	assert_int_not_equal(piece, 0);
	lsm_memtable_insert(&fixture->arena.arena, fixture->memtable, &piece, seed, 0, entry, 0);
}

static void test_empty(void **state) {
	memtable_fixture *fixture = *state;
	lsm_cursor *cursor = fixture->cursor;

	cursor->ops->seek_first(cursor);
	assert_false(cursor->valid);
	cursor->ops->seek_last(cursor);
	assert_false(cursor->valid);
	cursor->ops->seek(cursor, text("k"), 0);
	assert_false(cursor->valid);
	assert_int_equal(cursor->status, AIDB_OK);
}

/* Many operations of one batch on one key: only the last inserted is shown, from whichever side one comes. */
static void test_random_walk(void **state) {
	memtable_fixture *fixture = *state;
	uint64_t seed = store_seed("test_memtable_cursor");
	entry_list list = {0}, newest_first = {0};

	for (uint32_t i = 0; i < 4000; i++) {
		entries_add_random(&list, &seed, 500, 4, 20);
		insert(fixture, &list.entries[i], store_random(&seed));
	}
	for (uint32_t i = list.count; i-- > 0;) {
		entries_add(&newest_first, list.entries[i].key, list.entries[i].trailer, list.entries[i].value);
	}
	entries_sort(&newest_first);
	assert_true(newest_first.count < list.count);
	entries_check_cursor(fixture->cursor, &newest_first, &seed, 50000);
	entries_free(&newest_first);
	entries_free(&list);
}

int main(void) {
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_empty, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_random_walk, set_up, tear_down),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
