#include "access.h"
#include "access/sysattr.h"
#include "commands/explain.h"
#include "commands/vacuum.h"
#include "executor/executor.h"
#include "fdw.h"
#include "key_match.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "plan.h"
#include "row_codec.h"
#include "row_mark.h"
#include "utils/memutils.h"
#include "utils/ruleutils.h"
#include "utils/sampling.h"
#include "utils/snapmgr.h"

/* ForeignScanState.fdw_state; lives in the query's context. */
typedef struct scan_state {
	aipg_table *table;
	aipg_view view;
	Bitmapset *needed; /* attributes to decode, NULL for all */
	aipg_scan_plan plan;
	List *values; /* ExprState, one for each condition */

	MemoryContext range_context; /* holds the ranges */
	bool ranges_known;
	aipg_key_ranges ranges;
	int started;          /* ranges that have been opened or looked up */
	bool points_are_here; /* and are looked up one by one */

	aipg_cursor *cursor; /* on the range started last, or NULL */
	aidb_buffer *value;  /* of a looked up row */

	aipg_row_mark *mark;  /* for SELECT FOR UPDATE and the like, or NULL */
	bool locks;           /* rows are locked before they are handed on */
	ExprState *qual;      /* then they are filtered here, too */
	aidb_buffer *current; /* a row as it is now */
	StringInfoData moved; /* its key, when it has got another one */
	uint64 rows_read;
} scan_state;

/* ---- Begin ----------------------------------------------------------------------------------------------- */

/* What the plan needs of a row. A set without members would mean all: the table's id is always among them. */
static Bitmapset *collect_needed(const ForeignScan *scan) {
	const int whole_row = -FirstLowInvalidHeapAttributeNumber;
	Bitmapset *needed = bms_make_singleton(TableOidAttributeNumber - FirstLowInvalidHeapAttributeNumber);

	pull_varattnos((Node *)scan->scan.plan.targetlist, scan->scan.scanrelid, &needed);
	pull_varattnos((Node *)scan->scan.plan.qual, scan->scan.scanrelid, &needed);
	return bms_is_member(whole_row, needed) ? NULL : needed;
}

static bool must_lock(const ForeignScanState *node) {
	const EState *estate = node->ss.ps.state;
	Index rti = castNode(ForeignScan, node->ss.ps.plan)->scan.scanrelid;

	return estate->es_epq_active == NULL && list_member_int(estate->es_plannedstmt->resultRelations, (int)rti) &&
		   aipg_scan_locks_rows(node->ss.ss_currentRelation->trigdesc);
}

static void begin_locking(ForeignScanState *node, scan_state *state) {
	state->mark =
		aipg_row_mark_begin(node->ss.ps.state, castNode(ForeignScan, node->ss.ps.plan)->scan.scanrelid, state->table);
	state->locks = must_lock(node);
	if (state->locks) {
		state->needed = NULL;
		state->current = aipg_buffer_create();
		initStringInfo(&state->moved);
		state->qual = node->ss.ps.qual; /* what it does not pass is not to be locked */
		node->ss.ps.qual = NULL;
	}
}

static void begin_scan(ForeignScanState *node, int eflags) {
	ForeignScan *scan = castNode(ForeignScan, node->ss.ps.plan);
	EState *estate = node->ss.ps.state;
	scan_state *state;
	ListCell *cell;

	if (eflags & EXEC_FLAG_EXPLAIN_ONLY) {
		return;
	}
	state = palloc0(sizeof(scan_state));
	state->table = aipg_table_describe(node->ss.ss_currentRelation);
	state->view = aipg_view_of(estate->es_snapshot, state->table->relid);
	state->needed = collect_needed(scan);
	aipg_scan_plan_read(scan->fdw_private, &state->plan);
	foreach(cell, scan->fdw_exprs) {
		state->values = lappend(state->values, ExecInitExpr(aipg_key_clause_value(lfirst(cell)), &node->ss.ps));
	}
	state->range_context = AllocSetContextCreate(estate->es_query_cxt, "AiDb key ranges", ALLOCSET_SMALL_SIZES);
	state->value = aipg_buffer_create();
	begin_locking(node, state);
	node->fdw_state = state;
}

/* ---- Rows ------------------------------------------------------------------------------------------------ */

