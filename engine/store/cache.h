/*
 * cache.h: the block cache: frames of LSM_BLOCK_BYTES in the arena, each holding one uncompressed block.
 *
 * Set-associative: a block's id picks a set of LSM_CACHE_WAYS frames, and lookup, replacement and pins stay inside the
 * set, so there is no chain, no list and no latch. One word a frame holds state, usage and pins and changes by
 * compare-and-swap; a lookup that hits costs one such step, and so does the release. Replacement is CLOCK within the
 * set. Ids are unique for ever (file numbers are never reused), so nothing is ever invalidated: dead blocks age out.
 *
 * Thread safety: all functions, any member.
 */
#ifndef LSM_CACHE_H
#define LSM_CACHE_H

#include "format/block.h"
#include "store/arena.h"

#define LSM_CACHE_WAYS 16

typedef struct lsm_cache_set {
	_Alignas(LSM_CACHE_LINE) _Atomic uint64_t ids[LSM_CACHE_WAYS];
	_Atomic uint32_t words[LSM_CACHE_WAYS]; /* state, usage, pins */
	uint16_t sizes[LSM_CACHE_WAYS];         /* contents bytes; written by the loader before it publishes */
	_Atomic uint32_t hand;
} lsm_cache_set;

typedef struct lsm_cache {
	lsm_ref sets;
	lsm_ref frames; /* 4096-aligned; frame of (set, way) is number set * LSM_CACHE_WAYS + way */
	uint32_t set_count;
} lsm_cache;

/* How long a block is kept when nobody asks for it again. */
typedef enum lsm_cache_priority { LSM_CACHE_LOW, LSM_CACHE_NORMAL, LSM_CACHE_HIGH } lsm_cache_priority;

/* A frame in use; release it soon, and never keep it between calls. */
typedef struct lsm_pin {
	uint8_t *data;
	uint32_t size;
	uint32_t frame;
} lsm_pin;

static inline uint64_t lsm_block_id(uint64_t file_number, uint64_t offset) {
	return file_number << 32 | offset;
}

/* Bytes of arena that a cache of this many sets takes. */
uint64_t lsm_cache_bytes(uint32_t set_count);
/* Lays the cache out in [begin, begin + lsm_cache_bytes), where begin * 8 is a multiple of 4096 from a base that is. */
void lsm_cache_init(const lsm_arena *arena, lsm_cache *cache, lsm_ref begin, uint32_t set_count);

/* The block, pinned; false when it is not there (or is just being loaded by another member). */
bool lsm_cache_lookup(const lsm_arena *arena, const lsm_cache *cache, uint64_t id, lsm_pin *pin);
/* A frame to load the block into, pinned and invisible to others until published; false when all of the set's frames
 * are pinned or the block is there or on its way: then read into memory of your own. */
bool lsm_cache_reserve(const lsm_arena *arena, const lsm_cache *cache, uint64_t id, lsm_cache_priority priority,
					   lsm_pin *pin);
/* Makes a loaded frame visible; it stays pinned. pin->size has been set. */
void lsm_cache_publish(const lsm_arena *arena, const lsm_cache *cache, const lsm_pin *pin);
/* Gives a reserved frame back unloaded, and unpins it. */
void lsm_cache_abandon(const lsm_arena *arena, const lsm_cache *cache, const lsm_pin *pin);
void lsm_cache_release(const lsm_arena *arena, const lsm_cache *cache, const lsm_pin *pin);
/* Frames pinned at this moment; for tests and statistics. */
uint32_t lsm_cache_pinned(const lsm_arena *arena, const lsm_cache *cache);

#endif
