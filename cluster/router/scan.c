#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "commands/explain.h"
#include "executor/executor.h"
#include "fmgr.h"
#include "lib/binaryheap.h"
#include "miscadmin.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "router/deparse.h"
#include "router/handler.h"
#include "router/parameters.h"
#include "router/plan.h"
#include "router/session.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/sortsupport.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

typedef struct scan_state scan_state;

/* A row as it came, with the memory of its values. */
typedef struct decoded_row {
	TupleTableSlot *slot;
	MemoryContext context;
} decoded_row;

/* One group's part of a scan. Rows that come while somebody else's are waited for are kept in a tuplestore. */
typedef struct source {
	router_stream stream; /* first: its address is the source's */
	scan_state *scan;
	int group_id;
	bool direct;           /* the next row that comes goes into `row` */
	decoded_row row;       /* the last that was handed on */
	Tuplestorestate *kept; /* NULL: no row was ever kept */
	int64 kept_rows;       /* that are still in there */
	TupleTableSlot *kept_slot;
	decoded_row keeping;     /* a row on its way there */
	TupleTableSlot *current; /* while sources are merged */
} source;

/* ForeignScanState.fdw_state; lives in the query's context. */
struct scan_state {
	router_scan_plan plan;
	aipg_table *table;
	TupleDesc row_type;
	router_encoder *encoder;
	List *parameters; /* ExprState */
	List *shard_key;  /* ExprState */
	FmgrInfo *inputs; /* by column */
	Oid *input_types;
	SortSupport sort_keys;

	MemoryContext run_context; /* of one run: parameters and sources */
	bool started;
	router_statement statement;
	int source_count;
	source **sources;
	int next;         /* the source to be looked at first */
	binaryheap *heap; /* of sources with a current row; NULL: not merged, or not begun */
	source *last;     /* whose row was handed on last, of those that are merged */
	TimestampTz lost_since;
	uint64 placement; /* with which it has begun */
	bool moved;       /* slots are elsewhere since: it has to begin anew */
	bool delivered;   /* a row was handed on */
	char *groups;     /* that were asked, for EXPLAIN */
};

/* ---- Begin ----------------------------------------------------------------------------------------------- */

static Oid *types_of(List *expressions, int count) {
	Oid *types = palloc((Size)Max(count, 1) * sizeof(Oid));

	for (int i = 0; i < count; i++) {
		types[i] = exprType(list_nth(expressions, i));
	}
	return types;
}

static void prepare_inputs(scan_state *state) {
	int count = state->row_type->natts;
	ListCell *cell;

	state->inputs = palloc0((Size)Max(count, 1) * sizeof(FmgrInfo));
	state->input_types = palloc0((Size)Max(count, 1) * sizeof(Oid));
	foreach(cell, state->plan.columns) {
		int i = lfirst_int(cell) - 1;
		Oid input;

		getTypeInputInfo(TupleDescAttr(state->row_type, i)->atttypid, &input, &state->input_types[i]);
		fmgr_info(input, &state->inputs[i]);
	}
}

static void prepare_sort(scan_state *state) {
	state->sort_keys = palloc0((Size)Max(state->plan.sort_key_count, 1) * sizeof(SortSupportData));
	for (int i = 0; i < state->plan.sort_key_count; i++) {
		const router_sort_key *key = &state->plan.sort_keys[i];

		state->sort_keys[i].ssup_cxt = CurrentMemoryContext;
		state->sort_keys[i].ssup_collation = key->collation;
		state->sort_keys[i].ssup_nulls_first = key->nulls_first;
		state->sort_keys[i].ssup_attno = key->column;
		PrepareSortSupportFromOrderingOp(key->operator, & state->sort_keys[i]);
	}
}

static void describe_table(scan_state *state) {
	Relation relation = table_open(state->plan.relid, NoLock);

	state->table = router_table_describe(relation);
	table_close(relation, NoLock);
	state->table->tuple_desc = NULL;
}

static void begin_scan(ForeignScanState *node, int eflags) {
	ForeignScan *scan = castNode(ForeignScan, node->ss.ps.plan);
	scan_state *state;

	if (eflags & EXEC_FLAG_EXPLAIN_ONLY) {
		return;
	}
	state = palloc0(sizeof(scan_state));
	router_scan_plan_read(scan->fdw_private, &state->plan);
	describe_table(state);
	state->row_type = node->ss.ss_ScanTupleSlot->tts_tupleDescriptor;
	state->encoder =
		router_encoder_create(types_of(scan->fdw_exprs, state->plan.parameter_count), state->plan.parameter_count);
	state->parameters = ExecInitExprList(list_copy_head(scan->fdw_exprs, state->plan.parameter_count), &node->ss.ps);
	state->shard_key = ExecInitExprList(list_copy_tail(scan->fdw_exprs, state->plan.parameter_count), &node->ss.ps);
	prepare_inputs(state);
	prepare_sort(state);
	state->run_context =
		AllocSetContextCreate(node->ss.ps.state->es_query_cxt, "AiDb cluster scan", ALLOCSET_SMALL_SIZES);
	node->fdw_state = state;
}

