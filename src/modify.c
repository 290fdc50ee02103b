#include "access.h"
#include "access/table.h"
#include "access/xact.h"
#include "commands/defrem.h"
#include "executor/executor.h"
#include "executor/nodeModifyTable.h"
#include "fdw.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "optimizer/appendinfo.h"
#include "row_codec.h"
#include "row_mark.h"
#include "table.h"
#include "upsert.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

/*
 * What a log record and a batch add to a row is little and fixed; this leaves room for it below the largest batch.
 */
#define BATCH_OVERHEAD_BYTES 4096

/* ResultRelInfo.ri_FdwState; lives in the query's context. */
typedef struct modify_state {
	aipg_table *table;
	const char *name;
	CommandId command;
	size_t max_row_bytes; /* key and row together */
	ModifyTableState *node;
	OnConflictAction on_conflict;
	bool has_insert_triggers; /* AFTER INSERT, for each row */
	StringInfoData key;       /* these three are reused from row to row */
	StringInfoData row;
	StringInfoData old_key;
	MemoryContext row_context; /* reset for each row */

	/* UPDATE, DELETE, and ON CONFLICT, for which the plan gives no keys */
	aipg_view view;
	AttrNumber *key_junk;         /* where the subplan has the old value of each key column */
	TupleTableSlot *old_slot;     /* holds these */
	bool locked;                  /* the scan has locked the rows already, and handed on their newest versions */
	aidb_buffer *current;         /* the row to be changed, as it is now */
	StringInfoData moved;         /* its key, when that is not the one that the plan has found it by */
	MemoryContext current_values; /* its values */
} modify_state;

/* ---- Planning -------------------------------------------------------------------------------------------- */

/*
 * The name of a key column's old value in the subplan. Partitions share such a column only when all of it is the same,
 * so that says the name.
 */
static char *junk_name(const aipg_key_column *column) {
	return psprintf("aidb key %d of type %u, %d, %u", column->attnum, column->type, column->typmod, column->collation);
}

/* UPDATE and DELETE find the stored row by the old values of the key columns. */
static void add_update_targets(PlannerInfo *root, Index relation_index, RangeTblEntry *entry, Relation relation) {
	const aipg_table *table = aipg_table_describe(relation);

	for (int i = 0; i < table->key_count; i++) {
		const aipg_key_column *column = &table->key[i];
		Var *var = makeVar((int)relation_index, column->attnum, column->type, column->typmod, column->collation, 0);

		add_row_identity_var(root, var, relation_index, junk_name(column));
	}
}

static int is_updatable(Relation relation) {
	return (1 << CMD_INSERT) | (1 << CMD_UPDATE) | (1 << CMD_DELETE);
}

/* ---- Begin and end --------------------------------------------------------------------------------------- */

/* For statements that change rows which are there already. */
static void prepare_current(EState *estate, modify_state *state) {
	state->view = aipg_view_of(estate->es_snapshot, state->table->relid);
	state->current = aipg_buffer_create();
	state->current_values = AllocSetContextCreate(CurrentMemoryContext, "AiDb changed row", ALLOCSET_DEFAULT_SIZES);
}

static modify_state *create_state(ModifyTableState *node, ResultRelInfo *target) {
	EState *estate = node->ps.state;
	MemoryContext caller = MemoryContextSwitchTo(estate->es_query_cxt);
	modify_state *state = palloc0(sizeof(modify_state));

	state->table = aipg_table_describe(target->ri_RelationDesc);
	state->name = RelationGetRelationName(target->ri_RelationDesc);
	state->max_row_bytes = aidb_max_batch_bytes(aipg_store()) - BATCH_OVERHEAD_BYTES;
	state->node = node;
	state->command = node->ps.plan == NULL ? GetCurrentCommandId(true) : estate->es_output_cid; /* COPY has no plan */
	state->on_conflict = aipg_upsert_action(node);
	state->has_insert_triggers = target->ri_TrigDesc != NULL && target->ri_TrigDesc->trig_insert_after_row;
	initStringInfo(&state->key);
	initStringInfo(&state->row);
	initStringInfo(&state->old_key);
	state->row_context = AllocSetContextCreate(estate->es_query_cxt, "AiDb row", ALLOCSET_DEFAULT_SIZES);
	if (state->on_conflict != ONCONFLICT_NONE) {
		prepare_current(estate, state);
	}
	target->ri_FdwState = state;
	MemoryContextSwitchTo(caller);
	return state;
}

