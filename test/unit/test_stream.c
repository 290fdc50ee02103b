/* Streams and pins: every commit comes out of the log once and in order, whatever becomes of the files meanwhile. */
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

#define WAIT_US 10000000u

static test_store store;

static int set_up(void **state) {
	aidb_options options = store_small_options();

	(void)state;
	options.pin_limit_bytes = 1 << 20;
	store_make(&store, &options);
	store_open(&store);
	return 0;
}

static int tear_down(void **state) {
	(void)state;
	store_destroy(&store);
	return 0;
}

static aidb_pin must_pin(const char *name) {
	aidb_pin pin;

	assert_ok(aidb_pin_create(store.db, name, &pin));
	return pin;
}

static aidb_stream *must_stream(const char *pin, aidb_sequence after) {
	aidb_stream *stream;

	assert_ok(aidb_stream_open(store.db, pin, after, &stream));
	return stream;
}

static void put_number(unsigned number, size_t size, aidb_durability durability) {
	aidb_write_options options = {.durability = durability};
	char key[32];
	char *value = calloc(1, size + 1);

	snprintf(key, sizeof(key), "key %08u", number);
	memset(value, 'a' + (int)(number % 26), size);
	assert_ok(aidb_put(store.db, &options, text(key), text(value)));
	free(value);
}

/* The number in the one key of a record that put_number has made. */
static unsigned number_of(const aidb_stream_record *record) {
	aidb_slice left = record->operations;
	aidb_operation operation;
	char key[32] = "";

	assert_int_equal(record->count, 1);
	assert_true(aidb_operation_next(&left, &operation));
	assert_int_equal(operation.kind, AIDB_OPERATION_PUT);
	assert_int_equal(operation.key.size, 12);
	memcpy(key, operation.key.data, operation.key.size);
	assert_false(aidb_operation_next(&left, &operation));
	assert_int_equal(left.size, 0);
	return (unsigned)strtoul(key + 4, NULL, 10);
}

/* Reads `count` commits that begin with `first`; moves the pin along when it has a name. */
static void expect_numbers(aidb_stream *stream, unsigned first, unsigned count, const char *pin) {
	aidb_stream_record record;
	bool more;

	for (unsigned i = 0; i < count; i++) {
		bool got;

		assert_ok(aidb_stream_next(stream, &record, &got));
		while (!got) {
			assert_ok(aidb_stream_wait(stream, WAIT_US, &more));
			assert_ok(aidb_stream_next(stream, &record, &got));
		}
		assert_int_equal(number_of(&record), first + i);
		if (pin != NULL) {
			assert_ok(aidb_pin_advance(store.db, pin, record.sequence, record.end));
		}
	}
}

static void expect_nothing(aidb_stream *stream) {
	aidb_stream_record record;
	bool more = true;

	assert_ok(aidb_stream_wait(stream, 0, &more));
	assert_false(more);
	assert_ok(aidb_stream_next(stream, &record, &more));
	assert_false(more);
}

static aidb_stream_record must_next(aidb_stream *stream) {
	aidb_stream_record record;
	bool got;

	assert_ok(aidb_stream_next(stream, &record, &got));
	assert_true(got);
	return record;
}

