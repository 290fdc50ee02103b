/*
 * processes: what several processes on one arena do, each by direct function call.
 *
 * Readers: one forked process gets random keys of a cached data set for a while, then several do at the same time; every
 * value is checked. The ratio of the rates says how little the readers hinder each other.
 *
 * Writers: forked processes put keys with synced commits; the arena's counters say how many commits one sync served.
 */
#include "measure.h"

#include <getopt.h>
#include <stdatomic.h>

#include "aidb.h"
#include "workload.h"

#define MAX_PROCESSES 64
#define READER_TARGET 1.8
#define WRITER_TARGET 3.0
#define GETS_BETWEEN_LOOKS 256

typedef struct bench_settings {
	uint64_t keys;
	unsigned readers;
	double seconds;
	unsigned writers;
	uint64_t commits; /* of each writer */
	unsigned repetitions;
	uint64_t arena_bytes;
	const char *directory;
} bench_settings;

/* Where parent and children meet. */
typedef struct process_meeting {
	_Atomic uint32_t ready;
	_Atomic uint32_t start;
	_Atomic uint32_t stop;
	struct {
		_Alignas(64) uint64_t operations;
		double seconds;
	} children[MAX_PROCESSES];
} process_meeting;

static void check(aidb_status status, const char *what) {
	if (status != AIDB_OK) {
		fail("%s: %s: %s", what, aidb_status_text(status), aidb_last_error());
	}
}

static void put(aidb_db *db, uint64_t number, aidb_durability durability) {
	aidb_write_options options = {.durability = durability};
	char key[KEY_BYTES];
	char value[VALUE_BYTES];

	workload_key(number, key);
	workload_value(number, 1, value);
	check(aidb_put(db, &options, (aidb_slice){key, KEY_BYTES}, (aidb_slice){value, VALUE_BYTES}), "put");
}

static void get(aidb_db *db, uint64_t number, aidb_buffer *buffer) {
	char key[KEY_BYTES];

	workload_key(number, key);
	check(aidb_get(db, NULL, (aidb_slice){key, KEY_BYTES}, buffer, NULL), "get");
	if (!workload_value_is(number, 1, buffer->data, buffer->size)) {
		fail("key %.*s has a wrong value", KEY_BYTES, key);
	}
}

/* ---- Children -------------------------------------------------------------------------------------------- */

typedef struct child_work {
	aidb_db *db;
	const bench_settings *settings;
	process_meeting *meeting;
} child_work;

typedef uint64_t (*child_function)(const child_work *work, unsigned index);

/* Reads until told to stop. */
static uint64_t read_randomly(const child_work *work, unsigned index) {
	aidb_buffer buffer = {0};
	uint64_t random = (uint64_t)index << 32;
	uint64_t gets = 0;

	while (atomic_load_explicit(&work->meeting->stop, memory_order_relaxed) == 0) {
		for (int i = 0; i < GETS_BETWEEN_LOOKS; i++) {
			get(work->db, workload_mix(random++) % work->settings->keys, &buffer);
		}
		gets += GETS_BETWEEN_LOOKS;
	}
	aidb_buffer_free(&buffer);
	return gets;
}

/* Keys of its own, above those that are read. */
static uint64_t write_synced(const child_work *work, unsigned index) {
	uint64_t first = work->settings->keys + index * work->settings->commits;

	for (uint64_t i = 0; i < work->settings->commits; i++) {
		put(work->db, first + i, AIDB_SYNC);
	}
	return work->settings->commits;
}

static void child_main(const child_work *work, unsigned index, child_function function) {
	process_meeting *meeting = work->meeting;
	double start;

	atomic_fetch_add(&meeting->ready, 1);
	while (atomic_load(&meeting->start) == 0) {
		sleep_seconds(0.001);
	}
	start = now_seconds();
	meeting->children[index].operations = function(work, index);
	meeting->children[index].seconds = now_seconds() - start;
	aidb_member_leave(work->db);
}

