#include "ddl_alter.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog.h"
#include "catalog/dependency.h"
#include "catalog/namespace.h"
#include "catalog/pg_depend.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_type.h"
#include "commands/event_trigger.h"
#include "commands/tablecmds.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "optimizer/optimizer.h"
#include "options.h"
#include "parser/parse_type.h"
#include "rewrite/rewriteHandler.h"
#include "role.h"
#include "row_check.h"
#include "row_codec.h"
#include "table.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/typcache.h"

/* An AiDb table that the statement reaches, by name or as a descendant. */
typedef struct altered_table {
	Oid relid;
	int attributes; /* before the statement */
	List *retyped;  /* names (char *) of columns whose stored bytes the statement makes unreadable; no rows then */
} altered_table;

struct aipg_alteration {
	List *tables;    /* altered_table */
	bool check_rows; /* against constraints */
	List *attached;  /* RangeVar: partitions */
};

/* ---- Helpers for own changes ------------------------------------------------------------------------------ */

void aipg_alter(Oid relid, List *commands) {
	AlterTableStmt *statement;

	if (commands == NIL) {
		return;
	}
	/* Event triggers are told of it as of an ALTER of the user's. */
	statement = makeNode(AlterTableStmt);
	statement->relation = makeRangeVar(get_namespace_name(get_rel_namespace(relid)), get_rel_name(relid), -1);
	statement->cmds = commands;
	statement->objtype = OBJECT_FOREIGN_TABLE;
	EventTriggerAlterTableStart((Node *)statement);
	AlterTableInternal(relid, commands, false);
	EventTriggerAlterTableEnd();
	CommandCounterIncrement();
}

AlterTableCmd *aipg_option_command(const char *column, const char *option, char *value, DefElemAction action) {
	AlterTableCmd *command = makeNode(AlterTableCmd);
	Node *argument = value ? (Node *)makeString(value) : NULL;

	command->subtype = AT_AlterColumnGenericOptions;
	command->name = pstrdup(column);
	command->def = (Node *)list_make1(makeDefElemExtended(NULL, pstrdup(option), argument, action, -1));
	return command;
}

/* ---- Refusals --------------------------------------------------------------------------------------------- */

static void pg_attribute_noreturn() refuse_table_options(Relation relation) {
	ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					errmsg("cannot change options of AiDb table \"%s\"", RelationGetRelationName(relation)),
					errdetail("They say where its rows are stored."),
					errhint("Create another table and copy the rows with INSERT ... SELECT.")));
}

/* A dump's script may define the key of a table that has no rows. A replica does what its primary was allowed to; it may have rows
 * already that were written there later. */
static bool may_define_key(Relation relation) {
	uint32 index_id;

	return aipg_is_restoring_dump() &&
		   (aipg_role_internal ||
			(aipg_catalog_lookup(RelationGetRelid(relation), &index_id) && !aipg_index_has_rows(index_id)));
}

static void refuse_options(Relation relation, const List *options) {
	ListCell *cell;

	if (may_define_key(relation)) {
		return;
	}
	foreach(cell, options) {
		const char *name = lfirst_node(DefElem, cell)->defname;

		if (strcmp(name, AIPG_OPTION_KEY) == 0) {
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("cannot change the primary key of AiDb table \"%s\"", RelationGetRelationName(relation)),
					 errdetail("Rows are stored in the order of the key."),
					 errhint("Create a table with the new key and copy the rows with INSERT ... SELECT.")));
		}
		if (strcmp(name, AIPG_OPTION_MISSING) == 0) {
			ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
							errmsg("cannot change option \"%s\" of a column of AiDb table \"%s\"", name,
								   RelationGetRelationName(relation)),
							errdetail("It holds what older rows read in a column that was added with a default."),
							errhint("Change the rows with UPDATE.")));
		}
	}
}