static void compute_ranges(ForeignScanState *node) {
	scan_state *state = node->fdw_state;
	ExprContext *context = node->ss.ps.ps_ExprContext;
	MemoryContext caller;
	NullableDatum *values;

	MemoryContextReset(state->range_context);
	caller = MemoryContextSwitchTo(state->range_context);
	values = palloc(Max(state->plan.condition_count, 1) * sizeof(NullableDatum));
	for (int i = 0; i < state->plan.condition_count; i++) {
		values[i].value = ExecEvalExprSwitchContext(list_nth(state->values, i), context, &values[i].isnull);
	}
	aipg_key_ranges_build(state->table, &state->view, state->plan.conditions, state->plan.condition_count, values,
						  &state->ranges);
	MemoryContextSwitchTo(caller);
	state->ranges_known = true;
	state->started = 0;
}

/* The next range in the order of the scan, NULL behind the last. */
static const aipg_key_range *start_range(scan_state *state) {
	int index = state->started;

	if (index == state->ranges.count) {
		return NULL;
	}
	state->started++;
	return &state->ranges.range[state->plan.backwards ? state->ranges.count - 1 - index : index];
}

static void close_cursor(scan_state *state) {
	if (state->cursor != NULL) {
		aipg_cursor_close(state->cursor);
		state->cursor = NULL;
	}
}

/* The points from this range on, as far as nothing else lies between, by a cursor, if that is better than one by one. */
static void start_points(scan_state *state, const aipg_key_range *range) {
	MemoryContext caller = MemoryContextSwitchTo(state->range_context);
	aidb_slice *keys = palloc((state->ranges.count - state->started + 1) * sizeof(aidb_slice));
	int count = 0, first = state->started;

	for (; range != NULL && range->point; range = start_range(state)) {
		keys[count++] = range->lower;
	}
	state->started = first + count - 1;
	state->cursor = aipg_cursor_open_keys(keys, count);
	if (state->cursor == NULL) {
		state->started = first;
		state->points_are_here = true;
	}
	MemoryContextSwitchTo(caller);
}

/* Moves to the next row of the ranges. The slices are valid until the next call. */
static bool next_row(ForeignScanState *node, aidb_slice *key, aidb_slice *row) {
	scan_state *state = node->fdw_state;
	const aipg_key_range *range;

	for (;;) {
		CHECK_FOR_INTERRUPTS();
		if (state->cursor != NULL) {
			if (aipg_cursor_next(state->cursor, key, row)) {
				return true;
			}
			close_cursor(state);
		}
		range = start_range(state);
		if (range == NULL) {
			return false;
		}
		if (range->point && !state->points_are_here && state->started < state->ranges.count) {
			start_points(state, range);
		}
		if (state->cursor != NULL) {
			continue;
		}
		if (range->point) {
			if (aipg_get(&state->view, range->lower, state->value)) {
				*key = range->lower;
				*row = (aidb_slice){state->value->data, state->value->size};
				return true;
			}
		} else {
			MemoryContext caller = MemoryContextSwitchTo(node->ss.ps.state->es_query_cxt);

			state->cursor = aipg_cursor_open(&state->view, range->lower, range->upper, state->plan.backwards);
			MemoryContextSwitchTo(caller);
		}
	}
}

/* Whether the row as it is now is one that the plan looks for. */
static bool is_wanted(ForeignScanState *node, TupleTableSlot *slot, bool changed) {
	scan_state *state = node->fdw_state;
	ExprContext *context = node->ss.ps.ps_ExprContext;

	context->ecxt_scantuple = slot;
	return (!changed || ExecQual(node->fdw_recheck_quals, context)) && ExecQual(state->qual, context);
}

/* Locks the row in the slot, which then has it as it is now. False: it is not to be handed on. */
static bool lock_row(ForeignScanState *node, aidb_slice key, TupleTableSlot *slot) {
	scan_state *state = node->fdw_state;

	if (!is_wanted(node, slot, false)) {
		InstrCountFiltered1(node, 1);
		return false;
	}
	switch (aipg_lock_row(&state->view, state->table->relid, key, LockTupleNoKeyExclusive, LockWaitBlock,
						  state->current, &state->moved)) {
	case AIPG_ROW_GONE:
	case AIPG_ROW_SELF_MODIFIED: /* its triggers have run */
		return false;
	case AIPG_ROW_NEWER:
		if (state->moved.len > 0) {
			key = (aidb_slice){state->moved.data, (size_t)state->moved.len};
		}
		aipg_row_decode(state->table, key, (aidb_slice){state->current->data, state->current->size}, NULL,
						CurrentMemoryContext, slot);
		return is_wanted(node, slot, true);
	default:
		return true; /* what a trigger of this command has changed is for the change to judge */
	}
}

