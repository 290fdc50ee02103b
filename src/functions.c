/*
 * functions.c: key spaces, and the store's state, as SQL functions.
 *
 * A key space is an index of its own in the store with bytea keys and values, found by name in the store's catalog.
 * The functions read what the calling statement may see and write into the transaction, as statements on tables do;
 * but writes are blind, whatever was there. They lock the key: of two transactions that write one, the second waits, and
 * in SERIALIZABLE fails.
 */
#include "postgres.h"

#include "access.h"
#include "access/xact.h"
#include "catalog.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "key_codec.h"
#include "lock_table.h"
#include "miscadmin.h"
#include "row_cache.h"
#include "shared.h"
#include "sql_value.h"
#include "table.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/float.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"
#include "utils/tuplestore.h"

PG_FUNCTION_INFO_V1(aipg_sql_put);
PG_FUNCTION_INFO_V1(aipg_sql_get);
PG_FUNCTION_INFO_V1(aipg_sql_delete);
PG_FUNCTION_INFO_V1(aipg_sql_batch_put);
PG_FUNCTION_INFO_V1(aipg_sql_batch_get);
PG_FUNCTION_INFO_V1(aipg_sql_scan);
PG_FUNCTION_INFO_V1(aipg_sql_stats);
PG_FUNCTION_INFO_V1(aipg_sql_durations);
PG_FUNCTION_INFO_V1(aipg_sql_flush);
PG_FUNCTION_INFO_V1(aipg_sql_give_index_id);
PG_FUNCTION_INFO_V1(aipg_sql_table_index_id);
PG_FUNCTION_INFO_V1(aipg_sql_health);

/* ---- Arguments ------------------------------------------------------------------------------------------ */

static void refuse_null(FunctionCallInfo fcinfo, int argument, const char *name) {
	if (PG_ARGISNULL(argument)) {
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED), errmsg("%s must not be null", name)));
	}
}

static void prepare_write(const char *function) {
	PreventCommandIfReadOnly(function);
	PreventCommandIfParallelMode(function);
}

static aidb_slice slice_of_varlena(const void *value) {
	return (aidb_slice){VARDATA_ANY(value), VARSIZE_ANY_EXHDR(value)};
}

static aidb_slice slice_of_key(StringInfo key) {
	return (aidb_slice){key->data, (size_t)key->len};
}

static bool find_space(const text *name, uint32 *space) {
	aidb_slice bytes = slice_of_varlena(name);

	return aipg_catalog_find_space(bytes.data, bytes.size, space);
}

static uint32 make_space(const text *name) {
	aidb_slice bytes = slice_of_varlena(name);

	if (bytes.size == 0 || bytes.size >= NAMEDATALEN) {
		ereport(ERROR, (errcode(ERRCODE_INVALID_NAME), errmsg("invalid name of a key space"),
						errdetail("The name has %zu bytes.", bytes.size),
						errhint("Use a name of 1 to %d bytes.", NAMEDATALEN - 1)));
	}
	return aipg_catalog_make_space(bytes.data, bytes.size);
}

/* The stored key: its last part is the key as it is, since nothing follows that it would have to be told from. */
static void set_key(StringInfo stored, uint32 space, const bytea *key) {
	aidb_slice bytes = slice_of_varlena(key);

	if (bytes.size > AIDB_MAX_KEY_BYTES - AIPG_KEY_PREFIX_BYTES) {
		ereport(ERROR, (errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED), errmsg("key is too long for a key space"),
						errdetail("The key has %zu bytes; the maximum is %u.", bytes.size,
								  AIDB_MAX_KEY_BYTES - AIPG_KEY_PREFIX_BYTES),
						errhint("Use a digest of the long key.")));
	}
	aipg_key_start(stored, 0, space);
	appendBinaryStringInfo(stored, bytes.data, (int)bytes.size);
}

/* ---- One key -------------------------------------------------------------------------------------------- */

static void put_pair(aidb_slice key, aidb_slice value) {
	if (IsolationUsesXactSnapshot()) {
		aipg_view view = aipg_view_of(GetActiveSnapshot(), AIPG_KEY_SPACES);

		aipg_lock_blind(&view, key);
	}
	aipg_put(key, value);
}

