/* db/redo.h: prepared batches that another log has carried come back, each once and in order, whatever our log has lost. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/coding.h"
#include "db/db.h"
#include "store_fixture.h"

#define CARRIED 5u
#define RECORD_BYTES 256u
#define FIRST_TAG 100u

/* ---- A store that another log has carried batches of ------------------------------------------------------ */

/* Batch i, tagged FIRST_TAG + i, puts "key i" and, like all others, "shared"; and the records that carry them. */
typedef struct carried_log {
	test_store store;
	uint64_t begin[CARRIED + 1]; /* positions in the log; the last: behind them all */
	size_t bytes[CARRIED];
	char records[CARRIED][RECORD_BYTES];
} carried_log;

static uint64_t log_position(const aidb_db *db) {
	return db->shared->commits.next_position;
}

static aidb_slice record_of(const carried_log *log, unsigned number) {
	return (aidb_slice){log->records[number], log->bytes[number]};
}

static void write_carried(carried_log *log, unsigned number) {
	aidb_batch *batch = aidb_batch_create();
	aidb_carried carried;
	char key[32], value[32];

	snprintf(key, sizeof(key), "key %u", number);
	snprintf(value, sizeof(value), "value %u", number);
	assert_ok(aidb_batch_put(batch, text(key), text(value)));
	assert_ok(aidb_batch_put(batch, text("shared"), text(value)));
	assert_ok(aidb_write_carried(log->store.db, FIRST_TAG + number, batch, &carried));
	assert_int_equal(carried.log_end, log_position(log->store.db));
	log->bytes[number] = AIDB_CARRIED_HEAD_BYTES + carried.operations.size;
	assert_true(log->bytes[number] <= RECORD_BYTES);
	memcpy(log->records[number], carried.head, AIDB_CARRIED_HEAD_BYTES);
	memcpy(log->records[number] + AIDB_CARRIED_HEAD_BYTES, carried.operations.data, carried.operations.size);
	aidb_batch_destroy(batch);
}

/* After a crash; the log holds all of it, unsynced. */
static void make_log(carried_log *log) {
	aidb_options options = store_small_options();

	*log = (carried_log){0};
	store_make(&log->store, &options);
	store_open(&log->store);
	must_put(log->store.db, "before", "there", AIDB_SYNC);
	for (unsigned i = 0; i < CARRIED; i++) {
		log->begin[i] = log_position(log->store.db);
		write_carried(log, i);
	}
	log->begin[CARRIED] = log_position(log->store.db);
	must_put(log->store.db, "after", "there", AIDB_WRITE);
	store_crash(&log->store);
}

/* A copy of the directory whose log ends at `cut`. */
static void cut_log(const carried_log *log, uint64_t cut, test_store *copy) {
	char path[STORE_PATH_BYTES];

	*copy = (test_store){.options = log->store.options};
	directory_copy(log->store.directory, copy->directory);
	assert_int_equal(directory_count(copy->directory, ".log", path, NULL), 1);
	file_zero(path, cut, file_bytes_of(path));
}

static aidb_redo *open_redo(const test_store *store) {
	static aidb_host host; /* the handle keeps it */
	aidb_redo *redo;

	aidb_host_init(&host);
	assert_ok(aidb_redo_open(&host, store->directory, &redo));
	return redo;
}

static void add_all(const carried_log *log, const test_store *store, unsigned from) {
	aidb_redo *redo = open_redo(store);

	for (unsigned i = CARRIED; i > from; i--) { /* in another order than the log's */
		assert_ok(aidb_redo_add(redo, record_of(log, i - 1)));
	}
	assert_ok(aidb_redo_close(redo));
}

/* ---- What must be there ---------------------------------------------------------------------------------- */

static bool sees_up_to(void *argument, aidb_tag tag) {
	return tag <= *(const aidb_tag *)argument;
}

/* What a reader gets that sees the tags up to `tag`; NULL: nothing. */
static void expect_tagged(aidb_db *db, aidb_tag tag, const char *key, const char *expected) {
	aidb_read_options options = {.sequence = AIDB_SEQUENCE_LATEST, .tag_visible = sees_up_to, .tag_argument = &tag};
	aidb_buffer value = {0};
	aidb_status rc = aidb_get(db, &options, text(key), &value, NULL);

	assert_int_equal(rc, expected == NULL ? AIDB_NOT_FOUND : AIDB_OK);
	if (expected != NULL) {
		assert_int_equal(value.size, strlen(expected));
		assert_memory_equal(value.data, expected, value.size);
	}
	aidb_buffer_free(&value);
}

