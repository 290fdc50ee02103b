#include "router/pipeline.h"

#include "access/xact.h"
#include "common/hashfn.h"
#include "role.h"
#include "router/connection.h"
#include "router/stats.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#define PROBE_TIMEOUT_MS 5000
#define DRAIN_TIMEOUT_MS 5000

/* Of the node's session, by a hash of its text. */
typedef struct prepared_statement {
	uint64 hash; /* the key */
	char *sql;
	char name[16];
} prepared_statement;

int router_node_timeout_ms = 10000;

/* ---- Errors ----------------------------------------------------------------------------------------------- */

static const char *field(const router_session *session, int code) {
	return PQresultErrorField(session->result, code);
}

static int sqlstate_of(const router_session *session) {
	const char *state = field(session, PG_DIAG_SQLSTATE);

	return state != NULL && strlen(state) == 5 ? MAKE_SQLSTATE(state[0], state[1], state[2], state[3], state[4])
											   : ERRCODE_CONNECTION_FAILURE;
}

/* Raises what the node has reported, as if it had come about here. */
static void pg_attribute_noreturn() report_result(const router_session *session, const char *sql) {
	const char *message = field(session, PG_DIAG_MESSAGE_PRIMARY);
	const char *detail = field(session, PG_DIAG_MESSAGE_DETAIL);
	const char *hint = field(session, PG_DIAG_MESSAGE_HINT);

	ereport(ERROR, (errcode(sqlstate_of(session)),
					errmsg_internal("%s", message != NULL ? message : PQresultErrorMessage(session->result)),
					detail != NULL ? errdetail_internal("%s", detail) : 0, hint != NULL ? errhint("%s", hint) : 0,
					errcontext("node \"%s\" of group \"%s\", with: %s", session->node, session->group, sql)));
}

void pg_attribute_noreturn() router_report_loss(const router_session *session, const char *reason) {
	if (session->commits) {
		ereport(ERROR, (errcode(ERRCODE_TRANSACTION_RESOLUTION_UNKNOWN),
						errmsg("the connection to node \"%s\" of group \"%s\" was lost during the commit",
							   session->node, session->group),
						errdetail("%s", reason),
						errhint("The transaction may have been committed or not; look before you repeat it.")));
	}
	ereport(ERROR, (errcode(ERRCODE_CONNECTION_FAILURE),
					errmsg("the connection to node \"%s\" of group \"%s\" was lost", session->node, session->group),
					errdetail("%s", reason), errhint("The transaction was not committed; it can be repeated.")));
}

/* ---- Entries ---------------------------------------------------------------------------------------------- */

static router_entry *head_of(router_session *session) {
	return dlist_is_empty(&session->entries) ? NULL
											 : dlist_container(router_entry, node, dlist_head_node(&session->entries));
}

/* A query's rows come one by one when this is said before its first result is asked for. */
static void prepare_head(router_session *session) {
	const router_entry *head = head_of(session);

	if (head != NULL && head->kind == ROUTER_ENTRY_QUERY) {
		(void)PQsetSingleRowMode(session->connection);
	}
}

router_entry *router_add_entry(router_session *session, router_entry_kind kind, const char *sql) {
	router_entry *added = MemoryContextAllocZero(session->context, sizeof(router_entry));

	added->kind = kind;
	added->sql = sql != NULL ? MemoryContextStrdup(session->context, sql) : NULL;
	added->level = GetCurrentTransactionNestLevel();
	dlist_push_tail(&session->entries, &added->node);
	if (session->entry_count++ == 0) {
		prepare_head(session);
	}
	return added;
}

static void drop_head(router_session *session) {
	router_entry *head = head_of(session);

	dlist_delete(&head->node);
	session->entry_count--;
	if (head->stream != NULL) {
		head->stream->session = NULL;
	}
	if (head->sql != NULL) {
		pfree(head->sql);
	}
	pfree(head);
	prepare_head(session);
}

/* The streams of (sub)transactions from this level on are gone, or about to. */
void router_detach_streams(router_session *session, int level) {
	dlist_iter at;

	dlist_foreach(at, &session->entries) {
		router_entry *each = dlist_container(router_entry, node, at.cur);

		if (each->level >= level) {
			each->stream = NULL;
			each->changed = NULL;
		}
	}
}

void router_forget_connection(router_session *session) {
	PQclear(session->result);
	session->result = NULL;
	if (session->waits != NULL) {
		FreeWaitEventSet(session->waits);
		session->waits = NULL;
	}
	PQfinish(session->connection);
	session->connection = NULL;
	dlist_init(&session->entries);
	session->entry_count = 0;
	session->prepared = NULL;
	session->prepared_count = 0;
	session->failed = false;
	session->draining = false;
	MemoryContextReset(session->context);
}

/* Whether all that was sent can be sent again: reads of which nothing has come. */
static bool is_repeatable(router_session *session) {
	dlist_iter at;

	if (session->level > 0 || session->commits) {
		return false;
	}
	dlist_foreach(at, &session->entries) {
		const router_entry *each = dlist_container(router_entry, node, at.cur);

		if (each->stream != NULL && each->stream->rows > 0) {
			return false;
		}
	}
	return true;
}

