/*
 * source.h: the server that is backed up, over libpq: the primary of a group, or a server alone, which then becomes the primary of a
 * group of one. One thread at a time.
 */
#ifndef AIDB_BACKUP_SOURCE_H
#define AIDB_BACKUP_SOURCE_H

#include "backup/manifest.h"
#include "object_store/storage.h"

typedef struct aidb_source aidb_source;

/* AIDB_IO with the server's words. Release with aidb_source_close. */
aidb_status aidb_source_connect(const char *conninfo, aidb_source **source);
void aidb_source_close(aidb_source *source); /* NULL is fine */

/* -- the checkpoint -- */

/* Makes it, and fills in what the server knows of the manifest, with the files, which have no hashes yet. */
aidb_status aidb_source_start(aidb_source *source, aidb_manifest *manifest);
/* A file of it, in order. On the same machine it is read from the disk, if this user may. */
aidb_status aidb_source_read(aidb_source *source, const aidb_manifest_file *file, aidb_object_sink sink,
							 void *argument);
/* Removes it. */
aidb_status aidb_source_stop(aidb_source *source);

/* -- the log -- */

/* Where a slot stands, which is made if there is none; one session at a time has it: AIDB_IN_USE. *store and *epoch are the server's. */
aidb_status aidb_source_open_slot(aidb_source *source, const char *slot, uint64_t *sequence, uint64_t *store,
								  uint64_t *epoch);
/* Makes a slot anew that has fallen too far behind. */
aidb_status aidb_source_reopen_slot(aidb_source *source, const char *slot, uint64_t *sequence);
typedef struct aidb_stream_place {
	const char *slot;
	uint64_t epoch;
	uint64_t after;
	uint64_t acknowledged; /* what the server need not keep any more */
	const uint64_t *undecided;
	uint32_t undecided_count;
} aidb_stream_place;
/* What follows; waits up to wait_ms for it. *answer is valid until the next call. AIDB_NOT_FOUND when the server has not kept it. */
aidb_status aidb_source_stream(aidb_source *source, const aidb_stream_place *place, unsigned max_bytes,
							   unsigned wait_ms, aidb_slice *answer);
/* Makes a restore point. */
aidb_status aidb_source_mark(aidb_source *source, const char *name, uint64_t *sequence);
/* Writes down in the server that a backup has been taken. */
aidb_status aidb_source_note_backup(aidb_source *source, const char *address, const aidb_manifest *manifest);

#endif
