#include "router/ddl.h"

#include "postgres.h"

#include "access/table.h"
#include "access/transam.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/objectaccess.h"
#include "catalog/pg_class.h"
#include "catalog/pg_database.h"
#include "commands/sequence.h"
#include "executor/spi.h"
#include "ddl_create.h"
#include "foreign/foreign.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "router/deparse.h"
#include "router/handler.h"
#include "router/session.h"
#include "router/transaction.h"
#include "router/sharded_table.h"
#include "settings.h"
#include "tcop/utility.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/ruleutils.h"
#include "utils/syscache.h"
#include "utils/xid8.h"

PG_FUNCTION_INFO_V1(router_sql_finish_transactions);
PG_FUNCTION_INFO_V1(router_sql_prepare_primary);
PG_FUNCTION_INFO_V1(router_sql_make_tables);
PG_FUNCTION_INFO_V1(router_sql_drop_tables);

/* A lock that a restore point of the whole cluster takes alone: aidb.hold_definitions(). */
#define DEFINITIONS_LOCK INT64CONST(7017294236571234560)

#define MAX_FOUND 1000 /* prepared transactions that one call finishes in a group */

static ProcessUtility_hook_type next_utility;
static object_access_hook_type next_access;

/* ---- On all groups ----------------------------------------------------------------------------------------- */

static void execute_on(const router_group *group, const char *sql) {
	router_session *session = router_session_open(group);
	router_statement statement = {.sql = sql};

	router_session_check_write(session);
	(void)router_execute(session, &statement);
}

/* The statements, one after the other, in one transaction on each group. */
static void execute_on_all(const char *const *statements, int count) {
	const router_map *map = router_map_get();
	int groups = map->group_count;
	int *ids = palloc((Size)groups * sizeof(int));

	DirectFunctionCall1(pg_advisory_xact_lock_shared_int8, Int64GetDatum(DEFINITIONS_LOCK));
	router_commit_in_two_phases();
	for (int i = 0; i < groups; i++) {
		ids[i] = map->groups[i].id;
	}
	for (int i = 0; i < groups; i++) {
		for (int j = 0; j < count; j++) {
			const router_group *group = router_map_group(router_map_get(), ids[i]);

			if (group == NULL) {
				ereport(ERROR,
						(errcode(ERRCODE_UNDEFINED_OBJECT), errmsg("a group of the cluster was removed meanwhile")));
			}
			execute_on(group, statements[j]);
		}
	}
}

/* A group refuses slots of others from its first table on: its replicas, which may be behind, know that they lack their rows. */
static void keep_slots_on(const router_group *group) {
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfoString(&sql, "SELECT aidb.keep_slots('{");
	for (uint32 slot = 0, count = 0; slot < AIDB_SLOTS; slot++) {
		if (aidb_slot_set_has(&group->slots, slot)) {
			appendStringInfo(&sql, "%s%u", count++ > 0 ? "," : "", slot);
		}
	}
	appendStringInfoString(&sql, "}')");
	execute_on(group, sql.data);
}

static void keep_slots_on_all(void) {
	int groups = router_map_get()->group_count;

	for (int i = 0; i < groups && i < router_map_get()->group_count; i++) {
		keep_slots_on(&router_map_get()->groups[i]);
	}
}

static Oid relation_in_aidb(const char *name) {
	Oid schema = get_namespace_oid("aidb", true);

	return OidIsValid(schema) ? get_relname_relid(name, schema) : InvalidOid;
}

/* The number under which all groups store the next table. */
static char *give_index_id(void) {
	return psprintf("SELECT aidb.give_index_id(" INT64_FORMAT ")",
					nextval_internal(relation_in_aidb("index_id"), false));
}

/* ---- CREATE ----------------------------------------------------------------------------------------------- */

