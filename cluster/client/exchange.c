#include "client/exchange.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/socket.h"
#include "placement/ring.h"

#define SET_TOKEN "SELECT set_config('aidb.read_token', $1, false)"
#define TELL_TOKEN "SELECT aidb.token()"

static void end(aidb_part *part, aidb_part_state state, const char *message) {
	part->state = state;
	free(part->error);
	part->error = strndup(message, strcspn(message, "\n"));
	if (part->connection != NULL) {
		aidb_pool_give(part->pool, part->connection, false);
		part->connection = NULL;
	}
}

static void lose(aidb_part *part, const char *message) {
	aidb_pool_avoid(part->pool);
	end(part, AIDB_PART_LOST, message[0] != '\0' ? message : "the connection was closed");
}

/* ---- Sending --------------------------------------------------------------------------------------------- */

/* In a transaction of its own: it stays, whatever becomes of what follows. */
static bool send_prepare(aidb_part *part, const aidb_statement *statement, const char *name) {
	aidb_connection *connection = part->connection;

	if (PQsendPrepare(connection->pq, name, statement->sql, 0, NULL) != 1 || PQpipelineSync(connection->pq) != 1) {
		return false;
	}
	connection->prepared[statement->number] = true;
	part->before++;
	return true;
}

static bool send_token(aidb_part *part) {
	PGconn *pq = part->connection->pq;
	const char *values[] = {part->token};

	if (PQsendQueryParams(pq, SET_TOKEN, 1, NULL, values, NULL, NULL, 0) != 1 || PQpipelineSync(pq) != 1) {
		return false;
	}
	memcpy(part->connection->token, part->token, sizeof(part->token));
	part->before++;
	return true;
}

static bool send_statement(aidb_part *part, const aidb_statement *statement, const char *name, int count,
						   const char *const *values, const int *sizes) {
	static const int binary[AIDB_EXCHANGE_VALUES] = {1, 1, 1, 1};
	PGconn *pq = part->connection->pq;
	int sent = name[0] == '\0' ? PQsendQueryParams(pq, statement->sql, count, NULL, values, sizes, binary, 1)
							   : PQsendQueryPrepared(pq, name, count, values, sizes, binary, 1);

	return sent == 1 && PQpipelineSync(pq) == 1;
}

/* All of it, as far as the socket takes it. NULL, or why not. */
static const char *send_all(const aidb_exchange *self, aidb_part *part) {
	const aidb_statement *statement = self->statement;
	PGconn *pq = part->connection->pq;
	char name[16] = "";

	if (statement->number < AIDB_POOL_STATEMENTS) {
		snprintf(name, sizeof(name), "c%u", (unsigned)statement->number);
		if (!part->connection->prepared[statement->number] && !send_prepare(part, statement, name)) {
			return PQerrorMessage(pq);
		}
	}
	if (strcmp(part->token, part->connection->token) != 0 && !send_token(part)) {
		return PQerrorMessage(pq);
	}
	for (size_t chunk = 0; chunk < part->chunk_count; chunk++) {
		const char *values[AIDB_EXCHANGE_VALUES];
		int sizes[AIDB_EXCHANGE_VALUES], count;

		if (!self->parameters(self->argument, part, chunk, values, sizes, &count)) {
			end(part, AIDB_PART_FAILED, "out of memory"); /* here: another node would not help */
			return NULL;
		}
		part->sent = true;
		if (!send_statement(part, statement, name, count, values, sizes)) {
			return PQerrorMessage(pq);
		}
	}
	if (part->tells_token &&
		(PQsendQueryParams(pq, TELL_TOKEN, 0, NULL, NULL, NULL, NULL, 0) != 1 || PQpipelineSync(pq) != 1)) {
		return PQerrorMessage(pq);
	}
	return PQflush(pq) < 0 ? PQerrorMessage(pq) : NULL;
}

static void send_part(const aidb_exchange *self, aidb_part *part) {
	const char *wrong = send_all(self, part);

	if (wrong != NULL) {
		lose(part, wrong);
	}
}

static void begin(const aidb_exchange *self, aidb_part *part, uint64_t deadline_ms) {
	part->connection = aidb_pool_take(part->pool, deadline_ms);
	if (part->connection == NULL) {
		end(part, AIDB_PART_LOST, "all connections to it were in use for too long, or memory is short");
	} else if (PQstatus(part->connection->pq) == CONNECTION_BAD) {
		lose(part, PQerrorMessage(part->connection->pq)); /* refused at once */
	} else if (part->connection->polling == PGRES_POLLING_OK) {
		send_part(self, part);
	}
}

static void go_on_connecting(const aidb_exchange *self, aidb_part *part) {
	if (!aidb_pool_connect_step(part->connection)) {
		lose(part, PQerrorMessage(part->connection->pq));
	} else if (part->connection->polling == PGRES_POLLING_OK) {
		send_part(self, part);
	}
}

