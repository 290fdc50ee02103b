#include "transaction.h"

#include "access.h"
#include "access/transam.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "conflict.h"
#include "host.h"
#include "miscadmin.h"
#include "replication/message.h"
#include "shared.h"
#include "utils/memutils.h"
#include "view.h"
#include "write_cursor.h"

typedef enum commit_stage { NOTHING_DONE, STRIPES_TAKEN, RESERVED, PREPARED } commit_stage;

/* What the transaction has, until its end. */
static struct {
	aipg_write_set *writes;
	commit_stage stage;
	aipg_stripe_set stripes;
	aidb_batch *batch; /* of a plain commit; malloc'd */
	aidb_reservation reservation;
	bool closed;       /* PRE_COMMIT is over: what is written now would not be committed */
	bool asynchronous; /* counted in asynchronous_commits */
	aidb_sequence prepared_sequence;
} current;

aipg_write_set *aipg_transaction_writes(void) {
	return current.writes;
}

aipg_write_set *aipg_transaction_begin_write(void) {
	aipg_store();
	aipg_check_usable();
	if (current.closed) {
		ereport(ERROR, (errcode(ERRCODE_INVALID_TRANSACTION_STATE),
						errmsg("cannot write AiDb tables while the transaction commits")));
	}
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

aipg_newest aipg_newest_committed(aidb_slice key, aidb_buffer *value) {
	aipg_newest newest = {false, 0, 0};
	aidb_read_options options = {.sequence = AIDB_SEQUENCE_LATEST, .tag_visible = note_tag, .tag_argument = &newest};
	aidb_status rc = aidb_get(aipg_store(), &options, key, value, &newest.version);

	aipg_raise_deferred();
	if (rc != AIDB_OK && rc != AIDB_NOT_FOUND) {
		aipg_raise(rc, "could not read from the AiDb store");
	}
	newest.found = rc == AIDB_OK;
	if (!newest.found) {
		newest.version = 0;
	}
	return newest;
}

/* ---- Before the commit point ----------------------------------------------------------------------------- */

/* The key's writes have no effect: it was inserted and deleted again. */
static bool is_nothing(const aipg_write *write) {
	return write->is_delete && write->facts.expected == 0 && !write->facts.blind;
}

static void take_stripes(void) {
	aipg_write_cursor *cursor = aipg_write_cursor_open_all(current.writes);

	memset(&current.stripes, 0, sizeof(current.stripes));
	for (const aipg_write *write; (write = aipg_write_cursor_next(cursor)) != NULL;) {
		aipg_stripe_add(&current.stripes, aipg_stripe_of(write->key));
	}
	aipg_write_cursor_close(cursor);
	current.stage = STRIPES_TAKEN;
	aipg_stripes_acquire(&current.stripes);
}

static void report_conflict(const aipg_write *write) {
	if (write->facts.inserted && aipg_report_duplicate != NULL && OidIsValid(write->facts.relation)) {
		aipg_report_duplicate(write->facts.relation, write->key);
	}
	ereport(ERROR,
			(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE), errmsg("could not serialize access due to concurrent update"),
			 errhint("Try the transaction again.")));
}

/* What every key was built on must still be the newest; the stripes keep it so until the commit is visible. */
static void check_conflicts(void) {
	aipg_write_cursor *cursor = aipg_write_cursor_open_all(current.writes);

	for (const aipg_write *write; (write = aipg_write_cursor_next(cursor)) != NULL;) {
		if (!write->facts.blind && !is_nothing(write) &&
			aipg_stripe_changed(aipg_stripe_of(write->key), write->facts.as_of) &&
			aipg_newest_committed(write->key, NULL).version != write->facts.expected) {
			report_conflict(write);
		}
	}
	aipg_write_cursor_close(cursor);
}

