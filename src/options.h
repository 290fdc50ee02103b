/*
 * options.h: the options that users and the extension set on AiDb tables and their columns.
 */
#ifndef AIPG_OPTIONS_H
#define AIPG_OPTIONS_H

#include "postgres.h"

#include "access/attnum.h"

#define AIPG_OPTION_KEY "key" /* place in the primary key, from 1 */
#define AIPG_OPTION_SHARD_COLUMNS                                                                                      \
	"shard_columns"                   /* of a table: how many columns, the first of the key, are its shard key */
#define AIPG_OPTION_MISSING "missing" /* value of older rows as hexadecimal digits; see row_codec.h */

/* The value of a table's option, palloc'd; NULL when it is not set. */
extern char *aipg_table_option(Oid relid, const char *name);
/* The value of a column's option, palloc'd; NULL when it is not set. */
extern char *aipg_column_option(Oid relid, AttrNumber attnum, const char *name);
/* Reads the value of option `key`; raises when it is not a place in a key. */
extern int aipg_parse_key_position(const char *value);
/* The same for option `shard_columns`. */
extern int aipg_parse_shard_columns(const char *value);

#endif
