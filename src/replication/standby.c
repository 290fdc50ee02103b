#include "replication/standby.h"

#include "access.h"
#include "catalog.h"
#include "key_codec.h"
#include "access/xact.h"
#include "catalog/pg_type_d.h"
#include "common/pg_prng.h"
#include "libpq/pqsignal.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "port/pg_bswap.h"
#include "replication/apply.h"
#include "replication/backup.h"
#include "replication/cached_rows.h"
#include "replication/upstream.h"
#include "role.h"
#include "row_cache.h"
#include "slots.h"
#include "storage/condition_variable.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lwlock.h"
#include "storage/proc.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#define CONNECT_MS 5000
#define COPY_MS 600000    /* for a part of the copy, or for transactions at the primary to end */
#define POLL_MS 2000      /* how long the primary may wait for more */
#define CACHE_POLL_MS 250 /* the same for a caching read node, which has to hear that nothing has changed */
#define SAVE_MS 60000     /* between writing down what is remembered */
#define ANSWER_MS 10000   /* how long it may take beyond that */
#define RESPONSE_BYTES (1 << 20)
#define FIRST_NAP_MS 100
#define LAST_NAP_MS 5000
#define LAUNCH_NAP_MS 1000
#define NUMBER_BYTES 24

/* ---- Progress -------------------------------------------------------------------------------------------- */

static void show(const char *state, const char *detail) {
	aipg_progress progress = aipg_progress_get();

	strlcpy(progress.state, state, sizeof(progress.state));
	strlcpy(progress.detail, detail, sizeof(progress.detail));
	aipg_progress_set(&progress);
}

static void show_copied(uint64 rows) {
	aipg_progress progress = aipg_progress_get();

	strlcpy(progress.state, "copying", sizeof(progress.state));
	progress.detail[0] = '\0';
	progress.rows_copied = rows;
	aipg_progress_set(&progress);
}

static void show_applied(const aipg_position *position, const aipg_stream_head *head) {
	aipg_progress progress = aipg_progress_get();

	strlcpy(progress.state, "streaming", sizeof(progress.state));
	progress.detail[0] = '\0';
	progress.applied = position->applied;
	progress.current = head->current;
	progress.heard_at = GetCurrentTimestamp();
	aipg_progress_set(&progress);
}

static bool follows(const aipg_role_state *role) {
	return role->role == AIPG_STANDBY || role->role == AIPG_CACHE;
}

/* ---- Following ------------------------------------------------------------------------------------------- */

/* What this process follows; until the role changes. */
typedef struct following {
	aipg_role_state role;
	uint64 changes;
	aipg_upstream *upstream;
	aipg_position position;
	TimestampTz save_at;   /* of a caching read node */
	MemoryContext context; /* reset after each answer */
} following;

static bool is_over(const following *self) {
	return ShutdownRequestPending || aipg_role_changes() != self->changes;
}

static int64 number_of(const PGresult *result, int column) {
	int64 value;

	if (PQntuples(result) != 1 || PQgetlength(result, 0, column) != sizeof(value)) {
		ereport(ERROR, (errcode(ERRCODE_PROTOCOL_VIOLATION), errmsg("the primary's answer is malformed")));
	}
	memcpy(&value, PQgetvalue(result, 0, column), sizeof(value));
	return (int64)pg_ntoh64((uint64)value);
}

static aidb_slice bytes_of(const PGresult *result, int column) {
	if (PQntuples(result) != 1 || PQgetisnull(result, 0, column)) {
		ereport(ERROR, (errcode(ERRCODE_PROTOCOL_VIOLATION), errmsg("the primary's answer is malformed")));
	}
	return (aidb_slice){PQgetvalue(result, 0, column), (size_t)PQgetlength(result, 0, column)};
}

/* bytea as a parameter given as text */
static char *hexadecimal(aidb_slice bytes) {
	static const char digits[] = "0123456789abcdef";
	char *text = palloc(bytes.size * 2 + 3);
	char *at = text;

	*at++ = '\\';
	*at++ = 'x';
	for (size_t i = 0; i < bytes.size; i++) {
		uint8 byte = ((const uint8 *)bytes.data)[i];

		*at++ = digits[byte >> 4];
		*at++ = digits[byte & 15];
	}
	*at = '\0';
	return text;
}

static void execute(following *self, const char *sql) {
	PQclear(aipg_upstream_query(self->upstream, sql, 0, NULL, CONNECT_MS));
}

