/*
 * restore.h: the recovery manager: a new server from a repository, as the one that was backed up was at a moment.
 */
#ifndef AIDB_BACKUP_RESTORE_H
#define AIDB_BACKUP_RESTORE_H

#include "backup/copying.h"
#include "backup/repository.h"
#include "backup/target.h"

typedef struct aidb_restore_options {
	const char *address; /* of the repository */
	const char *data;    /* the new data directory */
	const char *bindir;  /* of PostgreSQL's programs */
	const char *before;  /* file of SQL that makes what tables need, such as types; NULL: none */
	aidb_target target;
	aidb_copy_options copy;
	bool show_progress;
	bool keep; /* what has been made, also after an error */
} aidb_restore_options;

/* What has been restored. */
typedef struct aidb_restored {
	char label[AIDB_LABEL_BYTES];
	char database[AIDB_TEXT_BYTES];
	uint64_t sequence;
	uint64_t bytes;
	uint64_t tables;
} aidb_restored;

/* AIDB_NOT_FOUND when the repository has nothing that leads to the target, with what it has; AIDB_CORRUPT when a file or a piece of the
 * log is damaged, with its name; AIDB_EXISTS when the directory is not empty. After an error nothing is left. */
aidb_status aidb_restore(const aidb_restore_options *options, aidb_repository *repository, aidb_restored *restored);

#endif
