/*
 * handler.h: the foreign data wrapper of the cluster's tables (server aidb_cluster), a phase each.
 */
#ifndef ROUTER_HANDLER_H
#define ROUTER_HANDLER_H

#include "postgres.h"

#include "fmgr.h"
#include "foreign/fdwapi.h"

extern Datum router_fdw_handler(PG_FUNCTION_ARGS);

extern void router_plan_routines(FdwRoutine *routine);   /* plan.c: size, paths, plan, aggregates */
extern void router_scan_routines(FdwRoutine *routine);   /* scan.c: begin, iterate, rescan, end, explain */
extern void router_modify_routines(FdwRoutine *routine); /* modify.c: insert, update, delete, row by row */
extern void router_direct_routines(FdwRoutine *routine); /* direct.c: UPDATE and DELETE that a node does as a whole */

extern void router_ddl_routines(FdwRoutine *routine); /* ddl.c: truncate */

/* Hooks and settings; from _PG_init. */
extern void router_init(void);

#endif
