#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "db/db.h"
#include "store_fixture.h"

#define KEYS 3000
#define KEY_BYTES 32

static test_store store;
static aidb_db *db;
static char parent[STORE_PATH_BYTES];
static char path[2 * STORE_PATH_BYTES];

static int set_up(void **state) {
	aidb_options options = store_small_options();

	(void)state;
	store_make(&store, &options);
	store_open(&store);
	db = store.db;
	directory_make(parent);
	snprintf(path, sizeof(path), "%s/checkpoint", parent);
	return 0;
}

static void remove_checkpoint(void) {
	if (access(path, F_OK) == 0) {
		directory_remove(path);
	}
}

static int tear_down(void **state) {
	(void)state;
	remove_checkpoint();
	directory_remove(parent);
	store_destroy(&store);
	return 0;
}

static void set_tagged(const char *key, const char *value, aidb_tag tag) {
	aidb_batch *batch = aidb_batch_create();

	assert_ok(aidb_batch_put(batch, text(key), text(value)));
	assert_ok(aidb_write(db, &(aidb_write_options){.durability = AIDB_LAZY, .state = AIDB_BATCH_PREPARED, .tag = tag},
						 batch, NULL));
	aidb_batch_destroy(batch);
}

/* The checkpoint as a store of its own. */
static aidb_db *open_checkpoint(void) {
	aidb_options options = {.memory_bytes = AIDB_MIN_MEMORY_BYTES};
	aidb_db *copy;

	assert_ok(aidb_open(path, &options, &copy));
	return copy;
}

static const char *key_of(int number, char key[KEY_BYTES]) {
	snprintf(key, KEY_BYTES, "key%06d", number);
	return key;
}

static void fill(const char *value) {
	char key[KEY_BYTES];

	for (int i = 0; i < KEYS; i++) {
		must_put(db, key_of(i, key), value, AIDB_LAZY);
	}
}

static void expect_all(aidb_db *of, const char *value) {
	char key[KEY_BYTES];

	for (int i = 0; i < KEYS; i++) {
		expect(of, key_of(i, key), value);
	}
}

static void test_is_a_store(void **state) {
	aidb_db *copy;

	(void)state;
	fill("one");
	assert_ok(aidb_flush(db));
	must_put(db, "in memory", "yes", AIDB_LAZY);
	assert_ok(aidb_checkpoint(db, path, NULL, NULL));
	must_put(db, "later", "yes", AIDB_LAZY);
	fill("two");
	store_settle(db);

	copy = open_checkpoint();
	expect_all(copy, "one");
	expect(copy, "in memory", "yes");
	expect(copy, "later", NULL);
	assert_true(aidb_store_id(copy) != aidb_store_id(db));
	must_put(copy, "in the copy", "yes", AIDB_SYNC);
	assert_true(aidb_current_sequence(copy) > 0);
	aidb_close(copy);
	expect(db, "in the copy", NULL);
	expect_all(db, "two");

	copy = open_checkpoint();
	expect(copy, "in the copy", "yes");
	expect_all(copy, "one");
	aidb_close(copy);
	assert_ok(aidb_destroy(path));
	expect_all(db, "two");
}

static void test_empty_store(void **state) {
	aidb_db *copy;

	(void)state;
	assert_ok(aidb_checkpoint(db, path, NULL, NULL));
	copy = open_checkpoint();
	expect(copy, "a", NULL);
	must_put(copy, "a", "1", AIDB_SYNC);
	expect(copy, "a", "1");
	aidb_close(copy);
}

static aidb_tag_fate fate_of(void *argument, aidb_tag tag) {
	(void)argument;
	return tag == 1 ? AIDB_TAG_COMMITTED : tag == 2 ? AIDB_TAG_ABORTED : AIDB_TAG_OPEN;
}

static void test_tags(void **state) {
	aidb_db *copy;
	uint32_t files;

	(void)state;
	must_put(db, "b", "old", AIDB_LAZY);
	must_put(db, "c", "old", AIDB_LAZY);
	set_tagged("a", "committed", 1);
	set_tagged("b", "aborted", 2);
	set_tagged("c", "open", 3);
	assert_ok(aidb_flush(db));
	set_tagged("only", "aborted", 2); /* a file of which nothing is left */
	assert_ok(aidb_checkpoint(db, path, fate_of, NULL));
	files = directory_count(path, ".sst", NULL, NULL);
	assert_int_equal(files, 1);

	copy = open_checkpoint();
	expect(copy, "a", "committed");
	expect(copy, "b", "old");
	expect(copy, "c", "old"); /* nobody sees what is open */
	expect(copy, "only", NULL);
	aidb_close(copy);
	expect(db, "a", NULL); /* here it is as it was */
}

