/*
 * table_writer.h: writing an SSTable to its file.
 *
 * One thread. The file is durable when lsm_table_writer_finish returns; its directory entry is the caller's to sync. A
 * writer that is destroyed before it was finished removes its file.
 */
#ifndef LSM_TABLE_WRITER_H
#define LSM_TABLE_WRITER_H

#include "format/sstable.h"

typedef struct lsm_table_writer lsm_table_writer;

/* What was written; the slices stay valid until the writer is destroyed. */
typedef struct lsm_table_description {
	lsm_sstable_properties properties;
	aidb_slice smallest;
	aidb_slice largest;
	uint64_t smallest_trailer;
	uint64_t largest_trailer;
} lsm_table_description;

aidb_status lsm_table_writer_create(const aidb_host *host, const char *directory, uint64_t number,
									const lsm_sstable_options *options, lsm_table_writer **writer);
/* Entries in order, no two with the same key and sequence. */
aidb_status lsm_table_writer_add(lsm_table_writer *writer, const lsm_entry *entry);
/* Bytes that the file has so far, about. */
uint64_t lsm_table_writer_bytes(const lsm_table_writer *writer);
/* At least one entry has been added. */
aidb_status lsm_table_writer_finish(lsm_table_writer *writer, lsm_table_description *description);
void lsm_table_writer_destroy(lsm_table_writer *writer); /* NULL is fine */

#endif
