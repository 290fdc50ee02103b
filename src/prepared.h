/*
 * prepared.h: transactions that PREPARE TRANSACTION has left to be finished by anybody: what they have locked stays locked,
 * through restarts.
 *
 * PostgreSQL keeps the lock of their holder, which others wait for. Their entries among the row locks belong to no process;
 * for a restart they are kept as rows of the store (index id AIPG_INDEX_PREPARED, see catalog.h):
 *
 *   key    full transaction id (u64, big-endian), piece (u32, big-endian)
 *   value  version (u8), holder (u64), then for each lock: hash (u64), index id (u32), mode (u8), flags (u8);
 *          numbers in the machine's byte order
 *
 * PostgreSQL tells nobody when it finishes them. So who meets one of their locks looks whether it has, and so do the
 * statements COMMIT PREPARED and ROLLBACK PREPARED, and a worker.
 */
#ifndef AIPG_PREPARED_H
#define AIPG_PREPARED_H

#include "postgres.h"

/* From the shared memory hooks. */
extern void aipg_prepared_shmem_request(void);
extern void aipg_prepared_shmem_startup(void);

/* PRE_PREPARE: makes the transaction's locks known for a restart, durable with the next sync of the log. May raise. */
extern void aipg_prepared_reserve(uint64 full_transaction_id);
/* PREPARE: the locks are no longer this process's. Cannot fail. */
extern void aipg_prepared_keep(void);
/* The transaction has been rolled back instead. Cannot fail. */
extern void aipg_prepared_cancel(void);

/* Frees the locks of transactions that have been finished meanwhile; true when there were any. */
extern bool aipg_prepared_sweep(void);
/* Brings the locks back after a start, when nobody has yet; before anybody locks. May raise. */
extern void aipg_prepared_restore(void);

#endif
