/*
 * Runs random transactions on lists from several sessions and finds what their isolation level forbids.
 *
 *     history CONNECTION [OPTION=VALUE...]   runs and checks
 *     history --check FILE LEVEL             checks a history that was written before
 *
 * Options, with their defaults: mode=aidb (or mixed, split, heap), level=RR (or RC, SER), sessions=8, seconds=2,
 * transactions=1000000 (which it ends at when that is earlier), lists=8 (in use at a time), appends=24 (about so many to
 * a list), upsert=0, least=0 (committed transactions, however long they take), conflicts=1 (0: SQLSTATE 40001 is an
 * error), seed=(the time), write=FILE (the history, for --check). CONNECTION is a string of libpq; its database must have
 * the extension, and tables of this program's names are replaced.
 *
 * The last line says what was done and found. The exit status is 0 when nothing was found, 1 when something was or an
 * error came that is none of the allowed ones, 2 when it does not work.
 */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "session.h"

#define MAX_SESSIONS 64
#define MAX_SECONDS 86400

static const char *const short_level_names[] = {"RC", "RR", "SER"};

typedef struct list_run {
	workload load;
	unsigned seconds;
	const char *write_to;
	list_session sessions[MAX_SESSIONS + 1]; /* the last one reads at the end */
	list_history history;                    /* of all */
} list_run;

/* ---- Options --------------------------------------------------------------------------------------------- */

static int index_of(const char *name, const char *const *names, int count) {
	for (int i = 0; i < count; i++) {
		if (strcmp(name, names[i]) == 0) {
			return i;
		}
	}
	fprintf(stderr, "history: no mode or level \"%s\"\n", name);
	exit(2);
}

static uint64_t number_of(const char *option, const char *text, uint64_t low, uint64_t high) {
	char *end;
	uint64_t number = strtoull(text, &end, 0);

	if (end == text || *end != '\0' || number < low || number > high) {
		fprintf(stderr, "history: %s must be a number from %" PRIu64 " to %" PRIu64 "\n", option, low, high);
		exit(2);
	}
	return number;
}

static void set_option(list_run *run, const char *name, const char *value) {
	workload *load = &run->load;

	if (strcmp(name, "mode") == 0) {
		load->mode = (workload_mode)index_of(value, mode_names, 4);
	} else if (strcmp(name, "level") == 0) {
		load->level = (isolation_level)index_of(value, short_level_names, 3);
	} else if (strcmp(name, "sessions") == 0) {
		load->sessions = (unsigned)number_of(name, value, 1, MAX_SESSIONS);
	} else if (strcmp(name, "seconds") == 0) {
		run->seconds = (unsigned)number_of(name, value, 1, MAX_SECONDS);
	} else if (strcmp(name, "transactions") == 0) {
		load->max_transactions = number_of(name, value, 1, 1u << 30);
	} else if (strcmp(name, "least") == 0) {
		load->least_committed = number_of(name, value, 0, 1u << 30);
	} else if (strcmp(name, "lists") == 0) {
		load->active_lists = (unsigned)number_of(name, value, 4, MAX_ACTIVE_LISTS);
	} else if (strcmp(name, "appends") == 0) {
		load->appends_per_list = (unsigned)number_of(name, value, 1, 10000);
	} else if (strcmp(name, "upsert") == 0) {
		load->upsert = number_of(name, value, 0, 1) == 1;
	} else if (strcmp(name, "conflicts") == 0) {
		load->no_conflicts = number_of(name, value, 0, 1) == 0;
	} else if (strcmp(name, "seed") == 0) {
		load->seed = number_of(name, value, 0, UINT64_MAX);
	} else if (strcmp(name, "write") == 0) {
		run->write_to = value;
	} else {
		fprintf(stderr, "history: no option \"%s\"\n", name);
		exit(2);
	}
}

