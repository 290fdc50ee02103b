/*
 * restored_server.h: a PostgreSQL server that is made for a store from a backup, in a new data directory, and runs for nobody else
 * while it is being restored: on a socket in a directory of this process.
 */
#ifndef AIDB_BACKUP_RESTORED_SERVER_H
#define AIDB_BACKUP_RESTORED_SERVER_H

#include <limits.h>
#include <stdbool.h>

#include <libpq-fe.h>

#include "backup/manifest.h"

typedef struct aidb_restored_server {
	const char *bindir; /* of PostgreSQL's programs */
	char data[PATH_MAX];
	char run[64]; /* for socket and logs; removed by stop */
	bool made;    /* the data directory has been begun by this */
	bool running;
	PGconn *connection;
} aidb_restored_server;

/* Refuses a directory that has anything in it (AIDB_EXISTS), and root. Then makes the server, which has the encoding and locale of the
 * backup, and is not started. */
aidb_status aidb_restored_server_make(aidb_restored_server *self, const char *bindir, const char *data,
									  const aidb_manifest *manifest);
/* Starts it, and connects to the database of the backup, which is made with the extension. */
aidb_status aidb_restored_server_start(aidb_restored_server *self, const aidb_manifest *manifest);
/* One statement, with parameters as text or, with lengths, as bytes. *result may be NULL, else it is the caller's to clear. */
aidb_status aidb_restored_server_query(aidb_restored_server *self, const char *what, const char *sql, int count,
									   const char *const *values, const int *lengths, PGresult **result);
/* All statements of a file. */
aidb_status aidb_restored_server_run(aidb_restored_server *self, const char *path);
/* Stops it in good order. Also after an error. */
aidb_status aidb_restored_server_stop(aidb_restored_server *self);
/* Removes what has been made; after stop. */
void aidb_restored_server_discard(aidb_restored_server *self);

#endif
