#include "router/plan.h"

#include "access/stratnum.h"
#include "access/table.h"
#include "access/sysattr.h"
#include "catalog/pg_class.h"
#include "key_match.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/cost.h"
#include "optimizer/optimizer.h"
#include "optimizer/pathnode.h"
#include "optimizer/paths.h"
#include "optimizer/planmain.h"
#include "optimizer/planner.h"
#include "optimizer/prep.h"
#include "optimizer/restrictinfo.h"
#include "optimizer/tlist.h"
#include "router/deparse.h"
#include "router/handler.h"
#include "utils/lsyscache.h"
#include "utils/selfuncs.h"
#include "utils/typcache.h"

/* Costs in PostgreSQL's units. A round trip on a local network takes about as long as reading so many pages that are cached. */
#define ROUND_TRIP_COST 25.0
#define TRANSFER_COST 0.02 /* of a row */
#define UNKNOWN_ROWS 100000

#define MAX_OUTER_SETS 16

/* RelOptInfo.fdw_private of a table. */
typedef struct table_info {
	aipg_table *table;
	List *shipped; /* restriction clauses that the nodes apply */
	List *local;   /* the others */
	bool routed;   /* they fix the shard key */
	bool point;    /* and the whole key */
} table_info;

/* RelOptInfo.fdw_private of a grouping of one table's rows. */
typedef struct grouping_info {
	RelOptInfo *input;
} grouping_info;

/* ---- What the scan gets ---------------------------------------------------------------------------------- */

enum list_field { FIELD_SQL, FIELD_COLUMNS, FIELD_NUMBERS, FIELD_CONDITIONS, FIELD_SORT_KEYS };

List *router_scan_plan_write(const router_scan_plan *plan) {
	List *conditions = NIL, *sort_keys = NIL;

	for (int i = 0; i < plan->condition_count; i++) {
		const aipg_key_condition *condition = &plan->conditions[i];

		conditions = lappend(conditions, list_make4_int(condition->column, condition->strategy, condition->array,
														(int)condition->value_type));
	}
	for (int i = 0; i < plan->sort_key_count; i++) {
		const router_sort_key *key = &plan->sort_keys[i];

		sort_keys =
			lappend(sort_keys, list_make4_int(key->column, (int)key->operator,(int) key->collation, key->nulls_first));
	}
	return list_make5(makeString(plan->sql), plan->columns,
					  list_make4_int((int)plan->relid, plan->locks, plan->prepare, plan->parameter_count), conditions,
					  sort_keys);
}

void router_scan_plan_read(List *list, router_scan_plan *plan) {
	List *numbers = list_nth(list, FIELD_NUMBERS);
	List *conditions = list_nth(list, FIELD_CONDITIONS);
	List *sort_keys = list_nth(list, FIELD_SORT_KEYS);

	*plan = (router_scan_plan){
		.sql = strVal(list_nth(list, FIELD_SQL)),
		.relid = (Oid)linitial_int(numbers),
		.columns = list_nth(list, FIELD_COLUMNS),
		.locks = lsecond_int(numbers) != 0,
		.prepare = lthird_int(numbers) != 0,
		.parameter_count = lfourth_int(numbers),
		.conditions = palloc0((Size)(list_length(conditions) + 1) * sizeof(aipg_key_condition)),
		.condition_count = list_length(conditions),
		.sort_keys = palloc0((Size)(list_length(sort_keys) + 1) * sizeof(router_sort_key)),
		.sort_key_count = list_length(sort_keys),
	};
	for (int i = 0; i < plan->condition_count; i++) {
		List *fields = list_nth(conditions, i);

		plan->conditions[i] = (aipg_key_condition){linitial_int(fields), lsecond_int(fields), lthird_int(fields) != 0,
												   (Oid)lfourth_int(fields)};
	}
	for (int i = 0; i < plan->sort_key_count; i++) {
		List *fields = list_nth(sort_keys, i);

		plan->sort_keys[i] = (router_sort_key){(AttrNumber)linitial_int(fields), (Oid)lsecond_int(fields),
											   (Oid)lthird_int(fields), lfourth_int(fields) != 0};
	}
}

