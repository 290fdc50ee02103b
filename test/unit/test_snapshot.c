/* Snapshots: what they see stays, through flush and compaction, and what nobody sees goes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "db/db.h"
#include "store_fixture.h"

static void open_small(test_store *store) {
	aidb_options options = store_small_options();

	store_make(store, &options);
	store_open(store);
}

/* Rewrites the whole store until every file lies in one level. */
static void compact_all(test_store *store) {
	char key[32];

	for (int file = 0; file < 5; file++) {
		for (int i = 0; i < 3; i++) {
			snprintf(key, sizeof(key), "%s rubble %d", i == 0 ? "" : i == 1 ? "k" : "zz", file);
			must_put(store->db, key, "rubble", AIDB_WRITE);
		}
		assert_ok(aidb_flush(store->db));
	}
	store_settle(store->db);
	assert_int_equal(stats_of(store->db).level_files[0], 0);
}

static void snapshot_sees_its_moment(void **state) {
	aidb_snapshot snapshots[5];
	test_store store;
	char value[32];

	(void)state;
	open_small(&store);
	for (int i = 0; i < 5; i++) {
		snprintf(value, sizeof(value), "value %d", i);
		must_put(store.db, "key", value, AIDB_WRITE);
		must_put(store.db, value, "there", AIDB_WRITE);
		assert_ok(aidb_snapshot_acquire(store.db, &snapshots[i]));
		assert_int_equal(snapshots[i].sequence, aidb_current_sequence(store.db));
		if (i == 2) {
			assert_ok(aidb_delete(store.db, NULL, text("key")));
		}
	}
	assert_ok(aidb_delete(store.db, NULL, text("key")));
	assert_int_equal(stats_of(store.db).snapshots, 5);
	assert_int_equal(stats_of(store.db).oldest_snapshot, snapshots[0].sequence);
	for (int stage = 0; stage < 3; stage++) {
		for (int i = 0; i < 5; i++) {
			snprintf(value, sizeof(value), "value %d", i);
			expect_at(store.db, snapshots[i].sequence, "key", value);
			for (int j = 0; j < 5; j++) {
				snprintf(value, sizeof(value), "value %d", j);
				expect_at(store.db, snapshots[i].sequence, value, j <= i ? "there" : NULL);
			}
		}
		expect(store.db, "key", NULL);
		if (stage == 0) {
			assert_ok(aidb_flush(store.db));
		} else {
			compact_all(&store);
		}
	}
	for (int i = 0; i < 5; i++) {
		aidb_snapshot_release(store.db, &snapshots[i]);
	}
	assert_int_equal(stats_of(store.db).snapshots, 0);
	assert_int_equal(stats_of(store.db).oldest_snapshot, aidb_current_sequence(store.db));
	store_destroy(&store);
}

static uint64_t entries_after_compaction(test_store *store) {
	compact_all(store);
	return stats_of(store->db).entries;
}

static void released_versions_are_dropped(void **state) {
	aidb_snapshot snapshot;
	test_store store;
	uint64_t held;
	char key[32];

	(void)state;
	open_small(&store);
	for (int round = 0; round < 3; round++) {
		for (int i = 0; i < 1000; i++) {
			snprintf(key, sizeof(key), "key %d", i);
			must_put(store.db, key, "some value", AIDB_LAZY);
		}
		if (round == 0) {
			assert_ok(aidb_snapshot_acquire(store.db, &snapshot));
		}
	}
	held = entries_after_compaction(&store);
	assert_in_range(held, 2000, 2100); /* the snapshot's and the newest; those in between hidden from both */
	expect_at(store.db, snapshot.sequence, "key 999", "some value");
	aidb_snapshot_release(store.db, &snapshot);
	for (int i = 0; i < 1000; i++) {
		snprintf(key, sizeof(key), "key %d", i);
		assert_ok(aidb_delete(store.db, &(aidb_write_options){.durability = AIDB_LAZY}, text(key)));
	}
	assert_in_range(entries_after_compaction(&store), 1, 100);
	store_destroy(&store);
}

