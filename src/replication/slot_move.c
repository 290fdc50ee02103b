/*
 * What a server does when slots of sharded tables are moved to another group: rows of slots, as of one snapshot, out of the one that has
 * them and into the one that is to have them; the last moment, in which nobody writes to them; and the removal of
 * what is left. What was committed meanwhile comes by the stream (stream.c). Who moves them calls all that.
 */
#include "postgres.h"

#include <sys/statvfs.h>

#define XXH_INLINE_ALL /* its state stands on the stack */
#include <xxhash.h>

#include "access.h"
#include "access/xact.h"
#include "catalog.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "host.h"
#include "key_codec.h"
#include "latest.h"
#include "miscadmin.h"
#include "nodes/pg_list.h"
#include "placement/slot_set.h"
#include "replication/stream.h"
#include "role.h"
#include "shared.h"
#include "slots.h"
#include "sql_value.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"

PG_FUNCTION_INFO_V1(aipg_sql_closed_slots);
PG_FUNCTION_INFO_V1(aipg_sql_close_slots);
PG_FUNCTION_INFO_V1(aipg_sql_open_slots);
PG_FUNCTION_INFO_V1(aipg_sql_keep_slots);
PG_FUNCTION_INFO_V1(aipg_sql_slots_mark);
PG_FUNCTION_INFO_V1(aipg_sql_slots_hold);
PG_FUNCTION_INFO_V1(aipg_sql_slots_release);
PG_FUNCTION_INFO_V1(aipg_sql_slots_read);
PG_FUNCTION_INFO_V1(aipg_sql_slots_write);
PG_FUNCTION_INFO_V1(aipg_sql_slots_sync);
PG_FUNCTION_INFO_V1(aipg_sql_slots_digest);
PG_FUNCTION_INFO_V1(aipg_sql_slots_purge);
PG_FUNCTION_INFO_V1(aipg_sql_slots_size);

#define MIN_BYTES 1024
#define MAX_BYTES (64 << 20)

/* ---- Arguments ------------------------------------------------------------------------------------------- */

static aidb_slot_set slots_argument(FunctionCallInfo fcinfo, int argument) {
	aidb_slot_set set = {{0}};
	Datum *slots;
	bool *nulls;
	int count;

	deconstruct_array(PG_GETARG_ARRAYTYPE_P(argument), INT4OID, sizeof(int32), true, TYPALIGN_INT, &slots, &nulls,
					  &count);
	for (int i = 0; i < count; i++) {
		int32 slot = nulls[i] ? -1 : DatumGetInt32(slots[i]);

		if (slot < 0 || slot >= (int32)AIDB_SLOTS) {
			ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("there is no slot %d", slot),
							errdetail("Slots are numbered from 0 to %u.", AIDB_SLOTS - 1)));
		}
		aidb_slot_set_add(&set, (uint32)slot);
	}
	return set;
}

/* ---- Closed slots ---------------------------------------------------------------------------------------- */

Datum aipg_sql_closed_slots(PG_FUNCTION_ARGS) {
	Datum slots[AIDB_SLOTS];
	aidb_slot_set closed;
	int count = 0;

	(void)fcinfo;
	aipg_store();
	closed = aipg_slots_closed();
	for (uint32 slot = 0; slot < AIDB_SLOTS; slot++) {
		if (aidb_slot_set_has(&closed, slot)) {
			slots[count++] = Int32GetDatum((int32)slot);
		}
	}
	PG_RETURN_ARRAYTYPE_P(construct_array(slots, count, INT4OID, sizeof(int32), true, TYPALIGN_INT));
}

Datum aipg_sql_close_slots(PG_FUNCTION_ARGS) {
	aidb_slot_set slots = slots_argument(fcinfo, 0);

	aipg_store();
	aipg_role_check_write();
	aipg_slots_close(&slots);
	PG_RETURN_VOID();
}

Datum aipg_sql_open_slots(PG_FUNCTION_ARGS) {
	aidb_slot_set slots = slots_argument(fcinfo, 0);

	aipg_store();
	aipg_role_check_write();
	aipg_slots_open(&slots);
	PG_RETURN_VOID();
}

Datum aipg_sql_keep_slots(PG_FUNCTION_ARGS) {
	aidb_slot_set slots = slots_argument(fcinfo, 0);

	aipg_store();
	aipg_role_check_write();
	aipg_slots_keep(&slots);
	PG_RETURN_VOID();
}