/* ---- Rows that come --------------------------------------------------------------------------------------- */

static decoded_row create_row(const scan_state *state) {
	return (decoded_row){MakeSingleTupleTableSlot(state->row_type, &TTSOpsVirtual),
						 AllocSetContextCreate(state->run_context, "AiDb row of a node", ALLOCSET_SMALL_SIZES)};
}

/* The columns that came, as text; the others are null. */
static void decode(const scan_state *state, const PGresult *result, decoded_row *row) {
	TupleTableSlot *slot = ExecClearTuple(row->slot);
	MemoryContext caller;
	int field = 0;
	ListCell *cell;

	if (PQnfields(result) < list_length(state->plan.columns)) {
		ereport(ERROR, (errcode(ERRCODE_FDW_INCONSISTENT_DESCRIPTOR_INFORMATION),
						errmsg("a node has sent %d columns instead of %d", PQnfields(result),
							   list_length(state->plan.columns))));
	}
	MemoryContextReset(row->context);
	caller = MemoryContextSwitchTo(row->context);
	memset(slot->tts_isnull, true, (size_t)state->row_type->natts * sizeof(bool));
	foreach(cell, state->plan.columns) {
		int column = lfirst_int(cell) - 1;
		char *text = PQgetisnull(result, 0, field) != 0 ? NULL : PQgetvalue(result, 0, field);

		slot->tts_values[column] = InputFunctionCall(&state->inputs[column], text, state->input_types[column],
													 TupleDescAttr(state->row_type, column)->atttypmod);
		slot->tts_isnull[column] = text == NULL;
		field++;
	}
	ExecStoreVirtualTuple(slot);
	MemoryContextSwitchTo(caller);
}

static void keep(source *from, const PGresult *result) {
	MemoryContext caller = MemoryContextSwitchTo(from->scan->run_context);

	if (from->kept == NULL) {
		from->kept = tuplestore_begin_heap(false, false, work_mem);
		from->kept_slot = MakeSingleTupleTableSlot(from->scan->row_type, &TTSOpsMinimalTuple);
		from->keeping = create_row(from->scan);
	}
	decode(from->scan, result, &from->keeping);
	tuplestore_puttupleslot(from->kept, from->keeping.slot);
	from->kept_rows++;
	MemoryContextSwitchTo(caller);
}

static void deliver(router_stream *stream, const PGresult *result) {
	source *from = (source *)stream;

	if (from->direct) {
		from->direct = false;
		decode(from->scan, result, &from->row);
	} else {
		keep(from, result);
	}
}

/* ---- Asking ----------------------------------------------------------------------------------------------- */

static void send(source *to, const router_group *group) {
	router_session *session = to->scan->plan.locks ? router_session_open(group) : router_session_open_reader(group);

	router_query(session, &to->scan->statement, to->scan->plan.locks, &to->stream);
}

/* The connection was lost before it brought anything: the group's primary, whoever it is now, is asked again. */
static void send_again(source *to) {
	scan_state *state = to->scan;
	const router_group *group;

	if (state->lost_since == 0) {
		state->lost_since = GetCurrentTimestamp();
	}
	router_retry(to->group_id, state->lost_since);
	state->moved = router_map_get()->placement != state->placement;
	if (state->moved) {
		return;
	}
	group = router_map_group(router_map_get(), to->group_id);
	if (group == NULL) {
		ereport(ERROR, (errcode(ERRCODE_UNDEFINED_OBJECT), errmsg("a group of the cluster was removed meanwhile")));
	}
	send(to, group);
}

static source *create_source(scan_state *state, const router_group *group) {
	source *created = palloc0(sizeof(source));

	created->scan = state;
	created->group_id = group->id;
	created->stream.deliver = deliver;
	created->row = create_row(state);
	return created;
}

