/*
 * guard.h: lets PostgreSQL's log carry batches of AiDb's, by keeping checkpoints from passing those that AiDb's log does not hold
 * durably yet.
 *
 * Crash recovery begins at the last checkpoint's redo pointer: what lies before is not given back. So no checkpoint may
 * be completed whose redo pointer lies behind a carried record, until AiDb's log is synced beyond its batch. The *guard*
 * sees to that: while it is up, one process, its keeper, is in a transaction with PostgreSQL's DELAY_CHKPT_COMPLETE flag, for
 * which every checkpoint waits that meets it. Several times a second the keeper takes it down, waits for those that
 * are just inserting a record, syncs AiDb's log, ends the transaction, and puts the guard up with another one.
 *
 * Why that is enough: docs/recovery.md, "Carried batches". While there is no guard, commits sync AiDb's log themselves; nobody
 * ever waits for the keeper.
 */
#ifndef AIPG_GUARD_H
#define AIPG_GUARD_H

#include "postgres.h"

#include "aidb.h"

/* From the shared memory hooks. */
extern void aipg_guard_shmem_request(void);
extern void aipg_guard_shmem_startup(void);

/* ---- Who commits ----------------------------------------------------------------------------------------- */

/* Whether it is worth trying; may change at any time. */
extern bool aipg_guard_is_up(void);
/* Logs the batch, which is in AiDb's log, if only in memory; false when the guard is not up. */
extern bool aipg_guard_carry(const aidb_carried *carried);

/* ---- The keeper ------------------------------------------------------------------------------------------ */

/* Puts the guard up, or renews it. Outside of a transaction of the caller's own. A failed sync of AiDb's log is a PANIC: only
 * recovery can tell then what is durable. */
extern void aipg_guard_renew(aidb_db *db);
/* Takes it down, if this process keeps it; before the process ends. */
extern void aipg_guard_drop(aidb_db *db);

#endif
