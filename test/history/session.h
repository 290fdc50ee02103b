/*
 * session.h: one connection that runs random transactions and notes what they did.
 */
#ifndef AIDB_TEST_SESSION_H
#define AIDB_TEST_SESSION_H

#include <libpq-fe.h>

#include "workload.h"

/* Different SQLSTATEs that are counted; others count as the last. */
#define MAX_STATES 16

typedef struct state_count {
	char state[8];
	size_t count;
	bool allowed; /* 40001, 40P01, 23505, or the server went away */
} state_count;

typedef struct list_session {
	workload *load;
	test_random random;
	PGconn *connection; /* NULL: could not be made */
	list_history history;
	state_count states[MAX_STATES]; /* of transactions that failed */
	char first_error[256];          /* of those that are not allowed; empty: none */
	history_transaction current;
} list_session;

/* Runs transactions until the workload ends. A lost connection is made again. The argument is a session with `load` and
 * `random` set; for pthread_create. */
void *session_run(void *session);

/* Reads all lists in a transaction with status final. Returns false when it does not work. */
bool session_read_all(list_session *session);

#endif