static void take_options(list_run *run, int count, char **arguments) {
	run->seconds = 2;
	run->load.level = LEVEL_REPEATABLE_READ;
	run->load.sessions = 8;
	run->load.active_lists = 8;
	run->load.appends_per_list = 24;
	run->load.max_transactions = 1000000;
	run->load.seed = (uint64_t)workload_now_us();
	run->load.connection = arguments[0];
	for (int i = 1; i < count; i++) {
		char *equals = strchr(arguments[i], '=');

		if (equals == NULL) {
			fprintf(stderr, "history: \"%s\" is not of the form OPTION=VALUE\n", arguments[i]);
			exit(2);
		}
		*equals = '\0';
		set_option(run, arguments[i], equals + 1);
	}
}

/* ---- Running --------------------------------------------------------------------------------------------- */

static void create_tables(const char *connection) {
	static const char sql[] = "SET client_min_messages = warning;"
							  "DROP FOREIGN TABLE IF EXISTS list_aidb; DROP TABLE IF EXISTS list_heap, side;"
							  "DROP SEQUENCE IF EXISTS side_sequence; CREATE SEQUENCE side_sequence;"
							  "CREATE FOREIGN TABLE list_aidb (k int PRIMARY KEY, v int[]) SERVER aidb;"
							  "CREATE TABLE list_heap (k int PRIMARY KEY, v int[]); CREATE TABLE side (n int)";
	PGconn *to = PQconnectdb(connection);
	PGresult *result = PQexec(to, sql);

	if (PQresultStatus(result) != PGRES_COMMAND_OK) {
		fprintf(stderr, "history: %s", PQerrorMessage(to));
		exit(2);
	}
	PQclear(result);
	PQfinish(to);
}

static void run_sessions(list_run *run) {
	pthread_t threads[MAX_SESSIONS];
	test_random seeds = {run->load.seed};

	workload_start(&run->load);
	run->load.deadline_us = workload_now_us() + (int64_t)run->seconds * 1000000;
	for (unsigned i = 0; i <= run->load.sessions; i++) {
		run->sessions[i].load = &run->load;
		run->sessions[i].random.state = test_random_next(&seeds);
	}
	for (unsigned i = 0; i < run->load.sessions; i++) {
		if (pthread_create(&threads[i], NULL, session_run, &run->sessions[i]) != 0) {
			fputs("history: could not create a thread\n", stderr);
			exit(2);
		}
	}
	for (unsigned i = 0; i < run->load.sessions; i++) {
		pthread_join(threads[i], NULL);
	}
	if (!session_read_all(&run->sessions[run->load.sessions])) {
		fprintf(stderr, "history: could not read the lists at the end\n");
		exit(2);
	}
}

/* Takes the transactions of all sessions into one history. */
static void gather(list_run *run) {
	for (unsigned i = 0; i <= run->load.sessions; i++) {
		list_history *part = &run->sessions[i].history;

		for (size_t j = 0; j < part->count; j++) {
			history_add(&run->history, part->transactions[j]);
		}
		free(part->transactions);
	}
}

static void write_history(const list_run *run) {
	FILE *file = run->write_to == NULL ? NULL : fopen(run->write_to, "w");

	if (run->write_to != NULL && file == NULL) {
		perror(run->write_to);
		exit(2);
	}
	for (size_t i = 0; file != NULL && i < run->history.count; i++) {
		transaction_print(file, &run->history.transactions[i]);
	}
	if (file != NULL) {
		fclose(file);
	}
}

/* ---- Reporting ------------------------------------------------------------------------------------------- */

static size_t count_status(const list_history *history, transaction_status status) {
	size_t count = 0;

	for (size_t i = 0; i < history->count; i++) {
		count += history->transactions[i].status == status;
	}
	return count;
}

/* How often this state came in all sessions. */
static size_t count_state(const list_run *run, const char *state) {
	size_t count = 0;

	for (unsigned i = 0; i <= run->load.sessions; i++) {
		for (int j = 0; j < MAX_STATES; j++) {
			if (strcmp(run->sessions[i].states[j].state, state) == 0) {
				count += run->sessions[i].states[j].count;
			}
		}
	}
	return count;
}

