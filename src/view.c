#include "view.h"

#include "access/transam.h"
#include "access/xact.h"
#include "miscadmin.h"
#include "shared.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

/* An engine snapshot that belongs to a PostgreSQL snapshot. */
typedef struct held_view {
	Snapshot snapshot; /* the key; its memory lives as long as the execution */
	aidb_snapshot engine;
	struct held_view *next;
	MemoryContextCallback callback;
} held_view;

static held_view *executions = NULL;	 /* of running executions */
static held_view *starting = NULL;		 /* taken, and the execution has no memory of its own yet */
static Snapshot start_snapshot = NULL;	 /* of the execution that is starting now */
static aidb_snapshot transaction_view;	 /* REPEATABLE READ */
static bool transaction_view_held = false;
static aidb_snapshot passing_view;		 /* for callers outside of an execution; until the next one asks */
static bool passing_view_held = false;

/* ---- Taking -------------------------------------------------------------------------------------------- */

/* The entry with this index is not, or will in this moment not be, in the ring any more. */
static bool is_overwritten(aipg_shared *shared, uint64 index) {
	return pg_atomic_read_u64(&shared->ended_count) - index >= shared->ended_size;
}

/*
 * The sequence to go back to, so that no plain commit is seen that may build on a mixed transaction that `snapshot` does
 * not see; `sequence` itself when there is none. *oldest is the index of the oldest entry that was looked at.
 *
 * Entries are in the order in which transactions noted their end, PostgreSQL's snapshots in the order in which they left
 * its list; the two differ by at most one entry a process. So when more visible entries than there are processes have
 * been met, all older ones are visible too.
 */
static aidb_sequence consistent_sequence(Snapshot snapshot, aidb_sequence sequence, uint64 *oldest) {
	aipg_shared *shared = aipg_shared_memory;
	uint64 index = pg_atomic_read_u64(&shared->ended_count);
	int seen = 0;

	while (index > 0 && seen <= MaxBackends) {
		aipg_ended *ended = &shared->ended[(index - 1) & (shared->ended_size - 1)];
		uint64 transaction = pg_atomic_read_u64(&ended->transaction);
		uint64 at = pg_atomic_read_u64(&ended->sequence);

		pg_read_barrier();
		if (is_overwritten(shared, --index)) {
			break;
		}
		if (!XidInMVCCSnapshot(XidFromFullTransactionId((FullTransactionId){.value = transaction}), snapshot)) {
			seen++;
		} else if (at < sequence) {
			sequence = at;
		}
	}
	*oldest = index;
	return sequence;
}

static void take(Snapshot snapshot, aidb_snapshot *engine) {
	aipg_shared *shared = aipg_shared_memory;
	aidb_db *db = aipg_store();
	aidb_status rc;
	uint64 oldest;

	rc = aidb_snapshot_acquire(db, engine);
	if (rc != AIDB_OK) {
		aipg_raise(rc, "could not take a snapshot of AiDb tables");
	}
	aidb_snapshot_lower(db, engine, consistent_sequence(snapshot, engine->sequence, &oldest));
	/* Only what is still in the ring now has kept flush and compaction from dropping what we see. */
	if (is_overwritten(shared, oldest)) {
		aidb_snapshot_release(db, engine);
		ereport(ERROR, (errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
						errmsg("could not take a snapshot of AiDb tables: too many transactions ended meanwhile"),
						errhint("Try the transaction again.")));
	}
}

static void release(const aidb_snapshot *engine) {
	aidb_snapshot_release(aipg_store_if_attached(), engine);
}

void aipg_view_transaction(void) {
	if (!transaction_view_held && IsolationUsesXactSnapshot() && FirstSnapshotSet && ActiveSnapshotSet() &&
		aipg_store_is_ready()) {
		take(GetTransactionSnapshot(), &transaction_view);
		transaction_view_held = true;
	}
}

/* ---- Executions ---------------------------------------------------------------------------------------- */

static held_view *find(held_view *list, Snapshot snapshot) {
	while (list != NULL && list->snapshot != snapshot) {
		list = list->next;
	}
	return list;
}

static void unlink_view(held_view **list, held_view *view) {
	while (*list != NULL && *list != view) {
		list = &(*list)->next;
	}
	if (*list == view) {
		*list = view->next;
	}
}

static void end_execution(void *argument) {
	held_view *view = argument;

	unlink_view(&executions, view);
	release(&view->engine);
}

/* Takes a view for the execution that is starting. */
static held_view *hold_for_start(Snapshot snapshot) {
	held_view *view = MemoryContextAllocZero(TopMemoryContext, sizeof(*view));

	PG_TRY();
	{
		take(snapshot, &view->engine);
	}
	PG_CATCH();
	{
		pfree(view);
		PG_RE_THROW();
	}
	PG_END_TRY();
	view->snapshot = snapshot;
	view->next = starting;
	starting = view;
	return view;
}