static void write_column(StringInfo sql, Form_pg_attribute attribute) {
	if (attribute->attgenerated) {
		ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
						errmsg("generated columns are not supported in tables of the cluster"),
						errdetail("Column \"%s\" is one.", NameStr(attribute->attname))));
	}
	appendStringInfo(sql, "%s %s", quote_identifier(NameStr(attribute->attname)),
					 format_type_extended(attribute->atttypid, attribute->atttypmod,
										  FORMAT_TYPE_TYPEMOD_GIVEN | FORMAT_TYPE_FORCE_QUALIFY));
	if (OidIsValid(attribute->attcollation) && attribute->attcollation != get_typcollation(attribute->atttypid)) {
		appendStringInfo(sql, " COLLATE %s", generate_collation_name(attribute->attcollation));
	}
	if (attribute->attnotnull) {
		appendStringInfoString(sql, " NOT NULL");
	}
}

static void write_checks(StringInfo sql, Relation relation) {
	const TupleConstr *constraints = RelationGetDescr(relation)->constr;
	List *context = deparse_context_for(RelationGetRelationName(relation), RelationGetRelid(relation));

	for (int i = 0; constraints != NULL && i < constraints->num_check; i++) {
		const ConstrCheck *check = &constraints->check[i];

		appendStringInfo(sql, ", CONSTRAINT %s CHECK (%s)", quote_identifier(check->ccname),
						 deparse_expression(stringToNode(check->ccbin), context, false, true));
	}
}

/* The statement that makes the table on a node. Defaults are the coordinator's affair. */
static char *create_statement(Relation relation, const aipg_table *table) {
	OverrideSearchPath path = {.schemas = NIL, .addCatalog = true, .addTemp = false};
	TupleDesc tuple_desc = RelationGetDescr(relation);
	const char *separator = "";
	StringInfoData sql;

	initStringInfo(&sql);
	PushOverrideSearchPath(&path);
	appendStringInfo(&sql, "CREATE FOREIGN TABLE %s (", router_table_name(table->relid));
	for (int i = 0; i < tuple_desc->natts; i++) {
		if (!TupleDescAttr(tuple_desc, i)->attisdropped) {
			appendStringInfoString(&sql, separator);
			write_column(&sql, TupleDescAttr(tuple_desc, i));
			separator = ", ";
		}
	}
	write_checks(&sql, relation);
	for (int i = 0; i < table->key_count; i++) {
		appendStringInfo(&sql, "%s%s", i == 0 ? ", PRIMARY KEY (" : ", ",
						 router_column_name(table->relid, table->key[i].attnum));
	}
	appendStringInfo(&sql, ")) SERVER aidb OPTIONS (shard_columns '%d')", table->shard_count);
	PopOverrideSearchPath();
	return sql.data;
}

/* A node that compares texts otherwise would answer otherwise. */
static char *check_locale(void) {
	HeapTuple tuple = SearchSysCache1(DATABASEOID, ObjectIdGetDatum(MyDatabaseId));
	char *collate_name, *ctype_name;
	bool null;

	if (!HeapTupleIsValid(tuple)) {
		elog(ERROR, "database %u is not in the catalog", MyDatabaseId);
	}
	collate_name = TextDatumGetCString(SysCacheGetAttr(DATABASEOID, tuple, Anum_pg_database_datcollate, &null));
	ctype_name = TextDatumGetCString(SysCacheGetAttr(DATABASEOID, tuple, Anum_pg_database_datctype, &null));
	ReleaseSysCache(tuple);
	return psprintf("SELECT aidb.check_locale(%s, %s, %s)", quote_literal_cstr(GetDatabaseEncodingName()),
					quote_literal_cstr(collate_name), quote_literal_cstr(ctype_name));
}

static void create_on_all(Oid relid) {
	Relation relation = table_open(relid, AccessExclusiveLock);
	const aipg_table *table = router_table_describe(relation);
	const char *schema = quote_identifier(get_namespace_name(RelationGetNamespace(relation)));
	const char *statements[] = {check_locale(), psprintf("CREATE SCHEMA IF NOT EXISTS %s", schema), give_index_id(),
								create_statement(relation, table)};

	table_close(relation, NoLock);
	execute_on_all(statements, lengthof(statements));
	keep_slots_on_all();
}

