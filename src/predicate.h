/*
 * predicate.h: SERIALIZABLE, by PostgreSQL's own serializable snapshot isolation (Cahill, Röhm, Fekete 2008; Ports, Grittner
 * 2012), so that one mechanism sees AiDb tables, key spaces and heap tables together.
 *
 * PostgreSQL keeps predicate locks and finds dangerous structures. This module tells it which keys are read and written, and
 * whose versions a reader has passed over:
 *
 *   - A read locks first: a key by a page whose number is a hash of the key; a range by the pages of the blocks that it lies
 *     in, which are runs of keys with a common beginning, or by the whole relation. Then it reads, and is told by the engine
 *     of every tagged version that it does not see.
 *   - A writer looks for predicate locks on what it writes at once, so that it fails early. But its versions are in the
 *     store only at its end, when it always has a transaction id, so that they are tagged. So when they are there, and before
 *     it commits, it looks once more, for all keys. Whoever locked before that is found; whoever locks later finds the
 *     version.
 *   - A write to a key that a concurrent transaction has written fails, whatever the kind of write.
 *
 * All of it does nothing below SERIALIZABLE. Functions raise what PostgreSQL's do: 40001.
 */
#ifndef AIPG_PREDICATE_H
#define AIPG_PREDICATE_H

#include "postgres.h"

#include "access.h"
#include "write_set.h"

/* ---- Reading ------------------------------------------------------------------------------------------- */

/* Before a read of a view's: locks what will be read, and lets `options` collect whose versions are passed over. */
extern void aipg_predicate_read_key(const aipg_view *view, aidb_slice key, aidb_read_options *options);
extern void aipg_predicate_read_range(const aipg_view *view, aidb_slice lower, aidb_slice upper,
									  aidb_read_options *options);
/* After each call of the engine with such options: reports what was collected. */
extern void aipg_predicate_check_reads(const aipg_view *view);
/* For who has looked for a key in another way: reads it as the transaction's snapshot sees it. */
extern void aipg_predicate_note_read(Oid relation, aidb_slice key);

/* ---- Writing ------------------------------------------------------------------------------------------- */

/* A key is written: who has read it depends on this, and it may fail for that already. */
extern void aipg_predicate_check_write(Oid relation, aidb_slice key);
/* A key that was to be inserted exists. Returns when the transaction may know that: its snapshot sees it. */
extern void aipg_predicate_check_duplicate(Oid relation, aidb_slice key);
/* All rows of the relation go. The caller holds an exclusive lock on it. */
extern void aipg_predicate_check_truncate(Oid relation);
/* At PRE_COMMIT, when nobody else can write the keys any more: once before anything is prepared ... */
extern void aipg_predicate_before_prepare(const aipg_write_set *writes);
/* ... and once when all versions are in the store. */
extern void aipg_predicate_after_prepare(const aipg_write_set *writes);
/*
 * First of all at COMMIT: tells PostgreSQL's predicate locking that the transaction has committed, as it does by itself when
 * it releases locks. Others see the changes already. Were another transaction that is seen later done earlier, a
 * dependency between the two would be forgotten, and with it a cycle through a reader who sees one of them only.
 */
extern void aipg_predicate_committed(void);

#endif
