/*
 * arena.h: the one piece of memory that all members share, and when memory in it may be reused.
 *
 * References inside the arena are offsets from its base in units of 8 bytes, never pointers; 0 is null. lsm_arena is
 * one process's view of it.
 *
 * Reclamation by epochs (Fraser 2004): a member that reads shared structures announces the current epoch in its own
 * slot, and clears it when the call is over. What has been unlinked is tagged with the epoch of its unlinking, and may
 * be reused once no slot shows that epoch or an earlier one. Calls are short, so epochs pass quickly; nothing is held
 * between calls.
 */
#ifndef LSM_ARENA_H
#define LSM_ARENA_H

#include <assert.h>

#include "host/latch.h"

typedef uint32_t lsm_ref;

#define LSM_REF_UNIT 8u
#define LSM_CACHE_LINE 64

typedef struct lsm_member_slot {
	_Alignas(LSM_CACHE_LINE) _Atomic uint64_t epoch; /* 0: not reading */
	uint32_t depth;                                  /* nesting of enter and leave; the member's own */
	_Atomic uint32_t reservations;                   /* of memory in memtables, neither committed nor cancelled */
} lsm_member_slot;

/* Shared: lies in the arena. */
typedef struct lsm_epochs {
	_Atomic uint64_t current; /* starts at 1 */
	_Atomic uint32_t wanted;  /* somebody waits for readers to leave */
	uint32_t members;
	lsm_ref slots;  /* lsm_member_slot[members] */
	lsm_event left; /* signalled by leaving readers while `wanted` */
} lsm_epochs;

typedef struct lsm_arena {
	uint8_t *base;
	uint64_t bytes;
	lsm_epochs *epochs;
	lsm_waiting waiting;
} lsm_arena;

static inline void *lsm_at(const lsm_arena *arena, lsm_ref ref) {
	assert(ref != 0 && (uint64_t)ref * LSM_REF_UNIT < arena->bytes);
	return arena->base + (uint64_t)ref * LSM_REF_UNIT;
}

static inline lsm_ref lsm_ref_of(const lsm_arena *arena, const void *pointer) {
	return (lsm_ref)(((const uint8_t *)pointer - arena->base) / LSM_REF_UNIT);
}

static inline uint64_t lsm_round_up(uint64_t size, uint64_t unit) {
	return (size + unit - 1) & ~(unit - 1);
}

/* Enter before the first shared reference is loaded, leave after the last is used. They nest. */
void lsm_epoch_enter(const lsm_arena *arena, uint32_t member);
void lsm_epoch_leave(const lsm_arena *arena, uint32_t member);
/* Ends the present epoch, and returns it as the tag of what has just been unlinked. */
uint64_t lsm_epoch_retire(const lsm_arena *arena);
/* The member's slot, to say what it holds besides the epoch. */
lsm_member_slot *lsm_member_slot_of(const lsm_arena *arena, uint32_t member);
/* Whether a member died in an epoch or with a reservation, which nobody can end for it: for those who wait for that. */
bool lsm_member_died_inside(const lsm_arena *arena);
/* What was unlinked at epochs below the result may be reused. */
uint64_t lsm_epoch_safe(const lsm_arena *arena);
/* Whether `member`, which itself holds nothing shared at this moment unless its calls are nested, may reuse what was
 * unlinked at `epoch`. */
bool lsm_epoch_passed(const lsm_arena *arena, uint32_t member, uint64_t epoch);

#endif
