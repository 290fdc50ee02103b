#include "transaction.h"

#include "access.h"
#include "access/transam.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "commands/async.h"
#include "ddl_log.h"
#include "durable_id.h"
#include "guard.h"
#include "host.h"
#include "miscadmin.h"
#include "predicate.h"
#include "prepared.h"
#include "role.h"
#include "row_lock.h"
#include "settings.h"
#include "shared.h"
#include "tcop/dest.h"
#include "tcop/tcopprot.h"
#include "utils/memutils.h"
#include "view.h"
#include "write_cursor.h"

/* A larger batch is not carried by PostgreSQL's log too: there, the copy would cost more than the sync. */
#define CARRIED_BYTES 65536

typedef enum commit_stage { NOTHING_DONE, RESERVED, PREPARED } commit_stage;

/* What the transaction has, until its end. */
static struct {
	aipg_write_set *writes;
	commit_stage stage;
	aidb_batch *batch; /* of a plain commit; malloc'd */
	aidb_reservation reservation;
	bool closed;       /* PRE_COMMIT is over: what is written now would not be committed */
	bool asynchronous; /* counted in asynchronous_commits */
} current;

aipg_write_set *aipg_transaction_writes(void) {
	return current.writes;
}

void aipg_transaction_check_open(void) {
	aipg_store();
	aipg_check_usable();
	if (current.closed) {
		ereport(ERROR, (errcode(ERRCODE_INVALID_TRANSACTION_STATE),
						errmsg("cannot lock or write rows of AiDb tables while the transaction commits")));
	}
}

aipg_write_set *aipg_transaction_begin_write(void) {
	aipg_transaction_check_open();
	aipg_role_check_write();
	if (XactReadOnly) {
		ereport(ERROR, (errcode(ERRCODE_READ_ONLY_SQL_TRANSACTION),
						errmsg("cannot write AiDb tables in a read-only transaction")));
	}
	if (current.writes == NULL) {
		current.writes = aipg_write_set_create(TopTransactionContext);
	}
	return current.writes;
}

static bool note_tag(void *newest, aidb_tag tag) {
	if (!aipg_tag_committed(NULL, tag)) {
		return false;
	}
	((aipg_newest *)newest)->tag = tag;
	return true;
}

/* What a session has given up waiting for is not visible yet, and its locks are gone: nobody may go by what was before it. */
void aipg_wait_for_unreplicated(void) {
	aidb_db *db = aipg_store();
	aidb_sequence sequence = aipg_role_unreplicated();
	aidb_status rc = AIDB_OK;

	if (sequence > aidb_current_sequence(db)) {
		rc = aidb_wait_visible(db, sequence);
	}
	if (rc != AIDB_OK) {
		aipg_raise(rc, "could not wait for a commit that a replica has not acknowledged");
	}
}

aipg_newest aipg_newest_committed(aidb_slice key, aidb_buffer *value) {
	aipg_newest newest = {false, 0, 0};
	aidb_read_options options = {.sequence = AIDB_SEQUENCE_LATEST, .tag_visible = note_tag, .tag_argument = &newest};
	aidb_status rc = aidb_get(aipg_store(), &options, key, value, &newest.version);

	aipg_raise_deferred();
	if (rc != AIDB_OK && rc != AIDB_NOT_FOUND) {
		aipg_raise(rc, "could not read from the AiDb store");
	}
	newest.found = rc == AIDB_OK;
	return newest;
}

/* ---- Before the commit point ----------------------------------------------------------------------------- */

/* The key's writes have no effect: it was inserted and deleted again. But a note is there to be found. */
static bool is_nothing(const aipg_write *write) {
	return write->is_delete && !write->facts.existed && write->value.size == 0;
}

static aidb_status add_write(aidb_batch *batch, const aipg_write *write) {
	if (!write->is_delete) {
		return aidb_batch_put(batch, write->key, write->value);
	}
	return write->value.size > 0 ? aidb_batch_delete_noted(batch, write->key, write->value)
								 : aidb_batch_delete(batch, write->key);
}

static void add_to_batch(aidb_batch *batch, const aipg_write *write) {
	aidb_status rc = add_write(batch, write);

	if (rc != AIDB_OK) {
		aipg_raise(rc, "could not commit to AiDb tables");
	}
}

static size_t footprint(const aipg_write *write) {
	return write->key.size + write->value.size + AIDB_BATCH_OPERATION_BYTES;
}

