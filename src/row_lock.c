#include "row_lock.h"

#include "access/xact.h"
#include "common/hashfn.h"
#include "key_codec.h"
#include "miscadmin.h"
#include "port/atomics.h"
#include "prepared.h"
#include "settings.h"
#include "storage/condition_variable.h"
#include "storage/lmgr.h"
#include "storage/lock.h"
#include "storage/lwlock.h"
#include "storage/proc.h"
#include "storage/proclist.h"
#include "storage/shmem.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#define TRANCHE "aidb row locks"
#define PARTITIONS 64     /* all are held at once to escalate; a process can hold 200 */
#define BYTES_A_LOCK 1024 /* of aidb.memory there is one lock for so many */
#define MIN_LOCKS (16 * 1024)
#define MAX_LOCKS (1024 * 1024)
#define ESCALATION_PART 8 /* a transaction with this part of all locks tries to lock a whole table instead */
#define RESERVED_PART 8   /* of each partition is for transactions that have less than */
#define SMALL_PART 64     /* this part of all locks: a large one that waits for room must not stop the others */
#define MAX_TABLE_LOCKS 128
#define HOLDER_LOCK_CLASS 0xA1DB /* tells our lock tags from other users' */

/* Places in a partition are counted from 1; 0 is none. */
typedef struct lock_entry {
	uint64 hash;
	uint64 holder;    /* 0: free */
	uint32 next;      /* in its bucket, or free */
	uint32 next_held; /* of its holder: place in all partitions */
	uint32 index_id;  /* of the key */
	uint32 owner;     /* number of the process + 1; 0: of a prepared transaction */
	uint8 mode;       /* LockTupleMode */
	bool written;
	bool on_trial; /* it may be taken back at once */
} lock_entry;

typedef struct lock_partition {
	ConditionVariable settled; /* a lock that was on trial is no more */
	uint32 free;               /* first free entry */
	uint32 unused;             /* entries from here on were never used */
	uint32 used;
} lock_partition;

/* All rows of a table. Changed with all partitions locked, read with any. */
typedef struct table_lock {
	uint64 holder;
	uint32 index_id;
	uint32 owner;
	LockTupleMode mode;
} table_lock;

typedef struct lock_table {
	pg_atomic_uint64 next_holder;
	uint32 partition_size; /* entries, and as many buckets: a power of two */
	int table_lock_count;
	table_lock table_locks[MAX_TABLE_LOCKS];
	lock_partition partitions[PARTITIONS];
} lock_table;

/* A (sub)transaction of this process that holds locks; at most one for each nesting level. */
typedef struct holder {
	uint64 serial;
	int level;
	uint32 first; /* the newest of its entries */
	uint32 count;
} holder;

/* A request, and who is in its way. */
typedef struct request {
	Oid relation;
	uint64 hash;
	uint32 index_id;
	LockTupleMode mode;
	bool insert;
	bool look;      /* and takes nothing */
	bool on_trial;  /* what is granted is on trial */
	bool unsettled; /* a lock in the way is on trial */
	bool write;     /* an outer subtransaction's lock will not do: it outlives the write */
	aipg_row_lock_moot moot;
	void *moot_argument;
	bool held;        /* the transaction holds the key already, if not as strongly */
	uint64 blocker;   /* serial of a holder that is in the way */
	bool prepared;    /* it is a prepared transaction's */
	bool only_locked; /* those in the way have not written */
	aipg_row_lock lock;
} request;

typedef enum attempt_result { GRANTED, BLOCKED, NEEDS_HOLDER, FULL } attempt_result;

static lock_table *table = NULL;
static lock_entry *entries; /* by partition */
static uint32 *buckets;     /* the same */
static LWLockPadded *latches;

static holder *holders = NULL; /* by level, the deepest last */
static int holder_count = 0;
static int holder_capacity = 0;
static uint64 held = 0;        /* entries of this transaction */
static uint64 escalate_at = 0; /* so many of them are too many */
static bool has_table_locks = false;

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
	return MAXALIGN(sizeof(lock_table)) + (Size)PARTITIONS * partition_size() * (sizeof(lock_entry) + sizeof(uint32));
}

void aipg_row_lock_shmem_request(void) {
	RequestAddinShmemSpace(table_bytes());
	RequestNamedLWLockTranche(TRANCHE, PARTITIONS);
}

