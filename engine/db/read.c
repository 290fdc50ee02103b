/*
 * Point reads.
 *
 * The version is loaded before the sequence: what a later version has lost, because newer versions of a key hide it, is
 * hidden from the sequence loaded then, too. Sources are asked from the newest to the oldest, and the first that has a
 * visible version decides, for newer sources hold newer versions of a key.
 */
#include "db/source.h"
#include "store/table.h"

typedef struct getting {
	aidb_db *db;
	const lsm_version *version;
	lsm_block_source source;
	lsm_cache_use use;
	lsm_lookup lookup;
} getting;

static aidb_status get_from_memtable(getting *get, const lsm_memtable *memtable) {
	lsm_memtable_cursor cursor = {.arena = &get->db->arena, .memtable = memtable};
	aidb_status rc = AIDB_OK;
	lsm_entry entry;

	for (lsm_memtable_seek(&cursor, get->lookup.key, lsm_view_start(&get->lookup.view));
		 cursor.node != 0 && !get->lookup.decided && rc == AIDB_OK; lsm_memtable_next(&cursor)) {
		lsm_memtable_entry(&cursor, &entry);
		if (!lsm_equal(entry.key, get->lookup.key)) {
			break;
		}
		rc = lsm_lookup_offer(&get->lookup, &entry);
	}
	return rc;
}

static aidb_status get_from_file(getting *get, const lsm_file *file) {
	lsm_table table = lsm_table_of(file);

	return lsm_table_get(&get->source, &table, get->use, &get->lookup);
}

static aidb_status get_from_level0(getting *get) {
	aidb_status rc = AIDB_OK;

	for (uint32_t i = 0; i < lsm_level_count(get->version, 0) && !get->lookup.decided && rc == AIDB_OK; i++) {
		const lsm_file *file = lsm_level_file(&get->db->arena, get->version, 0, i);

		if (lsm_file_overlaps(file, get->lookup.key, get->lookup.key)) {
			rc = get_from_file(get, file);
		}
	}
	return rc;
}

static aidb_status get_from_level(getting *get, int level) {
	uint32_t index = lsm_level_find(&get->db->arena, get->version, level, get->lookup.key);
	const lsm_file *file;

	if (index == lsm_level_count(get->version, level)) {
		return AIDB_OK;
	}
	file = lsm_level_file(&get->db->arena, get->version, level, index);
	return lsm_compare(lsm_file_smallest(file), get->lookup.key) > 0 ? AIDB_OK : get_from_file(get, file);
}

/* Inside an epoch. */
static aidb_status get_from_version(getting *get) {
	const lsm_version *version = get->version;
	aidb_status rc = AIDB_OK;

	for (uint32_t i = 0; i < version->memtable_count && !get->lookup.decided && rc == AIDB_OK; i++) {
		rc = get_from_memtable(get, &get->db->shared->memtables[version->memtables[i]]);
	}
	if (get->lookup.decided || rc != AIDB_OK || version->level_begin[AIDB_LEVELS] == 0) {
		return rc;
	}
	get->lookup.hash = lsm_filter_hash(get->lookup.key);
	rc = get_from_level0(get);
	for (int level = 1; level < AIDB_LEVELS && !get->lookup.decided && rc == AIDB_OK; level++) {
		rc = get_from_level(get, level);
	}
	return rc;
}

static const aidb_read_options default_options;

aidb_status aidb_get(aidb_db *db, const aidb_read_options *options, aidb_slice key, aidb_buffer *value,
					 aidb_sequence *version) {
	getting get;
	uint32_t member;
	aidb_status rc = lsm_enter(db, &member);

	if (rc != AIDB_OK) {
		return rc;
	}
	if (options == NULL) {
		options = &default_options;
	}
	lsm_epoch_enter(&db->arena, member);
	get = (getting){.db = db,
					.version = lsm_version_current(&db->arena, &db->shared->versions),
					.source = lsm_source_of(db, member),
					.use = options->skip_cache_fill ? LSM_CACHE_PEEK : LSM_CACHE_FILL,
					.lookup = {.view = lsm_view_of(options), .key = key, .value = value}};
	if (get.lookup.view.sequence == 0 || get.lookup.view.sequence >= AIDB_SEQUENCE_LATEST) {
		get.lookup.view.sequence = aidb_current_sequence(db);
	}
	rc = get_from_version(&get);
	lsm_epoch_leave(&db->arena, member);
	lsm_count(&lsm_read_counters_of(db, member)->gets, 1);
	lsm_source_count(db, member, &get.source);
	if (rc != AIDB_OK) {
		return rc;
	}
	if (version != NULL) {
		*version = get.lookup.decided ? get.lookup.version : 0;
	}
	return get.lookup.decided && !get.lookup.deleted ? AIDB_OK : AIDB_NOT_FOUND; /* an answer: it leaves no message */
}
