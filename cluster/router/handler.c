#include "router/handler.h"

#include "access/reloptions.h"
#include "catalog/pg_attribute.h"
#include "catalog/pg_foreign_table.h"
#include "commands/defrem.h"
#include "options.h"
#include "router/ddl.h"
#include "router/session.h"
#include "router/transaction.h"
#include "router/sharded_table.h"

PG_FUNCTION_INFO_V1(router_fdw_handler);
PG_FUNCTION_INFO_V1(router_fdw_validator);

Datum router_fdw_handler(PG_FUNCTION_ARGS) {
	FdwRoutine *routine = makeNode(FdwRoutine);

	(void)fcinfo;
	router_plan_routines(routine);
	router_scan_routines(routine);
	router_modify_routines(routine);
	router_direct_routines(routine);
	router_ddl_routines(routine);
	PG_RETURN_POINTER(routine);
}

/* What the shard key is worth is seen when the table is made: its columns are not known here. */
Datum router_fdw_validator(PG_FUNCTION_ARGS) {
	Oid catalog = PG_GETARG_OID(1);
	ListCell *cell;

	foreach(cell, untransformRelOptions(PG_GETARG_DATUM(0))) {
		DefElem *option = lfirst(cell);

		if (catalog == AttributeRelationId && strcmp(option->defname, AIPG_OPTION_KEY) == 0) {
			(void)aipg_parse_key_position(defGetString(option));
		} else if (catalog != ForeignTableRelationId || strcmp(option->defname, ROUTER_OPTION_SHARD_KEY) != 0) {
			ereport(ERROR, (errcode(ERRCODE_FDW_INVALID_OPTION_NAME), errmsg("invalid option \"%s\"", option->defname),
							errhint("Tables of the cluster have option %s, their columns option %s.",
									ROUTER_OPTION_SHARD_KEY, AIPG_OPTION_KEY)));
		}
	}
	PG_RETURN_VOID();
}

void router_init(void) {
	router_pipeline_init();
	router_session_init();
	router_transaction_init();
	router_ddl_init();
}