static void test_refusals(void **state) {
	(void)state;
	must_put(db, "a", "1", AIDB_LAZY);
	assert_ok(aidb_checkpoint(db, path, NULL, NULL));
	assert_status(aidb_checkpoint(db, path, NULL, NULL), AIDB_EXISTS);
	expect_error_names(path, "not empty", NULL);
	assert_status(aidb_checkpoint(db, "/nowhere/at/all", NULL, NULL), AIDB_NOT_FOUND);
	expect_error_names("/nowhere/at/all", NULL);
	store.host.file_link = NULL;
	assert_status(aidb_checkpoint(db, path, NULL, NULL), AIDB_UNSUPPORTED);
	expect(db, "a", "1");
	must_put(db, "a", "2", AIDB_SYNC);
}

static int links_left;
static int (*real_link)(void *context, const char *from, const char *to);

static int failing_link(void *context, const char *from, const char *to) {
	return links_left-- > 0 ? real_link(context, from, to) : EMLINK;
}

static void test_failing_link(void **state) {
	(void)state;
	for (int round = 0; round < 2; round++) { /* the second merges with the first, into files of the usual size */
		fill("a value of some length, so that this is more than one file");
		assert_ok(aidb_flush(db));
	}
	store_settle(db);
	assert_true(directory_count(store.directory, ".sst", NULL, NULL) > 1);
	real_link = store.host.file_link;
	store.host.file_link = failing_link;
	links_left = 1;
	assert_status(aidb_checkpoint(db, path, NULL, NULL), AIDB_IO);
	expect_error_names(path, "hard link", NULL);
	links_left = 1000000;
	remove_checkpoint();
	assert_ok(aidb_checkpoint(db, path, NULL, NULL)); /* nothing is held from the first try */
	fill("two");
	store_settle(db);
	expect_all(db, "two");
}

/* ---- While others write ------------------------------------------------------------------------------------ */

static _Atomic int written;
static _Atomic bool over;

/* Batches whose keys have the same value, so that half of one would show. */
static void *write_on(void *unused) {
	char key[KEY_BYTES], value[KEY_BYTES];

	(void)unused;
	for (int i = 1; !over; i++) {
		aidb_batch *batch = aidb_batch_create();

		snprintf(value, sizeof(value), "%d", i);
		for (int part = 0; part < 10; part++) {
			if (aidb_batch_put(batch, text(key_of(part * 1000 + i % 50, key)), text(value)) != AIDB_OK) {
				abort();
			}
		}
		if (aidb_write(db, &(aidb_write_options){.durability = AIDB_LAZY}, batch, NULL) != AIDB_OK) {
			abort();
		}
		aidb_batch_destroy(batch);
		written = i;
	}
	return NULL;
}

static int number_in(aidb_db *of, const char *key) {
	aidb_buffer value = {0};
	int number = 0;

	if (aidb_get(of, NULL, text(key), &value, NULL) == AIDB_OK) {
		char digits[KEY_BYTES] = {0};

		memcpy(digits, value.data, value.size);
		number = atoi(digits);
	}
	aidb_buffer_free(&value);
	return number;
}

static void test_while_written(void **state) {
	pthread_t writer;

	(void)state;
	over = false;
	written = 0;
	assert_int_equal(pthread_create(&writer, NULL, write_on, NULL), 0);
	for (int round = 0; round < 10; round++) {
		int before, highest = 0;
		aidb_db *copy;

		while (written < 500 * (round + 1)) {
			sleep_us(100);
		}
		before = written;
		assert_ok(aidb_checkpoint(db, path, NULL, NULL));
		copy = open_checkpoint();
		for (int i = 0; i < 50; i++) {
			char key[KEY_BYTES];
			int number = number_in(copy, key_of(i, key));

			highest = number > highest ? number : highest;
			for (int part = 1; part < 10; part++) {
				assert_int_equal(number_in(copy, key_of(part * 1000 + i, key)), number);
			}
		}
		assert_true(highest >= before); /* all that was acknowledged */
		aidb_close(copy);
		assert_ok(aidb_destroy(path));
	}
	over = true;
	pthread_join(writer, NULL);
}

int main(void) {
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_is_a_store, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_empty_store, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_tags, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_refusals, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_failing_link, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_while_written, set_up, tear_down),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
