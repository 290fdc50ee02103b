#include <stdlib.h>

#include "client/client.h"
#include "client/exchange.h"
#include "client/socket.h"

static bool no_parameters(void *argument, const aidb_part *part, size_t chunk, const char **values, int *sizes,
						  int *count) {
	(void)argument;
	(void)part;
	(void)chunk;
	(void)values;
	(void)sizes;
	*count = 0;
	return true;
}

static bool drop_rows(void *argument, const aidb_part *part, size_t chunk, PGresult *result) {
	(void)argument;
	(void)part;
	(void)chunk;
	PQclear(result);
	return true;
}

static aidb_client_status tell(const aidb_topology *topology, const aidb_part *part, aidb_client_node node,
							   void *argument) {
	const aidb_client_group *group = &topology->groups[part->group];
	const char *error = part->error != NULL ? part->error : "out of memory";

	node(argument, group->name, group->node, part->state == AIDB_PART_DONE ? NULL : error);
	return part->state == AIDB_PART_DONE ? AIDB_CLIENT_OK
										 : aidb_client_fail(AIDB_CLIENT_UNREACHABLE, "group \"%s\", node \"%s\": %s",
															group->name, group->node, error);
}

static aidb_client_status ask(const aidb_topology *topology, aidb_part *parts, uint64_t deadline_ms,
							  aidb_client_node node, void *argument) {
	static const aidb_statement statement = {.number = AIDB_POOL_STATEMENTS, .sql = "SELECT aidb.token()"};
	const aidb_exchange exchange = {.statement = &statement, .parameters = no_parameters, .result = drop_rows};
	aidb_client_status status = AIDB_CLIENT_OK;

	for (uint32_t i = 0; i < topology->group_count; i++) {
		parts[i] = (aidb_part){.group = i, .pool = topology->groups[i].pool, .chunk_count = 1};
	}
	aidb_exchange_run(&exchange, parts, topology->group_count, deadline_ms);
	for (uint32_t i = 0; i < topology->group_count; i++) {
		aidb_client_status told = tell(topology, &parts[i], node, argument);

		status = told != AIDB_CLIENT_OK ? told : status;
		free(parts[i].error);
	}
	return status;
}

/* Who the primaries are, as the catalog says now. */
static aidb_client_status read_again(aidb_client *client, uint64_t deadline_ms) {
	aidb_topology *topology = aidb_client_hold(client);
	aidb_client_status status = AIDB_CLIENT_OK;
	char *error;

	if (!aidb_client_refresh(client, topology, deadline_ms, &error)) {
		status = aidb_client_fail(AIDB_CLIENT_UNREACHABLE, "could not read the cluster's catalog: %s",
								  error != NULL ? error : "out of memory");
		free(error);
	}
	aidb_client_let_go(client, topology);
	return status;
}

aidb_client_status aidb_client_health(aidb_client *client, aidb_client_node node, void *argument) {
	uint64_t deadline_ms = aidb_socket_now_ms() + aidb_client_timeout_ms(client);
	aidb_client_status status = read_again(client, deadline_ms);
	aidb_topology *topology;
	aidb_part *parts;

	if (status != AIDB_CLIENT_OK) {
		return status;
	}
	topology = aidb_client_hold(client);
	parts = calloc(topology->group_count, sizeof(*parts));
	status = parts != NULL ? ask(topology, parts, deadline_ms, node, argument)
						   : aidb_client_fail(AIDB_CLIENT_NO_MEMORY, "out of memory");
	free(parts);
	aidb_client_let_go(client, topology);
	return status;
}
