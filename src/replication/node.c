/*
 * What an administrator or a coordinator asks of a server: its role in its group. The changes take effect at once, whatever
 * becomes of the transaction that calls.
 */
#include "postgres.h"

#include "access.h"
#include "access/xact.h"
#include "catalog.h"
#include "catalog/pg_type.h"
#include "commands/dbcommands.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "replication/apply.h"
#include "role.h"
#include "settings.h"
#include "slots.h"
#include "sql_value.h"
#include "storage/latch.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

PG_FUNCTION_INFO_V1(aipg_sql_become_primary);
PG_FUNCTION_INFO_V1(aipg_sql_follow);
PG_FUNCTION_INFO_V1(aipg_sql_seal);
PG_FUNCTION_INFO_V1(aipg_sql_promote);
PG_FUNCTION_INFO_V1(aipg_sql_set_in_sync);
PG_FUNCTION_INFO_V1(aipg_sql_renew_lease);
PG_FUNCTION_INFO_V1(aipg_sql_node_status);
PG_FUNCTION_INFO_V1(aipg_sql_token);

#define MAX_LEASE_MS 600000
#define COMMIT_NAP_MS 5

static uint64 epoch_argument(FunctionCallInfo fcinfo, int argument) {
	int64 epoch = PG_GETARG_INT64(argument);

	if (epoch <= 0) {
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("an epoch is a number above 0")));
	}
	return (uint64)epoch;
}

static void pg_attribute_noreturn() refuse(const aipg_role_state *state, const char *what) {
	ereport(ERROR, (errcode(AIPG_ERRCODE_WRONG_EPOCH), errmsg("%s", what),
					errdetail("This server is a %s%s of epoch " UINT64_FORMAT ".", state->sealed ? "sealed " : "",
							  aipg_role_name(state->role), state->epoch)));
}

/* Only the primary of this epoch. */
static aipg_role_state check_primary(uint64 epoch) {
	aipg_role_state state = aipg_role_get();

	if (state.role != AIPG_PRIMARY || state.sealed || state.epoch != epoch) {
		refuse(&state, "this server is not the primary of that epoch");
	}
	return state;
}

/* token(): what a read on a replica has to see in order to see what was committed here before */
Datum aipg_sql_token(PG_FUNCTION_ARGS) {
	aidb_sequence sequence = aidb_current_sequence(aipg_store());

	(void)fcinfo;
	if (aipg_role_now() != AIPG_PRIMARY) {
		sequence = aipg_progress_get().applied;
	}
	PG_RETURN_TEXT_P(cstring_to_text(psprintf(UINT64_FORMAT ":" UINT64_FORMAT, aipg_role_epoch(), sequence)));
}

/* become_primary(epoch) */
Datum aipg_sql_become_primary(PG_FUNCTION_ARGS) {
	uint64 epoch = epoch_argument(fcinfo, 0);
	aipg_role_state state = aipg_role_get();

	if (state.role == AIPG_PRIMARY && !state.sealed && state.epoch == epoch) {
		PG_RETURN_VOID();
	}
	if (state.role != AIPG_ALONE && !(state.role == AIPG_PRIMARY && state.epoch < epoch)) {
		refuse(&state, "this server cannot become the primary of a group");
	}
	state.role = AIPG_PRIMARY;
	state.sealed = false;
	state.epoch = epoch;
	strlcpy(state.database, get_database_name(MyDatabaseId), sizeof(state.database));
	aipg_role_set(&state);
	PG_RETURN_VOID();
}

static void copy_argument(FunctionCallInfo fcinfo, int argument, const char *name, char *to, size_t size) {
	char *value = text_to_cstring(PG_GETARG_TEXT_PP(argument));

	if (value[0] == '\0' || strlen(value) >= size) {
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("%s must have 1 to %zu bytes", name, size - 1)));
	}
	strlcpy(to, value, size);
}

