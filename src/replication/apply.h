/*
 * apply.h: writing what a primary has sent into this server's store.
 *
 * What one response brings is written as one batch together with the position, or, when it is too large or has changes of
 * definitions in it, as several of which the last has the position. Operations are absolute, so a response that was applied in
 * part is simply applied again; until the position is beyond what may have been applied (`complete_at`), nothing is shown.
 *
 *   index id 9, position    no key                            version (u8), copied (u8), window open (u8), store id,
 *                                                             applied, complete at (u64 each, big-endian)
 *   index id 10, in doubt   tag, sequence (u64 each, big-endian)                operations
 */
#ifndef AIPG_APPLY_H
#define AIPG_APPLY_H

#include "postgres.h"

#include "aidb.h"
#include "replication/stream_format.h"

typedef struct aipg_position {
	bool copied;        /* the copy is whole; otherwise it has to be begun anew */
	bool window_open;   /* more is to come before readers may be shown it */
	uint64 store_id;    /* of the primary's store; 0: nothing was ever copied */
	uint64 applied;     /* the primary's sequence */
	uint64 complete_at; /* what is here is a state of the primary's once this is applied */
} aipg_position;

extern aipg_position aipg_position_read(void);

/* -- a copy -- */

/* Removes all AiDb tables and key spaces of this database, and what is in doubt. In a transaction of its own. */
extern void aipg_apply_wipe(void);
/* Writes rows of aidb.clone_read. */
extern void aipg_apply_rows(aidb_slice operations);
/* Says from where the stream goes on. */
extern void aipg_position_write(const aipg_position *position);

/* -- the stream -- */

/*
 * Applies a response, durably, and moves *position on. Nothing is published: see aipg_apply_is_complete. Raises XX001
 * when the response is malformed; then the replica is where it was, or partly ahead.
 */
extern void aipg_apply_response(aidb_slice response, aipg_position *position, aipg_stream_head *head);
/* Whether what is applied may be shown. */
extern bool aipg_apply_is_complete(const aipg_position *position);
/* What this process remembers of the store may be wrong after an error: it will read it again. */
extern void aipg_apply_restart(void);
/* Tags that are in doubt here, as a text of an SQL array; palloc'd. */
extern char *aipg_apply_in_doubt(void);
/* Takes over a store that was copied file by file, in the transaction that calls: makes the tables of its definitions, and forgets what
 * belonged to the server that it is from. */
extern void aipg_apply_adopt(void);
/* Forgets what is in doubt: nobody will decide it. */
extern void aipg_apply_drop_in_doubt(void);

#endif
