/*
 * What aidb-admin restore asks of a new server whose store is that of a backup: to make its tables, to apply what was committed since,
 * and to be a server like others then. If it is broken off, the server stays one that is being restored.
 */
#include "postgres.h"

#include "access.h"
#include "catalog.h"
#include "fmgr.h"
#include "lineage.h"
#include "replication/apply.h"
#include "role.h"
#include "slots.h"

PG_FUNCTION_INFO_V1(aipg_sql_restore_begin);
PG_FUNCTION_INFO_V1(aipg_sql_restore_apply);
PG_FUNCTION_INFO_V1(aipg_sql_restore_finish);

/* The session is one of AiDb's own from then on, also when its statement commits. */
static aipg_role_state begin_restoring(void) {
	aipg_role_state state = aipg_role_get();

	if (state.role != AIPG_RESTORING) {
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("this server is not being restored from a backup"),
				 errdetail("Its role is \"%s\".", aipg_role_name(state.role)), errhint("Use aidb-admin restore.")));
	}
	aipg_role_internal = true;
	return state;
}

/* restore_begin(store, after, complete_at): as aidb.backup_start() has given them */
Datum aipg_sql_restore_begin(PG_FUNCTION_ARGS) {
	aipg_position position = {.copied = true,
							  .store_id = (uint64)PG_GETARG_INT64(0),
							  .applied = (uint64)PG_GETARG_INT64(1),
							  .complete_at = (uint64)PG_GETARG_INT64(2)};

	begin_restoring();
	aipg_apply_adopt();
	aipg_position_write(&position);
	PG_RETURN_VOID();
}

/* restore_apply(response): what aidb.stream_read has given; returns how far the store has come */
Datum aipg_sql_restore_apply(PG_FUNCTION_ARGS) {
	const bytea *response = PG_GETARG_BYTEA_PP(0);
	aipg_position position;
	aipg_stream_head head;

	begin_restoring();
	position = aipg_position_read();
	PG_TRY();
	{ aipg_apply_response((aidb_slice){VARDATA_ANY(response), VARSIZE_ANY_EXHDR(response)}, &position, &head); }
	PG_CATCH();
	{
		aipg_apply_restart();
		PG_RE_THROW();
	}
	PG_END_TRY();
	PG_RETURN_INT64((int64)position.applied);
}

Datum aipg_sql_restore_finish(PG_FUNCTION_ARGS) {
	aipg_role_state state = begin_restoring();
	aipg_position position = aipg_position_read();

	if (!position.copied || position.applied < position.complete_at) {
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE), errmsg("the store is not complete yet"),
				 errdetail("It has come to commit " UINT64_FORMAT ", and is a state of the server that was backed "
						   "up from " UINT64_FORMAT " on.",
						   position.applied, position.complete_at)));
	}
	aipg_apply_drop_in_doubt();
	aipg_catalog_pass_ids();
	aipg_position_write(&(aipg_position){0});
	aipg_lineage_check(aipg_store());
	aipg_slots_show();
	state.role = AIPG_ALONE;
	aipg_role_set(&state);
	aipg_role_internal = false;
	PG_RETURN_VOID();
}
