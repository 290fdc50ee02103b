/* format/block.h: what goes in comes out, cursors agree with a plain array, and damage is noticed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "base/checksum.h"
#include "format/block.h"
#include "random.h"

#define MAX_ENTRIES 400
#define PATH "000042.sst"

/* Entries with memory of their own, in order. */
typedef struct entry_list {
	lsm_entry entries[MAX_ENTRIES];
	int count;
} entry_list;

static aidb_slice copy_of(const void *data, size_t size) {
	uint8_t *copy = malloc(size + 1);

	assert_non_null(copy);
	memcpy(copy, data, size);
	return (aidb_slice){copy, size};
}

static void list_add(entry_list *list, aidb_slice key, uint64_t trailer, aidb_slice value) {
	assert_true(list->count < MAX_ENTRIES);
	list->entries[list->count++] = (lsm_entry){copy_of(key.data, key.size), trailer, copy_of(value.data, value.size)};
}

static void list_free(entry_list *list) {
	for (int i = 0; i < list->count; i++) {
		free((void *)list->entries[i].key.data);
		free((void *)list->entries[i].value.data);
	}
	list->count = 0;
}

static int by_version(const void *a, const void *b) {
	const lsm_entry *left = a;
	const lsm_entry *right = b;

	return lsm_compare_versions(left->key, left->trailer, right->key, right->trailer);
}

static size_t random_key_bytes(test_random *random) {
	return test_random_below(random, 20) == 0 ? test_random_below(random, AIDB_MAX_KEY_BYTES + 1)
											  : test_random_below(random, 12);
}

/* Keys of few letters, so that prefixes and equal keys are common. */
static aidb_slice random_key(test_random *random, uint8_t key[AIDB_MAX_KEY_BYTES]) {
	size_t size = random_key_bytes(random);

	for (size_t i = 0; i < size; i++) {
		key[i] = (uint8_t)("\x00\x01"
						   "ab\xff"[test_random_below(random, 5)]);
	}
	return (aidb_slice){key, size};
}

static uint64_t random_trailer(test_random *random) {
	unsigned kind = test_random_below(random, 4) == 0 ? LSM_KIND_DELETE : LSM_KIND_PUT;

	if (test_random_below(random, 4) == 0) {
		kind |= LSM_KIND_TAGGED;
	}
	return lsm_trailer(test_random_below(random, 2) == 0 ? test_random_below(random, 5) : LSM_MAX_SEQUENCE, kind);
}

static void list_fill(entry_list *list, test_random *random, int count) {
	uint8_t key[AIDB_MAX_KEY_BYTES];
	uint8_t value[600];
	int kept = 0;

	for (int i = 0; i < count; i++) {
		uint64_t trailer = random_trailer(random);
		size_t size = test_random_below(random, test_random_below(random, 10) == 0 ? sizeof(value) : 30);

		if (lsm_is_tagged(trailer)) {
			size += LSM_TAG_BYTES;
		}
		size = size < sizeof(value) ? size : sizeof(value);
		test_random_bytes(random, value, size);
		list_add(list, random_key(random, key), trailer, (aidb_slice){value, size});
	}
	qsort(list->entries, (size_t)list->count, sizeof(lsm_entry), by_version);
	for (int i = 0; i < list->count; i++) {
		if (kept > 0 && by_version(&list->entries[kept - 1], &list->entries[i]) == 0) {
			free((void *)list->entries[i].key.data);
			free((void *)list->entries[i].value.data);
		} else {
			list->entries[kept++] = list->entries[i];
		}
	}
	list->count = kept;
}

static aidb_slice build(lsm_block_builder *builder, const entry_list *list) {
	aidb_slice contents = {NULL, 0};
	size_t bound = 2 * sizeof(uint32_t);

	lsm_block_builder_reset(builder);
	for (int i = 0; i < list->count; i++) {
		bound = lsm_block_builder_size_with(builder, &list->entries[i]);
		assert_int_equal(lsm_block_builder_add(builder, &list->entries[i]), AIDB_OK);
	}
	assert_int_equal(lsm_block_builder_finish(builder, &contents), AIDB_OK);
	assert_true(contents.size <= bound);
	return contents;
}

