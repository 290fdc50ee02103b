/* placement: how even rings and slot maps are, how little a change moves, and that all machines have the same. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <string.h>

#include "placement/slot_map.h"
#include "random.h"

#define KEYS 200000u

static uint32_t make_groups(aidb_ring_group *groups, uint32_t count) {
	for (uint32_t i = 0; i < count; i++) {
		groups[i] = (aidb_ring_group){.id = i + 1, .weight = 1};
	}
	return count;
}

static void slots_are_the_same_everywhere(void **state) {
	uint32_t counts[AIDB_SLOTS] = {0};

	(void)state;
	assert_int_equal(aidb_slot_of("", 0), 0x2d06800538d394c2ull % AIDB_SLOTS);
	for (uint32_t i = 0; i < KEYS; i++) {
		counts[aidb_slot_of(&i, sizeof(i))]++;
	}
	for (uint32_t slot = 0; slot < AIDB_SLOTS; slot++) {
		assert_true(fabs(counts[slot] - (double)KEYS / AIDB_SLOTS) < 6 * sqrt((double)KEYS / AIDB_SLOTS));
	}
}

/* Encoded here a byte at a time. */
static void slots_of_bytes_are_of_their_encoding(void **state) {
	test_random random = {.state = 1};

	(void)state;
	for (uint32_t round = 0; round < 10000; round++) {
		unsigned char bytes[40], encoded[2 * sizeof(bytes) + 2];
		size_t size = test_random_below(&random, sizeof(bytes)), used = 0;

		for (size_t i = 0; i < size; i++) {
			bytes[i] = test_random_below(&random, 3) == 0 ? 0 : (unsigned char)test_random_next(&random);
			encoded[used++] = bytes[i];
			if (bytes[i] == AIDB_KEY_ESCAPE) {
				encoded[used++] = AIDB_KEY_ESCAPED_ZERO;
			}
		}
		encoded[used++] = AIDB_KEY_ESCAPE;
		encoded[used++] = AIDB_KEY_ESCAPED_END;
		assert_int_equal(aidb_slot_of_bytes(bytes, size), aidb_slot_of(encoded, used));
	}
}

/* Max over mean of the keys of each group. */
static double unevenness(const aidb_ring *ring) {
	uint32_t counts[AIDB_MAX_GROUPS] = {0};
	double worst = 0, total = 0;

	for (uint32_t i = 0; i < ring->group_count; i++) {
		total += ring->groups[i].weight;
	}
	for (uint32_t key = 0; key < KEYS; key++) {
		counts[aidb_ring_find(ring, aidb_ring_hash(key))]++;
	}
	for (uint32_t i = 0; i < ring->group_count; i++) {
		double load = counts[i] / (KEYS * ring->groups[i].weight / total);

		worst = load > worst ? load : worst;
	}
	return worst;
}

static void rings_are_fairly_even(void **state) {
	aidb_ring_group groups[AIDB_MAX_GROUPS];
	double worst = 0;

	(void)state;
	for (uint32_t count = 2; count <= 16; count++) {
		aidb_ring ring;
		double uneven;

		assert_true(aidb_ring_build(&ring, groups, make_groups(groups, count)));
		assert_int_equal(ring.place_count, count * AIDB_RING_PLACES);
		uneven = unevenness(&ring);
		worst = uneven > worst ? uneven : worst;
		aidb_ring_free(&ring);
	}
	assert_true(worst > 1.05 && worst < 1.4);
}

static void weights_count(void **state) {
	aidb_ring_group groups[3] = {{7, 1}, {3, 2}, {5, 0.5}};
	aidb_slot_map map = {.version = 0};
	aidb_ring ring;

	(void)state;
	assert_true(aidb_ring_build(&ring, groups, 3));
	assert_true(unevenness(&ring) < 1.4);
	aidb_ring_free(&ring);
	assert_true(aidb_slot_map_place(&map, groups, 3));
	assert_in_range(aidb_slot_map_count(&map, 3), 128, (uint32_t)ceil(256 * 2 / 3.5 * 1.05));
	assert_in_range(aidb_slot_map_count(&map, 5), 20, (uint32_t)ceil(256 * 0.5 / 3.5 * 1.05));
}

