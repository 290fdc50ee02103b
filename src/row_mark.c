#include "row_mark.h"

#include "access.h"
#include "executor/executor.h"
#include "fdw.h"
#include "lib/stringinfo.h"
#include "row_codec.h"
#include "storage/buffile.h"
#include "storage/itemptr.h"
#include "utils/memutils.h"

#define MEMORY_BYTES (1024 * 1024) /* of keys; what comes later goes to a temporary file */

/*
 * Keys stand one behind the other, each with its length; a key's place is its number. A ctid has 48 bits for it.
 */
struct aipg_row_mark {
	const aipg_table *table;
	MemoryContext context;
	StringInfoData first; /* the first MEMORY_BYTES */
	BufFile *rest;
	uint64 end;           /* the next key's place */
	uint64 last_place;    /* mostly the last row is the next to be locked */
	StringInfoData last;  /* its key */
	StringInfoData key;   /* one that was read back */
	aidb_buffer *current; /* a locked row */
	StringInfoData moved; /* its key, when it has got another one */
	MemoryContext row;    /* its values */
};

typedef uint16 key_length;

/* ---- Keys ---------------------------------------------------------------------------------------------- */

static void append_to_file(aipg_row_mark *mark, key_length length, aidb_slice key) {
	if (mark->rest == NULL) {
		MemoryContext caller = MemoryContextSwitchTo(mark->context);

		mark->rest = BufFileCreateTemp(false);
		MemoryContextSwitchTo(caller);
	}
	if (BufFileSeek(mark->rest, 0, (off_t)(mark->end - (uint64)mark->first.len), SEEK_SET) != 0) {
		elog(ERROR, "could not find the end of a temporary file of row locks");
	}
	BufFileWrite(mark->rest, &length, sizeof(length));
	BufFileWrite(mark->rest, (void *)key.data, key.size);
}

static uint64 keep_key(aipg_row_mark *mark, aidb_slice key) {
	key_length length = (key_length)key.size;
	uint64 place = mark->end;

	if (mark->rest == NULL && mark->first.len + sizeof(length) + key.size <= MEMORY_BYTES) {
		appendBinaryStringInfo(&mark->first, (const char *)&length, sizeof(length));
		appendBinaryStringInfo(&mark->first, key.data, (int)key.size);
	} else {
		append_to_file(mark, length, key);
		resetStringInfo(&mark->last);
		appendBinaryStringInfo(&mark->last, key.data, (int)key.size);
		mark->last_place = place;
	}
	mark->end += sizeof(length) + key.size;
	return place;
}

static void read_file(aipg_row_mark *mark, void *bytes, size_t size) {
	if (BufFileRead(mark->rest, bytes, size) != size) {
		ereport(ERROR, (errcode_for_file_access(), errmsg("could not read from a temporary file of row locks")));
	}
}

static aidb_slice read_key(aipg_row_mark *mark, uint64 place) {
	key_length length;

	if (place < (uint64)mark->first.len) {
		memcpy(&length, mark->first.data + place, sizeof(length));
		return (aidb_slice){mark->first.data + place + sizeof(length), length};
	}
	if (place == mark->last_place) {
		return (aidb_slice){mark->last.data, (size_t)mark->last.len};
	}
	if (BufFileSeek(mark->rest, 0, (off_t)(place - (uint64)mark->first.len), SEEK_SET) != 0) {
		elog(ERROR, "could not find a key in a temporary file of row locks");
	}
	read_file(mark, &length, sizeof(length));
	resetStringInfo(&mark->key);
	enlargeStringInfo(&mark->key, length);
	read_file(mark, mark->key.data, length);
	return (aidb_slice){mark->key.data, length};
}

void aipg_row_mark_number(aipg_row_mark *mark, aidb_slice key, TupleTableSlot *slot) {
	uint64 place = keep_key(mark, key);

	ItemPointerSet(&slot->tts_tid, (BlockNumber)(place >> 16), (OffsetNumber)(place & 0xFFFF));
}