static bool is_key_column(Relation relation, const char *name) {
	AttrNumber attnum = get_attnum(RelationGetRelid(relation), name);

	return attnum > 0 && aipg_column_option(RelationGetRelid(relation), attnum, AIPG_OPTION_KEY) != NULL;
}

static void refuse_nullable_key(Relation relation, const char *column) {
	if (is_key_column(relation, column)) {
		ereport(ERROR, (errcode(ERRCODE_INVALID_TABLE_DEFINITION), errmsg("column \"%s\" is in a primary key", column),
						errdetail("It is a key column of AiDb table \"%s\", and key columns are never null.",
								  RelationGetRelationName(relation)),
						errhint("Create a table with another key and copy the rows with INSERT ... SELECT.")));
	}
}

/* True when values of the old type read the same under the new one, as core has it for heap tables. */
static bool keeps_bytes(Form_pg_attribute attribute, const ColumnDef *definition) {
	Oid type;
	int32 typmod;

	typenameTypeIdAndMod(NULL, definition->typeName, &type, &typmod);
	if (definition->raw_default != NULL) { /* USING */
		return false;
	}
	if (type == attribute->atttypid && typmod == attribute->atttypmod) {
		return true;
	}
	if ((type != TEXTOID && type != VARCHAROID) ||
		(attribute->atttypid != TEXTOID && attribute->atttypid != VARCHAROID)) {
		return false;
	}
	return typmod < 0 || (attribute->atttypmod >= 0 && typmod >= attribute->atttypmod);
}

/* ALTER COLUMN TYPE: refused for key columns, and for others while there are rows to rewrite. */
static void prepare_retype(Relation relation, const AlterTableCmd *command, altered_table *table) {
	AttrNumber attnum = get_attnum(RelationGetRelid(relation), command->name);

	if (attnum <= 0) {
		return; /* core says so */
	}
	if (is_key_column(relation, command->name)) {
		ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
						errmsg("cannot change the type of key column \"%s\" of AiDb table \"%s\"", command->name,
							   RelationGetRelationName(relation)),
						errdetail("Rows are stored in the order of the key."),
						errhint("Create a table with the new type and copy the rows with INSERT ... SELECT.")));
	}
	if (keeps_bytes(TupleDescAttr(RelationGetDescr(relation), attnum - 1), (const ColumnDef *)command->def)) {
		return;
	}
	if (aipg_has_rows(relation)) {
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cannot change the type of column \"%s\" of AiDb table \"%s\" that has rows", command->name,
						RelationGetRelationName(relation)),
				 errdetail("Stored rows would have to be rewritten."),
				 errhint("Add a column of the new type, copy the values with UPDATE, and drop the old column.")));
	}
	table->retyped = lappend(table->retyped, pstrdup(command->name));
}

static altered_table *prepare_table(Oid relid, const List *commands) {
	altered_table *table = palloc0(sizeof(altered_table));
	Relation relation = table_open(relid, NoLock);
	ListCell *cell;

	table->relid = relid;
	table->attributes = RelationGetNumberOfAttributes(relation);
	foreach(cell, commands) {
		const AlterTableCmd *command = lfirst_node(AlterTableCmd, cell);

		switch (command->subtype) {
		case AT_AlterColumnGenericOptions:
			refuse_options(relation, (const List *)command->def);
			break;
		case AT_GenericOptions:
			refuse_table_options(relation);
			break;
		case AT_AddColumn:
			refuse_options(relation, ((const ColumnDef *)command->def)->fdwoptions);
			break;
		case AT_DropNotNull:
			refuse_nullable_key(relation, command->name);
			break;
		case AT_AlterColumnType:
			prepare_retype(relation, command, table);
			break;
		default:
			break;
		}
	}
	table_close(relation, NoLock);
	return table;
}

/* ---- Row types in columns ---------------------------------------------------------------------------------- */

static void refuse_users_of_type(Oid type, Oid altered);