static void prepare_old_key(ModifyTableState *node, ResultRelInfo *target, modify_state *state) {
	const aipg_table *table = state->table;
	List *columns = outerPlanState(node)->plan->targetlist;

	prepare_current(node->ps.state, state);
	state->locked = aipg_scan_locks_rows(target->ri_TrigDesc);
	initStringInfo(&state->moved);
	state->old_slot = ExecInitExtraTupleSlot(node->ps.state, RelationGetDescr(target->ri_RelationDesc), &TTSOpsVirtual);
	state->key_junk = palloc(table->key_count * sizeof(AttrNumber));
	for (int i = 0; i < table->key_count; i++) {
		state->key_junk[i] = ExecFindJunkAttributeInTlist(columns, junk_name(&table->key[i]));
		if (!AttributeNumberIsValid(state->key_junk[i])) {
			elog(ERROR, "could not find the junk column of key column %d", i + 1);
		}
	}
}

static void begin_modify(ModifyTableState *node, ResultRelInfo *target, List *private, int subplan_index, int eflags) {
	modify_state *state;

	if (eflags & EXEC_FLAG_EXPLAIN_ONLY) {
		return;
	}
	state = create_state(node, target);
	if (node->operation == CMD_UPDATE || node->operation == CMD_DELETE) {
		prepare_old_key(node, target, state);
	}
}

/* For COPY, and for rows that are routed to a partition; an UPDATE of the same partition may have begun already. */
static void begin_insert(ModifyTableState *node, ResultRelInfo *target) {
	if (target->ri_FdwState == NULL) {
		create_state(node, target);
	}
}

static void end_modify(EState *estate, ResultRelInfo *target) {
	modify_state *state = target->ri_FdwState;

	if (state != NULL) {
		MemoryContextDelete(state->row_context);
		if (state->current_values != NULL) {
			MemoryContextDelete(state->current_values);
		}
		target->ri_FdwState = NULL;
	}
}

/* ---- Errors ---------------------------------------------------------------------------------------------- */

static void pg_attribute_noreturn() report_duplicate(Relation relation, const aipg_table *table, aidb_slice key) {
	char *constraint = makeObjectName(RelationGetRelationName(relation), NULL, "pkey");

	ereport(ERROR, (errcode(ERRCODE_UNIQUE_VIOLATION),
					errmsg("duplicate key value violates unique constraint \"%s\"", constraint),
					errdetail("Key %s already exists.", aipg_table_key_text(table, key)),
					errtableconstraint(relation, constraint)));
}

static void pg_attribute_noreturn() report_too_big(const modify_state *state) {
	ereport(ERROR,
			(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED), errmsg("row is too big for AiDb table \"%s\"", state->name),
			 errdetail("The row takes %zu bytes as stored; the maximum is %zu.",
					   (size_t)state->key.len + (size_t)state->row.len, state->max_row_bytes),
			 errhint("Increase \"aidb.memory\", of which the maximum is a part.")));
}

/* ---- Rows ------------------------------------------------------------------------------------------------ */

static aidb_slice slice_of(const StringInfoData *bytes) {
	return (aidb_slice){bytes->data, (size_t)bytes->len};
}

/* Row security of a partitioned table above, NOT NULL and CHECK: core leaves them to the wrapper. */
static void check_constraints(EState *estate, ResultRelInfo *target, TupleTableSlot *slot, WCOKind policies) {
	if (target->ri_WithCheckOptions != NIL) {
		ExecWithCheckOptions(policies, target, slot, estate);
	}
	if (RelationGetDescr(target->ri_RelationDesc)->constr != NULL) {
		ExecConstraints(target, slot, estate);
	}
}

/* A row that was routed to the partition is within its bounds, unless a trigger has changed it. */
static void check_inserted(EState *estate, ResultRelInfo *target, TupleTableSlot *slot) {
	const modify_state *state = target->ri_FdwState;
	bool moved = state->node->operation == CMD_UPDATE; /* from a heap partition */
	bool routed = target->ri_RootResultRelInfo != NULL;
	bool changed = target->ri_TrigDesc != NULL && target->ri_TrigDesc->trig_insert_before_row;

	check_constraints(estate, target, slot, moved ? WCO_RLS_UPDATE_CHECK : WCO_RLS_INSERT_CHECK);
	if (target->ri_RelationDesc->rd_rel->relispartition && (!routed || changed)) {
		ExecPartitionCheck(target, slot, estate, true);
	}
}

