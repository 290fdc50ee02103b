#include "row_lock.h"

#include "access/xact.h"
#include "common/hashfn.h"
#include "key_codec.h"
#include "lock_table.h"
#include "miscadmin.h"
#include "prepared.h"
#include "slots.h"
#include "storage/lmgr.h"
#include "storage/lock.h"
#include "storage/proc.h"
#include "transaction.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/wait_event.h"

#define ESCALATION_PART 8        /* a transaction with this part of all locks tries to lock a whole table instead */
#define LARGE_PART 64            /* one with this part of them is large, see aipg_lock_table_add */
#define HOLDER_LOCK_CLASS 0xA1DB /* tells our lock tags from other users' */

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

static holder *holders = NULL; /* by level, the deepest last */
static int holder_count = 0;
static int holder_capacity = 0;
static uint64 held = 0;        /* entries of this transaction */
static uint64 escalate_at = 0; /* so many of them are too many */
static bool has_table_locks = false;

/* ---- Granting: the partition is latched ------------------------------------------------------------------- */

static uint32 me(void) {
	return (uint32)MyProc->pgprocno + 1;
}

static holder *current_holder(void) {
	holder *last = holder_count > 0 ? &holders[holder_count - 1] : NULL;

	return last != NULL && last->level == GetCurrentTransactionNestLevel() ? last : NULL;
}

static bool is_current(const aipg_lock_entry *entry) {
	const holder *mine = current_holder();

	return mine != NULL && entry->holder == mine->serial;
}

