/* Histories made by hand: each anomaly must be found where it is forbidden, and nothing where nothing is. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "checker.h"

#define RC LEVEL_READ_COMMITTED
#define RR LEVEL_REPEATABLE_READ
#define SER LEVEL_SERIALIZABLE

/* Names of the anomalies that a history has at a level, with their numbers when there are several. */
static const char *found(isolation_level level, const char *text) {
	static char names[256];
	list_history parsed = {NULL, 0};
	check_report report;

	assert_int_equal(history_parse(text, &parsed), 0);
	report = check_history(&parsed, level, NULL);
	names[0] = '\0';
	for (int kind = 0; kind < ANOMALIES; kind++) {
		size_t length = strlen(names);

		if (report.found[kind] > 0) {
			snprintf(names + length, sizeof(names) - length, "%s%s", length > 0 ? " " : "", anomaly_names[kind]);
		}
		if (report.found[kind] > 1) {
			length = strlen(names);
			snprintf(names + length, sizeof(names) - length, "*%zu", report.found[kind]);
		}
	}
	history_free(&parsed);
	return names;
}

/* ---- The text -------------------------------------------------------------------------------------------- */

static void test_text_is_printed_as_it_was_read(void **state) {
	const char *text = "committed@1200-1950 r1:[4,7] a1:9 +r1:[4,7,9] u2:10\n"
					   "aborted r3:[]\n"
					   "unknown@-5-7 a1:12\n"
					   "final r1:[1,2,3,4,5,6,7,8,9]\n";
	list_history parsed = {NULL, 0};
	char *printed = NULL;
	size_t size = 0;
	FILE *file = open_memstream(&printed, &size);

	(void)state;
	assert_int_equal(history_parse(text, &parsed), 0);
	for (size_t i = 0; i < parsed.count; i++) {
		transaction_print(file, &parsed.transactions[i]);
	}
	fclose(file);
	assert_string_equal(printed, text);
	free(printed);
	history_free(&parsed);
}

static void test_text_that_is_none(void **state) {
	static const char *const bad[] = {"done r1:[]",           "committed x1:2",   "committed r1:[1,",
									  "committed r1:[1 2]",   "committed a1:",    "committed a1:x",
									  "committed a1:2 ",      "committed@5 a1:2", "committed a1:-3",
									  "committed r1:[]x",     "committed a1:1 +", "committed@-1",
									  "committed a9:67108864"};

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		char text[64];
		list_history parsed = {NULL, 0};

		snprintf(text, sizeof(text), "# a comment\n\ncommitted a1:1\n%s\n", bad[i]);
		assert_int_equal(history_parse(text, &parsed), 4);
		history_free(&parsed);
	}
}

/* ---- Good histories -------------------------------------------------------------------------------------- */

static void test_serial_history(void **state) {
	(void)state;
	assert_string_equal(found(SER, "committed@0-1 a1:1 a2:2\n"
								   "committed@2-3 r1:[1] a1:3 r1:[1,3]\n"
								   "aborted@2-4 r1:[1] a1:99 r1:[1,99]\n"
								   "committed@4-5 r1:[1,3] +r2:[2] a2:4 a2:5\n"
								   "committed@6-7 u1:50 a1:6 r1:[1,3,6]\n"
								   "final@8-9 r1:[1,3,6] r2:[2,4,5]\n"),
						"");
	assert_string_equal(found(SER, ""), "");
}

static void test_concurrent_transactions_in_some_order(void **state) {
	(void)state;
	assert_string_equal(found(SER, "committed@0-9 r1:[] r2:[] a3:1\n"
								   "committed@0-9 a1:2 r3:[1]\n"
								   "committed@0-9 a2:3 r1:[2] r3:[1]\n"
								   "final@10-11 r1:[2] r2:[3] r3:[1]\n"),
						"");
}

