/*
 * Iterators.
 *
 * An iterator merges cursors over all sources of one version, and shows of each key the newest version that its view
 * sees. Each call enters an epoch and looks whether the version is still the current one: only then may the cursors be
 * used; otherwise they are made anew and put where the remembered key is. Between calls the iterator holds no epoch, no
 * pin and no file; key and value are copies.
 *
 * Where the merge stands between calls: going forward on the version shown, going backward on the last entry of the
 * previous key (or nowhere). A change of direction seeks.
 */
#include <stdlib.h>

#include "db/job.h"
#include "db/source.h"
#include "store/memtable_cursor.h"
#include "store/merge.h"
#include "store/table.h"

/* Versions of one key to be passed over one by one; then it is cheaper to seek past the rest. */
#define MAX_STEPS_PER_KEY 16

/* Entries passed over before the epoch is left for a moment, so that memory and files can be given back. */
#define ENTRIES_PER_EPOCH 4096

/* Sorts after every version of its key. (Sequences begin with 1.) */
#define BEYOND_VERSIONS 0u
/* Sorts before every version of its key. */
#define BEFORE_VERSIONS UINT64_MAX

typedef struct key_copy {
	uint32_t size;
	uint8_t bytes[AIDB_MAX_KEY_BYTES];
} key_copy;

struct aidb_iterator {
	aidb_db *db;
	lsm_view view;
	aidb_slice lower;
	aidb_slice upper;
	lsm_table_reading reading;
	bool owns_snapshot;
	aidb_snapshot snapshot;

	lsm_block_source source;
	uint64_t version_number; /* that the merge was made for */
	lsm_cursor *merge;       /* NULL before first use, and after a failure to make it */

	uint32_t member;     /* of the present call */
	uint32_t passed;     /* entries, since the epoch was entered */
	key_copy passed_key; /* whose versions are being passed over */
	uint32_t passed_versions;

	bool valid;
	bool backward;
	aidb_status status;
	aidb_sequence version;
	key_copy key;
	aidb_buffer value;
};

static aidb_slice slice_of(const key_copy *key) {
	return (aidb_slice){key->bytes, key->size};
}

static void set_key(key_copy *key, aidb_slice bytes) {
	assert(bytes.size <= sizeof(key->bytes));
	memcpy(key->bytes, bytes.data, bytes.size);
	key->size = (uint32_t)bytes.size;
}

static bool is_key(const key_copy *key, aidb_slice bytes) {
	return lsm_equal(slice_of(key), bytes);
}

/* ---- Sources ----------------------------------------------------------------------------------------------- */

/* The cursors of a version, while they are collected. */
typedef struct collection {
	aidb_iterator *iterator;
	const lsm_version *version;
	lsm_cursor **cursors;
	uint32_t count;
} collection;

static bool within_bounds(const aidb_iterator *iterator, const lsm_file *file) {
	return (iterator->lower.data == NULL || lsm_compare(lsm_file_largest(file), iterator->lower) >= 0) &&
		   (iterator->upper.data == NULL || lsm_compare(lsm_file_smallest(file), iterator->upper) < 0);
}

static aidb_status collect_memtables(collection *sources) {
	aidb_db *db = sources->iterator->db;
	aidb_status rc = AIDB_OK;

	for (uint32_t i = 0; i < sources->version->memtable_count && rc == AIDB_OK; i++) {
		rc = lsm_memtable_cursor_create(&db->arena, &db->shared->memtables[sources->version->memtables[i]],
										&sources->cursors[sources->count]);
		sources->count += rc == AIDB_OK;
	}
	return rc;
}

static aidb_status collect_level0(collection *sources) {
	aidb_iterator *iterator = sources->iterator;
	aidb_status rc = AIDB_OK;

	for (uint32_t i = 0; i < lsm_level_count(sources->version, 0) && rc == AIDB_OK; i++) {
		const lsm_file *file = lsm_level_file(&iterator->db->arena, sources->version, 0, i);
		lsm_table table = lsm_table_of(file);

		if (within_bounds(iterator, file)) {
			rc = lsm_table_cursor_create(&iterator->source, &table, &iterator->reading,
										 &sources->cursors[sources->count]);
			sources->count += rc == AIDB_OK;
		}
	}
	return rc;
}

