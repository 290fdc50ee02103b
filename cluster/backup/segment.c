#include "backup/segment.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <zstd.h>

#include "replication/stream_format.h"
#include "object_store/failure.h"
#include "object_store/hash.h"

#define MAGIC_BYTES 8
#define VERSION 1
#define HEAD_BYTES (MAGIC_BYTES + 2 + 5 * 8 + 4 + 8 + 8 + 4)
#define TRAILER_BYTES (AIDB_HASH_TEXT - 1)
#define LEVEL 3 /* Zstandard's own default */

static const uint8_t magic[MAGIC_BYTES] = {'A', 'I', 'D', 'B', 'L', 'O', 'G', '1'};

static void put(uint8_t **at, unsigned bytes, uint64_t value) {
	for (unsigned i = bytes; i > 0; i--) {
		*(*at)++ = (uint8_t)(value >> 8 * (i - 1));
	}
}

static uint64_t take(const uint8_t **at, unsigned bytes) {
	uint64_t value = 0;

	for (unsigned i = 0; i < bytes; i++) {
		value = value << 8 | *(*at)++;
	}
	return value;
}

void aidb_segment_begin(aidb_segment *segment) {
	segment->from = segment->upto;
	segment->begins = false;
	segment->answers = 0;
	segment->bytes.size = 0;
}

void aidb_segment_free(aidb_segment *segment) {
	free(segment->bytes.data);
	segment->bytes = (aidb_buffer){.data = NULL};
}

/* ---- Adding ---------------------------------------------------------------------------------------------- */

static aidb_status note_undecided(aidb_segment *segment, uint64_t tag) {
	for (uint32_t i = 0; i < segment->undecided_count; i++) {
		if (segment->undecided[i] == tag) {
			return AIDB_OK;
		}
	}
	if (segment->undecided_count == AIDB_MAX_UNDECIDED) {
		return aidb_fail(AIDB_LIMIT,
						 "more than %u transactions of the server are undecided; see pg_prepared_xacts there",
						 AIDB_MAX_UNDECIDED);
	}
	segment->undecided[segment->undecided_count++] = tag;
	return AIDB_OK;
}

static void note_decided(aidb_segment *segment, uint64_t tag) {
	for (uint32_t i = 0; i < segment->undecided_count; i++) {
		if (segment->undecided[i] == tag) {
			segment->undecided[i] = segment->undecided[--segment->undecided_count];
			return;
		}
	}
}

static aidb_status note_events(aidb_segment *segment, aidb_slice events, uint32_t count) {
	aidb_status rc = AIDB_OK;

	for (uint32_t i = 0; i < count && rc == AIDB_OK; i++) {
		aipg_stream_event event;

		if (!aipg_stream_read_event(&events, &event)) {
			return aidb_fail(AIDB_CORRUPT, "the server's stream is malformed behind commit %" PRIu64, segment->upto);
		}
		if (event.kind == AIPG_EVENT_PREPARED) {
			rc = note_undecided(segment, event.tag);
		} else if (event.kind != AIPG_EVENT_PLAIN) {
			note_decided(segment, event.tag);
		}
	}
	return rc == AIDB_OK && events.size > 0
			   ? aidb_fail(AIDB_CORRUPT, "the server's stream is malformed behind commit %" PRIu64, segment->upto)
			   : rc;
}

static aidb_status append(aidb_buffer *to, aidb_slice answer) {
	size_t needed = to->size + 4 + answer.size;
	uint8_t *at;

	if (needed > AIDB_MAX_SEGMENT_BYTES) {
		return aidb_fail(AIDB_LIMIT, "a segment of the log would have more than %zu bytes", AIDB_MAX_SEGMENT_BYTES);
	}
	if (needed > to->capacity) {
		size_t capacity = needed > 2 * to->capacity ? needed : 2 * to->capacity;
		char *larger = realloc(to->data, capacity);

		if (larger == NULL) {
			return aidb_fail(AIDB_NO_MEMORY, "out of memory: could not keep %zu bytes of log", capacity);
		}
		to->data = larger;
		to->capacity = capacity;
	}
	at = (uint8_t *)to->data + to->size;
	put(&at, 4, answer.size);
	memcpy(at, answer.data, answer.size);
	to->size = needed;
	return AIDB_OK;
}