static void operations_come_back(void **state) {
	aidb_batch *batch = aidb_batch_create();
	aidb_batch *copy = aidb_batch_create();
	aidb_pin pin = must_pin("p");
	aidb_stream *stream = must_stream("p", pin.sequence);
	aidb_write_options prepared = {.durability = AIDB_SYNC, .state = AIDB_BATCH_PREPARED, .tag = 77};
	aidb_stream_record record;
	aidb_operation operation;
	aidb_slice left;
	aidb_sequence sequence;
	bool more;

	(void)state;
	assert_ok(aidb_batch_put(batch, text("a"), text("1")));
	assert_ok(aidb_batch_put(batch, text(""), text("")));
	assert_ok(aidb_batch_delete(batch, text("b")));
	assert_ok(aidb_batch_delete_noted(batch, text("c"), text("note")));
	assert_ok(aidb_write(store.db, &prepared, batch, &sequence));
	assert_ok(aidb_stream_wait(stream, 0, &more));
	assert_true(more);
	record = must_next(stream);
	assert_int_equal(record.sequence, sequence);
	assert_int_equal(record.state, AIDB_BATCH_PREPARED);
	assert_int_equal(record.tag, 77);
	assert_int_equal(record.count, 4);
	left = record.operations;
	while (aidb_operation_next(&left, &operation)) {
		assert_ok(aidb_batch_add(copy, &operation));
	}
	assert_int_equal(left.size, 0);
	assert_int_equal(aidb_batch_count(copy), 4);
	assert_ok(aidb_write(store.db, NULL, copy, NULL));
	assert_ok(aidb_stream_wait(stream, 0, &more));
	sequence = record.sequence;
	left = record.operations;
	{
		size_t size = left.size;
		char *bytes = malloc(size);

		memcpy(bytes, left.data, size);
		record = must_next(stream);
		assert_int_equal(record.sequence, sequence + 1);
		assert_int_equal(record.operations.size, size);
		assert_memory_equal(record.operations.data, bytes, size);
		free(bytes);
	}
	expect(store.db, "a", "1");
	/* bytes that are no operation */
	left = (aidb_slice){"\x01\x05"
						"abc",
						5};
	assert_false(aidb_operation_next(&left, &operation));
	assert_int_equal(left.size, 5);
	aidb_stream_close(stream);
	aidb_batch_destroy(batch);
	aidb_batch_destroy(copy);
}

static void nothing_is_handed_out_before_it_is_durable(void **state) {
	aidb_pin pin = must_pin("p");
	aidb_stream *stream = must_stream("p", pin.sequence);

	(void)state;
	expect_nothing(stream);
	put_number(0, 10, AIDB_LAZY);
	put_number(1, 10, AIDB_WRITE);
	expect_nothing(stream);
	assert_ok(aidb_sync(store.db));
	expect_numbers(stream, 0, 2, NULL);
	expect_nothing(stream);
	put_number(2, 10, AIDB_SYNC);
	expect_numbers(stream, 2, 1, NULL);
	aidb_stream_close(stream);
}

static void a_stream_goes_on_from_a_commit(void **state) {
	aidb_pin pin = must_pin("p");
	aidb_stream *stream;

	(void)state;
	for (unsigned i = 0; i < 10; i++) {
		put_number(i, 100, AIDB_SYNC);
	}
	for (unsigned i = 0; i < 10; i++) {
		stream = must_stream("p", pin.sequence + i);
		expect_numbers(stream, i, 0, NULL);
		{
			aidb_stream_record record;
			bool more;

			assert_ok(aidb_stream_wait(stream, 0, &more));
			record = must_next(stream);
			assert_int_equal(number_of(&record), i);
			assert_int_equal(record.sequence, pin.sequence + i + 1);
		}
		aidb_stream_close(stream);
	}
	assert_status(aidb_stream_open(store.db, "p", pin.sequence - 1, &stream), AIDB_NOT_FOUND);
	expect_error_names("copied anew", NULL);
	assert_status(aidb_stream_open(store.db, "p", pin.sequence + 11, &stream), AIDB_NOT_FOUND);
	expect_error_names("different histories", NULL);
	assert_status(aidb_stream_open(store.db, "q", pin.sequence, &stream), AIDB_NOT_FOUND);
}

/* Segments of 64 KiB, memtables of 1 MiB: the log is discarded and its segments used again behind the pin all the time. */
static void a_pin_keeps_the_log_through_flushes_and_restarts(void **state) {
	aidb_pin pin = must_pin("p");
	aidb_sequence first = pin.sequence;
	aidb_stream *stream;
	unsigned read = 0;

	(void)state;
	for (unsigned round = 0; round < 6; round++) {
		aidb_stream_record record = {0};
		bool more;

		for (unsigned i = 0; i < 60; i++) {
			put_number(round * 60 + i, 5000, i % 7 == 0 ? AIDB_SYNC : AIDB_WRITE);
		}
		assert_ok(aidb_flush(store.db));
		assert_ok(aidb_sync(store.db));
		if (round % 2 == 1) {
			store_crash(&store);
			store_open(&store);
		}
		/* the replica has read all but a few */
		stream = must_stream("p", first + read);
		assert_ok(aidb_stream_wait(stream, 0, &more));
		while (read < (round + 1) * 60 - 5) {
			record = must_next(stream);
			assert_int_equal(number_of(&record), read);
			read++;
		}
		assert_ok(aidb_pin_advance(store.db, "p", record.sequence, record.end));
		aidb_stream_close(stream);
	}
	assert_ok(aidb_flush(store.db));
	assert_true(directory_count(store.directory, ".log", NULL, NULL) < 14); /* of some 30 in all */
	stream = must_stream("p", first + read);
	expect_numbers(stream, read, 5, "p");
	expect_nothing(stream);
	aidb_stream_close(stream);
}