static void add_to_batch(aidb_batch *batch, const aipg_write *write) {
	aidb_status rc =
		write->is_delete ? aidb_batch_delete(batch, write->key) : aidb_batch_put(batch, write->key, write->value);

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

/*
 * A transaction id that left no durable trace in PostgreSQL's log would be given out again after a crash, to somebody whose
 * commit would then be ours too. So a record that bears it goes before ours. That the transaction has written records
 * (XactLastRecEnd) does not mean that one of them bears its id: hint bits and pruning are logged without.
 */
static void require_durable_id(void) {
	LogLogicalMessage("aidb", "", 0, true);
	aipg_require_lsn(XactLastRecEnd);
}

static void prepare_mixed(void) {
	aidb_batch *batch = new_batch();
	aipg_write_cursor *cursor = aipg_write_cursor_open_all(current.writes);
	const aipg_write *write = aipg_write_cursor_next(cursor);
	aidb_tag tag = U64FromFullTransactionId(GetTopFullTransactionId());

	require_durable_id();
	current.stage = PREPARED;
	while (write != NULL) {
		aidb_write_options options = {.state = AIDB_BATCH_PREPARED, .tag = tag};
		aidb_status rc;

		write = fill_batch(batch, cursor, write);
		options.durability = write == NULL ? AIDB_SYNC : AIDB_LAZY; /* the last sync covers all before it */
		do {
			CHECK_FOR_INTERRUPTS();
			rc = aidb_write(aipg_store(), &options, batch, NULL);
		} while (rc == AIDB_INTERRUPTED);
		if (rc != AIDB_OK) {
			aipg_raise(rc, "could not commit to AiDb tables");
		}
		aipg_fault_point("precommit_piece_prepared");
	}
	aipg_write_cursor_close(cursor);
	aipg_fault_point("precommit_prepared");
}

static bool is_asynchronous(void) {
	return synchronous_commit == SYNCHRONOUS_COMMIT_OFF;
}

static void commit_writes(void) {
	aipg_fault_point("precommit_begin");
	take_stripes();
	aipg_fault_point("precommit_locked");
	check_conflicts();
	aipg_fault_point("precommit_checked");
	if (TransactionIdIsValid(GetTopTransactionIdIfAny()) || !fits_one_batch()) {
		prepare_mixed();
	} else {
		reserve_plain();
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
	}
	current.closed = true;
}

/* ---- At and after it ----------------------------------------------------------------------------------- */

static aidb_sequence commit_plain(void) {
	aidb_write_options options = {.durability = is_asynchronous() ? AIDB_LAZY : AIDB_SYNC};
	aidb_sequence sequence = 0;

	aipg_fault_point("commit_begin");
	if (aidb_write_commit(aipg_store_if_attached(), &options, &current.reservation, &sequence) != AIDB_OK) {
		ereport(PANIC, (errcode(ERRCODE_IO_ERROR), errmsg("could not commit to AiDb tables"),
						errdetail("%s.", aidb_last_error())));
	}
	aipg_fault_point("commit_end");
	return sequence;
}

/*
 * Its versions have an old sequence, but became visible only now: whoever looked at its keys at the present sequence may
 * have looked too early, and is to look again.
 */
static aidb_sequence end_mixed(void) {
	aipg_fault_point("commit_mixed_end");
	return aidb_current_sequence(aipg_store_if_attached()) + 1;
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
	aipg_view_note_end(U64FromFullTransactionId(transaction));
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
}

static void commit(void) {
	aidb_sequence sequence = 0;

	note_end();
	stop_counting();
	if (current.stage == RESERVED) {
		sequence = commit_plain();
	} else if (current.stage == PREPARED) {
		sequence = end_mixed();
	}
	if (current.stage != NOTHING_DONE) {
		aipg_stripes_release(&current.stripes, sequence);
	}
	forget();
	aipg_view_transaction_end();
}

/* A prepared batch needs nothing: PostgreSQL's commit log says that it is aborted. */
static void abort_transaction(void) {
	stop_counting();
	if (current.stage == RESERVED) {
		aidb_write_cancel(aipg_store_if_attached(), &current.reservation);
	}
	if (current.stage != NOTHING_DONE) {
		aipg_stripes_release(&current.stripes, 0);
	}
	forget();
	aipg_view_transaction_end();
}

static void pre_prepare(void) {
	if (current.writes != NULL && !aipg_write_set_is_empty(current.writes)) {
		ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
						errmsg("cannot PREPARE a transaction that has written AiDb tables"),
						errhint("Commit it in one phase.")));
	}
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
		forget();
		aipg_view_transaction_end();
		break;
	default:
		break;
	}
}

static void subtransaction_event(SubXactEvent event, SubTransactionId id, SubTransactionId parent, void *unused) {
	int level = GetCurrentTransactionNestLevel();

	if (event == SUBXACT_EVENT_ABORT_SUB) {
		aipg_view_subtransaction_abort(level);
		if (current.writes != NULL) {
			aipg_write_set_subabort(current.writes, level);
		}
	} else if (event == SUBXACT_EVENT_COMMIT_SUB && current.writes != NULL) {
		aipg_write_set_subcommit(current.writes, level);
	}
}

void aipg_transaction_init(void) {
	RegisterXactCallback(transaction_event, NULL);
	RegisterSubXactCallback(subtransaction_event, NULL);
}
