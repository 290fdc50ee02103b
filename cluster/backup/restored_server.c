#define _GNU_SOURCE 1
#include "backup/restored_server.h"

#include <dirent.h>
#include <errno.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "programs/program.h"
#include "object_store/failure.h"

#define MAX_SQL_BYTES (16l << 20)
#define FTW_FILES 16

static const char *log_path(const aidb_restored_server *self, char path[PATH_MAX]) {
	snprintf(path, PATH_MAX, "%s/log", self->run);
	return path;
}

static aidb_status failed(const aidb_restored_server *self, const char *what) {
	char path[PATH_MAX], text[1024];

	aidb_program_log_end(log_path(self, path), text, sizeof(text));
	return aidb_fail(AIDB_IO, "cannot %s the server in \"%s\":\n%s", what, self->data, text);
}

static int remove_entry(const char *path, const struct stat *status, int kind, struct FTW *place) {
	(void)status;
	(void)kind;
	(void)place;
	return remove(path);
}

static void remove_all(const char *path) {
	(void)nftw(path, remove_entry, FTW_FILES, FTW_DEPTH | FTW_PHYS);
}

/* ---- Making ---------------------------------------------------------------------------------------------- */

static aidb_status check_directory(const char *data) {
	DIR *directory = opendir(data);
	const struct dirent *entry;
	bool empty = true;

	if (directory == NULL) {
		return errno == ENOENT ? AIDB_OK : aidb_fail_errno(errno, "open directory", data);
	}
	while ((entry = readdir(directory)) != NULL) {
		empty = empty && (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0);
	}
	closedir(directory);
	return empty
			   ? AIDB_OK
			   : aidb_fail(AIDB_EXISTS,
						   "directory \"%s\" is not empty, and nothing is overwritten: give one that is not there, or "
						   "empty",
						   data);
}

static aidb_status write_settings(const aidb_restored_server *self) {
	char path[PATH_MAX + 32];
	FILE *file;
	bool written;

	snprintf(path, sizeof(path), "%s/postgresql.conf", self->data);
	file = fopen(path, "a");
	if (file == NULL) {
		return aidb_fail_errno(errno, "write", path);
	}
	fputs("\nshared_preload_libraries = 'aidb'\n", file);
	written = ferror(file) == 0;
	return fclose(file) == 0 && written ? AIDB_OK : aidb_fail_errno(errno, "write", path);
}

/* Who speaks to the server while it is restored needs no password: nobody else can reach the socket. */
static aidb_status write_access(const aidb_restored_server *self) {
	char path[PATH_MAX];
	FILE *file;

	snprintf(path, sizeof(path), "%s/hba", self->run);
	file = fopen(path, "w");
	if (file == NULL) {
		return aidb_fail_errno(errno, "write", path);
	}
	fputs("local all all trust\n", file);
	return fclose(file) == 0 ? AIDB_OK : aidb_fail_errno(errno, "write", path);
}

static aidb_status init_database(aidb_restored_server *self, const aidb_manifest *manifest) {
	char encoding[AIDB_TEXT_BYTES + 16], collation[AIDB_TEXT_BYTES + 16], ctype[AIDB_TEXT_BYTES + 16],
		owner[AIDB_TEXT_BYTES + 16], log[PATH_MAX];
	const char *const arguments[] = {
		"-D", self->data, encoding, collation, ctype, owner, "--auth-local=peer", "--auth-host=scram-sha-256", NULL};

	snprintf(encoding, sizeof(encoding), "--encoding=%s", manifest->encoding);
	snprintf(collation, sizeof(collation), "--lc-collate=%s", manifest->collation);
	snprintf(ctype, sizeof(ctype), "--lc-ctype=%s", manifest->ctype);
	snprintf(owner, sizeof(owner), "--username=%s", manifest->owner);
	self->made = true;
	return aidb_program_run(self->bindir, "initdb", log_path(self, log), arguments) == 0 ? AIDB_OK
																						 : failed(self, "make");
}

aidb_status aidb_restored_server_make(aidb_restored_server *self, const char *bindir, const char *data,
									  const aidb_manifest *manifest) {
	aidb_status rc = check_directory(data);

	*self = (aidb_restored_server){.bindir = bindir};
	if (rc == AIDB_OK && geteuid() == 0) {
		rc = aidb_fail(
			AIDB_INVALID,
			"PostgreSQL does not run as root; restore as the user whose the server is to be: su postgres -c ...");
	}
	if (rc == AIDB_OK && snprintf(self->data, sizeof(self->data), "%s", data) >= (int)sizeof(self->data) - 64) {
		rc = aidb_fail(AIDB_INVALID, "the directory's name is too long");
	}
	if (rc != AIDB_OK) {
		return rc;
	}
	snprintf(self->run, sizeof(self->run), "/tmp/aidb-restore.XXXXXX");
	if (mkdtemp(self->run) == NULL) {
		rc = aidb_fail_errno(errno, "make directory", self->run);
		self->run[0] = '\0';
	}
	if (rc == AIDB_OK) {
		rc = write_access(self);
	}
	if (rc == AIDB_OK) {
		rc = init_database(self, manifest);
	}
	return rc == AIDB_OK ? write_settings(self) : rc;
}

/* ---- Running --------------------------------------------------------------------------------------------- */

static aidb_status connect_to(aidb_restored_server *self, const aidb_manifest *manifest, const char *database) {
	const char *const names[] = {"host", "port", "user", "dbname", "options", NULL};
	const char *const values[] = {self->run, "5432", manifest->owner, database, "-c client_min_messages=error", NULL};

	PQfinish(self->connection);
	self->connection = PQconnectdbParams(names, values, 0);
	return PQstatus(self->connection) == CONNECTION_OK
			   ? AIDB_OK
			   : aidb_fail(AIDB_IO, "cannot connect to the server in \"%s\": %s", self->data,
						   PQerrorMessage(self->connection));
}

