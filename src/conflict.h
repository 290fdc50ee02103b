/*
 * conflict.h: two transactions that write one key, one after the other.
 *
 * Optimistic, first committer wins (Kung and Robinson 1981): a transaction remembers of each key it writes which version it
 * built on; at commit it takes the stripes of its keys, in ascending order so that nobody waits in a circle, checks that
 * those versions are still the newest, and frees the stripes when its own are visible. A stripe keeps the sequence of the
 * last commit that changed one of its keys, so that the check needs no look-up while nothing has changed.
 */
#ifndef AIPG_CONFLICT_H
#define AIPG_CONFLICT_H

#include "postgres.h"

#include "aidb.h"

extern uint32 aipg_stripe_of(aidb_slice key);

/* The stripes that a transaction needs; zero-initialise. */
typedef struct aipg_stripe_set {
	uint64 bits[16384 / 64];
	uint32 held; /* those below are owned by this process */
} aipg_stripe_set;

extern void aipg_stripe_add(aipg_stripe_set *set, uint32 stripe);
/* Takes them all; waits, and can be cancelled. On an error those taken are still to be released. */
extern void aipg_stripes_acquire(aipg_stripe_set *set);
/* Frees those taken. `sequence` other than 0: whoever looked at their keys below it must look again. Cannot fail. */
extern void aipg_stripes_release(aipg_stripe_set *set, aidb_sequence sequence);
/* Whether a key of this stripe may have changed after `sequence`; the stripe is owned. */
extern bool aipg_stripe_changed(uint32 stripe, aidb_sequence sequence);

#endif
