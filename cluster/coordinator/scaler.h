/*
 * scaler.h: gives groups more or fewer caching read nodes, as control/autoscale.h says of what their nodes say: a process of its own,
 * since it waits for nodes, and for the command that makes and removes servers.
 *
 * The command is called as `COMMAND add GROUP`, and writes a line "NAME CONNINFO" of a server with AiDb that is to be a caching read
 * node; and as `COMMAND remove GROUP NAME` when it is not used any more. It ends with status 0 when that was done.
 */
#ifndef AIDB_SCALER_H
#define AIDB_SCALER_H

#include <stdint.h>

typedef struct aidb_scaler_options {
	const char *conninfo; /* of the catalog */
	const char *name;     /* of the coordinator: it acts while that one does */
	const char *command;  /* NULL: decisions are only written down */
	uint32_t interval_ms; /* between two measurements */
} aidb_scaler_options;

/* Does so until it is killed. Takes aidb_scaler_options; for aidb_job_start. */
int aidb_scaler_run(void *options);

#endif
