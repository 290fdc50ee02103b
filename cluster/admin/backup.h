/*
 * backup.h: aidb-admin's commands about backups: backup, archive, restore, info, verify, expire, point.
 */
#ifndef AIDB_ADMIN_BACKUP_H
#define AIDB_ADMIN_BACKUP_H

#include <stdbool.h>
#include <stdint.h>

typedef struct aidb_backup_arguments {
	const char *conninfo; /* of the server; with a group, of the cluster's catalog; NULL: not given */
	const char *group;
	const char *repository;
	const char *slot;
	const char *label;
	const char *before;
	const char *to_time;
	const char *to_sequence;
	const char *to_point;
	const char *bindir;
	unsigned jobs;
	uint64_t rate_bytes;
	unsigned keep_backups;
	unsigned keep_days;
	unsigned every_s;
	bool dry_run;
	bool quick;
	bool keep;
	bool once;
	bool json;
} aidb_backup_arguments;

#define AIDB_BACKUP_ARGUMENTS                                                                                          \
	{ .jobs = 2, .every_s = 5 }

extern const char aidb_backup_help[];

/* Takes an option; false: it is none of these, or has no good value. */
bool aidb_backup_option(const char *option, aidb_backup_arguments *arguments);
/* Whether the word is a command of these. */
bool aidb_backup_command(const char *word);
/* Does it; returns the exit status. */
int aidb_backup_run(const char *const *words, int count, const aidb_backup_arguments *arguments);

/* The same for all groups of a cluster: what stands behind the word "cluster". */
bool aidb_cluster_backup_command(const char *word);
int aidb_cluster_backup_run(const char *const *words, int count, const aidb_backup_arguments *arguments);

#endif
