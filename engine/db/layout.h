/*
 * layout.h: where in the arena each structure lies.
 *
 *   lsm_shared | member slots | read counters | commit slots | snapshot slots | heap | log ring | memtables | cache
 *
 * Fixed sizes but for the cache, which gets what is left.
 */
#ifndef LSM_LAYOUT_H
#define LSM_LAYOUT_H

#include "db/db.h"

/* Whether options and arena_bytes of `shared` allow a layout: AIDB_INVALID when the memory is too small. */
aidb_status lsm_layout_check(const lsm_shared *shared);

/* Lays out everything behind lsm_shared, empty; start latch held. May be done again after a failed start. */
aidb_status lsm_layout(const lsm_arena *arena, lsm_shared *shared);

#endif
