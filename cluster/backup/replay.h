/*
 * replay.h: what of an archived log is to be applied, in order, to come to the state at a commit in the middle of it. Pure.
 *
 * Answers of the primary cover many commits each, and decide transactions (see replication/stream_format.h). They are cut to what is
 * beyond the state that has been reached, and up to the target. When the target has been reached, decisions of what was
 * prepared before may still follow, up to the end of the window.
 */
#ifndef AIDB_BACKUP_REPLAY_H
#define AIDB_BACKUP_REPLAY_H

#include <stdbool.h>

#include "backup/segment.h"
#include "replication/stream_format.h"

typedef struct aidb_prepared {
	uint64_t tag;
	uint64_t sequence; /* of its last batch */
} aidb_prepared;

typedef struct aidb_replay {
	uint64_t store;
	uint64_t reached;    /* the state that comes of what was cut so far */
	uint64_t read;       /* how far the log has been looked at; at first the same */
	uint64_t target;     /* a commit; UINT64_MAX: as far as the log goes */
	bool target_is_mark; /* what was decided when it could be seen already was decided after it was made */
	bool done;           /* nothing that follows matters */
	aidb_prepared prepared[AIDB_MAX_UNDECIDED];
	uint32_t prepared_count;
	aidb_buffer answer;
} aidb_replay;

/* The next answer of the log. *cut is what is to be applied, valid until the next call; of size 0: nothing is. AIDB_CORRUPT when it
 * is malformed; AIDB_NOT_FOUND when commits are missing before it. */
aidb_status aidb_replay_next(aidb_replay *replay, aidb_slice answer, aidb_slice *cut);
void aidb_replay_free(aidb_replay *replay);

/* Calls for each mark in an answer that is well-formed, with its sequence. */
void aidb_marks_in(aidb_slice answer, void (*each)(void *argument, const aipg_mark *mark, uint64_t sequence),
				   void *argument);

#endif