static attempt_result add_entry(request *wanted) {
	holder *mine = current_holder();
	aipg_lock_entry entry = {.hash = wanted->hash,
							 .index_id = wanted->index_id,
							 .owner = me(),
							 .mode = (uint8)wanted->mode,
							 .on_trial = wanted->on_trial};
	uint32 place;

	if (mine == NULL) {
		return NEEDS_HOLDER;
	}
	entry.holder = mine->serial;
	entry.next_held = mine->first;
	place = aipg_lock_table_add(&entry, held >= aipg_lock_table_capacity() / LARGE_PART);
	if (place == 0) {
		return FULL;
	}
	mine->first = place;
	mine->count++;
	held++;
	wanted->lock = (aipg_row_lock){.entry = place, .fresh = true};
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
	int count;
	const aipg_table_lock *locks = aipg_table_locks(&count);

	for (int i = 0; i < count; i++) {
		const aipg_table_lock *lock = &locks[i];

		if (lock->index_id != wanted->index_id) {
			continue;
		}
		if (lock->owner != me()) {
			if (aipg_lock_modes_conflict(lock->mode, wanted->mode)) {
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

/* Whether one of the transaction's own locks on the key will do. */
static bool suffices(const request *wanted, const aipg_lock_entry *own) {
	return own->mode >= wanted->mode && (!wanted->write || own->written || is_current(own));
}

/* Which of two of them: one that will do, or else the current subtransaction's, which can be made to. */
static bool is_better(const request *wanted, const aipg_lock_entry *one, const aipg_lock_entry *other) {
	if (suffices(wanted, one) != suffices(wanted, other)) {
		return suffices(wanted, one);
	}
	return is_current(one) && !is_current(other);
}

/* Looks at the locks on the key; returns the best of the transaction's own, or NULL. */
static aipg_lock_entry *look_at_entries(request *wanted) {
	aipg_lock_entry *own = NULL;

	for (aipg_lock_entry *entry = aipg_lock_table_first(wanted->hash); entry != NULL;
		 entry = aipg_lock_table_next(entry)) {
		if (entry->hash != wanted->hash) {
			continue;
		}
		if (entry->owner != me()) {
			if (aipg_lock_modes_conflict(entry->mode, wanted->mode)) {
				note_blocker(wanted, entry->holder, entry->owner, entry->written);
				wanted->unsettled = wanted->unsettled || entry->on_trial;
			}
		} else if (own == NULL || is_better(wanted, entry, own)) {
			own = entry;
		}
	}
	wanted->held = wanted->held || own != NULL;
	return own;
}

static attempt_result attempt(request *wanted) {
	aipg_lock_entry *own;

	wanted->blocker = 0;
	wanted->prepared = false;
	wanted->unsettled = false;
	wanted->only_locked = true;
	wanted->held = false;
	if (look_at_table_locks(wanted)) {
		return GRANTED;
	}
	own = look_at_entries(wanted);
	if (own != NULL && suffices(wanted, own)) {
		wanted->lock = (aipg_row_lock){.entry = aipg_lock_place_of(own), .previous = own->mode};
		return GRANTED;
	}
	if (wanted->blocker != 0) {
		return BLOCKED;
	}
	if (wanted->look) {
		return GRANTED;
	}
	if (own != NULL && is_current(own)) {
		wanted->lock = (aipg_row_lock){.entry = aipg_lock_place_of(own), .previous = own->mode};
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
	holder made = {.serial = aipg_lock_table_new_holder(), .level = level};
	LOCKTAG tag = holder_tag(made.serial);

	grow_holders();
	acquire_for(owner, &tag);
	return made;
}

static void make_current_holder(void) {
	holder made = make_holder(GetCurrentTransactionNestLevel(), CurTransactionResourceOwner);

	if (holder_count == 0) {
		escalate_at = aipg_lock_table_capacity() / ESCALATION_PART;
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

	for (uint32 place = first; place != 0; place = aipg_lock_entry_at(place)->next_held) {
		aipg_lock_entry *entry = aipg_lock_entry_at(place);

		aipg_lock_table_latch(entry->hash);
		entry->holder = serial;
		aipg_lock_table_unlatch(entry->hash);
		last = place;
	}
	return last;
}

/* Frees the entries from this one on. */
static void drop_entries(uint32 first) {
	for (uint32 place = first; place != 0;) {
		aipg_lock_entry *entry = aipg_lock_entry_at(place);
		uint64 hash = entry->hash;
		bool on_trial = entry->on_trial;

		place = entry->next_held;
		aipg_lock_table_latch(hash);
		aipg_lock_table_discard(entry);
		aipg_lock_table_unlatch(hash);
		if (on_trial) {
			aipg_lock_table_settle(hash);
		}
	}
}

/* ---- Escalation ---------------------------------------------------------------------------------------- */

/* The table that the transaction has locked the most rows of, by Boyer and Moore's majority vote when it has one. */
static uint32 largest_table(void) {
	uint32 candidate = 0;
	uint64 votes = 0;

	for (int i = 0; i < holder_count; i++) {
		for (uint32 place = holders[i].first; place != 0; place = aipg_lock_entry_at(place)->next_held) {
			uint32 index_id = aipg_lock_entry_at(place)->index_id;

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
		for (uint32 place = holders[i].first; place != 0; place = aipg_lock_entry_at(place)->next_held) {
			if (aipg_lock_entry_at(place)->index_id == index_id) {
				mode = Max(mode, aipg_lock_entry_at(place)->mode);
			}
		}
	}
	return mode;
}

/* Frees the transaction's locks on rows of the table. */
static void drop_rows(uint32 index_id) {
	for (int i = 0; i < holder_count; i++) {
		uint32 *link = &holders[i].first;

		while (*link != 0) {
			aipg_lock_entry *entry = aipg_lock_entry_at(*link);

			if (entry->index_id == index_id) {
				*link = entry->next_held;
				aipg_lock_table_discard(entry);
				holders[i].count--;
				held--;
			} else {
				link = &entry->next_held;
			}
		}
	}
}

/*
 * Tries to replace the transaction's row locks in the table that it has most of by one. Returns 0 when that was done,
 * or a holder that is in the way, or UINT64_MAX when there is no room for it. The next try is due at twice as many.
 */
static uint64 escalate(void) {
	aipg_table_lock lock = {.holder = top_holder()->serial, .owner = me(), .index_id = largest_table()};
	uint64 blocker;

	lock.mode = strongest_mode(lock.index_id);
	aipg_lock_table_latch_all();
	blocker = aipg_lock_table_find(lock.index_id, lock.mode, me());
	if (blocker == 0 && !aipg_table_lock_set(&lock)) {
		blocker = UINT64_MAX;
	}
	if (blocker == 0) {
		has_table_locks = true;
		drop_rows(lock.index_id);
	}
	aipg_lock_table_unlatch_all();
	escalate_at = Max(aipg_lock_table_capacity() / ESCALATION_PART, 2 * held);
	return blocker;
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
					errdetail("There is room for " UINT64_FORMAT " locks.", aipg_lock_table_capacity()),
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
	attempt_result result;

	aipg_lock_table_latch(wanted->hash);
	result = attempt(wanted);
	aipg_lock_table_unlatch(wanted->hash);
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
	ConditionVariable *settled = aipg_lock_table_settled(wanted->hash);

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
	aipg_slots_enter(key);
	return wanted;
}

static bool grant(request *wanted, LockWaitPolicy policy, aipg_row_lock *lock) {
	bool granted = lock_or_wait(wanted, policy);

	*lock = wanted->lock;
	if (granted) {
		aipg_wait_for_unreplicated();
	}
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
	if (!lock_or_wait(&wanted, LockWaitBlock)) {
		return false;
	}
	aipg_wait_for_unreplicated();
	return true;
}

/* Our entries stay where they are, and a byte is read as a whole: no latch is needed to set one. */
void aipg_row_lock_confirm(const aipg_row_lock *lock) {
	if (lock->entry != 0) {
		aipg_lock_entry *entry = aipg_lock_entry_at(lock->entry);

		entry->on_trial = false;
		aipg_lock_table_settle(entry->hash);
	}
}

void aipg_row_lock_note_write(const aipg_row_lock *lock) {
	if (lock->entry != 0) {
		aipg_lock_entry_at(lock->entry)->written = true;
		aipg_row_lock_confirm(lock);
	}
}

/* The partition is latched. */
static void take_back(const aipg_row_lock *lock, aipg_lock_entry *entry) {
	holder *mine = current_holder();

	if (lock->fresh) {
		Assert(mine->first == lock->entry);
		mine->first = entry->next_held;
		mine->count--;
		held--;
		aipg_lock_table_discard(entry);
	} else {
		entry->mode = (uint8)lock->previous;
		entry->on_trial = false;
	}
}

void aipg_row_lock_undo(const aipg_row_lock *lock) {
	aipg_lock_entry *entry = lock->entry == 0 ? NULL : aipg_lock_entry_at(lock->entry);
	uint64 hash;

	if (entry == NULL || (!lock->fresh && entry->mode == (uint8)lock->previous)) {
		return;
	}
	hash = entry->hash;
	aipg_lock_table_latch(hash);
	take_back(lock, entry);
	aipg_lock_table_unlatch(hash);
	aipg_lock_table_settle(hash);
}

/* ---- Ends of transactions ------------------------------------------------------------------------------ */

/* The entries of the last holder become those of the one before it, and its own lock is freed for who waits for it. */
static void hand_over(void) {
	holder *child = &holders[holder_count - 1];
	holder *parent = &holders[holder_count - 2];
	LOCKTAG tag = holder_tag(child->serial);
	uint32 last = rename_entries(child->first, parent->serial);

	if (last != 0) {
		aipg_lock_entry_at(last)->next_held = parent->first;
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
		const holder *ended = &holders[--holder_count];

		drop_entries(ended->first);
		held -= ended->count;
	}
}

void aipg_row_locks_release(void) {
	if (has_table_locks) {
		aipg_table_locks_drop(holders[0].serial);
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
	aipg_held_lock tables[AIPG_MAX_TABLE_LOCKS];
	const aipg_table_lock *locks;
	int lock_count;
	int count = 0;

	for (uint32 place = holder_count == 0 ? 0 : holders[0].first; place != 0;
		 place = aipg_lock_entry_at(place)->next_held) {
		const aipg_lock_entry *entry = aipg_lock_entry_at(place);
		aipg_held_lock lock = {entry->hash, entry->index_id, (LockTupleMode)entry->mode, entry->written, false};

		each(argument, &lock);
	}
	aipg_lock_table_latch(0);
	locks = aipg_table_locks(&lock_count);
	for (int i = 0; i < lock_count; i++) {
		if (locks[i].owner == me()) {
			tables[count++] = (aipg_held_lock){0, locks[i].index_id, locks[i].mode, true, true};
		}
	}
	aipg_lock_table_unlatch(0);
	for (int i = 0; i < count; i++) {
		each(argument, &tables[i]);
	}
}

void aipg_row_locks_detach(aipg_detached_locks *locks) {
	*locks =
		(aipg_detached_locks){.holder = aipg_row_locks_holder(), .first = holder_count == 0 ? 0 : holders[0].first};
	for (uint32 place = locks->first; place != 0; place = aipg_lock_entry_at(place)->next_held) {
		aipg_lock_entry *entry = aipg_lock_entry_at(place);

		aipg_lock_table_latch(entry->hash);
		entry->owner = 0;
		aipg_lock_table_unlatch(entry->hash);
	}
	if (has_table_locks) {
		aipg_table_locks_disown(locks->holder);
	}
	has_table_locks = false;
	holder_count = 0;
	held = 0;
	escalate_at = 0;
}

static bool restore_row_lock(aipg_detached_locks *locks, const aipg_held_lock *lock) {
	aipg_lock_entry entry = {.hash = lock->hash,
							 .holder = locks->holder,
							 .next_held = locks->first,
							 .index_id = lock->index_id,
							 .mode = (uint8)lock->mode,
							 .written = lock->written};
	uint32 place;

	aipg_lock_table_latch(lock->hash);
	place = aipg_lock_table_add(&entry, false);
	aipg_lock_table_unlatch(lock->hash);
	if (place != 0) {
		locks->first = place;
		locks->restored++;
	}
	return place != 0;
}

void aipg_row_lock_restore(aipg_detached_locks *locks, const aipg_held_lock *lock) {
	aipg_table_lock whole = {.holder = locks->holder, .index_id = lock->index_id, .mode = lock->mode};
	bool restored;

	aipg_lock_table_reserve_holder(locks->holder); /* who got its number would wait for it */
	if (!lock->whole_table && locks->restored < aipg_lock_table_capacity() / ESCALATION_PART &&
		restore_row_lock(locks, lock)) {
		return;
	}
	aipg_lock_table_latch_all();
	restored = aipg_table_lock_set(&whole);
	aipg_lock_table_unlatch_all();
	if (!restored) {
		report_full();
	}
}

void aipg_row_locks_free(const aipg_detached_locks *locks) {
	drop_entries(locks->first);
	aipg_table_locks_drop(locks->holder);
}
