#include "admin/doctor.h"

#include <libpq-fe.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "admin/output.h"

#define CONNECT_S "5"

/* A check is a query that gives rows of: level (ok, warning, problem), what was found, what to do. One that gives none has nothing to look at. */
typedef struct check {
	const char *name;
	const char *sql;
} check;

/* Before anything else can be asked. */
static const check basics[] = {
	{"PostgreSQL",
	 "SELECT CASE WHEN v / 10000 = 15 THEN 'ok' ELSE 'problem' END, 'version ' || current_setting('server_version'),"
	 " 'AiDb is made for PostgreSQL 15.' FROM (SELECT current_setting('server_version_num')::int v) x"},
	{"library",
	 "SELECT CASE WHEN l ~ '\\maidb\\M' THEN 'ok' ELSE 'problem' END, 'shared_preload_libraries = ''' || l || '''',"
	 " 'Add aidb to it in postgresql.conf and restart the server.' FROM (SELECT "
	 "current_setting('shared_preload_libraries') l) x"},
	{"extension",
	 "SELECT CASE WHEN e.extversion IS NULL THEN 'problem' WHEN e.extversion = a.default_version THEN 'ok' ELSE "
	 "'warning' END, coalesce('aidb ' || e.extversion, 'it is not in this database'),"
	 " CASE WHEN e.extversion IS NULL THEN 'CREATE EXTENSION aidb, or connect to the database that has it.'"
	 " ELSE 'ALTER EXTENSION aidb UPDATE: version ' || a.default_version || ' is installed.' END"
	 " FROM (SELECT 1) o LEFT JOIN pg_available_extensions a ON a.name = 'aidb' LEFT JOIN pg_extension e ON "
	 "e.extname = 'aidb'"},
};

static const check server_checks[] = {
	{"store", "SELECT CASE WHEN writable THEN 'ok' WHEN (SELECT role FROM aidb.node_status()) IN ('standby', 'cache') "
			  "THEN 'ok' ELSE "
			  "'problem' END, status || coalesce(': ' || nullif(detail, ''), ''), 'See the server log, make room or "
			  "replace the disk, and "
			  "restart the server.' FROM aidb.health()"},
	{"workers",
	 "SELECT CASE WHEN n >= 4 THEN 'ok' ELSE 'warning' END, n || ' of 4 background workers run', 'Raise "
	 "max_worker_processes and restart: sessions do their work meanwhile.' FROM (SELECT count(*) n FROM "
	 "pg_stat_activity "
	 "WHERE backend_type IN ('aidb logger', 'aidb flusher', 'aidb compactor', 'aidb replication launcher')) x"},
	{"durability", "SELECT CASE WHEN bool_or(bad) THEN 'warning' ELSE 'ok' END, string_agg(name || ' = ' || setting, "
				   "', ' ORDER BY name),"
				   " 'A power failure can lose commits that were acknowledged, or more.' FROM (SELECT name, setting, "
				   "setting = 'off' AS "
				   "bad FROM pg_settings WHERE name IN ('fsync', 'synchronous_commit')) x"},
	{"stalls", "SELECT CASE WHEN s.stall_seconds > 0.05 * u.up THEN 'warning' ELSE 'ok' END, 'writers have waited for "
			   "compaction ' || "
			   "round(s.stall_seconds::numeric, 1) || ' s of ' || round(u.up::numeric) || ' s', 'Raise aidb.memory, or "
			   "write less.' FROM "
			   "aidb.stat_commit s, (SELECT extract(epoch FROM now() - pg_postmaster_start_time()) AS up) u"},
	{"old transactions",
	 "SELECT CASE WHEN max(age) > interval '1 hour' THEN 'warning' ELSE 'ok' END, 'the oldest is ' || "
	 "coalesce(date_trunc('second', max(age))::text, 'none'), 'What it could see cannot be cleaned up: see "
	 "pg_stat_activity, pg_prepared_xacts.' FROM (SELECT now() - xact_start AS age FROM pg_stat_activity WHERE "
	 "backend_type = 'client backend' UNION ALL SELECT now() - prepared FROM pg_prepared_xacts) x"},
	{"replica", "SELECT CASE WHEN state = 'failed' THEN 'problem' WHEN heard_ms > 30000 THEN 'warning' ELSE 'ok' END, "
				"role || ' of ' || "
				"upstream || ', ' || state || coalesce(', ' || lag_commits || ' commits behind', ''), 'Look at the "
				"server log here and "
				"at the primary.' FROM aidb.node_status() WHERE role IN ('standby', 'cache')"},
	{"slots",
	 "SELECT CASE WHEN lost THEN 'problem' WHEN retained_bytes > 256000000 THEN 'warning' ELSE 'ok' END, slot || ' ' "
	 "|| CASE WHEN "
	 "lost THEN 'has no log any more' ELSE 'keeps ' || pg_size_pretty(retained_bytes) || ' of log' END, 'See whether "
	 "its "
	 "replica or archiver is well; aidb.stream_drop() for one that will not come back.' FROM aidb.stat_replication"},
	{"backup", "SELECT CASE WHEN max(finished) IS NULL OR max(finished) < now() - interval '2 days' THEN 'warning' "
			   "ELSE 'ok' END, "
			   "coalesce('the last one is of ' || date_trunc('second', max(finished)), 'none was ever taken'), "
			   "'aidb-admin backup, and "
			   "aidb-admin archive as a service.' FROM aidb.backup WHERE (SELECT role FROM aidb.node_status()) IN "
			   "('alone', 'primary')"},
};