static void expect_batches(const test_store *store) {
	char key[32], value[32];

	expect(store->db, "before", "there");
	expect(store->db, "key 0", NULL);
	for (unsigned i = 0; i < CARRIED; i++) {
		snprintf(key, sizeof(key), "key %u", i);
		snprintf(value, sizeof(value), "value %u", i);
		expect_tagged(store->db, FIRST_TAG + i, key, value);
		expect_tagged(store->db, FIRST_TAG + i, "shared", value);
		expect_tagged(store->db, FIRST_TAG + i - 1, key, NULL);
	}
}

static void expect_no_redo(const test_store *store) {
	assert_int_equal(directory_count(store->directory, "REDO", NULL, NULL), 0);
	assert_int_equal(directory_count(store->directory, "REDO.missing", NULL, NULL), 0);
	assert_int_equal(directory_count(store->directory, "REDO.new", NULL, NULL), 0);
}

/* ---- Coming back ----------------------------------------------------------------------------------------- */

static void log_cut_at_any_byte_is_made_whole(void **state) {
	carried_log log;

	(void)state;
	make_log(&log);
	for (uint64_t cut = log.begin[0]; cut <= log.begin[CARRIED]; cut++) {
		test_store copy;
		aidb_sequence sequence;

		cut_log(&log, cut, &copy);
		add_all(&log, &copy, 0);
		add_all(&log, &copy, 2);
		store_open(&copy);
		expect_batches(&copy);
		expect_no_redo(&copy);
		sequence = aidb_current_sequence(copy.db);
		must_put(copy.db, "later", "there", AIDB_WRITE);
		store_crash(&copy);
		store_open(&copy);
		expect_batches(&copy);
		expect(copy.db, "later", "there");
		assert_int_equal(aidb_current_sequence(copy.db), sequence + 1); /* nothing was written again */
		store_destroy(&copy);
	}
	store_destroy(&log.store);
}

static void what_the_log_has_is_not_written_again(void **state) {
	carried_log log;
	aidb_sequence sequence;

	(void)state;
	make_log(&log);
	store_open(&log.store);
	sequence = aidb_current_sequence(log.store.db);
	store_crash(&log.store);
	add_all(&log, &log.store, 0);
	store_open(&log.store);
	assert_int_equal(aidb_current_sequence(log.store.db), sequence);
	expect(log.store.db, "after", "there");
	expect_no_redo(&log.store);
	store_destroy(&log.store);
}

/* Of an overwritten row the newest must stay the newest, also when it alone was lost. */
static void lost_batch_comes_after_those_that_were_not(void **state) {
	carried_log log;
	test_store copy;

	(void)state;
	make_log(&log);
	cut_log(&log, log.begin[CARRIED - 1], &copy);
	add_all(&log, &copy, 0);
	store_open(&copy);
	expect_tagged(copy.db, FIRST_TAG + CARRIED, "shared", "value 4");
	assert_ok(aidb_flush(copy.db));
	expect_batches(&copy);
	store_destroy(&copy);
	store_destroy(&log.store);
}

/* What was carried before an earlier start has had its turn. */
static void discarded_batches_do_not_come(void **state) {
	carried_log log;
	test_store copy;
	aidb_redo *redo;

	(void)state;
	make_log(&log);
	cut_log(&log, log.begin[0], &copy);
	add_all(&log, &copy, 0);
	redo = open_redo(&copy);
	aidb_redo_discard(redo);
	assert_ok(aidb_redo_add(redo, record_of(&log, 1)));
	assert_ok(aidb_redo_close(redo));
	store_open(&copy);
	expect_tagged(copy.db, FIRST_TAG + CARRIED, "key 0", NULL);
	expect_tagged(copy.db, FIRST_TAG + CARRIED, "key 1", "value 1");
	expect_tagged(copy.db, FIRST_TAG + CARRIED, "shared", "value 1");
	expect_tagged(copy.db, FIRST_TAG + CARRIED, "key 2", NULL);
	store_destroy(&copy);
	store_destroy(&log.store);
}

