/*
 * job.h: a child process of the daemon, for work that waits: one at a time each. It ends with the daemon.
 */
#ifndef AIDB_JOB_H
#define AIDB_JOB_H

#include <stdbool.h>
#include <sys/types.h>

typedef struct aidb_job {
	pid_t pid; /* 0: none runs */
} aidb_job;

/* Calls the function in a process of its own, of which it is the exit status. False: no process could be made. */
bool aidb_job_start(aidb_job *job, int (*run)(void *argument), void *argument);
/* Whether it is over now that was running before; then *status is its exit status, or -1 when it was killed. */
bool aidb_job_has_ended(aidb_job *job, int *status);
/* Ends it. */
void aidb_job_stop(aidb_job *job);

#endif
