/*
 * record.h: how a byte string of any length lies in the log.
 *
 * The log is one endless sequence of bytes, cut into segment files of equal size and, within them, into blocks of 32
 * KiB. A payload is written as fragments that do not cross a block:
 *
 *   fragment   crc32c u32 | length u16 | type u8 (FULL, FIRST, MIDDLE, LAST) | data
 *
 * A block's last bytes are zero when fewer than a header remain. The CRC covers length, type and data and starts from
 * a seed made of the store's id and the fragment's position in the endless log, so that bytes of a recycled segment
 * never pass for new ones. Each segment begins with a header of LSM_SEGMENT_HEADER_BYTES (see db/log.h), at which no
 * fragment lies. Fragmenting as in LevelDB (doc/log_format.md).
 *
 * Positions are byte offsets in the endless log.
 */
#ifndef LSM_RECORD_H
#define LSM_RECORD_H

#include "base/buffer.h"
#include "base/coding.h"

#define LSM_LOG_BLOCK_BYTES 32768u
#define LSM_FRAGMENT_HEADER_BYTES 7u
#define LSM_SEGMENT_HEADER_BYTES 64u
#define LSM_MAX_RECORD_BYTES (1u << 30) /* of payload; a longer chain of fragments is damage */

enum { LSM_FRAGMENT_FULL = 1, LSM_FRAGMENT_FIRST = 2, LSM_FRAGMENT_MIDDLE = 3, LSM_FRAGMENT_LAST = 4 };

typedef struct lsm_log_geometry {
	uint64_t segment_bytes; /* a power of two, a multiple of the block size */
	uint64_t store_id;
} lsm_log_geometry;

/* Where a record may begin at or after `position`: past a segment header or a block's unusable tail. */
uint64_t lsm_record_begin(const lsm_log_geometry *geometry, uint64_t position);
/* The position after a record of `size` bytes that is written from `position` on. */
uint64_t lsm_record_end(const lsm_log_geometry *geometry, uint64_t position, uint64_t size);

/* Writes a record of payload head + body into the ring `ring` (a power of two of bytes, at least a block; log position
 * p lies at p & (ring_bytes - 1)), from `position` on, zeroing block tails it skips; segment headers are left out. The
 * record must fit the ring. Returns the end, as lsm_record_end does. Writers of different ranges may run at the same
 * time. */
uint64_t lsm_record_write(const lsm_log_geometry *geometry, uint8_t *ring, uint64_t ring_bytes, uint64_t position,
						  aidb_slice head, aidb_slice body);

/* What reading at a position met. */
typedef enum lsm_record_result {
	LSM_RECORD_OK,
	LSM_RECORD_END,  /* nothing valid here: zeroes, an old record, or damage; see lsm_record_read */
	LSM_RECORD_ERROR /* reading failed: *status */
} lsm_record_result;

/* Reads up to `size` bytes at a log position; *got less than size: the log has no more. */
typedef aidb_status (*lsm_log_source)(void *argument, uint64_t position, uint8_t *data, size_t size, size_t *got);

/* Reads records one after the other; process-local. Zero-initialise, set the first three, start at `position`. */
typedef struct lsm_record_reader {
	lsm_log_geometry geometry;
	lsm_log_source source;
	void *source_argument;
	uint64_t position;       /* of the next record */
	uint8_t *block;          /* what was read last: up to the end of a block; allocated on first use */
	uint64_t block_position; /* where its first byte lies in the log */
	size_t block_bytes;      /* valid bytes of it */
	aidb_buffer payload;
} lsm_record_reader;

/* LSM_RECORD_OK: *payload holds until the next call and reader->position is after the record. LSM_RECORD_END:
 * reader->position is where the log ends; a later call reads there anew. */
lsm_record_result lsm_record_read(lsm_record_reader *reader, aidb_slice *payload, aidb_status *status);
/* Looks for the first fragment at or beyond `position` that starts a valid record, at whatever byte, up to `limit` or the
 * end of what the source has: whether damage lies in the middle of the log. Leaves the reader at that record on
 * LSM_RECORD_OK. */
lsm_record_result lsm_record_resync(lsm_record_reader *reader, uint64_t position, uint64_t limit, aidb_status *status);
void lsm_record_reader_free(lsm_record_reader *reader);

#endif
