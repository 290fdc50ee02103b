#include "access.h"

#include "access/xact.h"
#include "host.h"
#include "key_codec.h"
#include "miscadmin.h"
#include "predicate.h"
#include "role.h"
#include "row_codec.h"
#include "row_lock.h"
#include "transaction.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "view.h"
#include "write_cursor.h"

/* ---- Buffers ------------------------------------------------------------------------------------------- */

typedef struct owned_buffer {
	aidb_buffer buffer;
	MemoryContextCallback callback;
} owned_buffer;

static void free_buffer(void *buffer) {
	aidb_buffer_free(buffer);
}

aidb_buffer *aipg_buffer_create(void) {
	owned_buffer *owned = palloc0(sizeof(*owned));

	owned->callback = (MemoryContextCallback){.func = free_buffer, .arg = &owned->buffer};
	MemoryContextRegisterResetCallback(CurrentMemoryContext, &owned->callback);
	return &owned->buffer;
}

static void set_buffer(aidb_buffer *buffer, const aipg_write *write) {
	if (buffer != NULL && aidb_buffer_set(buffer, write->value) != AIDB_OK) {
		aipg_raise(AIDB_NO_MEMORY, "could not read from the AiDb store");
	}
}

/* ---- Rows elsewhere ------------------------------------------------------------------------------------- */

const aipg_row_source *aipg_row_source_elsewhere = NULL;

static bool is_elsewhere(aidb_slice key) {
	return aipg_role_now() == AIPG_CACHE && !aipg_role_internal && key.size >= AIPG_KEY_PREFIX_BYTES &&
		   aipg_key_index_id(key) >= AIPG_FIRST_INDEX_ID;
}

/* ---- Point reads --------------------------------------------------------------------------------------- */

static aidb_read_options read_options(const aipg_view *view) {
	return (aidb_read_options){
		.sequence = view->sequence, .tag_visible = aipg_tag_visible, .tag_argument = view->snapshot};
}

/* The newest own write to a key of a command below `below`. */
static bool find_own(aidb_slice key, CommandId below, aipg_write *own) {
	aipg_write_set *writes = aipg_transaction_writes();

	return writes != NULL && aipg_write_set_find(writes, key, below, own);
}

static bool newest_own(aidb_slice key, aipg_write *own) {
	return find_own(key, AIPG_ALL_COMMANDS, own);
}

bool aipg_get(const aipg_view *view, aidb_slice key, aidb_buffer *value) {
	aidb_read_options options = read_options(view);
	aipg_write own;
	aidb_status rc;

	if (find_own(key, view->command, &own)) {
		if (!own.is_delete) {
			set_buffer(value, &own);
		}
		return !own.is_delete;
	}
	if (is_elsewhere(key)) {
		return aipg_row_source_elsewhere->get(key, value);
	}
	aipg_predicate_read_key(view, key, &options);
	rc = aidb_get(aipg_store(), &options, key, value, NULL);
	aipg_raise_deferred();
	aipg_predicate_check_reads(view);
	if (rc != AIDB_OK && rc != AIDB_NOT_FOUND) {
		aipg_raise(rc, "could not read from the AiDb store");
	}
	return rc == AIDB_OK;
}

bool aipg_get_latest(aidb_slice key, aidb_buffer *value) {
	aipg_write own;

	if (!newest_own(key, &own)) {
		return aipg_newest_committed(key, value).found;
	}
	if (!own.is_delete) {
		set_buffer(value, &own);
	}
	return !own.is_delete;
}

/* ---- Cursors ------------------------------------------------------------------------------------------- */

/*
 * Two sorted runs, merged: the store's rows and the transaction's own writes. Writes of the view's command and later ones
 * are not seen, so that nothing the cursor has to see is added while it is open.
 */
