/*
 * plan.h: what the planner tells the scan, as it stands in ForeignScan.fdw_private.
 *
 * The clauses that select by key are ForeignScan.fdw_exprs, one for each condition in the same order. Those that the
 * ranges satisfy exactly are no longer among the plan's qualifiers; fdw_recheck_quals has them.
 */
#ifndef AIPG_PLAN_H
#define AIPG_PLAN_H

#include "postgres.h"

#include "key_range.h"
#include "nodes/pg_list.h"

typedef struct aipg_scan_plan {
	int condition_count;
	aipg_key_condition *conditions;
	bool point;     /* every key column is compared for equality */
	bool ordered;   /* key order is promised */
	bool backwards; /* from the last row to the first */
} aipg_scan_plan;

extern List *aipg_scan_plan_write(const aipg_scan_plan *plan);
/* Allocates the conditions in the current context. */
extern void aipg_scan_plan_read(List *list, aipg_scan_plan *plan);

#endif