static void test_own_appends_and_reads_in_turn(void **state) {
	(void)state;
	assert_string_equal(found(RC, "committed a1:1 r1:[1] a1:2 r1:[1,2] a1:3 a1:4 r1:[1,2,3,4]\n"), "");
}

static void test_unknown_counts_when_it_was_seen(void **state) {
	(void)state;
	assert_string_equal(found(SER, "unknown@0-1 a1:1\ncommitted@2-3 r1:[]\nfinal@4-5 r1:[]\n"), "");
	assert_string_equal(found(SER, "unknown@0-1 a1:1\ncommitted@2-3 r1:[]\nfinal@4-5 r1:[1]\n"), "");
	assert_string_equal(found(SER, "unknown@0-1 a1:1 a2:2\nfinal@4-5 r1:[1] r2:[]\n"), "lost");
}

static void test_what_read_committed_allows(void **state) {
	const char *unrepeatable = "committed a1:1\ncommitted r1:[] r1:[1]\n";
	const char *skewed = "committed a1:1 a2:2\ncommitted r1:[] r2:[2]\nfinal r1:[1] r2:[2]\n";

	(void)state;
	assert_string_equal(found(RC, unrepeatable), "");
	assert_string_equal(found(RR, unrepeatable), "internal G-single");
	assert_string_equal(found(RC, skewed), "");
	assert_string_equal(found(RR, skewed), "G-single");
}

static void test_what_repeatable_read_allows(void **state) {
	const char *write_skew = "committed r1:[] r2:[] a1:1\ncommitted r1:[] r2:[] a2:2\nfinal r1:[1] r2:[2]\n";

	assert_string_equal(found(RC, write_skew), "");
	(void)state;
	assert_string_equal(found(RR, write_skew), "");
	assert_string_equal(found(SER, write_skew), "G2");
}

/* A reader that sees the last and not the one before it, which is no anomaly without the reader (Fekete and others 2004). */
static void test_read_only_anomaly(void **state) {
	const char *history = "committed r1:[] r2:[] a1:1\ncommitted a2:2\ncommitted r1:[] r2:[2]\nfinal r1:[1] r2:[2]\n";

	assert_string_equal(found(RR, history), "");
	(void)state;
	assert_string_equal(found(SER, history), "G2");
}

/* ---- Single reads ---------------------------------------------------------------------------------------- */

static void test_internal(void **state) {
	(void)state;
	assert_string_equal(found(RC, "committed a1:1 r1:[]\n"), "internal");
	assert_string_equal(found(RC, "committed a1:1 a1:2 r1:[2]\n"), "internal");
	assert_string_equal(found(RC, "committed r1:[1] a1:1\n"), "internal");
	assert_string_equal(found(RC, "committed u1:1 r1:[1]\n"), "G1a");
	/* since it has changed the row, nobody else can */
	assert_string_equal(found(RC, "committed a1:1\ncommitted a1:2 r1:[2] r1:[1,2]\n"), "internal order");
	assert_string_equal(found(RC, "committed a1:3\ncommitted a1:1 r1:[1] r1:[1,3]\n"), "internal G1c");
}

static void test_unwritten(void **state) {
	(void)state;
	assert_string_equal(found(RC, "committed r1:[7]\n"), "unwritten");
	assert_string_equal(found(RC, "committed a2:7\ncommitted r1:[7]\n"), "unwritten");
	assert_string_equal(found(RC, "committed a1:7\ncommitted r1:[7,7]\n"), "unwritten");
}

static void test_order(void **state) {
	(void)state;
	assert_string_equal(found(RC, "committed a1:1\ncommitted a1:2\ncommitted r1:[1,2]\ncommitted r1:[2,1]\n"), "order");
	assert_string_equal(found(RC, "committed a1:1\ncommitted a1:2\ncommitted r1:[1]\ncommitted r1:[2]\n"), "order");
}

