#include "store/version.h"

#include <assert.h>

#include "base/status.h"

/* ---- File descriptions ----------------------------------------------------------------------------------- */

static uint64_t file_size_of(const lsm_file *file) {
	return sizeof(*file) + file->smallest_bytes + file->largest_bytes;
}

lsm_ref lsm_file_create(const lsm_arena *arena, lsm_heap *heap, uint64_t number,
						const lsm_sstable_properties *properties, aidb_slice smallest, uint64_t smallest_trailer,
						aidb_slice largest, uint64_t largest_trailer) {
	lsm_ref ref = lsm_heap_allocate(arena, heap, sizeof(lsm_file) + smallest.size + largest.size);
	lsm_file *file;

	if (ref == 0) {
		return 0;
	}
	file = lsm_at(arena, ref);
	file->number = number;
	file->properties = *properties;
	file->smallest_trailer = smallest_trailer;
	file->largest_trailer = largest_trailer;
	file->smallest_bytes = (uint32_t)smallest.size;
	file->largest_bytes = (uint32_t)largest.size;
	if (smallest.size > 0) {
		memcpy(file->keys, smallest.data, smallest.size);
	}
	if (largest.size > 0) {
		memcpy(file->keys + smallest.size, largest.data, largest.size);
	}
	return ref;
}

void lsm_file_release(const lsm_arena *arena, lsm_heap *heap, lsm_ref ref) {
	lsm_heap_release(arena, heap, ref, file_size_of(lsm_at(arena, ref)));
}

bool lsm_file_overlaps(const lsm_file *file, aidb_slice smallest, aidb_slice largest) {
	return lsm_compare(lsm_file_smallest(file), largest) <= 0 && lsm_compare(lsm_file_largest(file), smallest) >= 0;
}

uint32_t lsm_level_find(const lsm_arena *arena, const lsm_version *version, int level, aidb_slice key) {
	uint32_t low = 0, high = lsm_level_count(version, level);

	while (low < high) {
		uint32_t middle = low + (high - low) / 2;

		if (lsm_compare(lsm_file_largest(lsm_level_file(arena, version, level, middle)), key) < 0) {
			low = middle + 1;
		} else {
			high = middle;
		}
	}
	return low;
}

/* ---- Building versions ----------------------------------------------------------------------------------- */

static uint64_t version_bytes(uint32_t files) {
	return sizeof(lsm_version) + files * sizeof(lsm_ref);
}

static bool contains(const lsm_ref *refs, uint32_t count, lsm_ref ref) {
	for (uint32_t i = 0; i < count; i++) {
		if (refs[i] == ref) {
			return true;
		}
	}
	return false;
}

/* Whether `a` stands before `b` in a level. */
static bool precedes(int level, const lsm_file *a, const lsm_file *b) {
	if (level == 0) {
		return a->number > b->number;
	}
	return lsm_compare(lsm_file_smallest(a), lsm_file_smallest(b)) < 0;
}

/* Puts a file into the level that begins at `begin` and ends at `end`, from the back, where it mostly belongs. */
static void insert_file(const lsm_arena *arena, lsm_version *version, int level, uint32_t begin, uint32_t end,
						lsm_ref ref) {
	uint32_t at = end;

	while (at > begin && precedes(level, lsm_at(arena, ref), lsm_at(arena, version->files[at - 1]))) {
		version->files[at] = version->files[at - 1];
		at--;
	}
	version->files[at] = ref;
}

static void fill_level(const lsm_arena *arena, lsm_version *version, const lsm_version *old,
					   const lsm_version_edit *edit, int level) {
	uint32_t begin = version->level_begin[level];
	uint32_t end = begin;

	for (uint32_t i = old->level_begin[level]; i < old->level_begin[level + 1]; i++) {
		if (!contains(edit->removed_files, edit->removed_count, old->files[i])) {
			version->files[end++] = old->files[i];
		}
	}
	for (uint32_t i = 0; i < edit->added_count; i++) {
		if (edit->added_levels[i] == level) {
			insert_file(arena, version, level, begin, end, edit->added_files[i]);
			end++;
		}
	}
	version->level_begin[level + 1] = end;
}

static void fill_memtables(lsm_version *version, const lsm_version *old, const lsm_version_edit *edit) {
	if (edit->add_memtable >= 0) {
		version->memtables[version->memtable_count++] = (uint32_t)edit->add_memtable;
	}
	for (uint32_t i = 0; i < old->memtable_count; i++) {
		if ((int)old->memtables[i] != edit->remove_memtable) {
			assert(version->memtable_count < LSM_MEMTABLES);
			version->memtables[version->memtable_count++] = old->memtables[i];
		}
	}
	assert(version->memtable_count > 0);
}

lsm_ref lsm_version_build(const lsm_arena *arena, lsm_heap *heap, lsm_versions *versions,
						  const lsm_version_edit *edit) {
	const lsm_version *old = lsm_version_current(arena, versions);
	uint32_t files = old->level_begin[AIDB_LEVELS] + edit->added_count - edit->removed_count;
	uint64_t bytes = version_bytes(files);
	lsm_ref ref = lsm_heap_allocate(arena, heap, bytes);
	lsm_version *version;

	if (ref == 0) {
		return 0;
	}
	version = lsm_at(arena, ref);
	version->number = old->number + 1;
	version->bytes = bytes;
	fill_memtables(version, old, edit);
	for (int level = 0; level < AIDB_LEVELS; level++) {
		fill_level(arena, version, old, edit, level);
	}
	assert(version->level_begin[AIDB_LEVELS] == files);
	return ref;
}

