/*
 * statement.h: a statement for a node, with its parameters.
 */
#ifndef ROUTER_STATEMENT_H
#define ROUTER_STATEMENT_H

#include "postgres.h"

/* Memory is the caller's, and not needed any more after the call that gets it. */
typedef struct router_statement {
	const char *sql;
	int count; /* of parameters */
	const Oid *types;
	const char *const *values; /* as text; NULL is SQL's null */
	bool prepare;              /* worth to be prepared: it will come again */
} router_statement;

#endif