/* ---- The shard key --------------------------------------------------------------------------------------- */

bool router_match_shard_key(PlannerInfo *root, RelOptInfo *rel, const aipg_table *table, List *clauses,
							router_scan_plan *plan, List **values) {
	aipg_key_match match;
	ListCell *cell;

	aipg_key_match_clauses(root, rel, table, clauses, &match);
	plan->condition_count = 0;
	plan->conditions = palloc((Size)table->shard_count * sizeof(aipg_key_condition));
	foreach(cell, match.clauses) {
		const aipg_key_clause *clause = lfirst(cell);

		if (plan->condition_count < table->shard_count && clause->condition.strategy == BTEqualStrategyNumber) {
			plan->conditions[plan->condition_count++] = clause->condition;
			*values = lappend(*values, aipg_key_clause_value(clause->clause));
		}
	}
	if (plan->condition_count < table->shard_count) {
		*values = list_truncate(*values, list_length(*values) - plan->condition_count);
		plan->condition_count = 0;
	}
	return plan->condition_count > 0;
}

static bool fixes_shard_key(PlannerInfo *root, RelOptInfo *rel, const aipg_table *table, List *clauses, bool *point) {
	router_scan_plan plan;
	aipg_key_match match;
	List *values = NIL;

	aipg_key_match_clauses(root, rel, table, clauses, &match);
	*point = match.point && match.arrays == 0;
	return router_match_shard_key(root, rel, table, clauses, &plan, &values);
}

/* ---- Size ------------------------------------------------------------------------------------------------ */

static void get_rel_size(PlannerInfo *root, RelOptInfo *rel, Oid relid) {
	table_info *info = palloc0(sizeof(table_info));
	Relation relation = table_open(relid, NoLock);
	ListCell *cell;

	rel->fdw_private = info;
	info->table = router_table_describe(relation);
	rel->tuples = relation->rd_rel->reltuples >= 0 ? relation->rd_rel->reltuples : UNKNOWN_ROWS;
	table_close(relation, NoLock);
	foreach(cell, rel->baserestrictinfo) {
		RestrictInfo *clause = lfirst_node(RestrictInfo, cell);

		if (router_is_shippable(root, rel->relid, clause->clause)) {
			info->shipped = lappend(info->shipped, clause);
		} else {
			info->local = lappend(info->local, clause);
		}
	}
	info->routed = fixes_shard_key(root, rel, info->table, rel->baserestrictinfo, &info->point);
	set_baserel_size_estimates(root, rel);
	if (info->point) {
		rel->rows = 1;
	}
}

/* ---- Paths ----------------------------------------------------------------------------------------------- */

/* The rows that the nodes send cost their way; what they read, a share of the time here. */
static void cost_scan(const RelOptInfo *rel, bool routed, double rows, Path *path) {
	double read = routed ? rows : rel->tuples;

	path->startup_cost = ROUND_TRIP_COST;
	path->total_cost =
		ROUND_TRIP_COST + read * cpu_tuple_cost + rows * (TRANSFER_COST + rel->baserestrictcost.per_tuple);
}

static void add_scan_path(PlannerInfo *root, RelOptInfo *rel, List *pathkeys, Relids outer, double rows, bool routed) {
	ForeignPath *path = create_foreignscan_path(root, rel, NULL, rows, 0, 0, pathkeys, outer, NULL, NIL);

	cost_scan(rel, routed, rows, &path->path);
	if (pathkeys != NIL) {
		path->path.startup_cost += rows * cpu_operator_cost;
		path->path.total_cost += rows * cpu_operator_cost;
	}
	add_path(rel, (Path *)path);
}

/* The column of the table that the sort key is, with its default order; NULL when it is something else. */
static Var *sort_column(const RelOptInfo *rel, const PathKey *key, Oid *operator) {
	ListCell *cell;

	foreach(cell, key->pk_eclass->ec_members) {
		const EquivalenceMember *member = lfirst(cell);
		Var *column = (Var *)member->em_expr;
		TypeCacheEntry *type;

		if (!IsA(column, Var) || column->varno != (int)rel->relid || column->varattno <= 0 ||
			column->varcollid != key->pk_eclass->ec_collation) {
			continue;
		}
		type = lookup_type_cache(column->vartype, TYPECACHE_LT_OPR | TYPECACHE_GT_OPR | TYPECACHE_BTREE_OPFAMILY);
		*operator= key->pk_strategy == BTLessStrategyNumber ? type->lt_opr : type->gt_opr;
		if (type->btree_opf == key->pk_opfamily && OidIsValid(*operator)) {
			return column;
		}
	}
	return NULL;
}