static const check node_checks[] = {
	{"two phases", "SELECT CASE WHEN n >= 10 THEN 'ok' ELSE 'problem' END, 'max_prepared_transactions = ' || n, "
				   "'Definitions of tables of the "
				   "cluster are changed in two phases: set it to 10 and restart.' FROM (SELECT "
				   "current_setting('max_prepared_transactions')::int n) x"},
};

static const check cluster_checks[] = {
	{"coordinator", "SELECT CASE WHEN max(until) > clock_timestamp() THEN 'ok' ELSE 'problem' END, coalesce('\"' || "
					"max(holder) || '\" has the "
					"lease', 'none has ever acted'), 'Without one, a primary that is lost is not replaced: start "
					"aidb_coordinator.' FROM "
					"aidb.coordinator"},
	{"nodes", "SELECT CASE WHEN state = 'up' THEN 'ok' ELSE 'problem' END, 'node ' || name || ' is ' || state || "
			  "coalesce(': ' || "
			  "nullif(detail, ''), ''), 'aidb-admin events tells since when.' FROM aidb.nodes"},
	{"groups", "SELECT CASE WHEN in_sync IS NOT NULL OR NOT synchronous THEN 'ok' ELSE 'warning' END, 'group ' || name "
			   "|| ', primary ' || "
			   "\"primary\" || ', ' || coalesce('in sync ' || in_sync, 'no standby in sync'), 'The loss of its primary "
			   "would be a loss of "
			   "commits: add a replica, or see why it does not come in sync.' FROM aidb.groups"},
	{"alerts", "SELECT CASE WHEN count(*) > 0 THEN 'warning' ELSE 'ok' END, count(*) || ' in the last day' || "
			   "coalesce('; the last: ' || "
			   "(array_agg(message ORDER BY event_id DESC))[1], ''), 'aidb-admin events' FROM aidb.event WHERE "
			   "severity = 'alert' AND at > "
			   "now() - interval '1 day'"},
};

typedef struct examination {
	bool json;
	bool any;
	int problems;
	int warnings;
} examination;

static void tell(examination *of, const char *where, const char *name, const char *level, const char *found,
				 const char *advice) {
	bool is_ok = strcmp(level, "ok") == 0;

	of->problems += strcmp(level, "problem") == 0;
	of->warnings += strcmp(level, "warning") == 0;
	if (of->json) {
		static const char *const names[] = {"where", "check", "level", "found", "advice"};
		const char *const values[] = {where, name, level, found, is_ok ? "" : advice};

		fputs(of->any ? ",\n {" : "[{", stdout);
		for (int i = 0; i < 5; i++) {
			printf("%s\"%s\": ", i > 0 ? ", " : "", names[i]);
			aidb_print_json_string(stdout, values[i]);
		}
		putchar('}');
	} else {
		printf("%-8s %s%s%s: %s\n", level, where, where[0] != '\0' ? ", " : "", name, found);
		if (!is_ok) {
			printf("         %s\n", advice);
		}
	}
	of->any = true;
}

