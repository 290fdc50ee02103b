/*
 * memory: the arena is the limit. Loads far more data than the arena holds, then reads it, and compares the memory that
 * was resident at most with the arena and a fixed allowance for all that lies outside of it: program, libraries, stacks,
 * the handle, iterators.
 */
#include "measure.h"

#include <getopt.h>

#include "aidb.h"
#include "workload.h"

#define ALLOWANCE_BYTES (24 * MIB)
#define SAMPLES 10

typedef struct bench_settings {
	uint64_t arena_bytes;
	uint64_t load_bytes; /* keys and values */
	const char *directory;
} bench_settings;

static void check(aidb_status status, const char *what) {
	if (status != AIDB_OK) {
		fail("%s: %s: %s", what, aidb_status_text(status), aidb_last_error());
	}
}

static void print_memory(const char *stage, uint64_t done, uint64_t all) {
	printf("%-10s %3.0f %%  resident %5.1f MiB, of that shared (the arena) %5.1f, private %5.1f; peak so far %5.1f\n",
		   stage, 100.0 * (double)done / (double)all, (double)memory_bytes("VmRSS") / (double)MIB,
		   (double)memory_bytes("RssShmem") / (double)MIB, (double)memory_bytes("RssAnon") / (double)MIB,
		   (double)memory_bytes("VmHWM") / (double)MIB);
}

static bool is_time_to_print(uint64_t done, uint64_t all) {
	return done % (all / SAMPLES + 1) == 0;
}

static void load(aidb_db *db, uint64_t keys) {
	workload_order order = workload_order_of(keys, 1);
	aidb_write_options options = {.durability = AIDB_WRITE};
	char key[KEY_BYTES];
	char value[VALUE_BYTES];

	for (uint64_t i = 0; i < keys; i++) {
		uint64_t number = workload_order_at(&order, i);

		workload_key(number, key);
		workload_value(number, 1, value);
		check(aidb_put(db, &options, (aidb_slice){key, KEY_BYTES}, (aidb_slice){value, VALUE_BYTES}), "put");
		if (is_time_to_print(i, keys)) {
			print_memory("loading", i, keys);
		}
	}
	check(aidb_flush(db), "flush");
}

static void read_randomly(aidb_db *db, uint64_t keys, uint64_t gets) {
	aidb_buffer value = {0};
	char key[KEY_BYTES];

	for (uint64_t i = 0; i < gets; i++) {
		uint64_t number = workload_mix(i) % keys;

		workload_key(number, key);
		check(aidb_get(db, NULL, (aidb_slice){key, KEY_BYTES}, &value, NULL), "get");
		if (!workload_value_is(number, 1, value.data, value.size)) {
			fail("key %.*s has a wrong value", KEY_BYTES, key);
		}
	}
	print_memory("gets", gets, gets);
	aidb_buffer_free(&value);
}

static void read_all(aidb_db *db, uint64_t keys) {
	aidb_iterator *iterator;
	uint64_t number = 0;

	check(aidb_iterator_create(db, NULL, &iterator), "create an iterator");
	for (aidb_iterator_seek_first(iterator); aidb_iterator_valid(iterator); aidb_iterator_next(iterator)) {
		aidb_slice value = aidb_iterator_value(iterator);

		if (!workload_value_is(number, 1, value.data, value.size)) {
			fail("key number %" PRIu64 " is missing or has a wrong value", number);
		}
		number++;
	}
	check(aidb_iterator_status(iterator), "iterate");
	if (number != keys) {
		fail("%" PRIu64 " keys are there, not %" PRIu64, number, keys);
	}
	print_memory("scan", keys, keys);
	aidb_iterator_destroy(iterator);
}

static void print_help(void) {
	printf("Usage: memory [option]...\n"
		   "Loads much into a store with a small arena and shows that the memory of the process stays within the arena "
		   "and\n"
		   "%" PRIu64 " MiB for everything else. The exit status is 1 when it does not.\n\n"
		   "  -m, --memory=N        MiB of the arena (64)\n"
		   "  -l, --load=N          MiB of keys and values to load (2048)\n"
		   "  -d, --directory=PATH  where to put the store (TMPDIR, or /tmp); it is removed at the end\n",
		   ALLOWANCE_BYTES / MIB);
}

static bench_settings parse_arguments(int argc, char **argv) {
	static const struct option options[] = {
		{"memory", required_argument, NULL, 'm'},
		{"load", required_argument, NULL, 'l'},
		{"directory", required_argument, NULL, 'd'},
		{"help", no_argument, NULL, 'h'},
		{0},
	};
	bench_settings settings = {.arena_bytes = 64 * MIB, .load_bytes = 2048 * MIB};
	int option;

	while ((option = getopt_long(argc, argv, "m:l:d:h", options, NULL)) != -1) {
		switch (option) {
		case 'm':
			settings.arena_bytes = parse_number("--memory", optarg, 16, 32768) * MIB;
			break;
		case 'l':
			settings.load_bytes = parse_number("--load", optarg, 1, 1 << 20) * MIB;
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
	uint64_t keys = settings.load_bytes / (KEY_BYTES + VALUE_BYTES);
	uint64_t limit = settings.arena_bytes + ALLOWANCE_BYTES;
	aidb_options options = {.memory_bytes = settings.arena_bytes, .create_if_missing = true, .error_if_exists = true};
	double start = now_seconds();
	uint64_t peak;
	aidb_db *db;

	check(aidb_open(directory, &options, &db), "open");
	load(db, keys);
	read_all(db, keys);
	read_randomly(db, keys, keys / 20 + 1);
	peak = memory_bytes("VmHWM");
	printf("%" PRIu64 " keys, %" PRIu64 " MiB, loaded and read in %.0f s; %.0f MiB on disk\n", keys,
		   settings.load_bytes / MIB, now_seconds() - start, (double)disk_bytes(directory) / (double)MIB);
	print_result("peak resident memory", (double)peak / (double)MIB, "MiB", (double)limit / (double)MIB, true);
	aidb_close(db);
	free(directory);
	return peak <= limit ? 0 : 1;
}
