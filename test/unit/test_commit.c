/* The path of a write: order, groups, reservations, room, and what a failure leaves behind. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "db/db.h"
#include "store_fixture.h"

#define THREADS 8
#define VALUE_BYTES 500

static char filler[256 << 10];

static aidb_batch *batch_of(const char *key, const char *value) {
	aidb_batch *batch = aidb_batch_create();

	assert_ok(aidb_batch_put(batch, text(key), text(value)));
	return batch;
}

static void open_small(test_store *store) {
	aidb_options options = store_small_options();

	memset(filler, 'f', sizeof(filler));
	store_make(store, &options);
	store_open(store);
}

static aidb_status put_bytes(aidb_db *db, const char *key, size_t bytes, aidb_durability durability) {
	return aidb_put(db, &(aidb_write_options){.durability = durability}, text(key), (aidb_slice){filler, bytes});
}

/* Fills the active memtable until another takes its place. */
static void fill_memtable(aidb_db *db) {
	uint32_t active = db->shared->commits.active;

	while (db->shared->commits.active == active) {
		assert_ok(put_bytes(db, "filler", 10000, AIDB_WRITE));
	}
}

/* ---- Threads ------------------------------------------------------------------------------------------- */

typedef struct worker {
	aidb_db *db;
	unsigned number;
	aidb_durability durability;
	unsigned count;
	_Atomic unsigned failures;
	_Atomic unsigned *stop; /* NULL: runs until done */
	aidb_sequence last;     /* of its commits */
} worker;

static void run_workers(aidb_db *db, worker workers[THREADS], aidb_durability durability, unsigned count,
						void *(*body)(void *argument)) {
	pthread_t threads[THREADS];

	for (unsigned i = 0; i < THREADS; i++) {
		workers[i] = (worker){.db = db, .number = i, .durability = durability, .count = count};
		assert_int_equal(pthread_create(&threads[i], NULL, body, &workers[i]), 0);
	}
	for (unsigned i = 0; i < THREADS; i++) {
		pthread_join(threads[i], NULL);
		assert_int_equal(atomic_load(&workers[i].failures), 0);
	}
}

/* Each commit's sequence is above all that were visible when it began, and it is visible when it returns. */
static void *commit_in_order(void *argument) {
	worker *mine = argument;
	aidb_batch *batch = aidb_batch_create();
	char value[VALUE_BYTES] = {0};
	char key[32];

	for (unsigned i = 0; i < mine->count; i++) {
		aidb_sequence visible = aidb_current_sequence(mine->db);
		aidb_sequence sequence = 0;

		aidb_batch_clear(batch);
		snprintf(key, sizeof(key), "%u/%u", mine->number, i % 50);
		memcpy(value, &i, sizeof(i));
		aidb_batch_put(batch, text(key), (aidb_slice){value, sizeof(value)});
		if (aidb_write(mine->db, &(aidb_write_options){.durability = mine->durability}, batch, &sequence) != AIDB_OK ||
			sequence <= visible || sequence <= mine->last || aidb_current_sequence(mine->db) < sequence) {
			atomic_fetch_add(&mine->failures, 1);
		}
		mine->last = sequence;
	}
	aidb_batch_destroy(batch);
	return NULL;
}

static void expect_last_values(aidb_db *db, unsigned count) {
	for (unsigned number = 0; number < THREADS; number++) {
		for (unsigned i = count - 50; i < count; i++) {
			aidb_buffer value = {0};
			char key[32];

			snprintf(key, sizeof(key), "%u/%u", number, i % 50);
			assert_ok(aidb_get(db, NULL, text(key), &value, NULL));
			assert_int_equal(value.size, VALUE_BYTES);
			assert_memory_equal(value.data, &i, sizeof(i));
			aidb_buffer_free(&value);
		}
	}
}

