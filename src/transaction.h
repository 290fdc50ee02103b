/*
 * transaction.h: the writes of the current transaction, and its commit.
 *
 * The keys were locked when they were written (row_lock.h), so nothing needs to be checked any more. PRE_COMMIT does
 * everything that can fail:
 *
 *   plain   (no transaction id): reserves memory and log. The COMMIT event appends one record, syncs, publishes; an I/O error
 *           there is a PANIC, since the transaction can no longer be undone.
 *   mixed   (it has a transaction id, because it also wrote heap tables, or gets one, because its writes are too many for one
 *           record or because it notifies listeners): writes them as prepared, tagged with the transaction id. A small batch
 *           is also logged in PostgreSQL's log, whose flush at the commit makes both halves durable; otherwise AiDb's log is
 *           synced here. From then on PostgreSQL decides: the versions are visible when its snapshot says so. The COMMIT
 *           event only notes the end.
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

/* Raises when the transaction is past the point where it could still lock or write. */
extern void aipg_transaction_check_open(void);

/* The newest committed version of a key: whether it is live, its sequence (also of a deletion; 0: there is none), and its
 * tag when it is tagged (0: not). */
typedef struct aipg_newest {
	bool found;
	aidb_sequence version;
	aidb_tag tag;
} aipg_newest;
/* Commits that nobody waits for any more, and that are not visible yet, are waited for; after a key has been locked. */
extern void aipg_wait_for_unreplicated(void);
extern aipg_newest aipg_newest_committed(aidb_slice key, aidb_buffer *value);

#endif
