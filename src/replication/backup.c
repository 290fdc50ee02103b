/*
 * What a primary serves to who backs it up: a checkpoint, file by file, and marks in the stream.
 *
 * The stream from the commit `after` on leads from the checkpoint to every later state. The checkpoint has commits beyond that, in
 * part; so it is a state of this server's only once the stream has been applied up to `complete_at`.
 */
#include "replication/backup.h"

#include <sys/stat.h>
#include <unistd.h>

#include "access.h"
#include "access/transam.h"
#include "access/xlog.h"
#include "catalog.h"
#include "commands/dbcommands.h"
#include "ddl_log.h"
#include "fmgr.h"
#include "funcapi.h"
#include "host.h"
#include "key_codec.h"
#include "latest.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "replication/stream.h"
#include "replication/stream_format.h"
#include "role.h"
#include "sql_value.h"
#include "shared.h"
#include "storage/fd.h"
#include "storage/procarray.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/timestamp.h"

PG_FUNCTION_INFO_V1(aipg_sql_backup_start);
PG_FUNCTION_INFO_V1(aipg_sql_backup_files);
PG_FUNCTION_INFO_V1(aipg_sql_backup_read);
PG_FUNCTION_INFO_V1(aipg_sql_backup_stop);
PG_FUNCTION_INFO_V1(aipg_sql_restore_point);
PG_FUNCTION_INFO_V1(aipg_sql_store_id);

/* Below the store's directory; with a name that base backups leave out. */
#define DIRECTORY "pgsql_tmp.backup"
#define BACKUP_LOCK INT64CONST(0x4169446262616b70) /* an advisory lock */
#define MAX_READ_BYTES (64 << 20)
#define ARCHIVE "archive" /* how the names of slots begin that archives have */

static const char *checkpoint_path(char path[MAXPGPATH]) {
	char store[MAXPGPATH];

	snprintf(path, MAXPGPATH, "%s/" DIRECTORY, aipg_store_path(store));
	return path;
}

void aipg_backup_discard(void) {
	char path[MAXPGPATH];

	if (access(checkpoint_path(path), F_OK) == 0 && !rmtree(path, true)) {
		ereport(WARNING, (errmsg("could not remove all of directory \"%s\"", path),
						  errdetail("A backup that was broken off has left it."), errhint("Remove it by hand.")));
	}
}

/* ---- The checkpoint -------------------------------------------------------------------------------------- */

/* What still runs is not in the checkpoint: it has not prepared anything before the stream's beginning. */
static aidb_tag_fate fate_of(void *argument, aidb_tag tag) {
	TransactionId transaction = XidFromFullTransactionId((FullTransactionId){.value = tag});

	if (TransactionIdIsInProgress(transaction) || !TransactionIdDidCommit(transaction)) {
		return AIDB_TAG_ABORTED;
	}
	XLogFlush(aipg_inserted_end()); /* nobody is to be told of a commit that a crash takes back */
	return AIDB_TAG_COMMITTED;
}

/* A backup has the tables of one database. */
static void check_other_databases(void) {
	StringInfo lower = makeStringInfo(), upper = makeStringInfo();
	const char *own = get_database_name(MyDatabaseId);
	aipg_view view = aipg_latest_begin();
	aipg_cursor *cursor;
	aidb_slice key, value;
	const char *other = NULL;

	aipg_key_start(lower, 0, AIPG_INDEX_DEFINITIONS);
	aipg_key_start(upper, 0, AIPG_INDEX_DEFINITIONS + 1);
	cursor = aipg_cursor_open(&view, (aidb_slice){lower->data, (size_t)lower->len},
							  (aidb_slice){upper->data, (size_t)upper->len}, false);
	while (other == NULL && aipg_cursor_next(cursor, &key, &value)) {
		const char *database = aipg_ddl_log_read(value).database;
		Oid oid = get_database_oid(database, true);

		other = strcmp(database, own) != 0 && OidIsValid(oid) && aipg_catalog_database_used(oid) ? database : NULL;
	}
	aipg_cursor_close(cursor);
	aipg_latest_end();
	if (other != NULL) {
		ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
						errmsg("database \"%s\" of this server has AiDb tables, too", other),
						errdetail("A backup has the tables of one database, like a replica."),
						errhint("Keep the AiDb tables of a server in one database.")));
	}
}

