#include "worker.h"

#include "access.h"
#include "access/transam.h"
#include "access/xact.h"
#include "catalog.h"
#include "guard.h"
#include "host.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "prepared.h"
#include "role.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "shared.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/proc.h"
#include "storage/procsignal.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/wait_event.h"

#define NAP_MS 200
#define FAILURE_NAP_MS 1000
#define RESTART_S 10
#define PURGE_ROWS 10000
#define TAG_AGE 5000000 /* transactions */

/* The compactor also sees to the rows of dropped tables. The logger has nothing else to do that could take long: checkpoints
 * wait for it. */
typedef enum worker_kind { LOGGER, FLUSHER, COMPACTOR } worker_kind;

static const char *const names[] = {"aidb logger", "aidb flusher", "aidb compactor"};
static const aidb_work_kind works[] = {AIDB_WORK_LOG, AIDB_WORK_FLUSH, AIDB_WORK_COMPACT};

void aipg_worker_register(void) {
	for (int kind = LOGGER; kind <= COMPACTOR; kind++) {
		BackgroundWorker worker = {.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION,
								   .bgw_start_time = BgWorkerStart_RecoveryFinished,
								   .bgw_restart_time = RESTART_S,
								   .bgw_main_arg = Int32GetDatum(kind)};

		strlcpy(worker.bgw_name, names[kind], BGW_MAXLEN);
		strlcpy(worker.bgw_type, names[kind], BGW_MAXLEN);
		strlcpy(worker.bgw_library_name, "aidb", BGW_MAXLEN);
		strlcpy(worker.bgw_function_name, "aipg_worker_main", BGW_MAXLEN);
		RegisterBackgroundWorker(&worker);
	}
}

static void announce(worker_kind kind, uint32 process) {
	pg_atomic_write_u32(&aipg_shared_memory->worker_process[works[kind]], process);
}

static void withdraw(int code, Datum kind) {
	if (DatumGetInt32(kind) == LOGGER) {
		aipg_guard_drop(aipg_store_if_attached());
	}
	announce(DatumGetInt32(kind), 0);
}

/* Everything of this kind that there is to do; false when it failed. An error is logged once until it has gone. */
static bool work_until_done(aidb_db *db, aidb_work_kind kind, bool *failing) {
	aidb_status rc = AIDB_OK;
	bool did = true;

	while ((rc == AIDB_INTERRUPTED || (rc == AIDB_OK && did)) && !ShutdownRequestPending) {
		CHECK_FOR_INTERRUPTS();
		rc = aidb_work(db, kind, &did);
	}
	if (rc != AIDB_OK && rc != AIDB_INTERRUPTED && !*failing) {
		ereport(LOG,
				(errmsg("AiDb's background work failed and will be tried again"), errdetail("%s.", aidb_last_error())));
	}
	*failing = rc != AIDB_OK && rc != AIDB_INTERRUPTED;
	return rc == AIDB_OK;
}

/* In a transaction of its own, for the snapshot. */
static bool purge_some(void) {
	bool more;

	StartTransactionCommand();
	XactIsoLevel = XACT_READ_COMMITTED; /* whatever the default is */
	more = aipg_catalog_purge(PURGE_ROWS);
	CommitTransactionCommand();
	return more;
}

/*
 * A tagged version must have lost its tag before PostgreSQL forgets the fate of its transaction (pg_xact is cut some 50 million
 * transactions behind, at the least). Compaction sees to that for files; so memory is flushed every so many transactions, and
 * once at a start, for what the log brought back.
 */
static void flush_old_tags(aidb_db *db) {
	static uint64 flushed_at = 0;
	uint64 next = U64FromFullTransactionId(ReadNextFullTransactionId());

	if (next - flushed_at >= TAG_AGE && aidb_flush(db) == AIDB_OK) {
		flushed_at = next;
	}
}

/* Syncs what was left to be synced later, and prepares the next segment; of the two the second may take long. */
static bool see_to_log(aidb_db *db, bool *failing) {
	bool did;
	aidb_status rc;

	aipg_guard_renew(db);
	rc = aidb_work(db, AIDB_WORK_LOG, &did);
	if (rc != AIDB_OK && !*failing) {
		ereport(LOG, (errmsg("AiDb's log could not be synced or prepared"), errdetail("%s.", aidb_last_error())));
	}
	*failing = rc != AIDB_OK;
	return rc == AIDB_OK;
}

static bool see_to_files(aidb_db *db, bool *failing) {
	while (purge_some() && !ShutdownRequestPending) {
		CHECK_FOR_INTERRUPTS();
	}
	if (aipg_role_now() != AIPG_RESTORING) { /* rows of the server that the backup is of */
		aipg_prepared_restore();
		aipg_prepared_sweep();
	}
	flush_old_tags(db);
	return work_until_done(db, AIDB_WORK_COMPACT, failing);
}

static bool work_once(aidb_db *db, worker_kind kind, bool *failing) {
	switch (kind) {
	case FLUSHER:
		return work_until_done(db, AIDB_WORK_FLUSH, failing);
	case COMPACTOR:
		return see_to_files(db, failing);
	default:
		return see_to_log(db, failing);
	}
}

void aipg_worker_main(Datum argument) {
	worker_kind kind = DatumGetInt32(argument);
	bool failing = false;
	MemoryContext context;
	aidb_db *db;

	pqsignal(SIGTERM, SignalHandlerForShutdownRequest);
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnectionByOid(InvalidOid, InvalidOid, 0); /* of no database: just for transactions */
	context = AllocSetContextCreate(TopMemoryContext, "AiDb worker", ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(context);
	aipg_role_internal = true;
	db = aipg_store();
	announce(kind, (uint32)MyProc->pgprocno + 1);
	before_shmem_exit(withdraw, Int32GetDatum(kind));
	while (!ShutdownRequestPending) {
		bool well;

		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
		well = work_once(db, kind, &failing);
		MemoryContextReset(context);
		if (!ShutdownRequestPending) {
			WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, well ? NAP_MS : FAILURE_NAP_MS,
					  PG_WAIT_EXTENSION);
		}
	}
	proc_exit(1); /* with 0 it would never be started again */
}
