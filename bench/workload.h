/*
 * workload.h: the keys, values and orders that the benchmarks use. All of it is computed from numbers, so that every
 * engine and every run gets the same operations, and every value that is read can be checked without being kept.
 *
 *   key     the decimal digits of twice its number: sorted as numbers are, with a gap after each for keys that miss
 *   value   half of it random, the other half the same again: compression finds a half
 *   order   a permutation of 0 .. count-1, so that each key is written exactly once in random order
 */
#ifndef BENCH_WORKLOAD_H
#define BENCH_WORKLOAD_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#define KEY_BYTES 16
#define VALUE_BYTES 100

/* The finaliser of SplitMix64 (Steele, Lea, Flood 2014). */
static inline uint64_t workload_mix(uint64_t number) {
	uint64_t mixed = number + 0x9e3779b97f4a7c15ull;

	mixed = (mixed ^ mixed >> 30) * 0xbf58476d1ce4e5b9ull;
	mixed = (mixed ^ mixed >> 27) * 0x94d049bb133111ebull;
	return mixed ^ mixed >> 31;
}

static inline void workload_digits(uint64_t number, char key[KEY_BYTES]) {
	for (int i = KEY_BYTES - 1; i >= 0; i--) {
		key[i] = (char)('0' + number % 10);
		number /= 10;
	}
}

static inline void workload_key(uint64_t number, char key[KEY_BYTES]) {
	workload_digits(2 * number, key);
}

/* A key that lies between two that are stored, and is not. */
static inline void workload_missing_key(uint64_t number, char key[KEY_BYTES]) {
	workload_digits(2 * number + 1, key);
}

/* The value of key `number` as it was written for the generation-th time. */
static inline void workload_value(uint64_t number, uint32_t generation, char value[VALUE_BYTES]) {
	uint64_t seed = workload_mix(number * 16 + generation);
	uint64_t words[(VALUE_BYTES / 2 + 7) / 8];

	for (unsigned i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
		words[i] = workload_mix(seed + i);
	}
	memcpy(value, words, VALUE_BYTES / 2);
	memcpy(value + VALUE_BYTES / 2, words, VALUE_BYTES / 2);
}

static inline bool workload_value_is(uint64_t number, uint32_t generation, const char *value, size_t size) {
	char expected[VALUE_BYTES];

	workload_value(number, generation, expected);
	return size == VALUE_BYTES && memcmp(value, expected, VALUE_BYTES) == 0;
}

/* A permutation of 0 .. count-1; another seed, another one. */
typedef struct workload_order {
	uint64_t count;
	uint64_t mask; /* one less than the power of two that is not below count */
	uint64_t seed;
	unsigned shift;
} workload_order;

static inline workload_order workload_order_of(uint64_t count, uint64_t seed) {
	workload_order order = {.count = count, .seed = workload_mix(seed)};
	unsigned bits = 1;

	while (((uint64_t)1 << bits) < count) {
		bits++;
	}
	order.mask = ((uint64_t)1 << bits) - 1;
	order.shift = (bits + 1) / 2;
	return order;
}

/*
 * Each step permutes the numbers up to the mask: an addition, a multiplication by an odd number and a shifted
 * exclusive-or can all be undone. Repeating it until the result is below the count permutes those below the count.
 */
static inline uint64_t workload_order_at(const workload_order *order, uint64_t index) {
	do {
		index = ((index + order->seed) * 0xbf58476d1ce4e5b9ull) & order->mask;
		index ^= index >> order->shift;
		index = (index * 0x94d049bb133111ebull) & order->mask;
		index ^= index >> order->shift;
		index = (index * 0xd6e8feb86659fd93ull) & order->mask;
		index ^= index >> order->shift;
	} while (index >= order->count);
	return index;
}

#endif
