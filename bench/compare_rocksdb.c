/*
 * compare_rocksdb: AiDb and RocksDB side by side, embedded in one program, doing the same operations with equal settings.
 *
 * One generator (workload.h) makes keys, values and orders; a workload is written once against a table of functions, and
 * each engine fills in such a table. Every run is a process of its own, which opens the store that the run before it has
 * left, so that memory and processor time are this run's alone; the engines take turns, workload by workload.
 */
#include "measure.h"

#include <getopt.h>
#include <rocksdb/c.h>

#include "aidb.h"
#include "workload.h"

#define SEEK_ENTRIES 10
#define TARGET_RATIO 1.5

typedef struct bench_settings {
	uint64_t keys;
	uint64_t reads;
	uint64_t syncs;
	unsigned repetitions;
	uint64_t memtable_bytes;
	uint64_t cache_bytes;
	uint64_t arena_bytes; /* AiDb: such that memtables and cache have the sizes above */
	bool rocksdb_index_in_cache;
	const char *workloads; /* comma-separated; NULL: all */
	const char *engine;    /* only this one; NULL: all */
	const char *directory;
	bool verbose;
} bench_settings;

/* ---- Engines --------------------------------------------------------------------------------------------- */

/* Called for one entry after another; false ends the walk. */
typedef bool (*visitor)(void *argument, const char *key, size_t key_size, const char *value, size_t value_size);

typedef struct engine_functions {
	const char *name;
	void *(*open)(const bench_settings *settings, const char *directory, bool create);
	void (*put)(void *store, const char *key, const char *value, bool sync);
	/* False when there is no such key. *value stays until the next call. */
	bool (*get)(void *store, const char *key, const char **value, size_t *size);
	/* Visits entries in order from the first key that is not below `key`, or from the beginning when that is NULL. */
	void (*iterate)(void *store, const char *key, visitor visit, void *argument);
	/* Writes out what is in memory; returns when no background work is left. */
	void (*settle)(void *store);
	/* Says what it is up to, for --verbose. */
	void (*report)(void *store);
	void (*close)(void *store);
} engine_functions;

#define QUIET_ROUNDS 3
#define QUIET_SECONDS 0.1

/*
 * Waits until this process does nothing any more: no processor time, nothing written. Both engines are held to it, beyond
 * what they say of themselves.
 */
static void wait_until_quiet(void) {
	for (int rounds = 0; rounds < QUIET_ROUNDS;) {
		double cpu = cpu_seconds();
		uint64_t written = proc_number("/proc/self/io", "wchar");

		sleep_seconds(QUIET_SECONDS);
		if (cpu_seconds() - cpu > QUIET_SECONDS / 20 || proc_number("/proc/self/io", "wchar") != written) {
			rounds = 0;
		} else {
			rounds++;
		}
	}
}

/* ---- AiDb ------------------------------------------------------------------------------------------------ */

typedef struct aidb_store {
	aidb_db *db;
	aidb_buffer value;
	aidb_iterator *iterator; /* made by the first walk, kept for all */
} aidb_store;

static void aidb_check(aidb_status status, const char *what) {
	if (status != AIDB_OK) {
		fail("AiDb: %s: %s: %s", what, aidb_status_text(status), aidb_last_error());
	}
}

static void *aidb_store_open(const bench_settings *settings, const char *directory, bool create) {
	aidb_options options = {
		.memory_bytes = settings->arena_bytes,
		.write_buffer_bytes = settings->memtable_bytes,
		.filter_bits = 10,
		.compression_default = AIDB_COMPRESSION_SNAPPY,
		.compression_set = true,
		.create_if_missing = create,
		.error_if_exists = create,
	};
	aidb_store *store = calloc(1, sizeof(*store));

	if (store == NULL) {
		fail("out of memory");
	}
	aidb_check(aidb_open(directory, &options, &store->db), "open");
	return store;
}

static void aidb_store_put(void *opaque, const char *key, const char *value, bool sync) {
	aidb_store *store = opaque;
	aidb_write_options options = {.durability = sync ? AIDB_SYNC : AIDB_WRITE};

	aidb_check(aidb_put(store->db, &options, (aidb_slice){key, KEY_BYTES}, (aidb_slice){value, VALUE_BYTES}), "put");
}

