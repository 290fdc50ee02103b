#include "placement/slot.h"

#include <string.h>
#define XXH_INLINE_ALL /* its state stands on the stack */
#include <xxhash.h>

uint32_t aidb_slot_of(const void *shard_key, size_t size) {
	return (uint32_t)(XXH3_64bits(shard_key, size) % AIDB_SLOTS);
}

uint32_t aidb_slot_of_bytes(const void *bytes, size_t size) {
	static const unsigned char zero[] = {AIDB_KEY_ESCAPE, AIDB_KEY_ESCAPED_ZERO};
	static const unsigned char end[] = {AIDB_KEY_ESCAPE, AIDB_KEY_ESCAPED_END};
	const unsigned char *from = bytes;
	XXH3_state_t state;

	XXH3_64bits_reset(&state);
	while (size > 0) {
		const unsigned char *found = memchr(from, AIDB_KEY_ESCAPE, size);
		size_t length = found != NULL ? (size_t)(found - from) : size;

		XXH3_64bits_update(&state, from, length);
		if (found == NULL) {
			break;
		}
		XXH3_64bits_update(&state, zero, sizeof(zero));
		from += length + 1;
		size -= length + 1;
	}
	XXH3_64bits_update(&state, end, sizeof(end));
	return (uint32_t)(XXH3_64bits_digest(&state) % AIDB_SLOTS);
}

bool aidb_slot_of_stored_key(const void *key, size_t size, uint32_t *slot) {
	const unsigned char *bytes = key;

	if (size < AIDB_STORED_PREFIX_BYTES) {
		return false;
	}
	*slot = ((uint32_t)bytes[0] << 8 | bytes[1]) - AIDB_FIRST_STORED_SLOT;
	return *slot < AIDB_SLOTS;
}
