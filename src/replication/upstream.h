/*
 * upstream.h: a replica's connection to its primary, by libpq. Waits on the latch of this process, so that a shutdown gets
 * through; no call lasts beyond its deadline. Errors are raised, with the primary's SQLSTATE, message, detail and hint.
 */
#ifndef AIPG_UPSTREAM_H
#define AIPG_UPSTREAM_H

#include "postgres.h"

#include "aidb.h"
#include "libpq-fe.h"

typedef struct aipg_upstream aipg_upstream;

/* Connects within the time. Lives until it is closed, or the process ends. */
extern aipg_upstream *aipg_upstream_connect(const char *conninfo, int timeout_ms);
extern void aipg_upstream_close(aipg_upstream *upstream); /* NULL is fine */
/*
 * Executes one statement; parameters are given as text, results come binary when there are parameters. The result is the
 * caller's to PQclear; it is of the status that it should have.
 */
extern PGresult *aipg_upstream_query(aipg_upstream *upstream, const char *sql, int count, const char *const *values,
									 int timeout_ms);

/*
 * The same for a statement that will come again: it is prepared on the connection the first time. `sql` is a string constant; values
 * are given, and come, binary.
 */
extern PGresult *aipg_upstream_execute(aipg_upstream *upstream, const char *sql, int count, const aidb_slice *values,
									   int timeout_ms);
/* Whether anything was ever asked on it. */
extern bool aipg_upstream_is_used(const aipg_upstream *upstream);

#endif
