/*
 * stats.h: what the routers of this server have done since it was started: counted in shared memory, by all backends together.
 */
#ifndef ROUTER_STATS_H
#define ROUTER_STATS_H

#include "postgres.h"

typedef enum router_counter {
	ROUTER_CONNECTIONS, /* that were made */
	ROUTER_STATEMENTS,  /* that were sent, to primaries and replicas */
	ROUTER_LOSSES,      /* connections that were lost, or refused as stale, while something was under way */
	ROUTER_MOVED,       /* transactions that were told that rows have moved */
	ROUTER_COUNTERS
} router_counter;

/* From the shared memory hooks. */
extern void router_stats_shmem_request(void);
extern void router_stats_shmem_startup(void);

extern void router_count(router_counter counter);
/* A round trip to a node that was begun then, by router_now_us; to a replica, or to a primary. */
extern uint64 router_now_us(void);
extern void router_count_round_trip(uint64 begun_us, bool to_replica);

#endif