/* A former primary: nobody who waits for its replica may be told that his commit is done. */
static void stop_acknowledging(aipg_role_state state) {
	aidb_status rc;

	if (state.role != AIPG_PRIMARY) {
		return;
	}
	state.sealed = true;
	aipg_role_set(&state);
	do {
		CHECK_FOR_INTERRUPTS();
		rc = aidb_replication_abandon(aipg_store());
	} while (rc == AIDB_INTERRUPTED);
	if (rc != AIDB_OK) {
		aipg_raise(rc, "could not end the commits of this server");
	}
}

/* follow(conninfo, slot, role, discard) */
Datum aipg_sql_follow(PG_FUNCTION_ARGS) {
	aipg_role_state before = aipg_role_get();
	aipg_role_state state = {.role = aipg_role_of_name(text_to_cstring(PG_GETARG_TEXT_PP(2))), .epoch = before.epoch};
	bool is_new = before.role != state.role;

	if (state.role != AIPG_STANDBY && state.role != AIPG_CACHE) {
		ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
						errmsg("a server cannot be made to follow as \"%s\"", aipg_role_name(state.role)),
						errhint("Use \"standby\" or \"cache\".")));
	}
	if (is_new && !PG_GETARG_BOOL(3) && (before.role == AIPG_ALONE || before.role == AIPG_PRIMARY) &&
		aipg_catalog_ids() != NIL) {
		ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
						errmsg("database \"%s\" has AiDb tables or key spaces, which a replica would lose",
							   get_database_name(MyDatabaseId)),
						errhint("Use an empty database, or pass discard => true.")));
	}
	copy_argument(fcinfo, 0, "conninfo", state.conninfo, sizeof(state.conninfo));
	copy_argument(fcinfo, 1, "slot", state.slot, sizeof(state.slot));
	strlcpy(state.database, get_database_name(MyDatabaseId), sizeof(state.database));
	if (is_new) {
		stop_acknowledging(before);
		aipg_position_write(&(aipg_position){0});
	}
	if (state.role == AIPG_CACHE && aipg_row_cache_mb == 0) {
		ereport(WARNING, (errmsg("this caching read node remembers nothing: every read will ask the primary"),
						  errhint("Set \"aidb.row_cache\" in postgresql.conf, and restart.")));
	}
	aipg_progress_set(&(aipg_progress){.state = "connecting"});
	aipg_role_set(&state);
	PG_RETURN_VOID();
}

/* Commits that have passed the point where they would have been refused. */
static void wait_for_commits(void) {
	aidb_stats stats = {0};

	for (;;) {
		aidb_stats_get(aipg_store(), &stats);
		if (stats.reservations == 0) {
			return;
		}
		CHECK_FOR_INTERRUPTS();
		WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, COMMIT_NAP_MS, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
	}
}

/* seal(epoch) */
Datum aipg_sql_seal(PG_FUNCTION_ARGS) {
	uint64 epoch = epoch_argument(fcinfo, 0);
	aipg_role_state state = aipg_role_get();

	if (state.role == AIPG_ALONE || epoch < state.epoch || (epoch == state.epoch && !state.sealed)) {
		refuse(&state, "this server cannot be sealed with that epoch");
	}
	state.epoch = epoch;
	state.sealed = true;
	aipg_role_set(&state);
	aipg_role_wait_apply();
	if (state.role == AIPG_PRIMARY) {
		wait_for_commits();
	}
	PG_RETURN_INT64(state.role == AIPG_PRIMARY ? (int64)aidb_current_sequence(aipg_store())
											   : (int64)aipg_position_read().applied);
}

/* Slots of the time when this server was the primary before: what it has done since is not all in its log. */
static void drop_slots(void) {
	aidb_pin pins[AIDB_MAX_PINS];
	uint32 count = aidb_pin_list(aipg_store(), pins);

	for (uint32 i = 0; i < count; i++) {
		aidb_status rc = aidb_pin_drop(aipg_store(), pins[i].name);

		if (rc != AIDB_OK && rc != AIDB_NOT_FOUND) {
			aipg_raise(rc, "could not drop the slot of a replica");
		}
	}
}

