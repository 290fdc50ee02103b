#include "predicate.h"

#include "access/transam.h"
#include "access/xact.h"
#include "catalog.h"
#include "catalog/pg_class.h"
#include "common/hashfn.h"
#include "host.h"
#include "key_codec.h"
#include "miscadmin.h"
#include "port/pg_bswap.h"
#include "storage/predicate.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "write_cursor.h"

/* ---- Targets of locks ---------------------------------------------------------------------------------- */

/*
 * Blocks are the keys with a common beginning of so many bytes, keys that are shorter being filled up with zeroes. A range
 * takes the longest one by which it lies in few blocks. Behind the prefix with the index id, these are: an integer without
 * its last byte and with it, a bigint without and with it, 16 bytes (a uuid, two bigints). The first is for key spaces,
 * which have no relation of their own.
 */
static const uint8 block_bytes[] = {AIPG_KEY_PREFIX_BYTES,     AIPG_KEY_PREFIX_BYTES + 3, AIPG_KEY_PREFIX_BYTES + 4,
									AIPG_KEY_PREFIX_BYTES + 7, AIPG_KEY_PREFIX_BYTES + 8, AIPG_KEY_PREFIX_BYTES + 16};

#define MAX_BLOCK_BYTES (AIPG_KEY_PREFIX_BYTES + 16)
#define WHOLE_KEY 0 /* in place of a number of bytes */

/* More blocks than this are not locked one by one. PostgreSQL turns many locks of pages into one of their relation, too: see
 * its max_pred_locks_per_relation. */
#define MAX_BLOCKS_PER_RANGE 8

/*
 * PostgreSQL's functions look at a relation's id, database and persistence only. These are the same as in the entry that core
 * itself passes for a foreign table, whose database is not set.
 */
static Relation target_of(Oid relation) {
	static FormData_pg_class class = {.relpersistence = RELPERSISTENCE_PERMANENT};
	static RelationData target = {.rd_rel = &class};

	target.rd_id = OidIsValid(relation) ? relation : AIPG_KEY_SPACES;
	return &target;
}

/* The index id of a table changes with TRUNCATE and is left out: locks must stay good. */
static BlockNumber page_of(Oid relation, const void *bytes, size_t size, uint8 length) {
	size_t skipped = relation == AIPG_KEY_SPACES || !OidIsValid(relation) ? 0 : AIPG_KEY_PREFIX_BYTES;
	uint32 hash = hash_bytes((const unsigned char *)bytes + skipped, (int)(size - skipped));

	hash = hash_combine(hash, length);
	return hash == InvalidBlockNumber ? 0 : hash;
}

static void set_block(uint8 block[MAX_BLOCK_BYTES], aidb_slice key, size_t length) {
	memset(block, 0, MAX_BLOCK_BYTES);
	if (key.size > 0) {
		memcpy(block, key.data, Min(key.size, length));
	}
}

/* Whether block_bytes[] from this place on is of use for the relation. */
static bool has_blocks(Oid relation, size_t index) {
	return block_bytes[index] > AIPG_KEY_PREFIX_BYTES || relation == AIPG_KEY_SPACES || !OidIsValid(relation);
}

/* ---- Reading: locks ------------------------------------------------------------------------------------ */

static bool is_tracked(const aipg_view *view) {
	return IsolationIsSerializable() && OidIsValid(view->relation);
}

static void lock_key(Oid relation, aidb_slice key, Snapshot snapshot) {
	PredicateLockPage(target_of(relation), page_of(relation, key.data, key.size, WHOLE_KEY), snapshot);
}

static void step_block(uint8 *block, size_t length, int by) {
	while (length-- > 0) {
		uint8 before = block[length];

		block[length] = (uint8)(before + by);
		if (before != (by > 0 ? UINT8_MAX : 0)) {
			return;
		}
	}
}

/*
 * The first and the last block that keys of [lower, upper) lie in; false when they are too many. No key below an upper bound
 * that is not longer than blocks are lies in its block, unless the bound ends with a zero.
 */