/* An updated row that belongs to another partition would have to move there, which core does only for heaps. */
static void check_updated(EState *estate, ResultRelInfo *target, TupleTableSlot *slot) {
	bool by_parent = target->ri_RootResultRelInfo != NULL;

	if (target->ri_RelationDesc->rd_rel->relispartition && !ExecPartitionCheck(target, slot, estate, !by_parent)) {
		ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
						errmsg("cannot move a row out of partition \"%s\", an AiDb table, by UPDATE",
							   RelationGetRelationName(target->ri_RelationDesc)),
						errhint("DELETE the row and INSERT it again.")));
	}
	check_constraints(estate, target, slot, WCO_RLS_UPDATE_CHECK);
}

/* Encodes the slot into state->key and state->row. */
static void encode_row(modify_state *state, TupleTableSlot *slot) {
	MemoryContext caller = MemoryContextSwitchTo(state->row_context);

	slot_getallattrs(slot);
	aipg_table_key(state->table, slot, &state->key);
	aipg_row_encode(state->table, slot, &state->row);
	MemoryContextSwitchTo(caller);
	MemoryContextReset(state->row_context);
	if ((size_t)state->key.len + (size_t)state->row.len > state->max_row_bytes) {
		report_too_big(state);
	}
}

/* Encodes the key that the row had when it was read, into state->old_key. */
static void encode_old_key(modify_state *state, TupleTableSlot *plan_slot) {
	TupleTableSlot *slot = state->old_slot;
	MemoryContext caller = MemoryContextSwitchTo(state->row_context);

	ExecStoreAllNullTuple(slot);
	for (int i = 0; i < state->table->key_count; i++) {
		int attribute = state->table->key[i].attnum - 1;

		slot->tts_values[attribute] = ExecGetJunkAttribute(plan_slot, state->key_junk[i], &slot->tts_isnull[attribute]);
	}
	aipg_table_key(state->table, slot, &state->old_key);
	MemoryContextSwitchTo(caller);
	MemoryContextReset(state->row_context);
}

/*
 * Stores the row in state->key and state->row; false when a row has its key. ON CONFLICT, which expects one, looks for it
 * first, since an insert locks the key for a moment even in vain.
 */
static bool insert_row(modify_state *state) {
	Oid relid = state->table->relid;
	aidb_slice key = slice_of(&state->key);

	if (state->on_conflict != ONCONFLICT_NONE && aipg_row_exists(relid, key)) {
		return false;
	}
	return aipg_insert(relid, state->command, key, &state->row);
}

static void pg_attribute_noreturn() report_trigger_modified(const modify_state *state) {
	ereport(
		ERROR,
		(errcode(ERRCODE_TRIGGERED_DATA_CHANGE_VIOLATION),
		 errmsg("tuple to be %s was already modified by an operation triggered by the current command",
				state->node->operation == CMD_DELETE ? "deleted" : "updated"),
		 errhint("Consider using an AFTER trigger instead of a BEFORE trigger to propagate changes to other rows.")));
}

/* The row in state->current, decoded. Its values live until the next call. */
static void decode_current(modify_state *state, TupleTableSlot *slot) {
	aidb_slice row = {state->current->data, state->current->size};

	aipg_row_decode(state->table, slice_of(&state->old_key), row, NULL, state->current_values, slot);
	slot->tts_tableOid = state->table->relid;
}

/*
 * The row was changed by another transaction after the statement's snapshot: runs the plan again for the row as it is now
 * and, of the other tables, the rows that it was joined with. Returns what the plan then gives; NULL when the row is not
 * one to be changed any more.
 */
static TupleTableSlot *plan_again(ResultRelInfo *target, modify_state *state) {
	EPQState *check = &state->node->mt_epqstate;
	Relation relation = target->ri_RelationDesc;
	TupleTableSlot *input = EvalPlanQualSlot(check, relation, target->ri_RangeTableIndex);
	TupleTableSlot *result;

	MemoryContextReset(state->current_values);
	decode_current(state, input);
	result = EvalPlanQual(check, relation, target->ri_RangeTableIndex, input);
	return TupIsNull(result) ? NULL : result;
}

/*
 * Locks the row that the plan has found, whose key is in state->old_key; then state->current has it as it is now. Returns
 * what the plan gives for it, which may be new; NULL when it is not to be changed.
 */
