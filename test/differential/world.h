/*
 * world: one of the two places where a script runs: a schema of a database, whose tables are heap tables or AiDb tables,
 * with a connection for each session and one to look and clean up. Everything else is alike.
 */
#ifndef AIDB_DIFFERENTIAL_WORLD_H
#define AIDB_DIFFERENTIAL_WORLD_H

#include <libpq-fe.h>

#include "script.h"

typedef struct diff_world {
	char *name;   /* also of its schema */
	bool foreign; /* its tables are AiDb tables */
	PGconn *control;
	PGconn *sessions[MAX_SESSIONS];
	char *schema; /* the statements that made what is there; NULL when nothing is, or when a script has changed it */
	text_list tables;
	int runs;
} diff_world;

/* `settings` are further options of the server for its sessions ("-c name=value"), or NULL. Ends the program on errors. */
void world_open(diff_world *world, const char *name, bool foreign, const char *connection, const char *settings);
/* Empty tables of this script's schema, its setup done, sessions as new. */
void world_prepare(diff_world *world, const diff_script *script);
/* To be called when a script may have changed more than rows. */
void world_forget_schema(diff_world *world);
/* The rows of all tables. */
void world_contents(diff_world *world, text *to);
/* On the control connection; the caller clears the result. Ends the program on errors. */
PGresult *world_query(diff_world *world, const char *sql);
/* Continues processes of its sessions that were stopped. */
void world_continue(const diff_world *world);
void world_close(diff_world *world);

#endif
