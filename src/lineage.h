/*
 * lineage.h: whether the store has the same past as PostgreSQL's data.
 *
 * AiDb's changes are not in PostgreSQL's write-ahead log. When a server is promoted, or recovered from an archive,
 * that log has been replayed over a copy of the data directory, and the store in it is still as it was copied: its
 * rows are old, and the ids of transactions that it holds open have become others'. PostgreSQL then goes on in a new
 * timeline, so the store bears the number of the one that it was written in.
 */
#ifndef AIPG_LINEAGE_H
#define AIPG_LINEAGE_H

#include "postgres.h"

#include "aidb.h"

/* Raises an error when the store, which is open, is of another timeline. A new store gets the present one. */
extern void aipg_lineage_check(aidb_db *db);

#endif
