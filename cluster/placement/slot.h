/*
 * slot.h: which slot a row of a sharded table belongs to. The number of slots never changes; where each is kept does.
 */
#ifndef AIDB_SLOT_H
#define AIDB_SLOT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define AIDB_SLOTS 256u

/* By the bytes of the shard key's columns, encoded as in stored keys: XXH3, the same on every machine. */
uint32_t aidb_slot_of(const void *shard_key, size_t size);

/*
 * A string of bytes in a stored key: as it is, but for a zero, which becomes these two, and with two at its end. So the order is the
 * strings', and no string is the beginning of another.
 */
#define AIDB_KEY_ESCAPE 0x00
#define AIDB_KEY_ESCAPED_ZERO 0xFF
#define AIDB_KEY_ESCAPED_END 0x01
/*
 * A stored key begins with a number and the table's index id (u16, u32, big-endian): 0 for local tables, else its slot and this one.
 */
#define AIDB_FIRST_STORED_SLOT 1u
#define AIDB_STORED_PREFIX_BYTES 6u
/* The slot of the row under a stored key; false: it is of a local table, or no stored key. */
bool aidb_slot_of_stored_key(const void *key, size_t size, uint32_t *slot);
/* The slot of a row whose shard key is one column of bytes. */
uint32_t aidb_slot_of_bytes(const void *bytes, size_t size);

#endif
