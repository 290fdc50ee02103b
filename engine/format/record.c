#include "format/record.h"

#include <assert.h>
#include <stdlib.h>

#include "base/checksum.h"
#include "base/status.h"

_Static_assert(LSM_LOG_BLOCK_BYTES <= UINT16_MAX, "a fragment's length has 16 bits");
_Static_assert(LSM_SEGMENT_HEADER_BYTES + LSM_FRAGMENT_HEADER_BYTES < LSM_LOG_BLOCK_BYTES,
			   "the first block of a segment has room");

#define TYPE_OFFSET 6
#define COVERED_OFFSET 4 /* the checksum covers what lies from here on */

/* ---- Where things lie ---------------------------------------------------------------------------------- */

/* Bytes from `position` to the end of its block. */
static inline uint32_t block_left(uint64_t position) {
	return LSM_LOG_BLOCK_BYTES - (uint32_t)(position % LSM_LOG_BLOCK_BYTES);
}

uint64_t lsm_record_begin(const lsm_log_geometry *geometry, uint64_t position) {
	uint64_t in_segment;

	if (block_left(position) < LSM_FRAGMENT_HEADER_BYTES) {
		position += block_left(position);
	}
	in_segment = position & (geometry->segment_bytes - 1);
	if (in_segment < LSM_SEGMENT_HEADER_BYTES) {
		position += LSM_SEGMENT_HEADER_BYTES - in_segment;
	}
	return position;
}

/* How many of `size` bytes the fragment at `position` takes. */
static inline uint32_t fragment_bytes(uint64_t position, uint64_t size) {
	uint32_t room = block_left(position) - LSM_FRAGMENT_HEADER_BYTES;

	return size < room ? (uint32_t)size : room;
}

uint64_t lsm_record_end(const lsm_log_geometry *geometry, uint64_t position, uint64_t size) {
	do {
		uint32_t taken;

		position = lsm_record_begin(geometry, position);
		taken = fragment_bytes(position, size);
		position += LSM_FRAGMENT_HEADER_BYTES + taken;
		size -= taken;
	} while (size > 0);
	return position;
}

/* What the checksum of the fragment at `position` starts from: the finaliser of MurmurHash3 over both. */
static inline uint32_t seed_at(const lsm_log_geometry *geometry, uint64_t position) {
	uint64_t mixed = geometry->store_id ^ position * 0x9e3779b97f4a7c15ull;

	mixed = (mixed ^ mixed >> 33) * 0xff51afd7ed558ccdull;
	mixed = (mixed ^ mixed >> 33) * 0xc4ceb9fe1a85ec53ull;
	return (uint32_t)(mixed >> 32);
}

/* ---- Writing ------------------------------------------------------------------------------------------- */

/* Moves up to `size` bytes from the front of *from to *to. */
static inline void move_bytes(aidb_slice *from, uint8_t **to, size_t size) {
	size_t moved = from->size < size ? from->size : size;

	if (moved > 0) {
		memcpy(*to, from->data, moved);
		from->data = (const uint8_t *)from->data + moved;
		from->size -= moved;
		*to += moved;
	}
}

static inline unsigned fragment_type(bool is_first, bool is_last) {
	if (is_first) {
		return is_last ? LSM_FRAGMENT_FULL : LSM_FRAGMENT_FIRST;
	}
	return is_last ? LSM_FRAGMENT_LAST : LSM_FRAGMENT_MIDDLE;
}

/* Where a record may begin, with the tail that is skipped on the way there zeroed. */
static uint64_t skip_to_begin(const lsm_log_geometry *geometry, uint8_t *ring, uint64_t mask, uint64_t position) {
	uint32_t left = block_left(position);

	if (left < LSM_FRAGMENT_HEADER_BYTES) {
		memset(ring + (position & mask), 0, left);
	}
	return lsm_record_begin(geometry, position);
}