static uint64 place_of(ItemPointer row) {
	return (uint64)ItemPointerGetBlockNumberNoCheck(row) << 16 | ItemPointerGetOffsetNumberNoCheck(row);
}

/* ---- Locking ------------------------------------------------------------------------------------------- */

static RowMarkType choose_row_mark(RangeTblEntry *entry, LockClauseStrength strength) {
	switch (strength) {
	case LCS_FORKEYSHARE:
		return ROW_MARK_KEYSHARE;
	case LCS_FORSHARE:
		return ROW_MARK_SHARE;
	case LCS_FORNOKEYUPDATE:
		return ROW_MARK_NOKEYEXCLUSIVE;
	case LCS_FORUPDATE:
		return ROW_MARK_EXCLUSIVE;
	default:
		return ROW_MARK_COPY; /* rows that are only read along with a change are carried in the plan */
	}
}

static LockTupleMode mode_of(RowMarkType type) {
	switch (type) {
	case ROW_MARK_KEYSHARE:
		return LockTupleKeyShare;
	case ROW_MARK_SHARE:
		return LockTupleShare;
	case ROW_MARK_NOKEYEXCLUSIVE:
		return LockTupleNoKeyExclusive;
	default:
		return LockTupleExclusive;
	}
}

aipg_row_mark *aipg_row_mark_begin(EState *estate, Index rti, const aipg_table *table) {
	ExecRowMark *wanted = estate->es_rowmarks == NULL ? NULL : estate->es_rowmarks[rti - 1];
	aipg_row_mark *mark;
	MemoryContext caller;

	if (wanted == NULL || !RowMarkRequiresRowShareLock(wanted->markType)) {
		return NULL;
	}
	if (wanted->ermExtra != NULL) {
		return wanted->ermExtra; /* EvalPlanQual runs the plan again, with the query's own marks */
	}
	caller = MemoryContextSwitchTo(estate->es_query_cxt);
	mark = palloc0(sizeof(*mark));
	mark->table = table;
	mark->context = CurrentMemoryContext;
	mark->current = aipg_buffer_create();
	mark->row = AllocSetContextCreate(CurrentMemoryContext, "AiDb locked row", ALLOCSET_DEFAULT_SIZES);
	initStringInfo(&mark->first);
	initStringInfo(&mark->last);
	initStringInfo(&mark->key);
	initStringInfo(&mark->moved);
	wanted->ermExtra = mark;
	MemoryContextSwitchTo(caller);
	return mark;
}

bool aipg_scan_locks_rows(const TriggerDesc *triggers) {
	return triggers != NULL && (triggers->trig_update_before_row || triggers->trig_update_after_row ||
								triggers->trig_delete_before_row || triggers->trig_delete_after_row);
}

/* Locks a row for LockRows, and returns it as it is now; an empty slot when it is not to be returned by the query. */
static void refetch_row(EState *estate, ExecRowMark *wanted, Datum row, TupleTableSlot *slot, bool *updated) {
	aipg_row_mark *mark = wanted->ermExtra;
	aidb_slice key = read_key(mark, place_of((ItemPointer)DatumGetPointer(row)));
	aipg_view view = aipg_view_of(estate->es_snapshot, wanted->relid);
	aipg_row_state state;

	MemoryContextReset(mark->row);
	state = aipg_lock_row(&view, wanted->relid, key, mode_of(wanted->markType), wanted->waitPolicy, mark->current,
						  &mark->moved);
	ExecClearTuple(slot);
	if (state == AIPG_ROW_SAME || state == AIPG_ROW_NEWER) {
		aidb_slice current = {mark->current->data, mark->current->size};

		if (mark->moved.len > 0) {
			key = (aidb_slice){mark->moved.data, (size_t)mark->moved.len};
		}
		aipg_row_decode(mark->table, key, current, NULL, mark->row, slot);
		slot->tts_tableOid = wanted->relid;
		*updated = state == AIPG_ROW_NEWER;
	}
}

void aipg_row_mark_routines(FdwRoutine *routine) {
	routine->GetForeignRowMarkType = choose_row_mark;
	routine->RefetchForeignRow = refetch_row;
}