static void synced_commits_share_their_syncs(void **state) {
	worker workers[THREADS];
	test_store store;
	aidb_stats before, after;
	aidb_sequence first;

	(void)state;
	open_small(&store);
	atomic_store(&faults.sync_delay_us, 500); /* a disk, wherever the test runs */
	before = stats_of(store.db);
	first = aidb_current_sequence(store.db);
	run_workers(store.db, workers, AIDB_SYNC, 100, commit_in_order);
	after = stats_of(store.db);
	assert_int_equal(after.commits - before.commits, THREADS * 100);
	assert_int_equal(aidb_current_sequence(store.db) - first, THREADS * 100);
	print_message("%.1f commits a sync\n",
				  (double)(after.commits - before.commits) / (double)(after.log_syncs - before.log_syncs));
	assert_true((after.log_syncs - before.log_syncs) * 2 <= after.commits - before.commits);
	store_crash(&store);
	faults_clear();
	store_open(&store);
	expect_last_values(store.db, 100);
	store_destroy(&store);
}

static void many_writers_at_once_lose_nothing(void **state) {
	static const aidb_durability kinds[] = {AIDB_WRITE, AIDB_LAZY};

	(void)state;
	for (unsigned kind = 0; kind < 2; kind++) {
		worker workers[THREADS];
		test_store store;

		open_small(&store);
		run_workers(store.db, workers, kinds[kind], 4000, commit_in_order);
		assert_true(stats_of(store.db).flushes > 8);
		expect_last_values(store.db, 4000);
		assert_ok(aidb_sync(store.db));
		store_crash(&store);
		store_open(&store);
		expect_last_values(store.db, 4000);
		store_settle(store.db);
		expect_last_values(store.db, 4000);
		store_destroy(&store);
	}
}

static void sequences_go_on_after_a_restart(void **state) {
	aidb_sequence last = 0, sequence;
	aidb_batch *batch = batch_of("key", "value");
	test_store store;

	(void)state;
	open_small(&store);
	for (int round = 0; round < 12; round++) {
		for (int i = 0; i < 5; i++) {
			assert_ok(aidb_write(store.db, NULL, batch, &sequence));
			assert_true(sequence > last);
			last = sequence;
		}
		if (round % 3 == 0) {
			assert_ok(aidb_flush(store.db));
		}
		if (round % 4 == 1) {
			store_close(&store);
		} else {
			store_crash(&store);
		}
		store_open(&store);
		assert_int_equal(aidb_current_sequence(store.db), last);
	}
	store_destroy(&store);
	aidb_batch_destroy(batch);
}

/* ---- Refusals ------------------------------------------------------------------------------------------ */

static void batch_limit_is_exact(void **state) {
	aidb_batch *batch = aidb_batch_create();
	aidb_sequence before;
	test_store store;
	size_t limit;

	(void)state;
	open_small(&store);
	limit = aidb_max_batch_bytes(store.db);
	assert_in_range(limit, 128 << 10, 512 << 10);
	for (int round = 0; round < 20; round++) { /* each takes a good part of a memtable */
		char key[32];

		snprintf(key, sizeof(key), "large %02d", round);
		aidb_batch_clear(batch);
		assert_ok(aidb_batch_put(batch, text(key), (aidb_slice){filler, limit - AIDB_BATCH_OPERATION_BYTES - 8}));
		assert_int_equal(aidb_batch_bytes(batch), limit);
		assert_ok(aidb_write(store.db, &(aidb_write_options){.durability = AIDB_WRITE}, batch, NULL));
	}
	before = aidb_current_sequence(store.db);
	aidb_batch_clear(batch);
	assert_ok(aidb_batch_put(batch, text("large"), (aidb_slice){filler, limit - AIDB_BATCH_OPERATION_BYTES - 4}));
	assert_status(aidb_write(store.db, NULL, batch, NULL), AIDB_LIMIT);
	expect_error_names("limit", NULL);
	assert_int_equal(aidb_current_sequence(store.db), before);
	store_crash(&store);
	store_open(&store);
	for (int round = 0; round < 20; round++) {
		aidb_buffer value = {0};
		char key[32];

		snprintf(key, sizeof(key), "large %02d", round);
		assert_ok(aidb_get(store.db, NULL, text(key), &value, NULL));
		assert_int_equal(value.size, limit - AIDB_BATCH_OPERATION_BYTES - 8);
		assert_memory_equal(value.data, filler, value.size);
		aidb_buffer_free(&value);
	}
	store_destroy(&store);
	aidb_batch_destroy(batch);
}

