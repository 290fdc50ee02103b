#include "store/heap.h"

#include <string.h>

_Static_assert(LSM_HEAP_MAX_BYTES == 1u << 20, "the largest class is 1 MiB");
_Static_assert(LSM_HEAP_MIN_BYTES % LSM_REF_UNIT == 0 && LSM_HEAP_MIN_BYTES >= sizeof(lsm_ref),
			   "a free block holds the reference to the next one");

/* Lies in every free block. */
typedef struct free_block {
	lsm_ref next;
} free_block;

static unsigned class_of(uint64_t bytes) {
	unsigned size_class = 0;

	while ((uint64_t)LSM_HEAP_MIN_BYTES << size_class < bytes) {
		size_class++;
	}
	return size_class;
}

static uint32_t class_bytes(unsigned size_class) {
	return LSM_HEAP_MIN_BYTES << size_class;
}

void lsm_heap_init(lsm_heap *heap, lsm_ref begin, lsm_ref end) {
	assert(begin != 0 && begin <= end);
	memset(heap, 0, sizeof(*heap));
	heap->begin = begin;
	heap->mark = begin;
	heap->end = end;
}

static lsm_ref take_free_or_new(const lsm_arena *arena, lsm_heap *heap, unsigned size_class) {
	lsm_ref ref = heap->free[size_class];

	if (ref != 0) {
		heap->free[size_class] = ((const free_block *)lsm_at(arena, ref))->next;
	} else {
		uint32_t units = class_bytes(size_class) / LSM_REF_UNIT;

		if (units > heap->end - heap->mark) {
			return 0;
		}
		ref = heap->mark;
		heap->mark += units;
	}
	heap->used_bytes += class_bytes(size_class);
	return ref;
}

lsm_ref lsm_heap_allocate(const lsm_arena *arena, lsm_heap *heap, uint64_t bytes) {
	unsigned size_class;
	lsm_ref ref;

	if (bytes > LSM_HEAP_MAX_BYTES || !lsm_latch_acquire(&arena->waiting, &heap->latch)) {
		return 0;
	}
	size_class = class_of(bytes);
	ref = take_free_or_new(arena, heap, size_class);
	lsm_latch_release(&arena->waiting, &heap->latch);
	if (ref != 0) {
		memset(lsm_at(arena, ref), 0, class_bytes(size_class));
	}
	return ref;
}

void lsm_heap_release(const lsm_arena *arena, lsm_heap *heap, lsm_ref ref, uint64_t bytes) {
	unsigned size_class = class_of(bytes);

	assert(ref >= heap->begin && ref + class_bytes(size_class) / LSM_REF_UNIT <= heap->end);
	if (!lsm_latch_acquire(&arena->waiting, &heap->latch)) {
		return; /* poisoned: the arena will be formatted anew */
	}
	((free_block *)lsm_at(arena, ref))->next = heap->free[size_class];
	heap->free[size_class] = ref;
	assert(heap->used_bytes >= class_bytes(size_class));
	heap->used_bytes -= class_bytes(size_class);
	lsm_latch_release(&arena->waiting, &heap->latch);
}
