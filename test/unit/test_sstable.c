/* format/sstable.h: a file is read back by walking its index, and every promise of the format is checked on the way. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "base/checksum.h"
#include "base/status.h"
#include "format/sstable.h"
#include "random.h"

#define PATH "000007.sst"

/* ---- A file and the entries in it ---------------------------------------------------------------------- */

/* Entries, their bytes in one arena; values are derived from a count, so that large files need little memory here. */
typedef struct entry_list {
	lsm_entry *entries;
	int count;
	uint8_t *bytes;
	size_t used;
	size_t capacity;
} entry_list;

static void list_create(entry_list *list, int count, size_t bytes) {
	*list =
		(entry_list){.entries = calloc((size_t)count, sizeof(lsm_entry)), .bytes = malloc(bytes), .capacity = bytes};
	assert_non_null(list->entries);
	assert_non_null(list->bytes);
}

static void list_free(entry_list *list) {
	free(list->entries);
	free(list->bytes);
}

static aidb_slice list_keep(entry_list *list, const void *data, size_t size) {
	uint8_t *kept = list->bytes + list->used;

	assert_true(list->used + size <= list->capacity);
	memcpy(kept, data, size);
	list->used += size;
	return (aidb_slice){kept, size};
}

static void list_add(entry_list *list, aidb_slice key, uint64_t trailer, const void *value, size_t value_bytes) {
	lsm_entry *entry = &list->entries[list->count++];

	entry->key = list_keep(list, key.data, key.size);
	entry->trailer = trailer;
	entry->value = list_keep(list, value, value_bytes);
}

static int by_version(const void *a, const void *b) {
	const lsm_entry *left = a;
	const lsm_entry *right = b;

	return lsm_compare_versions(left->key, left->trailer, right->key, right->trailer);
}

static void list_sort(entry_list *list) {
	int kept = 0;

	qsort(list->entries, (size_t)list->count, sizeof(lsm_entry), by_version);
	for (int i = 0; i < list->count; i++) {
		if (kept == 0 || by_version(&list->entries[kept - 1], &list->entries[i]) != 0) {
			list->entries[kept++] = list->entries[i];
		}
	}
	list->count = kept;
}

typedef struct test_file {
	aidb_buffer bytes;
	lsm_sstable_properties properties;
	uint32_t filter_bits;
	size_t fail_at; /* the sink fails once the file would exceed this; 0: never */
} test_file;

static aidb_status file_append(void *argument, const void *data, size_t size) {
	test_file *file = argument;

	if (file->fail_at != 0 && file->bytes.size + size > file->fail_at) {
		return lsm_fail(AIDB_NO_SPACE, "the test's disk is full");
	}
	return lsm_buffer_append(&file->bytes, data, size);
}

static void file_build(test_file *file, const entry_list *list, uint32_t filter_bits, aidb_compression compression) {
	const lsm_sstable_options options = {.filter_bits = filter_bits, .compression = compression};
	lsm_sstable_builder *builder = NULL;
	aidb_slice smallest;
	aidb_slice largest;
	uint64_t smallest_trailer;
	uint64_t largest_trailer;

	*file = (test_file){.filter_bits = filter_bits};
	assert_int_equal(lsm_sstable_builder_create(&options, file_append, file, &builder), AIDB_OK);
	for (int i = 0; i < list->count; i++) {
		uint64_t before = lsm_sstable_builder_bytes(builder);

		assert_int_equal(lsm_sstable_builder_add(builder, &list->entries[i]), AIDB_OK);
		assert_true(lsm_sstable_builder_bytes(builder) > before || compression != AIDB_COMPRESSION_NONE);
	}
	assert_int_equal(lsm_sstable_builder_finish(builder, &file->properties), AIDB_OK);
	lsm_sstable_builder_range(builder, &smallest, &largest);
	lsm_sstable_builder_trailers(builder, &smallest_trailer, &largest_trailer);
	assert_true(lsm_equal(smallest, list->entries[0].key));
	assert_true(lsm_equal(largest, list->entries[list->count - 1].key));
	assert_true(smallest_trailer == list->entries[0].trailer);
	assert_true(largest_trailer == list->entries[list->count - 1].trailer);
	lsm_sstable_builder_destroy(builder);
}

