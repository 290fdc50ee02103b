/*
 * metrics.h: what a server with AiDb says of itself, as Prometheus reads it (its text format, version 0.0.4).
 *
 * Of the server that has a cluster's catalog also what that says of groups and nodes: it says so while no coordinator is there, too.
 *
 * Names are aidb_<area>_<thing>_<unit>, in seconds and bytes; what only grows ends in _total. Labels are levels, slots and the role;
 * never a key, or the text of a query.
 */
#ifndef AIDB_METRICS_H
#define AIDB_METRICS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "libpq-fe.h"

typedef struct aidb_metrics {
	char *text; /* the caller's to free; NULL: out of memory */
	size_t size;
} aidb_metrics;

/* Asks the server on this connection (nonblocking), by the deadline of aidb_socket_now_ms. aidb_up is 0, and nothing else is told but why
 * as a comment, when it does not answer or refuses; a NULL connection means that with `reason`. False: the connection is of no use. */
bool aidb_metrics_collect(PGconn *connection, bool of_cluster, const char *reason, uint64_t deadline_ms,
						  aidb_metrics *metrics);

#endif
