/*
 * block_source.h: fetching a block of an SSTable: from the cache, or else from its file.
 *
 * What is read from disk is verified, unpacked, and kept in the cache when the reader wants that. A length or a
 * checksum that is wrong is AIDB_CORRUPT with file and offset. A source is one thread's, and costs nothing to make.
 */
#ifndef LSM_BLOCK_SOURCE_H
#define LSM_BLOCK_SOURCE_H

#include "base/buffer.h"
#include "store/cache.h"
#include "store/file_table.h"

typedef struct lsm_block_source {
	const lsm_arena *arena;
	const lsm_cache *cache;
	const aidb_host *host;
	lsm_file_table *files;
	const char *directory;
	uint32_t member;
	/* counted here, for the caller to add up elsewhere */
	uint64_t cache_hits;
	uint64_t cache_misses;
	uint64_t filter_checks;
	uint64_t filter_skips;
} lsm_block_source;

/* Bytes of a file read ahead of their use, for those who go through it in order. Zero-initialise. */
typedef struct lsm_readahead {
	aidb_buffer bytes;
	uint64_t begin;        /* file offset of bytes.data; bytes.size are valid */
	uint64_t expected;     /* where a reader in order goes on */
	uint32_t window_bytes; /* of the next read */
} lsm_readahead;

#define LSM_READAHEAD_MIN_BYTES (8u << 10)
#define LSM_READAHEAD_MAX_BYTES (256u << 10)

/* Forgets what was read, for another file. The first read is of `window_bytes`, or with 0 of one block. */
void lsm_readahead_reset(lsm_readahead *ahead, uint32_t window_bytes);
void lsm_readahead_free(lsm_readahead *ahead);

/* How a reader wants its blocks. */
typedef enum lsm_cache_use {
	LSM_CACHE_FILL,   /* keep what was read from disk */
	LSM_CACHE_PEEK,   /* look, but keep nothing */
	LSM_CACHE_BYPASS, /* do not even look */
} lsm_cache_use;

typedef struct lsm_block_request {
	uint64_t file_number;
	uint64_t file_bytes;
	lsm_handle handle;
	lsm_cache_use use;
	lsm_cache_priority priority;
	lsm_readahead *ahead; /* NULL: none */
} lsm_block_request;

/* The contents lie in a frame of the cache, or in the memory that came with the request. */
typedef struct lsm_block {
	aidb_slice contents;
	bool cached;
} lsm_block;

/* In an epoch, unless the request bypasses the cache. The contents stay until the next fetch or the end of the epoch.
 * `memory` is used, and grown, only when no frame takes the block. */
aidb_status lsm_block_fetch(lsm_block_source *source, const lsm_block_request *request, aidb_buffer *memory,
							lsm_block *block);

/* AIDB_CORRUPT for a block whose contents are malformed although its checksum is right. */
aidb_status lsm_block_malformed(const lsm_block_source *source, uint64_t file_number, uint64_t offset,
								const char *reason);

#endif
