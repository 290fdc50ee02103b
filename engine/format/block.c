#include "format/block.h"

#include <assert.h>
#include <inttypes.h>
#include <snappy-c.h>

#include "base/checksum.h"
#include "base/status.h"

#define TRAILER_BYTES 8

/* ---- Handles ------------------------------------------------------------------------------------------- */

uint8_t *lsm_put_handle(uint8_t *to, lsm_handle handle) {
	to = lsm_put_varint(to, handle.offset);
	return lsm_put_varint(to, handle.size);
}

lsm_handle lsm_read_handle(lsm_reader *reader) {
	uint64_t offset = lsm_read_varint(reader);
	uint64_t size = lsm_read_varint(reader);

	if (reader->failed || size > LSM_MAX_BLOCK_BYTES) {
		reader->failed = true;
		return (lsm_handle){0, 0};
	}
	return (lsm_handle){.offset = offset, .size = (uint32_t)size};
}

/* ---- Building ------------------------------------------------------------------------------------------ */

void lsm_block_builder_reset(lsm_block_builder *builder) {
	builder->contents.size = 0;
	builder->restarts.size = 0;
	builder->count = 0;
}

void lsm_block_builder_free(lsm_block_builder *builder) {
	aidb_buffer_free(&builder->contents);
	aidb_buffer_free(&builder->restarts);
	aidb_buffer_free(&builder->last_key);
	builder->count = 0;
}

size_t lsm_block_builder_size_with(const lsm_block_builder *builder, const lsm_entry *entry) {
	size_t sizes = 1 + lsm_varint_bytes(entry->key.size) + lsm_varint_bytes(entry->value.size);
	size_t restarts = builder->restarts.size + 2 * sizeof(uint32_t); /* one more, and their count */

	return builder->contents.size + sizes + entry->key.size + TRAILER_BYTES + entry->value.size + restarts;
}

/* The length of the longest common prefix of two keys that are known to agree in `common` bytes. */
static inline size_t common_prefix(aidb_slice a_key, aidb_slice b_key, size_t common) {
	const uint8_t *a = a_key.data;
	const uint8_t *b = b_key.data;
	size_t limit = a_key.size < b_key.size ? a_key.size : b_key.size;

	for (; limit - common >= sizeof(uint64_t); common += sizeof(uint64_t)) {
		uint64_t difference = lsm_get_u64(a + common) ^ lsm_get_u64(b + common);

		if (difference != 0) {
			return common + (size_t)__builtin_ctzll(difference) / 8;
		}
	}
	while (common < limit && a[common] == b[common]) {
		common++;
	}
	return common;
}

/* Appends to memory that has been reserved. */
static void put_entry(lsm_block_builder *builder, const lsm_entry *entry, size_t shared) {
	size_t suffix_bytes = entry->key.size - shared;
	uint8_t *to = (uint8_t *)builder->contents.data + builder->contents.size;

	to = lsm_put_varint(to, shared);
	to = lsm_put_varint(to, suffix_bytes);
	to = lsm_put_varint(to, entry->value.size);
	if (suffix_bytes > 0) {
		const uint8_t *suffix = (const uint8_t *)entry->key.data + shared;

		memcpy(to, suffix, suffix_bytes);
		memcpy(builder->last_key.data + shared, suffix, suffix_bytes);
	}
	builder->last_key.size = entry->key.size;
	lsm_put_u64(to + suffix_bytes, entry->trailer);
	to += suffix_bytes + TRAILER_BYTES;
	if (entry->value.size > 0) {
		memcpy(to, entry->value.data, entry->value.size);
	}
	builder->contents.size = (size_t)(to + entry->value.size - (uint8_t *)builder->contents.data);
}

static uint32_t restart_interval(const lsm_block_builder *builder) {
	return builder->restart_interval == 0 ? LSM_RESTART_INTERVAL : builder->restart_interval;
}

