/*
 * script: tables, their first rows, and steps of several sessions in the order in which they are sent.
 *
 * As text, one entry a line, continued by lines that begin with a blank; what begins with # is a comment:
 *
 *   test NAME              begins a script
 *   needs FEATURE...       it is left out when one of them is switched off
 *   table NAME (...)       a table whose kind depends on the world
 *   heap NAME (...)        a heap table in every world
 *   create ..., alter ...  SQL that makes more of the schema: functions, triggers, partitioned tables
 *   setup SQL              is run before each run, when all tables are empty
 *   1a SQL                 a step of session 1, named 1a. Begun with !, it has a time limit of its own: nothing else is
 *                          sent until it ends
 *   choice NAME a | b ...  {NAME} in steps stands for each of these in turn
 *   order 1a 2a 1b ...     the order in which steps are sent; each line is a script of its own
 *   order all              every order that keeps the steps of each session in theirs
 */
#ifndef AIDB_DIFFERENTIAL_SCRIPT_H
#define AIDB_DIFFERENTIAL_SCRIPT_H

#include "text.h"

#define MAX_SESSIONS 5
#define MAX_STEPS 64

typedef struct script_step {
	int session; /* from 0 */
	char *name;
	char *sql;
	bool patient; /* ends by itself, even when it waits */
} script_step;

typedef struct diff_script {
	char *name;
	text_list schema; /* entries, from "table" to "alter" */
	text_list setup;
	script_step steps[MAX_STEPS];
	int step_count;
} diff_script;

/* Adds a step; a NULL name is replaced by the next of that session. */
void script_add_step(diff_script *to, int session, const char *name, const char *sql);
/* Everything but the steps. */
void script_copy_frame(diff_script *to, const diff_script *from);
void script_copy_step(diff_script *to, const script_step *step);
/* Everything. */
void script_copy(diff_script *to, const diff_script *from);
/* In the form above. */
void script_print(const diff_script *script, text *to);
/* Names of the tables in a schema, in its order. */
void script_tables(const diff_script *script, text_list *to);
void script_free(diff_script *script);

#endif
