/*
 * slot_map.h: which group keeps which slot. The map is what counts, not the ring: the ring only proposes one, so that a change
 * of groups moves little more than has to be moved.
 */
#ifndef AIDB_SLOT_MAP_H
#define AIDB_SLOT_MAP_H

#include "placement/ring.h"
#include "placement/slot.h"

/* No group has more than its share of the slots, by weight, times this, rounded up. */
#define AIDB_LOAD_BOUND 1.05

typedef struct aidb_slot_map {
	uint64_t version;
	uint32_t group[AIDB_SLOTS]; /* id; 0: nobody's yet */
} aidb_slot_map;

/*
 * The map for these groups: each slot goes to the first group on the ring, from the slot's place on, that has room. Depends on
 * the groups alone, so two maps differ by what a change of groups makes necessary, and by what the bound pushes on. False
 * when the groups are not valid (see aidb_ring_build); the map is unchanged then. The version is one more than before.
 */
bool aidb_slot_map_place(aidb_slot_map *map, const aidb_ring_group *groups, uint32_t count);

/* How many slots the group has, and how many have other groups in the two maps. */
uint32_t aidb_slot_map_count(const aidb_slot_map *map, uint32_t group);
uint32_t aidb_slot_map_moved(const aidb_slot_map *from, const aidb_slot_map *to);

#endif
