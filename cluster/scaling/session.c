#include "scaling/session.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/socket.h"

/* In one line. */
static bool fail(aidb_session *session, const char *message, const char *hint, const char *state) {
	aidb_trouble *trouble = session->trouble;

	if (snprintf(trouble->text, sizeof(trouble->text), "%s: %s%s%s", session->name, message, hint != NULL ? "; " : "",
				 hint != NULL ? hint : "") >= (int)sizeof(trouble->text)) {
		strcpy(trouble->text + sizeof(trouble->text) - 4, "...");
	}
	for (char *c = trouble->text; *c != '\0'; c++) {
		*c = *c == '\n' ? ' ' : *c;
	}
	snprintf(trouble->state, sizeof(trouble->state), "%s", state != NULL ? state : "");
	return false;
}

bool aidb_session_open(aidb_session *session, const char *conninfo, const char *name, const char *settings,
					   aidb_trouble *trouble) {
	static const char *const keywords[] = {"dbname", "application_name", "options", "connect_timeout", NULL};
	const char *values[] = {conninfo, AIDB_SESSION_APPLICATION, settings, "10", NULL};

	*session = (aidb_session){.trouble = trouble};
	snprintf(session->name, sizeof(session->name), "%s", name);
	session->connection = PQconnectdbParams(keywords, values, 1); /* the first is a whole connection string */
	if (PQstatus(session->connection) != CONNECTION_OK) {
		(void)fail(session, PQerrorMessage(session->connection), NULL, NULL);
		aidb_session_close(session);
		return false;
	}
	return aidb_session_run(session, "SET client_min_messages = error", 0, NULL);
}

void aidb_session_close(aidb_session *session) {
	PQfinish(session->connection);
	session->connection = NULL;
}

/* The answer to what was sent, in time; NULL: the connection is of no use any more. */
static PGresult *await_answer(const aidb_session *session) {
	uint64_t deadline_ms = aidb_socket_now_ms() + session->timeout_ms;
	PGresult *result = NULL, *next;

	while (PQisBusy(session->connection) != 0) {
		if (!aidb_socket_wait(session->connection, deadline_ms)) {
			return NULL;
		}
	}
	result = PQgetResult(session->connection);
	while ((next = PQgetResult(session->connection)) != NULL) {
		PQclear(next);
	}
	return result;
}

PGresult *aidb_session_query(aidb_session *session, const char *sql, int count, const aidb_value *values, bool binary) {
	const char *data[AIDB_SESSION_VALUES];
	int sizes[AIDB_SESSION_VALUES], formats[AIDB_SESSION_VALUES];
	PGresult *result = NULL;

	for (int i = 0; i < count; i++) {
		data[i] = values[i].data;
		sizes[i] = (int)values[i].size;
		formats[i] = values[i].size > 0 ? 1 : 0;
	}
	if (session->timeout_ms == 0) {
		result = PQexecParams(session->connection, sql, count, NULL, data, sizes, formats, binary ? 1 : 0);
	} else if (PQsendQueryParams(session->connection, sql, count, NULL, data, sizes, formats, binary ? 1 : 0) == 1 &&
			   (result = await_answer(session)) == NULL) {
		(void)fail(session, "no answer in time", NULL, NULL);
		return NULL;
	}
	if (PQresultStatus(result) == PGRES_TUPLES_OK || PQresultStatus(result) == PGRES_COMMAND_OK) {
		return result;
	}
	(void)fail(session,
			   PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY) != NULL
				   ? PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY)
				   : PQerrorMessage(session->connection),
			   PQresultErrorField(result, PG_DIAG_MESSAGE_HINT), PQresultErrorField(result, PG_DIAG_SQLSTATE));
	PQclear(result);
	return NULL;
}

bool aidb_session_run(aidb_session *session, const char *sql, int count, const aidb_value *values) {
	PGresult *result = aidb_session_query(session, sql, count, values, false);

	PQclear(result);
	return result != NULL;
}

bool aidb_session_number(aidb_session *session, const char *sql, int count, const aidb_value *values, int64_t *number) {
	PGresult *result = aidb_session_query(session, sql, count, values, false);

	if (result == NULL) {
		return false;
	}
	*number = PQntuples(result) > 0 ? strtoll(PQgetvalue(result, 0, 0), NULL, 10) : 0;
	PQclear(result);
	return true;
}
