/*
 * exchange.h: statements to several nodes at the same time. Each *part* is for one node: some chunks, each a statement with its
 * parameters, that go out together on one connection; their results are handed over as they come. One call, one thread.
 */
#ifndef AIDB_EXCHANGE_H
#define AIDB_EXCHANGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "client/pool.h"

#define AIDB_EXCHANGE_VALUES 4

/* A statement, which is prepared on a connection the first time. Parameters and results are binary. */
typedef struct aidb_statement {
	uint32_t number; /* of this text, below AIDB_POOL_STATEMENTS; others are sent unprepared */
	const char *sql;
} aidb_statement;

typedef enum aidb_part_state {
	AIDB_PART_OPEN,   /* not sent, or not answered yet */
	AIDB_PART_DONE,   /* all chunks have been answered */
	AIDB_PART_LOST,   /* the node is away, or not the one to ask: to be asked again, or another */
	AIDB_PART_FAILED, /* the server has refused it */
} aidb_part_state;

typedef struct aidb_part {
	uint32_t group; /* index in the topology */
	aidb_pool *pool;
	size_t chunk_count;
	size_t first_cut; /* the caller's */
	aidb_part_state state;
	bool sent;       /* something of it may have been done */
	size_t answered; /* chunks, which have been done */
	/* Before: the reads are to wait for this; "": for nothing. Afterwards, if tells_token: what reads elsewhere have to wait for, so as
	 * not to be behind it. */
	char token[AIDB_TOKEN_BYTES];
	bool tells_token;
	char *error; /* of LOST and FAILED, to be freed; NULL: out of memory */

	/* Private. */
	aidb_connection *connection;
	size_t answers; /* synchronisation points that have come, */
	size_t before;  /* of which so many stand before the first chunk's */
} aidb_part;

typedef struct aidb_exchange {
	const aidb_statement *statement;
	/* Fills in the parameters of a chunk; they are good until the next call. False: out of memory. */
	bool (*parameters)(void *argument, const aidb_part *part, size_t chunk, const char **values, int *sizes,
					   int *count);
	/* Takes rows, and the result, to be cleared. False: out of memory, or malformed. */
	bool (*result)(void *argument, const aidb_part *part, size_t chunk, PGresult *result);
	void *argument;
} aidb_exchange;

/* Brings all parts from OPEN to another state, by the deadline: those without an answer then are LOST. */
void aidb_exchange_run(const aidb_exchange *self, aidb_part *parts, size_t count, uint64_t deadline_ms);

#endif
