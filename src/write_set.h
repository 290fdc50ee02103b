/*
 * write_set.h: what a transaction has written and not committed: by key, in order, each write with its command id.
 *
 * The latest writes are in memory (write_list.h). When they fill it, they are written to a temporary file as a sorted
 * run (write_run.h), and when there are several runs of a size they are merged into one: a small LSM tree of the
 * backend's own. It keeps within maintenance_work_mem: half of that for writes, the rest for indexes and filters of
 * runs.
 *
 * Belongs to one backend and one top-level transaction.
 */
#ifndef AIPG_WRITE_SET_H
#define AIPG_WRITE_SET_H

#include "write_list.h"
#include "write_merge.h"

typedef struct aipg_write_set aipg_write_set;

/* In `context`, which is to live until the end of the transaction. */
extern aipg_write_set *aipg_write_set_create(MemoryContext context);
/* At the end of the transaction: removes its files. Never raises; the memory goes with its context. NULL is fine. */
extern void aipg_write_set_close(aipg_write_set *set);

/*
 * The newest write to a key of a command below `below`; false when there is none. The value is valid until the next
 * call for the set.
 */
extern bool aipg_write_set_find(aipg_write_set *set, aidb_slice key, CommandId below, aipg_write *write);
/*
 * Adds a write of the present nesting level. The facts count when the key has no writes yet. All is copied; the value
 * must not be one that another call for the set returned. Raises an error when a temporary file cannot be written, and
 * then has no effect.
 */
extern void aipg_write_set_add(aipg_write_set *set, aidb_slice key, const aipg_key_facts *facts, CommandId command,
							   bool is_delete, aidb_slice value);
extern bool aipg_write_set_is_empty(const aipg_write_set *set);

/*
 * Subtransactions, by nesting level: writes made at a level go with its abort and pass to the level above at its end.
 * Neither raises.
 */
extern void aipg_write_set_subcommit(aipg_write_set *set, int level);
extern void aipg_write_set_subabort(aipg_write_set *set, int level);

/* ---- For write_cursor.h ------------------------------------------------------------------------------------- */

/* What is in memory. */
extern const aipg_write_list *aipg_write_set_list(const aipg_write_set *set);
extern bool aipg_write_set_has_runs(const aipg_write_set *set);
/* Changes when positions in list and runs do not hold any more. */
extern uint64 aipg_write_set_generation(const aipg_write_set *set);
/*
 * What the runs have in [lower, upper): from `lower` on, or backwards from `upper`. Writes of commands not below
 * `below` may be left out, others outside the range may follow at the end. In the current memory context; NULL:
 * nothing.
 */
extern aipg_write_merge *aipg_write_set_merge(const aipg_write_set *set, aidb_slice lower, aidb_slice upper,
											  bool backwards, CommandId below);

#endif