static void make_checkpoint(void) {
	char path[MAXPGPATH];
	aipg_role_state state = aipg_role_get();
	aidb_status rc;

	checkpoint_path(path);
	do {
		CHECK_FOR_INTERRUPTS();
		aipg_backup_discard();
		rc = aidb_checkpoint(aipg_store(), path, fate_of, NULL);
	} while (rc == AIDB_INTERRUPTED);
	if (rc != AIDB_OK) {
		aipg_raise(rc, "could not make a checkpoint for the backup");
	}
	aipg_role_write(path, &(aipg_role_state){.role = AIPG_RESTORING, .epoch = state.epoch});
}

/* backup_start() → after, complete_at, store, epoch, at */
Datum aipg_sql_backup_start(PG_FUNCTION_ARGS) {
	Datum columns[5];
	bool nulls[5] = {false};
	aidb_sequence after;

	aipg_stream_check_primary(0);
	if (!DatumGetBool(DirectFunctionCall1(pg_try_advisory_lock_int8, Int64GetDatum(BACKUP_LOCK)))) {
		ereport(ERROR, (errcode(ERRCODE_OBJECT_IN_USE), errmsg("another session takes a backup"),
						errhint("Wait for it to end, or end it.")));
	}
	check_other_databases();
	after = aidb_current_sequence(aipg_store());
	aipg_stream_wait_for_running();
	make_checkpoint();
	columns[0] = Int64GetDatum((int64)after);
	columns[1] = Int64GetDatum((int64)aidb_last_sequence(aipg_store()));
	columns[2] = Int64GetDatum((int64)aidb_store_id(aipg_store()));
	columns[3] = Int64GetDatum((int64)aipg_role_epoch());
	columns[4] = TimestampTzGetDatum(GetCurrentTimestamp());
	PG_RETURN_DATUM(aipg_row(fcinfo, columns, nulls));
}

/* backup_files() → name, bytes, modified: microseconds since 1970, with which a file that is known already is recognised */
Datum aipg_sql_backup_files(PG_FUNCTION_ARGS) {
	ReturnSetInfo *result = (ReturnSetInfo *)fcinfo->resultinfo;
	char path[MAXPGPATH], file[MAXPGPATH * 2];
	struct dirent *entry;
	DIR *directory;

	InitMaterializedSRF(fcinfo, 0);
	directory = AllocateDir(checkpoint_path(path));
	while ((entry = ReadDir(directory, path)) != NULL) {
		struct stat status;
		Datum columns[3];
		bool nulls[3] = {false};

		snprintf(file, sizeof(file), "%s/%s", path, entry->d_name);
		if (stat(file, &status) != 0) {
			ereport(ERROR, (errcode_for_file_access(), errmsg("could not stat file \"%s\": %m", file)));
		}
		if (S_ISREG(status.st_mode)) {
			columns[0] = CStringGetTextDatum(entry->d_name);
			columns[1] = Int64GetDatum((int64)status.st_size);
			columns[2] = Int64GetDatum((int64)status.st_mtim.tv_sec * 1000000 + status.st_mtim.tv_nsec / 1000);
			tuplestore_putvalues(result->setResult, result->setDesc, columns, nulls);
		}
	}
	FreeDir(directory);
	return (Datum)0;
}