/* One cursor over the files of the level that lie within the bounds, if any. */
static aidb_status collect_level(collection *sources, int level) {
	aidb_iterator *iterator = sources->iterator;
	const lsm_version *version = sources->version;
	const lsm_arena *arena = &iterator->db->arena;
	uint32_t begin = 0, end = lsm_level_count(version, level);
	aidb_status rc;

	if (iterator->lower.data != NULL) {
		begin = lsm_level_find(arena, version, level, iterator->lower);
	}
	if (iterator->upper.data != NULL) {
		uint32_t last = lsm_level_find(arena, version, level, iterator->upper);

		end = last < end && within_bounds(iterator, lsm_level_file(arena, version, level, last)) ? last + 1 : last;
	}
	if (begin >= end) {
		return AIDB_OK;
	}
	rc = lsm_level_cursor_create(&iterator->source, version->files + version->level_begin[level] + begin, end - begin,
								 &iterator->reading, &sources->cursors[sources->count]);
	sources->count += rc == AIDB_OK;
	return rc;
}

static aidb_status collect(collection *sources) {
	aidb_status rc = collect_memtables(sources);

	if (rc == AIDB_OK) {
		rc = collect_level0(sources);
	}
	for (int level = 1; level < AIDB_LEVELS && rc == AIDB_OK; level++) {
		rc = collect_level(sources, level);
	}
	return rc;
}

static void close_merge(aidb_iterator *iterator) {
	if (iterator->merge != NULL) {
		iterator->merge->ops->close(iterator->merge);
		iterator->merge = NULL;
	}
}

static aidb_status make_merge(aidb_iterator *iterator, const lsm_version *version) {
	collection sources = {.iterator = iterator, .version = version};
	aidb_status rc;

	close_merge(iterator);
	sources.cursors = malloc((LSM_MEMTABLES + lsm_level_count(version, 0) + AIDB_LEVELS) * sizeof(lsm_cursor *));
	if (sources.cursors == NULL) {
		return lsm_fail(AIDB_NO_MEMORY, "out of memory: could not make an iterator");
	}
	rc = collect(&sources);
	if (rc == AIDB_OK) {
		rc = lsm_merge_create(sources.cursors, sources.count, &iterator->merge);
	}
	for (uint32_t i = 0; i < sources.count && rc != AIDB_OK; i++) {
		sources.cursors[i]->ops->close(sources.cursors[i]);
	}
	free(sources.cursors);
	iterator->version_number = version->number;
	return rc;
}

/* Sees to it that the merge is of the current version; in an epoch. *renewed: it stands nowhere. */
static aidb_status renew(aidb_iterator *iterator, bool *renewed) {
	const lsm_version *version = lsm_version_current(&iterator->db->arena, &iterator->db->shared->versions);

	*renewed = iterator->merge == NULL || iterator->version_number != version->number;
	return *renewed ? make_merge(iterator, version) : AIDB_OK;
}

/* ---- Calls ------------------------------------------------------------------------------------------------- */

static void fail(aidb_iterator *iterator, aidb_status status) {
	iterator->valid = false;
	iterator->status = status;
}

/* Begins a public call: on true the epoch is entered, and the merge may be used. */
static bool begin(aidb_iterator *iterator, bool *renewed) {
	aidb_status rc = lsm_enter(iterator->db, &iterator->member);

	iterator->passed = 0;
	iterator->passed_versions = 0;
	if (rc == AIDB_OK) {
		iterator->source.member = iterator->member;
		lsm_epoch_enter(&iterator->db->arena, iterator->member);
		rc = renew(iterator, renewed);
		if (rc != AIDB_OK) {
			lsm_epoch_leave(&iterator->db->arena, iterator->member);
		}
	}
	if (rc != AIDB_OK) {
		fail(iterator, rc);
	}
	return rc == AIDB_OK;
}

static void end(aidb_iterator *iterator) {
	lsm_epoch_leave(&iterator->db->arena, iterator->member);
	lsm_source_count(iterator->db, iterator->member, &iterator->source);
}

