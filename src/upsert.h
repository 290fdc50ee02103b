/*
 * upsert.h: INSERT ... ON CONFLICT on AiDb tables, directly and through partitioned tables.
 *
 * Core decides conflicts by unique indexes, and a foreign table has none: it refuses ON CONFLICT (columns). So the
 * planner's hook compares the columns with the key of the AiDb table, or with the keys of all partitions below a
 * partitioned table, and then takes them out of the query. What remains, ON CONFLICT without columns, core accepts: it
 * prepares what DO UPDATE has to compute, and leaves the rest to whoever inserts. For AiDb tables that is modify.c,
 * with the functions below; for heap partitions core itself, which then looks at all their unique indexes.
 */
#ifndef AIPG_UPSERT_H
#define AIPG_UPSERT_H

#include "postgres.h"

#include "nodes/execnodes.h"
#include "table.h"

/* Installs the planner hook; from _PG_init. */
extern void aipg_upsert_init(void);

/* What the statement does with rows whose key exists. */
extern OnConflictAction aipg_upsert_action(const ModifyTableState *node);

/* Whether DO UPDATE may change a column of the key, as its SET list says: how strong a lock the row needs. */
extern bool aipg_upsert_sets_key(const aipg_table *table, EState *estate, ResultRelInfo *target);

/*
 * DO UPDATE up to the write. The existing row is in target->ri_onConflict->oc_Existing, the row that could not be
 * inserted is `excluded`. Returns the new row, after BEFORE triggers and with its generated columns, not yet checked
 * against constraints; NULL when WHERE or a trigger does not want the change.
 */
extern TupleTableSlot *aipg_upsert_compute(ModifyTableState *node, ResultRelInfo *target, TupleTableSlot *excluded);

/*
 * After the write: AFTER UPDATE triggers. Core goes on as after an insert, with RETURNING and WITH CHECK OPTION, which
 * are right, and with AFTER INSERT triggers, which are not: they are switched off in the target's description of
 * triggers, for the caller to switch on again before the next row.
 */
extern void aipg_upsert_finish(ModifyTableState *node, ResultRelInfo *target, TupleTableSlot *changed);

#endif
