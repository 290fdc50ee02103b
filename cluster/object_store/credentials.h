/*
 * credentials.h: with what a program signs its requests to S3, found as Amazon's own tools find it: in the environment, or in the
 * file of shared credentials. They are never printed, and given to nobody.
 */
#ifndef AIDB_CREDENTIALS_H
#define AIDB_CREDENTIALS_H

#include "aidb.h"

#define AIDB_CREDENTIAL_BYTES 1024

typedef struct aidb_credentials {
	char key[AIDB_CREDENTIAL_BYTES];
	char secret[AIDB_CREDENTIAL_BYTES];
	char token[2 * AIDB_CREDENTIAL_BYTES]; /* empty: none */
} aidb_credentials;

/* AIDB_INVALID when there are none, with the places where they were looked for. */
aidb_status aidb_credentials_find(aidb_credentials *credentials);

#endif
