#include "world.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>

#define RUNS_BETWEEN_VACUUMS 200

/*
 * What makes runs alike: rows are found in the order of the key, in heap tables too; a session that waits looks for a
 * deadlock at once, and says so (a notice of level LOG) when there is none.
 */
static const char common_settings[] =
	"-c enable_seqscan=off -c enable_bitmapscan=off -c enable_hashjoin=off -c enable_mergejoin=off "
	"-c enable_material=off -c enable_memoize=off -c jit=off -c max_parallel_workers_per_gather=0 "
	"-c deadlock_timeout=1ms -c log_lock_waits=on -c client_min_messages=log -c lc_messages=C "
	"-c log_min_messages=fatal -c log_statement=none -c log_min_error_statement=panic -c synchronous_commit=off";

static PGconn *open_connection(const diff_world *world, const char *connection, const char *settings) {
	text options = {0};
	PGconn *opened;
	const char *keywords[] = {"dbname", "options", NULL};
	const char *values[] = {connection, NULL, NULL};

	text_add(&options, "-c search_path=%s,public %s %s", world->name, common_settings,
			 settings != NULL ? settings : "");
	values[1] = text_get(&options);
	opened = PQconnectdbParams(keywords, values, 1);
	if (PQstatus(opened) != CONNECTION_OK) {
		fail("%s", PQerrorMessage(opened));
	}
	text_free(&options);
	return opened;
}

static void ignore_notice(void *context, const PGresult *notice) {
	(void)context;
	(void)notice;
}

void world_open(diff_world *world, const char *name, bool foreign, const char *connection, const char *settings) {
	*world = (diff_world){.name = copy_string(name), .foreign = foreign};
	world->control = open_connection(world, connection, NULL);
	PQsetNoticeReceiver(world->control, ignore_notice, NULL);
	for (int session = 0; session < MAX_SESSIONS; session++) {
		world->sessions[session] = open_connection(world, connection, settings);
	}
}

void world_continue(const diff_world *world) {
	for (int session = 0; session < MAX_SESSIONS; session++) {
		if (world->sessions[session] != NULL && PQbackendPID(world->sessions[session]) > 0) {
			kill(PQbackendPID(world->sessions[session]), SIGCONT);
		}
	}
}

void world_close(diff_world *world) {
	PQfinish(world->control);
	for (int session = 0; session < MAX_SESSIONS; session++) {
		PQfinish(world->sessions[session]);
		world->sessions[session] = NULL;
	}
	world_forget_schema(world);
	text_list_free(&world->tables);
	free(world->name);
}

PGresult *world_query(diff_world *world, const char *sql) {
	PGresult *result = PQexec(world->control, sql);
	ExecStatusType status = PQresultStatus(result);

	if (status != PGRES_COMMAND_OK && status != PGRES_TUPLES_OK && status != PGRES_EMPTY_QUERY) {
		fail("%s: %s\n%s", world->name, PQerrorMessage(world->control), sql);
	}
	return result;
}

static void run(diff_world *world, const char *sql) {
	PQclear(world_query(world, sql));
}

void world_forget_schema(diff_world *world) {
	free(world->schema);
	world->schema = NULL;
}

/* ---- Before a run ---------------------------------------------------------------------------------------- */

static char *schema_statements(const diff_world *world, const diff_script *script) {
	text sql = {0};

	text_add(&sql, "DROP SCHEMA IF EXISTS %s CASCADE; CREATE SCHEMA %s;", world->name, world->name);
	for (int i = 0; i < script->schema.count; i++) {
		const char *entry = script->schema.items[i];

		if (starts_with(entry, "table ")) {
			text_add(&sql, "CREATE %s %s;\n", world->foreign ? "FOREIGN TABLE" : "TABLE", entry + strlen("table "));
			text_trim(&sql);
			sql.size--;
			text_add(&sql, "%s;\n", world->foreign ? " SERVER aidb" : "");
		} else if (starts_with(entry, "heap ")) {
			text_add(&sql, "CREATE TABLE %s;\n", entry + strlen("heap "));
		} else {
			text_add(&sql, "%s;\n", entry);
		}
	}
	return text_take(&sql);
}

static void make_tables(diff_world *world, const diff_script *script) {
	char *wanted = schema_statements(world, script);

	if (world->schema == NULL || strcmp(wanted, world->schema) != 0) {
		world_forget_schema(world);
		run(world, wanted);
		world->schema = wanted;
		text_list_free(&world->tables);
		script_tables(script, &world->tables);
	} else {
		text sql = {0};

		for (int i = 0; i < world->tables.count; i++) {
			text_add(&sql, "%s %s", i == 0 ? "TRUNCATE" : ",", world->tables.items[i]);
		}
		run(world, text_get(&sql));
		text_free(&sql);
		free(wanted);
	}
}

/* DISCARD ALL would take the settings of the connection away, were they not its defaults. */
static void renew_session(diff_world *world, int session) {
	PGresult *result;

	PQsetNoticeReceiver(world->sessions[session], ignore_notice, NULL);
	result = PQexec(world->sessions[session], "DISCARD ALL");
	if (PQresultStatus(result) != PGRES_COMMAND_OK) {
		fail("%s: session %d: %s", world->name, session + 1, PQerrorMessage(world->sessions[session]));
	}
	PQclear(result);
}

void world_prepare(diff_world *world, const diff_script *script) {
	for (int session = 0; session < MAX_SESSIONS; session++) {
		renew_session(world, session);
	}
	if (world->runs++ % RUNS_BETWEEN_VACUUMS == 0) {
		run(world, "VACUUM pg_catalog.pg_class, pg_catalog.pg_attribute, pg_catalog.pg_depend, pg_catalog.pg_type");
	}
	make_tables(world, script);
	for (int i = 0; i < script->setup.count; i++) {
		run(world, script->setup.items[i]);
	}
}

/* ---- After a run ----------------------------------------------------------------------------------------- */

void world_contents(diff_world *world, text *to) {
	for (int i = 0; i < world->tables.count; i++) {
		text sql = {0};
		text_list rows = {0};
		PGresult *result;

		text_add(&sql, "SELECT t::text FROM %s t", world->tables.items[i]);
		result = world_query(world, text_get(&sql));
		text_add(to, "%s:\n", world->tables.items[i]);
		for (int row = 0; row < PQntuples(result); row++) {
			text_list_add(&rows, copy_string(PQgetvalue(result, row, 0)));
		}
		text_list_sort(&rows);
		for (int row = 0; row < rows.count; row++) {
			text_add(to, "   %s\n", rows.items[row]);
		}
		text_list_free(&rows);
		PQclear(result);
		text_free(&sql);
	}
}
