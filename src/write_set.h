/*
 * write_set.h: what a transaction has written and not committed: by key, in order, each write with its command id.
 *
 * A skip list in the transaction's memory. Writes are also kept in the order they were made, so that a savepoint cuts
 * them back. Belongs to one backend.
 */
#ifndef AIPG_WRITE_SET_H
#define AIPG_WRITE_SET_H

#include "postgres.h"

#include "aidb.h"

#define AIPG_WRITE_SET_HEIGHT 16

/* One write to a key; the newest first. */
typedef struct aipg_write {
	struct aipg_write *older;
	CommandId command;
	bool is_delete;
	uint32 value_bytes;
	char value[FLEXIBLE_ARRAY_MEMBER]; /* of a deletion: its note */
} aipg_write;

/* A key. Without writes (a savepoint took them back) it counts as not there. */
typedef struct aipg_written_key {
	aipg_write *newest;
	Oid relation; /* InvalidOid for key spaces */
	bool existed; /* there may be a committed version, which the first write has replaced */
	uint16 key_bytes;
	char *key;
	struct aipg_written_key *next[FLEXIBLE_ARRAY_MEMBER];
} aipg_written_key;

typedef struct aipg_write_set aipg_write_set;

/* In its own memory context below `parent`; deleted with it. */
extern aipg_write_set *aipg_write_set_create(MemoryContext parent);
/* The key, when it has writes; NULL otherwise. */
extern aipg_written_key *aipg_write_set_find(const aipg_write_set *set, aidb_slice key);
/* The key, made when it was not there; then newest is NULL, and the caller sets relation and existed. */
extern aipg_written_key *aipg_write_set_key(aipg_write_set *set, aidb_slice key);
extern void aipg_write_set_add(aipg_write_set *set, aipg_written_key *key, CommandId command, bool is_delete,
							   aidb_slice value);
/* The newest write that a command may see: made by a lower one. NULL when there is none. */
extern const aipg_write *aipg_write_visible(const aipg_written_key *key, CommandId command);

/* Keys with writes, in order. NULL at the end; `from` data NULL: the first, or the last. */
extern aipg_written_key *aipg_write_set_seek(const aipg_write_set *set, aidb_slice from);       /* first >= from */
extern aipg_written_key *aipg_write_set_seek_below(const aipg_write_set *set, aidb_slice from); /* last < from */
extern aipg_written_key *aipg_write_set_next(const aipg_written_key *key);

static inline aidb_slice aipg_written_key_slice(const aipg_written_key *key) {
	return (aidb_slice){key->key, key->key_bytes};
}

/* Counts of what is there now. */
extern uint64 aipg_write_set_writes(const aipg_write_set *set);
extern uint64 aipg_write_set_version(const aipg_write_set *set); /* changes with every change */

/* Subtransactions, by nesting level: writes made at a level go with its abort and pass to the level above at its end. */
extern void aipg_write_set_subcommit(aipg_write_set *set, int level);
extern void aipg_write_set_subabort(aipg_write_set *set, int level);

#endif