/* The contents at the very end of an allocation, so that a sanitizer sees a read beyond them. */
static aidb_slice exact_copy(aidb_slice contents) {
	uint8_t *copy = malloc(contents.size);

	assert_non_null(copy);
	memcpy(copy, contents.data, contents.size);
	return (aidb_slice){copy, contents.size};
}

static void check_entry(const lsm_block_cursor *cursor, const entry_list *list, int at) {
	assert_false(cursor->corrupt);
	assert_int_equal(cursor->valid, at >= 0 && at < list->count);
	if (cursor->valid) {
		assert_true(lsm_equal(cursor->entry.key, list->entries[at].key));
		assert_true(cursor->entry.trailer == list->entries[at].trailer);
		assert_true(lsm_equal(cursor->entry.value, list->entries[at].value));
	}
}

/* ---- Cursors ------------------------------------------------------------------------------------------- */

static void check_walks(lsm_block_cursor *cursor, const entry_list *list) {
	lsm_block_cursor_seek_first(cursor);
	for (int i = 0; i < list->count; i++) {
		check_entry(cursor, list, i);
		lsm_block_cursor_next(cursor);
	}
	check_entry(cursor, list, list->count);
	lsm_block_cursor_seek_last(cursor);
	for (int i = list->count - 1; i >= 0; i--) {
		check_entry(cursor, list, i);
		lsm_block_cursor_prev(cursor);
	}
	check_entry(cursor, list, -1);
}

static int first_at_or_after(const entry_list *list, aidb_slice key, uint64_t trailer) {
	int at = 0;

	while (at < list->count &&
		   lsm_compare_versions(list->entries[at].key, list->entries[at].trailer, key, trailer) < 0) {
		at++;
	}
	return at;
}

/* Seeks, and goes a few steps to and fro from there. */
static void check_seek(lsm_block_cursor *cursor, const entry_list *list, test_random *random, aidb_slice key,
					   uint64_t trailer) {
	int at = first_at_or_after(list, key, trailer);

	lsm_block_cursor_seek(cursor, key, trailer);
	check_entry(cursor, list, at);
	for (int step = 0; step < 8 && cursor->valid; step++) {
		if (test_random_below(random, 2) == 0) {
			lsm_block_cursor_next(cursor);
			at++;
		} else {
			lsm_block_cursor_prev(cursor);
			at--;
		}
		check_entry(cursor, list, at);
	}
}

static void cursors_agree_with_an_array(void **state) {
	test_random random = test_random_seeded("block cursor");
	uint8_t key_bytes[AIDB_MAX_KEY_BYTES];
	lsm_block_builder builder = {0};
	entry_list list = {.count = 0};
	lsm_block_cursor cursor;

	(void)state;
	for (int round = 0; round < 300; round++) {
		aidb_slice contents;

		list_fill(&list, &random, (int)test_random_below(&random, round % 10 == 0 ? MAX_ENTRIES : 40));
		contents = exact_copy(build(&builder, &list));
		lsm_block_cursor_open(&cursor, contents);
		assert_false(cursor.valid);
		check_walks(&cursor, &list);
		for (int i = 0; i < list.count; i++) {
			check_seek(&cursor, &list, &random, list.entries[i].key, list.entries[i].trailer);
		}
		for (int i = 0; i < 50; i++) {
			aidb_slice key = random_key(&random, key_bytes);

			check_seek(&cursor, &list, &random, key, lsm_seek_trailer(test_random_below(&random, 6)));
			check_seek(&cursor, &list, &random, key, UINT64_MAX);
		}
		free((void *)contents.data);
		list_free(&list);
	}
	lsm_block_builder_free(&builder);
}

