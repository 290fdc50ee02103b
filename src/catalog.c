#include "catalog.h"

#include "access.h"
#include "access/xact.h"
#include "catalog/pg_extension.h"
#include "common/hashfn.h"
#include "ddl_log.h"
#include "key_codec.h"
#include "latest.h"
#include "miscadmin.h"
#include "placement/slot.h"
#include "port/pg_bswap.h"
#include "predicate.h"
#include "role.h"
#include "storage/ipc.h"
#include "storage/lmgr.h"
#include "storage/lwlock.h"
#include "storage/proc.h"
#include "storage/shmem.h"
#include "transaction.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

#define INDEX_DROPPED 2
#define INDEX_COUNTER 4

#define ROW_VERSION 1
#define VALUE_BYTES 5 /* version and index id */

#define ID_BLOCK 64               /* ids taken from the counter at once: one write for so many tables */
#define PURGE_BATCH_ROWS 1000     /* rows of a commit of the purge */
#define PURGE_BATCH_BYTES 0x40000 /* and its bytes, where the store accepts that much */
#define CATALOG_LOCK "aidb_catalog"
#define PURGE_LOCK 1 /* names of key spaces are locked with 0 */

/* What all backends know of the counter; under the tranche's lock. A restart forgets the rest of a block. */
typedef struct id_source {
	uint32 next;  /* the next id to give out */
	uint32 limit; /* the first that the counter's row does not cover; next == limit: none left */
} id_source;

static id_source *ids;
static uint32 given_id = 0;         /* for the next table or key space; 0: none */
static LocalTransactionId given_in; /* the transaction that it was given to */

/* ---- Rows ----------------------------------------------------------------------------------------------- */

static aidb_slice slice_of(StringInfo bytes) {
	return (aidb_slice){bytes->data, (size_t)bytes->len};
}

static void append_uint32(StringInfo bytes, uint32 value) {
	value = pg_hton32(value);
	appendBinaryStringInfo(bytes, (const char *)&value, sizeof(value));
}

/* The key of a catalog row, or with no part behind the index id, the prefix of all. */
static StringInfo catalog_key(uint32 index_id) {
	StringInfo key = makeStringInfo();

	aipg_key_start(key, 0, index_id);
	return key;
}

static StringInfo catalog_key1(uint32 index_id, uint32 part) {
	StringInfo key = catalog_key(index_id);

	append_uint32(key, part);
	return key;
}

static StringInfo table_key(Oid database, Oid relid) {
	StringInfo key = catalog_key1(AIPG_INDEX_TABLES, database);

	append_uint32(key, relid);
	return key;
}

static StringInfo space_key(const char *name, size_t size) {
	StringInfo key = catalog_key1(AIPG_INDEX_SPACES, MyDatabaseId);

	appendBinaryStringInfo(key, name, (int)size);
	return key;
}

static void pg_attribute_noreturn() report_malformed(size_t size) {
	ereport(ERROR, (errcode(ERRCODE_DATA_CORRUPTED), errmsg("malformed row in the catalog of the AiDb store"),
					errdetail("A row of %zu bytes is not of a known version.", size),
					errhint("Restore the store from a backup.")));
}

static uint32 read_index_id(aidb_slice value) {
	uint32 index_id;

	if (value.size != VALUE_BYTES || *(const char *)value.data != ROW_VERSION) {
		report_malformed(value.size);
	}
	memcpy(&index_id, (const char *)value.data + 1, sizeof(index_id));
	return pg_ntoh32(index_id);
}

/* Points into `bytes`. */
static aidb_slice write_index_id(char bytes[VALUE_BYTES], uint32 index_id) {
	index_id = pg_hton32(index_id);
	bytes[0] = ROW_VERSION;
	memcpy(bytes + 1, &index_id, sizeof(index_id));
	return (aidb_slice){bytes, VALUE_BYTES};
}

static bool read_row(StringInfo key, uint32 *index_id) {
	aidb_buffer *value = aipg_buffer_create();

	if (!aipg_get_latest(slice_of(key), value)) {
		return false;
	}
	*index_id = read_index_id((aidb_slice){value->data, value->size});
	return true;
}

static void put_row(StringInfo key, uint32 index_id) {
	char bytes[VALUE_BYTES];

	aipg_put(slice_of(key), write_index_id(bytes, index_id));
}

static void queue_for_purge(uint32 index_id) {
	const char version = ROW_VERSION;

	aipg_put(slice_of(catalog_key1(INDEX_DROPPED, index_id)), (aidb_slice){&version, 1});
}