struct aipg_cursor {
	aipg_view view;
	aidb_slice lower;
	aidb_slice upper;
	bool backwards;
	bool started;
	void *elsewhere; /* NULL: the rows are here */
	bool of_keys;    /* then */
	aidb_iterator *stored;
	bool stored_used;           /* the iterator stands on a row that has been handed out or passed over */
	aipg_write_cursor *written; /* NULL: there are no own writes */
	const aipg_write *own;      /* the next of them; NULL: none */
	bool own_used;              /* it has been handed out or passed over */
	MemoryContextCallback callback;
};

static void free_cursor(void *argument) {
	aipg_cursor *cursor = argument;

	aidb_iterator_destroy(cursor->stored);
	cursor->stored = NULL;
}

static aidb_slice copy_slice(aidb_slice slice) {
	char *copy;

	if (slice.data == NULL) {
		return slice;
	}
	copy = palloc(slice.size + 1);
	memcpy(copy, slice.data, slice.size);
	return (aidb_slice){copy, slice.size};
}

aipg_cursor *aipg_cursor_open(const aipg_view *view, aidb_slice lower, aidb_slice upper, bool backwards) {
	aipg_cursor *cursor = palloc0(sizeof(*cursor));
	aidb_db *db = aipg_store();
	aidb_read_options options;
	aidb_status rc;

	cursor->view = *view;
	cursor->lower = copy_slice(lower);
	cursor->upper = copy_slice(upper);
	cursor->backwards = backwards;
	if (is_elsewhere(lower)) {
		cursor->elsewhere = aipg_row_source_elsewhere->open(lower, upper, backwards);
		return cursor;
	}
	if (aipg_transaction_writes() != NULL) {
		cursor->written =
			aipg_write_cursor_open(aipg_transaction_writes(), cursor->lower, cursor->upper, backwards, view->command);
		cursor->own_used = true;
	}
	options = read_options(view);
	options.lower = cursor->lower;
	options.upper = cursor->upper;
	aipg_predicate_read_range(view, lower, upper, &options);
	rc = aidb_iterator_create(db, &options, &cursor->stored);
	if (rc != AIDB_OK) {
		aipg_raise(rc, "could not scan the AiDb store");
	}
	cursor->callback = (MemoryContextCallback){.func = free_cursor, .arg = cursor};
	MemoryContextRegisterResetCallback(CurrentMemoryContext, &cursor->callback);
	return cursor;
}

aipg_cursor *aipg_cursor_open_keys(const aidb_slice *keys, int count) {
	aipg_cursor *cursor;

	if (count == 0 || !is_elsewhere(keys[0])) {
		return NULL;
	}
	cursor = palloc0(sizeof(*cursor));
	cursor->of_keys = true;
	cursor->elsewhere = aipg_row_source_elsewhere->open_keys(keys, count);
	return cursor;
}

void aipg_cursor_close(aipg_cursor *cursor) {
	if (cursor->of_keys) {
		aipg_row_source_elsewhere->close_keys(cursor->elsewhere);
	} else if (cursor->elsewhere != NULL) {
		aipg_row_source_elsewhere->close(cursor->elsewhere);
	} else {
		free_cursor(cursor);
	}
}

static void start(aipg_cursor *cursor) {
	cursor->started = true;
	if (cursor->backwards) {
		aidb_iterator_seek_last(cursor->stored);
	} else {
		aidb_iterator_seek_first(cursor->stored);
	}
}

static void advance_own(aipg_cursor *cursor) {
	if (cursor->own_used) {
		cursor->own = aipg_write_cursor_next(cursor->written);
		cursor->own_used = false;
	}
}

static void check_stored(aipg_cursor *cursor) {
	aipg_raise_deferred();
	aipg_predicate_check_reads(&cursor->view);
	if (!aidb_iterator_valid(cursor->stored) && aidb_iterator_status(cursor->stored) != AIDB_OK) {
		aipg_raise(aidb_iterator_status(cursor->stored), "could not scan the AiDb store");
	}
}