aidb_status lsm_block_builder_add(lsm_block_builder *builder, const lsm_entry *entry) {
	size_t size = lsm_block_builder_size_with(builder, entry);
	size_t shared = 0;
	aidb_status rc;

	assert(entry->key.size <= AIDB_MAX_KEY_BYTES);
	if (size > LSM_MAX_BLOCK_BYTES) {
		return lsm_fail(AIDB_LIMIT, "an entry of %zu bytes exceeds the limit of %u bytes", size, LSM_MAX_BLOCK_BYTES);
	}
	rc = lsm_buffer_reserve(&builder->contents, size);
	if (rc == AIDB_OK) {
		rc = lsm_buffer_reserve(&builder->last_key, AIDB_MAX_KEY_BYTES);
	}
	if (rc == AIDB_OK && builder->count % restart_interval(builder) == 0) {
		uint32_t offset = (uint32_t)builder->contents.size;

		rc = lsm_buffer_append(&builder->restarts, &offset, sizeof(offset));
	} else if (rc == AIDB_OK) {
		shared = common_prefix((aidb_slice){builder->last_key.data, builder->last_key.size}, entry->key, 0);
	}
	if (rc == AIDB_OK) {
		put_entry(builder, entry, shared);
		builder->count++;
	}
	return rc;
}

aidb_status lsm_block_builder_finish(lsm_block_builder *builder, aidb_slice *contents) {
	const uint32_t start = 0;
	uint32_t restarts;
	aidb_status rc = AIDB_OK;

	if (builder->restarts.size == 0) {
		rc = lsm_buffer_append(&builder->restarts, &start, sizeof(start));
	}
	restarts = (uint32_t)(builder->restarts.size / sizeof(uint32_t));
	if (rc == AIDB_OK) {
		rc = lsm_buffer_append(&builder->contents, builder->restarts.data, builder->restarts.size);
	}
	if (rc == AIDB_OK) {
		rc = lsm_buffer_append(&builder->contents, &restarts, sizeof(restarts));
	}
	if (rc == AIDB_OK) {
		*contents = (aidb_slice){builder->contents.data, builder->contents.size};
	}
	return rc;
}

/* ---- The envelope -------------------------------------------------------------------------------------- */

/* Writes the payload, as small as is worth it, and returns its size. */
static size_t put_payload(aidb_slice contents, aidb_compression *compression, char *to) {
	size_t size = snappy_max_compressed_length(contents.size);

	if (*compression == AIDB_COMPRESSION_SNAPPY &&
		snappy_compress(contents.data, contents.size, to, &size) == SNAPPY_OK &&
		size <= contents.size - contents.size / 8) {
		return size;
	}
	*compression = AIDB_COMPRESSION_NONE;
	if (contents.size > 0) {
		memcpy(to, contents.data, contents.size);
	}
	return contents.size;
}

aidb_status lsm_block_seal(aidb_slice contents, aidb_compression compression, uint64_t offset, aidb_buffer *out,
						   lsm_handle *handle) {
	size_t payload_bytes;
	uint8_t *payload;
	aidb_status rc;

	if (contents.size > LSM_MAX_BLOCK_BYTES) {
		return lsm_fail(AIDB_LIMIT, "a block of %zu bytes exceeds the limit of %u bytes", contents.size,
						LSM_MAX_BLOCK_BYTES);
	}
	rc = lsm_buffer_reserve(out, out->size + snappy_max_compressed_length(contents.size) + LSM_ENVELOPE_BYTES);
	if (rc != AIDB_OK) {
		return rc;
	}
	payload = (uint8_t *)out->data + out->size;
	payload_bytes = put_payload(contents, &compression, (char *)payload);
	payload[payload_bytes] = (uint8_t)compression;
	lsm_put_u64(payload + payload_bytes + 1, lsm_hash64(payload, payload_bytes + 1, offset));
	out->size += payload_bytes + LSM_ENVELOPE_BYTES;
	*handle = (lsm_handle){.offset = offset, .size = (uint32_t)payload_bytes};
	return AIDB_OK;
}

static aidb_status corrupt_block(const char *path, uint64_t offset, const char *reason) {
	return lsm_fail(AIDB_CORRUPT, "%s: block at offset %" PRIu64 ": %s", path, offset, reason);
}

static size_t payload_bytes_of(aidb_slice sealed) {
	return sealed.size - LSM_ENVELOPE_BYTES;
}

