#include "handler.h"

#include "fdw.h"

PG_FUNCTION_INFO_V1(aidb_fdw_handler);

Datum aidb_fdw_handler(PG_FUNCTION_ARGS) {
	FdwRoutine *routine = makeNode(FdwRoutine);

	(void)fcinfo;
	aipg_plan_routines(routine);
	aipg_scan_routines(routine);
	aipg_modify_routines(routine);
	aipg_row_mark_routines(routine);
	PG_RETURN_POINTER(routine);
}
