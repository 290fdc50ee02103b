#include "router/session.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "router/connection.h"
#include "router/pipeline.h"
#include "storage/latch.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#define CONNECT_TIMEOUT_MS 5000
#define RETRY_PAUSE_MS 50
#define MAX_PREPARED 256         /* statements of a session; with more, the connection is made anew */
#define MAX_QUEUED_BYTES 0x40000 /* what waits to be sent */
#define MAX_OUTSTANDING 64       /* statements without an answer, while more are queued */

typedef enum read_from { READ_FROM_PRIMARY, READ_FROM_STANDBY, READ_FROM_CACHE } read_from;

static const struct config_enum_entry read_from_names[] = {
	{"primary", READ_FROM_PRIMARY, false},
	{"standby", READ_FROM_STANDBY, false},
	{"cache", READ_FROM_CACHE, false},
	{NULL, 0, false},
};

List *router_sessions;
static int reads_from = READ_FROM_PRIMARY;
static int failover_timeout_ms = 15000;

/* ---- Opening ---------------------------------------------------------------------------------------------- */

/* With the primary of the group, or (a name) with one of its replicas. */
static router_session *find_session(int group_id, const char *reader) {
	MemoryContext caller;
	router_session *session;
	ListCell *cell;

	foreach(cell, router_sessions) {
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
	router_sessions = lappend(router_sessions, session);
	MemoryContextSwitchTo(caller);
	return session;
}

static void set_group(router_session *session, const router_group *group) {
	char *former = session->conninfo;

	session->epoch = group->epoch;
	session->slots = group->slots;
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

/* Its scans go through other slots than the group has now. */
static bool is_of_other_slots(const router_session *session, const router_group *group) {
	return memcmp(&session->slots, &group->slots, sizeof(session->slots)) != 0;
}

/* Whether an idle connection is one to go on with. */
static bool is_usable(router_session *session, const router_group *group) {
	return session->epoch == group->epoch && !is_of_other_slots(session, group) &&
		   strcmp(session->conninfo, group->conninfo) == 0 && session->prepared_count < MAX_PREPARED &&
		   !router_connection_is_dead(session->connection);
}

router_session *router_session_open(const router_group *group) {
	router_session *session = find_session(group->id, NULL);

	if (session->broken) {
		router_report_loss(session, "It was lost earlier in this transaction.");
	}
	if (session->draining) {
		router_drain(session);
	}
	if (session->connection != NULL && session->level == 0 && session->entry_count == 0 && !is_usable(session, group)) {
		router_forget_connection(session);
	}
	if (session->connection == NULL) {
		connect_session(session, group);
	} else if (is_of_other_slots(session, group)) {
		router_map_raise_moved(NULL);
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
		router_drain(session);
	}
	if (session->connection != NULL && session->entry_count == 0 && !is_usable(session, &as_group)) {
		router_forget_connection(session);
	}
	if (session->connection == NULL) {
		set_group(session, &as_group);
		session->token[0] = '\0';
		session->connection = router_connect(&as_group, CONNECT_TIMEOUT_MS, &error);
		if (session->connection == NULL) {
			session->avoid_until = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), ROUTER_AVOID_MS);
			return false;
		}
		session->waits = router_connection_waits(session->connection, TopMemoryContext);
	} else if (is_of_other_slots(session, group)) {
		router_map_raise_moved(NULL);
	}
	return true;
}

static void note_token(router_stream *stream, const PGresult *row) {
	strlcpy(stream->session->token, PQgetvalue(row, 0, 0), ROUTER_TOKEN_BYTES);
}

/* What a later read of this process on a replica has to wait for. */
static void ask_for_token(router_session *session) {
	static const router_statement statement = {.sql = "SELECT aidb.token()", .prepare = true};

	session->token_stream = (router_stream){.session = session, .deliver = note_token};
	router_send_statement(session, &statement, ROUTER_ENTRY_QUERY)->stream = &session->token_stream;
	router_send_sync(session);
}

void router_ask_after_commit(router_session *session) {
	if (reads_from != READ_FROM_PRIMARY && session->wrote) {
		ask_for_token(session);
	}
}

/* The replica is to wait for what this process has committed last. */
static void pass_token(router_session *reader, const router_session *primary) {
	if (strcmp(reader->token, primary->token) != 0) {
		strlcpy(reader->token, primary->token, ROUTER_TOKEN_BYTES);
		router_send_command(reader, psprintf("SET aidb.read_token = '%s'", reader->token));
	}
}

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
	router_receive_all(primary);
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

void router_query(router_session *session, const router_statement *statement, bool locks, router_stream *stream) {
	router_entry *query;

	router_send_queue(session);
	if (locks || IsolationUsesXactSnapshot() || session->level > 0) {
		router_begin(session);
	}
	query = router_send_statement(session, statement, ROUTER_ENTRY_QUERY);
	query->stream = stream;
	stream->session = session;
	stream->lost = false;
	stream->rows = 0;
	router_send_sync(session);
}

