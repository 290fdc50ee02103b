/*
 * batch.h: operations as bytes: the body of a log record, and what aidb_batch collects.
 *
 * operation: kind u8 (put or delete) | key bytes varint | key | for a put: value bytes varint | value.
 */
#ifndef LSM_BATCH_H
#define LSM_BATCH_H

#include "base/buffer.h"
#include "format/key.h"

struct aidb_batch {
	aidb_buffer operations;
	uint32_t count;
	size_t bytes;      /* footprint: keys, values and overhead */
	aidb_status error; /* of an operation that could not be added; the batch is refused */
};

/* Reads one operation: *entry's slices point into the bytes, its trailer holds the kind alone. False when malformed. */
bool lsm_read_operation(lsm_reader *reader, lsm_entry *entry);

#endif