static int compare_sources(Datum a, Datum b, void *argument) {
	const scan_state *state = argument;
	TupleTableSlot *left = ((source *)DatumGetPointer(a))->current;
	TupleTableSlot *right = ((source *)DatumGetPointer(b))->current;

	for (int i = 0; i < state->plan.sort_key_count; i++) {
		SortSupport key = &state->sort_keys[i];
		bool left_null, right_null;
		Datum left_value = slot_getattr(left, key->ssup_attno, &left_null);
		Datum right_value = slot_getattr(right, key->ssup_attno, &right_null);
		int order = ApplySortComparator(left_value, left_null, right_value, right_null, key);

		if (order != 0) {
			return -order; /* the heap has the greatest on top */
		}
	}
	return 0;
}

static void name_groups(scan_state *state, const router_map *map, const Bitmapset *groups) {
	StringInfoData names;
	int i = -1;

	initStringInfo(&names);
	while ((i = bms_next_member(groups, i)) >= 0) {
		appendStringInfo(&names, "%s%s", names.len > 0 ? ", " : "", map->groups[i].name);
	}
	state->groups = names.data;
}

/* All groups that may have rows are asked at once. */
static void start(ForeignScanState *node) {
	scan_state *state = node->fdw_state;
	ExprContext *context = node->ss.ps.ps_ExprContext;
	MemoryContext caller = MemoryContextSwitchTo(state->run_context);
	const router_map *map = router_map_get();
	Bitmapset *groups = router_groups_of(map, state->table, state->plan.conditions, state->plan.condition_count,
										 state->shard_key, context);
	int i = -1;

	state->placement = map->placement;
	state->moved = state->delivered = false;
	state->statement = (router_statement){
		.sql = state->plan.sql,
		.count = state->encoder->count,
		.types = state->encoder->types,
		.values = router_encode_all(state->encoder, state->parameters, context),
		.prepare = state->plan.prepare,
	};
	name_groups(state, map, groups);
	state->sources = palloc0((Size)Max(bms_num_members(groups), 1) * sizeof(source *));
	while ((i = bms_next_member(groups, i)) >= 0) {
		state->sources[state->source_count++] = create_source(state, &map->groups[i]);
	}
	for (int j = 0; j < state->source_count; j++) {
		/* connecting may have read the map again */
		const router_group *group = router_map_group(router_map_get(), state->sources[j]->group_id);

		if (group != NULL && router_map_get()->placement == state->placement) {
			send(state->sources[j], group);
		}
	}
	state->moved = router_map_get()->placement != state->placement;
	state->started = true;
	MemoryContextSwitchTo(caller);
}

/* ---- Rows ------------------------------------------------------------------------------------------------- */

static bool is_over(const source *from) {
	return from->stream.session == NULL && !from->stream.lost && from->kept_rows == 0;
}

/* The next row that is there; NULL: none yet, or never again. */
static TupleTableSlot *poll_source(source *from) {
	uint64 rows = from->stream.rows;

	if (from->kept_rows > 0) {
		MemoryContext caller = MemoryContextSwitchTo(from->scan->run_context); /* the slot frees the row, later */

		(void)tuplestore_gettupleslot(from->kept, true, true, from->kept_slot);
		MemoryContextSwitchTo(caller);
		if (--from->kept_rows == 0) {
			tuplestore_clear(from->kept);
		}
		return from->kept_slot;
	}
	if (from->stream.lost) {
		send_again(from);
		rows = from->stream.rows;
	}
	if (from->scan->moved) {
		return NULL;
	}
	from->direct = true;
	(void)router_stream_poll(&from->stream);
	from->direct = false;
	return from->stream.rows != rows ? from->row.slot : NULL;
}

static TupleTableSlot *wait_source(source *from) {
	for (;;) {
		TupleTableSlot *row = poll_source(from);
		router_stream *stream = &from->stream;

		if (row != NULL || is_over(from) || from->scan->moved) {
			return row;
		}
		if (stream->session != NULL) {
			router_streams_wait(&stream, 1);
		}
	}
}

/* Whichever row comes first. */
static TupleTableSlot *next_of_any(scan_state *state) {
	router_stream **streams = palloc((Size)Max(state->source_count, 1) * sizeof(router_stream *));

	for (;;) {
		int waiting = 0;
		bool over = true;

		CHECK_FOR_INTERRUPTS();
		for (int i = 0; i < state->source_count; i++) {
			source *from = state->sources[state->next];
			TupleTableSlot *row = poll_source(from);

			if (row != NULL) {
				pfree(streams);
				return row; /* and the same source is looked at first again: what has come is taken together */
			}
			over = over && is_over(from);
			if (from->stream.session != NULL) {
				streams[waiting++] = &from->stream;
			}
			state->next = (state->next + 1) % state->source_count;
		}
		if (over || state->moved) {
			pfree(streams);
			return NULL;
		}
		if (waiting > 0) {
			router_streams_wait(streams, waiting);
		}
	}
}