static bool aidb_store_get(void *opaque, const char *key, const char **value, size_t *size) {
	aidb_store *store = opaque;
	aidb_status status = aidb_get(store->db, NULL, (aidb_slice){key, KEY_BYTES}, &store->value, NULL);

	if (status == AIDB_NOT_FOUND) {
		return false;
	}
	aidb_check(status, "get");
	*value = store->value.data;
	*size = store->value.size;
	return true;
}

static void aidb_store_iterate(void *opaque, const char *from, visitor visit, void *argument) {
	aidb_store *store = opaque;
	aidb_iterator *iterator;

	if (store->iterator == NULL) {
		aidb_check(aidb_iterator_create(store->db, NULL, &store->iterator), "create an iterator");
	}
	iterator = store->iterator;
	if (from == NULL) {
		aidb_iterator_seek_first(iterator);
	} else {
		aidb_iterator_seek(iterator, (aidb_slice){from, KEY_BYTES});
	}
	while (aidb_iterator_valid(iterator)) {
		aidb_slice key = aidb_iterator_key(iterator);
		aidb_slice value = aidb_iterator_value(iterator);

		if (!visit(argument, key.data, key.size, value.data, value.size)) {
			break;
		}
		aidb_iterator_next(iterator);
	}
	aidb_check(aidb_iterator_status(iterator), "iterate");
}

static void aidb_store_settle(void *opaque) {
	aidb_store *store = opaque;
	bool did = true;

	aidb_check(aidb_flush(store->db), "flush");
	while (did) {
		wait_until_quiet();
		aidb_check(aidb_work(store->db, AIDB_WORK_COMPACT, &did), "compact");
	}
}

static void aidb_store_report(void *opaque) {
	const aidb_store *store = opaque;
	aidb_stats stats;

	aidb_stats_get(store->db, &stats);
	printf("    flushes %" PRIu64 ", compactions %" PRIu64 ", moves %" PRIu64 ", compacted %" PRIu64
		   " MiB, stalls %" PRIu64 " (%.3f s), log writes %" PRIu64 ", syncs %" PRIu64 "\n    cache hits %" PRIu64
		   ", misses %" PRIu64 ", filter checks %" PRIu64 ", skips %" PRIu64 "; files by level",
		   stats.flushes, stats.compactions, stats.moves, stats.compaction_write_bytes / MIB, stats.stalls,
		   (double)stats.stall_us / 1e6, stats.log_writes, stats.log_syncs, stats.cache_hits, stats.cache_misses,
		   stats.filter_checks, stats.filter_skips);
	for (int level = 0; level < AIDB_LEVELS; level++) {
		printf(" %" PRIu64, stats.level_files[level]);
	}
	putchar('\n');
}

static void aidb_store_close(void *opaque) {
	aidb_store *store = opaque;

	aidb_iterator_destroy(store->iterator);
	aidb_close(store->db);
	aidb_buffer_free(&store->value);
	free(store);
}

/*
 * The arena that holds three memtables and leaves a cache of the wanted size: opens an empty store with a first guess and
 * corrects it by what the store says.
 */
static uint64_t find_arena_bytes(const bench_settings *wanted, const char *directory) {
	bench_settings tried = *wanted;
	aidb_store *store;
	aidb_stats stats;

	tried.arena_bytes = 3 * wanted->memtable_bytes + wanted->cache_bytes + 64 * MIB;
	for (int round = 0; round < 3; round++) {
		remove_directory(directory);
		store = aidb_store_open(&tried, directory, true);
		aidb_stats_get(store->db, &stats);
		aidb_store_close(store);
		tried.arena_bytes = (tried.arena_bytes + wanted->cache_bytes - stats.cache_bytes) / MIB * MIB;
	}
	return tried.arena_bytes;
}

/* ---- RocksDB --------------------------------------------------------------------------------------------- */

typedef struct rocks_store {
	rocksdb_t *db;
	rocksdb_options_t *options;
	rocksdb_block_based_table_options_t *table_options;
	rocksdb_cache_t *cache;
	rocksdb_readoptions_t *read_options;
	rocksdb_writeoptions_t *write_options;
	rocksdb_writeoptions_t *sync_options;
	rocksdb_pinnableslice_t *value;
	rocksdb_iterator_t *iterator; /* made by the first walk, kept for all */
} rocks_store;

