#include "view.h"

#include "access/parallel.h"
#include "access/transam.h"
#include "access/twophase.h"
#include "access/xact.h"
#include "miscadmin.h"
#include "role.h"
#include "shared.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

typedef enum view_state { VIEW_NONE, VIEW_HELD, VIEW_NO_SLOT, VIEW_OVERRUN } view_state;

/* An engine snapshot, or why there is none. */
typedef struct taken_view {
	view_state state;
	aidb_snapshot engine;
} taken_view;

/* A view that belongs to a PostgreSQL snapshot. */
typedef struct held_view {
	Snapshot snapshot; /* the key; its memory lives as long as the execution */
	taken_view view;
	int level; /* nesting of the transaction when it was taken */
	struct held_view *next;
	MemoryContextCallback callback;
} held_view;

static held_view *executions = NULL;   /* of running executions */
static held_view *starting = NULL;     /* taken, and the execution has no memory of its own yet */
static Snapshot start_snapshot = NULL; /* of the execution that is starting now */
static taken_view transaction_view;    /* REPEATABLE READ */
static taken_view passing_view;        /* for callers outside of an execution; until the next one asks */
static bool imported = false;          /* the transaction's snapshot is another one's */

/* ---- Taking -------------------------------------------------------------------------------------------- */

/* The entry with this index is not, or will in this moment not be, in the ring any more. */
static bool is_overwritten(aipg_shared *shared, uint64 index) {
	return pg_atomic_read_u64(&shared->ended_count) - index >= shared->ended_size;
}

/* A full transaction id of the recent past. */
static uint64 widen(TransactionId xid) {
	FullTransactionId next = ReadNextFullTransactionId();
	uint64 epoch = EpochFromFullTransactionId(next);

	if (xid > XidFromFullTransactionId(next)) {
		epoch--;
	}
	return epoch << 32 | xid;
}

/* Whether the snapshot takes it for running or not begun. An id of long ago must not be compared by its 32 bits alone. */
static bool is_unseen(uint64 transaction, Snapshot snapshot) {
	return XidInMVCCSnapshot(XidFromFullTransactionId((FullTransactionId){.value = transaction}), snapshot) &&
		   transaction >= widen(snapshot->xmin);
}

/*
 * The sequence to go back to, so that no plain commit is seen that may build on a transaction that `snapshot` does not
 * see; `sequence` itself when there is none. *oldest is the index of the oldest entry that was looked at.
 *
 * Entries are in the order in which transactions noted their end, PostgreSQL's snapshots in the order in which they left
 * its list; the two differ by at most one entry a process and prepared transaction. So when more visible entries than
 * there may be of both have been met, all older ones are visible too.
 */
static aidb_sequence consistent_sequence(Snapshot snapshot, aidb_sequence sequence, uint64 *oldest) {
	aipg_shared *shared = aipg_shared_memory;
	uint64 index = pg_atomic_read_u64(&shared->ended_count);
	int seen = 0;

	while (index > 0 && seen <= MaxBackends + max_prepared_xacts) {
		aipg_ended *ended = &shared->ended[(index - 1) & (shared->ended_size - 1)];
		uint64 transaction = pg_atomic_read_u64(&ended->transaction);
		uint64 at = pg_atomic_read_u64(&ended->sequence);

		pg_read_barrier();
		if (is_overwritten(shared, --index)) {
			break;
		}
		if (!is_unseen(transaction, snapshot)) {
			seen++;
		} else if (at < sequence) {
			sequence = at;
		}
	}
	*oldest = index;
	return sequence;
}

/*
 * Acquires a snapshot; on a replica, of what has been published. Flush and compaction keep what the published sequence sees
 * (host.c); when it has moved on before our snapshot was lowered to it, they may not have, so once more.
 */
static bool acquire(aidb_db *db, aidb_snapshot *snapshot) {
	aidb_sequence published;

	if (aidb_snapshot_acquire(db, snapshot) != AIDB_OK) {
		return false;
	}
	while (!aipg_role_internal && (published = aipg_role_published()) < snapshot->sequence) {
		aidb_snapshot_lower(db, snapshot, published);
		if (aipg_role_published() == published) {
			break;
		}
		aidb_snapshot_release(db, snapshot);
		if (aidb_snapshot_acquire(db, snapshot) != AIDB_OK) {
			return false;
		}
	}
	return true;
}

