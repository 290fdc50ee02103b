#include "format/filter.h"

#include <assert.h>

#define LINE_BITS (LSM_FILTER_LINE_BYTES * 8u)
#define MAX_PROBES 14u /* what LSM_FILTER_MAX_BITS_PER_KEY asks for */

/* Where a key's probes fall: the line is drawn from the hash's upper half, the bits in it from the top of a sequence
 * that multiplication makes of the whole. */
typedef struct probe_sequence {
	size_t line_offset;
	uint64_t state;
} probe_sequence;

static inline probe_sequence first_probe(uint64_t hash, uint32_t lines) {
	return (probe_sequence){.line_offset = (size_t)((hash >> 32) * lines >> 32) * LSM_FILTER_LINE_BYTES,
							.state = hash * 0x9e3779b97f4a7c15ull};
}

/* The next bit's number within the line. */
static inline uint32_t next_bit(probe_sequence *probes) {
	uint32_t bit = (uint32_t)(probes->state >> 55);

	_Static_assert(LINE_BITS == 1u << (64 - 55), "nine bits choose one of a line");
	probes->state *= 0x9e3779b97f4a7c15ull;
	return bit;
}

uint32_t lsm_filter_max_keys(uint32_t bits_per_key) {
	return LSM_FILTER_MAX_LINES * LINE_BITS / bits_per_key;
}

/* ln 2 probes for every bit a key has are best, rounded. */
static uint32_t probe_count(uint32_t bits_per_key) {
	uint32_t count = (bits_per_key * 69 + 50) / 100;

	return count < 1 ? 1 : count;
}

static uint32_t line_count(uint32_t keys, uint32_t bits_per_key) {
	uint64_t lines = ((uint64_t)keys * bits_per_key + LINE_BITS - 1) / LINE_BITS;

	if (lines > LSM_FILTER_MAX_LINES) {
		return LSM_FILTER_MAX_LINES;
	}
	return lines < 1 ? 1 : (uint32_t)lines;
}

aidb_status lsm_filter_build(const uint64_t *hashes, uint32_t count, uint32_t bits_per_key, aidb_buffer *out) {
	uint32_t lines = line_count(count, bits_per_key);
	uint32_t probes_per_key = probe_count(bits_per_key);
	size_t bytes = (size_t)lines * LSM_FILTER_LINE_BYTES;
	aidb_status rc;

	assert(bits_per_key >= 1 && bits_per_key <= LSM_FILTER_MAX_BITS_PER_KEY);
	rc = lsm_buffer_reserve(out, bytes + 1);
	if (rc != AIDB_OK) {
		return rc;
	}
	memset(out->data, 0, bytes);
	for (uint32_t i = 0; i < count; i++) {
		probe_sequence probes = first_probe(hashes[i], lines);
		uint8_t *line = (uint8_t *)out->data + probes.line_offset;

		for (uint32_t k = 0; k < probes_per_key; k++) {
			uint32_t bit = next_bit(&probes);

			line[bit / 8] |= (uint8_t)(1u << bit % 8);
		}
	}
	out->data[bytes] = (char)probes_per_key;
	out->size = bytes + 1;
	return AIDB_OK;
}

bool lsm_filter_may_contain(aidb_slice filter, uint64_t hash) {
	const uint8_t *bytes = filter.data;
	size_t lines = filter.size / LSM_FILTER_LINE_BYTES;
	uint32_t probes_per_key;
	probe_sequence probes;
	const uint8_t *line;

	if (filter.size % LSM_FILTER_LINE_BYTES != 1 || lines < 1 || lines > LSM_FILTER_MAX_LINES) {
		return true;
	}
	probes_per_key = bytes[filter.size - 1];
	if (probes_per_key > MAX_PROBES) {
		return true;
	}
	probes = first_probe(hash, (uint32_t)lines);
	line = bytes + probes.line_offset;
	for (uint32_t k = 0; k < probes_per_key; k++) {
		uint32_t bit = next_bit(&probes);

		if ((line[bit / 8] >> bit % 8 & 1) == 0) {
			return false;
		}
	}
	return true;
}
