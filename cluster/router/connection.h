/*
 * connection.h: libpq connections to nodes that are waited for by the backend's latch: a wait can be cancelled, and has an end.
 */
#ifndef ROUTER_CONNECTION_H
#define ROUTER_CONNECTION_H

#include "postgres.h"

#include "libpq-fe.h"
#include "router/map.h"
#include "storage/latch.h"

/*
 * Connects to the primary of a group, in libpq's pipeline mode, nonblocking, with settings under which values as text mean the
 * same here and there; the node refuses it when it knows of another epoch. NULL when it fails, with the reason in *error
 * (palloc'd). To be released with PQfinish. Raises when the user cancels.
 */
extern PGconn *router_connect(const router_group *group, int timeout_ms, char **error);
/* Whether the node still answers: tried on another connection, which is closed again. */
extern bool router_probe(const char *conninfo, int timeout_ms);
/* What is needed to wait for the connection, for as long as it lasts: setting it up costs more than to wait. In the memory context;
 * to be released with FreeWaitEventSet before the connection. */
extern WaitEventSet *router_connection_waits(PGconn *connection, MemoryContext context);
/* Sends what is left to be sent and waits until something has come, at most so long. False: the connection is broken. */
extern bool router_connection_wait(PGconn *connection, WaitEventSet *waits, long timeout_ms);
/* Whether a connection on which nothing is expected has been closed by the node. */
extern bool router_connection_is_dead(PGconn *connection);
/* The connection's error message in one line; palloc'd. */
extern char *router_connection_error(PGconn *connection);

#endif
