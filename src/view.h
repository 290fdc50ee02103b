/*
 * view.h: what a statement sees: an engine snapshot that belongs to PostgreSQL's.
 *
 * PostgreSQL has no snapshot hook, so the engine's snapshot is taken right after PostgreSQL's own, by hooks at parse
 * analysis, executor start and utility statements. In between other transactions may commit. One that has a transaction id
 * is no problem by itself: its heap rows and its tagged versions follow PostgreSQL's snapshot. But a plain commit that came
 * after it, and built on it, could be seen without it. So every transaction with an id notes, when it ends and before it
 * frees its keys, the newest visible sequence; and whoever takes an engine snapshot goes back to before the first one that
 * has ended but that its PostgreSQL snapshot does not see. Everything that transaction could be built upon lies below;
 * everything that could build on it lies above.
 *
 * In READ COMMITTED a view belongs to an execution; in REPEATABLE READ to the transaction.
 */
#ifndef AIPG_VIEW_H
#define AIPG_VIEW_H

#include "postgres.h"

#include "access.h"
#include "executor/execdesc.h"

/* Takes the transaction's snapshot, if it is to have one and PostgreSQL has taken its own. */
extern void aipg_view_transaction(void);
/*
 * Around executor start: begin takes a view before the nodes start, and returns what end is to be given; `started` ties the
 * view's life to the execution's. A view that cannot be had is an error only for who asks for it.
 */
extern Snapshot aipg_view_start_begin(QueryDesc *query);
extern void aipg_view_started(QueryDesc *query);
extern void aipg_view_start_end(Snapshot outer);
/* A (sub)transaction has ended: views of executions that never started go; at the top level the transaction's. */
extern void aipg_view_transaction_end(void);
extern void aipg_view_subtransaction_abort(int level);
/* The transaction goes by another one's snapshot. */
extern void aipg_view_note_import(void);

/* Raises where AiDb tables cannot keep what the transaction or process promises: an imported snapshot, a parallel
 * worker. */
extern void aipg_check_usable(void);

/* A transaction with an id ends: after it left PostgreSQL's list of running ones, before its keys are free; was_prepared: by
 * COMMIT PREPARED or ROLLBACK PREPARED. Cannot fail. */
extern void aipg_view_note_end(uint64 full_transaction_id, bool was_prepared);
/* The lowest sequence at which a view may still be taken, given the oldest transaction that any snapshot sees as
 * running. Never raises. */
extern aidb_sequence aipg_view_floor(TransactionId oldest);

#endif
