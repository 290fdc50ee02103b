#include "placement/slot_map.h"

#include <math.h>
#include <string.h>

typedef struct loads {
	uint32_t count[AIDB_MAX_GROUPS];
	uint32_t limit[AIDB_MAX_GROUPS];
} loads;

static bool has_room(void *argument, uint32_t group) {
	const loads *load = argument;

	return load->count[group] < load->limit[group];
}

static void set_limits(const aidb_ring *ring, loads *load) {
	double total = 0;

	for (uint32_t i = 0; i < ring->group_count; i++) {
		total += ring->groups[i].weight;
	}
	for (uint32_t i = 0; i < ring->group_count; i++) {
		load->limit[i] = (uint32_t)ceil(AIDB_SLOTS * ring->groups[i].weight / total * AIDB_LOAD_BOUND);
	}
}

bool aidb_slot_map_place(aidb_slot_map *map, const aidb_ring_group *groups, uint32_t count) {
	aidb_ring ring = {.places = NULL};
	loads load;

	if (!aidb_ring_build(&ring, groups, count)) {
		return false;
	}
	memset(&load, 0, sizeof(load));
	set_limits(&ring, &load);
	for (uint32_t slot = 0; slot < AIDB_SLOTS; slot++) {
		/* apart from the places of groups, whose numbers are above 2^32 */
		uint32_t group = aidb_ring_find_if(&ring, aidb_ring_hash(slot), has_room, &load);

		load.count[group]++;
		map->group[slot] = ring.groups[group].id;
	}
	map->version++;
	aidb_ring_free(&ring);
	return true;
}

uint32_t aidb_slot_map_count(const aidb_slot_map *map, uint32_t group) {
	uint32_t count = 0;

	for (uint32_t slot = 0; slot < AIDB_SLOTS; slot++) {
		count += map->group[slot] == group;
	}
	return count;
}

uint32_t aidb_slot_map_moved(const aidb_slot_map *from, const aidb_slot_map *to) {
	uint32_t moved = 0;

	for (uint32_t slot = 0; slot < AIDB_SLOTS; slot++) {
		moved += from->group[slot] != to->group[slot];
	}
	return moved;
}