static void an_empty_block_has_no_entries(void **state) {
	lsm_block_builder builder = {0};
	entry_list list = {.count = 0};
	lsm_block_cursor cursor;

	(void)state;
	lsm_block_cursor_open(&cursor, build(&builder, &list));
	check_walks(&cursor, &list);
	lsm_block_cursor_seek(&cursor, (aidb_slice){NULL, 0}, UINT64_MAX);
	check_entry(&cursor, &list, 0);
	lsm_block_builder_free(&builder);
}

static void the_empty_key_is_a_key(void **state) {
	lsm_block_builder builder = {0};
	entry_list list = {.count = 0};
	lsm_entry empty = {.key = {NULL, 0}, .trailer = lsm_trailer(7, LSM_KIND_DELETE), .value = {NULL, 0}};
	aidb_slice contents;
	lsm_block_cursor cursor;

	(void)state;
	list_add(&list, (aidb_slice){"", 0}, empty.trailer, (aidb_slice){"", 0});
	assert_int_equal(lsm_block_builder_add(&builder, &empty), AIDB_OK);
	assert_int_equal(lsm_block_builder_finish(&builder, &contents), AIDB_OK);
	lsm_block_cursor_open(&cursor, contents);
	check_walks(&cursor, &list);
	lsm_block_cursor_seek(&cursor, (aidb_slice){NULL, 0}, lsm_seek_trailer(7));
	check_entry(&cursor, &list, 0);
	lsm_block_cursor_seek(&cursor, (aidb_slice){NULL, 0}, lsm_seek_trailer(6));
	check_entry(&cursor, &list, 1);
	list_free(&list);
	lsm_block_builder_free(&builder);
}

static void the_layout_is_as_documented(void **state) {
	static const uint8_t expected[] = {
		0,
		3,
		1,
		'a',
		'b',
		'c',
		LSM_KIND_PUT,
		5,
		0,
		0,
		0,
		0,
		0,
		0,
		'x', /* abc */
		2,
		1,
		0,
		'd',
		LSM_KIND_DELETE,
		4,
		0,
		0,
		0,
		0,
		0,
		0, /* abd */
		0,
		0,
		0,
		0,
		1,
		0,
		0,
		0, /* restarts */
	};
	lsm_block_builder builder = {0};
	entry_list list = {.count = 0};
	aidb_slice contents;

	(void)state;
	list_add(&list, (aidb_slice){"abc", 3}, lsm_trailer(5, LSM_KIND_PUT), (aidb_slice){"x", 1});
	list_add(&list, (aidb_slice){"abd", 3}, lsm_trailer(4, LSM_KIND_DELETE), (aidb_slice){"", 0});
	contents = build(&builder, &list);
	assert_int_equal(contents.size, sizeof(expected));
	assert_memory_equal(contents.data, expected, sizeof(expected));
	list_free(&list);
	lsm_block_builder_free(&builder);
}

/* ---- Malformed contents -------------------------------------------------------------------------------- */

/* Goes everywhere; nothing but the bounds is checked, by a sanitizer. */
static bool survive(aidb_slice contents, test_random *random) {
	uint8_t key[AIDB_MAX_KEY_BYTES];
	lsm_block_cursor cursor;
	bool corrupt = false;

	for (int way = 0; way < 4; way++) {
		lsm_block_cursor_open(&cursor, contents);
		if (way < 2) {
			lsm_block_cursor_seek_first(&cursor);
		} else if (way == 2) {
			lsm_block_cursor_seek_last(&cursor);
		} else {
			lsm_block_cursor_seek(&cursor, random_key(random, key), UINT64_MAX);
		}
		for (int step = 0; cursor.valid && step < 2 * MAX_ENTRIES; step++) {
			if (way == 0 || (way == 3 && step % 3 != 0)) {
				lsm_block_cursor_next(&cursor);
			} else {
				lsm_block_cursor_prev(&cursor);
			}
		}
		corrupt = corrupt || cursor.corrupt;
	}
	return corrupt;
}

