/*
 * The library as PostgreSQL loads it: settings, hooks, workers.
 */
#include "postgres.h"

#include "access.h"
#include "access/xact.h"
#include "catalog.h"
#include "ddl.h"
#include "durable_id.h"
#include "executor/executor.h"
#include "fmgr.h"
#include "guard.h"
#include "host.h"
#include "lock_table.h"
#include "miscadmin.h"
#include "parser/analyze.h"
#include "prepared.h"
#include "replication/cached_rows.h"
#include "replication/standby.h"
#include "role.h"
#include "router/handler.h"
#include "router/stats.h"
#include "row_cache.h"
#include "settings.h"
#include "shared.h"
#include "slots.h"
#include "storage/ipc.h"
#include "tcop/utility.h"
#include "transaction.h"
#include "upsert.h"
#include "view.h"
#include "wal.h"
#include "worker.h"

PG_MODULE_MAGIC;

void _PG_init(void);

static shmem_request_hook_type previous_shmem_request = NULL;
static shmem_startup_hook_type previous_shmem_startup = NULL;
static post_parse_analyze_hook_type previous_post_parse_analyze = NULL;
static ExecutorStart_hook_type previous_executor_start = NULL;
static ProcessUtility_hook_type previous_utility = NULL;

static void shmem_request(void) {
	if (previous_shmem_request != NULL) {
		previous_shmem_request();
	}
	aipg_host_shmem_request();
	aipg_store_shmem_request();
	aipg_catalog_shmem_request();
	aipg_lock_table_shmem_request();
	aipg_prepared_shmem_request();
	aipg_durable_id_shmem_request();
	aipg_guard_shmem_request();
	aipg_role_shmem_request();
	aipg_slots_shmem_request();
	router_stats_shmem_request();
	aipg_row_cache_shmem_request();
}

static void shmem_startup(void) {
	if (previous_shmem_startup != NULL) {
		previous_shmem_startup();
	}
	aipg_store_shmem_startup();
	aipg_catalog_shmem_startup();
	aipg_lock_table_shmem_startup();
	aipg_prepared_shmem_startup();
	aipg_durable_id_shmem_startup();
	aipg_guard_shmem_startup();
	aipg_role_shmem_startup();
	aipg_slots_shmem_startup();
	router_stats_shmem_startup();
	aipg_row_cache_shmem_startup();
}

/* PostgreSQL has just taken the snapshot for analysis: the first moment to take ours, where a transaction has but one. */
static void post_parse_analyze(ParseState *state, Query *query, JumbleState *jumble) {
	if (previous_post_parse_analyze != NULL) {
		previous_post_parse_analyze(state, query, jumble);
	}
	aipg_view_transaction();
}

static void start_execution(QueryDesc *query, int flags) {
	if (previous_executor_start != NULL) {
		previous_executor_start(query, flags);
	} else {
		standard_ExecutorStart(query, flags);
	}
	aipg_view_started(query);
}

static void executor_start(QueryDesc *query, int flags) {
	Snapshot outer = aipg_view_start_begin(query);

	PG_TRY();
	{ start_execution(query, flags); }
	PG_FINALLY();
	{ aipg_view_start_end(outer); }
	PG_END_TRY();
}

/* What other statements mean for AiDb's part of the transaction. */
static void note_statement(Node *statement) {
	if (IsA(statement, VariableSetStmt) && castNode(VariableSetStmt, statement)->kind == VAR_SET_MULTI &&
		strcmp(castNode(VariableSetStmt, statement)->name, "TRANSACTION SNAPSHOT") == 0) {
		aipg_view_note_import();
	}
}

/* Of which PostgreSQL tells nobody. */
static bool finishes_prepared(const Node *statement) {
	return IsA(statement, TransactionStmt) &&
		   (((const TransactionStmt *)statement)->kind == TRANS_STMT_COMMIT_PREPARED ||
			((const TransactionStmt *)statement)->kind == TRANS_STMT_ROLLBACK_PREPARED);
}

static void utility(PlannedStmt *statement, const char *text, bool read_only_tree, ProcessUtilityContext context,
					ParamListInfo parameters, QueryEnvironment *environment, DestReceiver *destination,
					QueryCompletion *completion) {
	bool finishes = finishes_prepared(statement->utilityStmt);

	aipg_view_transaction();
	note_statement(statement->utilityStmt);
	if (previous_utility != NULL) {
		previous_utility(statement, text, read_only_tree, context, parameters, environment, destination, completion);
	} else {
		standard_ProcessUtility(statement, text, read_only_tree, context, parameters, environment, destination,
								completion);
	}
	if (finishes && aipg_store_is_ready()) {
		aipg_prepared_sweep();
	}
}

static void install_hooks(void) {
	previous_shmem_request = shmem_request_hook;
	shmem_request_hook = shmem_request;
	previous_shmem_startup = shmem_startup_hook;
	shmem_startup_hook = shmem_startup;
	previous_post_parse_analyze = post_parse_analyze_hook;
	post_parse_analyze_hook = post_parse_analyze;
	previous_executor_start = ExecutorStart_hook;
	ExecutorStart_hook = executor_start;
	previous_utility = ProcessUtility_hook;
	ProcessUtility_hook = utility;
}

void _PG_init(void) {
	if (!process_shared_preload_libraries_in_progress) {
		return; /* everything that needs shared memory says so when it is used */
	}
	aipg_settings_init();
	aipg_slots_init();
	install_hooks();
	aipg_transaction_init();
	aipg_wal_init();
	aipg_ddl_init();
	aipg_upsert_init();
	router_init();
	MarkGUCPrefixReserved("aidb");
	aipg_worker_register();
	aipg_standby_register();
	aipg_cached_rows_init();
}
