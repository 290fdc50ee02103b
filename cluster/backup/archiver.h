/*
 * archiver.h: the log of a server, as it is written, into a repository, piece by piece. One archiver at a time has the server's slot.
 *
 * The server keeps its log until a piece is in the repository, up to its limit. What it has not kept is a gap: backups from before
 * can be restored up to there, and a new backup is needed to go on.
 */
#ifndef AIDB_BACKUP_ARCHIVER_H
#define AIDB_BACKUP_ARCHIVER_H

#include "backup/repository.h"
#include "backup/source.h"

#define AIDB_ARCHIVE_SLOT "archive"

typedef struct aidb_archiver {
	aidb_repository *repository;
	aidb_source *source;
	const char *slot;
	uint64_t store;
	uint64_t epoch;
	uint64_t begun_from; /* what follows this commit is in the repository without a gap */
	uint64_t archived;   /* up to here */
	uint64_t gap_from;   /* != 0: commits beyond this one are missing, up to begun_from */
	uint64_t written_bytes;
	bool window_open;     /* more has to come before what has come is a state */
	aidb_segment segment; /* what has come since the last piece */
} aidb_archiver;

/* Finds the place to go on from. AIDB_IN_USE when another archiver is at it; AIDB_CORRUPT when the repository's last piece is
 * damaged, or is ahead of the server. The caller keeps repository and source. Release with aidb_archiver_end, also after an error. */
aidb_status aidb_archiver_begin(aidb_archiver *archiver, aidb_repository *repository, aidb_source *source,
								const char *slot);
/* Takes what has come, waiting up to wait_ms for it; writes a piece when it is large. *got: something has come. */
aidb_status aidb_archiver_step(aidb_archiver *archiver, unsigned wait_ms, bool *got);
/* Writes what has come as a piece. */
aidb_status aidb_archiver_flush(aidb_archiver *archiver);
/* Until the archive has what leads up to `sequence`. */
aidb_status aidb_archiver_reach(aidb_archiver *archiver, uint64_t sequence);
void aidb_archiver_end(aidb_archiver *archiver);

#endif
