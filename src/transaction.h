/*
 * transaction.h: the writes of the current transaction, and its commit.
 *
 * PRE_COMMIT does everything that can fail: it takes the stripes of the written keys, checks for conflicts, and then
 *
 *   plain   (no transaction id): reserves memory and log. The COMMIT event appends one record, syncs, publishes; an I/O error
 *           there is a PANIC, since the transaction can no longer be undone.
 *   mixed   (it has a transaction id, because it also wrote heap tables, or its writes are too many for one record): writes them
 *           as prepared and synced, tagged with the transaction id. From then on PostgreSQL decides: the versions are
 *           visible when its snapshot says so. The COMMIT event only notes the end.
 */
#ifndef AIPG_TRANSACTION_H
#define AIPG_TRANSACTION_H

#include "postgres.h"

#include "write_set.h"

/* Registers the transaction callbacks; from _PG_init. */
extern void aipg_transaction_init(void);

/* The write set of the current transaction; NULL before the first write. */
extern aipg_write_set *aipg_transaction_writes(void);
/* The same, made when it is not there. */
extern aipg_write_set *aipg_transaction_begin_write(void);

/* The newest committed version of a key: whether it is live, its sequence, and its tag when it is tagged (0: not). */
typedef struct aipg_newest {
	bool found;
	aidb_sequence version;
	aidb_tag tag;
} aipg_newest;
extern aipg_newest aipg_newest_committed(aidb_slice key, aidb_buffer *value);

#endif
