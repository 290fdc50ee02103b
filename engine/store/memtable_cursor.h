/*
 * memtable_cursor.h: a memtable as an lsm_cursor.
 *
 * Of entries with the same key and sequence only the first is shown: the others are operations of one batch that a
 * later one overrode. The entry's slices point into the arena: they hold as long as the memtable does, which takes
 * an epoch.
 */
#ifndef LSM_MEMTABLE_CURSOR_H
#define LSM_MEMTABLE_CURSOR_H

#include "store/memtable.h"

aidb_status lsm_memtable_cursor_create(const lsm_arena *arena, const lsm_memtable *memtable, lsm_cursor **cursor);

#endif
