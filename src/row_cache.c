#include "row_cache.h"

#include "access.h"
#include "common/hashfn.h"
#include "miscadmin.h"
#include "port/atomics.h"
#include "settings.h"
#include "storage/ipc.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"

#define SET_BYTES 8192
#define MAX_ROW_BYTES (SET_BYTES / 2) /* with its key */
#define LOCKS 128
#define ABSENT UINT16_MAX /* as the size of a value */
#define TRANCHE "aidb_row_cache"

/* What stands before a row in its set; key and value follow, and bytes up to a multiple of four. */
typedef struct row_head {
	uint32 hash;
	uint16 key_size;
	uint16 value_size;
	uint32 used; /* asked for since rows went last */
} row_head;

typedef struct row_set {
	uint32 generation; /* of the cache, in which it was filled; in another one it is empty */
	uint32 stamp;      /* counts invalidations */
	uint32 used;       /* bytes of rows */
	char rows[SET_BYTES - 3 * sizeof(uint32)];
} row_set;

StaticAssertDecl(sizeof(row_set) == SET_BYTES, "sets are of a round size");

typedef struct row_cache {
	pg_atomic_uint32 generation; /* odd: open */
	uint32 set_count;
	pg_atomic_uint64 hits[LOCKS];
	pg_atomic_uint64 misses[LOCKS];
	pg_atomic_uint64 invalidations;
	row_set sets[FLEXIBLE_ARRAY_MEMBER];
} row_cache;

static row_cache *cache; /* NULL: there is none */
static LWLockPadded *locks;

/* ---- Shared memory ---------------------------------------------------------------------------------------- */

static uint32 wanted_sets(void) {
	return (uint32)((uint64)aipg_row_cache_mb * 1024 * 1024 / SET_BYTES);
}

static Size cache_bytes(void) {
	return offsetof(row_cache, sets) + (Size)wanted_sets() * sizeof(row_set);
}

void aipg_row_cache_shmem_request(void) {
	if (wanted_sets() > 0) {
		RequestAddinShmemSpace(cache_bytes());
		RequestNamedLWLockTranche(TRANCHE, LOCKS);
	}
}

void aipg_row_cache_shmem_startup(void) {
	bool found;

	if (wanted_sets() == 0) {
		return;
	}
	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	cache = ShmemInitStruct("aidb row cache", cache_bytes(), &found);
	if (!found) {
		pg_atomic_init_u32(&cache->generation, 0);
		pg_atomic_init_u64(&cache->invalidations, 0);
		cache->set_count = wanted_sets();
		for (int i = 0; i < LOCKS; i++) {
			pg_atomic_init_u64(&cache->hits[i], 0);
			pg_atomic_init_u64(&cache->misses[i], 0);
		}
	}
	locks = GetNamedLWLockTranche(TRANCHE);
	LWLockRelease(AddinShmemInitLock);
}

/* ---- Sets ------------------------------------------------------------------------------------------------- */

/* Where a key belongs. */
typedef struct place {
	uint32 hash;
	uint32 lock;
	row_set *set;
} place;

static place place_of(aidb_slice key) {
	uint64 hash = hash_bytes_extended(key.data, (int)key.size, 0);
	uint32 index = (uint32)(hash >> 32) % cache->set_count;

	return (place){(uint32)hash, index % LOCKS, &cache->sets[index]};
}

static LWLock *lock_of(const place *at) {
	return &locks[at->lock].lock;
}

static uint32 size_of(const row_head *head) {
	uint32 value_size = head->value_size == ABSENT ? 0 : head->value_size;

	return (uint32)(TYPEALIGN(sizeof(uint32), sizeof(row_head) + head->key_size + value_size));
}

static row_head *head_at(row_set *set, uint32 offset) {
	return (row_head *)(set->rows + offset);
}

static const char *key_of(const row_head *head) {
	return (const char *)(head + 1);
}

/* The key's row in the set; NULL when it is not there. */
static row_head *find(const place *at, aidb_slice key) {
	row_set *set = at->set;

	for (uint32 offset = 0; offset < set->used; offset += size_of(head_at(set, offset))) {
		row_head *head = head_at(set, offset);

		if (head->hash == at->hash && head->key_size == key.size && memcmp(key_of(head), key.data, key.size) == 0) {
			return head;
		}
	}
	return NULL;
}