/* Whether a session before this one had this state. */
static bool was_printed(const list_run *run, unsigned session, const char *state) {
	for (unsigned i = 0; i < session; i++) {
		for (int j = 0; j < MAX_STATES; j++) {
			if (strcmp(run->sessions[i].states[j].state, state) == 0) {
				return true;
			}
		}
	}
	return false;
}

/* Prints how often transactions failed and with what; whether one did that must not. */
static bool print_errors(const list_run *run) {
	bool forbidden = false;

	for (unsigned i = 0; i <= run->load.sessions; i++) {
		const list_session *session = &run->sessions[i];

		for (const state_count *at = session->states; at < session->states + MAX_STATES && at->count > 0; at++) {
			if (!was_printed(run, i, at->state)) {
				printf("SQLSTATE %s, %s: %zu times\n", at->state, at->allowed ? "allowed" : "not allowed",
					   count_state(run, at->state));
			}
		}
		if (session->first_error[0] != '\0') {
			printf("session %u: %s", i, session->first_error);
			forbidden = true;
		}
	}
	return forbidden;
}

static void print_summary(const list_history *history, isolation_level level, const check_report *report) {
	printf("%s: %zu transactions, %zu committed, %zu aborted, %zu unknown; %zu ww, %zu wr, %zu rw; found:",
		   level_names[level], history->count, count_status(history, STATUS_COMMITTED),
		   count_status(history, STATUS_ABORTED), count_status(history, STATUS_UNKNOWN), report->ww_edges,
		   report->wr_edges, report->rw_edges);
	for (int kind = 0; kind < ANOMALIES; kind++) {
		if (report->found[kind] > 0) {
			printf(" %s %zu", anomaly_names[kind], report->found[kind]);
		}
	}
	puts(report->total == 0 ? " nothing" : "");
}

static int run_and_check(int count, char **arguments) {
	static list_run run;
	check_report report;
	bool forbidden;

	take_options(&run, count, arguments);
	printf("mode=%s level=%s upsert=%d sessions=%u seed=%" PRIu64 "\n", mode_names[run.load.mode],
		   short_level_names[run.load.level], run.load.upsert, run.load.sessions, run.load.seed);
	create_tables(run.load.connection);
	run_sessions(&run);
	gather(&run);
	write_history(&run);
	forbidden = print_errors(&run);
	report = check_history(&run.history, run.load.level, stdout);
	print_summary(&run.history, run.load.level, &report);
	history_free(&run.history);
	return report.total > 0 || forbidden ? 1 : 0;
}

/* ---- Checking only --------------------------------------------------------------------------------------- */

static char *read_file(const char *path) {
	FILE *file = fopen(path, "r");
	char *text = NULL;
	size_t size = 0;

	if (file == NULL || getdelim(&text, &size, '\0', file) < 0) {
		perror(path);
		exit(2);
	}
	fclose(file);
	return text;
}

static int check_file(const char *path, const char *level_name) {
	isolation_level level = (isolation_level)index_of(level_name, short_level_names, 3);
	list_history history = {NULL, 0};
	char *text = read_file(path);
	size_t bad_line = history_parse(text, &history);
	check_report report;

	free(text);
	if (bad_line != 0) {
		fprintf(stderr, "history: %s, line %zu is no transaction\n", path, bad_line);
		exit(2);
	}
	report = check_history(&history, level, stdout);
	print_summary(&history, level, &report);
	history_free(&history);
	return report.total > 0 ? 1 : 0;
}

int main(int count, char **arguments) {
	if (count == 4 && strcmp(arguments[1], "--check") == 0) {
		return check_file(arguments[2], arguments[3]);
	}
	if (count < 2 || arguments[1][0] == '-') {
		fputs("usage: history CONNECTION [OPTION=VALUE...] | history --check FILE RC|RR|SER\n", stderr);
		return 2;
	}
	return run_and_check(count - 1, arguments + 1);
}