/* ---- Walking a file ------------------------------------------------------------------------------------ */

static aidb_slice block_read(const test_file *file, lsm_handle handle) {
	aidb_slice sealed = {file->bytes.data + handle.offset, handle.size + LSM_ENVELOPE_BYTES};
	size_t size = 0;
	uint8_t *contents;

	assert_true(handle.offset + sealed.size <= file->bytes.size - LSM_FOOTER_BYTES);
	assert_int_equal(lsm_block_open(sealed, handle.offset, PATH, &size), AIDB_OK);
	contents = malloc(size + 1);
	assert_non_null(contents);
	assert_int_equal(lsm_block_unpack(sealed, handle.offset, PATH, contents, size), AIDB_OK);
	return (aidb_slice){contents, size};
}

/* What a walk in order has met so far. */
typedef struct file_walk {
	const test_file *file;
	const entry_list *list;
	int at;            /* the next entry to come */
	int nodes;         /* index nodes */
	int largest_node;  /* entries */
	uint32_t max_keys; /* of one filter */
} file_walk;

static void walk_data_block(file_walk *walk, lsm_handle handle) {
	aidb_slice contents = block_read(walk->file, handle);
	lsm_block_cursor cursor;
	int count = 0;

	lsm_block_cursor_open(&cursor, contents);
	for (lsm_block_cursor_seek_first(&cursor); cursor.valid; lsm_block_cursor_next(&cursor)) {
		const lsm_entry *expected = &walk->list->entries[walk->at++];

		assert_true(walk->at <= walk->list->count);
		assert_true(lsm_equal(cursor.entry.key, expected->key));
		assert_true(cursor.entry.trailer == expected->trailer);
		assert_true(lsm_equal(cursor.entry.value, expected->value));
		count++;
	}
	assert_false(cursor.corrupt);
	assert_true(count > 0);
	assert_true(contents.size <= LSM_BLOCK_BYTES || count == 1);
	free((void *)contents.data);
}

/* Keys of the entries [from, to) are in the filter, and no more than it may take. */
static void check_filter(file_walk *walk, lsm_handle handle, int from, int to) {
	aidb_slice filter = block_read(walk->file, handle);
	uint32_t keys = 0;

	assert_true(filter.size <= LSM_BLOCK_BYTES);
	for (int i = from; i < to; i++) {
		keys += i == from || !lsm_equal(walk->list->entries[i].key, walk->list->entries[i - 1].key);
		assert_true(lsm_filter_may_contain(filter, lsm_filter_hash(walk->list->entries[i].key)));
	}
	assert_true(keys <= lsm_filter_max_keys(walk->file->filter_bits));
	/* sized for these keys and not for others */
	assert_int_equal(filter.size / LSM_FILTER_LINE_BYTES,
					 (keys * walk->file->filter_bits + LSM_FILTER_LINE_BYTES * 8 - 1) / (LSM_FILTER_LINE_BYTES * 8));
	walk->max_keys = keys > walk->max_keys ? keys : walk->max_keys;
	free((void *)filter.data);
}

/* The separator is not below the entry before `at`, and below the one at it. */
static void check_separator(const file_walk *walk, const lsm_entry *separator) {
	const lsm_entry *last = &walk->list->entries[walk->at - 1];

	assert_true(walk->at > 0);
	assert_true(by_version(last, separator) <= 0);
	assert_true(separator->key.size <= last->key.size);
	if (walk->at < walk->list->count) {
		assert_true(by_version(separator, &walk->list->entries[walk->at]) < 0);
		/* a reader of the next key's newest version is sent to the right */
		assert_true(lsm_equal(last->key, walk->list->entries[walk->at].key) ||
					lsm_compare(separator->key, walk->list->entries[walk->at].key) < 0);
	}
}

