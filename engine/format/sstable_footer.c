/*
 * The parts of an SSTable with a fixed layout, and the values of index entries; both directions.
 */
#include "format/sstable.h"

#include <inttypes.h>

#include "base/checksum.h"
#include "base/status.h"

/* ---- Footer -------------------------------------------------------------------------------------------- */

enum {
	ROOT_OFFSET = 0,
	ROOT_SIZE = 8,
	ROOT_LEVEL = 12,
	PROPERTIES_OFFSET = 16,
	PROPERTIES_SIZE = 24,
	VERSION = 28,
	RESERVED = 32,
	CHECKSUM = 36,
	MAGIC = 44
};
_Static_assert(MAGIC + 8 == LSM_FOOTER_BYTES, "the footer's layout is part of the file format");

void lsm_sstable_put_footer(uint8_t footer[LSM_FOOTER_BYTES], lsm_handle root, uint32_t root_level,
							lsm_handle properties) {
	lsm_put_u64(footer + ROOT_OFFSET, root.offset);
	lsm_put_u32(footer + ROOT_SIZE, root.size);
	lsm_put_u32(footer + ROOT_LEVEL, root_level);
	lsm_put_u64(footer + PROPERTIES_OFFSET, properties.offset);
	lsm_put_u32(footer + PROPERTIES_SIZE, properties.size);
	lsm_put_u32(footer + VERSION, LSM_SSTABLE_VERSION);
	lsm_put_u32(footer + RESERVED, 0);
	lsm_put_u64(footer + CHECKSUM, lsm_hash64(footer, CHECKSUM, 0));
	lsm_put_u64(footer + MAGIC, LSM_SSTABLE_MAGIC);
}

static aidb_status corrupt_footer(const char *path, uint64_t file_bytes, const char *reason) {
	return lsm_fail(AIDB_CORRUPT, "%s: footer at the end of %" PRIu64 " bytes: %s", path, file_bytes, reason);
}

/* Whether a block lies wholly before `end`. */
static bool is_within(lsm_handle handle, uint64_t end) {
	uint64_t bytes = (uint64_t)handle.size + LSM_ENVELOPE_BYTES;

	return handle.size <= LSM_MAX_BLOCK_BYTES && bytes <= end && handle.offset <= end - bytes;
}

aidb_status lsm_sstable_read_footer(const uint8_t *footer, uint64_t file_bytes, const char *path, lsm_handle *root,
									uint32_t *root_level, lsm_handle *properties) {
	lsm_handle found_root = {lsm_get_u64(footer + ROOT_OFFSET), lsm_get_u32(footer + ROOT_SIZE)};
	lsm_handle found_properties = {lsm_get_u64(footer + PROPERTIES_OFFSET), lsm_get_u32(footer + PROPERTIES_SIZE)};
	uint32_t level = lsm_get_u32(footer + ROOT_LEVEL);
	uint32_t version = lsm_get_u32(footer + VERSION);

	if (lsm_get_u64(footer + MAGIC) != LSM_SSTABLE_MAGIC) {
		return corrupt_footer(path, file_bytes, "no magic number: not an SSTable, or cut short");
	}
	if (lsm_hash64(footer, CHECKSUM, 0) != lsm_get_u64(footer + CHECKSUM)) {
		return corrupt_footer(path, file_bytes, "checksum mismatch");
	}
	if (version != LSM_SSTABLE_VERSION) {
		return lsm_fail(AIDB_UNSUPPORTED, "%s: SSTable format version %u; this build reads version %u", path, version,
						LSM_SSTABLE_VERSION);
	}
	if (level < 1 || level > LSM_MAX_INDEX_LEVEL) {
		return corrupt_footer(path, file_bytes, "impossible height of the index");
	}
	if (file_bytes < LSM_FOOTER_BYTES || !is_within(found_root, file_bytes - LSM_FOOTER_BYTES) ||
		!is_within(found_properties, file_bytes - LSM_FOOTER_BYTES)) {
		return corrupt_footer(path, file_bytes, "a block beyond the end of the file");
	}
	*root = found_root;
	*root_level = level;
	*properties = found_properties;
	return AIDB_OK;
}

/* ---- Properties ---------------------------------------------------------------------------------------- */

_Static_assert(2 * sizeof(uint32_t) + 9 * sizeof(uint64_t) == LSM_PROPERTIES_BYTES,
			   "the properties' layout is part of the file format");

void lsm_sstable_put_properties(uint8_t to[LSM_PROPERTIES_BYTES], const lsm_sstable_properties *properties) {
	const uint64_t fields[] = {
		properties->file_bytes,   properties->entries,      properties->deletes,
		properties->min_sequence, properties->max_sequence, properties->max_tag,
		properties->raw_bytes,    properties->root.offset,  properties->root.size,
	};

	lsm_put_u32(to, LSM_PROPERTIES_VERSION);
	lsm_put_u32(to + 4, properties->root_level);
	memcpy(to + 8, fields, sizeof(fields));
}

static bool are_sound(const lsm_sstable_properties *properties) {
	return properties->entries >= 1 && properties->deletes <= properties->entries &&
		   properties->min_sequence <= properties->max_sequence && properties->max_sequence <= LSM_MAX_SEQUENCE &&
		   properties->root_level >= 1 && properties->root_level <= LSM_MAX_INDEX_LEVEL &&
		   is_within(properties->root, properties->file_bytes);
}

aidb_status lsm_sstable_read_properties(aidb_slice contents, const char *path, lsm_sstable_properties *properties) {
	lsm_reader reader = lsm_reader_of(contents.data, contents.size);
	uint32_t version = lsm_read_u32(&reader);
	lsm_sstable_properties found;
	uint64_t root_size;

	if (!reader.failed && version != LSM_PROPERTIES_VERSION) {
		return lsm_fail(AIDB_UNSUPPORTED, "%s: SSTable properties version %u; this build reads version %u", path,
						version, LSM_PROPERTIES_VERSION);
	}
	found.root_level = lsm_read_u32(&reader);
	found.file_bytes = lsm_read_u64(&reader);
	found.entries = lsm_read_u64(&reader);
	found.deletes = lsm_read_u64(&reader);
	found.min_sequence = lsm_read_u64(&reader);
	found.max_sequence = lsm_read_u64(&reader);
	found.max_tag = lsm_read_u64(&reader);
	found.raw_bytes = lsm_read_u64(&reader);
	found.root.offset = lsm_read_u64(&reader);
	root_size = lsm_read_u64(&reader);
	found.root.size = (uint32_t)root_size;
	if (reader.failed || lsm_reader_left(&reader) > 0 || root_size > LSM_MAX_BLOCK_BYTES || !are_sound(&found)) {
		return lsm_fail(AIDB_CORRUPT, "%s: malformed properties block of %zu bytes", path, contents.size);
	}
	*properties = found;
	return AIDB_OK;
}

/* ---- Index entries ------------------------------------------------------------------------------------- */

bool lsm_index_entry(aidb_slice value, uint32_t level, lsm_handle *child, lsm_handle *filter) {
	lsm_reader reader = lsm_reader_of(value.data, value.size);
	lsm_handle found_child = lsm_read_handle(&reader);
	lsm_handle found_filter = {0, 0};

	if (level == 1) {
		found_filter = lsm_read_handle(&reader);
	}
	if (reader.failed || lsm_reader_left(&reader) > 0) {
		return false;
	}
	*child = found_child;
	if (level == 1) {
		*filter = found_filter;
	}
	return true;
}
