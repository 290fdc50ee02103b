#include "router/session.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "common/hashfn.h"
#include "lib/ilist.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "role.h"
#include "router/connection.h"
#include "storage/latch.h"
#include "utils/guc.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#define CONNECT_TIMEOUT_MS 5000
#define PROBE_TIMEOUT_MS 5000
#define RETRY_PAUSE_MS 50
#define DRAIN_TIMEOUT_MS 5000
#define MAX_PREPARED 256         /* statements of a session; with more, the connection is made anew */
#define MAX_QUEUED_BYTES 0x40000 /* what waits to be sent */
#define TOKEN_BYTES 48
#define AVOID_MS 2000      /* how long a replica that was of no use is not asked */
#define MAX_OUTSTANDING 64 /* statements without an answer, while more are queued */

typedef enum entry_kind { ENTRY_COMMAND, ENTRY_QUERY, ENTRY_SYNC } entry_kind;

/* What was sent and is not answered yet. */
typedef struct entry {
	dlist_node node;
	entry_kind kind;
	char *sql;             /* for error messages */
	router_stream *stream; /* of a query; NULL: its rows are not wanted any more */
	int level;             /* of nested transactions, in which the stream was opened */
	int64 *changed;        /* NULL, or counts the rows */
	bool prepares;         /* it prepares a statement */
} entry;

/* Of the node's session, by a hash of its text. */
typedef struct prepared_statement {
	uint64 hash; /* the key */
	char *sql;
	char name[16];
} prepared_statement;

struct router_session {
	int group_id;
	int64 epoch;
	char group[NAMEDATALEN];
	char node[NAMEDATALEN];
	char *conninfo;

	PGconn *connection;    /* NULL: none */
	WaitEventSet *waits;   /* for it */
	MemoryContext context; /* lives as long as the connection */
	HTAB *prepared;
	int prepared_count;
	dlist_head entries;
	int entry_count;
	PGresult *result; /* the last that came; kept until the next, since who looks at it may raise */

	int level;               /* nested transactions that the node has: 0 none, 1 BEGIN, 2 and more savepoints */
	bool failed;             /* the node has reported an error, and skips what else was sent */
	bool draining;           /* a transaction was aborted: answers to come mean nothing */
	bool broken;             /* the connection was lost within the transaction */
	bool wrote;              /* this transaction */
	bool is_reader;          /* of a replica */
	TimestampTz avoid_until; /* a replica that was of no use */
	char token[TOKEN_BYTES]; /* the last commit of this process at the primary; at a replica, what it waits for */
	router_stream token_stream;
	bool read_here;       /* at the primary, after the last commit or token */
	bool commits;         /* what is sent commits by itself: without an answer nobody knows */
	char prepared_as[96]; /* the remote transaction is prepared under this name; empty: it is not */

	router_write_queue *queue;
	int queue_level; /* of nested transactions, in which it was filled */
};

typedef enum multi_group { MULTI_GROUP_REFUSE, MULTI_GROUP_SEPARATELY } multi_group;

static const struct config_enum_entry multi_group_names[] = {
	{"refuse", MULTI_GROUP_REFUSE, false},
	{"separately", MULTI_GROUP_SEPARATELY, false},
	{NULL, 0, false},
};

typedef enum read_from { READ_FROM_PRIMARY, READ_FROM_STANDBY, READ_FROM_CACHE } read_from;

static const struct config_enum_entry read_from_names[] = {
	{"primary", READ_FROM_PRIMARY, false},
	{"standby", READ_FROM_STANDBY, false},
	{"cache", READ_FROM_CACHE, false},
	{NULL, 0, false},
};

static List *sessions; /* in TopMemoryContext */
static int reads_from = READ_FROM_PRIMARY;
static int failover_timeout_ms = 15000;
static int node_timeout_ms = 10000;
static int multi_group_writes = MULTI_GROUP_REFUSE;
static bool two_phases;

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

