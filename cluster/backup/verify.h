/*
 * verify.h: whether everything in a repository is what was written: manifests, the files that they name, the log.
 */
#ifndef AIDB_BACKUP_VERIFY_H
#define AIDB_BACKUP_VERIFY_H

#include "backup/copying.h"
#include "backup/repository.h"

typedef struct aidb_verify_options {
	const char *address;
	bool quick; /* only whether all is there, and of the right size */
	aidb_copy_options copy;
	bool show_progress;
} aidb_verify_options;

typedef struct aidb_verified {
	uint32_t backups;
	uint32_t objects;
	uint64_t object_bytes;
	uint32_t unused_objects; /* that no backup names: of one that was broken off, or is under way */
	uint32_t pieces;
	uint32_t problems;
} aidb_verified;

/* Calls `problem` with a sentence for each thing that is wrong. An error means that the repository could not be looked at. */
aidb_status aidb_verify(const aidb_verify_options *options, aidb_repository *repository,
						void (*problem)(void *argument, const char *text), void *argument, aidb_verified *verified);

#endif