static void advance_stored(aipg_cursor *cursor) {
	if (cursor->stored_used && aidb_iterator_valid(cursor->stored)) {
		if (cursor->backwards) {
			aidb_iterator_prev(cursor->stored);
		} else {
			aidb_iterator_next(cursor->stored);
		}
	}
	cursor->stored_used = false;
	check_stored(cursor);
}

/* Negative: the stored row comes first; positive: the own one; 0: both are there, for one key. */
static int which_first(const aipg_cursor *cursor) {
	int order;

	if (cursor->own == NULL) {
		return -1;
	}
	if (!aidb_iterator_valid(cursor->stored)) {
		return 1;
	}
	order = aipg_compare_keys(aidb_iterator_key(cursor->stored), cursor->own->key);
	return cursor->backwards ? -order : order;
}

bool aipg_cursor_next(aipg_cursor *cursor, aidb_slice *key, aidb_slice *value) {
	if (cursor->of_keys) {
		return aipg_row_source_elsewhere->next_of_keys(cursor->elsewhere, key, value);
	}
	if (cursor->elsewhere != NULL) {
		return aipg_row_source_elsewhere->next(cursor->elsewhere, key, value);
	}
	if (!cursor->started) {
		start(cursor);
	}
	for (;;) {
		int first;

		advance_stored(cursor);
		advance_own(cursor);
		if (cursor->own == NULL && !aidb_iterator_valid(cursor->stored)) {
			return false;
		}
		first = which_first(cursor);
		if (first <= 0) {
			cursor->stored_used = true;
		}
		if (first < 0) {
			*key = aidb_iterator_key(cursor->stored);
			*value = aidb_iterator_value(cursor->stored);
			return true;
		}
		cursor->own_used = true;
		if (!cursor->own->is_delete) {
			*key = cursor->own->key;
			*value = cursor->own->value;
			return true;
		}
	}
}

/* ---- Locking ------------------------------------------------------------------------------------------- */

static bool is_newer_than(const aipg_newest *newest, const aipg_view *view) {
	bool newer =
		newest->version > view->sequence || (newest->tag != 0 && !aipg_tag_visible(view->snapshot, newest->tag));

	aipg_raise_deferred();
	return newer;
}

static void refuse_newer(const char *what) {
	if (IsolationUsesXactSnapshot()) {
		ereport(ERROR, (errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
						errmsg("could not serialize access due to concurrent %s", what),
						errhint("The transaction might succeed if retried.")));
	}
}

static aidb_slice contents(const aidb_buffer *buffer) {
	return (aidb_slice){buffer->data, buffer->size};
}

/*
 * The deletion of a row that has got another key bears a note: the incarnation of the row (u64, in the machine's byte
 * order), then the one that it has under the new key, and that key. A row that is AIPG_INCARNATION_AFTER_MOVE leaves the
 * first part when it is deleted, so that whoever looks for the row that was moved is not told that it was deleted.
 */
typedef struct deletion_note {
	uint64 before;
	uint64 after;
	aidb_slice key; /* empty: the row was deleted */
} deletion_note;

static deletion_note read_note(aidb_slice bytes) {
	deletion_note note = {0};
	const char *at = bytes.data;

	if (bytes.size != sizeof(note.before) &&
		bytes.size < sizeof(note.before) + sizeof(note.after) + AIPG_KEY_PREFIX_BYTES) {
		ereport(ERROR, (errcode(ERRCODE_DATA_CORRUPTED), errmsg("malformed deletion in the AiDb store")));
	}
	memcpy(&note.before, at, sizeof(note.before));
	if (bytes.size > sizeof(note.before)) {
		memcpy(&note.after, at + sizeof(note.before), sizeof(note.after));
		note.key.data = at + sizeof(note.before) + sizeof(note.after);
		note.key.size = bytes.size - sizeof(note.before) - sizeof(note.after);
	}
	return note;
}

