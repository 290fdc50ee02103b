#include "ddl.h"

#include "postgres.h"

#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/objectaccess.h"
#include "catalog/pg_class.h"
#include "catalog/pg_database.h"
#include "catalog/pg_extension.h"
#include "commands/dbcommands.h"
#include "commands/defrem.h"
#include "commands/extension.h"
#include "ddl_alter.h"
#include "ddl_create.h"
#include "ddl_log.h"
#include "options.h"
#include "table.h"
#include "tcop/utility.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/syscache.h"

#define EXTENSION_NAME "aidb"

static ProcessUtility_hook_type next_utility;
static object_access_hook_type next_access;

/* ---- Dropped key columns ---------------------------------------------------------------------------------- */

/*
 * A key column may go only with its table. While objects are being dropped the table may still be to come, as when
 * DROP SCHEMA CASCADE takes a collation and its columns first; so the column is noted, and the statement is refused
 * at its end if the table is still there. A note that an error has left behind is stale and does no harm: the column
 * exists then.
 */
typedef struct dropped_column {
	Oid relid;
	AttrNumber attnum;
	NameData name;
} dropped_column;

static List *dropped_columns; /* in TopMemoryContext */

static void note_dropped_column(Oid relid, AttrNumber attnum) {
	MemoryContext caller;
	dropped_column *column;

	if (!aipg_is_table(relid) || aipg_column_option(relid, attnum, AIPG_OPTION_KEY) == NULL) {
		return;
	}
	caller = MemoryContextSwitchTo(TopMemoryContext);
	column = palloc0(sizeof(dropped_column));
	column->relid = relid;
	column->attnum = attnum;
	namestrcpy(&column->name, get_attname(relid, attnum, false));
	dropped_columns = lappend(dropped_columns, column);
	MemoryContextSwitchTo(caller);
}

static bool is_dropped(Oid relid, AttrNumber attnum) {
	HeapTuple tuple = SearchSysCacheAttNum(relid, attnum);

	if (HeapTupleIsValid(tuple)) {
		ReleaseSysCache(tuple);
	}
	return !HeapTupleIsValid(tuple);
}

static void refuse_dropped_columns(void) {
	while (dropped_columns != NIL) {
		dropped_column column = *(dropped_column *)linitial(dropped_columns);

		pfree(linitial(dropped_columns));
		dropped_columns = list_delete_first(dropped_columns);
		if (IsTransactionState() && get_rel_name(column.relid) != NULL && is_dropped(column.relid, column.attnum)) {
			ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
							errmsg("cannot drop key column \"%s\" of AiDb table \"%s\"", NameStr(column.name),
								   get_rel_name(column.relid)),
							errdetail("Rows are stored in the order of the key."),
							errhint("Create a table with another key and copy the rows with INSERT ... SELECT.")));
		}
	}
}

/* ---- Drops ------------------------------------------------------------------------------------------------ */

/* Called before the object's catalog rows go. */
static void drop_object(Oid catalog, Oid object, int column) {
	if (catalog == RelationRelationId && column > 0) {
		note_dropped_column(object, (AttrNumber)column);
	} else if (catalog == RelationRelationId && aipg_is_table(object)) {
		aipg_catalog_drop(object);
	} else if (catalog == DatabaseRelationId) {
		aipg_catalog_drop_database(object);
	} else if (catalog == ExtensionRelationId && object == get_extension_oid(EXTENSION_NAME, true)) {
		aipg_catalog_drop_spaces();
	}
}

static void access_object(ObjectAccessType access, Oid catalog, Oid object, int column, void *argument) {
	if (next_access != NULL) {
		next_access(access, catalog, object, column, argument);
	}
	if (access == OAT_DROP) {
		drop_object(catalog, object, column);
	}
}

/* ---- Statements ------------------------------------------------------------------------------------------- */

/* CREATE DATABASE copies the template's catalogs but not its rows in the store. */
static void check_template(const CreatedbStmt *statement) {
	const char *template = "template1";
	ListCell *cell;
	Oid database;

	foreach(cell, statement->options) {
		DefElem *option = lfirst_node(DefElem, cell);

		if (strcmp(option->defname, "template") == 0 && option->arg != NULL) {
			template = defGetString(option);
		}
	}
	database = get_database_oid(template, true);
	if (OidIsValid(database) && aipg_catalog_database_used(database)) {
		ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
						errmsg("cannot copy database \"%s\" because it has AiDb tables or key spaces", template),
						errdetail("Their rows are not in the database's directory and would not be copied."),
						errhint("Create the database from template0 and load it from a dump.")));
	}
}