/* ---- Receiving ------------------------------------------------------------------------------------------- */

/* Whether an error of a server says that it is not the one to be asked, or not now, rather than that the statement is wrong. */
static bool is_passing(const PGresult *result) {
	static const char *const states[] = {"IA001", "IA002", "25006", "57P01", "57P02",
										 "57P03", "55000", "40001", "40P01", "53300"};
	const char *state = PQresultErrorField(result, PG_DIAG_SQLSTATE);

	for (size_t i = 0; state != NULL && i < sizeof(states) / sizeof(states[0]); i++) {
		if (strcmp(state, states[i]) == 0) {
			return true;
		}
	}
	return state == NULL || strncmp(state, "08", 2) == 0; /* the connection was lost: this one, or the node's own */
}

static void take_error(aidb_part *part, const PGresult *result) {
	const char *message = PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY);

	if (message == NULL) {
		message = PQresultErrorMessage(result);
	}
	if (is_passing(result)) {
		lose(part, message);
	} else {
		end(part, AIDB_PART_FAILED, message);
	}
}

static void take_sync(aidb_part *part) {
	part->answers++;
	if (part->answers > part->before && part->answered < part->chunk_count) {
		part->answered++;
	}
	if (part->answers == part->before + part->chunk_count + (part->tells_token ? 1 : 0)) {
		part->state = AIDB_PART_DONE;
		aidb_pool_give(part->pool, part->connection, true);
		part->connection = NULL;
	}
}

/* Rows, of what is answered next. */
static void take_rows(const aidb_exchange *self, aidb_part *part, PGresult *result) {
	if (part->answers < part->before) {
		PQclear(result);
	} else if (part->answered == part->chunk_count) {
		snprintf(part->token, sizeof(part->token), "%s", PQgetvalue(result, 0, 0));
		PQclear(result);
	} else if (!self->result(self->argument, part, part->answered, result)) {
		end(part, AIDB_PART_FAILED, "the answer is malformed, or memory is short");
	}
}

static void take_result(const aidb_exchange *self, aidb_part *part, PGresult *result) {
	switch (PQresultStatus(result)) {
	case PGRES_TUPLES_OK:
		take_rows(self, part, result);
		return;
	case PGRES_PIPELINE_SYNC:
		take_sync(part);
		break;
	case PGRES_COMMAND_OK:
		break;
	default:
		take_error(part, result);
		break;
	}
	PQclear(result);
}

/* Everything that has come for the part. */
static void receive(const aidb_exchange *self, aidb_part *part) {
	if (PQconsumeInput(part->connection->pq) != 1) {
		lose(part, PQerrorMessage(part->connection->pq));
	}
	while (part->state == AIDB_PART_OPEN && PQisBusy(part->connection->pq) == 0) {
		PGresult *result = PQgetResult(part->connection->pq);

		if (result != NULL) {
			take_result(self, part, result);
		}
	}
}

static void go_on(const aidb_exchange *self, aidb_part *part) {
	if (part->connection->polling == PGRES_POLLING_OK) {
		receive(self, part);
	} else {
		go_on_connecting(self, part);
	}
}

static short awaited_events(const aidb_connection *connection) {
	if (connection->polling != PGRES_POLLING_OK) {
		return aidb_socket_connect_events(connection->polling);
	}
	return PQflush(connection->pq) > 0 ? POLLIN | POLLOUT : POLLIN;
}

static size_t collect_sockets(aidb_part *parts, size_t count, struct pollfd *sockets, aidb_part **of) {
	size_t used = 0;

	for (size_t i = 0; i < count; i++) {
		if (parts[i].state == AIDB_PART_OPEN) {
			const aidb_connection *connection = parts[i].connection;

			sockets[used] = (struct pollfd){.fd = PQsocket(connection->pq), .events = awaited_events(connection)};
			of[used++] = &parts[i];
		}
	}
	return used;
}

void aidb_exchange_run(const aidb_exchange *self, aidb_part *parts, size_t count, uint64_t deadline_ms) {
	struct pollfd sockets[AIDB_MAX_GROUPS];
	aidb_part *of[AIDB_MAX_GROUPS];
	size_t waiting;

	for (size_t i = 0; i < count; i++) {
		begin(self, &parts[i], deadline_ms);
	}
	while ((waiting = collect_sockets(parts, count, sockets, of)) > 0) {
		uint64_t now = aidb_socket_now_ms();

		if (now >= deadline_ms || poll(sockets, (nfds_t)waiting, (int)(deadline_ms - now)) == 0) {
			break;
		}
		for (size_t i = 0; i < waiting; i++) {
			if (sockets[i].revents != 0) {
				go_on(self, of[i]);
			}
		}
	}
	for (size_t i = 0; i < count; i++) {
		if (parts[i].state == AIDB_PART_OPEN) {
			lose(&parts[i], "no answer in time");
		}
	}
}