Datum aipg_sql_put(PG_FUNCTION_ARGS) {
	StringInfo key = makeStringInfo();

	prepare_write("aidb.put()");
	refuse_null(fcinfo, 0, "keyspace");
	refuse_null(fcinfo, 1, "key");
	refuse_null(fcinfo, 2, "value");
	set_key(key, make_space(PG_GETARG_TEXT_PP(0)), PG_GETARG_BYTEA_PP(1));
	put_pair(slice_of_key(key), slice_of_varlena(PG_GETARG_BYTEA_PP(2)));
	PG_RETURN_VOID();
}

Datum aipg_sql_get(PG_FUNCTION_ARGS) {
	StringInfo key = makeStringInfo();
	aipg_view view = aipg_view_of(GetActiveSnapshot(), AIPG_KEY_SPACES);
	aidb_buffer *value;
	uint32 space;

	if (!find_space(PG_GETARG_TEXT_PP(0), &space)) {
		PG_RETURN_NULL();
	}
	set_key(key, space, PG_GETARG_BYTEA_PP(1));
	value = aipg_buffer_create();
	if (!aipg_get(&view, slice_of_key(key), value)) {
		PG_RETURN_NULL();
	}
	PG_RETURN_BYTEA_P(aipg_bytea((aidb_slice){value->data, value->size}));
}

Datum aipg_sql_delete(PG_FUNCTION_ARGS) {
	StringInfo key = makeStringInfo();
	aipg_view view = aipg_view_of(GetActiveSnapshot(), AIPG_KEY_SPACES);
	uint32 space;

	prepare_write("aidb.delete()");
	refuse_null(fcinfo, 0, "keyspace");
	refuse_null(fcinfo, 1, "key");
	if (!find_space(PG_GETARG_TEXT_PP(0), &space)) {
		PG_RETURN_BOOL(false);
	}
	set_key(key, space, PG_GETARG_BYTEA_PP(1));
	if (!aipg_get(&view, slice_of_key(key), NULL) || !aipg_lock_blind(&view, slice_of_key(key))) {
		PG_RETURN_BOOL(false); /* there is none, or another transaction has just deleted it */
	}
	aipg_remove(slice_of_key(key));
	PG_RETURN_BOOL(true);
}

/* ---- Many keys ------------------------------------------------------------------------------------------ */

/* The elements of a bytea array, none of them null; returns their number. */
static int elements_of(ArrayType *array, const char *name, Datum **elements) {
	bool *nulls;
	int count;

	deconstruct_array(array, BYTEAOID, -1, false, TYPALIGN_INT, elements, &nulls, &count);
	for (int i = 0; i < count; i++) {
		if (nulls[i]) {
			ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED), errmsg("%s must not contain nulls", name)));
		}
	}
	return count;
}

Datum aipg_sql_batch_put(PG_FUNCTION_ARGS) {
	StringInfo key = makeStringInfo();
	Datum *keys, *values;
	int count;
	uint32 space;

	prepare_write("aidb.batch_put()");
	refuse_null(fcinfo, 0, "keyspace");
	refuse_null(fcinfo, 1, "keys");
	refuse_null(fcinfo, 2, "values");
	count = elements_of(PG_GETARG_ARRAYTYPE_P(1), "keys", &keys);
	if (elements_of(PG_GETARG_ARRAYTYPE_P(2), "values", &values) != count) {
		ereport(ERROR, (errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR),
						errmsg("keys and values must have the same number of elements")));
	}
	space = make_space(PG_GETARG_TEXT_PP(0));
	for (int i = 0; i < count; i++) {
		CHECK_FOR_INTERRUPTS();
		set_key(key, space, (bytea *)DatumGetPointer(keys[i]));
		put_pair(slice_of_key(key), slice_of_varlena(DatumGetPointer(values[i])));
	}
	PG_RETURN_INT64(count);
}

static void return_pair(ReturnSetInfo *result, aidb_slice key, const aidb_slice *value) {
	Datum columns[2] = {PointerGetDatum(aipg_bytea(key)), (Datum)0};
	bool nulls[2] = {false, value == NULL};

	if (value != NULL) {
		columns[1] = PointerGetDatum(aipg_bytea((aidb_slice){value->data, value->size}));
	}
	tuplestore_putvalues(result->setResult, result->setDesc, columns, nulls);
}

