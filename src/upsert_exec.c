#include "upsert.h"

#include "access/sysattr.h"
#include "commands/trigger.h"
#include "executor/executor.h"
#include "executor/nodeModifyTable.h"

OnConflictAction aipg_upsert_action(const ModifyTableState *node) {
	const ModifyTable *plan = (const ModifyTable *)node->ps.plan; /* COPY has none */

	return plan == NULL ? ONCONFLICT_NONE : plan->onConflictAction;
}

bool aipg_upsert_sets_key(const aipg_table *table, EState *estate, ResultRelInfo *target) {
	const Bitmapset *updated = ExecGetAllUpdatedCols(target, estate);

	for (int i = 0; i < table->key_count; i++) {
		if (bms_is_member(table->key[i].attnum - FirstLowInvalidHeapAttributeNumber, updated)) {
			return true;
		}
	}
	return false;
}

/* WHERE sees the existing row and EXCLUDED. */
static bool wants_change(ModifyTableState *node, ResultRelInfo *target, TupleTableSlot *excluded) {
	ExprContext *context = node->ps.ps_ExprContext;
	TupleTableSlot *existing = target->ri_onConflict->oc_Existing;

	context->ecxt_scantuple = existing;
	context->ecxt_innertuple = excluded;
	context->ecxt_outertuple = NULL;
	if (!ExecQual(target->ri_onConflict->oc_WhereClause, context)) {
		InstrCountFiltered1(&node->ps, 1);
		return false;
	}
	if (target->ri_WithCheckOptions != NIL) {
		ExecWithCheckOptions(WCO_RLS_CONFLICT_CHECK, target, existing, node->ps.state);
	}
	return true;
}

/* The existing row as triggers want it; its slot, of a foreign table's kind, keeps it. */
static HeapTuple old_row(const ResultRelInfo *target) {
	return ExecFetchSlotHeapTuple(target->ri_onConflict->oc_Existing, true, NULL);
}

static bool fire_before_triggers(ModifyTableState *node, ResultRelInfo *target, TupleTableSlot *changed) {
	if (target->ri_TrigDesc == NULL || !target->ri_TrigDesc->trig_update_before_row) {
		return true;
	}
	return ExecBRUpdateTriggers(node->ps.state, &node->mt_epqstate, target, NULL, old_row(target), changed, NULL);
}

TupleTableSlot *aipg_upsert_compute(ModifyTableState *node, ResultRelInfo *target, TupleTableSlot *excluded) {
	TupleTableSlot *changed = target->ri_onConflict->oc_ProjSlot;
	TupleConstr *constraints = RelationGetDescr(target->ri_RelationDesc)->constr;

	InstrCountTuples2(&node->ps, 1);
	if (!wants_change(node, target, excluded)) {
		return NULL;
	}
	ExecProject(target->ri_onConflict->oc_ProjInfo);
	ExecMaterializeSlot(changed);
	if (!fire_before_triggers(node, target, changed)) {
		return NULL;
	}
	ExecMaterializeSlot(changed); /* a trigger may have returned the existing row itself */
	changed->tts_tableOid = RelationGetRelid(target->ri_RelationDesc); /* for expressions and constraints */
	if (constraints != NULL && constraints->has_generated_stored) {
		ExecComputeStoredGenerated(target, node->ps.state, changed, CMD_UPDATE);
	}
	return changed;
}

void aipg_upsert_finish(ModifyTableState *node, ResultRelInfo *target, TupleTableSlot *changed) {
	TriggerDesc *triggers = target->ri_TrigDesc; /* a copy, of this target alone */

	if (triggers != NULL) {
		triggers->trig_insert_after_row = false;
	}
	if ((triggers != NULL && triggers->trig_update_after_row) || node->mt_oc_transition_capture != NULL) {
		ExecARUpdateTriggers(node->ps.state, target, NULL, NULL, NULL, old_row(target), changed, NIL,
							 node->mt_oc_transition_capture, false);
	}
}