static void rocks_check(char *error, const char *what) {
	if (error != NULL) {
		fail("RocksDB: %s: %s", what, error);
	}
}

/*
 * What is not set here is RocksDB's default: level compaction, 4 KiB blocks, two background jobs, index and filter blocks
 * outside of the cache and so beyond its limit (--rocksdb-index-in-cache puts them inside, as AiDb's are).
 */
static void rocks_configure(rocks_store *store, const bench_settings *settings, bool create) {
	rocksdb_block_based_table_options_t *table = rocksdb_block_based_options_create();
	rocksdb_options_t *options = rocksdb_options_create();

	store->cache = rocksdb_cache_create_lru(settings->cache_bytes);
	rocksdb_block_based_options_set_block_cache(table, store->cache);
	rocksdb_block_based_options_set_filter_policy(table, rocksdb_filterpolicy_create_bloom_full(10));
	rocksdb_block_based_options_set_cache_index_and_filter_blocks(table, settings->rocksdb_index_in_cache);
	rocksdb_options_set_block_based_table_factory(options, table);
	rocksdb_options_set_create_if_missing(options, create);
	rocksdb_options_set_error_if_exists(options, create);
	rocksdb_options_set_compression(options, rocksdb_snappy_compression);
	rocksdb_options_set_write_buffer_size(options, settings->memtable_bytes);
	rocksdb_options_set_max_write_buffer_number(options, 3);
	rocksdb_options_set_max_background_jobs(options, 2);
	store->options = options;
	store->table_options = table;
}

static void *rocks_open(const bench_settings *settings, const char *directory, bool create) {
	rocks_store *store = calloc(1, sizeof(*store));
	char *error = NULL;

	if (store == NULL) {
		fail("out of memory");
	}
	rocks_configure(store, settings, create);
	store->read_options = rocksdb_readoptions_create();
	store->write_options = rocksdb_writeoptions_create();
	store->sync_options = rocksdb_writeoptions_create();
	rocksdb_writeoptions_set_sync(store->sync_options, 1);
	store->db = rocksdb_open(store->options, directory, &error);
	rocks_check(error, "open");
	return store;
}

static void rocks_put(void *opaque, const char *key, const char *value, bool sync) {
	rocks_store *store = opaque;
	char *error = NULL;

	rocksdb_put(store->db, sync ? store->sync_options : store->write_options, key, KEY_BYTES, value, VALUE_BYTES,
				&error);
	rocks_check(error, "put");
}

/* The C interface's way without a copy. */
static bool rocks_get(void *opaque, const char *key, const char **value, size_t *size) {
	rocks_store *store = opaque;
	char *error = NULL;

	if (store->value != NULL) {
		rocksdb_pinnableslice_destroy(store->value);
	}
	store->value = rocksdb_get_pinned(store->db, store->read_options, key, KEY_BYTES, &error);
	rocks_check(error, "get");
	if (store->value == NULL) {
		return false;
	}
	*value = rocksdb_pinnableslice_value(store->value, size);
	return true;
}

static void rocks_iterate(void *opaque, const char *from, visitor visit, void *argument) {
	rocks_store *store = opaque;
	rocksdb_iterator_t *iterator;
	char *error = NULL;

	if (store->iterator == NULL) {
		store->iterator = rocksdb_create_iterator(store->db, store->read_options);
	}
	iterator = store->iterator;
	if (from == NULL) {
		rocksdb_iter_seek_to_first(iterator);
	} else {
		rocksdb_iter_seek(iterator, from, KEY_BYTES);
	}
	while (rocksdb_iter_valid(iterator)) {
		size_t key_size, value_size;
		const char *key = rocksdb_iter_key(iterator, &key_size);
		const char *value = rocksdb_iter_value(iterator, &value_size);

		if (!visit(argument, key, key_size, value, value_size)) {
			break;
		}
		rocksdb_iter_next(iterator);
	}
	rocksdb_iter_get_error(iterator, &error);
	rocks_check(error, "iterate");
}

static bool rocks_is_busy(rocks_store *store) {
	static const char *const properties[] = {"rocksdb.num-running-flushes", "rocksdb.mem-table-flush-pending",
											 "rocksdb.num-running-compactions", "rocksdb.compaction-pending"};

	for (size_t i = 0; i < sizeof(properties) / sizeof(properties[0]); i++) {
		uint64_t number = 0;

		if (rocksdb_property_int(store->db, properties[i], &number) != 0) {
			fail("RocksDB: no property %s", properties[i]);
		}
		if (number != 0) {
			return true;
		}
	}
	return false;
}

