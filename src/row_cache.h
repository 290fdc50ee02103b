/*
 * row_cache.h: rows of the primary that a caching read node remembers, by their stored keys, in shared memory.
 *
 * Set-associative: the hash of a key names a set of 8 KiB, in which rows lie one behind the other. When a set is full, rows go that
 * have not been asked for since the last time (second chance). That a key has no row is remembered like a row.
 *
 * A row that is read from the primary while the stream passes a change of it must not be put in afterwards: a miss gives a
 * *stamp* of the set, which every invalidation in that set changes, and a row is put in only under the stamp of its miss. The cache
 * is closed, and empty, while nobody says what has changed.
 *
 * Process safety: a lock for each group of sets. All functions may be called when there is no cache (aidb.row_cache = 0).
 */
#ifndef AIPG_ROW_CACHE_H
#define AIPG_ROW_CACHE_H

#include "postgres.h"

#include "aidb.h"

typedef enum aipg_cached { AIPG_CACHED_NOTHING, AIPG_CACHED_ABSENT, AIPG_CACHED_ROW } aipg_cached;

typedef struct aipg_row_cache_numbers {
	uint64 hits; /* answers, also that there is no row */
	uint64 misses;
	uint64 invalidations; /* of rows that were there */
	uint64 bytes;         /* what rows, with their keys, take now */
} aipg_row_cache_numbers;

/* From the shared memory hooks. */
extern void aipg_row_cache_shmem_request(void);
extern void aipg_row_cache_shmem_startup(void);

/* What is known of the key; *value gets the row. When nothing is, *stamp is for aipg_row_cache_put. */
extern aipg_cached aipg_row_cache_get(aidb_slice key, aidb_buffer *value, uint64 *stamp);
/* The stamp for a row that is read from the primary although nobody has asked for it; counts as no miss. */
extern uint64 aipg_row_cache_stamp(aidb_slice key);
/* A NULL value: there is no row. Nothing happens when the stamp is not good any more, or the row is too large. */
extern void aipg_row_cache_put(aidb_slice key, const aidb_slice *value, uint64 stamp);
extern void aipg_row_cache_invalidate(aidb_slice key);

/* From now on changes are told. */
extern void aipg_row_cache_open(void);
/* Forgets everything, and takes in nothing until it is opened again. */
extern void aipg_row_cache_close(void);
extern bool aipg_row_cache_is_open(void);

extern aipg_row_cache_numbers aipg_row_cache_count(void);
/* Calls for each key that is remembered with a row; what is asked for most comes first in its set. The key is good during the call. */
extern void aipg_row_cache_each(void (*call)(void *argument, aidb_slice key), void *argument);

#endif