/* What was in doubt stays undone; ids go on beyond those that the old primary has given out. */
static void take_over(void) {
	PG_TRY();
	{
		aipg_role_internal = true;
		drop_slots();
		aipg_apply_drop_in_doubt();
		aipg_catalog_pass_ids();
	}
	PG_FINALLY();
	{ aipg_role_internal = false; }
	PG_END_TRY();
}

/* promote(epoch) */
Datum aipg_sql_promote(PG_FUNCTION_ARGS) {
	uint64 epoch = epoch_argument(fcinfo, 0);
	aipg_role_state state = aipg_role_get();
	aipg_position position;

	if (state.role == AIPG_PRIMARY && !state.sealed && state.epoch == epoch) {
		PG_RETURN_VOID();
	}
	if (state.role != AIPG_STANDBY || !state.sealed || state.epoch != epoch) {
		refuse(&state, "only a standby that was sealed with this epoch can be promoted");
	}
	aipg_role_wait_apply();
	position = aipg_position_read();
	if (!position.copied || position.applied < position.complete_at) {
		ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
						errmsg("this standby does not have all of its primary's data"),
						errdetail("It has applied commit " UINT64_FORMAT ", and is complete from " UINT64_FORMAT " on.",
								  position.applied, position.complete_at)));
	}
	take_over();
	state.role = AIPG_PRIMARY;
	state.sealed = false;
	state.leased = false;
	state.configuration = 0;
	state.conninfo[0] = state.slot[0] = state.synchronous[0] = '\0';
	aipg_role_set(&state);
	aipg_slots_show();
	PG_RETURN_VOID();
}

/* ---- Commits that wait for a replica ----------------------------------------------------------------------- */

/* The one slot of the array; false when there is none. */
static bool one_slot(ArrayType *array, char slot[AIDB_PIN_NAME_BYTES]) {
	Datum *names;
	bool *nulls;
	int count;

	deconstruct_array(array, TEXTOID, -1, false, TYPALIGN_INT, &names, &nulls, &count);
	if (count > 1) {
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED), errmsg("commits can wait for one slot, not for %d", count)));
	}
	if (count == 0 || nulls[0]) {
		return false;
	}
	strlcpy(slot, text_to_cstring(DatumGetTextPP(names[0])), AIDB_PIN_NAME_BYTES);
	return true;
}

static aidb_sequence acknowledged_of(const char *slot) {
	aidb_pin pins[AIDB_MAX_PINS];
	uint32 count = aidb_pin_list(aipg_store(), pins);

	for (uint32 i = 0; i < count; i++) {
		if (strcmp(pins[i].name, slot) == 0 && !pins[i].lost) {
			return pins[i].sequence;
		}
	}
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_OBJECT), errmsg("there is no slot \"%s\" that a replica could follow by", slot),
			 errhint("Make the replica follow first; see aidb.stream_slots().")));
}

/* Everything that was committed before commits began to wait. */
static void wait_for_replica(aidb_sequence sequence) {
	aidb_status rc;

	do {
		CHECK_FOR_INTERRUPTS();
		rc = aidb_wait_replicated(aipg_store(), sequence);
	} while (rc == AIDB_INTERRUPTED);
	if (rc != AIDB_OK) {
		aipg_raise(rc, "could not wait for a replica");
	}
}