/* Rows may be written and removed below everything only where nobody looks. */
static void check_closed(const aidb_slot_set *slots) {
	aidb_slot_set closed = aipg_slots_closed();

	for (uint32 slot = 0; slot < AIDB_SLOTS; slot++) {
		if (aidb_slot_set_has(slots, slot) && !aidb_slot_set_has(&closed, slot)) {
			ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE), errmsg("slot %u is not closed", slot),
							errhint("Call aidb.close_slots() first.")));
		}
	}
}

/* ---- The last moment ------------------------------------------------------------------------------------- */

Datum aipg_sql_slots_mark(PG_FUNCTION_ARGS) {
	aidb_slot_set slots = slots_argument(fcinfo, 0);

	aipg_store();
	aipg_stream_check_primary(0);
	aipg_slots_mark(&slots);
	PG_RETURN_VOID();
}

/* slots_hold() → what the stream has to come to */
Datum aipg_sql_slots_hold(PG_FUNCTION_ARGS) {
	(void)fcinfo;
	aipg_slots_hold();
	/* also what a session has given up waiting for, whose locks are gone: it will be visible yet */
	PG_RETURN_INT64((int64)Max(aidb_current_sequence(aipg_store()), aipg_role_unreplicated()));
}

Datum aipg_sql_slots_release(PG_FUNCTION_ARGS) {
	(void)fcinfo;
	aipg_slots_release();
	PG_RETURN_VOID();
}

/* ---- Rows ------------------------------------------------------------------------------------------------ */

/* Goes through the slots of a set, one after the other, from a key on. */
typedef struct slot_rows {
	aipg_view view;
	aidb_slot_set slots;
	uint32 slot; /* that is read; AIDB_SLOTS: all have been */
	aipg_cursor *cursor;
} slot_rows;

static aidb_slice start_of(uint32 slot) {
	StringInfo key = makeStringInfo();

	aipg_key_start(key, (uint16)(AIDB_FIRST_STORED_SLOT + slot), 0);
	return (aidb_slice){key->data, (size_t)key->len};
}

static void next_slot(slot_rows *rows) {
	while (rows->slot < AIDB_SLOTS && !aidb_slot_set_has(&rows->slots, rows->slot)) {
		rows->slot++;
	}
}

static slot_rows open_rows(const aipg_view *view, const aidb_slot_set *slots) {
	slot_rows rows = {.view = *view, .slots = *slots};

	next_slot(&rows);
	return rows;
}

/* Beyond this key. */
static void seek_rows(slot_rows *rows, const bytea *after) {
	StringInfo lower = makeStringInfo();

	appendBinaryStringInfo(lower, VARDATA_ANY(after), (int)VARSIZE_ANY_EXHDR(after));
	appendStringInfoChar(lower, '\0');
	if (!aidb_slot_of_stored_key(lower->data, VARSIZE_ANY_EXHDR(after), &rows->slot)) {
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("that is no key of a row")));
	}
	rows->cursor =
		aipg_cursor_open(&rows->view, (aidb_slice){lower->data, (size_t)lower->len}, start_of(rows->slot + 1), false);
}

static bool next_row(slot_rows *rows, aidb_slice *key, aidb_slice *value) {
	while (rows->slot < AIDB_SLOTS) {
		CHECK_FOR_INTERRUPTS();
		if (rows->cursor == NULL) {
			rows->cursor = aipg_cursor_open(&rows->view, start_of(rows->slot), start_of(rows->slot + 1), false);
		}
		if (aipg_cursor_next(rows->cursor, key, value)) {
			return true;
		}
		aipg_cursor_close(rows->cursor);
		rows->cursor = NULL;
		rows->slot++;
		next_slot(rows);
	}
	return false;
}

static void close_rows(slot_rows *rows) {
	if (rows->cursor != NULL) {
		aipg_cursor_close(rows->cursor);
		rows->cursor = NULL;
	}
}

/* Of this database's tables. Others may have dropped some, whose rows are not gone yet. */
static bool is_of(List *index_ids, aidb_slice key) {
	return key.size >= AIPG_KEY_PREFIX_BYTES && list_member_int(index_ids, (int)aipg_key_index_id(key));
}

