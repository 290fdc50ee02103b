#include "plan.h"

#include "access/stratnum.h"
#include "access/table.h"
#include "fdw.h"
#include "key_match.h"
#include "nodes/makefuncs.h"
#include "optimizer/cost.h"
#include "optimizer/optimizer.h"
#include "optimizer/pathnode.h"
#include "optimizer/paths.h"
#include "optimizer/planmain.h"
#include "optimizer/restrictinfo.h"
#include "role.h"
#include "utils/lsyscache.h"
#include "utils/selfuncs.h"
#include "utils/spccache.h"
#include "utils/typcache.h"

/*
 * Costs, in PostgreSQL's units. A row costs more than one of a heap because it is merged from several sorted sources
 * and decoded; finding the start of a range costs a descent of each source, besides a page.
 */
#define ROW_COST (2 * cpu_tuple_cost)
#define SEEK_COST (100 * cpu_operator_cost)

/* What a table that was never analyzed is taken to hold at least, so that a plan made while it is empty stands its
 * filling; core does the same for heaps. */
#define MIN_UNKNOWN_ROWS 1000

/* The same on a caching read node, which has no rows to count. Their width is that of a guess, too. */
#define ELSEWHERE_ROWS 10000000
#define ELSEWHERE_ROW_BYTES 100

/* How far below the truth the engine's estimate of a table's entries may be: it shares out files over tables by bytes. */
#define ENTRIES_ERROR 4

/* How many sets of outer relations a table is tried as the inner side of a nested loop with. */
#define MAX_OUTER_SETS 16

/* RelOptInfo.fdw_private */
typedef struct table_info {
	aipg_table *table;
	char *name;
	double entries;       /* the engine's estimate for the whole table */
	aipg_key_match match; /* of the restriction clauses */
	double fetched;       /* rows that it leaves to be read */
} table_info;

/* ForeignPath.fdw_private: a list of these as integers. */
enum path_field { PATH_KEYED, PATH_ORDERED, PATH_BACKWARDS };

/* One way to read a table, while it is being made a path. */
typedef struct scan_choice {
	const aipg_key_match *match; /* NULL: read the whole table */
	double fetched;              /* rows to be read */
	Relids outer;
	ParamPathInfo *param_info; /* NULL unless there are outer relations */
} scan_choice;

/* ---- What the scan gets ---------------------------------------------------------------------------------- */

List *aipg_scan_plan_write(const aipg_scan_plan *plan) {
	List *conditions = NIL;

	for (int i = 0; i < plan->condition_count; i++) {
		const aipg_key_condition *condition = &plan->conditions[i];

		conditions = lappend(conditions, list_make4_int(condition->column, condition->strategy, condition->array,
														(int)condition->value_type));
	}
	return list_make2(conditions, list_make3_int(plan->point, plan->ordered, plan->backwards));
}

void aipg_scan_plan_read(List *list, aipg_scan_plan *plan) {
	List *conditions = linitial(list);
	List *flags = lsecond(list);

	plan->condition_count = list_length(conditions);
	plan->conditions = palloc(Max(plan->condition_count, 1) * sizeof(aipg_key_condition));
	for (int i = 0; i < plan->condition_count; i++) {
		List *fields = list_nth(conditions, i);

		plan->conditions[i] = (aipg_key_condition){
			.column = linitial_int(fields),
			.strategy = lsecond_int(fields),
			.array = lthird_int(fields) != 0,
			.value_type = (Oid)lfourth_int(fields),
		};
	}
	plan->point = linitial_int(flags) != 0;
	plan->ordered = lsecond_int(flags) != 0;
	plan->backwards = lthird_int(flags) != 0;
}

/* ---- Size ------------------------------------------------------------------------------------------------ */

/*
 * Sets the table's rows and pages from the engine's present numbers. Its entries are versions, of which a row that is
 * often updated has several until they are compacted, and an estimate. ANALYZE has counted rows; since autovacuum never
 * repeats it for foreign tables, its count grows with the table's size, and stands only as far as the entries allow.
 */
