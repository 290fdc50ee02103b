/*
 * local.h: the coordinator of a directory of this machine, with its PostgreSQL: made, started and stopped. aidb_coordinator, which
 * stands beside this program, does it (its option --data); this starts it in the background, and finds it again.
 *
 * All return an exit status, and say what they have done, or on stderr why not.
 */
#ifndef AIDB_ADMIN_LOCAL_H
#define AIDB_ADMIN_LOCAL_H

/* As they were given, to be passed on; NULL: not. */
typedef struct aidb_local_options {
	const char *port;
	const char *listen;
	const char *bindir;
} aidb_local_options;

int aidb_local_init(const char *directory, const aidb_local_options *options);
int aidb_local_start(const char *directory, const aidb_local_options *options);
int aidb_local_stop(const char *directory, const aidb_local_options *options);

#endif