/* A cursor over the rows below a prefix as they are now: all that is committed, and own writes. */
static aipg_cursor *open_prefix(StringInfo prefix, const aipg_view *view) {
	StringInfo upper = makeStringInfo();
	bool bounded;

	appendBinaryStringInfo(upper, prefix->data, prefix->len);
	bounded = aipg_key_successor(upper);
	return aipg_cursor_open(view, slice_of(prefix), bounded ? slice_of(upper) : (aidb_slice){NULL, 0}, false);
}

/* ---- Index ids ------------------------------------------------------------------------------------------ */

void aipg_catalog_shmem_request(void) {
	RequestAddinShmemSpace(MAXALIGN(sizeof(id_source)));
	RequestNamedLWLockTranche(CATALOG_LOCK, 1);
}

void aipg_catalog_shmem_startup(void) {
	bool found;

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	ids = ShmemInitStruct("aidb catalog", sizeof(id_source), &found);
	if (!found) {
		*ids = (id_source){0, 0};
	}
	LWLockRelease(AddinShmemInitLock);
}

/* Reads the counter and moves it on by a block. The caller holds the lock; an error releases it. */
static void take_block(aidb_db *store, aidb_slice key) {
	aidb_write_options durable = {.durability = AIDB_SYNC, .state = AIDB_BATCH_PLAIN};
	aidb_buffer *value = aipg_buffer_create();
	char bytes[VALUE_BYTES];
	uint32 next = AIPG_FIRST_INDEX_ID;
	aidb_status status = aidb_get(store, NULL, key, value, NULL);

	if (status == AIDB_OK) {
		next = read_index_id((aidb_slice){value->data, value->size});
	} else if (status != AIDB_NOT_FOUND) {
		aipg_raise(status, _("could not read the catalog of the AiDb store"));
	}
	if (next > AIPG_FIRST_CLUSTER_ID - ID_BLOCK) {
		ereport(ERROR, (errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED), errmsg("out of AiDb index ids"),
						errdetail("CREATE and TRUNCATE have used up the 31-bit ids of this store."),
						errhint("Dump the AiDb tables and load them into a new store.")));
	}
	status = aidb_put(store, &durable, key, write_index_id(bytes, next + ID_BLOCK));
	if (status != AIDB_OK) {
		aipg_raise(status, _("could not reserve ids in the catalog of the AiDb store"));
	}
	*ids = (id_source){next, next + ID_BLOCK};
}

/* As from a sequence. */
uint32 aipg_catalog_new_id(void) {
	aidb_db *store = aipg_store();
	LWLock *lock = &GetNamedLWLockTranche(CATALOG_LOCK)->lock;
	aidb_slice key = slice_of(catalog_key(INDEX_COUNTER));
	uint32 index_id;

	LWLockAcquire(lock, LW_EXCLUSIVE);
	if (ids->next == ids->limit) {
		take_block(store, key);
	}
	index_id = ids->next++;
	LWLockRelease(lock);
	return index_id;
}

void aipg_catalog_give_id(uint32 index_id) {
	given_id = index_id;
	given_in = MyProc->lxid;
}

static void free_index_id(uint32 index_id);

static uint32 new_index_id(void) {
	uint32 index_id = given_in == MyProc->lxid ? given_id : 0;

	given_id = 0;
	if (index_id == 0) {
		return aipg_catalog_new_id();
	}
	if (index_id >= AIPG_FIRST_CLUSTER_ID && OidIsValid(aipg_catalog_find_table(index_id))) {
		ereport(ERROR, (errcode(ERRCODE_DUPLICATE_OBJECT), errmsg("index id %u is in use", index_id),
						errdetail("It was given to table \"%s\".", get_rel_name(aipg_catalog_find_table(index_id)))));
	}
	free_index_id(index_id);
	return index_id;
}

/* ---- Tables --------------------------------------------------------------------------------------------- */

bool aipg_catalog_lookup(Oid relid, uint32 *index_id) {
	return read_row(table_key(MyDatabaseId, relid), index_id);
}

/* The relation's row has changed: makes this backend, and at commit all others, read it again. */
static void announce(Oid relid) {
	CacheInvalidateRelcacheByRelid(relid);
	CommandCounterIncrement();
}

void aipg_catalog_create(Oid relid) {
	put_row(table_key(MyDatabaseId, relid), new_index_id());
	announce(relid); /* its definition is logged by who knows the statement */
}