/* Whether what follows this key is to be copied: to a caching read node, the definitions alone. */
static bool is_wanted(const following *self, aidb_slice last) {
	return self->role.role != AIPG_CACHE ||
		   (last.size >= AIPG_KEY_PREFIX_BYTES && aipg_key_index_id(last) <= AIPG_INDEX_DEFINITIONS);
}

/* Reads one part of the copy and writes it; false when it was the last. *last is the key to go on from. */
static bool copy_part(following *self, char **last, uint64 *rows) {
	char size[NUMBER_BYTES];
	const char *values[2] = {*last, size};
	PGresult *result;
	volatile bool more = false;

	snprintf(size, sizeof(size), "%d", RESPONSE_BYTES);
	result = aipg_upstream_query(self->upstream, "SELECT * FROM aidb.clone_read($1, $2)", 2, values, COPY_MS);
	PG_TRY();
	{
		aipg_apply_rows(bytes_of(result, 0));
		*rows += (uint64)number_of(result, 1);
		more = PQgetisnull(result, 0, 2) == 0 && is_wanted(self, bytes_of(result, 2));
		if (more) {
			char *key = hexadecimal(bytes_of(result, 2));

			*last = MemoryContextStrdup(TopMemoryContext, key);
		}
		self->position.complete_at = Max((uint64)number_of(result, 3), self->position.applied);
		self->position.store_id = (uint64)number_of(result, 4);
	}
	PG_FINALLY();
	{ PQclear(result); }
	PG_END_TRY();
	return more;
}

/* Copies everything anew. The slot keeps the log from before the copy's snapshot on. */
static void copy_all(following *self) {
	const char *slot[1] = {self->role.slot};
	char *last = MemoryContextStrdup(TopMemoryContext, "");
	uint64 rows = 0;
	PGresult *result;
	bool more = true;

	ereport(LOG, (errmsg("AiDb copies the tables of its primary anew")));
	aipg_role_publish(0);
	show_copied(0);
	aipg_apply_wipe();
	result = aipg_upstream_query(self->upstream, "SELECT aidb.stream_open($1)", 1, slot, COPY_MS);
	self->position = (aipg_position){.applied = (uint64)number_of(result, 0)};
	PQclear(result);
	execute(self, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY");
	while (more && !is_over(self)) {
		char *from = last;

		more = copy_part(self, &last, &rows);
		if (last != from) {
			pfree(from);
		}
		show_copied(rows);
		MemoryContextReset(self->context);
	}
	pfree(last);
	if (!more) {
		execute(self, "COMMIT");
		self->position.copied = true;
		self->position.window_open = true; /* what the stream brings belongs to it */
		aipg_position_write(&self->position);
		ereport(LOG, (errmsg("AiDb has copied " UINT64_FORMAT " rows of its primary", rows)));
	}
}

static int poll_ms(const following *self) {
	return self->role.role == AIPG_CACHE ? CACHE_POLL_MS : POLL_MS;
}

static PGresult *read_stream(following *self) {
	char epoch[NUMBER_BYTES], after[NUMBER_BYTES], size[NUMBER_BYTES], wait[NUMBER_BYTES];
	const char *values[7] = {self->role.slot, epoch, after, after, aipg_apply_in_doubt(), size, wait};

	snprintf(epoch, sizeof(epoch), UINT64_FORMAT, self->role.epoch);
	snprintf(after, sizeof(after), UINT64_FORMAT, self->position.applied);
	snprintf(size, sizeof(size), "%zu", Min(aidb_max_batch_bytes(aipg_store()) / 4, RESPONSE_BYTES));
	snprintf(wait, sizeof(wait), "%d", aipg_apply_is_complete(&self->position) ? poll_ms(self) : 0);
	return aipg_upstream_query(self->upstream, "SELECT aidb.stream_read($1, $2, $3, $4, $5, $6, $7)", 7, values,
							   POLL_MS + ANSWER_MS);
}

/* A primary of a lower epoch has been replaced; a higher one is taken over. */
static void check_epoch(following *self, const aipg_stream_head *head) {
	if (head->epoch < self->role.epoch) {
		ereport(ERROR, (errcode(AIPG_ERRCODE_WRONG_EPOCH), errmsg("the primary is of epoch " UINT64_FORMAT
																  ", and this replica knows of epoch " UINT64_FORMAT,
																  head->epoch, self->role.epoch)));
	}
	if (head->epoch > self->role.epoch) {
		aipg_role_state state = aipg_role_get();

		state.epoch = head->epoch;
		aipg_role_set(&state);
	}
}

/* False: the role has changed, nothing was applied. */
static bool apply(following *self, const PGresult *result) {
	aidb_slice response = bytes_of(result, 0);
	aidb_slice bytes = response;
	aipg_stream_head head = {0};

	if (!aipg_stream_read_head(&bytes, &head)) {
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED), errmsg("the primary has sent a malformed part of its stream")));
	}
	check_epoch(self, &head);
	if (!aipg_role_begin_apply(self->changes)) {
		return false;
	}
	aipg_apply_response(response, &self->position, &head);
	if (aipg_apply_is_complete(&self->position)) {
		aipg_role_publish(aidb_current_sequence(aipg_store()));
		aipg_slots_show();
		if (self->role.role == AIPG_CACHE) {
			aipg_row_cache_open();
		}
	}
	aipg_role_end_apply();
	show_applied(&self->position, &head);
	return true;
}

