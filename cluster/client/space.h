/*
 * space.h: a key space of a client: the statements that its operations send. Read only once open.
 */
#ifndef AIDB_CLIENT_SPACE_H
#define AIDB_CLIENT_SPACE_H

#include "client/client.h"
#include "client/exchange.h"

typedef enum aidb_space_statement {
	AIDB_SPACE_GET, /* $1: the key; gives key and value, as all that read */
	AIDB_SPACE_PUT, /* $1: the key, $2: the value */
	AIDB_SPACE_DELETE,
	AIDB_SPACE_GET_MANY, /* $1: bytea[]; these three in the order of the three above */
	AIDB_SPACE_PUT_MANY, /* $1, $2: bytea[] */
	AIDB_SPACE_DELETE_MANY,
	AIDB_SPACE_SCAN,    /* $1: lower, $2: rows, int8 */
	AIDB_SPACE_SCAN_TO, /* and $3: upper */
	AIDB_SPACE_STATEMENTS,
} aidb_space_statement;

struct aidb_client_space {
	aidb_client *client;
	aidb_statement statements[AIDB_SPACE_STATEMENTS];
};

#endif
