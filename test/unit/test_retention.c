#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "store/lookup.h"
#include "store/retention.h"
#include "store_fixture.h"
#include "table_fixture.h"

#define ROUNDS 4000u
#define KEYS 4u
#define SEQUENCES 20u

static aidb_tag_fate fates[SEQUENCES + 1]; /* of tags */
static bool bottom;
static uint32_t fates_asked;

static aidb_tag_fate fate_of(void *context, aidb_tag tag) {
	(void)context;
	assert_in_range(tag, 1, SEQUENCES);
	fates_asked++;
	return fates[tag];
}

static const aidb_host host = {.tag_fate = fate_of};

static bool is_bottom(void *argument, aidb_slice key) {
	(void)argument;
	(void)key;
	return bottom;
}

static void add_tagged(entry_list *list, const char *key, aidb_sequence sequence, unsigned kind, aidb_tag tag) {
	uint64_t value[2] = {tag, sequence * 1000};

	entries_add(list, text(key), lsm_trailer(sequence, kind | LSM_KIND_TAGGED), (aidb_slice){value, sizeof(value)});
}

/* What is kept of the list. */
static void retain(const entry_list *list, const aidb_sequence *snapshots, uint32_t count, entry_list *kept) {
	lsm_retention retention = {.snapshots = snapshots, .snapshot_count = count, .host = &host, .is_bottom = is_bottom};

	for (uint32_t i = 0; i < list->count; i++) {
		lsm_entry entry = list->entries[i];

		if (lsm_retention_keep(&retention, &entry)) {
			entries_add(kept, entry.key, entry.trailer, entry.value);
		}
	}
}

/* The list of sequences kept of the only key, as text. */
static void assert_kept(const entry_list *list, const aidb_sequence *snapshots, uint32_t count, const char *expected) {
	entry_list kept = {0};
	char shown[256] = "";

	retain(list, snapshots, count, &kept);
	for (uint32_t i = 0; i < kept.count; i++) {
		uint64_t trailer = kept.entries[i].trailer;
		size_t length = strlen(shown);

		snprintf(shown + length, sizeof(shown) - length, "%s%u%s%s", i > 0 ? " " : "",
				 (unsigned)lsm_sequence_of(trailer), lsm_is_delete(trailer) ? "d" : "",
				 lsm_is_tagged(trailer) ? "t" : "");
	}
	assert_string_equal(shown, expected);
	entries_free(&kept);
}

static void test_snapshots(void **state) {
	entry_list list = {0};

	(void)state;
	bottom = false;
	for (aidb_sequence sequence = 10; sequence >= 1; sequence--) {
		entries_add_text(&list, "k", sequence, "v");
	}
	assert_kept(&list, (const aidb_sequence[]){20}, 1, "10");
	assert_kept(&list, (const aidb_sequence[]){10}, 1, "10");
	assert_kept(&list, (const aidb_sequence[]){7}, 1, "10 9 8 7");
	assert_kept(&list, (const aidb_sequence[]){2, 5, 7}, 3, "10 9 8 7 5 2");
	assert_kept(&list, (const aidb_sequence[]){0}, 1, "10 9 8 7 6 5 4 3 2 1");
	entries_free(&list);
}

static void test_gaps(void **state) {
	entry_list list = {0};

	(void)state;
	entries_add_text(&list, "k", 20, "v");
	entries_add_text(&list, "k", 10, "v");
	entries_add_text(&list, "k", 3, "v");
	assert_kept(&list, (const aidb_sequence[]){5, 6, 30}, 3, "20 3");
	assert_kept(&list, (const aidb_sequence[]){12, 15, 30}, 3, "20 10");
	assert_kept(&list, (const aidb_sequence[]){1, 2}, 2, "20 10 3");
	entries_free(&list);
}

static void test_duplicates(void **state) {
	entry_list list = {0}, kept = {0};

	(void)state;
	entries_add_text(&list, "k", 5, "later operation");
	entries_add_text(&list, "k", 5, "earlier operation");
	entries_add_text(&list, "l", 5, "another key");
	retain(&list, (const aidb_sequence[]){0}, 1, &kept);
	assert_int_equal(kept.count, 2);
	assert_true(lsm_equal(kept.entries[0].value, text("later operation")));
	entries_free(&kept);
	entries_free(&list);
}

