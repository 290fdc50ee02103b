#include "placement/slot.h"

#include <xxhash.h>

uint32_t aidb_slot_of(const void *shard_key, size_t size) {
	return (uint32_t)(XXH3_64bits(shard_key, size) % AIDB_SLOTS);
}
