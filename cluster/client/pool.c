#include "client/pool.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "client/socket.h"

#define AVOID_MS 5000u

struct aidb_pool {
	char *conninfo;
	uint64_t epoch;
	aidb_slot_set slots;
	uint32_t limit;
	pthread_mutex_t lock; /* of what follows */
	pthread_cond_t given;
	uint32_t holders;
	uint32_t open; /* connections, idle or in use */
	uint32_t idle_count;
	uint32_t waiting; /* threads */
	uint64_t avoid_until_ms;
	aidb_connection **idle; /* room for `limit` */
};

aidb_pool *aidb_pool_create(const aidb_pool_target *target, uint32_t limit) {
	aidb_pool *pool = calloc(1, sizeof(*pool));
	pthread_condattr_t monotonic;

	if (pool == NULL) {
		return NULL;
	}
	pool->conninfo = strdup(target->conninfo);
	pool->idle = calloc(limit, sizeof(*pool->idle));
	if (pool->conninfo == NULL || pool->idle == NULL) {
		free(pool->conninfo);
		free(pool->idle);
		free(pool);
		return NULL;
	}
	pool->epoch = target->epoch;
	pool->slots = target->slots;
	pool->limit = limit;
	pool->holders = 1;
	pthread_mutex_init(&pool->lock, NULL);
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(&pool->given, &monotonic);
	pthread_condattr_destroy(&monotonic);
	return pool;
}

static void close_connection(aidb_connection *connection) {
	PQfinish(connection->pq);
	free(connection);
}

void aidb_pool_hold(aidb_pool *pool) {
	pthread_mutex_lock(&pool->lock);
	pool->holders++;
	pthread_mutex_unlock(&pool->lock);
}

void aidb_pool_release(aidb_pool *pool) {
	bool last;

	if (pool == NULL) {
		return;
	}
	pthread_mutex_lock(&pool->lock);
	last = --pool->holders == 0;
	pthread_mutex_unlock(&pool->lock);
	if (!last) {
		return;
	}
	for (uint32_t i = 0; i < pool->idle_count; i++) {
		close_connection(pool->idle[i]);
	}
	pthread_cond_destroy(&pool->given);
	pthread_mutex_destroy(&pool->lock);
	free(pool->idle);
	free(pool->conninfo);
	free(pool);
}

bool aidb_pool_is_for(const aidb_pool *pool, const aidb_pool_target *target) {
	return pool->epoch == target->epoch && memcmp(&pool->slots, &target->slots, sizeof(pool->slots)) == 0 &&
		   strcmp(pool->conninfo, target->conninfo) == 0;
}

static aidb_connection *make_connection(const aidb_pool *pool) {
	aidb_connection *made = calloc(1, sizeof(*made));
	char settings[256], slots[AIDB_SLOT_SET_DIGITS + 1];

	if (made == NULL) {
		return NULL;
	}
	aidb_slot_set_write(&pool->slots, slots);
	snprintf(settings, sizeof(settings),
			 "-c search_path=pg_catalog -c client_connection_check_interval=1000 -c aidb.expected_epoch=%" PRIu64
			 " -c aidb.slots=%s",
			 pool->epoch, slots);
	made->pq = aidb_socket_start(pool->conninfo, settings);
	made->polling = PGRES_POLLING_WRITING;
	if (made->pq == NULL) {
		free(made);
		return NULL;
	}
	return made;
}

bool aidb_pool_connect_step(aidb_connection *connection) {
	connection->polling = aidb_socket_connect_step(connection->pq);
	return connection->polling != PGRES_POLLING_FAILED &&
		   (connection->polling != PGRES_POLLING_OK || PQenterPipelineMode(connection->pq) == 1);
}

/* Closed by the node while nothing was under way. */
static bool is_dead(const aidb_connection *connection) {
	struct pollfd socket = {.fd = PQsocket(connection->pq), .events = POLLIN};

	return poll(&socket, 1, 0) > 0 &&
		   (PQconsumeInput(connection->pq) != 1 || PQstatus(connection->pq) != CONNECTION_OK);
}

/* Under the lock: an idle connection that is alive; or NULL, with a place for a new one taken (*may_open) or not. */
static aidb_connection *take_idle(aidb_pool *pool, bool *may_open) {
	while (pool->idle_count > 0) {
		aidb_connection *connection = pool->idle[--pool->idle_count];

		if (!is_dead(connection)) {
			return connection;
		}
		close_connection(connection);
		pool->open--;
	}
	*may_open = pool->open < pool->limit;
	pool->open += *may_open ? 1 : 0;
	return NULL;
}

aidb_connection *aidb_pool_take(aidb_pool *pool, uint64_t deadline_ms) {
	struct timespec until = {.tv_sec = (time_t)(deadline_ms / 1000), .tv_nsec = (long)(deadline_ms % 1000) * 1000000};
	aidb_connection *connection;
	bool may_open = false;
	int rc = 0;

	pthread_mutex_lock(&pool->lock);
	pool->waiting++;
	while ((connection = take_idle(pool, &may_open)) == NULL && !may_open && rc != ETIMEDOUT) {
		rc = pthread_cond_timedwait(&pool->given, &pool->lock, &until);
	}
	pool->waiting--;
	pthread_mutex_unlock(&pool->lock);
	if (connection == NULL && may_open) {
		connection = make_connection(pool);
		if (connection == NULL) {
			pthread_mutex_lock(&pool->lock);
			pool->open--;
			pthread_cond_signal(&pool->given);
			pthread_mutex_unlock(&pool->lock);
		}
	}
	return connection;
}

void aidb_pool_give(aidb_pool *pool, aidb_connection *connection, bool good) {
	pthread_mutex_lock(&pool->lock);
	if (good) {
		pool->idle[pool->idle_count++] = connection;
	} else {
		pool->open--;
	}
	pthread_cond_signal(&pool->given);
	pthread_mutex_unlock(&pool->lock);
	if (!good) {
		close_connection(connection);
	}
}

void aidb_pool_avoid(aidb_pool *pool) {
	pthread_mutex_lock(&pool->lock);
	pool->avoid_until_ms = aidb_socket_now_ms() + AVOID_MS;
	pthread_mutex_unlock(&pool->lock);
}

uint32_t aidb_pool_load(aidb_pool *pool) {
	uint32_t load;

	pthread_mutex_lock(&pool->lock);
	load = pool->avoid_until_ms > aidb_socket_now_ms() ? UINT32_MAX : pool->open - pool->idle_count + pool->waiting;
	pthread_mutex_unlock(&pool->lock);
	return load;
}
