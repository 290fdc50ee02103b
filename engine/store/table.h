/*
 * table.h: reading one SSTable, and a level of them.
 *
 * The point lookup goes from the root through filter and leaf to the data block, holding one block at a time.
 * The cursors keep a private copy of the data block they stand in, and remember their way through the index, so that
 * between calls they hold no block, no epoch and no file.
 */
#ifndef LSM_TABLE_H
#define LSM_TABLE_H

#include "format/sstable.h"
#include "store/block_source.h"
#include "store/lookup.h"
#include "store/version.h"

/* What is needed to read a file. */
typedef struct lsm_table {
	uint64_t number;
	uint64_t file_bytes;
	lsm_handle root;
	uint32_t root_level;
} lsm_table;

static inline lsm_table lsm_table_of(const lsm_file *file) {
	return (lsm_table){.number = file->number,
					   .file_bytes = file->properties.file_bytes,
					   .root = file->properties.root,
					   .root_level = file->properties.root_level};
}

/* Offers the lookup what the table has of its key, newest first, until it is decided. */
aidb_status lsm_table_get(lsm_block_source *source, const lsm_table *table, lsm_cache_use use, lsm_lookup *lookup);

/* A cursor's manner of reading data blocks; index nodes are kept in the cache rather longer, if at all. */
typedef struct lsm_table_reading {
	lsm_cache_use use;
	lsm_cache_priority priority;
	uint32_t readahead_bytes; /* of the first read; 0: one block, more when reading goes on in order */
} lsm_table_reading;

/* A cursor over a whole table. The source must outlive it. */
aidb_status lsm_table_cursor_create(lsm_block_source *source, const lsm_table *table, const lsm_table_reading *reading,
									lsm_cursor **cursor);

/* A cursor over files that do not overlap, in key order: one level. `files` and what it refers to must stay in place
 * whenever the cursor is used (not when it is closed). */
aidb_status lsm_level_cursor_create(lsm_block_source *source, const lsm_ref *files, uint32_t count,
									const lsm_table_reading *reading, lsm_cursor **cursor);

/* Where in the table an entry with this key and trailer is or would be: the data block that decides it. */
typedef struct lsm_table_place {
	bool beyond; /* after all entries */
	lsm_handle block;
} lsm_table_place;

aidb_status lsm_table_locate(lsm_block_source *source, const lsm_table *table, aidb_slice key, uint64_t trailer,
							 lsm_table_place *place);

/* Entries of one data block from the first at or after `lower` to the last before `upper` (data NULL: no bound). */
aidb_status lsm_table_count(lsm_block_source *source, const lsm_table *table, lsm_handle block, aidb_slice lower,
							aidb_slice upper, uint64_t *entries);

#endif