static TupleTableSlot *lock_target(ResultRelInfo *target, modify_state *state, LockTupleMode mode,
								   TupleTableSlot *plan_slot) {
	aipg_row_state found;

	if (state->locked) {
		found = aipg_read_locked(&state->view, slice_of(&state->old_key), state->current);
	} else {
		found = aipg_lock_row(&state->view, state->table->relid, slice_of(&state->old_key), mode, LockWaitBlock,
							  state->current, &state->moved);
	}
	if (state->moved.len > 0) {
		resetStringInfo(&state->old_key);
		appendBinaryStringInfo(&state->old_key, state->moved.data, state->moved.len);
	}
	switch (found) {
	case AIPG_ROW_SAME:
		return plan_slot;
	case AIPG_ROW_NEWER:
		return plan_again(target, state);
	case AIPG_ROW_TRIGGER_MODIFIED:
		report_trigger_modified(state);
	default:
		return NULL;
	}
}

/* The new row that an UPDATE makes of state->current and what the plan gives. */
static TupleTableSlot *project_update(EState *estate, ResultRelInfo *target, modify_state *state,
									  TupleTableSlot *plan_slot) {
	ProjectionInfo *projection = target->ri_projectNew;
	TupleTableSlot *slot;

	decode_current(state, target->ri_oldTupleSlot);
	projection->pi_exprContext->ecxt_outertuple = plan_slot;
	projection->pi_exprContext->ecxt_scantuple = target->ri_oldTupleSlot;
	slot = ExecProject(projection);
	slot->tts_tableOid = state->table->relid;
	if (RelationGetDescr(target->ri_RelationDesc)->constr != NULL &&
		RelationGetDescr(target->ri_RelationDesc)->constr->has_generated_stored) {
		ExecComputeStoredGenerated(target, estate, slot, CMD_UPDATE);
	}
	return slot;
}

static bool changes_key(const modify_state *state) {
	return state->key.len != state->old_key.len ||
		   memcmp(state->key.data, state->old_key.data, (size_t)state->key.len) != 0;
}

/* Stores the row in state->key and state->row in place of the locked one in state->old_key and state->current. */
static void replace_row(ResultRelInfo *target, modify_state *state) {
	aidb_slice current = {state->current->data, state->current->size};
	Oid relid = state->table->relid;

	if (!changes_key(state)) {
		aipg_update(relid, state->command, slice_of(&state->old_key), current, &state->row);
	} else if (!aipg_move(relid, state->command, slice_of(&state->old_key), current, slice_of(&state->key),
						  &state->row)) {
		report_duplicate(target->ri_RelationDesc, state->table, slice_of(&state->key));
	}
}

/* ---- INSERT and ON CONFLICT ------------------------------------------------------------------------------- */

static void pg_attribute_noreturn() report_second_time(void) {
	ereport(ERROR, (errcode(ERRCODE_CARDINALITY_VIOLATION),
					errmsg("ON CONFLICT DO UPDATE command cannot affect row a second time"),
					errhint("Ensure that no rows proposed for insertion within the same command have duplicate "
							"constrained values.")));
}

/* DO NOTHING: a transaction that goes by one snapshot may not go by a row that it does not see. */
static void check_ignored(const modify_state *state) {
	if (IsolationUsesXactSnapshot()) {
		aipg_check_newest_seen(&state->view, slice_of(&state->key));
	}
	InstrCountTuples2(&state->node->ps, 1);
}

/* DO UPDATE: locks the row that has the key, and reads it as it is now. False when there is none any more. */
static bool lock_existing(EState *estate, ResultRelInfo *target, modify_state *state, TupleTableSlot *existing) {
	LockTupleMode mode =
		aipg_upsert_sets_key(state->table, estate, target) ? LockTupleExclusive : LockTupleNoKeyExclusive;

	resetStringInfo(&state->old_key);
	appendBinaryStringInfo(&state->old_key, state->key.data, state->key.len);
	switch (aipg_lock_newest(&state->view, state->table->relid, slice_of(&state->old_key), mode, state->current)) {
	case AIPG_ROW_SAME:
	case AIPG_ROW_NEWER:
		MemoryContextReset(state->current_values);
		decode_current(state, existing);
		return true;
	case AIPG_ROW_SELF_MODIFIED:
	case AIPG_ROW_TRIGGER_MODIFIED:
		report_second_time();
	default:
		return false;
	}
}

/* Computes the new row; NULL when the existing one is to stay. Functions and triggers must have left that alone. */
static TupleTableSlot *compute_change(ResultRelInfo *target, modify_state *state, TupleTableSlot *excluded) {
	CommandId command = GetCurrentCommandId(false);
	TupleTableSlot *changed = aipg_upsert_compute(state->node, target, excluded);

	if (changed != NULL && GetCurrentCommandId(false) != command &&
		aipg_lock_newest(&state->view, state->table->relid, slice_of(&state->old_key), LockTupleNoKeyExclusive,
						 state->current) == AIPG_ROW_TRIGGER_MODIFIED) {
		report_trigger_modified(state);
	}
	return changed;
}

