#include "prepared.h"

#include "access.h"
#include "access/transam.h"
#include "access/twophase.h"
#include "access/xact.h"
#include "catalog.h"
#include "key_codec.h"
#include "miscadmin.h"
#include "port/pg_bswap.h"
#include "row_lock.h"
#include "shared.h"
#include "storage/lwlock.h"
#include "storage/procarray.h"
#include "storage/shmem.h"
#include "view.h"

#define TRANCHE "aidb prepared transactions"
#define VERSION 1
#define PIECE_LOCKS 4096 /* in one row */
#define HEAD_BYTES (1 + sizeof(uint64))

/* One lock, as it is kept. */
typedef struct kept_lock {
	uint64 hash;
	uint32 index_id;
	uint8 mode;
	uint8 flags; /* KEPT_... */
} kept_lock;

#define KEPT_BYTES 14
#define KEPT_WRITTEN 1
#define KEPT_TABLE 2

typedef enum place_state { FREE, RESERVED, KEPT } place_state;

typedef struct place {
	place_state state;
	uint64 transaction; /* full transaction id */
	aipg_detached_locks locks;
} place;

/* Guarded by the one lock of the tranche. Lock order: before the partitions of row locks, and PostgreSQL's ProcArrayLock. */
typedef struct prepared_table {
	bool restored;
	int kept; /* places in use by others than who may still roll back; read without the lock as a hint */
	int size;
	place places[FLEXIBLE_ARRAY_MEMBER];
} prepared_table;

static prepared_table *table = NULL;
static place *reserved = NULL; /* by this process's transaction */

/* ---- Shared memory ------------------------------------------------------------------------------------- */

static Size table_bytes(void) {
	return offsetof(prepared_table, places) + (Size)max_prepared_xacts * sizeof(place);
}

void aipg_prepared_shmem_request(void) {
	RequestAddinShmemSpace(table_bytes());
	RequestNamedLWLockTranche(TRANCHE, 1);
}

void aipg_prepared_shmem_startup(void) {
	bool found;

	table = ShmemInitStruct(TRANCHE, table_bytes(), &found);
	if (!found) {
		memset(table, 0, table_bytes());
		table->size = max_prepared_xacts;
	}
	reserved = NULL;
}

static LWLock *latch(void) {
	return &GetNamedLWLockTranche(TRANCHE)->lock;
}

/* ---- Rows ---------------------------------------------------------------------------------------------- */

static aidb_slice slice_of(StringInfo bytes) {
	return (aidb_slice){bytes->data, (size_t)bytes->len};
}

static void start_key(StringInfo key, uint64 transaction) {
	uint64 number = pg_hton64(transaction);

	aipg_key_start(key, 0, AIPG_INDEX_PREPARED);
	appendBinaryStringInfo(key, (const char *)&number, sizeof(number));
}

static void start_value(StringInfo value, uint64 holder) {
	resetStringInfo(value);
	appendStringInfoChar(value, VERSION);
	appendBinaryStringInfo(value, (const char *)&holder, sizeof(holder));
}

/* The locks of this transaction, on their way into rows. */
typedef struct keeping {
	uint64 transaction;
	uint64 holder;
	uint32 pieces;
	StringInfoData key;
	StringInfoData value;
	aidb_batch *batch;
} keeping;

static void write_piece(keeping *keep) {
	aidb_write_options options = {.durability = AIDB_LAZY};
	uint32 piece = pg_hton32(keep->pieces++);
	aidb_status rc;

	start_key(&keep->key, keep->transaction);
	appendBinaryStringInfo(&keep->key, (const char *)&piece, sizeof(piece));
	aidb_batch_clear(keep->batch);
	rc = aidb_batch_put(keep->batch, slice_of(&keep->key), slice_of(&keep->value));
	if (rc == AIDB_OK) {
		rc = aidb_write(aipg_store(), &options, keep->batch, NULL);
	}
	if (rc != AIDB_OK) {
		aipg_raise(rc, "could not keep the row locks of a prepared transaction");
	}
	start_value(&keep->value, keep->holder);
}

static void keep_lock(void *argument, const aipg_held_lock *lock) {
	keeping *keep = argument;
	kept_lock kept = {.hash = lock->hash, .index_id = lock->index_id, .mode = (uint8)lock->mode};

	kept.flags = (uint8)((lock->written ? KEPT_WRITTEN : 0) | (lock->whole_table ? KEPT_TABLE : 0));
	appendBinaryStringInfo(&keep->value, (const char *)&kept, KEPT_BYTES);
	if (keep->value.len >= (int)(HEAD_BYTES + PIECE_LOCKS * KEPT_BYTES)) {
		write_piece(keep);
	}
}

