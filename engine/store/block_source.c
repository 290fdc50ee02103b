#include "store/block_source.h"

#include <assert.h>
#include <stdlib.h>

#include "base/status.h"

/* Filters and index nodes lie between the data blocks: a reader that skips no more than this still reads in order. */
#define SEQUENTIAL_GAP_BYTES (16u << 10)

#define STACK_BYTES (LSM_BLOCK_BYTES + LSM_ENVELOPE_BYTES)

void lsm_readahead_reset(lsm_readahead *ahead, uint32_t window_bytes) {
	ahead->bytes.size = 0;
	ahead->expected = 0;
	ahead->window_bytes = window_bytes;
}

void lsm_readahead_free(lsm_readahead *ahead) {
	aidb_buffer_free(&ahead->bytes);
}

aidb_status lsm_block_malformed(const lsm_block_source *source, uint64_t file_number, uint64_t offset,
								const char *reason) {
	char path[LSM_PATH_BYTES];

	lsm_sstable_path(source->directory, file_number, path);
	return lsm_fail(AIDB_CORRUPT, "%s: block at offset %llu: %s; restore the store from a backup", path,
					(unsigned long long)offset, reason);
}

/* Reads up to `size` bytes; *got is less at the end of the file. */
static aidb_status read_file(const lsm_block_source *source, uint64_t number, void *data, size_t size, uint64_t offset,
							 size_t *got) {
	char path[LSM_PATH_BYTES];
	aidb_status rc;
	int file;
	int error;

	rc = lsm_file_table_pin(source->files, number, &file);
	if (rc != AIDB_OK) {
		return rc;
	}
	error = source->host->file_read(source->host->context, file, data, size, offset, got);
	lsm_file_table_unpin(source->files, number, file);
	if (error == 0) {
		return AIDB_OK;
	}
	lsm_sstable_path(source->directory, number, path);
	return lsm_fail_errno(error, "read file", path);
}

static bool is_ahead(const lsm_readahead *ahead, uint64_t offset, size_t size) {
	return ahead->bytes.size > 0 && offset >= ahead->begin && offset + size <= ahead->begin + ahead->bytes.size;
}

/* Makes the window cover [offset, offset + size) when the reader goes in order; *covers says whether it does. */
static aidb_status read_ahead(const lsm_block_source *source, const lsm_block_request *request, size_t size,
							  bool *covers) {
	lsm_readahead *ahead = request->ahead;
	uint64_t offset = request->handle.offset;
	bool in_order = offset >= ahead->expected && offset - ahead->expected <= SEQUENTIAL_GAP_BYTES;
	uint32_t window = ahead->window_bytes;
	size_t got;
	aidb_status rc;

	if (!in_order && ahead->expected != 0) {
		window = 0;
	}
	ahead->expected = offset + size;
	ahead->window_bytes = window < LSM_READAHEAD_MIN_BYTES   ? LSM_READAHEAD_MIN_BYTES
						  : window < LSM_READAHEAD_MAX_BYTES ? window * 2
															 : window;
	*covers = window > size;
	if (!*covers) {
		return AIDB_OK;
	}
	ahead->bytes.size = 0;
	rc = lsm_buffer_reserve(&ahead->bytes, window);
	if (rc == AIDB_OK) {
		rc = read_file(source, request->file_number, ahead->bytes.data, window, offset, &got);
	}
	if (rc == AIDB_OK) {
		ahead->begin = offset;
		ahead->bytes.size = got;
		*covers = got >= size;
	}
	return rc;
}

/* Payload and envelope of the block: in the readahead, or read into `room`. */
static aidb_status read_sealed(const lsm_block_source *source, const lsm_block_request *request, uint8_t *room,
							   size_t size, const uint8_t **sealed) {
	lsm_readahead *ahead = request->ahead;
	uint64_t offset = request->handle.offset;
	aidb_status rc = AIDB_OK;
	size_t got;

	if (ahead != NULL) {
		bool covers = is_ahead(ahead, offset, size);

		if (covers) {
			ahead->expected = offset + size;
		} else {
			rc = read_ahead(source, request, size, &covers);
		}
		if (rc != AIDB_OK || covers) {
			*sealed = (const uint8_t *)ahead->bytes.data + (offset - ahead->begin);
			return rc;
		}
	}
	rc = read_file(source, request->file_number, room, size, offset, &got);
	if (rc == AIDB_OK && got < size) {
		rc = lsm_block_malformed(source, request->file_number, offset, "the file ends before the block does");
	}
	*sealed = room;
	return rc;
}