static void pg_attribute_noreturn() report_loss(const router_session *session, const char *reason) {
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

static entry *head_of(router_session *session) {
	return dlist_is_empty(&session->entries) ? NULL : dlist_container(entry, node, dlist_head_node(&session->entries));
}

/* A query's rows come one by one when this is said before its first result is asked for. */
static void prepare_head(router_session *session) {
	const entry *head = head_of(session);

	if (head != NULL && head->kind == ENTRY_QUERY) {
		(void)PQsetSingleRowMode(session->connection);
	}
}

static entry *add_entry(router_session *session, entry_kind kind, const char *sql) {
	entry *added = MemoryContextAllocZero(session->context, sizeof(entry));

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
	entry *head = head_of(session);

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
static void detach_streams(router_session *session, int level) {
	dlist_iter at;

	dlist_foreach(at, &session->entries) {
		entry *each = dlist_container(entry, node, at.cur);

		if (each->level >= level) {
			each->stream = NULL;
			each->changed = NULL;
		}
	}
}

static void forget_connection(router_session *session) {
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
		const entry *each = dlist_container(entry, node, at.cur);

		if (each->stream != NULL && each->stream->rows > 0) {
			return false;
		}
	}
	return true;
}

/* The connection is of no use any more. Raises unless the readers can try again. */
static void lose(router_session *session, char *reason) {
	bool repeatable = session->draining || is_repeatable(session);
	dlist_iter at;

	dlist_foreach(at, &session->entries) {
		entry *each = dlist_container(entry, node, at.cur);

		if (each->stream != NULL) {
			each->stream->session = NULL;
			each->stream->lost = true;
		}
	}
	session->broken = session->level > 0;
	if (session->is_reader) {
		session->avoid_until = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), AVOID_MS);
	}
	forget_connection(session);
	router_map_forget();
	if (!repeatable) {
		report_loss(session, reason);
	}
}

/* ---- Sending ---------------------------------------------------------------------------------------------- */

static void check_sent(router_session *session, int sent) {
	if (sent != 1) {
		lose(session, router_connection_error(session->connection));
		report_loss(session, "it could not be written to");
	}
}

static void send_command(router_session *session, const char *sql) {
	check_sent(session, PQsendQueryParams(session->connection, sql, 0, NULL, NULL, NULL, NULL, 0));
	add_entry(session, ENTRY_COMMAND, sql);
}

static void send_sync(router_session *session) {
	check_sent(session, PQpipelineSync(session->connection));
	add_entry(session, ENTRY_SYNC, NULL);
	if (PQflush(session->connection) < 0) {
		lose(session, router_connection_error(session->connection));
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
		add_entry(session, ENTRY_COMMAND, statement->sql)->prepares = true;
	}
	return strcmp(prepared->sql, statement->sql) == 0 ? prepared->name : NULL;
}

static entry *send_statement(router_session *session, const router_statement *statement, entry_kind kind) {
	const char *name = statement->prepare ? name_of(session, statement) : NULL;

	if (name != NULL) {
		check_sent(session,
				   PQsendQueryPrepared(session->connection, name, statement->count, statement->values, NULL, NULL, 0));
	} else {
		check_sent(session, PQsendQueryParams(session->connection, statement->sql, statement->count, statement->types,
											  statement->values, NULL, NULL, 0));
	}
	return add_entry(session, kind, statement->sql);
}

/* The node's transaction gets as deep as the one here. */
static void begin(router_session *session) {
	int level = GetCurrentTransactionNestLevel();

	if (session->level == 0) {
		send_command(session, IsolationIsSerializable()     ? "BEGIN ISOLATION LEVEL SERIALIZABLE"
							  : IsolationUsesXactSnapshot() ? "BEGIN ISOLATION LEVEL REPEATABLE READ"
															: "BEGIN ISOLATION LEVEL READ COMMITTED");
		session->level = 1;
	}
	while (session->level < level) {
		send_command(session, psprintf("SAVEPOINT aidb_%d", session->level + 1));
		session->level++;
	}
}

/* ---- Receiving -------------------------------------------------------------------------------------------- */

/* An error of which another attempt may not hear: the node is not the primary (any more), or is being shut down. */
static bool is_about_node(const router_session *session, int sqlstate) {
	if (session->is_reader &&
		(sqlstate == ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE || sqlstate == ERRCODE_UNDEFINED_TABLE)) {
		return true; /* a replica that is not as far */
	}
	return sqlstate == AIPG_ERRCODE_WRONG_EPOCH || sqlstate == ERRCODE_ADMIN_SHUTDOWN ||
		   sqlstate == ERRCODE_CRASH_SHUTDOWN || sqlstate == ERRCODE_CANNOT_CONNECT_NOW ||
		   sqlstate == ERRCODE_CONNECTION_FAILURE;
}

static void take_error(router_session *session, const char *sql) {
	session->failed = true;
	if (is_about_node(session, sqlstate_of(session))) {
		lose(session, pchomp(PQresultErrorMessage(session->result)));
	} else if (!session->draining) {
		report_result(session, sql != NULL ? sql : "");
	}
}

