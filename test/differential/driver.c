#define _GNU_SOURCE 1

#include "driver.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define ANSWER_LIMIT_MS 10000
#define LOOK_AGAIN_MS 50 /* when a session says nothing: it may wait for something that is not a lock */
#define PREPARED_BIT (1u << MAX_SESSIONS)
#define OTHER_BIT (1u << (MAX_SESSIONS + 1))

typedef enum session_state { SESSION_IDLE, SESSION_MOVING, SESSION_WAITING } session_state;

typedef struct run_session {
	PGconn *connection;
	session_state state;
	const script_step *step;  /* that was sent last */
	int postponed[MAX_STEPS]; /* indexes of steps */
	int postponed_count;
	bool told;           /* it has said that it waits */
	char wait_start[48]; /* tells one wait from the next */
	unsigned ticket;     /* of its step: 0 until it has waited, larger the later it began to */
	unsigned blockers;   /* bits of sessions */
	text answer;         /* to its step */
	bool answered;       /* since the last event */
	bool counted;        /* as waiting */
} run_session;

typedef struct diff_run {
	diff_world *world;
	const diff_script *script;
	wait_detail detail;
	wake_order order;
	diff_record *record;
	run_session sessions[MAX_SESSIONS];
	unsigned tickets;
	bool given_up;
} diff_run;

/* ---- Answers --------------------------------------------------------------------------------------------- */

static const char *field(const PGresult *result, int code) {
	const char *value = PQresultErrorField(result, code);

	return value != NULL ? value : "";
}

static void take_notice(void *context, const PGresult *notice) {
	run_session *session = context;
	const char *message = field(notice, PG_DIAG_MESSAGE_PRIMARY);

	if (strcmp(field(notice, PG_DIAG_SEVERITY_NONLOCALIZED), "LOG") == 0) {
		session->told = session->told || strstr(message, " still waiting for ") != NULL;
		return;
	}
	text_add(&session->answer, "   %s %s %s\n", field(notice, PG_DIAG_SEVERITY_NONLOCALIZED),
			 field(notice, PG_DIAG_SQLSTATE), message);
}

/* Only a statement that asks for an order gets its rows compared in theirs. */
static bool is_ordered(const char *sql) {
	return strcasestr(sql, "order by") != NULL || strcasestr(sql, "fetch ") != NULL;
}

static void add_rows(text *to, const PGresult *result, bool ordered) {
	text_list rows = {0};

	for (int row = 0; row < PQntuples(result); row++) {
		text line = {0};

		for (int column = 0; column < PQnfields(result); column++) {
			bool null = PQgetisnull(result, row, column) != 0;

			text_add(&line, "%s%s", column > 0 ? "|" : "", null ? "NULL" : PQgetvalue(result, row, column));
		}
		text_list_add(&rows, text_take(&line));
	}
	if (!ordered) {
		text_list_sort(&rows);
	}
	for (int row = 0; row < rows.count; row++) {
		text_add(to, "   %s\n", rows.items[row]);
	}
	text_list_free(&rows);
}

/* Messages are compared where users read them as data: violated constraints, and what functions raise. */
static void add_error(diff_run *run, run_session *session, const PGresult *result) {
	const char *state = field(result, PG_DIAG_SQLSTATE);

	text_add(&session->answer, "   ERROR %s", state);
	if (starts_with(state, "23") || starts_with(state, "P0")) {
		text_add(&session->answer, " %s %s", field(result, PG_DIAG_MESSAGE_PRIMARY),
				 field(result, PG_DIAG_MESSAGE_DETAIL));
	}
	text_add(&session->answer, "\n");
	text_list_add(&run->record->states, copy_string(state[0] != '\0' ? state : "lost"));
}

static void take_result(diff_run *run, run_session *session, PGresult *result) {
	switch (PQresultStatus(result)) {
	case PGRES_TUPLES_OK:
		text_add(&session->answer, "   %s\n", PQcmdStatus(result));
		add_rows(&session->answer, result, is_ordered(session->step->sql));
		break;
	case PGRES_COMMAND_OK:
		text_add(&session->answer, "   %s\n", PQcmdStatus(result));
		break;
	case PGRES_EMPTY_QUERY:
		break;
	default:
		add_error(run, session, result);
	}
	PQclear(result);
}

static bool in_transaction(const run_session *session) {
	PGTransactionStatusType status = PQtransactionStatus(session->connection);

	return status == PQTRANS_INTRANS || status == PQTRANS_INERROR;
}

/* Ends the program. The script is all that is known about what has ended the server, or why it hangs. */
static _Noreturn void give_up(const diff_run *run, const run_session *session, const char *why) {
	text printed = {0};

	script_print(run->script, &printed);
	printf("%s", text_get(&printed));
	fail("%s: step %s: %s", run->world->name, session->step->name, why);
}

