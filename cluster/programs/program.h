/*
 * program.h: PostgreSQL's programs of this machine (initdb, pg_ctl), run to their end, with a log of what they say.
 */
#ifndef AIDB_PROGRAM_H
#define AIDB_PROGRAM_H

#include <stddef.h>

/* Runs `bindir`/`program` with arguments that end with a NULL, its output to the end of file `log`; its exit status, or -1. It
 * is not ended by Ctrl-C, which is for who has called it. */
int aidb_program_run(const char *bindir, const char *program, const char *log, const char *const *arguments);
/* The last bytes of a log; empty when there is none. */
void aidb_program_log_end(const char *log, char *text, size_t size);

#endif
