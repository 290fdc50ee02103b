#include "client/client.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/socket.h"

#define DEFAULT_CONNECTIONS 8u
#define MAX_CONNECTIONS 1024u
#define DEFAULT_TIMEOUT_MS 5000u

/* What this client has committed last in a group. */
typedef struct group_token {
	uint32_t group_id;
	uint64_t epoch, sequence;
} group_token;

struct aidb_client {
	char *conninfo;
	aidb_client_options options;
	pthread_mutex_t refreshing; /* before `lock` */
	pthread_mutex_t lock;       /* of what follows */
	aidb_topology *topology;
	uint32_t statements; /* numbers given out */
	uint32_t token_count;
	group_token tokens[AIDB_MAX_GROUPS];
};

static _Thread_local char thread_error[1024];

const char *aidb_client_error(void) {
	return thread_error;
}

aidb_client_status aidb_client_fail(aidb_client_status status, const char *format, ...) {
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(thread_error, sizeof(thread_error), format, arguments);
	va_end(arguments);
	return status;
}

/* ---- Opening and closing --------------------------------------------------------------------------------- */

static aidb_client *create(const char *conninfo, const aidb_client_options *options) {
	aidb_client *client = calloc(1, sizeof(*client));

	if (client == NULL) {
		return NULL;
	}
	client->options = options != NULL ? *options : (aidb_client_options){0};
	if (client->options.connections == 0) {
		client->options.connections = DEFAULT_CONNECTIONS;
	}
	if (client->options.timeout_ms == 0) {
		client->options.timeout_ms = DEFAULT_TIMEOUT_MS;
	}
	client->conninfo = strdup(conninfo);
	pthread_mutex_init(&client->refreshing, NULL);
	pthread_mutex_init(&client->lock, NULL);
	if (client->conninfo == NULL) {
		aidb_client_close(client);
		return NULL;
	}
	return client;
}

aidb_client_status aidb_client_open(const char *conninfo, const aidb_client_options *options, aidb_client **client) {
	aidb_client *made;
	char *error = NULL;

	if (conninfo == NULL || client == NULL ||
		(options != NULL && (options->connections > MAX_CONNECTIONS || options->read_from > AIDB_CLIENT_CACHE))) {
		return aidb_client_fail(AIDB_CLIENT_INVALID, "a client needs a connection string, a place, and good options");
	}
	made = create(conninfo, options);
	if (made == NULL) {
		return aidb_client_fail(AIDB_CLIENT_NO_MEMORY, "out of memory");
	}
	made->topology = aidb_topology_read(conninfo, made->options.connections, NULL,
										aidb_socket_now_ms() + made->options.timeout_ms, &error);
	if (made->topology == NULL) {
		aidb_client_fail(AIDB_CLIENT_UNREACHABLE, "could not read the cluster's catalog: %s",
						 error != NULL ? error : "out of memory");
		free(error);
		aidb_client_close(made);
		return AIDB_CLIENT_UNREACHABLE;
	}
	*client = made;
	return AIDB_CLIENT_OK;
}

void aidb_client_close(aidb_client *client) {
	if (client != NULL) {
		aidb_topology_free(client->topology);
		pthread_mutex_destroy(&client->lock);
		pthread_mutex_destroy(&client->refreshing);
		free(client->conninfo);
		free(client);
	}
}

uint32_t aidb_client_timeout_ms(const aidb_client *client) {
	return client->options.timeout_ms;
}

bool aidb_client_may_repeat_writes(const aidb_client *client) {
	return !client->options.no_retry;
}

uint32_t aidb_client_new_statements(aidb_client *client, uint32_t count) {
	uint32_t first;

	pthread_mutex_lock(&client->lock);
	first = client->statements;
	client->statements += count;
	pthread_mutex_unlock(&client->lock);
	return first;
}

/* ---- Topology -------------------------------------------------------------------------------------------- */

aidb_topology *aidb_client_hold(aidb_client *client) {
	aidb_topology *topology;

	pthread_mutex_lock(&client->lock);
	topology = client->topology;
	topology->holders++;
	pthread_mutex_unlock(&client->lock);
	return topology;
}

