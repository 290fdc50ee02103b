/*
 * store_fixture.h: what tests of whole stores have in common: a directory that goes away again, a store attached to
 * an arena of its own on a host whose files can be made to fail, and shorthands.
 *
 * The host is a thread host; what is put between it and the engine is common to all stores of the process.
 */
#ifndef STORE_FIXTURE_H
#define STORE_FIXTURE_H

#include <stdatomic.h>

#include "aidb.h"
#include "base/slice.h"

#define STORE_PATH_BYTES 256

/* ---- Random numbers ------------------------------------------------------------------------------------ */

/* From AIDB_SEED, or of the moment; printed once, with the name of the test program. */
uint64_t store_seed(const char *program);
/* splitmix64. */
uint64_t store_random(uint64_t *state);
/* Below `limit`, which is at least 1. */
uint64_t store_random_below(uint64_t *state, uint64_t limit);

/* ---- Directories --------------------------------------------------------------------------------------- */

/* A fresh directory below TMPDIR. */
void directory_make(char path[STORE_PATH_BYTES]);
void directory_remove(const char *path); /* with all that is in it */
/* Copies the plain files of `from` into the fresh directory `to`. */
void directory_copy(const char *from, char to[STORE_PATH_BYTES]);
/* How many file names end in `suffix`; the first and last of them in byte order into the others, unless NULL. */
unsigned directory_count(const char *path, const char *suffix, char first[STORE_PATH_BYTES],
						 char last[STORE_PATH_BYTES]);

uint64_t file_bytes_of(const char *path);
/* Flips all bits of `mask` in one byte. */
void file_flip(const char *path, uint64_t offset, uint8_t mask);
/* Overwrites [from, to) with zeroes. */
void file_zero(const char *path, uint64_t from, uint64_t to);
void file_cut(const char *path, uint64_t size);
/* Reads the whole file; the caller frees. */
uint8_t *file_load(const char *path, size_t *size);
void file_store(const char *path, const void *data, size_t size);

/* ---- Faults -------------------------------------------------------------------------------------------- */

typedef enum store_file { STORE_LOG, STORE_TABLE, STORE_MANIFEST, STORE_OTHER } store_file;
#define STORE_FILES 4

/*
 * Errors are errno values that the host's functions give; 0: none. Syncing only counts: what the tests take away is
 * processes, not power, and the disk is spared.
 */
typedef struct store_faults {
	_Atomic int allocate_error;
	_Atomic int write_error[STORE_FILES];
	_Atomic int sync_error[STORE_FILES];
	_Atomic int before_log_error;
	_Atomic int room_error;         /* of waits for memory or jobs, which may take long */
	_Atomic int replica_error;      /* of waits for more log, or for a replica */
	_Atomic uint32_t sync_delay_us; /* how long a sync of a file takes */
	_Atomic uint32_t syncs;         /* counts calls, as do the next */
	_Atomic uint32_t allocations;
	_Atomic uint32_t renames;
	_Atomic uint32_t before_log_calls;
	void (*at_point)(const char *name);      /* NULL: nothing happens at fault points */
	aidb_tag_fate (*tag_fate)(aidb_tag tag); /* NULL: every tag is open */
	_Atomic aidb_sequence snapshot_floor;    /* 0: the current sequence */
} store_faults;

extern store_faults faults;
/* Back to none. */
void faults_clear(void);

/* ---- Stores -------------------------------------------------------------------------------------------- */

typedef struct test_store {
	char directory[STORE_PATH_BYTES];
	aidb_options options;
	aidb_host *base; /* a thread host */
	aidb_host host;  /* the same with faults in between */
	void *memory;
	size_t memory_bytes;
	aidb_db *db; /* NULL: closed */
} test_store;

/* The smallest store: 16 MiB, memtables of 1 MiB, segments of 64 KiB, files of 64 KiB, 16 members, no compression. */
aidb_options store_small_options(void);
/* A closed store in a fresh directory. */
void store_make(test_store *store, const aidb_options *options);
void store_destroy(test_store *store);
/* Attaches to a new arena and starts; on error the store is closed. */
aidb_status store_try_open(test_store *store);
/* The same, and fails the test on an error. */
void store_open(test_store *store);
/* Stops and detaches. */
void store_close(test_store *store);
/* Ends it as the death of all its processes would: what lay in memory is gone. No thread may be using it. */
void store_crash(test_store *store);

/* Runs flush and compaction until nothing is left to do. */
void store_settle(aidb_db *db);

/* ---- Shorthands ---------------------------------------------------------------------------------------- */

static inline aidb_slice text(const char *string) {
	return (aidb_slice){string, strlen(string)};
}

aidb_status put(aidb_db *db, const char *key, const char *value, aidb_durability durability);
void must_put(aidb_db *db, const char *key, const char *value, aidb_durability durability);
/* Checks what a get at `sequence` (0: latest) finds; NULL: nothing. */
void expect_at(aidb_db *db, aidb_sequence sequence, const char *key, const char *value);
void expect(aidb_db *db, const char *key, const char *value);
/* Checks that the last error's text has all these words; the list ends with NULL. */
void expect_error_names(const char *first, ...);
aidb_stats stats_of(aidb_db *db);
void sleep_us(uint64_t us);

#define assert_status(call, expected)                                                                                  \
	do {                                                                                                               \
		aidb_status status_ = (call);                                                                                  \
		if (status_ != (expected)) {                                                                                   \
			print_error("%s gave \"%s\" (%s)\n", #call, aidb_status_text(status_), aidb_last_error());                 \
		}                                                                                                              \
		assert_int_equal(status_, expected);                                                                           \
	} while (0)
#define assert_ok(call) assert_status(call, AIDB_OK)

#endif