static void malformed_contents_are_survived(void **state) {
	test_random random = test_random_seeded("malformed block");
	lsm_block_builder builder = {0};
	entry_list list = {.count = 0};

	(void)state;
	for (int round = 0; round < 20; round++) {
		aidb_slice contents;

		list_fill(&list, &random, (int)test_random_below(&random, 60) + 1);
		contents = build(&builder, &list);
		for (int change = 0; change < 2000; change++) {
			aidb_slice damaged = exact_copy((aidb_slice){
				contents.data, change % 4 == 0 ? test_random_below(&random, contents.size) + 1 : contents.size});
			uint8_t *bytes = (uint8_t *)damaged.data;

			for (uint64_t flips = test_random_below(&random, 4); flips > 0; flips--) {
				bytes[test_random_below(&random, damaged.size)] = (uint8_t)test_random_next(&random);
			}
			survive(damaged, &random);
			free(bytes);
		}
		list_free(&list);
	}
	lsm_block_builder_free(&builder);
}

/* One entry of those bytes, and a restart at its beginning. */
static bool is_refused(const uint8_t *entry, size_t size) {
	static const uint8_t restarts[] = {0, 0, 0, 0, 1, 0, 0, 0};
	test_random random = {.state = 1};
	uint8_t *contents = malloc(size + sizeof(restarts));
	lsm_block_cursor cursor;

	assert_non_null(contents);
	memcpy(contents, entry, size);
	memcpy(contents + size, restarts, sizeof(restarts));
	lsm_block_cursor_open(&cursor, (aidb_slice){contents, size + sizeof(restarts)});
	lsm_block_cursor_seek_first(&cursor);
	assert_int_equal(cursor.valid, !cursor.corrupt);
	assert_int_equal(survive((aidb_slice){contents, size + sizeof(restarts)}, &random), cursor.corrupt);
	free(contents);
	return cursor.corrupt;
}

static void malformed_entries_are_refused(void **state) {
	uint8_t long_key[AIDB_MAX_KEY_BYTES + 20] = {0, 0x81, 0x08, 0}; /* 1025 bytes of key */

	(void)state;
	assert_false(is_refused((const uint8_t[]){0, 1, 0, 'k', 1, 0, 0, 0, 0, 0, 0, 0}, 12));
	assert_false(is_refused((const uint8_t[]){0, 1, 0, 'k', 2, 0, 0, 0, 0, 0, 0, 0}, 12));
	assert_true(is_refused((const uint8_t[]){0, 1, 0, 'k', 0, 0, 0, 0, 0, 0, 0, 0}, 12));    /* kind */
	assert_true(is_refused((const uint8_t[]){0, 1, 0, 'k', 4, 0, 0, 0, 0, 0, 0, 0}, 12));    /* kind */
	assert_true(is_refused((const uint8_t[]){0, 1, 0, 'k', 0x81, 0, 0, 0, 0, 0, 0, 0}, 12)); /* no tag */
	assert_true(is_refused((const uint8_t[]){1, 1, 0, 'k', 1, 0, 0, 0, 0, 0, 0, 0}, 12));    /* shares with nothing */
	assert_true(is_refused((const uint8_t[]){0, 2, 0, 'k', 1, 0, 0, 0, 0, 0, 0, 0}, 12));    /* key too long */
	assert_true(is_refused((const uint8_t[]){0, 1, 1, 'k', 1, 0, 0, 0, 0, 0, 0, 0}, 12));    /* value too long */
	assert_true(is_refused((const uint8_t[]){0, 1, 0, 'k', 1, 0, 0, 0, 0, 0, 0}, 11));       /* trailer cut */
	assert_true(is_refused((const uint8_t[]){0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1}, 12));
	assert_true(is_refused((const uint8_t[]){0, 0xf8, 0xff, 0xff, 0xff, 0x0f, 0, 1, 0, 0, 0, 0, 0, 0, 0}, 15));
	long_key[4 + AIDB_MAX_KEY_BYTES + 1] = LSM_KIND_PUT;
	assert_true(is_refused(long_key, 4 + AIDB_MAX_KEY_BYTES + 1 + 8));
	long_key[1] = 0x80; /* 1024 */
	long_key[4 + AIDB_MAX_KEY_BYTES + 1] = 0;
	long_key[4 + AIDB_MAX_KEY_BYTES] = LSM_KIND_PUT;
	assert_false(is_refused(long_key, 4 + AIDB_MAX_KEY_BYTES + 8));
}

