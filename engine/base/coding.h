/*
 * coding.h: integers as bytes, little-endian, and bounded reading of bytes that came from disk.
 */
#ifndef LSM_CODING_H
#define LSM_CODING_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "aidb.h"

#define LSM_MAX_VARINT32 5
#define LSM_MAX_VARINT64 10

static inline void lsm_put_u16(uint8_t *to, uint16_t value) {
	memcpy(to, &value, sizeof(value));
}

static inline void lsm_put_u32(uint8_t *to, uint32_t value) {
	memcpy(to, &value, sizeof(value));
}

static inline void lsm_put_u64(uint8_t *to, uint64_t value) {
	memcpy(to, &value, sizeof(value));
}

static inline uint16_t lsm_get_u16(const uint8_t *from) {
	uint16_t value;

	memcpy(&value, from, sizeof(value));
	return value;
}

static inline uint32_t lsm_get_u32(const uint8_t *from) {
	uint32_t value;

	memcpy(&value, from, sizeof(value));
	return value;
}

static inline uint64_t lsm_get_u64(const uint8_t *from) {
	uint64_t value;

	memcpy(&value, from, sizeof(value));
	return value;
}

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "formats are little-endian; add byte swaps to port");

/* Writes a base-128 varint and returns the byte after it. */
static inline uint8_t *lsm_put_varint(uint8_t *to, uint64_t value) {
	while (value >= 0x80) {
		*to++ = (uint8_t)(value | 0x80);
		value >>= 7;
	}
	*to++ = (uint8_t)value;
	return to;
}

static inline size_t lsm_varint_bytes(uint64_t value) {
	size_t bytes = 1;

	while (value >= 0x80) {
		value >>= 7;
		bytes++;
	}
	return bytes;
}

/* A window on bytes that are not trusted: every read checks the bound, and a failed one makes all later ones fail. */
typedef struct lsm_reader {
	const uint8_t *at;
	const uint8_t *end;
	bool failed;
} lsm_reader;

static inline lsm_reader lsm_reader_of(const void *data, size_t size) {
	static const uint8_t nothing[1];
	const uint8_t *at = size > 0 ? data : nothing; /* no arithmetic with NULL */

	return (lsm_reader){.at = at, .end = at + size, .failed = false};
}

static inline size_t lsm_reader_left(const lsm_reader *reader) {
	return (size_t)(reader->end - reader->at);
}

/* `size` bytes in place, or NULL (and the reader has failed). */
static inline const uint8_t *lsm_read_bytes(lsm_reader *reader, size_t size) {
	const uint8_t *bytes = reader->at;

	if (reader->failed || size > lsm_reader_left(reader)) {
		reader->failed = true;
		return NULL;
	}
	reader->at += size;
	return bytes;
}

static inline uint8_t lsm_read_u8(lsm_reader *reader) {
	const uint8_t *bytes = lsm_read_bytes(reader, 1);

	return bytes == NULL ? 0 : *bytes;
}

static inline uint32_t lsm_read_u32(lsm_reader *reader) {
	const uint8_t *bytes = lsm_read_bytes(reader, sizeof(uint32_t));

	return bytes == NULL ? 0 : lsm_get_u32(bytes);
}

static inline uint64_t lsm_read_u64(lsm_reader *reader) {
	const uint8_t *bytes = lsm_read_bytes(reader, sizeof(uint64_t));

	return bytes == NULL ? 0 : lsm_get_u64(bytes);
}

static inline uint64_t lsm_read_varint(lsm_reader *reader) {
	uint64_t value = 0;

	for (unsigned shift = 0; shift < 64; shift += 7) {
		uint8_t byte = lsm_read_u8(reader);

		if (reader->failed) {
			return 0;
		}
		if (shift == 63 && byte > 1) {
			break;
		}
		value |= (uint64_t)(byte & 0x7f) << shift;
		if (byte < 0x80) {
			return value;
		}
	}
	reader->failed = true;
	return 0;
}

/* A varint length followed by that many bytes. */
static inline aidb_slice lsm_read_slice(lsm_reader *reader) {
	uint64_t size = lsm_read_varint(reader);
	aidb_slice slice = {NULL, 0};

	if (reader->failed || size > lsm_reader_left(reader)) {
		reader->failed = true;
		return slice;
	}
	slice.data = lsm_read_bytes(reader, (size_t)size);
	slice.size = (size_t)size;
	return slice;
}

#endif
