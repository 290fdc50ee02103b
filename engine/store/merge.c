#include "store/merge.h"

#include <stdlib.h>

#include "base/status.h"

typedef struct merge_cursor {
	lsm_cursor base;
	uint32_t count;  /* of all sources */
	uint32_t active; /* of those that stand on an entry: `order` holds them, in the order of their entries */
	bool backward;
	lsm_cursor **sources;
	uint32_t order[];
} merge_cursor;

/* Which of two sources comes first in the present direction; 0 when they stand on the same version. */
static int compare(const merge_cursor *merge, uint32_t a, uint32_t b) {
	const lsm_entry *left = &merge->sources[a]->entry;
	const lsm_entry *right = &merge->sources[b]->entry;
	int order = lsm_compare_versions(left->key, left->trailer, right->key, right->trailer);

	return merge->backward ? -order : order;
}

static void step(const merge_cursor *merge, lsm_cursor *source) {
	if (merge->backward) {
		source->ops->prev(source);
	} else {
		source->ops->next(source);
	}
}

static void fail(merge_cursor *merge, aidb_status status) {
	merge->base.valid = false;
	merge->base.status = status;
	merge->active = 0;
}

/* Takes the source at `place` out of the order. */
static void drop(merge_cursor *merge, uint32_t place) {
	merge->active--;
	for (uint32_t i = place; i < merge->active; i++) {
		merge->order[i] = merge->order[i + 1];
	}
}

/*
 * Puts the source at `place`, which has moved, where it belongs among those after it. Of two on the same version the
 * newer source stays and the older moves on. False on error.
 */
static bool settle(merge_cursor *merge, uint32_t place) {
	for (;;) {
		lsm_cursor *source = merge->sources[merge->order[place]];
		uint32_t moved = merge->order[place];
		int order;

		if (!source->valid) {
			if (source->status != AIDB_OK) {
				fail(merge, source->status);
				return false;
			}
			drop(merge, place);
			return true;
		}
		if (place + 1 == merge->active) {
			return true;
		}
		order = compare(merge, moved, merge->order[place + 1]);
		if (order < 0) {
			return true;
		}
		if (order > 0 || moved > merge->order[place + 1]) {
			merge->order[place] = merge->order[place + 1];
			merge->order[place + 1] = moved;
		}
		place++;
		if (order == 0) {
			step(merge, merge->sources[merge->order[place]]);
		}
	}
}

static void show(merge_cursor *merge) {
	merge->base.valid = merge->active > 0;
	if (merge->base.valid) {
		merge->base.entry = merge->sources[merge->order[0]]->entry;
	}
}

/* Builds the order after all sources have been positioned. */
static void build(merge_cursor *merge, bool backward) {
	merge->backward = backward;
	merge->base.status = AIDB_OK;
	merge->active = 0;
	for (uint32_t i = 0; i < merge->count; i++) {
		const lsm_cursor *source = merge->sources[i];

		if (!source->valid && source->status != AIDB_OK) {
			fail(merge, source->status);
			return;
		}
		if (source->valid) {
			merge->order[merge->active++] = i;
		}
	}
	for (uint32_t place = merge->active; place-- > 0;) {
		if (!settle(merge, place)) {
			return;
		}
	}
	show(merge);
}

static void seek(lsm_cursor *base, aidb_slice key, uint64_t trailer) {
	merge_cursor *merge = (merge_cursor *)base;

	for (uint32_t i = 0; i < merge->count; i++) {
		merge->sources[i]->ops->seek(merge->sources[i], key, trailer);
	}
	build(merge, false);
}

static bool is_before(const lsm_entry *entry, aidb_slice key, uint64_t trailer) {
	return lsm_compare_versions(entry->key, entry->trailer, key, trailer) < 0;
}

/* A memtable may get entries meanwhile, in between where it was found and where it stands then. */
static void seek_source_before(lsm_cursor *source, aidb_slice key, uint64_t trailer) {
	source->ops->seek(source, key, trailer);
	if (!source->valid && source->status == AIDB_OK) {
		source->ops->seek_last(source);
	}
	while (source->valid && !is_before(&source->entry, key, trailer)) {
		source->ops->prev(source);
	}
}

void lsm_merge_seek_before(lsm_cursor *base, aidb_slice key, uint64_t trailer) {
	merge_cursor *merge = (merge_cursor *)base;

	for (uint32_t i = 0; i < merge->count; i++) {
		seek_source_before(merge->sources[i], key, trailer);
	}
	build(merge, true);
}

static void seek_first(lsm_cursor *base) {
	merge_cursor *merge = (merge_cursor *)base;

	for (uint32_t i = 0; i < merge->count; i++) {
		merge->sources[i]->ops->seek_first(merge->sources[i]);
	}
	build(merge, false);
}

static void seek_last(lsm_cursor *base) {
	merge_cursor *merge = (merge_cursor *)base;

	for (uint32_t i = 0; i < merge->count; i++) {
		merge->sources[i]->ops->seek_last(merge->sources[i]);
	}
	build(merge, true);
}

/* Turns round: puts every other source on the far side of the present entry, and then steps off it. */
static void turn(merge_cursor *merge, bool backward) {
	uint32_t top = merge->order[0];
	const lsm_entry *entry = &merge->sources[top]->entry; /* stays until its own source moves */

	for (uint32_t i = 0; i < merge->count; i++) {
		lsm_cursor *source = merge->sources[i];

		if (i == top) {
			continue;
		}
		if (backward) {
			seek_source_before(source, entry->key, entry->trailer);
		} else {
			source->ops->seek(source, entry->key, entry->trailer);
			if (source->valid &&
				lsm_compare_versions(source->entry.key, source->entry.trailer, entry->key, entry->trailer) == 0) {
				source->ops->next(source);
			}
		}
	}
	merge->backward = backward;
	step(merge, merge->sources[top]);
	build(merge, backward);
}

static void move(merge_cursor *merge, bool backward) {
	if (merge->backward != backward) {
		turn(merge, backward);
		return;
	}
	step(merge, merge->sources[merge->order[0]]);
	if (settle(merge, 0)) {
		show(merge);
	}
}

static void next(lsm_cursor *base) {
	move((merge_cursor *)base, false);
}

static void prev(lsm_cursor *base) {
	move((merge_cursor *)base, true);
}

static void close(lsm_cursor *base) {
	merge_cursor *merge = (merge_cursor *)base;

	for (uint32_t i = 0; i < merge->count; i++) {
		merge->sources[i]->ops->close(merge->sources[i]);
	}
	free(merge->sources);
	free(merge);
}

static const lsm_cursor_ops ops = {
	.seek = seek, .seek_first = seek_first, .seek_last = seek_last, .next = next, .prev = prev, .close = close};

aidb_status lsm_merge_create(lsm_cursor *const *sources, uint32_t count, lsm_cursor **cursor) {
	merge_cursor *merge = calloc(1, sizeof(*merge) + count * sizeof(merge->order[0]));
	lsm_cursor **copy = malloc((count + 1) * sizeof(lsm_cursor *));

	if (merge == NULL || copy == NULL) {
		free(merge);
		free(copy);
		return lsm_fail(AIDB_NO_MEMORY, "out of memory: could not make a merging cursor of %u sources", count);
	}
	for (uint32_t i = 0; i < count; i++) {
		copy[i] = sources[i];
	}
	merge->base.ops = &ops;
	merge->count = count;
	merge->sources = copy;
	*cursor = &merge->base;
	return AIDB_OK;
}
