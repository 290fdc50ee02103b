#include "replication/upstream.h"

#include "miscadmin.h"
#include "pgstat.h"
#include "storage/latch.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#define MAX_PREPARED 4
#define MAX_VALUES 8

struct aipg_upstream {
	PGconn *connection;
	int prepared_count;
	const char *prepared[MAX_PREPARED]; /* statements; each is prepared under its place as a name */
};

/* Waits until the socket is ready, for `events`; raises when the time is over. */
static void wait_for(PGconn *connection, int events, TimestampTz deadline) {
	long left_ms = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), deadline);
	int happened = WaitLatchOrSocket(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH | events,
									 PQsocket(connection), left_ms, PG_WAIT_EXTENSION);

	if ((happened & WL_LATCH_SET) != 0) {
		ResetLatch(MyLatch);
	}
	CHECK_FOR_INTERRUPTS();
	if (GetCurrentTimestamp() >= deadline) {
		ereport(ERROR, (errcode(ERRCODE_CONNECTION_FAILURE), errmsg("the primary does not answer in time")));
	}
}

static void pg_attribute_noreturn() raise_broken(PGconn *connection, const char *what) {
	char *message = pchomp(PQerrorMessage(connection));

	ereport(ERROR, (errcode(ERRCODE_CONNECTION_FAILURE), errmsg("%s", what), errdetail_internal("%s", message)));
}

static void connect_until(PGconn *connection, TimestampTz deadline) {
	PostgresPollingStatusType status = PGRES_POLLING_WRITING;

	while (status != PGRES_POLLING_OK) {
		if (PQstatus(connection) == CONNECTION_BAD || status == PGRES_POLLING_FAILED) {
			raise_broken(connection, "could not connect to the primary");
		}
		wait_for(connection, status == PGRES_POLLING_READING ? WL_SOCKET_READABLE : WL_SOCKET_WRITEABLE, deadline);
		status = PQconnectPoll(connection);
	}
	if (PQsetnonblocking(connection, 1) != 0) {
		raise_broken(connection, "could not connect to the primary");
	}
}

aipg_upstream *aipg_upstream_connect(const char *conninfo, int timeout_ms) {
	static const char *const names[] = {"dbname", "fallback_application_name", NULL};
	const char *values[] = {conninfo, "aidb replica", NULL};
	TimestampTz deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), timeout_ms);
	PGconn *connection = PQconnectStartParams(names, values, 1); /* the first is a whole connection string */
	aipg_upstream *upstream;

	if (connection == NULL) {
		ereport(ERROR, (errcode(ERRCODE_OUT_OF_MEMORY), errmsg("out of memory")));
	}
	PG_TRY();
	{
		connect_until(connection, deadline);
		upstream = MemoryContextAllocZero(TopMemoryContext, sizeof(*upstream));
		upstream->connection = connection;
	}
	PG_CATCH();
	{
		PQfinish(connection);
		PG_RE_THROW();
	}
	PG_END_TRY();
	return upstream;
}

void aipg_upstream_close(aipg_upstream *upstream) {
	if (upstream != NULL) {
		PQfinish(upstream->connection);
		pfree(upstream);
	}
}

static PGresult *next_result(PGconn *connection, TimestampTz deadline) {
	int unsent;

	while ((unsent = PQflush(connection)) > 0) {
		wait_for(connection, WL_SOCKET_WRITEABLE | WL_SOCKET_READABLE, deadline);
		if (PQconsumeInput(connection) == 0) {
			raise_broken(connection, "lost the connection to the primary");
		}
	}
	while (unsent == 0 && PQisBusy(connection)) {
		wait_for(connection, WL_SOCKET_READABLE, deadline);
		if (PQconsumeInput(connection) == 0) {
			raise_broken(connection, "lost the connection to the primary");
		}
	}
	return PQgetResult(connection);
}