static bool can_sort(const RelOptInfo *rel, const List *pathkeys) {
	ListCell *cell;
	Oid operator;

	foreach(cell, pathkeys) {
		if (sort_column(rel, lfirst(cell), &operator) == NULL) {
			return false;
		}
	}
	return pathkeys != NIL;
}

/* For generate_implied_equalities_for_column: picks the members that are the key column. */
static bool is_column_member(PlannerInfo *root, RelOptInfo *rel, EquivalenceClass *class, EquivalenceMember *member,
							 void *argument) {
	const aipg_key_column *column = argument;

	return aipg_key_is_column((Node *)member->em_expr, rel->relid, column) && aipg_key_same_equality(column, class);
}

static bool contains_set(const List *sets, Relids set) {
	ListCell *cell;

	foreach(cell, sets) {
		if (bms_equal(lfirst(cell), set)) {
			return true;
		}
	}
	return false;
}

/* A row here fixes the shard key there: one round trip for each. */
static void add_parameterized_paths(PlannerInfo *root, RelOptInfo *rel, const aipg_table *table) {
	List *clauses = list_copy(rel->joininfo);
	List *tried = NIL;
	ListCell *cell;

	for (int i = 0; i < table->key_count && rel->has_eclass_joins; i++) {
		clauses =
			list_concat(clauses, generate_implied_equalities_for_column(
									 root, rel, is_column_member, (void *)&table->key[i], rel->lateral_referencers));
	}
	foreach(cell, clauses) {
		RestrictInfo *clause = lfirst_node(RestrictInfo, cell);
		Relids outer = bms_union(bms_difference(clause->clause_relids, rel->relids), rel->lateral_relids);
		ParamPathInfo *info;
		bool point;

		if (!join_clause_is_movable_to(clause, rel) || contains_set(tried, outer) ||
			list_length(tried) >= MAX_OUTER_SETS) {
			continue;
		}
		tried = lappend(tried, outer);
		info = get_baserel_parampathinfo(root, rel, outer);
		if (fixes_shard_key(root, rel, table, list_concat_copy(rel->baserestrictinfo, info->ppi_clauses), &point)) {
			info->ppi_rows = point ? 1 : info->ppi_rows;
			add_scan_path(root, rel, NIL, outer, info->ppi_rows, true);
		}
	}
}

static void get_paths(PlannerInfo *root, RelOptInfo *rel, Oid relid) {
	const table_info *info = rel->fdw_private;

	add_scan_path(root, rel, NIL, rel->lateral_relids, rel->rows, info->routed);
	if (bms_is_empty(rel->lateral_relids) && can_sort(rel, root->query_pathkeys)) {
		add_scan_path(root, rel, root->query_pathkeys, NULL, rel->rows, info->routed);
	}
	add_parameterized_paths(root, rel, info->table);
}

/* ---- SQL of a scan --------------------------------------------------------------------------------------- */

static Bitmapset *add_column(Bitmapset *columns, AttrNumber attnum) {
	return bms_add_member(columns, attnum - FirstLowInvalidHeapAttributeNumber);
}

/* What has to come from the nodes, as attribute numbers. */
static List *needed_columns(RelOptInfo *rel, const aipg_table *table, List *local, List *pathkeys) {
	Bitmapset *used = NULL;
	List *columns = NIL;
	ListCell *cell;
	Oid operator;
	bool whole_row;

	pull_varattnos((Node *)rel->reltarget->exprs, rel->relid, &used);
	pull_varattnos((Node *)local, rel->relid, &used);
	foreach(cell, pathkeys) {
		used = add_column(used, sort_column(rel, lfirst(cell), &operator)->varattno);
	}
	whole_row = bms_is_member(-FirstLowInvalidHeapAttributeNumber, used);
	for (int i = 1; i <= table->tuple_desc->natts; i++) {
		if (!TupleDescAttr(table->tuple_desc, i - 1)->attisdropped &&
			(whole_row || bms_is_member(i - FirstLowInvalidHeapAttributeNumber, used))) {
			columns = lappend_int(columns, i);
		}
	}
	return columns;
}