/* Operations without keys or values take the most memory for their footprint. */
static void batch_of_empty_operations_fits(void **state) {
	aidb_batch *batch = aidb_batch_create();
	test_store store;

	(void)state;
	open_small(&store);
	while (aidb_batch_bytes(batch) + AIDB_BATCH_OPERATION_BYTES <= aidb_max_batch_bytes(store.db)) {
		assert_ok(aidb_batch_put(batch, text(""), text("")));
	}
	for (int round = 0; round < 10; round++) {
		assert_ok(aidb_write(store.db,
							 &(aidb_write_options){.durability = AIDB_WRITE, .state = AIDB_BATCH_PREPARED, .tag = 7},
							 batch, NULL));
	}
	store_destroy(&store);
	aidb_batch_destroy(batch);
}

static void options_of_a_write_are_checked(void **state) {
	aidb_batch *batch = batch_of("key", "value");
	aidb_batch *empty = aidb_batch_create();
	aidb_sequence before, sequence = 0;
	test_store store;

	(void)state;
	open_small(&store);
	before = aidb_current_sequence(store.db);
	for (int kind = AIDB_BATCH_PREPARED; kind <= AIDB_BATCH_ABORT; kind++) {
		aidb_write_options options = {.state = (aidb_batch_state)kind};

		assert_status(aidb_write(store.db, &options, batch, NULL), AIDB_INVALID);
		options.tag = 5;
		assert_status(aidb_write(store.db, &options, batch, NULL),
					  kind == AIDB_BATCH_PREPARED ? AIDB_OK : AIDB_INVALID);
		assert_ok(aidb_write(store.db, &options, empty, &sequence));
		assert_true(sequence > before);
		before = sequence;
	}
	assert_ok(aidb_write(store.db, NULL, empty, NULL));
	assert_int_equal(aidb_current_sequence(store.db), before);
	expect(store.db, "key", NULL);
	store_destroy(&store);
	aidb_batch_destroy(batch);
	aidb_batch_destroy(empty);
}

static void stopped_store_takes_no_writes(void **state) {
	test_store store;

	(void)state;
	open_small(&store);
	must_put(store.db, "key", "value", AIDB_LAZY);
	assert_true(aidb_is_started(store.db));
	assert_ok(aidb_stop(store.db));
	assert_false(aidb_is_started(store.db));
	assert_status(put(store.db, "key", "late", AIDB_LAZY), AIDB_INVALID);
	assert_status(aidb_get(store.db, NULL, text("key"), NULL, NULL), AIDB_INVALID);
	assert_status(aidb_flush(store.db), AIDB_INVALID);
	assert_status(aidb_start(store.db), AIDB_INVALID);
	store_crash(&store);
	store_open(&store);
	expect(store.db, "key", "value");
	store_destroy(&store);
}

/* ---- Reservations -------------------------------------------------------------------------------------- */

static void reservation_becomes_a_commit(void **state) {
	aidb_batch *batch = batch_of("key", "value");
	aidb_reservation reservation;
	aidb_sequence before, sequence = 0;
	test_store store;

	(void)state;
	open_small(&store);
	before = aidb_current_sequence(store.db);
	assert_ok(aidb_write_reserve(store.db, batch, &reservation));
	expect(store.db, "key", NULL);
	assert_int_equal(aidb_current_sequence(store.db), before);
	must_put(store.db, "other", "not held up", AIDB_SYNC);
	assert_ok(aidb_write_commit(store.db, NULL, &reservation, &sequence));
	assert_int_equal(sequence, before + 2);
	expect(store.db, "key", "value");
	assert_ok(aidb_write_reserve(store.db, batch, &reservation));
	assert_ok(aidb_write_commit(store.db,
								&(aidb_write_options){.durability = AIDB_WRITE, .state = AIDB_BATCH_PREPARED, .tag = 9},
								&reservation, &sequence));
	expect(store.db, "key", "value"); /* the tagged version is not seen */
	store_crash(&store);
	store_open(&store);
	expect(store.db, "key", "value");
	expect(store.db, "other", "not held up");
	store_destroy(&store);
	aidb_batch_destroy(batch);
}

