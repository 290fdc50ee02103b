/* base/checksum.h: known values, and the two ways to compute a CRC against each other. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "base/checksum.h"
#include "random.h"

typedef uint32_t (*crc_function)(uint32_t crc, const void *data, size_t size);

/* RFC 3720, appendix B.4. */
static void check_known_values(crc_function crc) {
	uint8_t bytes[32];

	assert_int_equal(crc(0, "", 0), 0);
	assert_int_equal(crc(0, "123456789", 9), 0xe3069283u);
	memset(bytes, 0, sizeof(bytes));
	assert_int_equal(crc(0, bytes, sizeof(bytes)), 0x8a9136aau);
	memset(bytes, 0xff, sizeof(bytes));
	assert_int_equal(crc(0, bytes, sizeof(bytes)), 0x62a8ab43u);
	for (size_t i = 0; i < sizeof(bytes); i++) {
		bytes[i] = (uint8_t)i;
	}
	assert_int_equal(crc(0, bytes, sizeof(bytes)), 0x46dd794eu);
}

static void crc32c_has_known_values(void **state) {
	(void)state;
	check_known_values(lsm_crc32c);
}

static void portable_crc32c_has_known_values(void **state) {
	(void)state;
	check_known_values(lsm_crc32c_portable);
}

static void both_crc32c_agree(void **state) {
	test_random random = test_random_seeded("crc32c");
	uint8_t bytes[600];

	(void)state;
	for (int i = 0; i < 20000; i++) {
		size_t start = test_random_below(&random, 16);
		size_t size = test_random_below(&random, sizeof(bytes) - start);
		uint32_t seed = (uint32_t)test_random_next(&random);

		test_random_bytes(&random, bytes, 32);
		memset(bytes + 32, (int)test_random_below(&random, 256), sizeof(bytes) - 32);
		assert_int_equal(lsm_crc32c(seed, bytes + start, size), lsm_crc32c_portable(seed, bytes + start, size));
	}
}

static void crc32c_continues(void **state) {
	test_random random = test_random_seeded("crc32c in parts");
	uint8_t bytes[300];

	(void)state;
	test_random_bytes(&random, bytes, sizeof(bytes));
	for (size_t cut = 0; cut <= sizeof(bytes); cut++) {
		uint32_t first = lsm_crc32c(0, bytes, cut);

		assert_int_equal(lsm_crc32c(first, bytes + cut, sizeof(bytes) - cut), lsm_crc32c(0, bytes, sizeof(bytes)));
	}
}

/* The seeds of log records rely on it: another seed always gives another sum. */
static void crc32c_depends_on_the_seed(void **state) {
	test_random random = test_random_seeded("crc32c seeds");
	uint8_t bytes[100];

	(void)state;
	test_random_bytes(&random, bytes, sizeof(bytes));
	for (int bit = 0; bit < 32; bit++) {
		assert_int_not_equal(lsm_crc32c(1u << bit, bytes, sizeof(bytes)), lsm_crc32c(0, bytes, sizeof(bytes)));
	}
}

static void hash64_is_xxh3(void **state) {
	(void)state;
	assert_true(lsm_hash64("", 0, 0) == 0x2d06800538d394c2ull); /* as published with XXH3 */
	assert_true(lsm_hash64("abc", 3, 0) != lsm_hash64("abc", 3, 1));
	assert_true(lsm_hash64("abc", 3, 0) != lsm_hash64("abd", 3, 0));
}

int main(void) {
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(crc32c_has_known_values),    cmocka_unit_test(portable_crc32c_has_known_values),
		cmocka_unit_test(both_crc32c_agree),          cmocka_unit_test(crc32c_continues),
		cmocka_unit_test(crc32c_depends_on_the_seed), cmocka_unit_test(hash64_is_xxh3),
	};

	return cmocka_run_group_tests_name("checksum", tests, NULL, NULL);
}
