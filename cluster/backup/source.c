#define _GNU_SOURCE 1
#include "backup/source.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <libpq-fe.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "object_store/failure.h"

#define CHUNK_BYTES (2u << 20)
#define AHEAD 2 /* parts of a file that are asked for before the first has come */
#define NUMBER_BYTES 24
#define CHECKPOINT "aidb/pgsql_tmp.backup" /* in the data directory */
#define LOST "IA003"                       /* SQLSTATE of a slot that has fallen behind */

struct aidb_source {
	PGconn *connection;
	PGresult *answer;         /* of the stream, which the caller looks at */
	char directory[PATH_MAX]; /* of the checkpoint, if it can be read; else empty */
	char *chunk;
};

static aidb_status refused(PGconn *connection, const PGresult *result, const char *what) {
	const char *message = PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY);
	const char *detail = PQresultErrorField(result, PG_DIAG_MESSAGE_DETAIL);
	const char *hint = PQresultErrorField(result, PG_DIAG_MESSAGE_HINT);
	const char *state = PQresultErrorField(result, PG_DIAG_SQLSTATE);
	aidb_status status = state != NULL && strcmp(state, LOST) == 0      ? AIDB_NOT_FOUND
						 : state != NULL && strcmp(state, "55006") == 0 ? AIDB_IN_USE
																		: AIDB_IO;

	return aidb_fail(status, "%s: %s%s%s%s%s", what, message != NULL ? message : PQerrorMessage(connection),
					 detail != NULL ? "; " : "", detail != NULL ? detail : "", hint != NULL ? " " : "",
					 hint != NULL ? hint : "");
}

/* One statement with text parameters; the rows come as text or as bytes. */
static aidb_status query(aidb_source *source, const char *what, const char *sql, int count, const char *const *values,
						 bool binary, PGresult **result) {
	PGresult *got = PQexecParams(source->connection, sql, count, NULL, values, NULL, NULL, binary ? 1 : 0);
	aidb_status rc;

	if (PQresultStatus(got) != PGRES_TUPLES_OK) {
		rc = refused(source->connection, got, what);
		PQclear(got);
		return rc;
	}
	*result = got;
	return AIDB_OK;
}

static aidb_status run(aidb_source *source, const char *what, const char *sql, int count, const char *const *values) {
	PGresult *result;
	aidb_status rc = query(source, what, sql, count, values, false, &result);

	if (rc == AIDB_OK) {
		PQclear(result);
	}
	return rc;
}

/* What numbers the server counts as signed ones. */
static uint64_t number(const PGresult *result, int row, int column) {
	return (uint64_t)strtoll(PQgetvalue(result, row, column), NULL, 10);
}

static aidb_status become_primary(aidb_source *source) {
	PGresult *result;
	aidb_status rc = query(source, "cannot ask the server for its role", "SELECT role FROM aidb.node_status()", 0, NULL,
						   false, &result);
	bool alone;

	if (rc != AIDB_OK) {
		return rc;
	}
	alone = strcmp(PQgetvalue(result, 0, 0), "alone") == 0;
	PQclear(result);
	return alone ? run(source, "cannot make the server the primary of a group of its own",
					   "SELECT aidb.become_primary()", 0, NULL)
				 : AIDB_OK;
}

/* Of this machine, when it is spoken to by a socket of it, and tells this role where its data are. */
static aidb_status find_directory(aidb_source *source) {
	PGresult *result;
	aidb_status rc;

	if (PQhost(source->connection) == NULL || PQhost(source->connection)[0] != '/') {
		return AIDB_OK;
	}
	rc = query(source, "cannot ask where the server's data are",
			   "SELECT setting FROM pg_settings WHERE name = 'data_directory'", 0, NULL, false, &result);
	if (rc == AIDB_OK) {
		if (PQntuples(result) == 1) {
			snprintf(source->directory, sizeof(source->directory), "%s/" CHECKPOINT, PQgetvalue(result, 0, 0));
		}
		PQclear(result);
	}
	return rc;
}

aidb_status aidb_source_connect(const char *conninfo, aidb_source **source) {
	aidb_source *made = calloc(1, sizeof(*made));
	aidb_status rc = AIDB_OK;

	if (made == NULL || (made->chunk = malloc(CHUNK_BYTES)) == NULL) {
		free(made);
		return aidb_fail(AIDB_NO_MEMORY, "out of memory");
	}
	made->connection = PQconnectdb(conninfo);
	if (PQstatus(made->connection) != CONNECTION_OK) {
		rc = aidb_fail(AIDB_IO, "cannot connect to the server: %s", PQerrorMessage(made->connection));
	}
	if (rc == AIDB_OK) {
		PQclear(PQexec(made->connection, "SET application_name = 'aidb-admin'; SET client_min_messages = error; "
										 "SET statement_timeout = 0; SET idle_session_timeout = 0"));
		rc = become_primary(made);
	}
	if (rc == AIDB_OK) {
		rc = find_directory(made);
	}
	if (rc != AIDB_OK) {
		aidb_source_close(made);
		return rc;
	}
	*source = made;
	return AIDB_OK;
}

