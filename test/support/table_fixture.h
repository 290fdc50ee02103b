/*
 * table_fixture.h: what tests of SSTables and cursors have in common: lists of entries, a cursor over such a list,
 * and a directory of SSTables with the arena, cache and table of open files to read them.
 */
#ifndef TABLE_FIXTURE_H
#define TABLE_FIXTURE_H

#include "arena_fixture.h"
#include "format/cursor.h"
#include "store/block_source.h"
#include "store/table_writer.h"
#include "store/version.h"

/* ---- Entries --------------------------------------------------------------------------------------------- */

/* Zero-initialise; the entries' bytes are the list's own. */
typedef struct entry_list {
	lsm_entry *entries;
	uint32_t count;
	uint32_t capacity;
} entry_list;

void entries_add(entry_list *list, aidb_slice key, uint64_t trailer, aidb_slice value);
/* A put, or with value NULL a deletion. */
void entries_add_text(entry_list *list, const char *key, aidb_sequence sequence, const char *value);
/* An entry of a random key out of `keys` and a random sequence out of 1 to `sequences`. */
void entries_add_random(entry_list *list, uint64_t *seed, uint32_t keys, uint32_t sequences, uint32_t max_value_bytes);
/* In order of versions; of two with the same key and sequence the one added first stays. */
void entries_sort(entry_list *list);
void entries_free(entry_list *list);
bool entries_equal(const lsm_entry *a, const lsm_entry *b);
/* Index of the first entry at or after (key, trailer). */
uint32_t entries_find(const entry_list *list, aidb_slice key, uint64_t trailer);

/* A cursor over a sorted list, which must outlive it. It fails with `error`, unless that is AIDB_OK, when it comes to
 * the entry of index `error_at`. */
lsm_cursor *entries_cursor(const entry_list *list, aidb_status error, uint32_t error_at);

/* Moves the cursor at random `steps` times and compares with the list. */
void entries_check_cursor(lsm_cursor *cursor, const entry_list *list, uint64_t *seed, uint32_t steps);

/* ---- Tables ------------------------------------------------------------------------------------------------ */

typedef struct table_fixture {
	arena_fixture arena;
	aidb_host host; /* the thread host, counting */
	uint32_t opens;
	uint32_t reads;
	char directory[256];
	lsm_heap heap;
	lsm_cache cache;
	lsm_file_table *files;
	lsm_block_source source;
	uint64_t next_number;
} table_fixture;

void table_fixture_create(table_fixture *fixture, uint32_t cache_sets);
void table_fixture_destroy(table_fixture *fixture);
/* Writes entries [begin, end) of the list to a file, and gives its description in the heap. */
lsm_ref table_fixture_write(table_fixture *fixture, const entry_list *list, uint32_t begin, uint32_t end,
							aidb_compression compression);
const lsm_file *table_fixture_file(const table_fixture *fixture, lsm_ref file);

#endif