/* Takes what has arrived. */
static void listen_to(diff_run *run, run_session *session) {
	if (PQconsumeInput(session->connection) == 0) {
		give_up(run, session, PQerrorMessage(session->connection));
	}
	while (PQisBusy(session->connection) == 0) {
		PGresult *result = PQgetResult(session->connection);

		if (result == NULL) {
			session->state = SESSION_IDLE;
			session->answered = true;
			session->told = false;
			return;
		}
		take_result(run, session, result);
	}
}

/* ---- Waiting --------------------------------------------------------------------------------------------- */

static unsigned session_bit(const diff_run *run, int pid) {
	for (int i = 0; i < MAX_SESSIONS; i++) {
		if (PQbackendPID(run->sessions[i].connection) == pid) {
			return 1u << i;
		}
	}
	return pid == 0 ? PREPARED_BIT : OTHER_BIT;
}

static unsigned parse_blockers(const diff_run *run, const char *pids) {
	text_list words = {0};
	unsigned bits = 0;

	text_list_split(&words, pids, " ");
	for (int i = 0; i < words.count; i++) {
		bits |= session_bit(run, atoi(words.items[i]));
	}
	text_list_free(&words);
	return bits;
}

/* Who waits for a lock, since when, for whom; or for other transactions to end, to have a snapshot that is safe. */
static PGresult *look_up_waits(diff_run *run) {
	text sql = {0};
	PGresult *result;

	text_add(&sql, "WITH p(pid) AS (VALUES (0)");
	for (int i = 0; i < MAX_SESSIONS; i++) {
		if (run->sessions[i].state != SESSION_IDLE) {
			text_add(&sql, ", (%d)", PQbackendPID(run->sessions[i].connection));
		}
	}
	text_add(&sql, ") SELECT pid, waitstart::text, array_to_string(pg_blocking_pids(pid), ' ') FROM pg_locks JOIN p "
				   "USING (pid) WHERE NOT granted AND waitstart IS NOT NULL "
				   "UNION ALL SELECT pid, 'snapshot', array_to_string(pg_safe_snapshot_blocking_pids(pid), ' ') "
				   "FROM p WHERE pid <> 0 AND pg_safe_snapshot_blocking_pids(pid) <> '{}'");
	result = world_query(run->world, text_get(&sql));
	text_free(&sql);
	return result;
}

static int find_wait(const PGresult *waits, const run_session *session) {
	for (int row = 0; row < PQntuples(waits); row++) {
		if (atoi(PQgetvalue(waits, row, 0)) == PQbackendPID(session->connection)) {
			return row;
		}
	}
	return -1;
}

static unsigned root_blockers(const diff_run *run, unsigned blockers, unsigned seen) {
	unsigned roots = blockers & (PREPARED_BIT | OTHER_BIT);

	for (int i = 0; i < MAX_SESSIONS; i++) {
		if ((blockers & ~seen & 1u << i) == 0) {
			continue;
		}
		if (run->sessions[i].state == SESSION_WAITING) {
			roots |= root_blockers(run, run->sessions[i].blockers, seen | blockers);
		} else {
			roots |= 1u << i;
		}
	}
	return roots;
}

/* ---- Coming to rest -------------------------------------------------------------------------------------- */

static void signal_session(const run_session *session, int signal) {
	if (kill(PQbackendPID(session->connection), signal) != 0) {
		fail("cannot stop and continue the server's processes: %s", strerror(errno));
	}
}

/* Once nothing moves it any more, a session that waits is stopped, so that it does not go on before its turn. */
static void come_to_rest(diff_run *run, run_session *session, const char *wait_start) {
	session->state = SESSION_WAITING;
	session->told = false;
	if (session->ticket == 0) {
		session->ticket = ++run->tickets;
	}
	snprintf(session->wait_start, sizeof(session->wait_start), "%s", wait_start);
	signal_session(session, SIGSTOP);
}

static void move_on(run_session *session) {
	session->state = SESSION_MOVING;
	signal_session(session, SIGCONT);
}

/* Looks whether the session that moves waits: it does when it has looked for a deadlock, or where there can be none. */
static void look_at_mover(diff_run *run, run_session *session) {
	PGresult *waits = look_up_waits(run);
	int row = find_wait(waits, session);
	const char *start = row >= 0 ? PQgetvalue(waits, row, 1) : "";

	if (row >= 0 && (session->told || strcmp(start, "snapshot") == 0)) {
		come_to_rest(run, session, start);
	}
	session->told = false;
	PQclear(waits);
}