/* backup_read(name, offset, bytes): less only at the end of the file */
Datum aipg_sql_backup_read(PG_FUNCTION_ARGS) {
	const char *name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	int64 offset = PG_GETARG_INT64(1);
	int32 bytes = PG_GETARG_INT32(2);
	char path[MAXPGPATH], file_path[MAXPGPATH * 2];
	bytea *contents;
	ssize_t got;
	int file;

	if (strchr(name, '/') != NULL || offset < 0 || bytes < 1 || bytes > MAX_READ_BYTES) {
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("give the name of a file of the backup, an offset, and 1 to %d bytes", MAX_READ_BYTES)));
	}
	snprintf(file_path, sizeof(file_path), "%s/%s", checkpoint_path(path), name);
	file = OpenTransientFile(file_path, O_RDONLY | PG_BINARY);
	if (file < 0) {
		ereport(ERROR, (errcode_for_file_access(), errmsg("could not open file \"%s\": %m", file_path),
						errhint("aidb.backup_start() makes the files, and aidb.backup_files() lists them.")));
	}
	contents = palloc(VARHDRSZ + (size_t)bytes);
	got = pg_pread(file, VARDATA(contents), (size_t)bytes, offset);
	if (got < 0) {
		ereport(ERROR, (errcode_for_file_access(), errmsg("could not read file \"%s\": %m", file_path)));
	}
	CloseTransientFile(file);
	SET_VARSIZE(contents, VARHDRSZ + got);
	PG_RETURN_BYTEA_P(contents);
}

Datum aipg_sql_backup_stop(PG_FUNCTION_ARGS) {
	if (!DatumGetBool(DirectFunctionCall1(pg_advisory_unlock_int8, Int64GetDatum(BACKUP_LOCK)))) {
		ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE), errmsg("this session takes no backup")));
	}
	aipg_backup_discard();
	PG_RETURN_VOID();
}

Datum aipg_sql_store_id(PG_FUNCTION_ARGS) {
	(void)fcinfo;
	PG_RETURN_INT64((int64)aidb_store_id(aipg_store()));
}

/* ---- Marks ----------------------------------------------------------------------------------------------- */

static aidb_status write_mark(const char *name, aidb_durability durability, aidb_sequence *sequence) {
	aipg_mark mark = {.clock_us = (uint64)GetCurrentTimestamp()};
	uint8 key[AIPG_MARK_KEY_BYTES], value[AIPG_MARK_VALUE_BYTES];
	aidb_write_options options = {.durability = durability};
	aidb_batch *batch = aidb_batch_create();
	aidb_status rc = AIDB_NO_MEMORY;

	strlcpy(mark.name, name, sizeof(mark.name));
	if (batch != NULL) {
		rc = aidb_batch_put(batch, (aidb_slice){key, aipg_stream_write_mark(&mark, key, value)},
							(aidb_slice){value, sizeof(value)});
	}
	if (rc == AIDB_OK) {
		rc = aidb_write(aipg_store(), &options, batch, sequence);
	}
	aidb_batch_destroy(batch);
	return rc;
}

/* restore_point(name) → its sequence */
Datum aipg_sql_restore_point(PG_FUNCTION_ARGS) {
	const char *name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	aidb_sequence sequence;
	aidb_status rc;

	aipg_stream_check_primary(0);
	if (name[0] == '\0' || strlen(name) >= AIPG_MARK_NAME_BYTES || strchr(name, '/') != NULL) {
		ereport(ERROR, (errcode(ERRCODE_INVALID_NAME), errmsg("invalid name of a restore point: \"%s\"", name),
						errhint("Use a name of 1 to %d bytes without slashes.", AIPG_MARK_NAME_BYTES - 1)));
	}
	do {
		CHECK_FOR_INTERRUPTS();
		rc = write_mark(name, AIDB_SYNC, &sequence);
	} while (rc == AIDB_INTERRUPTED);
	if (rc != AIDB_OK) {
		aipg_raise(rc, "could not write the restore point");
	}
	PG_RETURN_INT64((int64)sequence);
}

static bool is_archived(aidb_db *db) {
	aidb_pin pins[AIDB_MAX_PINS];
	uint32 count = aidb_pin_list(db, pins);

	for (uint32 i = 0; i < count; i++) {
		if (strncmp(pins[i].name, ARCHIVE, strlen(ARCHIVE)) == 0 && !pins[i].lost) {
			return true;
		}
	}
	return false;
}

void aipg_backup_tell_time(void) {
	static aidb_sequence told = 0;
	aidb_db *db = aipg_store();
	aidb_sequence sequence = aidb_current_sequence(db);

	if (sequence != told && aipg_role_now() == AIPG_PRIMARY && !aipg_role_is_sealed() && is_archived(db) &&
		write_mark("", AIDB_LAZY, &sequence) == AIDB_OK) {
		told = sequence;
	}
}
