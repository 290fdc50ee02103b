#include "session.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAX_OPERATIONS 6
#define MAX_LISTS_READ 4
#define RECONNECT_LIMIT_US (60 * 1000000)
#define RECONNECT_PAUSE_US 20000

/* Chances in a hundred. */
#define CHANCE_SINGLE_READ 20 /* of a transaction */
#define CHANCE_ROLLBACK 7
#define CHANCE_SIDE_EFFECT 70
#define CHANCE_APPEND 50 /* of an operation; the rest after these three reads one list */
#define CHANCE_READ_MANY 20
#define CHANCE_SAVEPOINT 10
#define CHANCE_RETURNING 25 /* of an append */

static bool chance(list_session *session, unsigned percent) {
	return test_random_below(&session->random, 100) < percent;
}

/* ---- Statements ------------------------------------------------------------------------------------------ */

static bool is_allowed(const workload *load, const char *state) {
	/* 57: the server shuts down or crashed; 08 and none: the connection is gone */
	return (strcmp(state, "40001") == 0 && !load->no_conflicts) || strcmp(state, "40P01") == 0 ||
		   strcmp(state, "23505") == 0 || strncmp(state, "57", 2) == 0 || strncmp(state, "08", 2) == 0;
}

static void count_error(list_session *session, const PGresult *result) {
	const char *state = PQresultErrorField(result, PG_DIAG_SQLSTATE);
	state_count *at = session->states;

	if (state == NULL) {
		state = "08006";
	}
	while (at < session->states + MAX_STATES - 1 && at->count > 0 && strcmp(at->state, state) != 0) {
		at++;
	}
	at->count++;
	at->allowed = is_allowed(session->load, state);
	snprintf(at->state, sizeof(at->state), "%s", state);
	if (!at->allowed && session->first_error[0] == '\0') {
		snprintf(session->first_error, sizeof(session->first_error), "%s", PQerrorMessage(session->connection));
	}
}

/* Runs a statement with up to two parameters. The result, which is the caller's; NULL when it failed. */
static PGresult *execute(list_session *session, const char *sql, const char *first, const char *second) {
	const char *values[] = {first, second};
	int count = first == NULL ? 0 : second == NULL ? 1 : 2;
	PGresult *result = PQexecParams(session->connection, sql, count, NULL, values, NULL, NULL, 0);
	ExecStatusType status = PQresultStatus(result);

	if (status == PGRES_COMMAND_OK || status == PGRES_TUPLES_OK) {
		return result;
	}
	count_error(session, result);
	PQclear(result);
	return NULL;
}

static bool run(list_session *session, const char *sql) {
	PGresult *result = execute(session, sql, NULL, NULL);

	PQclear(result);
	return result != NULL;
}

/* ---- Operations ------------------------------------------------------------------------------------------ */

/* Takes an array as PostgreSQL prints it: {1,2,3}. */
static void take_elements(history_operation *read, const char *text) {
	while (*text != '\0' && *text != '}') {
		char *end;

		operation_add_element(read, (uint32_t)strtoul(text + 1, &end, 10));
		text = end;
	}
}

/* Finds the list in rows of key and elements; one that has no row is empty. */
static void note_read(list_session *session, uint32_t list, const PGresult *result, bool same_statement) {
	history_operation *read = transaction_add(&session->current, OPERATION_READ, list);

	read->same_statement = same_statement;
	for (int row = 0; row < PQntuples(result); row++) {
		if (strtoul(PQgetvalue(result, row, 0), NULL, 10) == list) {
			take_elements(read, PQgetvalue(result, row, 1));
		}
	}
}

static bool read_one(list_session *session) {
	uint32_t list = workload_choose_list(session->load, &session->random, NULL, 0);
	char sql[128];
	char key[16];
	PGresult *result;

	snprintf(sql, sizeof(sql), "SELECT k, v FROM %s WHERE k = $1", workload_table(session->load, list));
	snprintf(key, sizeof(key), "%u", list);
	result = execute(session, sql, key, NULL);
	if (result == NULL) {
		return false;
	}
	note_read(session, list, result, false);
	PQclear(result);
	return true;
}

