#include "router/deparse.h"

#include "access/htup_details.h"
#include "access/transam.h"
#include "catalog/namespace.h"
#include "catalog/pg_aggregate.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/clauses.h"
#include "optimizer/optimizer.h"
#include "utils/builtins.h"
#include "utils/float.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/ruleutils.h"
#include "utils/syscache.h"

/* A walk over an expression, that makes the one to be sent out of it. */
typedef struct shipment {
	PlannerInfo *root;
	Index varno;
	bool no_constants;
	List **parameters;
	bool refused;
} shipment;

/* ---- What can be shipped ---------------------------------------------------------------------------------- */

/* Every server has it, under the same number. */
static bool is_builtin(Oid object) {
	return object < FirstGenbkiObjectId;
}

static bool is_immutable(Oid function) {
	return is_builtin(function) && func_volatile(function) == PROVOLATILE_IMMUTABLE;
}

static bool are_builtin(const List *oids) {
	ListCell *cell;

	foreach(cell, oids) {
		if (!is_builtin(lfirst_oid(cell))) {
			return false;
		}
	}
	return true;
}

static bool is_operator_shippable(Oid operator, Oid function) {
	return is_builtin(operator) && is_immutable(OidIsValid(function) ? function : get_opcode(operator));
}

/* The node by itself, without what is below it. */
static bool is_node_shippable(const Node *node) {
	switch (nodeTag(node)) {
	case T_List:
	case T_BoolExpr:
	case T_NullTest:
	case T_BooleanTest:
	case T_CaseWhen:
	case T_CoalesceExpr:
	case T_ArrayExpr:
	case T_MinMaxExpr:
	case T_RelabelType:
		return true;
	case T_CaseExpr:
		return ((const CaseExpr *)node)->arg == NULL;
	case T_FuncExpr:
		return is_immutable(((const FuncExpr *)node)->funcid);
	case T_OpExpr:
	case T_DistinctExpr:
	case T_NullIfExpr:
		return is_operator_shippable(((const OpExpr *)node)->opno, ((const OpExpr *)node)->opfuncid);
	case T_ScalarArrayOpExpr:
		return is_operator_shippable(((const ScalarArrayOpExpr *)node)->opno,
									 ((const ScalarArrayOpExpr *)node)->opfuncid);
	case T_RowCompareExpr:
		return are_builtin(((const RowCompareExpr *)node)->opnos);
	case T_CollateExpr:
		return is_builtin(((const CollateExpr *)node)->collOid);
	default:
		return false;
	}
}

/* Something that does not depend on the row: computed here. */
static Node *ship_value(Node *node, shipment *to) {
	Oid type = exprType(node);
	int position = 0;
	Param *parameter;
	ListCell *cell;

	if (!is_builtin(type) || get_typtype(type) == TYPTYPE_PSEUDO || contain_volatile_functions(node) ||
		contain_subplans(node)) {
		to->refused = true;
		return node;
	}
	if (IsA(node, Const) && (!to->no_constants || ((Const *)node)->constisnull)) {
		return copyObject(node);
	}
	foreach(cell, *to->parameters) {
		if (equal(lfirst(cell), node)) {
			break;
		}
		position++;
	}
	if (position == list_length(*to->parameters)) {
		*to->parameters = lappend(*to->parameters, node);
	}
	parameter = makeNode(Param);
	parameter->paramkind = PARAM_EXTERN;
	parameter->paramid = position + 1;
	parameter->paramtype = type;
	parameter->paramtypmod = exprTypmod(node);
	parameter->paramcollid = exprCollation(node);
	parameter->location = -1;
	return (Node *)parameter;
}

static Node *ship_column(Var *column, shipment *to) {
	Var *sent = copyObject(column);

	to->refused = to->refused || column->varattno <= 0 || column->varlevelsup != 0;
	sent->varno = 1;
	sent->varnosyn = 1;
	sent->varattnosyn = sent->varattno;
	return (Node *)sent;
}

static Node *ship(Node *node, shipment *to) {
	if (node == NULL || to->refused) {
		return node;
	}
	if (IsA(node, Var) && ((Var *)node)->varno == (int)to->varno) {
		return ship_column((Var *)node, to);
	}
	if (!IsA(node, List) && !IsA(node, CaseWhen) && !bms_is_member((int)to->varno, pull_varnos(to->root, node)) &&
		!contain_agg_clause(node)) {
		return ship_value(node, to);
	}
	if (!is_node_shippable(node)) {
		to->refused = true;
		return node;
	}
	return expression_tree_mutator(node, ship, to);
}

bool router_is_shippable(PlannerInfo *root, Index varno, Expr *expression) {
	List *parameters = NIL;
	shipment to = {root, varno, false, &parameters, false};

	(void)ship((Node *)expression, &to);
	return !to.refused;
}

/* ---- Writing ---------------------------------------------------------------------------------------------- */

void router_writer_init(router_writer *writer, PlannerInfo *root, Index varno, Oid relid) {
	*writer = (router_writer){.root = root, .varno = varno, .relid = relid};
	initStringInfo(&writer->sql);
}

const char *router_column_name(Oid relid, AttrNumber attnum) {
	return quote_identifier(get_attname(relid, attnum, false));
}