/* set_in_sync(epoch, slots, version) */
Datum aipg_sql_set_in_sync(PG_FUNCTION_ARGS) {
	aipg_role_state state = check_primary(epoch_argument(fcinfo, 0));
	char slot[AIDB_PIN_NAME_BYTES] = "";
	aidb_db *db = aipg_store();
	uint64 version = (uint64)PG_GETARG_INT64(2);
	aidb_sequence acknowledged;

	if (version < state.configuration) {
		ereport(ERROR,
				(errcode(AIPG_ERRCODE_WRONG_EPOCH),
				 errmsg("version " UINT64_FORMAT " of the group is over: this server knows of version " UINT64_FORMAT,
						version, state.configuration)));
	}
	state.configuration = version;
	if (!one_slot(PG_GETARG_ARRAYTYPE_P(1), slot)) {
		state.synchronous[0] = '\0';
		aipg_role_set(&state);
		aidb_replication_release(db);
		PG_RETURN_VOID();
	}
	acknowledged = acknowledged_of(slot);
	if (strcmp(state.synchronous, slot) != 0) {
		if (state.synchronous[0] != '\0') {
			ereport(ERROR, (errcode(ERRCODE_OBJECT_IN_USE), errmsg("commits wait for slot \"%s\"", state.synchronous),
							errhint("Set none before you set another one.")));
		}
		strlcpy(state.synchronous, slot, sizeof(state.synchronous));
		aipg_role_set(&state);
		aidb_replication_require(db, acknowledged);
	} else {
		aipg_role_set(&state);
	}
	aidb_sync(db);
	wait_for_replica(aidb_last_sequence(db));
	PG_RETURN_VOID();
}

/* renew_lease(epoch, lease_ms) */
Datum aipg_sql_renew_lease(PG_FUNCTION_ARGS) {
	int32 ms = PG_GETARG_INT32(1);
	aipg_role_state state = check_primary(epoch_argument(fcinfo, 0));

	if (ms <= 0 || ms > MAX_LEASE_MS) {
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("lease_ms is %d, outside of 1 to %d", ms, MAX_LEASE_MS)));
	}
	aipg_role_lease(ms);
	if (!state.leased) {
		state.leased = true;
		aipg_role_set(&state);
	}
	PG_RETURN_VOID();
}

/* ---- Status ---------------------------------------------------------------------------------------------- */

static const char *state_text(const aipg_role_state *state, const aipg_progress *progress) {
	if (state->sealed) {
		return "sealed";
	}
	if (state->role == AIPG_ALONE || state->role == AIPG_PRIMARY) {
		return "running";
	}
	return progress->detail[0] == '\0' ? progress->state : psprintf("%s: %s", progress->state, progress->detail);
}

Datum aipg_sql_node_status(PG_FUNCTION_ARGS) {
	aipg_role_state state = aipg_role_get();
	aipg_progress progress = aipg_progress_get();
	bool follows = state.role == AIPG_STANDBY || state.role == AIPG_CACHE;
	aidb_stats stats = {0};
	Datum columns[12];
	bool nulls[12] = {false};

	aidb_stats_get(aipg_store(), &stats);
	columns[0] = CStringGetTextDatum(aipg_role_name(state.role));
	columns[1] = Int64GetDatum((int64)state.epoch);
	columns[2] = BoolGetDatum(state.sealed);
	columns[3] = CStringGetTextDatum(state_text(&state, &progress));
	columns[4] = Int64GetDatum((int64)stats.sequence);
	columns[5] = Int64GetDatum((int64)(follows ? aipg_position_read().applied : stats.sequence));
	columns[6] = Int64GetDatum((int64)(progress.current > progress.applied ? progress.current - progress.applied : 0));
	nulls[6] = !follows || progress.heard_at == 0;
	columns[7] = Int64GetDatum((GetCurrentTimestamp() - progress.heard_at) / 1000);
	nulls[7] = nulls[6];
	columns[8] = Int64GetDatum((int64)progress.rows_copied);
	nulls[8] = !follows;
	columns[9] = CStringGetTextDatum(state.synchronous);
	nulls[9] = state.synchronous[0] == '\0';
	columns[11] = CStringGetTextDatum(aipg_role_address(state.conninfo));
	nulls[11] = !follows;
	columns[10] = BoolGetDatum(!follows && !state.sealed && !stats.writes_off);
	PG_RETURN_DATUM(aipg_row(fcinfo, columns, nulls));
}