/* One entry of pg_depend that depends on the type: a column of ours, or a type that may in turn be used by one. */
static void refuse_user_of_type(Form_pg_depend depend, Oid altered) {
	Oid type = InvalidOid;

	if (depend->classid == TypeRelationId) {
		type = depend->objid; /* array, domain, range */
	} else if (depend->classid == RelationRelationId && depend->objsubid > 0) {
		if (aipg_is_table(depend->objid)) {
			ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
							errmsg("cannot alter type \"%s\" because column \"%s.%s\" uses it", format_type_be(altered),
								   get_rel_name(depend->objid),
								   get_attname(depend->objid, (AttrNumber)depend->objsubid, false)),
							errdetail("Stored rows of the AiDb table would have to be rewritten."),
							errhint("Drop the column, alter the type, and add the column again.")));
		}
		type = get_rel_type_id(depend->objid); /* composite */
	}
	if (OidIsValid(type)) {
		refuse_users_of_type(type, altered);
	}
}

/* Core's find_composite_type_dependencies passes over foreign tables. */
static void refuse_users_of_type(Oid type, Oid altered) {
	Relation depend = table_open(DependRelationId, AccessShareLock);
	ScanKeyData keys[2];
	SysScanDesc scan;
	HeapTuple tuple;

	check_stack_depth();
	ScanKeyInit(&keys[0], Anum_pg_depend_refclassid, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(TypeRelationId));
	ScanKeyInit(&keys[1], Anum_pg_depend_refobjid, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(type));
	scan = systable_beginscan(depend, DependReferenceIndexId, true, NULL, lengthof(keys), keys);
	while (HeapTupleIsValid(tuple = systable_getnext(scan))) {
		refuse_user_of_type((Form_pg_depend)GETSTRUCT(tuple), altered);
	}
	systable_endscan(scan);
	table_close(depend, AccessShareLock);
}

/* ---- Before ------------------------------------------------------------------------------------------------ */

static bool has_commands(const AlterTableStmt *statement, const AlterTableType *types, size_t count) {
	ListCell *cell;

	foreach(cell, statement->cmds) {
		for (size_t i = 0; i < count; i++) {
			if (lfirst_node(AlterTableCmd, cell)->subtype == types[i]) {
				return true;
			}
		}
	}
	return false;
}

/* True when the command may make constraints that core would check against the rows of a heap table. */
static bool adds_constraints(const AlterTableCmd *command) {
	ListCell *cell;

	switch (command->subtype) {
	case AT_SetNotNull:
	case AT_ValidateConstraint:
		return true;
	case AT_AddConstraint:
		return ((const Constraint *)command->def)->contype == CONSTR_CHECK &&
			   !((const Constraint *)command->def)->skip_validation;
	case AT_AddColumn:
		foreach(cell, ((const ColumnDef *)command->def)->constraints) {
			ConstrType type = lfirst_node(Constraint, cell)->contype;

			if (type == CONSTR_NOTNULL || type == CONSTR_CHECK) {
				return true;
			}
		}
		return ((const ColumnDef *)command->def)->is_not_null;
	default:
		return false;
	}
}

static bool is_relevant(const AlterTableStmt *statement) {
	static const AlterTableType types[] = {
		AT_AddColumn,  AT_AlterColumnType, AT_AlterColumnGenericOptions, AT_GenericOptions,  AT_DropNotNull,
		AT_SetNotNull, AT_AddConstraint,   AT_ValidateConstraint,        AT_AttachPartition,
	};

	if (statement->objtype == OBJECT_TYPE) {
		return has_commands(statement, (const AlterTableType[]){AT_AlterColumnType}, 1);
	}
	return (statement->objtype == OBJECT_TABLE || statement->objtype == OBJECT_FOREIGN_TABLE) &&
		   has_commands(statement, types, lengthof(types));
}

