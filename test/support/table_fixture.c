#include "table_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "store_fixture.h"

#define HEAP_BYTES (4u << 20)

/* ---- Entries --------------------------------------------------------------------------------------------- */

static aidb_slice copy_of(aidb_slice bytes) {
	uint8_t *copy = malloc(bytes.size + 1);

	assert_non_null(copy);
	if (bytes.size > 0) {
		memcpy(copy, bytes.data, bytes.size);
	}
	return (aidb_slice){copy, bytes.size};
}

void entries_add(entry_list *list, aidb_slice key, uint64_t trailer, aidb_slice value) {
	if (list->count == list->capacity) {
		list->capacity = list->capacity == 0 ? 64 : list->capacity * 2;
		list->entries = realloc(list->entries, list->capacity * sizeof(lsm_entry));
		assert_non_null(list->entries);
	}
	list->entries[list->count++] = (lsm_entry){copy_of(key), trailer, copy_of(value)};
}

void entries_add_text(entry_list *list, const char *key, aidb_sequence sequence, const char *value) {
	entries_add(list, text(key), lsm_trailer(sequence, value == NULL ? LSM_KIND_DELETE : LSM_KIND_PUT),
				text(value == NULL ? "" : value));
}

void entries_add_random(entry_list *list, uint64_t *seed, uint32_t keys, uint32_t sequences, uint32_t max_value_bytes) {
	aidb_sequence sequence = 1 + store_random_below(seed, sequences);
	unsigned kind = store_random_below(seed, 5) == 0 ? LSM_KIND_DELETE : LSM_KIND_PUT;
	size_t value_bytes = kind == LSM_KIND_PUT ? (size_t)store_random_below(seed, max_value_bytes + 1) : 0;
	uint8_t *value = malloc(value_bytes + LSM_TAG_BYTES);
	char key[64];

	assert_non_null(value);
	snprintf(key, sizeof(key), "key%0*u", (int)(3 + store_random_below(seed, 3)),
			 (unsigned)store_random_below(seed, keys));
	for (size_t i = 0; i < value_bytes; i++) {
		value[i] = (uint8_t)(store_random(seed) % (i % 64 < 32 ? 2 : 256));
	}
	entries_add(list, text(key), lsm_trailer(sequence, kind), (aidb_slice){value, value_bytes});
	free(value);
}

static int compare_entries(const void *a, const void *b) {
	const lsm_entry *left = a, *right = b;

	return lsm_compare_versions(left->key, left->trailer, right->key, right->trailer);
}

static void free_entry(const lsm_entry *entry) {
	free((void *)entry->key.data);
	free((void *)entry->value.data);
}

/* Stable, as qsort need not be. */
static void merge_sort(lsm_entry *entries, lsm_entry *room, uint32_t count) {
	uint32_t half = count / 2, left = 0, right = half;

	if (count < 2) {
		return;
	}
	merge_sort(entries, room, half);
	merge_sort(entries + half, room, count - half);
	for (uint32_t i = 0; i < count; i++) {
		bool take_left = right == count || (left < half && compare_entries(&entries[left], &entries[right]) <= 0);

		room[i] = take_left ? entries[left++] : entries[right++];
	}
	memcpy(entries, room, count * sizeof(*entries));
}

void entries_sort(entry_list *list) {
	lsm_entry *room = malloc((list->count + 1) * sizeof(*room));
	uint32_t kept = 0;

	assert_non_null(room);
	merge_sort(list->entries, room, list->count);
	free(room);
	for (uint32_t i = 0; i < list->count; i++) {
		if (kept > 0 && compare_entries(&list->entries[kept - 1], &list->entries[i]) == 0) {
			free_entry(&list->entries[i]);
		} else {
			list->entries[kept++] = list->entries[i];
		}
	}
	list->count = kept;
}

void entries_free(entry_list *list) {
	for (uint32_t i = 0; i < list->count; i++) {
		free_entry(&list->entries[i]);
	}
	free(list->entries);
	*list = (entry_list){0};
}

