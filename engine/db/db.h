/*
 * db.h: the store as a whole: what lies in the arena, and one process's handle on it.
 *
 * Modules of this folder, in reading order: open (arena layout, start, stop), log (the write-ahead log), commit (the
 * path of a write), recovery, redo (what another log has carried), pin (log kept for replicas), stream (reading it), snapshot,
 * read (get), iterator, flush, compaction, stats.
 */
#ifndef LSM_DB_H
#define LSM_DB_H

#include "base/status.h"
#include "db/log.h"
#include "store/cache.h"
#include "store/file_table.h"
#include "store/manifest.h"
#include "store/version.h"

#define LSM_ARENA_MAGIC 0x31616e6572414941ull /* "AIAren a1" */

/* The sequence of an empty store: 0 stays free to mean "latest" in read options. */
#define LSM_FIRST_SEQUENCE 1u

typedef enum lsm_state { LSM_NEW, LSM_STARTING, LSM_OPEN, LSM_STOPPED } lsm_state;

/* Commits in flight, a slot each; slot of sequence s is number s & (count - 1). */
typedef struct lsm_commit_slot {
	_Alignas(LSM_CACHE_LINE) _Atomic uint64_t copied; /* the sequence whose record is in the log's ring; 0: not yet */
	_Atomic uint64_t end;                             /* log position after its record; holds while copied does */
	_Atomic uint64_t done;                            /* the sequence that may become visible */
	_Atomic uint64_t awaits_sync;                     /* ... that may once the log is durable up to `end` */
	_Atomic uint32_t member;                          /* who took it */
} lsm_commit_slot;

/* The order of commits. `latch` protects the first group; it is held for some ten instructions. */
typedef struct lsm_commits {
	_Alignas(LSM_CACHE_LINE) lsm_latch latch;
	aidb_sequence next_sequence;
	uint64_t next_position;  /* in the log */
	_Atomic uint32_t active; /* memtable that takes reservations; changed under the versions latch, too */
	uint64_t log_reserved;   /* bytes promised to reservations that have no position yet */

	_Alignas(LSM_CACHE_LINE) _Atomic uint64_t visible; /* every commit up to here is done */
	/* Commits up to here may become visible as far as replicas go; UINT64_MAX: none is asked. */
	_Atomic uint64_t replicated;
	_Atomic uint64_t
		unsynced_end; /* in the log, of the newest commit that has not waited for its sync, and is not carried by another log */
	lsm_event published;
	_Atomic uint32_t awaiting; /* members that wait for a replica to have their commit */
	lsm_ref slots;
	uint32_t slot_count; /* a power of two, at least four times the members */
} lsm_commits;

/* A registered snapshot: sequence + 1, or 0 when free. */
typedef struct lsm_snapshots {
	lsm_ref slots;  /* _Atomic uint64_t[count]; slot i belongs to member owners[i] */
	lsm_ref owners; /* _Atomic uint32_t[count]: member + 1 */
	uint32_t count;
} lsm_snapshots;

typedef struct lsm_durations {
	_Atomic uint64_t counts[AIDB_DURATION_BUCKETS];
	_Atomic uint64_t sum_us;
} lsm_durations;

typedef struct lsm_counters {
	_Atomic uint64_t commits, log_writes, log_syncs, log_bytes, flushes, flush_bytes, compactions, moves,
		compaction_read_bytes, compaction_write_bytes, stalls, stall_us;
	lsm_durations commit_durations, log_sync_durations, flush_durations, compaction_durations;
} lsm_counters;

/* Counters of reads are kept a member each, so that counting costs no shared cache line. */
typedef struct lsm_read_counters {
	_Alignas(LSM_CACHE_LINE) uint64_t cache_hits, cache_misses, filter_checks, filter_skips, gets, seeks;
} lsm_read_counters;

