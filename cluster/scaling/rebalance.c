#include "scaling/rebalance.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SPARE_BYTES (64u << 20) /* that stay free at a target */

static bool open_catalog(aidb_session *catalog, const char *conninfo, aidb_trouble *trouble) {
	return aidb_session_open(catalog, conninfo, "the catalog",
							 "-c statement_timeout=0 -c lock_timeout=0 -c idle_session_timeout=0", trouble) &&
		   aidb_slot_moves_begin(catalog);
}

/* ---- The plan --------------------------------------------------------------------------------------------- */

static PGresult *read_plan(aidb_session *catalog, const char *without) {
	aidb_value value = aidb_value_text(without);

	return aidb_session_query(catalog,
							  "SELECT source_id, target_id, array_to_string(array_agg(slot ORDER BY slot), ' ')"
							  " FROM aidb.planned_moves($1) GROUP BY 1, 2 ORDER BY 1, 2",
							  1, &value, false);
}

static aidb_slot_set slots_of(const char *text) {
	aidb_slot_set slots = {{0}};
	char *at;

	for (; *text != '\0'; text = *at == ' ' ? at + 1 : at) {
		unsigned long slot = strtoul(text, &at, 10);

		if (at == text || slot >= AIDB_SLOTS) {
			break;
		}
		aidb_slot_set_add(&slots, (uint32_t)slot);
	}
	return slots;
}

/* What the nodes say of it: that they can be reached, how much it is, and whether there is room. */
static bool ask_node(const aidb_move_group *group, const aidb_slot_set *slots, aidb_trouble *trouble,
					 uint64_t numbers[3]) {
	char text[AIDB_SLOTS_TEXT_BYTES], name[160];
	aidb_session session;
	PGresult *result;
	aidb_value value = aidb_value_text(text);

	aidb_slots_text(slots, text);
	snprintf(name, sizeof(name), "node \"%s\" of group \"%s\"", group->node, group->name);
	if (!aidb_session_open(&session, group->conninfo, name, "", trouble)) {
		return false;
	}
	result = aidb_session_query(&session, "SELECT \"rows\", bytes, free_bytes FROM aidb.slots_size($1::int[])", 1,
								&value, false);
	for (int i = 0; result != NULL && i < 3; i++) {
		numbers[i] = strtoull(PQgetvalue(result, 0, i), NULL, 10);
	}
	PQclear(result);
	aidb_session_close(&session);
	return result != NULL;
}

static bool fill(aidb_session *catalog, const PGresult *result, int row, aidb_planned *planned) {
	uint64_t source[3] = {0}, target[3] = {0};

	planned->slots = slots_of(PQgetvalue(result, row, 2));
	if (!aidb_move_group_read(catalog, (uint32_t)strtoul(PQgetvalue(result, row, 0), NULL, 10), &planned->source) ||
		!aidb_move_group_read(catalog, (uint32_t)strtoul(PQgetvalue(result, row, 1), NULL, 10), &planned->target) ||
		!ask_node(&planned->source, &planned->slots, catalog->trouble, source) ||
		!ask_node(&planned->target, &planned->slots, catalog->trouble, target)) {
		return false;
	}
	planned->rows = source[0];
	planned->bytes = source[1];
	planned->free_bytes = target[2];
	return true;
}

/* A copy is written twice on its way down, and something has to stay free. */
bool aidb_rebalance_has_room(const aidb_planned *plans, uint32_t count, aidb_trouble *trouble) {
	for (uint32_t i = 0; i < count; i++) {
		uint64_t wanted = SPARE_BYTES;

		for (uint32_t j = 0; j < count; j++) {
			wanted += plans[j].target.id == plans[i].target.id ? 2 * plans[j].bytes : 0;
		}
		if (plans[i].free_bytes < wanted) {
			snprintf(trouble->text, sizeof(trouble->text),
					 "group \"%s\" has no room for the slots: node \"%s\" has %" PRIu64 " MB free, and %" PRIu64
					 " MB are needed; make room there, or give the group a lower weight",
					 plans[i].target.name, plans[i].target.node, plans[i].free_bytes >> 20, wanted >> 20);
			return false;
		}
	}
	return true;
}

