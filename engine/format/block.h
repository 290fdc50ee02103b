/*
 * block.h: a sorted run of entries in one block of an SSTable, and the envelope that every block has on disk.
 *
 * Contents of a data or index block, before compression:
 *
 *   entry*      shared key bytes varint | other key bytes varint | value bytes varint | other key bytes
 *               | trailer u64 | value
 *   restart*    u32: offset of an entry whose shared count is 0; every so many entries
 *   count       u32: number of restarts, at least 1
 *
 * The shared count is the length of the longest common prefix with the key before, or 0 at a restart. Key prefix
 * compression and restart points as in LevelDB (doc/table_format.md).
 *
 * Envelope on disk: payload | compression u8 | checksum u64 (XXH3 of payload and compression byte, seeded with the
 * block's offset in the file, so that a block in the wrong place is found out).
 */
#ifndef LSM_BLOCK_H
#define LSM_BLOCK_H

#include "base/buffer.h"
#include "format/cursor.h"

#define LSM_BLOCK_BYTES 4096u   /* a block's contents fit a cache frame of this size, unless one entry alone does not */
#define LSM_RESTART_INTERVAL 16 /* unless the builder is told otherwise */
#define LSM_ENVELOPE_BYTES 9
#define LSM_MAX_BLOCK_BYTES (1u << 30) /* bound on what a damaged length can make us allocate */

/* Where a block lies in its file. `size` is the payload's, without the envelope. */
typedef struct lsm_handle {
	uint64_t offset;
	uint32_t size;
} lsm_handle;

#define LSM_MAX_HANDLE_BYTES (LSM_MAX_VARINT64 + LSM_MAX_VARINT32)
uint8_t *lsm_put_handle(uint8_t *to, lsm_handle handle);
lsm_handle lsm_read_handle(lsm_reader *reader);

/* -- building; one thread -- */

typedef struct lsm_block_builder {
	uint32_t restart_interval; /* entries from one restart to the next; 0: LSM_RESTART_INTERVAL */
	aidb_buffer contents;
	aidb_buffer restarts;
	aidb_buffer last_key; /* of the entry added last; a reset leaves it */
	uint32_t count;       /* entries */
} lsm_block_builder;

void lsm_block_builder_reset(lsm_block_builder *builder); /* keeps the memory */
void lsm_block_builder_free(lsm_block_builder *builder);
/* Size that the finished block would have with this entry added: an upper bound. */
size_t lsm_block_builder_size_with(const lsm_block_builder *builder, const lsm_entry *entry);
/* Entries must come in order, with keys of at most AIDB_MAX_KEY_BYTES. AIDB_LIMIT when the block would exceed
 * LSM_MAX_BLOCK_BYTES; after an error the block is as it was. */
aidb_status lsm_block_builder_add(lsm_block_builder *builder, const lsm_entry *entry);
/* Appends the restarts; the result stays valid until reset. */
aidb_status lsm_block_builder_finish(lsm_block_builder *builder, aidb_slice *contents);

/* -- the envelope -- */

/* Compresses (keeping the original when that saves less than an eighth) and appends payload and envelope to *out.
 * `offset` is where *out's end will lie in the file; *handle gets offset and payload size. */
aidb_status lsm_block_seal(aidb_slice contents, aidb_compression compression, uint64_t offset, aidb_buffer *out,
						   lsm_handle *handle);
/* The size of the contents of a sealed block that was read from disk, after checking its checksum. `sealed` holds
 * payload and envelope. `path` is for messages. AIDB_CORRUPT; AIDB_UNSUPPORTED for an unknown compression. */
aidb_status lsm_block_open(aidb_slice sealed, uint64_t offset, const char *path, size_t *contents_size);
/* Puts the contents of a block that lsm_block_open accepted into `to`, which has room for the size that it gave. */
aidb_status lsm_block_unpack(aidb_slice sealed, uint64_t offset, const char *path, uint8_t *to, size_t contents_size);

/* -- reading -- */

/* A position in a block's contents, which must stay in place while it is used. Not an lsm_cursor: callers embed it. */
typedef struct lsm_block_cursor {
	const uint8_t *data;
	uint32_t entries_end; /* where the restarts begin */
	uint32_t restarts;
	uint32_t at;   /* offset of the present entry */
	uint32_t next; /* offset of the one after it */
	bool valid;
	bool corrupt;    /* the contents are malformed; stays so until opened anew; the builder's contents never are */
	lsm_entry entry; /* the key points into key_bytes, so a cursor cannot be copied; the value into the contents */
	uint8_t key_bytes[AIDB_MAX_KEY_BYTES];
} lsm_block_cursor;

/* `contents` may be anything: what is malformed makes the cursor corrupt, and nothing outside of them is read. */
void lsm_block_cursor_open(lsm_block_cursor *cursor, aidb_slice contents);
void lsm_block_cursor_seek(lsm_block_cursor *cursor, aidb_slice key, uint64_t trailer); /* first at or after */
void lsm_block_cursor_seek_first(lsm_block_cursor *cursor);
void lsm_block_cursor_seek_last(lsm_block_cursor *cursor);
void lsm_block_cursor_next(lsm_block_cursor *cursor); /* only when valid */
void lsm_block_cursor_prev(lsm_block_cursor *cursor); /* only when valid; scans from the restart before */

#endif