static void estimate_table(Relation relation, RelOptInfo *rel, table_info *info) {
	double analyzed_rows = relation->rd_rel->reltuples;
	double analyzed_pages = relation->rd_rel->relpages;
	aipg_key_ranges whole;
	double bytes;

	aipg_key_ranges_build(info->table, NULL, NULL, 0, NULL, &whole);
	aipg_key_ranges_estimate(&whole, info->name, &info->entries, &bytes);
	rel->pages = (BlockNumber)Min(Max(bytes / BLCKSZ, 1), MaxBlockNumber);
	rel->tuples = info->entries;
	if (aipg_role_now() == AIPG_CACHE) {
		rel->tuples = ELSEWHERE_ROWS;
		rel->pages = (BlockNumber)((double)ELSEWHERE_ROWS * ELSEWHERE_ROW_BYTES / BLCKSZ);
	} else if (analyzed_rows < 0) {
		rel->tuples = Max(info->entries, MIN_UNKNOWN_ROWS);
	} else if (analyzed_rows > 0 && analyzed_pages > 0) {
		rel->tuples = Min(info->entries * ENTRIES_ERROR, analyzed_rows * Max(rel->pages / analyzed_pages, 1));
	}
}

/*
 * Tells the planner of the key as it would of a unique index. There are no paths to it; it serves estimates (a column
 * that is unique) and proofs (at most one row of this table joins).
 */
static void describe_key_as_index(RelOptInfo *rel, const aipg_table *table) {
	IndexOptInfo *index = makeNode(IndexOptInfo);
	int count = table->key_count;

	index->rel = rel;
	index->pages = rel->pages;
	index->tuples = rel->tuples;
	index->tree_height = -1;
	index->ncolumns = count;
	index->nkeycolumns = count;
	index->indexkeys = palloc(count * sizeof(int));
	index->indexcollations = palloc(count * sizeof(Oid));
	index->opfamily = palloc(count * sizeof(Oid));
	index->opcintype = palloc(count * sizeof(Oid));
	index->canreturn = palloc0(count * sizeof(bool));
	for (int i = 0; i < count; i++) {
		TypeCacheEntry *type = lookup_type_cache(table->key[i].type, TYPECACHE_BTREE_OPFAMILY);

		index->indexkeys[i] = table->key[i].attnum;
		index->indexcollations[i] = table->key[i].collation;
		index->opfamily[i] = type->btree_opf;
		index->opcintype[i] = type->btree_opintype;
	}
	index->unique = true;
	index->immediate = true;
	index->hypothetical = true;
	rel->indexlist = lappend(rel->indexlist, index);
}

static List *match_sources(const aipg_key_match *match) {
	List *sources = NIL;
	ListCell *cell;

	foreach(cell, match->clauses) {
		sources = list_append_unique_ptr(sources, ((aipg_key_clause *)lfirst(cell))->source);
	}
	return sources;
}

/* Asks the engine how many rows the ranges hold; false when their bounds are not known yet. */
static bool estimate_ranges(PlannerInfo *root, RelOptInfo *rel, const aipg_key_match *match, double *rows) {
	table_info *info = rel->fdw_private;
	int count = list_length(match->clauses);
	aipg_key_condition *conditions = palloc(count * sizeof(aipg_key_condition));
	NullableDatum *values = palloc(count * sizeof(NullableDatum));
	aipg_key_ranges ranges;
	double bytes;

	if (match->arrays > 0 || match->point || info->entries == 0) {
		return false;
	}
	for (int i = 0; i < count; i++) {
		aipg_key_clause *clause = list_nth(match->clauses, i);
		Node *value = estimate_expression_value(root, (Node *)aipg_key_clause_value(clause->clause));

		if (!IsA(value, Const)) {
			return false;
		}
		conditions[i] = clause->condition;
		values[i] = (NullableDatum){((Const *)value)->constvalue, ((Const *)value)->constisnull};
	}
	aipg_key_ranges_build(info->table, NULL, conditions, count, values, &ranges);
	aipg_key_ranges_estimate(&ranges, info->name, rows, &bytes);
	*rows = rel->tuples * Min(*rows / info->entries, 1);
	return true;
}