/* slots_read(slots, after, max_bytes) → operations, rows, last key (null: that was all) */
Datum aipg_sql_slots_read(PG_FUNCTION_ARGS) {
	aidb_slot_set slots = slots_argument(fcinfo, 0);
	const bytea *after = PG_GETARG_BYTEA_PP(1);
	int32 max_bytes = aipg_int32_argument(fcinfo, 2, "max_bytes", MIN_BYTES, MAX_BYTES);
	List *index_ids = aipg_catalog_ids();
	aidb_batch *batch;
	StringInfo last = makeStringInfo();
	aipg_view view;
	slot_rows rows;
	Datum columns[3];
	bool nulls[3] = {false};
	volatile bool more = true;

	aipg_require_one_snapshot("slots_read");
	view = aipg_view_of(GetActiveSnapshot(), InvalidOid);
	rows = open_rows(&view, &slots);
	if (VARSIZE_ANY_EXHDR(after) > 0) {
		seek_rows(&rows, after);
	}
	batch = aidb_batch_create();
	if (batch == NULL) {
		aipg_raise(AIDB_NO_MEMORY, "could not read rows of slots");
	}
	PG_TRY();
	{
		while (more && aidb_batch_operations(batch).size < (size_t)max_bytes) {
			aidb_slice key, value;

			more = next_row(&rows, &key, &value);
			if (more) {
				resetStringInfo(last);
				appendBinaryStringInfo(last, key.data, (int)key.size);
			}
			if (more && is_of(index_ids, key) && aidb_batch_put(batch, key, value) != AIDB_OK) {
				aipg_raise(AIDB_NO_MEMORY, "could not read rows of slots");
			}
		}
		close_rows(&rows);
		columns[0] = PointerGetDatum(aipg_bytea(aidb_batch_operations(batch)));
		columns[1] = Int64GetDatum(aidb_batch_count(batch));
	}
	PG_FINALLY();
	{ aidb_batch_destroy(batch); }
	PG_END_TRY();
	nulls[2] = !more;
	columns[2] = PointerGetDatum(aipg_bytea((aidb_slice){last->data, (size_t)last->len}));
	PG_RETURN_DATUM(aipg_row(fcinfo, columns, nulls));
}

/* slots_digest(slots) → rows, their hash, and which commits have been seen */
Datum aipg_sql_slots_digest(PG_FUNCTION_ARGS) {
	aidb_slot_set slots = slots_argument(fcinfo, 0);
	List *index_ids = aipg_catalog_ids();
	aipg_view view = aipg_view_of(GetActiveSnapshot(), InvalidOid);
	slot_rows rows = open_rows(&view, &slots);
	XXH3_state_t state;
	uint64 count = 0;
	aidb_slice key, value;
	Datum columns[3];
	bool nulls[3] = {false};

	XXH3_64bits_reset(&state);
	while (next_row(&rows, &key, &value)) {
		uint32 sizes[2] = {(uint32)key.size, (uint32)value.size};

		if (is_of(index_ids, key)) {
			XXH3_64bits_update(&state, sizes, sizeof(sizes));
			XXH3_64bits_update(&state, key.data, key.size);
			XXH3_64bits_update(&state, value.data, value.size);
			count++;
		}
	}
	close_rows(&rows);
	columns[0] = Int64GetDatum((int64)count);
	columns[1] = Int64GetDatum((int64)XXH3_64bits_digest(&state));
	columns[2] = Int64GetDatum((int64)view.sequence);
	PG_RETURN_DATUM(aipg_row(fcinfo, columns, nulls));
}

/* slots_size(slots) → about how many rows, and stored bytes; and how many are free where the store is */
Datum aipg_sql_slots_size(PG_FUNCTION_ARGS) {
	aidb_slot_set slots = slots_argument(fcinfo, 0);
	aidb_db *store = aipg_store();
	char directory[MAXPGPATH];
	struct statvfs space;
	uint64 rows = 0, bytes = 0;
	Datum columns[3];
	bool nulls[3] = {false};

	for (uint32 slot = 0; slot < AIDB_SLOTS; slot++) {
		uint64 more_rows = 0, more_bytes = 0;
		aidb_status rc = AIDB_OK;

		CHECK_FOR_INTERRUPTS();
		if (aidb_slot_set_has(&slots, slot)) {
			HOLD_INTERRUPTS();
			rc = aidb_estimate(store, start_of(slot), start_of(slot + 1), &more_rows, &more_bytes);
			RESUME_INTERRUPTS();
		}
		if (rc != AIDB_OK) {
			aipg_raise(rc, "could not estimate the size of slots");
		}
		rows += more_rows;
		bytes += more_bytes;
	}
	if (statvfs(aipg_store_path(directory), &space) != 0) {
		ereport(ERROR, (errcode_for_file_access(), errmsg("could not ask for the space in \"%s\": %m", directory)));
	}
	columns[0] = Int64GetDatum((int64)rows);
	columns[1] = Int64GetDatum((int64)bytes);
	columns[2] = Int64GetDatum((int64)((uint64)space.f_bavail * space.f_frsize));
	PG_RETURN_DATUM(aipg_row(fcinfo, columns, nulls));
}