static void rocks_settle(void *opaque) {
	rocks_store *store = opaque;
	rocksdb_flushoptions_t *options = rocksdb_flushoptions_create();
	char *error = NULL;

	rocksdb_flushoptions_set_wait(options, 1);
	rocksdb_flush(store->db, options, &error);
	rocks_check(error, "flush");
	rocksdb_flushoptions_destroy(options);
	do {
		wait_until_quiet();
	} while (rocks_is_busy(store));
}

static void rocks_report(void *opaque) {
	rocks_store *store = opaque;
	char *text = rocksdb_property_value(store->db, "rocksdb.levelstats");

	printf("%s", text != NULL ? text : "");
	free(text);
}

static void rocks_close(void *opaque) {
	rocks_store *store = opaque;

	if (store->value != NULL) {
		rocksdb_pinnableslice_destroy(store->value);
	}
	if (store->iterator != NULL) {
		rocksdb_iter_destroy(store->iterator);
	}
	rocksdb_close(store->db);
	rocksdb_writeoptions_destroy(store->write_options);
	rocksdb_writeoptions_destroy(store->sync_options);
	rocksdb_readoptions_destroy(store->read_options);
	rocksdb_block_based_options_destroy(store->table_options);
	rocksdb_options_destroy(store->options);
	rocksdb_cache_destroy(store->cache);
	free(store);
}

static const engine_functions engines[] = {
	{"AiDb", aidb_store_open, aidb_store_put, aidb_store_get, aidb_store_iterate, aidb_store_settle, aidb_store_report,
	 aidb_store_close},
	{"RocksDB", rocks_open, rocks_put, rocks_get, rocks_iterate, rocks_settle, rocks_report, rocks_close},
};
#define ENGINES (sizeof(engines) / sizeof(engines[0]))

/* ---- Workloads ------------------------------------------------------------------------------------------- */

typedef struct engine_run {
	const engine_functions *engine;
	const bench_settings *settings;
	void *store;
	uint32_t generation; /* of all values in the store */
} engine_run;

static void put_all(engine_run *run, uint32_t generation) {
	workload_order order = workload_order_of(run->settings->keys, generation);
	char key[KEY_BYTES];
	char value[VALUE_BYTES];

	for (uint64_t i = 0; i < order.count; i++) {
		uint64_t number = workload_order_at(&order, i);

		workload_key(number, key);
		workload_value(number, generation, value);
		run->engine->put(run->store, key, value, false);
	}
	run->generation = generation;
}

static uint64_t run_fillrandom(engine_run *run) {
	put_all(run, 1);
	return run->settings->keys;
}

static uint64_t run_overwrite(engine_run *run) {
	put_all(run, 2);
	return run->settings->keys;
}

/* New keys, above all others. */
static uint64_t run_fillsync(engine_run *run) {
	char key[KEY_BYTES];
	char value[VALUE_BYTES];

	for (uint64_t i = 0; i < run->settings->syncs; i++) {
		workload_key(run->settings->keys + i, key);
		workload_value(run->settings->keys + i, run->generation, value);
		run->engine->put(run->store, key, value, true);
	}
	return run->settings->syncs;
}

static uint64_t run_readrandom(engine_run *run) {
	uint64_t keys = run->settings->keys;
	char key[KEY_BYTES];
	const char *value;
	size_t size;

	for (uint64_t i = 0; i < run->settings->reads; i++) {
		uint64_t number = workload_mix(i) % keys;

		workload_key(number, key);
		if (!run->engine->get(run->store, key, &value, &size)) {
			fail("%s: key %.*s is missing", run->engine->name, KEY_BYTES, key);
		}
		if (!workload_value_is(number, run->generation, value, size)) {
			fail("%s: key %.*s has a wrong value", run->engine->name, KEY_BYTES, key);
		}
	}
	return run->settings->reads;
}

static uint64_t run_readmissing(engine_run *run) {
	uint64_t keys = run->settings->keys;
	char key[KEY_BYTES];
	const char *value;
	size_t size;

	for (uint64_t i = 0; i < run->settings->reads; i++) {
		workload_missing_key(workload_mix(i) % keys, key);
		if (run->engine->get(run->store, key, &value, &size)) {
			fail("%s: key %.*s is there and was never written", run->engine->name, KEY_BYTES, key);
		}
	}
	return run->settings->reads;
}

