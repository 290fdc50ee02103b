/*
 * syscalls: reads whose blocks are cached, between marks that strace shows. bench/syscalls runs it and counts.
 *
 * getppid() marks the beginning and the end of each stretch of reads; nothing else here calls it.
 */
#include "measure.h"

#include <sys/syscall.h>

#include "aidb.h"
#include "workload.h"

#define ARENA_BYTES (64 * MIB)

static void check(aidb_status status, const char *what) {
	if (status != AIDB_OK) {
		fail("%s: %s: %s", what, aidb_status_text(status), aidb_last_error());
	}
}

static void mark(void) {
	(void)syscall(SYS_getppid);
}

static void load(aidb_db *db, uint64_t first, uint64_t end) {
	aidb_write_options options = {.durability = AIDB_LAZY};
	char key[KEY_BYTES];
	char value[VALUE_BYTES];

	for (uint64_t number = first; number < end; number++) {
		workload_key(number, key);
		workload_value(number, 1, value);
		check(aidb_put(db, &options, (aidb_slice){key, KEY_BYTES}, (aidb_slice){value, VALUE_BYTES}), "put");
	}
}

static void get_all(aidb_db *db, uint64_t keys, aidb_buffer *value) {
	char key[KEY_BYTES];

	for (uint64_t number = 0; number < keys; number++) {
		workload_key(number, key);
		check(aidb_get(db, NULL, (aidb_slice){key, KEY_BYTES}, value, NULL), "get");
		if (!workload_value_is(number, 1, value->data, value->size)) {
			fail("key %.*s has a wrong value", KEY_BYTES, key);
		}
		workload_missing_key(number, key);
		if (aidb_get(db, NULL, (aidb_slice){key, KEY_BYTES}, value, NULL) != AIDB_NOT_FOUND) {
			fail("key %.*s was never written and is there", KEY_BYTES, key);
		}
	}
}

/* The first time fills the cache and lets this process find its place; the second is what counts. */
static void get_all_marked(aidb_db *db, uint64_t keys) {
	aidb_buffer value = {0};

	get_all(db, keys, &value);
	mark();
	get_all(db, keys, &value);
	mark();
	aidb_buffer_free(&value);
}

int main(int argc, char **argv) {
	aidb_options options = {.memory_bytes = ARENA_BYTES, .create_if_missing = true, .error_if_exists = true};
	uint64_t keys;
	char *directory;
	aidb_db *db;
	pid_t child;

	if (argc != 2) {
		fail("usage: syscalls KEYS; run bench/syscalls instead");
	}
	keys = parse_number("KEYS", argv[1], 10, 100000);
	directory = path_in(scratch_create(NULL), "store");
	check(aidb_open(directory, &options, &db), "open");
	load(db, 0, keys - keys / 10);
	check(aidb_flush(db), "flush");
	load(db, keys - keys / 10, keys); /* stays in the memtable */
	get_all_marked(db, keys);
	child = start_process();
	if (child == 0) {
		get_all_marked(db, keys);
		aidb_member_leave(db);
		exit(0);
	}
	if (!process_succeeded(child, "the forked reader")) {
		fail("the forked reader failed");
	}
	aidb_close(db);
	free(directory);
	return 0;
}
