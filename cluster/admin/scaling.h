/*
 * scaling.h: aidb-admin's commands that move slots: rebalance, and group drain.
 */
#ifndef AIDB_ADMIN_SCALING_H
#define AIDB_ADMIN_SCALING_H

#include <stdbool.h>

typedef struct aidb_scaling_arguments {
	const char *conninfo; /* of the cluster's catalog */
	const char *drain;    /* a group that is to keep no slots; NULL: only what is planned */
	bool dry_run;
	bool json;
	unsigned slots_per_move; /* 0: the default */
} aidb_scaling_arguments;

/* Shows the plan, moves, and shows how far it is; returns the exit status. */
int aidb_scaling_run(const aidb_scaling_arguments *arguments);

#endif
