#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "arena_fixture.h"
#include "store/memtable.h"

#define REGION_BYTES (16u << 20)
#define MODEL_ENTRIES 2000u
#define WRITERS 5u
#define READERS 3u
#define INSERTS 8000u /* of each writer */

enum { STARTED, DONE };

static lsm_memtable *memtable;

static int set_up(void **state) {
	static arena_fixture fixture;

	fixture_create(&fixture, REGION_BYTES + (1 << 20), 16);
	memtable = lsm_at(&fixture.arena, fixture_take(&fixture, sizeof(lsm_memtable), 8));
	memtable->begin = fixture_take(&fixture, REGION_BYTES, 8);
	memtable->end = memtable->begin + REGION_BYTES / LSM_REF_UNIT;
	lsm_memtable_reset(&fixture.arena, memtable, 1, 0);
	*state = &fixture;
	return 0;
}

static int tear_down(void **state) {
	fixture_destroy(*state);
	return 0;
}

static aidb_slice slice_of(const char *text) {
	return (aidb_slice){text, strlen(text)};
}

static lsm_memtable_cursor cursor_on(const arena_fixture *fixture) {
	return (lsm_memtable_cursor){.arena = &fixture->arena, .memtable = memtable, .node = 0};
}

/* Inserts one entry in a piece of its own; the caller serialises. */
static void insert(const arena_fixture *fixture, const lsm_entry *entry, aidb_tag tag, uint64_t seed) {
	size_t value_bytes = entry->value.size + (lsm_is_tagged(entry->trailer) ? LSM_TAG_BYTES : 0);
	uint64_t bytes = lsm_memtable_node_bytes(seed, 7, entry->key.size, value_bytes);
	lsm_ref piece = lsm_memtable_reserve(memtable, bytes);
	lsm_ref end = piece;

	assert_int_not_equal(piece, 0);
	lsm_memtable_insert(&fixture->arena, memtable, &end, seed, 7, entry, tag);
	assert_int_equal((uint64_t)(end - piece) * LSM_REF_UNIT, bytes);
}

static void put(const arena_fixture *fixture, const char *key, aidb_sequence sequence, const char *value) {
	lsm_entry entry = {slice_of(key), lsm_trailer(sequence, LSM_KIND_PUT), slice_of(value)};

	insert(fixture, &entry, 0, sequence * 31 + strlen(value));
}

static void assert_stands_on(const lsm_memtable_cursor *cursor, const char *key, aidb_sequence sequence,
							 const char *value) {
	lsm_entry entry;

	assert_int_not_equal(cursor->node, 0);
	lsm_memtable_entry(cursor, &entry);
	assert_int_equal(entry.key.size, strlen(key));
	assert_memory_equal(entry.key.data, key, entry.key.size);
	assert_int_equal(lsm_sequence_of(entry.trailer), sequence);
	assert_int_equal(entry.value.size, strlen(value));
	assert_memory_equal(entry.value.data, value, entry.value.size);
}

static void test_empty(void **state) {
	lsm_memtable_cursor cursor = cursor_on(*state);

	lsm_memtable_seek_first(&cursor);
	assert_int_equal(cursor.node, 0);
	lsm_memtable_seek_last(&cursor);
	assert_int_equal(cursor.node, 0);
	lsm_memtable_seek(&cursor, slice_of("a"), UINT64_MAX);
	assert_int_equal(cursor.node, 0);
	lsm_memtable_seek_before(&cursor, slice_of("a"), UINT64_MAX);
	assert_int_equal(cursor.node, 0);
}