/* Whether one batch can take all writes. */
static bool fits_one_batch(void) {
	aipg_write_cursor *cursor = aipg_write_cursor_open_all(current.writes);
	size_t limit = aidb_max_batch_bytes(aipg_store());
	size_t bytes = 0;

	for (const aipg_write *write; bytes <= limit && (write = aipg_write_cursor_next(cursor)) != NULL;) {
		bytes += footprint(write);
	}
	aipg_write_cursor_close(cursor);
	return bytes <= limit;
}

/* Fills the batch with `write` and what the cursor has after it, up to the limit; the first without room, or NULL. */
static const aipg_write *fill_batch(aidb_batch *batch, aipg_write_cursor *cursor, const aipg_write *write) {
	size_t limit = aidb_max_batch_bytes(aipg_store());

	aidb_batch_clear(batch);
	Assert(write == NULL || footprint(write) <= limit); /* each write was checked when it was made */
	for (; write != NULL && aidb_batch_bytes(batch) + footprint(write) <= limit;
		 write = aipg_write_cursor_next(cursor)) {
		if (!is_nothing(write)) {
			add_to_batch(batch, write);
		}
	}
	return write;
}

static aidb_batch *new_batch(void) {
	if (current.batch == NULL) {
		current.batch = aidb_batch_create();
	}
	if (current.batch == NULL) {
		aipg_raise(AIDB_NO_MEMORY, "could not commit to AiDb tables");
	}
	return current.batch;
}

static void reserve_plain(void) {
	aidb_batch *batch = new_batch();
	aipg_write_cursor *cursor = aipg_write_cursor_open_all(current.writes);
	aidb_status rc;

	fill_batch(batch, cursor, aipg_write_cursor_next(cursor));
	aipg_write_cursor_close(cursor);
	do {
		CHECK_FOR_INTERRUPTS();
		rc = aidb_write_reserve(aipg_store(), batch, &current.reservation);
	} while (rc == AIDB_INTERRUPTED);
	if (rc != AIDB_OK) {
		aipg_raise(rc, "could not commit to AiDb tables");
	}
	current.stage = RESERVED;
	aipg_fault_point("precommit_reserved");
}

/* Writes the batch, lazily, and has PostgreSQL's log carry it, which makes it durable together with the commit; or syncs. */
static aidb_status write_carried(aidb_batch *batch, aidb_tag tag) {
	aidb_carried carried;
	aidb_status rc = aidb_write_carried(aipg_store(), tag, batch, &carried);

	if (rc != AIDB_OK) {
		return rc;
	}
	aipg_fault_point("precommit_carry");
	return aipg_guard_carry(&carried) ? AIDB_OK : aidb_sync_to(aipg_store(), carried.log_end);
}

static void write_prepared(aidb_batch *batch, aidb_tag tag, bool carry, bool last) {
	aidb_write_options options = {.durability = last ? AIDB_SYNC : AIDB_LAZY, /* the last sync covers all before it */
								  .state = AIDB_BATCH_PREPARED,
								  .tag = tag};
	aidb_status rc;

	do {
		CHECK_FOR_INTERRUPTS();
		rc = carry ? write_carried(batch, tag) : aidb_write(aipg_store(), &options, batch, NULL);
	} while (rc == AIDB_INTERRUPTED);
	if (rc != AIDB_OK) {
		aipg_raise(rc, "could not commit to AiDb tables");
	}
	aipg_fault_point("precommit_piece_prepared");
}

/* `may_carry`: PostgreSQL's commit comes next. */
static void prepare_mixed(bool may_carry) {
	aidb_batch *batch = new_batch();
	aipg_write_cursor *cursor = aipg_write_cursor_open_all(current.writes);
	const aipg_write *write = aipg_write_cursor_next(cursor);
	aidb_tag tag = U64FromFullTransactionId(GetTopFullTransactionId());
	bool first = true;

	current.stage = PREPARED;
	while (write != NULL) {
		bool last, carry;

		write = fill_batch(batch, cursor, write);
		last = write == NULL;
		carry = may_carry && first && last && aidb_batch_bytes(batch) <= CARRIED_BYTES && aipg_guard_is_up();
		write_prepared(batch, tag, carry, last);
		first = false;
	}
	aipg_write_cursor_close(cursor);
	aipg_fault_point("precommit_prepared");
}

static bool is_asynchronous(void) {
	return synchronous_commit == SYNCHRONOUS_COMMIT_OFF;
}

/*
 * Whether the transaction has called NOTIFY, by whatever means. Then PostgreSQL gives it an id after PRE_COMMIT, and tells
 * listeners once that has committed, when a plain commit of ours would be yet to come. Nobody but what refuses PREPARE
 * TRANSACTION for it says so.
 */
