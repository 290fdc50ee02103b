/*
 * row_codec.h: the non-key columns of a row to bytes and back.
 *
 * A versioned format that survives ADD COLUMN and DROP COLUMN: fields are stored by attribute number, columns added
 * later read as their missing value (ADD COLUMN ... DEFAULT reads as on a heap table).
 */
#ifndef AIPG_ROW_CODEC_H
#define AIPG_ROW_CODEC_H

#include "postgres.h"

#include "aidb.h"
#include "executor/tuptable.h"
#include "lib/stringinfo.h"
#include "table.h"

/* Encodes the slot's non-key columns (all attributes deformed) after resetting *row. External TOAST is detoasted. */
extern void aipg_row_encode(const aipg_table *table, TupleTableSlot *slot, StringInfo row);
/*
 * Decodes key and row into a virtual tuple in `slot` (cleared first, stored on return). By-reference values are
 * palloc'd in `context` or point into it. `needed` (may be NULL: all) holds attribute numbers offset by
 * FirstLowInvalidHeapAttributeNumber that must be right; others may be left null.
 */
extern void aipg_row_decode(const aipg_table *table, aidb_slice key, aidb_slice row, const Bitmapset *needed,
							MemoryContext context, TupleTableSlot *slot);

/*
 * A row that is inserted where another one was deleted is another row, though it has the same key, and whoever has seen the
 * old one must be able to tell. It gets a number, which its later versions keep; 0, of most rows, takes no space.
 */
extern void aipg_row_set_incarnation(StringInfo row, uint64 incarnation);
extern uint64 aipg_row_incarnation(aidb_slice row);
/* A flag in the number: the row before was not deleted but got another key. */
#define AIPG_INCARNATION_AFTER_MOVE (UINT64CONST(1) << 63)

/*
 * One value as a field of a row, in hexadecimal digits, and back; by-reference values are palloc'd. For the column
 * option `missing`: no output or input function takes part, so that what it depends on may be dropped.
 */
extern char *aipg_field_to_hex(Form_pg_attribute attribute, Datum value);
extern Datum aipg_field_from_hex(Form_pg_attribute attribute, const char *hex);

#endif
