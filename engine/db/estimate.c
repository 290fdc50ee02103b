/*
 * Estimates for planners.
 *
 * A file that lies partly in the range counts with the share of its bytes between the two data blocks where the range
 * begins and ends, which the index tells; within one block entries are counted. A memtable is counted while that is
 * cheap, and beyond that interpolated between its first key and its last, as if keys were evenly spread.
 */
#include "db/source.h"
#include "store/table.h"

#define COUNT_ENTRIES 512

typedef struct estimating {
	aidb_db *db;
	lsm_block_source source;
	aidb_slice lower; /* data NULL: none */
	aidb_slice upper;
	double entries;
	double bytes;
} estimating;

static bool before_upper(const estimating *range, aidb_slice key) {
	return range->upper.data == NULL || lsm_compare(key, range->upper) < 0;
}

static bool from_lower(const estimating *range, aidb_slice key) {
	return range->lower.data == NULL || lsm_compare(key, range->lower) >= 0;
}

/* ---- Files --------------------------------------------------------------------------------------------------- */

/* The data block where `key` would be. */
static aidb_status locate(estimating *range, const lsm_table *table, aidb_slice key, lsm_handle *block) {
	lsm_table_place place;
	aidb_status rc = lsm_table_locate(&range->source, table, key, UINT64_MAX, &place);

	if (rc == AIDB_OK) {
		*block = place.beyond ? table->root : place.block; /* the root comes after all data */
	}
	return rc;
}

static aidb_status add_part(estimating *range, const lsm_file *file) {
	lsm_table table = lsm_table_of(file);
	lsm_handle first = {0, 0}, last = table.root;
	double entries = (double)file->properties.entries;
	double share;
	uint64_t counted = 0;
	aidb_status rc = AIDB_OK;

	if (!from_lower(range, lsm_file_smallest(file))) {
		rc = locate(range, &table, range->lower, &first);
	}
	if (rc == AIDB_OK && !before_upper(range, lsm_file_largest(file))) {
		rc = locate(range, &table, range->upper, &last);
	}
	if (rc == AIDB_OK && first.offset == last.offset && last.offset != table.root.offset) {
		rc = lsm_table_count(&range->source, &table, last, range->lower, range->upper, &counted);
		share = (double)counted / entries;
	} else {
		share = last.offset > first.offset ? (double)(last.offset - first.offset) / (double)table.root.offset : 0;
	}
	if (rc == AIDB_OK) {
		range->entries += entries * share;
		range->bytes += (double)file->properties.file_bytes * share;
	}
	return rc;
}

static aidb_status add_file(estimating *range, const lsm_file *file) {
	aidb_slice smallest = lsm_file_smallest(file), largest = lsm_file_largest(file);

	if (!from_lower(range, largest) || !before_upper(range, smallest)) {
		return AIDB_OK;
	}
	if (!from_lower(range, smallest) || !before_upper(range, largest)) {
		return add_part(range, file);
	}
	range->entries += (double)file->properties.entries;
	range->bytes += (double)file->properties.file_bytes;
	return AIDB_OK;
}

static aidb_status add_level(estimating *range, const lsm_version *version, int level) {
	const lsm_arena *arena = &range->db->arena;
	uint32_t i = 0;
	aidb_status rc = AIDB_OK;

	if (level > 0 && range->lower.data != NULL) {
		i = lsm_level_find(arena, version, level, range->lower);
	}
	for (; i < lsm_level_count(version, level) && rc == AIDB_OK; i++) {
		const lsm_file *file = lsm_level_file(arena, version, level, i);

		if (level > 0 && !before_upper(range, lsm_file_smallest(file))) {
			break;
		}
		rc = add_file(range, file);
	}
	return rc;
}

/* ---- Memtables ------------------------------------------------------------------------------------------------- */

static size_t common_bytes(aidb_slice a, aidb_slice b) {
	size_t size = a.size < b.size ? a.size : b.size;
	size_t i = 0;

	while (i < size && ((const uint8_t *)a.data)[i] == ((const uint8_t *)b.data)[i]) {
		i++;
	}
	return i;
}

#define DIGITS 8

