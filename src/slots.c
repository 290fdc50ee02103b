#include "slots.h"

#include "access.h"
#include "catalog.h"
#include "key_codec.h"
#include "miscadmin.h"
#include "port/atomics.h"
#include "replication/stream.h"
#include "role.h"
#include "storage/ipc.h"
#include "storage/lmgr.h"
#include "storage/lock.h"
#include "storage/proc.h"
#include "storage/procarray.h"
#include "storage/shmem.h"
#include "utils/guc.h"

#define VERSION 1
#define VALUE_BYTES (1 + AIDB_SLOT_SET_BYTES)
#define LOCK_CLASS 3 /* of advisory locks; PostgreSQL's functions take 1 and 2 */

typedef struct shared_set {
	pg_atomic_uint64 words[AIDB_SLOT_WORDS];
} shared_set;

typedef struct shared_slots {
	shared_set closed;
	shared_set moving;
	pg_atomic_uint64 opened_at[AIDB_SLOTS]; /* the sequence from which views have all rows of the slot */
	pg_atomic_uint32 mover;                 /* the process id of the session that moves slots; 0: none does */
	bool loaded;                            /* under AddinShmemInitLock */
} shared_slots;

static shared_slots *shared = NULL;
static char *scanned_text = NULL; /* aidb.slots */
static const aidb_slot_set *scanned = NULL;
static bool leaves_at_exit = false;
static bool is_holding = false;

/* ---- Shared memory --------------------------------------------------------------------------------------- */

void aipg_slots_shmem_request(void) {
	RequestAddinShmemSpace(MAXALIGN(sizeof(shared_slots)));
}

static void init_set(shared_set *set) {
	for (uint32 i = 0; i < AIDB_SLOT_WORDS; i++) {
		pg_atomic_init_u64(&set->words[i], 0);
	}
}

void aipg_slots_shmem_startup(void) {
	bool found;

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	shared = ShmemInitStruct("aidb slots", sizeof(shared_slots), &found);
	if (!found) {
		init_set(&shared->closed);
		init_set(&shared->moving);
		for (uint32 slot = 0; slot < AIDB_SLOTS; slot++) {
			pg_atomic_init_u64(&shared->opened_at[slot], 0);
		}
		pg_atomic_init_u32(&shared->mover, 0);
		shared->loaded = false;
	}
	LWLockRelease(AddinShmemInitLock);
}

static bool has(shared_set *set, uint32 slot) {
	return (pg_atomic_read_u64(&set->words[slot / 64]) >> slot % 64 & 1) != 0;
}

static void assign(shared_set *set, const aidb_slot_set *to) {
	for (uint32 i = 0; i < AIDB_SLOT_WORDS; i++) {
		pg_atomic_write_u64(&set->words[i], to->words[i]);
	}
}

aidb_slot_set aipg_slots_closed(void) {
	aidb_slot_set set;

	for (uint32 i = 0; i < AIDB_SLOT_WORDS; i++) {
		set.words[i] = pg_atomic_read_u64(&shared->closed.words[i]);
	}
	return set;
}

/* ---- Statements ------------------------------------------------------------------------------------------ */

static bool check_scanned(char **value, void **extra, GucSource source) {
	aidb_slot_set *set = NULL;

	(void)source;
	if ((*value)[0] != '\0') {
		set = malloc(sizeof(*set));
		if (set == NULL) {
			return false;
		}
		if (!aidb_slot_set_read(*value, set)) {
			free(set);
			GUC_check_errdetail("A set of slots has %u hexadecimal digits.", AIDB_SLOT_SET_DIGITS);
			return false;
		}
	}
	*extra = set;
	return true;
}

static void assign_scanned(const char *value, void *extra) {
	(void)value;
	scanned = extra;
}

void aipg_slots_init(void) {
	DefineCustomStringVariable("aidb.slots", "The slots of sharded tables that this session takes to be here.",
							   "A router says so, since scans of it go over several servers. Empty: those that are.",
							   &scanned_text, "", PGC_USERSET, GUC_NOT_IN_SAMPLE, check_scanned, assign_scanned, NULL);
}

static void pg_attribute_noreturn() refuse(uint32 slot) {
	ereport(ERROR, (errcode(AIPG_ERRCODE_STALE_MAP), errmsg("this server does not keep slot %u", slot),
					errdetail("Another group of the cluster does."),
					errhint("Ask the coordinator which one, or use the cluster's tables there.")));
}

