/*
 * link.h: a connection to a server for an event loop, by libpq: requests go out one after the other, each with a deadline, and
 * call back when they are over. It connects by itself when there is something to send, and again after an error. One thread.
 */
#ifndef AIDB_LINK_H
#define AIDB_LINK_H

#include <stdbool.h>
#include <stdint.h>

#include "libpq-fe.h"

#define AIDB_LINK_REQUESTS 32u
#define AIDB_LINK_PARAMETERS 8u
#define AIDB_LINK_VALUE_BYTES 1024u

typedef struct aidb_link aidb_link;

/* *result is of a good status, and cleared afterwards; NULL: failed, with the reason, which is valid during the call. May send
 * on the same link. */
typedef void (*aidb_link_done)(void *argument, const PGresult *result, const char *error);
/* A notification. */
typedef void (*aidb_link_notified)(void *argument, const char *channel, const char *payload);

/* NULL: out of memory. The strings are copied. */
aidb_link *aidb_link_create(const char *conninfo, const char *application);
/* What is under way is dropped, without a callback. NULL is fine. */
void aidb_link_destroy(aidb_link *link);
void aidb_link_on_notify(aidb_link *link, aidb_link_notified notified, void *argument);

/* Puts a request in line: parameters as text, copied; NULL is SQL's null. False: too many wait, or a value is too long;
 * then there is no callback. */
bool aidb_link_send(aidb_link *link, const char *sql, unsigned count, const char *const *values, uint32_t timeout_ms,
					uint64_t now_ms, aidb_link_done done, void *argument);
bool aidb_link_is_idle(const aidb_link *link);

/* For poll(): the socket (-1: none) and the events that it waits for. */
int aidb_link_socket(const aidb_link *link, short *events);
/* To be called when they have come, and when time has passed. */
void aidb_link_step(aidb_link *link, uint64_t now_ms);

#endif