aidb_status aidb_segment_add(aidb_segment *segment, aidb_slice answer) {
	aidb_slice events = answer;
	aipg_stream_head head;
	aidb_status rc;

	if (!aipg_stream_read_head(&events, &head)) {
		return aidb_fail(AIDB_CORRUPT, "the server's stream is malformed behind commit %" PRIu64, segment->upto);
	}
	if (head.from != segment->upto || (segment->answers > 0 && head.store_id != segment->store)) {
		return aidb_fail(AIDB_CORRUPT, "the server's stream goes on behind commit %" PRIu64 ", not %" PRIu64, head.from,
						 segment->upto);
	}
	rc = append(&segment->bytes, answer);
	if (rc == AIDB_OK) {
		rc = note_events(segment, events, head.events);
	}
	if (rc != AIDB_OK) {
		return rc;
	}
	segment->store = head.store_id;
	segment->epoch = head.epoch;
	segment->upto = head.upto;
	segment->clock_us = head.clock_us;
	segment->answers++;
	return AIDB_OK;
}

bool aidb_segment_next(const aidb_segment *segment, size_t *offset, aidb_slice *answer) {
	const uint8_t *at = (const uint8_t *)segment->bytes.data + *offset;

	if (*offset == segment->bytes.size) {
		return false;
	}
	answer->size = (size_t)take(&at, 4);
	answer->data = at;
	*offset += 4 + answer->size;
	return true;
}

/* ---- Bytes ----------------------------------------------------------------------------------------------- */

static uint8_t *write_head(uint8_t *at, const aidb_segment *segment, size_t packed) {
	memcpy(at, magic, MAGIC_BYTES);
	at += MAGIC_BYTES;
	put(&at, 1, VERSION);
	put(&at, 1, segment->begins ? 1 : 0);
	put(&at, 8, segment->store);
	put(&at, 8, segment->epoch);
	put(&at, 8, segment->from);
	put(&at, 8, segment->upto);
	put(&at, 8, segment->clock_us);
	put(&at, 4, segment->answers);
	put(&at, 8, segment->bytes.size);
	put(&at, 8, packed);
	put(&at, 4, segment->undecided_count);
	for (uint32_t i = 0; i < segment->undecided_count; i++) {
		put(&at, 8, segment->undecided[i]);
	}
	return at;
}

aidb_status aidb_segment_write(const aidb_segment *segment, char **bytes, size_t *size) {
	size_t head = HEAD_BYTES + 8 * (size_t)segment->undecided_count;
	size_t bound = ZSTD_compressBound(segment->bytes.size);
	uint8_t *written = malloc(head + bound + TRAILER_BYTES);
	char hash[AIDB_HASH_TEXT];
	size_t packed;

	if (written == NULL) {
		return aidb_fail(AIDB_NO_MEMORY, "out of memory: could not pack %zu bytes of log", segment->bytes.size);
	}
	packed = ZSTD_compress(written + head, bound, segment->bytes.data, segment->bytes.size, LEVEL);
	if (ZSTD_isError(packed)) {
		free(written);
		return aidb_fail(AIDB_NO_MEMORY, "could not pack the log: %s", ZSTD_getErrorName(packed));
	}
	(void)write_head(written, segment, packed);
	aidb_hash_of(written, head + packed, hash);
	memcpy(written + head + packed, hash, TRAILER_BYTES);
	*bytes = (char *)written;
	*size = head + packed + TRAILER_BYTES;
	return AIDB_OK;
}

static aidb_status malformed(const char *name, const char *what) {
	return aidb_fail(AIDB_CORRUPT, "%s: this piece of the log is damaged: %s", name, what);
}