/* A snapshot may be set back to what the host has promised to keep. */
static void snapshot_is_lowered_to_the_floor(void **state) {
	aidb_snapshot snapshot;
	aidb_sequence floor;
	test_store store;

	(void)state;
	open_small(&store);
	must_put(store.db, "key", "old", AIDB_WRITE);
	floor = aidb_current_sequence(store.db);
	atomic_store(&faults.snapshot_floor, floor);
	must_put(store.db, "key", "new", AIDB_WRITE);
	compact_all(&store);
	assert_ok(aidb_snapshot_acquire(store.db, &snapshot));
	aidb_snapshot_lower(store.db, &snapshot, floor);
	assert_int_equal(snapshot.sequence, floor);
	aidb_snapshot_lower(store.db, &snapshot, floor + 100);
	assert_int_equal(snapshot.sequence, floor);
	assert_int_equal(stats_of(store.db).oldest_snapshot, floor);
	atomic_store(&faults.snapshot_floor, 0);
	compact_all(&store);
	expect_at(store.db, snapshot.sequence, "key", "old");
	expect(store.db, "key", "new");
	aidb_snapshot_release(store.db, &snapshot);
	store_destroy(&store);
}

static void iterator_holds_a_snapshot_of_its_own(void **state) {
	aidb_iterator *iterator;
	test_store store;

	(void)state;
	open_small(&store);
	must_put(store.db, "a", "1", AIDB_WRITE);
	must_put(store.db, "b", "1", AIDB_WRITE);
	assert_ok(aidb_iterator_create(store.db, NULL, &iterator));
	assert_int_equal(stats_of(store.db).snapshots, 1);
	must_put(store.db, "a", "2", AIDB_WRITE);
	assert_ok(aidb_delete(store.db, NULL, text("b")));
	must_put(store.db, "c", "2", AIDB_WRITE);
	compact_all(&store);
	aidb_iterator_seek(iterator, text("a"));
	assert_true(aidb_iterator_valid(iterator));
	assert_true(lsm_equal(aidb_iterator_value(iterator), text("1")));
	aidb_iterator_next(iterator);
	assert_true(aidb_iterator_valid(iterator));
	assert_true(lsm_equal(aidb_iterator_key(iterator), text("b")));
	aidb_iterator_next(iterator);
	assert_false(aidb_iterator_valid(iterator));
	aidb_iterator_destroy(iterator);
	assert_int_equal(stats_of(store.db).snapshots, 0);
	store_destroy(&store);
}

static void snapshots_are_limited(void **state) {
	aidb_options options = store_small_options();
	aidb_snapshot *snapshots;
	aidb_snapshot other;
	aidb_iterator *iterator;
	test_store store;
	uint32_t count;

	(void)state;
	options.members = 2;
	store_make(&store, &options);
	store_open(&store);
	count = store.db->shared->snapshots.count;
	snapshots = calloc(count, sizeof(*snapshots));
	for (uint32_t i = 0; i < count; i++) {
		assert_ok(aidb_snapshot_acquire(store.db, &snapshots[i]));
	}
	assert_status(aidb_snapshot_acquire(store.db, &other), AIDB_LIMIT);
	expect_error_names("snapshots", NULL);
	assert_status(aidb_iterator_create(store.db, NULL, &iterator), AIDB_LIMIT);
	aidb_snapshot_release(store.db, &snapshots[count / 2]);
	assert_ok(aidb_snapshot_acquire(store.db, &other));
	assert_int_equal(other.slot, snapshots[count / 2].slot);
	assert_int_equal(stats_of(store.db).snapshots, count);
	aidb_member_leave(store.db);
	assert_int_equal(stats_of(store.db).snapshots, 0);
	free(snapshots);
	store_destroy(&store);
}

/* What a member held goes with it, and nothing of others. */
static void *take_snapshots_and_leave(void *argument) {
	aidb_db *db = argument;
	aidb_snapshot snapshot;

	for (int i = 0; i < 10; i++) {
		if (aidb_snapshot_acquire(db, &snapshot) != AIDB_OK) {
			return argument;
		}
	}
	aidb_member_leave(db);
	return NULL;
}

