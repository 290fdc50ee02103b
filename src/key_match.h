/*
 * key_match.h: which qualifiers of a query select rows by key.
 */
#ifndef AIPG_KEY_MATCH_H
#define AIPG_KEY_MATCH_H

#include "postgres.h"

#include "key_range.h"
#include "nodes/pathnodes.h"

typedef struct aipg_key_clause {
	aipg_key_condition condition;
	Expr *clause;         /* what the condition says, with the column on the left; source's clause or implied by it */
	RestrictInfo *source; /* the qualifier of the query */
	bool exact;           /* the ranges hold only rows that satisfy `source`: it need not be checked again */
} aipg_key_clause;

typedef struct aipg_key_match {
	List *clauses;     /* aipg_key_clause, as aipg_key_ranges_build wants their conditions */
	Bitmapset *single; /* key columns (indexes) with the same value in all rows */
	bool point;        /* every key column is compared for equality */
	int arrays;        /* clauses that have an array */
} aipg_key_match;

/*
 * Chooses from the restriction (and, in a parameterized path, join) clauses of `rel` those that its key can use:
 * equality on leading key columns, then whatever bounds the next one. Nothing matched: clauses is NIL.
 *
 * A clause is usable when its operator is of the default btree family of the column's type, when the other side does
 * not depend on the row, and when the operator's collation agrees with the order of bytes: any deterministic one for
 * equality, one with byte order for inequalities.
 */
extern void aipg_key_match_clauses(PlannerInfo *root, RelOptInfo *rel, const aipg_table *table, List *restrict_infos,
								   aipg_key_match *match);

/* Whether `operand` is this key column of the relation. */
extern bool aipg_key_is_column(const Node *operand, Index relid, const aipg_key_column *column);

/* Whether an equivalence class is about equality as the column's type has it. */
extern bool aipg_key_same_equality(const aipg_key_column *column, const EquivalenceClass *class);

/* The value side of a clause. */
extern Expr *aipg_key_clause_value(Expr *clause);

#endif
