/*
 * client: uses the client library as a program would, for test/tap/client.pl.
 *
 *     client CONNINFO TABLE OPTION=VALUE... COMMAND ARGUMENT...
 *
 * Options are read_from (primary, standby, cache), timeout (ms), connections, retry (0, 1) and schema. Commands:
 *
 *     put KEY VALUE...         get KEY...            delete KEY...
 *     scan LOWER UPPER LIMIT   ("" for no upper bound)
 *     later KEY VALUE          puts it, says so, waits for a line of input, and puts it again
 *     health                   a line for each group
 *     model SEED ROUNDS        random operations on keys of any bytes, compared with what a table in memory says
 *     load THREADS SECONDS     threads write batches and read them back; in the end every acknowledged value must be there
 *
 * Exit status: 0, or 1 with the library's error, or what a check found, on stderr.
 */
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "aidb_client.h"
#include "random.h"

static aidb_client *client;
static aidb_client_space *space;

static aidb_client_bytes bytes_of(const char *string) {
	return (aidb_client_bytes){.data = string, .size = strlen(string)};
}

static int finish(aidb_client_status status) {
	if (status != AIDB_CLIENT_OK && status != AIDB_CLIENT_NOT_FOUND) {
		fprintf(stderr, "%d: %s\n", (int)status, aidb_client_error());
		return 1;
	}
	return 0;
}

_Noreturn static void found(const char *what, uint64_t where) {
	fprintf(stderr, "%s (%" PRIu64 ")\n", what, where);
	exit(1);
}

static void must(aidb_client_status status) {
	if (finish(status) != 0) {
		exit(1);
	}
}

/* ---- Single commands --------------------------------------------------------------------------------------- */

static int put(int count, char **words) {
	aidb_client_bytes keys[100], values[100];
	size_t used = 0;

	for (int i = 0; i + 1 < count && used < 100; i += 2, used++) {
		keys[used] = bytes_of(words[i]);
		values[used] = bytes_of(words[i + 1]);
	}
	return finish(used == 1 ? aidb_client_put(space, keys[0], values[0])
							: aidb_client_batch_put(space, used, keys, values));
}

static int put_later(int count, char **words) {
	int status = put(count, words);

	printf("put\n");
	fflush(stdout);
	return status == 0 && getchar() != EOF ? put(count, words) : 1;
}

static void print_value(const char *key, aidb_client_value *value) {
	if (value->found) {
		printf("%s=%.*s\n", key, (int)value->size, (const char *)value->data);
	} else {
		printf("%s none\n", key);
	}
	aidb_client_value_free(value);
}

static int get(int count, char **words) {
	aidb_client_bytes keys[100];
	aidb_client_value values[100] = {0};
	aidb_client_status status;

	count = count < 100 ? count : 100;
	for (int i = 0; i < count; i++) {
		keys[i] = bytes_of(words[i]);
	}
	status = count == 1 ? aidb_client_get(space, keys[0], values)
						: aidb_client_batch_get(space, (size_t)count, keys, values);
	for (int i = 0; finish(status) == 0 && i < count; i++) {
		print_value(words[i], &values[i]);
	}
	return status != AIDB_CLIENT_OK && status != AIDB_CLIENT_NOT_FOUND;
}

static int delete (int count, char **words) {
	aidb_client_bytes keys[100];

	count = count < 100 ? count : 100;
	for (int i = 0; i < count; i++) {
		keys[i] = bytes_of(words[i]);
	}
	return finish(count == 1 ? aidb_client_delete(space, keys[0])
							 : aidb_client_batch_delete(space, (size_t)count, keys));
}

static bool print_row(void *argument, aidb_client_bytes key, aidb_client_bytes value) {
	(void)argument;
	printf("%.*s=%.*s\n", (int)key.size, (const char *)key.data, (int)value.size, (const char *)value.data);
	return true;
}

static int scan(int count, char **words) {
	aidb_client_bytes upper = {0};

	if (count == 3 && words[1][0] != '\0') {
		upper = bytes_of(words[1]);
	}
	return count == 3 ? finish(aidb_client_scan(space, bytes_of(words[0]), upper, strtoull(words[2], NULL, 10),
												print_row, NULL))
					  : 2;
}