/* The contents' size as the payload tells it. */
static aidb_status contents_bytes(aidb_slice sealed, uint64_t offset, const char *path, size_t *size) {
	unsigned compression = ((const uint8_t *)sealed.data)[payload_bytes_of(sealed)];

	switch (compression) {
	case AIDB_COMPRESSION_NONE:
		*size = payload_bytes_of(sealed);
		return AIDB_OK;
	case AIDB_COMPRESSION_SNAPPY:
		if (snappy_uncompressed_length(sealed.data, payload_bytes_of(sealed), size) != SNAPPY_OK) {
			return corrupt_block(path, offset, "compressed data without a length");
		}
		return AIDB_OK;
	default:
		return lsm_fail(AIDB_UNSUPPORTED, "%s: block at offset %" PRIu64 ": unknown compression %u", path, offset,
						compression);
	}
}

aidb_status lsm_block_open(aidb_slice sealed, uint64_t offset, const char *path, size_t *contents_size) {
	const uint8_t *bytes = sealed.data;
	size_t covered = sealed.size - sizeof(uint64_t);
	size_t size = 0;
	aidb_status rc;

	if (sealed.size < LSM_ENVELOPE_BYTES) {
		return corrupt_block(path, offset, "too short");
	}
	if (lsm_hash64(bytes, covered, offset) != lsm_get_u64(bytes + covered)) {
		return corrupt_block(path, offset, "checksum mismatch");
	}
	rc = contents_bytes(sealed, offset, path, &size);
	if (rc == AIDB_OK && size > LSM_MAX_BLOCK_BYTES) {
		rc = corrupt_block(path, offset, "contents too long");
	}
	if (rc == AIDB_OK) {
		*contents_size = size;
	}
	return rc;
}

aidb_status lsm_block_unpack(aidb_slice sealed, uint64_t offset, const char *path, uint8_t *to, size_t contents_size) {
	size_t payload_bytes = payload_bytes_of(sealed);
	size_t size = 0;
	aidb_status rc = contents_bytes(sealed, offset, path, &size);

	if (rc != AIDB_OK) {
		return rc;
	}
	if (size != contents_size) {
		return corrupt_block(path, offset, "contents changed while being read");
	}
	if (((const uint8_t *)sealed.data)[payload_bytes] == AIDB_COMPRESSION_NONE) {
		if (size > 0) {
			memcpy(to, sealed.data, size);
		}
		return AIDB_OK;
	}
	if (snappy_uncompress(sealed.data, payload_bytes, (char *)to, &size) != SNAPPY_OK) {
		return corrupt_block(path, offset, "malformed compressed data");
	}
	return AIDB_OK;
}

/* ---- Reading ------------------------------------------------------------------------------------------- */

/* An entry as it lies in the contents. */
typedef struct stored_entry {
	const uint8_t *suffix; /* of the key; trailer and value follow */
	uint32_t shared;
	uint32_t suffix_bytes;
	uint32_t value_bytes;
	uint64_t trailer;
} stored_entry;

static const uint8_t *read_long_size(const uint8_t *at, const uint8_t *end, uint32_t *size) {
	lsm_reader reader = {.at = at, .end = end, .failed = false};
	uint64_t value = lsm_read_varint(&reader);

	if (reader.failed || value > UINT32_MAX) {
		return NULL;
	}
	*size = (uint32_t)value;
	return reader.at;
}

/* The byte after the size, or NULL. */
static inline const uint8_t *read_size(const uint8_t *at, const uint8_t *end, uint32_t *size) {
	if (at < end && *at < 0x80) {
		*size = *at;
		return at + 1;
	}
	return read_long_size(at, end, size);
}

/* False when there is no well-formed entry at `offset`, which is not beyond entries_end. */
static inline bool parse(const lsm_block_cursor *cursor, uint32_t offset, stored_entry *stored) {
	const uint8_t *end = cursor->data + cursor->entries_end;
	const uint8_t *at = read_size(cursor->data + offset, end, &stored->shared);

	if (at == NULL || (at = read_size(at, end, &stored->suffix_bytes)) == NULL ||
		(at = read_size(at, end, &stored->value_bytes)) == NULL) {
		return false;
	}
	if ((uint64_t)stored->suffix_bytes + TRAILER_BYTES + stored->value_bytes > (size_t)(end - at)) {
		return false;
	}
	stored->suffix = at;
	stored->trailer = lsm_get_u64(at + stored->suffix_bytes);
	return lsm_kind_is_valid(lsm_kind_of(stored->trailer)) &&
		   (!lsm_is_tagged(stored->trailer) || stored->value_bytes >= LSM_TAG_BYTES);
}