/* How many ranges the clauses make. */
static double estimate_range_count(const aipg_key_match *match) {
	double count = 1;
	ListCell *cell;

	foreach(cell, match->clauses) {
		aipg_key_clause *clause = lfirst(cell);

		if (clause->condition.array) {
			count *= estimate_array_length((Node *)aipg_key_clause_value(clause->clause));
		}
	}
	return clamp_row_est(count);
}

/* How many rows the clauses leave to be read. */
static double estimate_fetched(PlannerInfo *root, RelOptInfo *rel, const aipg_key_match *match) {
	double rows;

	if (!estimate_ranges(root, rel, match, &rows)) {
		rows = rel->tuples * clauselist_selectivity(root, match_sources(match), (int)rel->relid, JOIN_INNER, NULL);
	}
	return clamp_row_est(match->point ? Min(rows, estimate_range_count(match)) : rows);
}

static void get_rel_size(PlannerInfo *root, RelOptInfo *rel, Oid relid) {
	table_info *info = palloc0(sizeof(table_info));
	Relation relation = table_open(relid, NoLock);

	rel->fdw_private = info;
	info->table = aipg_table_describe(relation);
	info->name = pstrdup(RelationGetRelationName(relation));
	estimate_table(relation, rel, info);
	table_close(relation, NoLock);

	describe_key_as_index(rel, info->table);
	set_baserel_size_estimates(root, rel);
	aipg_key_match_clauses(root, rel, info->table, rel->baserestrictinfo, &info->match);
	if (info->match.clauses != NIL) {
		List *others = list_difference_ptr(rel->baserestrictinfo, match_sources(&info->match));

		info->fetched = estimate_fetched(root, rel, &info->match);
		rel->rows = clamp_row_est(info->fetched * clauselist_selectivity(root, others, 0, JOIN_INNER, NULL));
	}
}

/* ---- Costs ----------------------------------------------------------------------------------------------- */

/* How often the inner side of a nested loop is likely to run; as core reckons for an index path. */
static double estimate_loops(PlannerInfo *root, Relids outer) {
	double loops = 0;
	int relid = -1;

	while ((relid = bms_next_member(outer, relid)) >= 0) {
		RelOptInfo *rel = root->simple_rel_array[relid];

		if (rel != NULL && rel->rows > 0 && (loops == 0 || rel->rows < loops)) {
			loops = rel->rows;
		}
	}
	return Max(loops, 1);
}

/*
 * A range starts with a page that may have to be read, as far as repeated executions do not find it cached, and goes
 * on in order. The first start is needed before the first row.
 */
static void cost_scan(PlannerInfo *root, RelOptInfo *rel, const scan_choice *choice, Path *path) {
	double ranges = choice->match != NULL ? estimate_range_count(choice->match) : 1;
	double loops = estimate_loops(root, choice->outer);
	double following = Max(choice->fetched * rel->pages / Max(rel->tuples, 1) - ranges, 0);
	QualCost quals = rel->baserestrictcost;
	double random_page;
	double sequential_page;
	Cost start;

	get_tablespace_page_costs(InvalidOid, &random_page, &sequential_page);
	start = SEEK_COST + random_page * index_pages_fetched(ranges * loops, rel->pages, 0, root) / (ranges * loops);
	if (choice->param_info != NULL) {
		QualCost join_quals;

		cost_qual_eval(&join_quals, choice->param_info->ppi_clauses, root);
		quals.startup += join_quals.startup;
		quals.per_tuple += join_quals.per_tuple;
	}
	path->startup_cost = quals.startup + path->pathtarget->cost.startup + start;
	path->total_cost = path->startup_cost + (ranges - 1) * start + following * sequential_page +
					   choice->fetched * (ROW_COST + quals.per_tuple) + path->rows * path->pathtarget->cost.per_tuple;
}

/* ---- Paths ----------------------------------------------------------------------------------------------- */