static void print_node(void *argument, const char *group, const char *node, const char *error) {
	(void)argument;
	printf("%s %s %s\n", group, node, error != NULL ? error : "ok");
}

static int health(int count, char **words) {
	(void)count;
	(void)words;
	return finish(aidb_client_health(client, print_node, NULL));
}

/* ---- A table in memory --------------------------------------------------------------------------------------- */

enum { MODEL_KEYS = 600, MODEL_BATCH = 1500, MODEL_BYTES = 12 };

typedef struct model_key {
	unsigned char data[MODEL_BYTES];
	size_t size;
	uint64_t value; /* 0: none */
} model_key;

typedef struct model {
	model_key keys[MODEL_KEYS]; /* in order */
	size_t count;
	test_random random;
	uint64_t next_value, round;
	size_t chosen[MODEL_BATCH];
	aidb_client_bytes batch[MODEL_BATCH], puts[MODEL_BATCH];
	uint64_t numbers[MODEL_BATCH];
} model;

static int compare_model_keys(const void *left, const void *right) {
	const model_key *a = left, *b = right;
	int order = memcmp(a->data, b->data, a->size < b->size ? a->size : b->size);

	return order != 0 ? order : (a->size > b->size) - (a->size < b->size);
}

/* Bytes that matter to an encoding come often. */
static void make_keys(model *self) {
	static const unsigned char often[] = {0x00, 0x01, 0xFF, 'a'};

	for (size_t i = 0; i < MODEL_KEYS; i++) {
		model_key *key = &self->keys[self->count];

		key->size = test_random_below(&self->random, MODEL_BYTES);
		for (size_t j = 0; j < key->size; j++) {
			key->data[j] = test_random_below(&self->random, 4) > 0
							   ? often[test_random_below(&self->random, 4)]
							   : (unsigned char)test_random_below(&self->random, 256);
		}
		self->count++;
	}
	qsort(self->keys, self->count, sizeof(model_key), compare_model_keys);
	self->count = 1;
	for (size_t i = 1; i < MODEL_KEYS; i++) {
		if (compare_model_keys(&self->keys[self->count - 1], &self->keys[i]) != 0) {
			self->keys[self->count++] = self->keys[i];
		}
	}
}

/* Some keys, maybe the same more than once. */
static size_t choose(model *self) {
	size_t count = test_random_below(&self->random, 4) > 0 ? 1 + test_random_below(&self->random, 20)
														   : 1 + test_random_below(&self->random, MODEL_BATCH);

	count = test_random_below(&self->random, 3) == 0 ? 1 : count;
	for (size_t i = 0; i < count; i++) {
		self->chosen[i] = test_random_below(&self->random, self->count);
		self->batch[i] =
			(aidb_client_bytes){.data = self->keys[self->chosen[i]].data, .size = self->keys[self->chosen[i]].size};
	}
	return count;
}

static void model_put(model *self) {
	size_t count = choose(self);

	for (size_t i = 0; i < count; i++) {
		self->numbers[i] = ++self->next_value;
		self->puts[i] = (aidb_client_bytes){.data = &self->numbers[i], .size = sizeof(uint64_t)};
		self->keys[self->chosen[i]].value = self->numbers[i];
	}
	must(count == 1 ? aidb_client_put(space, self->batch[0], self->puts[0])
					: aidb_client_batch_put(space, count, self->batch, self->puts));
}

static void model_delete(model *self) {
	size_t count = choose(self);

	for (size_t i = 0; i < count; i++) {
		self->keys[self->chosen[i]].value = 0;
	}
	must(count == 1 ? aidb_client_delete(space, self->batch[0]) : aidb_client_batch_delete(space, count, self->batch));
}

static bool is_value(const void *data, size_t size, uint64_t value) {
	return size == sizeof(value) && memcmp(data, &value, sizeof(value)) == 0;
}

static void model_get(model *self) {
	static aidb_client_value values[MODEL_BATCH];
	size_t count = choose(self);

	must(count == 1 ? aidb_client_get(space, self->batch[0], values)
					: aidb_client_batch_get(space, count, self->batch, values));
	for (size_t i = 0; i < count; i++) {
		uint64_t expected = self->keys[self->chosen[i]].value;

		if (values[i].found != (expected != 0) ||
			(values[i].found && !is_value(values[i].data, values[i].size, expected))) {
			found("a get is not what was put, in round", self->round);
		}
		aidb_client_value_free(&values[i]);
	}
}