static void malformed_restarts_are_refused(void **state) {
	static const uint8_t blocks[][12] = {
		{0, 0, 0, 0},                         /* no restart */
		{2, 0, 0, 0, 2, 0, 0, 0},             /* two, where one has room */
		{0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff}, /* more than fit */
		{0, 0, 0, 0, 9, 0, 0, 0, 1, 0, 0, 0}, /* beyond the entries */
	};
	static const size_t sizes[] = {4, 8, 8, 12};
	lsm_block_cursor cursor;

	(void)state;
	for (int i = 0; i < 4; i++) {
		lsm_block_cursor_open(&cursor, (aidb_slice){blocks[i], sizes[i]});
		lsm_block_cursor_seek_first(&cursor);
		assert_true(cursor.corrupt);
		assert_false(cursor.valid);
		lsm_block_cursor_seek_last(&cursor);
		assert_false(cursor.valid);
		lsm_block_cursor_seek(&cursor, (aidb_slice){"k", 1}, UINT64_MAX);
		assert_false(cursor.valid);
	}
	for (size_t size = 0; size < 4; size++) {
		lsm_block_cursor_open(&cursor, (aidb_slice){blocks[0], size});
		assert_true(cursor.corrupt);
	}
}

/* ---- The envelope -------------------------------------------------------------------------------------- */

static aidb_slice slice_of(const aidb_buffer *buffer) {
	return (aidb_slice){buffer->data, buffer->size};
}

static void check_sealed(aidb_slice contents, aidb_compression compression, uint64_t offset, bool shrinks) {
	aidb_buffer out = {0};
	lsm_handle handle;
	aidb_slice sealed;
	size_t size = 0;
	uint8_t *unpacked = malloc(contents.size + 1);

	assert_non_null(unpacked);
	assert_int_equal(lsm_buffer_append(&out, "before", 6), AIDB_OK);
	assert_int_equal(lsm_block_seal(contents, compression, offset, &out, &handle), AIDB_OK);
	assert_memory_equal(out.data, "before", 6);
	assert_true(handle.offset == offset);
	assert_int_equal(out.size, 6 + handle.size + LSM_ENVELOPE_BYTES);
	assert_int_equal(handle.size <= contents.size - contents.size / 8 && handle.size < contents.size, shrinks);
	assert_true(shrinks || handle.size == contents.size);
	sealed = (aidb_slice){out.data + 6, out.size - 6};
	assert_int_equal(lsm_block_open(sealed, offset, PATH, &size), AIDB_OK);
	assert_int_equal(size, contents.size);
	assert_int_equal(lsm_block_unpack(sealed, offset, PATH, unpacked, size), AIDB_OK);
	assert_memory_equal(unpacked, contents.data, size);
	free(unpacked);
	aidb_buffer_free(&out);
}