static void test_tombstones(void **state) {
	entry_list list = {0};

	(void)state;
	entries_add_text(&list, "k", 9, NULL);
	entries_add_text(&list, "k", 5, "v");
	bottom = false;
	assert_kept(&list, (const aidb_sequence[]){20}, 1, "9d");
	bottom = true;
	assert_kept(&list, (const aidb_sequence[]){20}, 1, "");
	assert_kept(&list, (const aidb_sequence[]){9}, 1, "");
	assert_kept(&list, (const aidb_sequence[]){8}, 1, "9d 5");
	assert_kept(&list, (const aidb_sequence[]){6, 20}, 2, "9d 5");
	assert_kept(&list, (const aidb_sequence[]){2, 20}, 2, "9d"); /* the oldest may see what the merge does not have */
	entries_free(&list);
}

static void test_tags(void **state) {
	entry_list list = {0}, kept = {0};

	(void)state;
	bottom = true;
	add_tagged(&list, "k", 9, LSM_KIND_PUT, 1);
	add_tagged(&list, "k", 8, LSM_KIND_DELETE, 2);
	entries_add_text(&list, "k", 5, "v");
	add_tagged(&list, "k", 4, LSM_KIND_PUT, 3);
	fates[1] = fates[2] = fates[3] = AIDB_TAG_OPEN;
	assert_kept(&list, (const aidb_sequence[]){20}, 1, "9t 8dt 5");       /* 5 hides the one below, open or not */
	assert_kept(&list, (const aidb_sequence[]){1, 20}, 2, "9t 8dt 5 4t"); /* to the reader at 1, that one is news */
	fates[1] = AIDB_TAG_ABORTED;
	assert_kept(&list, (const aidb_sequence[]){20}, 1, "8dt 5");
	fates[2] = AIDB_TAG_COMMITTED;
	assert_kept(&list, (const aidb_sequence[]){20}, 1, "");
	assert_kept(&list, (const aidb_sequence[]){6, 20}, 2, "8d 5");
	fates[1] = AIDB_TAG_COMMITTED;
	retain(&list, (const aidb_sequence[]){20}, 1, &kept);
	assert_int_equal(kept.count, 1);
	assert_int_equal(kept.entries[0].trailer, lsm_trailer(9, LSM_KIND_PUT));
	assert_int_equal(kept.entries[0].value.size, 8);
	assert_int_equal(lsm_get_u64(kept.entries[0].value.data), 9000);
	entries_free(&kept);
	entries_free(&list);
}

/* The fate of one tag is asked for once in a row. */
static void test_asks_once(void **state) {
	entry_list list = {0}, kept = {0};

	(void)state;
	fates[7] = AIDB_TAG_COMMITTED;
	add_tagged(&list, "a", 3, LSM_KIND_PUT, 7);
	add_tagged(&list, "b", 3, LSM_KIND_PUT, 7);
	add_tagged(&list, "c", 3, LSM_KIND_PUT, 7);
	fates_asked = 0;
	retain(&list, (const aidb_sequence[]){20}, 1, &kept);
	assert_int_equal(fates_asked, 1);
	entries_free(&kept);
	entries_free(&list);
}

/* ---- No reader sees a difference ----------------------------------------------------------------------------- */

/* Readers agree about committed and aborted tags; about open ones each reader has his own view, a bit a tag. */
static bool sees_tag(void *argument, aidb_tag tag) {
	uint64_t seen = *(const uint64_t *)argument;

	return fates[tag] == AIDB_TAG_COMMITTED || (fates[tag] == AIDB_TAG_OPEN && (seen >> tag & 1) != 0);
}

