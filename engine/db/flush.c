/*
 * Flush: the oldest memtable becomes a file of level 0.
 *
 * The memtable stays where readers find it until the file is in the manifest, so an error loses nothing. Before that
 * the log is synced, so that no file holds what the log could still lose: otherwise a power failure might keep one
 * of two commits whose order was the other way round.
 */
#include "db/job.h"
#include "store/memtable_cursor.h"

#define WAIT_US 100000

/* Blocks of a file are known by 32-bit offsets: a larger memtable becomes several files. */
#define MAX_FILE_BYTES (1ull << 30)

typedef struct flushing {
	aidb_db *db;
	lsm_memtable *memtable;
	int index;
	uint64_t log_start; /* of what remains */
	bool bottom;        /* no file has keys in the memtable's range */
} flushing;

static uint32_t member_of(const aidb_db *db) {
	return db->host->member(db->host->context);
}

/* The oldest memtable, unless it is the active one. */
static bool find_oldest(flushing *flush) {
	aidb_db *db = flush->db;
	const lsm_version *version;
	uint32_t count;

	lsm_epoch_enter(&db->arena, member_of(db));
	version = lsm_version_current(&db->arena, &db->shared->versions);
	count = version->memtable_count;
	if (count > 1) {
		flush->index = (int)version->memtables[count - 1];
		flush->memtable = &db->shared->memtables[flush->index];
		flush->log_start = db->shared->memtables[version->memtables[count - 2]].log_position;
	}
	lsm_epoch_leave(&db->arena, member_of(db));
	return count > 1;
}

/* Reservations made before the memtable was sealed may still be on their way. */
static aidb_status wait_for_writers(const flushing *flush) {
	lsm_event *published = &flush->db->shared->commits.published;
	aidb_status rc = AIDB_OK;

	while (rc == AIDB_OK && atomic_load(&flush->memtable->writers) > 0) {
		uint32_t ticket = lsm_event_prepare(published);

		if (atomic_load(&flush->memtable->writers) > 0) {
			rc = lsm_event_wait(&flush->db->arena.waiting, published, ticket, WAIT_US, AIDB_WAIT_JOB);
		}
		if (rc == AIDB_OK) {
			rc = lsm_check_members(flush->db);
		}
	}
	return rc;
}

static bool is_bottom(void *argument, aidb_slice key) {
	(void)key;
	return ((const flushing *)argument)->bottom;
}

/* Nothing but a flush adds keys below a memtable, so what is true now stays true. */
static void check_bottom(flushing *flush) {
	aidb_db *db = flush->db;
	lsm_memtable_cursor first = {.arena = &db->arena, .memtable = flush->memtable};
	lsm_memtable_cursor last = first;
	lsm_entry smallest, largest;
	const lsm_version *version;

	lsm_memtable_seek_first(&first);
	lsm_memtable_seek_last(&last);
	flush->bottom = true;
	if (first.node == 0) {
		return;
	}
	lsm_memtable_entry(&first, &smallest);
	lsm_memtable_entry(&last, &largest);
	lsm_epoch_enter(&db->arena, member_of(db));
	version = lsm_version_current(&db->arena, &db->shared->versions);
	for (uint32_t i = 0; i < version->level_begin[AIDB_LEVELS]; i++) {
		if (lsm_file_overlaps(lsm_at(&db->arena, version->files[i]), smallest.key, largest.key)) {
			flush->bottom = false;
			break;
		}
	}
	lsm_epoch_leave(&db->arena, member_of(db));
}

static aidb_status write_memtable(flushing *flush, lsm_job *job) {
	aidb_db *db = flush->db;
	lsm_cursor *cursor;
	aidb_status rc = lsm_memtable_cursor_create(&db->arena, flush->memtable, &cursor);

	if (rc != AIDB_OK) {
		return rc;
	}
	rc = lsm_job_write(job, cursor);
	cursor->ops->close(cursor);
	lsm_fault_point(db, "flush_written");
	return rc;
}

static aidb_status run(flushing *flush) {
	aidb_db *db = flush->db;
	lsm_version_edit edit = {.add_memtable = -1, .remove_memtable = flush->index};
	lsm_counters *counters = &db->shared->counters;
	uint64_t begin_us = lsm_now_us(db);
	lsm_job job;
	aidb_status rc;

	check_bottom(flush);
	rc = lsm_job_begin(&job, db, 0, MAX_FILE_BYTES, is_bottom, flush);
	if (rc == AIDB_OK) {
		rc = write_memtable(flush, &job);
	}
	if (rc == AIDB_OK) {
		rc = aidb_sync(db);
	}
	if (rc == AIDB_OK) {
		rc = lsm_job_install(&job, &edit);
	}
	if (rc == AIDB_OK) {
		atomic_fetch_add_explicit(&counters->flushes, 1, memory_order_relaxed);
		atomic_fetch_add_explicit(&counters->flush_bytes, job.bytes, memory_order_relaxed);
		lsm_note_duration(db, &counters->flush_durations, begin_us);
	}
	lsm_job_end(&job);
	return rc;
}

aidb_status lsm_flush_oldest(aidb_db *db, bool *did) {
	flushing flush = {.db = db};
	aidb_status rc;

	*did = false;
	if (!find_oldest(&flush)) {
		return AIDB_OK;
	}
	rc = wait_for_writers(&flush);
	if (rc == AIDB_OK) {
		rc = run(&flush);
	}
	if (rc != AIDB_INTERRUPTED) {
		atomic_store(&db->shared->flush_error, (uint32_t)rc);
	}
	if (rc != AIDB_OK) {
		return rc;
	}
	*did = true;
	lsm_reclaim(db);
	lsm_log_discard(db, flush.log_start);
	return AIDB_OK;
}

/* ---- Reclaiming ------------------------------------------------------------------------------------------ */

static void remove_dead_file(void *argument, uint64_t number) {
	aidb_db *db = argument;
	char path[LSM_PATH_BYTES];
	int error;

	lsm_file_table_forget(db->files, number);
	lsm_sstable_path(db->directory, number, path);
	error = db->host->file_remove(db->host->context, path);
	if (error != 0) {
		lsm_fail_errno(error, "remove file", path);
		db->host->log(db->host->context, AIDB_LOG_WARNING, aidb_last_error());
	}
}

void lsm_reclaim(aidb_db *db) {
	lsm_shared *shared = db->shared;

	lsm_versions_reclaim(&db->arena, &shared->heap, &shared->versions, shared->memtables, remove_dead_file, db);
}

void lsm_close_removed(aidb_db *db) {
	lsm_versions *versions = &db->shared->versions;
	uint64_t count = atomic_load(&versions->removed_count);
	uint64_t closed = atomic_exchange(&db->removed_count, count);

	for (uint64_t i = closed; i < count && count - closed <= LSM_REMOVED_FILES; i++) {
		lsm_file_table_forget(db->files, atomic_load(&versions->removed_files[i % LSM_REMOVED_FILES]));
	}
	/* numbers that others have taken the place of, before or while they were read */
	if (atomic_load(&versions->removed_count) - closed > LSM_REMOVED_FILES) {
		lsm_file_table_clear(db->files);
	}
}
