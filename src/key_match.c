#include "key_match.h"

#include "access/stratnum.h"
#include "catalog/pg_operator_d.h"
#include "catalog/pg_opfamily_d.h"
#include "catalog/pg_type_d.h"
#include "key_codec.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/clauses.h"
#include "optimizer/optimizer.h"
#include "optimizer/restrictinfo.h"
#include "utils/lsyscache.h"
#include "utils/typcache.h"

/* What a clause is matched against. */
typedef struct match_target {
	PlannerInfo *root;
	RelOptInfo *rel;
	const aipg_key_column *column;
	int index; /* of the column in the key */
} match_target;

bool aipg_key_is_column(const Node *operand, Index relid, const aipg_key_column *column) {
	const Var *var;

	while (operand != NULL && IsA(operand, RelabelType)) {
		operand = (const Node *)((const RelabelType *)operand)->arg;
	}
	if (operand == NULL || !IsA(operand, Var)) {
		return false;
	}
	var = (const Var *)operand;
	return var->varno == (int)relid && var->varattno == column->attnum && var->varlevelsup == 0;
}

static bool is_target(const match_target *target, const Node *operand) {
	return aipg_key_is_column(operand, target->rel->relid, target->column);
}

static bool is_row_independent(const match_target *target, Node *value) {
	return !bms_is_member(target->rel->relid, pull_varnos(target->root, value)) && !contain_volatile_functions(value);
}

static Oid family_of(const aipg_key_column *column) {
	return lookup_type_cache(column->type, TYPECACHE_BTREE_OPFAMILY)->btree_opf;
}

bool aipg_key_same_equality(const aipg_key_column *column, const EquivalenceClass *class) {
	return list_member_oid(class->ec_opfamilies, family_of(column)) &&
		   (!OidIsValid(class->ec_collation) || get_collation_isdeterministic(class->ec_collation));
}

/* Equality of collated values is equality of bytes under every deterministic collation. */
static bool collation_fits(const aipg_key_column *column, int strategy, Oid collation) {
	if (strategy != BTEqualStrategyNumber) {
		return column->ordered && aipg_key_type_ordered(column->type, collation);
	}
	return OidIsValid(collation) ? get_collation_isdeterministic(collation) : !OidIsValid(column->collation);
}

/* Fills in the condition that `operator` makes of the column; false when the key cannot serve it. */
static bool match_operator(const match_target *target, Oid operator, Oid collation, aipg_key_condition *condition) {
	Oid family = family_of(target->column);
	Oid left;
	Oid right;

	if (!OidIsValid(family) || get_op_opfamily_strategy(operator, family) == 0) {
		return false;
	}
	get_op_opfamily_properties(operator, family, false, &condition->strategy, &left, &right);
	condition->column = target->index;
	condition->value_type = right;
	return (left == right || family == INTEGER_BTREE_FAM_OID) &&
		   collation_fits(target->column, condition->strategy, collation);
}

static bool match_binary(const match_target *target, OpExpr *operation, aipg_key_clause *match) {
	if (list_length(operation->args) != 2) {
		return false;
	}
	if (!is_target(target, linitial(operation->args))) {
		OpExpr *turned = makeNode(OpExpr);

		if (!is_target(target, lsecond(operation->args)) || !OidIsValid(get_commutator(operation->opno))) {
			return false;
		}
		*turned = *operation;
		turned->args = list_copy(operation->args); /* is changed in place */
		CommuteOpExpr(turned);
		operation = turned;
	}
	match->clause = (Expr *)operation;
	match->exact = true;
	return is_row_independent(target, lsecond(operation->args)) &&
		   match_operator(target, operation->opno, operation->inputcollid, &match->condition);
}

static bool match_array(const match_target *target, ScalarArrayOpExpr *operation, aipg_key_clause *match) {
	match->clause = (Expr *)operation;
	match->exact = true;
	match->condition.array = true;
	return operation->useOr && is_target(target, linitial(operation->args)) &&
		   is_row_independent(target, lsecond(operation->args)) &&
		   match_operator(target, operation->opno, operation->inputcollid, &match->condition) &&
		   match->condition.strategy == BTEqualStrategyNumber;
}