/* The AiDb tables among the relation and, unless ONLY is given, its descendants. */
static List *prepare_tables(const AlterTableStmt *statement, Oid relid, LOCKMODE lockmode) {
	List *relids = list_make1_oid(relid);
	List *tables = NIL;
	ListCell *cell;

	if (statement->relation->inh && has_subclass(relid)) {
		relids = find_all_inheritors(relid, lockmode, NULL);
	}
	foreach(cell, relids) {
		if (aipg_is_table(lfirst_oid(cell))) {
			tables = lappend(tables, prepare_table(lfirst_oid(cell), statement->cmds));
		}
	}
	return tables;
}

aipg_alteration *aipg_prepare_alter(AlterTableStmt *statement) {
	aipg_alteration *alteration = palloc0(sizeof(aipg_alteration));
	LOCKMODE lockmode = AlterTableGetLockLevel(statement->cmds);
	Oid relid = is_relevant(statement) ? AlterTableLookupRelation(statement, lockmode) : InvalidOid;
	ListCell *cell;

	if (!OidIsValid(relid)) {
		return NULL;
	}
	if (has_commands(statement, (const AlterTableType[]){AT_AlterColumnType}, 1) &&
		OidIsValid(get_rel_type_id(relid))) {
		refuse_users_of_type(get_rel_type_id(relid), get_rel_type_id(relid));
	}
	foreach(cell, statement->cmds) {
		const AlterTableCmd *command = lfirst_node(AlterTableCmd, cell);

		if (command->subtype == AT_AttachPartition) {
			alteration->attached = lappend(alteration->attached, copyObject(((PartitionCmd *)command->def)->name));
		}
		alteration->check_rows = alteration->check_rows || adds_constraints(command);
	}
	/* ATTACH PARTITION takes a weak lock and does not reach the other partitions. */
	if (alteration->attached == NIL) {
		alteration->tables = prepare_tables(statement, relid, lockmode);
	}
	return alteration;
}

/* ---- Afterwards -------------------------------------------------------------------------------------------- */

static void refuse_filled_column(Relation relation, Form_pg_attribute attribute) {
	if (aipg_has_rows(relation)) {
		ereport(
			ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("cannot add column \"%s\" to AiDb table \"%s\" that has rows", NameStr(attribute->attname),
					RelationGetRelationName(relation)),
			 attribute->attgenerated
				 ? errdetail("The column is generated, and stored rows would have to be rewritten.")
				 : errdetail("The default is volatile, and stored rows would have to be rewritten."),
			 attribute->attgenerated
				 ? errhint("Create a table with the column and copy the rows with INSERT ... SELECT.")
				 : errhint("Add the column without a default, fill the rows with UPDATE, and set the default then.")));
	}
}

/* The value of an expression without variables as a stored field; NULL for null. */
static char *evaluate_field(Node *expression, Form_pg_attribute attribute) {
	EState *executor = CreateExecutorState();
	ExprState *state = ExecPrepareExpr((Expr *)expression, executor);
	bool null;
	Datum value = ExecEvalExprSwitchContext(state, GetPerTupleExprContext(executor), &null);
	char *field = null ? NULL : aipg_field_to_hex(attribute, value);

	FreeExecutorState(executor);
	return field;
}

/* What existing rows read in a new column, for the option `missing`; NULL when that is null. */
static char *missing_value(Relation relation, Form_pg_attribute attribute) {
	Node *expression = NULL;

	if (!attribute->attgenerated) {
		expression = build_column_default(relation, attribute->attnum);
	}
	if (attribute->attgenerated || contain_volatile_functions(expression)) {
		refuse_filled_column(relation, attribute);
		return NULL;
	}
	if (expression == NULL) {
		if (DomainHasConstraints(attribute->atttypid) && aipg_has_rows(relation)) {
			domain_check((Datum)0, true, attribute->atttypid, NULL, NULL);
		}
		return NULL;
	}
	return evaluate_field(expression, attribute);
}

