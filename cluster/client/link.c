#include "client/link.h"

#include <poll.h>
#include <stdlib.h>
#include <string.h>

typedef enum link_state { LINK_CLOSED, LINK_CONNECTING, LINK_READY, LINK_SENDING, LINK_RECEIVING } link_state;

typedef struct request {
	char *sql;
	unsigned count;
	char *values[AIDB_LINK_PARAMETERS];
	uint64_t deadline_ms;
	aidb_link_done done;
	void *argument;
} request;

struct aidb_link {
	char *conninfo;
	char *application;
	PGconn *connection;
	link_state state;
	PostgresPollingStatusType polling;
	PGresult *result; /* of the request that is under way */
	request requests[AIDB_LINK_REQUESTS];
	unsigned first, count;
	aidb_link_notified notified;
	void *notified_argument;
};

static char *copy_of(const char *string) {
	return string == NULL ? NULL : strdup(string);
}

aidb_link *aidb_link_create(const char *conninfo, const char *application) {
	aidb_link *link = calloc(1, sizeof(*link));

	if (link != NULL) {
		link->conninfo = strdup(conninfo);
		link->application = strdup(application);
	}
	if (link != NULL && (link->conninfo == NULL || link->application == NULL)) {
		aidb_link_destroy(link);
		link = NULL;
	}
	return link;
}

static void close_connection(aidb_link *link) {
	PQclear(link->result);
	link->result = NULL;
	PQfinish(link->connection);
	link->connection = NULL;
	link->state = LINK_CLOSED;
}

static void free_request(request *done) {
	free(done->sql);
	for (unsigned i = 0; i < done->count; i++) {
		free(done->values[i]);
	}
	memset(done, 0, sizeof(*done));
}

static request take_request(aidb_link *link) {
	request taken = link->requests[link->first];

	memset(&link->requests[link->first], 0, sizeof(request));
	link->first = (link->first + 1) % AIDB_LINK_REQUESTS;
	link->count--;
	return taken;
}

void aidb_link_destroy(aidb_link *link) {
	if (link == NULL) {
		return;
	}
	close_connection(link);
	while (link->count > 0) {
		request dropped = take_request(link);

		free_request(&dropped);
	}
	free(link->conninfo);
	free(link->application);
	free(link);
}

void aidb_link_on_notify(aidb_link *link, aidb_link_notified notified, void *argument) {
	link->notified = notified;
	link->notified_argument = argument;
}

bool aidb_link_is_idle(const aidb_link *link) {
	return link->count == 0;
}

bool aidb_link_send(aidb_link *link, const char *sql, unsigned count, const char *const *values, uint32_t timeout_ms,
					uint64_t now_ms, aidb_link_done done, void *argument) {
	request *added = &link->requests[(link->first + link->count) % AIDB_LINK_REQUESTS];
	bool complete = true;

	if (link->count == AIDB_LINK_REQUESTS || count > AIDB_LINK_PARAMETERS) {
		return false;
	}
	*added = (request){
		.sql = strdup(sql), .count = count, .deadline_ms = now_ms + timeout_ms, .done = done, .argument = argument};
	for (unsigned i = 0; i < count; i++) {
		added->values[i] = copy_of(values[i]);
		complete = complete && (values[i] == NULL || added->values[i] != NULL);
	}
	if (added->sql == NULL || !complete) {
		free_request(added);
		return false;
	}
	link->count++;
	return true;
}

/* The first request is over. The connection is given up when it is not known to be in order. */
static void finish(aidb_link *link, const char *error) {
	request over = take_request(link);
	PGresult *result = link->result;

	link->result = NULL;
	if (over.done != NULL) {
		over.done(over.argument, error == NULL ? result : NULL, error);
	}
	PQclear(result);
	free_request(&over);
}

static void fail(aidb_link *link, const char *what) {
	char error[1024];

	strncpy(error, what, sizeof(error) - 1);
	error[sizeof(error) - 1] = '\0';
	error[strcspn(error, "\n")] = '\0';
	close_connection(link);
	finish(link, error);
}

static void start_connecting(aidb_link *link) {
	const char *names[] = {"dbname", "fallback_application_name", NULL};
	const char *values[] = {link->conninfo, link->application, NULL};

	link->connection = PQconnectStartParams(names, values, 1); /* the first is a whole connection string */
	link->polling = PGRES_POLLING_WRITING;
	link->state = LINK_CONNECTING;
	if (link->connection == NULL) {
		fail(link, "out of memory");
	} else if (PQstatus(link->connection) == CONNECTION_BAD) {
		fail(link, PQerrorMessage(link->connection));
	}
}

