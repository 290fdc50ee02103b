#include "coordinator/local_server.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "client/socket.h"
#include "programs/program.h"

#define DEFAULT_PORT 5432u
#define CONNECT_MS 30000u
#define STATEMENT_MS 60000u

static bool complain(const char *what, const char *path) {
	fprintf(stderr, "aidb_coordinator: %s \"%s\": %s\n", what, path, strerror(errno));
	return false;
}

static void path_of(const aidb_local_server *self, const char *name, char path[PATH_MAX]) {
	snprintf(path, PATH_MAX, "%s/%s", self->directory, name);
}

static bool exists(const aidb_local_server *self, const char *name) {
	char path[PATH_MAX];

	path_of(self, name, path);
	return access(path, F_OK) == 0;
}

/* ---- PostgreSQL's programs --------------------------------------------------------------------------------- */

/* Runs it to its end; its exit status, or -1. The arguments end with a NULL. */
static int run(const aidb_local_server *self, const char *program, const char *const *arguments) {
	char log[PATH_MAX];

	path_of(self, "setup.log", log);
	return aidb_program_run(self->bindir, program, log, arguments);
}

/* The last lines that a program or the server has written. */
static bool fail(const aidb_local_server *self, const char *what, const char *log_name) {
	char path[PATH_MAX], text[1024];

	path_of(self, log_name, path);
	aidb_program_log_end(path, text, sizeof(text));
	fprintf(stderr, "aidb_coordinator: %s; the end of \"%s\":\n%s\n", what, path, text);
	return false;
}

/* ---- The directory ----------------------------------------------------------------------------------------- */

/* But for what a first attempt has left, and who started it. */
static bool is_empty(const char *path) {
	DIR *directory = opendir(path);
	const struct dirent *entry;
	bool empty = true;

	while (directory != NULL && (entry = readdir(directory)) != NULL) {
		empty = empty && (entry->d_name[0] == '.' || strcmp(entry->d_name, "coordinator.log") == 0 ||
						  strcmp(entry->d_name, "setup.log") == 0 || strcmp(entry->d_name, "data.new") == 0);
	}
	if (directory != NULL) {
		closedir(directory);
	}
	return empty;
}

static bool prepare_directory(const aidb_local_server *self) {
	struct sockaddr_un address;

	if (geteuid() == 0) {
		fputs("aidb_coordinator: PostgreSQL does not run as root; start this as the user whose the server is to be\n",
			  stderr);
		return false;
	}
	if (self->directory[0] != '/' ||
		strlen(self->directory) + sizeof("/.s.PGSQL.65535.lock") > sizeof(address.sun_path)) {
		fprintf(
			stderr,
			"aidb_coordinator: \"%s\": give a directory from the root on, of at most %zu bytes: a socket is in it\n",
			self->directory, sizeof(address.sun_path) - sizeof("/.s.PGSQL.65535.lock"));
		return false;
	}
	if (mkdir(self->directory, 0700) != 0 && errno != EEXIST) {
		return complain("cannot make directory", self->directory);
	}
	if (!exists(self, "data/PG_VERSION") && !is_empty(self->directory)) {
		fprintf(stderr,
				"aidb_coordinator: directory \"%s\" has files, and no server; give an empty one, or one that is not "
				"there\n",
				self->directory);
		return false;
	}
	return true;
}

bool aidb_local_server_lock(aidb_local_server *self) {
	char path[PATH_MAX];

	self->lock = -1;
	if (!prepare_directory(self)) {
		return false;
	}
	path_of(self, "coordinator.pid", path);
	self->lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (self->lock < 0) {
		return complain("cannot write", path);
	}
	if (flock(self->lock, LOCK_EX | LOCK_NB) != 0) {
		close(self->lock);
		self->lock = -1;
		fprintf(stderr, "aidb_coordinator: another coordinator works in \"%s\"\n", self->directory);
		return false;
	}
	return ftruncate(self->lock, 0) == 0 && dprintf(self->lock, "%ld\n", (long)getpid()) > 0;
}

/* ---- Making and starting ----------------------------------------------------------------------------------- */