/* A walk that expects the entries from `next` on, each with its value. */
typedef struct expected_walk {
	const engine_run *run;
	uint64_t next;
	uint64_t end;
} expected_walk;

static bool visit_expected(void *argument, const char *key, size_t key_size, const char *value, size_t value_size) {
	expected_walk *walk = argument;
	char expected[KEY_BYTES];

	if (walk->next == walk->end) {
		return false;
	}
	workload_key(walk->next, expected);
	if (key_size != KEY_BYTES || memcmp(key, expected, KEY_BYTES) != 0) {
		fail("%s: key %.*s stands where %.*s is due", walk->run->engine->name, (int)key_size, key, KEY_BYTES, expected);
	}
	if (!workload_value_is(walk->next, walk->run->generation, value, value_size)) {
		fail("%s: key %.*s has a wrong value", walk->run->engine->name, KEY_BYTES, key);
	}
	walk->next++;
	return walk->next < walk->end;
}

static uint64_t run_readseq(engine_run *run) {
	expected_walk walk = {.run = run, .end = run->settings->keys};

	run->engine->iterate(run->store, NULL, visit_expected, &walk);
	if (walk.next != walk.end) {
		fail("%s: a walk over all found %" PRIu64 " keys of %" PRIu64, run->engine->name, walk.next, walk.end);
	}
	return run->settings->keys;
}

static uint64_t run_seekrandom(engine_run *run) {
	uint64_t keys = run->settings->keys;
	uint64_t seeks = run->settings->reads / SEEK_ENTRIES;
	char key[KEY_BYTES];

	for (uint64_t i = 0; i < seeks; i++) {
		uint64_t number = workload_mix(i) % keys;
		uint64_t end = number + SEEK_ENTRIES < keys ? number + SEEK_ENTRIES : keys;
		expected_walk walk = {.run = run, .next = number, .end = end};

		workload_key(number, key);
		run->engine->iterate(run->store, key, visit_expected, &walk);
		if (walk.next != walk.end) {
			fail("%s: a walk from key %.*s ended too early", run->engine->name, KEY_BYTES, key);
		}
	}
	return seeks;
}

typedef enum workload_effect { READS, CREATES, OVERWRITES, ADDS } workload_effect;

typedef struct workload_kind {
	const char *name;
	const char *text;
	uint64_t (*run)(engine_run *run); /* returns how many operations it did */
	workload_effect effect;
	double target; /* 0: none */
} workload_kind;

static const workload_kind workloads[] = {
	{"fillrandom", "put each key once in random order", run_fillrandom, CREATES, TARGET_RATIO},
	{"readrandom", "get random keys, check every value", run_readrandom, READS, TARGET_RATIO},
	{"readmissing", "get keys that lie between the stored ones", run_readmissing, READS, 0},
	{"readseq", "iterate over everything, check every key and value", run_readseq, READS, 0},
	{"seekrandom", "seek a random key and read 10 entries", run_seekrandom, READS, 0},
	{"overwrite", "put each key again in another random order", run_overwrite, OVERWRITES, 0},
	{"fillsync", "put new keys, each on stable storage before the next", run_fillsync, ADDS, 0},
};
#define WORKLOADS (sizeof(workloads) / sizeof(workloads[0]))

/* ---- Runs ------------------------------------------------------------------------------------------------ */

/* What a run's process leaves in shared memory. */
typedef struct run_result {
	uint64_t operations;
	double seconds;
	double settle_seconds;
	double cpu_seconds; /* with settling */
	uint64_t peak_bytes;
} run_result;

typedef struct run_tally {
	sample_set rate;   /* operations a second */
	sample_set cpu_us; /* per operation */
	sample_set settle_seconds;
	sample_set peak_bytes;
	sample_set disk_bytes;
} run_tally;

/*
 * All of it in a child: memory and processor time begin at zero. A workload that reads runs once unmeasured before, so
 * that what fits the cache is there; after one that writes, all that is in the store is checked.
 */