static void walk_node(file_walk *walk, lsm_handle handle, uint32_t level) {
	aidb_slice contents = block_read(walk->file, handle);
	lsm_block_cursor *cursor = malloc(sizeof(*cursor));
	int count = 0;

	assert_non_null(cursor);
	assert_true(contents.size <= LSM_BLOCK_BYTES);
	walk->nodes++;
	lsm_block_cursor_open(cursor, contents);
	for (lsm_block_cursor_seek_first(cursor); cursor->valid; lsm_block_cursor_next(cursor)) {
		lsm_handle child = {0, 0};
		lsm_handle filter = {0, 0};
		int from = walk->at;

		assert_true(lsm_index_entry(cursor->entry.value, level, &child, &filter));
		assert_true(child.offset < handle.offset);
		if (level == 0) {
			walk_data_block(walk, child);
		} else {
			walk_node(walk, child, level - 1);
		}
		if (level == 1) {
			check_filter(walk, filter, from, walk->at);
		}
		check_separator(walk, &cursor->entry);
		count++;
	}
	assert_false(cursor->corrupt);
	assert_true(count > 0);
	walk->largest_node = count > walk->largest_node ? count : walk->largest_node;
	free(cursor);
	free((void *)contents.data);
}

static void check_properties(const test_file *file, const entry_list *list) {
	lsm_sstable_properties expected = {.file_bytes = file->bytes.size,
									   .entries = (uint64_t)list->count,
									   .min_sequence = LSM_MAX_SEQUENCE,
									   .root = file->properties.root,
									   .root_level = file->properties.root_level};

	for (int i = 0; i < list->count; i++) {
		const lsm_entry *entry = &list->entries[i];
		aidb_sequence sequence = lsm_sequence_of(entry->trailer);

		expected.deletes += lsm_is_delete(entry->trailer);
		expected.raw_bytes += entry->key.size + entry->value.size;
		expected.min_sequence = sequence < expected.min_sequence ? sequence : expected.min_sequence;
		expected.max_sequence = sequence > expected.max_sequence ? sequence : expected.max_sequence;
		if (lsm_is_tagged(entry->trailer) && lsm_tag_of(entry) > expected.max_tag) {
			expected.max_tag = lsm_tag_of(entry);
		}
	}
	assert_true(file->properties.entries == expected.entries);
	assert_true(file->properties.deletes == expected.deletes);
	assert_true(file->properties.min_sequence == expected.min_sequence);
	assert_true(file->properties.max_sequence == expected.max_sequence);
	assert_true(file->properties.max_tag == expected.max_tag);
	assert_true(file->properties.raw_bytes == expected.raw_bytes);
	assert_true(file->properties.file_bytes == expected.file_bytes);
}

/* The footer and the properties block lead to what the builder said. */
static void check_end_of_file(const test_file *file) {
	const uint8_t *footer = (const uint8_t *)file->bytes.data + file->bytes.size - LSM_FOOTER_BYTES;
	lsm_handle root = {0, 0};
	lsm_handle handle = {0, 0};
	uint32_t level = 0;
	lsm_sstable_properties found;
	aidb_slice contents;

	assert_int_equal(lsm_sstable_read_footer(footer, file->bytes.size, PATH, &root, &level, &handle), AIDB_OK);
	contents = block_read(file, handle);
	memset(&found, 0, sizeof(found));
	assert_int_equal(lsm_sstable_read_properties(contents, PATH, &found), AIDB_OK);
	free((void *)contents.data);
	assert_true(root.offset == file->properties.root.offset && root.size == file->properties.root.size);
	assert_int_equal(level, file->properties.root_level);
	assert_true(found.root.offset == root.offset && found.root.size == root.size);
	assert_int_equal(found.root_level, level);
	assert_true(found.file_bytes == file->properties.file_bytes && found.entries == file->properties.entries);
	assert_true(found.deletes == file->properties.deletes && found.max_tag == file->properties.max_tag);
	assert_true(found.min_sequence == file->properties.min_sequence);
	assert_true(found.max_sequence == file->properties.max_sequence);
	assert_true(found.raw_bytes == file->properties.raw_bytes);
}

static file_walk check_file(const test_file *file, const entry_list *list) {
	file_walk walk = {.file = file, .list = list};

	check_properties(file, list);
	check_end_of_file(file);
	assert_true(file->properties.root_level >= 1);
	walk_node(&walk, file->properties.root, file->properties.root_level);
	assert_int_equal(walk.at, list->count);
	return walk;
}