static void test_order_of_versions(void **state) {
	const arena_fixture *fixture = *state;
	lsm_memtable_cursor cursor = cursor_on(fixture);

	put(fixture, "b", 5, "b5");
	put(fixture, "a", 3, "a3");
	put(fixture, "b", 9, "b9");
	put(fixture, "", 1, "");
	put(fixture, "bb", 4, "bb4");
	lsm_memtable_seek_first(&cursor);
	assert_stands_on(&cursor, "", 1, "");
	lsm_memtable_next(&cursor);
	assert_stands_on(&cursor, "a", 3, "a3");
	lsm_memtable_next(&cursor);
	assert_stands_on(&cursor, "b", 9, "b9");
	lsm_memtable_next(&cursor);
	assert_stands_on(&cursor, "b", 5, "b5");
	lsm_memtable_next(&cursor);
	assert_stands_on(&cursor, "bb", 4, "bb4");
	lsm_memtable_next(&cursor);
	assert_int_equal(cursor.node, 0);
	lsm_memtable_seek(&cursor, slice_of("b"), lsm_seek_trailer(AIDB_SEQUENCE_LATEST));
	assert_stands_on(&cursor, "b", 9, "b9");
	lsm_memtable_seek(&cursor, slice_of("b"), lsm_seek_trailer(8));
	assert_stands_on(&cursor, "b", 5, "b5");
	lsm_memtable_seek(&cursor, slice_of("b"), lsm_seek_trailer(5));
	assert_stands_on(&cursor, "b", 5, "b5");
	lsm_memtable_seek(&cursor, slice_of("b"), lsm_seek_trailer(4));
	assert_stands_on(&cursor, "bb", 4, "bb4");
	lsm_memtable_seek_before(&cursor, slice_of("b"), lsm_seek_trailer(5));
	assert_stands_on(&cursor, "b", 9, "b9");
	assert_int_equal(atomic_load(&memtable->entries), 5);
}

static void test_later_of_equal_versions_comes_first(void **state) {
	const arena_fixture *fixture = *state;
	lsm_memtable_cursor cursor = cursor_on(fixture);

	put(fixture, "k", 7, "1");
	put(fixture, "k", 7, "22");
	put(fixture, "j", 7, "0");
	put(fixture, "k", 7, "333");
	lsm_memtable_seek(&cursor, slice_of("k"), lsm_seek_trailer(7));
	assert_stands_on(&cursor, "k", 7, "333");
	lsm_memtable_next(&cursor);
	assert_stands_on(&cursor, "k", 7, "22");
	lsm_memtable_next(&cursor);
	assert_stands_on(&cursor, "k", 7, "1");
	lsm_memtable_prev(&cursor);
	assert_stands_on(&cursor, "k", 7, "22");
	lsm_memtable_prev(&cursor);
	assert_stands_on(&cursor, "k", 7, "333");
	lsm_memtable_prev(&cursor);
	assert_stands_on(&cursor, "j", 7, "0");
	lsm_memtable_prev(&cursor);
	assert_int_equal(cursor.node, 0);
}

static void test_tag_is_put_before_the_value(void **state) {
	const arena_fixture *fixture = *state;
	lsm_memtable_cursor cursor = cursor_on(fixture);
	lsm_entry tagged = {slice_of("t"), lsm_trailer(2, LSM_KIND_PUT | LSM_KIND_TAGGED), slice_of("value")};
	lsm_entry deleted = {slice_of("t"), lsm_trailer(1, LSM_KIND_DELETE | LSM_KIND_TAGGED), {NULL, 0}};
	lsm_entry entry;

	insert(fixture, &tagged, 0x1122334455667788, 1);
	insert(fixture, &deleted, 99, 2);
	lsm_memtable_seek_first(&cursor);
	lsm_memtable_entry(&cursor, &entry);
	assert_int_equal(entry.trailer, tagged.trailer);
	assert_int_equal(lsm_tag_of(&entry), 0x1122334455667788);
	assert_true(lsm_equal(lsm_user_value(&entry), slice_of("value")));
	lsm_memtable_next(&cursor);
	lsm_memtable_entry(&cursor, &entry);
	assert_true(lsm_is_delete(entry.trailer));
	assert_int_equal(lsm_tag_of(&entry), 99);
	assert_int_equal(lsm_user_value(&entry).size, 0);
}

