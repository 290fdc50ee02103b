#include "sql_value.h"

#include "access/xact.h"
#include "funcapi.h"
#include "utils/memutils.h"

int32 aipg_int32_argument(FunctionCallInfo fcinfo, int argument, const char *name, int32 low, int32 high) {
	int32 value = PG_GETARG_INT32(argument);

	if (value < low || value > high) {
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("%s is %d, outside of %d to %d", name, value, low, high)));
	}
	return value;
}

void aipg_require_one_snapshot(const char *function) {
	if (!IsolationUsesXactSnapshot()) {
		ereport(ERROR, (errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
						errmsg("aidb.%s needs a transaction with one snapshot", function),
						errhint("Begin with BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY.")));
	}
}

bytea *aipg_bytea(aidb_slice bytes) {
	bytea *value;

	if (bytes.size > MaxAllocSize - VARHDRSZ) {
		ereport(ERROR, (errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED), errmsg("value is too long for a bytea"),
						errdetail("The value has %zu bytes.", bytes.size)));
	}
	value = palloc(bytes.size + VARHDRSZ);
	SET_VARSIZE(value, bytes.size + VARHDRSZ);
	if (bytes.size > 0) { /* data may be NULL */
		memcpy(VARDATA(value), bytes.data, bytes.size);
	}
	return value;
}

Datum aipg_row(FunctionCallInfo fcinfo, Datum *columns, bool *nulls) {
	TupleDesc tuple_desc;

	if (get_call_result_type(fcinfo, NULL, &tuple_desc) != TYPEFUNC_COMPOSITE) {
		elog(ERROR, "return type must be a row type");
	}
	return HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(tuple_desc), columns, nulls));
}