static void test_lost(void **state) {
	(void)state;
	assert_string_equal(found(RC, "committed a1:1\ncommitted a1:2\nfinal r1:[2]\n"), "lost");
	assert_string_equal(found(RC, "committed a1:1\nfinal r2:[]\n"), "lost");
	/* both built on the same version, and both committed */
	assert_string_equal(found(RR, "committed r1:[] a1:1 r1:[1]\ncommitted r1:[] a1:2 r1:[2]\nfinal r1:[2]\n"),
						"order*2 lost");
}

static void test_aborted_read(void **state) {
	(void)state;
	assert_string_equal(found(RC, "aborted a1:1\ncommitted r1:[1]\n"), "G1a");
	assert_string_equal(found(RC, "aborted a1:1\ncommitted a1:2\ncommitted r1:[1,2]\n"), "G1a");
	assert_string_equal(found(RC, "committed u1:1\ncommitted r1:[1]\n"), "G1a");
	assert_string_equal(found(RC, "aborted a1:1\naborted r1:[1]\n"), "G1a"); /* who saw it aborted too */
}

static void test_intermediate_read(void **state) {
	(void)state;
	assert_string_equal(found(RC, "committed a1:1 a1:2\ncommitted r1:[1]\nfinal r1:[1,2]\n"), "G1b G-single");
	assert_string_equal(found(RC, "committed a1:1 u1:2\ncommitted r1:[1]\nfinal r1:[1]\n"), "");
}

/* ---- Cycles ---------------------------------------------------------------------------------------------- */

static void test_write_cycle(void **state) {
	(void)state;
	assert_string_equal(found(RC, "committed a1:1 a2:2\ncommitted a1:3 a2:4\nfinal r1:[1,3] r2:[4,2]\n"), "G0");
	assert_string_equal(found(RC, "committed a1:1 a1:2\ncommitted a1:3\nfinal r1:[1,3,2]\n"), "G0");
	/* who ended before the other began was not the second to write */
	assert_string_equal(found(RC, "committed@0-1 a1:1\ncommitted@2-3 a1:2\nfinal@4-5 r1:[2,1]\n"), "G0");
	assert_string_equal(found(RC, "committed@0-2 a1:1\ncommitted@1-3 a1:2\nfinal@4-5 r1:[2,1]\n"), "");
}

static void test_circular_information(void **state) {
	(void)state;
	assert_string_equal(found(RC, "committed a1:1 r2:[2]\ncommitted a2:2 r1:[1]\n"), "G1c");
	assert_string_equal(found(RC, "committed a1:1 a2:5\ncommitted a1:2 r3:[3]\ncommitted a3:3 r1:[]\n"
								  "committed r2:[5] a3:6\nfinal r1:[1,2] r2:[5] r3:[3,6]\n"),
						"");
	assert_string_equal(found(RC, "committed a1:1\ncommitted a1:2 a3:3\ncommitted r3:[3] a4:4\ncommitted r4:[4] a1:9\n"
								  "final r1:[1,9,2] r3:[3] r4:[4]\n"),
						"G1c");
}

/* One statement sees one moment, in READ COMMITTED too; several need not. */
static void test_torn_statement(void **state) {
	(void)state;
	assert_string_equal(found(RC, "committed a1:1 a2:2\ncommitted r1:[1] +r2:[]\nfinal r1:[1] r2:[2]\n"), "G-single");
	assert_string_equal(found(RC, "committed a1:1 a2:2\ncommitted r1:[1] r2:[]\nfinal r1:[1] r2:[2]\n"), "");
	assert_string_equal(found(RC, "committed@0-1 a1:1\ncommitted@2-3 r1:[]\nfinal@4-5 r1:[1]\n"), "G-single");
	assert_string_equal(found(RC, "committed@0-2 a1:1\ncommitted@2-3 r1:[]\nfinal@4-5 r1:[1]\n"), "");
}

