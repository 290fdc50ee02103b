#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "commands/explain.h"
#include "executor/executor.h"
#include "nodes/makefuncs.h"
#include "optimizer/appendinfo.h"
#include "optimizer/inherit.h"
#include "optimizer/optimizer.h"
#include "optimizer/pathnode.h"
#include "parser/parsetree.h"
#include "router/deparse.h"
#include "router/handler.h"
#include "router/parameters.h"
#include "router/session.h"
#include "router/transaction.h"
#include "router/sharded_table.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#define WHOLE_ROW "wholerow" /* as core names it */

/* What the plan tells: whether INSERT passes over conflicts; which columns UPDATE sets. */
enum plan_field { FIELD_DO_NOTHING, FIELD_COLUMNS };

/* ResultRelInfo.ri_FdwState */
typedef struct modify_state {
	aipg_table *table;
	const char *name;
	bool do_nothing;
	List *columns; /* to be sent, as attribute numbers */
	char *sql;     /* of one row */
	router_insert insert;
	router_encoder *encoder; /* of columns, then (for UPDATE and DELETE) of the key's */
	AttrNumber *junk;        /* where the plan's rows have the old key */
	AttrNumber whole_row;    /* and the whole row, for DELETE ... RETURNING; or 0 */
	TupleTableSlot *old;     /* with the old key's columns */
	MemoryContext row_context;
} modify_state;

/* ---- Plan ------------------------------------------------------------------------------------------------- */

static void add_key_columns(PlannerInfo *root, Index index, RangeTblEntry *entry, Relation relation) {
	const aipg_table *table = router_table_describe(relation);

	for (int i = 0; i < table->key_count; i++) {
		const aipg_key_column *column = &table->key[i];
		const char *name = NameStr(TupleDescAttr(table->tuple_desc, column->attnum - 1)->attname);

		add_row_identity_var(
			root, makeVar((int)index, column->attnum, column->type, column->typmod, column->collation, 0), index, name);
	}
	if (root->parse->commandType == CMD_DELETE && root->parse->returningList != NIL) {
		add_row_identity_var(root, makeWholeRowVar(entry, (int)index, 0, false), index, WHOLE_ROW);
	}
}

/* Columns that are set, here too by triggers. */
static List *updated_columns(PlannerInfo *root, Index index, Relation relation) {
	RelOptInfo *rel = find_base_rel(root, (int)index);
	Bitmapset *set = get_rel_all_updated_cols(root, rel);
	bool triggers = relation->trigdesc != NULL && relation->trigdesc->trig_update_before_row;
	List *columns = NIL;

	for (int i = 1; i <= RelationGetDescr(relation)->natts; i++) {
		if (!TupleDescAttr(RelationGetDescr(relation), i - 1)->attisdropped &&
			(triggers || bms_is_member(i - FirstLowInvalidHeapAttributeNumber, set))) {
			columns = lappend_int(columns, i);
		}
	}
	return columns;
}

static List *plan_modify(PlannerInfo *root, ModifyTable *plan, Index index, int subplan) {
	RangeTblEntry *entry = planner_rt_fetch(index, root);
	Relation relation = table_open(entry->relid, NoLock);
	List *columns = plan->operation == CMD_UPDATE ? updated_columns(root, index, relation) : NIL;

	table_close(relation, NoLock);
	if (plan->onConflictAction == ONCONFLICT_UPDATE) {
		ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
						errmsg("ON CONFLICT DO UPDATE is not supported on tables of the cluster"),
						errhint("Use UPDATE, and INSERT when it has found no row.")));
	}
	return list_make2(makeInteger(plan->onConflictAction == ONCONFLICT_NOTHING), columns);
}

/* ---- Begin ------------------------------------------------------------------------------------------------ */

static List *all_columns(TupleDesc tuple_desc) {
	List *columns = NIL;

	for (int i = 1; i <= tuple_desc->natts; i++) {
		if (!TupleDescAttr(tuple_desc, i - 1)->attisdropped) {
			columns = lappend_int(columns, i);
		}
	}
	return columns;
}