static void a_pin_that_holds_too_much_is_lost(void **state) {
	aidb_pin pins[AIDB_MAX_PINS];
	aidb_pin pin = must_pin("p");
	aidb_stream *stream = must_stream("p", pin.sequence), *other;
	aidb_stream_record record;
	aidb_status rc = AIDB_OK;
	unsigned read = 0;
	bool more;

	(void)state;
	for (unsigned i = 0; i < 500; i++) {
		put_number(i, 5000, AIDB_WRITE);
	}
	assert_ok(aidb_flush(store.db));
	assert_int_equal(aidb_pin_list(store.db, pins), 1);
	assert_true(pins[0].lost);
	assert_true(pins[0].retained_bytes > 2000000);
	for (unsigned i = 500; i < 1000; i++) { /* its segments are used again */
		put_number(i, 5000, AIDB_WRITE);
	}
	assert_ok(aidb_flush(store.db));
	/* one that was open notices, and never hands out what is not there */
	assert_ok(aidb_stream_wait(stream, 0, &more));
	while (rc == AIDB_OK) {
		bool got;

		rc = aidb_stream_next(stream, &record, &got);
		if (rc == AIDB_OK) {
			assert_true(got);
			assert_int_equal(number_of(&record), read++);
		}
	}
	assert_int_equal(rc, AIDB_NOT_FOUND);
	expect_error_names("lost", "copied anew", NULL);
	assert_status(aidb_stream_open(store.db, "p", pin.sequence, &other), AIDB_NOT_FOUND);
	assert_status(aidb_pin_advance(store.db, "p", record.sequence, record.end), AIDB_NOT_FOUND);
	pin = must_pin("p"); /* anew */
	assert_false(pin.lost);
	other = must_stream("p", pin.sequence);
	put_number(1000, 10, AIDB_SYNC);
	expect_numbers(other, 1000, 1, NULL);
	aidb_stream_close(other);
	aidb_stream_close(stream);
}

static void pins_are_listed_and_dropped(void **state) {
	aidb_pin pins[AIDB_MAX_PINS], pin;
	char name[AIDB_PIN_NAME_BYTES + 1];

	(void)state;
	for (unsigned i = 0; i < AIDB_MAX_PINS; i++) {
		snprintf(name, sizeof(name), "pin %u", i);
		must_pin(name);
		put_number(i, 10, AIDB_WRITE);
	}
	assert_status(aidb_pin_create(store.db, "one more", &pin), AIDB_LIMIT);
	assert_ok(aidb_pin_drop(store.db, "pin 3"));
	assert_status(aidb_pin_drop(store.db, "pin 3"), AIDB_NOT_FOUND);
	store_close(&store);
	store_open(&store);
	assert_int_equal(aidb_pin_list(store.db, pins), AIDB_MAX_PINS - 1);
	for (unsigned i = 0; i < AIDB_MAX_PINS - 1; i++) {
		snprintf(name, sizeof(name), "pin %u", i < 3 ? i : i + 1);
		assert_string_equal(pins[i].name, name);
		assert_false(pins[i].lost);
		assert_int_equal(pins[i].sequence, LSM_FIRST_SEQUENCE + (i < 3 ? i : i + 1));
	}
	memset(name, 'x', sizeof(name));
	name[AIDB_PIN_NAME_BYTES] = '\0';
	assert_status(aidb_pin_create(store.db, name, &pin), AIDB_INVALID);
	assert_status(aidb_pin_create(store.db, "", &pin), AIDB_INVALID);
}

