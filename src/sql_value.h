/*
 * sql_value.h: arguments and results of SQL functions.
 */
#ifndef AIPG_SQL_VALUE_H
#define AIPG_SQL_VALUE_H

#include "postgres.h"

#include "aidb.h"
#include "fmgr.h"

/* The argument, which is not null; raises 22023 when it is outside of the range. `name` is for the message. */
extern int32 aipg_int32_argument(FunctionCallInfo fcinfo, int argument, const char *name, int32 low, int32 high);
/* Raises 25001 unless the transaction goes by one snapshot. `function` is for the message. */
extern void aipg_require_one_snapshot(const char *function);
/* A copy; palloc'd. Raises 54000 when it is too long. */
extern bytea *aipg_bytea(aidb_slice bytes);
/* The function's result when it has several columns. */
extern Datum aipg_row(FunctionCallInfo fcinfo, Datum *columns, bool *nulls);

#endif
