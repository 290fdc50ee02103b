/*
 * retention.h: which backups are kept, and removing what is not, with the files and the log that only those needed.
 */
#ifndef AIDB_BACKUP_RETENTION_H
#define AIDB_BACKUP_RETENTION_H

#include "backup/repository.h"

typedef struct aidb_retention_rules {
	uint32_t count; /* so many, the newest; 0: no rule */
	uint32_t days;  /* those of so many days, and the one before, which leads to their beginning; 0: no rule */
} aidb_retention_rules;

typedef struct aidb_backup_age {
	uint64_t finished; /* microseconds since 1970 */
	bool keep;
} aidb_backup_age;

/* Says which are kept: each that one of the rules wants, and the newest in any case. Oldest first. Pure. */
void aidb_retention_choose(const aidb_retention_rules *rules, uint64_t now, aidb_backup_age *backups, uint32_t count);

typedef struct aidb_expired {
	uint32_t backups;
	uint32_t objects;
	uint32_t pieces;
	uint32_t points;
	uint64_t bytes;
} aidb_expired;

/* Removes, or with dry_run only counts. Calls `each` with the label of each backup that goes. AIDB_IN_USE when a backup is under way;
 * AIDB_CORRUPT when a manifest that stays cannot be read: what it needs is not known. */
aidb_status aidb_expire(aidb_repository *repository, const aidb_retention_rules *rules, bool dry_run,
						void (*each)(void *argument, const char *label), void *argument, aidb_expired *expired);

#endif
