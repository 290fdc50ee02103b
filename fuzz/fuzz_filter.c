/*
 * Filters: the input as a filter that is asked for hashes, and as hashes that a filter is built of, which must all be
 * found in it.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include "format/filter.h"

#define MAX_HASHES 1024

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void build_and_ask(const uint64_t *hashes, uint32_t count, uint32_t bits_per_key) {
	aidb_buffer filter = {0};

	if (lsm_filter_build(hashes, count, bits_per_key, &filter) != AIDB_OK || filter.size > LSM_BLOCK_BYTES) {
		abort();
	}
	for (uint32_t i = 0; i < count; i++) {
		if (!lsm_filter_may_contain((aidb_slice){filter.data, filter.size}, hashes[i])) {
			abort();
		}
	}
	aidb_buffer_free(&filter);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
	uint64_t hashes[MAX_HASHES];
	size_t count = size / sizeof(uint64_t) < MAX_HASHES ? size / sizeof(uint64_t) : MAX_HASHES;

	memcpy(hashes, data, count * sizeof(uint64_t));
	lsm_filter_may_contain((aidb_slice){data, size}, 0);
	lsm_filter_may_contain((aidb_slice){data, size}, UINT64_MAX);
	for (size_t i = 0; i < count; i++) {
		lsm_filter_may_contain((aidb_slice){data, size}, hashes[i]);
	}
	if (size > 0) {
		build_and_ask(hashes, (uint32_t)count, 1 + data[size - 1] % LSM_FILTER_MAX_BITS_PER_KEY);
	}
	return 0;
}
