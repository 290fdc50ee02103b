/*
 * session.h: a connection of who moves slots, to a node or to the catalog. Statements are waited for. One thread at a time.
 */
#ifndef AIDB_SCALING_SESSION_H
#define AIDB_SCALING_SESSION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "libpq-fe.h"

#define AIDB_SESSION_APPLICATION "aidb mover" /* as pg_stat_activity shows it */
#define AIDB_SESSION_VALUES 4

/* What went wrong, for whom it is to be told. */
typedef struct aidb_trouble {
	char text[1024];
	char state[6]; /* SQLSTATE, or empty */
} aidb_trouble;

typedef struct aidb_session {
	PGconn *connection;
	char name[128]; /* "node "n1"" or "the catalog", for errors */
	aidb_trouble *trouble;
	uint32_t timeout_ms; /* for the answer to a statement; 0: none */
} aidb_session;

/* What a statement is given: text, or bytes. */
typedef struct aidb_value {
	const char *data; /* NULL: SQL's null */
	size_t size;      /* of bytes; 0: it is text */
} aidb_value;

/* Connects, with settings (as libpq's `options`). False: *trouble says why; it is used for the session's statements, too. */
bool aidb_session_open(aidb_session *session, const char *conninfo, const char *name, const char *settings,
					   aidb_trouble *trouble);
void aidb_session_close(aidb_session *session); /* one that is not open is fine */
/* The rows, as text or as bytes, to be cleared; NULL: failed. */
PGresult *aidb_session_query(aidb_session *session, const char *sql, int count, const aidb_value *values, bool binary);
/* The same when nothing, or but a number, is wanted of the answer: the first column of the first row. */
bool aidb_session_run(aidb_session *session, const char *sql, int count, const aidb_value *values);
bool aidb_session_number(aidb_session *session, const char *sql, int count, const aidb_value *values, int64_t *number);

static inline aidb_value aidb_value_text(const char *text) {
	return (aidb_value){.data = text};
}

#endif