/* ---- DROP and TRUNCATE ------------------------------------------------------------------------------------- */

/* Called before the table's catalog rows go. When the extension itself is being dropped, the cluster is not known any more. */
static void drop_object(Oid catalog, Oid object, int column) {
	if (catalog == RelationRelationId && column == 0 && router_is_table(object) &&
		OidIsValid(relation_in_aidb("slot"))) {
		const char *statement = psprintf("DROP FOREIGN TABLE IF EXISTS %s", router_table_name(object));

		execute_on_all(&statement, 1);
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

static void truncate_tables(List *relations, DropBehavior behavior, bool restart) {
	ListCell *cell;

	foreach(cell, relations) {
		const char *statements[] = {
			give_index_id(), psprintf("TRUNCATE %s", router_table_name(RelationGetRelid((Relation)lfirst(cell))))};

		execute_on_all(statements, lengthof(statements));
	}
}

void router_ddl_routines(FdwRoutine *routine) {
	routine->ExecForeignTruncate = truncate_tables;
}

/* ---- Statements ------------------------------------------------------------------------------------------- */

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

static bool creates_table(const CreateForeignTableStmt *statement) {
	Oid server = get_foreign_server_oid(statement->servername, true);

	return OidIsValid(server) && router_is_server(server);
}

static void create_table(utility_call call) {
	CreateForeignTableStmt *statement = (CreateForeignTableStmt *)call.planned->utilityStmt;
	List *primary_key;
	Oid relid;

	if (!creates_table(statement) || OidIsValid(RangeVarGetRelid(statement->base.relation, NoLock, true))) {
		execute(&call);
		return;
	}
	/* A plan that is used again must find its PRIMARY KEY. */
	call.planned = copyObject(call.planned);
	call.read_only_tree = false;
	statement = (CreateForeignTableStmt *)call.planned->utilityStmt;
	primary_key = aipg_take_primary_key(statement);
	execute(&call);
	relid = RangeVarGetRelid(statement->base.relation, NoLock, false);
	CommandCounterIncrement();
	aipg_set_primary_key(relid, primary_key);
	if (!aipg_tables_exist) {
		create_on_all(relid);
	}
}

static bool is_named_table(const RangeVar *name) {
	Oid relid = name == NULL ? InvalidOid : RangeVarGetRelid(name, NoLock, true);

	return OidIsValid(relid) && router_is_table(relid);
}

static void refuse_alter(const RangeVar *name) {
	if (is_named_table(name)) {
		ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
						errmsg("cannot change the definition of table \"%s\" of the cluster", name->relname),
						errhint("Create another table and copy the rows.")));
	}
}

/* What concerns this server alone. */
static bool changes_definition(const AlterTableStmt *statement) {
	ListCell *cell;

	foreach(cell, statement->cmds) {
		AlterTableType type = lfirst_node(AlterTableCmd, cell)->subtype;

		if (type != AT_ChangeOwner && type != AT_ColumnDefault && type != AT_SetStatistics) {
			return true;
		}
	}
	return false;
}

static void process_utility(PlannedStmt *planned, const char *query, bool read_only_tree, ProcessUtilityContext context,
							ParamListInfo params, QueryEnvironment *environment, DestReceiver *destination,
							QueryCompletion *completion) {
	utility_call call = {planned, query, read_only_tree, context, params, environment, destination, completion};
	Node *statement = planned->utilityStmt;

	if (IsA(statement, CreateForeignTableStmt)) {
		create_table(call);
		return;
	}
	if (IsA(statement, RenameStmt)) {
		refuse_alter(((RenameStmt *)statement)->relation);
	} else if (IsA(statement, AlterObjectSchemaStmt)) {
		refuse_alter(((AlterObjectSchemaStmt *)statement)->relation);
	} else if (IsA(statement, AlterTableStmt) && context != PROCESS_UTILITY_SUBCOMMAND &&
			   changes_definition((AlterTableStmt *)statement)) {
		refuse_alter(((AlterTableStmt *)statement)->relation); /* CREATE sets column options by an ALTER of its own */
	}
	execute(&call);
}

