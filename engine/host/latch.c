#include "host/latch.h"

#include <assert.h>
#include <errno.h>

#include "base/status.h"

#define WAITED 1u
#define SPINS 100
#define POLL_US 100000u /* how long a waiter sleeps before it looks for death and poison */

static void relax_processor(void) {
#if defined(__x86_64__) || defined(__i386__)
	__builtin_ia32_pause();
#elif defined(__aarch64__)
	__asm__ volatile("yield");
#endif
}

static bool is_poisoned(const lsm_waiting *waiting) {
	return atomic_load_explicit(waiting->poisoned, memory_order_acquire) != 0;
}

static uint64_t clock_us(const lsm_waiting *waiting) {
	return waiting->host->clock_us(waiting->host->context);
}

static int sleep_on(const lsm_waiting *waiting, _Atomic uint32_t *word, uint32_t expected, uint64_t timeout_us,
					aidb_wait_reason reason) {
	return waiting->host->wait(waiting->host->context, (uint32_t *)word, expected, timeout_us, reason);
}

static void wake_all(const lsm_waiting *waiting, _Atomic uint32_t *word) {
	waiting->host->wake(waiting->host->context, (uint32_t *)word);
}

/* ---- Latches ------------------------------------------------------------------------------------------- */

static uint32_t held_by_me(const lsm_waiting *waiting) {
	uint32_t member = waiting->host->member(waiting->host->context);

	assert(member < UINT32_MAX / 2);
	return (member + 1) << 1;
}

static bool take(lsm_latch *latch, uint32_t held) {
	uint32_t free = 0;

	return atomic_compare_exchange_strong_explicit(&latch->word, &free, held, memory_order_acquire,
												   memory_order_relaxed);
}

static bool spin(lsm_latch *latch, uint32_t held) {
	for (unsigned i = 0; i < SPINS; i++) {
		relax_processor();
		if (atomic_load_explicit(&latch->word, memory_order_relaxed) == 0 && take(latch, held)) {
			return true;
		}
	}
	return false;
}

/*
 * Whether the owner in `word`, as it was read before, died holding the latch. It may also have released the latch and
 * left since, so the word is read again after the owner was found missing; and the owner's number may have passed to
 * a new member that has just taken the latch, so the owner is asked after again.
 */
static bool owner_is_dead(const lsm_waiting *waiting, lsm_latch *latch, uint32_t word, uint32_t held) {
	const aidb_host *host = waiting->host;
	uint32_t owner = (word >> 1) - 1;

	if (word >> 1 == held >> 1) {
		return true; /* under our own number: a predecessor of that number left it so */
	}
	return !host->member_alive(host->context, owner) && atomic_load(&latch->word) == word &&
		   !host->member_alive(host->context, owner);
}

/* Sets the mark that makes the owner wake us; false when the word has changed from *word meanwhile. */
static bool mark_waited(lsm_latch *latch, uint32_t *word) {
	if ((*word & WAITED) != 0) {
		return true;
	}
	if (!atomic_compare_exchange_strong_explicit(&latch->word, word, *word | WAITED, memory_order_relaxed,
												 memory_order_relaxed)) {
		return false;
	}
	*word |= WAITED;
	return true;
}

static bool wait_and_take(const lsm_waiting *waiting, lsm_latch *latch, uint32_t held) {
	uint64_t looked_us = clock_us(waiting);

	/* Taken without the mark even when others are asleep: a release wakes all of them, and who sleeps again sets it. */
	while (!take(latch, held)) {
		uint32_t word = atomic_load_explicit(&latch->word, memory_order_relaxed);

		if (is_poisoned(waiting)) {
			return false;
		}
		if (word == 0 || !mark_waited(latch, &word)) {
			continue;
		}
		(void)sleep_on(waiting, &latch->word, word, POLL_US, AIDB_WAIT_LATCH);
		if (clock_us(waiting) - looked_us < POLL_US) {
			continue;
		}
		if (atomic_load(&latch->word) == word && owner_is_dead(waiting, latch, word, held)) {
			atomic_store(waiting->poisoned, 1);
			wake_all(waiting, &latch->word);
			return false;
		}
		looked_us = clock_us(waiting);
	}
	return true;
}

bool lsm_latch_acquire(const lsm_waiting *waiting, lsm_latch *latch) {
	uint32_t held = held_by_me(waiting);

	if (is_poisoned(waiting)) {
		return false;
	}
	return take(latch, held) || spin(latch, held) || wait_and_take(waiting, latch, held);
}

bool lsm_latch_try(const lsm_waiting *waiting, lsm_latch *latch) {
	return !is_poisoned(waiting) && take(latch, held_by_me(waiting));
}

void lsm_latch_release(const lsm_waiting *waiting, lsm_latch *latch) {
	uint32_t word = atomic_exchange_explicit(&latch->word, 0, memory_order_release);

	assert((word & ~WAITED) == held_by_me(waiting));
	if ((word & WAITED) != 0) {
		wake_all(waiting, &latch->word);
	}
}

void lsm_latch_check(const lsm_waiting *waiting, lsm_latch *latch) {
	uint32_t word = atomic_load(&latch->word);

	/* the caller does not wait for himself */
	if (word != 0 && word >> 1 != held_by_me(waiting) >> 1 &&
		owner_is_dead(waiting, latch, word, held_by_me(waiting))) {
		atomic_store(waiting->poisoned, 1);
		wake_all(waiting, &latch->word);
	}
}

/* ---- Events -------------------------------------------------------------------------------------------- */

static aidb_status wait_for_signal(const lsm_waiting *waiting, lsm_event *event, uint32_t ticket, uint64_t timeout_us,
								   aidb_wait_reason reason) {
	uint64_t start_us = clock_us(waiting);
	uint64_t waited_us = 0;

	while (waited_us < timeout_us && atomic_load(&event->count) == ticket) {
		uint64_t left_us = timeout_us - waited_us;

		if (sleep_on(waiting, &event->count, ticket, left_us < POLL_US ? left_us : POLL_US, reason) == EINTR) {
			return lsm_fail(AIDB_INTERRUPTED, "the wait was interrupted; the call may be repeated");
		}
		if (is_poisoned(waiting)) {
			return lsm_fail(AIDB_POISONED, "a member died inside the engine; reopen the store to recover");
		}
		waited_us = clock_us(waiting) - start_us;
	}
	return AIDB_OK;
}

/*
 * No signal is lost: the waiter adds itself and then reads the count (again in the kernel, before it sleeps), the
 * signaller adds to the count and then reads the waiters, all in one total order, so one of the two sees the other.
 * A waiter that dies stays counted, which costs signallers a system call but nothing else.
 */
aidb_status lsm_event_wait(const lsm_waiting *waiting, lsm_event *event, uint32_t ticket, uint64_t timeout_us,
						   aidb_wait_reason reason) {
	aidb_status status;

	if (is_poisoned(waiting)) {
		return lsm_fail(AIDB_POISONED, "a member died inside the engine; reopen the store to recover");
	}
	atomic_fetch_add(&event->waiters, 1);
	status = wait_for_signal(waiting, event, ticket, timeout_us, reason);
	atomic_fetch_sub(&event->waiters, 1);
	return status;
}

void lsm_event_signal(const lsm_waiting *waiting, lsm_event *event) {
	atomic_fetch_add(&event->count, 1);
	if (atomic_load(&event->waiters) != 0) {
		wake_all(waiting, &event->count);
	}
}
