#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "answer_fixture.h"
#include "backup/segment.h"
#include "object_store/failure.h"

#define STORE 7

static test_answer answer;
static aidb_segment segment, copy;

static int set_up(void **state) {
	(void)state;
	aidb_segment_free(&segment);
	segment = (aidb_segment){.upto = 10};
	aidb_segment_begin(&segment);
	return 0;
}

static int tear_down(void **state) {
	(void)state;
	aidb_segment_free(&segment);
	aidb_segment_free(&copy);
	return 0;
}

/* Two answers, one transaction of which is not decided. */
static void fill(void) {
	answer_begin(&answer, STORE, 10);
	answer_batch(&answer, AIPG_EVENT_PLAIN, 11, 0, "a");
	answer_batch(&answer, AIPG_EVENT_PREPARED, 12, 1, "b");
	answer_batch(&answer, AIPG_EVENT_PREPARED, 13, 2, "c");
	assert_int_equal(aidb_segment_add(&segment, answer_end(&answer, 13, false)), AIDB_OK);
	assert_int_equal(segment.undecided_count, 2);
	answer_begin(&answer, STORE, 13);
	answer_decision(&answer, AIPG_EVENT_COMMIT, 12, 1);
	assert_int_equal(aidb_segment_add(&segment, answer_end(&answer, 13, true)), AIDB_OK);
}

static void test_round_trip(void **state) {
	size_t size, offset = 0;
	aidb_slice got;
	char *bytes;

	(void)state;
	fill();
	assert_int_equal(aidb_segment_write(&segment, &bytes, &size), AIDB_OK);
	assert_int_equal(aidb_segment_read("s", bytes, size, &copy), AIDB_OK);
	free(bytes);
	assert_int_equal(copy.store, STORE);
	assert_int_equal(copy.from, 10);
	assert_int_equal(copy.upto, 13);
	assert_int_equal(copy.answers, 2);
	assert_int_equal(copy.undecided_count, 1);
	assert_int_equal(copy.undecided[0], 2);
	assert_true(aidb_segment_next(&copy, &offset, &got));
	assert_string_equal(answer_text(got), "P11 x1:12 x2:13 ");
	assert_true(aidb_segment_next(&copy, &offset, &got));
	assert_string_equal(answer_text(got), "c1 ");
	assert_false(aidb_segment_next(&copy, &offset, &got));
	aidb_segment_begin(&segment);
	assert_int_equal(segment.from, 13);
	assert_int_equal(segment.undecided_count, 1); /* it is still to be decided */
}

static void test_damage(void **state) {
	size_t size;
	char *bytes;

	(void)state;
	fill();
	assert_int_equal(aidb_segment_write(&segment, &bytes, &size), AIDB_OK);
	for (size_t at = 0; at < size; at++) {
		bytes[at] ^= 1;
		assert_int_not_equal(aidb_segment_read("the name", bytes, size, &copy), AIDB_OK);
		bytes[at] ^= 1;
		assert_int_not_equal(aidb_segment_read("the name", bytes, at, &copy), AIDB_OK);
	}
	assert_non_null(strstr(aidb_failure(), "the name"));
	assert_int_equal(aidb_segment_read("s", bytes, size, &copy), AIDB_OK);
	free(bytes);
}

static void test_refusals(void **state) {
	aidb_slice bytes;

	(void)state;
	answer_begin(&answer, STORE, 11);
	assert_int_equal(aidb_segment_add(&segment, answer_end(&answer, 12, true)), AIDB_CORRUPT);
	fill();
	answer_begin(&answer, STORE + 1, 13);
	assert_int_equal(aidb_segment_add(&segment, answer_end(&answer, 14, true)), AIDB_CORRUPT);
	answer_begin(&answer, STORE, 13);
	answer_batch(&answer, AIPG_EVENT_PLAIN, 14, 0, "d");
	bytes = answer_end(&answer, 14, true);
	bytes.size--;
	assert_int_equal(aidb_segment_add(&segment, bytes), AIDB_CORRUPT);
}

int main(void) {
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(test_round_trip, set_up),
		cmocka_unit_test_setup(test_damage, set_up),
		cmocka_unit_test_setup(test_refusals, set_up),
	};

	return cmocka_run_group_tests(tests, NULL, tear_down);
}