/* Points into `bytes`. */
static aidb_slice write_note(char bytes[2 * sizeof(uint64) + AIDB_MAX_KEY_BYTES], const deletion_note *note) {
	memcpy(bytes, &note->before, sizeof(note->before));
	if (note->key.size == 0) {
		return (aidb_slice){bytes, sizeof(note->before)};
	}
	memcpy(bytes + sizeof(note->before), &note->after, sizeof(note->after));
	memcpy(bytes + sizeof(note->before) + sizeof(note->after), note->key.data, note->key.size);
	return (aidb_slice){bytes, sizeof(note->before) + sizeof(note->after) + note->key.size};
}

/* A row that is locked, and what is known of the one that the view saw. */
typedef struct locked_row {
	const aipg_view *view;
	LockTupleMode mode;
	aidb_buffer *current;
	bool waited;   /* for its lock */
	bool followed; /* it was found by a note */
	uint64 incarnation;
	StringInfo moved;
} locked_row;

/* The incarnation of what the view sees under the key, read into *seen. False when it sees nothing. */
static bool see_incarnation(const locked_row *row, aidb_slice key, aidb_buffer *seen, uint64 *incarnation) {
	if (row->followed) {
		*incarnation = row->incarnation;
		return true;
	}
	if (!aipg_get(row->view, key, seen)) {
		return false;
	}
	*incarnation = aipg_row_incarnation(contents(seen));
	return true;
}

/* Another row has the key now. */
static aipg_row_state judge_other(uint64 incarnation) {
	if ((incarnation & AIPG_INCARNATION_AFTER_MOVE) != 0) {
		ereport(ERROR, (errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
						errmsg("could not serialize access due to concurrent update"),
						errdetail("The row has got another key meanwhile, and another row has got its key."),
						errhint("The transaction might succeed if retried.")));
	}
	refuse_newer("delete");
	return AIPG_ROW_GONE;
}

/* The row has been committed after the view. Is it the one that the view sees? */
static aipg_row_state judge_newer(locked_row *row, aidb_slice key) {
	static aidb_buffer seen; /* kept for the next one */
	uint64 now = aipg_row_incarnation(contents(row->current));
	aipg_row_state state = AIPG_ROW_NEWER;
	uint64 before = 0;

	if (!see_incarnation(row, key, &seen, &before) || before != now) {
		state = judge_other(now);
	} else if (row->mode == LockTupleKeyShare && !row->followed && !row->waited) {
		state = AIPG_ROW_SAME;
		if (aidb_buffer_set(row->current, contents(&seen)) != AIDB_OK) {
			aipg_raise(AIDB_NO_MEMORY, "could not read from the AiDb store");
		}
	} else {
		refuse_newer("update");
	}
	return state;
}

/* The newest version is a deletion with the note in row->current. *again: the row is to be looked for under its new key. */
static aipg_row_state judge_note(locked_row *row, aidb_slice key, bool *again) {
	deletion_note note = read_note(contents(row->current));
	static aidb_buffer seen; /* kept for the next one */
	uint64 before = 0;

	if (!see_incarnation(row, key, &seen, &before) || before != note.before) {
		return judge_other(note.before);
	}
	*again = note.key.size > 0;
	refuse_newer(*again ? "update" : "delete");
	if (*again) {
		row->incarnation = note.after;
		row->followed = true;
		resetStringInfo(row->moved);
		appendBinaryStringInfo(row->moved, note.key.data, (int)note.key.size);
	}
	return AIPG_ROW_GONE;
}

/* What has become of a row that another transaction may have changed. *again: it is to be looked for under its new key. */
static aipg_row_state judge_committed(locked_row *row, aidb_slice key, bool *again) {
	aipg_newest newest;

	row->current->size = 0;
	newest = aipg_newest_committed(key, row->current);
	if (!newest.found && row->current->size > 0) {
		return judge_note(row, key, again);
	}
	if (!newest.found) {
		refuse_newer("delete");
		return AIPG_ROW_GONE;
	}
	return row->followed || is_newer_than(&newest, row->view) ? judge_newer(row, key) : AIPG_ROW_SAME;
}