static void test_fills_up_and_empties(void **state) {
	const arena_fixture *fixture = *state;
	lsm_memtable_cursor cursor = cursor_on(fixture);
	uint64_t empty_bytes = lsm_memtable_bytes(memtable);

	put(fixture, "a", 1, "a");
	assert_true(lsm_memtable_bytes(memtable) > empty_bytes);
	assert_int_equal(lsm_memtable_reserve(memtable, REGION_BYTES), 0);
	assert_int_equal(lsm_memtable_reserve(memtable, UINT64_MAX - 7), 0);
	assert_int_not_equal(lsm_memtable_reserve(memtable, REGION_BYTES - lsm_memtable_bytes(memtable)), 0);
	assert_int_equal(lsm_memtable_bytes(memtable), REGION_BYTES);
	assert_int_equal(lsm_memtable_reserve(memtable, 1), 0);
	lsm_memtable_reset(&fixture->arena, memtable, 2, 77);
	assert_int_equal(lsm_memtable_bytes(memtable), empty_bytes);
	assert_int_equal(memtable->number, 2);
	assert_int_equal(memtable->log_position, 77);
	assert_int_equal(atomic_load(&memtable->entries), 0);
	lsm_memtable_seek_first(&cursor);
	assert_int_equal(cursor.node, 0);
}

static void test_heights_are_spread(void **state) {
	const uint64_t flat = lsm_round_up(16 + 4 + 8, 8);
	unsigned higher = 0;
	uint64_t most = 0;

	(void)state;
	for (uint32_t i = 0; i < 100000; i++) {
		uint64_t bytes = lsm_memtable_node_bytes(fixture_seed(), i, 8, 0);

		assert_int_equal(bytes, lsm_memtable_node_bytes(fixture_seed(), i, 8, 0));
		higher += bytes > flat + 4; /* more than two levels: 1/16, of which units of 8 show 3 and up */
		most = bytes > most ? bytes : most;
	}
	assert_in_range(higher, 5000, 7500);
	assert_in_range(most, flat + 16, 16 + 4 * LSM_MEMTABLE_MAX_HEIGHT + 8);
}

/* ---- Against a sorted array ------------------------------------------------------------------------------ */

typedef struct model_entry {
	lsm_entry entry;
	char key[40];
	char value[8];
} model_entry;

static model_entry model[MODEL_ENTRIES];
static const model_entry *sorted[MODEL_ENTRIES];

static int compare_model(const void *a, const void *b) {
	const model_entry *const *left = a;
	const model_entry *const *right = b;
	int order =
		lsm_compare_versions((*left)->entry.key, (*left)->entry.trailer, (*right)->entry.key, (*right)->entry.trailer);

	return order != 0 ? order : (*left < *right) - (*left > *right); /* the later of equals first */
}

/* Few different keys and sequences, with long common beginnings and all lengths around the words that are compared. */
static aidb_slice draw_key(uint64_t *random, char *key) {
	size_t size = fixture_random(random) % 28;

	memset(key, 'x', size);
	for (unsigned change = 0; change < 2 && size > 0; change++) {
		key[fixture_random(random) % size] = (char)(fixture_random(random) % 2 != 0 ? 0xfe : 'a');
	}
	return (aidb_slice){key, size};
}

static void fill_model(const arena_fixture *fixture, uint64_t *random) {
	for (unsigned i = 0; i < MODEL_ENTRIES; i++) {
		model_entry *made = &model[i];

		made->entry.key = draw_key(random, made->key);
		made->entry.trailer = lsm_trailer(1 + fixture_random(random) % 20, LSM_KIND_PUT);
		snprintf(made->value, sizeof(made->value), "%u", i);
		made->entry.value = slice_of(made->value);
		insert(fixture, &made->entry, 0, fixture_random(random));
		sorted[i] = made;
	}
	qsort(sorted, MODEL_ENTRIES, sizeof(sorted[0]), compare_model);
}

