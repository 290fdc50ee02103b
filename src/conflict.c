#include "conflict.h"

#include "common/hashfn.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "shared.h"
#include "storage/proc.h"
#include "utils/wait_event.h"

StaticAssertDecl(AIPG_STRIPES == sizeof(((aipg_stripe_set *)0)->bits) * 8, "a bit for every stripe");

uint32 aipg_stripe_of(aidb_slice key) {
	return hash_bytes(key.data, (int)key.size) % AIPG_STRIPES;
}

static bool has(const aipg_stripe_set *set, uint32 stripe) {
	return (set->bits[stripe / 64] >> (stripe % 64) & 1) != 0;
}

void aipg_stripe_add(aipg_stripe_set *set, uint32 stripe) {
	set->bits[stripe / 64] |= UINT64CONST(1) << (stripe % 64);
}

static ConditionVariable *queue_of(uint32 stripe) {
	return &aipg_shared_memory->stripe_freed[stripe % AIPG_STRIPE_QUEUES];
}

static bool try_acquire(uint32 stripe) {
	uint32 nobody = 0;

	return pg_atomic_compare_exchange_u32(&aipg_shared_memory->stripes[stripe].owner, &nobody, MyProc->pgprocno + 1);
}

static void acquire(uint32 stripe) {
	if (try_acquire(stripe)) {
		return;
	}
	ConditionVariablePrepareToSleep(queue_of(stripe));
	while (!try_acquire(stripe)) {
		ConditionVariableSleep(queue_of(stripe), PG_WAIT_EXTENSION);
	}
	ConditionVariableCancelSleep();
}

void aipg_stripes_acquire(aipg_stripe_set *set) {
	for (uint32 stripe = set->held; stripe < AIPG_STRIPES; stripe++) {
		if (has(set, stripe)) {
			acquire(stripe);
		}
		set->held = stripe + 1;
	}
}

void aipg_stripes_release(aipg_stripe_set *set, aidb_sequence sequence) {
	bool freed[AIPG_STRIPE_QUEUES] = {false};

	for (uint32 stripe = 0; stripe < set->held; stripe++) {
		aipg_stripe *shared = &aipg_shared_memory->stripes[stripe];

		if (has(set, stripe)) {
			if (sequence > pg_atomic_read_u64(&shared->last_sequence)) {
				pg_atomic_write_u64(&shared->last_sequence, sequence);
			}
			pg_write_barrier();
			pg_atomic_write_u32(&shared->owner, 0);
			freed[stripe % AIPG_STRIPE_QUEUES] = true;
		}
	}
	set->held = 0;
	for (int queue = 0; queue < AIPG_STRIPE_QUEUES; queue++) {
		if (freed[queue]) {
			ConditionVariableBroadcast(&aipg_shared_memory->stripe_freed[queue]);
		}
	}
}

bool aipg_stripe_changed(uint32 stripe, aidb_sequence sequence) {
	return pg_atomic_read_u64(&aipg_shared_memory->stripes[stripe].last_sequence) > sequence;
}
