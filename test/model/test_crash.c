/*
 * Processes that die: what they had been promised is there, nothing is there in part, and nobody waits for the dead.
 *
 * Writers commit numbered batches, each over several keys that are far from each other, and say in shared memory which
 * number they are about to write and which was acknowledged. Checks compare what a new start finds with that.
 *
 * cmocka's assertions belong to the test's own process; others count failures in shared memory.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "db/db.h"
#include "store_fixture.h"

#if defined(__has_feature)
#define SANITIZED(feature) __has_feature(feature)
#else
#define SANITIZED(feature) 0
#endif
#if defined(__SANITIZE_THREAD__) || SANITIZED(thread_sanitizer)
#define HAS_THREAD_SANITIZER 1
#else
#define HAS_THREAD_SANITIZER 0
#endif
#if defined(__SANITIZE_ADDRESS__) || SANITIZED(address_sanitizer)
#define HAS_ADDRESS_SANITIZER 1
#else
#define HAS_ADDRESS_SANITIZER 0
#endif

#define WRITERS 4
#define HISTORY 64 /* numbers that a writer keeps traces of */
#define PARTS 4
#define MAX_VALUE_BYTES 12000

/* A writer's numbers; in shared memory, since it outlives the writer. */
typedef struct writer {
	_Atomic uint64_t issued;             /* set before the call */
	_Atomic uint64_t acknowledged;       /* set after it came back with AIDB_OK */
	_Atomic uint64_t synced;             /* acknowledged before a call of aidb_sync that succeeded */
	_Atomic uint64_t sequences[HISTORY]; /* of acknowledged batches, by number % HISTORY */
	_Atomic int status;                  /* that ended it; AIDB_OK: it was told to stop */
	aidb_durability durability;
	uint32_t number;
} writer;

typedef struct board {
	_Atomic uint32_t stop;
	_Atomic uint32_t started;
	_Atomic uint32_t failures;
	_Atomic uint32_t points_to_go;
	writer writers[WRITERS];
} board;

static board *shared;
static uint64_t seed;

static void note_failure(const char *what, int line) {
	if (atomic_fetch_add(&shared->failures, 1) < 10) {
		fprintf(stderr, "# line %d: not so: %s (%s)\n", line, what, aidb_last_error());
	}
}

#define CHECK(condition) ((condition) ? (void)0 : note_failure(#condition, __LINE__))

static int make_board(void **state) {
	(void)state;
	seed = store_seed("test_crash");
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	return shared == MAP_FAILED ? -1 : 0;
}

static void clear_board(void) {
	memset((void *)shared, 0, sizeof(*shared));
	for (uint32_t i = 0; i < WRITERS; i++) {
		shared->writers[i].number = i;
	}
}