/* A call of the utility hook. */
typedef struct utility_call {
	PlannedStmt *planned;
	const char *query;
	bool read_only_tree;
	ProcessUtilityContext context;
	ParamListInfo params;
	QueryEnvironment *environment;
	DestReceiver *destination;
	QueryCompletion *completion;
} utility_call;

static void execute(const utility_call *call) {
	ProcessUtility_hook_type next = next_utility ? next_utility : standard_ProcessUtility;

	next(call->planned, call->query, call->read_only_tree, call->context, call->params, call->environment,
		 call->destination, call->completion);
}

/* For replicas; InvalidOid: there is nothing to log. */
static void log_change(const utility_call *call, aipg_change_kind kind, Oid relid) {
	aipg_change change = {.kind = kind};

	if (OidIsValid(relid)) {
		aipg_catalog_lookup(relid, &change.index_id);
		change.schema = get_namespace_name(get_rel_namespace(relid));
		change.name = get_rel_name(relid);
		change.missing = kind == AIPG_CHANGE_ALTER ? aipg_missing_text(relid) : NULL;
		change.statement = aipg_statement_text(call->query, call->planned->stmt_location, call->planned->stmt_len);
		aipg_ddl_log_add(&change);
	}
}

static void create_table(utility_call call) {
	CreateForeignTableStmt *statement = (CreateForeignTableStmt *)call.planned->utilityStmt;
	List *primary_key;

	if (!aipg_creates_table(statement)) {
		execute(&call);
		return;
	}
	/* A plan that is used again must find its PRIMARY KEY. */
	call.planned = copyObject(call.planned);
	call.read_only_tree = false;
	statement = (CreateForeignTableStmt *)call.planned->utilityStmt;
	primary_key = aipg_take_primary_key(statement);
	execute(&call);
	log_change(&call, AIPG_CHANGE_CREATE, aipg_finish_create(statement, primary_key));
}

/* The AiDb table of this name; InvalidOid when it is none. */
static Oid altered_table(RangeVar *name) {
	Oid relid = name == NULL ? InvalidOid : RangeVarGetRelid(name, NoLock, true);

	return OidIsValid(relid) && aipg_is_table(relid) ? relid : InvalidOid;
}

/* Roles are each server's own. */
static bool changes_only_owner(const AlterTableStmt *statement) {
	ListCell *cell;

	foreach(cell, statement->cmds) {
		if (lfirst_node(AlterTableCmd, cell)->subtype != AT_ChangeOwner) {
			return false;
		}
	}
	return true;
}

static void alter_table(const utility_call *call) {
	aipg_alteration *alteration;
	Oid relid;

	/* CREATE FOREIGN TABLE sets column options by an ALTER of its own. */
	if (call->context == PROCESS_UTILITY_SUBCOMMAND) {
		execute(call);
		return;
	}
	relid = altered_table(((AlterTableStmt *)call->planned->utilityStmt)->relation);
	alteration = aipg_prepare_alter((AlterTableStmt *)call->planned->utilityStmt);
	execute(call);
	aipg_finish_alter(alteration);
	if (!changes_only_owner((AlterTableStmt *)call->planned->utilityStmt)) {
		log_change(call, AIPG_CHANGE_ALTER, relid);
	}
}

/* RENAME and SET SCHEMA, of tables and of columns. */
static void change_name(const utility_call *call, RangeVar *name) {
	Oid relid = altered_table(name);

	execute(call);
	log_change(call, AIPG_CHANGE_ALTER, relid);
}

static void process_utility(PlannedStmt *planned, const char *query, bool read_only_tree, ProcessUtilityContext context,
							ParamListInfo params, QueryEnvironment *environment, DestReceiver *destination,
							QueryCompletion *completion) {
	utility_call call = {planned, query, read_only_tree, context, params, environment, destination, completion};

	switch (nodeTag(planned->utilityStmt)) {
	case T_CreateForeignTableStmt:
		create_table(call);
		break;
	case T_AlterTableStmt:
		alter_table(&call);
		break;
	case T_RenameStmt:
		change_name(&call, ((RenameStmt *)planned->utilityStmt)->relation);
		break;
	case T_AlterObjectSchemaStmt:
		change_name(&call, ((AlterObjectSchemaStmt *)planned->utilityStmt)->relation);
		break;
	case T_CreatedbStmt:
		check_template((CreatedbStmt *)planned->utilityStmt);
		execute(&call);
		break;
	default:
		execute(&call);
		break;
	}
	refuse_dropped_columns();
}

void aipg_ddl_init(void) {
	next_utility = ProcessUtility_hook;
	ProcessUtility_hook = process_utility;
	next_access = object_access_hook;
	object_access_hook = access_object;
}