/* ---- Writing and removing -------------------------------------------------------------------------------- */

static aidb_batch *new_batch(void) {
	aidb_batch *batch = aidb_batch_create();

	if (batch == NULL) {
		aipg_raise(AIDB_NO_MEMORY, "could not write rows of slots");
	}
	return batch;
}

static void write_batch(aidb_batch *batch) {
	aidb_write_options lazy = {.durability = AIDB_LAZY, .state = AIDB_BATCH_PLAIN};
	aidb_status rc = AIDB_OK;

	if (aidb_batch_count(batch) > 0) {
		do {
			CHECK_FOR_INTERRUPTS();
			rc = aidb_write(aipg_store(), &lazy, batch, NULL);
		} while (rc == AIDB_INTERRUPTED);
	}
	if (rc != AIDB_OK) {
		aipg_raise(rc, "could not write rows of slots");
	}
	aidb_batch_clear(batch);
}

static void make_room(aidb_batch *batch, size_t more) {
	if (aidb_batch_bytes(batch) + more + AIDB_BATCH_OPERATION_BYTES > aidb_max_batch_bytes(aipg_store()) / 2) {
		write_batch(batch);
	}
}

static void check_operation(const aidb_operation *operation, const aidb_slot_set *closed) {
	uint32 slot;

	if (!aidb_slot_of_stored_key(operation->key.data, operation->key.size, &slot) || !aidb_slot_set_has(closed, slot)) {
		ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
						errmsg("a row of another slot was to be written"), errhint("Only rows of closed slots are.")));
	}
}

/* slots_write(operations): those of this database's tables */
Datum aipg_sql_slots_write(PG_FUNCTION_ARGS) {
	const bytea *given = PG_GETARG_BYTEA_PP(0);
	aidb_slice left = {VARDATA_ANY(given), VARSIZE_ANY_EXHDR(given)};
	List *index_ids = aipg_catalog_ids();
	aidb_slot_set closed;
	aidb_operation operation;
	aidb_batch *batch;

	aipg_store();
	aipg_role_check_write();
	closed = aipg_slots_closed();
	batch = new_batch();
	PG_TRY();
	{
		while (aidb_operation_next(&left, &operation)) {
			check_operation(&operation, &closed);
			make_room(batch, operation.key.size + operation.value.size);
			if (is_of(index_ids, operation.key) && aidb_batch_add(batch, &operation) != AIDB_OK) {
				aipg_raise(AIDB_NO_MEMORY, "could not write rows of slots");
			}
		}
		if (left.size > 0) {
			ereport(ERROR, (errcode(ERRCODE_DATA_CORRUPTED), errmsg("the rows to be written are malformed")));
		}
		write_batch(batch);
	}
	PG_FINALLY();
	{ aidb_batch_destroy(batch); }
	PG_END_TRY();
	PG_RETURN_VOID();
}

/* What was written is durable, and has been acknowledged if commits wait for a replica. */
Datum aipg_sql_slots_sync(PG_FUNCTION_ARGS) {
	aidb_status rc;

	(void)fcinfo;
	aipg_store();
	aipg_role_check_write();
	do {
		CHECK_FOR_INTERRUPTS();
		rc = aidb_sync(aipg_store());
	} while (rc == AIDB_INTERRUPTED);
	if (rc != AIDB_OK) {
		aipg_raise(rc, "could not sync rows of slots");
	}
	PG_RETURN_VOID();
}

/* slots_purge(slots, max_rows) → how many were removed */
Datum aipg_sql_slots_purge(PG_FUNCTION_ARGS) {
	aidb_slot_set slots = slots_argument(fcinfo, 0);
	int32 max_rows = aipg_int32_argument(fcinfo, 1, "max_rows", 1, PG_INT32_MAX);
	volatile int64 removed = 0;
	aidb_batch *batch;
	slot_rows rows;
	aipg_view view;

	aipg_store();
	aipg_role_check_write();
	check_closed(&slots);
	batch = new_batch();
	view = aipg_latest_begin();
	rows = open_rows(&view, &slots);
	PG_TRY();
	{
		aidb_slice key, value;

		while (removed < max_rows && next_row(&rows, &key, &value)) {
			make_room(batch, key.size);
			if (aidb_batch_delete(batch, key) != AIDB_OK) {
				aipg_raise(AIDB_NO_MEMORY, "could not remove rows of slots");
			}
			removed++;
		}
		close_rows(&rows);
		write_batch(batch);
	}
	PG_FINALLY();
	{ aidb_batch_destroy(batch); }
	PG_END_TRY();
	aipg_latest_end();
	PG_RETURN_INT64(removed);
}