/* The statement at the head is over, with this result. What libpq says to that, before anything else is sent, is NULL. */
static void take_end(router_session *session, ExecStatusType status) {
	entry *head = head_of(session);
	char *sql = head->sql != NULL ? pstrdup(head->sql) : NULL;
	bool error = status != PGRES_COMMAND_OK && status != PGRES_TUPLES_OK && status != PGRES_PIPELINE_ABORTED;

	PQclear(PQgetResult(session->connection));
	if (status == PGRES_COMMAND_OK && head->changed != NULL) {
		*head->changed += strtoll(PQcmdTuples(session->result), NULL, 10);
	}
	if (head->prepares && status != PGRES_COMMAND_OK) {
		forget_prepared(session, head->sql);
	}
	if (head->kind != ENTRY_SYNC) { /* else it was the commit that failed, and the sync is still to come */
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
static bool take_in(router_session *session) {
	ExecStatusType status;
	entry *head = head_of(session);

	if (session->connection == NULL || head == NULL || PQisBusy(session->connection) != 0) {
		return false;
	}
	PQclear(session->result);
	session->result = PQgetResult(session->connection);
	if (session->result == NULL) {
		lose(session, pstrdup("Its answers have come out of step."));
		return true;
	}
	status = PQresultStatus(session->result);
	if (status == PGRES_PIPELINE_SYNC) {
		session->failed = false;
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
static void await_input(router_session *session) {
	TimestampTz begun = GetCurrentTimestamp();

	while (session->connection != NULL && PQisBusy(session->connection) != 0) {
		if (!router_connection_wait(session->connection, session->waits, node_timeout_ms)) {
			lose(session, router_connection_error(session->connection));
		} else if (TimestampDifferenceExceeds(begun, GetCurrentTimestamp(), node_timeout_ms) &&
				   PQisBusy(session->connection) != 0) {
			if (!router_probe(session->conninfo, PROBE_TIMEOUT_MS)) {
				lose(session, psprintf("The node has not answered for %d ms, nor does it accept another connection.",
									   node_timeout_ms));
			}
			begun = GetCurrentTimestamp();
		}
	}
}

static void receive(router_session *session) {
	await_input(session);
	(void)take_in(session);
}

static void receive_all(router_session *session) {
	while (session->connection != NULL && session->entry_count > 0) {
		receive(session);
	}
}

/* Whether a write is without an answer. */
static bool awaits_commands(router_session *session) {
	dlist_iter at;

	dlist_foreach(at, &session->entries) {
		if (dlist_container(entry, node, at.cur)->kind == ENTRY_COMMAND) {
			return true;
		}
	}
	return false;
}

static void receive_commands(router_session *session) {
	while (session->connection != NULL && awaits_commands(session)) {
		receive(session);
	}
}

/* What an aborted transaction has left. */
static void drain(router_session *session) {
	TimestampTz deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), DRAIN_TIMEOUT_MS);

	while (session->connection != NULL && session->entry_count > 0) {
		if (!take_in(session) && (!router_connection_wait(session->connection, session->waits, DRAIN_TIMEOUT_MS) ||
								  GetCurrentTimestamp() > deadline)) {
			forget_connection(session);
		}
	}
	session->draining = false;
}

/* ---- Opening ---------------------------------------------------------------------------------------------- */

/* With the primary of the group, or (a name) with one of its replicas. */
static router_session *find_session(int group_id, const char *reader) {
	MemoryContext caller;
	router_session *session;
	ListCell *cell;

	foreach(cell, sessions) {
		session = lfirst(cell);
		if (session->group_id == group_id && session->is_reader == (reader != NULL) &&
			(reader == NULL || strcmp(session->node, reader) == 0)) {
			return session;
		}
	}
	caller = MemoryContextSwitchTo(TopMemoryContext);
	session = palloc0(sizeof(router_session));
	session->group_id = group_id;
	session->is_reader = reader != NULL;
	session->context = AllocSetContextCreate(TopMemoryContext, "aidb router session", ALLOCSET_DEFAULT_SIZES);
	session->queue = router_write_queue_create(TopMemoryContext);
	dlist_init(&session->entries);
	sessions = lappend(sessions, session);
	MemoryContextSwitchTo(caller);
	return session;
}

static void set_group(router_session *session, const router_group *group) {
	char *former = session->conninfo;

	session->epoch = group->epoch;
	strlcpy(session->group, group->name, NAMEDATALEN);
	strlcpy(session->node, group->node, NAMEDATALEN);
	session->conninfo = MemoryContextStrdup(TopMemoryContext, group->conninfo);
	if (former != NULL) {
		pfree(former);
	}
}

static void pause_briefly(void) {
	(void)WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, RETRY_PAUSE_MS, PG_WAIT_EXTENSION);
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
}

/* Tries until the primary, whoever it is by then, can be reached. */
static void connect_session(router_session *session, const router_group *group) {
	TimestampTz deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), failover_timeout_ms);
	char *error = NULL;

	for (;;) {
		if (group == NULL) {
			ereport(ERROR, (errcode(ERRCODE_UNDEFINED_OBJECT),
							errmsg("group \"%s\" is not in the cluster any more", session->group)));
		}
		set_group(session, group);
		session->connection = router_connect(group, CONNECT_TIMEOUT_MS, &error);
		if (session->connection != NULL) {
			session->waits = router_connection_waits(session->connection, TopMemoryContext);
			return;
		}
		if (GetCurrentTimestamp() >= deadline) {
			ereport(
				ERROR,
				(errcode(ERRCODE_SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION),
				 errmsg("could not connect to node \"%s\", the primary of group \"%s\"", session->node, session->group),
				 errdetail_internal("%s", error),
				 errhint("Another node takes its place when one is in sync: see aidb.groups and aidb.events.")));
		}
		pause_briefly();
		router_map_forget();
		group = router_map_group(router_map_get(), session->group_id);
	}
}

