/*
 * changes.h: what answers of a primary's stream (replication/stream_format.h) change in some slots, in the order in which it is to be
 * done elsewhere. Pure.
 *
 * A commit is a change where it stands. What a transaction has prepared is one where the stream says that it was committed: between
 * its batches and that place the transaction has its keys locked, so no other change of them comes in between.
 */
#ifndef AIDB_CHANGES_H
#define AIDB_CHANGES_H

#include <stdbool.h>

#include "aidb.h"
#include "placement/slot_set.h"

#define AIDB_SNAPSHOT_TRANSACTIONS 4096u

/* What a statement of the primary has seen: commits up to a sequence, and transactions as PostgreSQL's snapshot says. */
typedef struct aidb_seen {
	uint64_t sequence;
	uint64_t next;                                /* the transactions from here on are not seen */
	uint64_t running[AIDB_SNAPSHOT_TRANSACTIONS]; /* nor are these */
	uint32_t running_count;
} aidb_seen;

/* Takes transactions from the text of a pg_snapshot. False: it is malformed, or has too many. */
bool aidb_seen_read(aidb_seen *seen, const char *snapshot);

typedef struct aidb_change aidb_change;

typedef struct aidb_changes {
	aidb_slot_set slots;
	uint64_t read;    /* the commits up to here are in what was taken */
	uint64_t current; /* the newest that the primary had then */
	aidb_change *ready, *last_ready;
	aidb_change *prepared; /* of transactions that are not decided */
	aidb_change *handed_out;
} aidb_changes;

/* The next answer; what it has of the slots is copied. AIDB_CORRUPT: it is malformed, or does not follow; AIDB_NO_MEMORY. */
aidb_status aidb_changes_take(aidb_changes *changes, aidb_slice answer);
/*
 * The operations of the next change, valid until the next call; false: there is none now. With `seen`, only of what that has seen;
 * the rest stays for later.
 */
bool aidb_changes_next(aidb_changes *changes, const aidb_seen *seen, aidb_slice *operations);
/* Whether no transaction of which something was taken is undecided; with `seen`, none which that may have seen. */
bool aidb_changes_is_settled(const aidb_changes *changes, const aidb_seen *seen);
void aidb_changes_free(aidb_changes *changes);

#endif