static void write_columns(router_writer *writer, const List *columns) {
	const char *separator = "";
	ListCell *cell;

	foreach(cell, columns) {
		appendStringInfo(&writer->sql, "%s%s", separator,
						 router_column_name(writer->relid, (AttrNumber)lfirst_int(cell)));
		separator = ", ";
	}
	if (columns == NIL) {
		appendStringInfoString(&writer->sql, "1");
	}
}

static void write_order(router_writer *writer, const RelOptInfo *rel, List *pathkeys, router_scan_plan *plan) {
	const char *separator = " ORDER BY ";
	ListCell *cell;

	plan->sort_keys = palloc0((Size)(list_length(pathkeys) + 1) * sizeof(router_sort_key));
	foreach(cell, pathkeys) {
		const PathKey *key = lfirst(cell);
		router_sort_key *sort_key = &plan->sort_keys[plan->sort_key_count++];
		const Var *column = sort_column(rel, key, &sort_key->operator);

		sort_key->column = column->varattno;
		sort_key->collation = column->varcollid;
		sort_key->nulls_first = key->pk_nulls_first;
		appendStringInfo(
			&writer->sql, "%s%s %s NULLS %s", separator, router_column_name(writer->relid, column->varattno),
			key->pk_strategy == BTLessStrategyNumber ? "ASC" : "DESC", key->pk_nulls_first ? "FIRST" : "LAST");
		separator = ", ";
	}
}

/* No group has to send more rows than the query takes; when it takes them as they come. */
static void write_limit(router_writer *writer, List *local, List *pathkeys) {
	const PlannerInfo *root = writer->root;
	const Query *query = root->parse;
	bool constant = query->limitCount != NULL && IsA(query->limitCount, Const) &&
					(query->limitOffset == NULL || IsA(query->limitOffset, Const));

	if (constant && root->limit_tuples > 0 && query->limitOption == LIMIT_OPTION_COUNT && local == NIL &&
		bms_membership(root->all_baserels) == BMS_SINGLETON && query->rowMarks == NIL &&
		query->commandType == CMD_SELECT && pathkeys_contained_in(root->query_pathkeys, pathkeys)) {
		appendStringInfo(&writer->sql, " LIMIT %.0f", root->limit_tuples);
	}
}

/* Rows that are to be changed, or that FOR UPDATE and its like name, are locked where they are. */
static bool write_lock(router_writer *writer) {
	PlannerInfo *root = writer->root;
	PlanRowMark *mark = get_plan_rowmark(root->rowMarks, writer->varno);

	if (bms_is_member((int)writer->varno, root->all_result_relids) &&
		(root->parse->commandType == CMD_UPDATE || root->parse->commandType == CMD_DELETE)) {
		appendStringInfoString(&writer->sql, " FOR UPDATE");
		return true;
	}
	if (mark == NULL || mark->strength == LCS_NONE) {
		return false;
	}
	appendStringInfoString(&writer->sql, mark->strength == LCS_FORKEYSHARE || mark->strength == LCS_FORSHARE
											 ? " FOR SHARE"
											 : " FOR UPDATE");
	return true;
}

