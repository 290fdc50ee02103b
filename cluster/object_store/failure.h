/*
 * failure.h: what went wrong, for whom it is to be told. Statuses are the engine's; the text is of this thread.
 */
#ifndef AIDB_FAILURE_H
#define AIDB_FAILURE_H

#include "aidb.h"

/* Notes the text, which says what, where and what to do, and returns the status. */
aidb_status aidb_fail(aidb_status status, const char *format, ...) AIDB_PRINTF(2, 3);
/* The same for an error of the operating system: "cannot WHAT "PATH": reason". */
aidb_status aidb_fail_errno(int error, const char *what, const char *path);
/* What the last failed call of this thread met; until the next. */
const char *aidb_failure(void);

#endif
