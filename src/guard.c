#include "guard.h"

#include "access/xact.h"
#include "host.h"
#include "miscadmin.h"
#include "port/atomics.h"
#include "storage/proc.h"
#include "storage/shmem.h"
#include "wal.h"

#define WAIT_US 50

typedef struct guard {
	pg_atomic_uint32 up;
	pg_atomic_uint32 used;   /* a record has been inserted since the last sync */
	pg_atomic_uint32 inside; /* processes that may have found it up and have not inserted their record yet */
} guard;

static guard *shared = NULL;

/* ---- Shared memory ------------------------------------------------------------------------------------- */

void aipg_guard_shmem_request(void) {
	RequestAddinShmemSpace(sizeof(guard));
}

void aipg_guard_shmem_startup(void) {
	bool found;

	shared = ShmemInitStruct("aidb guard", sizeof(*shared), &found);
	if (!found) {
		pg_atomic_init_u32(&shared->up, 0);
		pg_atomic_init_u32(&shared->used, 0);
		pg_atomic_init_u32(&shared->inside, 0);
	}
}

/* ---- Who commits --------------------------------------------------------------------------------------- */

bool aipg_guard_is_up(void) {
	return pg_atomic_read_u32(&shared->up) != 0;
}

bool aipg_guard_carry(const aidb_carried *carried) {
	bool up = false;

	if (!aipg_guard_is_up()) {
		return false; /* without counting, so that the keeper never waits for long */
	}
	/* Nothing between the two may raise. Who dies here makes the postmaster restart all. */
	pg_atomic_fetch_add_u32(&shared->inside, 1); /* a full barrier: either the keeper sees us, or we that it is down */
	if (aipg_guard_is_up()) {
		up = true;
		aipg_wal_carry(carried);
		pg_atomic_write_u32(&shared->used, 1);
	}
	pg_atomic_fetch_sub_u32(&shared->inside, 1);
	return up;
}

/* ---- The keeper ---------------------------------------------------------------------------------------- */

/* No new record is carried, and those that were are in AiDb's log, durably. */
static void take_down(aidb_db *db) {
	pg_atomic_write_u32(&shared->up, 0);
	pg_memory_barrier();
	while (pg_atomic_read_u32(&shared->inside) != 0) {
		pg_usleep(WAIT_US);
		aipg_leave_if_orphaned();
	}
	aipg_fault_point("guard_down");
	if (aidb_sync(db) != AIDB_OK) {
		aipg_leave_if_orphaned();
		ereport(PANIC,
				(errcode(ERRCODE_IO_ERROR), errmsg("could not sync AiDb's log"), errdetail("%s.", aidb_last_error())));
	}
	if (pg_atomic_exchange_u32(&shared->used, 0) != 0) {
		aidb_carried synced;

		aidb_carry_synced(db, &synced);
		aipg_wal_carry(&synced); /* recovery need not keep what stands before */
	}
	aipg_fault_point("guard_synced");
}

void aipg_guard_renew(aidb_db *db) {
	if (aipg_holds_checkpointer) {
		aipg_guard_drop(db);
		CommitTransactionCommand();
		aipg_fault_point("guard_dropped");
	}
	SetCurrentStatementStartTimestamp(); /* so that nobody takes it for an old transaction */
	StartTransactionCommand();
	MyProc->delayChkptFlags |= DELAY_CHKPT_COMPLETE;
	aipg_holds_checkpointer = true; /* and this process is the keeper */
	pg_memory_barrier();            /* whoever finds it up has it held */
	pg_atomic_write_u32(&shared->up, 1);
}

void aipg_guard_drop(aidb_db *db) {
	if (aipg_holds_checkpointer) {
		take_down(db);
		MyProc->delayChkptFlags &= ~DELAY_CHKPT_COMPLETE;
		aipg_holds_checkpointer = false;
	}
}