/* The merge has come to its end: shows nothing, or its error. */
static void show_end(aidb_iterator *iterator) {
	fail(iterator, iterator->merge->valid ? AIDB_OK : iterator->merge->status);
}

/* The value is copied first: what can fail comes before what is remembered. */
static bool take_value(aidb_iterator *iterator, const lsm_entry *entry) {
	aidb_status rc = aidb_buffer_set(&iterator->value, lsm_user_value(entry));

	if (rc != AIDB_OK) {
		fail(iterator, rc);
		return false;
	}
	iterator->version = lsm_sequence_of(entry->trailer);
	return true;
}

/* ---- Passing over entries ------------------------------------------------------------------------------------ */

/* Back to the entry that was there before the merge was made anew, or where it would be. */
static void find_again(aidb_iterator *iterator, const key_copy *key, uint64_t trailer, bool backward) {
	lsm_cursor *merge = iterator->merge;

	if (!backward) {
		merge->ops->seek(merge, slice_of(key), trailer);
	} else if (lsm_sequence_of(trailer) > 0) {
		lsm_merge_seek_before(merge, slice_of(key), lsm_seek_trailer(lsm_sequence_of(trailer) - 1));
	} else {
		lsm_merge_seek_before(merge, slice_of(key), BEYOND_VERSIONS);
	}
}

/* After very many entries without a result: leaves and enters the epoch, and lets an interrupt through. */
static bool breathe(aidb_iterator *iterator, bool backward) {
	lsm_cursor *merge = iterator->merge;
	uint64_t trailer = merge->entry.trailer;
	key_copy key;
	bool renewed = false;
	aidb_status rc;

	set_key(&key, merge->entry.key);
	iterator->passed = 0;
	lsm_epoch_leave(&iterator->db->arena, iterator->member);
	rc = lsm_check_interrupt(iterator->db);
	lsm_epoch_enter(&iterator->db->arena, iterator->member);
	if (rc == AIDB_OK) {
		rc = renew(iterator, &renewed);
	}
	if (rc != AIDB_OK) {
		fail(iterator, rc);
		return false;
	}
	if (renewed) {
		find_again(iterator, &key, trailer, backward);
	}
	return true;
}

/* Counts an entry that is to be passed over. True: many versions of its key have been. */
static bool note_passed(aidb_iterator *iterator, aidb_slice key) {
	iterator->passed++;
	if (iterator->passed_versions == 0 || !is_key(&iterator->passed_key, key)) {
		set_key(&iterator->passed_key, key);
		iterator->passed_versions = 0;
	}
	return ++iterator->passed_versions > MAX_STEPS_PER_KEY;
}

/* Moves forward over the present entry. Nothing of its key is wanted before `trailer`. False on failure. */
static bool pass_forward(aidb_iterator *iterator, uint64_t trailer) {
	lsm_cursor *merge = iterator->merge;

	if (note_passed(iterator, merge->entry.key)) {
		iterator->passed_versions = 0;
		merge->ops->seek(merge, slice_of(&iterator->passed_key), trailer);
	} else {
		merge->ops->next(merge);
	}
	return iterator->passed < ENTRIES_PER_EPOCH || !merge->valid || breathe(iterator, false);
}

/* ---- Forward ------------------------------------------------------------------------------------------------- */

/* From where the merge stands to the first visible key; with `hide` not the one shown. */
static void find_forward(aidb_iterator *iterator, bool hide) {
	lsm_cursor *merge = iterator->merge;

	iterator->valid = false;
	while (merge->valid) {
		const lsm_entry *entry = &merge->entry;
		uint64_t trailer = BEYOND_VERSIONS;

		if (iterator->upper.data != NULL && lsm_compare(entry->key, iterator->upper) >= 0) {
			break;
		}
		if (!hide || !is_key(&iterator->key, entry->key)) {
			if (lsm_view_sees(&iterator->view, entry)) {
				if (!lsm_is_delete(entry->trailer)) {
					iterator->valid = take_value(iterator, entry);
					set_key(&iterator->key, entry->key);
					return;
				}
				set_key(&iterator->key, entry->key);
				hide = true;
			} else {
				/* too new, or of a transaction that is not seen: the next older one may be */
				trailer = lsm_view_start(&iterator->view);
				if (entry->trailer <= trailer) {
					trailer = lsm_seek_trailer(lsm_sequence_of(entry->trailer) - 1);
				}
				lsm_view_pass(&iterator->view, entry);
			}
		}
		if (!pass_forward(iterator, trailer)) {
			return;
		}
		merge = iterator->merge;
	}
	show_end(iterator);
}

