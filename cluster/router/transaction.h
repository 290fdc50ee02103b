/*
 * transaction.h: remote transactions, as they follow the local one.
 *
 * A remote transaction begins with the first write, or with the first read where the isolation level wants one snapshot. It
 * follows the local one: its savepoints, its commit (in PRE_COMMIT, where an error still undoes everything here) and its abort.
 * Reads at READ COMMITTED outside of it are transactions of their own.
 */
#ifndef ROUTER_TRANSACTION_H
#define ROUTER_TRANSACTION_H

#include "postgres.h"

#include "router/session.h"

/* Settings and callbacks; from _PG_init. */
extern void router_transaction_init(void);

/* Raises 0A000 when this transaction has written to another group, unless aidb.multi_group_writes allows it. */
extern void router_session_check_write(router_session *session);
/* The names under which transactions of this database are prepared on nodes begin so; then the transaction's id and ':'. palloc'd. */
extern char *router_prepared_prefix(void);
/* This transaction ends in two phases on all groups that it has written to: prepared first, committed when it is here. */
extern void router_commit_in_two_phases(void);

#endif
