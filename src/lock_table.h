/*
 * lock_table.h: the table of row locks in shared memory: who holds which key, in which mode.
 *
 * A hash table of fixed size in partitions, each with its latch, its entries and its buckets. An entry is found by the hash
 * of its key in its bucket, and by its holder in the list that the holder keeps. Beside it there are some locks on all
 * rows of a table. What the locks mean is row_lock.h's.
 *
 * Lock order: partitions by number when all are latched, each a leaf otherwise. Functions say when the partition of a hash
 * must be latched by the caller. None raises an error.
 */
#ifndef AIPG_LOCK_TABLE_H
#define AIPG_LOCK_TABLE_H

#include "postgres.h"

#include "nodes/lockoptions.h"
#include "storage/condition_variable.h"

typedef struct aipg_lock_entry {
	uint64 hash;      /* of the key */
	uint64 holder;    /* its serial number; 0: the entry is free */
	uint32 next;      /* in its bucket, or free */
	uint32 next_held; /* of its holder: a place, or 0 */
	uint32 index_id;  /* of the key */
	uint32 owner;     /* number of the process + 1; 0: of a prepared transaction */
	uint8 mode;       /* LockTupleMode */
	bool written;     /* and not only locked */
	bool on_trial;    /* it may be taken back at once */
} aipg_lock_entry;

/* All rows of a table. Changed with all partitions latched, read with any. */
typedef struct aipg_table_lock {
	uint64 holder;
	uint32 index_id;
	uint32 owner;
	LockTupleMode mode;
} aipg_table_lock;

#define AIPG_MAX_TABLE_LOCKS 128

/* From the shared memory hooks. */
extern void aipg_lock_table_shmem_request(void);
extern void aipg_lock_table_shmem_startup(void);

extern uint64 aipg_lock_table_capacity(void);
extern uint64 aipg_lock_table_count(void); /* locks held now; needs no latch */
/* A new holder's serial number. */
extern uint64 aipg_lock_table_new_holder(void);
/* New holders have higher numbers than this one from here on. */
extern void aipg_lock_table_reserve_holder(uint64 serial);

extern bool aipg_lock_modes_conflict(LockTupleMode a, LockTupleMode b);

/* ---- Latches ------------------------------------------------------------------------------------------- */

extern void aipg_lock_table_latch(uint64 hash);
extern void aipg_lock_table_unlatch(uint64 hash);
extern void aipg_lock_table_latch_all(void);
extern void aipg_lock_table_unlatch_all(void);

/* ---- Entries ------------------------------------------------------------------------------------------- */

/* Places count from 1 and hold while the entry is used. */
extern aipg_lock_entry *aipg_lock_entry_at(uint32 place);
extern uint32 aipg_lock_place_of(const aipg_lock_entry *entry);

/* The entries that may be of this hash; NULL at the end. The partition is latched. */
extern aipg_lock_entry *aipg_lock_table_first(uint64 hash);
extern aipg_lock_entry *aipg_lock_table_next(const aipg_lock_entry *entry);
/*
 * Adds a copy of the entry, whose `next` does not count, and returns its place; 0: there is no room. The last eighth is not
 * for those who have many already (`large`), so that one that waits for room does not stop the others. The partition is
 * latched.
 */
extern uint32 aipg_lock_table_add(const aipg_lock_entry *entry, bool large);
/* The entry is in no list of a holder's any more. The partition is latched. */
extern void aipg_lock_table_discard(aipg_lock_entry *entry);

/* Those who wait until a lock in the hash's partition is not on trial any more; and waking them. Not latched. */
extern ConditionVariable *aipg_lock_table_settled(uint64 hash);
extern void aipg_lock_table_settle(uint64 hash);

/* ---- Locks on tables ----------------------------------------------------------------------------------- */

/* Any partition is latched. */
extern const aipg_table_lock *aipg_table_locks(int *count);
/* All are, here and in the next. Adds it, or makes the holder's lock on the table stronger; false: there is no room. */
extern bool aipg_table_lock_set(const aipg_table_lock *lock);
/* Someone else's lock in the table that is in the way of this mode for all rows: the holder's number; 0: nobody's. */
extern uint64 aipg_lock_table_find(uint32 index_id, LockTupleMode mode, uint32 owner);

/* These latch for themselves. */
extern void aipg_table_locks_drop(uint64 holder);
extern void aipg_table_locks_disown(uint64 holder);

#endif