static void measure(engine_run *run, const workload_kind *workload, const char *directory, run_result *result) {
	const engine_functions *engine = run->engine;
	double start, cpu_start;

	run->store = engine->open(run->settings, directory, workload->effect == CREATES);
	if (workload->effect == READS) {
		workload->run(run);
	}
	cpu_start = cpu_seconds();
	start = now_seconds();
	result->operations = workload->run(run);
	result->seconds = now_seconds() - start;
	if (workload->effect != READS) {
		engine->settle(run->store);
		result->settle_seconds = now_seconds() - start - result->seconds - QUIET_ROUNDS * QUIET_SECONDS;
	}
	result->cpu_seconds = cpu_seconds() - cpu_start;
	result->peak_bytes = memory_bytes("VmHWM");
	if (workload->effect != READS) {
		run_readseq(run);
	}
	if (run->settings->verbose) {
		printf("%s of %s: %.0f a second, settled after %.1f s, peak %.0f MiB\n", workload->name, engine->name,
			   (double)result->operations / result->seconds, result->settle_seconds,
			   (double)result->peak_bytes / (double)MIB);
		engine->report(run->store);
	}
	engine->close(run->store);
}

static bool measure_in_child(engine_run *run, const workload_kind *workload, const char *directory, run_result *result,
							 run_tally *tally) {
	char what[64];
	pid_t child;

	/* what the run before has left to the kernel to write is not this one's */
	sync();
	*result = (run_result){0};
	child = start_process();
	if (child == 0) {
		measure(run, workload, directory, result);
		exit(0);
	}
	snprintf(what, sizeof(what), "%s of %s", workload->name, run->engine->name);
	if (!process_succeeded(child, what)) {
		return false;
	}
	samples_add(&tally->rate, (double)result->operations / result->seconds);
	samples_add(&tally->cpu_us, result->cpu_seconds * 1e6 / (double)result->operations);
	samples_add(&tally->settle_seconds, result->settle_seconds);
	samples_add(&tally->peak_bytes, (double)result->peak_bytes);
	samples_add(&tally->disk_bytes, (double)disk_bytes(directory));
	return true;
}

/* Whether `name` is in a comma-separated list; everything is in no list. */
static bool is_listed(const char *list, const char *name) {
	size_t size = strlen(name);

	if (list == NULL) {
		return true;
	}
	for (const char *at = list; at != NULL; at = strchr(at, ',')) {
		at += *at == ',';
		if (strncmp(at, name, size) == 0 && (at[size] == ',' || at[size] == '\0')) {
			return true;
		}
	}
	return false;
}

/* Later workloads need the store that the first one makes. */
static bool is_wanted(const bench_settings *settings, const workload_kind *workload) {
	return workload->effect == CREATES || is_listed(settings->workloads, workload->name);
}

static bool measure_all(const bench_settings *settings, char *const directories[ENGINES], unsigned repetition,
						run_result *result, run_tally tallies[WORKLOADS][ENGINES]) {
	uint32_t generation = 1;

	for (size_t w = 0; w < WORKLOADS; w++) {
		if (!is_wanted(settings, &workloads[w])) {
			continue;
		}
		/* the engines take turns in being first */
		for (size_t i = 0; i < ENGINES; i++) {
			size_t e = (i + repetition) % ENGINES;
			engine_run run = {.engine = &engines[e], .settings = settings, .generation = generation};

			if (is_listed(settings->engine, engines[e].name) &&
				!measure_in_child(&run, &workloads[w], directories[e], result, &tallies[w][e])) {
				return false;
			}
		}
		generation += workloads[w].effect == OVERWRITES;
	}
	return true;
}

static bool repeat_all(const bench_settings *settings, char *const directories[ENGINES],
					   run_tally tallies[WORKLOADS][ENGINES]) {
	run_result *result = shared_memory(sizeof(*result));

	for (unsigned repetition = 0; repetition < settings->repetitions; repetition++) {
		for (size_t e = 0; e < ENGINES; e++) {
			remove_directory(directories[e]);
		}
		if (!measure_all(settings, directories, repetition, result, tallies)) {
			return false;
		}
	}
	return true;
}

/* ---- Report ---------------------------------------------------------------------------------------------- */