/* Whether an idle connection is one to go on with. */
static bool is_usable(router_session *session, const router_group *group) {
	return session->epoch == group->epoch && strcmp(session->conninfo, group->conninfo) == 0 &&
		   session->prepared_count < MAX_PREPARED && !router_connection_is_dead(session->connection);
}

router_session *router_session_open(const router_group *group) {
	router_session *session = find_session(group->id, NULL);

	if (session->broken) {
		report_loss(session, "It was lost earlier in this transaction.");
	}
	if (session->draining) {
		drain(session);
	}
	if (session->connection != NULL && session->level == 0 && session->entry_count == 0 && !is_usable(session, group)) {
		forget_connection(session);
	}
	if (session->connection == NULL) {
		connect_session(session, group);
	}
	return session;
}

/* A replica to read from; NULL: there is none, or none that is of use now. */
static const router_reader *choose_reader(const router_group *group) {
	for (int i = 0; i < group->reader_count; i++) {
		const router_reader *reader = &group->readers[(MyProcPid + i) % group->reader_count];
		const router_session *session;

		if (reader->is_cache == (reads_from == READ_FROM_CACHE)) {
			session = find_session(group->id, reader->name);
			if (session->avoid_until <= GetCurrentTimestamp()) {
				return reader;
			}
		}
	}
	return NULL;
}

/* False when it cannot be reached. */
static bool connect_reader(router_session *session, const router_group *group, const router_reader *reader) {
	router_group as_group = *group;
	char *error;

	as_group.epoch = 0; /* it is not the primary, and not asked whether it is */
	as_group.conninfo = reader->conninfo;
	strlcpy(as_group.node, reader->name, NAMEDATALEN);
	if (session->draining) {
		drain(session);
	}
	if (session->connection != NULL && session->entry_count == 0 && !is_usable(session, &as_group)) {
		forget_connection(session);
	}
	if (session->connection == NULL) {
		set_group(session, &as_group);
		session->token[0] = '\0';
		session->connection = router_connect(&as_group, CONNECT_TIMEOUT_MS, &error);
		if (session->connection == NULL) {
			session->avoid_until = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), AVOID_MS);
			return false;
		}
		session->waits = router_connection_waits(session->connection, TopMemoryContext);
	}
	return true;
}

/* The replica is to wait for what this process has committed last. */
static void pass_token(router_session *reader, const router_session *primary) {
	if (strcmp(reader->token, primary->token) != 0) {
		strlcpy(reader->token, primary->token, TOKEN_BYTES);
		send_command(reader, psprintf("SET aidb.read_token = '%s'", reader->token));
	}
}

static void ask_for_token(router_session *session);