static bool follow_stream(following *self) {
	PGresult *result = read_stream(self);
	volatile bool applied = false;

	PG_TRY();
	{ applied = apply(self, result); }
	PG_FINALLY();
	{ PQclear(result); }
	PG_END_TRY();
	MemoryContextReset(self->context);
	return applied;
}

/* What is remembered from before a restart comes back bit by bit, and is written down from time to time for the next. */
static void see_to_cache(following *self) {
	aipg_cached_rows_warm_up(self->position.applied);
	if (GetCurrentTimestamp() >= self->save_at) {
		aipg_cached_rows_save();
		self->save_at = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), SAVE_MS);
	}
}

/* Until the role changes, or an error comes. *well: there was an answer since the connection was made. */
static void follow(following *self, bool *well) {
	show("connecting", "");
	self->upstream = aipg_upstream_connect(self->role.conninfo, CONNECT_MS);
	self->position = aipg_position_read();
	if (aipg_apply_is_complete(&self->position)) {
		aipg_role_publish(aidb_current_sequence(aipg_store()));
		aipg_slots_show();
	}
	if (!self->position.copied) {
		copy_all(self);
	}
	if (self->role.role == AIPG_CACHE) {
		aipg_cached_rows_begin_warm_up();
		self->save_at = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), SAVE_MS);
	}
	while (!is_over(self)) {
		if (!follow_stream(self)) {
			return;
		}
		*well = true;
		if (self->role.role == AIPG_CACHE) {
			see_to_cache(self);
		}
	}
}

/* ---- The worker ------------------------------------------------------------------------------------------ */

static void nap(long ms) {
	WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, ms, PG_WAIT_EXTENSION);
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
}

/* Reports the error that has been raised, and leaves the process ready for another try. */
static void recover(following *self) {
	ErrorData *error;
	bool lost;

	HOLD_INTERRUPTS();
	MemoryContextSwitchTo(self->context);
	error = CopyErrorData();
	EmitErrorReport();
	FlushErrorState();
	AbortOutOfAnyTransaction();
	LWLockReleaseAll();
	ConditionVariableCancelSleep();
	aipg_role_end_apply();
	aipg_apply_restart();
	aipg_row_cache_close();
	MemoryContextSwitchTo(self->context);
	aipg_upstream_close(self->upstream);
	self->upstream = NULL;
	lost = error->sqlerrcode == AIPG_ERRCODE_STREAM_LOST;
	show("failed", error->message);
	MemoryContextReset(self->context);
	RESUME_INTERRUPTS();
	if (lost) {
		/* the next try copies anew */
		aipg_position_write(&(aipg_position){0});
	}
}

static void end_apply(int code, Datum argument) {
	aipg_role_end_apply();
	aipg_cached_rows_save();
	aipg_row_cache_close();
}

/* One try; false when it failed. */
static bool try_to_follow(following *self, bool *well) {
	sigjmp_buf here;
	sigjmp_buf *volatile outer = PG_exception_stack;
	volatile bool fine = false;

	if (sigsetjmp(here, 1) == 0) {
		PG_exception_stack = &here;
		follow(self, well);
		aipg_upstream_close(self->upstream);
		self->upstream = NULL;
		fine = true;
	} else {
		error_context_stack = NULL;
		PG_exception_stack = outer;
		recover(self);
	}
	PG_exception_stack = outer;
	return fine;
}

