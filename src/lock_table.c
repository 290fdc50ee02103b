#include "lock_table.h"

#include "port/atomics.h"
#include "settings.h"
#include "storage/lwlock.h"
#include "storage/proclist.h"
#include "storage/shmem.h"
#include "utils/timestamp.h"

#define TRANCHE "aidb row locks"
#define PARTITIONS 64     /* all are latched at once to escalate; a process can hold 200 */
#define BYTES_A_LOCK 1024 /* of aidb.memory there is one lock for so many */
#define MIN_LOCKS (16 * 1024)
#define MAX_LOCKS (1024 * 1024)
#define RESERVED_PART 8 /* of each partition is not for large transactions */

typedef struct lock_partition {
	ConditionVariable settled; /* a lock that was on trial is no more */
	uint32 free;               /* first free entry, by its place in the partition */
	uint32 unused;             /* entries from here on were never used */
	uint32 used;
} lock_partition;

typedef struct lock_table {
	pg_atomic_uint64 next_holder;
	uint32 partition_size; /* entries, and as many buckets: a power of two */
	int table_lock_count;
	aipg_table_lock table_locks[AIPG_MAX_TABLE_LOCKS];
	lock_partition partitions[PARTITIONS];
} lock_table;

static lock_table *table = NULL;
static aipg_lock_entry *entries; /* by partition */
static uint32 *buckets;          /* the same: the place in the partition of the first entry */
static LWLockPadded *latches;

/* ---- Shared memory ------------------------------------------------------------------------------------- */

static uint32 partition_size(void) {
	uint64 wanted = Min(Max(((uint64)aipg_memory_mb << 20) / BYTES_A_LOCK, MIN_LOCKS), MAX_LOCKS);
	uint32 size = 1;

	while ((uint64)size * PARTITIONS < wanted) {
		size *= 2;
	}
	return size;
}

static Size table_bytes(void) {
	return MAXALIGN(sizeof(lock_table)) +
		   (Size)PARTITIONS * partition_size() * (sizeof(aipg_lock_entry) + sizeof(uint32));
}

void aipg_lock_table_shmem_request(void) {
	RequestAddinShmemSpace(table_bytes());
	RequestNamedLWLockTranche(TRANCHE, PARTITIONS);
}

void aipg_lock_table_shmem_startup(void) {
	bool found;

	table = ShmemInitStruct(TRANCHE, table_bytes(), &found);
	entries = (aipg_lock_entry *)((char *)table + MAXALIGN(sizeof(lock_table)));
	buckets = (uint32 *)(entries + (Size)PARTITIONS * partition_size());
	latches = GetNamedLWLockTranche(TRANCHE);
	if (!found) {
		memset(table, 0, table_bytes());
		/* later than any holder of the past, unless the clock was put back; see aipg_lock_table_reserve_holder */
		pg_atomic_init_u64(&table->next_holder, (uint64)GetCurrentTimestamp());
		table->partition_size = partition_size();
		for (int i = 0; i < PARTITIONS; i++) {
			table->partitions[i].unused = 1;
			ConditionVariableInit(&table->partitions[i].settled);
		}
	}
}

uint64 aipg_lock_table_capacity(void) {
	return (uint64)PARTITIONS * table->partition_size;
}

uint64 aipg_lock_table_count(void) {
	uint64 count = 0;

	for (int i = 0; table != NULL && i < PARTITIONS; i++) {
		count += table->partitions[i].used;
	}
	return count + (table == NULL ? 0 : (uint64)table->table_lock_count);
}

uint64 aipg_lock_table_new_holder(void) {
	return pg_atomic_fetch_add_u64(&table->next_holder, 1);
}

void aipg_lock_table_reserve_holder(uint64 serial) {
	uint64 next = pg_atomic_read_u64(&table->next_holder);

	while (next <= serial && !pg_atomic_compare_exchange_u64(&table->next_holder, &next, serial + 1)) {}
}

bool aipg_lock_modes_conflict(LockTupleMode a, LockTupleMode b) {
	LockTupleMode weaker = Min(a, b);
	LockTupleMode stronger = Max(a, b);

	switch (weaker) {
	case LockTupleKeyShare:
		return stronger == LockTupleExclusive;
	case LockTupleShare:
		return stronger >= LockTupleNoKeyExclusive;
	default:
		return true;
	}
}

/* ---- Latches ------------------------------------------------------------------------------------------- */

static int partition_of(uint64 hash) {
	return (int)(hash % PARTITIONS);
}

void aipg_lock_table_latch(uint64 hash) {
	LWLockAcquire(&latches[partition_of(hash)].lock, LW_EXCLUSIVE);
}

void aipg_lock_table_unlatch(uint64 hash) {
	LWLockRelease(&latches[partition_of(hash)].lock);
}

void aipg_lock_table_latch_all(void) {
	for (int i = 0; i < PARTITIONS; i++) {
		LWLockAcquire(&latches[i].lock, LW_EXCLUSIVE);
	}
}

void aipg_lock_table_unlatch_all(void) {
	for (int i = PARTITIONS - 1; i >= 0; i--) {
		LWLockRelease(&latches[i].lock);
	}
}

/* ---- Entries ------------------------------------------------------------------------------------------- */

aipg_lock_entry *aipg_lock_entry_at(uint32 place) {
	return &entries[place - 1];
}

