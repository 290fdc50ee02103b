#include "ddl_create.h"

#include "access/table.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "ddl_alter.h"
#include "foreign/foreign.h"
#include "nodes/makefuncs.h"
#include "options.h"
#include "table.h"

bool aipg_creates_table(const CreateForeignTableStmt *statement) {
	Oid server = get_foreign_server_oid(statement->servername, true);

	return OidIsValid(server) && aipg_is_server(server);
}

/* ---- Taking the key out of the statement ------------------------------------------------------------------ */

static void refuse_second(const CreateForeignTableStmt *statement, bool second) {
	if (second) {
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TABLE_DEFINITION),
				 errmsg("multiple primary keys for table \"%s\" are not allowed", statement->base.relation->relname),
				 errdetail("The key is declared by more than one PRIMARY KEY or option \"%s\".", AIPG_OPTION_KEY),
				 errhint("Declare a key of several columns as PRIMARY KEY (a, b), or number the columns with the "
						 "option.")));
	}
}

static void refuse_clauses(const Constraint *constraint) {
	if (constraint->deferrable || constraint->including || constraint->options || constraint->indexspace) {
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED), errmsg("unsupported clause in PRIMARY KEY of an AiDb table"),
				 errdetail("The key is the order of the table itself; there is no index that INCLUDE, WITH, USING "
						   "INDEX TABLESPACE or DEFERRABLE could apply to."),
				 errhint("Leave the clause out.")));
	}
}

/* The PRIMARY KEY constraint of a column, taken out of it; NULL when there is none. */
static Constraint *take_from_column(const CreateForeignTableStmt *statement, ColumnDef *column) {
	Constraint *taken = NULL;
	ListCell *cell;

	foreach(cell, column->constraints) {
		Constraint *constraint = lfirst_node(Constraint, cell);

		if (constraint->contype == CONSTR_PRIMARY) {
			refuse_second(statement, taken != NULL);
			taken = constraint;
			column->constraints = foreach_delete_current(column->constraints, cell);
		}
	}
	return taken;
}

static List *names_of(const Constraint *constraint) {
	List *names = NIL;
	ListCell *cell;

	foreach(cell, constraint->keys) {
		names = lappend(names, strVal(lfirst(cell)));
	}
	return names;
}

static bool has_key_option(const ColumnDef *column) {
	ListCell *cell;

	foreach(cell, column->fdwoptions) {
		if (strcmp(lfirst_node(DefElem, cell)->defname, AIPG_OPTION_KEY) == 0) {
			return true;
		}
	}
	return false;
}

static void check_names(const List *names) {
	for (int i = 0; i < list_length(names); i++) {
		for (int j = 0; j < i; j++) {
			if (strcmp(list_nth(names, i), list_nth(names, j)) == 0) {
				ereport(ERROR,
						(errcode(ERRCODE_DUPLICATE_COLUMN),
						 errmsg("column \"%s\" appears twice in primary key constraint", (char *)list_nth(names, i))));
			}
		}
	}
	if (list_length(names) > AIPG_MAX_KEY_COLUMNS) {
		ereport(ERROR, (errcode(ERRCODE_TOO_MANY_COLUMNS),
						errmsg("cannot use more than %d columns in a primary key", AIPG_MAX_KEY_COLUMNS)));
	}
}

List *aipg_take_primary_key(CreateForeignTableStmt *statement) {
	List *names = NIL;
	bool options = false;
	ListCell *cell;

	foreach(cell, statement->base.tableElts) {
		Node *element = lfirst(cell);
		Constraint *constraint = NULL;

		if (IsA(element, ColumnDef)) {
			constraint = take_from_column(statement, (ColumnDef *)element);
			options = options || has_key_option((ColumnDef *)element);
		} else if (IsA(element, Constraint) && ((Constraint *)element)->contype == CONSTR_PRIMARY) {
			constraint = (Constraint *)element;
			statement->base.tableElts = foreach_delete_current(statement->base.tableElts, cell);
		}
		if (constraint != NULL) {
			refuse_clauses(constraint);
			refuse_second(statement, names != NIL);
			names = IsA(element, ColumnDef) ? list_make1(((ColumnDef *)element)->colname) : names_of(constraint);
		}
	}
	refuse_second(statement, names != NIL && options);
	check_names(names);
	return names;
}

/* ---- Finishing the table ---------------------------------------------------------------------------------- */

/* By ALTER rather than in the statement, since columns of a parent table do not stand there. */
static void set_key_options(Oid relid, List *names) {
	List *commands = NIL;
	int position = 0;
	ListCell *cell;

	foreach(cell, names) {
		char *value = psprintf("%d", ++position);

		commands = lappend(commands, aipg_option_command(lfirst(cell), AIPG_OPTION_KEY, value, DEFELEM_ADD));
	}
	aipg_alter(relid, commands);
}

static void set_not_null(Relation relation) {
	aipg_key_column columns[AIPG_MAX_KEY_COLUMNS];
	int count = aipg_table_key_columns(relation, columns);
	List *commands = NIL;

	for (int i = 0; i < count; i++) {
		Form_pg_attribute attribute = TupleDescAttr(RelationGetDescr(relation), columns[i].attnum - 1);

		if (!attribute->attnotnull) {
			AlterTableCmd *command = makeNode(AlterTableCmd);

			command->subtype = AT_SetNotNull;
			command->name = pstrdup(NameStr(attribute->attname));
			commands = lappend(commands, command);
		}
	}
	aipg_alter(RelationGetRelid(relation), commands);
}

void aipg_set_primary_key(Oid relid, List *primary_key) {
	Relation relation;

	set_key_options(relid, primary_key);
	relation = table_open(relid, AccessExclusiveLock);
	if (relation->rd_rel->relpersistence != RELPERSISTENCE_PERMANENT) {
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED), errmsg("AiDb tables cannot be temporary"),
				 errdetail("Table \"%s\" would be created in a temporary schema.", RelationGetRelationName(relation)),
				 errhint("Create it in another schema, or use a temporary heap table.")));
	}
	if (!aipg_awaits_key(relation)) {
		set_not_null(relation);
	}
	table_close(relation, NoLock);
}

Oid aipg_finish_create(const CreateForeignTableStmt *statement, List *primary_key) {
	Oid relid = RangeVarGetRelid(statement->base.relation, NoLock, true);
	aipg_key_column columns[AIPG_MAX_KEY_COLUMNS];
	uint32 index_id;
	Relation relation;

	/* What IF NOT EXISTS has found is another relation, or has its row. */
	if (!OidIsValid(relid) || !aipg_is_table(relid) || aipg_catalog_lookup(relid, &index_id)) {
		return InvalidOid;
	}
	CommandCounterIncrement();
	aipg_set_primary_key(relid, primary_key);
	relation = table_open(relid, NoLock);
	if (!aipg_awaits_key(relation)) {
		(void)aipg_table_shard_columns(relation, aipg_table_key_columns(relation, columns));
	}
	table_close(relation, NoLock);
	aipg_catalog_create(relid);
	return relid;
}