/* DO UPDATE; *changed is NULL when the row stays as it is. False when the insert is to be tried again. */
static bool update_existing(EState *estate, ResultRelInfo *target, TupleTableSlot *excluded, TupleTableSlot **changed) {
	modify_state *state = target->ri_FdwState;
	TupleTableSlot *existing = target->ri_onConflict->oc_Existing;

	if (!lock_existing(estate, target, state, existing)) {
		return false;
	}
	*changed = compute_change(target, state, excluded);
	if (*changed != NULL) {
		check_updated(estate, target, *changed);
		encode_row(state, *changed);
		replace_row(target, state);
		aipg_upsert_finish(state->node, target, *changed);
	}
	ExecClearTuple(existing);
	return true;
}

static TupleTableSlot *exec_insert(EState *estate, ResultRelInfo *target, TupleTableSlot *slot,
								   TupleTableSlot *plan_slot) {
	modify_state *state = target->ri_FdwState;
	TupleTableSlot *changed;

	check_inserted(estate, target, slot);
	encode_row(state, slot);
	if (state->has_insert_triggers) {
		target->ri_TrigDesc->trig_insert_after_row = true; /* see aipg_upsert_finish */
	}
	while (!insert_row(state)) {
		CHECK_FOR_INTERRUPTS();
		switch (state->on_conflict) {
		case ONCONFLICT_NONE:
			report_duplicate(target->ri_RelationDesc, state->table, slice_of(&state->key));
		case ONCONFLICT_NOTHING:
			check_ignored(state);
			return NULL;
		case ONCONFLICT_UPDATE:
			if (update_existing(estate, target, slot, &changed)) {
				return changed;
			}
			break;
		}
	}
	return slot;
}

/* ---- UPDATE and DELETE ------------------------------------------------------------------------------------ */

static TupleTableSlot *exec_update(EState *estate, ResultRelInfo *target, TupleTableSlot *slot,
								   TupleTableSlot *plan_slot) {
	modify_state *state = target->ri_FdwState;
	TupleTableSlot *again;

	check_updated(estate, target, slot);
	encode_old_key(state, plan_slot);
	encode_row(state, slot);
	again = lock_target(target, state, changes_key(state) ? LockTupleExclusive : LockTupleNoKeyExclusive, plan_slot);
	if (again == NULL) {
		return NULL;
	}
	if (again != plan_slot) {
		slot = project_update(estate, target, state, again);
		check_updated(estate, target, slot);
		encode_row(state, slot);
	}
	replace_row(target, state);
	return slot;
}

static TupleTableSlot *exec_delete(EState *estate, ResultRelInfo *target, TupleTableSlot *slot,
								   TupleTableSlot *plan_slot) {
	modify_state *state = target->ri_FdwState;

	encode_old_key(state, plan_slot);
	if (lock_target(target, state, LockTupleExclusive, plan_slot) == NULL) {
		return NULL;
	}
	aipg_delete(state->table->relid, state->command, slice_of(&state->old_key),
				(aidb_slice){state->current->data, state->current->size});
	if (target->ri_projectReturning != NULL) {
		MemoryContextReset(state->current_values);
		decode_current(state, slot);
	}
	return slot;
}

/* ---- TRUNCATE -------------------------------------------------------------------------------------------- */

/* Core has followed CASCADE, checked permissions and locked; it restarts the sequences itself. */
static void truncate_tables(List *relations, DropBehavior behavior, bool restart_sequences) {
	ListCell *cell;

	foreach(cell, relations) {
		aipg_catalog_truncate(RelationGetRelid((Relation)lfirst(cell)));
	}
}

/* There are no batches of inserts: a call is not a round trip, and gathering rows would copy each once more. */
void aipg_modify_routines(FdwRoutine *routine) {
	routine->AddForeignUpdateTargets = add_update_targets;
	routine->BeginForeignModify = begin_modify;
	routine->ExecForeignInsert = exec_insert;
	routine->ExecForeignUpdate = exec_update;
	routine->ExecForeignDelete = exec_delete;
	routine->EndForeignModify = end_modify;
	routine->BeginForeignInsert = begin_insert;
	routine->EndForeignInsert = end_modify;
	routine->IsForeignRelUpdatable = is_updatable;
	routine->ExecForeignTruncate = truncate_tables;
}