/* ---- Dying during the start ------------------------------------------------------------------------------ */

static const char *deadly_point;
static unsigned deadly_after;

static void die_at_point(const char *name) {
	if (strcmp(name, deadly_point) == 0 && deadly_after-- == 0) {
		_exit(7);
	}
}

static void die_while_starting(test_store *store, const char *point, unsigned after) {
	pid_t child = fork();
	int status;

	assert_true(child >= 0);
	if (child == 0) {
		deadly_point = point;
		deadly_after = after;
		faults.at_point = die_at_point;
		store_try_open(store);
		_exit(0);
	}
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_true(WIFEXITED(status));
	if (WEXITSTATUS(status) != 7) {
		print_error("the start did not come to %s number %u\n", point, after);
	}
	assert_int_equal(WEXITSTATUS(status), 7);
}

static void start_may_die_anywhere_and_again(void **state) {
	static const struct {
		const char *point;
		unsigned after;
	} steps[] = {{"redo_selected", 0}, {"redo_ready", 0},  {"redo_begun", 0},  {"log_copied", 0},  {"redo_written", 0},
				 {"redo_written", 2},  {"log_written", 0}, {"redo_synced", 0}, {"redo_synced", 0}, {"redo_removed", 0}};
	carried_log log;
	test_store all;

	(void)state;
	make_log(&log);
	cut_log(&log, log.begin[1], &all);
	add_all(&log, &all, 0);
	for (unsigned i = 0; i < sizeof(steps) / sizeof(steps[0]); i++) {
		test_store copy;

		cut_log(&log, log.begin[1], &copy);
		add_all(&log, &copy, 0);
		die_while_starting(&copy, steps[i].point, steps[i].after);
		store_open(&copy);
		expect_batches(&copy);
		expect_no_redo(&copy);
		store_destroy(&copy);
		die_while_starting(&all, steps[i].point, steps[i].after);
	}
	store_open(&all);
	expect_batches(&all);
	expect_no_redo(&all);
	store_destroy(&all);
	store_destroy(&log.store);
}

/* Also when a file was left by a recovery that did not get to its end: the next one hands over all again. */
static void unfinished_file_is_refused_until_it_is_finished(void **state) {
	carried_log log;
	test_store copy;
	char path[STORE_PATH_BYTES + 8];

	(void)state;
	make_log(&log);
	cut_log(&log, log.begin[0], &copy);
	add_all(&log, &copy, 1);
	snprintf(path, sizeof(path), "%s/REDO", copy.directory);
	file_cut(path, file_bytes_of(path) - 20);
	assert_status(store_try_open(&copy), AIDB_CORRUPT);
	expect_error_names("REDO", "offset", "cut off", NULL);
	add_all(&log, &copy, 0);
	store_open(&copy);
	expect_batches(&copy);
	store_destroy(&copy);
	store_destroy(&log.store);
}

/* ---- Damage ---------------------------------------------------------------------------------------------- */

static void damage_anywhere_is_told(void **state) {
	carried_log log;
	test_store copy;
	char path[STORE_PATH_BYTES + 8];
	uint64_t size;

	(void)state;
	make_log(&log);
	cut_log(&log, log.begin[0], &copy);
	add_all(&log, &copy, 0);
	snprintf(path, sizeof(path), "%s/REDO", copy.directory);
	size = file_bytes_of(path);
	for (uint64_t at = 0; at < size; at++) {
		file_flip(path, at, 0x10);
		assert_status(store_try_open(&copy), AIDB_CORRUPT);
		expect_error_names(path, "offset", NULL);
		file_flip(path, at, 0x10);
	}
	store_open(&copy);
	expect_batches(&copy);
	store_destroy(&copy);
	store_destroy(&log.store);
}

/* At an entry's end, too: there the mark is missing. */
static void cut_file_is_told(void **state) {
	carried_log log;
	test_store copy;
	char path[STORE_PATH_BYTES + 8];

	(void)state;
	make_log(&log);
	cut_log(&log, log.begin[0], &copy);
	add_all(&log, &copy, 0);
	snprintf(path, sizeof(path), "%s/REDO", copy.directory);
	for (uint64_t size = file_bytes_of(path); size-- > 0;) {
		file_cut(path, size);
		assert_status(store_try_open(&copy), AIDB_CORRUPT);
		expect_error_names(path, "offset", NULL);
	}
	store_destroy(&copy);
	store_destroy(&log.store);
}