static int sqlstate_of(const PGresult *result) {
	const char *state = PQresultErrorField(result, PG_DIAG_SQLSTATE);

	return state == NULL ? ERRCODE_CONNECTION_FAILURE : MAKE_SQLSTATE(state[0], state[1], state[2], state[3], state[4]);
}

/* Raises the primary's error as ours, and clears the result. */
static void pg_attribute_noreturn() raise_result(PGconn *connection, PGresult *result) {
	int sqlstate = sqlstate_of(result);
	const char *message = PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY);
	const char *detail = PQresultErrorField(result, PG_DIAG_MESSAGE_DETAIL);
	const char *hint = PQresultErrorField(result, PG_DIAG_MESSAGE_HINT);

	message = message != NULL ? pstrdup(message) : pchomp(PQerrorMessage(connection));
	detail = detail != NULL ? pstrdup(detail) : NULL;
	hint = hint != NULL ? pstrdup(hint) : NULL;
	PQclear(result);
	ereport(ERROR, (errcode(sqlstate), errmsg("the primary says: %s", message),
					detail != NULL ? errdetail_internal("%s", detail) : 0, hint != NULL ? errhint("%s", hint) : 0));
}

/* What has been sent is answered; of the results, the first. */
static PGresult *receive(PGconn *connection, TimestampTz deadline) {
	PGresult *result = next_result(connection, deadline), *more;

	while (result != NULL && (more = next_result(connection, deadline)) != NULL) {
		PQclear(more);
	}
	if (result == NULL) {
		raise_broken(connection, "lost the connection to the primary");
	}
	if (PQresultStatus(result) != PGRES_COMMAND_OK && PQresultStatus(result) != PGRES_TUPLES_OK) {
		raise_result(connection, result);
	}
	return result;
}

PGresult *aipg_upstream_query(aipg_upstream *upstream, const char *sql, int count, const char *const *values,
							  int timeout_ms) {
	PGconn *connection = upstream->connection;
	int sent = count > 0 ? PQsendQueryParams(connection, sql, count, NULL, values, NULL, NULL, 1)
						 : PQsendQuery(connection, sql);

	if (sent == 0) {
		raise_broken(connection, "could not send to the primary");
	}
	return receive(connection, TimestampTzPlusMilliseconds(GetCurrentTimestamp(), timeout_ms));
}

/* The name of the statement, which is prepared if it has to be. */
static int prepare(aipg_upstream *upstream, const char *sql, TimestampTz deadline) {
	char name[16];
	int place = 0;

	while (place < upstream->prepared_count && upstream->prepared[place] != sql) {
		place++;
	}
	if (place == upstream->prepared_count) {
		Assert(place < MAX_PREPARED);
		snprintf(name, sizeof(name), "s%d", place);
		if (PQsendPrepare(upstream->connection, name, sql, 0, NULL) == 0) {
			raise_broken(upstream->connection, "could not send to the primary");
		}
		PQclear(receive(upstream->connection, deadline));
		upstream->prepared[upstream->prepared_count++] = sql;
	}
	return place;
}

PGresult *aipg_upstream_execute(aipg_upstream *upstream, const char *sql, int count, const aidb_slice *values,
								int timeout_ms) {
	TimestampTz deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), timeout_ms);
	const char *data[MAX_VALUES];
	int sizes[MAX_VALUES], binary[MAX_VALUES];
	char name[16];

	Assert(count <= MAX_VALUES);
	snprintf(name, sizeof(name), "s%d", prepare(upstream, sql, deadline));
	for (int i = 0; i < count; i++) {
		data[i] = values[i].data;
		sizes[i] = (int)values[i].size;
		binary[i] = 1;
	}
	if (PQsendQueryPrepared(upstream->connection, name, count, data, sizes, binary, 1) == 0) {
		raise_broken(upstream->connection, "could not send to the primary");
	}
	return receive(upstream->connection, deadline);
}

bool aipg_upstream_is_used(const aipg_upstream *upstream) {
	return upstream->prepared_count > 0;
}
