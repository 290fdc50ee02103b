/*
 * key_codec.h: SQL values to order-preserving bytes and back.
 *
 * A stored key is slot (u16, big-endian, 0 for local tables; see table.h for sharded ones), index id (u32, big-endian), then the key columns in an
 * encoding whose memcmp order is the columns' order. Every encoding can be decoded to the exact value.
 */
#ifndef AIPG_KEY_CODEC_H
#define AIPG_KEY_CODEC_H

#include "postgres.h"

#include "aidb.h"
#include "lib/stringinfo.h"
#include "placement/slot.h"

#define AIPG_KEY_PREFIX_BYTES AIDB_STORED_PREFIX_BYTES /* slot and index id */

/* True when the type can be a key column. */
extern bool aipg_key_type_supported(Oid type);
/* True when byte order is also the order of `<` under this collation, so that ranges and sort order can be pushed down. */
extern bool aipg_key_type_ordered(Oid type, Oid collation);

extern void aipg_key_start(StringInfo key, uint16 slot, uint32 index_id);
/* Gives a key another slot, in place. */
extern void aipg_key_set_slot(char *key, uint16 slot);
/* The index id that a stored key begins with. */
extern uint32 aipg_key_index_id(aidb_slice key);
/* Appends one non-null column. Raises 54000 (program_limit_exceeded) with a hint when the key gets too long. */
extern void aipg_key_append(StringInfo key, Oid type, Datum value);
/* Reads one column at *position, moving it; by-reference values are palloc'd. Raises XX001 on malformed bytes. */
extern Datum aipg_key_read(aidb_slice key, size_t *position, Oid type, int32 typmod);
/* Moves *position behind one column without making its value. */
extern void aipg_key_skip(aidb_slice key, size_t *position, Oid type);
/* Turns a prefix into the smallest key beyond all its extensions, in place. False when there is none. */
extern bool aipg_key_successor(StringInfo key);

#endif
