/*
 * standby.h: the processes that make this server follow its primary: a launcher, and while the server is a standby, a worker
 * in the database that is replicated.
 */
#ifndef AIPG_STANDBY_H
#define AIPG_STANDBY_H

#include "postgres.h"

/* From _PG_init. */
extern void aipg_standby_register(void);

/* What they run. */
extern PGDLLEXPORT void aipg_launcher_main(Datum argument);
extern PGDLLEXPORT void aipg_standby_main(Datum argument);

#endif
