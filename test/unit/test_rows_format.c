/* replication/rows_format.h: what is written comes back, and what is cut is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "replication/rows_format.h"

static const uint8_t answer[] = {
	0,    0,    0,    0,    0,   0,   0x12, 0x34, /* sequence */
	1,                                            /* more */
	0,    0,    0,    3,    'k', 'e', 'y',        /* a string */
	0,    0,    0,    0,                          /* an empty one */
	0xff, 0xff, 0xff, 0xff,                       /* no row */
};

static void test_read(void **state) {
	aidb_slice left = {answer, sizeof(answer)}, string;
	uint64_t sequence;
	uint8_t more;

	(void)state;
	assert_true(aipg_rows_read_sequence(&left, &sequence));
	assert_int_equal(sequence, 0x1234);
	assert_true(aipg_rows_read_byte(&left, &more));
	assert_int_equal(more, 1);
	assert_true(aipg_rows_read_string(&left, &string));
	assert_int_equal(string.size, 3);
	assert_memory_equal(string.data, "key", 3);
	assert_true(aipg_rows_read_string(&left, &string));
	assert_int_equal(string.size, 0);
	assert_non_null(string.data);
	assert_true(aipg_rows_read_string(&left, &string));
	assert_null(string.data);
	assert_int_equal(left.size, 0);
	assert_false(aipg_rows_read_string(&left, &string));
	assert_false(aipg_rows_read_byte(&left, &more));
	assert_false(aipg_rows_read_sequence(&left, &sequence));
}

static void test_write(void **state) {
	uint8_t bytes[AIPG_SEQUENCE_BYTES];
	aidb_slice left = {bytes, sizeof(bytes)};
	uint64_t sequence;

	(void)state;
	aipg_rows_write_sequence(bytes, 0x0102030405060708);
	assert_int_equal(bytes[0], 1);
	assert_true(aipg_rows_read_sequence(&left, &sequence));
	assert_int_equal(sequence, 0x0102030405060708);
	aipg_rows_write_length(bytes, 0x01020304);
	assert_memory_equal(bytes, "\1\2\3\4", AIPG_LENGTH_BYTES);
}

/* A string that says to be longer than what is there, at every length. */
static void test_cut(void **state) {
	uint8_t bytes[16] = {0, 0, 0, 12};
	aidb_slice string;

	(void)state;
	for (size_t size = 0; size <= sizeof(bytes); size++) {
		aidb_slice left = {bytes, size};

		assert_int_equal(aipg_rows_read_string(&left, &string), size == sizeof(bytes));
	}
}

int main(void) {
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_read),
		cmocka_unit_test(test_write),
		cmocka_unit_test(test_cut),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
