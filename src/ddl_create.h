/*
 * ddl_create.h: CREATE FOREIGN TABLE with a primary key.
 *
 * Core refuses PRIMARY KEY for foreign tables, so it is taken out of the statement before core sees it; afterwards the
 * key columns are given NOT NULL and the option `key`, and the table gets its index id.
 */
#ifndef AIPG_DDL_CREATE_H
#define AIPG_DDL_CREATE_H

#include "postgres.h"

#include "nodes/parsenodes.h"

/* True when the statement creates a table on a server of ours. */
extern bool aipg_creates_table(const CreateForeignTableStmt *statement);
/* Takes PRIMARY KEY out of the statement; returns the names (char *) of its columns, NIL when there is none. */
extern List *aipg_take_primary_key(CreateForeignTableStmt *statement);
/* Gives the new table its key: by the names, or by options of its columns; and NOT NULL. Raises when there is none. */
extern void aipg_set_primary_key(Oid relid, List *primary_key);
/* After core has executed it; does nothing when IF NOT EXISTS found a relation, and gives
 * InvalidOid then, otherwise the table. Raises when it has no key. */
extern Oid aipg_finish_create(const CreateForeignTableStmt *statement, List *primary_key);

#endif