/* Several lists in one statement, by key or by reading all, which is to see one moment of both tables. */
static bool read_many(list_session *session) {
	static const char *const both[] = {
		"SELECT k, v FROM list_heap WHERE k = ANY ($1) UNION ALL SELECT k, v FROM list_aidb WHERE k = ANY ($1)",
		"SELECT k, v FROM list_aidb WHERE k = ANY ($1) UNION ALL SELECT k, v FROM list_heap WHERE k = ANY ($1)",
	};
	const char *sql =
		session->load->mode == MODE_HEAP ? "SELECT k, v FROM list_heap WHERE k = ANY ($1)" : both[chance(session, 50)];
	uint32_t lists[MAX_LISTS_READ];
	unsigned count = 2 + (unsigned)test_random_below(&session->random, MAX_LISTS_READ - 1);
	char keys[MAX_LISTS_READ * 12 + 2] = "{";
	PGresult *result;

	for (unsigned i = 0; i < count; i++) {
		size_t length = strlen(keys);

		lists[i] = workload_choose_list(session->load, &session->random, lists, i);
		snprintf(keys + length, sizeof(keys) - length, "%u%c", lists[i], i + 1 < count ? ',' : '}');
	}
	result = execute(session, sql, keys, NULL);
	if (result == NULL) {
		return false;
	}
	for (unsigned i = 0; i < count; i++) {
		note_read(session, lists[i], result, i > 0);
	}
	PQclear(result);
	return true;
}

/* Appends by UPDATE, or by INSERT when there is no row yet. The rows that RETURNING gave; NULL when it failed. */
static PGresult *append_to(list_session *session, uint32_t list, uint32_t element) {
	const char *table = workload_table(session->load, list);
	const char *returning = chance(session, CHANCE_RETURNING) ? " RETURNING k, v" : "";
	char key[16];
	char value[16];
	char sql[256];
	PGresult *result;

	snprintf(key, sizeof(key), "%u", list);
	snprintf(value, sizeof(value), "%u", element);
	if (!session->load->upsert) {
		snprintf(sql, sizeof(sql), "UPDATE %s SET v = v || $2::int WHERE k = $1%s", table, returning);
		result = execute(session, sql, key, value);
		if (result == NULL || strcmp(PQcmdTuples(result), "0") != 0) {
			return result;
		}
		PQclear(result);
	}
	snprintf(sql, sizeof(sql), "INSERT INTO %s AS list VALUES ($1, ARRAY[$2::int])%s%s", table,
			 session->load->upsert ? " ON CONFLICT (k) DO UPDATE SET v = list.v || excluded.v" : "", returning);
	return execute(session, sql, key, value);
}

static bool append(list_session *session, operation_kind kind) {
	uint32_t list = workload_choose_list(session->load, &session->random, NULL, 0);
	uint32_t element = workload_take_element(session->load, list);
	PGresult *result;

	/* noted before, since it may have been done when the connection is lost */
	transaction_add(&session->current, kind, list)->element = element;
	result = append_to(session, list, element);
	if (result == NULL) {
		return false;
	}
	if (PQntuples(result) > 0 && kind == OPERATION_APPEND) {
		note_read(session, list, result, true);
	}
	PQclear(result);
	return true;
}

static bool append_and_undo(list_session *session) {
	return run(session, "SAVEPOINT s") && append(session, OPERATION_UNDONE) &&
		   (chance(session, 50) || append(session, OPERATION_UNDONE)) && run(session, "ROLLBACK TO s");
}

/* What makes it a transaction that PostgreSQL has an interest in. */
static bool have_side_effect(list_session *session) {
	return run(session, chance(session, 50) ? "INSERT INTO side VALUES (1)" : "SELECT nextval('side_sequence')");
}

static bool operate(list_session *session) {
	unsigned kind = (unsigned)test_random_below(&session->random, 100);

	if (kind < CHANCE_APPEND) {
		return append(session, OPERATION_APPEND);
	}
	kind -= CHANCE_APPEND;
	if (kind < CHANCE_READ_MANY) {
		return read_many(session);
	}
	return kind - CHANCE_READ_MANY < CHANCE_SAVEPOINT ? append_and_undo(session) : read_one(session);
}

/* ---- Transactions ---------------------------------------------------------------------------------------- */