/* Before this process goes on reading at a replica: that must not be behind what it has read here. False: not now. */
static bool renew_token(const router_group *group, router_session *primary) {
	if (!primary->read_here) {
		return true;
	}
	if (primary->entry_count > 0) {
		return false; /* its rows are still coming */
	}
	router_session_open(group);
	ask_for_token(primary);
	receive_all(primary);
	primary->read_here = primary->token_stream.lost;
	return !primary->token_stream.lost;
}

router_session *router_session_open_reader(const router_group *group) {
	router_session *primary = find_session(group->id, NULL);
	const router_reader *reader = NULL;
	router_session *session;

	if (reads_from != READ_FROM_PRIMARY && !IsolationUsesXactSnapshot() && primary->level == 0 &&
		router_write_queue_is_empty(primary->queue)) {
		reader = choose_reader(group);
	}
	if (reader == NULL || !renew_token(group, primary)) {
		primary->read_here = true;
		return router_session_open(group);
	}
	session = find_session(group->id, reader->name);
	strlcpy(session->node, reader->name, NAMEDATALEN);
	if (!connect_reader(session, group, reader)) {
		return router_session_open_reader(group);
	}
	pass_token(session, primary);
	return session;
}

/* ---- Queries ---------------------------------------------------------------------------------------------- */

static void send_queue(router_session *session);

void router_query(router_session *session, const router_statement *statement, bool locks, router_stream *stream) {
	entry *query;

	send_queue(session);
	if (locks || IsolationUsesXactSnapshot() || session->level > 0) {
		begin(session);
	}
	query = send_statement(session, statement, ENTRY_QUERY);
	query->stream = stream;
	stream->session = session;
	stream->lost = false;
	stream->rows = 0;
	send_sync(session);
}

bool router_stream_poll(router_stream *stream) {
	router_session *session = stream->session;
	uint64 rows = stream->rows;

	while (stream->session != NULL && take_in(session)) {
		if (stream->rows != rows) {
			return true;
		}
	}
	return stream->session == NULL;
}

/* All sockets at once; true when the time is over. */
static bool wait_for_any(router_stream *const *streams, int count) {
	WaitEventSet *set = CreateWaitEventSet(CurrentMemoryContext, count + 2);
	WaitEvent happened = {0};
	int events;

	AddWaitEventToSet(set, WL_LATCH_SET, PGINVALID_SOCKET, MyLatch, NULL);
	AddWaitEventToSet(set, WL_EXIT_ON_PM_DEATH, PGINVALID_SOCKET, NULL, NULL);
	for (int i = 0; i < count; i++) {
		if (streams[i]->session != NULL) {
			PGconn *connection = streams[i]->session->connection;

			AddWaitEventToSet(set, WL_SOCKET_READABLE | (PQflush(connection) > 0 ? WL_SOCKET_WRITEABLE : 0),
							  PQsocket(connection), NULL, streams[i]);
		}
	}
	events = WaitEventSetWait(set, node_timeout_ms, &happened, 1, PG_WAIT_EXTENSION);
	FreeWaitEventSet(set);
	if ((happened.events & WL_LATCH_SET) != 0) {
		ResetLatch(MyLatch);
	}
	CHECK_FOR_INTERRUPTS();
	if ((happened.events & (WL_SOCKET_READABLE | WL_SOCKET_WRITEABLE)) != 0) {
		router_session *session = ((router_stream *)happened.user_data)->session;

		if (PQconsumeInput(session->connection) != 1) {
			lose(session, router_connection_error(session->connection));
		}
	}
	return events == 0;
}

void router_streams_wait(router_stream *const *streams, int count) {
	router_session *only = NULL;
	int waited_for = 0;

	for (int i = 0; i < count; i++) {
		if (streams[i]->session != NULL) {
			only = streams[i]->session;
			waited_for++;
		}
	}
	/* Who is silent for too long is looked after one by one. */
	if (waited_for == 1 || (waited_for > 1 && wait_for_any(streams, count))) {
		await_input(only);
	}
}

void router_retry(int group_id, TimestampTz since) {
	if (TimestampDifferenceExceeds(since, GetCurrentTimestamp(), failover_timeout_ms)) {
		report_loss(find_session(group_id, NULL), "No other node has taken its place in time.");
	}
	pause_briefly();
	router_map_forget();
}

/* Whether somebody still waits for something on this connection. */
static bool is_awaited(router_session *session) {
	dlist_iter at;

	dlist_foreach(at, &session->entries) {
		const entry *each = dlist_container(entry, node, at.cur);

		if (each->stream != NULL || each->kind == ENTRY_COMMAND) {
			return true;
		}
	}
	return false;
}