static void batches_of_another_store_are_refused(void **state) {
	carried_log log, other;

	(void)state;
	make_log(&log);
	make_log(&other);
	add_all(&log, &other.store, 0);
	assert_status(store_try_open(&other.store), AIDB_CORRUPT);
	expect_error_names("REDO", "another store", NULL);
	store_destroy(&other.store);
	store_destroy(&log.store);
}

static void batches_without_a_store_are_told(void **state) {
	carried_log log;
	test_store empty;
	aidb_options options = store_small_options();

	(void)state;
	make_log(&log);
	store_make(&empty, &options);
	add_all(&log, &empty, 0);
	assert_status(store_try_open(&empty), AIDB_CORRUPT);
	expect_error_names("MANIFEST", "missing", NULL);
	store_destroy(&empty);
	store_destroy(&log.store);
}

static void malformed_record_is_not_taken(void **state) {
	carried_log log;
	aidb_redo *redo;

	(void)state;
	make_log(&log);
	redo = open_redo(&log.store);
	for (size_t size = 0; size < log.bytes[0]; size++) {
		assert_status(aidb_redo_add(redo, (aidb_slice){log.records[0], size}), AIDB_CORRUPT);
	}
	assert_ok(aidb_redo_close(redo));
	store_destroy(&log.store);
}

/* ---- What a carried batch waits for ----------------------------------------------------------------------- */

static void carried_batch_waits_only_for_other_lazy_writes(void **state) {
	carried_log log = {0};
	aidb_options options = store_small_options();
	uint64_t end;

	(void)state;
	store_make(&log.store, &options);
	store_open(&log.store);
	write_carried(&log, 0);
	write_carried(&log, 1);
	assert_int_equal(stats_of(log.store.db).log_syncs, 0);
	must_put(log.store.db, "lazy", "there", AIDB_LAZY);
	end = log_position(log.store.db);
	assert_int_equal(stats_of(log.store.db).log_syncs, 0);
	write_carried(&log, 2);
	assert_true(atomic_load(&log.store.db->shared->log.synced) >= end);
	assert_int_equal(stats_of(log.store.db).log_syncs, 1);
	write_carried(&log, 3);
	assert_int_equal(stats_of(log.store.db).log_syncs, 1);
	must_put(log.store.db, "written", "there", AIDB_WRITE);
	write_carried(&log, 4);
	assert_int_equal(stats_of(log.store.db).log_syncs, 2);
	must_put(log.store.db, "lazy", "again", AIDB_LAZY);
	assert_ok(aidb_sync_to(log.store.db, log_position(log.store.db)));
	assert_int_equal(stats_of(log.store.db).log_syncs, 3);
	store_destroy(&log.store);
}

static void only_prepared_batches_are_carried(void **state) {
	aidb_options options = store_small_options();
	aidb_write_options carried = {.durability = AIDB_CARRIED};
	test_store store;

	(void)state;
	store_make(&store, &options);
	store_open(&store);
	assert_status(aidb_put(store.db, &carried, text("key"), text("value")), AIDB_INVALID);
	expect_error_names("prepared", NULL);
	store_destroy(&store);
}

int main(void) {
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(log_cut_at_any_byte_is_made_whole),
		cmocka_unit_test(what_the_log_has_is_not_written_again),
		cmocka_unit_test(lost_batch_comes_after_those_that_were_not),
		cmocka_unit_test(discarded_batches_do_not_come),
		cmocka_unit_test(start_may_die_anywhere_and_again),
		cmocka_unit_test(unfinished_file_is_refused_until_it_is_finished),
		cmocka_unit_test(damage_anywhere_is_told),
		cmocka_unit_test(cut_file_is_told),
		cmocka_unit_test(batches_of_another_store_are_refused),
		cmocka_unit_test(batches_without_a_store_are_told),
		cmocka_unit_test(malformed_record_is_not_taken),
		cmocka_unit_test(carried_batch_waits_only_for_other_lazy_writes),
		cmocka_unit_test(only_prepared_batches_are_carried),
	};

	return cmocka_run_group_tests_name("redo", tests, NULL, NULL);
}