/* The connection is of no use any more. Raises unless the readers can try again. */
void router_lose(router_session *session, char *reason) {
	bool repeatable = session->draining || is_repeatable(session);
	dlist_iter at;

	dlist_foreach(at, &session->entries) {
		router_entry *each = dlist_container(router_entry, node, at.cur);

		if (each->stream != NULL) {
			each->stream->session = NULL;
			each->stream->lost = true;
		}
	}
	session->broken = session->level > 0;
	router_count(ROUTER_LOSSES);
	if (session->is_reader) {
		session->avoid_until = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), ROUTER_AVOID_MS);
	}
	router_forget_connection(session);
	router_map_forget();
	if (!repeatable) {
		router_report_loss(session, reason);
	}
}

/* ---- Sending ---------------------------------------------------------------------------------------------- */

static void check_sent(router_session *session, int sent) {
	if (sent != 1) {
		router_lose(session, router_connection_error(session->connection));
		router_report_loss(session, "it could not be written to");
	}
}

void router_send_command(router_session *session, const char *sql) {
	check_sent(session, PQsendQueryParams(session->connection, sql, 0, NULL, NULL, NULL, NULL, 0));
	router_add_entry(session, ROUTER_ENTRY_COMMAND, sql);
}

void router_send_sync(router_session *session) {
	check_sent(session, PQpipelineSync(session->connection));
	router_add_entry(session, ROUTER_ENTRY_SYNC, NULL)->begun_us = router_now_us();
	if (PQflush(session->connection) < 0) {
		router_lose(session, router_connection_error(session->connection));
	}
}

static uint64 hash_of(const char *sql) {
	return hash_bytes_extended((const unsigned char *)sql, (int)strlen(sql), 0);
}

static void forget_prepared(router_session *session, const char *sql) {
	uint64 hash = hash_of(sql);

	(void)hash_search(session->prepared, &hash, HASH_REMOVE, NULL);
}

/* The name under which the statement is prepared on the node; if need be it is, in front of what is sent next. NULL: another
 * statement has the same hash. */
