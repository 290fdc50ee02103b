#include "store/memtable_cursor.h"

#include <stdlib.h>

#include "base/status.h"

typedef struct memtable_cursor {
	lsm_cursor base;
	lsm_memtable_cursor at;
} memtable_cursor;

static bool same_version(const lsm_entry *a, const lsm_entry *b) {
	return lsm_sequence_of(a->trailer) == lsm_sequence_of(b->trailer) && lsm_equal(a->key, b->key);
}

static void show(memtable_cursor *cursor) {
	cursor->base.valid = cursor->at.node != 0;
	if (cursor->base.valid) {
		lsm_memtable_entry(&cursor->at, &cursor->base.entry);
	}
}

/* From the last of several entries of one version, where a step back arrives, to the first. */
static void to_first_of_version(memtable_cursor *cursor) {
	lsm_memtable_cursor before = cursor->at;
	lsm_entry entry;

	show(cursor);
	if (!cursor->base.valid) {
		return;
	}
	for (lsm_memtable_prev(&before); before.node != 0; lsm_memtable_prev(&before)) {
		lsm_memtable_entry(&before, &entry);
		if (!same_version(&entry, &cursor->base.entry)) {
			return;
		}
		cursor->at = before;
		cursor->base.entry = entry;
	}
}

static void seek(lsm_cursor *base, aidb_slice key, uint64_t trailer) {
	memtable_cursor *cursor = (memtable_cursor *)base;

	lsm_memtable_seek(&cursor->at, key, trailer);
	show(cursor);
}

static void seek_first(lsm_cursor *base) {
	memtable_cursor *cursor = (memtable_cursor *)base;

	lsm_memtable_seek_first(&cursor->at);
	show(cursor);
}

static void seek_last(lsm_cursor *base) {
	memtable_cursor *cursor = (memtable_cursor *)base;

	lsm_memtable_seek_last(&cursor->at);
	to_first_of_version(cursor);
}

static void next(lsm_cursor *base) {
	memtable_cursor *cursor = (memtable_cursor *)base;
	lsm_entry passed = base->entry;

	do {
		lsm_memtable_next(&cursor->at);
		show(cursor);
	} while (base->valid && same_version(&base->entry, &passed));
}

static void prev(lsm_cursor *base) {
	memtable_cursor *cursor = (memtable_cursor *)base;

	lsm_memtable_prev(&cursor->at);
	to_first_of_version(cursor);
}

static void close(lsm_cursor *base) {
	free(base);
}

static const lsm_cursor_ops ops = {
	.seek = seek, .seek_first = seek_first, .seek_last = seek_last, .next = next, .prev = prev, .close = close};

aidb_status lsm_memtable_cursor_create(const lsm_arena *arena, const lsm_memtable *memtable, lsm_cursor **cursor) {
	memtable_cursor *created = malloc(sizeof(*created));

	if (created == NULL) {
		return lsm_fail(AIDB_NO_MEMORY, "out of memory: could not make a cursor");
	}
	*created = (memtable_cursor){.base = {.ops = &ops}, .at = {.arena = arena, .memtable = memtable}};
	*cursor = &created->base;
	return AIDB_OK;
}
