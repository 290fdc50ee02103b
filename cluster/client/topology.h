/*
 * topology.h: which group keeps which slot, and the nodes of each, as the catalog of the cluster said. Read once, and never changed:
 * a newer one takes its place, and shares the connections to nodes that are the same. Counted by who has it.
 */
#ifndef AIDB_TOPOLOGY_H
#define AIDB_TOPOLOGY_H

#include <stdint.h>

#include "client/pool.h"
#include "placement/ring.h"
#include "placement/slot_set.h"

#define AIDB_NAME_BYTES 64
#define AIDB_MAX_REPLICAS 8u /* of a group, that are made use of */

typedef struct aidb_client_replica {
	bool is_cache;
	char node[AIDB_NAME_BYTES];
	aidb_pool *pool;
} aidb_client_replica;

typedef struct aidb_client_group {
	uint32_t id;
	char name[AIDB_NAME_BYTES];
	char node[AIDB_NAME_BYTES]; /* its primary */
	aidb_pool *pool;            /* of that */
	aidb_slot_set slots;        /* that the group keeps */
	uint32_t replica_count;
	aidb_client_replica replicas[AIDB_MAX_REPLICAS]; /* that are up */
} aidb_client_group;

typedef struct aidb_topology {
	uint32_t holders;
	uint32_t group_count;
	aidb_client_group groups[AIDB_MAX_GROUPS];
	uint16_t group_of_slot[AIDB_SLOTS]; /* index into groups */
} aidb_topology;

/*
 * Reads it by a connection of its own. `former` may be NULL. NULL: failed, with *error to be freed (or NULL, out of memory). `limit` is
 * that of connections to a node.
 */
aidb_topology *aidb_topology_read(const char *conninfo, uint32_t limit, const aidb_topology *former,
								  uint64_t deadline_ms, char **error);
/* Not thread-safe by itself: the client counts under its lock. Releases the pools with the last holder. */
void aidb_topology_free(aidb_topology *topology);
/* The group with this id; NULL: there is none any more. */
aidb_client_group *aidb_topology_group(aidb_topology *topology, uint32_t id);

#endif
