/*
 * local_server.h: the coordinator's PostgreSQL, when it is in a directory of its own on this machine: made, started and stopped by
 * PostgreSQL's programs.
 *
 *   DIRECTORY/data             PostgreSQL's, with its configuration
 *   DIRECTORY/.s.PGSQL.PORT    the socket
 *   DIRECTORY/server.log       PostgreSQL's messages; setup.log those of its programs
 *   DIRECTORY/coordinator.pid  of the coordinator that works here; locked as long as it does
 *   DIRECTORY/coordinator.log  its messages, when aidb-admin has started it
 *
 * All functions say on stderr why they fail.
 */
#ifndef AIDB_LOCAL_SERVER_H
#define AIDB_LOCAL_SERVER_H

#include <stdbool.h>
#include <stdint.h>

#define AIDB_CONNINFO_BYTES 512u

typedef struct aidb_local_server {
	const char *bindir; /* of PostgreSQL's programs */
	const char *directory;
	const char *listen; /* addresses, as of listen_addresses; "": the socket alone. Of a server that is made. */
	uint32_t port;      /* 0: that of the server that is there, or 5432 */
	bool started;       /* by aidb_local_server_start, and to be stopped */
	int lock;
} aidb_local_server;

/* One coordinator to a directory: takes the lock, and writes the process id down. */
bool aidb_local_server_lock(aidb_local_server *self);
/* Makes the server, unless it is there. */
bool aidb_local_server_create(aidb_local_server *self);
/* Starts it, unless it runs, and sees to it that database postgres has the extension. */
bool aidb_local_server_start(aidb_local_server *self);
/* Of that database. */
void aidb_local_server_conninfo(const aidb_local_server *self, char conninfo[AIDB_CONNINFO_BYTES]);
/* Stops it if it was started here, and lets go of the lock. */
void aidb_local_server_close(aidb_local_server *self);

#endif