static aipg_row_state judge_own(const aipg_view *view, const aipg_write *own, aidb_buffer *current) {
	if (own->command >= view->command) {
		return own->command > view->command ? AIPG_ROW_TRIGGER_MODIFIED : AIPG_ROW_SELF_MODIFIED;
	}
	if (own->is_delete) {
		return AIPG_ROW_GONE;
	}
	set_buffer(current, own);
	return AIPG_ROW_SAME;
}

/* One key of those that a row is looked for under. */
typedef struct locked_key {
	locked_row *row;
	aidb_slice key;
	bool gone;  /* there is no row to be locked any more */
	bool again; /* it is to be looked for under another key */
} locked_key;

/* Who would have to wait need not when the row has gone already, or is too new. */
static bool has_gone(void *argument) {
	locked_key *wanted = argument;

	wanted->gone = judge_committed(wanted->row, wanted->key, &wanted->again) == AIPG_ROW_GONE;
	wanted->row->waited = true;
	return wanted->gone;
}

/* Locks the key, and judges the row under it unless it is the transaction's own. */
static aipg_row_state lock_key(locked_key *wanted, Oid relation, LockWaitPolicy policy) {
	locked_row *row = wanted->row;
	aipg_write own;
	bool is_own = newest_own(wanted->key, &own);
	aipg_row_state state = AIPG_ROW_SAME;
	aipg_row_lock lock;

	if (is_own) {
		state = row->followed ? AIPG_ROW_GONE : judge_own(row->view, &own, row->current);
	}
	if (state != AIPG_ROW_SAME) {
		return state;
	}
	if (!aipg_row_lock_try(relation, wanted->key, row->mode, policy, is_own ? NULL : has_gone, wanted, &lock)) {
		return wanted->gone ? AIPG_ROW_GONE : AIPG_ROW_BUSY;
	}
	aipg_fault_point("row_locked");
	if (!is_own) {
		state = judge_committed(row, wanted->key, &wanted->again);
	}
	if (state == AIPG_ROW_GONE) {
		aipg_row_lock_undo(&lock);
	} else {
		aipg_row_lock_confirm(&lock);
	}
	return state;
}

bool aipg_lock_blind(const aipg_view *view, aidb_slice key) {
	aipg_newest newest = {0};
	aipg_row_lock lock;
	aipg_write own;

	aipg_transaction_begin_write();
	aipg_row_lock_try(InvalidOid, key, LockTupleExclusive, LockWaitBlock, NULL, NULL, &lock);
	if (newest_own(key, &own)) {
		newest.found = !own.is_delete;
	} else {
		newest = aipg_newest_committed(key, NULL);
	}
	if (newest.found) {
		aipg_row_lock_confirm(&lock);
	} else {
		aipg_row_lock_undo(&lock);
	}
	if (is_newer_than(&newest, view)) {
		refuse_newer(newest.found ? "update" : "delete");
	}
	return newest.found;
}

aipg_row_state aipg_lock_row(const aipg_view *view, Oid relation, aidb_slice key, LockTupleMode mode,
							 LockWaitPolicy policy, aidb_buffer *current, StringInfo moved) {
	locked_row row = {.view = view, .mode = mode, .current = current, .moved = moved};
	locked_key wanted = {.row = &row, .key = key};
	aipg_row_state state;

	aipg_transaction_check_open();
	resetStringInfo(moved);
	do {
		wanted.again = false;
		wanted.gone = false;
		state = lock_key(&wanted, relation, policy);
		wanted.key = (aidb_slice){moved->data, (size_t)moved->len};
	} while (wanted.again);
	return state;
}

