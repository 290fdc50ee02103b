/*
 * heap.h: allocation of small structures (versions, file descriptions) inside a fixed region of the arena.
 *
 * Size classes, powers of two from 32 bytes to LSM_HEAP_MAX_BYTES, each with a free list; memory comes from the region's
 * end mark and returns to its class. One latch.
 */
#ifndef LSM_HEAP_H
#define LSM_HEAP_H

#include "store/arena.h"

#define LSM_HEAP_CLASSES 16
#define LSM_HEAP_MIN_BYTES 32u
#define LSM_HEAP_MAX_BYTES (LSM_HEAP_MIN_BYTES << (LSM_HEAP_CLASSES - 1))

typedef struct lsm_heap {
	lsm_latch latch;
	lsm_ref begin;
	lsm_ref mark; /* memory from here to end was never used */
	lsm_ref end;
	lsm_ref free[LSM_HEAP_CLASSES];
	uint64_t used_bytes;
} lsm_heap;

void lsm_heap_init(lsm_heap *heap, lsm_ref begin, lsm_ref end);
/* Zeroed memory; 0 when the region is exhausted, the size is over the largest class, or the arena is poisoned. */
lsm_ref lsm_heap_allocate(const lsm_arena *arena, lsm_heap *heap, uint64_t bytes);
void lsm_heap_release(const lsm_arena *arena, lsm_heap *heap, lsm_ref ref, uint64_t bytes);

#endif