void aidb_source_close(aidb_source *source) {
	if (source != NULL) {
		PQclear(source->answer);
		PQfinish(source->connection);
		free(source->chunk);
		free(source);
	}
}

/* ---- The checkpoint -------------------------------------------------------------------------------------- */

static void copy_text(const PGresult *result, int column, char to[AIDB_TEXT_BYTES]) {
	snprintf(to, AIDB_TEXT_BYTES, "%s", PQgetvalue(result, 0, column));
}

static aidb_status describe(aidb_source *source, aidb_manifest *manifest) {
	PGresult *result;
	aidb_status rc =
		query(source, "cannot ask what the server is",
			  "SELECT d.datname, (SELECT rolname FROM pg_roles WHERE oid = 10), pg_encoding_to_char(d.encoding), "
			  "d.datcollate, "
			  "d.datctype, current_setting('server_version') FROM pg_database d WHERE d.datname = "
			  "current_database()",
			  0, NULL, false, &result);

	if (rc != AIDB_OK) {
		return rc;
	}
	copy_text(result, 0, manifest->database);
	copy_text(result, 1, manifest->owner);
	copy_text(result, 2, manifest->encoding);
	copy_text(result, 3, manifest->collation);
	copy_text(result, 4, manifest->ctype);
	copy_text(result, 5, manifest->server);
	PQclear(result);
	return AIDB_OK;
}

static aidb_status list_files(aidb_source *source, aidb_manifest *manifest) {
	PGresult *result;
	aidb_status rc = query(source, "cannot list the files of the checkpoint",
						   "SELECT name, bytes, modified FROM aidb.backup_files() ORDER BY name COLLATE \"C\"", 0, NULL,
						   false, &result);

	if (rc != AIDB_OK) {
		return rc;
	}
	for (int i = 0; i < PQntuples(result) && rc == AIDB_OK; i++) {
		aidb_manifest_file file = {.bytes = number(result, i, 1), .modified = number(result, i, 2)};

		if (snprintf(file.name, sizeof(file.name), "%s", PQgetvalue(result, i, 0)) >= (int)sizeof(file.name)) {
			rc = aidb_fail(AIDB_INVALID, "the name of a file is too long: %s", PQgetvalue(result, i, 0));
		} else {
			rc = aidb_manifest_add(manifest, &file);
		}
	}
	PQclear(result);
	return rc;
}

aidb_status aidb_source_start(aidb_source *source, aidb_manifest *manifest) {
	PGresult *result;
	aidb_status rc = describe(source, manifest);

	if (rc == AIDB_OK) {
		rc = query(source, "cannot start a backup",
				   "SELECT after, complete_at, store, epoch, (extract(epoch FROM at) * 1000000)::bigint FROM "
				   "aidb.backup_start()",
				   0, NULL, false, &result);
	}
	if (rc != AIDB_OK) {
		return rc;
	}
	manifest->after = number(result, 0, 0);
	manifest->complete_at = number(result, 0, 1);
	manifest->store = number(result, 0, 2);
	manifest->epoch = number(result, 0, 3);
	manifest->started = number(result, 0, 4);
	PQclear(result);
	return list_files(source, manifest);
}

aidb_status aidb_source_stop(aidb_source *source) {
	return run(source, "cannot end the backup", "SELECT aidb.backup_stop()", 0, NULL);
}

/* Whether the file that lies here is the one that is meant. */
static int open_file(const aidb_source *source, const aidb_manifest_file *file) {
	char path[PATH_MAX + AIDB_FILE_NAME_BYTES + 1];
	struct stat status;
	int opened;

	if (source->directory[0] == '\0') {
		return -1;
	}
	snprintf(path, sizeof(path), "%s/%s", source->directory, file->name);
	opened = open(path, O_RDONLY | O_CLOEXEC);
	if (opened >= 0 &&
		(fstat(opened, &status) != 0 || (uint64_t)status.st_size != file->bytes ||
		 (uint64_t)status.st_mtim.tv_sec * 1000000 + (uint64_t)status.st_mtim.tv_nsec / 1000 != file->modified)) {
		close(opened);
		return -1;
	}
	return opened;
}