/* Types that are not built in have other numbers elsewhere: a cast by name says what the parameter is. */
static const char *cast_of(Oid type, int32 typmod) {
	if (type < FirstGenbkiObjectId) {
		return "";
	}
	return psprintf("::%s", format_type_extended(type, -1, FORMAT_TYPE_FORCE_QUALIFY));
}

static Form_pg_attribute attribute_of(const modify_state *state, int index) {
	int columns = list_length(state->columns);
	AttrNumber attnum =
		index < columns ? (AttrNumber)list_nth_int(state->columns, index) : state->table->key[index - columns].attnum;

	return TupleDescAttr(state->table->tuple_desc, attnum - 1);
}

/* Parameters: the columns, then `keys` columns of the key. */
static void describe_parameters(modify_state *state, int keys) {
	int count = list_length(state->columns) + keys;
	Oid *types = palloc((Size)Max(count, 1) * sizeof(Oid));
	Oid *sent = palloc((Size)Max(count, 1) * sizeof(Oid));
	const char **casts = palloc((Size)Max(count, 1) * sizeof(char *));

	for (int i = 0; i < count; i++) {
		const FormData_pg_attribute *attribute = attribute_of(state, i);

		types[i] = attribute->atttypid;
		casts[i] = cast_of(attribute->atttypid, attribute->atttypmod);
		sent[i] = casts[i][0] == '\0' ? types[i] : InvalidOid;
	}
	state->encoder = router_encoder_create(types, count);
	state->insert.count = count;
	state->insert.types = sent;
	state->insert.casts = casts;
}

static const char *column_name(const modify_state *state, int index) {
	return quote_identifier(NameStr(attribute_of(state, index)->attname));
}

static void write_insert(modify_state *state) {
	static uint64 last_id;
	StringInfoData sql;

	describe_parameters(state, 0);
	initStringInfo(&sql);
	appendStringInfo(&sql, "INSERT INTO %s (", state->name);
	for (int i = 0; i < state->insert.count; i++) {
		appendStringInfo(&sql, "%s%s", i > 0 ? ", " : "", column_name(state, i));
	}
	appendStringInfoString(&sql, ") VALUES");
	state->insert.id = ++last_id;
	state->insert.head = pstrdup(sql.data);
	appendStringInfoString(&sql, " (");
	for (int i = 0; i < state->insert.count; i++) {
		appendStringInfo(&sql, "%s$%d%s", i > 0 ? ", " : "", i + 1, state->insert.casts[i]);
	}
	appendStringInfoString(&sql, ") ON CONFLICT DO NOTHING");
	state->sql = sql.data;
}

/* UPDATE or DELETE of one row by its key. */
static void write_change(modify_state *state, CmdType operation) {
	int columns = list_length(state->columns);
	StringInfoData sql;

	describe_parameters(state, state->table->key_count);
	initStringInfo(&sql);
	if (operation == CMD_UPDATE) {
		appendStringInfo(&sql, "UPDATE %s SET ", state->name);
	} else {
		appendStringInfo(&sql, "DELETE FROM %s", state->name);
	}
	for (int i = 0; i < state->insert.count; i++) {
		const char *separator = i == 0 ? "" : ", ";

		if (i >= columns) {
			separator = i == columns ? " WHERE " : " AND ";
		}
		appendStringInfo(&sql, "%s%s = $%d%s", separator, column_name(state, i), i + 1, state->insert.casts[i]);
	}
	state->sql = sql.data;
}

static void find_junk(modify_state *state, Plan *subplan) {
	state->junk = palloc((Size)state->table->key_count * sizeof(AttrNumber));
	for (int i = 0; i < state->table->key_count; i++) {
		Form_pg_attribute attribute = TupleDescAttr(state->table->tuple_desc, state->table->key[i].attnum - 1);

		state->junk[i] = ExecFindJunkAttributeInTlist(subplan->targetlist, NameStr(attribute->attname));
		if (!AttributeNumberIsValid(state->junk[i])) {
			elog(ERROR, "the plan has not the key column \"%s\"", NameStr(attribute->attname));
		}
	}
	state->whole_row = ExecFindJunkAttributeInTlist(subplan->targetlist, WHOLE_ROW);
	state->old = MakeSingleTupleTableSlot(state->table->tuple_desc, &TTSOpsVirtual);
}