/* Returns whether the session has said something before it is time to look again. */
static bool wait_for_news(diff_run *run, run_session *session) {
	struct pollfd socket = {.fd = PQsocket(session->connection), .events = POLLIN};
	int ready = poll(&socket, 1, LOOK_AGAIN_MS);

	if (ready < 0 && errno != EINTR) {
		fail("poll: %s", strerror(errno));
	}
	if (ready > 0) {
		listen_to(run, session);
	}
	return ready > 0;
}

static void cancel(diff_run *run, run_session *session) {
	PGcancel *cancel = PQgetCancel(session->connection);
	char error[256];

	PQcancel(cancel, error, sizeof(error));
	PQfreeCancel(cancel);
	run->given_up = true;
}

/* Follows the one session that moves, until it has answered or waits for another. A patient step does not rest. */
static void follow(diff_run *run, run_session *session) {
	int silent_ms = 0;

	while (session->state == SESSION_MOVING) {
		if (wait_for_news(run, session)) {
			silent_ms = 0;
		} else {
			silent_ms += LOOK_AGAIN_MS;
		}
		if (silent_ms >= ANSWER_LIMIT_MS) {
			if (run->given_up) {
				give_up(run, session, "does not even end when it is cancelled");
			}
			cancel(run, session);
			silent_ms = 0;
		}
		if (session->state == SESSION_MOVING && !session->step->patient && (session->told || silent_ms > 0)) {
			look_at_mover(run, session);
		}
	}
}

/* Whether the one goes on before the other, when a step has released both. */
static bool goes_before(const diff_run *run, const run_session *one, const run_session *other) {
	return other == NULL || (run->order == WAKE_NEWEST) == (one->ticket > other->ticket);
}

/* Of the sessions whose wait is over, the one that goes on first. NULL when all wait. */
static run_session *find_released(diff_run *run) {
	PGresult *waits = look_up_waits(run);
	run_session *released = NULL;

	for (int i = 0; i < MAX_SESSIONS; i++) {
		run_session *session = &run->sessions[i];
		int row = session->state == SESSION_WAITING ? find_wait(waits, session) : -1;

		if (row >= 0 && strcmp(PQgetvalue(waits, row, 1), session->wait_start) == 0) {
			session->blockers = parse_blockers(run, PQgetvalue(waits, row, 2));
		} else if (session->state == SESSION_WAITING && goes_before(run, session, released)) {
			released = session;
		}
	}
	PQclear(waits);
	return released;
}

static bool is_anybody_waiting(const diff_run *run) {
	for (int i = 0; i < MAX_SESSIONS; i++) {
		if (run->sessions[i].state == SESSION_WAITING) {
			return true;
		}
	}
	return false;
}

/* Lets those sessions go on that another has released, one after the other. */
static void settle(diff_run *run) {
	while (is_anybody_waiting(run)) {
		run_session *released = find_released(run);

		if (released == NULL) {
			return;
		}
		move_on(released);
		follow(run, released);
	}
}

/* ---- Recording ------------------------------------------------------------------------------------------- */

static void add_waiting(diff_run *run, run_session *session, text *to) {
	unsigned blockers = run->detail == WAIT_DIRECT ? session->blockers : root_blockers(run, session->blockers, 0);

	text_add(to, "%s waits for", session->step->name);
	for (int i = 0; i < MAX_SESSIONS; i++) {
		if ((blockers & 1u << i) != 0) {
			text_add(to, " %d", i + 1);
		}
	}
	text_add(to, "%s%s\n", (blockers & PREPARED_BIT) != 0 ? " prepared" : "",
			 (blockers & OTHER_BIT) != 0 ? " other" : "");
	run->record->waited_for[session - run->sessions] |= session->blockers | root_blockers(run, session->blockers, 0);
	run->record->waits += !session->counted;
	session->counted = true;
}

static void record_event_of(diff_run *run, const char *step, const char *sql) {
	text outcome = {0};

	for (int i = 0; i < MAX_SESSIONS; i++) {
		run_session *session = &run->sessions[i];

		if (session->answered) {
			PGTransactionStatusType status = PQtransactionStatus(session->connection);

			text_add(&outcome, "%s answers%s\n%s", session->step->name,
					 status == PQTRANS_INERROR   ? ", transaction failed"
					 : status == PQTRANS_INTRANS ? ", in transaction"
												 : "",
					 text_get(&session->answer));
			text_free(&session->answer);
			session->answered = false;
			session->counted = false;
		} else if (session->state == SESSION_WAITING) {
			add_waiting(run, session, &outcome);
		}
	}
	if (run->given_up) {
		text_add(&outcome, "no answer within %d s\n", ANSWER_LIMIT_MS / 1000);
	}
	run->record->events[run->record->count++] =
		(record_event){.step = step, .sql = sql, .outcome = text_take(&outcome)};
}

void record_free(diff_record *record) {
	for (int i = 0; i < record->count; i++) {
		free(record->events[i].outcome);
	}
	text_list_free(&record->states);
	*record = (diff_record){0};
}