StaticAssertDecl(offsetof(kept_lock, flags) + 1 == KEPT_BYTES, "the fields of a kept lock have no holes");

static void write_rows(uint64 transaction) {
	keeping keep = {.transaction = transaction, .holder = aipg_row_locks_holder()};

	initStringInfo(&keep.key);
	initStringInfo(&keep.value);
	keep.batch = aidb_batch_create();
	if (keep.batch == NULL) {
		aipg_raise(AIDB_NO_MEMORY, "could not keep the row locks of a prepared transaction");
	}
	PG_TRY();
	{
		start_value(&keep.value, keep.holder);
		aipg_row_locks_each(keep_lock, &keep);
		if (keep.value.len > (int)HEAD_BYTES) {
			write_piece(&keep);
		}
	}
	PG_FINALLY();
	{ aidb_batch_destroy(keep.batch); }
	PG_END_TRY();
}

/* The rows below the prefix `lower`. */
static aidb_status open_rows(StringInfo lower, StringInfo upper, aidb_iterator **rows) {
	aidb_read_options options = {.lower = slice_of(lower)};

	resetStringInfo(upper);
	appendBinaryStringInfo(upper, lower->data, lower->len);
	aipg_key_successor(upper);
	options.upper = slice_of(upper);
	return aidb_iterator_create(aipg_store(), &options, rows);
}

static void remove_row(aidb_slice key) {
	aidb_write_options options = {.durability = AIDB_LAZY};

	/* when this fails, the next start removes it */
	(void)aidb_delete(aipg_store(), &options, key);
}

/* Removes the rows of a finished transaction. No error: it is finished, whatever becomes of them. */
static void remove_rows(uint64 transaction) {
	StringInfoData lower, upper;
	aidb_iterator *rows;

	initStringInfo(&lower);
	initStringInfo(&upper);
	start_key(&lower, transaction);
	if (open_rows(&lower, &upper, &rows) == AIDB_OK) {
		for (aidb_iterator_seek_first(rows); aidb_iterator_valid(rows); aidb_iterator_next(rows)) {
			remove_row(aidb_iterator_key(rows));
		}
		aidb_iterator_destroy(rows);
	}
	pfree(lower.data);
	pfree(upper.data);
}

/* ---- Preparing ----------------------------------------------------------------------------------------- */

static place *find_free(void) {
	for (int i = 0; i < table->size; i++) {
		if (table->places[i].state == FREE) {
			return &table->places[i];
		}
	}
	return NULL;
}

void aipg_prepared_reserve(uint64 full_transaction_id) {
	place *found;

	if (max_prepared_xacts == 0) {
		return; /* PostgreSQL says so */
	}
	aipg_prepared_sweep();
	LWLockAcquire(latch(), LW_EXCLUSIVE);
	found = find_free();
	if (found != NULL) {
		*found = (place){.state = RESERVED, .transaction = full_transaction_id};
		reserved = found;
	}
	LWLockRelease(latch());
	if (found == NULL) {
		ereport(ERROR, (errcode(ERRCODE_OUT_OF_MEMORY), errmsg("maximum number of prepared transactions reached"),
						errhint("Increase max_prepared_transactions (currently %d).", max_prepared_xacts)));
	}
	write_rows(full_transaction_id);
}

void aipg_prepared_keep(void) {
	if (reserved == NULL) {
		return;
	}
	LWLockAcquire(latch(), LW_EXCLUSIVE);
	aipg_row_locks_detach(&reserved->locks);
	reserved->state = KEPT;
	table->kept++;
	LWLockRelease(latch());
	reserved = NULL;
}

void aipg_prepared_cancel(void) {
	if (reserved != NULL) {
		LWLockAcquire(latch(), LW_EXCLUSIVE);
		reserved->state = KEPT; /* a finished one without locks: whoever sweeps removes its rows */
		table->kept++;
		LWLockRelease(latch());
		reserved = NULL;
	}
}

/* ---- Finishing ----------------------------------------------------------------------------------------- */

static bool is_finished(uint64 transaction) {
	return !TransactionIdIsInProgress(XidFromFullTransactionId((FullTransactionId){.value = transaction}));
}

/* Frees the locks of one finished transaction and returns its id; 0 when there is none. */
static uint64 finish_one(void) {
	uint64 transaction = 0;

	LWLockAcquire(latch(), LW_EXCLUSIVE);
	for (int i = 0; i < table->size && transaction == 0; i++) {
		place *kept = &table->places[i];

		if (kept->state == KEPT && is_finished(kept->transaction)) {
			transaction = kept->transaction;
			aipg_view_note_end(transaction, true); /* before anybody else can change its keys */
			aipg_row_locks_free(&kept->locks);
			kept->state = FREE;
			table->kept--;
		}
	}
	LWLockRelease(latch());
	return transaction;
}

