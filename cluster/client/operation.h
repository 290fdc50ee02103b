/*
 * operation.h: one request to groups of a cluster, until it is done, refused, or out of time: each attempt asks the groups that have
 * something left to do, in the topology as it is then known; what is lost is tried again, with a newer topology when it was at a
 * primary.
 */
#ifndef AIDB_OPERATION_H
#define AIDB_OPERATION_H

#include "client/client.h"
#include "client/exchange.h"

typedef struct aidb_operation {
	aidb_client *client;
	aidb_exchange exchange;
	bool writes;
	/* Makes parts, one for each group that has something left to do (group, chunk_count, first_cut); there is room for one for
	 * each group of the topology. False: out of memory. */
	bool (*plan)(void *argument, aidb_topology *topology, aidb_part *parts, size_t *count);
	/* An attempt is over: of each part the chunks before `answered` have been done. NULL: nothing is to be noted. */
	void (*settle)(void *argument, const aidb_part *part);
	void *argument; /* the exchange's, too */
} aidb_operation;

/* Fails with the thread's error. Not with AIDB_CLIENT_NOT_FOUND. */
aidb_client_status aidb_operation_run(aidb_operation *self, uint64_t deadline_ms);

#endif
