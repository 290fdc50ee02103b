/*
 * fdw.h: the pieces of the foreign data wrapper, a phase each.
 */
#ifndef AIPG_FDW_H
#define AIPG_FDW_H

#include "postgres.h"

#include "foreign/fdwapi.h"

extern void aipg_plan_routines(FdwRoutine *routine);     /* plan.c: size, paths, plan */
extern void aipg_scan_routines(FdwRoutine *routine);     /* scan.c: begin, iterate, rescan, end, explain, analyze */
extern void aipg_modify_routines(FdwRoutine *routine);   /* modify.c: insert, update, delete, truncate */
extern void aipg_row_mark_routines(FdwRoutine *routine); /* row_mark.c: SELECT FOR UPDATE and the like */

#endif
