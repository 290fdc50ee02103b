/*
 * slot_move.h: moves slots of sharded tables from one group to another while both are in use.
 *
 *   begin     the catalog says what is going to be done; the target closes the slots, and removes what an earlier attempt has left
 *   copy      the source's log is kept from now on; rows of one snapshot go to the target
 *   follow    what was committed since, until there is hardly any
 *   mark      transactions that write to the slots can be waited for from now on
 *   compare   a snapshot of the source and the copy at the same place have the same rows
 *   hold      nobody writes to the slots: the rest goes to the target
 *   close     the source closes the slots
 *   record    the catalog says that the target has them. From here on the move is completed, up to here it can be undone
 *   open      the target opens them, and writers that wait at the source are sent there
 *   purge     the source removes its rows
 *
 * Who is killed in the middle leaves a row in aidb.slot_move, and aidb_slot_moves_finish does the rest, or undoes it. One move at a time
 * in a cluster: who moves holds an advisory lock in the catalog's database.
 *
 * How others do it: the copy, the stream and a short hold are PostgreSQL's logical replication's and Citus's non-blocking move of
 * shards; slots are those of Redis Cluster.
 */
#ifndef AIDB_SLOT_MOVE_H
#define AIDB_SLOT_MOVE_H

#include "placement/slot_set.h"
#include "scaling/session.h"

typedef struct aidb_move_group {
	uint32_t id;
	char name[64];
	char node[64]; /* its primary */
	char conninfo[1024];
	uint64_t epoch;
} aidb_move_group;

/* What has been done; times are of the monotonic clock. */
typedef struct aidb_move_progress {
	const char *step; /* one of those above, which begins or goes on */
	uint64_t rows;    /* that were copied */
	uint64_t bytes;
	uint64_t wanted_rows; /* about as many are to be */
	uint64_t begun_ms;
	uint64_t hold_ms; /* for how long nobody could write to the slots; 0: not yet */
} aidb_move_progress;

typedef struct aidb_slot_move {
	aidb_session *catalog; /* with the lock, see aidb_slot_moves_begin */
	const aidb_move_group *source, *target;
	aidb_slot_set slots;
	void (*report)(void *argument, const struct aidb_slot_move *move); /* NULL is fine */
	void *argument;
	aidb_move_progress progress;
} aidb_slot_move;

/* Takes the lock. False: another process moves slots, or the catalog cannot be asked. */
bool aidb_slot_moves_begin(aidb_session *catalog);
/* Does it. False: *catalog's trouble says why; aidb_slot_moves_finish has to follow. */
bool aidb_slot_move_run(aidb_slot_move *move);
/* Completes or undoes what was broken off; *count (may be NULL) is of slots. */
bool aidb_slot_moves_finish(aidb_session *catalog, uint32_t *count);

/* The group as the catalog has it. */
bool aidb_move_group_read(aidb_session *catalog, uint32_t id, aidb_move_group *group);
/* "{1,2,3}" */
#define AIDB_SLOTS_TEXT_BYTES (AIDB_SLOTS * 4 + 3)
void aidb_slots_text(const aidb_slot_set *slots, char text[AIDB_SLOTS_TEXT_BYTES]);

#endif