static void sealed_blocks_come_back(void **state) {
	test_random random = test_random_seeded("envelope");
	static uint8_t contents[20000];

	(void)state;
	memset(contents, 'z', sizeof(contents));
	check_sealed((aidb_slice){contents, sizeof(contents)}, AIDB_COMPRESSION_SNAPPY, 0, true);
	check_sealed((aidb_slice){contents, sizeof(contents)}, AIDB_COMPRESSION_NONE, 0, false);
	check_sealed((aidb_slice){contents, 0}, AIDB_COMPRESSION_SNAPPY, 1, false);
	check_sealed((aidb_slice){contents, 1}, AIDB_COMPRESSION_SNAPPY, 1, false);
	test_random_bytes(&random, contents, sizeof(contents));
	check_sealed((aidb_slice){contents, 4096}, AIDB_COMPRESSION_SNAPPY, UINT64_MAX, false);
	memset(contents, 0, 4096 / 16);
	check_sealed((aidb_slice){contents, 4096}, AIDB_COMPRESSION_SNAPPY, 7, false); /* saves a sixteenth: not worth it */
	memset(contents, 0, 4096 / 4);
	check_sealed((aidb_slice){contents, 4096}, AIDB_COMPRESSION_SNAPPY, 7, true);
}

static void seal_words(aidb_buffer *out, aidb_compression compression, uint64_t offset) {
	char words[200];
	lsm_handle handle;

	for (size_t i = 0; i < sizeof(words); i++) {
		words[i] = "word "[i % 5];
	}
	out->size = 0;
	assert_int_equal(lsm_block_seal((aidb_slice){words, sizeof(words)}, compression, offset, out, &handle), AIDB_OK);
}

static void every_flipped_bit_is_noticed(void **state) {
	aidb_buffer out = {0};

	(void)state;
	for (int compression = AIDB_COMPRESSION_NONE; compression <= AIDB_COMPRESSION_SNAPPY; compression++) {
		seal_words(&out, (aidb_compression)compression, 4711);
		for (size_t bit = 0; bit < out.size * 8; bit++) {
			size_t size = 77;

			out.data[bit / 8] ^= (char)(1 << bit % 8);
			assert_int_equal(lsm_block_open(slice_of(&out), 4711, PATH, &size), AIDB_CORRUPT);
			assert_int_equal(size, 77);
			out.data[bit / 8] ^= (char)(1 << bit % 8);
		}
	}
	aidb_buffer_free(&out);
}

static void truncated_and_misplaced_blocks_are_refused(void **state) {
	aidb_buffer out = {0};
	size_t size;

	(void)state;
	seal_words(&out, AIDB_COMPRESSION_SNAPPY, 4711);
	for (size_t cut = 0; cut < out.size; cut++) {
		aidb_slice shorter = exact_copy((aidb_slice){out.data, cut});

		assert_int_equal(lsm_block_open(shorter, 4711, PATH, &size), AIDB_CORRUPT);
		free((void *)shorter.data);
	}
	assert_int_equal(lsm_block_open(slice_of(&out), 4712, PATH, &size), AIDB_CORRUPT);
	assert_non_null(strstr(aidb_last_error(), PATH));
	assert_non_null(strstr(aidb_last_error(), "4712"));
	assert_int_equal(lsm_block_open(slice_of(&out), 4711, PATH, &size), AIDB_OK);
	aidb_buffer_free(&out);
}

static void reseal(aidb_buffer *out, uint64_t offset) {
	uint8_t *bytes = (uint8_t *)out->data;
	size_t covered = out->size - sizeof(uint64_t);

	lsm_put_u64(bytes + covered, lsm_hash64(bytes, covered, offset));
}

static void unknown_compression_is_named(void **state) {
	aidb_buffer out = {0};
	size_t size;

	(void)state;
	seal_words(&out, AIDB_COMPRESSION_SNAPPY, 0);
	out.data[out.size - LSM_ENVELOPE_BYTES] = 93;
	reseal(&out, 0);
	assert_int_equal(lsm_block_open(slice_of(&out), 0, PATH, &size), AIDB_UNSUPPORTED);
	assert_non_null(strstr(aidb_last_error(), "93"));
	aidb_buffer_free(&out);
}

