#include "client/topology.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/socket.h"

#define READ_GROUPS                                                                                                    \
	"SELECT g.group_id, g.epoch, g.name, n.name, n.conninfo FROM aidb.node_group g"                                    \
	" JOIN aidb.node n ON n.node_id = g.primary_id ORDER BY g.group_id"
#define READ_REPLICAS                                                                                                  \
	"SELECT m.group_id, m.role, n.conninfo, n.name FROM aidb.member m JOIN aidb.node n USING (node_id)"                \
	" JOIN aidb.node_group g USING (group_id) WHERE n.node_id <> g.primary_id AND n.state = 'up' ORDER BY n.node_id"
#define READ_SLOTS "SELECT slot, group_id FROM aidb.slot ORDER BY slot"

static aidb_pool *pool_of_group(const aidb_client_group *group, const char *conninfo, uint64_t epoch) {
	if (aidb_pool_is_for(group->pool, conninfo, epoch)) {
		return group->pool;
	}
	for (uint32_t i = 0; i < group->replica_count; i++) {
		if (aidb_pool_is_for(group->replicas[i].pool, conninfo, epoch)) {
			return group->replicas[i].pool;
		}
	}
	return NULL;
}

/* A pool of the former topology that is good for this node, or a new one. */
static aidb_pool *pool_for(const aidb_topology *former, const char *conninfo, uint64_t epoch, uint32_t limit) {
	for (uint32_t i = 0; former != NULL && i < former->group_count; i++) {
		aidb_pool *pool = pool_of_group(&former->groups[i], conninfo, epoch);

		if (pool != NULL) {
			aidb_pool_hold(pool);
			return pool;
		}
	}
	return aidb_pool_create(conninfo, epoch, limit);
}

static bool take_groups(aidb_topology *topology, const PGresult *result, uint32_t limit, const aidb_topology *former) {
	for (int row = 0; row < PQntuples(result) && topology->group_count < AIDB_MAX_GROUPS; row++) {
		aidb_client_group *group = &topology->groups[topology->group_count];

		group->id = (uint32_t)strtoul(PQgetvalue(result, row, 0), NULL, 10);
		snprintf(group->name, sizeof(group->name), "%s", PQgetvalue(result, row, 2));
		snprintf(group->node, sizeof(group->node), "%s", PQgetvalue(result, row, 3));
		group->pool =
			pool_for(former, PQgetvalue(result, row, 4), strtoull(PQgetvalue(result, row, 1), NULL, 10), limit);
		if (group->pool == NULL) {
			return false;
		}
		topology->group_count++;
	}
	return true;
}

static bool take_replicas(aidb_topology *topology, const PGresult *result, uint32_t limit,
						  const aidb_topology *former) {
	for (int row = 0; row < PQntuples(result); row++) {
		aidb_client_group *group =
			aidb_topology_group(topology, (uint32_t)strtoul(PQgetvalue(result, row, 0), NULL, 10));
		aidb_client_replica replica = {.is_cache = strcmp(PQgetvalue(result, row, 1), "cache") == 0};

		if (group == NULL || group->replica_count == AIDB_MAX_REPLICAS) {
			continue;
		}
		snprintf(replica.node, sizeof(replica.node), "%s", PQgetvalue(result, row, 3));
		replica.pool = pool_for(former, PQgetvalue(result, row, 2), 0, limit);
		if (replica.pool == NULL) {
			return false;
		}
		group->replicas[group->replica_count++] = replica;
	}
	return true;
}

aidb_client_group *aidb_topology_group(aidb_topology *topology, uint32_t id) {
	for (uint32_t i = 0; i < topology->group_count; i++) {
		if (topology->groups[i].id == id) {
			return &topology->groups[i];
		}
	}
	return NULL;
}

/* False: not every slot has a group. */
static bool take_slots(aidb_topology *topology, const PGresult *result) {
	uint32_t placed = 0;

	for (int row = 0; row < PQntuples(result); row++) {
		unsigned long slot = strtoul(PQgetvalue(result, row, 0), NULL, 10);
		const aidb_client_group *group =
			aidb_topology_group(topology, (uint32_t)strtoul(PQgetvalue(result, row, 1), NULL, 10));

		if (slot < AIDB_SLOTS && group != NULL) {
			topology->group_of_slot[slot] = (uint16_t)(group - topology->groups);
			placed++;
		}
	}
	return placed == AIDB_SLOTS;
}

void aidb_topology_free(aidb_topology *topology) {
	if (topology != NULL) {
		for (uint32_t i = 0; i < topology->group_count; i++) {
			aidb_pool_release(topology->groups[i].pool);
			for (uint32_t j = 0; j < topology->groups[i].replica_count; j++) {
				aidb_pool_release(topology->groups[i].replicas[j].pool);
			}
		}
		free(topology);
	}
}

/* NULL on success, else what is wrong. */
static const char *fill(aidb_topology *topology, PGconn *connection, uint32_t limit, const aidb_topology *former,
						uint64_t deadline_ms) {
	PGresult *groups = aidb_socket_execute(connection, READ_GROUPS, deadline_ms);
	PGresult *replicas = groups == NULL ? NULL : aidb_socket_execute(connection, READ_REPLICAS, deadline_ms);
	PGresult *slots = replicas == NULL ? NULL : aidb_socket_execute(connection, READ_SLOTS, deadline_ms);
	const char *wrong = NULL;

	if (slots == NULL) {
		wrong = "the catalog does not answer";
	} else if (PQresultStatus(groups) != PGRES_TUPLES_OK || PQresultStatus(replicas) != PGRES_TUPLES_OK ||
			   PQresultStatus(slots) != PGRES_TUPLES_OK) {
		wrong = "the catalog cannot be read; is this the coordinator's database, with the extension aidb?";
	} else if (PQntuples(groups) == 0) {
		wrong = "the cluster has no group; see aidb.add_group()";
	} else if (!take_groups(topology, groups, limit, former) || !take_replicas(topology, replicas, limit, former)) {
		wrong = "out of memory";
	} else if (!take_slots(topology, slots)) {
		wrong = "the catalog does not place all slots";
	}
	PQclear(groups);
	PQclear(replicas);
	PQclear(slots);
	return wrong;
}

aidb_topology *aidb_topology_read(const char *conninfo, uint32_t limit, const aidb_topology *former,
								  uint64_t deadline_ms, char **error) {
	PGconn *connection = aidb_socket_connect(conninfo, "", deadline_ms, error);
	aidb_topology *topology = connection == NULL ? NULL : calloc(1, sizeof(*topology));
	const char *wrong = topology == NULL ? NULL : fill(topology, connection, limit, former, deadline_ms);

	PQfinish(connection);
	if (wrong != NULL) {
		*error = strdup(wrong);
		aidb_topology_free(topology);
		return NULL;
	}
	if (topology != NULL) {
		topology->holders = 1;
	}
	return topology;
}
