#include "durable_id.h"

#include "access/xlog.h"
#include "access/xlog_internal.h"
#include "datatype/timestamp.h"
#include "port/atomics.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"
#include "wal.h"

#define TRANCHE "aidb durable ids"

/*
 * PostgreSQL keeps logs by transaction id: of commits, of parents, of commit timestamps. The first id of one of their
 * pages makes the page when it is given out. Recovery must not go on in a page whose first id it has jumped over: who
 * gets an id there would find no page, which is a PANIC when it commits. So a reservation ends with the page of its
 * first id in each.
 */
#define COMMIT_TIMESTAMP_BYTES (sizeof(TimestampTz) + sizeof(RepOriginId))
static const uint64 ids_per_page[] = {BLCKSZ * 4, BLCKSZ / sizeof(TransactionId), BLCKSZ / COMMIT_TIMESTAMP_BYTES};

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

/* Pages are counted by what an id has besides its epoch. */
static uint64 page_end(uint64 id) {
	uint64 xid = XidFromFullTransactionId((FullTransactionId){.value = id});
	uint64 end = PG_UINT64_MAX;

	for (size_t i = 0; i < lengthof(ids_per_page); i++) {
		end = Min(end, (xid / ids_per_page[i] + 1) * ids_per_page[i]);
	}
	return id - xid + end;
}

static void reserve(uint64 id) {
	uint64 until = Max(page_end(id), pg_atomic_read_u64(&shared->until));
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
