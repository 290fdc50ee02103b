/*
 * random.h: pseudo-random numbers for tests, all from one seed that the test prints. AIDB_TEST_SEED replays it.
 */
#ifndef AIDB_TEST_RANDOM_H
#define AIDB_TEST_RANDOM_H

#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

typedef struct test_random {
	uint64_t state;
} test_random;

/* SplitMix64 (Steele, Lea, Flood 2014). */
static inline uint64_t test_random_next(test_random *random) {
	uint64_t mixed = random->state += 0x9e3779b97f4a7c15ull;

	mixed = (mixed ^ mixed >> 30) * 0xbf58476d1ce4e5b9ull;
	mixed = (mixed ^ mixed >> 27) * 0x94d049bb133111ebull;
	return mixed ^ mixed >> 31;
}

/* Below `limit`, which is at least 1. */
static inline uint64_t test_random_below(test_random *random, uint64_t limit) {
	return test_random_next(random) % limit;
}

static inline void test_random_bytes(test_random *random, void *to, size_t size) {
	for (size_t i = 0; i < size; i++) {
		((uint8_t *)to)[i] = (uint8_t)test_random_next(random);
	}
}

/* Takes AIDB_TEST_SEED or the time, and prints it. */
static inline test_random test_random_seeded(const char *test) {
	const char *given = getenv("AIDB_TEST_SEED");
	uint64_t seed = given != NULL ? strtoull(given, NULL, 0) : (uint64_t)time(NULL);

	printf("# %s: AIDB_TEST_SEED=%" PRIu64 "\n", test, seed);
	return (test_random){.state = seed};
}

#endif