/* Operators and types are printed as one who sees only pg_catalog needs them: as the nodes do. */
static char *deparse(Node *node, Oid relid) {
	OverrideSearchPath path = {.schemas = NIL, .addCatalog = true, .addTemp = false};
	List *context = deparse_context_for(get_rel_name(relid), relid);
	int level = router_begin_values();
	char *text;

	PushOverrideSearchPath(&path);
	text = deparse_expression(node, context, false, true);
	PopOverrideSearchPath();
	router_end_values(level);
	return text;
}

void router_write_expression(router_writer *writer, Expr *expression) {
	shipment to = {writer->root, writer->varno, writer->no_constants, &writer->parameters, false};
	Node *sent = ship((Node *)expression, &to);

	if (to.refused) {
		elog(ERROR, "an expression cannot be sent to the nodes");
	}
	appendStringInfoString(&writer->sql, deparse(sent, writer->relid));
}

void router_write_conditions(router_writer *writer, List *conditions) {
	const char *separator = " WHERE ";
	ListCell *cell;

	foreach(cell, conditions) {
		appendStringInfo(&writer->sql, "%s(", separator);
		router_write_expression(writer, lfirst(cell));
		appendStringInfoChar(&writer->sql, ')');
		separator = " AND ";
	}
}

/* ---- Aggregates ------------------------------------------------------------------------------------------- */

/* Aggregates of the extension that give the state which the transition function of others makes. */
typedef struct partial_aggregate {
	Oid transition;
	const char *name;
} partial_aggregate;

static const partial_aggregate partial_aggregates[] = {
	{F_INT2_AVG_ACCUM, "aidb.partial_int2"},     {F_INT4_AVG_ACCUM, "aidb.partial_int4"},
	{F_INT8_AVG_ACCUM, "aidb.partial_int8"},     {F_NUMERIC_AVG_ACCUM, "aidb.partial_numeric"},
	{F_FLOAT4_ACCUM, "aidb.partial_float4"},     {F_FLOAT8_ACCUM, "aidb.partial_float8"},
	{F_INTERVAL_ACCUM, "aidb.partial_interval"},
};

/* The name on the nodes; NULL: they have none. */
static const char *partial_name(Oid aggregate) {
	HeapTuple tuple = SearchSysCache1(AGGFNOID, ObjectIdGetDatum(aggregate));
	Form_pg_aggregate form;
	const char *name = NULL;

	if (!HeapTupleIsValid(tuple)) {
		return NULL;
	}
	form = (Form_pg_aggregate)GETSTRUCT(tuple);
	if (OidIsValid(form->aggcombinefn) && !OidIsValid(form->aggfinalfn) && form->aggtranstype != INTERNALOID) {
		name = quote_identifier(get_func_name(aggregate));
	}
	for (size_t i = 0; i < lengthof(partial_aggregates) && name == NULL; i++) {
		if (form->aggtransfn == partial_aggregates[i].transition) {
			name = partial_aggregates[i].name;
		}
	}
	ReleaseSysCache(tuple);
	return name;
}

bool router_is_partial_aggregate(PlannerInfo *root, Index varno, const Aggref *aggregate) {
	ListCell *cell;

	if (!is_builtin(aggregate->aggfnoid) || aggregate->aggdistinct != NIL || aggregate->aggorder != NIL ||
		aggregate->aggkind != AGGKIND_NORMAL || aggregate->agglevelsup != 0 || aggregate->aggvariadic ||
		partial_name(aggregate->aggfnoid) == NULL) {
		return false;
	}
	foreach(cell, aggregate->args) {
		if (!router_is_shippable(root, varno, lfirst_node(TargetEntry, cell)->expr)) {
			return false;
		}
	}
	return router_is_shippable(root, varno, aggregate->aggfilter);
}

void router_write_partial_aggregate(router_writer *writer, const Aggref *aggregate) {
	const char *separator = "";
	ListCell *cell;

	appendStringInfo(&writer->sql, "%s(%s", partial_name(aggregate->aggfnoid), aggregate->aggstar ? "*" : "");
	foreach(cell, aggregate->args) {
		appendStringInfoString(&writer->sql, separator);
		router_write_expression(writer, lfirst_node(TargetEntry, cell)->expr);
		separator = ", ";
	}
	appendStringInfoChar(&writer->sql, ')');
	if (aggregate->aggfilter != NULL) {
		appendStringInfoString(&writer->sql, " FILTER (WHERE ");
		router_write_expression(writer, aggregate->aggfilter);
		appendStringInfoChar(&writer->sql, ')');
	}
}

/* ---- Values ----------------------------------------------------------------------------------------------- */

/* In its own nesting of settings, which the first that has to be changed begins. */
static void set_value(int *level, const char *name, const char *value) {
	if (*level == 0) {
		*level = NewGUCNestLevel();
	}
	(void)set_config_option(name, value, PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
}

int router_begin_values(void) {
	int level = 0;

	if (DateStyle != USE_ISO_DATES) {
		set_value(&level, "datestyle", "ISO");
	}
	if (IntervalStyle != INTSTYLE_POSTGRES) {
		set_value(&level, "intervalstyle", "postgres");
	}
	if (extra_float_digits < 1) {
		set_value(&level, "extra_float_digits", "1"); /* from there on numbers come back as they were */
	}
	return level;
}

void router_end_values(int level) {
	if (level > 0) {
		AtEOXact_GUC(true, level);
	}
}
