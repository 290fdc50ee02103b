/*
 * file_table.h: the SSTable files that this process has open, at most LSM_OPEN_FILES of them.
 *
 * Process-local, shared by the process's threads. A file is pinned while it is read and closed when its place is
 * needed.
 */
#ifndef LSM_FILE_TABLE_H
#define LSM_FILE_TABLE_H

#include "aidb.h"

#define LSM_OPEN_FILES 128

typedef struct lsm_file_table lsm_file_table;

/* `directory` is copied. */
aidb_status lsm_file_table_create(const aidb_host *host, const char *directory, lsm_file_table **table);
void lsm_file_table_destroy(lsm_file_table *table); /* NULL is fine */

/* Opens (or finds open) the file and pins it. The host's file number is in *file. */
aidb_status lsm_file_table_pin(lsm_file_table *table, uint64_t number, int *file);
void lsm_file_table_unpin(lsm_file_table *table, uint64_t number, int file);
/* Closes a file that was removed, when this process has it open. */
void lsm_file_table_forget(lsm_file_table *table, uint64_t number);
/* Closes all files that are not pinned; those that are, with their last unpin. */
void lsm_file_table_clear(lsm_file_table *table);

/* "directory/000123.sst" into `path`. */
#define LSM_PATH_BYTES 1024
void lsm_sstable_path(const char *directory, uint64_t number, char path[LSM_PATH_BYTES]);

/* How many forks lie between this process and the one that made the first table. The number of a file that was opened
 * before the last of them is not to be used any more: threads of the parent may have opened or closed it just then. (The
 * table's own files are safe.) */
uint32_t lsm_forks(void);

#endif