void aipg_catalog_truncate(Oid relid) {
	StringInfo key = table_key(MyDatabaseId, relid);
	uint32 index_id = new_index_id();
	uint32 old;

	aipg_predicate_check_truncate(relid);
	if (read_row(key, &old)) {
		queue_for_purge(old);
		aipg_ddl_log_add(&(aipg_change){.kind = AIPG_CHANGE_TRUNCATE, .index_id = index_id, .former = old});
	}
	put_row(key, index_id);
	announce(relid);
}

void aipg_catalog_drop(Oid relid) {
	StringInfo key = table_key(MyDatabaseId, relid);
	uint32 old;

	if (read_row(key, &old)) {
		queue_for_purge(old);
		aipg_remove(slice_of(key));
		aipg_ddl_log_add(&(aipg_change){.kind = AIPG_CHANGE_DROP, .index_id = old});
	}
}

/* ---- Key spaces ----------------------------------------------------------------------------------------- */

bool aipg_catalog_find_space(const char *name, size_t size, uint32 *index_id) {
	StringInfo key = space_key(name, size);

	if (!read_row(key, index_id)) {
		aipg_predicate_note_read(AIPG_KEY_SPACES, slice_of(key)); /* that it is not there is an answer, too */
		return false;
	}
	return true;
}

uint32 aipg_catalog_make_space(const char *name, size_t size) {
	StringInfo key = space_key(name, size);
	uint32 index_id;

	if (read_row(key, &index_id)) {
		return index_id;
	}
	/* Two transactions must not both make it: the second would hide the first one's rows. */
	LockDatabaseObject(ExtensionRelationId, hash_bytes((const unsigned char *)name, (int)size), 0, ExclusiveLock);
	aipg_wait_for_unreplicated();
	if (!read_row(key, &index_id)) {
		index_id = new_index_id();
		put_row(key, index_id);
		aipg_ddl_log_add(&(aipg_change){
			.kind = AIPG_CHANGE_SPACE, .index_id = index_id, .name = pnstrdup(name, size), .search_path = ""});
	}
	return index_id;
}

/* ---- Databases ------------------------------------------------------------------------------------------ */

/* What one row says, copied, so that its cursor can be closed before the row is written. */
typedef struct catalog_row {
	aidb_slice key;
	uint32 index_id;
} catalog_row;

static List *collect_below(StringInfo prefix) {
	List *rows = NIL;
	aipg_view view = aipg_latest_begin();
	aipg_cursor *cursor;
	aidb_slice key, value;

	cursor = open_prefix(prefix, &view);
	while (aipg_cursor_next(cursor, &key, &value)) {
		catalog_row *row = palloc(sizeof(catalog_row));

		row->key = (aidb_slice){memcpy(palloc(key.size), key.data, key.size), key.size};
		row->index_id = read_index_id(value);
		rows = lappend(rows, row);
	}
	aipg_cursor_close(cursor);
	aipg_latest_end();
	return rows;
}

/* Queues the index ids of all rows below the prefix and removes the rows. */
static void drop_below(StringInfo prefix) {
	ListCell *cell;

	foreach(cell, collect_below(prefix)) {
		const catalog_row *row = lfirst(cell);

		queue_for_purge(row->index_id);
		aipg_remove(row->key);
	}
}

void aipg_catalog_drop_spaces(void) {
	drop_below(catalog_key1(AIPG_INDEX_SPACES, MyDatabaseId));
}

/* The table whose row the key is of. */
static Oid relation_of(aidb_slice key) {
	Oid relid;

	if (key.size != AIPG_KEY_PREFIX_BYTES + 2 * sizeof(relid)) {
		report_malformed(key.size);
	}
	memcpy(&relid, (const char *)key.data + AIPG_KEY_PREFIX_BYTES + sizeof(relid), sizeof(relid));
	return pg_ntoh32(relid);
}

Oid aipg_catalog_find_table(uint32 index_id) {
	ListCell *cell;

	foreach(cell, collect_below(catalog_key1(AIPG_INDEX_TABLES, MyDatabaseId))) {
		const catalog_row *row = lfirst(cell);

		if (row->index_id == index_id) {
			return relation_of(row->key);
		}
	}
	return InvalidOid;
}

