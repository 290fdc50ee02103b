/*
 * doctor.h: aidb-admin doctor: looks for what is wrong with a server, or with a cluster and each of its nodes, and says what to do.
 */
#ifndef AIDB_ADMIN_DOCTOR_H
#define AIDB_ADMIN_DOCTOR_H

#include <stdbool.h>

/* Returns the exit status: 0 when there is no problem; warnings are none. */
int aidb_doctor(const char *conninfo, bool json);

#endif
