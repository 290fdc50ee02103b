/*
 * filter.h: a bloom filter whose probes for one key fall into one cache line.
 *
 * Contents: lines of 64 bytes, then one byte: the number of probes. At most LSM_BLOCK_BYTES in all. Putze, Sanders,
 * Singler: Cache-, Hash- and Space-Efficient Bloom Filters (2007); probe positions from one XXH3 hash.
 */
#ifndef LSM_FILTER_H
#define LSM_FILTER_H

#include "base/buffer.h"
#include "base/checksum.h"
#include "format/block.h"

#define LSM_FILTER_LINE_BYTES 64
#define LSM_FILTER_MAX_BITS_PER_KEY 20u
#define LSM_FILTER_MAX_LINES ((LSM_BLOCK_BYTES - 1) / LSM_FILTER_LINE_BYTES)

/* The most keys that one filter takes at this many bits a key, 1 to LSM_FILTER_MAX_BITS_PER_KEY. */
uint32_t lsm_filter_max_keys(uint32_t bits_per_key);

static inline uint64_t lsm_filter_hash(aidb_slice key) {
	return lsm_hash64(key.data, key.size, 0);
}

/* Replaces *out by the filter of these hashes. Takes more than lsm_filter_max_keys, at more false positives. */
aidb_status lsm_filter_build(const uint64_t *hashes, uint32_t count, uint32_t bits_per_key, aidb_buffer *out);
/* False: the key is certainly not in it. A malformed filter answers true. */
bool lsm_filter_may_contain(aidb_slice filter, uint64_t hash);

#endif
