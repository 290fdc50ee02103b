/*
 * wal.h: AiDb's records in PostgreSQL's write-ahead log.
 *
 * They are of a resource manager of ours (PostgreSQL's custom WAL resource managers): a server that does not load the library
 * refuses to recover a log that has them, which is as it must be.
 *
 *   RESERVE_IDS  full transaction id u64: recovery goes on at this one at the least, see durable_id.h
 *   CARRY        a prepared batch of AiDb's log, as aidb_carried has it. Or none, only how far AiDb's log is synced. Crash recovery
 *                collects them in the store's directory, from where the store takes those that its own log has lost. A standby
 *                or a server that recovers from an archive passes them over: its store is refused (lineage.h).
 *   START        the store has been started, with all that stands before this; nothing was written to it yet.
 */
#ifndef AIPG_WAL_H
#define AIPG_WAL_H

#include "postgres.h"

#include "access/xlogdefs.h"
#include "aidb.h"

/* From _PG_init. */
extern void aipg_wal_init(void);

/* Logs that ids below `until` are reserved; not flushed. The end of the record. */
extern XLogRecPtr aipg_wal_reserve_ids(uint64 until);

/* Logs a batch of the current transaction, which its commit then makes durable. Cannot fail. */
extern void aipg_wal_carry(const aidb_carried *carried);

/* Logs a start of the store, durably. Cannot fail. */
extern void aipg_wal_start(void);

#endif