static ForeignScan *plan_table(PlannerInfo *root, RelOptInfo *rel, Oid relid, const ForeignPath *path, List *tlist,
							   List *scan_clauses, Plan *outer_plan) {
	const table_info *info = rel->fdw_private;
	List *pathkeys = path->path.pathkeys;
	router_scan_plan plan = {.relid = relid};
	router_writer writer;
	List *shipped = NIL, *local = NIL, *values = NIL;
	ListCell *cell;

	foreach(cell, scan_clauses) {
		RestrictInfo *clause = lfirst_node(RestrictInfo, cell);

		if (clause->pseudoconstant) {
			continue;
		}
		if (router_is_shippable(root, rel->relid, clause->clause)) {
			shipped = lappend(shipped, clause->clause);
		} else {
			local = lappend(local, clause->clause);
		}
	}
	plan.prepare = router_match_shard_key(root, rel, info->table, scan_clauses, &plan, &values);
	plan.columns = needed_columns(rel, info->table, local, pathkeys);
	router_writer_init(&writer, root, rel->relid, relid);
	writer.no_constants = plan.prepare;
	appendStringInfoString(&writer.sql, "SELECT ");
	write_columns(&writer, plan.columns);
	appendStringInfo(&writer.sql, " FROM %s", router_table_name(relid));
	router_write_conditions(&writer, shipped);
	write_order(&writer, rel, pathkeys, &plan);
	write_limit(&writer, local, pathkeys);
	plan.locks = write_lock(&writer);
	plan.sql = writer.sql.data;
	plan.parameter_count = list_length(writer.parameters);
	return make_foreignscan(tlist, local, rel->relid, list_concat(writer.parameters, values),
							router_scan_plan_write(&plan), NIL, shipped, outer_plan);
}

/* ---- Aggregates ------------------------------------------------------------------------------------------ */

/* Groups the rows of one table of the cluster, all of whose conditions the nodes apply. */
static bool is_groupable(PlannerInfo *root, const RelOptInfo *input) {
	const Query *query = root->parse;
	const table_info *info = input->fdw_private;

	return input->reloptkind == RELOPT_BASEREL && info != NULL && info->local == NIL && query->groupingSets == NIL &&
		   query->hasAggs && (query->groupClause == NIL || grouping_is_hashable(query->groupClause));
}

static bool is_grouping_column(const PlannerInfo *root, const PathTarget *target, int index) {
	Index reference = get_pathtarget_sortgroupref(target, index);

	return reference != 0 && get_sortgroupref_clause_noerr(reference, root->parse->groupClause) != NULL;
}

/* What the nodes are asked for: the grouping columns, and the states of all aggregates. NULL: they cannot do it. */
static PathTarget *partial_target(PlannerInfo *root, Index varno, const PathTarget *wanted, const Node *having) {
	PathTarget *target = create_empty_pathtarget();
	List *others = list_make1((Node *)having);
	ListCell *cell;

	for (int i = 0; i < list_length(wanted->exprs); i++) {
		Expr *expression = list_nth(wanted->exprs, i);

		if (!is_grouping_column(root, wanted, i)) {
			others = lappend(others, expression);
		} else if (router_is_shippable(root, varno, expression)) {
			add_column_to_pathtarget(target, expression, get_pathtarget_sortgroupref(wanted, i));
		} else {
			return NULL;
		}
	}
	others =
		pull_var_clause((Node *)others, PVC_INCLUDE_AGGREGATES | PVC_RECURSE_WINDOWFUNCS | PVC_RECURSE_PLACEHOLDERS);
	foreach(cell, others) {
		Aggref *state = copyObject(lfirst(cell));

		if (IsA(state, Aggref) && router_is_partial_aggregate(root, varno, state)) {
			mark_partial_aggref(state, AGGSPLIT_INITIAL_SERIAL);
			add_new_column_to_pathtarget(target, (Expr *)state);
		} else if (!list_member(target->exprs, state)) {
			return NULL; /* a column that the grouping columns determine */
		}
	}
	return set_pathtarget_cost_width(root, target);
}

static bool covers_grouping(const PlannerInfo *root, const PathTarget *target) {
	int found = 0;

	for (int i = 0; i < list_length(target->exprs); i++) {
		found += is_grouping_column(root, target, i);
	}
	return found == list_length(root->parse->groupClause);
}