static bool write_settings(const aidb_local_server *self) {
	char path[PATH_MAX];
	FILE *file;
	bool written;

	path_of(self, "data.new/postgresql.conf", path);
	file = fopen(path, "a");
	if (file == NULL) {
		return complain("cannot write", path);
	}
	fprintf(file,
			"\n# Of the coordinator's server.\n"
			"shared_preload_libraries = 'aidb'\n"
			"aidb.memory = '16MB' # it keeps no rows\n"
			"unix_socket_directories = '%s'\n"
			"listen_addresses = '%s'\n"
			"port = %u\n",
			self->directory, self->listen, (unsigned)(self->port > 0 ? self->port : DEFAULT_PORT));
	written = ferror(file) == 0;
	return fclose(file) == 0 && written ? true : complain("cannot write", path);
}

bool aidb_local_server_create(aidb_local_server *self) {
	char data[PATH_MAX], made[PATH_MAX];
	const char *const arguments[] = {
		"-D", data, "--auth-local=peer", "--auth-host=scram-sha-256", "--encoding=UTF8", "--locale=C.UTF-8", NULL};

	if (exists(self, "data/PG_VERSION")) {
		return true;
	}
	path_of(self, "data.new", data);
	path_of(self, "data", made);
	if (run(self, "initdb", arguments) != 0) {
		return fail(self, "cannot make the server", "setup.log");
	}
	if (!write_settings(self)) {
		return false;
	}
	return rename(data, made) == 0 || complain("cannot make", made);
}

/* The port that the server has been given; 0: not known. */
static uint32_t configured_port(const aidb_local_server *self) {
	char path[PATH_MAX], line[256];
	unsigned port = 0;
	FILE *file;

	path_of(self, "data/postgresql.conf", path);
	file = fopen(path, "r");
	while (file != NULL && fgets(line, sizeof(line), file) != NULL) {
		(void)sscanf(line, "port = %u", &port);
	}
	if (file != NULL) {
		fclose(file);
	}
	return port;
}

static bool add_extension(const aidb_local_server *self) {
	char conninfo[AIDB_CONNINFO_BYTES], *error;
	PGconn *connection;
	PGresult *result;
	bool added;

	aidb_local_server_conninfo(self, conninfo);
	connection =
		aidb_socket_connect(conninfo, "-c client_min_messages=warning", aidb_socket_now_ms() + CONNECT_MS, &error);
	if (connection == NULL) {
		fprintf(stderr, "aidb_coordinator: cannot connect to its server: %s\n",
				error != NULL ? error : "out of memory");
		free(error);
		return false;
	}
	result =
		aidb_socket_execute(connection, "CREATE EXTENSION IF NOT EXISTS aidb", aidb_socket_now_ms() + STATEMENT_MS);
	added = PQresultStatus(result) == PGRES_COMMAND_OK;
	if (!added) {
		fprintf(stderr, "aidb_coordinator: cannot make extension aidb: %s\n",
				result != NULL ? PQresultErrorMessage(result) : "no answer");
	}
	PQclear(result);
	PQfinish(connection);
	return added;
}

bool aidb_local_server_start(aidb_local_server *self) {
	char data[PATH_MAX], log[PATH_MAX];
	const char *const status[] = {"status", "-D", data, NULL};
	const char *const start[] = {"start", "-D", data, "-l", log, "-w", "-t", "600", NULL};

	path_of(self, "data", data);
	path_of(self, "server.log", log);
	if (run(self, "pg_ctl", status) != 0) {
		if (run(self, "pg_ctl", start) != 0) {
			return fail(self, "cannot start the server", exists(self, "server.log") ? "server.log" : "setup.log");
		}
		self->started = true;
	}
	return add_extension(self);
}

void aidb_local_server_conninfo(const aidb_local_server *self, char conninfo[AIDB_CONNINFO_BYTES]) {
	uint32_t port = configured_port(self);

	snprintf(conninfo, AIDB_CONNINFO_BYTES, "host=%s port=%u dbname=postgres", self->directory,
			 (unsigned)(port > 0 ? port : DEFAULT_PORT));
}

void aidb_local_server_close(aidb_local_server *self) {
	char data[PATH_MAX];
	const char *const stop[] = {"stop", "-D", data, "-m", "fast", "-w", "-t", "600", NULL};

	path_of(self, "data", data);
	if (self->started && run(self, "pg_ctl", stop) != 0) {
		(void)fail(self, "cannot stop the server", "setup.log");
	}
	self->started = false;
	if (self->lock >= 0) {
		path_of(self, "coordinator.pid", data);
		unlink(data);
		close(self->lock);
		self->lock = -1;
	}
}
