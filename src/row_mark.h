/*
 * row_mark.h: SELECT FOR UPDATE, NO KEY UPDATE, SHARE and KEY SHARE.
 *
 * Rows are locked late, by the LockRows node above sort and join, so that what is not returned is not locked. That node
 * knows a row by a ctid, in which AiDb's rows have a number under which their key is kept for the rest of the query.
 */
#ifndef AIPG_ROW_MARK_H
#define AIPG_ROW_MARK_H

#include "postgres.h"

#include "nodes/execnodes.h"
#include "table.h"

/* The keys that one scan has handed out. Lives in the query's context; on disk beyond some size. */
typedef struct aipg_row_mark aipg_row_mark;

/* For the scan of range table entry `rti`; NULL when the query locks none of its rows. */
extern aipg_row_mark *aipg_row_mark_begin(EState *estate, Index rti, const aipg_table *table);
/* Gives the row in `slot` its ctid. */
extern void aipg_row_mark_number(aipg_row_mark *mark, aidb_slice key, TupleTableSlot *slot);

/*
 * Rows that an UPDATE or DELETE finds are locked, and looked at again, when they are changed. But row triggers are given the
 * old row by the plan, so with these it must be the newest from the start: the scan locks the rows.
 */
extern bool aipg_scan_locks_rows(const TriggerDesc *triggers);

#endif
