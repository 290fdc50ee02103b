/*
 * What a primary gives a caching read node: rows by their stored keys, and ranges of them, as of a commit that it names.
 */
#include "postgres.h"

#include "access.h"
#include "fmgr.h"
#include "key_codec.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "replication/rows_format.h"
#include "catalog.h"
#include "role.h"
#include "slots.h"
#include "utils/snapmgr.h"

PG_FUNCTION_INFO_V1(aipg_sql_rows_get);
PG_FUNCTION_INFO_V1(aipg_sql_rows_scan);

#define MIN_BYTES 1024
#define MAX_BYTES (64 << 20)

static void pg_attribute_noreturn() refuse_malformed(void) {
	ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("malformed keys of AiDb rows")));
}

/* Only the primary of this epoch has the rows. */
static void check_primary(int64 epoch) {
	aipg_role_state state = aipg_role_get();

	if (state.role != AIPG_PRIMARY || state.sealed || state.epoch != (uint64)epoch) {
		ereport(ERROR, (errcode(AIPG_ERRCODE_WRONG_EPOCH), errmsg("this server is not the primary of that epoch"),
						errdetail("It is a %s, in epoch " UINT64_FORMAT ".", aipg_role_name(state.role), state.epoch)));
	}
}

static aidb_slice argument(FunctionCallInfo fcinfo, int number) {
	bytea *bytes = PG_GETARG_BYTEA_PP(number);

	return (aidb_slice){VARDATA_ANY(bytes), VARSIZE_ANY_EXHDR(bytes)};
}

/* Keys of the catalog are nobody's business elsewhere. */
static void check_key(aidb_slice key) {
	if (key.size < AIPG_KEY_PREFIX_BYTES || key.size > AIDB_MAX_KEY_BYTES ||
		aipg_key_index_id(key) < AIPG_FIRST_INDEX_ID) {
		refuse_malformed();
	}
}

/* An answer, with room for the header that makes it a bytea. */
static void begin_answer(StringInfo answer, const aipg_view *view) {
	uint8_t sequence[AIPG_SEQUENCE_BYTES];

	initStringInfo(answer);
	appendStringInfoSpaces(answer, VARHDRSZ);
	aipg_rows_write_sequence(sequence, view->sequence);
	appendBinaryStringInfo(answer, (const char *)sequence, sizeof(sequence));
}

static Datum end_answer(StringInfo answer) {
	SET_VARSIZE(answer->data, answer->len);
	return PointerGetDatum(answer->data);
}

static void append_string(StringInfo answer, aidb_slice string) {
	uint8_t length[AIPG_LENGTH_BYTES];

	aipg_rows_write_length(length, (uint32_t)string.size);
	appendBinaryStringInfo(answer, (const char *)length, sizeof(length));
	appendBinaryStringInfo(answer, string.data, (int)string.size);
}

static void append_no_row(StringInfo answer) {
	uint8_t length[AIPG_LENGTH_BYTES];

	aipg_rows_write_length(length, AIPG_NO_ROW);
	appendBinaryStringInfo(answer, (const char *)length, sizeof(length));
}

/* rows_get(epoch, keys) */
Datum aipg_sql_rows_get(PG_FUNCTION_ARGS) {
	aidb_slice keys = argument(fcinfo, 1);
	aidb_buffer *value = aipg_buffer_create();
	StringInfoData answer;
	aipg_view view;
	aidb_slice key;

	check_primary(PG_GETARG_INT64(0));
	view = aipg_view_of(GetActiveSnapshot(), InvalidOid);
	begin_answer(&answer, &view);
	while (keys.size > 0) {
		CHECK_FOR_INTERRUPTS();
		if (!aipg_rows_read_string(&keys, &key)) {
			refuse_malformed();
		}
		check_key(key);
		aipg_slots_check_key(key, &view);
		if (aipg_get(&view, key, value)) {
			append_string(&answer, (aidb_slice){value->data, value->size});
		} else {
			append_no_row(&answer);
		}
	}
	return end_answer(&answer);
}

/* rows_scan(epoch, lower, upper, backwards, max_bytes) */
Datum aipg_sql_rows_scan(PG_FUNCTION_ARGS) {
	aidb_slice lower = argument(fcinfo, 1), upper = argument(fcinfo, 2);
	int32 max_bytes = PG_GETARG_INT32(4);
	StringInfoData answer;
	aipg_cursor *cursor;
	aipg_view view;
	aidb_slice key, value;
	bool more = true;
	int more_at;

	check_primary(PG_GETARG_INT64(0));
	check_key(lower);
	if (upper.size == 0 || max_bytes < MIN_BYTES || max_bytes > MAX_BYTES) {
		refuse_malformed();
	}
	view = aipg_view_of(GetActiveSnapshot(), InvalidOid);
	aipg_slots_check_key(lower, &view);
	begin_answer(&answer, &view);
	more_at = answer.len;
	appendStringInfoChar(&answer, 0);
	cursor = aipg_cursor_open(&view, lower, upper, PG_GETARG_BOOL(3));
	while (answer.len < max_bytes && (more = aipg_cursor_next(cursor, &key, &value))) {
		CHECK_FOR_INTERRUPTS();
		append_string(&answer, key);
		append_string(&answer, value);
	}
	answer.data[more_at] = more ? 1 : 0;
	aipg_cursor_close(cursor);
	return end_answer(&answer);
}