static void check(uint32 slot) {
	if (has(&shared->closed, slot)) {
		refuse(slot);
	}
}

static void check_view(uint32 slot, const aipg_view *view) {
	check(slot);
	pg_read_barrier();
	if (view->sequence < pg_atomic_read_u64(&shared->opened_at[slot])) {
		ereport(ERROR, (errcode(AIPG_ERRCODE_STALE_MAP),
						errmsg("slot %u has come to this server after the snapshot was taken", slot),
						errhint("Repeat the transaction.")));
	}
}

bool aipg_slots_has(uint32 slot, const aipg_view *view) {
	if (scanned != NULL && !aidb_slot_set_has(scanned, slot)) {
		return false;
	}
	check_view(slot, view);
	return true;
}

void aipg_slots_to_scan(aidb_slot_set *slots, const aipg_view *view) {
	if (scanned == NULL) {
		*slots = aipg_slots_closed();
		for (uint32 i = 0; i < AIDB_SLOT_WORDS; i++) {
			slots->words[i] = ~slots->words[i];
		}
	} else {
		*slots = *scanned;
	}
	for (uint32 slot = 0; slot < AIDB_SLOTS; slot++) {
		if (aidb_slot_set_has(slots, slot)) {
			check_view(slot, view);
		}
	}
}

static LOCKTAG lock_tag(uint32 number) {
	LOCKTAG tag;

	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, 0, number, LOCK_CLASS);
	return tag;
}

#define MOVING_LOCK 1 /* in common by who writes to slots that are moved; alone by who holds them */
#define CHANGE_LOCK 2 /* by who closes or opens slots */

void aipg_slots_check_key(aidb_slice key, const aipg_view *view) {
	uint32 slot;

	if (aidb_slot_of_stored_key(key.data, key.size, &slot)) {
		check_view(slot, view);
	}
}

void aipg_slots_enter(aidb_slice key) {
	uint32 slot;

	if (!aidb_slot_of_stored_key(key.data, key.size, &slot)) {
		return;
	}
	if (has(&shared->moving, slot)) {
		LOCKTAG tag = lock_tag(MOVING_LOCK);

		(void)LockAcquire(&tag, ShareLock, false, false);
	}
	pg_read_barrier(); /* who moves a slot closes it first, and then lets go of it */
	check(slot);
}

/* ---- The row --------------------------------------------------------------------------------------------- */

static aidb_slice row_key(void) {
	StringInfo key = makeStringInfo();

	aipg_key_start(key, 0, AIPG_INDEX_SLOTS);
	return (aidb_slice){key->data, (size_t)key->len};
}

bool aipg_slots_is_row(aidb_slice key) {
	return key.size == AIPG_KEY_PREFIX_BYTES && aipg_key_index_id(key) == AIPG_INDEX_SLOTS;
}

static aidb_slot_set decode(aidb_slice value) {
	aidb_slot_set set;

	if (value.size != VALUE_BYTES || ((const uint8 *)value.data)[0] != VERSION) {
		ereport(ERROR, (errcode(ERRCODE_DATA_CORRUPTED), errmsg("malformed set of closed slots in the AiDb store"),
						errhint("Restore the store from a backup, or let the server follow its primary anew.")));
	}
	aidb_slot_set_unpack((const uint8 *)value.data + 1, &set);
	return set;
}

/* What was closed and is so no more has all its rows from here on. */
static void set_closed(aidb_db *db, const aidb_slot_set *set) {
	uint64 sequence = aidb_current_sequence(db);

	for (uint32 slot = 0; slot < AIDB_SLOTS; slot++) {
		if (has(&shared->closed, slot) && !aidb_slot_set_has(set, slot)) {
			pg_atomic_write_u64(&shared->opened_at[slot], sequence);
		}
	}
	pg_write_barrier();
	assign(&shared->closed, set);
}

static void load(aidb_db *db) {
	aidb_buffer *value = aipg_buffer_create();
	aidb_slot_set set = {{0}};
	aidb_status rc = aidb_get(db, NULL, row_key(), value, NULL);

	if (rc == AIDB_OK) {
		set = decode((aidb_slice){value->data, value->size});
	} else if (rc != AIDB_NOT_FOUND) {
		aipg_raise(rc, "could not read which slots are closed");
	}
	set_closed(db, &set);
}

void aipg_slots_start(aidb_db *db) {
	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	if (!shared->loaded) {
		load(db);
		shared->loaded = true;
	}
	LWLockRelease(AddinShmemInitLock);
}