bool entries_equal(const lsm_entry *a, const lsm_entry *b) {
	return a->trailer == b->trailer && lsm_equal(a->key, b->key) && lsm_equal(a->value, b->value);
}

uint32_t entries_find(const entry_list *list, aidb_slice key, uint64_t trailer) {
	uint32_t i = 0;

	while (i < list->count && lsm_compare_versions(list->entries[i].key, list->entries[i].trailer, key, trailer) < 0) {
		i++;
	}
	return i;
}

/* ---- A cursor over a list ---------------------------------------------------------------------------------- */

typedef struct list_cursor {
	lsm_cursor base;
	const entry_list *list;
	uint32_t at; /* beyond the end: not valid, as is UINT32_MAX */
	aidb_status error;
	uint32_t error_at;
} list_cursor;

static void list_show(lsm_cursor *base) {
	list_cursor *cursor = (list_cursor *)base;

	base->valid = cursor->at < cursor->list->count;
	base->status = AIDB_OK;
	if (base->valid && cursor->error != AIDB_OK && cursor->at == cursor->error_at) {
		base->valid = false;
		base->status = cursor->error;
	}
	if (base->valid) {
		base->entry = cursor->list->entries[cursor->at];
	}
}

static void list_seek(lsm_cursor *base, aidb_slice key, uint64_t trailer) {
	list_cursor *cursor = (list_cursor *)base;

	cursor->at = entries_find(cursor->list, key, trailer);
	list_show(base);
}

static void list_seek_first(lsm_cursor *base) {
	((list_cursor *)base)->at = 0;
	list_show(base);
}

static void list_seek_last(lsm_cursor *base) {
	list_cursor *cursor = (list_cursor *)base;

	cursor->at = cursor->list->count - 1;
	list_show(base);
}

static void list_next(lsm_cursor *base) {
	assert_true(base->valid);
	((list_cursor *)base)->at++;
	list_show(base);
}

static void list_prev(lsm_cursor *base) {
	assert_true(base->valid);
	((list_cursor *)base)->at--;
	list_show(base);
}

static void list_close(lsm_cursor *base) {
	free(base);
}

static const lsm_cursor_ops list_ops = {.seek = list_seek,
										.seek_first = list_seek_first,
										.seek_last = list_seek_last,
										.next = list_next,
										.prev = list_prev,
										.close = list_close};

lsm_cursor *entries_cursor(const entry_list *list, aidb_status error, uint32_t error_at) {
	list_cursor *cursor = calloc(1, sizeof(*cursor));

	assert_non_null(cursor);
	*cursor =
		(list_cursor){.base = {.ops = &list_ops}, .list = list, .at = UINT32_MAX, .error = error, .error_at = error_at};
	return &cursor->base;
}

static void assert_at(const lsm_cursor *cursor, const entry_list *list, uint32_t index) {
	assert_int_equal(cursor->status, AIDB_OK);
	assert_int_equal(cursor->valid, index < list->count);
	if (cursor->valid) {
		assert_true(entries_equal(&cursor->entry, &list->entries[index]));
	}
}

/* A seek to somewhere at, between or beyond the entries; the index where it is to arrive. */
static uint32_t seek_at_random(lsm_cursor *cursor, const entry_list *list, uint64_t *seed) {
	const lsm_entry *near = &list->entries[store_random_below(seed, list->count)];
	aidb_sequence sequence = lsm_sequence_of(near->trailer);
	uint64_t trailer = lsm_trailer(sequence + store_random_below(seed, 3), 0xff);
	uint8_t key[AIDB_MAX_KEY_BYTES + 1];
	aidb_slice target = {key, near->key.size};

	memcpy(key, near->key.data, near->key.size);
	switch (store_random_below(seed, 8)) {
	case 0:
		cursor->ops->seek_first(cursor);
		return 0;
	case 1:
		cursor->ops->seek_last(cursor);
		return list->count - 1;
	case 2:
		key[target.size++] = (uint8_t)store_random(seed);
		break;
	case 3:
		key[target.size - 1]++;
		break;
	case 4:
		target.size--;
		break;
	default:
		break;
	}
	cursor->ops->seek(cursor, target, trailer);
	return entries_find(list, target, trailer);
}