/* The sort order of rows in key order, as far as it is SQL's and of use to the query. */
static List *key_pathkeys(PlannerInfo *root, RelOptInfo *rel, const Bitmapset *single, bool backwards) {
	const aipg_table *table = ((table_info *)rel->fdw_private)->table;
	List *pathkeys = NIL;

	for (int i = 0; i < table->shard_count; i++) {
		if (!bms_is_member(i, single)) {
			return NIL; /* rows come slot by slot */
		}
	}
	for (int i = 0; i < table->key_count; i++) {
		const aipg_key_column *column = &table->key[i];
		TypeCacheEntry *type;
		List *found;
		Var *var;

		if (bms_is_member(i, single)) {
			continue;
		}
		if (!column->ordered) {
			break;
		}
		type = lookup_type_cache(column->type, TYPECACHE_LT_OPR | TYPECACHE_GT_OPR);
		var = makeVar((int)rel->relid, column->attnum, column->type, column->typmod, column->collation, 0);
		found = build_expression_pathkey(root, (Expr *)var, NULL, backwards ? type->gt_opr : type->lt_opr, rel->relids,
										 false);
		if (found == NIL) {
			break;
		}
		if (!EC_MUST_BE_REDUNDANT(linitial_node(PathKey, found)->pk_eclass)) {
			pathkeys = list_concat(pathkeys, found);
		}
	}
	return truncate_useless_pathkeys(root, rel, pathkeys);
}

static void add_scan_path(PlannerInfo *root, RelOptInfo *rel, const scan_choice *choice, List *pathkeys,
						  bool backwards) {
	double rows = choice->param_info != NULL ? choice->param_info->ppi_rows : rel->rows;
	List *fields = list_make3_int(choice->match != NULL, pathkeys != NIL, backwards);
	ForeignPath *path = create_foreignscan_path(root, rel, NULL, rows, 0, 0, pathkeys, choice->outer, NULL, fields);

	cost_scan(root, rel, choice, &path->path);
	add_path(rel, (Path *)path);
}

/* A choice forwards, and backwards when the query has a use for that order. */
static void add_ordered_paths(PlannerInfo *root, RelOptInfo *rel, const scan_choice *choice) {
	const Bitmapset *single = choice->match != NULL ? choice->match->single : NULL;
	List *descending = key_pathkeys(root, rel, single, true);

	add_scan_path(root, rel, choice, key_pathkeys(root, rel, single, false), false);
	if (descending != NIL) {
		add_scan_path(root, rel, choice, descending, true);
	}
}

/* ---- Paths by join clauses ------------------------------------------------------------------------------- */

/* For generate_implied_equalities_for_column: picks the members of equivalence classes that are the key column. */
static bool is_column_member(PlannerInfo *root, RelOptInfo *rel, EquivalenceClass *class, EquivalenceMember *member,
							 void *argument) {
	const aipg_key_column *column = argument;

	return aipg_key_is_column((Node *)member->em_expr, rel->relid, column) && aipg_key_same_equality(column, class);
}

/* The other relations of join clauses that may fix a key column, one set a clause. */
static List *collect_outer_sets(PlannerInfo *root, RelOptInfo *rel, const aipg_table *table) {
	List *clauses = list_copy(rel->joininfo);
	List *sets = NIL;
	ListCell *cell;

	for (int i = 0; i < table->key_count && rel->has_eclass_joins; i++) {
		clauses =
			list_concat(clauses, generate_implied_equalities_for_column(
									 root, rel, is_column_member, (void *)&table->key[i], rel->lateral_referencers));
	}
	foreach(cell, clauses) {
		RestrictInfo *clause = lfirst_node(RestrictInfo, cell);

		if (join_clause_is_movable_to(clause, rel)) {
			sets = lappend(sets, bms_difference(clause->clause_relids, rel->relids));
		}
	}
	return sets;
}

static bool contains_set(List *sets, Relids set) {
	ListCell *cell;

	foreach(cell, sets) {
		if (bms_equal(lfirst(cell), set)) {
			return true;
		}
	}
	return false;
}

/* The sets, and their unions: the columns of a key may be fixed by different relations. */
static List *combine_outer_sets(List *sets) {
	List *combined = NIL;
	ListCell *cell;

	foreach(cell, sets) {
		int before = list_length(combined);

		for (int i = -1; i < before && list_length(combined) < MAX_OUTER_SETS; i++) {
			Relids set = i < 0 ? lfirst(cell) : bms_union(lfirst(cell), list_nth(combined, i));

			if (!contains_set(combined, set)) {
				combined = lappend(combined, set);
			}
		}
	}
	return combined;
}

