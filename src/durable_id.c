#include "durable_id.h"

#include "access/xlog.h"
#include "port/atomics.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"
#include "wal.h"

#define TRANCHE "aidb durable ids"
#define IDS_AT_ONCE 4096

/*
 * Recovery must not go on at an id whose place in the commit log has no page yet. Pages begin at multiples of this, and the
 * first id of one makes it.
 */
#define IDS_PER_PAGE (BLCKSZ * 4)

typedef struct reservation {
	pg_atomic_uint64 lsn;   /* end of the newest record; written before `until` */
	pg_atomic_uint64 until; /* full transaction id: those below are reserved */
} reservation;

static reservation *shared = NULL;

/* ---- Shared memory ------------------------------------------------------------------------------------- */

void aipg_durable_id_shmem_request(void) {
	RequestAddinShmemSpace(sizeof(reservation));
	RequestNamedLWLockTranche(TRANCHE, 1);
}

void aipg_durable_id_shmem_startup(void) {
	bool found;

	shared = ShmemInitStruct(TRANCHE, sizeof(*shared), &found);
	if (!found) {
		pg_atomic_init_u64(&shared->lsn, InvalidXLogRecPtr);
		pg_atomic_init_u64(&shared->until, 0);
	}
}

/* ---- Reserving ----------------------------------------------------------------------------------------- */

static bool is_reserved(uint64 id) {
	uint64 until = pg_atomic_read_u64(&shared->until);

	pg_read_barrier();
	return id < until && pg_atomic_read_u64(&shared->lsn) > GetRedoRecPtr();
}

static void reserve(uint64 id) {
	uint64 page_end = (id / IDS_PER_PAGE + 1) * IDS_PER_PAGE;
	uint64 until = Max(Min(id + IDS_AT_ONCE, page_end), pg_atomic_read_u64(&shared->until));
	XLogRecPtr lsn = aipg_wal_reserve_ids(until);

	XLogFlush(lsn);
	pg_atomic_write_u64(&shared->lsn, lsn);
	pg_write_barrier();
	pg_atomic_write_u64(&shared->until, until);
}

void aipg_durable_id_require(uint64 full_transaction_id) {
	LWLock *latch = &GetNamedLWLockTranche(TRANCHE)->lock;

	if (is_reserved(full_transaction_id)) {
		return;
	}
	LWLockAcquire(latch, LW_EXCLUSIVE);
	if (!is_reserved(full_transaction_id)) {
		reserve(full_transaction_id);
	}
	LWLockRelease(latch);
}
