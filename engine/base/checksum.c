#include "base/checksum.h"

#include <pthread.h>
#include <string.h>
#include <xxhash.h>

#if defined(__x86_64__)
#include <nmmintrin.h>
#endif

#define POLYNOMIAL 0x82f63b78u /* Castagnoli, bit-reversed */
#define SLICES 8

/* table[k][b]: the CRC of byte b followed by k zero bytes (slicing-by-8, Kounavis and Berry 2005). */
static uint32_t table[SLICES][256];
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void fill_table(void) {
	for (uint32_t byte = 0; byte < 256; byte++) {
		uint32_t crc = byte;

		for (int bit = 0; bit < 8; bit++) {
			crc = (crc >> 1) ^ (POLYNOMIAL & -(crc & 1));
		}
		table[0][byte] = crc;
	}
	for (int k = 1; k < SLICES; k++) {
		for (int byte = 0; byte < 256; byte++) {
			table[k][byte] = (table[k - 1][byte] >> 8) ^ table[0][table[k - 1][byte] & 0xff];
		}
	}
}

uint32_t lsm_crc32c_portable(uint32_t crc, const void *data, size_t size) {
	const uint8_t *at = data;

	pthread_once(&once, fill_table);
	crc = ~crc;
	for (; size >= 8; size -= 8, at += 8) {
		uint64_t word;

		memcpy(&word, at, 8);
		word ^= crc;
		crc = 0;
		for (int k = 0; k < SLICES; k++) {
			crc ^= table[SLICES - 1 - k][(word >> (8 * k)) & 0xff];
		}
	}
	for (; size > 0; size--, at++) {
		crc = (crc >> 8) ^ table[0][(crc ^ *at) & 0xff];
	}
	return ~crc;
}

#if defined(__x86_64__)
__attribute__((target("sse4.2"))) static uint32_t crc32c_sse42(uint32_t crc, const void *data, size_t size) {
	const uint8_t *at = data;
	uint64_t wide = (uint32_t)~crc;

	for (; size >= 8; size -= 8, at += 8) {
		uint64_t word;

		memcpy(&word, at, 8);
		wide = _mm_crc32_u64(wide, word);
	}
	crc = (uint32_t)wide;
	for (; size > 0; size--, at++) {
		crc = _mm_crc32_u8(crc, *at);
	}
	return ~crc;
}
#endif

uint32_t lsm_crc32c(uint32_t crc, const void *data, size_t size) {
#if defined(__x86_64__)
	if (__builtin_cpu_supports("sse4.2")) {
		return crc32c_sse42(crc, data, size);
	}
#endif
	return lsm_crc32c_portable(crc, data, size);
}

uint64_t lsm_hash64(const void *data, size_t size, uint64_t seed) {
	return XXH3_64bits_withSeed(data, size, seed);
}