/* Keeps the default that a new column had when it was added, as core does for heap tables. */
static void keep_missing_values(const altered_table *table) {
	Relation relation = table_open(table->relid, NoLock);
	List *commands = NIL;

	for (int i = table->attributes; i < RelationGetNumberOfAttributes(relation); i++) {
		Form_pg_attribute attribute = TupleDescAttr(RelationGetDescr(relation), i);
		char *value = attribute->attisdropped ? NULL : missing_value(relation, attribute);

		if (value != NULL) {
			commands = lappend(
				commands, aipg_option_command(NameStr(attribute->attname), AIPG_OPTION_MISSING, value, DEFELEM_ADD));
		}
	}
	table_close(relation, NoLock);
	aipg_alter(table->relid, commands);
}

/*
 * The table had no rows that its transaction could see. Older snapshots may still see some, which must not be read
 * under the new type: the table starts anew, as a heap table does that is rewritten.
 */
static void start_anew(const altered_table *table) {
	List *commands = NIL;
	ListCell *cell;

	foreach(cell, table->retyped) {
		const char *column = lfirst(cell);
		AttrNumber attnum = get_attnum(table->relid, column);

		if (attnum > 0 && aipg_column_option(table->relid, attnum, AIPG_OPTION_MISSING) != NULL) {
			commands = lappend(commands, aipg_option_command(column, AIPG_OPTION_MISSING, NULL, DEFELEM_DROP));
		}
	}
	aipg_alter(table->relid, commands);
	aipg_catalog_truncate(table->relid);
}

static void check_partition(const RangeVar *name) {
	Oid relid = RangeVarGetRelid(name, NoLock, false);
	ListCell *cell;

	foreach(cell, find_all_inheritors(relid, AccessShareLock, NULL)) {
		if (aipg_is_table(lfirst_oid(cell))) {
			Relation relation = table_open(lfirst_oid(cell), NoLock);

			aipg_check_rows(relation, AIPG_CHECK_PARTITION);
			table_close(relation, NoLock);
		}
	}
}

void aipg_finish_alter(const aipg_alteration *alteration) {
	ListCell *cell;

	if (alteration == NULL) {
		return;
	}
	CommandCounterIncrement();
	foreach(cell, alteration->tables) {
		const altered_table *table = lfirst(cell);

		if (table->retyped != NIL) {
			start_anew(table);
		}
		keep_missing_values(table);
		if (alteration->check_rows) {
			Relation relation = table_open(table->relid, NoLock);

			aipg_check_rows(relation, AIPG_CHECK_CONSTRAINTS);
			table_close(relation, NoLock);
		}
	}
	foreach(cell, alteration->attached) {
		check_partition(lfirst(cell));
	}
}

/* ---- On replicas ------------------------------------------------------------------------------------------- */

char *aipg_missing_text(Oid relid) {
	StringInfo text = makeStringInfo();
	Relation relation = table_open(relid, AccessShareLock);

	for (int i = 0; i < RelationGetDescr(relation)->natts; i++) {
		Form_pg_attribute attribute = TupleDescAttr(RelationGetDescr(relation), i);
		char *value =
			attribute->attisdropped ? NULL : aipg_column_option(relid, attribute->attnum, AIPG_OPTION_MISSING);

		if (value != NULL) {
			appendStringInfo(text, "%s\n%s\n", NameStr(attribute->attname), value);
		}
	}
	table_close(relation, NoLock);
	return text->data;
}

void aipg_set_missing(Oid relid, const char *text) {
	char *left = pstrdup(text);
	char *name, *value;
	List *commands = NIL;

	while ((name = strsep(&left, "\n")) != NULL && (value = strsep(&left, "\n")) != NULL) {
		AttrNumber attnum = get_attnum(relid, name);
		char *present = attnum == InvalidAttrNumber ? value : aipg_column_option(relid, attnum, AIPG_OPTION_MISSING);

		if (present == NULL || strcmp(present, value) != 0) {
			commands = lappend(commands, aipg_option_command(name, AIPG_OPTION_MISSING, value,
															 present == NULL ? DEFELEM_ADD : DEFELEM_SET));
		}
	}
	aipg_alter(relid, commands);
}
