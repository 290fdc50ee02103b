/*
 * write_list.h: writes in memory: keys in order, each with its writes, the newest first.
 *
 * A skip list in a memory context of its own. The order of writing is kept too, so that the latest can be taken back.
 * Nothing is freed before the whole list is; keys and writes stay where they are.
 */
#ifndef AIPG_WRITE_LIST_H
#define AIPG_WRITE_LIST_H

#include "write.h"

typedef struct aipg_listed_write {
	struct aipg_listed_write *older;
	uint64 ordinal;
	CommandId command;
	uint32 value_bytes;
	bool is_delete;
	char value[FLEXIBLE_ARRAY_MEMBER];
} aipg_listed_write;

/* A key. Without writes (they were taken back) it counts as not there. */
typedef struct aipg_listed_key {
	aipg_listed_write *newest;
	char *key;
	aipg_key_facts facts;
	uint16 key_bytes;
	struct aipg_listed_key *next[FLEXIBLE_ARRAY_MEMBER];
} aipg_listed_key;

typedef struct aipg_write_list aipg_write_list;

/* Deleted with `parent`. */
extern aipg_write_list *aipg_write_list_create(MemoryContext parent);
/* Forgets all writes and frees their memory. */
extern void aipg_write_list_reset(aipg_write_list *list);
/* Memory that the writes take. */
extern Size aipg_write_list_bytes(const aipg_write_list *list);
extern bool aipg_write_list_is_empty(const aipg_write_list *list);
/* At most so many keys have writes. */
extern uint64 aipg_write_list_keys(const aipg_write_list *list);

/* Everything is copied. The facts count when the key has no writes yet. */
extern void aipg_write_list_add(aipg_write_list *list, const aipg_write *write);
/* Takes the latest write back. Never fails; the list is not empty. */
extern void aipg_write_list_take_back(aipg_write_list *list);

/* The key, when it has writes; NULL otherwise. */
extern aipg_listed_key *aipg_write_list_find(const aipg_write_list *list, aidb_slice key);
/* Keys with writes, in order. NULL at the end; `from` data NULL: the first, or the last. */
extern aipg_listed_key *aipg_write_list_seek(const aipg_write_list *list, aidb_slice from);       /* first >= from */
extern aipg_listed_key *aipg_write_list_seek_below(const aipg_write_list *list, aidb_slice from); /* last < from */
extern aipg_listed_key *aipg_write_list_next(const aipg_listed_key *key);

/* The newest write of a command below this one; NULL when there is none. */
extern const aipg_listed_write *aipg_listed_visible(const aipg_listed_key *key, CommandId below);
/* The slices point into the list. */
extern aipg_write aipg_listed_get(const aipg_listed_key *key, const aipg_listed_write *write);

static inline aidb_slice aipg_listed_key_slice(const aipg_listed_key *key) {
	return (aidb_slice){key->key, key->key_bytes};
}

#endif
