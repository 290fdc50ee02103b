#include <stdlib.h>

#include "db/db.h"

/*
 * A slot is claimed by compare-and-swap, the member's own range first. Registering races with flush and compaction, which
 * drop versions that no registered snapshot can see: a sequence counts as registered only if it was still the newest
 * visible one after it was written into the slot. Then whoever lists the snapshots either finds it, or read `visible`
 * before that and keeps everything from there on.
 */

#define SLOTS_PER_MEMBER 32

static _Atomic uint64_t *slots_of(const aidb_db *db) {
	return lsm_at(&db->arena, db->shared->snapshots.slots);
}

static _Atomic uint32_t *owners_of(const aidb_db *db) {
	return lsm_at(&db->arena, db->shared->snapshots.owners);
}

aidb_status aidb_snapshot_acquire(aidb_db *db, aidb_snapshot *snapshot) {
	lsm_snapshots *snapshots = &db->shared->snapshots;
	_Atomic uint64_t *slots = slots_of(db);
	uint32_t member;
	aidb_status rc = lsm_enter(db, &member);

	if (rc != AIDB_OK) {
		return rc;
	}
	for (uint32_t i = 0; i < snapshots->count; i++) {
		uint32_t slot = (member * SLOTS_PER_MEMBER + i) % snapshots->count;
		uint64_t sequence = aidb_current_sequence(db);
		uint64_t expected = 0;

		if (atomic_load_explicit(&slots[slot], memory_order_relaxed) != 0 ||
			!atomic_compare_exchange_strong(&slots[slot], &expected, sequence + 1)) {
			continue;
		}
		atomic_store_explicit(&owners_of(db)[slot], member + 1, memory_order_relaxed);
		while (aidb_current_sequence(db) != sequence) {
			sequence = aidb_current_sequence(db);
			atomic_store(&slots[slot], sequence + 1);
		}
		*snapshot = (aidb_snapshot){.sequence = sequence, .slot = slot};
		return AIDB_OK;
	}
	return lsm_fail(AIDB_LIMIT, "all %u snapshots of the store are in use; close cursors or iterators",
					snapshots->count);
}

void aidb_snapshot_lower(aidb_db *db, aidb_snapshot *snapshot, aidb_sequence sequence) {
	if (sequence < snapshot->sequence) {
		atomic_store(&slots_of(db)[snapshot->slot], sequence + 1);
		snapshot->sequence = sequence;
	}
}

void aidb_snapshot_release(aidb_db *db, const aidb_snapshot *snapshot) {
	atomic_store_explicit(&owners_of(db)[snapshot->slot], 0, memory_order_relaxed);
	atomic_store(&slots_of(db)[snapshot->slot], 0);
}

void aidb_member_leave(aidb_db *db) {
	uint32_t member = db->host->member(db->host->context);

	for (uint32_t slot = 0; slot < db->shared->snapshots.count; slot++) {
		if (atomic_load_explicit(&owners_of(db)[slot], memory_order_relaxed) == member + 1) {
			aidb_snapshot_release(db, &(aidb_snapshot){.slot = slot});
		}
	}
}

static int compare_sequences(const void *a, const void *b) {
	uint64_t left = *(const uint64_t *)a;
	uint64_t right = *(const uint64_t *)b;

	return (left > right) - (left < right);
}

aidb_status lsm_snapshots_list(aidb_db *db, aidb_sequence **sequences, uint32_t *count) {
	lsm_snapshots *snapshots = &db->shared->snapshots;
	_Atomic uint64_t *slots = slots_of(db);
	aidb_sequence floor = aidb_current_sequence(db); /* before the slots are read */
	aidb_sequence *list = malloc((snapshots->count + 1) * sizeof(*list));
	uint32_t found = 0, distinct = 0;

	if (list == NULL) {
		return lsm_fail(AIDB_NO_MEMORY, "out of memory: could not list snapshots");
	}
	if (db->host->snapshot_floor != NULL) {
		aidb_sequence lowest = db->host->snapshot_floor(db->host->context);

		floor = lowest < floor ? lowest : floor;
	}
	for (uint32_t slot = 0; slot < snapshots->count; slot++) {
		uint64_t registered = atomic_load(&slots[slot]);

		if (registered != 0 && registered - 1 < floor) {
			list[found++] = registered - 1;
		}
	}
	list[found++] = floor;
	qsort(list, found, sizeof(*list), compare_sequences);
	for (uint32_t i = 0; i < found; i++) {
		if (distinct == 0 || list[distinct - 1] != list[i]) {
			list[distinct++] = list[i];
		}
	}
	*sequences = list;
	*count = distinct;
	return AIDB_OK;
}
