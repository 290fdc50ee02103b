#include "db/db.h"

static void add_files(aidb_db *db, uint32_t member, aidb_stats *stats) {
	const lsm_shared *shared = db->shared;
	const lsm_version *version;

	lsm_epoch_enter(&db->arena, member);
	version = lsm_version_current(&db->arena, &shared->versions);
	for (int level = 0; level < AIDB_LEVELS; level++) {
		for (uint32_t i = 0; i < lsm_level_count(version, level); i++) {
			const lsm_file *file = lsm_level_file(&db->arena, version, level, i);

			stats->level_files[level]++;
			stats->level_bytes[level] += file->properties.file_bytes;
			stats->entries += file->properties.entries;
		}
	}
	for (uint32_t i = 0; i < version->memtable_count; i++) {
		const lsm_memtable *memtable = &shared->memtables[version->memtables[i]];

		stats->memtable_bytes += lsm_memtable_bytes(memtable);
		stats->entries += atomic_load_explicit(&memtable->entries, memory_order_relaxed);
	}
	stats->log_live_bytes = atomic_load(&shared->log.written) -
							shared->memtables[version->memtables[version->memtable_count - 1]].log_position;
	lsm_epoch_leave(&db->arena, member);
}

void lsm_note_duration(const aidb_db *db, lsm_durations *durations, uint64_t begin_us) {
	uint64_t us = lsm_now_us(db) - begin_us;
	int bucket = 0;

	while (bucket < AIDB_DURATION_BUCKETS - 1 && us >= (uint64_t)AIDB_DURATION_FIRST_US << bucket) {
		bucket++;
	}
	atomic_fetch_add_explicit(&durations->counts[bucket], 1, memory_order_relaxed);
	atomic_fetch_add_explicit(&durations->sum_us, us, memory_order_relaxed);
}

static void read_durations(const lsm_durations *from, aidb_durations *to) {
	for (int i = 0; i < AIDB_DURATION_BUCKETS; i++) {
		to->counts[i] = atomic_load_explicit(&from->counts[i], memory_order_relaxed);
	}
	to->sum_us = atomic_load_explicit(&from->sum_us, memory_order_relaxed);
}

static uint64_t load(const uint64_t *counter) {
	return __atomic_load_n(counter, __ATOMIC_RELAXED);
}

static void add_read_counters(const aidb_db *db, aidb_stats *stats) {
	for (uint32_t member = 0; member < db->shared->epochs.members; member++) {
		const lsm_read_counters *counters = lsm_read_counters_of(db, member);

		stats->cache_hits += load(&counters->cache_hits);
		stats->cache_misses += load(&counters->cache_misses);
		stats->filter_checks += load(&counters->filter_checks);
		stats->filter_skips += load(&counters->filter_skips);
		stats->gets += load(&counters->gets);
		stats->seeks += load(&counters->seeks);
	}
}

static void add_snapshots(const aidb_db *db, aidb_stats *stats) {
	const lsm_snapshots *snapshots = &db->shared->snapshots;
	_Atomic uint64_t *slots = lsm_at(&db->arena, snapshots->slots);

	stats->oldest_snapshot = stats->sequence;
	for (uint32_t i = 0; i < snapshots->count; i++) {
		uint64_t registered = atomic_load_explicit(&slots[i], memory_order_relaxed);

		if (registered != 0) {
			stats->snapshots++;
			if (registered - 1 < stats->oldest_snapshot) {
				stats->oldest_snapshot = registered - 1;
			}
		}
	}
}

/* What members hold at this moment; zero when nobody is inside a call or between reservation and commit. */
static void add_holdings(const aidb_db *db, uint32_t self, aidb_stats *stats) {
	for (uint32_t member = 0; member < db->shared->epochs.members; member++) {
		const lsm_member_slot *slot = lsm_member_slot_of(&db->arena, member);

		stats->reservations += atomic_load_explicit(&slot->reservations, memory_order_relaxed);
		if (member != self && atomic_load_explicit(&slot->epoch, memory_order_relaxed) != 0) {
			stats->readers++;
		}
	}
}

/* Log promised to reservations; 0 also when the arena is poisoned. */
static uint64_t reserved_log(const aidb_db *db) {
	lsm_commits *commits = &db->shared->commits;
	uint64_t bytes;

	if (!lsm_latch_acquire(&db->arena.waiting, &commits->latch)) {
		return 0;
	}
	bytes = commits->log_reserved;
	lsm_latch_release(&db->arena.waiting, &commits->latch);
	return bytes;
}

void aidb_stats_get(aidb_db *db, aidb_stats *stats) {
	lsm_shared *shared = db->shared;
	lsm_counters *counters = &shared->counters;
	uint32_t member = 0;

	*stats = (aidb_stats){.memory_bytes = shared->arena_bytes,
						  .cache_bytes = (uint64_t)shared->cache.set_count * LSM_CACHE_WAYS * LSM_BLOCK_BYTES,
						  .sequence = aidb_current_sequence(db),
						  .writes_off = atomic_load(&shared->log.failed) != 0,
						  .commits = counters->commits,
						  .log_writes = counters->log_writes,
						  .log_syncs = counters->log_syncs,
						  .log_bytes = counters->log_bytes,
						  .flushes = counters->flushes,
						  .flush_bytes = counters->flush_bytes,
						  .compactions = counters->compactions,
						  .moves = counters->moves,
						  .compaction_read_bytes = counters->compaction_read_bytes,
						  .compaction_write_bytes = counters->compaction_write_bytes,
						  .stalls = counters->stalls,
						  .stall_us = counters->stall_us};
	read_durations(&counters->commit_durations, &stats->commit_durations);
	read_durations(&counters->log_sync_durations, &stats->log_sync_durations);
	read_durations(&counters->flush_durations, &stats->flush_durations);
	read_durations(&counters->compaction_durations, &stats->compaction_durations);
	if (lsm_enter(db, &member) == AIDB_OK) {
		add_files(db, member, stats);
		add_read_counters(db, stats);
		add_snapshots(db, stats);
		add_holdings(db, member, stats);
		stats->reserved_bytes = reserved_log(db);
	}
}