/* Every outer relation must be needed to select by key: what fewer of them do alike is another path. */
static bool uses_all(const aipg_key_match *match, RelOptInfo *rel, Relids outer) {
	Relids used = NULL;
	ListCell *cell;

	foreach(cell, match->clauses) {
		used = bms_add_members(used, ((aipg_key_clause *)lfirst(cell))->source->clause_relids);
	}
	return bms_is_subset(bms_difference(outer, rel->lateral_relids), used);
}

static void add_parameterized_paths(PlannerInfo *root, RelOptInfo *rel, const aipg_table *table) {
	List *sets = combine_outer_sets(collect_outer_sets(root, rel, table));
	ListCell *cell;

	foreach(cell, sets) {
		Relids outer = bms_union(lfirst(cell), rel->lateral_relids);
		ParamPathInfo *param_info = get_baserel_parampathinfo(root, rel, outer);
		List *clauses = list_concat_copy(rel->baserestrictinfo, param_info->ppi_clauses);
		aipg_key_match match;
		double fetched;

		aipg_key_match_clauses(root, rel, table, clauses, &match);
		if (!uses_all(&match, rel, outer)) {
			continue;
		}
		fetched = estimate_fetched(root, rel, &match);
		param_info->ppi_rows = Min(param_info->ppi_rows, fetched);
		add_scan_path(root, rel, &(scan_choice){&match, fetched, outer, param_info}, NIL, false);
	}
}

static void get_paths(PlannerInfo *root, RelOptInfo *rel, Oid relid) {
	table_info *info = rel->fdw_private;
	Relids outer = rel->lateral_relids;
	ParamPathInfo *param_info = get_baserel_parampathinfo(root, rel, outer);

	/* Of two paths of the same cost, as when all rows satisfy a range, add_path keeps the first. */
	if (info->match.clauses != NIL) {
		add_ordered_paths(root, rel, &(scan_choice){&info->match, info->fetched, outer, param_info});
	}
	add_ordered_paths(root, rel, &(scan_choice){NULL, rel->tuples, outer, param_info});
	add_parameterized_paths(root, rel, info->table);
}

/* ---- Plan ------------------------------------------------------------------------------------------------ */

/* Chooses among scan_clauses afresh: in a partitionwise join they are not those that the path was made for. */
static ForeignScan *get_plan(PlannerInfo *root, RelOptInfo *rel, Oid relid, ForeignPath *best_path, List *tlist,
							 List *scan_clauses, Plan *outer_plan) {
	table_info *info = rel->fdw_private;
	List *fields = best_path->fdw_private;
	aipg_scan_plan plan = {
		.ordered = list_nth_int(fields, PATH_ORDERED) != 0,
		.backwards = list_nth_int(fields, PATH_BACKWARDS) != 0,
	};
	aipg_key_match match = {0};
	List *expressions = NIL;
	List *exact = NIL;
	ListCell *cell;

	if (list_nth_int(fields, PATH_KEYED) != 0) {
		aipg_key_match_clauses(root, rel, info->table, scan_clauses, &match);
	}
	plan.point = match.point;
	plan.conditions = palloc(Max(list_length(match.clauses), 1) * sizeof(aipg_key_condition));
	foreach(cell, match.clauses) {
		aipg_key_clause *clause = lfirst(cell);

		plan.conditions[plan.condition_count++] = clause->condition;
		expressions = lappend(expressions, clause->clause);
		if (clause->exact) {
			exact = lappend(exact, clause->source);
		}
	}
	return make_foreignscan(tlist, extract_actual_clauses(list_difference_ptr(scan_clauses, exact), false), rel->relid,
							expressions, aipg_scan_plan_write(&plan), NIL, get_actual_clauses(exact), outer_plan);
}

void aipg_plan_routines(FdwRoutine *routine) {
	routine->GetForeignRelSize = get_rel_size;
	routine->GetForeignPaths = get_paths;
	routine->GetForeignPlan = get_plan;
}