static void test_single_anti_dependency(void **state) {
	(void)state;
	/* read skew through a third */
	assert_string_equal(found(RR, "committed a1:1 a3:5\ncommitted r3:[5] a2:2\ncommitted r2:[2] r1:[]\n"
								  "final r1:[1] r2:[2] r3:[5]\n"),
						"G-single");
	/* lost update that was repaired by order: it did not see what it overwrote */
	assert_string_equal(found(RR, "committed a1:1\ncommitted r1:[] a1:2\nfinal r1:[1,2]\n"), "G-single");
	/* a snapshot of the past, also when another one ended last */
	assert_string_equal(found(RR, "committed@0-1 a1:1\ncommitted@0-3 a2:2\ncommitted@4-5 r1:[]\n"
								  "final@6-7 r1:[1] r2:[2]\n"),
						"G-single");
	assert_string_equal(found(RR, "committed@0-1 a1:1\ncommitted@2-3 r1:[] a2:2\nfinal@4-5 r1:[1] r2:[2]\n"),
						"G-single");
}

/* Two readers see two independent writers in different orders. */
static void test_long_fork(void **state) {
	const char *fork = "committed a1:1\ncommitted a2:2\ncommitted r1:[1] r2:[]\ncommitted r1:[] r2:[2]\n"
					   "final r1:[1] r2:[2]\n";
	const char *fork_of_statements = "committed a1:1\ncommitted a2:2\ncommitted r1:[1] +r2:[]\n"
									 "committed r1:[] +r2:[2]\nfinal r1:[1] r2:[2]\n";

	(void)state;
	assert_string_equal(found(RR, fork), "G-nonadjacent");
	assert_string_equal(found(RC, fork), "");
	assert_string_equal(found(RC, fork_of_statements), "G-nonadjacent");
}

static void test_serializable_need_not_follow_time(void **state) {
	(void)state;
	/* T1 before T0 before T2 in the serial order, though T2 had ended before T1 began */
	assert_string_equal(found(SER, "committed@0-9 r1:[] r2:[] a3:3\ncommitted@3-9 r2:[2] r3:[]\ncommitted@1-2 a2:2\n"
								   "final@10-11 r1:[] r2:[2] r3:[3]\n"),
						"G2");
	assert_string_equal(found(SER, "committed@0-9 r2:[] a3:3\ncommitted@3-9 r3:[]\ncommitted@1-2 a2:2\n"
								   "final@10-11 r2:[2] r3:[3]\n"),
						"");
}

static void test_one_finding_for_each_component(void **state) {
	(void)state;
	assert_string_equal(found(SER, "committed r1:[] a2:1\ncommitted r2:[] a1:2\ncommitted r3:[] a4:3\n"
								   "committed r4:[] a3:4\nfinal r1:[2] r2:[1] r3:[4] r4:[3]\n"),
						"G2*2");
}

int main(void) {
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_text_is_printed_as_it_was_read),
		cmocka_unit_test(test_text_that_is_none),
		cmocka_unit_test(test_serial_history),
		cmocka_unit_test(test_concurrent_transactions_in_some_order),
		cmocka_unit_test(test_own_appends_and_reads_in_turn),
		cmocka_unit_test(test_unknown_counts_when_it_was_seen),
		cmocka_unit_test(test_what_read_committed_allows),
		cmocka_unit_test(test_what_repeatable_read_allows),
		cmocka_unit_test(test_read_only_anomaly),
		cmocka_unit_test(test_internal),
		cmocka_unit_test(test_unwritten),
		cmocka_unit_test(test_order),
		cmocka_unit_test(test_lost),
		cmocka_unit_test(test_aborted_read),
		cmocka_unit_test(test_intermediate_read),
		cmocka_unit_test(test_write_cycle),
		cmocka_unit_test(test_circular_information),
		cmocka_unit_test(test_torn_statement),
		cmocka_unit_test(test_single_anti_dependency),
		cmocka_unit_test(test_long_fork),
		cmocka_unit_test(test_serializable_need_not_follow_time),
		cmocka_unit_test(test_one_finding_for_each_component),
	};

	return cmocka_run_group_tests_name("checker", tests, NULL, NULL);
}