static aidb_status read_file(aidb_source *source, int opened, const aidb_manifest_file *file, aidb_object_sink sink,
							 void *argument) {
	aidb_status rc = AIDB_OK;
	ssize_t got = 1;

	(void)posix_fadvise(opened, 0, 0, POSIX_FADV_WILLNEED); /* the disk is to be ahead */
	while (rc == AIDB_OK && got != 0) {
		got = read(opened, source->chunk, CHUNK_BYTES);
		if (got > 0) {
			rc = sink(argument, source->chunk, (size_t)got);
		} else if (got < 0 && errno != EINTR) {
			rc = aidb_fail_errno(errno, "read", file->name);
		}
	}
	close(opened);
	return rc;
}

static bool ask_part(aidb_source *source, const aidb_manifest_file *file, uint64_t offset) {
	char at[NUMBER_BYTES], bytes[NUMBER_BYTES];
	const char *values[3] = {file->name, at, bytes};

	snprintf(at, sizeof(at), "%" PRIu64, offset);
	snprintf(bytes, sizeof(bytes), "%u", CHUNK_BYTES);
	return PQsendQueryParams(source->connection, "SELECT aidb.backup_read($1, $2, $3)", 3, NULL, values, NULL, NULL,
							 1) == 1 &&
		   PQpipelineSync(source->connection) == 1;
}

/* The answer to the oldest question. */
static aidb_status take_part(aidb_source *source, aidb_object_sink sink, void *argument, uint64_t *taken) {
	PGresult *result = PQgetResult(source->connection);
	aidb_status rc = AIDB_OK;

	if (PQresultStatus(result) != PGRES_TUPLES_OK) {
		rc = refused(source->connection, result, "cannot read a file of the checkpoint");
	} else {
		*taken += (uint64_t)PQgetlength(result, 0, 0);
		rc = sink(argument, PQgetvalue(result, 0, 0), (size_t)PQgetlength(result, 0, 0));
	}
	PQclear(result);
	PQclear(PQgetResult(source->connection)); /* the end of this answer, and then of the synchronisation point */
	PQclear(PQgetResult(source->connection));
	if (rc == AIDB_OK && PQstatus(source->connection) != CONNECTION_OK) {
		rc = aidb_fail(AIDB_IO, "lost the connection to the server: %s", PQerrorMessage(source->connection));
	}
	return rc;
}

/* Parts are asked for ahead, so that the server reads while this side works on what has come. */
static aidb_status fetch_file(aidb_source *source, const aidb_manifest_file *file, aidb_object_sink sink,
							  void *argument) {
	uint64_t asked = 0, taken = 0;
	aidb_status rc = AIDB_OK;
	int under_way = 0;

	if (PQenterPipelineMode(source->connection) != 1) {
		return aidb_fail(AIDB_IO, "cannot read a file of the checkpoint: %s", PQerrorMessage(source->connection));
	}
	while (under_way > 0 || (rc == AIDB_OK && asked < file->bytes)) {
		while (rc == AIDB_OK && asked < file->bytes && under_way < AHEAD) {
			if (!ask_part(source, file, asked)) {
				rc = aidb_fail(AIDB_IO, "lost the connection to the server: %s", PQerrorMessage(source->connection));
				break;
			}
			asked += CHUNK_BYTES;
			under_way++;
		}
		if (under_way > 0) {
			aidb_status part = take_part(source, sink, argument, &taken);

			rc = rc == AIDB_OK ? part : rc;
			under_way--;
		}
		if (PQstatus(source->connection) != CONNECTION_OK) {
			break;
		}
	}
	(void)PQexitPipelineMode(source->connection);
	return rc == AIDB_OK && taken != file->bytes
			   ? aidb_fail(AIDB_IO, "%s has %" PRIu64 " bytes, not %" PRIu64, file->name, taken, file->bytes)
			   : rc;
}

aidb_status aidb_source_read(aidb_source *source, const aidb_manifest_file *file, aidb_object_sink sink,
							 void *argument) {
	int opened = open_file(source, file);

	return opened >= 0 ? read_file(source, opened, file, sink, argument) : fetch_file(source, file, sink, argument);
}

/* ---- The log --------------------------------------------------------------------------------------------- */

static aidb_status lock_slot(aidb_source *source, const char *slot) {
	const char *values[1] = {slot};
	PGresult *result;
	aidb_status rc =
		query(source, "cannot take the slot", "SELECT pg_try_advisory_lock(hashtextextended('aidb.slot.' || $1, 0))", 1,
			  values, false, &result);

	if (rc == AIDB_OK) {
		if (PQgetvalue(result, 0, 0)[0] != 't') {
			rc = aidb_fail(AIDB_IN_USE, "another session archives the log of this server by slot \"%s\"", slot);
		}
		PQclear(result);
	}
	return rc;
}

static aidb_status open_slot(aidb_source *source, const char *slot, uint64_t *sequence) {
	const char *values[1] = {slot};
	PGresult *result;
	aidb_status rc = query(source, "cannot open a slot", "SELECT aidb.stream_open($1)", 1, values, false, &result);

	if (rc == AIDB_OK) {
		*sequence = number(result, 0, 0);
		PQclear(result);
	}
	return rc;
}

