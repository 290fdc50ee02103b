#include "worker.h"

#include "access.h"
#include "access/transam.h"
#include "access/xact.h"
#include "catalog.h"
#include "host.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "prepared.h"
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

/* The flusher also sees to the log, the compactor to the rows of dropped tables. */
typedef enum worker_kind { FLUSHER, COMPACTOR } worker_kind;

static const char *const names[] = {"aidb flusher", "aidb compactor"};

void aipg_worker_register(void) {
	for (int kind = FLUSHER; kind <= COMPACTOR; kind++) {
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
	if (kind == FLUSHER) {
		pg_atomic_write_u32(&aipg_shared_memory->worker_process[AIDB_WORK_FLUSH], process);
		pg_atomic_write_u32(&aipg_shared_memory->worker_process[AIDB_WORK_LOG], process);
	} else {
		pg_atomic_write_u32(&aipg_shared_memory->worker_process[AIDB_WORK_COMPACT], process);
	}
}

static void withdraw(int code, Datum kind) {
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

static bool work_once(aidb_db *db, worker_kind kind, bool *failing) {
	if (kind == FLUSHER) {
		bool flushed = work_until_done(db, AIDB_WORK_FLUSH, &failing[0]);
		bool did;

		if (aidb_work(db, AIDB_WORK_LOG, &did) != AIDB_OK && !failing[1]) {
			failing[1] = true;
			ereport(LOG, (errmsg("AiDb's log could not be synced or prepared"), errdetail("%s.", aidb_last_error())));
		}
		return flushed;
	}
	while (purge_some() && !ShutdownRequestPending) {
		CHECK_FOR_INTERRUPTS();
	}
	aipg_prepared_restore();
	aipg_prepared_sweep();
	flush_old_tags(db);
	return work_until_done(db, AIDB_WORK_COMPACT, &failing[0]);
}

void aipg_worker_main(Datum argument) {
	worker_kind kind = DatumGetInt32(argument);
	bool failing[2] = {false, false};
	MemoryContext context;
	aidb_db *db;

	pqsignal(SIGTERM, SignalHandlerForShutdownRequest);
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnectionByOid(InvalidOid, InvalidOid, 0); /* of no database: just for transactions */
	context = AllocSetContextCreate(TopMemoryContext, "AiDb worker", ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(context);
	db = aipg_store();
	announce(kind, (uint32)MyProc->pgprocno + 1);
	before_shmem_exit(withdraw, Int32GetDatum(kind));
	while (!ShutdownRequestPending) {
		bool well;

		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
		well = work_once(db, kind, failing);
		MemoryContextReset(context);
		if (!ShutdownRequestPending) {
			WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, well ? NAP_MS : FAILURE_NAP_MS,
					  PG_WAIT_EXTENSION);
		}
	}
	proc_exit(1); /* with 0 it would never be started again */
}