static void print_settings(const bench_settings *settings) {
	printf("%" PRIu64 " keys of %d bytes, values of %d bytes compressible to half; medians of %u\n", settings->keys,
		   KEY_BYTES, VALUE_BYTES, settings->repetitions);
	printf("both: snappy, 10-bit bloom filter, 3 memtables of %" PRIu64 " MiB, cache of %" PRIu64
		   " MiB, 2 background jobs,\n      unsynced writes handed to the kernel before they return\n",
		   settings->memtable_bytes / MIB, settings->cache_bytes / MIB);
	printf("AiDb: everything in an arena of %" PRIu64 " MiB; RocksDB: index and filters %s the cache\n\n",
		   settings->arena_bytes / MIB, settings->rocksdb_index_in_cache ? "inside" : "outside of");
}

static void print_tally(const workload_kind *workload, const engine_functions *engine, const run_tally *tally) {
	spread rate = spread_of(&tally->rate);

	printf("%-12s%-8s%11.0f%11.0f%11.0f%11.0f%9.2f%10.0f", workload->name, engine->name, rate.median, rate.low,
		   rate.high, 1e9 / rate.median, spread_of(&tally->cpu_us).median,
		   spread_of(&tally->peak_bytes).median / (double)MIB);
	if (workload->effect != READS) {
		printf("%10.1f%10.0f", spread_of(&tally->settle_seconds).median,
			   spread_of(&tally->disk_bytes).median / (double)MIB);
	}
	putchar('\n');
}

static void print_ratio(const workload_kind *workload, const run_tally tallies[ENGINES]) {
	double ratio = spread_of(&tallies[0].rate).median / spread_of(&tallies[1].rate).median;

	print_result(workload->name, ratio, "x RocksDB", workload->target, false);
}

static void print_report(const bench_settings *settings, run_tally tallies[WORKLOADS][ENGINES]) {
	printf("%-12s%-8s%11s%11s%11s%11s%9s%10s%10s%10s\n", "workload", "engine", "ops/s", "lowest", "highest", "ns/op",
		   "CPU us", "peak MiB", "settle s", "disk MiB");
	for (size_t w = 0; w < WORKLOADS; w++) {
		for (size_t e = 0; e < ENGINES; e++) {
			if (tallies[w][e].rate.count > 0) {
				print_tally(&workloads[w], &engines[e], &tallies[w][e]);
			}
		}
	}
	putchar('\n');
	for (size_t w = 0; w < WORKLOADS && settings->engine == NULL; w++) {
		if (is_wanted(settings, &workloads[w])) {
			print_ratio(&workloads[w], tallies[w]);
		}
	}
}

/* ---- Main ------------------------------------------------------------------------------------------------ */

static void print_help(void) {
	printf("Usage: compare_rocksdb [option]...\n"
		   "Runs the same operations on AiDb and on RocksDB with equal settings and prints medians and their ratio.\n\n"
		   "Workloads, in this order; each but the first finds the store as the one before has left it:\n");
	for (size_t w = 0; w < WORKLOADS; w++) {
		printf("  %-12s %s\n", workloads[w].name, workloads[w].text);
	}
	printf(
		"\nNumbers may end in k, M or G, which mean thousands, millions and thousands of millions.\n"
		"  -k, --keys=N          keys in the store (2M); the values take 100 bytes each\n"
		"  -g, --gets=N          reads of readrandom and readmissing, and ten times the seeks (as many as keys)\n"
		"  -s, --syncs=N         writes of fillsync (2k)\n"
		"  -r, --repetitions=N   runs of each; the median counts (3)\n"
		"  -m, --memtable=N      MiB of a memtable (64); both engines have three\n"
		"  -c, --cache=N         MiB of the block cache (256)\n"
		"  -w, --workloads=A,B   only these, and fillrandom, which makes the store\n"
		"  -e, --engine=NAME     only AiDb or only RocksDB, for a profiler\n"
		"  -i, --rocksdb-index-in-cache\n"
		"                        RocksDB keeps index and filter blocks in its cache, as AiDb does, and so within the\n"
		"                        limit; by default they come on top, which is faster\n"
		"  -d, --directory=PATH  where to put the stores (TMPDIR, or /tmp); they are removed at the end\n"
		"  -v, --verbose         print every run, and what the engines say about themselves\n\n"
		"Reading workloads run once unmeasured before, so that the caches are warm. \"CPU us\" is processor time an\n"
		"operation, of all threads and with the work left behind; \"settle\" is how long that went on after the last\n"
		"operation. \"peak\" is the memory resident in the run's process. A missing or wrong value ends the benchmark\n"
		"with status 1; a missed target does not.\n");
}

