/*
 * row_lock.h: locks on keys, as PostgreSQL has them on rows: in the four modes of LockTupleMode, until the end of the
 * (sub)transaction that took them.
 *
 * A heap table keeps its row locks in the rows. Here they stand in a table in shared memory, by the hash of the key; an
 * entry belongs to a holder, which is a (sub)transaction that has locked something. Each holder has one lock in
 * PostgreSQL's lock manager, and who meets its entry waits for that one: so deadlocks are found, lock_timeout and
 * cancelling work, pg_locks shows who waits for whom, and ROLLBACK TO SAVEPOINT wakes whom it lets pass. Who waits for a
 * row queues up for it, as for a heap row, by a tuple lock whose place is made from the hash.
 *
 * The table has a fixed size. A transaction that has taken a good part of it gets the rest of its rows by one lock on all
 * rows of a table (escalation), when no other has a lock there that is in the way.
 *
 * Lock order: partitions by number, each a leaf otherwise; nothing is waited for while one is held.
 */
#ifndef AIPG_ROW_LOCK_H
#define AIPG_ROW_LOCK_H

#include "postgres.h"

#include "aidb.h"
#include "nodes/lockoptions.h"

/* What a request has changed, so that it can be taken back before the next one. */
typedef struct aipg_row_lock {
	uint32 entry;           /* 0: all rows of the table are locked already */
	bool fresh;             /* the entry was made */
	LockTupleMode previous; /* unless fresh: the mode it had */
} aipg_row_lock;

/*
 * Locks the key for the current subtransaction. Waits for those that are in the way, as `policy` says: LockWaitError raises
 * 55P03, LockWaitSkip returns false. `relation` is for messages and the queue; InvalidOid for key spaces. May raise
 * whatever waiting for a lock may raise, and 53200 when the table is full.
 */
extern bool aipg_row_lock_take(Oid relation, aidb_slice key, LockTupleMode mode, LockWaitPolicy policy,
							   aipg_row_lock *lock);
/*
 * The same, on trial: the row under the key is to be looked at, and then the lock is confirmed, or taken back when there is
 * none. Until then others who want the key wait for that, not for the holder's end. Nothing that can wait for another
 * transaction may come in between. `moot` is asked before each wait; when the lock is of no use it returns true, and so
 * the request false.
 */
typedef bool (*aipg_row_lock_moot)(void *argument);
extern bool aipg_row_lock_try(Oid relation, aidb_slice key, LockTupleMode mode, LockWaitPolicy policy,
							  aipg_row_lock_moot moot, void *argument, aipg_row_lock *lock);
extern void aipg_row_lock_confirm(const aipg_row_lock *lock);
extern void aipg_row_lock_undo(const aipg_row_lock *lock);
/*
 * On trial, for a key that is to be inserted, in the strongest mode and without waiting: false when others hold the key.
 */
extern bool aipg_row_lock_take_for_insert(Oid relation, aidb_slice key, aipg_row_lock *lock);
/*
 * Waits for those who have written the key and takes no lock. Returns false when others hold it without having written it,
 * so that a row should be there.
 */
extern bool aipg_row_lock_await_writers(Oid relation, aidb_slice key);
/* Confirms it, and the subtransaction writes the key: others who insert it must wait for the outcome. */
extern void aipg_row_lock_note_write(const aipg_row_lock *lock);
/* Both in one, for a key that is to be written for sure. */
extern void aipg_row_lock_write(Oid relation, aidb_slice key, LockTupleMode mode);

/* Ends of (sub)transactions, by nesting level. At its end a subtransaction leaves what it holds to the one above it. */
extern void aipg_row_locks_subcommit(int level);
extern void aipg_row_locks_subabort(int level);
/* The transaction's end, when its writes are visible or gone. Cannot fail. */
extern void aipg_row_locks_release(void);

/* -- for prepared transactions, see prepared.h -- */

typedef struct aipg_held_lock {
	uint64 hash;
	uint32 index_id;
	LockTupleMode mode;
	bool written;
	bool whole_table;
} aipg_held_lock;

/* The locks of a transaction that belongs to no process. */
typedef struct aipg_detached_locks {
	uint64 holder;
	uint32 first;
	uint32 restored; /* so many */
} aipg_detached_locks;

/* The holder of the transaction's locks; 0: it has none. At its end all belong to one. */
extern uint64 aipg_row_locks_holder(void);
extern void aipg_row_locks_each(void (*each)(void *argument, const aipg_held_lock *lock), void *argument);
/* The process forgets its locks, which stay. Cannot fail. */
extern void aipg_row_locks_detach(aipg_detached_locks *locks);
/*
 * Adds a lock after a restart. Where there is no room for it, all rows of the table are locked; so they are when the
 * transaction has more than others may have, since there is less memory than there was. May raise.
 */
extern void aipg_row_lock_restore(aipg_detached_locks *locks, const aipg_held_lock *lock);
extern void aipg_row_locks_free(const aipg_detached_locks *locks);

#endif