/* Damage that came before the checksum was made: the lengths still hold. */
static void malformed_compressed_data_is_refused(void **state) {
	static const char huge[] = {(char)0xff, (char)0xff, (char)0xff, (char)0xff, 0x0f, 0, AIDB_COMPRESSION_SNAPPY};
	test_random random = test_random_seeded("compressed data");
	aidb_buffer out = {0};
	size_t size = 0;

	(void)state;
	for (int round = 0; round < 3000; round++) {
		uint8_t *to;

		seal_words(&out, AIDB_COMPRESSION_SNAPPY, 5);
		out.data[test_random_below(&random, out.size - LSM_ENVELOPE_BYTES)] = (char)test_random_next(&random);
		reseal(&out, 5);
		if (lsm_block_open(slice_of(&out), 5, PATH, &size) != AIDB_OK || size > 1u << 20) {
			continue;
		}
		to = malloc(size + 1);
		assert_non_null(to);
		lsm_block_unpack(slice_of(&out), 5, PATH, to, size);
		free(to);
		assert_int_equal(lsm_block_unpack(slice_of(&out), 5, PATH, NULL, size + 1), AIDB_CORRUPT);
	}
	assert_int_equal(lsm_buffer_set(&out, huge, sizeof(huge)), AIDB_OK);
	assert_int_equal(lsm_buffer_append(&out, "checksum", sizeof(uint64_t)), AIDB_OK);
	reseal(&out, 5);
	assert_int_equal(lsm_block_open(slice_of(&out), 5, PATH, &size), AIDB_CORRUPT);
	aidb_buffer_free(&out);
}

/* ---- Handles ------------------------------------------------------------------------------------------- */

static void handles_come_back(void **state) {
	const lsm_handle handles[] = {{0, 0}, {4096, 127}, {UINT64_MAX, LSM_MAX_BLOCK_BYTES}, {1u << 31, 1u << 14}};
	uint8_t bytes[LSM_MAX_HANDLE_BYTES];
	lsm_reader reader;

	(void)state;
	for (int i = 0; i < 4; i++) {
		size_t size = (size_t)(lsm_put_handle(bytes, handles[i]) - bytes);
		lsm_handle found;

		assert_true(size <= sizeof(bytes));
		reader = lsm_reader_of(bytes, size);
		found = lsm_read_handle(&reader);
		assert_false(reader.failed);
		assert_int_equal(lsm_reader_left(&reader), 0);
		assert_true(found.offset == handles[i].offset && found.size == handles[i].size);
		for (size_t cut = 0; cut < size; cut++) {
			reader = lsm_reader_of(bytes, cut);
			lsm_read_handle(&reader);
			assert_true(reader.failed);
		}
	}
	lsm_put_varint(lsm_put_varint(bytes, 0), LSM_MAX_BLOCK_BYTES + 1ull);
	reader = lsm_reader_of(bytes, sizeof(bytes));
	lsm_read_handle(&reader);
	assert_true(reader.failed);
}

int main(void) {
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(cursors_agree_with_an_array),
		cmocka_unit_test(an_empty_block_has_no_entries),
		cmocka_unit_test(the_empty_key_is_a_key),
		cmocka_unit_test(the_layout_is_as_documented),
		cmocka_unit_test(malformed_contents_are_survived),
		cmocka_unit_test(malformed_entries_are_refused),
		cmocka_unit_test(malformed_restarts_are_refused),
		cmocka_unit_test(sealed_blocks_come_back),
		cmocka_unit_test(every_flipped_bit_is_noticed),
		cmocka_unit_test(truncated_and_misplaced_blocks_are_refused),
		cmocka_unit_test(unknown_compression_is_named),
		cmocka_unit_test(malformed_compressed_data_is_refused),
		cmocka_unit_test(handles_come_back),
	};

	return cmocka_run_group_tests_name("block", tests, NULL, NULL);
}
