#include "router/stats.h"

#include <time.h>

#include "fmgr.h"
#include "funcapi.h"
#include "port/atomics.h"
#include "port/pg_bitutils.h"
#include "storage/ipc.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"
#include "utils/builtins.h"
#include "utils/float.h"
#include "utils/tuplestore.h"

PG_FUNCTION_INFO_V1(router_sql_stats);
PG_FUNCTION_INFO_V1(router_sql_durations);

#define FIRST_US 64 /* the upper end of the first bucket; each next is twice as wide */
#define BUCKETS 20  /* the last one has no end */

typedef struct durations {
	pg_atomic_uint64 counts[BUCKETS];
	pg_atomic_uint64 sum_us;
} durations;

typedef struct shared_stats {
	pg_atomic_uint64 counters[ROUTER_COUNTERS];
	durations round_trips[2]; /* to primaries, to replicas */
} shared_stats;

static shared_stats *shared = NULL;

static const char *const names[ROUTER_COUNTERS] = {"connections", "statements", "losses", "moved"};
static const char *const targets[2] = {"primary", "replica"};

void router_stats_shmem_request(void) {
	RequestAddinShmemSpace(MAXALIGN(sizeof(shared_stats)));
}

static void init(durations *of) {
	for (int i = 0; i < BUCKETS; i++) {
		pg_atomic_init_u64(&of->counts[i], 0);
	}
	pg_atomic_init_u64(&of->sum_us, 0);
}

void router_stats_shmem_startup(void) {
	bool found;

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	shared = ShmemInitStruct("aidb router stats", sizeof(shared_stats), &found);
	if (!found) {
		for (int i = 0; i < ROUTER_COUNTERS; i++) {
			pg_atomic_init_u64(&shared->counters[i], 0);
		}
		init(&shared->round_trips[0]);
		init(&shared->round_trips[1]);
	}
	LWLockRelease(AddinShmemInitLock);
}

void router_count(router_counter counter) {
	if (shared != NULL) {
		pg_atomic_fetch_add_u64(&shared->counters[counter], 1);
	}
}

uint64 router_now_us(void) {
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64)now.tv_sec * 1000000 + (uint64)now.tv_nsec / 1000;
}

void router_count_round_trip(uint64 begun_us, bool to_replica) {
	uint64 took_us = router_now_us() - begun_us;
	uint64 units = took_us / FIRST_US;
	int bucket = units == 0 ? 0 : pg_leftmost_one_pos64(units) + 1;

	if (shared != NULL) {
		pg_atomic_fetch_add_u64(&shared->round_trips[to_replica].counts[Min(bucket, BUCKETS - 1)], 1);
		pg_atomic_fetch_add_u64(&shared->round_trips[to_replica].sum_us, took_us);
	}
}

/* ---- In SQL ----------------------------------------------------------------------------------------------- */

static void check_shared(void) {
	if (shared == NULL) {
		ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE), errmsg("library \"aidb\" was not preloaded"),
						errhint("Add it to \"shared_preload_libraries\" in postgresql.conf, and restart.")));
	}
}

/* router_stats() → name, value */
Datum router_sql_stats(PG_FUNCTION_ARGS) {
	ReturnSetInfo *result = (ReturnSetInfo *)fcinfo->resultinfo;

	check_shared();
	InitMaterializedSRF(fcinfo, 0);
	for (int i = 0; i < ROUTER_COUNTERS; i++) {
		Datum columns[2] = {CStringGetTextDatum(names[i]),
							Int64GetDatum((int64)pg_atomic_read_u64(&shared->counters[i]))};
		bool nulls[2] = {false};

		tuplestore_putvalues(result->setResult, result->setDesc, columns, nulls);
	}
	return (Datum)0;
}

static void return_durations(ReturnSetInfo *result, const char *target, durations *of) {
	double total = (double)pg_atomic_read_u64(&of->sum_us) / 1e6;
	int64 count = 0;

	for (int i = 0; i < BUCKETS; i++) {
		double seconds = i == BUCKETS - 1 ? get_float8_infinity() : (double)((uint64)FIRST_US << i) / 1e6;
		Datum columns[4] = {CStringGetTextDatum(target), Float8GetDatum(seconds),
							Int64GetDatum(count += (int64)pg_atomic_read_u64(&of->counts[i])), Float8GetDatum(total)};
		bool nulls[4] = {false};

		tuplestore_putvalues(result->setResult, result->setDesc, columns, nulls);
	}
}

/* router_durations() → target, seconds, count, total_seconds */
Datum router_sql_durations(PG_FUNCTION_ARGS) {
	ReturnSetInfo *result = (ReturnSetInfo *)fcinfo->resultinfo;

	check_shared();
	InitMaterializedSRF(fcinfo, 0);
	for (int i = 0; i < 2; i++) {
		return_durations(result, targets[i], &shared->round_trips[i]);
	}
	return (Datum)0;
}