static file_walk check_built(const entry_list *list, uint32_t filter_bits, aidb_compression compression) {
	test_file file;
	file_walk walk;

	file_build(&file, list, filter_bits, compression);
	walk = check_file(&file, list);
	walk.file = NULL;
	aidb_buffer_free(&file.bytes);
	return walk;
}

/* ---- Seeking ------------------------------------------------------------------------------------------- */

/* The first entry at or after the target, found as a reader finds it: down the tree, and on to the right when the
 * target lies between a block's last entry and its separator. */
static bool file_seek(const test_file *file, lsm_handle handle, uint32_t level, aidb_slice key, uint64_t trailer,
					  lsm_entry *found) {
	aidb_slice contents = block_read(file, handle);
	lsm_block_cursor *cursor = malloc(sizeof(*cursor));
	bool done = false;

	assert_non_null(cursor);
	lsm_block_cursor_open(cursor, contents);
	for (lsm_block_cursor_seek(cursor, key, trailer); cursor->valid && !done; lsm_block_cursor_next(cursor)) {
		lsm_handle child = {0, 0};
		lsm_handle filter;

		assert_true(lsm_index_entry(cursor->entry.value, level, &child, &filter));
		if (level > 0) {
			done = file_seek(file, child, level - 1, key, trailer, found);
		} else {
			aidb_slice data = block_read(file, child);
			lsm_block_cursor *entry = malloc(sizeof(*entry));

			assert_non_null(entry);
			lsm_block_cursor_open(entry, data);
			lsm_block_cursor_seek(entry, key, trailer);
			done = entry->valid;
			found->trailer = entry->entry.trailer;
			found->key.size = entry->entry.key.size;
			free(entry);
			free((void *)data.data);
		}
	}
	free(cursor);
	free((void *)contents.data);
	return done;
}

static void check_seek(const test_file *file, const entry_list *list, aidb_slice key, uint64_t trailer) {
	int low = 0;
	int high = list->count;
	lsm_entry found = {.trailer = 0};
	bool is_found;

	while (low < high) {
		int middle = (low + high) / 2;

		if (lsm_compare_versions(list->entries[middle].key, list->entries[middle].trailer, key, trailer) < 0) {
			low = middle + 1;
		} else {
			high = middle;
		}
	}
	is_found = file_seek(file, file->properties.root, file->properties.root_level, key, trailer, &found);
	assert_int_equal(is_found, low < list->count);
	if (is_found) {
		assert_true(found.trailer == list->entries[low].trailer);
		assert_int_equal(found.key.size, list->entries[low].key.size);
	}
}

/* ---- Tests: what is written comes back ------------------------------------------------------------------ */

static uint64_t random_trailer(test_random *random, aidb_sequence sequence) {
	unsigned kind = test_random_below(random, 5) == 0 ? LSM_KIND_DELETE : LSM_KIND_PUT;

	return lsm_trailer(sequence, test_random_below(random, 5) == 0 ? kind | LSM_KIND_TAGGED : kind);
}

/* Keys of many shapes, some with many versions, values of all sizes. */
static void fill_mixed(entry_list *list, test_random *random, int count, unsigned letters) {
	uint8_t key[AIDB_MAX_KEY_BYTES];
	static uint8_t value[20000];
	size_t size = 0;

	memset(key, 'k', sizeof(key));
	for (int i = 0; i < count; i++) {
		size_t value_bytes = test_random_below(random, test_random_below(random, 100) == 0 ? sizeof(value) - 8 : 60);

		if (test_random_below(random, 3) != 0) {
			size = test_random_below(random, 50) == 0 ? test_random_below(random, sizeof(key) + 1)
													  : test_random_below(random, 10);
			for (size_t j = 0; j < size && j < 10; j++) {
				key[test_random_below(random, size)] = (uint8_t)('a' + test_random_below(random, letters));
			}
		}
		value[test_random_below(random, sizeof(value))] = (uint8_t)test_random_next(random);
		list_add(list, (aidb_slice){key, size}, random_trailer(random, test_random_below(random, 1u << 20) + 1), value,
				 value_bytes + LSM_TAG_BYTES);
	}
	list_sort(list);
}

