/*
 * latest.h: the view of what is committed at this moment, and of all own writes of earlier commands.
 *
 * For catalog rows and for what DDL must know of a table's rows: also in a REPEATABLE READ transaction, whose statements
 * see an older state. Locks, not the view, keep what was seen from changing.
 */
#ifndef AIPG_LATEST_H
#define AIPG_LATEST_H

#include "postgres.h"

#include "access.h"

/* Pushes PostgreSQL's latest snapshot; the view is valid until aipg_latest_end pops it. For cursors and reads. */
extern aipg_view aipg_latest_begin(void);
extern void aipg_latest_end(void);

#endif
