/*
 * The fixed parts of an SSTable: the input as footer (as it is, and with checksum and magic number made right), as
 * properties block and as index entry.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include "base/checksum.h"
#include "format/sstable.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void read_footer(const uint8_t *footer, uint64_t file_bytes) {
	lsm_handle root = {0, 0};
	lsm_handle properties = {0, 0};
	uint32_t level = 0;

	if (lsm_sstable_read_footer(footer, file_bytes, "fuzzed", &root, &level, &properties) != AIDB_OK) {
		return;
	}
	if (level < 1 || level > LSM_MAX_INDEX_LEVEL || root.offset + root.size > file_bytes ||
		properties.offset + properties.size > file_bytes) {
		abort();
	}
}

static void read_footers(const uint8_t *data) {
	uint8_t footer[LSM_FOOTER_BYTES];
	size_t covered = sizeof(footer) - 2 * sizeof(uint64_t);

	memcpy(footer, data, sizeof(footer));
	read_footer(footer, lsm_get_u64(data));
	lsm_put_u64(footer + covered + sizeof(uint64_t), LSM_SSTABLE_MAGIC);
	lsm_put_u64(footer + covered, lsm_hash64(footer, covered, 0));
	read_footer(footer, lsm_get_u64(data + covered));
}

/* What is accepted is what the builder could have written. */
static void read_properties(aidb_slice contents) {
	lsm_sstable_properties properties;
	uint8_t bytes[LSM_PROPERTIES_BYTES];

	if (lsm_sstable_read_properties(contents, "fuzzed", &properties) == AIDB_OK) {
		lsm_sstable_put_properties(bytes, &properties);
		if (contents.size != sizeof(bytes) || memcmp(contents.data, bytes, sizeof(bytes)) != 0) {
			abort();
		}
	}
}

static void read_index_entry(aidb_slice value, uint32_t level) {
	lsm_handle child = {0, 0};
	lsm_handle filter = {0, 0};

	if (lsm_index_entry(value, level, &child, &filter) &&
		(child.size > LSM_MAX_BLOCK_BYTES || filter.size > LSM_MAX_BLOCK_BYTES)) {
		abort();
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
	aidb_slice input = {data, size};

	if (size >= LSM_FOOTER_BYTES) {
		read_footers(data);
	}
	read_properties(input);
	for (uint32_t level = 0; level < 3; level++) {
		read_index_entry(input, level);
	}
	return 0;
}
