#include "postgres.h"

#include "access/table.h"
#include "commands/explain.h"
#include "executor/executor.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/appendinfo.h"
#include "optimizer/optimizer.h"
#include "optimizer/pathnode.h"
#include "optimizer/restrictinfo.h"
#include "parser/parsetree.h"
#include "router/deparse.h"
#include "router/handler.h"
#include "router/parameters.h"
#include "router/plan.h"
#include "router/session.h"
#include "router/transaction.h"
#include "utils/memutils.h"
#include "utils/rel.h"

/* ForeignScanState.fdw_state */
typedef struct direct_state {
	router_scan_plan plan;
	aipg_table *table;
	bool set_processed; /* the rows count for the statement */
	router_encoder *encoder;
	List *parameters; /* ExprState */
	List *shard_key;  /* ExprState */
	bool done;
} direct_state;

/* ---- Plan ------------------------------------------------------------------------------------------------- */

/* The scan below is of this table alone, and leaves no condition to be checked here. */
static ForeignScan *scan_of(const ModifyTable *plan, Index index) {
	Plan *below = outerPlan(plan);

	if (below == NULL || !IsA(below, ForeignScan) || ((ForeignScan *)below)->scan.scanrelid != index ||
		below->qual != NIL) {
		return NULL;
	}
	return (ForeignScan *)below;
}

static bool is_shard_key(const aipg_table *table, AttrNumber attnum) {
	return table->key_position[attnum - 1] > 0 && table->key_position[attnum - 1] <= table->shard_count;
}

/* Appends "SET a = x, b = y"; false when the nodes cannot compute it, or the row might have to move. */
static bool write_assignments(router_writer *writer, const aipg_table *table, List *targets, List *columns) {
	ListCell *target, *column;
	const char *separator = " SET ";

	forboth(target, targets, column, columns) {
		Expr *value = lfirst_node(TargetEntry, target)->expr;
		AttrNumber attnum = (AttrNumber)lfirst_int(column);

		if (attnum <= 0 || is_shard_key(table, attnum) || !router_is_shippable(writer->root, writer->varno, value)) {
			return false;
		}
		appendStringInfo(&writer->sql, "%s%s = ", separator, router_column_name(writer->relid, attnum));
		router_write_expression(writer, value);
		separator = ", ";
	}
	return true;
}

static bool write_statement(router_writer *writer, const ModifyTable *plan, const aipg_table *table, List *conditions) {
	List *targets = NIL, *columns = NIL;

	if (plan->operation == CMD_DELETE) {
		appendStringInfo(&writer->sql, "DELETE FROM %s", router_table_name(writer->relid));
	} else {
		appendStringInfo(&writer->sql, "UPDATE %s", router_table_name(writer->relid));
		get_translated_update_targetlist(writer->root, writer->varno, &targets, &columns);
		if (!write_assignments(writer, table, targets, columns)) {
			return false;
		}
	}
	router_write_conditions(writer, conditions);
	return true;
}

static bool plan_direct(PlannerInfo *root, ModifyTable *plan, Index index, int subplan) {
	bool changes = plan->operation == CMD_UPDATE || plan->operation == CMD_DELETE;
	ForeignScan *scan = changes && plan->returningLists == NIL ? scan_of(plan, index) : NULL;
	router_scan_plan statement = {.relid = planner_rt_fetch(index, root)->relid};
	List *values = NIL;
	router_writer writer;
	Relation relation;
	aipg_table *table;
	bool written;

	if (scan == NULL) {
		return false;
	}
	relation = table_open(statement.relid, NoLock);
	table = router_table_describe(relation);
	router_writer_init(&writer, root, index, statement.relid);
	statement.prepare = router_match_shard_key(root, find_base_rel(root, (int)index), table,
											   find_base_rel(root, (int)index)->baserestrictinfo, &statement, &values);
	writer.no_constants = statement.prepare;
	written = write_statement(&writer, plan, table, scan->fdw_recheck_quals);
	table_close(relation, NoLock);
	if (!written) {
		return false;
	}
	statement.sql = writer.sql.data;
	statement.parameter_count = list_length(writer.parameters);
	scan->operation = plan->operation;
	scan->resultRelation = index;
	scan->fdw_exprs = list_concat(writer.parameters, values);
	scan->fdw_private = lappend(router_scan_plan_write(&statement), makeBoolean(plan->canSetTag));
	return true;
}

