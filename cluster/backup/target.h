/*
 * target.h: to which state a store is to be restored: which backup leads there, and up to which commit the log.
 */
#ifndef AIDB_BACKUP_TARGET_H
#define AIDB_BACKUP_TARGET_H

#include "backup/repository.h"

typedef enum aidb_target_kind {
	AIDB_TARGET_LATEST,   /* all that the archive has */
	AIDB_TARGET_TIME,     /* the last second that was over then */
	AIDB_TARGET_SEQUENCE, /* a commit */
	AIDB_TARGET_POINT,    /* a restore point */
} aidb_target_kind;

typedef struct aidb_target {
	aidb_target_kind kind;
	uint64_t sequence;
	uint64_t time; /* microseconds since 1970 */
	const char *point;
	const char *label; /* of the backup to begin with; NULL: the newest that leads to it */
} aidb_target;

/* Where it is in a repository. */
typedef struct aidb_found {
	aidb_manifest manifest;
	aidb_pieces pieces; /* of the log of its store */
	uint64_t sequence;
	bool is_mark; /* this commit is a mark, a restore point or one that tells the time */
} aidb_found;

/* AIDB_NOT_FOUND when nothing in the repository leads there, with what it has. Release with aidb_target_free. */
aidb_status aidb_target_find(aidb_repository *repository, const aidb_target *target, aidb_found *found);
void aidb_target_free(aidb_found *found);

#endif
