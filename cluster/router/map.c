#include "router/map.h"

#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "placement/slot_map.h"
#include "router/stats.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

PG_FUNCTION_INFO_V1(router_sql_map_changed);
PG_FUNCTION_INFO_V1(router_sql_slot_placement);

#define READ_GROUPS                                                                                                    \
	"SELECT g.group_id, g.epoch, g.name, n.name, n.conninfo FROM aidb.node_group g"                                    \
	" JOIN aidb.node n ON n.node_id = g.primary_id ORDER BY g.group_id"
#define READ_READERS                                                                                                   \
	"SELECT m.group_id, m.role = 'cache', n.name, n.conninfo FROM aidb.member m JOIN aidb.node n USING (node_id)"      \
	" JOIN aidb.node_group g USING (group_id) WHERE n.node_id <> g.primary_id AND n.state = 'up' ORDER BY n.node_id"
#define READ_SLOTS "SELECT slot, group_id FROM aidb.slot ORDER BY slot"

static router_map *map;
static MemoryContext map_context;
static bool is_current;
static Oid slot_table; /* whose invalidation stands for that of the map */

/* Where slots were when the map was read last: ids of groups. */
static int placed_at[AIDB_SLOTS];
static uint64 placement;

/* ---- Invalidation ----------------------------------------------------------------------------------------- */

static Oid find_slot_table(void) {
	return get_relname_relid("slot", get_namespace_oid("aidb", false));
}

static void invalidate(Datum argument, Oid relid) {
	(void)argument;
	if (relid == slot_table || !OidIsValid(relid)) {
		is_current = false;
	}
}

void router_map_forget(void) {
	is_current = false;
}

/* Trigger of the catalog's tables. */
Datum router_sql_map_changed(PG_FUNCTION_ARGS) {
	if (!CALLED_AS_TRIGGER(fcinfo)) {
		ereport(ERROR, (errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
						errmsg("aidb.map_changed is a trigger's function")));
	}
	CacheInvalidateRelcacheByRelid(find_slot_table());
	PG_RETURN_POINTER(NULL);
}

/* ---- Reading ---------------------------------------------------------------------------------------------- */

static Datum column(uint64 row, int number) {
	bool null;
	Datum value = SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, number, &null);

	return value;
}

static char *text_column(uint64 row, int number) {
	return MemoryContextStrdup(map_context, TextDatumGetCString(column(row, number)));
}

static Snapshot read_snapshot; /* one for all that is read together */

static void run(const char *query) {
	SPIPlanPtr plan = SPI_prepare(query, 0, NULL);

	if (plan == NULL ||
		SPI_execute_snapshot(plan, NULL, NULL, read_snapshot, InvalidSnapshot, true, false, 0) != SPI_OK_SELECT) {
		elog(ERROR, "could not read the catalog of the cluster");
	}
}

static void read_groups(router_map *into) {
	run(READ_GROUPS);
	if (SPI_processed == 0) {
		ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE), errmsg("the cluster has no group"),
						errhint("Make servers known with aidb.add_node(), and a group of one with aidb.add_group().")));
	}
	into->group_count = (int)SPI_processed;
	into->groups = MemoryContextAllocZero(map_context, SPI_processed * sizeof(router_group));
	for (uint64 i = 0; i < SPI_processed; i++) {
		router_group *group = &into->groups[i];

		group->id = DatumGetInt32(column(i, 1));
		group->epoch = DatumGetInt64(column(i, 2));
		strlcpy(group->name, text_column(i, 3), NAMEDATALEN);
		strlcpy(group->node, text_column(i, 4), NAMEDATALEN);
		group->conninfo = text_column(i, 5);
	}
}

const router_group *router_map_group(const router_map *of, int id) {
	for (int i = 0; i < of->group_count; i++) {
		if (of->groups[i].id == id) {
			return &of->groups[i];
		}
	}
	return NULL;
}

static void read_readers(router_map *into) {
	run(READ_READERS);
	for (uint64 i = 0; i < SPI_processed; i++) {
		router_group *group = (router_group *)router_map_group(into, DatumGetInt32(column(i, 1)));
		router_reader *reader;

		if (group == NULL) {
			continue;
		}
		if (group->readers == NULL) {
			group->readers = MemoryContextAllocZero(map_context, SPI_processed * sizeof(router_reader));
		}
		reader = &group->readers[group->reader_count++];
		reader->is_cache = DatumGetBool(column(i, 2));
		strlcpy(reader->name, text_column(i, 3), NAMEDATALEN);
		reader->conninfo = text_column(i, 4);
	}
}