/* ---- Execution --------------------------------------------------------------------------------------------- */

static void begin_direct(ForeignScanState *node, int eflags) {
	ForeignScan *scan = castNode(ForeignScan, node->ss.ps.plan);
	direct_state *state;
	Oid *types;

	if (eflags & EXEC_FLAG_EXPLAIN_ONLY) {
		return;
	}
	state = palloc0(sizeof(direct_state));
	router_scan_plan_read(scan->fdw_private, &state->plan);
	state->set_processed = boolVal(llast(scan->fdw_private));
	state->table = router_table_describe(node->resultRelInfo->ri_RelationDesc);
	types = palloc((Size)Max(state->plan.parameter_count, 1) * sizeof(Oid));
	for (int i = 0; i < state->plan.parameter_count; i++) {
		types[i] = exprType(list_nth(scan->fdw_exprs, i));
	}
	state->encoder = router_encoder_create(types, state->plan.parameter_count);
	state->parameters = ExecInitExprList(list_copy_head(scan->fdw_exprs, state->plan.parameter_count), &node->ss.ps);
	state->shard_key = ExecInitExprList(list_copy_tail(scan->fdw_exprs, state->plan.parameter_count), &node->ss.ps);
	node->fdw_state = state;
}

static int64 execute_on_groups(direct_state *state, ExprContext *context) {
	const router_map *map = router_map_get();
	Bitmapset *groups = router_groups_of(map, state->table, state->plan.conditions, state->plan.condition_count,
										 state->shard_key, context);
	uint64 placement = map->placement;
	int *ids = palloc((Size)map->group_count * sizeof(int));
	router_statement statement = {state->plan.sql, state->encoder->count, state->encoder->types,
								  router_encode_all(state->encoder, state->parameters, context), state->plan.prepare};
	int64 changed = 0;
	int count = 0;
	int i = -1;

	while ((i = bms_next_member(groups, i)) >= 0) {
		ids[count++] = map->groups[i].id;
	}
	for (i = 0; i < count; i++) {
		const router_group *group;

		router_map_check_placement(placement);
		group = router_map_group(router_map_get(), ids[i]);
		if (group != NULL) {
			router_session *session = router_session_open(group);

			router_map_check_placement(placement);
			router_session_check_write(session);
			changed += router_execute(session, &statement);
		}
	}
	return changed;
}

static TupleTableSlot *iterate_direct(ForeignScanState *node) {
	direct_state *state = node->fdw_state;

	if (!state->done) {
		int64 changed = execute_on_groups(state, node->ss.ps.ps_ExprContext);

		state->done = true;
		if (state->set_processed) {
			node->ss.ps.state->es_processed += (uint64)changed;
		}
		if (node->ss.ps.instrument != NULL) {
			node->ss.ps.instrument->tuplecount += (double)changed;
		}
	}
	return ExecClearTuple(node->ss.ss_ScanTupleSlot);
}

static void end_direct(ForeignScanState *node) {
}

static void explain_direct(ForeignScanState *node, ExplainState *es) {
	router_scan_plan plan;

	router_scan_plan_read(castNode(ForeignScan, node->ss.ps.plan)->fdw_private, &plan);
	ExplainPropertyText("Groups", plan.condition_count > 0 ? "by shard key" : "all", es);
	ExplainPropertyText("Remote SQL", plan.sql, es);
}

void router_direct_routines(FdwRoutine *routine) {
	routine->PlanDirectModify = plan_direct;
	routine->BeginDirectModify = begin_direct;
	routine->IterateDirectModify = iterate_direct;
	routine->EndDirectModify = end_direct;
	routine->ExplainDirectModify = explain_direct;
}
