#include "client/socket.h"

#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

uint64_t aidb_socket_now_ms(void) {
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

void aidb_socket_sleep_ms(uint32_t ms) {
	(void)poll(NULL, 0, (int)ms);
}

/* False when the deadline has come. */
static bool wait_for(PGconn *connection, short events, uint64_t deadline_ms) {
	uint64_t now = aidb_socket_now_ms();
	struct pollfd socket = {.fd = PQsocket(connection), .events = events};

	return now < deadline_ms && poll(&socket, 1, (int)(deadline_ms - now)) != 0;
}

/* A library prints nothing; what matters comes as an error, too. */
static void ignore_notice(void *argument, const PGresult *notice) {
	(void)argument;
	(void)notice;
}

PGconn *aidb_socket_start(const char *conninfo, const char *settings) {
	const char *const names[] = {"dbname", "fallback_application_name", "options", NULL};
	const char *const values[] = {conninfo, "aidb client", settings, NULL};

	PGconn *connection = PQconnectStartParams(names, values, 1); /* the first is a whole connection string */

	if (connection != NULL) {
		PQsetNoticeReceiver(connection, ignore_notice, NULL);
	}
	return connection;
}

short aidb_socket_connect_events(PostgresPollingStatusType polling) {
	return polling == PGRES_POLLING_READING ? POLLIN : POLLOUT;
}

PostgresPollingStatusType aidb_socket_connect_step(PGconn *connection) {
	PostgresPollingStatusType polling = PQconnectPoll(connection);

	return polling == PGRES_POLLING_OK && PQsetnonblocking(connection, 1) != 0 ? PGRES_POLLING_FAILED : polling;
}

static bool connect_until(PGconn *connection, uint64_t deadline_ms) {
	PostgresPollingStatusType polling = PGRES_POLLING_WRITING;

	while (polling != PGRES_POLLING_OK) {
		if (polling == PGRES_POLLING_FAILED || PQstatus(connection) == CONNECTION_BAD ||
			!wait_for(connection, aidb_socket_connect_events(polling), deadline_ms)) {
			return false;
		}
		polling = aidb_socket_connect_step(connection);
	}
	return true;
}

PGconn *aidb_socket_connect(const char *conninfo, const char *settings, uint64_t deadline_ms, char **error) {
	PGconn *connection = aidb_socket_start(conninfo, settings);

	*error = NULL;
	if (connection == NULL) {
		return NULL;
	}
	if (!connect_until(connection, deadline_ms)) {
		bool late = PQstatus(connection) != CONNECTION_BAD;

		*error = strdup(late ? "no answer in time" : PQerrorMessage(connection));
		PQfinish(connection);
		return NULL;
	}
	return connection;
}

bool aidb_socket_wait(PGconn *connection, uint64_t deadline_ms) {
	int unsent = PQflush(connection);

	return unsent >= 0 && wait_for(connection, unsent > 0 ? POLLIN | POLLOUT : POLLIN, deadline_ms) &&
		   PQconsumeInput(connection) == 1;
}

static PGresult *next_result(PGconn *connection, uint64_t deadline_ms) {
	while (PQisBusy(connection) != 0) {
		if (!aidb_socket_wait(connection, deadline_ms)) {
			return NULL;
		}
	}
	return PQgetResult(connection);
}

PGresult *aidb_socket_execute(PGconn *connection, const char *sql, uint64_t deadline_ms) {
	PGresult *result = NULL, *next;

	if (PQsendQuery(connection, sql) == 0) {
		return NULL;
	}
	while ((next = next_result(connection, deadline_ms)) != NULL) {
		PQclear(result);
		result = next;
	}
	return PQisBusy(connection) != 0 ? (PQclear(result), (PGresult *)NULL) : result;
}