static void statistics_show_what_is_held(void **state) {
	aidb_batch *batch = batch_of("key", "value");
	aidb_reservation kept, cancelled;
	aidb_stats stats;
	test_store store;
	uint32_t other;

	(void)state;
	open_small(&store);
	assert_int_equal(stats_of(store.db).reservations, 0);
	assert_int_equal(stats_of(store.db).reserved_bytes, 0);
	assert_int_equal(stats_of(store.db).readers, 0);
	assert_ok(aidb_write_reserve(store.db, batch, &kept));
	assert_ok(aidb_write_reserve(store.db, batch, &cancelled));
	other = kept.member + 1;
	lsm_epoch_enter(&store.db->arena, other);
	stats = stats_of(store.db);
	assert_int_equal(stats.reservations, 2);
	assert_int_equal(stats.reserved_bytes, kept.log_bytes + cancelled.log_bytes);
	assert_int_equal(stats.readers, 1);
	lsm_epoch_leave(&store.db->arena, other);
	aidb_write_cancel(store.db, &cancelled);
	assert_int_equal(stats_of(store.db).reservations, 1);
	assert_ok(aidb_write_commit(store.db, NULL, &kept, NULL));
	stats = stats_of(store.db);
	assert_int_equal(stats.reservations, 0);
	assert_int_equal(stats.reserved_bytes, 0);
	assert_int_equal(stats.readers, 0);
	store_destroy(&store);
	aidb_batch_destroy(batch);
}

/* The commit may come when its memtable has long been sealed, and later commits are in the next one. */
static void reservation_outlives_its_memtable(void **state) {
	aidb_batch *batch = batch_of("key", "late");
	aidb_reservation reservation;
	test_store store;
	bool did;

	(void)state;
	open_small(&store);
	must_put(store.db, "key", "early", AIDB_WRITE);
	assert_ok(aidb_write_reserve(store.db, batch, &reservation));
	fill_memtable(store.db);
	must_put(store.db, "between", "value", AIDB_WRITE);
	assert_int_not_equal(store.db->shared->commits.active, reservation.memtable);
	assert_ok(aidb_write_commit(store.db, &(aidb_write_options){.durability = AIDB_WRITE}, &reservation, NULL));
	expect(store.db, "key", "late");
	assert_ok(aidb_work(store.db, AIDB_WORK_FLUSH, &did));
	assert_true(did);
	expect(store.db, "key", "late");
	store_crash(&store); /* the flushed memtable's record lies in the log of the next */
	store_open(&store);
	expect(store.db, "key", "late");
	expect(store.db, "between", "value");
	store_settle(store.db);
	assert_ok(aidb_flush(store.db));
	expect(store.db, "key", "late");
	store_destroy(&store);
	aidb_batch_destroy(batch);
}

/* Memory that was reserved and given back is lost to the memtable, which is sealed in time, even when it holds nothing. */
static void cancelled_reservations_use_nothing_up(void **state) {
	aidb_batch *batch = aidb_batch_create();
	aidb_sequence before;
	test_store store;

	(void)state;
	open_small(&store);
	assert_ok(aidb_batch_put(batch, text("key"), (aidb_slice){filler, 200000}));
	before = aidb_current_sequence(store.db);
	for (int round = 0; round < 40; round++) {
		aidb_reservation reservation;

		assert_ok(aidb_write_reserve(store.db, batch, &reservation));
		aidb_write_cancel(store.db, &reservation);
	}
	assert_int_equal(store.db->shared->commits.log_reserved, 0);
	assert_int_equal(aidb_current_sequence(store.db), before);
	expect(store.db, "key", NULL);
	assert_ok(aidb_write(store.db, NULL, batch, NULL));
	assert_ok(aidb_flush(store.db));
	store_crash(&store);
	store_open(&store);
	assert_ok(aidb_get(store.db, NULL, text("key"), NULL, NULL));
	store_destroy(&store);
	aidb_batch_destroy(batch);
}

typedef struct flusher {
	aidb_db *db;
	_Atomic uint32_t done;
	aidb_status status;
} flusher;

static void *flush_store(void *argument) {
	flusher *mine = argument;

	mine->status = aidb_flush(mine->db);
	atomic_store(&mine->done, 1);
	return NULL;
}