void aidb_client_let_go(aidb_client *client, aidb_topology *topology) {
	bool last;

	pthread_mutex_lock(&client->lock);
	last = --topology->holders == 0;
	pthread_mutex_unlock(&client->lock);
	if (last) {
		aidb_topology_free(topology);
	}
}

/* Its address tells it from the one in use: the caller holds it. */
static bool is_in_use(aidb_client *client, const aidb_topology *topology) {
	bool same;

	pthread_mutex_lock(&client->lock);
	same = client->topology == topology;
	pthread_mutex_unlock(&client->lock);
	return same;
}

bool aidb_client_refresh(aidb_client *client, const aidb_topology *stale, uint64_t deadline_ms, char **error) {
	aidb_topology *fresh = NULL, *former = NULL;
	bool needed;

	*error = NULL;
	pthread_mutex_lock(&client->refreshing);
	needed = is_in_use(client, stale);
	if (needed) {
		fresh = aidb_topology_read(client->conninfo, client->options.connections, stale, deadline_ms, error);
	}
	if (fresh != NULL) {
		pthread_mutex_lock(&client->lock);
		former = client->topology;
		client->topology = fresh;
		pthread_mutex_unlock(&client->lock);
	}
	pthread_mutex_unlock(&client->refreshing);
	if (former != NULL) {
		aidb_client_let_go(client, former);
	}
	return fresh != NULL || !needed;
}

/* ---- Replicas -------------------------------------------------------------------------------------------- */

bool aidb_client_wants_token(const aidb_client *client) {
	return client->options.read_from != AIDB_CLIENT_PRIMARY;
}

/* Under the lock: of this group, made when it is the first; NULL: no room. */
static group_token *find_token(aidb_client *client, uint32_t group_id) {
	for (uint32_t i = 0; i < client->token_count; i++) {
		if (client->tokens[i].group_id == group_id) {
			return &client->tokens[i];
		}
	}
	if (client->token_count == AIDB_MAX_GROUPS) {
		return NULL;
	}
	client->tokens[client->token_count] = (group_token){.group_id = group_id};
	return &client->tokens[client->token_count++];
}

void aidb_client_note_token(aidb_client *client, uint32_t group_id, const char *token) {
	uint64_t epoch, sequence;
	group_token *noted;

	if (sscanf(token, "%" SCNu64 ":%" SCNu64, &epoch, &sequence) != 2) {
		return;
	}
	pthread_mutex_lock(&client->lock);
	noted = find_token(client, group_id);
	if (noted != NULL && (epoch > noted->epoch || (epoch == noted->epoch && sequence > noted->sequence))) {
		noted->epoch = epoch;
		noted->sequence = sequence;
	}
	pthread_mutex_unlock(&client->lock);
}

static void copy_token(aidb_client *client, uint32_t group_id, char *token) {
	const group_token *noted;

	pthread_mutex_lock(&client->lock);
	noted = find_token(client, group_id);
	if (noted != NULL && noted->epoch > 0) {
		snprintf(token, AIDB_TOKEN_BYTES, "%" PRIu64 ":%" PRIu64, noted->epoch, noted->sequence);
	}
	pthread_mutex_unlock(&client->lock);
}

aidb_pool *aidb_client_choose(aidb_client *client, const aidb_client_group *group, char *token) {
	bool caches = client->options.read_from == AIDB_CLIENT_CACHE;
	uint32_t least = UINT32_MAX;
	aidb_pool *chosen = NULL;

	token[0] = '\0';
	for (uint32_t i = 0; aidb_client_wants_token(client) && i < group->replica_count; i++) {
		if (group->replicas[i].is_cache == caches) {
			uint32_t load = aidb_pool_load(group->replicas[i].pool);

			chosen = load < least ? group->replicas[i].pool : chosen;
			least = load < least ? load : least;
		}
	}
	if (chosen == NULL) {
		return group->pool;
	}
	copy_token(client, group->id, token);
	return chosen;
}