static void run_checks(examination *of, PGconn *connection, const char *where, const check *checks, size_t count) {
	for (size_t i = 0; i < count; i++) {
		PGresult *result = PQexec(connection, checks[i].sql);

		if (PQresultStatus(result) != PGRES_TUPLES_OK) {
			const char *message = PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY);

			tell(of, where, checks[i].name, "problem", message != NULL ? message : PQerrorMessage(connection),
				 "Connect as a superuser, or as a member of pg_monitor.");
		}
		for (int row = 0; row < PQntuples(result); row++) {
			tell(of, where, checks[i].name, PQgetvalue(result, row, 0), PQgetvalue(result, row, 1),
				 PQgetvalue(result, row, 2));
		}
		PQclear(result);
	}
}

#define RUN(of, connection, where, checks)                                                                             \
	run_checks(of, connection, where, checks, sizeof(checks) / sizeof((checks)[0]))

/* Leases are by clocks that count alike, but people and time targets go by the time of day. */
static void check_clock(examination *of, PGconn *connection, const char *where) {
	PGresult *result = PQexec(connection, "SELECT floor(extract(epoch FROM clock_timestamp()))::bigint");
	char found[64];

	if (PQresultStatus(result) == PGRES_TUPLES_OK) {
		long apart = labs((long)(strtoll(PQgetvalue(result, 0, 0), NULL, 10) - (long long)time(NULL)));

		snprintf(found, sizeof(found), "%ld s from the time here", apart);
		tell(of, where, "clock", apart > 2 ? "warning" : "ok", found, "Let all machines follow the same time service.");
	}
	PQclear(result);
}

/* NULL: there is no connection, which was told. */
static PGconn *connect_to(examination *of, const char *conninfo, const char *where) {
	const char *const names[] = {"dbname", "connect_timeout", "application_name", NULL};
	const char *const values[] = {conninfo, CONNECT_S, "aidb-admin doctor", NULL};
	PGconn *connection = PQconnectdbParams(names, values, 1);

	if (PQstatus(connection) != CONNECTION_OK) {
		char *message = strdup(PQerrorMessage(connection));

		if (message != NULL) {
			message[strcspn(message, "\n")] = '\0';
		}
		tell(of, where, "connection", "problem", message != NULL ? message : "",
			 "Is the server up, and does it let this role in?");
		free(message);
		PQfinish(connection);
		return NULL;
	}
	return connection;
}

static bool has_extension(PGconn *connection) {
	PGresult *result = PQexec(connection, "SELECT FROM pg_extension WHERE extname = 'aidb'");
	bool has = PQntuples(result) == 1;

	PQclear(result);
	return has;
}

static void examine_server(examination *of, PGconn *connection, const char *where, bool is_node) {
	RUN(of, connection, where, basics);
	check_clock(of, connection, where);
	if (has_extension(connection)) {
		RUN(of, connection, where, server_checks);
		if (is_node) {
			RUN(of, connection, where, node_checks);
		}
	}
}

static void examine_nodes(examination *of, PGconn *catalog) {
	PGresult *nodes = PQexec(catalog, "SELECT name, conninfo FROM aidb.node ORDER BY name");

	for (int row = 0; row < PQntuples(nodes); row++) {
		char where[128];
		PGconn *node;

		snprintf(where, sizeof(where), "node %s", PQgetvalue(nodes, row, 0));
		node = connect_to(of, PQgetvalue(nodes, row, 1), where);
		if (node != NULL) {
			examine_server(of, node, where, true);
			PQfinish(node);
		}
	}
	PQclear(nodes);
}

static bool has_nodes(PGconn *connection) {
	PGresult *result = PQexec(connection, "SELECT FROM aidb.node LIMIT 1");
	bool has = PQntuples(result) == 1;

	PQclear(result);
	return has;
}

int aidb_doctor(const char *conninfo, bool json) {
	examination of = {.json = json};
	PGconn *connection = connect_to(&of, conninfo, "");

	if (connection != NULL) {
		if (has_extension(connection) && has_nodes(connection)) {
			RUN(&of, connection, "coordinator's server", basics);
			check_clock(&of, connection, "coordinator's server");
			RUN(&of, connection, "cluster", cluster_checks);
			examine_nodes(&of, connection);
		} else {
			examine_server(&of, connection, "", false);
		}
		PQfinish(connection);
	}
	if (json) {
		puts(of.any ? "]" : "[]");
	} else {
		printf("\n%d problems, %d warnings\n", of.problems, of.warnings);
	}
	return of.problems == 0 ? 0 : 1;
}