static void take_in_all(router_session *session) {
	while (take_in(session)) {}
}

void router_stream_close(router_stream *stream) {
	router_session *session = stream->session;
	dlist_iter at;

	if (session == NULL) {
		return;
	}
	dlist_foreach(at, &session->entries) {
		entry *each = dlist_container(entry, node, at.cur);

		if (each->stream == stream) {
			each->stream = NULL;
		}
	}
	stream->session = NULL;
	/* What is left may be much. A transaction has to read it, since it goes on with this connection. */
	take_in_all(session);
	if (session->entry_count > 0 && session->level == 0 && !is_awaited(session)) {
		if (!router_connection_is_dead(session->connection)) {
			take_in_all(session);
		}
		if (session->entry_count > 0) {
			forget_connection(session);
		}
	}
}

/* ---- Writes ----------------------------------------------------------------------------------------------- */

void router_session_check_write(router_session *session) {
	ListCell *cell;

	foreach(cell, sessions) {
		const router_session *other = lfirst(cell);

		if (other != session && other->wrote && multi_group_writes == MULTI_GROUP_REFUSE && !two_phases) {
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("a transaction can write to one group of the cluster only"),
					 errdetail("It has written to group \"%s\", and is about to write to group \"%s\".", other->group,
							   session->group),
					 errhint("Write rows of one shard key in a transaction. For a load that can be repeated, SET "
							 "aidb.multi_group_writes = separately: then each group's part commits for itself.")));
		}
	}
	session->wrote = true;
}

/* What a reader has closed is connected again; no transaction was on it. */
static void reconnect(router_session *session) {
	if (session->connection == NULL) {
		connect_session(session, router_map_group(router_map_get(), session->group_id));
	}
}

static void send_write(void *session, const router_statement *statement) {
	send_statement(session, statement, ENTRY_COMMAND);
}

static void send_queued(router_session *session) {
	router_write_queue_send(session->queue, send_write, session);
	send_sync(session);
	router_write_queue_clear(session->queue);
}

static void send_queue(router_session *session) {
	if (!router_write_queue_is_empty(session->queue)) {
		reconnect(session);
		begin(session);
		send_queued(session);
	}
}

int64 router_execute(router_session *session, const router_statement *statement) {
	int64 changed = 0;

	send_queue(session);
	reconnect(session);
	begin(session);
	send_statement(session, statement, ENTRY_COMMAND)->changed = &changed;
	send_sync(session);
	receive_commands(session);
	return changed;
}

void router_insert_later(router_session *session, const router_insert *insert, const char *const *values) {
	int level = GetCurrentTransactionNestLevel();

	if (session->queue_level != level) {
		send_queue(session);
	}
	session->queue_level = level;
	router_write_queue_add_row(session->queue, insert, values);
	if (router_write_queue_bytes(session->queue) > MAX_QUEUED_BYTES) {
		send_queue(session);
		while (session->entry_count > MAX_OUTSTANDING) {
			receive(session);
		}
	}
}

void router_command_alone(router_session *session, const char *sql) {
	session->commits = true;
	send_command(session, sql);
	send_sync(session);
	receive_all(session);
	session->commits = false;
}

void router_flush_all(void) {
	ListCell *cell;

	foreach(cell, sessions) {
		send_queue(lfirst(cell));
	}
	foreach(cell, sessions) {
		receive_commands(lfirst(cell));
	}
}

bool router_may_defer(void) {
	return !IsTransactionBlock() && GetCurrentTransactionNestLevel() == 1;
}

/* ---- The end of the transaction --------------------------------------------------------------------------- */

void router_commit_in_two_phases(void) {
	two_phases = true;
	(void)GetTopTransactionId(); /* its fate decides, also after a crash */
	ForceSyncCommit();
}

static void note_token(router_stream *stream, const PGresult *row) {
	strlcpy(stream->session->token, PQgetvalue(row, 0, 0), TOKEN_BYTES);
}

/* What a later read of this process on a replica has to wait for. */
static void ask_for_token(router_session *session) {
	static const router_statement statement = {.sql = "SELECT aidb.token()", .prepare = true};

	session->token_stream = (router_stream){.session = session, .deliver = note_token};
	send_statement(session, &statement, ENTRY_QUERY)->stream = &session->token_stream;
	send_sync(session);
}

static void ask_after_commit(router_session *session) {
	if (reads_from != READ_FROM_PRIMARY && session->wrote) {
		ask_for_token(session);
	}
}