static void begin_merge(scan_state *state) {
	MemoryContext caller = MemoryContextSwitchTo(state->run_context);

	state->heap = binaryheap_allocate(Max(state->source_count, 1), compare_sources, state);
	MemoryContextSwitchTo(caller);
	for (int i = 0; i < state->source_count; i++) {
		state->sources[i]->current = wait_source(state->sources[i]);
		if (state->sources[i]->current != NULL) {
			binaryheap_add_unordered(state->heap, PointerGetDatum(state->sources[i]));
		}
	}
	binaryheap_build(state->heap);
}

static TupleTableSlot *next_in_order(scan_state *state) {
	if (state->heap == NULL) {
		begin_merge(state);
	} else if (state->last != NULL) {
		state->last->current = wait_source(state->last);
		if (state->last->current != NULL) {
			binaryheap_replace_first(state->heap, PointerGetDatum(state->last));
		} else {
			(void)binaryheap_remove_first(state->heap);
		}
	}
	if (binaryheap_empty(state->heap)) {
		state->last = NULL;
		return NULL;
	}
	state->last = (source *)DatumGetPointer(binaryheap_first(state->heap));
	return state->last->current;
}

static void stop(scan_state *state) {
	for (int i = 0; i < state->source_count; i++) {
		source *each = state->sources[i];

		router_stream_close(&each->stream);
		ExecDropSingleTupleTableSlot(each->row.slot);
		if (each->kept != NULL) {
			tuplestore_end(each->kept);
			ExecDropSingleTupleTableSlot(each->kept_slot);
			ExecDropSingleTupleTableSlot(each->keeping.slot);
		}
	}
	state->source_count = 0;
	state->started = false;
	state->heap = NULL;
	state->last = NULL;
	state->next = 0;
	state->groups = NULL;
	MemoryContextReset(state->run_context);
}

static TupleTableSlot *next_row(scan_state *state) {
	if (state->moved || state->source_count == 0) {
		return NULL;
	}
	return state->plan.sort_key_count > 0 && state->source_count > 1 ? next_in_order(state) : next_of_any(state);
}

static TupleTableSlot *iterate_scan(ForeignScanState *node) {
	scan_state *state = node->fdw_state;
	TupleTableSlot *row = NULL;

	do {
		if (state->moved && state->delivered) {
			router_map_raise_moved(NULL);
		}
		if (state->moved) {
			stop(state);
		}
		if (!state->started) {
			start(node);
		}
		row = next_row(state);
	} while (state->moved);
	state->delivered = state->delivered || row != NULL;
	return row != NULL ? row : ExecClearTuple(node->ss.ss_ScanTupleSlot);
}

/* ---- The end ---------------------------------------------------------------------------------------------- */

static void rescan(ForeignScanState *node) {
	scan_state *state = node->fdw_state;

	if (state->started) {
		stop(state);
	}
}

static void end_scan(ForeignScanState *node) {
	scan_state *state = node->fdw_state;

	if (state != NULL) {
		stop(state);
	}
}

/* ---- EXPLAIN ---------------------------------------------------------------------------------------------- */

static char *name_shard_key(const router_scan_plan *plan) {
	Relation relation = table_open(plan->relid, AccessShareLock);
	const aipg_table *table = router_table_describe(relation);
	StringInfoData names;

	initStringInfo(&names);
	for (int i = 0; i < plan->condition_count; i++) {
		appendStringInfo(&names, "%s%s", i > 0 ? ", " : "", router_column_name(plan->relid, table->key[i].attnum));
	}
	table_close(relation, AccessShareLock);
	return names.data;
}

static void explain_scan(ForeignScanState *node, ExplainState *es) {
	const scan_state *state = node->fdw_state;
	router_scan_plan plan;

	router_scan_plan_read(castNode(ForeignScan, node->ss.ps.plan)->fdw_private, &plan);
	ExplainPropertyText("Groups",
						state != NULL && state->groups != NULL ? state->groups
						: plan.condition_count > 0             ? psprintf("by shard key (%s)", name_shard_key(&plan))
															   : "all",
						es);
	ExplainPropertyText("Remote SQL", plan.sql, es);
}

void router_scan_routines(FdwRoutine *routine) {
	routine->BeginForeignScan = begin_scan;
	routine->IterateForeignScan = iterate_scan;
	routine->ReScanForeignScan = rescan;
	routine->EndForeignScan = end_scan;
	routine->ExplainForeignScan = explain_scan;
}
