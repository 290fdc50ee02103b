/*
 * view.h: what a statement sees: an engine snapshot that belongs to PostgreSQL's.
 *
 * PostgreSQL has no snapshot hook, so the engine's snapshot is taken right after PostgreSQL's own, by hooks at parse
 * analysis, executor start and utility statements. In between other transactions may commit. A mixed transaction (one
 * that PostgreSQL decides, its versions tagged with its transaction id) is no problem by itself: its tagged versions
 * follow PostgreSQL's snapshot. But a plain commit that came after it, and built on it, could be seen without it. So every
 * mixed transaction notes, when it ends and before it frees its keys, the newest visible sequence; and whoever takes an
 * engine snapshot goes back to before the first mixed transaction that has ended but that its PostgreSQL snapshot does
 * not see. Everything that transaction could be built upon lies below; everything that could build on it lies above.
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
/* Executor start: takes a view before the nodes start, and ties its life to the execution after. */
extern void aipg_view_before_execution(QueryDesc *query);
extern void aipg_view_after_execution_start(QueryDesc *query);
/* A (sub)transaction has ended: views of executions that never started go; at the top level the transaction's. */
extern void aipg_view_transaction_end(void);
extern void aipg_view_subtransaction_abort(void);

/* Raises in a SERIALIZABLE transaction: what it promises does not hold for AiDb tables. */
extern void aipg_check_isolation(void);

/* A mixed transaction ends: after it left PostgreSQL's list of running ones, before its keys are free. Cannot fail. */
extern void aipg_view_note_end(uint64 full_transaction_id);
/* The lowest sequence at which a view may still be taken, given the oldest transaction that any snapshot sees as
 * running. Never raises. */
extern aidb_sequence aipg_view_floor(TransactionId oldest);

#endif
