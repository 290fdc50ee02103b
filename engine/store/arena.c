#include "store/arena.h"

/*
 * Why a reader is always seen in time. Let a reclaimer unlink X and retire it (R: it adds to `current`), and later look
 * for readers (L: it loads the reader's slot). Let the reader announce itself (A: it stores to its slot) and then check
 * `current` (C). All four are sequentially consistent, so they have one order in which each thread's own steps stay
 * in sequence: R before L, A before C.
 *
 *   - L after A: the reclaimer sees the announcement, whose epoch is at most X's tag unless the reader has loaded
 *     `current` after R, and spares X.
 *   - L before A: then R < L < A < C, so C reads what R or a later retirement wrote. R releases and C acquires, so the
 *     unlinking of X happened before everything the reader loads after C: it cannot come across X.
 *
 * With weaker orders, or without C, the reader's loads of shared references could overtake its announcement.
 */

static lsm_member_slot *slots_of(const lsm_arena *arena) {
	return lsm_at(arena, arena->epochs->slots);
}

lsm_member_slot *lsm_member_slot_of(const lsm_arena *arena, uint32_t member) {
	assert(member < arena->epochs->members);
	return slots_of(arena) + member;
}

void lsm_epoch_enter(const lsm_arena *arena, uint32_t member) {
	lsm_member_slot *slot = lsm_member_slot_of(arena, member);
	uint64_t announced;

	if (slot->depth++ > 0) {
		return;
	}
	do {
		announced = atomic_load_explicit(&arena->epochs->current, memory_order_relaxed);
		atomic_store(&slot->epoch, announced);
	} while (atomic_load(&arena->epochs->current) != announced);
}

void lsm_epoch_leave(const lsm_arena *arena, uint32_t member) {
	lsm_member_slot *slot = lsm_member_slot_of(arena, member);

	assert(slot->depth > 0);
	if (--slot->depth > 0) {
		return;
	}
	/* Store, then load, against a waiter that sets `wanted` and then loads the slots: one of the two sees the other. */
	atomic_store(&slot->epoch, 0);
	if (atomic_load(&arena->epochs->wanted) != 0) {
		lsm_event_signal(&arena->waiting, &arena->epochs->left);
	}
}

uint64_t lsm_epoch_retire(const lsm_arena *arena) {
	return atomic_fetch_add(&arena->epochs->current, 1);
}

uint64_t lsm_epoch_safe(const lsm_arena *arena) {
	/* Loaded before the slots: whoever announces himself after the scan cannot reach what was retired by now, but
	 * could reach what is retired during the scan. */
	uint64_t safe = atomic_load(&arena->epochs->current);
	const lsm_member_slot *slots = slots_of(arena);

	for (uint32_t member = 0; member < arena->epochs->members; member++) {
		uint64_t epoch = atomic_load(&slots[member].epoch);

		if (epoch != 0 && epoch < safe) {
			safe = epoch;
		}
	}
	return safe;
}

bool lsm_epoch_passed(const lsm_arena *arena, uint32_t member, uint64_t epoch) {
	const lsm_member_slot *slots = slots_of(arena);
	bool nested = slots[member].depth > 1;

	for (uint32_t other = 0; other < arena->epochs->members; other++) {
		uint64_t announced = atomic_load(&slots[other].epoch);

		if (announced != 0 && announced <= epoch && (other != member || nested)) {
			return false;
		}
	}
	return true;
}

static bool is_inside(const lsm_member_slot *slot) {
	return atomic_load(&slot->epoch) != 0 || atomic_load(&slot->reservations) != 0;
}

/* Asked twice: between the first two questions the member may have finished and left for good, and its number may have
 * been given to a new one. */
bool lsm_member_died_inside(const lsm_arena *arena) {
	const aidb_host *host = arena->waiting.host;
	const lsm_member_slot *slots = slots_of(arena);

	for (uint32_t member = 0; member < arena->epochs->members; member++) {
		if (is_inside(&slots[member]) && !host->member_alive(host->context, member) && is_inside(&slots[member]) &&
			!host->member_alive(host->context, member)) {
			return true;
		}
	}
	return false;
}