void router_ddl_init(void) {
	next_utility = ProcessUtility_hook;
	ProcessUtility_hook = process_utility;
	next_access = object_access_hook;
	object_access_hook = access_object;
}

/* ---- Groups that come and go ------------------------------------------------------------------------------- */

/* The first column of the answers. */
typedef struct answers {
	router_stream stream; /* first: its address is this one's */
	List *values;
} answers;

static void note_answer(router_stream *stream, const PGresult *row) {
	answers *of = (answers *)stream;

	of->values = lappend(of->values, pstrdup(PQgetvalue(row, 0, 0)));
}

static List *ask(router_session *session, char *sql) {
	answers all = {.stream = {.deliver = note_answer}};
	router_stream *stream = &all.stream;
	router_statement query = {.sql = sql};

	router_query(session, &query, false, stream);
	while (stream->session != NULL) {
		if (!router_stream_poll(stream)) {
			router_streams_wait(&stream, 1);
		}
	}
	if (stream->lost) {
		router_report_loss(session, "It did not answer.");
	}
	return all.values;
}

static const router_group *group_argument(FunctionCallInfo fcinfo) {
	const router_group *group;

	CommandCounterIncrement();
	router_map_forget(); /* the group may be this transaction's own */
	group = router_map_group(router_map_get(), PG_GETARG_INT32(0));
	if (group == NULL) {
		ereport(ERROR, (errcode(ERRCODE_UNDEFINED_OBJECT), errmsg("there is no group %d", PG_GETARG_INT32(0))));
	}
	return group;
}

/* prepare_primary(group) → the epoch: that which the node has been in before, if it has */
Datum router_sql_prepare_primary(PG_FUNCTION_ARGS) {
	const router_group *group = group_argument(fcinfo);
	router_session *session = router_session_open(group);
	char *epoch = linitial(ask(session, "SELECT greatest(epoch, 1) FROM aidb.node_status()"));

	(void)ask(session, psprintf("SELECT aidb.become_primary(%s)", epoch));
	PG_RETURN_INT64(strtoll(epoch, NULL, 10));
}

/* All tables of the cluster in this database. */
static List *cluster_tables(void) {
	List *tables = NIL;

	SPI_connect();
	if (SPI_execute("SELECT t.ftrelid FROM pg_catalog.pg_foreign_table t JOIN pg_catalog.pg_foreign_server s ON s.oid "
					"= t.ftserver"
					" WHERE s.srvname = 'aidb_cluster' ORDER BY 1",
					true, 0) != SPI_OK_SELECT) {
		elog(ERROR, "could not read which tables the cluster has");
	}
	for (uint64 i = 0; i < SPI_processed; i++) {
		bool null;
		Oid relid = DatumGetObjectId(SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1, &null));
		MemoryContext caller = MemoryContextSwitchTo(CurTransactionContext);

		tables = lappend_oid(tables, relid);
		MemoryContextSwitchTo(caller);
	}
	SPI_finish();
	return tables;
}

/* Under the number that other groups store it by. */
static void make_table_on(int group_id, const router_group *like, Oid relid) {
	Relation relation = table_open(relid, AccessShareLock);
	const aipg_table *table = router_table_describe(relation);
	const char *name = router_table_name(relid);
	char *index_id =
		linitial(ask(router_session_open(like), psprintf("SELECT aidb.table_index_id(%s)", quote_literal_cstr(name))));
	const char *statements[] = {check_locale(),
								psprintf("CREATE SCHEMA IF NOT EXISTS %s",
										 quote_identifier(get_namespace_name(RelationGetNamespace(relation)))),
								psprintf("SELECT aidb.give_index_id(%s)", index_id), create_statement(relation, table)};

	table_close(relation, NoLock);
	for (size_t i = 0; i < lengthof(statements); i++) {
		execute_on(router_map_group(router_map_get(), group_id), statements[i]);
	}
}