static void check_names(const bench_settings *settings) {
	const char *list = settings->workloads;
	size_t known = 0;

	for (size_t w = 0; w < WORKLOADS && list != NULL; w++) {
		known += is_listed(list, workloads[w].name) ? strlen(workloads[w].name) + 1 : 0;
	}
	if (list != NULL && known != strlen(list) + 1) {
		fail("--workloads=%s has a name that is no workload, or one twice; try --help", list);
	}
	known = 0;
	for (size_t e = 0; e < ENGINES && settings->engine != NULL; e++) {
		known += strcmp(settings->engine, engines[e].name) == 0;
	}
	if (settings->engine != NULL && known == 0) {
		fail("--engine=%s is neither AiDb nor RocksDB", settings->engine);
	}
}

static bench_settings parse_arguments(int argc, char **argv) {
	static const struct option options[] = {
		{"keys", required_argument, NULL, 'k'},
		{"gets", required_argument, NULL, 'g'},
		{"syncs", required_argument, NULL, 's'},
		{"repetitions", required_argument, NULL, 'r'},
		{"memtable", required_argument, NULL, 'm'},
		{"cache", required_argument, NULL, 'c'},
		{"workloads", required_argument, NULL, 'w'},
		{"rocksdb-index-in-cache", no_argument, NULL, 'i'},
		{"engine", required_argument, NULL, 'e'},
		{"directory", required_argument, NULL, 'd'},
		{"verbose", no_argument, NULL, 'v'},
		{"help", no_argument, NULL, 'h'},
		{0},
	};
	bench_settings settings = {
		.keys = 2000000, .syncs = 2000, .repetitions = 3, .memtable_bytes = 64 * MIB, .cache_bytes = 256 * MIB};
	int option;

	while ((option = getopt_long(argc, argv, "k:g:s:r:m:c:w:e:id:vh", options, NULL)) != -1) {
		switch (option) {
		case 'k':
			settings.keys = parse_number("--keys", optarg, 1, 1000000000);
			break;
		case 'g':
			settings.reads = parse_number("--gets", optarg, 10, 1000000000);
			break;
		case 's':
			settings.syncs = parse_number("--syncs", optarg, 1, 1000000000);
			break;
		case 'r':
			settings.repetitions = (unsigned)parse_number("--repetitions", optarg, 1, MAX_REPETITIONS);
			break;
		case 'm':
			settings.memtable_bytes = parse_number("--memtable", optarg, 1, 1024) * MIB;
			break;
		case 'c':
			settings.cache_bytes = parse_number("--cache", optarg, 8, 16384) * MIB;
			break;
		case 'w':
			settings.workloads = optarg;
			break;
		case 'e':
			settings.engine = optarg;
			break;
		case 'i':
			settings.rocksdb_index_in_cache = true;
			break;
		case 'd':
			settings.directory = optarg;
			break;
		case 'v':
			settings.verbose = true;
			break;
		case 'h':
			print_help();
			exit(0);
		default:
			fail("try --help");
		}
	}
	if (optind < argc) {
		fail("unexpected argument \"%s\"; try --help", argv[optind]);
	}
	check_names(&settings);
	if (settings.reads == 0) {
		settings.reads = settings.keys < 10 ? 10 : settings.keys;
	}
	return settings;
}

int main(int argc, char **argv) {
	bench_settings settings = parse_arguments(argc, argv);
	const char *parent = scratch_create(settings.directory);
	char *directories[ENGINES];
	run_tally(*tallies)[ENGINES] = calloc(WORKLOADS, sizeof(*tallies));
	bool succeeded;

	if (tallies == NULL) {
		fail("out of memory");
	}
	for (size_t e = 0; e < ENGINES; e++) {
		directories[e] = path_in(parent, engines[e].name);
	}
	settings.arena_bytes = find_arena_bytes(&settings, directories[0]);
	print_settings(&settings);
	succeeded = repeat_all(&settings, directories, tallies);
	if (succeeded) {
		print_report(&settings, tallies);
	}
	for (size_t e = 0; e < ENGINES; e++) {
		free(directories[e]);
	}
	free(tallies);
	return succeeded ? 0 : 1;
}
