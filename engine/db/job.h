/*
 * job.h: what flush and compaction have in common: writing the entries of a cursor, less those that nobody needs, to
 * new files of one level, and making these part of the store.
 *
 * begin, write, install, end; each step only when the one before went well, but end always. One thread.
 */
#ifndef LSM_JOB_H
#define LSM_JOB_H

#include "db/db.h"
#include "format/cursor.h"
#include "store/retention.h"
#include "store/table_writer.h"

typedef struct lsm_job {
	aidb_db *db;
	int level;
	uint64_t file_bytes; /* a file is closed beyond this size, between two keys */
	aidb_sequence *snapshots;
	lsm_retention retention;
	lsm_table_writer *writer; /* NULL: no file is being written */
	uint64_t number;          /* of that file */
	uint32_t last_key_bytes;
	uint8_t last_key[AIDB_MAX_KEY_BYTES];
	/* files that are complete */
	lsm_ref *files;
	uint8_t *levels;
	uint32_t count;
	uint32_t capacity;
	uint64_t bytes;
	aidb_sequence max_sequence;
	bool unknown; /* whether the manifest has them is known only at the next start */
} lsm_job;

/* Lists the snapshots. `is_bottom` as in store/retention.h. */
aidb_status lsm_job_begin(lsm_job *job, aidb_db *db, int level, uint64_t file_bytes,
						  bool (*is_bottom)(void *argument, aidb_slice key), void *bottom_argument);
/* Writes what is to be kept of all entries of the cursor, which is the caller's to close; the files are durable
 * then. */
aidb_status lsm_job_write(lsm_job *job, lsm_cursor *cursor);
/* Makes the files part of the store, together with what *edit changes besides. */
aidb_status lsm_job_install(lsm_job *job, const lsm_version_edit *edit);
/* Releases the job; files that were not installed are removed. */
void lsm_job_end(lsm_job *job);

/* Makes an edit durable in the manifest and current in memory; nothing has changed when it fails. With AIDB_IO,
 * however, the manifest on disk may be the new one already: the files of both must stay. `max_sequence`: of the files
 * added. */
aidb_status lsm_install_edit(aidb_db *db, const lsm_version_edit *edit, aidb_sequence max_sequence);

/* How the files of a level are compressed. */
aidb_compression lsm_compression_of(const aidb_options *options, int level);

/* How many entries long work handles between two looks whether it should end. */
#define LSM_ENTRIES_PER_CHECK 4096

/* AIDB_INTERRUPTED when the host wants long work to end. */
aidb_status lsm_check_interrupt(const aidb_db *db);

#endif
