#include "lineage.h"

#include "access.h"
#include "access/xlog.h"
#include "catalog.h"
#include "key_codec.h"
#include "port/pg_bswap.h"

#define VERSION 1
#define VALUE_BYTES (1 + sizeof(TimeLineID))

static aidb_slice lineage_key(void) {
	StringInfo key = makeStringInfo();

	aipg_key_start(key, 0, AIPG_INDEX_LINEAGE);
	return (aidb_slice){key->data, (size_t)key->len};
}

/* The timeline that the store bears; 0: none. */
static TimeLineID read_timeline(aidb_db *db, aidb_slice key) {
	aidb_buffer *value = aipg_buffer_create();
	aidb_status rc = aidb_get(db, NULL, key, value, NULL);
	TimeLineID timeline;

	if (rc == AIDB_NOT_FOUND) {
		return 0;
	}
	if (rc != AIDB_OK) {
		aipg_raise(rc, "could not read the timeline of the AiDb store");
	}
	if (value->size != VALUE_BYTES || value->data[0] != VERSION) {
		ereport(ERROR, (errcode(ERRCODE_DATA_CORRUPTED), errmsg("malformed timeline in the AiDb store"),
						errhint("Restore the store from a backup.")));
	}
	memcpy(&timeline, value->data + 1, sizeof(timeline));
	return pg_ntoh32(timeline);
}

static void write_timeline(aidb_db *db, aidb_slice key, TimeLineID timeline) {
	aidb_write_options options = {.durability = AIDB_SYNC};
	TimeLineID number = pg_hton32(timeline);
	char bytes[VALUE_BYTES] = {VERSION};
	aidb_status rc;

	memcpy(bytes + 1, &number, sizeof(number));
	rc = aidb_put(db, &options, key, (aidb_slice){bytes, sizeof(bytes)});
	if (rc != AIDB_OK) {
		aipg_raise(rc, "could not write the timeline of the AiDb store");
	}
}

void aipg_lineage_check(aidb_db *db) {
	aidb_slice key = lineage_key();
	TimeLineID timeline = GetWALInsertionTimeLine();
	TimeLineID borne = read_timeline(db, key);

	if (borne == 0) {
		write_timeline(db, key, timeline);
	} else if (borne != timeline) {
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the AiDb store does not have the past of this server"),
				 errdetail("It is of timeline %u, and the server is in timeline %u: PostgreSQL's write-ahead log was "
						   "replayed without AiDb's changes, which are not in it.",
						   borne, timeline),
				 errhint("Go back to the server that was the primary, or stop this one, remove \"aidb\" from its data "
						 "directory, and load the AiDb tables again.")));
	}
}