/* Everything shared; begins the arena. */
typedef struct lsm_shared {
	uint64_t magic;
	uint64_t arena_bytes;
	aidb_options options; /* resolved */
	_Atomic uint32_t state;
	_Atomic uint32_t poisoned;
	lsm_latch start_latch;

	lsm_epochs epochs;
	lsm_heap heap;
	lsm_cache cache;
	lsm_memtable memtables[LSM_MEMTABLES];
	lsm_versions versions;
	lsm_commits commits;
	lsm_log log;
	lsm_snapshots snapshots;

	lsm_latch flush_latch;        /* one flush at a time */
	lsm_latch compact_latch;      /* one compaction at a time */
	_Atomic uint32_t flush_error; /* aidb_status of the last background flush; 0 after a good one */
	_Atomic uint32_t compact_error;

	lsm_manifest_header manifest; /* as last written; versions latch */
	lsm_counters counters;
	lsm_ref read_counters; /* lsm_read_counters[members] */
} lsm_shared;

/* One process's handle. */
struct aidb_db {
	lsm_arena arena;
	const aidb_host *host;
	lsm_shared *shared;
	char *directory;
	lsm_file_table *files;
	_Atomic uint64_t removed_count; /* of the removed files, how many are not among `files` any more */
	int lock;                       /* the directory's ownership, -1 when not this handle's */
	aidb_host *own_host;            /* made by aidb_open; NULL when attached */
	lsm_segment_file write_segment; /* under the log's write latch */
	lsm_segment_file sync_segment;  /* under the log's sync latch */
};

/* Every public call begins with it: the member's number, or an error when there is none or the arena is poisoned. */
aidb_status lsm_enter(aidb_db *db, uint32_t *member);
/* AIDB_POISONED with its text. */
aidb_status lsm_poisoned(const aidb_db *db);
/* For when the heap has given nothing: AIDB_NO_MEMORY with its text, or AIDB_POISONED if that is the reason. */
aidb_status lsm_no_room_for_files(const aidb_db *db);

static inline lsm_read_counters *lsm_read_counters_of(const aidb_db *db, uint32_t member) {
	return (lsm_read_counters *)lsm_at(&db->arena, db->shared->read_counters) + member;
}

static inline void lsm_fault_point(const aidb_db *db, const char *name) {
	if (db->host->fault_point != NULL) {
		db->host->fault_point(db->host->context, name);
	}
}

static inline uint64_t lsm_now_us(const aidb_db *db) {
	return db->host->clock_us(db->host->context);
}

/* -- stats.c -- */

/* Something has taken from `begin_us` until now. */
void lsm_note_duration(const aidb_db *db, lsm_durations *durations, uint64_t begin_us);

static inline void lsm_background(const aidb_db *db, aidb_work_kind kind) {
	if (db->host->background != NULL) {
		db->host->background(db->host->context, kind);
	}
}

/* -- commit.c -- */

/* For those who wait: AIDB_POISONED, and so for all others from now on, when a member has died with something that others
 * wait for: a commit, the log, a flush or compaction, memory. Looks ten times a second at most. */
aidb_status lsm_check_members(aidb_db *db);
/* Makes visible what may become visible next, for whomever it is. */
void lsm_commits_advance(aidb_db *db);

/* aidb_write of a prepared batch, lazily, to a store that is not open to others yet. */
aidb_status lsm_write_prepared(aidb_db *db, aidb_tag tag, aidb_batch *batch);

/* Waits until the memtable can take `bytes` or a new one is active; flushes by itself when nobody does. */
aidb_status lsm_make_room(aidb_db *db, uint32_t memtable, uint64_t bytes);
/* Seals the active memtable, if it is still `memtable`, and makes a free one active. AIDB_OK also when somebody else
 * did; AIDB_NOT_FOUND when no memtable is free. */
aidb_status lsm_switch_memtable(aidb_db *db, uint32_t memtable);

/* -- snapshot.c -- */

/*
 * The sequences that versions must be kept for, ascending and distinct; the last is the floor: everything above it is
 * kept whole. *sequences is malloc'd, the caller's to free.
 */
aidb_status lsm_snapshots_list(aidb_db *db, aidb_sequence **sequences, uint32_t *count);

/* -- flush.c, compaction.c -- */

/* Writes the oldest sealed memtable to level 0, if there is one; flush latch held. Waits for its writers. */
aidb_status lsm_flush_oldest(aidb_db *db, bool *did);
/* Does the most urgent compaction, if any is due; compact latch held. */
aidb_status lsm_compact_once(aidb_db *db, bool *did);
/* Gives back what is retired and removes dead files. */
void lsm_reclaim(aidb_db *db);
/* Closes what this process has open of files that were removed. */
void lsm_close_removed(aidb_db *db);

#endif