void aipg_row_lock_shmem_startup(void) {
	bool found;

	table = ShmemInitStruct(TRANCHE, table_bytes(), &found);
	entries = (lock_entry *)((char *)table + MAXALIGN(sizeof(lock_table)));
	buckets = (uint32 *)(entries + (Size)PARTITIONS * partition_size());
	latches = GetNamedLWLockTranche(TRANCHE);
	if (!found) {
		memset(table, 0, table_bytes());
		/* later than any holder of the past, unless the clock was put back; see aipg_row_lock_restore */
		pg_atomic_init_u64(&table->next_holder, (uint64)GetCurrentTimestamp());
		table->partition_size = partition_size();
		for (int i = 0; i < PARTITIONS; i++) {
			table->partitions[i].unused = 1;
			ConditionVariableInit(&table->partitions[i].settled);
		}
	}
	holder_count = 0;
}

static uint64 capacity(void) {
	return (uint64)PARTITIONS * table->partition_size;
}

static int partition_of(uint64 hash) {
	return (int)(hash % PARTITIONS);
}

static LWLock *latch_of(int partition) {
	return &latches[partition].lock;
}

/* An entry's place in all partitions is its partition's number, then its place in it. */
static lock_entry *entry_in(int partition, uint32 place) {
	return &entries[(Size)partition * table->partition_size + place - 1];
}

static uint32 global_place(int partition, uint32 place) {
	return (uint32)partition * table->partition_size + place;
}

static lock_entry *entry_at(uint32 place) {
	return &entries[place - 1];
}

static uint32 *bucket_of(uint64 hash) {
	return &buckets[(Size)partition_of(hash) * table->partition_size + (hash / PARTITIONS) % table->partition_size];
}

uint64 aipg_row_locks_count(void) {
	uint64 count = 0;

	for (int i = 0; table != NULL && i < PARTITIONS; i++) {
		count += table->partitions[i].used;
	}
	return count + (table == NULL ? 0 : (uint64)table->table_lock_count);
}

/* ---- Entries: the partition is locked -------------------------------------------------------------------- */

static uint32 me(void) {
	return (uint32)MyProc->pgprocno + 1;
}

