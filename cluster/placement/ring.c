#include "placement/ring.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

uint64_t aidb_ring_hash(uint64_t number) {
	uint8_t bytes[8];

	for (unsigned i = 0; i < sizeof(bytes); i++) {
		bytes[i] = (uint8_t)(number >> 8 * i);
	}
	return XXH3_64bits(bytes, sizeof(bytes));
}

static bool are_valid(const aidb_ring_group *groups, uint32_t count) {
	if (count == 0 || count > AIDB_MAX_GROUPS) {
		return false;
	}
	for (uint32_t i = 0; i < count; i++) {
		if (groups[i].id == 0 || !(groups[i].weight >= 1 / AIDB_MAX_WEIGHT && groups[i].weight <= AIDB_MAX_WEIGHT)) {
			return false;
		}
		for (uint32_t j = 0; j < i; j++) {
			if (groups[j].id == groups[i].id) {
				return false;
			}
		}
	}
	return true;
}

static uint32_t places_of(const aidb_ring_group *group) {
	return (uint32_t)(group->weight * AIDB_RING_PLACES + 0.5);
}

/* By hash; the id decides between equal ones, so that the order of the groups does not matter. */
static int compare(const void *a, const void *b) {
	const aidb_ring_place *left = a, *right = b;

	if (left->hash != right->hash) {
		return left->hash < right->hash ? -1 : 1;
	}
	return (left->group > right->group) - (left->group < right->group);
}

static int compare_ids(const void *a, const void *b) {
	uint32_t left = ((const aidb_ring_group *)a)->id, right = ((const aidb_ring_group *)b)->id;

	return (left > right) - (left < right);
}

bool aidb_ring_build(aidb_ring *ring, const aidb_ring_group *groups, uint32_t count) {
	uint32_t total = 0, at = 0;

	if (!are_valid(groups, count)) {
		return false;
	}
	memcpy(ring->groups, groups, count * sizeof(*groups));
	qsort(ring->groups, count, sizeof(*groups), compare_ids);
	for (uint32_t i = 0; i < count; i++) {
		total += places_of(&groups[i]);
	}
	ring->places = malloc(total * sizeof(*ring->places));
	if (ring->places == NULL) {
		return false;
	}
	for (uint32_t i = 0; i < count; i++) {
		for (uint32_t place = 0; place < places_of(&ring->groups[i]); place++) {
			uint64_t number = (uint64_t)ring->groups[i].id << 32 | place;

			ring->places[at++] = (aidb_ring_place){aidb_ring_hash(number), i};
		}
	}
	qsort(ring->places, total, sizeof(*ring->places), compare);
	ring->group_count = count;
	ring->place_count = total;
	return true;
}

void aidb_ring_free(aidb_ring *ring) {
	free(ring->places);
	ring->places = NULL;
	ring->place_count = 0;
}

/* The index of the first place at or after the hash, going round. */
static uint32_t first_place(const aidb_ring *ring, uint64_t hash) {
	uint32_t low = 0, high = ring->place_count;

	while (low < high) {
		uint32_t middle = low + (high - low) / 2;

		if (ring->places[middle].hash < hash) {
			low = middle + 1;
		} else {
			high = middle;
		}
	}
	return low == ring->place_count ? 0 : low;
}

uint32_t aidb_ring_find(const aidb_ring *ring, uint64_t hash) {
	return ring->places[first_place(ring, hash)].group;
}

uint32_t aidb_ring_find_if(const aidb_ring *ring, uint64_t hash, bool (*takes)(void *argument, uint32_t group),
						   void *argument) {
	uint32_t at = first_place(ring, hash);

	for (uint32_t i = 0; i < ring->place_count; i++) {
		uint32_t group = ring->places[at].group;

		if (takes(argument, group)) {
			return group;
		}
		at = at + 1 == ring->place_count ? 0 : at + 1;
	}
	return UINT32_MAX;
}