List *aipg_catalog_ids(void) {
	List *rows = list_concat(collect_below(catalog_key1(AIPG_INDEX_TABLES, MyDatabaseId)),
							 collect_below(catalog_key1(AIPG_INDEX_SPACES, MyDatabaseId)));
	List *index_ids = NIL;
	ListCell *cell;

	foreach(cell, rows) {
		index_ids = lappend_int(index_ids, (int)((const catalog_row *)lfirst(cell))->index_id);
	}
	return index_ids;
}

void aipg_catalog_drop_database(Oid database) {
	aipg_ddl_log_forget(database);
	drop_below(catalog_key1(AIPG_INDEX_TABLES, database));
	drop_below(catalog_key1(AIPG_INDEX_SPACES, database));
}

static bool any_below(StringInfo prefix) {
	aipg_view view;
	aipg_cursor *cursor;
	aidb_slice key, value;
	bool found;

	view = aipg_latest_begin();
	cursor = open_prefix(prefix, &view);
	found = aipg_cursor_next(cursor, &key, &value);
	aipg_cursor_close(cursor);
	aipg_latest_end();
	return found;
}

bool aipg_catalog_database_used(Oid database) {
	return any_below(catalog_key1(AIPG_INDEX_TABLES, database)) || any_below(catalog_key1(AIPG_INDEX_SPACES, database));
}

/* ---- Promotion ------------------------------------------------------------------------------------------ */

/* Of the ids that this store gives out itself. */
static uint32 higher(uint32 highest, uint32 index_id) {
	return index_id < AIPG_FIRST_CLUSTER_ID ? Max(highest, index_id) : highest;
}

/* The highest index id in the values of rows below the prefix. */
static uint32 highest_below(StringInfo prefix, uint32 highest) {
	ListCell *cell;

	foreach(cell, collect_below(prefix)) {
		highest = higher(highest, ((const catalog_row *)lfirst(cell))->index_id);
	}
	return highest;
}

/* The number at the end of the last key below the prefix. */
static uint32 last_number(uint32 index_id, uint32 highest) {
	aipg_view view = aipg_latest_begin();
	aipg_cursor *cursor = open_prefix(catalog_key(index_id), &view);
	aidb_slice key, value;
	uint32 number;

	while (aipg_cursor_next(cursor, &key, &value)) {
		memcpy(&number, (const char *)key.data + key.size - sizeof(number), sizeof(number));
		highest = higher(highest, pg_ntoh32(number));
	}
	aipg_cursor_close(cursor);
	aipg_latest_end();
	return highest;
}

void aipg_catalog_pass_ids(void) {
	LWLock *lock = &GetNamedLWLockTranche(CATALOG_LOCK)->lock;
	aidb_slice key = slice_of(catalog_key(INDEX_COUNTER));
	uint32 highest = highest_below(catalog_key(AIPG_INDEX_TABLES), highest_below(catalog_key(AIPG_INDEX_SPACES), 0));

	highest = last_number(AIPG_INDEX_DEFINITIONS, last_number(INDEX_DROPPED, highest));
	LWLockAcquire(lock, LW_EXCLUSIVE);
	do {
		take_block(aipg_store(), key);
	} while (ids->next <= highest);
	LWLockRelease(lock);
}

/* ---- Purging -------------------------------------------------------------------------------------------- */

static void destroy_batch(void *batch) {
	aidb_batch_destroy(batch);
}

/* A batch that is released with the current memory context. */
static aidb_batch *create_batch(void) {
	aidb_batch *batch = aidb_batch_create();
	MemoryContextCallback *callback = palloc(sizeof(MemoryContextCallback));

	if (batch == NULL) {
		ereport(ERROR, (errcode(ERRCODE_OUT_OF_MEMORY), errmsg("out of memory")));
	}
	callback->func = destroy_batch;
	callback->arg = batch;
	MemoryContextRegisterResetCallback(CurrentMemoryContext, callback);
	return batch;
}

/* Lazily: what a crash loses of it is done again, since the queue entry is later in the log. */
static void commit_batch(aidb_batch *batch) {
	aidb_write_options lazy = {.durability = AIDB_LAZY, .state = AIDB_BATCH_PLAIN};
	aidb_status status;

	do {
		CHECK_FOR_INTERRUPTS();
		status = aidb_write(aipg_store(), &lazy, batch, NULL);
	} while (status == AIDB_INTERRUPTED);
	if (status != AIDB_OK) {
		aipg_raise(status, _("could not remove rows of a dropped AiDb table"));
	}
	aidb_batch_clear(batch);
}