/* Called in the context that is reset for each row: it holds the row's values until the next call. */
static TupleTableSlot *iterate_scan(ForeignScanState *node) {
	scan_state *state = node->fdw_state;
	TupleTableSlot *slot = node->ss.ss_ScanTupleSlot;
	aidb_slice key;
	aidb_slice row;

	if (!state->ranges_known) {
		compute_ranges(node);
	}
	while (next_row(node, &key, &row)) {
		state->rows_read++;
		aipg_row_decode(state->table, key, row, state->needed, CurrentMemoryContext, slot);
		if (state->mark != NULL) {
			aipg_row_mark_number(state->mark, key, slot);
		}
		if (!state->locks || lock_row(node, key, slot)) {
			return slot;
		}
		ResetExprContext(node->ss.ps.ps_ExprContext);
	}
	return ExecClearTuple(slot);
}

static void rescan(ForeignScanState *node) {
	scan_state *state = node->fdw_state;

	close_cursor(state);
	state->started = 0;
	if (node->ss.ps.chgParam != NULL) {
		state->ranges_known = false;
	}
}

static void end_scan(ForeignScanState *node) {
	scan_state *state = node->fdw_state;

	if (state != NULL) {
		close_cursor(state);
		aipg_row_mark_end(node->ss.ps.state, state->mark);
		MemoryContextDelete(state->range_context);
	}
}

/* ---- EXPLAIN --------------------------------------------------------------------------------------------- */

/* Finds the plan nodes above `target`, the nearest first: EXPLAIN names what a nested loop hands down by them. */
static bool find_ancestors(Plan *plan, const Plan *target, List **ancestors) {
	List *children;
	ListCell *cell;

	if (plan == NULL || plan == target) {
		return plan != NULL;
	}
	children = list_make2(outerPlan(plan), innerPlan(plan));
	if (IsA(plan, Append)) {
		children = list_concat(children, ((Append *)plan)->appendplans);
	} else if (IsA(plan, MergeAppend)) {
		children = list_concat(children, ((MergeAppend *)plan)->mergeplans);
	} else if (IsA(plan, SubqueryScan)) {
		children = lappend(children, ((SubqueryScan *)plan)->subplan);
	}
	foreach(cell, children) {
		if (find_ancestors(lfirst(cell), target, ancestors)) {
			*ancestors = lappend(*ancestors, plan);
			return true;
		}
	}
	return false;
}

static List *ancestors_of(const Plan *target, PlannedStmt *statement) {
	List *ancestors = NIL;
	ListCell *cell;

	if (!find_ancestors(statement->planTree, target, &ancestors)) {
		foreach(cell, statement->subplans) {
			if (find_ancestors(lfirst(cell), target, &ancestors)) {
				break;
			}
		}
	}
	return ancestors;
}

static void explain_conditions(ForeignScanState *node, const aipg_scan_plan *plan, ExplainState *es) {
	ForeignScan *scan = castNode(ForeignScan, node->ss.ps.plan);
	const char *label = plan->point ? "Key" : "Range";
	List *context;

	for (int i = 0; i < plan->condition_count && plan->point; i++) {
		label = plan->conditions[i].array ? "Keys" : label;
	}
	context = set_deparse_context_plan(es->deparse_cxt, &scan->scan.plan, ancestors_of(&scan->scan.plan, es->pstmt));
	ExplainPropertyText(
		label, deparse_expression((Node *)make_ands_explicit(scan->fdw_exprs), context, es->verbose, false), es);
}

