/*
 * coordinator.h: the daemon's view of the cluster: nodes that it asks how they are, groups for which control/failover.h says what is
 * to be done next, and the catalog, in which it is one of perhaps several, of whom one may act. One thread, one event loop.
 */
#ifndef AIDB_COORDINATOR_H
#define AIDB_COORDINATOR_H

#include <poll.h>
#include <stdbool.h>
#include <stdint.h>

typedef struct aidb_coordinator_options {
	const char *conninfo; /* of the catalog's database */
	const char *name;     /* of this daemon */
	uint32_t interval_ms; /* between two questions to a node */
	uint32_t timeout_ms;  /* for its answer */
	uint32_t retries;     /* answers that fail in a row before it counts as down */
	uint32_t lease_ms;    /* for reads on a primary, and for acting */
	bool quiet;
	const char *scale_command;  /* that makes and removes servers; NULL: none */
	uint32_t scale_interval_ms; /* between two measurements of load */
} aidb_coordinator_options;

typedef struct aidb_coordinator aidb_coordinator;

/* NULL: out of memory. *options must outlive it. */
aidb_coordinator *aidb_coordinator_create(const aidb_coordinator_options *options);
void aidb_coordinator_destroy(aidb_coordinator *coordinator);

/* Fills in what to wait for; returns how many, at most `capacity`. */
uint32_t aidb_coordinator_sockets(aidb_coordinator *coordinator, struct pollfd *sockets, uint32_t capacity);
/* Does what there is to do; to be called when something has come, and ten times a second. */
void aidb_coordinator_step(aidb_coordinator *coordinator);

#endif
