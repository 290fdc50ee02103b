#include "write_cursor.h"

#include "miscadmin.h"
#include "utils/memutils.h"

/* A write, copied. */
typedef struct write_copy {
	aipg_write write;
	char *bytes;
	Size capacity;
} write_copy;

struct aipg_write_cursor {
	const aipg_write_set *set;
	aidb_slice lower;
	aidb_slice upper;
	bool backwards;
	bool stable; /* the set does not change meanwhile: what is handed out need not be copied */
	bool started;
	bool ended;
	CommandId below;
	uint64 generation;       /* of the set when the cursor was positioned */
	MemoryContext context;   /* of the cursor */
	MemoryContext readers;   /* of the merge */
	aipg_listed_key *listed; /* the next key in memory */
	aipg_write_merge *merge; /* stands behind the write that is next of those in runs */
	bool has_spilled;
	write_copy spilled; /* that write */
	write_copy latest;  /* what was handed out */
};

static void copy_write(aipg_write_cursor *cursor, write_copy *copy, const aipg_write *write, aidb_slice value) {
	Size bytes = write->key.size + value.size;

	if (bytes > copy->capacity) {
		Size capacity = Max(bytes, copy->capacity * 2);

		copy->bytes = copy->bytes == NULL ? MemoryContextAllocHuge(cursor->context, capacity)
										  : repalloc_huge(copy->bytes, capacity);
		copy->capacity = capacity;
	}
	memcpy(copy->bytes, write->key.data, write->key.size);
	memcpy(copy->bytes + write->key.size, value.data, value.size);
	copy->write = *write;
	copy->write.key.data = copy->bytes;
	copy->write.value = (aidb_slice){copy->bytes + write->key.size, value.size};
}

static bool is_within(const aipg_write_cursor *cursor, aidb_slice key) {
	return cursor->backwards ? cursor->lower.data == NULL || aipg_compare_keys(key, cursor->lower) >= 0
							 : cursor->upper.data == NULL || aipg_compare_keys(key, cursor->upper) < 0;
}

/* ---- The two sides: memory and runs ------------------------------------------------------------------------- */

static aipg_listed_key *step_listed(const aipg_write_cursor *cursor) {
	return cursor->backwards
			   ? aipg_write_list_seek_below(aipg_write_set_list(cursor->set), aipg_listed_key_slice(cursor->listed))
			   : aipg_write_list_next(cursor->listed);
}

/* From the next key in memory on, to one with a write to be shown: the write. NULL and no key: there is none left. */
static const aipg_listed_write *settle_listed(aipg_write_cursor *cursor) {
	for (; cursor->listed != NULL; cursor->listed = step_listed(cursor)) {
		const aipg_listed_write *write;

		CHECK_FOR_INTERRUPTS();
		if (!is_within(cursor, aipg_listed_key_slice(cursor->listed))) {
			cursor->listed = NULL;
			return NULL;
		}
		write = aipg_listed_visible(cursor->listed, cursor->below);
		if (write != NULL) {
			return write;
		}
	}
	return NULL;
}

/* Takes the next key from the runs, with the newest write to be shown; passes over its others. */
static void take_spilled(aipg_write_cursor *cursor) {
	const write_copy *taken = &cursor->spilled;
	aipg_write_reader *reader;

	cursor->has_spilled = false;
	if (cursor->merge == NULL) {
		return;
	}
	for (; (reader = aipg_write_merge_first(cursor->merge)) != NULL; aipg_write_merge_next(cursor->merge)) {
		const aipg_write *write = aipg_write_reader_at(reader);

		CHECK_FOR_INTERRUPTS();
		if (!is_within(cursor, write->key) ||
			(cursor->has_spilled && aipg_compare_keys(write->key, taken->write.key) != 0)) {
			return;
		}
		if (write->command < cursor->below && (!cursor->has_spilled || write->ordinal > taken->write.ordinal)) {
			copy_write(cursor, &cursor->spilled, write, aipg_write_reader_value(reader));
			cursor->has_spilled = true;
		}
	}
}

/* ---- Both -------------------------------------------------------------------------------------------------- */

static bool is_latest(const aipg_write_cursor *cursor, aidb_slice key) {
	return cursor->started && aipg_compare_keys(key, cursor->latest.write.key) == 0;
}