static void damage_is_reported_with_its_place(void **state) {
	aidb_pin pin = must_pin("p");
	char path[STORE_PATH_BYTES];
	aidb_stream *stream;
	aidb_stream_record record;
	bool more;

	(void)state;
	for (unsigned i = 0; i < 10; i++) {
		put_number(i, 1000, AIDB_SYNC);
	}
	directory_count(store.directory, ".log", path, NULL);
	file_flip(path, 5500, 0x10);
	stream = must_stream("p", pin.sequence);
	assert_ok(aidb_stream_wait(stream, 0, &more));
	for (unsigned i = 0; i < 5; i++) {
		record = must_next(stream);
	}
	assert_status(aidb_stream_next(stream, &record, &more), AIDB_CORRUPT);
	expect_error_names(".log", "offset", "below the synced position", NULL);
	aidb_stream_close(stream);
}

/* ---- At the same time ------------------------------------------------------------------------------------ */

#define WRITERS 3u
#define COMMITS 400u

static void *write_some(void *argument) {
	unsigned writer = *(unsigned *)argument;

	for (unsigned i = 0; i < COMMITS; i++) {
		put_number(writer * COMMITS + i, 2000, i % 3 == 0 ? AIDB_SYNC : AIDB_WRITE);
	}
	aidb_member_leave(store.db);
	return NULL;
}

static void readers_follow_writers(void **state) {
	aidb_pin pin = must_pin("p");
	aidb_stream *stream = must_stream("p", pin.sequence);
	unsigned numbers[WRITERS], next[WRITERS] = {0};
	aidb_sequence last = pin.sequence;
	pthread_t threads[WRITERS];
	aidb_stream_record record;
	unsigned got = 0;

	(void)state;
	for (unsigned i = 0; i < WRITERS; i++) {
		numbers[i] = i;
		assert_int_equal(pthread_create(&threads[i], NULL, write_some, &numbers[i]), 0);
	}
	while (got < WRITERS * COMMITS) {
		bool any;

		assert_ok(aidb_stream_next(stream, &record, &any));
		if (!any) {
			bool more;

			assert_ok(aidb_stream_wait(stream, 1000, &more));
			if (!more) {
				assert_ok(aidb_sync(store.db)); /* what the last writers have left unsynced */
			}
			continue;
		}
		assert_int_equal(record.sequence, last + 1);
		last = record.sequence;
		{
			unsigned number = number_of(&record);

			assert_int_equal(number % COMMITS, next[number / COMMITS]);
			next[number / COMMITS]++;
		}
		if (++got % 50 == 0) {
			assert_ok(aidb_pin_advance(store.db, "p", record.sequence, record.end));
		}
	}
	for (unsigned i = 0; i < WRITERS; i++) {
		pthread_join(threads[i], NULL);
	}
	expect_nothing(stream);
	aidb_stream_close(stream);
}

static void *wake_later(void *argument) {
	(void)argument;
	sleep_us(20000);
	aidb_stream_wake(store.db);
	return NULL;
}

static void waits_end(void **state) {
	aidb_pin pin = must_pin("p");
	aidb_stream *stream = must_stream("p", pin.sequence);
	pthread_t thread;
	bool more = true;

	(void)state;
	assert_int_equal(pthread_create(&thread, NULL, wake_later, NULL), 0);
	assert_ok(aidb_stream_wait(stream, WAIT_US, &more));
	assert_false(more);
	pthread_join(thread, NULL);
	faults.replica_error = EINTR;
	assert_status(aidb_stream_wait(stream, WAIT_US, &more), AIDB_INTERRUPTED);
	faults.replica_error = 0;
	aidb_stream_close(stream);
}

int main(void) {
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(operations_come_back, set_up, tear_down),
		cmocka_unit_test_setup_teardown(nothing_is_handed_out_before_it_is_durable, set_up, tear_down),
		cmocka_unit_test_setup_teardown(a_stream_goes_on_from_a_commit, set_up, tear_down),
		cmocka_unit_test_setup_teardown(a_pin_keeps_the_log_through_flushes_and_restarts, set_up, tear_down),
		cmocka_unit_test_setup_teardown(a_pin_that_holds_too_much_is_lost, set_up, tear_down),
		cmocka_unit_test_setup_teardown(pins_are_listed_and_dropped, set_up, tear_down),
		cmocka_unit_test_setup_teardown(damage_is_reported_with_its_place, set_up, tear_down),
		cmocka_unit_test_setup_teardown(readers_follow_writers, set_up, tear_down),
		cmocka_unit_test_setup_teardown(waits_end, set_up, tear_down),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