/* The sequence that the reader finds for the key, 0 for none or a tombstone. */
static aidb_sequence find(const entry_list *list, aidb_slice key, aidb_sequence sequence, uint64_t seen_tags) {
	lsm_view view = {.sequence = sequence, .tag_visible = sees_tag, .tag_argument = &seen_tags};

	for (uint32_t i = 0; i < list->count; i++) {
		const lsm_entry *entry = &list->entries[i];

		if (lsm_equal(entry->key, key) && lsm_view_sees(&view, entry)) {
			return lsm_is_delete(entry->trailer) ? 0 : lsm_sequence_of(entry->trailer);
		}
	}
	return 0;
}

static void fill(entry_list *list, uint64_t *seed) {
	for (uint64_t i = 1 + store_random_below(seed, 40); i > 0; i--) {
		aidb_sequence sequence = 1 + store_random_below(seed, SEQUENCES);
		unsigned kind = store_random_below(seed, 3) == 0 ? LSM_KIND_DELETE : LSM_KIND_PUT;
		char key[2] = {(char)('a' + store_random_below(seed, KEYS)), '\0'};

		if (store_random_below(seed, 3) == 0) {
			add_tagged(list, key, sequence, kind, sequence);
		} else {
			entries_add_text(list, key, sequence, kind == LSM_KIND_DELETE ? NULL : "v");
		}
	}
	entries_sort(list);
}

/* The open tags of the key's versions that are newer than what the reader finds, a bit a tag. */
static uint64_t unseen_tags(const entry_list *list, aidb_slice key, aidb_sequence sequence, uint64_t seen_tags) {
	lsm_view view = {.sequence = sequence, .tag_visible = sees_tag, .tag_argument = &seen_tags};
	uint64_t unseen = 0;

	for (uint32_t i = 0; i < list->count; i++) {
		const lsm_entry *entry = &list->entries[i];

		if (!lsm_equal(entry->key, key)) {
			continue;
		}
		if (lsm_view_sees(&view, entry)) {
			break;
		}
		if (lsm_is_tagged(entry->trailer) && fates[lsm_tag_of(entry)] == AIDB_TAG_OPEN) {
			unseen |= 1ull << lsm_tag_of(entry);
		}
	}
	return unseen;
}

static void check_readers(const entry_list *list, const entry_list *kept, aidb_sequence sequence, uint64_t *seed) {
	uint64_t seen_tags = store_random(seed);

	for (uint32_t i = 0; i < KEYS; i++) {
		char key[2] = {(char)('a' + i), '\0'};

		assert_int_equal(find(list, text(key), sequence, seen_tags), find(kept, text(key), sequence, seen_tags));
		assert_int_equal(unseen_tags(list, text(key), sequence, seen_tags),
						 unseen_tags(kept, text(key), sequence, seen_tags));
	}
}

static void test_readers_see_the_same(void **state) {
	uint64_t seed = store_seed("test_retention");

	(void)state;
	for (uint32_t round = 0; round < ROUNDS; round++) {
		entry_list list = {0}, kept = {0};
		aidb_sequence snapshots[SEQUENCES], sequence = 0;
		uint32_t count = 0;

		while (count == 0 || (count < 4 && sequence < SEQUENCES)) {
			sequence += 1 + store_random_below(&seed, 8);
			snapshots[count++] = sequence;
		}
		for (uint32_t tag = 1; tag <= SEQUENCES; tag++) {
			fates[tag] = (aidb_tag_fate)store_random_below(&seed, 3);
		}
		bottom = store_random_below(&seed, 2) == 0;
		fill(&list, &seed);
		retain(&list, snapshots, count, &kept);
		for (uint32_t i = 0; i < count; i++) {
			check_readers(&list, &kept, snapshots[i], &seed);
		}
		for (sequence = snapshots[count - 1]; sequence <= SEQUENCES + 1; sequence++) {
			check_readers(&list, &kept, sequence, &seed);
		}
		entries_free(&kept);
		entries_free(&list);
	}
}

int main(void) {
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_snapshots),
		cmocka_unit_test(test_gaps),
		cmocka_unit_test(test_duplicates),
		cmocka_unit_test(test_tombstones),
		cmocka_unit_test(test_tags),
		cmocka_unit_test(test_asks_once),
		cmocka_unit_test(test_readers_see_the_same),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
