/*
 * status.h: the one place through which every failure passes.
 */
#ifndef LSM_STATUS_H
#define LSM_STATUS_H

#include "aidb.h"

/*
 * Records the message that aidb_last_error() gives this thread and returns `status`, so that callers write
 * `return lsm_fail(AIDB_CORRUPT, "%s: bad magic number at byte %d", path, 0);`. Messages name the file, the offset
 * and the reason, and end with what to do where that is not obvious. Set a breakpoint here to catch any error.
 */
aidb_status lsm_fail(aidb_status status, const char *format, ...) AIDB_PRINTF(2, 3);

/* The status that belongs to an errno value: AIDB_NO_SPACE, AIDB_NOT_FOUND, AIDB_NO_MEMORY or AIDB_IO. */
aidb_status lsm_fail_errno(int error, const char *action, const char *path);

#endif