static modify_state *create_state(ResultRelInfo *result) {
	modify_state *state = palloc0(sizeof(modify_state));

	state->table = router_table_describe(result->ri_RelationDesc);
	state->name = router_table_name(state->table->relid);
	state->row_context = AllocSetContextCreate(CurrentMemoryContext, "AiDb row for a node", ALLOCSET_SMALL_SIZES);
	result->ri_FdwState = state;
	return state;
}

static void begin_modify(ModifyTableState *node, ResultRelInfo *result, List *plan, int subplan, int eflags) {
	modify_state *state;

	if (eflags & EXEC_FLAG_EXPLAIN_ONLY) {
		return;
	}
	state = create_state(result);
	state->do_nothing = intVal(list_nth(plan, FIELD_DO_NOTHING)) != 0;
	if (node->operation == CMD_INSERT) {
		state->columns = all_columns(state->table->tuple_desc);
		write_insert(state);
		return;
	}
	state->columns = list_nth(plan, FIELD_COLUMNS);
	write_change(state, node->operation);
	find_junk(state, outerPlanState(node)->plan);
}

/* COPY, and rows that are routed to a partition. */
static void begin_insert(ModifyTableState *node, ResultRelInfo *result) {
	modify_state *state;

	if (node != NULL && node->operation == CMD_UPDATE) {
		ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
						errmsg("cannot move a row into table \"%s\" of the cluster by UPDATE",
							   RelationGetRelationName(result->ri_RelationDesc))));
	}
	state = create_state(result);
	state->do_nothing = node != NULL && node->ps.plan != NULL &&
						castNode(ModifyTable, node->ps.plan)->onConflictAction == ONCONFLICT_NOTHING;
	state->columns = all_columns(state->table->tuple_desc);
	write_insert(state);
}

/* ---- Rows ------------------------------------------------------------------------------------------------- */

/* The session of the group that has, or is to have, the row. */
static router_session *session_of(const modify_state *state, TupleTableSlot *row) {
	const router_map *map = router_map_get();
	router_session *session = router_session_open(&map->groups[router_group_of_row(map, state->table, row)]);

	router_session_check_write(session);
	return session;
}

/* The values of the columns in `row`, then those of the key in `old` (NULL: none). */
static const char **encode_row(modify_state *state, TupleTableSlot *row, TupleTableSlot *old) {
	const char **values = palloc0((Size)Max(state->encoder->count, 1) * sizeof(char *));
	int columns = list_length(state->columns);
	int level = router_begin_values();

	for (int i = 0; i < state->encoder->count; i++) {
		TupleTableSlot *from = i < columns ? row : old;
		bool null;
		Datum value = slot_getattr(from, attribute_of(state, i)->attnum, &null);

		values[i] = router_encode(state->encoder, i, value, null);
	}
	router_end_values(level);
	return values;
}

static bool execute(modify_state *state, router_session *session, const char **values) {
	router_statement statement = {state->sql, state->encoder->count, state->insert.types, values, true};

	return router_execute(session, &statement) > 0;
}

static TupleTableSlot *insert_row(EState *estate, ResultRelInfo *result, TupleTableSlot *slot,
								  TupleTableSlot *plan_slot) {
	modify_state *state = result->ri_FdwState;
	MemoryContext caller;
	router_session *session;
	const char **values;
	bool inserted = true;

	MemoryContextReset(state->row_context);
	caller = MemoryContextSwitchTo(state->row_context);
	session = session_of(state, slot);
	values = encode_row(state, slot, NULL);
	if (state->do_nothing) {
		inserted = execute(state, session, values);
	} else {
		router_insert_later(session, &state->insert, values);
	}
	MemoryContextSwitchTo(caller);
	return inserted ? slot : NULL;
}