/* The head, but for the sizes, into *segment. */
static aidb_status read_head(const char *name, const uint8_t *at, size_t size, aidb_segment *segment, size_t *bytes,
							 size_t *packed) {
	uint64_t version, raw, packed_bytes, undecided;

	at += MAGIC_BYTES;
	version = take(&at, 1);
	if (version != VERSION) {
		return aidb_fail(AIDB_UNSUPPORTED,
						 "%s: this piece of the log is of format %" PRIu64 ", and this program knows %d; use a newer "
						 "version of it",
						 name, version, VERSION);
	}
	segment->begins = take(&at, 1) != 0;
	segment->store = take(&at, 8);
	segment->epoch = take(&at, 8);
	segment->from = take(&at, 8);
	segment->upto = take(&at, 8);
	segment->clock_us = take(&at, 8);
	segment->answers = (uint32_t)take(&at, 4);
	raw = take(&at, 8);
	packed_bytes = take(&at, 8);
	undecided = take(&at, 4);
	if (undecided > AIDB_MAX_UNDECIDED || raw > AIDB_MAX_SEGMENT_BYTES || segment->from > segment->upto ||
		size < HEAD_BYTES + TRAILER_BYTES + 8 * undecided ||
		packed_bytes != size - HEAD_BYTES - TRAILER_BYTES - 8 * undecided) {
		return malformed(name, "its head does not fit");
	}
	segment->undecided_count = (uint32_t)undecided;
	for (uint32_t i = 0; i < undecided; i++) {
		segment->undecided[i] = take(&at, 8);
	}
	*bytes = (size_t)raw;
	*packed = (size_t)packed_bytes;
	return AIDB_OK;
}

static aidb_status unpack(const char *name, const uint8_t *packed, size_t packed_bytes, size_t bytes, aidb_buffer *to) {
	if (ZSTD_getFrameContentSize(packed, packed_bytes) != bytes) {
		return malformed(name, "it unpacks to another size");
	}
	if (bytes > to->capacity) {
		free(to->data);
		*to = (aidb_buffer){.data = malloc(bytes)};
		if (to->data == NULL) {
			return aidb_fail(AIDB_NO_MEMORY, "out of memory: could not unpack %zu bytes of log", bytes);
		}
		to->capacity = bytes;
	}
	to->size = bytes;
	return ZSTD_decompress(to->data, bytes, packed, packed_bytes) == bytes ? AIDB_OK
																		   : malformed(name, "it cannot be unpacked");
}

/* Whether the answers are whole, and follow each other as the head says. */
static aidb_status check_answers(const char *name, const aidb_segment *segment) {
	aidb_slice left = {segment->bytes.data, segment->bytes.size};
	uint64_t reached = segment->from;

	for (uint32_t i = 0; i < segment->answers; i++) {
		const uint8_t *at = left.data;
		aidb_slice answer, events;
		aipg_stream_head head;
		aipg_stream_event event;

		if (left.size < 4 || (answer.size = (size_t)take(&at, 4)) > left.size - 4) {
			return malformed(name, "an answer is cut off");
		}
		answer.data = at;
		events = answer;
		if (!aipg_stream_read_head(&events, &head) || head.from != reached || head.store_id != segment->store) {
			return malformed(name, "its answers do not follow each other");
		}
		for (uint32_t count = 0; count < head.events; count++) {
			if (!aipg_stream_read_event(&events, &event)) {
				return malformed(name, "an answer is malformed");
			}
		}
		reached = head.upto;
		left = (aidb_slice){at + answer.size, left.size - 4 - answer.size};
	}
	return left.size == 0 && reached == segment->upto ? AIDB_OK : malformed(name, "it does not end where it should");
}

aidb_status aidb_segment_read(const char *name, const char *bytes, size_t size, aidb_segment *segment) {
	char hash[AIDB_HASH_TEXT];
	size_t raw = 0, packed = 0;
	aidb_status rc;

	if (size < HEAD_BYTES + TRAILER_BYTES || memcmp(bytes, magic, MAGIC_BYTES) != 0) {
		return malformed(name, "it is no piece of a log");
	}
	aidb_hash_of(bytes, size - TRAILER_BYTES, hash);
	if (memcmp(bytes + size - TRAILER_BYTES, hash, TRAILER_BYTES) != 0) {
		return malformed(name, "its checksum is another");
	}
	rc = read_head(name, (const uint8_t *)bytes, size, segment, &raw, &packed);
	if (rc == AIDB_OK) {
		rc = unpack(name, (const uint8_t *)bytes + size - TRAILER_BYTES - packed, packed, raw, &segment->bytes);
	}
	return rc == AIDB_OK ? check_answers(name, segment) : rc;
}