/* The only one that has anything to commit, and has not begun yet. */
static router_session *only_writer(void) {
	router_session *only = NULL;
	ListCell *cell;

	foreach(cell, sessions) {
		router_session *session = lfirst(cell);

		if (!router_write_queue_is_empty(session->queue) || session->level > 0) {
			if (only != NULL || session->level > 0) {
				return NULL;
			}
			only = session;
		}
	}
	return only;
}

static void send_commit(router_session *session) {
	session->commits = session->wrote;
	send_command(session, "COMMIT");
}

static void end_on_all(void (*send)(router_session *session)) {
	ListCell *cell;

	foreach(cell, sessions) {
		router_session *session = lfirst(cell);

		if (session->level > 0) {
			send(session);
			send_sync(session);
			if (send == send_commit) {
				ask_after_commit(session);
			}
		}
	}
	foreach(cell, sessions) {
		router_session *session = lfirst(cell);

		if (session->level > 0) {
			receive_all(session);
			session->level = 0;
			session->commits = false;
		}
	}
}

char *router_prepared_prefix(void) {
	return psprintf("aidb:" UINT64_FORMAT ":%u:", GetSystemIdentifier(), MyDatabaseId);
}

static void send_prepare(router_session *session) {
	snprintf(session->prepared_as, sizeof(session->prepared_as), "%s" UINT64_FORMAT ":%d", router_prepared_prefix(),
			 U64FromFullTransactionId(GetTopFullTransactionId()), session->group_id);
	send_command(session, psprintf("PREPARE TRANSACTION '%s'", session->prepared_as));
}

static void check_broken(void) {
	ListCell *cell;

	foreach(cell, sessions) {
		const router_session *session = lfirst(cell);

		if (session->broken) {
			report_loss(session, "It was lost earlier in this transaction.");
		}
	}
}

/* All that can fail is done before the local commit, which nothing can stop any more. */
static void pre_commit(void) {
	router_session *only = only_writer();

	check_broken();
	if (only != NULL && !two_phases && !IsolationIsSerializable()) {
		/* One round trip: what is sent up to a sync is a transaction of its own. */
		reconnect(only);
		only->commits = true;
		send_queued(only);
		ask_after_commit(only);
		receive_all(only);
		only->commits = false;
		return;
	}
	router_flush_all();
	end_on_all(two_phases ? send_prepare : send_commit);
}

/* "COMMIT PREPARED" or "ROLLBACK PREPARED". Never raises: what cannot be reached is finished later. */
static void finish_prepared(router_session *session, const char *command) {
	MemoryContext caller = CurrentMemoryContext;

	PG_TRY();
	{
		if (session->connection != NULL) {
			send_command(session, psprintf("%s '%s'", command, session->prepared_as));
			send_sync(session);
			receive_all(session);
		}
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(caller);
		FlushErrorState();
		forget_connection(session);
		ereport(WARNING, (errmsg("group \"%s\" has not confirmed the end of the transaction", session->group),
						  errhint("aidb.finish_transactions() ends it there; the coordinator calls that by itself.")));
	}
	PG_END_TRY();
	session->prepared_as[0] = '\0';
}

/* Whether the node is, or may be, at work on something. */
static bool is_busy(router_session *session) {
	dlist_iter at;

	dlist_foreach(at, &session->entries) {
		if (dlist_container(entry, node, at.cur)->kind != ENTRY_SYNC) {
			return true;
		}
	}
	return false;
}

/* Without waiting: the node's answer is taken in before the connection is used again. */
static void roll_back(router_session *session) {
	bool busy = is_busy(session) && !session->failed;

	router_write_queue_clear(session->queue);
	detach_streams(session, 0);
	if (session->connection == NULL) {
		return;
	}
	if (busy || PQstatus(session->connection) != CONNECTION_OK) {
		forget_connection(session);
	} else if (session->level > 0) {
		if (PQsendQueryParams(session->connection, "ROLLBACK", 0, NULL, NULL, NULL, NULL, 0) != 1 ||
			PQpipelineSync(session->connection) != 1 || PQflush(session->connection) < 0) {
			forget_connection(session);
		} else {
			add_entry(session, ENTRY_COMMAND, "ROLLBACK");
			add_entry(session, ENTRY_SYNC, NULL);
		}
	}
	session->draining = session->entry_count > 0;
}

