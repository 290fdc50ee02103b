/* Commits that replicas must have: nobody sees one, and no write returns, before it is acknowledged. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <pthread.h>
#include <stdio.h>

#include "db/db.h"
#include "store_fixture.h"

static test_store store;

static int set_up(void **state) {
	aidb_options options = store_small_options();

	(void)state;
	store_make(&store, &options);
	store_open(&store);
	return 0;
}

static int tear_down(void **state) {
	(void)state;
	store_destroy(&store);
	return 0;
}

typedef struct writing {
	const char *key;
	aidb_durability durability;
	_Atomic bool returned;
	aidb_status rc;
	pthread_t thread;
} writing;

static void *write_key(void *argument) {
	writing *mine = argument;

	mine->rc = put(store.db, mine->key, "value", mine->durability);
	atomic_store(&mine->returned, true);
	aidb_member_leave(store.db);
	return NULL;
}

static void begin_writing(writing *mine, const char *key, aidb_durability durability) {
	*mine = (writing){.key = key, .durability = durability};
	assert_int_equal(pthread_create(&mine->thread, NULL, write_key, mine), 0);
}

/* Until the log is durable up to this commit. */
static void wait_synced(aidb_sequence sequence) {
	aidb_stream *stream;
	aidb_stream_record record = {.sequence = 0};
	aidb_pin pin;
	bool more;

	assert_ok(aidb_pin_create(store.db, "test", &pin));
	if (pin.sequence >= sequence) {
		return;
	}
	assert_ok(aidb_stream_open(store.db, "test", pin.sequence, &stream));
	while (record.sequence < sequence) {
		assert_ok(aidb_stream_wait(stream, 1000, &more));
		if (more) {
			assert_ok(aidb_stream_next(stream, &record, &more));
		}
	}
	aidb_stream_close(stream);
}

static void nothing_is_seen_before_it_is_acknowledged(void **state) {
	static const aidb_durability durabilities[] = {AIDB_SYNC, AIDB_WRITE, AIDB_LAZY};
	aidb_sequence before = aidb_current_sequence(store.db);
	writing writers[3];
	char keys[3][2] = {"a", "b", "c"};
	aidb_pin pin;

	(void)state;
	assert_ok(aidb_pin_create(store.db, "test", &pin));
	aidb_replication_require(store.db, before);
	for (unsigned i = 0; i < 3; i++) {
		begin_writing(&writers[i], keys[i], durabilities[i]);
		wait_synced(before + 1 + i); /* whatever was asked for */
	}
	sleep_us(20000);
	for (unsigned i = 0; i < 3; i++) {
		assert_false(atomic_load(&writers[i].returned));
		expect(store.db, keys[i], NULL);
	}
	assert_int_equal(aidb_current_sequence(store.db), before);
	aidb_replication_advance(store.db, before + 2);
	pthread_join(writers[0].thread, NULL);
	pthread_join(writers[1].thread, NULL);
	assert_ok(writers[0].rc);
	assert_ok(writers[1].rc);
	expect(store.db, "a", "value");
	expect(store.db, "b", "value");
	expect(store.db, "c", NULL);
	assert_int_equal(aidb_current_sequence(store.db), before + 2);
	aidb_replication_advance(store.db, before); /* never back */
	sleep_us(5000);
	assert_false(atomic_load(&writers[2].returned));
	aidb_replication_release(store.db);
	pthread_join(writers[2].thread, NULL);
	assert_ok(writers[2].rc);
	expect(store.db, "c", "value");
	aidb_replication_advance(store.db, 1); /* nothing is required */
	must_put(store.db, "d", "value", AIDB_LAZY);
}

static void an_interrupted_commit_is_published_later(void **state) {
	aidb_sequence before = aidb_current_sequence(store.db);
	writing later;

	(void)state;
	aidb_replication_require(store.db, before);
	faults.replica_error = EINTR;
	assert_status(put(store.db, "a", "value", AIDB_SYNC), AIDB_UNREPLICATED);
	expect_error_names("durable here", "acknowledged", NULL);
	assert_status(aidb_wait_visible(store.db, before + 1), AIDB_INTERRUPTED);
	faults.replica_error = 0;
	expect(store.db, "a", NULL);
	begin_writing(&later, "b", AIDB_SYNC);
	wait_synced(before + 2);
	aidb_replication_advance(store.db, before + 2);
	pthread_join(later.thread, NULL);
	assert_ok(later.rc);
	expect(store.db, "a", "value");
	expect(store.db, "b", "value");
	assert_ok(aidb_wait_visible(store.db, before + 2));
}

/* More commits than there are slots wait for the replica: the next is refused before it has taken a sequence. */
static void no_slot_is_used_twice(void **state) {
	aidb_sequence before = aidb_current_sequence(store.db);
	unsigned waiting = 0;
	char key[32];
	aidb_status rc = AIDB_UNREPLICATED;

	(void)state;
	aidb_replication_require(store.db, before);
	faults.replica_error = EINTR;
	while (rc == AIDB_UNREPLICATED) {
		snprintf(key, sizeof(key), "key %u", waiting);
		rc = put(store.db, key, "value", AIDB_SYNC);
		waiting += rc == AIDB_UNREPLICATED;
		assert_true(waiting < 100000);
	}
	assert_int_equal(rc, AIDB_INTERRUPTED);
	assert_true(waiting > store.options.members);
	faults.replica_error = 0;
	aidb_replication_advance(store.db, before + waiting);
	assert_int_equal(aidb_current_sequence(store.db), before + waiting);
	for (unsigned i = 0; i < waiting; i++) {
		snprintf(key, sizeof(key), "key %u", i);
		expect(store.db, key, "value");
	}
	snprintf(key, sizeof(key), "key %u", waiting);
	expect(store.db, key, NULL);
	aidb_replication_release(store.db);
	must_put(store.db, "after", "there", AIDB_SYNC);
}

/* What is in the log is in the store after a restart, acknowledged or not. */
static void a_restart_keeps_what_is_durable(void **state) {
	(void)state;
	aidb_replication_require(store.db, aidb_current_sequence(store.db));
	faults.replica_error = EINTR;
	assert_status(put(store.db, "a", "value", AIDB_SYNC), AIDB_UNREPLICATED);
	assert_ok(aidb_flush(store.db)); /* an unseen commit goes into a file like any other */
	expect(store.db, "a", NULL);
	store_crash(&store);
	store_open(&store);
	expect(store.db, "a", "value");
}

int main(void) {
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(nothing_is_seen_before_it_is_acknowledged, set_up, tear_down),
		cmocka_unit_test_setup_teardown(an_interrupted_commit_is_published_later, set_up, tear_down),
		cmocka_unit_test_setup_teardown(no_slot_is_used_twice, set_up, tear_down),
		cmocka_unit_test_setup_teardown(a_restart_keeps_what_is_durable, set_up, tear_down),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