static void mixed_files_come_back(void **state) {
	test_random random = test_random_seeded("sstable");

	(void)state;
	for (int round = 0; round < 12; round++) {
		int count = round < 4 ? 1 + (int)test_random_below(&random, 5) : (int)test_random_below(&random, 8000) + 100;
		uint32_t bits = 1 + (uint32_t)test_random_below(&random, LSM_FILTER_MAX_BITS_PER_KEY);
		aidb_compression compression = (aidb_compression)test_random_below(&random, 2);
		entry_list list;
		test_file file;

		list_create(&list, count, (size_t)count * 1400 + 100000);
		fill_mixed(&list, &random, count, 2 + (unsigned)test_random_below(&random, 20));
		file_build(&file, &list, bits, compression);
		check_file(&file, &list);
		for (int i = 0; i < 200; i++) {
			const lsm_entry *entry = &list.entries[test_random_below(&random, (uint64_t)list.count)];
			aidb_slice shorter = {entry->key.data, entry->key.size / 2};

			check_seek(&file, &list, entry->key, entry->trailer);
			check_seek(&file, &list, entry->key, UINT64_MAX);
			check_seek(&file, &list, entry->key, 0);
			check_seek(&file, &list, shorter, lsm_seek_trailer(test_random_below(&random, 1u << 20)));
		}
		aidb_buffer_free(&file.bytes);
		list_free(&list);
	}
}

static void fill_numbers(entry_list *list, int count, uint64_t step) {
	for (int i = 0; i < count; i++) {
		uint64_t number = __builtin_bswap64((uint64_t)i * step + 1);

		list_add(list, (aidb_slice){&number, sizeof(number)}, lsm_trailer((aidb_sequence)i + 1, LSM_KIND_PUT), "value",
				 5);
	}
}

/* Many small entries: the filter is full before the node is. */
static void a_full_filter_closes_its_node(void **state) {
	entry_list list;
	file_walk walk;

	(void)state;
	list_create(&list, 50000, 50000 * 13);
	fill_numbers(&list, 50000, 1);
	walk = check_built(&list, 20, AIDB_COMPRESSION_NONE);
	assert_int_equal(walk.max_keys, lsm_filter_max_keys(20));
	walk = check_built(&list, 10, AIDB_COMPRESSION_SNAPPY);
	assert_int_equal(walk.max_keys, lsm_filter_max_keys(10));
	list_free(&list);
}

/* Keys of random bytes are told apart by their first few. */
static void separators_are_short(void **state) {
	test_random random = test_random_seeded("separators");
	uint8_t key[200];
	uint8_t value[400];
	entry_list list;
	file_walk walk;

	(void)state;
	list_create(&list, 5000, 5000 * 600);
	test_random_bytes(&random, value, sizeof(value));
	for (int i = 0; i < 5000; i++) {
		test_random_bytes(&random, key, sizeof(key));
		list_add(&list, (aidb_slice){key, sizeof(key)}, lsm_trailer(5, LSM_KIND_PUT), value, sizeof(value));
	}
	list_sort(&list);
	walk = check_built(&list, 10, AIDB_COMPRESSION_SNAPPY);
	assert_true(walk.largest_node > 120);
	list_free(&list);
}

/* The longest keys, told apart by their last bytes only: few fit a node, and the tree grows. */
static void the_longest_keys_grow_a_tree(void **state) {
	uint8_t key[AIDB_MAX_KEY_BYTES];
	entry_list list;
	test_file file;
	uint32_t scrambled = 1;

	(void)state;
	list_create(&list, 3000, 3000 * sizeof(key));
	for (int i = 0; i < 3000; i++) {
		for (size_t at = 0; at < sizeof(key); at++) {
			scrambled = scrambled * 1664525u + 1013904223u;
			key[at] = (uint8_t)(scrambled >> 24);
		}
		/* pairs that differ in the last byte; a block's end falls between the two of a pair, time and again */
		key[0] = (uint8_t)(i / 2 >> 8);
		key[1] = (uint8_t)(i / 2);
		if (i % 2 == 1) {
			memcpy(key, list.entries[i - 1].key.data, sizeof(key));
		}
		key[sizeof(key) - 1] = (uint8_t)(i % 2);
		list_add(&list, (aidb_slice){key, sizeof(key)}, lsm_trailer(9, LSM_KIND_DELETE), "", 0);
	}
	file_build(&file, &list, 10, AIDB_COMPRESSION_NONE);
	check_file(&file, &list);
	assert_true(file.properties.root_level >= 3);
	for (int i = 0; i < list.count; i += 7) {
		check_seek(&file, &list, list.entries[i].key, UINT64_MAX);
	}
	aidb_buffer_free(&file.bytes);
	list_free(&list);
}

