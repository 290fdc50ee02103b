/*
 * recovery.h: from files to memory.
 *
 * Reads the manifest (or makes a new store), removes files that nobody refers to, and replays the log from the manifest's
 * log_start into memtables, flushing them as they fill. The log ends at the first position that holds no valid record.
 * That is the torn tail of a crash, and is cut, unless a record further on, or one before, says that the position had
 * been synced: then it is corruption, reported with file and offset, and nothing is changed.
 *
 * Whatever lies behind the end is overwritten with zeroes before the log goes on, so that no record of the lost tail can
 * be taken for a new one later.
 */
#ifndef LSM_RECOVERY_H
#define LSM_RECOVERY_H

#include "db/db.h"

/* The start latch is held, and the arena is freshly laid out. On error the arena is to be laid out anew. */
aidb_status lsm_recover(aidb_db *db);

#endif
