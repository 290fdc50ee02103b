#include "durable_id.h"

#include "access/rmgr.h"
#include "access/transam.h"
#include "access/xlog.h"
#include "access/xlog_internal.h"
#include "access/xloginsert.h"
#include "port/atomics.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"

#define TRANCHE "aidb durable ids"
#define RESOURCE_MANAGER 173 /* of the numbers for custom ones, 128 to 255 */
#define RECORD_RESERVE 0x00
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

/* ---- The record ---------------------------------------------------------------------------------------- */

static uint64 read_record(XLogReaderState *record) {
	uint64 until;

	if ((XLogRecGetInfo(record) & ~XLR_INFO_MASK) != RECORD_RESERVE || XLogRecGetDataLen(record) != sizeof(until)) {
		elog(PANIC, "unknown record of AiDb in the write-ahead log");
	}
	memcpy(&until, XLogRecGetData(record), sizeof(until));
	return until;
}

static void redo(XLogReaderState *record) {
	uint64 last = read_record(record) - 1;

	AdvanceNextFullTransactionIdPastXid(XidFromFullTransactionId((FullTransactionId){.value = last}));
}

static void describe(StringInfo text, XLogReaderState *record) {
	appendStringInfo(text, "transaction ids below " UINT64_FORMAT, read_record(record));
}

static const char *identify(uint8 info) {
	return (info & ~XLR_INFO_MASK) == RECORD_RESERVE ? "RESERVE_IDS" : NULL;
}

void aipg_durable_id_init(void) {
	static RmgrData manager = {.rm_name = "aidb", .rm_redo = redo, .rm_desc = describe, .rm_identify = identify};

	RegisterCustomRmgr(RESOURCE_MANAGER, &manager);
}

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
	XLogRecPtr lsn;

	XLogBeginInsert();
	XLogRegisterData((char *)&until, sizeof(until));
	lsn = XLogInsert(RESOURCE_MANAGER, RECORD_RESERVE);
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