static void explain_scan(ForeignScanState *node, ExplainState *es) {
	const scan_state *state = node->fdw_state;
	aipg_scan_plan plan;

	aipg_scan_plan_read(castNode(ForeignScan, node->ss.ps.plan)->fdw_private, &plan);
	if (plan.condition_count > 0) {
		explain_conditions(node, &plan, es);
	}
	if (plan.ordered) {
		ExplainPropertyText("Order", plan.backwards ? "key, backwards" : "key", es);
	}
	if (es->analyze && state != NULL && node->ss.ps.instrument != NULL) {
		double loops = Max(node->ss.ps.instrument->nloops, 1);

		ExplainPropertyFloat("Rows Read", NULL, (double)state->rows_read / loops, 0, es);
	}
}

/* ---- ANALYZE --------------------------------------------------------------------------------------------- */

/* Algorithm Z of Vitter: a row replaces a random one of the sample, and how many to pass over is drawn at once. */
typedef struct row_sample {
	HeapTuple *rows;
	int wanted;
	int taken;
	double seen;
	double to_skip; /* below zero: to be drawn */
	ReservoirStateData reservoir;
} row_sample;

/* The place of the next row in the sample, or -1 to pass over it. */
static int place_in_sample(row_sample *sample) {
	double seen = sample->seen++;
	int place;

	if (sample->taken < sample->wanted) {
		return sample->taken++;
	}
	if (sample->to_skip < 0) {
		sample->to_skip = reservoir_get_next_S(&sample->reservoir, seen, sample->wanted);
	}
	if (sample->to_skip-- > 0) {
		return -1;
	}
	place = (int)(sample->wanted * sampler_random_fract(&sample->reservoir.randstate));
	heap_freetuple(sample->rows[place]);
	return place;
}

static void sample_rows(const aipg_table *table, const aipg_view *view, row_sample *sample, TupleTableSlot *slot) {
	MemoryContext row_context = AllocSetContextCreate(CurrentMemoryContext, "AiDb row", ALLOCSET_DEFAULT_SIZES);
	aipg_all_rows rows;
	aidb_slice key;
	aidb_slice row;

	aipg_all_rows_open(&rows, table, view);
	while (aipg_all_rows_next(&rows, &key, &row)) {
		int place = place_in_sample(sample);

		vacuum_delay_point();
		if (place >= 0) {
			aipg_row_decode(table, key, row, NULL, row_context, slot);
			sample->rows[place] = ExecCopySlotHeapTuple(slot);
			MemoryContextReset(row_context);
		}
	}
	aipg_all_rows_close(&rows);
	MemoryContextDelete(row_context);
}

/* Reads the whole table: the counts are exact, and there are no dead rows to be seen in a snapshot. */
static int acquire_sample(Relation relation, int elevel, HeapTuple *rows, int wanted, double *total_rows,
						  double *total_dead_rows) {
	aipg_table *table = aipg_table_describe(relation);
	aipg_view view = aipg_view_of(GetActiveSnapshot(), table->relid);
	row_sample sample = {.rows = rows, .wanted = wanted, .to_skip = -1};
	TupleTableSlot *slot = MakeSingleTupleTableSlot(RelationGetDescr(relation), &TTSOpsVirtual);

	reservoir_init_selection_state(&sample.reservoir, wanted);
	sample_rows(table, &view, &sample, slot);
	ExecDropSingleTupleTableSlot(slot);
	*total_rows = sample.seen;
	*total_dead_rows = 0;
	ereport(elevel, (errmsg("\"%s\": table contains %.0f rows, %d rows in sample", RelationGetRelationName(relation),
							sample.seen, sample.taken)));
	return sample.taken;
}

static bool analyze_table(Relation relation, AcquireSampleRowsFunc *function, BlockNumber *total_pages) {
	aipg_key_ranges whole;
	double entries;
	double bytes;

	aipg_key_ranges_build(aipg_table_describe(relation), NULL, NULL, 0, NULL, &whole);
	aipg_key_ranges_estimate(&whole, RelationGetRelationName(relation), &entries, &bytes);
	*total_pages = (BlockNumber)Min(Max(bytes / BLCKSZ, 1), MaxBlockNumber);
	*function = acquire_sample;
	return true;
}

void aipg_scan_routines(FdwRoutine *routine) {
	routine->BeginForeignScan = begin_scan;
	routine->IterateForeignScan = iterate_scan;
	routine->ReScanForeignScan = rescan;
	routine->EndForeignScan = end_scan;
	routine->ExplainForeignScan = explain_scan;
	routine->AnalyzeForeignTable = analyze_table;
}
