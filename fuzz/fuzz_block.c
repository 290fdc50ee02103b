/*
 * Blocks: the input as contents, walked both ways and sought in; and as a sealed block, as it is and with its checksum
 * made right.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include "base/checksum.h"
#include "format/block.h"

#define MAX_STEPS 2000
#define MAX_UNPACKED (1u << 20)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_position(const lsm_block_cursor *cursor, aidb_slice contents) {
	const uint8_t *value = cursor->entry.value.data;
	const uint8_t *begin = contents.data;

	if (cursor->valid && (cursor->corrupt || cursor->entry.key.size > AIDB_MAX_KEY_BYTES || value < begin ||
						  value + cursor->entry.value.size > begin + contents.size)) {
		abort();
	}
}

static void walk(aidb_slice contents) {
	lsm_block_cursor cursor;
	int steps = 0;

	lsm_block_cursor_open(&cursor, contents);
	for (lsm_block_cursor_seek_first(&cursor); cursor.valid; lsm_block_cursor_next(&cursor)) {
		check_position(&cursor, contents);
	}
	lsm_block_cursor_open(&cursor, contents);
	for (lsm_block_cursor_seek_last(&cursor); cursor.valid && steps < MAX_STEPS; lsm_block_cursor_prev(&cursor)) {
		check_position(&cursor, contents);
		steps++;
	}
}

/* Seeks the input's first bytes, and from there a step back and two on. */
static void seek(aidb_slice contents) {
	size_t key_bytes = contents.size < 20 ? contents.size : ((const uint8_t *)contents.data)[0] % 20;
	lsm_block_cursor cursor;

	lsm_block_cursor_open(&cursor, contents);
	lsm_block_cursor_seek(&cursor, (aidb_slice){contents.data, key_bytes}, UINT64_MAX);
	check_position(&cursor, contents);
	if (cursor.valid) {
		lsm_block_cursor_prev(&cursor);
	}
	for (int step = 0; step < 2 && cursor.valid; step++) {
		check_position(&cursor, contents);
		lsm_block_cursor_next(&cursor);
	}
}

static void open_sealed(aidb_slice sealed) {
	size_t contents_size = 0;
	uint8_t *contents;

	if (lsm_block_open(sealed, 0, "fuzzed", &contents_size) != AIDB_OK || contents_size > MAX_UNPACKED) {
		return;
	}
	contents = malloc(contents_size + 1);
	if (contents == NULL) {
		abort();
	}
	if (lsm_block_unpack(sealed, 0, "fuzzed", contents, contents_size) == AIDB_OK) {
		walk((aidb_slice){contents, contents_size});
	}
	free(contents);
}

static void open_with_right_checksum(aidb_slice sealed) {
	uint8_t *copy = malloc(sealed.size + sizeof(uint64_t));

	if (copy == NULL) {
		abort();
	}
	memcpy(copy, sealed.data, sealed.size);
	lsm_put_u64(copy + sealed.size, lsm_hash64(copy, sealed.size, 0));
	open_sealed((aidb_slice){copy, sealed.size + sizeof(uint64_t)});
	free(copy);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
	aidb_slice input = {data, size};

	walk(input);
	seek(input);
	open_sealed(input);
	open_with_right_checksum(input);
	return 0;
}