static void end_transaction(bool committed) {
	ListCell *cell;

	foreach(cell, sessions) {
		router_session *session = lfirst(cell);

		if (!committed && (session->level > 0 || session->prepared_as[0] == '\0')) {
			roll_back(session);
			session->prepared_as[0] = '\0'; /* if it is, it is found later */
		}
		if (session->prepared_as[0] != '\0') {
			finish_prepared(session, committed ? "COMMIT PREPARED" : "ROLLBACK PREPARED");
		}
		session->level = 0;
		session->broken = false;
		session->wrote = false;
		session->commits = false;
	}
	two_phases = false;
}

static void refuse_prepare(void) {
	ListCell *cell;

	foreach(cell, sessions) {
		const router_session *session = lfirst(cell);

		if (session->level > 0 || !router_write_queue_is_empty(session->queue)) {
			ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
							errmsg("cannot PREPARE a transaction that has used tables of the cluster")));
		}
	}
}

static void on_transaction(XactEvent event, void *argument) {
	(void)argument;
	switch (event) {
	case XACT_EVENT_PRE_COMMIT:
		pre_commit();
		break;
	case XACT_EVENT_PRE_PREPARE:
		refuse_prepare();
		break;
	case XACT_EVENT_COMMIT:
		end_transaction(true);
		break;
	case XACT_EVENT_ABORT:
		end_transaction(false);
		break;
	default:
		break;
	}
}

static void release_savepoint(router_session *session, int level) {
	if (session->queue_level == level) {
		session->queue_level = level - 1;
	}
	if (session->level == level) {
		send_queue(session);
		send_command(session, psprintf("RELEASE SAVEPOINT aidb_%d", level));
		send_sync(session);
		session->level = level - 1;
	}
}

static void roll_back_to_savepoint(router_session *session, int level) {
	detach_streams(session, level);
	if (session->queue_level == level) {
		router_write_queue_clear(session->queue);
	}
	if (session->level != level) {
		return;
	}
	session->level = level - 1;
	if (session->connection != NULL && PQstatus(session->connection) == CONNECTION_OK) {
		char *sql = psprintf("ROLLBACK TO SAVEPOINT aidb_%d", level);
		bool sent = PQsendQueryParams(session->connection, sql, 0, NULL, NULL, NULL, NULL, 0) == 1 &&
					PQpipelineSync(session->connection) == 1;

		if (sent) {
			add_entry(session, ENTRY_COMMAND, sql);
			add_entry(session, ENTRY_SYNC, NULL);
			return;
		}
	}
	session->broken = true;
}

static void on_subtransaction(SubXactEvent event, SubTransactionId id, SubTransactionId parent, void *argument) {
	int level = GetCurrentTransactionNestLevel();
	ListCell *cell;

	(void)id;
	(void)parent;
	(void)argument;
	foreach(cell, sessions) {
		if (event == SUBXACT_EVENT_PRE_COMMIT_SUB) {
			release_savepoint(lfirst(cell), level);
		} else if (event == SUBXACT_EVENT_ABORT_SUB) {
			roll_back_to_savepoint(lfirst(cell), level);
		}
	}
}

/* ---- Settings --------------------------------------------------------------------------------------------- */

void router_session_init(void) {
	DefineCustomIntVariable("aidb.failover_timeout", "How long a statement waits for a group whose primary is away.",
							"It goes on when another node has taken its place.", &failover_timeout_ms, 15000, 0,
							PG_INT32_MAX, PGC_USERSET, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomIntVariable("aidb.node_timeout", "For how long a node may say nothing before it is looked after.",
							"When it does not accept another connection either, the statement fails.", &node_timeout_ms,
							10000, 100, PG_INT32_MAX, PGC_USERSET, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomEnumVariable(
		"aidb.multi_group_writes", "What happens to a transaction that writes to several groups.",
		"\"refuse\": it fails; \"separately\": each group's part commits for itself, so that after "
		"a failure some may be there and others not.",
		&multi_group_writes, MULTI_GROUP_REFUSE, multi_group_names, PGC_USERSET, 0, NULL, NULL, NULL);
	DefineCustomEnumVariable(
		"aidb.read_from", "Where tables of the cluster are read.",
		"\"standby\" and \"cache\": at a replica of each group, where there is one; it sees what this "
		"session has committed, and otherwise may be behind.",
		&reads_from, READ_FROM_PRIMARY, read_from_names, PGC_USERSET, 0, NULL, NULL, NULL);
	RegisterXactCallback(on_transaction, NULL);
	RegisterSubXactCallback(on_subtransaction, NULL);
}
