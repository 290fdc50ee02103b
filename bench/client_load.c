/*
 * client_load: keys and values by the client library, for bench/client: what a second takes, in keys.
 *
 *     client_load CONNINFO TABLE write|read FROM ROWS BATCH THREADS SECONDS
 *
 * Keys and values are those of workload.h, ROWS of them. A write puts BATCH keys at random, a read gets as many; with a BATCH of 1 by the
 * functions for one key. FROM is primary, standby or cache. `fill` instead of the time writes each row once.
 */
#include <inttypes.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "aidb_client.h"
#include "workload.h"

enum { MAX_BATCH = 10000, MAX_THREADS = 64 };

typedef struct load_plan {
	aidb_client_space *space;
	bool writes, fills;
	uint64_t rows;
	unsigned batch, threads;
	double until;
} load_plan;

typedef struct worker {
	const load_plan *plan;
	pthread_t thread;
	uint64_t random, done, next;
	char keys[MAX_BATCH][KEY_BYTES];
	char value[VALUE_BYTES];
	aidb_client_bytes key_bytes[MAX_BATCH], value_bytes[MAX_BATCH];
	aidb_client_value values[MAX_BATCH];
} worker;

static double now(void) {
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

_Noreturn static void fail(const char *what) {
	fprintf(stderr, "client_load: %s\n", what);
	exit(1);
}

static void check(aidb_client_status status) {
	if (status != AIDB_CLIENT_OK) {
		fail(aidb_client_error());
	}
}

/* xorshift64* (Vigna 2016). */
static uint64_t random_below(worker *self, uint64_t limit) {
	self->random ^= self->random >> 12;
	self->random ^= self->random << 25;
	self->random ^= self->random >> 27;
	return self->random * 0x2545F4914F6CDD1Dull % limit;
}

static unsigned choose_keys(worker *self) {
	unsigned count = 0;

	for (; count < self->plan->batch && (!self->plan->fills || self->next < self->plan->rows); count++) {
		uint64_t row = self->plan->fills ? self->next : random_below(self, self->plan->rows);

		self->next += self->plan->threads;
		workload_key(row, self->keys[count]);
		self->key_bytes[count] = (aidb_client_bytes){.data = self->keys[count], .size = KEY_BYTES};
		self->value_bytes[count] = (aidb_client_bytes){.data = self->value, .size = VALUE_BYTES};
	}
	return count;
}

static void write_keys(worker *self, unsigned count) {
	workload_value(self->done, 0, self->value);
	check(self->plan->batch == 1 ? aidb_client_put(self->plan->space, self->key_bytes[0], self->value_bytes[0])
								 : aidb_client_batch_put(self->plan->space, count, self->key_bytes, self->value_bytes));
}

static void read_keys(worker *self, unsigned count) {
	check(self->plan->batch == 1 ? aidb_client_get(self->plan->space, self->key_bytes[0], self->values)
								 : aidb_client_batch_get(self->plan->space, count, self->key_bytes, self->values));
	for (unsigned i = 0; i < count; i++) {
		if (!self->values[i].found || self->values[i].size != VALUE_BYTES) {
			fail("a row is not there; fill the table first");
		}
		aidb_client_value_free(&self->values[i]);
	}
}

static void *work(void *argument) {
	worker *self = argument;

	while (self->plan->fills ? self->next < self->plan->rows : now() < self->plan->until) {
		unsigned count = choose_keys(self);

		if (self->plan->writes) {
			write_keys(self, count);
		} else {
			read_keys(self, count);
		}
		self->done += count;
	}
	return NULL;
}

/* Keys that all threads have done. */
static uint64_t run(const load_plan *plan) {
	worker *workers = calloc(plan->threads, sizeof(*workers));
	uint64_t done = 0;

	if (workers == NULL) {
		fail("out of memory");
	}
	for (unsigned i = 0; i < plan->threads; i++) {
		workers[i].plan = plan;
		workers[i].next = i;
		workers[i].random = (uint64_t)time(NULL) * MAX_THREADS + i + 1;
		if (pthread_create(&workers[i].thread, NULL, work, &workers[i]) != 0) {
			fail("no thread");
		}
	}
	for (unsigned i = 0; i < plan->threads; i++) {
		pthread_join(workers[i].thread, NULL);
		done += workers[i].done;
	}
	free(workers);
	return done;
}

int main(int argc, char **argv) {
	aidb_client_options options = {.connections = MAX_THREADS, .timeout_ms = 30000};
	load_plan plan = {0};
	aidb_client *client;
	double begin;
	uint64_t done;

	if (argc != 9) {
		fail("CONNINFO TABLE write|read FROM ROWS BATCH THREADS SECONDS");
	}
	options.read_from = argv[4][0] == 'c'   ? AIDB_CLIENT_CACHE
						: argv[4][0] == 's' ? AIDB_CLIENT_STANDBY
											: AIDB_CLIENT_PRIMARY;
	plan.writes = argv[3][0] == 'w';
	plan.rows = strtoull(argv[5], NULL, 10);
	plan.batch = (unsigned)strtoul(argv[6], NULL, 10);
	plan.threads = (unsigned)strtoul(argv[7], NULL, 10);
	plan.fills = strcmp(argv[8], "fill") == 0;
	if (plan.rows == 0 || plan.batch == 0 || plan.batch > MAX_BATCH || plan.threads == 0 ||
		plan.threads > MAX_THREADS) {
		fail("a number is out of its range");
	}
	check(aidb_client_open(argv[1], &options, &client));
	check(aidb_client_space_open(client, NULL, argv[2], &plan.space));
	begin = now();
	plan.until = begin + strtod(argv[8], NULL);
	done = run(&plan);
	printf("%.0f\n", (double)done / (now() - begin));
	aidb_client_space_close(plan.space);
	aidb_client_close(client);
	return 0;
}