bool aipg_prepared_sweep(void) {
	uint64 transaction;
	bool any = false;

	while (table->kept > 0 && (transaction = finish_one()) != 0) {
		remove_rows(transaction);
		any = true;
	}
	return any;
}

/* ---- Restarting ---------------------------------------------------------------------------------------- */

static void pg_attribute_noreturn() report_malformed(void) {
	ereport(ERROR,
			(errcode(ERRCODE_DATA_CORRUPTED), errmsg("malformed row of a prepared transaction in the AiDb store"),
			 errhint("Restore the store from a backup.")));
}

/* The place of the transaction, made when it is not there. */
static place *place_of(uint64 transaction) {
	place *found;

	for (int i = 0; i < table->size; i++) {
		if (table->places[i].state == KEPT && table->places[i].transaction == transaction) {
			return &table->places[i];
		}
	}
	found = find_free();
	if (found == NULL) {
		ereport(ERROR, (errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
						errmsg("there are more prepared transactions than max_prepared_transactions"),
						errhint("Increase max_prepared_transactions (currently %d).", max_prepared_xacts)));
	}
	*found = (place){.state = KEPT, .transaction = transaction};
	table->kept++;
	return found;
}

static void restore_piece(uint64 transaction, aidb_slice value) {
	const char *bytes = value.data;
	place *kept;

	if (value.size < HEAD_BYTES || bytes[0] != VERSION || (value.size - HEAD_BYTES) % KEPT_BYTES != 0) {
		report_malformed();
	}
	kept = place_of(transaction);
	memcpy(&kept->locks.holder, bytes + 1, sizeof(uint64));
	for (size_t at = HEAD_BYTES; at < value.size; at += KEPT_BYTES) {
		aipg_held_lock lock;
		kept_lock one;

		memcpy(&one, bytes + at, KEPT_BYTES);
		if (one.mode > LockTupleExclusive) {
			report_malformed();
		}
		lock = (aipg_held_lock){one.hash, one.index_id, (LockTupleMode)one.mode, (one.flags & KEPT_WRITTEN) != 0,
								(one.flags & KEPT_TABLE) != 0};
		aipg_row_lock_restore(&kept->locks, &lock);
	}
}

static void restore_row(aidb_slice key, aidb_slice value) {
	uint64 transaction;

	if (key.size != AIPG_KEY_PREFIX_BYTES + sizeof(uint64) + sizeof(uint32)) {
		report_malformed();
	}
	memcpy(&transaction, (const char *)key.data + AIPG_KEY_PREFIX_BYTES, sizeof(transaction));
	transaction = pg_ntoh64(transaction);
	if (is_finished(transaction)) {
		aipg_view_note_end(transaction, false); /* it may have been finished since the start */
		remove_row(key);
	} else {
		restore_piece(transaction, value);
	}
}

/* Frees what was restored when the rest of it could not be. */
static void take_back(void) {
	for (int i = 0; i < table->size; i++) {
		if (table->places[i].state == KEPT) {
			aipg_row_locks_free(&table->places[i].locks);
			table->places[i].state = FREE;
		}
	}
	table->kept = 0;
}

static void restore_all(void) {
	StringInfoData lower, upper;
	aidb_iterator *rows;
	aidb_status rc;

	initStringInfo(&lower);
	initStringInfo(&upper);
	aipg_key_start(&lower, 0, AIPG_INDEX_PREPARED);
	rc = open_rows(&lower, &upper, &rows);
	if (rc != AIDB_OK) {
		aipg_raise(rc, "could not read the row locks of prepared transactions");
	}
	PG_TRY();
	{
		for (aidb_iterator_seek_first(rows); aidb_iterator_valid(rows); aidb_iterator_next(rows)) {
			restore_row(aidb_iterator_key(rows), aidb_iterator_value(rows));
		}
		if (aidb_iterator_status(rows) != AIDB_OK) {
			aipg_raise(aidb_iterator_status(rows), "could not read the row locks of prepared transactions");
		}
	}
	PG_CATCH();
	{
		take_back();
		aidb_iterator_destroy(rows);
		PG_RE_THROW();
	}
	PG_END_TRY();
	aidb_iterator_destroy(rows);
	table->restored = true;
}

void aipg_prepared_restore(void) {
	if (table->restored) {
		return;
	}
	aipg_store();
	LWLockAcquire(latch(), LW_EXCLUSIVE);
	if (!table->restored) {
		restore_all();
	}
	LWLockRelease(latch());
}
