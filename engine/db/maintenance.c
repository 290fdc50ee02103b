/*
 * Background work on request, and waiting for it.
 */
#include "db/db.h"

#define WAIT_US 100000

/* Syncs what lazy commits left, and keeps half a segment of log prepared ahead of the writers. One round is enough: what is
 * written meanwhile is for the next. */
static aidb_status work_log(aidb_db *db, bool *did) {
	lsm_log *log = &db->shared->log;
	aidb_status rc = aidb_sync(db);

	*did = false;
	return rc == AIDB_OK ? lsm_log_prepare(db, atomic_load(&log->written) + log->geometry.segment_bytes / 2) : rc;
}

static aidb_status work_under(aidb_db *db, lsm_latch *latch, aidb_status (*once)(aidb_db *db, bool *did), bool *did) {
	aidb_status rc;

	if (!lsm_latch_try(&db->arena.waiting, latch)) {
		*did = false;
		return AIDB_OK;
	}
	rc = once(db, did);
	lsm_latch_release(&db->arena.waiting, latch);
	lsm_reclaim(db);
	return rc;
}

aidb_status aidb_work(aidb_db *db, aidb_work_kind kind, bool *did) {
	lsm_shared *shared = db->shared;
	uint32_t member;
	aidb_status rc = lsm_enter(db, &member);

	*did = false;
	if (rc != AIDB_OK) {
		return rc;
	}
	switch (kind) {
	case AIDB_WORK_FLUSH:
		rc = work_under(db, &shared->flush_latch, lsm_flush_oldest, did);
		if (*did) {
			lsm_background(db, AIDB_WORK_COMPACT);
		}
		break;
	case AIDB_WORK_COMPACT:
		rc = work_under(db, &shared->compact_latch, lsm_compact_once, did);
		break;
	case AIDB_WORK_LOG:
		rc = work_log(db, did);
		break;
	}
	return rc;
}

/* The oldest memtable in use and the active one, by number; 0 and its index when the active one is empty. */
static void memtable_numbers(aidb_db *db, uint32_t member, uint64_t *oldest, uint64_t *active, uint32_t *active_index) {
	const lsm_version *version;
	const lsm_memtable *memtables = db->shared->memtables;

	lsm_epoch_enter(&db->arena, member);
	version = lsm_version_current(&db->arena, &db->shared->versions);
	*oldest = memtables[version->memtables[version->memtable_count - 1]].number;
	*active = memtables[version->memtables[0]].number;
	*active_index = version->memtables[0];
	lsm_epoch_leave(&db->arena, member);
}

aidb_status aidb_flush(aidb_db *db) {
	lsm_shared *shared = db->shared;
	uint64_t oldest, active, target;
	uint32_t member, index;
	aidb_status rc = lsm_enter(db, &member);

	if (rc != AIDB_OK) {
		return rc;
	}
	memtable_numbers(db, member, &oldest, &target, &index);
	if (atomic_load(&shared->memtables[index].entries) == 0) {
		target--;
	} else {
		rc = lsm_make_room(db, index, 0);
	}
	for (;;) {
		bool did;

		memtable_numbers(db, member, &oldest, &active, &index);
		if (rc != AIDB_OK || oldest > target || oldest == active) {
			return rc;
		}
		if (!lsm_latch_acquire(&db->arena.waiting, &shared->flush_latch)) {
			return lsm_poisoned(db);
		}
		rc = lsm_flush_oldest(db, &did);
		lsm_latch_release(&db->arena.waiting, &shared->flush_latch);
		lsm_reclaim(db);
		lsm_background(db, AIDB_WORK_COMPACT);
	}
}