/* The value's buffer is reused: it grows to the largest once. */
static void return_value_of(ReturnSetInfo *result, const aipg_view *view, uint32 space, const bytea *key,
							aidb_buffer *buffer) {
	StringInfo stored = makeStringInfo();
	aidb_slice value;

	set_key(stored, space, key);
	if (aipg_get(view, slice_of_key(stored), buffer)) {
		value = (aidb_slice){buffer->data, buffer->size};
		return_pair(result, slice_of_varlena(key), &value);
	} else {
		return_pair(result, slice_of_varlena(key), NULL);
	}
}

Datum aipg_sql_batch_get(PG_FUNCTION_ARGS) {
	ReturnSetInfo *result = (ReturnSetInfo *)fcinfo->resultinfo;
	aipg_view view = aipg_view_of(GetActiveSnapshot(), AIPG_KEY_SPACES);
	aidb_buffer *buffer = aipg_buffer_create();
	MemoryContext row_context, caller;
	Datum *keys;
	int count;
	uint32 space = 0;
	bool exists;

	InitMaterializedSRF(fcinfo, 0);
	count = elements_of(PG_GETARG_ARRAYTYPE_P(1), "keys", &keys);
	exists = find_space(PG_GETARG_TEXT_PP(0), &space);
	row_context = AllocSetContextCreate(CurrentMemoryContext, "aidb batch get", ALLOCSET_DEFAULT_SIZES);
	caller = MemoryContextSwitchTo(row_context);
	for (int i = 0; i < count; i++) {
		const bytea *key = (const bytea *)DatumGetPointer(keys[i]);

		CHECK_FOR_INTERRUPTS();
		if (exists) {
			return_value_of(result, &view, space, key, buffer);
		} else {
			return_pair(result, slice_of_varlena(key), NULL);
		}
		MemoryContextReset(row_context);
	}
	MemoryContextSwitchTo(caller);
	MemoryContextDelete(row_context);
	return (Datum)0;
}

/* ---- Ranges --------------------------------------------------------------------------------------------- */

/* A bound of aidb.scan; null is the space's own. A bound longer than any key is cut: no key lies between the two. */
static StringInfo make_bound(FunctionCallInfo fcinfo, int argument, uint32 space, bool upper) {
	StringInfo bound = makeStringInfo();
	aidb_slice bytes = {NULL, 0};

	aipg_key_start(bound, 0, space);
	if (PG_ARGISNULL(argument)) {
		if (upper && !aipg_key_successor(bound)) {
			elog(ERROR, "index id %u has no successor", space);
		}
		return bound;
	}
	bytes = slice_of_varlena(PG_GETARG_BYTEA_PP(argument));
	appendBinaryStringInfo(bound, bytes.data, (int)Min(bytes.size, AIDB_MAX_KEY_BYTES));
	return bound;
}

static int64 row_limit(FunctionCallInfo fcinfo, int argument) {
	int64 limit = PG_ARGISNULL(argument) ? PG_INT64_MAX : PG_GETARG_INT64(argument);

	if (limit < 0) {
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("max_rows must not be negative")));
	}
	return limit;
}

static void return_range(ReturnSetInfo *result, aipg_cursor *cursor, int64 limit) {
	MemoryContext row_context = AllocSetContextCreate(CurrentMemoryContext, "aidb scan", ALLOCSET_DEFAULT_SIZES);
	aidb_slice key, value;

	while (limit-- > 0 && aipg_cursor_next(cursor, &key, &value)) {
		MemoryContext caller = MemoryContextSwitchTo(row_context);

		CHECK_FOR_INTERRUPTS();
		key.data = (const char *)key.data + AIPG_KEY_PREFIX_BYTES;
		key.size -= AIPG_KEY_PREFIX_BYTES;
		return_pair(result, key, &value);
		MemoryContextSwitchTo(caller);
		MemoryContextReset(row_context);
	}
	MemoryContextDelete(row_context);
}

Datum aipg_sql_scan(PG_FUNCTION_ARGS) {
	ReturnSetInfo *result = (ReturnSetInfo *)fcinfo->resultinfo;
	aipg_view view = aipg_view_of(GetActiveSnapshot(), AIPG_KEY_SPACES);
	aipg_cursor *cursor;
	StringInfo lower, upper;
	int64 limit;
	uint32 space;

	refuse_null(fcinfo, 0, "keyspace");
	limit = row_limit(fcinfo, 3);
	InitMaterializedSRF(fcinfo, 0);
	if (!find_space(PG_GETARG_TEXT_PP(0), &space)) {
		return (Datum)0;
	}
	lower = make_bound(fcinfo, 1, space, false);
	upper = make_bound(fcinfo, 2, space, true);
	cursor = aipg_cursor_open(&view, slice_of_key(lower), slice_of_key(upper), !PG_ARGISNULL(4) && PG_GETARG_BOOL(4));
	return_range(result, cursor, limit);
	aipg_cursor_close(cursor);
	return (Datum)0;
}