/* Raises only what PostgreSQL itself may raise about a transaction id. */
static taken_view take(Snapshot snapshot) {
	aipg_shared *shared = aipg_shared_memory;
	aidb_db *db = aipg_store();
	taken_view view = {.state = VIEW_HELD};
	uint64 oldest = 0;

	aipg_role_await_token();
	if (!acquire(db, &view.engine)) {
		return (taken_view){.state = VIEW_NO_SLOT};
	}
	PG_TRY();
	{ aidb_snapshot_lower(db, &view.engine, consistent_sequence(snapshot, view.engine.sequence, &oldest)); }
	PG_CATCH();
	{
		aidb_snapshot_release(db, &view.engine);
		PG_RE_THROW();
	}
	PG_END_TRY();
	/* Only what is still in the ring now has kept flush and compaction from dropping what we see. */
	if (is_overwritten(shared, oldest)) {
		aidb_snapshot_release(db, &view.engine);
		return (taken_view){.state = VIEW_OVERRUN};
	}
	return view;
}

static void release(taken_view *view) {
	if (view->state == VIEW_HELD) {
		aidb_snapshot_release(aipg_store_if_attached(), &view->engine);
	}
	view->state = VIEW_NONE;
}

static aidb_sequence sequence_of(const taken_view *view) {
	if (view->state == VIEW_NO_SLOT) {
		ereport(ERROR, (errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
						errmsg("could not take a snapshot of AiDb tables: all of them are in use"),
						errhint("Close cursors and transactions that are not needed.")));
	}
	if (view->state == VIEW_OVERRUN) {
		ereport(ERROR, (errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
						errmsg("could not take a snapshot of AiDb tables: too many transactions ended meanwhile"),
						errhint("Try the transaction again.")));
	}
	return view->engine.sequence;
}

static bool may_take(void) {
	return !IsParallelWorker() && aipg_store_is_ready();
}

/* After an error PostgreSQL's snapshot stays until the ROLLBACK, which comes by here, too; but nobody would release ours. */
void aipg_view_transaction(void) {
	if (transaction_view.state == VIEW_NONE && IsTransactionState() && IsolationUsesXactSnapshot() &&
		FirstSnapshotSet && ActiveSnapshotSet() && may_take()) {
		transaction_view = take(GetTransactionSnapshot());
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
	held_view *held = argument;

	unlink_view(&executions, held);
	release(&held->view);
}

/* Takes a view for the execution that is starting. */
static held_view *hold_for_start(Snapshot snapshot) {
	taken_view view = take(snapshot);
	held_view *held = MemoryContextAllocExtended(TopMemoryContext, sizeof(*held), MCXT_ALLOC_NO_OOM | MCXT_ALLOC_ZERO);

	if (held == NULL) {
		release(&view);
		ereport(ERROR, (errcode(ERRCODE_OUT_OF_MEMORY), errmsg("out of memory")));
	}
	held->snapshot = snapshot;
	held->view = view;
	held->level = GetCurrentTransactionNestLevel();
	held->next = starting;
	starting = held;
	return held;
}

Snapshot aipg_view_start_begin(QueryDesc *query) {
	Snapshot snapshot = query->snapshot;
	Snapshot outer = start_snapshot;

	start_snapshot = snapshot;
	if (snapshot == NULL || snapshot->snapshot_type != SNAPSHOT_MVCC || !may_take()) {
		return outer;
	}
	if (IsolationUsesXactSnapshot()) {
		aipg_view_transaction();
	} else if (find(executions, snapshot) == NULL && find(starting, snapshot) == NULL) {
		hold_for_start(snapshot); /* otherwise it is a statement within that one, with its snapshot */
	}
	return outer;
}

void aipg_view_started(QueryDesc *query) {
	held_view *held = find(starting, query->snapshot);
	held_view *kept;

	if (held == NULL) {
		return;
	}
	kept = MemoryContextAllocZero(query->estate->es_query_cxt, sizeof(*kept));
	*kept = *held;
	unlink_view(&starting, held);
	pfree(held);
	kept->next = executions;
	executions = kept;
	kept->callback = (MemoryContextCallback){.func = end_execution, .arg = kept};
	MemoryContextRegisterResetCallback(query->estate->es_query_cxt, &kept->callback);
}

void aipg_view_start_end(Snapshot outer) {
	start_snapshot = outer;
}

/* What was starting at this nesting level or a deeper one when an error came never started. */
static void drop_starting(int level) {
	held_view *next;

	for (held_view *held = starting; held != NULL; held = next) {
		next = held->next;
		if (held->level >= level) {
			unlink_view(&starting, held);
			release(&held->view);
			pfree(held);
		}
	}
}

void aipg_view_subtransaction_abort(int level) {
	drop_starting(level);
}

void aipg_view_transaction_end(void) {
	drop_starting(0);
	start_snapshot = NULL;
	imported = false;
	release(&transaction_view);
	release(&passing_view);
}

void aipg_view_note_import(void) {
	imported = true;
}

void aipg_check_usable(void) {
	if (imported) {
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED), errmsg("AiDb tables cannot be used with an imported snapshot"),
				 errdetail("A snapshot of PostgreSQL's does not say which AiDb rows belong to it."),
				 errhint("Read AiDb tables in the transaction that exported the snapshot.")));
	}
	if (IsParallelWorker()) {
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED), errmsg("AiDb tables cannot be used in a parallel worker"),
				 errdetail("A worker does not see what its transaction has written to AiDb tables."),
				 errhint("Mark the function that uses them PARALLEL RESTRICTED.")));
	}
}

