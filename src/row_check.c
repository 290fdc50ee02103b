#include "row_check.h"

#include "executor/executor.h"
#include "key_codec.h"
#include "key_range.h"
#include "latest.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "placement/slot.h"
#include "row_codec.h"
#include "table.h"
#include "utils/partcache.h"

/* A cursor over the newest rows, in a context and under a snapshot of its own. */
typedef struct row_scan {
	aipg_table *table;
	aipg_all_rows rows;
} row_scan;

static void open_rows(row_scan *scan, Relation relation) {
	aipg_view view;

	scan->table = aipg_table_describe(relation);
	view = aipg_latest_begin();
	aipg_all_rows_open(&scan->rows, scan->table, &view);
}

static void close_rows(row_scan *scan) {
	aipg_all_rows_close(&scan->rows);
	aipg_latest_end();
}

bool aipg_index_has_rows(uint32 index_id) {
	bool found = false;

	for (uint16 slot = 0; slot < AIDB_FIRST_STORED_SLOT + AIDB_SLOTS && !found; slot++) {
		StringInfo lower = makeStringInfo(), upper = makeStringInfo();
		aipg_view view = aipg_latest_begin();
		aidb_slice key, value;
		aipg_cursor *cursor;

		aipg_key_start(lower, slot, index_id);
		aipg_key_start(upper, slot, index_id + 1);
		cursor = aipg_cursor_open(&view, (aidb_slice){lower->data, (size_t)lower->len},
								  (aidb_slice){upper->data, (size_t)upper->len}, false);
		found = aipg_cursor_next(cursor, &key, &value);
		aipg_cursor_close(cursor);
		aipg_latest_end();
	}
	return found;
}

bool aipg_has_rows(Relation relation) {
	row_scan scan;
	aidb_slice key, value;
	bool found;

	open_rows(&scan, relation);
	found = aipg_all_rows_next(&scan.rows, &key, &value);
	close_rows(&scan);
	return found;
}

/* What every row must satisfy. */
typedef struct row_condition {
	const char *constraint; /* NULL: the partition's bounds */
	ExprState *state;
} row_condition;

typedef struct row_checker {
	Relation relation;
	EState *executor;
	TupleTableSlot *slot;
	bool not_null;    /* check columns that are not null */
	List *conditions; /* row_condition */
} row_checker;

static void add_condition(row_checker *checker, const char *constraint, List *expression) {
	row_condition *condition = palloc(sizeof(row_condition));

	condition->constraint = constraint;
	condition->state = ExecPrepareCheck(expression, checker->executor);
	checker->conditions = lappend(checker->conditions, condition);
}

static void add_constraints(row_checker *checker) {
	TupleConstr *constraints = RelationGetDescr(checker->relation)->constr;

	if (constraints == NULL) {
		return;
	}
	checker->not_null = constraints->has_not_null;
	for (int i = 0; i < constraints->num_check; i++) {
		const ConstrCheck *check = &constraints->check[i];

		if (check->ccvalid) {
			add_condition(checker, check->ccname, make_ands_implicit(stringToNode(check->ccbin)));
		}
	}
}

static void check_not_null(const row_checker *checker) {
	TupleDesc tuple_desc = RelationGetDescr(checker->relation);

	for (int i = 0; i < tuple_desc->natts; i++) {
		Form_pg_attribute attribute = TupleDescAttr(tuple_desc, i);

		if (attribute->attnotnull && !attribute->attisdropped && checker->slot->tts_isnull[i]) {
			ereport(ERROR, (errcode(ERRCODE_NOT_NULL_VIOLATION),
							errmsg("column \"%s\" of relation \"%s\" contains null values", NameStr(attribute->attname),
								   RelationGetRelationName(checker->relation)),
							errtablecol(checker->relation, i + 1)));
		}
	}
}

static void pg_attribute_noreturn() report_violation(const row_checker *checker, const row_condition *condition) {
	if (condition->constraint == NULL) {
		ereport(ERROR, (errcode(ERRCODE_CHECK_VIOLATION),
						errmsg("partition constraint of relation \"%s\" is violated by some row",
							   RelationGetRelationName(checker->relation)),
						errtable(checker->relation)));
	}
	ereport(ERROR, (errcode(ERRCODE_CHECK_VIOLATION),
					errmsg("check constraint \"%s\" of relation \"%s\" is violated by some row", condition->constraint,
						   RelationGetRelationName(checker->relation)),
					errtableconstraint(checker->relation, condition->constraint)));
}

static void check_row(const row_checker *checker) {
	ExprContext *context = GetPerTupleExprContext(checker->executor);
	ListCell *cell;

	context->ecxt_scantuple = checker->slot;
	if (checker->not_null) {
		check_not_null(checker);
	}
	foreach(cell, checker->conditions) {
		const row_condition *condition = lfirst(cell);

		if (!ExecCheck(condition->state, context)) {
			report_violation(checker, condition);
		}
	}
}

static void check_all(row_checker *checker) {
	row_scan scan;
	aidb_slice key, value;

	open_rows(&scan, checker->relation);
	checker->slot = MakeSingleTupleTableSlot(RelationGetDescr(checker->relation), &TTSOpsVirtual);
	while (aipg_all_rows_next(&scan.rows, &key, &value)) {
		CHECK_FOR_INTERRUPTS();
		aipg_row_decode(scan.table, key, value, NULL, GetPerTupleMemoryContext(checker->executor), checker->slot);
		check_row(checker);
		ResetPerTupleExprContext(checker->executor);
	}
	ExecDropSingleTupleTableSlot(checker->slot);
	close_rows(&scan);
}

void aipg_check_rows(Relation relation, aipg_check_kind kind) {
	row_checker checker = {.relation = relation, .executor = CreateExecutorState()};

	if (kind == AIPG_CHECK_PARTITION) {
		add_condition(&checker, NULL, RelationGetPartitionQual(relation));
	} else {
		add_constraints(&checker);
	}
	if (checker.not_null || checker.conditions != NIL) {
		check_all(&checker);
	}
	FreeExecutorState(checker.executor);
}