uint64_t lsm_record_write(const lsm_log_geometry *geometry, uint8_t *ring, uint64_t ring_bytes, uint64_t position,
						  aidb_slice head, aidb_slice body) {
	uint64_t left = head.size + body.size;
	bool is_first = true;

	/* The ring holds whole blocks, so that a fragment never wraps around. */
	assert(ring_bytes >= LSM_LOG_BLOCK_BYTES && (ring_bytes & (ring_bytes - 1)) == 0);
	assert(left <= LSM_MAX_RECORD_BYTES && left < ring_bytes);
	do {
		uint8_t *fragment;
		uint8_t *to;
		uint32_t size;

		position = skip_to_begin(geometry, ring, ring_bytes - 1, position);
		size = fragment_bytes(position, left);
		left -= size;
		fragment = ring + (position & (ring_bytes - 1));
		lsm_put_u16(fragment + COVERED_OFFSET, (uint16_t)size);
		fragment[TYPE_OFFSET] = (uint8_t)fragment_type(is_first, left == 0);
		to = fragment + LSM_FRAGMENT_HEADER_BYTES;
		move_bytes(&head, &to, size);
		move_bytes(&body, &to, size - (size_t)(to - fragment - LSM_FRAGMENT_HEADER_BYTES));
		lsm_put_u32(fragment, lsm_crc32c(seed_at(geometry, position), fragment + COVERED_OFFSET,
										 LSM_FRAGMENT_HEADER_BYTES - COVERED_OFFSET + size));
		position += LSM_FRAGMENT_HEADER_BYTES + size;
		is_first = false;
	} while (left > 0);
	return position;
}

/* ---- Reading ------------------------------------------------------------------------------------------- */

typedef struct fragment {
	unsigned type;
	aidb_slice data; /* in the reader's block */
	uint64_t end;
} fragment;

static void forget_block(lsm_record_reader *reader) {
	reader->block_bytes = 0;
}

/* Makes sure that the reader's block holds what there is from `position` to the end of its block. */
static aidb_status load(lsm_record_reader *reader, uint64_t position) {
	size_t got = 0;
	aidb_status rc;

	if (position >= reader->block_position && position - reader->block_position < reader->block_bytes) {
		return AIDB_OK;
	}
	if (reader->block == NULL) {
		reader->block = malloc(LSM_LOG_BLOCK_BYTES);
	}
	if (reader->block == NULL) {
		return lsm_fail(AIDB_NO_MEMORY, "out of memory: could not allocate %u bytes", LSM_LOG_BLOCK_BYTES);
	}
	forget_block(reader);
	rc = reader->source(reader->source_argument, position, reader->block, block_left(position), &got);
	if (rc == AIDB_OK) {
		reader->block_position = position;
		reader->block_bytes = got;
	}
	return rc;
}

/* `position` is one where a fragment may begin. */
static lsm_record_result read_fragment(lsm_record_reader *reader, uint64_t position, fragment *found,
									   aidb_status *status) {
	aidb_status rc = load(reader, position);
	const uint8_t *bytes;
	size_t left;
	uint32_t size;

	if (rc != AIDB_OK) {
		*status = rc;
		return LSM_RECORD_ERROR;
	}
	if (reader->block_bytes < position - reader->block_position + LSM_FRAGMENT_HEADER_BYTES) {
		return LSM_RECORD_END;
	}
	bytes = reader->block + (position - reader->block_position);
	left = reader->block_bytes - (size_t)(position - reader->block_position);
	size = lsm_get_u16(bytes + COVERED_OFFSET);
	found->type = bytes[TYPE_OFFSET];
	if (found->type < LSM_FRAGMENT_FULL || found->type > LSM_FRAGMENT_LAST || size > left - LSM_FRAGMENT_HEADER_BYTES) {
		return LSM_RECORD_END;
	}
	if (lsm_get_u32(bytes) != lsm_crc32c(seed_at(&reader->geometry, position), bytes + COVERED_OFFSET,
										 LSM_FRAGMENT_HEADER_BYTES - COVERED_OFFSET + size)) {
		return LSM_RECORD_END;
	}
	found->data = (aidb_slice){bytes + LSM_FRAGMENT_HEADER_BYTES, size};
	found->end = position + LSM_FRAGMENT_HEADER_BYTES + size;
	return LSM_RECORD_OK;
}

