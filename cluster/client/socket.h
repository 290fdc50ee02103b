/*
 * socket.h: libpq calls that end by a deadline, for threads that wait.
 */
#ifndef AIDB_SOCKET_H
#define AIDB_SOCKET_H

#include <stdbool.h>
#include <stdint.h>

#include "libpq-fe.h"

/* Milliseconds of the monotonic clock. */
uint64_t aidb_socket_now_ms(void);
void aidb_socket_sleep_ms(uint32_t ms);

/* Begins to connect, with settings for the session (as libpq's `options`). NULL: out of memory. */
PGconn *aidb_socket_start(const char *conninfo, const char *settings);
/* The events of poll() to wait for before going on. */
short aidb_socket_connect_events(PostgresPollingStatusType polling);
/* Goes on, when they have come. PGRES_POLLING_OK: connected, and nonblocking. */
PostgresPollingStatusType aidb_socket_connect_step(PGconn *connection);
/* Connects, and waits for it. NULL: failed, or not in time; then *error is set, to be freed, or NULL when memory is short. */
PGconn *aidb_socket_connect(const char *conninfo, const char *settings, uint64_t deadline_ms, char **error);
/* Sends what is left, and waits until there is something to read, or the deadline (false, as when the connection is broken). */
bool aidb_socket_wait(PGconn *connection, uint64_t deadline_ms);
/* The result of a plain statement; NULL: failed or late, the connection is of no use any more. To be cleared. */
PGresult *aidb_socket_execute(PGconn *connection, const char *sql, uint64_t deadline_ms);

#endif
