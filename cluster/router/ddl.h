/*
 * ddl.h: CREATE, DROP and TRUNCATE of the cluster's tables, which reach all groups or none: the remote transactions are prepared
 * before the one here commits, and committed after it. What a crash leaves prepared, aidb.finish_transactions() ends as the
 * transaction here has ended.
 */
#ifndef ROUTER_DDL_H
#define ROUTER_DDL_H

/* Hooks; from _PG_init. */
extern void router_ddl_init(void);

#endif
