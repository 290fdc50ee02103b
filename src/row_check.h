/*
 * row_check.h: reading the stored rows of a table for the sake of its definition.
 *
 * Both see the newest rows, not those of the transaction's snapshot; the caller's lock keeps others from writing.
 */
#ifndef AIPG_ROW_CHECK_H
#define AIPG_ROW_CHECK_H

#include "postgres.h"

#include "utils/rel.h"

typedef enum aipg_check_kind {
	AIPG_CHECK_CONSTRAINTS, /* NOT NULL, and CHECK where it is valid */
	AIPG_CHECK_PARTITION,   /* the bounds of a partition */
} aipg_check_kind;

extern bool aipg_has_rows(Relation relation);
/* The same for what is stored under an index id, of a table that has no key yet. */
extern bool aipg_index_has_rows(uint32 index_id);
/* Raises as core does for a heap table when a row violates what is to hold. */
extern void aipg_check_rows(Relation relation, aipg_check_kind kind);

#endif
