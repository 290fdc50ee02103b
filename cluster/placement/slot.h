/*
 * slot.h: which slot a row of a sharded table belongs to. The number of slots never changes; where each is kept does.
 */
#ifndef AIDB_SLOT_H
#define AIDB_SLOT_H

#include <stddef.h>
#include <stdint.h>

#define AIDB_SLOTS 256u

/* By the bytes of the shard key's columns, encoded as in stored keys: XXH3, the same on every machine. */
uint32_t aidb_slot_of(const void *shard_key, size_t size);

#endif