static const char *name_of(router_session *session, const router_statement *statement) {
	HASHCTL control = {.keysize = sizeof(uint64), .entrysize = sizeof(prepared_statement), .hcxt = session->context};
	uint64 hash = hash_of(statement->sql);
	prepared_statement *prepared;
	bool found;

	if (session->prepared == NULL) {
		session->prepared = hash_create("aidb router statements", 64, &control, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	}
	prepared = hash_search(session->prepared, &hash, HASH_ENTER, &found);
	if (!found) {
		prepared->sql = MemoryContextStrdup(session->context, statement->sql);
		snprintf(prepared->name, sizeof(prepared->name), "r%d", session->prepared_count++);
		check_sent(session, PQsendPrepare(session->connection, prepared->name, statement->sql, statement->count,
										  statement->types));
		router_add_entry(session, ROUTER_ENTRY_COMMAND, statement->sql)->prepares = true;
	}
	return strcmp(prepared->sql, statement->sql) == 0 ? prepared->name : NULL;
}

router_entry *router_send_statement(router_session *session, const router_statement *statement,
									router_entry_kind kind) {
	const char *name = statement->prepare ? name_of(session, statement) : NULL;

	if (name != NULL) {
		check_sent(session,
				   PQsendQueryPrepared(session->connection, name, statement->count, statement->values, NULL, NULL, 0));
	} else {
		check_sent(session, PQsendQueryParams(session->connection, statement->sql, statement->count, statement->types,
											  statement->values, NULL, NULL, 0));
	}
	router_count(ROUTER_STATEMENTS);
	return router_add_entry(session, kind, statement->sql);
}

/* The node's transaction gets as deep as the one here. */
void router_begin(router_session *session) {
	int level = GetCurrentTransactionNestLevel();

	if (session->level == 0) {
		router_send_command(session, IsolationIsSerializable()     ? "BEGIN ISOLATION LEVEL SERIALIZABLE"
									 : IsolationUsesXactSnapshot() ? "BEGIN ISOLATION LEVEL REPEATABLE READ"
																   : "BEGIN ISOLATION LEVEL READ COMMITTED");
		session->level = 1;
	}
	while (session->level < level) {
		router_send_command(session, psprintf("SAVEPOINT aidb_%d", session->level + 1));
		session->level++;
	}
}

/* ---- Receiving -------------------------------------------------------------------------------------------- */

/* An error of which another attempt may not hear: the node is not the primary (any more), or is being shut down. */
static bool is_about_node(router_session *session, int sqlstate) {
	if (session->is_reader &&
		(sqlstate == ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE || sqlstate == ERRCODE_UNDEFINED_TABLE)) {
		return true; /* a replica that is not as far */
	}
	if (sqlstate == AIPG_ERRCODE_STALE_MAP) {
		return session->is_reader || is_repeatable(session);
	}
	return sqlstate == AIPG_ERRCODE_WRONG_EPOCH || sqlstate == ERRCODE_ADMIN_SHUTDOWN ||
		   sqlstate == ERRCODE_CRASH_SHUTDOWN || sqlstate == ERRCODE_CANNOT_CONNECT_NOW ||
		   sqlstate == ERRCODE_CONNECTION_FAILURE;
}

static void take_error(router_session *session, const char *sql) {
	session->failed = true;
	if (is_about_node(session, sqlstate_of(session))) {
		router_lose(session, pchomp(PQresultErrorMessage(session->result)));
	} else if (!session->draining) {
		if (sqlstate_of(session) == AIPG_ERRCODE_STALE_MAP) {
			router_map_forget();
			router_map_raise_moved(field(session, PG_DIAG_MESSAGE_PRIMARY));
		}
		report_result(session, sql != NULL ? sql : "");
	}
}

/* The statement at the head is over, with this result. What libpq says to that, before anything else is sent, is NULL. */
static void take_end(router_session *session, ExecStatusType status) {
	router_entry *head = head_of(session);
	char *sql = head->sql != NULL ? pstrdup(head->sql) : NULL;
	bool error = status != PGRES_COMMAND_OK && status != PGRES_TUPLES_OK && status != PGRES_PIPELINE_ABORTED;

	PQclear(PQgetResult(session->connection));
	if (status == PGRES_COMMAND_OK && head->changed != NULL) {
		*head->changed += strtoll(PQcmdTuples(session->result), NULL, 10);
	}
	if (head->prepares && status != PGRES_COMMAND_OK) {
		forget_prepared(session, head->sql);
	}
	if (head->kind != ROUTER_ENTRY_SYNC) { /* else it was the commit that failed, and the sync is still to come */
		if (error && is_about_node(session, sqlstate_of(session))) {
			take_error(session, sql); /* as long as its reader is known */
			return;
		}
		drop_head(session);
	}
	if (error) {
		take_error(session, sql);
	}
}

/* Takes in what is there, without waiting; true when there was something. */
bool router_take_in(router_session *session) {
	ExecStatusType status;
	router_entry *head = head_of(session);

	if (session->connection == NULL || head == NULL || PQisBusy(session->connection) != 0) {
		return false;
	}
	PQclear(session->result);
	session->result = PQgetResult(session->connection);
	if (session->result == NULL) {
		router_lose(session, pstrdup("Its answers have come out of step."));
		return true;
	}
	status = PQresultStatus(session->result);
	if (status == PGRES_PIPELINE_SYNC) {
		session->failed = false;
		router_count_round_trip(head->begun_us, session->is_reader);
		drop_head(session);
	} else if (status != PGRES_SINGLE_TUPLE) {
		take_end(session, status);
	} else if (head->stream != NULL) {
		head->stream->rows++;
		head->stream->deliver(head->stream, session->result);
	}
	return true;
}

/* Waits until there is something to be taken in, or the connection is lost. */
void router_await_input(router_session *session) {
	TimestampTz begun = GetCurrentTimestamp();

	while (session->connection != NULL && PQisBusy(session->connection) != 0) {
		if (!router_connection_wait(session->connection, session->waits, router_node_timeout_ms)) {
			router_lose(session, router_connection_error(session->connection));
		} else if (TimestampDifferenceExceeds(begun, GetCurrentTimestamp(), router_node_timeout_ms) &&
				   PQisBusy(session->connection) != 0) {
			if (!router_probe(session->conninfo, PROBE_TIMEOUT_MS)) {
				router_lose(session,
							psprintf("The node has not answered for %d ms, nor does it accept another connection.",
									 router_node_timeout_ms));
			}
			begun = GetCurrentTimestamp();
		}
	}
}

void router_receive(router_session *session) {
	router_await_input(session);
	(void)router_take_in(session);
}

void router_receive_all(router_session *session) {
	while (session->connection != NULL && session->entry_count > 0) {
		router_receive(session);
	}
}

/* Whether a write is without an answer. */
static bool awaits_commands(router_session *session) {
	dlist_iter at;

	dlist_foreach(at, &session->entries) {
		if (dlist_container(router_entry, node, at.cur)->kind == ROUTER_ENTRY_COMMAND) {
			return true;
		}
	}
	return false;
}

void router_receive_commands(router_session *session) {
	while (session->connection != NULL && awaits_commands(session)) {
		router_receive(session);
	}
}

/* What an aborted transaction has left. */
void router_drain(router_session *session) {
	TimestampTz deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), DRAIN_TIMEOUT_MS);

	while (session->connection != NULL && session->entry_count > 0) {
		if (!router_take_in(session) &&
			(!router_connection_wait(session->connection, session->waits, DRAIN_TIMEOUT_MS) ||
			 GetCurrentTimestamp() > deadline)) {
			router_forget_connection(session);
		}
	}
	session->draining = false;
}

/* ---- Settings --------------------------------------------------------------------------------------------- */

void router_pipeline_init(void) {
	DefineCustomIntVariable("aidb.node_timeout", "For how long a node may say nothing before it is looked after.",
							"When it does not accept another connection either, the statement fails.",
							&router_node_timeout_ms, 10000, 100, PG_INT32_MAX, PGC_USERSET, GUC_UNIT_MS, NULL, NULL,
							NULL);
}