/* A reservation holds up the flush of its memtable, and nobody else. */
static void reservation_holds_up_the_flush_alone(void **state) {
	aidb_batch *batch = batch_of("key", "value");
	aidb_reservation reservation;
	test_store store;
	flusher flush = {0};
	pthread_t thread;

	(void)state;
	open_small(&store);
	flush.db = store.db;
	must_put(store.db, "early", "value", AIDB_WRITE);
	for (int round = 0; round < 2; round++) {
		assert_ok(aidb_write_reserve(store.db, batch, &reservation));
		atomic_store(&flush.done, 0);
		assert_int_equal(pthread_create(&thread, NULL, flush_store, &flush), 0);
		for (int i = 0; i < 200000 && store.db->shared->commits.active == reservation.memtable; i++) {
			sleep_us(100);
		}
		assert_int_not_equal(store.db->shared->commits.active, reservation.memtable);
		for (int i = 0; i < 100; i++) {
			assert_ok(put_bytes(store.db, "meanwhile", 1000, AIDB_SYNC));
		}
		sleep_us(20000); /* time in which it must not come to its end */
		assert_int_equal(atomic_load(&flush.done), 0);
		if (round == 0) {
			assert_ok(aidb_write_commit(store.db, NULL, &reservation, NULL));
		} else {
			aidb_write_cancel(store.db, &reservation);
		}
		pthread_join(thread, NULL);
		assert_ok(flush.status);
		expect(store.db, "key", "value");
	}
	assert_int_equal(stats_of(store.db).flushes, 2);
	store_destroy(&store);
	aidb_batch_destroy(batch);
}

static void reserved_log_is_there_when_the_disk_is_full(void **state) {
	aidb_batch *batch = aidb_batch_create();
	aidb_reservation reservation;
	test_store store;

	(void)state;
	open_small(&store);
	assert_ok(aidb_batch_put(batch, text("large"), (aidb_slice){filler, 200000}));
	assert_ok(aidb_write_reserve(store.db, batch, &reservation));
	atomic_store(&faults.allocate_error, ENOSPC);
	while (put_bytes(store.db, "filler", 3000, AIDB_WRITE) == AIDB_OK) {}
	assert_ok(aidb_write_commit(store.db, NULL, &reservation, NULL));
	store_crash(&store);
	faults_clear();
	store_open(&store);
	assert_ok(aidb_get(store.db, NULL, text("large"), NULL, NULL));
	store_destroy(&store);
	aidb_batch_destroy(batch);
}

static uint64_t files_of(aidb_db *db) {
	aidb_stats stats = stats_of(db);
	uint64_t files = 0;

	for (int level = 0; level < AIDB_LEVELS; level++) {
		files += stats.level_files[level];
	}
	return files;
}

/* ---- Room ---------------------------------------------------------------------------------------------- */

/* All memtables full, and the disk, too: writes are refused, and go on when there is space, without a restart. */
static void full_disk_at_the_flush_stops_writes_until_there_is_space(void **state) {
	unsigned acknowledged = 0;
	test_store store;
	aidb_status rc;
	char key[32];

	(void)state;
	open_small(&store);
	for (int round = 0; round < 3; round++) {
		atomic_store(&faults.write_error[STORE_TABLE], round < 2 ? ENOSPC : 0);
		atomic_store(&faults.write_error[STORE_MANIFEST], round > 0 ? ENOSPC : 0);
		do {
			snprintf(key, sizeof(key), "key %u", acknowledged);
			rc = put_bytes(store.db, key, 5000, AIDB_WRITE);
			acknowledged += rc == AIDB_OK;
		} while (rc == AIDB_OK);
		assert_status(rc, AIDB_NO_SPACE);
		assert_true(acknowledged > 500);
		assert_false(stats_of(store.db).writes_off);
		assert_status(aidb_flush(store.db), AIDB_NO_SPACE);
		assert_ok(aidb_get(store.db, NULL, text("key 1"), NULL, NULL));
		expect(store.db, key, NULL);
		faults_clear();
		assert_ok(put_bytes(store.db, key, 5000, AIDB_WRITE));
		acknowledged++;
	}
	assert_ok(aidb_flush(store.db));
	store_settle(store.db);
	assert_int_equal(directory_count(store.directory, ".sst", NULL, NULL), files_of(store.db));
	store_crash(&store);
	store_open(&store);
	for (unsigned i = 0; i < acknowledged; i++) {
		snprintf(key, sizeof(key), "key %u", i);
		assert_ok(aidb_get(store.db, NULL, text(key), NULL, NULL));
	}
	assert_int_equal(directory_count(store.directory, ".sst", NULL, NULL), files_of(store.db));
	store_destroy(&store);
}