/* make_tables(group) → how many */
Datum router_sql_make_tables(PG_FUNCTION_ARGS) {
	const router_group *group = group_argument(fcinfo);
	const router_map *map = router_map_get();
	const router_group *like = &map->groups[map->group_of_slot[0]];
	int group_id = group->id, like_id = like->id;
	List *tables = cluster_tables();
	ListCell *cell;

	if (group_id == like_id) {
		ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE), errmsg("the group has the tables already")));
	}
	router_commit_in_two_phases();
	keep_slots_on(group);
	foreach(cell, tables) {
		make_table_on(group_id, router_map_group(router_map_get(), like_id), lfirst_oid(cell));
	}
	PG_RETURN_INT64(list_length(tables));
}

/* drop_tables(group) → how many */
Datum router_sql_drop_tables(PG_FUNCTION_ARGS) {
	int group_id = group_argument(fcinfo)->id;
	List *tables = cluster_tables();
	ListCell *cell;

	router_commit_in_two_phases();
	foreach(cell, tables) {
		execute_on(router_map_group(router_map_get(), group_id),
				   psprintf("DROP FOREIGN TABLE IF EXISTS %s", router_table_name(lfirst_oid(cell))));
	}
	PG_RETURN_INT64(list_length(tables));
}

/* ---- What a crash has left --------------------------------------------------------------------------------- */

/* Names of prepared transactions. */
static List *find_prepared(router_session *session, const char *prefix) {
	return ask(session,
			   psprintf("SELECT gid FROM pg_catalog.pg_prepared_xacts WHERE database = pg_catalog.current_database()"
						" AND pg_catalog.starts_with(gid, %s) LIMIT %d",
						quote_literal_cstr(prefix), MAX_FOUND));
}

/* "COMMIT" or "ROLLBACK", as the transaction here has ended; NULL while it has not. */
static const char *outcome_of(const char *name, const char *prefix) {
	FullTransactionId transaction = FullTransactionIdFromU64(strtoull(name + strlen(prefix), NULL, 10));
	LOCAL_FCINFO(call, 1);
	const char *status;

	InitFunctionCallInfoData(*call, NULL, 1, InvalidOid, NULL, NULL);
	call->args[0].value = FullTransactionIdGetDatum(transaction);
	call->args[0].isnull = false;
	status = TextDatumGetCString(pg_xact_status(call));
	if (call->isnull) {
		return NULL;
	}
	return strcmp(status, "committed") == 0 ? "COMMIT" : strcmp(status, "aborted") == 0 ? "ROLLBACK" : NULL;
}

/* finish_transactions() → how many */
Datum router_sql_finish_transactions(PG_FUNCTION_ARGS) {
	const char *prefix = router_prepared_prefix();
	const router_map *map = router_map_get();
	int groups = map->group_count;
	int *ids = palloc((Size)groups * sizeof(int));
	int64 finished = 0;

	(void)fcinfo;
	for (int i = 0; i < groups; i++) {
		ids[i] = map->groups[i].id;
	}
	for (int i = 0; i < groups; i++) {
		const router_group *group = router_map_group(router_map_get(), ids[i]);
		router_session *session = group != NULL ? router_session_open(group) : NULL;
		ListCell *cell;

		foreach(cell, session != NULL ? find_prepared(session, prefix) : NIL) {
			const char *outcome = outcome_of(lfirst(cell), prefix);

			if (outcome != NULL) {
				router_command_alone(session, psprintf("%s PREPARED %s", outcome, quote_literal_cstr(lfirst(cell))));
				finished++;
			}
		}
	}
	PG_RETURN_INT64(finished);
}
