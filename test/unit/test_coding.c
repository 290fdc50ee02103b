/* base/coding.h: fixed-size integers, varints, bounded reading. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/coding.h"
#include "random.h"

static void fixed_integers_are_little_endian(void **state) {
	uint8_t bytes[8];

	(void)state;
	lsm_put_u16(bytes, 0x0201);
	assert_memory_equal(bytes, "\x01\x02", 2);
	assert_int_equal(lsm_get_u16(bytes), 0x0201);
	lsm_put_u32(bytes, 0x04030201u);
	assert_memory_equal(bytes, "\x01\x02\x03\x04", 4);
	assert_int_equal(lsm_get_u32(bytes), 0x04030201u);
	lsm_put_u64(bytes, 0x0807060504030201ull);
	assert_memory_equal(bytes, "\x01\x02\x03\x04\x05\x06\x07\x08", 8);
	assert_true(lsm_get_u64(bytes) == 0x0807060504030201ull);
}

static void check_varint(uint64_t value) {
	uint8_t bytes[LSM_MAX_VARINT64 + 1];
	size_t size = (size_t)(lsm_put_varint(bytes, value) - bytes);
	lsm_reader reader = lsm_reader_of(bytes, size);

	assert_in_range(size, 1, LSM_MAX_VARINT64);
	assert_int_equal(size, lsm_varint_bytes(value));
	assert_true(lsm_read_varint(&reader) == value);
	assert_false(reader.failed);
	assert_int_equal(lsm_reader_left(&reader), 0);
	for (size_t cut = 0; cut < size; cut++) {
		lsm_reader shorter = lsm_reader_of(bytes, cut);

		assert_true(lsm_read_varint(&shorter) == 0);
		assert_true(shorter.failed);
	}
}

static void varints_come_back(void **state) {
	test_random random = test_random_seeded("varints");

	(void)state;
	for (unsigned bits = 0; bits < 64; bits++) {
		check_varint((uint64_t)1 << bits);
		check_varint(((uint64_t)1 << bits) - 1);
	}
	check_varint(UINT64_MAX);
	for (int i = 0; i < 10000; i++) {
		check_varint(test_random_next(&random) >> test_random_below(&random, 64));
	}
}

static void varints_have_known_bytes(void **state) {
	uint8_t bytes[LSM_MAX_VARINT64];

	(void)state;
	assert_ptr_equal(lsm_put_varint(bytes, 300), bytes + 2);
	assert_memory_equal(bytes, "\xac\x02", 2);
}

static void overlong_varints_are_refused(void **state) {
	const uint8_t endless[] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01};
	const uint8_t sixty_fifth_bit[] = {0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x02};
	lsm_reader reader = lsm_reader_of(endless, sizeof(endless));

	(void)state;
	lsm_read_varint(&reader);
	assert_true(reader.failed);
	reader = lsm_reader_of(sixty_fifth_bit, sizeof(sixty_fifth_bit));
	lsm_read_varint(&reader);
	assert_true(reader.failed);
}

static void a_failed_reader_stays_failed(void **state) {
	const uint8_t bytes[] = {1, 2, 3, 4, 5};
	lsm_reader reader = lsm_reader_of(bytes, sizeof(bytes));

	(void)state;
	assert_int_equal(lsm_read_u32(&reader), 0x04030201);
	assert_int_equal(lsm_read_u32(&reader), 0);
	assert_true(reader.failed);
	assert_int_equal(lsm_read_u8(&reader), 0);
	assert_null(lsm_read_bytes(&reader, 1));
	assert_true(lsm_read_u64(&reader) == 0);
	assert_int_equal(lsm_reader_left(&reader), 1);
}

static void slices_are_bounded(void **state) {
	const uint8_t bytes[] = {3, 'a', 'b', 'c', 2, 'd'};
	lsm_reader reader = lsm_reader_of(bytes, sizeof(bytes));
	aidb_slice slice = lsm_read_slice(&reader);

	(void)state;
	assert_int_equal(slice.size, 3);
	assert_memory_equal(slice.data, "abc", 3);
	slice = lsm_read_slice(&reader);
	assert_true(reader.failed);
	assert_null(slice.data);
	assert_int_equal(slice.size, 0);
}

int main(void) {
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(fixed_integers_are_little_endian), cmocka_unit_test(varints_come_back),
		cmocka_unit_test(varints_have_known_bytes),         cmocka_unit_test(overlong_varints_are_refused),
		cmocka_unit_test(a_failed_reader_stays_failed),     cmocka_unit_test(slices_are_bounded),
	};

	return cmocka_run_group_tests_name("coding", tests, NULL, NULL);
}