static void read_slots(router_map *into) {
	uint64 placed = 0;
	bool moved = false;

	run(READ_SLOTS);
	for (uint64 i = 0; i < SPI_processed; i++) {
		int slot = DatumGetInt32(column(i, 1));
		router_group *group = (router_group *)router_map_group(into, DatumGetInt32(column(i, 2)));

		if (slot >= 0 && slot < (int)AIDB_SLOTS && group != NULL) {
			into->group_of_slot[slot] = (int)(group - into->groups);
			aidb_slot_set_add(&group->slots, (uint32)slot);
			moved = moved || placed_at[slot] != group->id;
			placed_at[slot] = group->id;
			placed++;
		}
	}
	if (placed != AIDB_SLOTS) {
		ereport(ERROR, (errcode(ERRCODE_DATA_CORRUPTED),
						errmsg("the cluster's catalog places %d of %d slots", (int)placed, (int)AIDB_SLOTS),
						errhint("Table aidb.slot is written by aidb.add_group() and aidb-admin alone.")));
	}
	placement += moved ? 1 : 0;
	into->placement = placement;
}

void router_map_raise_moved(const char *detail) {
	router_count(ROUTER_MOVED);
	ereport(ERROR, (errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
					errmsg("could not serialize access: rows have moved to another group of the cluster"),
					detail != NULL ? errdetail_internal("%s", detail) : 0,
					errhint("The transaction might succeed if retried.")));
}

void router_map_check_placement(uint64 begun_with) {
	if (router_map_get()->placement != begun_with) {
		router_map_raise_moved(NULL);
	}
}

/* As the catalog is at this moment, whatever the transaction's snapshot sees; with the rights of its owner: connection strings are not for
 * everybody to read. */
static void read_map(void) {
	router_map *read;
	Oid user;
	int security;

	if (map_context == NULL) {
		map_context = AllocSetContextCreate(CacheMemoryContext, "aidb router map", ALLOCSET_DEFAULT_SIZES);
		CacheRegisterRelcacheCallback(invalidate, (Datum)0);
	}
	map = NULL;
	MemoryContextReset(map_context);
	read = MemoryContextAllocZero(map_context, sizeof(router_map));
	slot_table = find_slot_table();
	is_current = true; /* a change that comes meanwhile makes the next call read again */
	GetUserIdAndSecContext(&user, &security);
	SetUserIdAndSecContext(BOOTSTRAP_SUPERUSERID, security | SECURITY_LOCAL_USERID_CHANGE | SECURITY_NOFORCE_RLS);
	SPI_connect();
	read_snapshot = RegisterSnapshot(GetLatestSnapshot());
	read_groups(read);
	read_readers(read);
	read_slots(read);
	UnregisterSnapshot(read_snapshot);
	SPI_finish();
	SetUserIdAndSecContext(user, security);
	map = read;
}

const router_map *router_map_get(void) {
	AcceptInvalidationMessages();
	if (map == NULL || !is_current) {
		read_map();
	}
	return map;
}

/* ---- Placement -------------------------------------------------------------------------------------------- */

/* slot_placement(groups, weights) → slot, group */
Datum router_sql_slot_placement(PG_FUNCTION_ARGS) {
	Datum *ids, *weights;
	int count, weight_count;
	aidb_ring_group *groups;
	aidb_slot_map placed = {0};
	ReturnSetInfo *result;

	deconstruct_array(PG_GETARG_ARRAYTYPE_P(0), INT4OID, sizeof(int32), true, TYPALIGN_INT, &ids, NULL, &count);
	deconstruct_array(PG_GETARG_ARRAYTYPE_P(1), FLOAT8OID, sizeof(float8), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE, &weights,
					  NULL, &weight_count);
	groups = palloc((Size)Max(count, 1) * sizeof(aidb_ring_group));
	for (int i = 0; i < Min(count, weight_count); i++) {
		groups[i] = (aidb_ring_group){(uint32)DatumGetInt32(ids[i]), DatumGetFloat8(weights[i])};
	}
	if (count != weight_count || !aidb_slot_map_place(&placed, groups, (uint32)count)) {
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("slots cannot be placed on these groups"),
						errdetail("There are from 1 to %u groups, each once, with a weight from 1/64 to 64.",
								  AIDB_MAX_GROUPS)));
	}
	InitMaterializedSRF(fcinfo, 0);
	result = (ReturnSetInfo *)fcinfo->resultinfo;
	for (int slot = 0; slot < (int)AIDB_SLOTS; slot++) {
		Datum row[2] = {Int32GetDatum(slot), Int32GetDatum((int32)placed.group[slot])};
		bool nulls[2] = {false, false};

		tuplestore_putvalues(result->setResult, result->setDesc, row, nulls);
	}
	PG_RETURN_NULL();
}