/* Versions of one key over many blocks and nodes: each of those filters must know the key, and it counts once. */
static void versions_span_nodes(void **state) {
	static uint8_t value[1900];
	entry_list list;
	test_file file;

	(void)state;
	list_create(&list, 2100, (size_t)2100 * (sizeof(value) + 700));
	list_add(&list, (aidb_slice){"a", 1}, lsm_trailer(1, LSM_KIND_PUT), "v", 1);
	for (int i = 0; i < 2000; i++) {
		uint8_t key[600];

		memset(key, 'k', sizeof(key));
		list_add(&list, (aidb_slice){key, sizeof(key)}, lsm_trailer(5000 - (aidb_sequence)i, LSM_KIND_PUT), value,
				 sizeof(value));
	}
	list_add(&list, (aidb_slice){"l", 1}, lsm_trailer(1, LSM_KIND_PUT), "v", 1);
	file_build(&file, &list, 10, AIDB_COMPRESSION_SNAPPY);
	check_file(&file, &list);
	for (int i = 0; i < list.count; i += 13) {
		check_seek(&file, &list, list.entries[i].key, list.entries[i].trailer);
	}
	aidb_buffer_free(&file.bytes);
	list_free(&list);
}

/* ---- Tests: what is refused ----------------------------------------------------------------------------- */

static void disorder_is_refused(void **state) {
	const lsm_sstable_options options = {.filter_bits = 10};
	const lsm_entry first = {{"k", 1}, lsm_trailer(5, LSM_KIND_PUT), {"v", 1}};
	const lsm_entry wrong[] = {
		{{"k", 1}, lsm_trailer(5, LSM_KIND_DELETE), {"", 0}}, /* the same version again */
		{{"k", 1}, lsm_trailer(6, LSM_KIND_PUT), {"v", 1}},   /* newer after older */
		{{"j", 1}, lsm_trailer(1, LSM_KIND_PUT), {"v", 1}},
	};

	(void)state;
	for (int i = 0; i < 3; i++) {
		test_file file = {.filter_bits = 10};
		lsm_sstable_builder *builder = NULL;
		lsm_sstable_properties properties;

		assert_int_equal(lsm_sstable_builder_create(&options, file_append, &file, &builder), AIDB_OK);
		assert_int_equal(lsm_sstable_builder_add(builder, &first), AIDB_OK);
		assert_int_equal(lsm_sstable_builder_add(builder, &wrong[i]), AIDB_CORRUPT);
		assert_int_equal(lsm_sstable_builder_finish(builder, &properties), AIDB_CORRUPT);
		lsm_sstable_builder_destroy(builder);
		aidb_buffer_free(&file.bytes);
	}
}

static void bad_options_and_no_entries_are_refused(void **state) {
	lsm_sstable_options options = {.filter_bits = 0};
	test_file file = {.filter_bits = 10};
	lsm_sstable_builder *builder = NULL;
	lsm_sstable_properties properties;

	(void)state;
	assert_int_equal(lsm_sstable_builder_create(&options, file_append, &file, &builder), AIDB_INVALID);
	options.filter_bits = LSM_FILTER_MAX_BITS_PER_KEY + 1;
	assert_int_equal(lsm_sstable_builder_create(&options, file_append, &file, &builder), AIDB_INVALID);
	assert_null(builder);
	options.filter_bits = 10;
	assert_int_equal(lsm_sstable_builder_create(&options, file_append, &file, &builder), AIDB_OK);
	assert_int_equal(lsm_sstable_builder_finish(builder, &properties), AIDB_INVALID);
	lsm_sstable_builder_destroy(builder);
	lsm_sstable_builder_destroy(NULL);
}

