/* changes: which of a stream's operations are for slots that move, and in which order. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "answer_fixture.h"
#include "scaling/changes.h"

#define STORE 7

static test_answer answer;
static aidb_changes changes;

static int begin(void **state) {
	(void)state;
	aidb_changes_free(&changes);
	changes = (aidb_changes){.read = 10};
	aidb_slot_set_add(&changes.slots, 3);
	aidb_slot_set_add(&changes.slots, 255);
	answer_begin(&answer, STORE, 10);
	return 0;
}

static aidb_status take(uint64_t upto) {
	aidb_status rc = aidb_changes_take(&changes, answer_end(&answer, upto, true));

	answer_begin(&answer, STORE, upto);
	return rc;
}

/* The letters of the rows, change by change. */
static const char *letters(const aidb_seen *seen) {
	static char text[256];
	aidb_slice operations;
	size_t size = 0;

	while (aidb_changes_next(&changes, seen, &operations)) {
		aidb_operation operation;

		while (aidb_operation_next(&operations, &operation)) {
			text[size++] = ((const char *)operation.key.data)[operation.key.size - 1];
		}
		text[size++] = ' ';
	}
	text[size] = '\0';
	return text;
}

static void only_wanted_slots(void **state) {
	(void)state;
	answer_row(&answer, AIPG_EVENT_PLAIN, 11, 0, 3, 'a');
	answer_row(&answer, AIPG_EVENT_PLAIN, 12, 0, 4, 'b');
	answer_batch(&answer, AIPG_EVENT_PLAIN, 13, 0, "x");
	answer_row(&answer, AIPG_EVENT_PLAIN, 14, 0, 255, 'c');
	answer_mark(&answer, 15, "point", 1);
	assert_int_equal(take(15), AIDB_OK);
	assert_int_equal(changes.read, 15);
	assert_string_equal(letters(NULL), "a c ");
	assert_string_equal(letters(NULL), "");
}

/* A transaction's batches come together, where it was decided. */
static void transactions_come_when_they_are_decided(void **state) {
	(void)state;
	answer_row(&answer, AIPG_EVENT_PREPARED, 11, 100, 3, 'a');
	answer_row(&answer, AIPG_EVENT_PREPARED, 12, 101, 3, 'b');
	answer_row(&answer, AIPG_EVENT_PLAIN, 13, 0, 3, 'c');
	assert_int_equal(take(13), AIDB_OK);
	assert_string_equal(letters(NULL), "c ");
	assert_false(aidb_changes_is_settled(&changes, NULL));
	answer_row(&answer, AIPG_EVENT_PREPARED, 14, 100, 3, 'd');
	answer_decision(&answer, AIPG_EVENT_ABORT, 0, 101);
	answer_decision(&answer, AIPG_EVENT_COMMIT, 0, 100);
	answer_decision(&answer, AIPG_EVENT_COMMIT, 0, 99); /* of nothing that is wanted */
	answer_row(&answer, AIPG_EVENT_PLAIN, 15, 0, 3, 'e');
	assert_int_equal(take(15), AIDB_OK);
	assert_true(aidb_changes_is_settled(&changes, NULL));
	assert_string_equal(letters(NULL), "ad e ");
}

/* Up to what a statement has seen; the rest comes later, in order. */
static void what_was_seen_comes_first(void **state) {
	aidb_seen seen = {.sequence = 13};

	(void)state;
	assert_true(aidb_seen_read(&seen, "100:103:101"));
	for (uint64_t tag = 100; tag < 104; tag++) {
		answer_row(&answer, AIPG_EVENT_PREPARED, tag - 89, tag, 3, (char)('a' + tag - 100));
	}
	answer_row(&answer, AIPG_EVENT_PLAIN, 15, 0, 3, 'p');
	assert_int_equal(take(15), AIDB_OK);
	assert_false(aidb_changes_is_settled(&changes, &seen)); /* 100 and 102 */
	answer_decision(&answer, AIPG_EVENT_COMMIT, 0, 102);
	answer_decision(&answer, AIPG_EVENT_COMMIT, 0, 101);
	answer_decision(&answer, AIPG_EVENT_COMMIT, 0, 100);
	answer_decision(&answer, AIPG_EVENT_COMMIT, 0, 103);
	assert_int_equal(take(16), AIDB_OK);
	assert_true(aidb_changes_is_settled(&changes, &seen));
	assert_string_equal(letters(&seen), "c a ");
	answer_row(&answer, AIPG_EVENT_PLAIN, 17, 0, 3, 'q');
	assert_int_equal(take(17), AIDB_OK);
	assert_string_equal(letters(NULL), "p b d q ");
}

static void snapshots_are_read(void **state) {
	static const char *const wrong[] = {"", "1", "1:", "1:2", "a:2:", "1:b:", "1:2:x", "1:2:3,,", "1:2:3 4"};
	aidb_seen seen = {.running_count = 5};

	(void)state;
	assert_true(aidb_seen_read(&seen, "7:9:"));
	assert_int_equal(seen.next, 9);
	assert_int_equal(seen.running_count, 0);
	assert_true(aidb_seen_read(&seen, "7:9:7,8"));
	assert_int_equal(seen.running_count, 2);
	assert_int_equal(seen.running[1], 8);
	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		assert_false(aidb_seen_read(&seen, wrong[i]));
	}
}

static void what_is_malformed_is_refused(void **state) {
	aidb_slice bytes;

	(void)state;
	answer_row(&answer, AIPG_EVENT_PLAIN, 11, 0, 3, 'a');
	bytes = answer_end(&answer, 11, true);
	bytes.size--;
	assert_int_equal(aidb_changes_take(&changes, bytes), AIDB_CORRUPT);
	answer_begin(&answer, STORE, 12); /* a gap */
	assert_int_equal(aidb_changes_take(&changes, answer_end(&answer, 13, true)), AIDB_CORRUPT);
}

static void sets_are_written_and_read(void **state) {
	aidb_slot_set set = {{0}}, read = {{0}};
	uint8_t bytes[AIDB_SLOT_SET_BYTES];
	char text[AIDB_SLOT_SET_DIGITS + 1];

	(void)state;
	for (uint32_t slot = 0; slot < AIDB_SLOTS; slot += 7) {
		aidb_slot_set_add(&set, slot);
	}
	assert_int_equal(aidb_slot_set_count(&set), (AIDB_SLOTS + 6) / 7);
	aidb_slot_set_write(&set, text);
	assert_int_equal(text[0], '1'); /* slot 0 */
	assert_int_equal(text[1], '8'); /* slot 7 */
	assert_true(aidb_slot_set_read(text, &read));
	assert_memory_equal(&set, &read, sizeof(set));
	aidb_slot_set_pack(&set, bytes);
	memset(&read, 0, sizeof(read));
	aidb_slot_set_unpack(bytes, &read);
	assert_memory_equal(&set, &read, sizeof(set));
	text[5] = 'x';
	assert_false(aidb_slot_set_read(text, &read));
	assert_false(aidb_slot_set_read("00", &read));
}

int main(void) {
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(only_wanted_slots, begin),
		cmocka_unit_test_setup(transactions_come_when_they_are_decided, begin),
		cmocka_unit_test_setup(what_was_seen_comes_first, begin),
		cmocka_unit_test_setup(snapshots_are_read, begin),
		cmocka_unit_test_setup(what_is_malformed_is_refused, begin),
		cmocka_unit_test(sets_are_written_and_read),
	};
	int failed = cmocka_run_group_tests_name("changes", tests, NULL, NULL);

	aidb_changes_free(&changes);
	return failed;
}