static void leaving_member_gives_its_snapshots_back(void **state) {
	aidb_snapshot mine;
	test_store store;
	pthread_t thread;
	void *failed = NULL;

	(void)state;
	open_small(&store);
	assert_ok(aidb_snapshot_acquire(store.db, &mine));
	assert_int_equal(pthread_create(&thread, NULL, take_snapshots_and_leave, store.db), 0);
	pthread_join(thread, &failed);
	assert_null(failed);
	assert_int_equal(stats_of(store.db).snapshots, 1);
	store_destroy(&store);
}

/* ---- Together with everything else --------------------------------------------------------------------- */

#define SETS 8
#define SET_KEYS 20
#define READERS 3
#define SET_WRITERS 2
#define RUN_US 1500000
#define MOST_RUN_US 60000000
#define STEP_US 10000
#define LEAST_LOOKS 10

/* Each batch sets all keys of a set to one number; whoever looks must find them equal. */
typedef struct together {
	aidb_db *db;
	_Atomic uint32_t stop;
	_Atomic uint32_t failures;
	_Atomic uint64_t looks;
	_Atomic uint64_t numbers; /* given to batches */
	uint64_t seed;
} together;

static void set_key(char key[32], unsigned set, unsigned number) {
	snprintf(key, 32, "%02u of set %u", number, set); /* sets lie between each other */
}

static void *write_sets(void *argument) {
	together *run = argument;
	aidb_batch *batch = aidb_batch_create();
	uint64_t random = run->seed ^ (uint64_t)(uintptr_t)&random;
	char value[400];
	char key[32];

	memset(value, 'v', sizeof(value));
	while (atomic_load(&run->stop) == 0) {
		uint64_t number = atomic_fetch_add(&run->numbers, 1) + 1;
		unsigned set = (unsigned)store_random_below(&random, SETS);
		bool deletes = store_random_below(&random, 5) == 0;

		memcpy(value, &number, sizeof(number));
		aidb_batch_clear(batch);
		for (unsigned i = 0; i < SET_KEYS; i++) {
			set_key(key, set, i);
			if (deletes) {
				aidb_batch_delete(batch, text(key));
			} else {
				aidb_batch_put(batch, text(key), (aidb_slice){value, sizeof(value)});
			}
		}
		if (aidb_write(run->db, &(aidb_write_options){.durability = AIDB_WRITE}, batch, NULL) != AIDB_OK) {
			atomic_fetch_add(&run->failures, 1);
		}
	}
	aidb_batch_destroy(batch);
	return NULL;
}

/* 0: the key is absent. */
static uint64_t number_at(together *run, aidb_sequence sequence, unsigned set, unsigned i) {
	aidb_buffer value = {0};
	uint64_t number = 0;
	char key[32];
	aidb_status rc;

	set_key(key, set, i);
	rc = aidb_get(run->db, &(aidb_read_options){.sequence = sequence}, text(key), &value, NULL);
	if (rc == AIDB_OK) {
		memcpy(&number, value.data, sizeof(number));
	} else if (rc != AIDB_NOT_FOUND) {
		atomic_fetch_add(&run->failures, 1);
	}
	aidb_buffer_free(&value);
	return number;
}

static void look_by_get(together *run, unsigned set) {
	aidb_snapshot snapshot;
	uint64_t first;

	if (aidb_snapshot_acquire(run->db, &snapshot) != AIDB_OK) {
		atomic_fetch_add(&run->failures, 1);
		return;
	}
	first = number_at(run, snapshot.sequence, set, 0);
	for (unsigned i = SET_KEYS; i-- > 1;) {
		if (number_at(run, snapshot.sequence, set, i) != first) {
			atomic_fetch_add(&run->failures, 1);
		}
	}
	aidb_snapshot_release(run->db, &snapshot);
}

