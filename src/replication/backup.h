/*
 * backup.h: what a backup takes of this server: the files of a checkpoint. The rest of it, commits since then, is the stream.
 */
#ifndef AIPG_BACKUP_H
#define AIPG_BACKUP_H

#include "postgres.h"

/* Removes what a backup has left that was broken off; when the server starts. */
extern void aipg_backup_discard(void);

/* For the launcher, every second: writes down what time it is, if the log is archived and there were commits since the last time. */
extern void aipg_backup_tell_time(void);

#endif