static void remove_row(row_set *set, row_head *head) {
	uint32 size = size_of(head);
	uint32 offset = (uint32)((char *)head - set->rows);

	memmove(head, (char *)head + size, set->used - offset - size);
	set->used -= size;
}

/* Lets rows go that were not asked for since the last time, the oldest first, until so many bytes are free. */
static void make_room(row_set *set, uint32 bytes) {
	uint32 from = 0, to = 0, used = set->used;

	while (from < used) {
		row_head *head = head_at(set, from);
		uint32 size = size_of(head);
		bool full = set->used + bytes > sizeof(set->rows);

		if (full && head->used == 0) {
			set->used -= size;
		} else {
			head->used = full ? 0 : head->used;
			memmove(set->rows + to, head, size);
			to += size;
		}
		from += size;
	}
	if (set->used + bytes > sizeof(set->rows)) {
		make_room(set, bytes); /* by now none is marked */
	}
}

/* Under the set's lock, exclusively: what another generation has left is not there. */
static void renew(row_set *set, uint32 generation) {
	if (set->generation != generation) {
		set->generation = generation;
		set->stamp++;
		set->used = 0;
	}
}

/* ---- Rows ------------------------------------------------------------------------------------------------- */

static bool is_open_generation(uint32 generation) {
	return (generation & 1) != 0;
}

static uint64 make_stamp(uint32 generation, uint32 stamp) {
	return ((uint64)generation << 32) | stamp;
}

/* Under the lock. */
static aipg_cached read_row(const place *at, aidb_slice key, aidb_buffer *value) {
	row_head *head = find(at, key);
	const char *bytes;

	if (head == NULL) {
		return AIPG_CACHED_NOTHING;
	}
	head->used = 1; /* by several at a time, all the same */
	if (head->value_size == ABSENT) {
		return AIPG_CACHED_ABSENT;
	}
	bytes = key_of(head) + head->key_size;
	if (value != NULL && aidb_buffer_set(value, (aidb_slice){bytes, head->value_size}) != AIDB_OK) {
		aipg_raise(AIDB_NO_MEMORY, "could not read a remembered row");
	}
	return AIPG_CACHED_ROW;
}

static aipg_cached look_up(const place *at, uint32 generation, aidb_slice key, aidb_buffer *value, uint64 *stamp) {
	aipg_cached found = AIPG_CACHED_NOTHING;

	LWLockAcquire(lock_of(at), LW_SHARED);
	if (at->set->generation == generation) {
		found = read_row(at, key, value);
		*stamp = make_stamp(generation, at->set->stamp);
		LWLockRelease(lock_of(at));
	} else {
		LWLockRelease(lock_of(at));
		LWLockAcquire(lock_of(at), LW_EXCLUSIVE);
		renew(at->set, generation);
		*stamp = make_stamp(generation, at->set->stamp);
		LWLockRelease(lock_of(at));
	}
	return found;
}

static uint32 current_generation(void) {
	return cache != NULL ? pg_atomic_read_u32(&cache->generation) : 0;
}

aipg_cached aipg_row_cache_get(aidb_slice key, aidb_buffer *value, uint64 *stamp) {
	uint32 generation = current_generation();
	aipg_cached found;
	place at;

	*stamp = 0;
	if (!is_open_generation(generation)) {
		return AIPG_CACHED_NOTHING;
	}
	at = place_of(key);
	found = look_up(&at, generation, key, value, stamp);
	pg_atomic_fetch_add_u64(found == AIPG_CACHED_NOTHING ? &cache->misses[at.lock] : &cache->hits[at.lock], 1);
	return found;
}

uint64 aipg_row_cache_stamp(aidb_slice key) {
	uint32 generation = current_generation();
	uint64 stamp = 0;

	if (is_open_generation(generation)) {
		place at = place_of(key);

		(void)look_up(&at, generation, key, NULL, &stamp);
	}
	return stamp;
}