static void delete_in_batch(aidb_batch *batch, aidb_slice key, size_t max_bytes) {
	aidb_status status;

	if (aidb_batch_count(batch) >= PURGE_BATCH_ROWS || aidb_batch_bytes(batch) + AIDB_MAX_KEY_BYTES * 2 > max_bytes) {
		commit_batch(batch);
	}
	status = aidb_batch_delete(batch, key);
	if (status != AIDB_OK) {
		aipg_raise(status, _("could not remove rows of a dropped AiDb table"));
	}
}

/* Removes up to *limit rows of a dropped index in one slot, counting it down. */
static void purge_slot(const aipg_view *view, aidb_batch *batch, uint16 slot, uint32 index_id, int *limit) {
	size_t max_bytes = Min(aidb_max_batch_bytes(aipg_store()), PURGE_BATCH_BYTES);
	StringInfo prefix = makeStringInfo();
	aipg_cursor *cursor;
	aidb_slice key, value;

	aipg_key_start(prefix, slot, index_id);
	cursor = open_prefix(prefix, view);
	while (*limit > 0 && aipg_cursor_next(cursor, &key, &value)) {
		delete_in_batch(batch, key, max_bytes);
		(*limit)--;
	}
	aipg_cursor_close(cursor);
}

/* Removes up to *limit rows of a dropped index, which may have been sharded; then the queue's entry when none is left. */
static void purge_index(const aipg_view *view, aidb_batch *batch, aidb_slice entry, int *limit) {
	size_t max_bytes = Min(aidb_max_batch_bytes(aipg_store()), PURGE_BATCH_BYTES);
	uint32 index_id;

	if (entry.size != AIPG_KEY_PREFIX_BYTES + sizeof(index_id)) {
		report_malformed(entry.size);
	}
	memcpy(&index_id, (const char *)entry.data + AIPG_KEY_PREFIX_BYTES, sizeof(index_id));
	for (uint16 slot = 0; slot<AIDB_FIRST_STORED_SLOT + AIDB_SLOTS && * limit> 0; slot++) {
		purge_slot(view, batch, slot, pg_ntoh32(index_id), limit);
	}
	if (*limit > 0) {
		delete_in_batch(batch, entry, max_bytes);
	}
	if (aidb_batch_count(batch) > 0) {
		commit_batch(batch);
	}
}

/*
 * A table that was dropped here gets its number again: a group that has left a cluster and comes back. What was to be removed must
 * not be the new table's rows. A primary removes all that is left before; who applies what a primary has done has got these removals
 * by then, and may have rows of the new table.
 */
static void free_index_id(uint32 index_id) {
	aidb_slice entry = slice_of(catalog_key1(INDEX_DROPPED, index_id));

	if (!aipg_get_latest(entry, NULL)) {
		return;
	}
	LockDatabaseObject(ExtensionRelationId, InvalidOid, PURGE_LOCK, ExclusiveLock);
	if (!aipg_newest_committed(entry, NULL).found) {
		if (aipg_get_latest(entry, NULL)) {
			ereport(ERROR, (errcode(ERRCODE_OBJECT_IN_USE),
							errmsg("index id %u belongs to a table that this transaction has dropped", index_id),
							errhint("Create the table in another transaction.")));
		}
	} else if (!aipg_role_internal) {
		aidb_batch *batch = create_batch();
		aipg_view view = aipg_latest_begin();
		int limit = PG_INT32_MAX;

		purge_index(&view, batch, entry, &limit);
		aipg_latest_end();
	} else {
		aipg_remove(entry);
	}
}

bool aipg_catalog_purge(int limit) {
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "aidb purge", ALLOCSET_DEFAULT_SIZES);
	MemoryContext caller = MemoryContextSwitchTo(context);
	aidb_batch *batch = create_batch();
	aipg_view view;
	aipg_cursor *queue;
	aidb_slice entry, value;

	/* one at a time: a replica that is copied anew gives ids out again, once the rows that had them are gone */
	LockDatabaseObject(ExtensionRelationId, InvalidOid, PURGE_LOCK, ExclusiveLock);
	view = aipg_latest_begin();
	queue = open_prefix(catalog_key(INDEX_DROPPED), &view);
	while (limit > 0 && aipg_cursor_next(queue, &entry, &value)) {
		purge_index(&view, batch, entry, &limit);
	}
	aipg_cursor_close(queue);
	aipg_latest_end();
	MemoryContextSwitchTo(caller);
	MemoryContextDelete(context);
	return limit == 0;
}