/* libpq must not be asked before its socket is ready. */
static bool is_ready(aidb_link *link) {
	struct pollfd socket = {.fd = PQsocket(link->connection),
							.events = link->polling == PGRES_POLLING_READING ? POLLIN : POLLOUT};

	return poll(&socket, 1, 0) != 0;
}

static void go_on_connecting(aidb_link *link) {
	if (!is_ready(link)) {
		return;
	}
	link->polling = PQconnectPoll(link->connection);
	if (link->polling == PGRES_POLLING_FAILED) {
		fail(link, PQerrorMessage(link->connection));
	} else if (link->polling == PGRES_POLLING_OK) {
		PQsetnonblocking(link->connection, 1);
		link->state = LINK_READY;
	}
}

static void start_request(aidb_link *link) {
	request *next = &link->requests[link->first];

	if (PQsendQueryParams(link->connection, next->sql, (int)next->count, NULL, (const char *const *)next->values, NULL,
						  NULL, 0) == 0) {
		fail(link, PQerrorMessage(link->connection));
	} else {
		link->state = LINK_SENDING;
	}
}

static void go_on_sending(aidb_link *link) {
	int left = PQflush(link->connection);

	if (left < 0) {
		fail(link, PQerrorMessage(link->connection));
	} else if (left == 0) {
		link->state = LINK_RECEIVING;
	}
}

static void take_notifications(aidb_link *link) {
	PGnotify *notify;

	while (link->connection != NULL && (notify = PQnotifies(link->connection)) != NULL) {
		if (link->notified != NULL) {
			link->notified(link->notified_argument, notify->relname, notify->extra);
		}
		PQfreemem(notify);
	}
}

/* The statement is over, and its connection goes on. */
static void finish_statement(aidb_link *link) {
	ExecStatusType status = PQresultStatus(link->result);
	char error[1024] = "";

	link->state = LINK_READY;
	if (status == PGRES_COMMAND_OK || status == PGRES_TUPLES_OK) {
		finish(link, NULL);
		return;
	}
	strncpy(error, PQresultErrorMessage(link->result), sizeof(error) - 1);
	error[strcspn(error, "\n")] = '\0';
	finish(link, error);
}

static void go_on_receiving(aidb_link *link) {
	if (PQconsumeInput(link->connection) == 0) {
		fail(link, PQerrorMessage(link->connection));
		return;
	}
	while (!PQisBusy(link->connection)) {
		PGresult *next = PQgetResult(link->connection);

		if (next == NULL) {
			if (link->result == NULL) {
				fail(link, "the connection was lost");
			} else {
				finish_statement(link);
			}
			return;
		}
		PQclear(link->result);
		link->result = next;
	}
}

static void look_for_notifications(aidb_link *link) {
	if (PQconsumeInput(link->connection) == 0) {
		close_connection(link); /* the next request connects anew */
	}
}

static void advance(aidb_link *link) {
	switch (link->state) {
	case LINK_CLOSED:
		start_connecting(link);
		break;
	case LINK_CONNECTING:
		go_on_connecting(link);
		break;
	case LINK_READY:
		start_request(link);
		break;
	case LINK_SENDING:
		go_on_sending(link);
		break;
	case LINK_RECEIVING:
		go_on_receiving(link);
		break;
	}
}

int aidb_link_socket(const aidb_link *link, short *events) {
	bool writes =
		link->state == LINK_SENDING || (link->state == LINK_CONNECTING && link->polling == PGRES_POLLING_WRITING);

	*events = writes ? POLLIN | POLLOUT : POLLIN;
	if (link->state == LINK_CONNECTING && link->polling == PGRES_POLLING_READING) {
		*events = POLLIN;
	}
	return link->connection == NULL ? -1 : PQsocket(link->connection);
}

/* As far as it goes without waiting: as long as the state changes. */
void aidb_link_step(aidb_link *link, uint64_t now_ms) {
	link_state before;
	unsigned count;

	if (link->count == 0) {
		if (link->connection != NULL && link->state == LINK_READY) {
			look_for_notifications(link);
		}
		take_notifications(link);
		return;
	}
	if (now_ms >= link->requests[link->first].deadline_ms) {
		fail(link, "no answer in time");
		return;
	}
	do {
		before = link->state;
		count = link->count;
		advance(link);
	} while (link->count > 0 && (link->state != before || link->count != count) && link->state != LINK_CLOSED);
	take_notifications(link);
}