/* ---- The store ------------------------------------------------------------------------------------------ */

static void return_number(ReturnSetInfo *result, const char *name, uint64 value) {
	Datum columns[2] = {CStringGetTextDatum(name), Int64GetDatum((int64)value)};
	bool nulls[2] = {false, false};

	tuplestore_putvalues(result->setResult, result->setDesc, columns, nulls);
}

typedef struct number_place {
	const char *name;
	size_t offset;
} number_place;

#define NUMBER(field)                                                                                                  \
	{ #field, offsetof(aidb_stats, field) }

static const number_place numbers[] = {
	NUMBER(commits),
	NUMBER(log_writes),
	NUMBER(log_syncs),
	NUMBER(log_bytes),
	NUMBER(log_live_bytes),
	NUMBER(flushes),
	NUMBER(flush_bytes),
	NUMBER(compactions),
	NUMBER(moves),
	NUMBER(compaction_read_bytes),
	NUMBER(compaction_write_bytes),
	NUMBER(cache_hits),
	NUMBER(cache_misses),
	NUMBER(filter_checks),
	NUMBER(filter_skips),
	NUMBER(gets),
	NUMBER(seeks),
	NUMBER(stalls),
	NUMBER(stall_us),
	NUMBER(memory_bytes),
	NUMBER(memtable_bytes),
	NUMBER(cache_bytes),
	NUMBER(entries),
	NUMBER(snapshots),
	NUMBER(readers),
	NUMBER(reservations),
	NUMBER(reserved_bytes),
	NUMBER(sequence),
	NUMBER(oldest_snapshot),
};

Datum aipg_sql_stats(PG_FUNCTION_ARGS) {
	ReturnSetInfo *result = (ReturnSetInfo *)fcinfo->resultinfo;
	aidb_stats stats = {0};
	aipg_row_cache_numbers rows;

	InitMaterializedSRF(fcinfo, 0);
	aidb_stats_get(aipg_store(), &stats);
	for (size_t i = 0; i < lengthof(numbers); i++) {
		return_number(result, numbers[i].name, *(const uint64 *)((const char *)&stats + numbers[i].offset));
	}
	for (int level = 0; level < AIDB_LEVELS; level++) {
		return_number(result, psprintf("level%d_files", level), stats.level_files[level]);
		return_number(result, psprintf("level%d_bytes", level), stats.level_bytes[level]);
	}
	rows = aipg_row_cache_count();
	return_number(result, "row_cache_hits", rows.hits);
	return_number(result, "row_cache_misses", rows.misses);
	return_number(result, "row_cache_invalidations", rows.invalidations);
	return_number(result, "row_cache_bytes", rows.bytes);
	return_number(result, "row_locks", aipg_lock_table_count());
	return_number(result, "writes_off", stats.writes_off);
	return_number(result, "asynchronous_commits", pg_atomic_read_u32(&aipg_shared_memory->asynchronous_commits));
	return (Datum)0;
}

/* One row a bucket: how many took no longer, and the sum of all. */
static void return_durations(ReturnSetInfo *result, const char *operation, const aidb_durations *durations) {
	int64 count = 0;

	for (int i = 0; i < AIDB_DURATION_BUCKETS; i++) {
		bool last = i == AIDB_DURATION_BUCKETS - 1;
		Datum columns[4] = {
			CStringGetTextDatum(operation),
			Float8GetDatum(last ? get_float8_infinity() : (double)((uint64)AIDB_DURATION_FIRST_US << i) / 1e6),
			Int64GetDatum(count += (int64)durations->counts[i]), Float8GetDatum((double)durations->sum_us / 1e6)};
		bool nulls[4] = {false};

		tuplestore_putvalues(result->setResult, result->setDesc, columns, nulls);
	}
}

Datum aipg_sql_durations(PG_FUNCTION_ARGS) {
	ReturnSetInfo *result = (ReturnSetInfo *)fcinfo->resultinfo;
	aidb_stats stats = {0};

	InitMaterializedSRF(fcinfo, 0);
	aidb_stats_get(aipg_store(), &stats);
	return_durations(result, "commit", &stats.commit_durations);
	return_durations(result, "compaction", &stats.compaction_durations);
	return_durations(result, "flush", &stats.flush_durations);
	return_durations(result, "log_sync", &stats.log_sync_durations);
	return (Datum)0;
}

Datum aipg_sql_give_index_id(PG_FUNCTION_ARGS) {
	int64 index_id = PG_GETARG_INT64(0);

	if (index_id < AIPG_FIRST_CLUSTER_ID || index_id > PG_UINT32_MAX) {
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("index id " INT64_FORMAT " is not one of a cluster", index_id),
						errdetail("They go from %u to %u.", AIPG_FIRST_CLUSTER_ID, PG_UINT32_MAX)));
	}
	aipg_catalog_give_id((uint32)index_id);
	PG_RETURN_VOID();
}