uint32 aipg_lock_place_of(const aipg_lock_entry *entry) {
	return (uint32)(entry - entries) + 1;
}

/* A place among the partition's, which count from 1; 0: none. */
static aipg_lock_entry *entry_in(int partition, uint32 place) {
	return place == 0 ? NULL : &entries[(Size)partition * table->partition_size + place - 1];
}

static uint32 *bucket_of(uint64 hash) {
	return &buckets[(Size)partition_of(hash) * table->partition_size + (hash / PARTITIONS) % table->partition_size];
}

aipg_lock_entry *aipg_lock_table_first(uint64 hash) {
	return entry_in(partition_of(hash), *bucket_of(hash));
}

aipg_lock_entry *aipg_lock_table_next(const aipg_lock_entry *entry) {
	return entry_in(partition_of(entry->hash), entry->next);
}

/* The place in the partition of an entry that is free; 0: there is none. */
static uint32 allocate(int partition, bool large) {
	lock_partition *shared = &table->partitions[partition];
	uint32 place = shared->free;

	if (large && shared->used >= table->partition_size - table->partition_size / RESERVED_PART) {
		return 0;
	}
	if (place != 0) {
		shared->free = entry_in(partition, place)->next;
	} else if (shared->unused <= table->partition_size) {
		place = shared->unused++;
	} else {
		return 0;
	}
	shared->used++;
	return place;
}

uint32 aipg_lock_table_add(const aipg_lock_entry *entry, bool large) {
	int partition = partition_of(entry->hash);
	uint32 place = allocate(partition, large);
	aipg_lock_entry *added = entry_in(partition, place);
	uint32 *bucket = bucket_of(entry->hash);

	if (added == NULL) {
		return 0;
	}
	*added = *entry;
	added->next = *bucket;
	*bucket = place;
	return aipg_lock_place_of(added);
}

void aipg_lock_table_discard(aipg_lock_entry *entry) {
	int partition = partition_of(entry->hash);
	lock_partition *shared = &table->partitions[partition];
	uint32 *link = bucket_of(entry->hash);
	uint32 place = (uint32)(entry - entry_in(partition, 1)) + 1;

	while (*link != place) {
		link = &entry_in(partition, *link)->next;
	}
	*link = entry->next;
	entry->holder = 0;
	entry->next = shared->free;
	shared->free = place;
	shared->used--;
}

ConditionVariable *aipg_lock_table_settled(uint64 hash) {
	return &table->partitions[partition_of(hash)].settled;
}

/*
 * Who waits has put itself on the list before it looked at the lock, so if it saw it on trial, we see it there.
 */
void aipg_lock_table_settle(uint64 hash) {
	ConditionVariable *settled = aipg_lock_table_settled(hash);

	pg_memory_barrier();
	if (!proclist_is_empty(&settled->wakeup)) {
		ConditionVariableBroadcast(settled);
	}
}

/* ---- Locks on tables ----------------------------------------------------------------------------------- */

const aipg_table_lock *aipg_table_locks(int *count) {
	*count = table->table_lock_count;
	return table->table_locks;
}

bool aipg_table_lock_set(const aipg_table_lock *lock) {
	for (int i = 0; i < table->table_lock_count; i++) {
		if (table->table_locks[i].holder == lock->holder && table->table_locks[i].index_id == lock->index_id) {
			table->table_locks[i].mode = Max(table->table_locks[i].mode, lock->mode);
			return true;
		}
	}
	if (table->table_lock_count == AIPG_MAX_TABLE_LOCKS) {
		return false;
	}
	table->table_locks[table->table_lock_count++] = *lock;
	return true;
}

static uint64 find_table_lock(uint32 index_id, LockTupleMode mode, uint32 owner) {
	for (int i = 0; i < table->table_lock_count; i++) {
		const aipg_table_lock *lock = &table->table_locks[i];

		if (lock->index_id == index_id && lock->owner != owner && aipg_lock_modes_conflict(lock->mode, mode)) {
			return lock->holder;
		}
	}
	return 0;
}

uint64 aipg_lock_table_find(uint32 index_id, LockTupleMode mode, uint32 owner) {
	uint64 found = find_table_lock(index_id, mode, owner);

	for (int i = 0; i < PARTITIONS && found == 0; i++) {
		for (uint32 place = 1; place < table->partitions[i].unused && found == 0; place++) {
			const aipg_lock_entry *entry = entry_in(i, place);

			if (entry->holder != 0 && entry->index_id == index_id && entry->owner != owner &&
				aipg_lock_modes_conflict(entry->mode, mode)) {
				found = entry->holder;
			}
		}
	}
	return found;
}

void aipg_table_locks_drop(uint64 holder) {
	aipg_lock_table_latch_all();
	for (int i = table->table_lock_count - 1; i >= 0; i--) {
		if (table->table_locks[i].holder == holder) {
			table->table_locks[i] = table->table_locks[--table->table_lock_count];
		}
	}
	aipg_lock_table_unlatch_all();
}

void aipg_table_locks_disown(uint64 holder) {
	aipg_lock_table_latch_all();
	for (int i = 0; i < table->table_lock_count; i++) {
		if (table->table_locks[i].holder == holder) {
			table->table_locks[i].owner = 0;
		}
	}
	aipg_lock_table_unlatch_all();
}