static void fail(lsm_block_cursor *cursor) {
	cursor->valid = false;
	cursor->corrupt = true;
}

#define SHORT_SUFFIX 16

/* Most suffixes are short, and for them a copy of fixed size is several times faster than a call; trailer and restarts
 * behind the suffix make it safe to read that far, and what it writes beyond the key is never looked at. */
static inline void copy_suffix(lsm_block_cursor *cursor, const stored_entry *stored) {
	uint8_t *to = cursor->key_bytes + stored->shared;

	if (stored->suffix_bytes <= SHORT_SUFFIX && stored->shared <= AIDB_MAX_KEY_BYTES - SHORT_SUFFIX) {
		memcpy(to, stored->suffix, SHORT_SUFFIX);
	} else {
		memcpy(to, stored->suffix, stored->suffix_bytes);
	}
}

/* Stands on the entry at `offset`, which follows the one whose key is in key_bytes. */
static inline bool stand_on(lsm_block_cursor *cursor, uint32_t offset, uint32_t *shared) {
	stored_entry stored;
	const uint8_t *value;

	if (!parse(cursor, offset, &stored) || stored.shared > cursor->entry.key.size ||
		(uint64_t)stored.shared + stored.suffix_bytes > AIDB_MAX_KEY_BYTES) {
		fail(cursor);
		return false;
	}
	copy_suffix(cursor, &stored);
	value = stored.suffix + stored.suffix_bytes + TRAILER_BYTES;
	cursor->entry.key.size = stored.shared + stored.suffix_bytes;
	cursor->entry.trailer = stored.trailer;
	cursor->entry.value = (aidb_slice){value, stored.value_bytes};
	cursor->at = offset;
	cursor->next = (uint32_t)(value + stored.value_bytes - cursor->data);
	cursor->valid = true;
	*shared = stored.shared;
	return true;
}

void lsm_block_cursor_open(lsm_block_cursor *cursor, aidb_slice contents) {
	size_t restarts = 0;

	cursor->data = contents.data;
	cursor->entries_end = 0;
	cursor->at = 0;
	cursor->next = 0;
	cursor->valid = false;
	cursor->entry = (lsm_entry){.key = {cursor->key_bytes, 0}};
	if (contents.size >= sizeof(uint32_t) && contents.size <= LSM_MAX_BLOCK_BYTES) {
		restarts = lsm_get_u32(cursor->data + contents.size - sizeof(uint32_t));
	}
	cursor->corrupt = restarts == 0 || restarts > contents.size / sizeof(uint32_t) - 1;
	cursor->restarts = cursor->corrupt ? 0 : (uint32_t)restarts;
	if (!cursor->corrupt) {
		cursor->entries_end = (uint32_t)(contents.size - (restarts + 1) * sizeof(uint32_t));
	}
}

/* Nothing to stand on: no entries, or none that can be trusted. */
static bool is_barren(lsm_block_cursor *cursor) {
	cursor->valid = false;
	return cursor->corrupt || cursor->entries_end == 0;
}

static inline uint32_t restart_offset(const lsm_block_cursor *cursor, uint32_t restart) {
	return lsm_get_u32(cursor->data + cursor->entries_end + (size_t)restart * sizeof(uint32_t));
}

/* Makes ready to stand on the entry at a restart; false when there can be none. */
static bool enter_restart(lsm_block_cursor *cursor, uint32_t restart, uint32_t *offset) {
	*offset = restart_offset(cursor, restart);
	cursor->entry.key.size = 0;
	if (*offset >= cursor->entries_end) {
		fail(cursor);
		return false;
	}
	return true;
}

