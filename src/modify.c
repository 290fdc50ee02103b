#include "access.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_type_d.h"
#include "commands/defrem.h"
#include "executor/executor.h"
#include "fdw.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "optimizer/appendinfo.h"
#include "row_codec.h"
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
	size_t max_row_bytes; /* key and row together */
	ModifyTableState *node;
	OnConflictAction on_conflict;
	bool has_insert_triggers; /* AFTER INSERT, for each row */
	StringInfoData key;       /* these three are reused from row to row */
	StringInfoData row;
	StringInfoData old_key;
	MemoryContext row_context; /* reset for each row */

	aipg_view view;        /* UPDATE, DELETE, ON CONFLICT */
	aidb_buffer *existing; /* ON CONFLICT DO UPDATE: the stored row */

	/* UPDATE and DELETE */
	AttrNumber *key_junk;     /* where the subplan has the old value of each key column */
	TupleTableSlot *old_slot; /* holds these */
	HeapTupleData old_tuple;  /* the deleted row, for RETURNING */
} modify_state;

/* ---- Planning -------------------------------------------------------------------------------------------- */

/*
 * The name of a key column's old value in the subplan. Partitions share such a column only when all of it is the same,
 * so that says the name.
 */
static char *junk_name(const aipg_key_column *column) {
	return psprintf("aidb key %d of type %u, %d, %u", column->attnum, column->type, column->typmod, column->collation);
}

/*
 * UPDATE and DELETE find the stored row by the old values of the key columns. RETURNING of a DELETE needs the rest of
 * the row as well; for an UPDATE, core asks for the whole row itself.
 */
static void add_update_targets(PlannerInfo *root, Index relation_index, RangeTblEntry *entry, Relation relation) {
	const aipg_table *table = aipg_table_describe(relation);

	for (int i = 0; i < table->key_count; i++) {
		const aipg_key_column *column = &table->key[i];
		Var *var = makeVar((int)relation_index, column->attnum, column->type, column->typmod, column->collation, 0);

		add_row_identity_var(root, var, relation_index, junk_name(column));
	}
	if (root->parse->commandType == CMD_DELETE && root->parse->returningList != NIL) {
		Var *row = makeVar((int)relation_index, InvalidAttrNumber, RECORDOID, -1, InvalidOid, 0);

		add_row_identity_var(root, row, relation_index, "wholerow"); /* as core does for UPDATE and triggers */
	}
}

static int is_updatable(Relation relation) {
	return (1 << CMD_INSERT) | (1 << CMD_UPDATE) | (1 << CMD_DELETE);
}

/* Rows of tables that are only read along with a change are carried in the plan; there are no row locks to take. */
static RowMarkType choose_row_mark(RangeTblEntry *entry, LockClauseStrength strength) {
	if (strength != LCS_NONE) {
		ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
						errmsg("SELECT FOR UPDATE and FOR SHARE are not supported for AiDb table \"%s\"",
							   get_rel_name(entry->relid)),
						errhint("Read and change rows in one UPDATE ... RETURNING, use REPEATABLE READ to notice "
								"concurrent changes, or name the tables to be locked with FOR UPDATE OF.")));
	}
	return ROW_MARK_COPY;
}

/* ---- Begin and end --------------------------------------------------------------------------------------- */

static modify_state *create_state(ModifyTableState *node, ResultRelInfo *target) {
	EState *estate = node->ps.state;
	MemoryContext caller = MemoryContextSwitchTo(estate->es_query_cxt);
	modify_state *state = palloc0(sizeof(modify_state));

	state->table = aipg_table_describe(target->ri_RelationDesc);
	state->name = RelationGetRelationName(target->ri_RelationDesc);
	state->max_row_bytes = aidb_max_batch_bytes(aipg_store()) - BATCH_OVERHEAD_BYTES;
	state->node = node;
	state->on_conflict = aipg_upsert_action(node);
	state->has_insert_triggers = target->ri_TrigDesc != NULL && target->ri_TrigDesc->trig_insert_after_row;
	if (state->on_conflict != ONCONFLICT_NONE) {
		state->view = aipg_view_of(estate->es_snapshot);
		state->existing = aipg_buffer_create();
	}
	initStringInfo(&state->key);
	initStringInfo(&state->row);
	initStringInfo(&state->old_key);
	state->row_context = AllocSetContextCreate(estate->es_query_cxt, "AiDb row", ALLOCSET_DEFAULT_SIZES);
	target->ri_FdwState = state;
	MemoryContextSwitchTo(caller);
	return state;
}

