#include "host.h"

#include <errno.h>
#include <signal.h>
#include <unistd.h>

#include "access/transam.h"
#include "access/xlog.h"
#include "access/xlog_internal.h"
#include "common/pg_prng.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/interrupt.h"
#include "role.h"
#include "shared.h"
#include "storage/latch.h"
#include "storage/lwlock.h"
#include "storage/proc.h"
#include "storage/procarray.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"
#include "view.h"
#include "wal.h"

/* How old the oldest-transaction horizon may be that flush and compaction go by; an old one is only more cautious. */
#define HORIZON_MS 100

char *aipg_fault_setting = NULL;
bool aipg_holds_checkpointer = false;

/* ---- Waiting ------------------------------------------------------------------------------------------- */

static aidb_host host;
static int (*futex_wait)(void *context, uint32_t *word, uint32_t expected, uint64_t timeout_us,
						 aidb_wait_reason reason);

static uint32_t host_member(void *context) {
	return MyProc == NULL ? UINT32_MAX : (uint32_t)MyProc->pgprocno;
}

/* A process that dies without cleaning up makes the postmaster restart all of them, with fresh shared memory. */
static bool host_member_alive(void *context, uint32_t member) {
	return true;
}

/* Only what ends the statement or the process; ShutdownRequestPending is how our workers are asked to. */
static bool wants_to_stop(aidb_wait_reason reason) {
	if (reason == AIDB_WAIT_REPLICA) {
		/* also within a commit, which has been done here; and no replica will ever acknowledge to a sealed server again */
		return ShutdownRequestPending || QueryCancelPending || ProcDiePending || aipg_role_is_sealed();
	}
	return ShutdownRequestPending || (InterruptHoldoffCount == 0 && (QueryCancelPending || ProcDiePending));
}

/* As a postmaster that is there would do at once. */
static void end_checkpointer(void) {
	Latch *latch = ProcGlobal->checkpointerLatch;
	int process = latch == NULL ? 0 : latch->owner_pid;

	if (process > 0) {
		kill(process, SIGQUIT);
	}
}

/*
 * Without a postmaster, nobody restarts the server when a process dies, so what this one waits for may never come, and
 * while it waits no new server can start. Shared memory is lost anyway: leave without touching it. PostmasterIsAlive()
 * looks once after the signal of the death, and is told that all is well when a process that was just being forked
 * still holds the postmaster's end of the pipe; so ask for the parent.
 */
void aipg_leave_if_orphaned(void) {
	if (IsUnderPostmaster && getppid() != PostmasterPid) {
		if (aipg_holds_checkpointer) {
			end_checkpointer();
		}
		_exit(1);
	}
}

/* ---- What pg_stat_activity shows ----------------------------------------------------------------------------- */

/* Extensions cannot name wait events of their own in PostgreSQL 15, but lock tranches they can. */
static const char *const wait_names[] = {
	[AIDB_WAIT_LATCH] = "AidbLatch",     [AIDB_WAIT_SYNC] = "AidbLogSync", [AIDB_WAIT_PUBLISH] = "AidbPublish",
	[AIDB_WAIT_ROOM] = "AidbMemory",     [AIDB_WAIT_JOB] = "AidbJob",      [AIDB_WAIT_STREAM] = "AidbStream",
	[AIDB_WAIT_REPLICA] = "AidbReplica",
};
static uint32 wait_events[lengthof(wait_names)]; /* of this process; 0: not looked up yet */

void aipg_host_shmem_request(void) {
	for (size_t i = 0; i < lengthof(wait_names); i++) {
		RequestNamedLWLockTranche(wait_names[i], 1);
	}
}

static uint32 wait_event(aidb_wait_reason reason) {
	if (wait_events[reason] == 0) {
		wait_events[reason] = PG_WAIT_LWLOCK | GetNamedLWLockTranche(wait_names[reason])[0].lock.tranche;
	}
	return wait_events[reason];
}

static int host_wait(void *context, uint32_t *word, uint32_t expected, uint64_t timeout_us, aidb_wait_reason reason) {
	bool may_take_long = reason == AIDB_WAIT_ROOM || reason == AIDB_WAIT_JOB || reason == AIDB_WAIT_STREAM ||
						 reason == AIDB_WAIT_REPLICA;

	if (may_take_long && wants_to_stop(reason)) {
		return EINTR;
	}
	pgstat_report_wait_start(wait_event(reason));
	futex_wait(NULL, word, expected, timeout_us, reason);
	pgstat_report_wait_end();
	aipg_leave_if_orphaned();
	return may_take_long && wants_to_stop(reason) ? EINTR : 0;
}

