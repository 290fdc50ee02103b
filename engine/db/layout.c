#include "db/layout.h"

#include <inttypes.h>

#define PAGE_BYTES 4096u
#define SNAPSHOTS_PER_MEMBER 32
#define MIN_HEAP_BYTES (1ull << 20)
#define MIN_RING_BYTES (512ull << 10)
#define MAX_RING_BYTES (32ull << 20)
#define MIN_CACHE_SETS 16

/* Hands out consecutive pieces of the arena. */
typedef struct pieces {
	uint64_t at;
	uint64_t end;
	bool exhausted;
} pieces;

static lsm_ref carve(pieces *arena, uint64_t bytes, uint64_t alignment) {
	uint64_t begin = lsm_round_up(arena->at, alignment);

	if (bytes > arena->end || begin > arena->end - bytes) {
		arena->exhausted = true;
		return 0;
	}
	arena->at = begin + bytes;
	return (lsm_ref)(begin / LSM_REF_UNIT);
}

static uint64_t power_of_two_above(uint64_t value) {
	uint64_t power = 1;

	while (power < value) {
		power *= 2;
	}
	return power;
}

static uint64_t ring_bytes(const aidb_options *options) {
	uint64_t bytes = power_of_two_above(options->write_buffer_bytes / 4 + 1) / 2;

	return bytes < MIN_RING_BYTES ? MIN_RING_BYTES : bytes > MAX_RING_BYTES ? MAX_RING_BYTES : bytes;
}

static void carve_all(pieces *arena, lsm_shared *shared) {
	const aidb_options *options = &shared->options;
	uint64_t heap_bytes = options->memory_bytes / 32;
	uint64_t left;

	heap_bytes = heap_bytes < MIN_HEAP_BYTES ? MIN_HEAP_BYTES : heap_bytes;
	shared->epochs.members = options->members;
	shared->epochs.slots = carve(arena, options->members * sizeof(lsm_member_slot), LSM_CACHE_LINE);
	shared->read_counters = carve(arena, options->members * sizeof(lsm_read_counters), LSM_CACHE_LINE);
	shared->commits.slot_count = (uint32_t)power_of_two_above(4ull * options->members);
	shared->commits.slots = carve(arena, shared->commits.slot_count * sizeof(lsm_commit_slot), LSM_CACHE_LINE);
	shared->snapshots.count = options->members * SNAPSHOTS_PER_MEMBER;
	shared->snapshots.slots = carve(arena, shared->snapshots.count * sizeof(uint64_t), LSM_CACHE_LINE);
	shared->snapshots.owners = carve(arena, shared->snapshots.count * sizeof(uint32_t), LSM_CACHE_LINE);
	shared->heap.begin = carve(arena, heap_bytes, PAGE_BYTES);
	shared->heap.end = (lsm_ref)(arena->at / LSM_REF_UNIT);
	shared->log.ring_bytes = ring_bytes(options);
	shared->log.ring = carve(arena, shared->log.ring_bytes, PAGE_BYTES);
	for (int i = 0; i < LSM_MEMTABLES; i++) {
		shared->memtables[i].begin = carve(arena, options->write_buffer_bytes, PAGE_BYTES);
		shared->memtables[i].end = (lsm_ref)(arena->at / LSM_REF_UNIT);
	}
	left = arena->end - lsm_round_up(arena->at, PAGE_BYTES);
	if (!arena->exhausted && lsm_round_up(arena->at, PAGE_BYTES) < arena->end) {
		shared->cache.set_count = (uint32_t)(left / LSM_BLOCK_BYTES / LSM_CACHE_WAYS);
		while (shared->cache.set_count > 0 && lsm_cache_bytes(shared->cache.set_count) > left) {
			shared->cache.set_count--;
		}
	}
	arena->exhausted = arena->exhausted || shared->cache.set_count < MIN_CACHE_SETS;
}

/* Empties everything that a former, failed start may have left. */
static void reset(lsm_shared *shared) {
	shared->versions = (lsm_versions){0};
	shared->commits = (lsm_commits){0};
	shared->log = (lsm_log){0};
	shared->manifest = (lsm_manifest_header){0};
	for (int i = 0; i < LSM_MEMTABLES; i++) {
		shared->memtables[i] = (lsm_memtable){0};
	}
	shared->cache = (lsm_cache){0};
}

static aidb_status carve_layout(lsm_shared *shared, uint64_t *cache_begin) {
	pieces free_arena = {.at = sizeof(lsm_shared), .end = shared->arena_bytes};

	carve_all(&free_arena, shared);
	if (free_arena.exhausted) {
		return lsm_fail(AIDB_INVALID,
						"%" PRIu64 " bytes of memory are too few for %" PRIu32 " members and memtables of %" PRIu64
						" bytes; raise the memory or lower the others",
						shared->options.memory_bytes, shared->options.members, shared->options.write_buffer_bytes);
	}
	*cache_begin = lsm_round_up(free_arena.at, PAGE_BYTES);
	return AIDB_OK;
}

aidb_status lsm_layout_check(const lsm_shared *shared) {
	lsm_shared copy = *shared;
	uint64_t cache_begin;

	return carve_layout(&copy, &cache_begin);
}

aidb_status lsm_layout(const lsm_arena *arena, lsm_shared *shared) {
	uint64_t cache_begin = 0;
	aidb_status rc;

	reset(shared);
	rc = carve_layout(shared, &cache_begin);
	if (rc != AIDB_OK) {
		return rc;
	}
	lsm_heap_init(&shared->heap, shared->heap.begin, shared->heap.end);
	lsm_cache_init(arena, &shared->cache, (lsm_ref)(cache_begin / LSM_REF_UNIT), shared->cache.set_count);
	lsm_memtable_reset(arena, &shared->memtables[0], 1, 0);
	shared->commits.next_sequence = LSM_FIRST_SEQUENCE + 1;
	atomic_store(&shared->commits.visible, LSM_FIRST_SEQUENCE);
	atomic_store(&shared->commits.replicated, UINT64_MAX);
	return lsm_versions_init(arena, &shared->heap, &shared->versions, 0);
}