static bool make_plan(const aidb_rebalance *rebalance, aidb_session *catalog, aidb_planned **plans, uint32_t *count) {
	PGresult *result = read_plan(catalog, rebalance->dry_run ? rebalance->without : NULL);
	bool done = result != NULL;

	*count = 0;
	*plans = done ? calloc((size_t)PQntuples(result) + 1, sizeof(**plans)) : NULL;
	if (done && *plans == NULL) {
		snprintf(catalog->trouble->text, sizeof(catalog->trouble->text), "out of memory");
		done = false;
	}
	for (int row = 0; done && row < PQntuples(result); row++) {
		done = fill(catalog, result, row, &(*plans)[*count]);
		*count += done ? 1 : 0;
	}
	PQclear(result);
	return done;
}

/* ---- Moving ----------------------------------------------------------------------------------------------- */

/* The next few of the slots, which are taken out of the set. */
static aidb_slot_set take_slots(aidb_slot_set *left, uint32_t limit) {
	aidb_slot_set taken = {{0}};

	for (uint32_t slot = 0; slot < AIDB_SLOTS && limit > 0; slot++) {
		if (aidb_slot_set_has(left, slot)) {
			aidb_slot_set_add(&taken, slot);
			left->words[slot / 64] &= ~(UINT64_C(1) << slot % 64);
			limit--;
		}
	}
	return taken;
}

static bool move_all(const aidb_rebalance *rebalance, aidb_session *catalog, aidb_planned *planned) {
	while (aidb_slot_set_count(&planned->slots) > 0) {
		aidb_slot_move move = {.catalog = catalog,
							   .source = &planned->source,
							   .target = &planned->target,
							   .slots = take_slots(&planned->slots, rebalance->slots_per_move),
							   .report = rebalance->report,
							   .argument = rebalance->argument};

		/* a failover may have come in between */
		if (!aidb_move_group_read(catalog, planned->source.id, &planned->source) ||
			!aidb_move_group_read(catalog, planned->target.id, &planned->target) || !aidb_slot_move_run(&move)) {
			return false;
		}
		if (rebalance->moved != NULL) {
			rebalance->moved(rebalance->argument, &move);
		}
	}
	return true;
}

static bool finish(const aidb_rebalance *rebalance, aidb_session *catalog) {
	uint32_t finished = 0;
	bool done = aidb_slot_moves_finish(catalog, &finished);

	if (finished > 0 && rebalance->finished != NULL) {
		rebalance->finished(rebalance->argument, finished);
	}
	return done;
}

/* A move has failed: what it has begun is put in order, if that is possible now. */
static void recover(aidb_session *catalog) {
	aidb_trouble *trouble = catalog->trouble, first = *trouble;
	bool done = PQstatus(catalog->connection) == CONNECTION_OK && aidb_slot_moves_finish(catalog, NULL);
	size_t end = strlen(first.text);

	snprintf(first.text + end, sizeof(first.text) - end, "%s",
			 done ? "; the slots are where they were, or where they were to go"
				  : "; the coordinator completes or undoes what was begun once the nodes can be reached");
	*trouble = first;
}

static bool run_plan(const aidb_rebalance *rebalance, aidb_session *catalog, aidb_planned *plans, uint32_t count) {
	if (rebalance->plan != NULL && !rebalance->plan(rebalance->argument, plans, count)) {
		return true;
	}
	if (rebalance->dry_run) {
		return true;
	}
	if (!aidb_rebalance_has_room(plans, count, catalog->trouble)) {
		return false;
	}
	for (uint32_t i = 0; i < count; i++) {
		if (!move_all(rebalance, catalog, &plans[i])) {
			recover(catalog);
			return false;
		}
	}
	return true;
}

bool aidb_rebalance_run(const aidb_rebalance *rebalance, aidb_trouble *trouble) {
	aidb_session catalog = {.connection = NULL};
	aidb_planned *plans = NULL;
	uint32_t count;
	bool done = open_catalog(&catalog, rebalance->conninfo, trouble) &&
				(rebalance->dry_run || finish(rebalance, &catalog)) && make_plan(rebalance, &catalog, &plans, &count) &&
				run_plan(rebalance, &catalog, plans, count);

	free(plans);
	aidb_session_close(&catalog);
	return done;
}

bool aidb_rebalance_finish(const char *conninfo, uint32_t *slots, aidb_trouble *trouble) {
	aidb_session catalog = {.connection = NULL};
	bool done = open_catalog(&catalog, conninfo, trouble) && aidb_slot_moves_finish(&catalog, slots);

	aidb_session_close(&catalog);
	return done;
}