static bool find_blocks(aidb_slice lower, aidb_slice upper, size_t length, uint8 first[MAX_BLOCK_BYTES],
						uint8 last[MAX_BLOCK_BYTES]) {
	uint8 block[MAX_BLOCK_BYTES];

	if (upper.data == NULL || upper.size == 0) {
		return false;
	}
	set_block(first, lower, length);
	set_block(last, upper, length);
	if (upper.size <= length && ((const uint8 *)upper.data)[upper.size - 1] != 0) {
		step_block(last, length, -1);
	}
	memcpy(block, first, MAX_BLOCK_BYTES);
	for (int count = 1; count < MAX_BLOCKS_PER_RANGE && memcmp(block, last, length) < 0; count++) {
		step_block(block, length, 1);
	}
	return memcmp(block, last, length) >= 0;
}

static void lock_range(Oid relation, aidb_slice lower, aidb_slice upper, Snapshot snapshot) {
	uint8 block[MAX_BLOCK_BYTES], last[MAX_BLOCK_BYTES];

	for (size_t index = lengthof(block_bytes); index-- > 0 && has_blocks(relation, index);) {
		size_t length = block_bytes[index];

		if (!find_blocks(lower, upper, length, block, last)) {
			continue;
		}
		for (; memcmp(block, last, length) <= 0; step_block(block, length, 1)) {
			PredicateLockPage(target_of(relation), page_of(relation, block, length, (uint8)length), snapshot);
		}
		return;
	}
	PredicateLockRelation(target_of(relation), snapshot);
}

/* ---- Reading: what is passed over ---------------------------------------------------------------------- */

/* The tags that the engine has told of and that have not been reported. */
static struct {
	aidb_tag *tags; /* malloc'd, kept for the next time */
	size_t count;
	size_t capacity;
	bool lost; /* there was no memory for some */
} passed;

/* Called by the engine: must not raise. */
static void note_unseen(void *unused, aidb_tag tag) {
	for (size_t i = passed.count; i-- > 0;) {
		if (passed.tags[i] == tag) {
			return;
		}
	}
	if (passed.count == passed.capacity) {
		size_t capacity = Max(2 * passed.capacity, 64);
		aidb_tag *tags = realloc(passed.tags, capacity * sizeof(*tags));

		if (tags == NULL) {
			passed.lost = true;
			return;
		}
		passed.tags = tags;
		passed.capacity = capacity;
	}
	passed.tags[passed.count++] = tag;
}

static void collect_into(aidb_read_options *options) {
	passed.count = 0;
	passed.lost = false;
	options->unseen = note_unseen;
}

/* Own versions may be among them. */
static void report_passed(Oid relation, Snapshot snapshot) {
	size_t count = passed.count;
	bool lost = passed.lost;

	passed.count = 0;
	passed.lost = false;
	if (lost) {
		ereport(ERROR, (errcode(ERRCODE_OUT_OF_MEMORY), errmsg("out of memory"),
						errdetail("Too many transactions have changed what was read.")));
	}
	for (size_t i = 0; i < count; i++) {
		TransactionId xid = XidFromFullTransactionId((FullTransactionId){.value = passed.tags[i]});

		CheckForSerializableConflictOut(target_of(relation), xid, snapshot);
	}
}

void aipg_predicate_read_key(const aipg_view *view, aidb_slice key, aidb_read_options *options) {
	if (is_tracked(view)) {
		lock_key(view->relation, key, view->snapshot);
		collect_into(options);
	}
}

void aipg_predicate_read_range(const aipg_view *view, aidb_slice lower, aidb_slice upper, aidb_read_options *options) {
	if (is_tracked(view)) {
		lock_range(view->relation, lower, upper, view->snapshot);
		collect_into(options);
	}
}

void aipg_predicate_check_reads(const aipg_view *view) {
	if (passed.count > 0 || passed.lost) {
		report_passed(view->relation, view->snapshot);
	}
}

/* Reads the key as the transaction's snapshot sees it, and collects. */
static void collect_key(Oid relation, aidb_slice key) {
	aipg_view view = aipg_view_of(GetTransactionSnapshot(), relation);
	aidb_read_options options = {
		.sequence = view.sequence, .tag_visible = aipg_tag_visible, .tag_argument = view.snapshot};
	aidb_status rc;

	collect_into(&options);
	rc = aidb_get(aipg_store(), &options, key, NULL, NULL);
	aipg_raise_deferred();
	if (rc != AIDB_OK && rc != AIDB_NOT_FOUND) {
		aipg_raise(rc, "could not read from the AiDb store");
	}
}