static void prepare_old_key(ModifyTableState *node, ResultRelInfo *target, modify_state *state) {
	const aipg_table *table = state->table;
	List *columns = outerPlanState(node)->plan->targetlist;

	state->view = aipg_view_of(node->ps.state->es_snapshot);
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

static void report_duplicate_at_commit(Oid relid, aidb_slice key) {
	Relation relation = table_open(relid, NoLock);

	report_duplicate(relation, aipg_table_describe(relation), key);
}

static void pg_attribute_noreturn() report_conflict(void) {
	ereport(ERROR,
			(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE), errmsg("could not serialize access due to concurrent update"),
			 errhint("The transaction might succeed if retried.")));
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

/* Stores the row in state->key and state->row; false when a row has its key. */
static bool insert_row(modify_state *state) {
	return aipg_insert(state->table->relid, slice_of(&state->key), slice_of(&state->row)) != AIPG_DUPLICATE;
}

/* Whether the old row was changed; false to pass over it, since this command has done so before. */
static bool settle(aipg_outcome outcome) {
	if (outcome == AIPG_CONFLICT) {
		report_conflict();
	}
	if (outcome == AIPG_TRIGGER_MODIFIED) {
		ereport(
			ERROR,
			(errcode(ERRCODE_TRIGGERED_DATA_CHANGE_VIOLATION),
			 errmsg("tuple to be updated or deleted was already modified by an operation triggered by the "
					"current command"),
			 errhint(
				 "Consider using an AFTER trigger instead of a BEFORE trigger to propagate changes to other rows.")));
	}
	return outcome == AIPG_DONE;
}

/* Checks and stores the row in `slot` in place of the one under state->old_key; false when that is to be passed over. */
static bool replace_row(EState *estate, ResultRelInfo *target, TupleTableSlot *slot) {
	modify_state *state = target->ri_FdwState;
	Oid relid = state->table->relid;
	aidb_slice old_key = slice_of(&state->old_key);

	check_updated(estate, target, slot);
	encode_row(state, slot);
	if (state->key.len == state->old_key.len && memcmp(state->key.data, old_key.data, old_key.size) == 0) {
		return settle(aipg_update(&state->view, relid, old_key, slice_of(&state->row)));
	}
	if (!settle(aipg_delete(&state->view, relid, old_key))) {
		return false;
	}
	if (!insert_row(state)) {
		report_duplicate(target->ri_RelationDesc, state->table, slice_of(&state->key));
	}
	return true;
}

/* ON CONFLICT DO NOTHING: a transaction that goes by one snapshot may not go by a row that it does not see. */
static void check_ignored(const modify_state *state) {
	if (IsolationUsesXactSnapshot() && !aipg_newest_is_visible(&state->view, slice_of(&state->key))) {
		report_conflict();
	}
	InstrCountTuples2(&state->node->ps, 1);
}

static void pg_attribute_noreturn() report_second_time(void) {
	ereport(ERROR, (errcode(ERRCODE_CARDINALITY_VIOLATION),
					errmsg("ON CONFLICT DO UPDATE command cannot affect row a second time"),
					errhint("Ensure that no rows proposed for insertion within the same command have duplicate "
							"constrained values.")));
}

/* Locks the newest row under state->key and reads it into `existing`; false when there is none any more. */
static bool lock_existing(EState *estate, ResultRelInfo *target, TupleTableSlot *existing) {
	modify_state *state = target->ri_FdwState;
	aidb_slice key = slice_of(&state->key);
	LockTupleMode mode =
		aipg_upsert_sets_key(state->table, estate, target) ? LockTupleExclusive : LockTupleNoKeyExclusive;

	switch (aipg_lock_row(&state->view, state->table->relid, key, mode, LockWaitBlock, state->existing)) {
	case AIPG_LOCKED:
		aipg_get(&state->view, key, state->existing);
		break;
	case AIPG_LOCKED_NEWER:
		if (IsolationUsesXactSnapshot()) {
			report_conflict();
		}
		break;
	case AIPG_LOCK_SELF:
		report_second_time();
	case AIPG_LOCK_GONE:
	case AIPG_LOCK_BUSY:
		return false;
	}
	aipg_row_decode(state->table, key, (aidb_slice){state->existing->data, state->existing->size}, NULL,
					state->node->ps.ps_ExprContext->ecxt_per_tuple_memory, existing);
	existing->tts_tableOid = state->table->relid;
	return true;
}

/* ON CONFLICT DO UPDATE; *changed is NULL when the row stays as it is. False when the insert is to be tried again. */
static bool update_existing(EState *estate, ResultRelInfo *target, TupleTableSlot *excluded, TupleTableSlot **changed) {
	modify_state *state = target->ri_FdwState;
	TupleTableSlot *existing = target->ri_onConflict->oc_Existing;

	if (!lock_existing(estate, target, existing)) {
		return false;
	}
	*changed = aipg_upsert_compute(state->node, target, excluded);
	if (*changed != NULL) {
		resetStringInfo(&state->old_key);
		appendBinaryStringInfo(&state->old_key, state->key.data, state->key.len);
		if (replace_row(estate, target, *changed)) {
			aipg_upsert_finish(state->node, target, *changed);
		} else {
			*changed = NULL;
		}
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

static TupleTableSlot *exec_update(EState *estate, ResultRelInfo *target, TupleTableSlot *slot,
								   TupleTableSlot *plan_slot) {
	encode_old_key(target->ri_FdwState, plan_slot);
	return replace_row(estate, target, slot) ? slot : NULL;
}

static TupleTableSlot *exec_delete(EState *estate, ResultRelInfo *target, TupleTableSlot *slot,
								   TupleTableSlot *plan_slot) {
	modify_state *state = target->ri_FdwState;

	encode_old_key(state, plan_slot);
	if (!settle(aipg_delete(&state->view, state->table->relid, slice_of(&state->old_key)))) {
		return NULL;
	}
	if (target->ri_projectReturning != NULL) {
		bool null;
		HeapTupleHeader old = DatumGetHeapTupleHeader(ExecGetJunkAttribute(plan_slot, target->ri_RowIdAttNo, &null));

		state->old_tuple.t_data = old;
		state->old_tuple.t_len = HeapTupleHeaderGetDatumLength(old);
		ItemPointerSetInvalid(&state->old_tuple.t_self);
		ExecForceStoreHeapTuple(&state->old_tuple, slot, false);
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
	routine->GetForeignRowMarkType = choose_row_mark;
	routine->ExecForeignTruncate = truncate_tables;
	aipg_report_duplicate = report_duplicate_at_commit;
}