void aipg_standby_main(Datum argument) {
	following self = {0};
	long nap_ms = FIRST_NAP_MS;

	pqsignal(SIGTERM, die);
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnection(MyBgworkerEntry->bgw_extra, NULL, 0);
	aipg_role_internal = true;
	before_shmem_exit(end_apply, (Datum)0);
	self.context = AllocSetContextCreate(TopMemoryContext, "AiDb standby", ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(self.context);
	self.changes = aipg_role_changes();
	self.role = aipg_role_get();
	while (follows(&self.role) && !self.role.sealed && !is_over(&self)) {
		bool well = false;

		if (!try_to_follow(&self, &well)) {
			nap_ms = well ? FIRST_NAP_MS : Min(nap_ms * 2, LAST_NAP_MS);
			nap(nap_ms + (long)(pg_prng_double(&pg_global_prng_state) * (double)nap_ms / 2));
		}
	}
	show("", "");
	proc_exit(0);
}

/* ---- The launcher ---------------------------------------------------------------------------------------- */

void aipg_standby_register(void) {
	BackgroundWorker worker = {.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION,
							   .bgw_start_time = BgWorkerStart_RecoveryFinished,
							   .bgw_restart_time = 5};

	strlcpy(worker.bgw_name, "aidb replication launcher", BGW_MAXLEN);
	strlcpy(worker.bgw_type, worker.bgw_name, BGW_MAXLEN);
	strlcpy(worker.bgw_library_name, "aidb", BGW_MAXLEN);
	strlcpy(worker.bgw_function_name, "aipg_launcher_main", BGW_MAXLEN);
	RegisterBackgroundWorker(&worker);
}

static BackgroundWorkerHandle *launch(const aipg_role_state *role) {
	BackgroundWorker worker = {.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION,
							   .bgw_start_time = BgWorkerStart_RecoveryFinished,
							   .bgw_restart_time = BGW_NEVER_RESTART,
							   .bgw_notify_pid = MyProcPid};
	BackgroundWorkerHandle *handle = NULL;

	snprintf(worker.bgw_name, BGW_MAXLEN, "aidb standby of database %s", role->database);
	strlcpy(worker.bgw_type, "aidb standby", BGW_MAXLEN);
	strlcpy(worker.bgw_library_name, "aidb", BGW_MAXLEN);
	strlcpy(worker.bgw_function_name, "aipg_standby_main", BGW_MAXLEN);
	strlcpy(worker.bgw_extra, role->database, BGW_EXTRALEN);
	if (!RegisterDynamicBackgroundWorker(&worker, &handle)) {
		ereport(LOG, (errmsg("AiDb cannot follow its primary: no background worker is free"),
					  errhint("Raise \"max_worker_processes\".")));
		return NULL;
	}
	return handle;
}

static bool is_running(BackgroundWorkerHandle *handle) {
	pid_t pid;

	return handle != NULL && GetBackgroundWorkerPid(handle, &pid) != BGWH_STOPPED;
}

/* Starts a worker when there is something to follow, and stops it when that has changed. */
static BackgroundWorkerHandle *see_to_worker(BackgroundWorkerHandle *handle, uint64 *changes) {
	aipg_role_state role = aipg_role_get();
	uint64 now = aipg_role_changes();

	if (is_running(handle)) {
		if (now != *changes) {
			TerminateBackgroundWorker(handle);
		}
		return handle;
	}
	if (handle != NULL) {
		pfree(handle);
	}
	*changes = now;
	return follows(&role) && !role.sealed ? launch(&role) : NULL;
}

void aipg_launcher_main(Datum argument) {
	BackgroundWorkerHandle *handle = NULL;
	uint64 changes = 0;

	pqsignal(SIGTERM, SignalHandlerForShutdownRequest);
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnectionByOid(InvalidOid, InvalidOid, 0);
	aipg_store();
	aipg_backup_discard();
	aipg_role_watch();
	while (!ShutdownRequestPending) {
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
		handle = see_to_worker(handle, &changes);
		aipg_backup_tell_time();
		WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, LAUNCH_NAP_MS, PG_WAIT_EXTENSION);
	}
	if (is_running(handle)) {
		TerminateBackgroundWorker(handle);
	}
	proc_exit(1);
}