void entries_check_cursor(lsm_cursor *cursor, const entry_list *list, uint64_t *seed, uint32_t steps) {
	uint32_t at = list->count;
	bool forward = true;

	for (uint32_t i = 0; i < steps; i++) {
		if (at >= list->count || store_random_below(seed, 40) == 0) {
			at = seek_at_random(cursor, list, seed);
		} else if (forward) {
			cursor->ops->next(cursor);
			at++;
		} else {
			cursor->ops->prev(cursor);
			at--; /* UINT32_MAX before the first */
		}
		assert_at(cursor, list, at);
		forward = store_random_below(seed, 20) == 0 ? !forward : forward;
	}
}

/* ---- Tables ------------------------------------------------------------------------------------------------ */

static table_fixture *counting; /* one fixture at a time */

static int open_file(void *context, const char *path, int flags, int *file) {
	counting->opens++;
	return counting->arena.host->file_open(context, path, flags, file);
}

static int read_file(void *context, int file, void *data, size_t size, uint64_t offset, size_t *got) {
	counting->reads++;
	return counting->arena.host->file_read(context, file, data, size, offset, got);
}

void table_fixture_create(table_fixture *fixture, uint32_t cache_sets) {
	lsm_ref heap, cache;

	*fixture = (table_fixture){.next_number = 1};
	counting = fixture;
	fixture_create(&fixture->arena, lsm_cache_bytes(cache_sets) + HEAP_BYTES + (1 << 20), 16);
	fixture->host = *fixture->arena.host;
	fixture->host.file_open = open_file;
	fixture->host.file_read = read_file;
	heap = fixture_take(&fixture->arena, HEAP_BYTES, 4096);
	lsm_heap_init(&fixture->heap, heap, heap + HEAP_BYTES / LSM_REF_UNIT);
	cache = fixture_take(&fixture->arena, lsm_cache_bytes(cache_sets), 4096);
	lsm_cache_init(&fixture->arena.arena, &fixture->cache, cache, cache_sets);
	directory_make(fixture->directory);
	assert_ok(lsm_file_table_create(&fixture->host, fixture->directory, &fixture->files));
	fixture->source = (lsm_block_source){.arena = &fixture->arena.arena,
										 .cache = &fixture->cache,
										 .host = &fixture->host,
										 .files = fixture->files,
										 .directory = fixture->directory,
										 .member = fixture_member(&fixture->arena)};
}

void table_fixture_destroy(table_fixture *fixture) {
	assert_int_equal(lsm_cache_loading(&fixture->arena.arena, &fixture->cache), 0);
	lsm_file_table_destroy(fixture->files);
	directory_remove(fixture->directory);
	fixture_destroy(&fixture->arena);
}

lsm_ref table_fixture_write(table_fixture *fixture, const entry_list *list, uint32_t begin, uint32_t end,
							aidb_compression compression) {
	lsm_sstable_options options = {.filter_bits = 10, .compression = compression};
	uint64_t number = fixture->next_number++;
	lsm_table_description made;
	lsm_table_writer *writer;
	lsm_ref file;

	assert_ok(lsm_table_writer_create(&fixture->host, fixture->directory, number, &options, &writer));
	for (uint32_t i = begin; i < end; i++) {
		assert_ok(lsm_table_writer_add(writer, &list->entries[i]));
	}
	assert_ok(lsm_table_writer_finish(writer, &made));
	assert_int_equal(made.properties.entries, end - begin);
	file = lsm_file_create(&fixture->arena.arena, &fixture->heap, number, &made.properties, made.smallest,
						   made.smallest_trailer, made.largest, made.largest_trailer);
	lsm_table_writer_destroy(writer);
	assert_int_not_equal(file, 0);
	return file;
}

const lsm_file *table_fixture_file(const table_fixture *fixture, lsm_ref file) {
	return lsm_at(&fixture->arena.arena, file);
}
