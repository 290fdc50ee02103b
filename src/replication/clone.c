/*
 * What a primary gives a new replica: all rows of a database's AiDb tables and key spaces as of one snapshot, in the order of
 * their keys, preceded by the log of their definitions. The replica reads in one REPEATABLE READ transaction, call by call.
 */
#include "postgres.h"

#include "access.h"
#include "access/xact.h"
#include "catalog.h"
#include "commands/dbcommands.h"
#include "ddl_log.h"
#include "fmgr.h"
#include "funcapi.h"
#include "key_codec.h"
#include "miscadmin.h"
#include "nodes/pg_list.h"
#include "slots.h"
#include "sql_value.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"

PG_FUNCTION_INFO_V1(aipg_sql_clone_read);

#define MIN_BYTES 1024
#define MAX_BYTES (64 << 20)

typedef struct selection {
	const char *database;
	List *index_ids;
} selection;

/* Whether the row is one that the replica is to have. */
static bool is_selected(const selection *of, aidb_slice key, aidb_slice value) {
	uint32 index_id = aipg_key_index_id(key);

	if (aipg_slots_is_row(key)) {
		return true;
	}
	if (index_id == AIPG_INDEX_DEFINITIONS) {
		return strcmp(aipg_ddl_log_read(value).database, of->database) == 0;
	}
	return index_id >= AIPG_FIRST_INDEX_ID && list_member_int(of->index_ids, (int)index_id);
}

/* The smallest key beyond this one. */
static aidb_slice beyond(const bytea *key, StringInfo to) {
	appendBinaryStringInfo(to, VARDATA_ANY(key), (int)VARSIZE_ANY_EXHDR(key));
	appendStringInfoChar(to, '\0');
	return (aidb_slice){to->data, (size_t)to->len};
}

/* Puts rows into the batch; *last is the key of the last one that was looked at. False: there are no more. */
static bool collect(aipg_cursor *cursor, const selection *of, size_t max_bytes, aidb_batch *batch, StringInfo last) {
	aidb_slice key, value;

	while (aidb_batch_operations(batch).size < max_bytes) {
		CHECK_FOR_INTERRUPTS();
		if (!aipg_cursor_next(cursor, &key, &value)) {
			return false;
		}
		resetStringInfo(last);
		appendBinaryStringInfo(last, key.data, (int)key.size);
		if (is_selected(of, key, value) && aidb_batch_put(batch, key, value) != AIDB_OK) {
			aipg_raise(AIDB_NO_MEMORY, "could not copy rows for a replica");
		}
	}
	return true;
}

/* clone_read(after, max_bytes) → operations, rows, last key (null: that was all), sequence of the snapshot, store id */
Datum aipg_sql_clone_read(PG_FUNCTION_ARGS) {
	StringInfo lower = makeStringInfo(), last = makeStringInfo();
	int32 max_bytes = aipg_int32_argument(fcinfo, 1, "max_bytes", MIN_BYTES, MAX_BYTES);
	selection of = {.database = get_database_name(MyDatabaseId), .index_ids = aipg_catalog_ids()};
	aidb_batch *batch;
	aipg_cursor *cursor;
	aipg_view view;
	Datum columns[5];
	bool nulls[5] = {false};
	volatile bool more = false;

	aipg_require_one_snapshot("clone_read");
	view = aipg_view_of(GetActiveSnapshot(), InvalidOid);
	batch = aidb_batch_create();
	if (batch == NULL) {
		aipg_raise(AIDB_NO_MEMORY, "could not copy rows for a replica");
	}
	PG_TRY();
	{
		if (VARSIZE_ANY_EXHDR(PG_GETARG_BYTEA_PP(0)) == 0) {
			aipg_key_start(lower, 0, AIPG_INDEX_DEFINITIONS);
		} else {
			beyond(PG_GETARG_BYTEA_PP(0), lower);
		}
		cursor = aipg_cursor_open(&view, (aidb_slice){lower->data, (size_t)lower->len}, (aidb_slice){NULL, 0}, false);
		more = collect(cursor, &of, (size_t)max_bytes, batch, last);
		aipg_cursor_close(cursor);
		columns[0] = PointerGetDatum(aipg_bytea(aidb_batch_operations(batch)));
		columns[1] = Int64GetDatum(aidb_batch_count(batch));
	}
	PG_FINALLY();
	{ aidb_batch_destroy(batch); }
	PG_END_TRY();
	nulls[2] = !more;
	columns[2] = PointerGetDatum(aipg_bytea((aidb_slice){last->data, (size_t)last->len}));
	columns[3] = Int64GetDatum((int64)view.sequence);
	columns[4] = Int64GetDatum((int64)aidb_store_id(aipg_store()));
	PG_RETURN_DATUM(aipg_row(fcinfo, columns, nulls));
}