aidb_status aidb_source_open_slot(aidb_source *source, const char *slot, uint64_t *sequence, uint64_t *store,
								  uint64_t *epoch) {
	PGresult *result;
	aidb_status rc = lock_slot(source, slot);

	if (rc == AIDB_OK) {
		rc = open_slot(source, slot, sequence);
	}
	if (rc == AIDB_OK) {
		rc = query(source, "cannot ask what the server is", "SELECT aidb.store_id(), epoch FROM aidb.node_status()", 0,
				   NULL, false, &result);
	}
	if (rc == AIDB_OK) {
		*store = number(result, 0, 0);
		*epoch = number(result, 0, 1);
		PQclear(result);
	}
	return rc;
}

aidb_status aidb_source_reopen_slot(aidb_source *source, const char *slot, uint64_t *sequence) {
	const char *values[1] = {slot};
	aidb_status rc = run(source, "cannot drop a slot", "SELECT aidb.stream_drop($1)", 1, values);

	return rc == AIDB_OK ? open_slot(source, slot, sequence) : rc;
}

static char *array_of(const aidb_stream_place *place) {
	char *text = malloc(3 + (size_t)place->undecided_count * NUMBER_BYTES);
	char *at = text;

	if (text != NULL) {
		*at++ = '{';
		for (uint32_t i = 0; i < place->undecided_count; i++) {
			at += snprintf(at, NUMBER_BYTES, "%s%" PRId64, i > 0 ? "," : "", (int64_t)place->undecided[i]);
		}
		memcpy(at, "}", 2);
	}
	return text;
}

aidb_status aidb_source_stream(aidb_source *source, const aidb_stream_place *place, unsigned max_bytes,
							   unsigned wait_ms, aidb_slice *answer) {
	char epoch[NUMBER_BYTES], after[NUMBER_BYTES], acknowledged[NUMBER_BYTES], bytes[NUMBER_BYTES], wait[NUMBER_BYTES];
	char *undecided = array_of(place);
	const char *values[7] = {place->slot, epoch, after, acknowledged, undecided, bytes, wait};
	aidb_status rc;

	if (undecided == NULL) {
		return aidb_fail(AIDB_NO_MEMORY, "out of memory");
	}
	PQclear(source->answer);
	source->answer = NULL;
	snprintf(epoch, sizeof(epoch), "%" PRIu64, place->epoch);
	snprintf(after, sizeof(after), "%" PRIu64, place->after);
	snprintf(acknowledged, sizeof(acknowledged), "%" PRIu64, place->acknowledged);
	snprintf(bytes, sizeof(bytes), "%u", max_bytes);
	snprintf(wait, sizeof(wait), "%u", wait_ms);
	rc = query(source, "cannot read the log of the server", "SELECT aidb.stream_read($1, $2, $3, $4, $5, $6, $7)", 7,
			   values, true, &source->answer);
	free(undecided);
	if (rc == AIDB_OK) {
		*answer = (aidb_slice){PQgetvalue(source->answer, 0, 0), (size_t)PQgetlength(source->answer, 0, 0)};
	}
	return rc;
}

aidb_status aidb_source_mark(aidb_source *source, const char *name, uint64_t *sequence) {
	const char *values[1] = {name};
	PGresult *result;
	aidb_status rc =
		query(source, "cannot make a restore point", "SELECT aidb.restore_point($1)", 1, values, false, &result);

	if (rc == AIDB_OK) {
		*sequence = number(result, 0, 0);
		PQclear(result);
	}
	return rc;
}

/* ---- Telling the server ---------------------------------------------------------------------------------- */

aidb_status aidb_source_note_backup(aidb_source *source, const char *address, const aidb_manifest *manifest) {
	char files[NUMBER_BYTES], bytes[NUMBER_BYTES], stored[NUMBER_BYTES], started[NUMBER_BYTES], finished[NUMBER_BYTES];
	const char *values[7] = {manifest->label, address, started, finished, files, bytes, stored};

	snprintf(started, sizeof(started), "%" PRIu64, manifest->started / 1000000);
	snprintf(finished, sizeof(finished), "%" PRIu64, manifest->finished / 1000000);
	snprintf(files, sizeof(files), "%u", manifest->file_count);
	snprintf(bytes, sizeof(bytes), "%" PRIu64, aidb_manifest_bytes(manifest));
	snprintf(stored, sizeof(stored), "%" PRIu64, manifest->stored_bytes);
	return run(
		source, "cannot write down in the server that it was backed up",
		"INSERT INTO aidb.backup VALUES ($1, $2, to_timestamp($3), to_timestamp($4), $5, $6, $7) RETURNING label", 7,
		values);
}