static void add_grouping_path(PlannerInfo *root, RelOptInfo *input, RelOptInfo *grouped,
							  const GroupPathExtraData *extra) {
	const Query *query = root->parse;
	PathTarget *target = partial_target(root, input->relid, grouped->reltarget, extra->havingQual);
	grouping_info *info;
	double groups = 1;
	AggClauseCosts costs = {0};
	ForeignPath *path;

	if (target == NULL || !covers_grouping(root, target)) {
		return;
	}
	if (query->groupClause != NIL) {
		groups = estimate_num_groups(root, get_sortgrouplist_exprs(query->groupClause, query->targetList), input->rows,
									 NULL, NULL);
	}
	info = palloc0(sizeof(grouping_info));
	info->input = input;
	grouped->fdw_private = info;
	path = create_foreign_upper_path(root, grouped, target, groups, 0, 0, NIL, NULL, NIL);
	path->path.startup_cost = ROUND_TRIP_COST + input->tuples * cpu_operator_cost;
	path->path.total_cost = path->path.startup_cost + groups * TRANSFER_COST;
	get_agg_clause_costs(root, AGGSPLIT_FINAL_DESERIAL, &costs);
	add_path(grouped,
			 (Path *)create_agg_path(root, grouped, (Path *)path, grouped->reltarget,
									 query->groupClause != NIL ? AGG_HASHED : AGG_PLAIN, AGGSPLIT_FINAL_DESERIAL,
									 query->groupClause, (List *)extra->havingQual, &costs, groups));
}

static void get_upper_paths(PlannerInfo *root, UpperRelationKind stage, RelOptInfo *input, RelOptInfo *output,
							void *extra) {
	if (stage == UPPERREL_GROUP_AGG && output->fdw_private == NULL && is_groupable(root, input)) {
		add_grouping_path(root, input, output, extra);
	}
}

static ForeignScan *plan_grouping(PlannerInfo *root, RelOptInfo *grouped, const ForeignPath *path, List *tlist,
								  Plan *outer_plan) {
	RelOptInfo *input = ((grouping_info *)grouped->fdw_private)->input;
	const table_info *info = input->fdw_private;
	const PathTarget *target = path->path.pathtarget;
	const char *separator = " GROUP BY ";
	router_scan_plan plan = {.relid = info->table->relid};
	router_writer writer;
	List *values = NIL, *scanned = NIL;

	router_writer_init(&writer, root, input->relid, plan.relid);
	(void)router_match_shard_key(root, input, info->table, input->baserestrictinfo, &plan, &values);
	appendStringInfoString(&writer.sql, "SELECT ");
	for (int i = 0; i < list_length(target->exprs); i++) {
		Expr *expression = list_nth(target->exprs, i);

		appendStringInfoString(&writer.sql, i > 0 ? ", " : "");
		if (IsA(expression, Aggref)) {
			router_write_partial_aggregate(&writer, (Aggref *)expression);
		} else {
			router_write_expression(&writer, expression);
		}
		scanned = lappend(scanned, makeTargetEntry(expression, (AttrNumber)(i + 1), NULL, false));
		plan.columns = lappend_int(plan.columns, i + 1);
	}
	appendStringInfo(&writer.sql, " FROM %s", router_table_name(plan.relid));
	router_write_conditions(&writer, extract_actual_clauses(info->shipped, false));
	for (int i = 0; i < list_length(target->exprs); i++) {
		if (!IsA(list_nth(target->exprs, i), Aggref)) {
			appendStringInfo(&writer.sql, "%s%d", separator, i + 1);
			separator = ", ";
		}
	}
	plan.sql = writer.sql.data;
	plan.parameter_count = list_length(writer.parameters);
	return make_foreignscan(tlist, NIL, 0, list_concat(writer.parameters, values), router_scan_plan_write(&plan),
							scanned, NIL, outer_plan);
}

/* ---- Plan ------------------------------------------------------------------------------------------------ */

static ForeignScan *get_plan(PlannerInfo *root, RelOptInfo *rel, Oid relid, ForeignPath *best_path, List *tlist,
							 List *scan_clauses, Plan *outer_plan) {
	return IS_UPPER_REL(rel) ? plan_grouping(root, rel, best_path, tlist, outer_plan)
							 : plan_table(root, rel, relid, best_path, tlist, scan_clauses, outer_plan);
}

void router_plan_routines(FdwRoutine *routine) {
	routine->GetForeignRelSize = get_rel_size;
	routine->GetForeignPaths = get_paths;
	routine->GetForeignPlan = get_plan;
	routine->GetForeignUpperPaths = get_upper_paths;
}