static void add_row(const place *at, aidb_slice key, const aidb_slice *value) {
	row_head head = {
		.hash = at->hash, .key_size = (uint16)key.size, .value_size = value != NULL ? (uint16)value->size : ABSENT};
	row_head *known = find(at, key);
	row_head *to;

	if (known != NULL) {
		remove_row(at->set, known);
	}
	make_room(at->set, size_of(&head));
	to = head_at(at->set, at->set->used);
	*to = head;
	memcpy(to + 1, key.data, key.size);
	if (value != NULL) {
		memcpy((char *)(to + 1) + key.size, value->data, value->size);
	}
	at->set->used += size_of(&head);
}

void aipg_row_cache_put(aidb_slice key, const aidb_slice *value, uint64 stamp) {
	size_t size = key.size + (value != NULL ? value->size : 0);
	place at;

	if (cache == NULL || stamp == 0 || size > MAX_ROW_BYTES) {
		return;
	}
	at = place_of(key);
	LWLockAcquire(lock_of(&at), LW_EXCLUSIVE);
	if (stamp == make_stamp(pg_atomic_read_u32(&cache->generation), at.set->stamp) &&
		at.set->generation == (uint32)(stamp >> 32)) {
		add_row(&at, key, value);
	}
	LWLockRelease(lock_of(&at));
}

void aipg_row_cache_invalidate(aidb_slice key) {
	row_head *head;
	place at;

	if (cache == NULL) {
		return;
	}
	at = place_of(key);
	LWLockAcquire(lock_of(&at), LW_EXCLUSIVE);
	renew(at.set, pg_atomic_read_u32(&cache->generation));
	at.set->stamp++;
	head = find(&at, key);
	if (head != NULL) {
		remove_row(at.set, head);
		pg_atomic_fetch_add_u64(&cache->invalidations, 1);
	}
	LWLockRelease(lock_of(&at));
}

/* ---- The whole -------------------------------------------------------------------------------------------- */

void aipg_row_cache_open(void) {
	if (cache != NULL && !aipg_row_cache_is_open()) {
		pg_atomic_fetch_add_u32(&cache->generation, 1);
	}
}

void aipg_row_cache_close(void) {
	if (aipg_row_cache_is_open()) {
		pg_atomic_fetch_add_u32(&cache->generation, 1);
	}
}

bool aipg_row_cache_is_open(void) {
	return cache != NULL && is_open_generation(pg_atomic_read_u32(&cache->generation));
}

aipg_row_cache_numbers aipg_row_cache_count(void) {
	aipg_row_cache_numbers numbers = {0};
	uint32 generation;

	if (cache == NULL) {
		return numbers;
	}
	generation = pg_atomic_read_u32(&cache->generation);
	for (int i = 0; i < LOCKS; i++) {
		numbers.hits += pg_atomic_read_u64(&cache->hits[i]);
		numbers.misses += pg_atomic_read_u64(&cache->misses[i]);
	}
	numbers.invalidations = pg_atomic_read_u64(&cache->invalidations);
	for (uint32 i = 0; i < cache->set_count && is_open_generation(generation); i++) {
		numbers.bytes += cache->sets[i].generation == generation ? cache->sets[i].used : 0; /* about */
	}
	return numbers;
}

void aipg_row_cache_each(void (*call)(void *argument, aidb_slice key), void *argument) {
	row_set *copy;

	if (!aipg_row_cache_is_open()) {
		return;
	}
	copy = palloc(sizeof(row_set));
	for (uint32 i = 0; i < cache->set_count; i++) {
		LWLock *lock = &locks[i % LOCKS].lock;

		LWLockAcquire(lock, LW_SHARED);
		memcpy(copy, &cache->sets[i], sizeof(row_set));
		LWLockRelease(lock);
		if (copy->generation != pg_atomic_read_u32(&cache->generation)) {
			continue;
		}
		for (uint32 offset = 0; offset < copy->used; offset += size_of(head_at(copy, offset))) {
			const row_head *head = head_at(copy, offset);

			if (head->value_size != ABSENT) {
				call(argument, (aidb_slice){key_of(head), head->key_size});
			}
		}
	}
	pfree(copy);
}