static bool is_cacheable(const lsm_block_request *request, size_t contents_size) {
	return request->use == LSM_CACHE_FILL && contents_size <= LSM_BLOCK_BYTES && request->handle.offset <= UINT32_MAX;
}

/* Verifies the block and puts its contents into a frame or into `memory`. */
static aidb_status unpack(const lsm_block_source *source, const lsm_block_request *request, aidb_slice sealed,
						  aidb_buffer *memory, lsm_block *block) {
	uint64_t offset = request->handle.offset;
	uint64_t id = lsm_block_id(request->file_number, offset);
	char path[LSM_PATH_BYTES];
	lsm_frame frame;
	size_t size;
	aidb_status rc;

	lsm_sstable_path(source->directory, request->file_number, path);
	rc = lsm_block_open(sealed, offset, path, &size);
	if (rc != AIDB_OK) {
		return rc;
	}
	block->cached = is_cacheable(request, size) &&
					lsm_cache_reserve(source->arena, source->cache, source->member, id, request->priority, &frame);
	if (!block->cached) {
		rc = lsm_buffer_reserve(memory, size);
		if (rc == AIDB_OK) {
			rc = lsm_block_unpack(sealed, offset, path, (uint8_t *)memory->data, size);
		}
		memory->size = size;
		block->contents = (aidb_slice){memory->data, size};
		return rc;
	}
	rc = lsm_block_unpack(sealed, offset, path, frame.data, size);
	if (rc != AIDB_OK) {
		lsm_cache_abandon(source->arena, source->cache, &frame);
		return rc;
	}
	frame.size = (uint32_t)size;
	lsm_cache_publish(source->arena, source->cache, &frame);
	block->contents = (aidb_slice){frame.data, size};
	return AIDB_OK;
}

/* Apart from the function that hits, whose stack stays small. */
__attribute__((noinline)) static aidb_status load(const lsm_block_source *source, const lsm_block_request *request,
												  aidb_buffer *memory, lsm_block *block) {
	size_t size = (size_t)request->handle.size + LSM_ENVELOPE_BYTES;
	uint8_t room[STACK_BYTES];
	uint8_t *large = NULL;
	const uint8_t *sealed = NULL;
	aidb_status rc;

	if (request->handle.size > LSM_MAX_BLOCK_BYTES || request->handle.offset > request->file_bytes ||
		size > request->file_bytes - request->handle.offset) {
		return lsm_block_malformed(source, request->file_number, request->handle.offset,
								   "it would lie beyond the end of the file");
	}
	if (size > sizeof(room)) {
		large = malloc(size);
		if (large == NULL) {
			return lsm_fail(AIDB_NO_MEMORY, "out of memory: could not read a block of %zu bytes", size);
		}
	}
	rc = read_sealed(source, request, large != NULL ? large : room, size, &sealed);
	if (rc == AIDB_OK) {
		rc = unpack(source, request, (aidb_slice){sealed, size}, memory, block);
	}
	free(large);
	return rc;
}

aidb_status lsm_block_fetch(lsm_block_source *source, const lsm_block_request *request, aidb_buffer *memory,
							lsm_block *block) {
	if (request->use != LSM_CACHE_BYPASS && request->handle.offset <= UINT32_MAX) {
		uint64_t id = lsm_block_id(request->file_number, request->handle.offset);

		lsm_frame frame;

		assert(lsm_member_slot_of(source->arena, source->member)->depth > 0);
		if (lsm_cache_lookup(source->arena, source->cache, id, &frame)) {
			source->cache_hits++;
			*block = (lsm_block){.contents = {frame.data, frame.size}, .cached = true};
			return AIDB_OK;
		}
		source->cache_misses++;
	}
	return load(source, request, memory, block);
}
