/*
 * durable_id.h: transaction ids that no crash can make PostgreSQL give out again.
 *
 * PostgreSQL does not log that it has given out a transaction id. When it crashes before a record that bears the id is durable,
 * somebody else gets the id, and his commit would be that of our prepared batch too. To flush PostgreSQL's log for each
 * batch would cost every mixed transaction a sync. So ids are reserved by the hundred, by a durable record in that log
 * which makes recovery go on beyond them (wal.h).
 *
 * A checkpoint forgets what stands before it, and keeps the next id of its moment. So a reservation counts only while its
 * record lies behind the last checkpoint's beginning; ids that were given out before that are covered by the checkpoint.
 */
#ifndef AIPG_DURABLE_ID_H
#define AIPG_DURABLE_ID_H

#include "postgres.h"

/* From the shared memory hooks. */
extern void aipg_durable_id_shmem_request(void);
extern void aipg_durable_id_shmem_startup(void);

/* Returns when the full transaction id, which was given out, cannot be given out again. May flush PostgreSQL's log. */
extern void aipg_durable_id_require(uint64 full_transaction_id);

#endif
