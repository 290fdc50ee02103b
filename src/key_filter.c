#include "key_filter.h"

#include "common/hashfn.h"
#include "utils/memutils.h"

#define LINE_WORDS 8
#define LINE_BITS (LINE_WORDS * 64)
#define BITS_PER_KEY 10
#define LEAST_BITS_PER_KEY 3
#define MOST_PROBES 6
#define PROBE_BITS 9 /* log2 of LINE_BITS */

StaticAssertDecl(LINE_BITS == 1 << PROBE_BITS, "a probe names one bit of a line");
StaticAssertDecl(MOST_PROBES *PROBE_BITS <= 64, "one product has the bits for all probes");

struct aipg_key_filter {
	uint64 lines;
	int probes;
	uint64 words[FLEXIBLE_ARRAY_MEMBER];
};

static Size bytes_of(uint64 lines) {
	return offsetof(aipg_key_filter, words) + lines * LINE_WORDS * sizeof(uint64);
}

aipg_key_filter *aipg_key_filter_create(MemoryContext context, uint64 keys, Size limit_bytes) {
	uint64 lines = Min(keys * BITS_PER_KEY / LINE_BITS + 1, limit_bytes / (LINE_WORDS * sizeof(uint64)));
	uint64 bits_per_key = lines * LINE_BITS / Max(keys, 1);
	aipg_key_filter *filter;

	if (bits_per_key < LEAST_BITS_PER_KEY || lines > PG_UINT32_MAX) {
		return NULL;
	}
	filter = MemoryContextAllocExtended(context, bytes_of(lines), MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
	filter->lines = lines;
	filter->probes = (int)Min(MOST_PROBES, bits_per_key * 7 / 10); /* ln 2 of them are best */
	return filter;
}

void aipg_key_filter_free(aipg_key_filter *filter) {
	if (filter != NULL) {
		pfree(filter);
	}
}

Size aipg_key_filter_bytes(const aipg_key_filter *filter) {
	return filter == NULL ? 0 : bytes_of(filter->lines);
}

/* The first word of the key's line; *probes: PROBE_BITS for each probe, from the top. */
static uint64 line_of(const aipg_key_filter *filter, aidb_slice key, uint64 *probes) {
	uint64 hash = hash_bytes_extended((const unsigned char *)key.data, (int)key.size, 0);

	*probes = hash * UINT64CONST(0x9E3779B97F4A7C15);
	return ((hash >> 32) * filter->lines >> 32) * LINE_WORDS;
}

static int take_probe(uint64 *probes) {
	int bit = (int)(*probes >> (64 - PROBE_BITS));

	*probes <<= PROBE_BITS;
	return bit;
}

void aipg_key_filter_add(aipg_key_filter *filter, aidb_slice key) {
	uint64 probes;
	uint64 *line = &filter->words[line_of(filter, key, &probes)];

	for (int i = 0; i < filter->probes; i++) {
		int bit = take_probe(&probes);

		line[bit / 64] |= UINT64CONST(1) << (bit % 64);
	}
}

bool aipg_key_filter_may_have(const aipg_key_filter *filter, aidb_slice key) {
	uint64 probes;
	const uint64 *line = &filter->words[line_of(filter, key, &probes)];

	for (int i = 0; i < filter->probes; i++) {
		int bit = take_probe(&probes);

		if ((line[bit / 64] >> (bit % 64) & 1) == 0) {
			return false;
		}
	}
	return true;
}