void aipg_slots_show(void) {
	load(aipg_store());
}

void aipg_slots_note(aidb_slice value) {
	aidb_slot_set set = decode(value);

	for (uint32 i = 0; i < AIDB_SLOT_WORDS; i++) {
		pg_atomic_fetch_or_u64(&shared->closed.words[i], set.words[i]);
	}
}

static void write_row(const aidb_slot_set *set) {
	uint8 bytes[VALUE_BYTES] = {VERSION};
	aidb_write_options options = {.durability = AIDB_SYNC};
	aidb_status rc;

	aidb_slot_set_pack(set, bytes + 1);
	do {
		CHECK_FOR_INTERRUPTS();
		rc = aidb_put(aipg_store(), &options, row_key(), (aidb_slice){bytes, sizeof(bytes)});
	} while (rc == AIDB_INTERRUPTED);
	if (rc != AIDB_OK) {
		aipg_raise(rc, "could not write which slots are closed");
	}
}

void aipg_slots_forget(void) {
	aidb_slot_set none = {{0}};

	write_row(&none);
	assign(&shared->closed, &none);
}

static void change(const aidb_slot_set *close, const aidb_slot_set *open) {
	LOCKTAG tag = lock_tag(CHANGE_LOCK);
	aidb_slot_set before, set;

	(void)LockAcquire(&tag, ExclusiveLock, false, false);
	before = set = aipg_slots_closed();
	for (uint32 i = 0; i < AIDB_SLOT_WORDS; i++) {
		set.words[i] = (set.words[i] | close->words[i]) & ~open->words[i];
	}
	if (memcmp(&before, &set, sizeof(set)) != 0) {
		write_row(&set);
		set_closed(aipg_store(), &set);
	}
}

void aipg_slots_close(const aidb_slot_set *slots) {
	aidb_slot_set none = {{0}};

	change(slots, &none);
}

void aipg_slots_open(const aidb_slot_set *slots) {
	aidb_slot_set none = {{0}};

	change(&none, slots);
}

void aipg_slots_keep(const aidb_slot_set *slots) {
	aidb_slot_set all;

	memset(&all, 0xFF, sizeof(all));
	change(&all, slots);
}

/* ---- Moving ---------------------------------------------------------------------------------------------- */

static void leave(int code, Datum argument) {
	aidb_slot_set none = {{0}};

	(void)code;
	(void)argument;
	if (pg_atomic_read_u32(&shared->mover) == (uint32)MyProcPid) { /* the lock goes with the session */
		assign(&shared->moving, &none);
		pg_atomic_write_u32(&shared->mover, 0);
	}
}

/* Those that have not written anything have no number that others could wait for, but they may yet write. */
static void wait_for_transactions(void) {
	int count;
	VirtualTransactionId *running =
		GetCurrentVirtualXIDs(InvalidTransactionId, false, false, PROC_IS_AUTOVACUUM | PROC_IN_VACUUM, &count);

	for (int i = 0; i < count; i++) {
		(void)VirtualXactLock(running[i], true);
	}
	aipg_stream_wait_for_running(); /* and for those that are prepared */
}

void aipg_slots_mark(const aidb_slot_set *slots) {
	uint32 none = 0;

	if (!pg_atomic_compare_exchange_u32(&shared->mover, &none, (uint32)MyProcPid) && none != (uint32)MyProcPid) {
		ereport(ERROR, (errcode(ERRCODE_OBJECT_IN_USE), errmsg("slots of this server are being moved already"),
						errdetail("Process %u does it.", none)));
	}
	if (!leaves_at_exit) {
		before_shmem_exit(leave, (Datum)0);
		leaves_at_exit = true;
	}
	assign(&shared->moving, slots);
	pg_memory_barrier();
	wait_for_transactions();
}

void aipg_slots_hold(void) {
	LOCKTAG tag = lock_tag(MOVING_LOCK);

	if (pg_atomic_read_u32(&shared->mover) != (uint32)MyProcPid) {
		ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE), errmsg("this session moves no slots")));
	}
	if (!is_holding) {
		(void)LockAcquire(&tag, ExclusiveLock, true, false);
		is_holding = true;
	}
}

void aipg_slots_release(void) {
	LOCKTAG tag = lock_tag(MOVING_LOCK);

	leave(0, (Datum)0);
	if (is_holding) {
		is_holding = false;
		(void)LockRelease(&tag, ExclusiveLock, true);
	}
}