/*
 * Runs `count` children at the same time, for `seconds` or, when that is 0, until they are through. Returns operations a
 * second of all together.
 */
static double run_children(const child_work *work, unsigned count, double seconds, child_function function) {
	pid_t children[MAX_PROCESSES];
	double rate = 0;
	bool succeeded = true;

	memset(work->meeting, 0, sizeof(*work->meeting));
	for (unsigned i = 0; i < count; i++) {
		children[i] = start_process();
		if (children[i] == 0) {
			child_main(work, i, function);
			exit(0);
		}
	}
	while (atomic_load(&work->meeting->ready) < count) {
		sleep_seconds(0.001);
	}
	atomic_store(&work->meeting->start, 1);
	if (seconds > 0) {
		sleep_seconds(seconds);
		atomic_store(&work->meeting->stop, 1);
	}
	for (unsigned i = 0; i < count; i++) {
		succeeded = process_succeeded(children[i], "a child") && succeeded;
		rate += (double)work->meeting->children[i].operations / work->meeting->children[i].seconds;
	}
	if (!succeeded) {
		fail("a child failed");
	}
	return rate;
}

/* ---- Measuring ------------------------------------------------------------------------------------------- */

static aidb_db *open_store(const bench_settings *settings, const char *directory) {
	aidb_options options = {.memory_bytes = settings->arena_bytes, .create_if_missing = true, .error_if_exists = true};
	aidb_db *db;

	check(aidb_open(directory, &options, &db), "open");
	return db;
}

/* All keys are in SSTables afterwards, and their blocks in the cache. */
static void load(aidb_db *db, uint64_t keys) {
	workload_order order = workload_order_of(keys, 1);
	aidb_buffer buffer = {0};

	for (uint64_t i = 0; i < keys; i++) {
		put(db, workload_order_at(&order, i), AIDB_LAZY);
	}
	check(aidb_flush(db), "flush");
	for (bool did = true; did;) {
		sleep_seconds(0.5);
		check(aidb_work(db, AIDB_WORK_COMPACT, &did), "compact");
	}
	for (int round = 0; round < 2; round++) {
		for (uint64_t i = 0; i < keys; i++) {
			get(db, workload_order_at(&order, i), &buffer);
		}
	}
	aidb_buffer_free(&buffer);
}

static void measure_readers(const child_work *work) {
	const bench_settings *settings = work->settings;
	sample_set one = {0}, many = {0};
	spread alone, together;
	char what[64];

	for (unsigned i = 0; i < settings->repetitions; i++) {
		samples_add(&one, run_children(work, 1, settings->seconds, read_randomly));
		samples_add(&many, run_children(work, settings->readers, settings->seconds, read_randomly));
	}
	alone = spread_of(&one);
	together = spread_of(&many);
	printf("readers: %u process %.0f (%.0f-%.0f) gets a second, %u processes %.0f (%.0f-%.0f)\n", 1, alone.median,
		   alone.low, alone.high, settings->readers, together.median, together.low, together.high);
	snprintf(what, sizeof(what), "%u reading processes", settings->readers);
	print_result(what, together.median / alone.median, "x one", settings->readers == 2 ? READER_TARGET : 0, false);
}

static void measure_writers(const child_work *work) {
	const bench_settings *settings = work->settings;
	sample_set rates = {0}, groups = {0};
	spread rate;
	char what[64];

	for (unsigned i = 0; i < settings->repetitions; i++) {
		aidb_stats before, after;

		aidb_stats_get(work->db, &before);
		samples_add(&rates, run_children(work, settings->writers, 0, write_synced));
		aidb_stats_get(work->db, &after);
		if (after.commits - before.commits != settings->writers * settings->commits) {
			fail("%" PRIu64 " commits were counted, %" PRIu64 " were made", after.commits - before.commits,
				 settings->writers * settings->commits);
		}
		samples_add(&groups, (double)(after.commits - before.commits) / (double)(after.log_syncs - before.log_syncs));
	}
	rate = spread_of(&rates);
	printf("writers: %u processes %.0f (%.0f-%.0f) synced commits a second\n", settings->writers, rate.median, rate.low,
		   rate.high);
	snprintf(what, sizeof(what), "%u synced writers", settings->writers);
	print_result(what, spread_of(&groups).median, "commits a sync", settings->writers == 8 ? WRITER_TARGET : 0, false);
}

