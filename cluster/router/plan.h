/*
 * plan.h: what the plan of a scan over the cluster tells its execution, as lists that can be copied with the plan.
 */
#ifndef ROUTER_PLAN_H
#define ROUTER_PLAN_H

#include "postgres.h"

#include "key_range.h"
#include "nodes/pathnodes.h"
#include "router/sharded_table.h"

/* Rows from several groups are merged in the order in which each sends them. */
typedef struct router_sort_key {
	AttrNumber column; /* of the scan's rows */
	Oid operator;
	Oid collation;
	bool nulls_first;
} router_sort_key;

typedef struct router_scan_plan {
	char *sql;
	Oid relid;
	List *columns; /* of the scan's rows, as they come, as integers */
	bool locks;
	bool prepare;
	int parameter_count;            /* the first of the plan's fdw_exprs; behind them the values of the conditions */
	aipg_key_condition *conditions; /* that fix the shard key; none: all groups are asked */
	int condition_count;
	router_sort_key *sort_keys;
	int sort_key_count;
} router_scan_plan;

extern List *router_scan_plan_write(const router_scan_plan *plan);
extern void router_scan_plan_read(List *list, router_scan_plan *plan);

/*
 * The conditions among these clauses (RestrictInfos) that fix the shard key, with the expressions of their values appended to
 * *values; false when they do not. All memory is the current context's.
 */
extern bool router_match_shard_key(PlannerInfo *root, RelOptInfo *rel, const aipg_table *table, List *clauses,
								   router_scan_plan *plan, List **values);

#endif