/* How bytes of keys are read as digits: what differs between keys often has few values, as decimal digits do. */
typedef struct scale {
	size_t skip; /* bytes that all keys have in common */
	uint8_t lowest;
	uint8_t highest;
} scale;

static void note_digits(scale *of, aidb_slice key) {
	for (size_t i = of->skip; i < of->skip + DIGITS && i < key.size; i++) {
		uint8_t byte = ((const uint8_t *)key.data)[i];

		of->lowest = byte < of->lowest ? byte : of->lowest;
		of->highest = byte > of->highest ? byte : of->highest;
	}
}

static double number_of(const scale *of, aidb_slice key) {
	double base = of->highest - of->lowest + 1;
	double number = 0;

	for (size_t i = of->skip; i < of->skip + DIGITS; i++) {
		number = number * base + (i < key.size ? ((const uint8_t *)key.data)[i] - of->lowest : 0);
	}
	return number;
}

/* The share of the memtable's keys that the range has, if keys are evenly spread between the first and the last. */
static double interpolate(const estimating *range, lsm_memtable_cursor cursor) {
	lsm_entry first, last;
	aidb_slice begin, end;
	scale of;
	double width;

	lsm_memtable_seek_first(&cursor);
	lsm_memtable_entry(&cursor, &first);
	lsm_memtable_seek_last(&cursor);
	lsm_memtable_entry(&cursor, &last);
	begin = from_lower(range, first.key) ? first.key : range->lower;
	end = before_upper(range, last.key) ? last.key : range->upper;
	of = (scale){.skip = common_bytes(first.key, last.key), .lowest = UINT8_MAX};
	note_digits(&of, first.key);
	note_digits(&of, last.key);
	note_digits(&of, begin);
	note_digits(&of, end);
	width = number_of(&of, last.key) - number_of(&of, first.key);
	return width > 0 ? (number_of(&of, end) - number_of(&of, begin)) / width : 1;
}

static void add_memtable(estimating *range, const lsm_memtable *memtable) {
	lsm_memtable_cursor cursor = {.arena = &range->db->arena, .memtable = memtable};
	double all = (double)atomic_load_explicit(&memtable->entries, memory_order_relaxed);
	double entries = 0;

	if (range->lower.data == NULL) {
		lsm_memtable_seek_first(&cursor);
	} else {
		lsm_memtable_seek(&cursor, range->lower, UINT64_MAX);
	}
	for (; cursor.node != 0 && entries < COUNT_ENTRIES; lsm_memtable_next(&cursor)) {
		lsm_entry entry;

		lsm_memtable_entry(&cursor, &entry);
		if (!before_upper(range, entry.key)) {
			break;
		}
		entries++;
	}
	if (entries >= COUNT_ENTRIES && all > entries) {
		double interpolated = all * interpolate(range, cursor);

		entries = interpolated > entries ? interpolated : entries;
	}
	range->entries += entries;
	if (all > 0) {
		range->bytes += (double)lsm_memtable_bytes(memtable) * (entries < all ? entries / all : 1);
	}
}

aidb_status aidb_estimate(aidb_db *db, aidb_slice lower, aidb_slice upper, uint64_t *entries, uint64_t *bytes) {
	estimating range = {.db = db, .lower = lower, .upper = upper};
	const lsm_version *version;
	uint32_t member;
	aidb_status rc = lsm_enter(db, &member);

	if (rc != AIDB_OK) {
		return rc;
	}
	range.source = lsm_source_of(db, member);
	lsm_epoch_enter(&db->arena, member);
	version = lsm_version_current(&db->arena, &db->shared->versions);
	for (uint32_t i = 0; i < version->memtable_count; i++) {
		add_memtable(&range, &db->shared->memtables[version->memtables[i]]);
	}
	for (int level = 0; level < AIDB_LEVELS && rc == AIDB_OK; level++) {
		rc = add_level(&range, version, level);
	}
	lsm_epoch_leave(&db->arena, member);
	lsm_source_count(db, member, &range.source);
	if (rc == AIDB_OK) {
		*entries = (uint64_t)(range.entries + 0.5);
		*bytes = (uint64_t)(range.bytes + 0.5);
	}
	return rc;
}
