/*
 * backup.h: the backup manager: a server's checkpoint into a repository, of which only what the repository has not is written, and the log
 * that makes it a state of the server. The manifest comes last, so a backup that is broken off is none.
 */
#ifndef AIDB_BACKUP_H
#define AIDB_BACKUP_H

#include "backup/archiver.h"
#include "backup/copying.h"

typedef struct aidb_backup_options {
	const char *conninfo;
	const char *address; /* of the repository */
	const char *slot;
	aidb_copy_options copy;
	bool show_progress;
} aidb_backup_options;

/* Takes a backup by a source of its own. Without an archiver, another process archives the log, and it is waited for. *manifest is the
 * caller's to free. */
aidb_status aidb_backup_take(const aidb_backup_options *options, aidb_repository *repository, aidb_archiver *archiver,
							 aidb_manifest *manifest);

#endif