static void assert_is(const lsm_memtable_cursor *cursor, unsigned index) {
	lsm_entry entry;

	if (index >= MODEL_ENTRIES) {
		assert_int_equal(cursor->node, 0);
		return;
	}
	assert_int_not_equal(cursor->node, 0);
	lsm_memtable_entry(cursor, &entry);
	assert_true(lsm_equal(entry.key, sorted[index]->entry.key));
	assert_int_equal(entry.trailer, sorted[index]->entry.trailer);
	assert_true(lsm_equal(entry.value, sorted[index]->entry.value));
}

static unsigned first_at_or_after(aidb_slice key, uint64_t trailer) {
	unsigned index = 0;

	while (index < MODEL_ENTRIES &&
		   lsm_compare_versions(sorted[index]->entry.key, sorted[index]->entry.trailer, key, trailer) < 0) {
		index++;
	}
	return index;
}

static void test_agrees_with_a_sorted_array(void **state) {
	const arena_fixture *fixture = *state;
	lsm_memtable_cursor cursor = cursor_on(fixture);
	uint64_t random = fixture_seed();
	char key[40];

	fill_model(fixture, &random);
	lsm_memtable_seek_first(&cursor);
	for (unsigned i = 0; i < MODEL_ENTRIES; i++, lsm_memtable_next(&cursor)) {
		assert_is(&cursor, i);
	}
	assert_int_equal(cursor.node, 0);
	lsm_memtable_seek_last(&cursor);
	for (unsigned i = MODEL_ENTRIES; i-- > 0; lsm_memtable_prev(&cursor)) {
		assert_is(&cursor, i);
	}
	assert_int_equal(cursor.node, 0);
	for (unsigned i = 0; i < 3000; i++) {
		aidb_slice target = draw_key(&random, key);
		uint64_t trailer = lsm_seek_trailer(fixture_random(&random) % 24);
		unsigned index = first_at_or_after(target, trailer);

		lsm_memtable_seek(&cursor, target, trailer);
		assert_is(&cursor, index);
		lsm_memtable_seek_before(&cursor, target, trailer);
		assert_is(&cursor, index - 1); /* wraps to "none" at the beginning */
	}
}

/* ---- Many members ------------------------------------------------------------------------------------------ */

/* The i-th entry of a writer: half of them versions of one key, so that all writers want the same place. */
static lsm_entry entry_of(unsigned writer, unsigned i, char *key, char *value) {
	uint64_t mix = (uint64_t)i * WRITERS + writer;
	uint64_t spread = fixture_random(&mix);

	snprintf(key, 24, "%016llx", (unsigned long long)(i % 2 == 0 ? 0 : spread));
	snprintf(value, 24, "%u.%u", writer, i);
	return (lsm_entry){slice_of(key), lsm_trailer((uint64_t)i * WRITERS + writer + 1, LSM_KIND_PUT), slice_of(value)};
}

static lsm_ref reserve(arena_fixture *fixture, uint64_t bytes) {
	lsm_ref piece = 0;

	if (lsm_latch_acquire(&fixture->arena.waiting, &fixture->shared->latch)) {
		piece = lsm_memtable_reserve(memtable, bytes);
		lsm_latch_release(&fixture->arena.waiting, &fixture->shared->latch);
	}
	EXPECT(fixture, piece != 0);
	return piece;
}

/* Inserts in batches of four, each in one piece. */
static void write_entries(arena_fixture *fixture, unsigned writer) {
	char key[24];
	char value[24];

	atomic_fetch_add(&fixture->shared->words[STARTED], 1);
	EXPECT(fixture, fixture_await(&fixture->shared->words[STARTED], WRITERS));
	for (unsigned i = 0; i < INSERTS; i += 4) {
		uint64_t bytes = 0;
		lsm_ref piece;

		for (unsigned k = i; k < i + 4; k++) {
			lsm_entry entry = entry_of(writer, k, key, value);

			bytes += lsm_memtable_node_bytes(writer, k, entry.key.size, entry.value.size);
		}
		piece = reserve(fixture, bytes);
		for (unsigned k = i; k < i + 4; k++) {
			lsm_entry entry = entry_of(writer, k, key, value);

			lsm_memtable_insert(&fixture->arena, memtable, &piece, writer, k, &entry, 0);
		}
	}
	atomic_fetch_add(&fixture->shared->words[DONE], 1);
}

