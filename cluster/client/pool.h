/*
 * pool.h: connections to one node, shared by the threads of a client. Each is in libpq's pipeline mode once connected, and remembers which statements
 * it has prepared. A pool is counted by who has it; its node refuses it in another epoch than that for which it was made.
 */
#ifndef AIDB_POOL_H
#define AIDB_POOL_H

#include <stdbool.h>
#include <stdint.h>

#include "libpq-fe.h"
#include "placement/slot_set.h"

#define AIDB_POOL_STATEMENTS 512u /* that a connection can have prepared */
#define AIDB_TOKEN_BYTES 48u

typedef struct aidb_pool aidb_pool;

/* Which node, and what it is to be. */
typedef struct aidb_pool_target {
	const char *conninfo;
	uint64_t epoch;      /* of the primary; 0: any, of a node that is none */
	aidb_slot_set slots; /* that scans go through */
} aidb_pool_target;

typedef struct aidb_connection {
	PGconn *pq;
	PostgresPollingStatusType polling;   /* PGRES_POLLING_OK: connected; else who took it goes on connecting */
	bool prepared[AIDB_POOL_STATEMENTS]; /* by the statement's number */
	char token[AIDB_TOKEN_BYTES];        /* that reads on it wait for */
} aidb_connection;

/* NULL: out of memory. */
aidb_pool *aidb_pool_create(const aidb_pool_target *target, uint32_t limit);
void aidb_pool_hold(aidb_pool *pool);
void aidb_pool_release(aidb_pool *pool); /* the last one closes the idle connections; NULL is fine */
bool aidb_pool_is_for(const aidb_pool *pool, const aidb_pool_target *target);

/* An idle connection, or a new one; waits for one that another thread has while there are too many. NULL: not by the deadline, or out
 * of memory. */
aidb_connection *aidb_pool_take(aidb_pool *pool, uint64_t deadline_ms);
/* As far as it goes without waiting, when the socket is ready; false: the connection failed. */
bool aidb_pool_connect_step(aidb_connection *connection);
/* `good`: nothing is under way on it; others are closed. */
void aidb_pool_give(aidb_pool *pool, aidb_connection *connection, bool good);

/* The node did not answer: better not asked for some seconds. */
void aidb_pool_avoid(aidb_pool *pool);
/* Connections that are in use or waited for; UINT32_MAX: to be avoided. */
uint32_t aidb_pool_load(aidb_pool *pool);

#endif
