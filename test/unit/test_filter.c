/* format/filter.h: no false negatives, and as few false positives as blocked filters can have. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <string.h>

#include "format/filter.h"
#include "random.h"

#define PROBED 400000

static aidb_slice slice_of(const aidb_buffer *buffer) {
	return (aidb_slice){buffer->data, buffer->size};
}

/* Hashes of `count` numbers from `first` on. */
static void hash_keys(uint64_t first, uint64_t *hashes, uint32_t count) {
	for (uint32_t i = 0; i < count; i++) {
		uint64_t key = first + i;

		hashes[i] = lsm_filter_hash((aidb_slice){&key, sizeof(key)});
	}
}

/* A full filter's share of false positives; every key of its own must be found. */
static double false_positives(uint64_t first, uint32_t bits_per_key) {
	static uint64_t inside[LSM_FILTER_MAX_LINES * 512];
	static uint64_t outside[PROBED];
	uint32_t count = lsm_filter_max_keys(bits_per_key);
	uint32_t found = 0;
	aidb_buffer filter = {0};

	assert_true(count <= sizeof(inside) / sizeof(inside[0]));
	hash_keys(first, inside, count);
	hash_keys(first + count, outside, PROBED);
	assert_int_equal(lsm_filter_build(inside, count, bits_per_key, &filter), AIDB_OK);
	assert_true(filter.size <= LSM_BLOCK_BYTES);
	for (uint32_t i = 0; i < count; i++) {
		assert_true(lsm_filter_may_contain(slice_of(&filter), inside[i]));
	}
	for (uint32_t i = 0; i < PROBED; i++) {
		found += lsm_filter_may_contain(slice_of(&filter), outside[i]);
	}
	aidb_buffer_free(&filter);
	return (double)found / PROBED;
}

/* Putze, Sanders, Singler: a line gets a Poisson number of keys, and is a small bloom filter of that many. */
static double expected_false_positives(uint32_t bits_per_key) {
	const double line_bits = LSM_FILTER_LINE_BYTES * 8;
	const uint32_t lines = LSM_FILTER_MAX_LINES;
	double probes = fmax(1, round(bits_per_key * 0.69));
	double mean = (double)lsm_filter_max_keys(bits_per_key) / lines;
	double share = 0;

	for (int keys = 0; keys < 4 * mean + 50; keys++) {
		double likelihood = exp(keys * log(mean) - mean - lgamma(keys + 1));

		share += likelihood * pow(1 - pow(1 - 1 / line_bits, probes * keys), probes);
	}
	return share;
}

static void false_positives_are_near_theory(void **state) {
	test_random random = test_random_seeded("filter");

	(void)state;
	for (uint32_t bits = 5; bits <= LSM_FILTER_MAX_BITS_PER_KEY; bits++) {
		double measured = 0;
		double expected = expected_false_positives(bits);

		for (int run = 0; run < 4; run++) {
			measured += false_positives(test_random_next(&random) >> 1, bits) / 4;
		}
		printf("# %2u bits a key: %.4f %% false positives, theory %.4f %%\n", bits, measured * 100, expected * 100);
		assert_true(measured < expected * 1.3 + 0.0001 && measured > expected * 0.7 - 0.0001);
		assert_true(bits != 10 || (measured > 0.006 && measured < 0.015));
	}
}

static void few_keys_make_a_small_filter(void **state) {
	const uint64_t hashes[] = {lsm_filter_hash((aidb_slice){"a", 1}), lsm_filter_hash((aidb_slice){"b", 1})};
	aidb_buffer filter = {0};

	(void)state;
	assert_int_equal(lsm_filter_build(hashes, 2, 10, &filter), AIDB_OK);
	assert_int_equal(filter.size, LSM_FILTER_LINE_BYTES + 1);
	assert_int_equal(filter.data[LSM_FILTER_LINE_BYTES], 7);
	assert_true(lsm_filter_may_contain(slice_of(&filter), hashes[0]));
	assert_true(lsm_filter_may_contain(slice_of(&filter), hashes[1]));
	assert_false(lsm_filter_may_contain(slice_of(&filter), lsm_filter_hash((aidb_slice){"c", 1})));
	assert_int_equal(lsm_filter_build(hashes, 0, 1, &filter), AIDB_OK);
	assert_int_equal(filter.size, LSM_FILTER_LINE_BYTES + 1);
	assert_int_equal(filter.data[LSM_FILTER_LINE_BYTES], 1);
	assert_false(lsm_filter_may_contain(slice_of(&filter), hashes[0]));
	aidb_buffer_free(&filter);
}

static void a_filter_takes_more_keys_than_it_should(void **state) {
	static uint64_t hashes[5000];
	aidb_buffer filter = {0};

	(void)state;
	hash_keys(0, hashes, 5000);
	assert_int_equal(lsm_filter_build(hashes, 5000, 20, &filter), AIDB_OK);
	assert_true(filter.size <= LSM_BLOCK_BYTES);
	for (int i = 0; i < 5000; i++) {
		assert_true(lsm_filter_may_contain(slice_of(&filter), hashes[i]));
	}
	aidb_buffer_free(&filter);
}

static void malformed_filters_exclude_nothing(void **state) {
	uint8_t bytes[LSM_BLOCK_BYTES + 65] = {0};

	(void)state;
	for (size_t size = 0; size <= sizeof(bytes); size++) {
		size_t lines = size / LSM_FILTER_LINE_BYTES;
		bool well_formed = size % LSM_FILTER_LINE_BYTES == 1 && lines >= 1 && size <= LSM_BLOCK_BYTES;
		uint8_t last = size == 0 ? 0 : bytes[size - 1];

		if (size > 0) {
			bytes[size - 1] = 5;
		}
		assert_int_equal(lsm_filter_may_contain((aidb_slice){bytes, size}, 12345), !well_formed);
		if (size > 0) {
			bytes[size - 1] = last;
		}
	}
	bytes[64] = 200; /* probes */
	assert_true(lsm_filter_may_contain((aidb_slice){bytes, 65}, 12345));
	bytes[64] = 0;
	assert_true(lsm_filter_may_contain((aidb_slice){bytes, 65}, 12345));
}

int main(void) {
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(false_positives_are_near_theory),
		cmocka_unit_test(few_keys_make_a_small_filter),
		cmocka_unit_test(a_filter_takes_more_keys_than_it_should),
		cmocka_unit_test(malformed_filters_exclude_nothing),
	};

	return cmocka_run_group_tests_name("filter", tests, NULL, NULL);
}
