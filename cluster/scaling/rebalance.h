/*
 * rebalance.h: moves slots until each is kept by the group that is to keep it by the weights of the groups: aidb.planned_moves().
 */
#ifndef AIDB_REBALANCE_H
#define AIDB_REBALANCE_H

#include "scaling/slot_move.h"

#define AIDB_SLOTS_PER_MOVE 16u /* enough that holds are few, and few enough that a move is soon over */

/* What is planned from one group to another. */
typedef struct aidb_planned {
	aidb_move_group source, target;
	aidb_slot_set slots;
	uint64_t rows, bytes; /* about */
	uint64_t free_bytes;  /* at the target */
} aidb_planned;

typedef struct aidb_rebalance {
	const char *conninfo;    /* of the catalog */
	uint32_t slots_per_move; /* 1 to AIDB_SLOTS */
	bool dry_run;            /* ends with the plan */
	const char *without;     /* plans as if this group were drained, in a dry run; NULL: as it is */
	/* All may be NULL. The plan, before anything is done; false: it is not to be. */
	bool (*plan)(void *argument, const aidb_planned *plans, uint32_t count);
	void (*report)(void *argument, const aidb_slot_move *move);
	void (*moved)(void *argument, const aidb_slot_move *move);
	void (*finished)(void *argument, uint32_t slots); /* so many that an earlier process has left */
	void *argument;
} aidb_rebalance;

/* Whether the targets have room for all that is planned for them; else *trouble names one that has not. */
bool aidb_rebalance_has_room(const aidb_planned *plans, uint32_t count, aidb_trouble *trouble);
/* False: *trouble says why; what was begun has been undone, or is by the next call or the coordinator. */
bool aidb_rebalance_run(const aidb_rebalance *rebalance, aidb_trouble *trouble);
/* Only completes or undoes what was broken off. */
bool aidb_rebalance_finish(const char *conninfo, uint32_t *slots, aidb_trouble *trouble);

#endif