static aidb_status make_database(aidb_restored_server *self, const aidb_manifest *manifest) {
	char sql[2 * AIDB_TEXT_BYTES + 64], *name;
	aidb_status rc = connect_to(self, manifest, "postgres");

	if (rc != AIDB_OK || strcmp(manifest->database, "postgres") == 0) {
		return rc;
	}
	name = PQescapeIdentifier(self->connection, manifest->database, strlen(manifest->database));
	snprintf(sql, sizeof(sql), "CREATE DATABASE %s", name != NULL ? name : "");
	PQfreemem(name);
	rc = aidb_restored_server_query(self, "cannot make the database", sql, 0, NULL, NULL, NULL);
	return rc == AIDB_OK ? connect_to(self, manifest, manifest->database) : rc;
}

aidb_status aidb_restored_server_start(aidb_restored_server *self, const aidb_manifest *manifest) {
	char options[512], log[PATH_MAX];
	const char *const arguments[] = {"start", "-D", self->data, "-l", log, "-w", "-t", "3600", "-o", options, NULL};
	aidb_status rc;

	log_path(self, log);
	snprintf(options, sizeof(options),
			 "-c listen_addresses='' -c port=5432 -c unix_socket_directories='%s' -c hba_file='%s/hba' "
			 "-c autovacuum=off -c logging_collector=off -c log_destination=stderr",
			 self->run, self->run);
	if (aidb_program_run(self->bindir, "pg_ctl", log, arguments) != 0) {
		return failed(self, "start");
	}
	self->running = true;
	rc = make_database(self, manifest);
	return rc == AIDB_OK ? aidb_restored_server_query(self, "cannot make extension aidb", "CREATE EXTENSION aidb", 0,
													  NULL, NULL, NULL)
						 : rc;
}

static aidb_status refused(const aidb_restored_server *self, const PGresult *got, const char *what) {
	const char *message = PQresultErrorField(got, PG_DIAG_MESSAGE_PRIMARY);
	const char *detail = PQresultErrorField(got, PG_DIAG_MESSAGE_DETAIL);
	const char *context = PQresultErrorField(got, PG_DIAG_CONTEXT);

	return aidb_fail(AIDB_IO, "%s: %s%s%s%s%s", what, message != NULL ? message : PQerrorMessage(self->connection),
					 detail != NULL ? "; " : "", detail != NULL ? detail : "", context != NULL ? "\n" : "",
					 context != NULL ? context : "");
}

aidb_status aidb_restored_server_query(aidb_restored_server *self, const char *what, const char *sql, int count,
									   const char *const *values, const int *lengths, PGresult **result) {
	static const int bytes[8] = {1, 1, 1, 1, 1, 1, 1, 1};
	PGresult *got =
		PQexecParams(self->connection, sql, count, NULL, values, lengths, lengths != NULL ? bytes : NULL, 0);
	aidb_status rc = AIDB_OK;

	if (PQresultStatus(got) != PGRES_TUPLES_OK && PQresultStatus(got) != PGRES_COMMAND_OK) {
		rc = refused(self, got, what);
	}
	if (rc == AIDB_OK && result != NULL) {
		*result = got;
	} else {
		PQclear(got);
	}
	return rc;
}

aidb_status aidb_restored_server_run(aidb_restored_server *self, const char *path) {
	FILE *file = fopen(path, "re");
	aidb_status rc = AIDB_OK;
	PGresult *result;
	char *sql;
	size_t size;

	if (file == NULL) {
		return aidb_fail_errno(errno, "open", path);
	}
	sql = malloc(MAX_SQL_BYTES + 1);
	size = sql == NULL ? 0 : fread(sql, 1, MAX_SQL_BYTES + 1, file);
	fclose(file);
	if (sql == NULL || size > MAX_SQL_BYTES) {
		free(sql);
		return sql == NULL ? aidb_fail(AIDB_NO_MEMORY, "out of memory")
						   : aidb_fail(AIDB_LIMIT, "\"%s\" has more than %ld bytes", path, MAX_SQL_BYTES);
	}
	sql[size] = '\0';
	result = PQexec(self->connection, sql);
	if (PQresultStatus(result) != PGRES_TUPLES_OK && PQresultStatus(result) != PGRES_COMMAND_OK &&
		PQresultStatus(result) != PGRES_EMPTY_QUERY) {
		rc = refused(self, result, path);
	}
	PQclear(result);
	free(sql);
	return rc;
}

/* ---- Ending ---------------------------------------------------------------------------------------------- */

aidb_status aidb_restored_server_stop(aidb_restored_server *self) {
	char log[PATH_MAX];
	const char *const arguments[] = {"stop", "-D", self->data, "-m", "fast", "-w", "-t", "3600", NULL};
	aidb_status rc = AIDB_OK;

	PQfinish(self->connection);
	self->connection = NULL;
	if (self->running && aidb_program_run(self->bindir, "pg_ctl", log_path(self, log), arguments) != 0) {
		rc = failed(self, "stop");
	}
	self->running = false;
	if (self->run[0] != '\0') {
		remove_all(self->run);
		self->run[0] = '\0';
	}
	return rc;
}

void aidb_restored_server_discard(aidb_restored_server *self) {
	if (self->made) {
		remove_all(self->data);
		self->made = false;
	}
}
