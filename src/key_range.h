/*
 * key_range.h: conditions on key columns to the ranges of stored keys that can satisfy them.
 *
 * A key column's encoding is self-delimiting and injective, and keeps the order of `ordered` columns, so that an
 * equality is a prefix of the key and an inequality a bound behind that prefix. The ranges of one call are sorted and
 * do not overlap: reading them one after the other delivers rows in key order. Rows of a sharded table lie in slots, by the
 * hash of their shard key: conditions that do not fix the shard key make ranges in every slot.
 */
#ifndef AIPG_KEY_RANGE_H
#define AIPG_KEY_RANGE_H

#include "postgres.h"

#include "access.h"
#include "aidb.h"
#include "executor/tuptable.h"
#include "table.h"

/* Two arrays in one qualifier multiply; beyond this many ranges the later column is left to the qualifier alone. */
#define AIPG_MAX_COMBINED_RANGES 10000

/* `column <op> value`, or `column = ANY (value)`. */
typedef struct aipg_key_condition {
	int column;     /* index into aipg_table.key */
	int strategy;   /* btree strategy number of <op> */
	bool array;     /* value is an array, any element of which may match */
	Oid value_type; /* what <op> takes on its right; the element type for an array */
} aipg_key_condition;

typedef struct aipg_key_range {
	aidb_slice lower; /* inclusive; of a point, the key itself */
	aidb_slice upper; /* exclusive; of a point, unset */
	bool point;       /* at most one row: all key columns are fixed */
} aipg_key_range;

typedef struct aipg_key_ranges {
	int count;
	aipg_key_range *range;
} aipg_key_ranges;

/*
 * The ranges of keys that satisfy the conditions with these values (one each; null satisfies nothing). The conditions
 * come in key column order: equalities on a prefix of the key columns, one each, then any number of inequalities on the
 * next. Without conditions: the whole table. All memory is the current context's.
 *
 * Of a sharded table, ranges are of the slots that are here; raises IA001 as aipg_slots_has does. With a NULL view: of
 * all slots, wherever they are.
 *
 * The ranges may hold more than what satisfies the conditions when several are arrays (AIPG_MAX_COMBINED_RANGES), or
 * for an inequality on a column of variable length (a value longer than any key bounds nothing); else they are exact.
 */
extern void aipg_key_ranges_build(const aipg_table *table, const aipg_view *view, const aipg_key_condition *conditions,
								  int count, const NullableDatum *values, aipg_key_ranges *ranges);

/* Reads all rows of a table, one range after the other, as a view sees them. Lives in the memory context of the opening. */
typedef struct aipg_all_rows {
	aipg_view view;
	aipg_key_ranges ranges;
	int started;
	aipg_cursor *cursor; /* on the range started last, or NULL */
	MemoryContext context;
} aipg_all_rows;

extern void aipg_all_rows_open(aipg_all_rows *rows, const aipg_table *table, const aipg_view *view);
/* False at the end. The slices are valid until the next call. */
extern bool aipg_all_rows_next(aipg_all_rows *rows, aidb_slice *key, aidb_slice *value);
extern void aipg_all_rows_close(aipg_all_rows *rows);

/* Rows and stored bytes in the ranges as the engine estimates them; a point counts as one row. `name` is the table's,
 * for error messages. */
extern void aipg_key_ranges_estimate(const aipg_key_ranges *ranges, const char *name, double *rows, double *bytes);

#endif
