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

static aidb_pool *pool_of_group(const aidb_client_group *group, const aidb_pool_target *target) {
	if (aidb_pool_is_for(group->pool, target)) {
		return group->pool;
	}
	for (uint32_t i = 0; i < group->replica_count; i++) {
		if (aidb_pool_is_for(group->replicas[i].pool, target)) {
			return group->replicas[i].pool;
		}
	}
	return NULL;
}

/* A pool of the former topology that is good for this node, or a new one. */
static aidb_pool *pool_for(const aidb_topology *former, const aidb_pool_target *target, uint32_t limit) {
	for (uint32_t i = 0; former != NULL && i < former->group_count; i++) {
		aidb_pool *pool = pool_of_group(&former->groups[i], target);

		if (pool != NULL) {
			aidb_pool_hold(pool);
			return pool;
		}
	}
	return aidb_pool_create(target, limit);
}

static void take_groups(aidb_topology *topology, const PGresult *result) {
	for (int row = 0; row < PQntuples(result) && topology->group_count < AIDB_MAX_GROUPS; row++) {
		aidb_client_group *group = &topology->groups[topology->group_count++];

		group->id = (uint32_t)strtoul(PQgetvalue(result, row, 0), NULL, 10);
		snprintf(group->name, sizeof(group->name), "%s", PQgetvalue(result, row, 2));
		snprintf(group->node, sizeof(group->node), "%s", PQgetvalue(result, row, 3));
	}
}

/* To the primaries, once it is known which slots each has. */
static bool make_pools(aidb_topology *topology, const PGresult *groups, uint32_t limit, const aidb_topology *former) {
	for (uint32_t i = 0; i < topology->group_count; i++) {
		aidb_client_group *group = &topology->groups[i];
		aidb_pool_target target = {.conninfo = PQgetvalue(groups, (int)i, 4),
								   .epoch = strtoull(PQgetvalue(groups, (int)i, 1), NULL, 10),
								   .slots = group->slots};

		group->pool = pool_for(former, &target, limit);
		if (group->pool == NULL) {
			return false;
		}
	}
	return true;
}

static bool take_replicas(aidb_topology *topology, const PGresult *result, uint32_t limit,
						  const aidb_topology *former) {
	for (int row = 0; row < PQntuples(result); row++) {
		aidb_client_group *group =
			aidb_topology_group(topology, (uint32_t)strtoul(PQgetvalue(result, row, 0), NULL, 10));
		aidb_client_replica replica = {.is_cache = strcmp(PQgetvalue(result, row, 1), "cache") == 0};
		aidb_pool_target target = {.conninfo = PQgetvalue(result, row, 2)};

		if (group == NULL || group->replica_count == AIDB_MAX_REPLICAS) {
			continue;
		}
		target.slots = group->slots;
		snprintf(replica.node, sizeof(replica.node), "%s", PQgetvalue(result, row, 3));
		replica.pool = pool_for(former, &target, limit);
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
		aidb_client_group *group =
			aidb_topology_group(topology, (uint32_t)strtoul(PQgetvalue(result, row, 1), NULL, 10));

		if (slot < AIDB_SLOTS && group != NULL) {
			topology->group_of_slot[slot] = (uint16_t)(group - topology->groups);
			aidb_slot_set_add(&group->slots, (uint32_t)slot);
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

typedef struct catalog {
	PGresult *groups, *replicas, *slots;
} catalog;

/* So that what is read is of one moment. */
#define BEGIN "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"

static PGresult *read_table(PGconn *connection, const char *sql, uint64_t deadline_ms, char **error) {
	PGresult *result = *error != NULL ? NULL : aidb_socket_execute(connection, sql, deadline_ms);

	if (*error == NULL && result == NULL) {
		*error = strdup("the catalog does not answer");
	} else if (result != NULL && PQresultStatus(result) != PGRES_TUPLES_OK) {
		const char *message = PQresultErrorMessage(result);

		*error = strndup(message, strcspn(message, "\n"));
	}
	return result;
}

/* False: *error says what is wrong, or is NULL when memory is short. */
static bool fill(aidb_topology *topology, const catalog *read, uint32_t limit, const aidb_topology *former,
				 char **error) {
	if (PQntuples(read->groups) == 0) {
		*error = strdup("the cluster has no group; see aidb.add_group()");
		return false;
	}
	take_groups(topology, read->groups);
	if (!take_slots(topology, read->slots)) {
		*error = strdup("the catalog does not place all slots");
		return false;
	}
	return make_pools(topology, read->groups, limit, former) && take_replicas(topology, read->replicas, limit, former);
}

static aidb_topology *make(const catalog *read, uint32_t limit, const aidb_topology *former, char **error) {
	aidb_topology *topology = calloc(1, sizeof(*topology));

	if (topology != NULL && !fill(topology, read, limit, former, error)) {
		aidb_topology_free(topology);
		return NULL;
	}
	if (topology != NULL) {
		topology->holders = 1;
	}
	return topology;
}

aidb_topology *aidb_topology_read(const char *conninfo, uint32_t limit, const aidb_topology *former,
								  uint64_t deadline_ms, char **error) {
	PGconn *connection = aidb_socket_connect(conninfo, "", deadline_ms, error);
	aidb_topology *topology = NULL;
	catalog read = {0};

	if (connection == NULL) {
		return NULL;
	}
	PQclear(aidb_socket_execute(connection, BEGIN, deadline_ms)); /* if that fails, so does what follows */
	read.groups = read_table(connection, READ_GROUPS, deadline_ms, error);
	read.replicas = read_table(connection, READ_REPLICAS, deadline_ms, error);
	read.slots = read_table(connection, READ_SLOTS, deadline_ms, error);
	if (*error == NULL && read.slots != NULL) {
		topology = make(&read, limit, former, error);
	}
	PQclear(read.groups);
	PQclear(read.replicas);
	PQclear(read.slots);
	PQfinish(connection);
	return topology;
}