/* Reads the fragments after a FIRST into reader->payload; leaves the last in *part. */
static lsm_record_result read_chain(lsm_record_reader *reader, fragment *part, aidb_status *status) {
	aidb_status rc;

	reader->payload.size = 0;
	for (;;) {
		lsm_record_result result;

		if (reader->payload.size + part->data.size > LSM_MAX_RECORD_BYTES) {
			return LSM_RECORD_END;
		}
		rc = lsm_buffer_append(&reader->payload, part->data.data, part->data.size);
		if (rc != AIDB_OK) {
			*status = rc;
			return LSM_RECORD_ERROR;
		}
		if (part->type == LSM_FRAGMENT_LAST) {
			return LSM_RECORD_OK;
		}
		result = read_fragment(reader, lsm_record_begin(&reader->geometry, part->end), part, status);
		if (result != LSM_RECORD_OK) {
			return result;
		}
		if (part->type != LSM_FRAGMENT_MIDDLE && part->type != LSM_FRAGMENT_LAST) {
			return LSM_RECORD_END;
		}
	}
}

static lsm_record_result read_record(lsm_record_reader *reader, aidb_slice *payload, aidb_status *status) {
	fragment part;
	lsm_record_result result =
		read_fragment(reader, lsm_record_begin(&reader->geometry, reader->position), &part, status);

	if (result != LSM_RECORD_OK) {
		return result;
	}
	if (part.type == LSM_FRAGMENT_FULL) {
		*payload = part.data;
	} else if (part.type == LSM_FRAGMENT_FIRST) {
		result = read_chain(reader, &part, status);
		if (result != LSM_RECORD_OK) {
			return result;
		}
		*payload = (aidb_slice){reader->payload.data, reader->payload.size};
	} else {
		return LSM_RECORD_END;
	}
	reader->position = part.end;
	return LSM_RECORD_OK;
}

lsm_record_result lsm_record_read(lsm_record_reader *reader, aidb_slice *payload, aidb_status *status) {
	lsm_record_result result = read_record(reader, payload, status);

	if (result != LSM_RECORD_OK) {
		forget_block(reader);
	}
	return result;
}

/* Looks for a record that begins in [position, end), which lies within a block, byte by byte: damage may have hit the
 * lengths by which one would walk. */
static lsm_record_result find_in_block(lsm_record_reader *reader, uint64_t position, uint64_t end,
									   aidb_status *status) {
	lsm_record_result result = LSM_RECORD_END;

	for (; position < end && block_left(position) >= LSM_FRAGMENT_HEADER_BYTES && result == LSM_RECORD_END;
		 position++) {
		fragment part;

		result = read_fragment(reader, position, &part, status);
		if (result == LSM_RECORD_OK) {
			aidb_slice payload;

			reader->position = position;
			result = lsm_record_read(reader, &payload, status);
			reader->position = position;
		}
	}
	return result;
}

/* Nothing begins in a block of zeroes, of which a new segment is full. */
static bool is_zero(const lsm_record_reader *reader) {
	return reader->block[0] == 0 && memcmp(reader->block, reader->block + 1, reader->block_bytes - 1) == 0;
}

lsm_record_result lsm_record_resync(lsm_record_reader *reader, uint64_t position, uint64_t limit, aidb_status *status) {
	uint64_t before = reader->position;
	lsm_record_result result = LSM_RECORD_END;

	forget_block(reader);
	while (result == LSM_RECORD_END && position < limit) {
		uint64_t begin = lsm_record_begin(&reader->geometry, position);
		uint64_t end = begin + block_left(begin);
		aidb_status rc = load(reader, begin);

		if (rc != AIDB_OK) {
			*status = rc;
			result = LSM_RECORD_ERROR;
		} else if (reader->block_bytes == 0) {
			break;
		} else if (!is_zero(reader)) {
			uint64_t loaded = reader->block_position + reader->block_bytes; /* a file may be cut off */

			loaded = loaded < limit ? loaded : limit;
			result = find_in_block(reader, begin, loaded, status);
		}
		position = end;
	}
	if (result != LSM_RECORD_OK) {
		reader->position = before;
		forget_block(reader);
	}
	return result;
}

void lsm_record_reader_free(lsm_record_reader *reader) {
	free(reader->block);
	reader->block = NULL;
	reader->block_bytes = 0;
	aidb_buffer_free(&reader->payload);
}
