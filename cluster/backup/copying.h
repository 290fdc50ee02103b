/*
 * copying.h: files between a server's checkpoint, a repository and a directory, several at a time.
 */
#ifndef AIDB_BACKUP_COPYING_H
#define AIDB_BACKUP_COPYING_H

#include <stdatomic.h>

#include "backup/manifest.h"
#include "backup/repository.h"

#define AIDB_MAX_JOBS 16u

/* Told of progress, by one thread at a time. */
typedef struct aidb_progress {
	_Atomic uint64_t files_done;
	_Atomic uint64_t bytes_done;
	uint64_t files;
	uint64_t bytes;
	const char *what; /* "backed up", "restored" */
	bool show;        /* on stderr, a line that changes */
} aidb_progress;

typedef struct aidb_copy_options {
	unsigned jobs;       /* 1 to AIDB_MAX_JOBS */
	uint64_t rate_bytes; /* a second, all jobs together; 0: no limit */
} aidb_copy_options;

/* Does one file; `job` below jobs. */
typedef aidb_status (*aidb_copy_file)(void *argument, unsigned job, uint32_t file);

/* Calls for each of the numbers below `count`, in so many threads; the first error ends it and is handed back. */
aidb_status aidb_copy_all(const aidb_copy_options *options, aidb_progress *progress, uint32_t count,
						  aidb_copy_file copy, void *argument);
/* Bytes have been copied: counts them, and sleeps as long as the rate wants. */
void aidb_copy_note(aidb_progress *progress, const aidb_copy_options *options, size_t bytes);

#endif
