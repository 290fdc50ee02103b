/*
 * latch.h: short mutual exclusion and event counts between members, on words in the arena.
 *
 * Both work across threads and processes: the fast path is one atomic, waiting goes through the host. A latch knows
 * its owner, so that a member that died holding it is noticed: lsm_latch_acquire then returns false and the arena is
 * poisoned. The owner is part of the latch word: a member cannot die between taking a latch and signing for it.
 * Latches do not nest: taking one twice counts as finding its owner dead. Mutex after Drepper, "Futexes Are Tricky"
 * (mutex 2); event count after Vyukov.
 *
 * Lock order: docs/concurrency.md.
 */
#ifndef LSM_LATCH_H
#define LSM_LATCH_H

#include <stdatomic.h>

#include "aidb.h"

/* Tells the processor that this is a spin loop. */
static inline void lsm_pause(void) {
#if defined(__x86_64__) || defined(__i386__)
	__builtin_ia32_pause();
#elif defined(__aarch64__)
	__asm__ volatile("yield");
#endif
}

typedef struct lsm_latch {
	_Atomic uint32_t word; /* 0: free; otherwise twice the owner's member + 1, plus 1 when waited for */
} lsm_latch;

/* `poisoned` is the arena's flag: it is set, and waiters give up, when an owner is found dead. */
typedef struct lsm_waiting {
	const aidb_host *host;
	_Atomic uint32_t *poisoned;
} lsm_waiting;

bool lsm_latch_acquire(const lsm_waiting *waiting, lsm_latch *latch); /* false: poisoned, and not acquired */
bool lsm_latch_try(const lsm_waiting *waiting, lsm_latch *latch);
void lsm_latch_release(const lsm_waiting *waiting, lsm_latch *latch);
/* For those who wait for what the owner does, and not for the latch itself: poisons when the owner is dead. */
void lsm_latch_check(const lsm_waiting *waiting, lsm_latch *latch);

/*
 * An event count. To wait for a condition: ticket = lsm_event_prepare(); test the condition; if it does not hold,
 * lsm_event_wait(ticket), and again. Whoever makes the condition true calls lsm_event_signal() after.
 */
typedef struct lsm_event {
	_Atomic uint32_t count;
	_Atomic uint32_t waiters;
} lsm_event;

static inline uint32_t lsm_event_prepare(lsm_event *event) {
	return atomic_load(&event->count);
}

/* AIDB_OK after a signal, a timeout or for no reason; AIDB_INTERRUPTED, AIDB_POISONED. */
aidb_status lsm_event_wait(const lsm_waiting *waiting, lsm_event *event, uint32_t ticket, uint64_t timeout_us,
						   aidb_wait_reason reason);
void lsm_event_signal(const lsm_waiting *waiting, lsm_event *event);

#endif