void aipg_view_before_execution(QueryDesc *query) {
	Snapshot snapshot = query->snapshot;

	start_snapshot = snapshot;
	if (snapshot == NULL || snapshot->snapshot_type != SNAPSHOT_MVCC || !aipg_store_is_ready()) {
		return;
	}
	if (IsolationUsesXactSnapshot()) {
		aipg_view_transaction();
		return;
	}
	if (find(executions, snapshot) != NULL) {
		return; /* a statement within that one, with its snapshot */
	}
	hold_for_start(snapshot);
}

void aipg_view_after_execution_start(QueryDesc *query) {
	held_view *view = find(starting, query->snapshot);
	held_view *kept;

	start_snapshot = NULL;
	if (view == NULL) {
		return;
	}
	kept = MemoryContextAllocZero(query->estate->es_query_cxt, sizeof(*kept));
	*kept = *view;
	unlink_view(&starting, view);
	pfree(view);
	kept->next = executions;
	executions = kept;
	kept->callback = (MemoryContextCallback){.func = end_execution, .arg = kept};
	MemoryContextRegisterResetCallback(query->estate->es_query_cxt, &kept->callback);
}

/* What was starting when an error came never started. */
static void drop_starting(void) {
	start_snapshot = NULL;
	while (starting != NULL) {
		held_view *view = starting;

		starting = view->next;
		release(&view->engine);
		pfree(view);
	}
}

void aipg_view_subtransaction_abort(void) {
	drop_starting();
}

void aipg_view_transaction_end(void) {
	drop_starting();
	if (transaction_view_held) {
		transaction_view_held = false;
		release(&transaction_view);
	}
	if (passing_view_held) {
		passing_view_held = false;
		release(&passing_view);
	}
}

void aipg_check_isolation(void) {
	if (IsolationIsSerializable()) {
		ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
						errmsg("AiDb tables cannot be used in a SERIALIZABLE transaction"),
						errhint("Use REPEATABLE READ, and check what the transaction depends on.")));
	}
}

aipg_view aipg_view_of(Snapshot snapshot) {
	held_view *view;
	aipg_view result = {.snapshot = snapshot, .command = snapshot->curcid};

	aipg_store();
	aipg_check_isolation();
	if (IsolationUsesXactSnapshot()) {
		if (!transaction_view_held) {
			take(snapshot, &transaction_view);
			transaction_view_held = true;
		}
		result.sequence = transaction_view.sequence;
		return result;
	}
	view = find(executions, snapshot);
	if (view == NULL) {
		view = find(starting, snapshot);
	}
	if (view == NULL && snapshot == start_snapshot) {
		view = hold_for_start(snapshot); /* the store was not open when the execution began to start */
	}
	if (view != NULL) {
		result.sequence = view->engine.sequence;
		return result;
	}
	if (passing_view_held) {
		passing_view_held = false;
		release(&passing_view);
	}
	take(snapshot, &passing_view);
	passing_view_held = true;
	result.sequence = passing_view.sequence;
	return result;
}

/* ---- Ends of mixed transactions ------------------------------------------------------------------------ */

void aipg_view_note_end(uint64 full_transaction_id) {
	aipg_shared *shared = aipg_shared_memory;
	aidb_db *db = aipg_store_if_attached();
	aipg_ended *ended;
	uint64 index;

	SpinLockAcquire(&shared->ended_lock);
	index = pg_atomic_read_u64(&shared->ended_count);
	ended = &shared->ended[index & (shared->ended_size - 1)];
	pg_atomic_write_u64(&ended->transaction, full_transaction_id);
	pg_atomic_write_u64(&ended->sequence, aidb_current_sequence(db));
	pg_write_barrier();
	pg_atomic_write_u64(&shared->ended_count, index + 1);
	SpinLockRelease(&shared->ended_lock);
}

aidb_sequence aipg_view_floor(TransactionId oldest) {
	aipg_shared *shared = aipg_shared_memory;
	uint64 count = pg_atomic_read_u64(&shared->ended_count);
	uint64 first = count > shared->ended_size ? count - shared->ended_size : 0;
	aidb_sequence floor = AIDB_SEQUENCE_LATEST;

	for (uint64 index = first; index < count; index++) {
		aipg_ended *ended = &shared->ended[index & (shared->ended_size - 1)];
		FullTransactionId transaction = {.value = pg_atomic_read_u64(&ended->transaction)};
		uint64 sequence = pg_atomic_read_u64(&ended->sequence);

		if (!TransactionIdPrecedes(XidFromFullTransactionId(transaction), oldest) && sequence < floor) {
			floor = sequence;
		}
	}
	return floor;
}