void aipg_predicate_note_read(Oid relation, aidb_slice key) {
	if (IsolationIsSerializable()) {
		lock_key(relation, key, GetTransactionSnapshot());
		collect_key(relation, key);
		report_passed(relation, GetTransactionSnapshot());
	}
}

/* ---- Writing ------------------------------------------------------------------------------------------- */

static void check_locks(Oid relation, aidb_slice key) {
	uint8 block[MAX_BLOCK_BYTES];

	CheckForSerializableConflictIn(target_of(relation), NULL, page_of(relation, key.data, key.size, WHOLE_KEY));
	for (size_t index = lengthof(block_bytes); index-- > 0 && has_blocks(relation, index);) {
		uint8 length = block_bytes[index];

		set_block(block, key, length);
		CheckForSerializableConflictIn(target_of(relation), NULL, page_of(relation, block, length, length));
	}
}

/*
 * Serializable snapshot isolation takes for granted that no two concurrent transactions write one key. UPDATE and DELETE see to
 * it by themselves, but not an INSERT of a key that another transaction has inserted and deleted again, nor a blind write.
 */
static void check_first_writer(Oid relation, aidb_slice key) {
	collect_key(relation, key);
	for (size_t i = 0; i < passed.count; i++) {
		bool committed = aipg_tag_committed(NULL, passed.tags[i]);

		aipg_raise_deferred();
		if (committed) {
			ereport(ERROR, (errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
							errmsg("could not serialize access due to concurrent update"),
							errhint("The transaction might succeed if retried.")));
		}
	}
	report_passed(relation, GetTransactionSnapshot());
}

/* Rows of the store's catalog are read as they are now, and are guarded by heavyweight locks. */
static bool is_catalog_row(aidb_slice key) {
	uint32 index_id;

	memcpy(&index_id, (const char *)key.data + AIPG_KEY_PREFIX_BYTES - sizeof(index_id), sizeof(index_id));
	return pg_ntoh32(index_id) < AIPG_FIRST_INDEX_ID;
}

void aipg_predicate_check_write(Oid relation, aidb_slice key) {
	if (IsolationIsSerializable() && !is_catalog_row(key)) {
		check_locks(relation, key);
	}
}

void aipg_predicate_check_duplicate(Oid relation, aidb_slice key) {
	if (IsolationIsSerializable()) {
		lock_key(relation, key, GetTransactionSnapshot());
		check_locks(relation, key);
		check_first_writer(relation, key);
	}
}

void aipg_predicate_check_truncate(Oid relation) {
	if (IsolationIsSerializable()) {
		CheckTableForSerializableConflictIn(target_of(relation));
	}
}

static void check_all_locks(const aipg_write_set *writes) {
	aipg_write_cursor *cursor = aipg_write_cursor_open_all(writes);

	for (const aipg_write *write; (write = aipg_write_cursor_next(cursor)) != NULL;) {
		CHECK_FOR_INTERRUPTS();
		check_locks(write->facts.relation, write->key);
	}
	aipg_write_cursor_close(cursor);
}

static void check_first_writers(const aipg_write_set *writes) {
	aipg_write_cursor *cursor = aipg_write_cursor_open_all(writes);

	for (const aipg_write *write; (write = aipg_write_cursor_next(cursor)) != NULL;) {
		CHECK_FOR_INTERRUPTS();
		if (!is_catalog_row(write->key)) {
			check_first_writer(write->facts.relation, write->key);
		}
	}
	aipg_write_cursor_close(cursor);
}

void aipg_predicate_before_prepare(const aipg_write_set *writes) {
	if (!IsolationIsSerializable()) {
		return;
	}
	check_all_locks(writes); /* once more later; but what fails should do so before it is written and synced */
	check_first_writers(writes);
	aipg_fault_point("precommit_predicates_checked");
}

void aipg_predicate_after_prepare(const aipg_write_set *writes) {
	if (IsolationIsSerializable()) {
		check_all_locks(writes);
	}
}

void aipg_predicate_committed(void) {
	ReleasePredicateLocks(true, false);
}