/* Wherever the disk is full, the builder says so and keeps saying so. */
static void every_failure_of_the_sink_is_handed_back(void **state) {
	const lsm_sstable_options options = {.filter_bits = 10};
	entry_list list;
	test_file whole;

	(void)state;
	list_create(&list, 600, 600 * 13);
	fill_numbers(&list, 600, 3);
	file_build(&whole, &list, 10, AIDB_COMPRESSION_NONE);
	for (size_t room = 1; room < whole.bytes.size; room += 61) {
		test_file file = {.fail_at = room};
		lsm_sstable_builder *builder = NULL;
		lsm_sstable_properties properties;

		assert_int_equal(lsm_sstable_builder_create(&options, file_append, &file, &builder), AIDB_OK);
		for (int i = 0; i < list.count; i++) {
			lsm_sstable_builder_add(builder, &list.entries[i]);
		}
		assert_int_equal(lsm_sstable_builder_finish(builder, &properties), AIDB_NO_SPACE);
		assert_memory_equal(file.bytes.data == NULL ? "" : file.bytes.data, whole.bytes.data, file.bytes.size);
		lsm_sstable_builder_destroy(builder);
		aidb_buffer_free(&file.bytes);
	}
	aidb_buffer_free(&whole.bytes);
	list_free(&list);
}

static aidb_status read_footer(const uint8_t *footer, uint64_t file_bytes) {
	lsm_handle root;
	lsm_handle properties;
	uint32_t level;

	return lsm_sstable_read_footer(footer, file_bytes, PATH, &root, &level, &properties);
}

static void damaged_footers_are_refused(void **state) {
	const lsm_handle root = {.offset = 1000, .size = 500};
	const lsm_handle properties = {.offset = 1509, .size = LSM_PROPERTIES_BYTES};
	const uint64_t file_bytes = 1509 + LSM_PROPERTIES_BYTES + LSM_ENVELOPE_BYTES + LSM_FOOTER_BYTES;
	uint8_t footer[LSM_FOOTER_BYTES];

	(void)state;
	lsm_sstable_put_footer(footer, root, 2, properties);
	assert_int_equal(read_footer(footer, file_bytes), AIDB_OK);
	for (size_t bit = 0; bit < sizeof(footer) * 8; bit++) {
		footer[bit / 8] ^= (uint8_t)(1u << bit % 8);
		assert_int_equal(read_footer(footer, file_bytes), AIDB_CORRUPT);
		footer[bit / 8] ^= (uint8_t)(1u << bit % 8);
	}
	assert_non_null(strstr(aidb_last_error(), PATH));
	assert_int_equal(read_footer(footer, file_bytes - 1), AIDB_CORRUPT);
	assert_int_equal(read_footer(footer, 10), AIDB_CORRUPT);
	lsm_sstable_put_footer(footer, root, 0, properties);
	assert_int_equal(read_footer(footer, file_bytes), AIDB_CORRUPT);
	lsm_sstable_put_footer(footer, root, LSM_MAX_INDEX_LEVEL + 1, properties);
	assert_int_equal(read_footer(footer, file_bytes), AIDB_CORRUPT);
	lsm_sstable_put_footer(footer, (lsm_handle){UINT64_MAX, 500}, 1, properties);
	assert_int_equal(read_footer(footer, file_bytes), AIDB_CORRUPT);
	lsm_sstable_put_footer(footer, root, 1, (lsm_handle){0, LSM_MAX_BLOCK_BYTES});
	assert_int_equal(read_footer(footer, file_bytes), AIDB_CORRUPT);
	lsm_sstable_put_footer(footer, root, 1, (lsm_handle){0, UINT32_MAX});
	assert_int_equal(read_footer(footer, UINT64_MAX), AIDB_CORRUPT);
	lsm_sstable_put_footer(footer, root, 1, properties);
	lsm_put_u32(footer + 28, LSM_SSTABLE_VERSION + 1);
	lsm_put_u64(footer + 36, lsm_hash64(footer, 36, 0));
	assert_int_equal(read_footer(footer, file_bytes), AIDB_UNSUPPORTED);
	assert_non_null(strstr(aidb_last_error(), "version 2"));
}