/* A host that wants the wait for room to end gets its way; nothing has changed then, and the call may be repeated. */
static void wait_for_room_can_be_interrupted(void **state) {
	aidb_batch *batch = batch_of("key", "value");
	aidb_reservation reservation;
	aidb_sequence before;
	test_store store;
	aidb_status rc;

	(void)state;
	open_small(&store);
	assert_ok(aidb_write_reserve(store.db, batch, &reservation));
	atomic_store(&faults.room_error, EINTR);
	do {
		before = aidb_current_sequence(store.db);
		rc = put_bytes(store.db, "filler", 5000, AIDB_WRITE);
	} while (rc == AIDB_OK);
	assert_status(rc, AIDB_INTERRUPTED);
	assert_int_equal(aidb_current_sequence(store.db), before);
	assert_status(aidb_flush(store.db), AIDB_INTERRUPTED);
	assert_ok(aidb_write_commit(store.db, NULL, &reservation, NULL));
	atomic_store(&faults.room_error, 0);
	assert_ok(put_bytes(store.db, "filler", 5000, AIDB_WRITE));
	assert_ok(aidb_flush(store.db));
	expect(store.db, "key", "value");
	store_destroy(&store);
	aidb_batch_destroy(batch);
}

/* Without any background work the writers flush and compact for themselves. */
static void writers_alone_keep_the_store_in_shape(void **state) {
	test_store store;
	aidb_stats stats;
	char key[32];

	(void)state;
	open_small(&store);
	for (unsigned i = 0; i < 6000; i++) {
		snprintf(key, sizeof(key), "key %u", i * 7919 % 2000);
		assert_ok(put_bytes(store.db, key, 4000, AIDB_LAZY));
	}
	stats = stats_of(store.db);
	assert_true(stats.flushes > 15);
	assert_true(stats.compactions > 0);
	assert_in_range(stats.level_files[0], 0, 17);
	assert_true(stats.stalls > 0);
	store_destroy(&store);
}

static void what_was_seen_is_synced_once(void **state) {
	test_store store;
	uint64_t syncs;

	(void)state;
	open_small(&store);
	assert_ok(put_bytes(store.db, "lazy", 100, AIDB_LAZY));
	assert_ok(put_bytes(store.db, "written", 100, AIDB_WRITE));
	syncs = stats_of(store.db).log_syncs;
	assert_ok(aidb_sync_visible(store.db));
	assert_int_equal(stats_of(store.db).log_syncs, syncs + 1);
	assert_ok(aidb_sync_visible(store.db));
	assert_ok(put_bytes(store.db, "synced", 100, AIDB_SYNC));
	assert_ok(aidb_sync_visible(store.db));
	assert_int_equal(stats_of(store.db).log_syncs, syncs + 2);
	store_destroy(&store);
}

int main(void) {
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(synced_commits_share_their_syncs),
		cmocka_unit_test(many_writers_at_once_lose_nothing),
		cmocka_unit_test(sequences_go_on_after_a_restart),
		cmocka_unit_test(batch_limit_is_exact),
		cmocka_unit_test(batch_of_empty_operations_fits),
		cmocka_unit_test(options_of_a_write_are_checked),
		cmocka_unit_test(stopped_store_takes_no_writes),
		cmocka_unit_test(reservation_becomes_a_commit),
		cmocka_unit_test(statistics_show_what_is_held),
		cmocka_unit_test(reservation_outlives_its_memtable),
		cmocka_unit_test(cancelled_reservations_use_nothing_up),
		cmocka_unit_test(reservation_holds_up_the_flush_alone),
		cmocka_unit_test(reserved_log_is_there_when_the_disk_is_full),
		cmocka_unit_test(full_disk_at_the_flush_stops_writes_until_there_is_space),
		cmocka_unit_test(wait_for_room_can_be_interrupted),
		cmocka_unit_test(writers_alone_keep_the_store_in_shape),
		cmocka_unit_test(what_was_seen_is_synced_once),
	};

	return cmocka_run_group_tests_name("commit", tests, NULL, NULL);
}