static bool has_notifications(void) {
	MemoryContext context = CurrentMemoryContext;
	uint32 held = InterruptHoldoffCount;
	volatile bool has = false;

	PG_TRY();
	{ AtPrepare_Notify(); }
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		FlushErrorState();
		InterruptHoldoffCount = held; /* raising an error set it to zero */
		has = true;
	}
	PG_END_TRY();
	return has;
}

static bool is_mixed(void) {
	return TransactionIdIsValid(GetTopTransactionIdIfAny()) || IsolationIsSerializable() || has_notifications() ||
		   !fits_one_batch();
}

/* What a transaction does outside of AiDb's tables does not reach the replica. */
static void refuse_mixed(void) {
	bool outside = TransactionIdIsValid(GetTopTransactionIdIfAny()) || IsolationIsSerializable() || has_notifications();

	if (outside && !aipg_allow_mixed && !aipg_ddl_log_is_written() && aipg_role_is_synchronous()) {
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cannot commit a transaction that writes AiDb tables and something else"),
				 errdetail("Commits of this server wait for a replica, which does not get PostgreSQL's own tables, "
						   "sequences and notifications, nor what SERIALIZABLE keeps."),
				 errhint("Write the two in transactions of their own, or set \"aidb.allow_mixed\" to let PostgreSQL's "
						 "commit stand for both.")));
	}
}

static void commit_writes(void) {
	aipg_fault_point("precommit_begin");
	aipg_predicate_before_prepare(current.writes);
	if (is_mixed()) {
		refuse_mixed();
		aipg_durable_id_require(U64FromFullTransactionId(GetTopFullTransactionId()));
		prepare_mixed(true);
		if (!is_asynchronous()) {
			ForceSyncCommit(); /* PostgreSQL would not wait for its log when it has nothing else to log than the commit */
		}
		aipg_predicate_after_prepare(current.writes);
	} else {
		reserve_plain();
	}
}

/*
 * What PostgreSQL makes durable must not survive a crash without what it may have followed: asynchronous commits of ours that
 * were seen. When our log has failed they are lost, but that is no reason to stop transactions that do not need it.
 */
static void sync_what_was_seen(void) {
	if (aipg_store_is_ready()) {
		(void)aidb_sync_visible(aipg_store_if_attached());
	}
}

static void pre_commit(void) {
	if (aipg_store_is_ready() && is_asynchronous()) {
		/* whoever sees the commit before its place in PostgreSQL's log is known must take the whole log for it */
		pg_atomic_fetch_add_u32(&aipg_shared_memory->asynchronous_commits, 1);
		current.asynchronous = true;
	}
	if (current.writes != NULL && !aipg_write_set_is_empty(current.writes)) {
		commit_writes();
		aipg_role_check_write(); /* what is reserved now is waited for by who seals this server */
	} else if (!is_asynchronous() && TransactionIdIsValid(GetTopTransactionIdIfAny())) {
		sync_what_was_seen();
	}
	current.closed = true;
}

/* ---- At and after it ----------------------------------------------------------------------------------- */

/*
 * The commit stands, and cannot be undone; whether it survives the loss of this server, nobody knows. The client must not take
 * it for done, nor for failed: it is warned, and the connection ends.
 */
static void leave_unreplicated(aidb_sequence sequence) {
	aipg_role_note_unreplicated(sequence);
	ereport(WARNING,
			(errcode(AIPG_ERRCODE_UNKNOWN_OUTCOME),
			 errmsg("ending the connection: the outcome of the transaction is unknown"),
			 errdetail("It is committed here, but the replica that must have it too has not acknowledged it.")));
	whereToSendOutput = DestNone;
	ProcDiePending = true;
	InterruptPending = true;
}

static void commit_plain(void) {
	aidb_write_options options = {.durability = is_asynchronous() ? AIDB_LAZY : AIDB_SYNC};

	aidb_sequence sequence = 0;
	aidb_status rc;

	aipg_fault_point("commit_begin");
	rc = aidb_write_commit(aipg_store_if_attached(), &options, &current.reservation, &sequence);
	if (rc == AIDB_UNREPLICATED) {
		leave_unreplicated(sequence);
	} else if (rc != AIDB_OK) {
		ereport(PANIC, (errcode(ERRCODE_IO_ERROR), errmsg("could not commit to AiDb tables"),
						errdetail("%s.", aidb_last_error())));
	}
	aipg_fault_point("commit_end");
}