static void host_background(void *context, aidb_work_kind kind) {
	uint32 process = pg_atomic_read_u32(&aipg_shared_memory->worker_process[kind]);

	if (process != 0) {
		SetLatch(&ProcGlobal->allProcs[process - 1].procLatch);
	}
}

static uint64_t host_random(void *context) {
	return pg_prng_uint64(&pg_global_prng_state);
}

static void host_log(void *context, aidb_log_level level, const char *text) {
	static const int levels[] = {DEBUG1, LOG, WARNING, LOG};

	HOLD_INTERRUPTS(); /* reporting looks for interrupts, and the engine must not be left by one */
	ereport(levels[level], (errmsg_internal("aidb: %s", text)));
	RESUME_INTERRUPTS();
}

/* ---- Tags ---------------------------------------------------------------------------------------------- */

static ErrorData *deferred = NULL;

void aipg_raise_deferred(void) {
	if (deferred != NULL) {
		ErrorData *error = deferred;

		deferred = NULL;
		ReThrowError(error);
	}
}

/*
 * Whether the transaction has committed and, unless `snapshot` is NULL, the snapshot sees it; in this order, as for a heap
 * row: what the snapshot knows as running may commit while we look. Both questions may have to read files. An error is kept
 * for aipg_raise_deferred, and the answer is false until it is raised.
 */
static bool is_visible(aidb_tag tag, Snapshot snapshot) {
	TransactionId xid = XidFromFullTransactionId((FullTransactionId){.value = tag});
	MemoryContext context = CurrentMemoryContext;
	volatile bool visible = false;
	uint32 held = InterruptHoldoffCount;

	if (deferred != NULL) {
		return false;
	}
	HOLD_INTERRUPTS();
	PG_TRY();
	{ visible = (snapshot == NULL || !XidInMVCCSnapshot(xid, snapshot)) && TransactionIdDidCommit(xid); }
	PG_CATCH();
	{
		MemoryContextSwitchTo(TopMemoryContext);
		deferred = CopyErrorData();
		FlushErrorState();
		MemoryContextSwitchTo(context);
		InterruptHoldoffCount = held + 1; /* raising an error set it to zero */
	}
	PG_END_TRY();
	RESUME_INTERRUPTS();
	return visible;
}

bool aipg_tag_visible(void *snapshot, aidb_tag tag) {
	return is_visible(tag, snapshot);
}

bool aipg_tag_committed(void *unused, aidb_tag tag) {
	return is_visible(tag, NULL);
}

/* A transaction before which all have ended for every snapshot of every process; may be somewhat old. */
static TransactionId horizon(void) {
	static TransactionId oldest = InvalidTransactionId;
	static TimestampTz computed_at = 0;
	TimestampTz now = GetCurrentTimestamp();

	if (!TransactionIdIsValid(oldest) || TimestampDifferenceExceeds(computed_at, now, HORIZON_MS)) {
		oldest = GetOldestNonRemovableTransactionId(NULL);
		computed_at = now;
	}
	return oldest;
}

static aidb_tag_fate host_tag_fate(void *context, aidb_tag tag) {
	TransactionId xid = XidFromFullTransactionId((FullTransactionId){.value = tag});

	if (!TransactionIdPrecedes(xid, horizon())) {
		return AIDB_TAG_OPEN;
	}
	if (!is_visible(tag, NULL)) {
		if (deferred != NULL) {
			/* no transaction to abort here: free what the failed look-up held, and leave the tag as it is */
			FreeErrorData(deferred);
			deferred = NULL;
			LWLockReleaseAll();
			return AIDB_TAG_OPEN;
		}
		return AIDB_TAG_ABORTED;
	}
	/* an asynchronous commit may still be lost */
	return XLogNeedsFlush(TransactionIdGetCommitLSN(xid)) ? AIDB_TAG_OPEN : AIDB_TAG_COMMITTED;
}

static aidb_sequence host_snapshot_floor(void *context) {
	aidb_sequence floor = aipg_view_floor(horizon());
	aidb_sequence published = aipg_role_published();

	return published < floor ? published : floor;
}

/* The end of the last record in PostgreSQL's log. Where a page begins, the place for the next record lies behind a header
 * that is not there to be flushed yet. */
