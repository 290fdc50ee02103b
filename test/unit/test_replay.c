#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "answer_fixture.h"
#include "backup/replay.h"
#include "object_store/failure.h"

#define STORE 7

static test_answer answer;
static aidb_replay replay;

static void begin(uint64_t reached, uint64_t target) {
	aidb_replay_free(&replay);
	replay = (aidb_replay){.store = STORE, .reached = reached, .read = reached, .target = target};
}

/* What is to be applied of the answer, which has come to `upto`. */
static const char *next(uint64_t upto, bool window_end) {
	aidb_slice cut;

	assert_int_equal(aidb_replay_next(&replay, answer_end(&answer, upto, window_end), &cut), AIDB_OK);
	return answer_text(cut);
}

static void test_all(void **state) {
	(void)state;
	begin(10, UINT64_MAX);
	answer_begin(&answer, STORE, 10);
	answer_batch(&answer, AIPG_EVENT_PLAIN, 11, 0, "a");
	answer_batch(&answer, AIPG_EVENT_PREPARED, 12, 5, "b");
	answer_decision(&answer, AIPG_EVENT_COMMIT, 12, 5);
	assert_string_equal(next(12, true), "P11 x5:12 c5 ");
	assert_int_equal(replay.reached, 12);
	assert_false(replay.done);
}

/* An answer that begins before what is there, and ends behind the target. */
static void test_cut(void **state) {
	(void)state;
	begin(11, 13);
	answer_begin(&answer, STORE, 9);
	for (uint64_t sequence = 10; sequence <= 15; sequence++) {
		answer_batch(&answer, AIPG_EVENT_PLAIN, sequence, 0, "a");
	}
	assert_string_equal(next(15, true), "P12 P13 ");
	assert_int_equal(replay.reached, 13);
	assert_true(replay.done);
}

/* Decisions go by what could be seen when they were made. */
static void test_decisions(void **state) {
	(void)state;
	begin(10, 13);
	answer_begin(&answer, STORE, 10);
	answer_batch(&answer, AIPG_EVENT_PREPARED, 11, 1, "a");
	answer_batch(&answer, AIPG_EVENT_PREPARED, 12, 2, "b");
	answer_batch(&answer, AIPG_EVENT_PREPARED, 13, 3, "c");
	answer_batch(&answer, AIPG_EVENT_PREPARED, 14, 4, "d");
	answer_batch(&answer, AIPG_EVENT_PLAIN, 15, 0, "e");
	answer_decision(&answer, AIPG_EVENT_COMMIT, 13, 1); /* before the target */
	answer_decision(&answer, AIPG_EVENT_COMMIT, 14, 2); /* after it */
	answer_decision(&answer, AIPG_EVENT_COMMIT, 0, 3);  /* some time after 13: then */
	answer_decision(&answer, AIPG_EVENT_COMMIT, 0, 4);  /* some time after 14 */
	assert_string_equal(next(15, true), "x1:11 x2:12 x3:13 c1 c3 ");
	assert_true(replay.done);
}

/* When the target is a mark, what was decided when it could be seen was decided later. */
static void test_mark_as_target(void **state) {
	(void)state;
	begin(10, 12);
	replay.target_is_mark = true;
	answer_begin(&answer, STORE, 10);
	answer_batch(&answer, AIPG_EVENT_PREPARED, 11, 1, "a");
	answer_batch(&answer, AIPG_EVENT_PREPARED, 11, 2, "b");
	answer_mark(&answer, 12, "the point", 1);
	answer_decision(&answer, AIPG_EVENT_COMMIT, 11, 1);
	answer_decision(&answer, AIPG_EVENT_COMMIT, 12, 2);
	assert_string_equal(next(12, true), "x1:11 x2:11 P12 c1 ");
}

/* What is decided after the target has been reached may have been decided before it. */
static void test_window(void **state) {
	(void)state;
	begin(10, 12);
	answer_begin(&answer, STORE, 10);
	answer_batch(&answer, AIPG_EVENT_PREPARED, 11, 1, "a");
	answer_batch(&answer, AIPG_EVENT_PLAIN, 12, 0, "b");
	answer_batch(&answer, AIPG_EVENT_PLAIN, 13, 0, "c");
	assert_string_equal(next(13, false), "x1:11 P12 ");
	assert_false(replay.done);
	answer_begin(&answer, STORE, 13);
	answer_batch(&answer, AIPG_EVENT_PLAIN, 14, 0, "d");
	answer_decision(&answer, AIPG_EVENT_COMMIT, 12, 1);
	assert_string_equal(next(14, true), "c1 ");
	assert_int_equal(replay.reached, 12);
	assert_true(replay.done);
}

/* Nothing new, when the target was there from the beginning. */
static void test_nothing(void **state) {
	(void)state;
	begin(12, 12);
	answer_begin(&answer, STORE, 10);
	answer_batch(&answer, AIPG_EVENT_PLAIN, 11, 0, "a");
	assert_string_equal(next(12, true), "nothing");
	assert_true(replay.done);
}

static void test_refusals(void **state) {
	aidb_slice cut, bytes;

	(void)state;
	begin(10, UINT64_MAX);
	answer_begin(&answer, STORE, 12);
	answer_batch(&answer, AIPG_EVENT_PLAIN, 13, 0, "a");
	assert_int_equal(aidb_replay_next(&replay, answer_end(&answer, 13, true), &cut), AIDB_NOT_FOUND);
	assert_non_null(strstr(aidb_failure(), "from 11 to 12"));
	answer_begin(&answer, STORE + 1, 10);
	assert_int_equal(aidb_replay_next(&replay, answer_end(&answer, 10, true), &cut), AIDB_CORRUPT);
	answer_begin(&answer, STORE, 10);
	answer_batch(&answer, AIPG_EVENT_PLAIN, 11, 0, "a");
	bytes = answer_end(&answer, 11, true);
	for (size_t size = 0; size < bytes.size; size++) {
		assert_int_equal(aidb_replay_next(&replay, (aidb_slice){bytes.data, size}, &cut), AIDB_CORRUPT);
		assert_int_equal(replay.reached, 10);
	}
}

typedef struct seen {
	unsigned count;
	aipg_mark last;
	uint64_t sequence;
} seen;

static void see(void *argument, const aipg_mark *mark, uint64_t sequence) {
	seen *of = argument;

	*of = (seen){of->count + 1, *mark, sequence};
}

static void test_marks(void **state) {
	seen of = {.count = 0};

	(void)state;
	answer_begin(&answer, STORE, 10);
	answer_mark(&answer, 11, "", 1000);
	answer_batch(&answer, AIPG_EVENT_PLAIN, 12, 0, "no mark");
	answer_mark(&answer, 13, "before the upgrade", 2000);
	aidb_marks_in(answer_end(&answer, 13, true), see, &of);
	assert_int_equal(of.count, 2);
	assert_int_equal(of.sequence, 13);
	assert_string_equal(of.last.name, "before the upgrade");
	assert_int_equal(of.last.clock_us, 2000);
}

static int tear_down(void **state) {
	(void)state;
	aidb_replay_free(&replay);
	return 0;
}

int main(void) {
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_all),       cmocka_unit_test(test_cut),
		cmocka_unit_test(test_decisions), cmocka_unit_test(test_mark_as_target),
		cmocka_unit_test(test_window),    cmocka_unit_test(test_nothing),
		cmocka_unit_test(test_refusals),  cmocka_unit_test(test_marks),
	};

	return cmocka_run_group_tests(tests, NULL, tear_down);
}
