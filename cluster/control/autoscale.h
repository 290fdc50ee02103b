/*
 * autoscale.h: whether a group is to have another caching read node, or one less. A pure step function: no clock, no I/O; the daemon and
 * the simulator run the same.
 *
 * It is of the kind of Kubernetes' horizontal autoscaler: the number of nodes that would bring the load of each to its target, with a
 * tolerance; more nodes once that has been wanted for a while, fewer only when all that was wanted in a longer while was fewer; one
 * at a time, with a pause after each. Where something was not measured nothing is done, and what was wanted before counts no more.
 * Only caching read nodes come and go: they have no rows of their own, so no copy of a row is ever removed.
 */
#ifndef AIDB_AUTOSCALE_H
#define AIDB_AUTOSCALE_H

#include <stdbool.h>
#include <stdint.h>

#define AIDB_AUTOSCALE_MAX_CACHES 7u /* of the 8 members that a group can have */
#define AIDB_AUTOSCALE_REASON_BYTES 192u

typedef struct aidb_autoscale_policy {
	uint32_t min_caches, max_caches;
	double target_reads;      /* per second and node that reads are served from */
	double target_latency_ms; /* of an answer; 0: does not matter */
	double max_lag_ms;        /* with a replica further behind none is added or removed; 0: does not matter */
	double min_hit_rate;    /* of the caching read nodes, below which another one would not help; 0: does not matter */
	uint64_t up_after_ms;   /* for how long more nodes are to be wanted */
	uint64_t down_after_ms; /* ... fewer */
	uint64_t pause_ms;      /* after an action */
	uint64_t
		max_gap_ms; /* between two samples; after more, what was wanted before is not known to have been so since */
} aidb_autoscale_policy;

/* A measurement of a group. */
typedef struct aidb_autoscale_sample {
	uint64_t at_ms;
	bool complete; /* every node that counts has answered, now and the time before */
	uint32_t caches;
	double reads; /* per second, of all together */
	double latency_ms;
	double lag_ms;
	double hit_rate; /* negative: there were no reads at caches */
} aidb_autoscale_sample;

typedef enum aidb_autoscale_action {
	AIDB_AUTOSCALE_NOTHING,
	AIDB_AUTOSCALE_ADD,
	AIDB_AUTOSCALE_REMOVE
} aidb_autoscale_action;

typedef struct aidb_autoscale {
	uint64_t more_since_ms, fewer_since_ms; /* since when more, or fewer, are wanted than there are; 0: they are not */
	uint64_t sampled_at_ms;                 /* 0: never */
	uint32_t caches;                        /* that there were then */
	uint64_t acted_at_ms;                   /* 0: never */
	char reason[AIDB_AUTOSCALE_REASON_BYTES];
} aidb_autoscale;

/* What is to be done; self->reason says why, or why not. Samples come in the order of their times, which are not 0. */
aidb_autoscale_action aidb_autoscale_step(aidb_autoscale *self, const aidb_autoscale_policy *policy,
										  const aidb_autoscale_sample *sample);

#endif