XLogRecPtr aipg_inserted_end(void) {
	XLogRecPtr next = GetXLogInsertRecPtr();
	uint32 offset = next % XLOG_BLCKSZ;
	XLogRecPtr page = next - offset;
	uint32 header = page % wal_segment_size == 0 ? SizeOfXLogLongPHD : SizeOfXLogShortPHD;

	return offset == header ? page : next;
}

/*
 * Before bytes of AiDb's log reach the operating system, what they build on must be durable in PostgreSQL's: the commits
 * of transactions whose effects later batches have seen. That ids of prepared batches are, durable_id.h sees to.
 */
static int host_before_log_write(void *context) {
	XLogRecPtr lsn = InvalidXLogRecPtr;

	if (pg_atomic_read_u32(&aipg_shared_memory->asynchronous_commits) != 0) {
		lsn = aipg_inserted_end();
	}
	pg_read_barrier(); /* a commit that is not counted any more has raised required_lsn before */
	lsn = Max(lsn, pg_atomic_read_u64(&aipg_shared_memory->required_lsn));
	if (XLogNeedsFlush(lsn)) {
		START_CRIT_SECTION(); /* an error becomes a PANIC, as everywhere PostgreSQL flushes its log */
		XLogFlush(lsn);
		END_CRIT_SECTION();
	}
	return 0;
}

/* Crash recovery gives back what PostgreSQL's log carries since the last start; earlier batches have had their turn. */
static int host_before_open(void *context) {
	aipg_wal_start();
	return 0;
}

void aipg_require_lsn(uint64 lsn) {
	uint64 current = pg_atomic_read_u64(&aipg_shared_memory->required_lsn);

	while (current < lsn && !pg_atomic_compare_exchange_u64(&aipg_shared_memory->required_lsn, &current, lsn)) {}
}

/* ---- Fault points -------------------------------------------------------------------------------------- */

/*
 * aidb.fault_point = 'name=action': kill (this process, by SIGKILL), kill-all (the postmaster too), panic, terminate and
 * cancel (as by the functions of these names), error, fatal, pause (100 ms). Inside the engine only those that do not
 * raise are possible: `error` and `fatal` are ignored there. They are not for steps after the commit point either.
 */
static bool fault_is(const char *name, const char *action) {
	size_t length = strlen(name);

	return strncmp(aipg_fault_setting, name, length) == 0 && aipg_fault_setting[length] == '=' &&
		   strcmp(aipg_fault_setting + length + 1, action) == 0;
}

static void host_fault_point(void *context, const char *name) {
	if (aipg_fault_setting == NULL || aipg_fault_setting[0] == '\0') {
		return;
	}
	if (fault_is(name, "kill-all")) {
		kill(PostmasterPid, SIGKILL);
		kill(MyProcPid, SIGKILL);
	}
	if (fault_is(name, "kill")) {
		kill(MyProcPid, SIGKILL);
	}
	if (fault_is(name, "panic")) {
		ereport(PANIC, (errcode(ERRCODE_INTERNAL_ERROR), errmsg("fault point \"%s\" reached", name)));
	}
	if (fault_is(name, "terminate")) {
		kill(MyProcPid, SIGTERM);
	}
	if (fault_is(name, "cancel")) {
		kill(MyProcPid, SIGINT);
	}
	if (fault_is(name, "pause")) {
		pg_usleep(100000L);
	}
}

void aipg_fault_point(const char *name) {
	host_fault_point(NULL, name);
	if (aipg_fault_setting != NULL && (fault_is(name, "error") || fault_is(name, "fatal"))) {
		ereport(fault_is(name, "fatal") ? FATAL : ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR), errmsg("fault point \"%s\" reached", name)));
	}
}

/* ---- The table ----------------------------------------------------------------------------------------- */

const aidb_host *aipg_host(void) {
	if (host.wait == NULL) {
		aidb_host_init(&host);
		futex_wait = host.wait;
		host.member = host_member;
		host.member_alive = host_member_alive;
		host.random = host_random;
		host.log = host_log;
		host.background = host_background;
		host.tag_fate = host_tag_fate;
		host.snapshot_floor = host_snapshot_floor;
		host.before_log_write = host_before_log_write;
		host.before_open = host_before_open;
		host.fault_point = host_fault_point;
		host.wait = host_wait;
	}
	return &host;
}