aipg_view aipg_view_of(Snapshot snapshot, Oid relation) {
	held_view *held;
	aipg_view result = {.snapshot = snapshot, .command = snapshot->curcid, .relation = relation};

	aipg_check_usable();
	aipg_store();
	aipg_role_check_read();
	if (IsolationUsesXactSnapshot()) {
		if (transaction_view.state == VIEW_NONE) {
			transaction_view = take(snapshot);
		}
		result.sequence = sequence_of(&transaction_view);
		return result;
	}
	held = find(executions, snapshot);
	if (held == NULL) {
		held = find(starting, snapshot);
	}
	if (held == NULL && snapshot == start_snapshot) {
		held = hold_for_start(snapshot); /* the store was not open when the execution began to start */
	}
	if (held == NULL) {
		release(&passing_view);
		passing_view = take(snapshot);
	}
	result.sequence = sequence_of(held != NULL ? &held->view : &passing_view);
	return result;
}

/* ---- Ends of transactions ------------------------------------------------------------------------------ */

void aipg_view_note_end(uint64 full_transaction_id, bool was_prepared) {
	aipg_shared *shared = aipg_shared_memory;
	aidb_db *db = aipg_store_if_attached();
	aipg_ended *ended;
	uint64 index;

	SpinLockAcquire(&shared->ended_lock);
	index = pg_atomic_read_u64(&shared->ended_count);
	ended = &shared->ended[index & (shared->ended_size - 1)];
	pg_atomic_write_u64(&ended->transaction, full_transaction_id);
	pg_atomic_write_u64(&ended->sequence, aidb_current_sequence(db));
	pg_atomic_write_u32(&ended->prepared, was_prepared ? 1 : 0);
	pg_write_barrier();
	pg_atomic_write_u64(&shared->ended_count, index + 1);
	SpinLockRelease(&shared->ended_lock);
}

aidb_sequence aipg_view_floor(TransactionId oldest) {
	aipg_shared *shared = aipg_shared_memory;
	uint64 count, first;
	aidb_sequence floor = AIDB_SEQUENCE_LATEST;

	/* Who notes his end reads the sequence and counts the entry under the lock. So an entry that is not counted now will
	 * not have a lower sequence than the one that is visible now, which the caller read before. */
	SpinLockAcquire(&shared->ended_lock);
	count = pg_atomic_read_u64(&shared->ended_count);
	SpinLockRelease(&shared->ended_lock);
	first = count > shared->ended_size ? count - shared->ended_size : 0;
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