/* A transaction with an id has ended, whatever it wrote. */
static void note_end(void) {
	FullTransactionId transaction = GetTopFullTransactionIdIfAny();
	aidb_db *db = aipg_store_if_attached();

	if (!FullTransactionIdIsValid(transaction) || db == NULL || !aidb_is_started(db)) {
		return;
	}
	aipg_fault_point("commit_mixed_begin");
	if (is_asynchronous()) {
		aipg_require_lsn(XactLastCommitEnd);
	}
	aipg_view_note_end(U64FromFullTransactionId(transaction), false);
	aidb_stream_wake(db);
}

static void stop_counting(void) {
	if (current.asynchronous) {
		pg_atomic_fetch_sub_u32(&aipg_shared_memory->asynchronous_commits, 1);
		current.asynchronous = false;
	}
}

static void forget(void) {
	aidb_batch_destroy(current.batch);
	current.batch = NULL;
	aipg_write_set_close(current.writes);
	current.writes = NULL; /* its memory goes with the transaction's */
	current.stage = NOTHING_DONE;
	current.closed = false;
	aipg_ddl_log_end();
}

static void commit(void) {
	aipg_predicate_committed();
	note_end();
	stop_counting();
	if (current.stage == RESERVED) {
		commit_plain();
	} else if (current.stage == PREPARED) {
		aipg_fault_point("commit_mixed_end");
	}
	aipg_row_locks_release();
	forget();
	aipg_view_transaction_end();
}

/* A prepared batch needs nothing: PostgreSQL's commit log says that it is aborted. */
static void abort_transaction(void) {
	aipg_fault_point("abort_begin");
	stop_counting();
	if (current.stage == RESERVED) {
		aidb_write_cancel(aipg_store_if_attached(), &current.reservation);
	}
	aipg_prepared_cancel();
	aipg_row_locks_release();
	forget();
	aipg_view_transaction_end();
	aipg_fault_point("abort_end");
}

/* As for a mixed transaction: PostgreSQL decides, if only later and elsewhere. */
static void pre_prepare(void) {
	bool writes = current.writes != NULL && !aipg_write_set_is_empty(current.writes);

	if (writes || aipg_row_locks_holder() != 0) {
		uint64 transaction = U64FromFullTransactionId(GetTopFullTransactionId());

		aipg_durable_id_require(transaction);
		aipg_prepared_reserve(transaction);
		aipg_fault_point("preprepare_reserved");
		if (writes) {
			aipg_predicate_before_prepare(current.writes);
			prepare_mixed(false);
			aipg_predicate_after_prepare(current.writes);
		} else if (aidb_sync(aipg_store()) != AIDB_OK) {
			aipg_raise(AIDB_IO, "could not prepare a transaction on AiDb tables");
		}
	} else if (TransactionIdIsValid(GetTopTransactionIdIfAny()) && aipg_store_is_ready()) {
		aipg_prepared_reserve(U64FromFullTransactionId(GetTopFullTransactionId())); /* for its end to be noted */
		sync_what_was_seen();
	}
	current.closed = true;
}

static void prepare(void) {
	aipg_fault_point("prepare_begin");
	aipg_prepared_keep();
	forget();
	aipg_view_transaction_end();
}

static void transaction_event(XactEvent event, void *unused) {
	switch (event) {
	case XACT_EVENT_PRE_COMMIT:
		pre_commit();
		break;
	case XACT_EVENT_COMMIT:
		commit();
		break;
	case XACT_EVENT_ABORT:
		abort_transaction();
		break;
	case XACT_EVENT_PRE_PREPARE:
		pre_prepare();
		break;
	case XACT_EVENT_PREPARE:
		prepare();
		break;
	default:
		break;
	}
}

static void subtransaction_event(SubXactEvent event, SubTransactionId id, SubTransactionId parent, void *unused) {
	int level = GetCurrentTransactionNestLevel();

	if (event == SUBXACT_EVENT_ABORT_SUB) {
		aipg_fault_point("subtransaction_abort");
		aipg_view_subtransaction_abort(level);
		if (current.writes != NULL) {
			aipg_write_set_subabort(current.writes, level);
		}
		aipg_row_locks_subabort(level);
	} else if (event == SUBXACT_EVENT_COMMIT_SUB) {
		aipg_fault_point("subtransaction_commit");
		if (current.writes != NULL) {
			aipg_write_set_subcommit(current.writes, level);
		}
		aipg_row_locks_subcommit(level);
	}
}

void aipg_transaction_init(void) {
	RegisterXactCallback(transaction_event, NULL);
	RegisterSubXactCallback(subtransaction_event, NULL);
}
