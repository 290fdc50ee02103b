/*
 * source.h: the block source of a handle, and where its counts go.
 */
#ifndef LSM_SOURCE_H
#define LSM_SOURCE_H

#include "db/db.h"
#include "store/block_source.h"

static inline lsm_block_source lsm_source_of(const aidb_db *db, uint32_t member) {
	return (lsm_block_source){.arena = &db->arena,
							  .cache = &db->shared->cache,
							  .host = db->host,
							  .files = db->files,
							  .directory = db->directory,
							  .member = member};
}

/* Only the member itself writes its counters; others may read them meanwhile. */
static inline void lsm_count(uint64_t *counter, uint64_t more) {
	__atomic_store_n(counter, *counter + more, __ATOMIC_RELAXED);
}

/* Adds the source's counts to the member's, and sets them to zero. */
static inline void lsm_source_count(const aidb_db *db, uint32_t member, lsm_block_source *source) {
	lsm_read_counters *counters = lsm_read_counters_of(db, member);

	lsm_count(&counters->cache_hits, source->cache_hits);
	lsm_count(&counters->cache_misses, source->cache_misses);
	lsm_count(&counters->filter_checks, source->filter_checks);
	lsm_count(&counters->filter_skips, source->filter_skips);
	source->cache_hits = source->cache_misses = source->filter_checks = source->filter_skips = 0;
}

#endif