/* ---- Main ------------------------------------------------------------------------------------------------ */

static void print_help(void) {
	printf(
		"Usage: processes [option]...\n"
		"Measures how processes that share one arena get on: readers of a cached data set, one against several, and\n"
		"writers with synced commits, by how many commits one sync serves.\n\n"
		"Numbers may end in k, M or G, which mean thousands, millions and thousands of millions.\n"
		"  -k, --keys=N          keys to read, with values of 100 bytes (500k); they must fit the cache\n"
		"  -p, --readers=N       reading processes (2)\n"
		"  -t, --seconds=N       length of one reading run (3)\n"
		"  -w, --writers=N       writing processes (8)\n"
		"  -s, --commits=N       synced commits of each writer in one run (1k)\n"
		"  -r, --repetitions=N   runs of each; the median counts (3)\n"
		"  -m, --memory=N        MiB of the arena (512)\n"
		"  -d, --directory=PATH  where to put the store (TMPDIR, or /tmp); it is removed at the end\n\n"
		"A missing or wrong value ends the benchmark with status 1; a missed target does not.\n");
}

static bench_settings parse_arguments(int argc, char **argv) {
	static const struct option options[] = {
		{"keys", required_argument, NULL, 'k'},    {"readers", required_argument, NULL, 'p'},
		{"seconds", required_argument, NULL, 't'}, {"writers", required_argument, NULL, 'w'},
		{"commits", required_argument, NULL, 's'}, {"repetitions", required_argument, NULL, 'r'},
		{"memory", required_argument, NULL, 'm'},  {"directory", required_argument, NULL, 'd'},
		{"help", no_argument, NULL, 'h'},          {0},
	};
	bench_settings settings = {.keys = 500000,
							   .readers = 2,
							   .seconds = 3,
							   .writers = 8,
							   .commits = 1000,
							   .repetitions = 3,
							   .arena_bytes = 512 * MIB};
	int option;

	while ((option = getopt_long(argc, argv, "k:p:t:w:s:r:m:d:h", options, NULL)) != -1) {
		switch (option) {
		case 'k':
			settings.keys = parse_number("--keys", optarg, 1, 1000000000);
			break;
		case 'p':
			settings.readers = (unsigned)parse_number("--readers", optarg, 1, MAX_PROCESSES);
			break;
		case 't':
			settings.seconds = (double)parse_number("--seconds", optarg, 1, 3600);
			break;
		case 'w':
			settings.writers = (unsigned)parse_number("--writers", optarg, 1, MAX_PROCESSES);
			break;
		case 's':
			settings.commits = parse_number("--commits", optarg, 1, 1000000000);
			break;
		case 'r':
			settings.repetitions = (unsigned)parse_number("--repetitions", optarg, 1, MAX_REPETITIONS);
			break;
		case 'm':
			settings.arena_bytes = parse_number("--memory", optarg, 16, 32768) * MIB;
			break;
		case 'd':
			settings.directory = optarg;
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
	return settings;
}

int main(int argc, char **argv) {
	bench_settings settings = parse_arguments(argc, argv);
	char *directory = path_in(scratch_create(settings.directory), "store");
	child_work work = {.settings = &settings, .meeting = shared_memory(sizeof(process_meeting))};

	printf("%" PRIu64 " keys, arena of %" PRIu64 " MiB, %ld processors; medians of %u\n", settings.keys,
		   settings.arena_bytes / MIB, sysconf(_SC_NPROCESSORS_ONLN), settings.repetitions);
	work.db = open_store(&settings, directory);
	load(work.db, settings.keys);
	measure_readers(&work);
	measure_writers(&work);
	aidb_close(work.db);
	free(directory);
	return 0;
}