/* table_index_id(name) */
Datum aipg_sql_table_index_id(PG_FUNCTION_ARGS) {
	Oid relid =
		DatumGetObjectId(DirectFunctionCall1(regclassin, CStringGetDatum(text_to_cstring(PG_GETARG_TEXT_PP(0)))));
	uint32 index_id;

	if (!aipg_is_table(relid) || !aipg_catalog_lookup(relid, &index_id)) {
		ereport(ERROR, (errcode(ERRCODE_WRONG_OBJECT_TYPE), errmsg("that is not an AiDb table")));
	}
	PG_RETURN_INT64((int64)index_id);
}

Datum aipg_sql_flush(PG_FUNCTION_ARGS) {
	aidb_db *store = aipg_store();
	aidb_status status;

	(void)fcinfo;
	do {
		CHECK_FOR_INTERRUPTS();
		status = aidb_flush(store);
	} while (status == AIDB_INTERRUPTED);
	if (status != AIDB_OK) {
		aipg_raise(status, _("could not flush the AiDb store"));
	}
	PG_RETURN_VOID();
}

/* The store, or NULL with the reason why there is none, palloc'd. In a subtransaction, which undoes what an error left
 * behind; a cancel or shutdown is not the store's and goes on. */
static aidb_db *try_store(char **reason) {
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	aidb_db *volatile store = NULL;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		store = aipg_store();
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		ErrorData *error;

		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		if (ERRCODE_TO_CATEGORY(error->sqlerrcode) == ERRCODE_OPERATOR_INTERVENTION &&
			error->sqlerrcode != ERRCODE_CANNOT_CONNECT_NOW) {
			PG_RE_THROW();
		}
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		*reason = error->detail ? psprintf("%s: %s", error->message, error->detail) : pstrdup(error->message);
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
	return store;
}

typedef struct health {
	const char *status; /* ok, read_only, failed, unavailable */
	const char *detail;
	bool writable;
	uint64 sequence; /* 0: unknown */
} health;

/* Looks for any key, so that a store that cannot be read is found out. */
static health examine(aidb_db *store) {
	static const char probe[AIPG_KEY_PREFIX_BYTES];
	aidb_stats stats = {0};
	aidb_status status = aidb_get(store, NULL, (aidb_slice){probe, sizeof(probe)}, NULL, NULL);

	aidb_stats_get(store, &stats);
	if (status != AIDB_OK && status != AIDB_NOT_FOUND) {
		return (health){"failed", psprintf("%s: %s", aidb_status_text(status), aidb_last_error()), false,
						stats.sequence};
	}
	if (stats.writes_off) {
		return (health){"read_only", _("an I/O error or a full disk has turned writes off"), false, stats.sequence};
	}
	return (health){"ok", "", true, stats.sequence};
}

Datum aipg_sql_health(PG_FUNCTION_ARGS) {
	char *reason = NULL;
	aidb_db *store = try_store(&reason);
	health result = {"unavailable", reason, false, 0};
	Datum columns[4];
	bool nulls[4] = {false, false, false, false};

	if (store != NULL) {
		result = examine(store);
	}
	columns[0] = CStringGetTextDatum(result.status);
	columns[1] = CStringGetTextDatum(result.detail);
	columns[2] = BoolGetDatum(result.writable);
	columns[3] = Int64GetDatum((int64)result.sequence);
	nulls[3] = store == NULL;
	PG_RETURN_DATUM(aipg_row(fcinfo, columns, nulls));
}
