/*
 * cache.h: the block cache: frames of LSM_BLOCK_BYTES in the arena, each holding one uncompressed block.
 *
 * Set-associative: an id picks two sets of LSM_CACHE_WAYS frames, and lookup and replacement stay inside these two,
 * so there is no chain, no list and no latch. A frame is replaced only after the epochs in which somebody could have
 * found its old block, so a lookup takes no pin: a hit on a block in steady use writes no shared memory at all, and
 * readers do not hinder each other, however hot the block. Replacement is CLOCK within a set. Ids are unique for ever
 * (file numbers are never reused), so nothing is ever invalidated: dead blocks age out.
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
	_Atomic uint32_t words[LSM_CACHE_WAYS]; /* state and usage */
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

/* A frame with a block that was found, or that is being loaded. */
typedef struct lsm_frame {
	uint8_t *data;
	uint32_t size;
	uint32_t number;
} lsm_frame;

static inline uint64_t lsm_block_id(uint64_t file_number, uint64_t offset) {
	return file_number << 32 | offset;
}

/* Bytes of arena that a cache of this many sets takes. */
uint64_t lsm_cache_bytes(uint32_t set_count);
/* Lays the cache out in [begin, begin + lsm_cache_bytes), where begin * 8 is a multiple of 4096 from a base that is. */
void lsm_cache_init(const lsm_arena *arena, lsm_cache *cache, lsm_ref begin, uint32_t set_count);

/* In an epoch: the block, which stays until the epoch is left; false when it is not there (or is just being loaded by
 * another member). */
bool lsm_cache_lookup(const lsm_arena *arena, const lsm_cache *cache, uint64_t id, lsm_frame *frame);
/* A frame to load the block into, invisible to others until published; false when the block is there or on its way, or
 * no frame of the set can be had just now: then read into memory of your own. The member must hold no other block. */
bool lsm_cache_reserve(const lsm_arena *arena, const lsm_cache *cache, uint32_t member, uint64_t id,
					   lsm_cache_priority priority, lsm_frame *frame);
/* Makes a loaded frame visible; frame->size has been set. To the member it is now as if it had looked the block up. */
void lsm_cache_publish(const lsm_arena *arena, const lsm_cache *cache, const lsm_frame *frame);
/* Gives a reserved frame back unloaded. */
void lsm_cache_abandon(const lsm_arena *arena, const lsm_cache *cache, const lsm_frame *frame);
/* Frames being loaded at this moment; for tests and statistics. */
uint32_t lsm_cache_loading(const lsm_arena *arena, const lsm_cache *cache);

#endif
