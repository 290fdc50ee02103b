/*
 * ddl_alter.h: ALTER TABLE where core leaves the rows of foreign tables to their wrapper.
 *
 * Core neither rewrites nor checks a foreign table's rows. So that an AiDb table answers as a heap table would, a new
 * column's default is kept for the rows that are older than it, new constraints are checked against the rows, and what
 * would take a rewrite is refused while there are rows.
 */
#ifndef AIPG_DDL_ALTER_H
#define AIPG_DDL_ALTER_H

#include "postgres.h"

#include "nodes/parsenodes.h"

/* What must be done once core has executed an ALTER TABLE. */
typedef struct aipg_alteration aipg_alteration;

/*
 * Before core executes it: locks what it names as core would, and raises what AiDb tables cannot do. Returns NULL when
 * it concerns no AiDb table.
 */
extern aipg_alteration *aipg_prepare_alter(AlterTableStmt *statement);
/* Afterwards: keeps defaults and checks rows. NULL is fine. */
extern void aipg_finish_alter(const aipg_alteration *alteration);

/* The values of option `missing` of all columns, as ddl_log.h has them; and making them those of a table. */
extern char *aipg_missing_text(Oid relid);
extern void aipg_set_missing(Oid relid, const char *text);

/* Executes AlterTableCmds (may be NIL) on one table, without the checks above, and makes them visible. */
extern void aipg_alter(Oid relid, List *commands);
/* A command that adds, sets or drops an option of a column. */
extern AlterTableCmd *aipg_option_command(const char *column, const char *option, char *value, DefElemAction action);

#endif