aidb_status lsm_versions_init(const lsm_arena *arena, lsm_heap *heap, lsm_versions *versions, uint32_t memtable) {
	uint64_t bytes = version_bytes(0);
	lsm_ref ref = lsm_heap_allocate(arena, heap, bytes);
	lsm_version *version;

	if (ref == 0) {
		return lsm_fail(AIDB_NO_MEMORY,
						"the arena has no memory left for the list of files; give the store more memory");
	}
	version = lsm_at(arena, ref);
	version->number = 1;
	version->bytes = bytes;
	version->memtable_count = 1;
	version->memtables[0] = memtable;
	atomic_store(&versions->current, ref);
	atomic_store(&versions->next_file_number, 1);
	return AIDB_OK;
}

/* ---- Installing and retiring ------------------------------------------------------------------------------- */

void lsm_version_install(const lsm_arena *arena, lsm_versions *versions, lsm_ref ref, const lsm_version_edit *edit) {
	lsm_ref old_ref = atomic_load(&versions->current);
	lsm_version *old = lsm_at(arena, old_ref);
	uint64_t epoch;

	atomic_store(&versions->current, ref);
	epoch = lsm_epoch_retire(arena);
	old->retired_epoch = epoch;
	old->next_retired = versions->retired_versions;
	versions->retired_versions = old_ref;
	for (uint32_t i = 0; i < edit->removed_count; i++) {
		lsm_file *file = lsm_at(arena, edit->removed_files[i]);

		if (contains(edit->added_files, edit->added_count, edit->removed_files[i])) {
			continue; /* it moved */
		}
		file->retired_epoch = epoch;
		file->next_retired = versions->retired_files;
		versions->retired_files = edit->removed_files[i];
	}
	if (edit->remove_memtable >= 0) {
		versions->retired_memtable_epochs[edit->remove_memtable] = epoch;
	}
	lsm_event_signal(&arena->waiting, &versions->changed);
}

/* The next three give back what was retired before `safe`; latch held. Newest first: from the first one on that is old
 * enough, all are. They return whether there was any. */

static bool reclaim_versions(const lsm_arena *arena, lsm_heap *heap, lsm_versions *versions, uint64_t safe) {
	lsm_ref *link = &versions->retired_versions;
	lsm_ref ref;

	while (*link != 0 && ((lsm_version *)lsm_at(arena, *link))->retired_epoch >= safe) {
		link = &((lsm_version *)lsm_at(arena, *link))->next_retired;
	}
	ref = *link;
	*link = 0;
	if (ref == 0) {
		return false;
	}
	while (ref != 0) {
		const lsm_version *version = lsm_at(arena, ref);
		lsm_ref next = version->next_retired;

		lsm_heap_release(arena, heap, ref, version->bytes);
		ref = next;
	}
	return true;
}

static bool take_dead_files(const lsm_arena *arena, lsm_versions *versions, uint64_t safe, lsm_ref *dead) {
	lsm_ref *link = &versions->retired_files;

	while (*link != 0 && ((lsm_file *)lsm_at(arena, *link))->retired_epoch >= safe) {
		link = &((lsm_file *)lsm_at(arena, *link))->next_retired;
	}
	*dead = *link;
	*link = 0;
	for (lsm_ref ref = *dead; ref != 0; ref = ((lsm_file *)lsm_at(arena, ref))->next_retired) {
		uint64_t count = atomic_load(&versions->removed_count);

		atomic_store(&versions->removed_files[count % LSM_REMOVED_FILES], ((lsm_file *)lsm_at(arena, ref))->number);
		atomic_store(&versions->removed_count, count + 1);
	}
	return *dead != 0;
}

static bool reclaim_memtables(lsm_versions *versions, lsm_memtable *memtables, uint64_t safe) {
	bool any = false;

	for (int i = 0; i < LSM_MEMTABLES; i++) {
		if (versions->retired_memtable_epochs[i] != 0 && versions->retired_memtable_epochs[i] < safe) {
			versions->retired_memtable_epochs[i] = 0;
			memtables[i].number = 0;
			any = true;
		}
	}
	return any;
}

void lsm_versions_reclaim(const lsm_arena *arena, lsm_heap *heap, lsm_versions *versions, lsm_memtable *memtables,
						  void (*remove_file)(void *argument, uint64_t number), void *argument) {
	lsm_ref dead = 0;
	uint64_t safe;
	bool any;

	if (!lsm_latch_acquire(&arena->waiting, &versions->latch)) {
		return;
	}
	safe = lsm_epoch_safe(arena);
	any = reclaim_versions(arena, heap, versions, safe);
	any = take_dead_files(arena, versions, safe, &dead) || any;
	any = reclaim_memtables(versions, memtables, safe) || any;
	lsm_latch_release(&arena->waiting, &versions->latch);
	while (dead != 0) { /* nobody else knows them any more */
		const lsm_file *file = lsm_at(arena, dead);
		lsm_ref next = file->next_retired;

		remove_file(argument, file->number);
		lsm_file_release(arena, heap, dead);
		dead = next;
	}
	if (any) {
		lsm_event_signal(&arena->waiting, &versions->changed);
	}
}