bool router_stream_poll(router_stream *stream) {
	router_session *session = stream->session;
	uint64 rows = stream->rows;

	while (stream->session != NULL && router_take_in(session)) {
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
	events = WaitEventSetWait(set, router_node_timeout_ms, &happened, 1, PG_WAIT_EXTENSION);
	FreeWaitEventSet(set);
	if ((happened.events & WL_LATCH_SET) != 0) {
		ResetLatch(MyLatch);
	}
	CHECK_FOR_INTERRUPTS();
	if ((happened.events & (WL_SOCKET_READABLE | WL_SOCKET_WRITEABLE)) != 0) {
		router_session *session = ((router_stream *)happened.user_data)->session;

		if (PQconsumeInput(session->connection) != 1) {
			router_lose(session, router_connection_error(session->connection));
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
		router_await_input(only);
	}
}

void router_retry(int group_id, TimestampTz since) {
	if (TimestampDifferenceExceeds(since, GetCurrentTimestamp(), failover_timeout_ms)) {
		router_report_loss(find_session(group_id, NULL), "No other node has taken its place in time.");
	}
	pause_briefly();
	router_map_forget();
}

/* Whether somebody still waits for something on this connection. */
static bool is_awaited(router_session *session) {
	dlist_iter at;

	dlist_foreach(at, &session->entries) {
		const router_entry *each = dlist_container(router_entry, node, at.cur);

		if (each->stream != NULL || each->kind == ROUTER_ENTRY_COMMAND) {
			return true;
		}
	}
	return false;
}

static void take_in_all(router_session *session) {
	while (router_take_in(session)) {}
}

void router_stream_close(router_stream *stream) {
	router_session *session = stream->session;
	dlist_iter at;

	if (session == NULL) {
		return;
	}
	dlist_foreach(at, &session->entries) {
		router_entry *each = dlist_container(router_entry, node, at.cur);

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
			router_forget_connection(session);
		}
	}
}

/* ---- Writes ----------------------------------------------------------------------------------------------- */

/* What a reader has closed is connected again; no transaction was on it. */
void router_reconnect(router_session *session) {
	if (session->connection == NULL) {
		connect_session(session, router_map_group(router_map_get(), session->group_id));
	}
}

static void send_write(void *session, const router_statement *statement) {
	router_send_statement(session, statement, ROUTER_ENTRY_COMMAND);
}

void router_send_queued(router_session *session) {
	router_write_queue_send(session->queue, send_write, session);
	router_send_sync(session);
	router_write_queue_clear(session->queue);
}

void router_send_queue(router_session *session) {
	if (!router_write_queue_is_empty(session->queue)) {
		router_reconnect(session);
		router_begin(session);
		router_send_queued(session);
	}
}

int64 router_execute(router_session *session, const router_statement *statement) {
	int64 changed = 0;

	router_send_queue(session);
	router_reconnect(session);
	router_begin(session);
	router_send_statement(session, statement, ROUTER_ENTRY_COMMAND)->changed = &changed;
	router_send_sync(session);
	router_receive_commands(session);
	return changed;
}

void router_insert_later(router_session *session, const router_insert *insert, const char *const *values) {
	int level = GetCurrentTransactionNestLevel();

	if (session->queue_level != level) {
		router_send_queue(session);
	}
	session->queue_level = level;
	router_write_queue_add_row(session->queue, insert, values);
	if (router_write_queue_bytes(session->queue) > MAX_QUEUED_BYTES) {
		router_send_queue(session);
		while (session->entry_count > MAX_OUTSTANDING) {
			router_receive(session);
		}
	}
}

void router_command_alone(router_session *session, const char *sql) {
	session->commits = true;
	router_send_command(session, sql);
	router_send_sync(session);
	router_receive_all(session);
	session->commits = false;
}

void router_flush_all(void) {
	ListCell *cell;

	foreach(cell, router_sessions) {
		router_send_queue(lfirst(cell));
	}
	foreach(cell, router_sessions) {
		router_receive_commands(lfirst(cell));
	}
}

bool router_may_defer(void) {
	return !IsTransactionBlock() && GetCurrentTransactionNestLevel() == 1;
}

/* ---- Settings --------------------------------------------------------------------------------------------- */

void router_session_init(void) {
	DefineCustomIntVariable("aidb.failover_timeout", "How long a statement waits for a group whose primary is away.",
							"It goes on when another node has taken its place.", &failover_timeout_ms, 15000, 0,
							PG_INT32_MAX, PGC_USERSET, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomEnumVariable(
		"aidb.read_from", "Where tables of the cluster are read.",
		"\"standby\" and \"cache\": at a replica of each group, where there is one; it sees what this "
		"session has committed, and otherwise may be behind.",
		&reads_from, READ_FROM_PRIMARY, read_from_names, PGC_USERSET, 0, NULL, NULL, NULL);
}