static uint64_t now_us(void) {
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

/* ---- Numbered batches ---------------------------------------------------------------------------------- */

static void state_key(char key[64], const writer *of, unsigned part) {
	snprintf(key, 64, "%u state of %u", part, of->number);
}

static void history_key(char key[64], const writer *of, uint64_t number, bool second) {
	snprintf(key, 64, "%s history %u %llu", second ? "z" : "a", of->number, (unsigned long long)(number % HISTORY));
}

static void odd_key(char key[64], const writer *of) {
	snprintf(key, 64, "m odd %u", of->number);
}

static aidb_slice number_value(char value[MAX_VALUE_BYTES], uint64_t number, size_t bytes) {
	memcpy(value, &number, sizeof(number));
	return (aidb_slice){value, sizeof(number) + bytes};
}

static aidb_status fill_batch(aidb_batch *batch, const writer *by, uint64_t number, uint64_t *random) {
	static _Thread_local char value[MAX_VALUE_BYTES];
	aidb_status rc = AIDB_OK;
	char key[64];

	aidb_batch_clear(batch);
	for (unsigned part = 0; part < PARTS && rc == AIDB_OK; part++) {
		state_key(key, by, part);
		rc = aidb_batch_put(batch, text(key), number_value(value, number, store_random_below(random, 9000)));
	}
	for (unsigned second = 0; second < 2 && rc == AIDB_OK; second++) {
		history_key(key, by, number, second == 1);
		rc = aidb_batch_put(batch, text(key), number_value(value, number, store_random_below(random, 500)));
	}
	odd_key(key, by);
	if (rc == AIDB_OK) {
		rc = number % 2 == 0 ? aidb_batch_delete(batch, text(key))
							 : aidb_batch_put(batch, text(key), number_value(value, number, 0));
	}
	return rc;
}

/* Commits the writer's next number, in one step or in two. */
static aidb_status write_next(aidb_db *db, writer *by, aidb_batch *batch, uint64_t *random) {
	aidb_write_options options = {.durability = by->durability};
	uint64_t number = atomic_load(&by->issued) + 1;
	aidb_reservation reservation;
	aidb_sequence sequence = 0;
	aidb_status rc = fill_batch(batch, by, number, random);

	atomic_store(&by->issued, number);
	if (rc == AIDB_OK && number % 3 == 0) {
		rc = aidb_write_reserve(db, batch, &reservation);
		if (rc == AIDB_OK) {
			rc = aidb_write_commit(db, &options, &reservation, &sequence);
		}
	} else if (rc == AIDB_OK) {
		rc = aidb_write(db, &options, batch, &sequence);
	}
	if (rc == AIDB_OK) {
		atomic_store(&by->sequences[number % HISTORY], sequence);
		atomic_store(&by->acknowledged, number);
	}
	return rc;
}

/* Writes until told to stop or refused. */
static void write_numbers(aidb_db *db, writer *by) {
	uint64_t random = seed ^ now_us() ^ by->number;
	aidb_batch *batch = aidb_batch_create();
	aidb_status rc = AIDB_OK;

	while (rc == AIDB_OK && atomic_load(&shared->stop) == 0) {
		uint64_t acknowledged = atomic_load(&by->acknowledged);

		if (store_random_below(&random, 200) == 0) {
			rc = aidb_sync(db);
			if (rc == AIDB_OK) {
				atomic_store(&by->synced, acknowledged);
			}
		}
		if (rc == AIDB_OK) {
			rc = write_next(db, by, batch, &random);
		}
	}
	atomic_store(&by->status, (int)rc);
	aidb_batch_destroy(batch);
}

/* ---- Checks -------------------------------------------------------------------------------------------- */

/* The number under a key; 0: it is absent. */
static uint64_t number_of(aidb_db *db, const char *key, aidb_sequence *sequence) {
	aidb_buffer value = {0};
	uint64_t number = 0;
	aidb_status rc = aidb_get(db, NULL, text(key), &value, sequence);

	if (rc == AIDB_OK) {
		CHECK(value.size >= sizeof(number));
		memcpy(&number, value.data, sizeof(number));
	} else {
		CHECK(rc == AIDB_NOT_FOUND);
	}
	aidb_buffer_free(&value);
	return number;
}

/* All traces of the writer are those of its first `last` batches. */
static void check_traces(aidb_db *db, const writer *of, uint64_t last) {
	uint64_t first = last < HISTORY ? 0 : last - HISTORY + 1;
	char key[64];

	for (unsigned part = 0; part < PARTS; part++) {
		state_key(key, of, part);
		CHECK(number_of(db, key, NULL) == last);
	}
	for (uint64_t number = first; number < first + HISTORY; number++) {
		for (unsigned second = 0; second < 2; second++) {
			history_key(key, of, number, second == 1);
			CHECK(number_of(db, key, NULL) == (number <= last ? number : 0));
		}
	}
	odd_key(key, of);
	CHECK(number_of(db, key, NULL) == (last % 2 == 1 ? last : 0));
}

/*
 * What is there is a prefix of what was committed: of each writer's batches, and of all in the order of their sequence
 * numbers. It goes beyond what was acknowledged as safe. The writers go on from there.
 */
static void check_writers(aidb_db *db) {
	aidb_sequence newest = 0;
	uint64_t last[WRITERS];
	char key[64];

	for (unsigned i = 0; i < WRITERS; i++) {
		aidb_sequence sequence = 0;

		state_key(key, &shared->writers[i], 0);
		last[i] = number_of(db, key, &sequence);
		newest = sequence > newest ? sequence : newest;
	}
	for (unsigned i = 0; i < WRITERS; i++) {
		writer *mine = &shared->writers[i];
		uint64_t acknowledged = atomic_load(&mine->acknowledged);

		check_traces(db, mine, last[i]);
		CHECK(last[i] <= atomic_load(&mine->issued));
		CHECK(last[i] >= atomic_load(&mine->synced));
		CHECK(mine->durability == AIDB_LAZY || last[i] >= acknowledged);
		for (uint64_t number = last[i] + 1; number <= acknowledged; number++) {
			CHECK(number + HISTORY <= acknowledged || atomic_load(&mine->sequences[number % HISTORY]) > newest);
		}
		atomic_store(&mine->issued, last[i]);
		atomic_store(&mine->acknowledged, last[i]);
		atomic_store(&mine->synced, last[i]);
	}
}

/* Both directions of an iterator find the same, and as much as there are keys. */
static void check_iteration(aidb_db *db) {
	aidb_iterator *iterator;
	uint64_t forward = 0, backward = 0;

	if (aidb_iterator_create(db, &(aidb_read_options){.skip_cache_fill = true}, &iterator) != AIDB_OK) {
		CHECK(false);
		return;
	}
	for (aidb_iterator_seek_first(iterator); aidb_iterator_valid(iterator); aidb_iterator_next(iterator)) {
		forward++;
	}
	CHECK(aidb_iterator_status(iterator) == AIDB_OK);
	for (aidb_iterator_seek_last(iterator); aidb_iterator_valid(iterator); aidb_iterator_prev(iterator)) {
		backward++;
	}
	CHECK(aidb_iterator_status(iterator) == AIDB_OK);
	CHECK(forward == backward);
	CHECK(forward <= WRITERS * (PARTS + 2 * HISTORY + 1));
	aidb_iterator_destroy(iterator);
}

/* ---- Processes ----------------------------------------------------------------------------------------- */

static pid_t start_process(void (*body)(void *argument), void *argument) {
	pid_t child;

	fflush(NULL);
	child = fork();
	if (child == 0) {
		body(argument);
		_exit(0);
	}
	if (child < 0) {
		perror("fork");
		abort();
	}
	return child;
}

/* Waits for the end of a process; false, and it is killed, when that does not come. */
static bool end_of(pid_t child, int *status, uint64_t limit_us) {
	uint64_t start_us = now_us();

	while (waitpid(child, status, WNOHANG) == 0) {
		if (now_us() - start_us > limit_us) {
			kill(child, SIGKILL);
			waitpid(child, status, 0);
			return false;
		}
		sleep_us(500);
	}
	return true;
}

#define LIMIT_US 20000000

static void skip_without_fork(void) {
	if (HAS_THREAD_SANITIZER) {
		print_message("skipped: the thread sanitizer does not follow forked processes that share memory\n");
		skip();
	}
}

/* For tests that fork while other threads run. */
static void skip_without_fork_of_threads(void) {
	skip_without_fork();
	if (HAS_ADDRESS_SANITIZER) {
		print_message("skipped: the address sanitizer's own locks do not survive a fork while other threads run\n");
		skip();
	}
}

/* ---- A whole program is killed ------------------------------------------------------------------------- */

typedef struct program {
	const char *directory;
	aidb_options options;
} program;

static aidb_db *program_db;

static void *writer_thread(void *argument) {
	write_numbers(program_db, argument);
	return NULL;
}

static void run_program(void *argument) {
	const program *mine = argument;
	pthread_t threads[WRITERS];

	if (aidb_open(mine->directory, &mine->options, &program_db) != AIDB_OK) {
		CHECK(false);
		_exit(1);
	}
	for (unsigned i = 0; i < WRITERS; i++) {
		CHECK(pthread_create(&threads[i], NULL, writer_thread, &shared->writers[i]) == 0);
	}
	atomic_store(&shared->started, 1);
	for (unsigned i = 0; i < WRITERS; i++) {
		pthread_join(threads[i], NULL);
	}
	CHECK(false); /* nobody told them to stop */
}

static void wait_for_start(void) {
	uint64_t start_us = now_us();

	while (atomic_load(&shared->started) == 0 && now_us() - start_us < LIMIT_US) {
		sleep_us(200);
	}
	CHECK(atomic_load(&shared->started) == 1);
}

static void check_program(const program *mine, uint64_t *random) {
	aidb_options options = mine->options;
	aidb_db *db;

	options.no_background = store_random_below(random, 2) == 0;
	if (aidb_open(mine->directory, &options, &db) != AIDB_OK) {
		CHECK(false);
		return;
	}
	check_writers(db);
	check_iteration(db);
	aidb_close(db);
}

static void killed_program_keeps_what_it_promised(void **state) {
	char directory[STORE_PATH_BYTES];
	program mine = {.directory = directory, .options = store_small_options()};
	uint64_t random = seed;
	uint64_t committed = 0;

	(void)state;
	skip_without_fork();
	mine.options.log_segment_bytes = 256 << 10;
	clear_board();
	directory_make(directory);
	for (int round = 0; round < 20; round++) {
		int status = 0;
		pid_t child;

		for (unsigned i = 0; i < WRITERS; i++) {
			shared->writers[i].durability = round % 4 == 3             ? AIDB_LAZY
											: round % 4 == 2 && i == 0 ? AIDB_SYNC
											: round % 4 == 1 && i < 2  ? AIDB_LAZY
																	   : AIDB_WRITE;
		}
		atomic_store(&shared->started, 0);
		child = start_process(run_program, &mine);
		if (round % 5 != 4) {
			wait_for_start();
		}
		sleep_us(store_random_below(&random, round % 5 == 4 ? 30000 : 150000)); /* some die while they open */
		kill(child, SIGKILL);
		waitpid(child, &status, 0);
		assert_true(WIFSIGNALED(status));
		for (unsigned i = 0; i < WRITERS; i++) {
			committed += atomic_load(&shared->writers[i].acknowledged);
		}
		check_program(&mine, &random);
		if (atomic_load(&shared->failures) != 0) {
			print_error("round %d\n", round);
		}
		assert_int_equal(atomic_load(&shared->failures), 0);
		for (unsigned i = 0; i < WRITERS; i++) {
			committed -= atomic_load(&shared->writers[i].acknowledged);
		}
	}
	for (unsigned i = 0; i < WRITERS; i++) {
		committed += atomic_load(&shared->writers[i].acknowledged);
	}
	print_message("%llu commits over 20 deaths\n", (unsigned long long)committed);
	assert_true(committed > 200);
	directory_remove(directory);
}

/* ---- One of several processes dies --------------------------------------------------------------------- */

static test_store store;
static const char *dying_point;

static void die(void) {
	kill(getpid(), SIGKILL);
	for (;;) {
		pause();
	}
}

static void die_at_point(const char *name) {
	if (strcmp(name, dying_point) == 0 && atomic_fetch_sub(&shared->points_to_go, 1) == 1) {
		die();
	}
}

/* Commits, reads, flushes and compacts, whatever comes first to the point. */
static void live_and_die_at_point(void *argument) {
	writer *mine = argument;
	uint64_t random = seed;
	aidb_batch *batch = aidb_batch_create();

	faults.at_point = die_at_point;
	for (uint64_t i = 0;; i++) {
		bool did;

		CHECK(write_next(store.db, mine, batch, &random) == AIDB_OK);
		if (i % 64 == 63) {
			CHECK(aidb_flush(store.db) == AIDB_OK);
			CHECK(aidb_work(store.db, AIDB_WORK_COMPACT, &did) == AIDB_OK);
		}
	}
}

static void live_until_killed(void *argument) {
	write_numbers(store.db, argument);
}

static bool die_in_visibility(void *argument, aidb_tag tag) {
	(void)argument;
	(void)tag;
	die();
	return false;
}

/* In the middle of a read. */
static void die_reading(void *argument) {
	aidb_batch *batch = aidb_batch_create();
	aidb_read_options options = {.tag_visible = die_in_visibility};

	(void)argument;
	aidb_batch_put(batch, text("tagged"), text("value"));
	CHECK(aidb_write(store.db, &(aidb_write_options){.state = AIDB_BATCH_PREPARED, .tag = 1}, batch, NULL) == AIDB_OK);
	aidb_get(store.db, &options, text("tagged"), NULL, NULL);
	CHECK(false);
}

static void die_with_a_reservation(void *argument) {
	aidb_batch *batch = aidb_batch_create();
	aidb_reservation reservation;

	(void)argument;
	aidb_batch_put(batch, text("reserved"), text("value"));
	CHECK(aidb_write_reserve(store.db, batch, &reservation) == AIDB_OK);
	die();
}

static void die_with_snapshots(void *argument) {
	aidb_snapshot snapshot;

	(void)argument;
	for (int i = 0; i < 20; i++) {
		CHECK(aidb_snapshot_acquire(store.db, &snapshot) == AIDB_OK);
	}
	die();
}

#define BYSTANDERS 2
#define BYSTANDER_WRITES 300 /* uses up the memtables */

static bool has_ended(pid_t child) {
	siginfo_t info = {0};

	return waitid(P_PID, (id_t)child, &info, WEXITED | WNOHANG | WNOWAIT) == 0 && info.si_pid != 0;
}

/* The bystanders write on, or are told that the store is poisoned. */
static void check_bystanders(pid_t bystanders[BYSTANDERS]) {
	uint64_t start_us = now_us();
	int status;

	for (unsigned i = 0; i < BYSTANDERS; i++) {
		uint64_t goal = atomic_load(&shared->writers[1 + i].acknowledged) + BYSTANDER_WRITES;

		while (!has_ended(bystanders[i]) && atomic_load(&shared->writers[1 + i].acknowledged) < goal &&
			   now_us() - start_us < LIMIT_US) {
			sleep_us(500);
		}
	}
	CHECK(now_us() - start_us < LIMIT_US);
	atomic_store(&shared->stop, 1);
	for (unsigned i = 0; i < BYSTANDERS; i++) {
		aidb_status outcome;

		CHECK(end_of(bystanders[i], &status, 2000000));
		outcome = (aidb_status)atomic_load(&shared->writers[1 + i].status);
		CHECK(outcome == AIDB_OK || outcome == AIDB_POISONED);
	}
}

/* One process dies as `victim` does, or is killed after some time; others stand by. Then the store is started again. */
static void survive(void (*victim)(void *argument), uint64_t kill_after_us) {
	pid_t bystanders[BYSTANDERS];
	pid_t child;
	int status = 0;

	for (unsigned i = 0; i < BYSTANDERS; i++) {
		bystanders[i] = start_process(live_until_killed, &shared->writers[1 + i]);
	}
	child = start_process(victim, &shared->writers[0]);
	if (kill_after_us > 0) {
		sleep_us(kill_after_us);
		kill(child, SIGKILL);
	}
	CHECK(end_of(child, &status, LIMIT_US));
	CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
	check_bystanders(bystanders);
	atomic_store(&shared->stop, 0);
	store_crash(&store);
	CHECK(store_try_open(&store) == AIDB_OK);
	if (store.db != NULL) {
		check_writers(store.db);
		check_iteration(store.db);
	}
}

static void open_board_and_store(void) {
	aidb_options options = store_small_options();

	options.log_segment_bytes = 256 << 10;
	clear_board();
	for (unsigned i = 0; i < WRITERS; i++) {
		shared->writers[i].durability = i == 2 ? AIDB_LAZY : AIDB_WRITE;
	}
	store_make(&store, &options);
	store_open(&store);
}

static void death_at_any_step_holds_nobody_up(void **state) {
	static const struct {
		const char *point;
		uint32_t times;
	} steps[] = {
		{"log_copied", 1},     {"log_copied", 50},      {"memtable_inserted", 1}, {"memtable_inserted", 77},
		{"sequence_taken", 1}, {"sequence_taken", 20},  {"log_written", 1},       {"log_written", 33},
		{"log_synced", 1},     {"published", 1},        {"published", 40},        {"flush_written", 1},
		{"flush_written", 3},  {"manifest_written", 1}, {"manifest_written", 3},  {"compaction_written", 1},
	};

	(void)state;
	skip_without_fork();
	open_board_and_store();
	for (size_t i = 0; i < sizeof(steps) / sizeof(steps[0]); i++) {
		dying_point = steps[i].point;
		atomic_store(&shared->points_to_go, steps[i].times);
		survive(live_and_die_at_point, 0);
		if (atomic_load(&shared->failures) != 0) {
			print_error("death at \"%s\"\n", dying_point);
		}
		assert_int_equal(atomic_load(&shared->failures), 0);
	}
	store_destroy(&store);
}

static void death_at_any_moment_holds_nobody_up(void **state) {
	uint64_t random = seed;

	(void)state;
	skip_without_fork();
	open_board_and_store();
	for (int round = 0; round < 6; round++) {
		survive(live_until_killed, 1000 + store_random_below(&random, 50000));
		assert_int_equal(atomic_load(&shared->failures), 0);
	}
	store_destroy(&store);
}

static void death_in_a_read_holds_nobody_up(void **state) {
	(void)state;
	skip_without_fork();
	open_board_and_store();
	survive(die_reading, 0);
	assert_int_equal(atomic_load(&shared->failures), 0);
	store_destroy(&store);
}

static void death_with_a_reservation_holds_nobody_up(void **state) {
	(void)state;
	skip_without_fork();
	open_board_and_store();
	survive(die_with_a_reservation, 0);
	assert_int_equal(atomic_load(&shared->failures), 0);
	store_destroy(&store);
}

static void death_with_snapshots_holds_nobody_up(void **state) {
	(void)state;
	skip_without_fork();
	open_board_and_store();
	survive(die_with_snapshots, 0);
	assert_int_equal(atomic_load(&shared->failures), 0);
	store_destroy(&store);
}

/* ---- Processes that end well --------------------------------------------------------------------------- */

#define CHILD_WRITES 300

static void write_read_and_leave(void *argument) {
	writer *mine = argument;
	uint64_t random = seed + mine->number;
	aidb_batch *batch = aidb_batch_create();
	aidb_snapshot snapshot;

	for (int i = 0; i < CHILD_WRITES; i++) {
		char key[64];

		CHECK(write_next(program_db, mine, batch, &random) == AIDB_OK);
		state_key(key, mine, 2);
		CHECK(number_of(program_db, key, NULL) == atomic_load(&mine->acknowledged));
		CHECK(aidb_snapshot_acquire(program_db, &snapshot) == AIDB_OK);
		if (i % 10 > 0) {
			aidb_snapshot_release(program_db, &snapshot);
		}
	}
	check_iteration(program_db);
	aidb_member_leave(program_db);
	aidb_batch_destroy(batch);
}

/* A program opens the store, its children use it side by side with it, and the store goes on without them. */
static void children_use_the_store_of_their_parent(void **state) {
	aidb_options options = store_small_options();
	char directory[STORE_PATH_BYTES];
	int status = 0;

	(void)state;
	skip_without_fork_of_threads();
	clear_board();
	directory_make(directory);
	assert_ok(aidb_open(directory, &options, &program_db)); /* with threads, which the children have not */
	for (int round = 0; round < 3; round++) {
		pid_t children[WRITERS];

		for (unsigned i = 1; i < WRITERS; i++) {
			children[i] = start_process(write_read_and_leave, &shared->writers[i]);
		}
		write_read_and_leave(&shared->writers[0]);
		for (unsigned i = 1; i < WRITERS; i++) {
			CHECK(end_of(children[i], &status, LIMIT_US) && status == 0);
		}
		check_writers(program_db);
		assert_int_equal(stats_of(program_db).snapshots, 0);
		assert_int_equal(atomic_load(&shared->failures), 0);
	}
	aidb_close(program_db);
	assert_ok(aidb_open(directory, &options, &program_db));
	check_writers(program_db);
	for (unsigned i = 0; i < WRITERS; i++) {
		assert_int_equal(atomic_load(&shared->writers[i].acknowledged), 3 * CHILD_WRITES);
	}
	aidb_close(program_db);
	directory_remove(directory);
	assert_int_equal(atomic_load(&shared->failures), 0);
}

static void read_and_write_a_little(void *argument) {
	aidb_batch *batch = aidb_batch_create();
	uint64_t random = seed;

	for (int i = 0; i < 4; i++) {
		CHECK(write_next(program_db, argument, batch, &random) == AIDB_OK);
	}
	check_iteration(program_db);
	aidb_member_leave(program_db);
	aidb_batch_destroy(batch);
}

static void *reader_thread(void *argument) {
	while (atomic_load(&shared->stop) == 0) {
		check_iteration(program_db);
	}
	return argument;
}

/* Whatever threads of the parent are doing at the moment of a fork, the child can go on. */
static void child_may_be_born_at_any_moment(void **state) {
	aidb_options options = store_small_options();
	char directory[STORE_PATH_BYTES];
	pthread_t threads[2];
	int status = 0;

	(void)state;
	skip_without_fork_of_threads();
	clear_board();
	directory_make(directory);
	assert_ok(aidb_open(directory, &options, &program_db));
	shared->writers[0].durability = AIDB_LAZY;
	assert_int_equal(pthread_create(&threads[0], NULL, writer_thread, &shared->writers[0]), 0);
	assert_int_equal(pthread_create(&threads[1], NULL, reader_thread, NULL), 0);
	for (int birth = 0; birth < 100 && atomic_load(&shared->failures) == 0; birth++) {
		pid_t child = start_process(read_and_write_a_little, &shared->writers[1]);

		CHECK(end_of(child, &status, LIMIT_US) && status == 0);
	}
	atomic_store(&shared->stop, 1);
	for (unsigned i = 0; i < 2; i++) {
		pthread_join(threads[i], NULL);
	}
	assert_int_equal(atomic_load(&shared->failures), 0);
	check_writers(program_db);
	aidb_close(program_db);
	directory_remove(directory);
	assert_int_equal(atomic_load(&shared->failures), 0);
}

int main(void) {
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(killed_program_keeps_what_it_promised),
		cmocka_unit_test(death_at_any_step_holds_nobody_up),
		cmocka_unit_test(death_at_any_moment_holds_nobody_up),
		cmocka_unit_test(death_in_a_read_holds_nobody_up),
		cmocka_unit_test(death_with_a_reservation_holds_nobody_up),
		cmocka_unit_test(death_with_snapshots_holds_nobody_up),
		cmocka_unit_test(children_use_the_store_of_their_parent),
		cmocka_unit_test(child_may_be_born_at_any_moment),
	};

	return cmocka_run_group_tests_name("crash", tests, make_board, NULL);
}