aipg_row_state aipg_read_locked(const aipg_view *view, aidb_slice key, aidb_buffer *current) {
	aipg_write own;

	if (newest_own(key, &own)) {
		return judge_own(view, &own, current);
	}
	return aipg_newest_committed(key, current).found ? AIPG_ROW_SAME : AIPG_ROW_GONE;
}

aipg_row_state aipg_lock_newest(const aipg_view *view, Oid relation, aidb_slice key, LockTupleMode mode,
								aidb_buffer *current) {
	aipg_write own;
	aipg_row_lock lock;
	aipg_newest newest;

	aipg_transaction_check_open();
	if (newest_own(key, &own)) {
		return judge_own(view, &own, current);
	}
	aipg_row_lock_try(relation, key, mode, LockWaitBlock, NULL, NULL, &lock);
	newest = aipg_newest_committed(key, current);
	if (!newest.found) {
		aipg_row_lock_undo(&lock);
		refuse_newer("delete");
		return AIPG_ROW_GONE;
	}
	aipg_row_lock_confirm(&lock);
	if (!is_newer_than(&newest, view)) {
		return AIPG_ROW_SAME;
	}
	refuse_newer("update");
	return AIPG_ROW_NEWER;
}

void aipg_check_newest_seen(const aipg_view *view, aidb_slice key) {
	aipg_newest newest;
	aipg_write own;

	if (!newest_own(key, &own)) {
		newest = aipg_newest_committed(key, NULL);
		if (is_newer_than(&newest, view)) {
			refuse_newer("update");
		}
	}
}

/* ---- Writes -------------------------------------------------------------------------------------------- */

/* A single write must fit a record of the log by itself. Refused where it is made, not at commit. */
static void check_size(aidb_slice key, aidb_slice value) {
	size_t limit = aidb_max_batch_bytes(aipg_store());
	size_t bytes = key.size + value.size + AIDB_BATCH_OPERATION_BYTES;

	if (key.size > AIDB_MAX_KEY_BYTES) {
		ereport(ERROR, (errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED), errmsg("key is too long for AiDb"),
						errdetail("The key has %zu bytes; the limit is %u.", key.size, AIDB_MAX_KEY_BYTES)));
	}
	if (bytes > limit) {
		ereport(ERROR, (errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED), errmsg("value is too long for AiDb"),
						errdetail("Key and value take %zu bytes; the limit is %zu with the present \"aidb.memory\".",
								  bytes, limit),
						errhint("Raise \"aidb.memory\" and restart the server, or store less in one row.")));
	}
}

/* The key is locked. `existed`: there may be a committed version of it. */
static void add_write(Oid relation, CommandId command, aidb_slice key, bool existed, bool is_delete, aidb_slice value) {
	aipg_write_set *writes = aipg_transaction_begin_write();
	aipg_key_facts facts = {.relation = relation, .existed = existed};

	check_size(key, value);
	aipg_predicate_check_write(relation, key);
	aipg_write_set_add(writes, key, &facts, command, is_delete, value);
}

static aidb_slice row_slice(StringInfo row) {
	return (aidb_slice){row->data, (size_t)row->len};
}

/* For a row that is inserted where another one was. */
static uint64 new_incarnation(bool moved) {
	return aidb_current_sequence(aipg_store()) | (moved ? AIPG_INCARNATION_AFTER_MOVE : 0);
}

/*
 * Locks a key to be inserted. Returns false when a committed row has it. *incarnation is for the new row: other than 0
 * when there was a row once, which somebody may still see.
 */