typedef struct model_scan {
	model *of;
	size_t at, end;
	uint64_t rows, stop;
} model_scan;

static bool check_row(void *argument, aidb_client_bytes key, aidb_client_bytes value) {
	model_scan *self = argument;
	const model_key *expected;

	while (self->at < self->end && self->of->keys[self->at].value == 0) {
		self->at++;
	}
	expected = &self->of->keys[self->at];
	if (self->at == self->end || key.size != expected->size || memcmp(key.data, expected->data, key.size) != 0 ||
		!is_value(value.data, value.size, expected->value)) {
		found("a scan gives another row, in round", self->of->round);
	}
	self->at++;
	return ++self->rows != self->stop;
}

static void model_check_scan(model *self) {
	size_t first = test_random_below(&self->random, self->count), end = test_random_below(&self->random, self->count);
	uint64_t limit = test_random_below(&self->random, 2) * test_random_below(&self->random, self->count), expected = 0;
	model_scan check = {.of = self, .at = first, .end = end, .stop = test_random_below(&self->random, 3) == 0 ? 7 : 0};
	aidb_client_bytes upper = {.data = self->keys[end].data, .size = self->keys[end].size};

	if (test_random_below(&self->random, 4) == 0) {
		check.end = self->count;
		upper = (aidb_client_bytes){0};
	}
	must(aidb_client_scan(space, (aidb_client_bytes){.data = self->keys[first].data, .size = self->keys[first].size},
						  upper, limit, check_row, &check));
	for (size_t i = first; i < check.end; i++) {
		expected += self->keys[i].value != 0;
	}
	expected = limit > 0 && limit < expected ? limit : expected;
	expected = check.stop > 0 && check.stop < expected ? check.stop : expected;
	if (check.rows != expected) {
		found("a scan gives another number of rows, in round", self->round);
	}
}

static int run_model(int count, char **words) {
	static model self;
	uint64_t rounds = count == 2 ? strtoull(words[1], NULL, 10) : 0;

	self.random.state = count == 2 ? strtoull(words[0], NULL, 10) : 0;
	make_keys(&self);
	for (self.round = 0; self.round < rounds; self.round++) {
		switch (test_random_below(&self.random, 6)) {
		case 0:
		case 1:
			model_put(&self);
			break;
		case 2:
			model_delete(&self);
			break;
		case 3:
		case 4:
			model_get(&self);
			break;
		default:
			model_check_scan(&self);
			break;
		}
	}
	printf("%" PRIu64 " rounds\n", rounds);
	return 0;
}

/* ---- Load ------------------------------------------------------------------------------------------------------ */

enum { LOAD_BATCH = 50, LOAD_THREADS = 16 };

typedef struct loader {
	pthread_t thread;
	unsigned number;
	time_t until;
	uint64_t acknowledged; /* batches, all of those before */
	uint64_t failures;
	char keys[LOAD_BATCH][32];
	aidb_client_bytes batch[LOAD_BATCH];
} loader;

static void fill_batch(loader *self, uint64_t batch) {
	for (unsigned i = 0; i < LOAD_BATCH; i++) {
		snprintf(self->keys[i], sizeof(self->keys[i]), "%u/%" PRIu64 "/%u", self->number, batch, i);
		self->batch[i] = bytes_of(self->keys[i]);
	}
}

/* All keys of a batch have themselves as the value. */
static void check_batch(loader *self, uint64_t batch) {
	aidb_client_value values[LOAD_BATCH];

	fill_batch(self, batch);
	must(aidb_client_batch_get(space, LOAD_BATCH, self->batch, values));
	for (unsigned i = 0; i < LOAD_BATCH; i++) {
		if (!values[i].found) {
			found("an acknowledged row is not there, of batch", batch);
		}
		if (values[i].size != self->batch[i].size || memcmp(values[i].data, self->keys[i], values[i].size) != 0) {
			found("a row has another value, of batch", batch);
		}
		aidb_client_value_free(&values[i]);
	}
}