/* ---- Backward ------------------------------------------------------------------------------------------------ */

/* Many versions: finds the one that is seen from the front, and leaves the merge before the key. False on failure. */
static bool resolve_key(aidb_iterator *iterator, bool *found) {
	lsm_cursor *merge = iterator->merge;

	*found = false;
	merge->ops->seek(merge, slice_of(&iterator->key), lsm_view_start(&iterator->view));
	while (merge->valid && is_key(&iterator->key, merge->entry.key)) {
		if (lsm_view_sees(&iterator->view, &merge->entry)) {
			*found = !lsm_is_delete(merge->entry.trailer);
			if (*found && !take_value(iterator, &merge->entry)) {
				return false;
			}
			break;
		}
		lsm_view_pass(&iterator->view, &merge->entry);
		merge->ops->next(merge);
	}
	if (!merge->valid && merge->status != AIDB_OK) {
		return true; /* the caller sees it */
	}
	lsm_merge_seek_before(merge, slice_of(&iterator->key), BEFORE_VERSIONS);
	return true;
}

/* Goes back over the versions of the key that the merge stands on, oldest first. The last one seen counts. */
static bool pass_key(aidb_iterator *iterator, bool *found) {
	lsm_cursor *merge = iterator->merge;

	set_key(&iterator->key, merge->entry.key);
	*found = false;
	while (merge->valid && is_key(&iterator->key, merge->entry.key)) {
		if (note_passed(iterator, merge->entry.key)) {
			return resolve_key(iterator, found);
		}
		if (lsm_view_sees(&iterator->view, &merge->entry)) {
			*found = !lsm_is_delete(merge->entry.trailer);
			if (*found && !take_value(iterator, &merge->entry)) {
				return false;
			}
		} else {
			lsm_view_pass(&iterator->view, &merge->entry);
		}
		merge->ops->prev(merge);
	}
	return true;
}

/* From where the merge stands back to the first visible key. */
static void find_backward(aidb_iterator *iterator) {
	bool found = false;

	iterator->valid = false;
	while (iterator->merge->valid) {
		if (iterator->lower.data != NULL && lsm_compare(iterator->merge->entry.key, iterator->lower) < 0) {
			break;
		}
		if (!pass_key(iterator, &found)) {
			return;
		}
		if (!iterator->merge->valid && iterator->merge->status != AIDB_OK) {
			break; /* newer versions of the key may be missing */
		}
		if (found) {
			iterator->valid = true;
			return;
		}
		if (iterator->passed >= ENTRIES_PER_EPOCH && iterator->merge->valid && !breathe(iterator, true)) {
			return;
		}
	}
	show_end(iterator);
}

/* ---- Public -------------------------------------------------------------------------------------------------- */

aidb_status aidb_iterator_create(aidb_db *db, const aidb_read_options *options, aidb_iterator **iterator) {
	aidb_iterator *created = calloc(1, sizeof(*created));
	aidb_status rc = AIDB_OK;

	if (created == NULL) {
		return lsm_fail(AIDB_NO_MEMORY, "out of memory: could not make an iterator");
	}
	created->db = db;
	created->source = lsm_source_of(db, 0);
	created->reading = (lsm_table_reading){.use = LSM_CACHE_FILL, .priority = LSM_CACHE_LOW};
	if (options != NULL) {
		created->view = lsm_view_of(options);
		created->lower = options->lower;
		created->upper = options->upper;
		created->reading.use = options->skip_cache_fill ? LSM_CACHE_PEEK : LSM_CACHE_FILL;
	}
	if (created->view.sequence == 0 || created->view.sequence >= AIDB_SEQUENCE_LATEST) {
		rc = aidb_snapshot_acquire(db, &created->snapshot);
		created->owns_snapshot = rc == AIDB_OK;
		created->view.sequence = created->snapshot.sequence;
	}
	if (rc != AIDB_OK) {
		free(created);
		return rc;
	}
	*iterator = created;
	return AIDB_OK;
}