static void look_by_iterator(together *run, bool backward) {
	uint64_t numbers[SETS] = {0};
	unsigned counts[SETS] = {0};
	aidb_iterator *iterator;

	if (aidb_iterator_create(run->db, NULL, &iterator) != AIDB_OK) {
		atomic_fetch_add(&run->failures, 1);
		return;
	}
	for (backward ? aidb_iterator_seek_last(iterator) : aidb_iterator_seek_first(iterator);
		 aidb_iterator_valid(iterator); backward ? aidb_iterator_prev(iterator) : aidb_iterator_next(iterator)) {
		unsigned set = (unsigned)(((const char *)aidb_iterator_key(iterator).data)[10] - '0');
		uint64_t number;

		memcpy(&number, aidb_iterator_value(iterator).data, sizeof(number));
		if (counts[set]++ > 0 && numbers[set] != number) {
			atomic_fetch_add(&run->failures, 1);
		}
		numbers[set] = number;
	}
	for (unsigned set = 0; set < SETS; set++) {
		if (counts[set] != 0 && counts[set] != SET_KEYS) {
			atomic_fetch_add(&run->failures, 1);
		}
	}
	if (aidb_iterator_status(iterator) != AIDB_OK) {
		atomic_fetch_add(&run->failures, 1);
	}
	aidb_iterator_destroy(iterator);
}

static void *look_at_sets(void *argument) {
	together *run = argument;
	uint64_t random = run->seed ^ (uint64_t)(uintptr_t)&random;

	while (atomic_load(&run->stop) == 0) {
		if (store_random_below(&random, 2) == 0) {
			look_by_get(run, (unsigned)store_random_below(&random, SETS));
		} else {
			look_by_iterator(run, store_random_below(&random, 2) == 0);
		}
		atomic_fetch_add(&run->looks, 1);
	}
	return NULL;
}

/* For some time, and until there was enough to look at. */
static void let_run(together *run) {
	uint64_t ran_us = 0;

	while (ran_us < RUN_US ||
		   (ran_us < MOST_RUN_US && (stats_of(run->db).flushes == 0 || atomic_load(&run->looks) < LEAST_LOOKS))) {
		sleep_us(STEP_US);
		ran_us += STEP_US;
	}
}

static void no_reader_ever_sees_half_a_batch(void **state) {
	aidb_options options = store_small_options();
	together run = {.seed = store_seed("test_snapshot")};
	char directory[STORE_PATH_BYTES];
	pthread_t threads[SET_WRITERS + READERS];
	aidb_stats stats;

	(void)state;
	options.log_segment_bytes = 1 << 20;
	directory_make(directory);
	assert_ok(aidb_open(directory, &options, &run.db)); /* with background threads */
	for (int i = 0; i < SET_WRITERS + READERS; i++) {
		assert_int_equal(pthread_create(&threads[i], NULL, i < SET_WRITERS ? write_sets : look_at_sets, &run), 0);
	}
	let_run(&run);
	atomic_store(&run.stop, 1);
	for (int i = 0; i < SET_WRITERS + READERS; i++) {
		pthread_join(threads[i], NULL);
	}
	stats = stats_of(run.db);
	print_message("%llu looks at %llu commits, %llu flushes, %llu compactions\n",
				  (unsigned long long)atomic_load(&run.looks), (unsigned long long)stats.commits,
				  (unsigned long long)stats.flushes, (unsigned long long)stats.compactions);
	assert_int_equal(atomic_load(&run.failures), 0);
	assert_int_equal(stats.snapshots, 0);
	assert_true(stats.flushes > 0 && atomic_load(&run.looks) >= LEAST_LOOKS);
	aidb_close(run.db);
	directory_remove(directory);
}

int main(void) {
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(snapshot_sees_its_moment),
		cmocka_unit_test(released_versions_are_dropped),
		cmocka_unit_test(snapshot_is_lowered_to_the_floor),
		cmocka_unit_test(iterator_holds_a_snapshot_of_its_own),
		cmocka_unit_test(snapshots_are_limited),
		cmocka_unit_test(leaving_member_gives_its_snapshots_back),
		cmocka_unit_test(no_reader_ever_sees_half_a_batch),
	};

	return cmocka_run_group_tests_name("snapshot", tests, NULL, NULL);
}
