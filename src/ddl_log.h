/*
 * ddl_log.h: what has been done to the definitions of AiDb tables and key spaces, as rows of the store, so that replicas can do
 * the same at the same place of the stream.
 *
 * Row of index id AIPG_INDEX_DEFINITIONS, in slot 0, written in the transaction that makes the change:
 *
 *   key     number (u32, big-endian): taken while the lock on the relation is held, so it orders changes of one relation
 *   value   version (u8), kind (u8), index id (u32), former index id (u32; both big-endian), then strings, each length (u32,
 *           big-endian) and bytes: database, search_path, schema, name, statement,
 *           missing: of each column with that option name and value, a line each
 *
 * A replica keeps the rows it has done, which tells it what it has not.
 */
#ifndef AIPG_DDL_LOG_H
#define AIPG_DDL_LOG_H

#include "postgres.h"

#include "aidb.h"

typedef enum aipg_change_kind {
	AIPG_CHANGE_CREATE = 1,   /* the statement makes table schema.name, with the index id */
	AIPG_CHANGE_ALTER = 2,    /* the statement changes a table */
	AIPG_CHANGE_DROP = 3,     /* of the table with the index id */
	AIPG_CHANGE_TRUNCATE = 4, /* the table with the former index id gets the index id */
	AIPG_CHANGE_SPACE = 5,    /* key space `name` gets the index id */
} aipg_change_kind;

typedef struct aipg_change {
	aipg_change_kind kind;
	uint32 index_id;
	uint32 former;
	const char *database;
	const char *search_path;
	const char *schema;
	const char *name;
	const char *statement;
	const char *missing; /* what older rows read in columns that were added: it may depend on when it was computed */
} aipg_change;

/* Writes a row into the transaction; what is NULL is empty, and database is the current one. Nothing on a replica: it gets the
 * row from its primary. */
extern void aipg_ddl_log_add(const aipg_change *change);
/* Whether the current transaction has written a row; and that it has ended. */
extern bool aipg_ddl_log_is_written(void);
extern void aipg_ddl_log_end(void);
/* Reads a row's value; strings are palloc'd. Raises XX001 when it is malformed. */
extern aipg_change aipg_ddl_log_read(aidb_slice value);

/* Removes the rows of a database that is dropped. */
extern void aipg_ddl_log_forget(Oid database);

/* The text of the statement that is being executed, palloc'd. */
extern char *aipg_statement_text(const char *query, int location, int length);

#endif