static void damaged_properties_are_refused(void **state) {
	const lsm_sstable_properties good = {.file_bytes = 10000,
										 .entries = 5,
										 .deletes = 2,
										 .min_sequence = 3,
										 .max_sequence = 4,
										 .raw_bytes = 50,
										 .root = {.offset = 100, .size = 60},
										 .root_level = 1};
	lsm_sstable_properties found = good;
	uint8_t bytes[LSM_PROPERTIES_BYTES + 1] = {0};
	lsm_sstable_properties bad[6];

	(void)state;
	lsm_sstable_put_properties(bytes, &good);
	assert_int_equal(lsm_sstable_read_properties((aidb_slice){bytes, LSM_PROPERTIES_BYTES}, PATH, &found), AIDB_OK);
	for (size_t size = 0; size <= sizeof(bytes); size++) {
		if (size != LSM_PROPERTIES_BYTES) {
			assert_int_equal(lsm_sstable_read_properties((aidb_slice){bytes, size}, PATH, &found), AIDB_CORRUPT);
		}
	}
	for (int i = 0; i < 6; i++) {
		bad[i] = good;
	}
	bad[0].entries = 0;
	bad[1].deletes = 6;
	bad[2].min_sequence = 5;
	bad[3].max_sequence = LSM_MAX_SEQUENCE + 1;
	bad[4].root_level = 0;
	bad[5].root.offset = 9990;
	for (int i = 0; i < 6; i++) {
		lsm_sstable_put_properties(bytes, &bad[i]);
		assert_int_equal(lsm_sstable_read_properties((aidb_slice){bytes, LSM_PROPERTIES_BYTES}, PATH, &found),
						 AIDB_CORRUPT);
	}
	lsm_put_u32(bytes, LSM_PROPERTIES_VERSION + 1);
	assert_int_equal(lsm_sstable_read_properties((aidb_slice){bytes, LSM_PROPERTIES_BYTES}, PATH, &found),
					 AIDB_UNSUPPORTED);
}

static void malformed_index_entries_are_refused(void **state) {
	uint8_t bytes[2 * LSM_MAX_HANDLE_BYTES + 1] = {0};
	uint8_t *middle = lsm_put_handle(bytes, (lsm_handle){1000, 300});
	size_t one = (size_t)(middle - bytes);
	size_t two = (size_t)(lsm_put_handle(middle, (lsm_handle){70000, 80}) - bytes);
	lsm_handle child;
	lsm_handle filter;

	(void)state;
	for (size_t size = 0; size <= two + 1; size++) {
		assert_int_equal(lsm_index_entry((aidb_slice){bytes, size}, 0, &child, &filter), size == one);
		assert_int_equal(lsm_index_entry((aidb_slice){bytes, size}, 2, &child, &filter), size == one);
		assert_int_equal(lsm_index_entry((aidb_slice){bytes, size}, 1, &child, &filter), size == two);
	}
	assert_true(lsm_index_entry((aidb_slice){bytes, two}, 1, &child, &filter));
	assert_true(child.offset == 1000 && child.size == 300 && filter.offset == 70000 && filter.size == 80);
}

int main(void) {
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(mixed_files_come_back),
		cmocka_unit_test(a_full_filter_closes_its_node),
		cmocka_unit_test(separators_are_short),
		cmocka_unit_test(the_longest_keys_grow_a_tree),
		cmocka_unit_test(versions_span_nodes),
		cmocka_unit_test(disorder_is_refused),
		cmocka_unit_test(bad_options_and_no_entries_are_refused),
		cmocka_unit_test(every_failure_of_the_sink_is_handed_back),
		cmocka_unit_test(damaged_footers_are_refused),
		cmocka_unit_test(damaged_properties_are_refused),
		cmocka_unit_test(malformed_index_entries_are_refused),
	};

	return cmocka_run_group_tests_name("sstable", tests, NULL, NULL);
}