static bool conflicts(LockTupleMode a, LockTupleMode b) {
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

/* Whether what is left of the partition is for others. */
static bool is_reserved(const lock_partition *shared) {
	return held >= capacity() / SMALL_PART &&
		   shared->used >= table->partition_size - table->partition_size / RESERVED_PART;
}

/* The place of a free entry of the partition; 0: there is none for us. */
static uint32 allocate(int partition) {
	lock_partition *shared = &table->partitions[partition];
	uint32 place = shared->free;

	if (is_reserved(shared)) {
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

/* Takes the entry out of its bucket and frees it. Its holder's list is the caller's. */
static void discard(lock_entry *entry) {
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

/*
 * A lock in the partition is not on trial any more. Who waits for that has put itself on the list before it looked at the
 * lock, so if it saw it on trial, we see it there.
 */
static void settle(int partition) {
	ConditionVariable *settled = &table->partitions[partition].settled;

	pg_memory_barrier();
	if (!proclist_is_empty(&settled->wakeup)) {
		ConditionVariableBroadcast(settled);
	}
}

static holder *current_holder(void) {
	holder *last = holder_count > 0 ? &holders[holder_count - 1] : NULL;

	return last != NULL && last->level == GetCurrentTransactionNestLevel() ? last : NULL;
}

static bool is_current(const lock_entry *entry) {
	const holder *mine = current_holder();

	return mine != NULL && entry->holder == mine->serial;
}

static attempt_result add_entry(request *wanted) {
	int partition = partition_of(wanted->hash);
	holder *mine = current_holder();
	uint32 *bucket = bucket_of(wanted->hash);
	uint32 place;
	lock_entry *entry;

	if (mine == NULL) {
		return NEEDS_HOLDER;
	}
	place = allocate(partition);
	if (place == 0) {
		return FULL;
	}
	entry = entry_in(partition, place);
	*entry = (lock_entry){.hash = wanted->hash,
						  .holder = mine->serial,
						  .next = *bucket,
						  .next_held = mine->first,
						  .index_id = wanted->index_id,
						  .owner = me(),
						  .mode = (uint8)wanted->mode,
						  .on_trial = wanted->on_trial};
	*bucket = place;
	mine->first = global_place(partition, place);
	mine->count++;
	held++;
	wanted->lock = (aipg_row_lock){.entry = mine->first, .fresh = true};
	return GRANTED;
}

static void note_blocker(request *wanted, uint64 serial, uint32 owner, bool written) {
	if (wanted->blocker == 0 || (written && wanted->only_locked)) {
		wanted->blocker = serial; /* whoever inserts waits for those who have written */
	}
	wanted->prepared = wanted->prepared || owner == 0;
	wanted->only_locked = wanted->only_locked && !written;
}

/* Looks at the locks on whole tables; true when one of our own suffices. */
static bool look_at_table_locks(request *wanted) {
	for (int i = 0; i < table->table_lock_count; i++) {
		const table_lock *lock = &table->table_locks[i];

		if (lock->index_id != wanted->index_id) {
			continue;
		}
		if (lock->owner != me()) {
			if (conflicts(lock->mode, wanted->mode)) {
				note_blocker(wanted, lock->holder, lock->owner, lock->mode >= LockTupleNoKeyExclusive);
			}
		} else if (lock->mode >= wanted->mode) {
			wanted->lock = (aipg_row_lock){.entry = 0};
			return true;
		} else {
			wanted->held = true;
		}
	}
	return false;
}

/* Looks at the locks on the key; returns the transaction's own strongest, or NULL. */
static lock_entry *look_at_entries(request *wanted) {
	int partition = partition_of(wanted->hash);
	lock_entry *own = NULL;

	for (uint32 place = *bucket_of(wanted->hash); place != 0; place = entry_in(partition, place)->next) {
		lock_entry *entry = entry_in(partition, place);

		if (entry->hash != wanted->hash) {
			continue;
		}
		if (entry->owner != me()) {
			if (conflicts(entry->mode, wanted->mode)) {
				note_blocker(wanted, entry->holder, entry->owner, entry->written);
				wanted->unsettled = wanted->unsettled || entry->on_trial;
			}
		} else if (own == NULL || entry->mode > own->mode || (entry->mode == own->mode && is_current(entry))) {
			own = entry;
		}
	}
	wanted->held = wanted->held || own != NULL;
	return own;
}

static attempt_result attempt(request *wanted) {
	lock_entry *own;

	wanted->blocker = 0;
	wanted->prepared = false;
	wanted->unsettled = false;
	wanted->only_locked = true;
	wanted->held = false;
	if (look_at_table_locks(wanted)) {
		return GRANTED;
	}
	own = look_at_entries(wanted);
	if (own != NULL && own->mode >= wanted->mode && (!wanted->write || own->written || is_current(own))) {
		wanted->lock = (aipg_row_lock){.entry = (uint32)(own - entries) + 1, .previous = own->mode};
		return GRANTED;
	}
	if (wanted->blocker != 0) {
		return BLOCKED;
	}
	if (wanted->look) {
		return GRANTED;
	}
	if (own != NULL && is_current(own)) {
		wanted->lock = (aipg_row_lock){.entry = (uint32)(own - entries) + 1, .previous = own->mode};
		own->mode = (uint8)wanted->mode;
		own->on_trial = wanted->on_trial;
		return GRANTED;
	}
	return add_entry(wanted);
}

/* ---- Holders ------------------------------------------------------------------------------------------- */

static LOCKTAG holder_tag(uint64 serial) {
	return (LOCKTAG){.locktag_field1 = (uint32)(serial >> 32),
					 .locktag_field2 = (uint32)serial,
					 .locktag_field4 = HOLDER_LOCK_CLASS,
					 .locktag_type = LOCKTAG_USERLOCK,
					 .locktag_lockmethodid = DEFAULT_LOCKMETHOD};
}

/* Locks in the name of a (sub)transaction, not of the portal that happens to run. */
static void acquire_for(ResourceOwner owner, const LOCKTAG *tag) {
	ResourceOwner caller = CurrentResourceOwner;

	CurrentResourceOwner = owner;
	PG_TRY();
	{ LockAcquire(tag, ExclusiveLock, false, false); }
	PG_FINALLY();
	{ CurrentResourceOwner = caller; }
	PG_END_TRY();
}

static void release_for(ResourceOwner owner, const LOCKTAG *tag) {
	ResourceOwner caller = CurrentResourceOwner;

	CurrentResourceOwner = owner;
	LockRelease(tag, ExclusiveLock, false);
	CurrentResourceOwner = caller;
}

static void grow_holders(void) {
	int wanted = Max(16, holder_capacity * 2);

	if (holder_count < holder_capacity) {
		return;
	}
	holders = holders == NULL ? MemoryContextAlloc(TopMemoryContext, wanted * sizeof(holder))
							  : repalloc(holders, wanted * sizeof(holder));
	holder_capacity = wanted; /* now that there was memory for it */
}

static holder make_holder(int level, ResourceOwner owner) {
	holder made = {.serial = pg_atomic_fetch_add_u64(&table->next_holder, 1), .level = level};
	LOCKTAG tag = holder_tag(made.serial);

	grow_holders();
	acquire_for(owner, &tag);
	return made;
}

static void make_current_holder(void) {
	holder made = make_holder(GetCurrentTransactionNestLevel(), CurTransactionResourceOwner);

	if (holder_count == 0) {
		escalate_at = capacity() / ESCALATION_PART;
	}
	holders[holder_count++] = made;
}

/* The transaction's own holder; escalated locks are its. */
static holder *top_holder(void) {
	if (holder_count == 0 || holders[0].level != 1) {
		holder made = make_holder(1, TopTransactionResourceOwner);

		memmove(holders + 1, holders, (size_t)holder_count * sizeof(holder));
		holders[0] = made;
		holder_count++;
	}
	return &holders[0];
}

/* Puts the entries from this one on under another holder's name; returns the last, 0 when there is none. */
static uint32 rename_entries(uint32 first, uint64 serial) {
	uint32 last = 0;

	for (uint32 place = first; place != 0; place = entry_at(place)->next_held) {
		lock_entry *entry = entry_at(place);
		LWLock *latch = latch_of(partition_of(entry->hash));

		LWLockAcquire(latch, LW_EXCLUSIVE);
		entry->holder = serial;
		LWLockRelease(latch);
		last = place;
	}
	return last;
}

/* Frees all entries of the holder. */
static void drop_entries(holder *dropped) {
	for (uint32 place = dropped->first; place != 0;) {
		lock_entry *entry = entry_at(place);
		int partition = partition_of(entry->hash);
		bool on_trial = entry->on_trial;

		place = entry->next_held;
		LWLockAcquire(latch_of(partition), LW_EXCLUSIVE);
		discard(entry);
		LWLockRelease(latch_of(partition));
		if (on_trial) {
			settle(partition);
		}
	}
	held -= dropped->count;
	dropped->first = 0;
	dropped->count = 0;
}

/* ---- Escalation ---------------------------------------------------------------------------------------- */

static void lock_all_partitions(void) {
	for (int i = 0; i < PARTITIONS; i++) {
		LWLockAcquire(latch_of(i), LW_EXCLUSIVE);
	}
}

static void unlock_all_partitions(void) {
	for (int i = PARTITIONS - 1; i >= 0; i--) {
		LWLockRelease(latch_of(i));
	}
}

/* The table that the transaction has locked the most rows of, by Boyer and Moore's majority vote when it has one. */
static uint32 largest_table(void) {
	uint32 candidate = 0;
	uint64 votes = 0;

	for (int i = 0; i < holder_count; i++) {
		for (uint32 place = holders[i].first; place != 0; place = entry_at(place)->next_held) {
			uint32 index_id = entry_at(place)->index_id;

			if (votes == 0) {
				candidate = index_id;
			}
			if (candidate == index_id) {
				votes++;
			} else {
				votes--;
			}
		}
	}
	return candidate;
}

/* The strongest mode in which the transaction holds a row of the table. */
static LockTupleMode strongest_mode(uint32 index_id) {
	LockTupleMode mode = LockTupleKeyShare;

	for (int i = 0; i < holder_count; i++) {
		for (uint32 place = holders[i].first; place != 0; place = entry_at(place)->next_held) {
			if (entry_at(place)->index_id == index_id) {
				mode = Max(mode, entry_at(place)->mode);
			}
		}
	}
	return mode;
}

/* Someone else's lock in the table that is in the way of this mode for all rows; 0: nobody's. */
static uint64 find_in_table(uint32 index_id, LockTupleMode mode) {
	for (int i = 0; i < table->table_lock_count; i++) {
		const table_lock *lock = &table->table_locks[i];

		if (lock->index_id == index_id && lock->owner != me() && conflicts(lock->mode, mode)) {
			return lock->holder;
		}
	}
	for (int i = 0; i < PARTITIONS; i++) {
		for (uint32 place = 1; place < table->partitions[i].unused; place++) {
			const lock_entry *entry = entry_in(i, place);

			if (entry->holder != 0 && entry->index_id == index_id && entry->owner != me() &&
				conflicts(entry->mode, mode)) {
				return entry->holder;
			}
		}
	}
	return 0;
}

/* Frees the transaction's locks on rows of the table. */
static void drop_rows(uint32 index_id) {
	for (int i = 0; i < holder_count; i++) {
		uint32 *link = &holders[i].first;

		while (*link != 0) {
			lock_entry *entry = entry_at(*link);

			if (entry->index_id == index_id) {
				*link = entry->next_held;
				discard(entry);
				holders[i].count--;
				held--;
			} else {
				link = &entry->next_held;
			}
		}
	}
}

static bool set_table_lock(const table_lock *lock) {
	for (int i = 0; i < table->table_lock_count; i++) {
		if (table->table_locks[i].holder == lock->holder && table->table_locks[i].index_id == lock->index_id) {
			table->table_locks[i].mode = Max(table->table_locks[i].mode, lock->mode);
			return true;
		}
	}
	if (table->table_lock_count == MAX_TABLE_LOCKS) {
		return false;
	}
	table->table_locks[table->table_lock_count++] = *lock;
	return true;
}

/*
 * Tries to replace the transaction's row locks in the table that it has most of by one. Returns 0 when that was done,
 * or a holder that is in the way, or UINT64_MAX when there is no room for it. The next try is due at twice as many.
 */
static uint64 escalate(void) {
	table_lock lock = {.holder = top_holder()->serial, .owner = me(), .index_id = largest_table()};
	uint64 blocker;

	lock.mode = strongest_mode(lock.index_id);
	lock_all_partitions();
	blocker = find_in_table(lock.index_id, lock.mode);
	if (blocker == 0 && !set_table_lock(&lock)) {
		blocker = UINT64_MAX;
	}
	if (blocker == 0) {
		has_table_locks = true;
		drop_rows(lock.index_id);
	}
	unlock_all_partitions();
	escalate_at = Max(capacity() / ESCALATION_PART, 2 * held);
	return blocker;
}

static void drop_table_locks(uint64 holder_serial) {
	lock_all_partitions();
	for (int i = table->table_lock_count - 1; i >= 0; i--) {
		if (table->table_locks[i].holder == holder_serial) {
			table->table_locks[i] = table->table_locks[--table->table_lock_count];
		}
	}
	unlock_all_partitions();
}

/* ---- Waiting ------------------------------------------------------------------------------------------- */

/* What an error that ends the wait is to say besides. */
static void describe_wait(void *relation_name) {
	errcontext("while locking a row of AiDb table \"%s\"", (const char *)relation_name);
}

static char *name_of(Oid relation) {
	char *name = OidIsValid(relation) ? get_rel_name(relation) : NULL;

	return name != NULL ? name : pstrdup("(key space)");
}

/* Waits until the holder ends, or was never there. */
static void wait_for(const request *wanted, uint64 serial) {
	LOCKTAG tag = holder_tag(serial);
	ErrorContextCallback context = {
		.previous = error_context_stack, .callback = describe_wait, .arg = name_of(wanted->relation)};

	error_context_stack = &context;
	LockAcquire(&tag, ShareLock, false, false);
	LockRelease(&tag, ShareLock, false);
	error_context_stack = context.previous;
	pfree(context.arg);
}

/* The queue for a row: a tuple lock, in the mode that a heap row of this mode would be queued for. */
static LOCKTAG queue_tag(const request *wanted) {
	LOCKTAG tag;

	SET_LOCKTAG_TUPLE(tag, MyDatabaseId, wanted->relation, (uint32)(wanted->hash >> 32), (uint16)(wanted->hash >> 16));
	return tag;
}

static LOCKMODE queue_mode(LockTupleMode mode) {
	static const LOCKMODE modes[] = {[LockTupleKeyShare] = AccessShareLock,
									 [LockTupleShare] = RowShareLock,
									 [LockTupleNoKeyExclusive] = ExclusiveLock,
									 [LockTupleExclusive] = AccessExclusiveLock};

	return modes[mode];
}

static void pg_attribute_noreturn() report_not_available(const request *wanted) {
	ereport(ERROR, (errcode(ERRCODE_LOCK_NOT_AVAILABLE),
					errmsg("could not obtain lock on row in relation \"%s\"", name_of(wanted->relation))));
}

static void pg_attribute_noreturn() report_full(void) {
	ereport(ERROR, (errcode(ERRCODE_OUT_OF_MEMORY), errmsg("out of shared memory for row locks on AiDb tables"),
					errdetail("There is room for " UINT64_FORMAT " locks.", capacity()),
					errhint("Change fewer rows in a transaction, or raise \"aidb.memory\" and restart the server.")));
}

/* There is no room for another lock: makes some, or waits for who keeps us from it. */
static void make_room(const request *wanted, LockWaitPolicy policy) {
	uint64 blocker;

	if (aipg_prepared_sweep()) {
		return;
	}
	blocker = held == 0 ? UINT64_MAX : escalate();
	if (blocker == UINT64_MAX) {
		report_full();
	}
	if (blocker != 0) {
		if (policy != LockWaitBlock && !wanted->insert) {
			report_full();
		}
		wait_for(wanted, blocker);
	}
}

static attempt_result try_once(request *wanted) {
	LWLock *latch = latch_of(partition_of(wanted->hash));
	attempt_result result;

	LWLockAcquire(latch, LW_EXCLUSIVE);
	result = attempt(wanted);
	LWLockRelease(latch);
	return result;
}

/* Tries, and does what else is needed for it, until it is granted or somebody is in the way. */
static bool try_lock(request *wanted, LockWaitPolicy policy) {
	if (holder_count > 0 && held >= escalate_at) {
		escalate();
	}
	for (;;) {
		switch (try_once(wanted)) {
		case GRANTED:
			return true;
		case BLOCKED:
			return false;
		case NEEDS_HOLDER:
			make_current_holder();
			break;
		case FULL:
			make_room(wanted, policy);
			break;
		}
	}
}

/* Queues up, unless it is queued or had better not be: who holds the row already goes first. */
static bool queue_up(const request *wanted, LOCKTAG *tag) {
	if (wanted->held || wanted->insert || !OidIsValid(wanted->relation)) {
		return false;
	}
	*tag = queue_tag(wanted);
	LockAcquire(tag, queue_mode(wanted->mode), false, false);
	return true;
}

/* Who is in the way may be so for a moment only. Returns true when that has passed, or may have. */
static bool await_settled(const request *wanted, bool *listening) {
	ConditionVariable *settled = &table->partitions[partition_of(wanted->hash)].settled;

	if (!wanted->unsettled) {
		return false;
	}
	if (*listening) {
		ConditionVariableSleep(settled, PG_WAIT_EXTENSION);
	} else {
		ConditionVariablePrepareToSleep(settled); /* and look once more */
		*listening = true;
	}
	return true;
}

/* Waits for who is in the way, or for one's turn. False when one must not, or need not. */
static bool wait_once(request *wanted, LockWaitPolicy policy, bool *queued, LOCKTAG *tag) {
	if (policy == LockWaitError) {
		report_not_available(wanted);
	}
	if (policy == LockWaitSkip || (wanted->insert && wanted->only_locked)) {
		return false;
	}
	if (!*queued && queue_up(wanted, tag)) {
		*queued = true; /* the one before us may have been the one in the way */
	} else {
		wait_for(wanted, wanted->blocker);
	}
	return true;
}

static bool is_moot(const request *wanted) {
	return wanted->moot != NULL && wanted->moot(wanted->moot_argument);
}

static bool lock_or_wait(request *wanted, LockWaitPolicy policy) {
	LOCKTAG tag;
	bool queued = false;
	bool listening = false;
	bool granted;

	aipg_prepared_restore();
	while (!(granted = try_lock(wanted, policy))) {
		if (await_settled(wanted, &listening) || (wanted->prepared && aipg_prepared_sweep())) {
			continue;
		}
		if (listening) {
			ConditionVariableCancelSleep();
			listening = false;
		}
		if (is_moot(wanted) || !wait_once(wanted, policy, &queued, &tag)) {
			break;
		}
	}
	if (listening) {
		ConditionVariableCancelSleep();
	}
	if (queued) {
		LockRelease(&tag, queue_mode(wanted->mode), false);
	}
	return granted;
}

/* ---- Requests ------------------------------------------------------------------------------------------ */

static request request_for(Oid relation, aidb_slice key, LockTupleMode mode) {
	request wanted = {.relation = relation, .hash = hash_bytes_extended(key.data, (int)key.size, 0), .mode = mode};

	wanted.index_id = aipg_key_index_id(key);
	return wanted;
}

static bool grant(request *wanted, LockWaitPolicy policy, aipg_row_lock *lock) {
	bool granted = lock_or_wait(wanted, policy);

	*lock = wanted->lock;
	return granted;
}

bool aipg_row_lock_take(Oid relation, aidb_slice key, LockTupleMode mode, LockWaitPolicy policy, aipg_row_lock *lock) {
	request wanted = request_for(relation, key, mode);

	return grant(&wanted, policy, lock);
}

bool aipg_row_lock_try(Oid relation, aidb_slice key, LockTupleMode mode, LockWaitPolicy policy, aipg_row_lock_moot moot,
					   void *argument, aipg_row_lock *lock) {
	request wanted = request_for(relation, key, mode);

	wanted.on_trial = true;
	wanted.moot = moot;
	wanted.moot_argument = argument;
	return grant(&wanted, policy, lock);
}

void aipg_row_lock_write(Oid relation, aidb_slice key, LockTupleMode mode) {
	request wanted = request_for(relation, key, mode);
	aipg_row_lock lock;

	wanted.write = true;
	grant(&wanted, LockWaitBlock, &lock);
	aipg_row_lock_note_write(&lock);
}

bool aipg_row_lock_take_for_insert(Oid relation, aidb_slice key, aipg_row_lock *lock) {
	request wanted = request_for(relation, key, LockTupleExclusive);

	wanted.on_trial = true;
	wanted.insert = true;
	return grant(&wanted, LockWaitSkip, lock);
}

bool aipg_row_lock_await_writers(Oid relation, aidb_slice key) {
	request wanted = request_for(relation, key, LockTupleExclusive);

	wanted.insert = true;
	wanted.look = true;
	return lock_or_wait(&wanted, LockWaitBlock);
}

/* Our entries stay where they are, and a byte is read as a whole: no latch is needed to set one. */
void aipg_row_lock_confirm(const aipg_row_lock *lock) {
	if (lock->entry != 0) {
		lock_entry *entry = entry_at(lock->entry);

		entry->on_trial = false;
		settle(partition_of(entry->hash));
	}
}

void aipg_row_lock_note_write(const aipg_row_lock *lock) {
	if (lock->entry != 0) {
		entry_at(lock->entry)->written = true;
		aipg_row_lock_confirm(lock);
	}
}

/* The partition is locked. */
static void take_back(const aipg_row_lock *lock, lock_entry *entry) {
	holder *mine = current_holder();

	if (lock->fresh) {
		Assert(mine->first == lock->entry);
		mine->first = entry->next_held;
		mine->count--;
		held--;
		discard(entry);
	} else {
		entry->mode = (uint8)lock->previous;
		entry->on_trial = false;
	}
}

void aipg_row_lock_undo(const aipg_row_lock *lock) {
	lock_entry *entry = lock->entry == 0 ? NULL : entry_at(lock->entry);
	int partition;

	if (entry == NULL || (!lock->fresh && entry->mode == (uint8)lock->previous)) {
		return;
	}
	partition = partition_of(entry->hash);
	LWLockAcquire(latch_of(partition), LW_EXCLUSIVE);
	take_back(lock, entry);
	LWLockRelease(latch_of(partition));
	settle(partition);
}

/* ---- Ends of transactions ------------------------------------------------------------------------------ */

/* The entries of the last holder become those of the one before it, and its own lock is freed for who waits for it. */
static void hand_over(void) {
	holder *child = &holders[holder_count - 1];
	holder *parent = &holders[holder_count - 2];
	LOCKTAG tag = holder_tag(child->serial);
	uint32 last = rename_entries(child->first, parent->serial);

	if (last != 0) {
		entry_at(last)->next_held = parent->first;
		parent->first = child->first;
		parent->count += child->count;
	}
	holder_count--;
	release_for(CurTransactionResourceOwner, &tag);
}

void aipg_row_locks_subcommit(int level) {
	holder *last = holder_count > 0 ? &holders[holder_count - 1] : NULL;

	if (last == NULL || last->level < level) {
		return;
	}
	if (holder_count > 1 && last[-1].level == level - 1) {
		hand_over();
	} else {
		last->level = level - 1;
	}
}

void aipg_row_locks_subabort(int level) {
	while (holder_count > 0 && holders[holder_count - 1].level >= level) {
		drop_entries(&holders[--holder_count]);
	}
}

void aipg_row_locks_release(void) {
	if (has_table_locks) {
		drop_table_locks(holders[0].serial);
	}
	has_table_locks = false;
	aipg_row_locks_subabort(0);
	escalate_at = 0;
}

/* ---- Prepared transactions ----------------------------------------------------------------------------- */

uint64 aipg_row_locks_holder(void) {
	Assert(holder_count <= 1);
	return holder_count == 0 ? 0 : holders[0].serial;
}

void aipg_row_locks_each(void (*each)(void *argument, const aipg_held_lock *lock), void *argument) {
	aipg_held_lock tables[MAX_TABLE_LOCKS];
	int count = 0;

	for (uint32 place = holder_count == 0 ? 0 : holders[0].first; place != 0; place = entry_at(place)->next_held) {
		const lock_entry *entry = entry_at(place);
		aipg_held_lock lock = {entry->hash, entry->index_id, (LockTupleMode)entry->mode, entry->written, false};

		each(argument, &lock);
	}
	LWLockAcquire(latch_of(0), LW_SHARED);
	for (int i = 0; i < table->table_lock_count; i++) {
		const table_lock *lock = &table->table_locks[i];

		if (lock->owner == me()) {
			tables[count++] = (aipg_held_lock){0, lock->index_id, lock->mode, true, true};
		}
	}
	LWLockRelease(latch_of(0));
	for (int i = 0; i < count; i++) {
		each(argument, &tables[i]);
	}
}

static void disown_table_locks(void) {
	lock_all_partitions();
	for (int i = 0; i < table->table_lock_count; i++) {
		if (table->table_locks[i].owner == me()) {
			table->table_locks[i].owner = 0;
		}
	}
	unlock_all_partitions();
}

void aipg_row_locks_detach(aipg_detached_locks *locks) {
	*locks =
		(aipg_detached_locks){.holder = aipg_row_locks_holder(), .first = holder_count == 0 ? 0 : holders[0].first};
	for (uint32 place = locks->first; place != 0; place = entry_at(place)->next_held) {
		LWLock *latch = latch_of(partition_of(entry_at(place)->hash));

		LWLockAcquire(latch, LW_EXCLUSIVE);
		entry_at(place)->owner = 0;
		LWLockRelease(latch);
	}
	if (has_table_locks) {
		disown_table_locks();
	}
	has_table_locks = false;
	holder_count = 0;
	held = 0;
	escalate_at = 0;
}

static bool restore_row_lock(aipg_detached_locks *locks, const aipg_held_lock *lock) {
	int partition = partition_of(lock->hash);
	uint32 place;

	LWLockAcquire(latch_of(partition), LW_EXCLUSIVE);
	place = allocate(partition);
	if (place != 0) {
		*entry_in(partition, place) = (lock_entry){.hash = lock->hash,
												   .holder = locks->holder,
												   .next = *bucket_of(lock->hash),
												   .next_held = locks->first,
												   .index_id = lock->index_id,
												   .mode = (uint8)lock->mode,
												   .written = lock->written};
		*bucket_of(lock->hash) = place;
		locks->first = global_place(partition, place);
		locks->restored++;
	}
	LWLockRelease(latch_of(partition));
	return place != 0;
}

/* Holders made from here on have higher numbers: it would wait for a prepared transaction who got the number of its. */
static void reserve_holder(uint64 serial) {
	uint64 next = pg_atomic_read_u64(&table->next_holder);

	while (next <= serial && !pg_atomic_compare_exchange_u64(&table->next_holder, &next, serial + 1)) {}
}

void aipg_row_lock_restore(aipg_detached_locks *locks, const aipg_held_lock *lock) {
	table_lock whole = {.holder = locks->holder, .index_id = lock->index_id, .mode = lock->mode};
	bool restored;

	reserve_holder(locks->holder);
	if (!lock->whole_table && locks->restored < capacity() / ESCALATION_PART && restore_row_lock(locks, lock)) {
		return;
	}
	lock_all_partitions();
	restored = set_table_lock(&whole);
	unlock_all_partitions();
	if (!restored) {
		report_full();
	}
}

void aipg_row_locks_free(const aipg_detached_locks *locks) {
	for (uint32 place = locks->first; place != 0;) {
		lock_entry *entry = entry_at(place);
		LWLock *latch = latch_of(partition_of(entry->hash));

		place = entry->next_held;
		LWLockAcquire(latch, LW_EXCLUSIVE);
		discard(entry);
		LWLockRelease(latch);
	}
	drop_table_locks(locks->holder);
}
