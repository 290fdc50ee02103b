/*
 * table.h: what the extension knows of one AiDb table: its key columns and its index id in the store.
 */
#ifndef AIPG_TABLE_H
#define AIPG_TABLE_H

#include "postgres.h"

#include "aidb.h"
#include "catalog.h"
#include "executor/tuptable.h"
#include "fmgr.h"
#include "lib/stringinfo.h"
#include "utils/rel.h"

#define AIPG_MAX_KEY_COLUMNS 32

typedef struct aipg_key_column {
	AttrNumber attnum;
	Oid type;
	int32 typmod;
	Oid collation;
	bool ordered; /* byte order is SQL order */
} aipg_key_column;

/* What rows that are older than a column read in it, when that is not null. */
typedef struct aipg_missing {
	AttrNumber attnum;
	Datum value;
} aipg_missing;

typedef struct aipg_table {
	Oid relid;
	uint32 index_id; /* of the primary key's rows in the store */
	int shard_count; /* key columns, the first, by which a row's slot is computed; 0: a local table, all in slot 0 */
	int key_count;
	aipg_key_column key[AIPG_MAX_KEY_COLUMNS];
	TupleDesc tuple_desc;  /* the relation's; valid while it is open */
	uint8 *key_position;   /* by attribute number - 1: the column's place in the key from 1, or 0 */
	int missing_count;     /* columns added with a default while there were rows */
	aipg_missing *missing; /* by attribute number, ascending */
} aipg_table;

/*
 * Describes an open foreign table of our wrapper, palloc'd in the current context. Raises when it has no key (hint:
 * how to declare one) or when its index id is not in the store's catalog. Cheap: kept by each backend until the
 * relation's definition or index id changes.
 */
extern aipg_table *aipg_table_describe(Relation relation);

/*
 * A script of pg_dump's is being restored, which gives tables their keys after it has made them, as options of columns. It can be told by
 * check_function_bodies, which such scripts turn off, and nobody else has reason to.
 */
extern bool aipg_is_restoring_dump(void);
/* ... and the table has no key yet. */
extern bool aipg_awaits_key(Relation relation);
/*
 * The key columns of the relation in key order, as its column options say; returns their number. Raises when the
 * options do not make a key, or when a column's type cannot be one.
 */
extern int aipg_table_key_columns(Relation relation, aipg_key_column columns[AIPG_MAX_KEY_COLUMNS]);

/* How many of its `key_count` key columns are the shard key; 0: it is a local table. Raises when there are not so many. */
extern int aipg_table_shard_columns(Relation relation, int key_count);

/* Builds the stored key of the row in `slot`. */
extern void aipg_table_key(const aipg_table *table, TupleTableSlot *slot, StringInfo key);
/* Puts the slot of a sharded table's row into its key, of which the shard key's columns are the first `size` bytes, and returns it. */
extern uint32 aipg_table_set_slot(char *key, size_t size);
/* "(a, b)=(1, x)" for error details; "(a, b)=(...)" when the current user may not read the key columns. */
extern char *aipg_table_key_text(const aipg_table *table, aidb_slice key);

/* True for foreign tables whose server uses aidb_fdw. */
extern bool aipg_is_table(Oid relid);
/* True for servers whose wrapper has our handler function. */
extern bool aipg_is_server(Oid server);
/* True for servers whose wrapper's handler is this function of our library, named so in SQL. */
extern bool aipg_server_has_handler(Oid server, const char *symbol, PGFunction handler);
/* The server of a foreign table; InvalidOid for other relations. */
extern Oid aipg_server_of(Oid relid);

#endif