void aidb_iterator_destroy(aidb_iterator *iterator) {
	if (iterator == NULL) {
		return;
	}
	if (iterator->owns_snapshot) {
		aidb_snapshot_release(iterator->db, &iterator->snapshot);
	}
	close_merge(iterator);
	aidb_buffer_free(&iterator->value);
	free(iterator);
}

static bool begin_seek(aidb_iterator *iterator, bool backward) {
	bool renewed;

	iterator->status = AIDB_OK;
	iterator->backward = backward;
	if (!begin(iterator, &renewed)) {
		return false;
	}
	lsm_count(&lsm_read_counters_of(iterator->db, iterator->member)->seeks, 1);
	return true;
}

void aidb_iterator_seek(aidb_iterator *iterator, aidb_slice key) {
	lsm_cursor *merge;

	if (!begin_seek(iterator, false)) {
		return;
	}
	if (iterator->lower.data != NULL && lsm_compare(key, iterator->lower) < 0) {
		key = iterator->lower;
	}
	merge = iterator->merge;
	merge->ops->seek(merge, key, lsm_view_start(&iterator->view));
	find_forward(iterator, false);
	end(iterator);
}

void aidb_iterator_seek_first(aidb_iterator *iterator) {
	if (iterator->lower.data != NULL) {
		aidb_iterator_seek(iterator, iterator->lower);
		return;
	}
	if (begin_seek(iterator, false)) {
		iterator->merge->ops->seek_first(iterator->merge);
		find_forward(iterator, false);
		end(iterator);
	}
}

/* To the last visible key before (key, trailer). */
static void seek_back(aidb_iterator *iterator, aidb_slice key, uint64_t trailer) {
	if (begin_seek(iterator, true)) {
		lsm_merge_seek_before(iterator->merge, key, trailer);
		find_backward(iterator);
		end(iterator);
	}
}

void aidb_iterator_seek_for_prev(aidb_iterator *iterator, aidb_slice key) {
	if (iterator->upper.data != NULL && lsm_compare(key, iterator->upper) >= 0) {
		seek_back(iterator, iterator->upper, BEFORE_VERSIONS);
	} else {
		seek_back(iterator, key, BEYOND_VERSIONS);
	}
}

void aidb_iterator_seek_last(aidb_iterator *iterator) {
	if (iterator->upper.data != NULL) {
		seek_back(iterator, iterator->upper, BEFORE_VERSIONS);
	} else if (begin_seek(iterator, true)) {
		iterator->merge->ops->seek_last(iterator->merge);
		find_backward(iterator);
		end(iterator);
	}
}

void aidb_iterator_next(aidb_iterator *iterator) {
	bool renewed;

	if (!iterator->valid || !begin(iterator, &renewed)) {
		return;
	}
	if (renewed || iterator->backward) {
		iterator->merge->ops->seek(iterator->merge, slice_of(&iterator->key), BEYOND_VERSIONS);
		iterator->backward = false;
	} else {
		iterator->merge->ops->next(iterator->merge);
	}
	find_forward(iterator, true);
	end(iterator);
}

void aidb_iterator_prev(aidb_iterator *iterator) {
	bool renewed;

	if (!iterator->valid || !begin(iterator, &renewed)) {
		return;
	}
	if (renewed || !iterator->backward) {
		lsm_merge_seek_before(iterator->merge, slice_of(&iterator->key), BEFORE_VERSIONS);
		iterator->backward = true;
	}
	find_backward(iterator);
	end(iterator);
}

bool aidb_iterator_valid(const aidb_iterator *iterator) {
	return iterator->valid;
}

aidb_status aidb_iterator_status(const aidb_iterator *iterator) {
	return iterator->status;
}

aidb_slice aidb_iterator_key(const aidb_iterator *iterator) {
	return slice_of(&iterator->key);
}

aidb_slice aidb_iterator_value(const aidb_iterator *iterator) {
	return (aidb_slice){iterator->value.data, iterator->value.size};
}

aidb_sequence aidb_iterator_version(const aidb_iterator *iterator) {
	return iterator->version;
}