static void only_the_keys_of_a_new_group_move(void **state) {
	aidb_ring_group groups[AIDB_MAX_GROUPS];
	aidb_ring before, after;
	uint32_t moved = 0;

	(void)state;
	assert_true(aidb_ring_build(&before, groups, make_groups(groups, 7)));
	assert_true(aidb_ring_build(&after, groups, make_groups(groups, 8)));
	for (uint32_t key = 0; key < KEYS; key++) {
		uint64_t hash = aidb_ring_hash(key);
		uint32_t from = before.groups[aidb_ring_find(&before, hash)].id;
		uint32_t to = after.groups[aidb_ring_find(&after, hash)].id;

		assert_true(from == to || to == 8);
		moved += from != to;
	}
	assert_in_range(moved, KEYS * 0.1, KEYS * 0.16);
	aidb_ring_free(&before);
	aidb_ring_free(&after);
}

/* No group has more than its share times 1.05, rounded up to whole slots. */
static void slot_maps_are_even(void **state) {
	aidb_ring_group groups[AIDB_MAX_GROUPS];

	(void)state;
	for (uint32_t count = 1; count <= 64; count++) {
		aidb_slot_map map = {.version = 4};

		assert_true(aidb_slot_map_place(&map, groups, make_groups(groups, count)));
		assert_int_equal(map.version, 5);
		for (uint32_t i = 0; i < count; i++) {
			assert_true(aidb_slot_map_count(&map, i + 1) <= ceil(256.0 / count * AIDB_LOAD_BOUND));
		}
		assert_int_equal(aidb_slot_map_count(&map, 0), 0);
	}
}

static void a_new_group_moves_little(void **state) {
	aidb_ring_group groups[AIDB_MAX_GROUPS];
	double worst = 0, sum = 0;

	(void)state;
	for (uint32_t count = 2; count <= 16; count++) {
		aidb_slot_map before = {.version = 0}, after = {.version = 0};
		double moved;

		assert_true(aidb_slot_map_place(&before, groups, make_groups(groups, count)));
		assert_true(aidb_slot_map_place(&after, groups, make_groups(groups, count + 1)));
		moved = aidb_slot_map_moved(&before, &after) / 256.0 * (count + 1); /* 1: what must be moved */
		if (count == 7) {
			assert_int_equal(aidb_slot_map_moved(&before, &after), 37); /* 14.5 % */
		}
		worst = moved > worst ? moved : worst;
		sum += moved;
	}
	assert_true(sum / 15 < 1.3);
	assert_true(worst < 1.7);
}

static uint64_t digest(const aidb_slot_map *map) {
	uint64_t sum = 0;

	for (uint32_t slot = 0; slot < AIDB_SLOTS; slot++) {
		sum = aidb_ring_hash(sum ^ map->group[slot]);
	}
	return sum;
}

/* A map that was made elsewhere, or long ago. */
static void maps_are_the_same_everywhere(void **state) {
	aidb_ring_group groups[3] = {{1, 1}, {2, 1}, {3, 1}}, mixed[3] = {{3, 1}, {1, 1}, {2, 1}};
	aidb_slot_map map = {.version = 0}, same = {.version = 0};

	(void)state;
	assert_true(aidb_slot_map_place(&map, groups, 3));
	assert_true(aidb_slot_map_place(&same, mixed, 3));
	assert_int_equal(aidb_slot_map_moved(&map, &same), 0);
	assert_true(digest(&map) == 0xe39235c608b9b6b6ull);
}

static void groups_that_make_no_sense_are_refused(void **state) {
	aidb_slot_map map = {.version = 3};
	aidb_ring_group twice[2] = {{1, 1}, {1, 1}}, none[1] = {{0, 1}}, heavy[1] = {{1, 65}}, light[1] = {{1, 0}},
					nan_weight[1] = {{1, NAN}};

	(void)state;
	assert_false(aidb_slot_map_place(&map, twice, 2));
	assert_false(aidb_slot_map_place(&map, none, 1));
	assert_false(aidb_slot_map_place(&map, heavy, 1));
	assert_false(aidb_slot_map_place(&map, light, 1));
	assert_false(aidb_slot_map_place(&map, nan_weight, 1));
	assert_false(aidb_slot_map_place(&map, twice, 0));
	assert_int_equal(map.version, 3);
}

int main(void) {
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(slots_are_the_same_everywhere),
		cmocka_unit_test(slots_of_bytes_are_of_their_encoding),
		cmocka_unit_test(rings_are_fairly_even),
		cmocka_unit_test(weights_count),
		cmocka_unit_test(only_the_keys_of_a_new_group_move),
		cmocka_unit_test(slot_maps_are_even),
		cmocka_unit_test(a_new_group_moves_little),
		cmocka_unit_test(maps_are_the_same_everywhere),
		cmocka_unit_test(groups_that_make_no_sense_are_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