static bool is_in_order(const lsm_entry *a, const lsm_entry *b) {
	return lsm_compare_versions(a->key, a->trailer, b->key, b->trailer) < 0;
}

/* Entries from one end to the other; each must come after the one before. */
static unsigned scan(arena_fixture *fixture, bool forward) {
	lsm_memtable_cursor cursor = cursor_on(fixture);
	lsm_entry previous = {{NULL, 0}, 0, {NULL, 0}};
	lsm_entry entry;
	unsigned count = 0;

	forward ? lsm_memtable_seek_first(&cursor) : lsm_memtable_seek_last(&cursor);
	while (cursor.node != 0) {
		lsm_memtable_entry(&cursor, &entry);
		EXPECT(fixture, entry.key.size == 16 && memchr(entry.value.data, '.', entry.value.size) != NULL);
		EXPECT(fixture, count == 0 || (forward ? is_in_order(&previous, &entry) : is_in_order(&entry, &previous)));
		previous = entry;
		count++;
		forward ? lsm_memtable_next(&cursor) : lsm_memtable_prev(&cursor);
	}
	return count;
}

static void read_entries(arena_fixture *fixture, unsigned reader) {
	unsigned before = 0;

	do {
		unsigned count = scan(fixture, reader % 2 == 0);

		/* A scan meets at least what the one before it met: nothing is ever unlinked. */
		EXPECT(fixture, count >= before);
		before = count;
	} while (atomic_load(&fixture->shared->words[DONE]) < WRITERS);
}

static void write_or_read(arena_fixture *fixture, unsigned number, void *argument) {
	(void)argument;
	if (number < WRITERS) {
		write_entries(fixture, number);
	} else {
		read_entries(fixture, number);
	}
}

static void assert_all_found(arena_fixture *fixture) {
	lsm_memtable_cursor cursor = cursor_on(fixture);
	char key[24];
	char value[24];

	for (unsigned writer = 0; writer < WRITERS; writer++) {
		for (unsigned i = 0; i < INSERTS; i++) {
			lsm_entry wanted = entry_of(writer, i, key, value);
			lsm_entry found;

			lsm_memtable_seek(&cursor, wanted.key, wanted.trailer);
			assert_int_not_equal(cursor.node, 0);
			lsm_memtable_entry(&cursor, &found);
			assert_true(lsm_equal(found.key, wanted.key) && found.trailer == wanted.trailer);
			assert_true(lsm_equal(found.value, wanted.value));
		}
	}
	assert_int_equal(atomic_load(&memtable->entries), WRITERS * INSERTS);
	assert_int_equal(scan(fixture, true), WRITERS * INSERTS);
	assert_int_equal(scan(fixture, false), WRITERS * INSERTS);
}

static void test_threads_insert_and_scan(void **state) {
	arena_fixture *fixture = *state;

	fixture_run_threads(fixture, WRITERS + READERS, write_or_read, NULL);
	assert_all_found(fixture);
	assert_int_equal(fixture_failures(fixture), 0);
}

static void test_processes_insert_and_scan(void **state) {
	arena_fixture *fixture = *state;

	fixture_run_processes(fixture, WRITERS + READERS, write_or_read, NULL);
	assert_all_found(fixture);
	assert_int_equal(fixture_failures(fixture), 0);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void) {
	const struct CMUnitTest tests[] = {
		CASE(test_empty),
		CASE(test_order_of_versions),
		CASE(test_later_of_equal_versions_comes_first),
		CASE(test_tag_is_put_before_the_value),
		CASE(test_fills_up_and_empties),
		CASE(test_heights_are_spread),
		CASE(test_agrees_with_a_sorted_array),
		CASE(test_threads_insert_and_scan),
		CASE(test_processes_insert_and_scan),
	};

	fixture_seed();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