/* The key that the row has had, by the plan. */
static void read_old_key(modify_state *state, TupleTableSlot *plan_slot) {
	ExecClearTuple(state->old);
	memset(state->old->tts_isnull, true, (size_t)state->table->tuple_desc->natts * sizeof(bool));
	for (int i = 0; i < state->table->key_count; i++) {
		AttrNumber attnum = state->table->key[i].attnum;

		state->old->tts_values[attnum - 1] =
			slot_getattr(plan_slot, state->junk[i], &state->old->tts_isnull[attnum - 1]);
	}
	ExecStoreVirtualTuple(state->old);
}

static void check_same_group(const modify_state *state, TupleTableSlot *row) {
	const router_map *map = router_map_get();

	if (router_group_of_row(map, state->table, row) != router_group_of_row(map, state->table, state->old)) {
		ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
						errmsg("cannot move a row of table \"%s\" to another group of the cluster",
							   get_rel_name(state->table->relid)),
						errdetail("Its new shard key belongs there."),
						errhint("DELETE it and INSERT it again, in two transactions.")));
	}
}

static TupleTableSlot *change_row(modify_state *state, TupleTableSlot *slot, TupleTableSlot *plan_slot, bool update) {
	MemoryContext caller;
	router_session *session;
	bool changed;

	MemoryContextReset(state->row_context);
	caller = MemoryContextSwitchTo(state->row_context);
	read_old_key(state, plan_slot);
	if (update) {
		check_same_group(state, slot);
	}
	session = session_of(state, state->old);
	changed = execute(state, session, encode_row(state, slot, state->old));
	MemoryContextSwitchTo(caller);
	return changed ? slot : NULL;
}

static TupleTableSlot *update_row(EState *estate, ResultRelInfo *result, TupleTableSlot *slot,
								  TupleTableSlot *plan_slot) {
	return change_row(result->ri_FdwState, slot, plan_slot, true);
}

/* What RETURNING is to show. */
static void show_deleted(const modify_state *state, TupleTableSlot *plan_slot, TupleTableSlot *slot) {
	bool null;
	Datum row = slot_getattr(plan_slot, state->whole_row, &null);
	HeapTupleHeader header = DatumGetHeapTupleHeader(row);
	HeapTupleData tuple = {.t_len = HeapTupleHeaderGetDatumLength(header), .t_data = header};

	ExecForceStoreHeapTuple(heap_copytuple(&tuple), slot, true);
}

static TupleTableSlot *delete_row(EState *estate, ResultRelInfo *result, TupleTableSlot *slot,
								  TupleTableSlot *plan_slot) {
	const modify_state *state = result->ri_FdwState;

	if (change_row(result->ri_FdwState, slot, plan_slot, false) == NULL) {
		return NULL;
	}
	if (AttributeNumberIsValid(state->whole_row)) {
		show_deleted(state, plan_slot, slot);
	}
	return slot;
}

/* ---- The end ---------------------------------------------------------------------------------------------- */

static void end_statement(void) {
	if (!router_may_defer()) {
		router_flush_all();
	}
}

static void end_modify(EState *estate, ResultRelInfo *result) {
	modify_state *state = result->ri_FdwState;

	if (state != NULL) {
		end_statement();
		if (state->old != NULL) {
			ExecDropSingleTupleTableSlot(state->old);
		}
	}
}

static void explain_modify(ModifyTableState *node, ResultRelInfo *result, List *plan, int subplan, ExplainState *es) {
	if (es->verbose) {
		ExplainPropertyText("Remote Table", router_table_name(RelationGetRelid(result->ri_RelationDesc)), es);
	}
}

static int is_updatable(Relation relation) {
	return (1 << CMD_INSERT) | (1 << CMD_UPDATE) | (1 << CMD_DELETE);
}

void router_modify_routines(FdwRoutine *routine) {
	routine->AddForeignUpdateTargets = add_key_columns;
	routine->PlanForeignModify = plan_modify;
	routine->BeginForeignModify = begin_modify;
	routine->BeginForeignInsert = begin_insert;
	routine->ExecForeignInsert = insert_row;
	routine->ExecForeignUpdate = update_row;
	routine->ExecForeignDelete = delete_row;
	routine->EndForeignModify = end_modify;
	routine->EndForeignInsert = end_modify;
	routine->ExplainForeignModify = explain_modify;
	routine->IsForeignRelUpdatable = is_updatable;
}