static bool operate_some(list_session *session) {
	unsigned count = 1 + (unsigned)test_random_below(&session->random, MAX_OPERATIONS);
	bool side_effect = session->load->mode == MODE_MIXED && chance(session, CHANCE_SIDE_EFFECT);
	unsigned side_effect_at = (unsigned)test_random_below(&session->random, count);

	if (chance(session, CHANCE_SINGLE_READ)) {
		return read_many(session);
	}
	for (unsigned i = 0; i < count; i++) {
		if ((side_effect && i == side_effect_at && !have_side_effect(session)) || !operate(session)) {
			return false;
		}
	}
	return true;
}

/* Ends a transaction that worked so far. */
static transaction_status commit(list_session *session) {
	PGresult *result = PQexec(session->connection, "COMMIT");
	const char *state = PQresultErrorField(result, PG_DIAG_SQLSTATE);
	transaction_status status = STATUS_UNKNOWN;

	if (PQresultStatus(result) == PGRES_COMMAND_OK) {
		status = strcmp(PQcmdStatus(result), "COMMIT") == 0 ? STATUS_COMMITTED : STATUS_ABORTED;
	} else {
		count_error(session, result);
		if (state != NULL && PQstatus(session->connection) == CONNECTION_OK) {
			status = STATUS_ABORTED;
		}
	}
	PQclear(result);
	return status;
}

static bool begin(list_session *session, const char *level) {
	char sql[64];

	session->current = (history_transaction){.begin_us = workload_now_us()};
	snprintf(sql, sizeof(sql), "BEGIN ISOLATION LEVEL %s", level);
	return run(session, sql);
}

static void note_end(list_session *session, transaction_status status) {
	session->current.status = status;
	session->current.end_us = workload_now_us();
	history_add(&session->history, session->current);
	session->current = (history_transaction){0};
}

static void transact(list_session *session) {
	bool good = begin(session, level_names[session->load->level]) && operate_some(session);
	transaction_status status = STATUS_ABORTED;

	if (good && !chance(session, CHANCE_ROLLBACK)) {
		status = commit(session);
	} else if (PQstatus(session->connection) == CONNECTION_OK) {
		run(session, "ROLLBACK");
	}
	if (status == STATUS_COMMITTED) {
		atomic_fetch_add(&session->load->committed, 1);
	}
	note_end(session, status);
}

/* ---- Connections ----------------------------------------------------------------------------------------- */

/* Those of a server that ends. */
static void ignore_notice(void *unused, const char *message) {
	(void)unused;
	(void)message;
}

/* Until the server answers, or not within the limit. */
static bool make_connection(list_session *session) {
	int64_t limit_us = workload_now_us() + RECONNECT_LIMIT_US;

	do {
		PQfinish(session->connection);
		session->connection = PQconnectdb(session->load->connection);
		PQsetNoticeProcessor(session->connection, ignore_notice, NULL);
		if (PQstatus(session->connection) == CONNECTION_OK) {
			return true;
		}
		usleep(RECONNECT_PAUSE_US);
	} while (workload_now_us() < limit_us);
	snprintf(session->first_error, sizeof(session->first_error), "%s", PQerrorMessage(session->connection));
	PQfinish(session->connection);
	session->connection = NULL;
	return false;
}

void *session_run(void *argument) {
	list_session *session = argument;
	bool connected = make_connection(session);

	while (connected && workload_goes_on(session->load)) {
		transact(session);
		connected = PQstatus(session->connection) == CONNECTION_OK || make_connection(session);
	}
	PQfinish(session->connection);
	session->connection = NULL;
	return NULL;
}

/* ---- The end --------------------------------------------------------------------------------------------- */

static bool read_table(list_session *session, const char *sql) {
	PGresult *result = execute(session, sql, NULL, NULL);

	if (result == NULL) {
		return false;
	}
	for (int row = 0; row < PQntuples(result); row++) {
		uint32_t list = (uint32_t)strtoul(PQgetvalue(result, row, 0), NULL, 10);

		take_elements(transaction_add(&session->current, OPERATION_READ, list), PQgetvalue(result, row, 1));
	}
	PQclear(result);
	return true;
}

bool session_read_all(list_session *session) {
	bool good = make_connection(session) && begin(session, "REPEATABLE READ") &&
				read_table(session, "SELECT k, v FROM list_aidb") &&
				read_table(session, "SELECT k, v FROM list_heap") && run(session, "COMMIT");

	note_end(session, STATUS_FINAL);
	PQfinish(session->connection);
	session->connection = NULL;
	return good;
}
