/*
 * ring.h: a consistent-hash ring. Each group has places on it (virtual nodes) in proportion to its weight; a key belongs to the
 * group of the first place at or after its hash. When a group comes or goes, only keys of its own places move.
 *
 * Karger et al., "Consistent Hashing and Random Trees" (1997); virtual nodes as in Dynamo (2007). Placement with bounded load:
 * Mirrokni, Thorup, Zadimoghaddam, "Consistent Hashing with Bounded Loads" (2016). Hashes are XXH3 of numbers, so every machine
 * has the same ring.
 */
#ifndef AIDB_RING_H
#define AIDB_RING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define AIDB_MAX_GROUPS 256u
#define AIDB_RING_PLACES 128u /* of a group of weight 1 */
#define AIDB_MAX_WEIGHT 64.0  /* and at least 1 / 64 */

typedef struct aidb_ring_group {
	uint32_t id; /* never 0 */
	double weight;
} aidb_ring_group;

typedef struct aidb_ring_place {
	uint64_t hash;
	uint32_t group; /* index into the ring's groups */
} aidb_ring_place;

typedef struct aidb_ring {
	aidb_ring_group groups[AIDB_MAX_GROUPS];
	uint32_t group_count;
	aidb_ring_place *places; /* ascending */
	uint32_t place_count;
} aidb_ring;

/* Builds the ring; false when there is no group, or too many, an id is 0 or given twice, a weight out of range, or memory is
 * short. Release with aidb_ring_free. */
bool aidb_ring_build(aidb_ring *ring, const aidb_ring_group *groups, uint32_t count);
void aidb_ring_free(aidb_ring *ring);

uint64_t aidb_ring_hash(uint64_t number);
/* The group, by index, of the key with this hash. */
uint32_t aidb_ring_find(const aidb_ring *ring, uint64_t hash);
/* The first group from there on, going round, that `takes` says may have it; UINT32_MAX: none may. */
uint32_t aidb_ring_find_if(const aidb_ring *ring, uint64_t hash, bool (*takes)(void *argument, uint32_t group),
						   void *argument);

#endif
