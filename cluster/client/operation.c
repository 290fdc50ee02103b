#include "client/operation.h"

#include <stdlib.h>
#include <string.h>

#include "client/socket.h"

#define PAUSE_MS 50u /* before a primary that was lost is asked again */

typedef struct attempt {
	aidb_topology *topology;
	aidb_part *parts;
	size_t count;
	bool unknown; /* writes were sent, and not answered: in this attempt or one before */
} attempt;

static void free_parts(attempt *now) {
	for (size_t i = 0; now->parts != NULL && i < now->count; i++) {
		free(now->parts[i].error);
	}
	free(now->parts);
	now->parts = NULL;
}

static void choose_nodes(const aidb_operation *self, attempt *now) {
	for (size_t i = 0; i < now->count; i++) {
		aidb_part *part = &now->parts[i];
		const aidb_client_group *group = &now->topology->groups[part->group];

		part->pool = self->writes ? group->pool : aidb_client_choose(self->client, group, part->token);
		part->tells_token =
			part->pool == group->pool && group->replica_count > 0 && aidb_client_wants_token(self->client);
	}
}

static void settle(const aidb_operation *self, attempt *now) {
	for (size_t i = 0; i < now->count; i++) {
		const aidb_part *part = &now->parts[i];

		if (self->settle != NULL) {
			self->settle(self->argument, part);
		}
		if (part->tells_token && part->state == AIDB_PART_DONE) {
			aidb_client_note_token(self->client, now->topology->groups[part->group].id, part->token);
		}
		now->unknown = now->unknown || (self->writes && part->sent && part->answered < part->chunk_count);
	}
}

/* The part that decides what comes next: one that was refused, else one that was lost at a primary, else one that was lost. */
static const aidb_part *worst_part(const attempt *now) {
	const aidb_part *worst = NULL;

	for (size_t i = 0; i < now->count; i++) {
		const aidb_part *part = &now->parts[i];
		bool at_primary = part->pool == now->topology->groups[part->group].pool;

		if (part->state == AIDB_PART_FAILED) {
			return part;
		}
		if (part->state == AIDB_PART_LOST && (worst == NULL || at_primary)) {
			worst = part;
		}
	}
	return worst;
}

static const char *node_of(const aidb_client_group *group, const aidb_pool *pool) {
	for (uint32_t i = 0; i < group->replica_count; i++) {
		if (group->replicas[i].pool == pool) {
			return group->replicas[i].node;
		}
	}
	return group->node;
}

static aidb_client_status fail_with(const attempt *now, aidb_client_status status, const aidb_part *part,
									const char *more) {
	const aidb_client_group *group = &now->topology->groups[part->group];

	return aidb_client_fail(status, "group \"%s\", node \"%s\": %s%s", group->name, node_of(group, part->pool),
							part->error != NULL ? part->error : "out of memory", more);
}

/* What is wrong for good, if it is; else AIDB_CLIENT_OK, and some parts are to be tried again. */
static aidb_client_status judge(const aidb_operation *self, const attempt *now, const aidb_part *worst,
								uint64_t deadline_ms) {
	if (worst->state == AIDB_PART_FAILED) {
		return fail_with(now, AIDB_CLIENT_REFUSED, worst, "");
	}
	if (now->unknown && !aidb_client_may_repeat_writes(self->client)) {
		return fail_with(now, AIDB_CLIENT_UNKNOWN, worst, "; the write may have been done or not");
	}
	if (aidb_socket_now_ms() + PAUSE_MS >= deadline_ms) {
		return now->unknown ? fail_with(now, AIDB_CLIENT_TIMEOUT, worst, "; the write may have been done or not")
							: fail_with(now, AIDB_CLIENT_UNREACHABLE, worst, "");
	}
	return AIDB_CLIENT_OK;
}

/* Before another attempt: the catalog may know another primary. That it cannot be read is no reason to give up before time. */
static void look_around(const aidb_operation *self, const attempt *now, const aidb_part *worst, uint64_t deadline_ms) {
	char *error;

	if (worst->pool == now->topology->groups[worst->group].pool) {
		aidb_socket_sleep_ms(PAUSE_MS);
		(void)aidb_client_refresh(self->client, now->topology, deadline_ms, &error);
		free(error);
	}
}

/* One attempt. *again: another one is worth while. */
static aidb_client_status try_once(aidb_operation *self, attempt *now, uint64_t deadline_ms, bool *again) {
	uint64_t half_ms = aidb_socket_now_ms() + aidb_client_timeout_ms(self->client) / 2;
	aidb_client_status status = AIDB_CLIENT_OK;
	const aidb_part *worst;

	*again = false;
	now->parts = calloc(now->topology->group_count, sizeof(*now->parts));
	if (now->parts == NULL || !self->plan(self->argument, now->topology, now->parts, &now->count)) {
		return aidb_client_fail(AIDB_CLIENT_NO_MEMORY, "out of memory");
	}
	choose_nodes(self, now);
	aidb_exchange_run(&self->exchange, now->parts, now->count, half_ms < deadline_ms ? half_ms : deadline_ms);
	settle(self, now);
	worst = worst_part(now);
	if (worst != NULL) {
		status = judge(self, now, worst, deadline_ms);
		*again = status == AIDB_CLIENT_OK;
	}
	if (*again) {
		look_around(self, now, worst, deadline_ms);
	}
	return status;
}

aidb_client_status aidb_operation_run(aidb_operation *self, uint64_t deadline_ms) {
	attempt now = {0};
	aidb_client_status status;
	bool again;

	self->exchange.argument = self->argument;
	do {
		now.count = 0;
		now.topology = aidb_client_hold(self->client);
		status = try_once(self, &now, deadline_ms, &again);
		free_parts(&now);
		aidb_client_let_go(self->client, now.topology);
	} while (again);
	return status;
}
