/*
 * version.h: which memtables and files make up the store at one moment.
 *
 * A version is immutable and lies in the arena's heap. Readers load the current one inside an epoch and use it without
 * any count or latch. A change (memtable full, flush, compaction) builds a new version, makes it current and retires
 * the old one; retired versions, files and memtables are given back when no epoch can show them any more. Retired
 * files are removed from disk then, and their numbers remembered for a while, so that each process can close them: the disk
 * keeps the blocks of a file while anybody has it open. Version numbers increase; an iterator that finds another number seeks anew.
 *
 * Locks: `latch` serialises changes and protects everything but `current`.
 */
#ifndef LSM_VERSION_H
#define LSM_VERSION_H

#include "format/sstable.h"
#include "store/heap.h"
#include "store/memtable.h"

#define LSM_MEMTABLES 3

/* A file of a level; immutable but for the retirement links. Lies in the heap. */
typedef struct lsm_file {
	uint64_t number;
	lsm_sstable_properties properties;
	uint64_t smallest_trailer;
	uint64_t largest_trailer;
	uint32_t smallest_bytes;
	uint32_t largest_bytes;
	lsm_ref next_retired;
	uint64_t retired_epoch;
	uint8_t keys[]; /* smallest, then largest */
} lsm_file;

static inline aidb_slice lsm_file_smallest(const lsm_file *file) {
	return (aidb_slice){file->keys, file->smallest_bytes};
}

static inline aidb_slice lsm_file_largest(const lsm_file *file) {
	return (aidb_slice){file->keys + file->smallest_bytes, file->largest_bytes};
}

typedef struct lsm_version {
	uint64_t number;
	uint64_t bytes; /* of this allocation */
	uint64_t retired_epoch;
	lsm_ref next_retired;
	uint32_t memtable_count;               /* at least 1 */
	uint32_t memtables[LSM_MEMTABLES];     /* indexes, newest first; the first takes writes */
	uint32_t level_begin[AIDB_LEVELS + 1]; /* level l: files[level_begin[l] .. level_begin[l + 1]) */
	lsm_ref files[];                       /* level 0: newest first; others: by key, not overlapping */
} lsm_version;

static inline uint32_t lsm_level_count(const lsm_version *version, int level) {
	return version->level_begin[level + 1] - version->level_begin[level];
}

static inline lsm_file *lsm_level_file(const lsm_arena *arena, const lsm_version *version, int level, uint32_t index) {
	return lsm_at(arena, version->files[version->level_begin[level] + index]);
}

/* The first file of a level below 0 whose largest key is not before `key`; their number when there is none. */
uint32_t lsm_level_find(const lsm_arena *arena, const lsm_version *version, int level, aidb_slice key);
/* Whether the file's keys meet [smallest, largest]. */
bool lsm_file_overlaps(const lsm_file *file, aidb_slice smallest, aidb_slice largest);

/* How many of the files that were removed last are remembered, for processes that have them open. */
#define LSM_REMOVED_FILES 64u

typedef struct lsm_versions {
	lsm_latch latch;
	_Atomic lsm_ref current;
	_Atomic uint64_t removed_count; /* files that no reader can find any more, ever */
	_Atomic uint64_t next_file_number;
	lsm_ref retired_versions;
	lsm_ref retired_files;
	uint64_t retired_memtable_epochs[LSM_MEMTABLES];   /* 0: not retired */
	_Atomic uint64_t removed_files[LSM_REMOVED_FILES]; /* number of the i-th, in [i % LSM_REMOVED_FILES] */
	lsm_event changed; /* signalled after every change and every reclaim that freed something */
} lsm_versions;

/* What a new version does differently from the one it follows. A file that is both removed and added moves to another
 * level. */
typedef struct lsm_version_edit {
	int add_memtable;    /* index of the new active memtable, or -1 */
	int remove_memtable; /* index of a flushed memtable, or -1 */
	const lsm_ref *added_files;
	const uint8_t *added_levels;
	uint32_t added_count;
	const lsm_ref *removed_files;
	uint32_t removed_count;
} lsm_version_edit;

/* A heap copy of a file description. 0: the heap is exhausted. */
lsm_ref lsm_file_create(const lsm_arena *arena, lsm_heap *heap, uint64_t number,
						const lsm_sstable_properties *properties, aidb_slice smallest, uint64_t smallest_trailer,
						aidb_slice largest, uint64_t largest_trailer);
void lsm_file_release(const lsm_arena *arena, lsm_heap *heap, lsm_ref file);

/* The first version of all: no files, no memtables but `memtable`. Not yet shared. */
aidb_status lsm_versions_init(const lsm_arena *arena, lsm_heap *heap, lsm_versions *versions, uint32_t memtable);
/* The current version; inside an epoch, or under the latch. */
static inline const lsm_version *lsm_version_current(const lsm_arena *arena, const lsm_versions *versions) {
	return lsm_at(arena, atomic_load(&((lsm_versions *)versions)->current));
}
/* Builds the version that follows the current one; 0 when the heap is exhausted. Under the latch. */
lsm_ref lsm_version_build(const lsm_arena *arena, lsm_heap *heap, lsm_versions *versions, const lsm_version_edit *edit);
/* Makes it current, and retires the old one and what the edit removed. Under the latch; cannot fail. */
void lsm_version_install(const lsm_arena *arena, lsm_versions *versions, lsm_ref version, const lsm_version_edit *edit);
/* Gives back what no reader can hold: versions and file descriptions to the heap, memtables (number set to 0) to reuse.
 * Calls `remove_file` for every file to be removed from disk. Takes the latch. */
void lsm_versions_reclaim(const lsm_arena *arena, lsm_heap *heap, lsm_versions *versions, lsm_memtable *memtables,
						  void (*remove_file)(void *argument, uint64_t number), void *argument);

#endif
