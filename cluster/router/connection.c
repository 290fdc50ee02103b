#include "router/connection.h"

#include <poll.h>

#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "router/stats.h"
#include "storage/latch.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

/* A statement whose client has gone away ends within a second. */
#define NODE_SETTINGS                                                                                                  \
	"-c search_path=pg_catalog -c timezone=GMT -c datestyle=ISO -c intervalstyle=postgres -c extra_float_digits=1 "    \
	"-c client_connection_check_interval=1000 -c aidb.expected_epoch=" INT64_FORMAT " -c aidb.slots=%s"

char *router_connection_error(PGconn *connection) {
	char *message = pchomp(PQerrorMessage(connection));

	for (char *c = message; *c != '\0'; c++) {
		*c = *c == '\n' ? ' ' : *c;
	}
	return message[0] == '\0' ? pstrdup("the connection was closed") : message;
}

/* Waits for the socket or the time; interrupts are seen to. */
static void wait_socket(PGconn *connection, int events, long timeout_ms) {
	int happened = WaitLatchOrSocket(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH | events,
									 PQsocket(connection), timeout_ms, PG_WAIT_EXTENSION);

	if ((happened & WL_LATCH_SET) != 0) {
		ResetLatch(MyLatch);
	}
	CHECK_FOR_INTERRUPTS();
}

static bool poll_until_connected(PGconn *connection, int timeout_ms) {
	TimestampTz deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), timeout_ms);
	PostgresPollingStatusType status = PGRES_POLLING_WRITING;

	while (status != PGRES_POLLING_OK) {
		long left_ms = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), deadline);

		if (PQstatus(connection) == CONNECTION_BAD || status == PGRES_POLLING_FAILED || left_ms <= 0) {
			return false;
		}
		wait_socket(connection, status == PGRES_POLLING_READING ? WL_SOCKET_READABLE : WL_SOCKET_WRITEABLE, left_ms);
		status = PQconnectPoll(connection);
	}
	return true;
}

/* NULL with *error when it does not come about. */
static PGconn *start(const char *conninfo, const char *settings, int timeout_ms, char **error) {
	static const char *const names[] = {"dbname", "fallback_application_name", "client_encoding", "options", NULL};
	const char *values[] = {conninfo, "aidb router", GetDatabaseEncodingName(), settings, NULL};
	PGconn *volatile connection = PQconnectStartParams(names, values, 1); /* the first is a whole connection string */
	volatile bool connected = false;

	if (connection == NULL) {
		ereport(ERROR, (errcode(ERRCODE_OUT_OF_MEMORY), errmsg("out of memory")));
	}
	PG_TRY();
	{ connected = poll_until_connected(connection, timeout_ms); }
	PG_CATCH();
	{
		PQfinish(connection);
		PG_RE_THROW();
	}
	PG_END_TRY();
	if (!connected) {
		*error = PQstatus(connection) == CONNECTION_BAD ? router_connection_error(connection)
														: psprintf("no answer within %d ms", timeout_ms);
		PQfinish(connection);
		return NULL;
	}
	return connection;
}

PGconn *router_connect(const router_group *group, int timeout_ms, char **error) {
	char slots[AIDB_SLOT_SET_DIGITS + 1];
	PGconn *connection;

	aidb_slot_set_write(&group->slots, slots);
	connection = start(group->conninfo, psprintf(NODE_SETTINGS, group->epoch, slots), timeout_ms, error);

	if (connection != NULL && (PQsetnonblocking(connection, 1) != 0 || PQenterPipelineMode(connection) != 1)) {
		*error = router_connection_error(connection);
		PQfinish(connection);
		return NULL;
	}
	router_count(ROUTER_CONNECTIONS);
	return connection;
}

bool router_probe(const char *conninfo, int timeout_ms) {
	char *error;
	PGconn *connection = start(conninfo, "", timeout_ms, &error);

	PQfinish(connection);
	return connection != NULL;
}

#define SOCKET_PLACE 2 /* in the set */

WaitEventSet *router_connection_waits(PGconn *connection, MemoryContext context) {
	WaitEventSet *waits = CreateWaitEventSet(context, SOCKET_PLACE + 1);

	AddWaitEventToSet(waits, WL_LATCH_SET, PGINVALID_SOCKET, MyLatch, NULL);
	AddWaitEventToSet(waits, WL_EXIT_ON_PM_DEATH, PGINVALID_SOCKET, NULL, NULL);
	AddWaitEventToSet(waits, WL_SOCKET_READABLE, PQsocket(connection), NULL, NULL);
	return waits;
}

bool router_connection_wait(PGconn *connection, WaitEventSet *waits, long timeout_ms) {
	int unsent = PQflush(connection);
	WaitEvent happened;

	if (unsent < 0) {
		return false;
	}
	ModifyWaitEvent(waits, SOCKET_PLACE, WL_SOCKET_READABLE | (unsent > 0 ? WL_SOCKET_WRITEABLE : 0), NULL);
	if (WaitEventSetWait(waits, timeout_ms, &happened, 1, PG_WAIT_EXTENSION) == 1 &&
		(happened.events & WL_LATCH_SET) != 0) {
		ResetLatch(MyLatch);
	}
	CHECK_FOR_INTERRUPTS();
	return PQconsumeInput(connection) == 1 && PQstatus(connection) == CONNECTION_OK;
}

bool router_connection_is_dead(PGconn *connection) {
	struct pollfd socket = {.fd = PQsocket(connection), .events = POLLIN};

	return PQstatus(connection) != CONNECTION_OK ||
		   (poll(&socket, 1, 0) > 0 && (PQconsumeInput(connection) != 1 || PQstatus(connection) != CONNECTION_OK));
}