/* The last restart whose entry is before the target, or the first of all. */
static bool find_restart(lsm_block_cursor *cursor, aidb_slice key, uint64_t trailer, uint32_t *restart) {
	uint32_t low = 0;
	uint32_t high = cursor->restarts - 1;

	while (low < high) {
		uint32_t middle = low + (high - low + 1) / 2;
		uint32_t offset = restart_offset(cursor, middle);
		stored_entry stored;
		aidb_slice stored_key;

		if (offset >= cursor->entries_end || !parse(cursor, offset, &stored) || stored.shared != 0) {
			fail(cursor);
			return false;
		}
		stored_key = (aidb_slice){stored.suffix, stored.suffix_bytes};
		if (lsm_compare_versions(stored_key, stored.trailer, key, trailer) < 0) {
			low = middle;
		} else {
			high = middle - 1;
		}
	}
	*restart = low;
	return true;
}

/* Whether the cursor's entry is before the target, when their keys agree in exactly `common` bytes. */
static inline bool is_before(const lsm_entry *entry, aidb_slice key, uint64_t trailer, size_t common) {
	if (common == key.size) {
		return entry->key.size == common && lsm_sequence_of(entry->trailer) > lsm_sequence_of(trailer);
	}
	return entry->key.size == common ||
		   ((const uint8_t *)entry->key.data)[common] < ((const uint8_t *)key.data)[common];
}

/*
 * Only a key that shares with the one before it exactly what that one has in common with the target needs comparing:
 * one that shares more is before the target too, one that shares less is after it. (At the next restart, where nothing
 * is shared, find_restart has seen that the target is not beyond.)
 */
void lsm_block_cursor_seek(lsm_block_cursor *cursor, aidb_slice key, uint64_t trailer) {
	size_t common = 0;
	uint32_t restart;
	uint32_t offset;
	uint32_t shared;

	if (is_barren(cursor) || !find_restart(cursor, key, trailer, &restart) ||
		!enter_restart(cursor, restart, &offset)) {
		return;
	}
	for (; offset < cursor->entries_end; offset = cursor->next) {
		if (!stand_on(cursor, offset, &shared) || shared < common) {
			return;
		}
		if (shared == common) {
			common = common_prefix(cursor->entry.key, key, common);
			if (!is_before(&cursor->entry, key, trailer, common)) {
				return;
			}
		}
	}
	cursor->valid = false;
}

void lsm_block_cursor_seek_first(lsm_block_cursor *cursor) {
	uint32_t offset;
	uint32_t shared;

	if (!is_barren(cursor) && enter_restart(cursor, 0, &offset)) {
		stand_on(cursor, offset, &shared);
	}
}

/* Stands on the entry that ends at `end`, which lies after the restart. */
static void scan_to(lsm_block_cursor *cursor, uint32_t restart, uint32_t end) {
	uint32_t offset;
	uint32_t shared;

	if (!enter_restart(cursor, restart, &offset)) {
		return;
	}
	do {
		if (!stand_on(cursor, offset, &shared)) {
			return;
		}
		offset = cursor->next;
	} while (offset < end);
	if (offset != end) {
		fail(cursor);
	}
}

void lsm_block_cursor_seek_last(lsm_block_cursor *cursor) {
	if (!is_barren(cursor)) {
		scan_to(cursor, cursor->restarts - 1, cursor->entries_end);
	}
}

void lsm_block_cursor_next(lsm_block_cursor *cursor) {
	uint32_t shared;

	assert(cursor->valid);
	if (cursor->next >= cursor->entries_end) {
		cursor->valid = false;
		return;
	}
	stand_on(cursor, cursor->next, &shared);
}

void lsm_block_cursor_prev(lsm_block_cursor *cursor) {
	uint32_t low = 0;
	uint32_t high = cursor->restarts - 1;

	assert(cursor->valid);
	if (restart_offset(cursor, 0) >= cursor->at) {
		cursor->valid = false;
		return;
	}
	while (low < high) {
		uint32_t middle = low + (high - low + 1) / 2;

		if (restart_offset(cursor, middle) < cursor->at) {
			low = middle;
		} else {
			high = middle - 1;
		}
	}
	scan_to(cursor, low, cursor->at);
}