/* ---- Steps ----------------------------------------------------------------------------------------------- */

static void send_step(diff_run *run, const script_step *step) {
	run_session *session = &run->sessions[step->session];

	session->step = step;
	session->ticket = 0;
	session->state = SESSION_MOVING;
	if (PQsendQuery(session->connection, step->sql) == 0) {
		give_up(run, session, PQerrorMessage(session->connection));
	}
	follow(run, session);
	settle(run);
	record_event_of(run, step->name, step->sql);
}

/* Sends steps that were put off, for sessions that have answered. */
static void catch_up(diff_run *run) {
	for (int i = 0; i < MAX_SESSIONS && !run->given_up; i++) {
		run_session *session = &run->sessions[i];

		if (session->state == SESSION_IDLE && session->postponed_count > 0) {
			const script_step *step = &run->script->steps[session->postponed[0]];

			session->postponed_count--;
			memmove(session->postponed, session->postponed + 1,
					(size_t)session->postponed_count * sizeof(session->postponed[0]));
			send_step(run, step);
			i = -1;
		}
	}
}

static void roll_back_prepared(diff_run *run) {
	PGresult *prepared =
		world_query(run->world, "SELECT gid FROM pg_prepared_xacts WHERE database = current_database()");

	for (int row = 0; row < PQntuples(prepared); row++) {
		text sql = {0};

		text_add(&sql, "ROLLBACK PREPARED '%s'", PQgetvalue(prepared, row, 0));
		PQclear(world_query(run->world, text_get(&sql)));
		text_free(&sql);
	}
	if (PQntuples(prepared) > 0) {
		settle(run);
		record_event_of(run, "end", "ROLLBACK PREPARED");
	}
	PQclear(prepared);
}

/* Ends the transaction of the first session that is in one and does not wait. Returns false when there is none. */
static bool end_transaction(diff_run *run) {
	static const script_step ends[MAX_SESSIONS] = {
		{0, "1end", "ROLLBACK", false}, {1, "2end", "ROLLBACK", false}, {2, "3end", "ROLLBACK", false},
		{3, "4end", "ROLLBACK", false}, {4, "5end", "ROLLBACK", false},
	};

	for (int i = 0; i < MAX_SESSIONS; i++) {
		if (run->sessions[i].state == SESSION_IDLE && in_transaction(&run->sessions[i])) {
			send_step(run, &ends[i]);
			return true;
		}
	}
	return false;
}

/* When nobody is left who could end a wait. */
static void cancel_waiting(diff_run *run) {
	for (int i = 0; i < MAX_SESSIONS; i++) {
		run_session *session = &run->sessions[i];

		if (session->state == SESSION_WAITING) {
			cancel(run, session);
			move_on(session);
			follow(run, session);
			record_event_of(run, "end", "cancelled");
		}
		while (end_transaction(run)) {}
	}
}

static void finish(diff_run *run) {
	text contents = {0};

	catch_up(run);
	while (end_transaction(run)) {
		catch_up(run);
	}
	roll_back_prepared(run);
	catch_up(run);
	while (end_transaction(run)) {
		catch_up(run);
	}
	cancel_waiting(run);
	world_contents(run->world, &contents);
	run->record->events[run->record->count++] =
		(record_event){.step = "end", .sql = "contents of the tables", .outcome = text_take(&contents)};
}

static bool changes_schema(const diff_script *script) {
	for (int i = 0; i < script->step_count; i++) {
		const char *sql = script->steps[i].sql;

		if (strcasestr(sql, "alter ") != NULL || strcasestr(sql, "create ") != NULL ||
			strcasestr(sql, "drop ") != NULL) {
			return true;
		}
	}
	return false;
}

void driver_run(diff_world *world, const diff_script *script, wait_detail detail, wake_order order,
				diff_record *record) {
	diff_run run = {.world = world, .script = script, .detail = detail, .order = order, .record = record};

	*record = (diff_record){0};
	world_prepare(world, script);
	for (int i = 0; i < MAX_SESSIONS; i++) {
		run.sessions[i].connection = world->sessions[i];
		PQsetNoticeReceiver(world->sessions[i], take_notice, &run.sessions[i]);
	}
	for (int i = 0; i < script->step_count && !run.given_up; i++) {
		run_session *session = &run.sessions[script->steps[i].session];

		catch_up(&run);
		if (session->state != SESSION_IDLE || session->postponed_count > 0) {
			session->postponed[session->postponed_count++] = i;
		} else {
			send_step(&run, &script->steps[i]);
		}
	}
	finish(&run);
	for (int i = 0; i < MAX_SESSIONS; i++) {
		text_free(&run.sessions[i].answer);
	}
	if (changes_schema(script)) {
		world_forget_schema(world);
	}
}