/* (a, b) > (x, y) implies a >= x. */
static bool match_row(const match_target *target, RowCompareExpr *row, aipg_key_clause *match) {
	bool upper = row->rctype == ROWCOMPARE_LT || row->rctype == ROWCOMPARE_LE;
	Oid family = linitial_oid(row->opfamilies);
	Oid left;
	Oid right;
	int strategy;
	Oid operator;

	get_op_opfamily_properties(linitial_oid(row->opnos), family, false, &strategy, &left, &right);
	operator=
		get_opfamily_member(family, left, right, upper ? BTLessEqualStrategyNumber : BTGreaterEqualStrategyNumber);
	if (!OidIsValid(operator) ||
		!match_binary(target,
					  (OpExpr *)make_opclause(operator, BOOLOID, false, linitial(row->largs), linitial(row->rargs),
											  InvalidOid, linitial_oid(row->inputcollids)),
					  match)) {
		return false;
	}
	match->exact = false;
	return true;
}

/* A boolean column stands for itself. */
static bool match_boolean(const match_target *target, Expr *operand, bool value, aipg_key_clause *match) {
	Expr *clause;

	if (!is_target(target, (Node *)operand)) {
		return false;
	}
	clause = make_opclause(BooleanEqualOperator, BOOLOID, false, operand, (Expr *)makeBoolConst(value, false),
						   InvalidOid, InvalidOid);
	return match_binary(target, (OpExpr *)clause, match);
}

static bool match_clause(const match_target *target, RestrictInfo *source, aipg_key_clause *match) {
	Expr *clause = source->clause;

	*match = (aipg_key_clause){.source = source};
	if (!restriction_is_securely_promotable(source, target->rel)) {
		return false;
	}
	if (is_opclause(clause)) {
		return match_binary(target, (OpExpr *)clause, match);
	}
	if (IsA(clause, ScalarArrayOpExpr)) {
		return match_array(target, (ScalarArrayOpExpr *)clause, match);
	}
	if (IsA(clause, RowCompareExpr)) {
		return match_row(target, (RowCompareExpr *)clause, match);
	}
	if (is_notclause(clause)) {
		return match_boolean(target, get_notclausearg(clause), false, match);
	}
	return match_boolean(target, clause, true, match);
}

/* All clauses that the column can use: the one best equality if there is one, else the inequalities. */
static List *match_column(const match_target *target, List *restrict_infos) {
	aipg_key_clause *array = NULL;
	List *bounds = NIL;
	ListCell *cell;

	foreach(cell, restrict_infos) {
		aipg_key_clause *match = palloc(sizeof(aipg_key_clause));

		if (!match_clause(target, lfirst_node(RestrictInfo, cell), match)) {
			continue;
		}
		if (match->condition.array) {
			array = array != NULL ? array : match;
		} else if (match->condition.strategy == BTEqualStrategyNumber) {
			return list_make1(match);
		} else {
			bounds = lappend(bounds, match);
		}
	}
	return array != NULL ? list_make1(array) : bounds;
}

/* See aipg_key_ranges_build for what is exact. */
static void settle_exactness(const aipg_table *table, aipg_key_match *match) {
	ListCell *cell;

	foreach(cell, match->clauses) {
		aipg_key_clause *clause = lfirst(cell);
		bool fixed_length = get_typlen(table->key[clause->condition.column].type) > 0;

		clause->exact = clause->exact && match->arrays <= 1 &&
						(clause->condition.strategy == BTEqualStrategyNumber || fixed_length);
	}
}

void aipg_key_match_clauses(PlannerInfo *root, RelOptInfo *rel, const aipg_table *table, List *restrict_infos,
							aipg_key_match *match) {
	bool equality = true;

	memset(match, 0, sizeof(*match));
	for (int i = 0; i < table->key_count && equality; i++) {
		match_target target = {root, rel, &table->key[i], i};
		List *found = match_column(&target, restrict_infos);
		aipg_key_clause *first = found != NIL ? linitial(found) : NULL;

		equality = first != NULL && first->condition.strategy == BTEqualStrategyNumber;
		match->clauses = list_concat(match->clauses, found);
		if (equality && first->condition.array) {
			match->arrays++;
		} else if (equality) {
			match->single = bms_add_member(match->single, i);
		}
	}
	match->point = equality;
	settle_exactness(table, match);
}

Expr *aipg_key_clause_value(Expr *clause) {
	return lsecond(IsA(clause, OpExpr) ? ((OpExpr *)clause)->args : castNode(ScalarArrayOpExpr, clause)->args);
}