static void *load_thread(void *argument) {
	loader *self = argument;

	while (time(NULL) < self->until) {
		fill_batch(self, self->acknowledged);
		if (aidb_client_batch_put(space, LOAD_BATCH, self->batch, self->batch) != AIDB_CLIENT_OK) {
			self->failures++; /* and the same once more: it may have been done or not */
			continue;
		}
		check_batch(self, self->acknowledged);
		self->acknowledged++;
	}
	return NULL;
}

static int run_load(int count, char **words) {
	static loader loaders[LOAD_THREADS];
	unsigned threads = count == 2 ? (unsigned)strtoul(words[0], NULL, 10) : 0;
	uint64_t acknowledged = 0, failures = 0;

	threads = threads < LOAD_THREADS ? threads : LOAD_THREADS;
	for (unsigned i = 0; i < threads; i++) {
		loaders[i].number = i;
		loaders[i].until = time(NULL) + (time_t)strtol(words[1], NULL, 10);
		if (pthread_create(&loaders[i].thread, NULL, load_thread, &loaders[i]) != 0) {
			found("no thread", i);
		}
	}
	for (unsigned i = 0; i < threads; i++) {
		pthread_join(loaders[i].thread, NULL);
	}
	for (unsigned i = 0; i < threads; i++) {
		for (uint64_t batch = 0; batch < loaders[i].acknowledged; batch++) {
			check_batch(&loaders[i], batch);
		}
		acknowledged += loaders[i].acknowledged * LOAD_BATCH;
		failures += loaders[i].failures;
	}
	printf("%" PRIu64 " rows acknowledged, %" PRIu64 " batches failed\n", acknowledged, failures);
	return 0;
}

/* ---- Command line -------------------------------------------------------------------------------------------- */

static const struct {
	const char *name;
	int (*run)(int count, char **words);
} commands[] = {
	{"put", put},   {"later", put_later}, {"get", get},         {"delete", delete},
	{"scan", scan}, {"health", health},   {"model", run_model}, {"load", run_load},
};

/* Takes options; how many. */
static int take_options(int count, char **words, aidb_client_options *options, const char **schema) {
	int used = 0;

	for (; used < count && strchr(words[used], '=') != NULL; used++) {
		const char *value = strchr(words[used], '=') + 1;

		if (strncmp(words[used], "read_from=", 10) == 0) {
			options->read_from = value[0] == 'c'   ? AIDB_CLIENT_CACHE
								 : value[0] == 's' ? AIDB_CLIENT_STANDBY
												   : AIDB_CLIENT_PRIMARY;
		} else if (strncmp(words[used], "timeout=", 8) == 0) {
			options->timeout_ms = (uint32_t)strtoul(value, NULL, 10);
		} else if (strncmp(words[used], "connections=", 12) == 0) {
			options->connections = (uint32_t)strtoul(value, NULL, 10);
		} else if (strncmp(words[used], "retry=", 6) == 0) {
			options->no_retry = value[0] == '0';
		} else if (strncmp(words[used], "schema=", 7) == 0) {
			*schema = value;
		}
	}
	return used;
}

static int run(int count, char **words) {
	for (size_t i = 0; count > 0 && i < sizeof(commands) / sizeof(commands[0]); i++) {
		if (strcmp(words[0], commands[i].name) == 0) {
			return commands[i].run(count - 1, words + 1);
		}
	}
	fprintf(stderr, "client CONNINFO TABLE OPTION=VALUE... COMMAND ARGUMENT...\n");
	return 2;
}

int main(int argc, char **argv) {
	aidb_client_options options = {0};
	const char *schema = NULL;
	int status, first = 3;

	if (argc < 4) {
		return run(0, NULL);
	}
	first += take_options(argc - first, argv + first, &options, &schema);
	if (finish(aidb_client_open(argv[1], &options, &client)) != 0) {
		return 1;
	}
	status = finish(aidb_client_space_open(client, schema, argv[2], &space));
	if (status == 0) {
		status = run(argc - first, argv + first);
	}
	aidb_client_space_close(space);
	aidb_client_close(client);
	return status;
}
