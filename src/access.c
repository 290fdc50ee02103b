#include "access.h"

#include "access/xact.h"
#include "host.h"
#include "miscadmin.h"
#include "transaction.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "view.h"
#include "write_cursor.h"

void (*aipg_report_duplicate)(Oid relation, aidb_slice key) = NULL;

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
	rc = aidb_get(aipg_store(), &options, key, value, NULL);
	aipg_raise_deferred();
	if (rc != AIDB_OK && rc != AIDB_NOT_FOUND) {
		aipg_raise(rc, "could not read from the AiDb store");
	}
	return rc == AIDB_OK;
}

bool aipg_get_latest(aidb_slice key, aidb_buffer *value) {
	aipg_write own;

	if (find_own(key, AIPG_ALL_COMMANDS, &own)) {
		if (!own.is_delete) {
			set_buffer(value, &own);
		}
		return !own.is_delete;
	}
	return aipg_newest_committed(key, value).found;
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
	if (aipg_transaction_writes() != NULL) {
		cursor->written =
			aipg_write_cursor_open(aipg_transaction_writes(), cursor->lower, cursor->upper, backwards, view->command);
		cursor->own_used = true;
	}
	options = read_options(view);
	options.lower = cursor->lower;
	options.upper = cursor->upper;
	rc = aidb_iterator_create(db, &options, &cursor->stored);
	if (rc != AIDB_OK) {
		aipg_raise(rc, "could not scan the AiDb store");
	}
	cursor->callback = (MemoryContextCallback){.func = free_cursor, .arg = cursor};
	MemoryContextRegisterResetCallback(CurrentMemoryContext, &cursor->callback);
	return cursor;
}

void aipg_cursor_close(aipg_cursor *cursor) {
	free_cursor(cursor);
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

aipg_outcome aipg_insert(Oid relation, aidb_slice key, aidb_slice value) {
	aipg_write_set *writes = aipg_transaction_begin_write();
	CommandId command = GetCurrentCommandId(true);
	aipg_key_facts facts;
	aipg_write own;

	check_size(key, value);
	if (aipg_write_set_find(writes, key, AIPG_ALL_COMMANDS, &own)) {
		if (!own.is_delete) {
			return AIPG_DUPLICATE;
		}
		facts = own.facts;
	} else {
		facts = (aipg_key_facts){.relation = relation, .as_of = aidb_current_sequence(aipg_store()), .inserted = true};
		if (aipg_newest_committed(key, NULL).found) {
			return AIPG_DUPLICATE;
		}
	}
	aipg_write_set_add(writes, key, &facts, command, false, value);
	return AIPG_DONE;
}

static bool is_newer_than(const aipg_newest *newest, const aipg_view *view) {
	return !newest->found || newest->version > view->sequence ||
		   (newest->tag != 0 && !aipg_tag_visible(view->snapshot, newest->tag));
}

static aipg_outcome change(const aipg_view *view, Oid relation, aidb_slice key, bool is_delete, aidb_slice value) {
	aipg_write_set *writes = aipg_transaction_begin_write();
	CommandId command = GetCurrentCommandId(true);
	aipg_key_facts facts;
	aipg_write own;

	check_size(key, value);
	if (aipg_write_set_find(writes, key, AIPG_ALL_COMMANDS, &own)) {
		if (own.command > view->command) {
			return AIPG_TRIGGER_MODIFIED;
		}
		if (own.command == view->command || own.is_delete) {
			return AIPG_SELF_MODIFIED;
		}
		facts = own.facts;
	} else {
		aidb_sequence as_of = aidb_current_sequence(aipg_store());
		aipg_newest newest = aipg_newest_committed(key, NULL);
		bool newer = is_newer_than(&newest, view);

		aipg_raise_deferred();
		if (newer) {
			return AIPG_CONFLICT;
		}
		facts = (aipg_key_facts){.relation = relation, .expected = newest.version, .as_of = as_of};
	}
	aipg_write_set_add(writes, key, &facts, command, is_delete, value);
	return AIPG_DONE;
}

aipg_outcome aipg_update(const aipg_view *view, Oid relation, aidb_slice key, aidb_slice value) {
	return change(view, relation, key, false, value);
}

aipg_outcome aipg_delete(const aipg_view *view, Oid relation, aidb_slice key) {
	return change(view, relation, key, true, (aidb_slice){NULL, 0});
}

static void write_blind(Oid relation, aidb_slice key, bool is_delete, aidb_slice value) {
	aipg_write_set *writes = aipg_transaction_begin_write();
	aipg_key_facts facts = {.relation = relation, .blind = true};
	aipg_write own;

	check_size(key, value);
	if (aipg_write_set_find(writes, key, AIPG_ALL_COMMANDS, &own)) {
		facts = own.facts;
	}
	aipg_write_set_add(writes, key, &facts, GetCurrentCommandId(true), is_delete, value);
}

void aipg_put(Oid relation, aidb_slice key, aidb_slice value) {
	write_blind(relation, key, false, value);
}

void aipg_remove(Oid relation, aidb_slice key) {
	write_blind(relation, key, true, (aidb_slice){NULL, 0});
}