static bool lock_absent(Oid relation, aidb_slice key, aipg_row_lock *lock, uint64 *incarnation) {
	static aidb_buffer note; /* kept for the next one */

	for (;;) {
		bool granted = aipg_row_lock_take_for_insert(relation, key, lock);
		bool only_locked = !granted && !aipg_row_lock_await_writers(relation, key);
		aipg_newest newest;

		note.size = 0;
		newest = aipg_newest_committed(key, &note);
		if (granted && newest.found) {
			aipg_row_lock_undo(lock);
		}
		if (granted || newest.found) {
			*incarnation = newest.version == 0 ? 0 : new_incarnation(note.size > 0);
			return !newest.found;
		}
		if (only_locked) {
			/* who has locked it without writing it had found a row that is not there any more */
			aipg_row_lock_take(relation, key, LockTupleExclusive, LockWaitBlock, lock);
		}
	}
}

bool aipg_row_exists(Oid relation, aidb_slice key) {
	aipg_write own;

	aipg_transaction_check_open();
	if (newest_own(key, &own)) {
		return !own.is_delete;
	}
	aipg_row_lock_await_writers(relation, key);
	if (!aipg_newest_committed(key, NULL).found) {
		return false;
	}
	aipg_predicate_check_duplicate(relation, key);
	return true;
}

bool aipg_insert(Oid relation, CommandId command, aidb_slice key, StringInfo row) {
	aipg_write own;
	uint64 incarnation;
	aipg_row_lock lock;

	aipg_transaction_begin_write();
	if (newest_own(key, &own)) {
		if (!own.is_delete) {
			return false;
		}
		incarnation = new_incarnation(own.value.size > 0);
		aipg_row_lock_write(relation, key, LockTupleExclusive);
	} else if (lock_absent(relation, key, &lock, &incarnation)) {
		aipg_row_lock_note_write(&lock);
	} else {
		aipg_predicate_check_duplicate(relation, key);
		return false;
	}
	aipg_row_set_incarnation(row, incarnation);
	add_write(relation, command, key, false, false, row_slice(row));
	return true;
}

void aipg_update(Oid relation, CommandId command, aidb_slice key, aidb_slice current, StringInfo row) {
	aipg_row_lock_write(relation, key, LockTupleNoKeyExclusive);
	aipg_row_set_incarnation(row, aipg_row_incarnation(current));
	add_write(relation, command, key, true, false, row_slice(row));
}

static void delete_noted(Oid relation, CommandId command, aidb_slice key, aidb_slice note) {
	aipg_row_lock_write(relation, key, LockTupleExclusive);
	add_write(relation, command, key, true, true, note);
}

void aipg_delete(Oid relation, CommandId command, aidb_slice key, aidb_slice current) {
	deletion_note note = {.before = aipg_row_incarnation(current)};
	char bytes[2 * sizeof(uint64) + AIDB_MAX_KEY_BYTES];
	bool after_move = (note.before & AIPG_INCARNATION_AFTER_MOVE) != 0;

	delete_noted(relation, command, key, after_move ? write_note(bytes, &note) : (aidb_slice){NULL, 0});
}

bool aipg_move(Oid relation, CommandId command, aidb_slice key, aidb_slice current, aidb_slice to, StringInfo row) {
	deletion_note note = {.before = aipg_row_incarnation(current), .key = to};
	char bytes[2 * sizeof(uint64) + AIDB_MAX_KEY_BYTES];

	aipg_row_lock_write(relation, key, LockTupleExclusive); /* who inserts it must not find the row there */
	if (!aipg_insert(relation, command, to, row)) {
		return false;
	}
	note.after = aipg_row_incarnation(row_slice(row));
	delete_noted(relation, command, key, write_note(bytes, &note));
	return true;
}

static void write_blind(aidb_slice key, bool is_delete, aidb_slice value) {
	aipg_transaction_begin_write();
	aipg_row_lock_write(InvalidOid, key, LockTupleExclusive);
	add_write(InvalidOid, GetCurrentCommandId(true), key, true, is_delete, value);
}

void aipg_put(aidb_slice key, aidb_slice value) {
	write_blind(key, false, value);
}

void aipg_remove(aidb_slice key) {
	write_blind(key, true, (aidb_slice){NULL, 0});
}