static void open_runs(aipg_write_cursor *cursor, aidb_slice lower, aidb_slice upper) {
	MemoryContext outer;

	cursor->merge = NULL;
	if (!aipg_write_set_has_runs(cursor->set)) {
		return;
	}
	if (cursor->readers == NULL) {
		cursor->readers = AllocSetContextCreate(cursor->context, "AiDb cursor on spilled writes", ALLOCSET_SMALL_SIZES);
	}
	MemoryContextReset(cursor->readers);
	outer = MemoryContextSwitchTo(cursor->readers);
	cursor->merge = aipg_write_set_merge(cursor->set, lower, upper, cursor->backwards, cursor->below);
	MemoryContextSwitchTo(outer);
}

/* Looks for its place: behind what was handed out, or where the range begins. */
static void position(aipg_write_cursor *cursor) {
	const aipg_write_list *list = aipg_write_set_list(cursor->set);
	aidb_slice lower = cursor->started && !cursor->backwards ? cursor->latest.write.key : cursor->lower;
	aidb_slice upper = cursor->started && cursor->backwards ? cursor->latest.write.key : cursor->upper;

	cursor->generation = aipg_write_set_generation(cursor->set);
	cursor->listed = cursor->backwards ? aipg_write_list_seek_below(list, upper) : aipg_write_list_seek(list, lower);
	if (cursor->listed != NULL && is_latest(cursor, aipg_listed_key_slice(cursor->listed))) {
		cursor->listed = step_listed(cursor);
	}
	open_runs(cursor, lower, upper);
	take_spilled(cursor);
	if (cursor->has_spilled && is_latest(cursor, cursor->spilled.write.key)) {
		take_spilled(cursor);
	}
}

/* Goes on behind what was handed out. */
static void advance(aipg_write_cursor *cursor) {
	if (cursor->listed != NULL && is_latest(cursor, aipg_listed_key_slice(cursor->listed))) {
		cursor->listed = step_listed(cursor);
	}
	if (cursor->has_spilled && is_latest(cursor, cursor->spilled.write.key)) {
		take_spilled(cursor);
	}
}

/* Whether the next key in memory is not behind the next one in runs; of one key, the write in memory is the newer. */
static bool listed_is_next(const aipg_write_cursor *cursor) {
	int order;

	if (cursor->listed == NULL || !cursor->has_spilled) {
		return cursor->listed != NULL;
	}
	order = aipg_compare_keys(aipg_listed_key_slice(cursor->listed), cursor->spilled.write.key);
	return cursor->backwards ? order >= 0 : order <= 0;
}

static void hand_out(aipg_write_cursor *cursor, const aipg_write *write) {
	if (cursor->stable) {
		cursor->latest.write = *write;
	} else {
		copy_write(cursor, &cursor->latest, write, write->value);
	}
	cursor->started = true;
}

const aipg_write *aipg_write_cursor_next(aipg_write_cursor *cursor) {
	const aipg_listed_write *listed;

	if (cursor->ended) {
		return NULL;
	}
	if (!cursor->started || cursor->generation != aipg_write_set_generation(cursor->set)) {
		position(cursor);
	} else {
		advance(cursor);
	}
	listed = settle_listed(cursor);
	if (listed_is_next(cursor)) {
		aipg_write write = aipg_listed_get(cursor->listed, listed);

		hand_out(cursor, &write);
	} else if (cursor->has_spilled) {
		hand_out(cursor, &cursor->spilled.write);
	} else {
		cursor->ended = true;
		return NULL;
	}
	return &cursor->latest.write;
}

/* ---- Life -------------------------------------------------------------------------------------------------- */

aipg_write_cursor *aipg_write_cursor_open(const aipg_write_set *set, aidb_slice lower, aidb_slice upper, bool backwards,
										  CommandId below) {
	aipg_write_cursor *cursor = palloc0(sizeof(*cursor));

	cursor->set = set;
	cursor->lower = lower;
	cursor->upper = upper;
	cursor->backwards = backwards;
	cursor->below = below;
	cursor->context = CurrentMemoryContext;
	return cursor;
}

aipg_write_cursor *aipg_write_cursor_open_all(const aipg_write_set *set) {
	aidb_slice open = {NULL, 0};
	aipg_write_cursor *cursor = aipg_write_cursor_open(set, open, open, false, AIPG_ALL_COMMANDS);

	cursor->stable = true;
	return cursor;
}

static void free_copy(write_copy *copy) {
	if (copy->bytes != NULL) {
		pfree(copy->bytes);
	}
}

void aipg_write_cursor_close(aipg_write_cursor *cursor) {
	if (cursor->readers != NULL) {
		MemoryContextDelete(cursor->readers);
	}
	free_copy(&cursor->spilled);
	free_copy(&cursor->latest);
	pfree(cursor);
}
