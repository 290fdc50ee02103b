/*
 * Checkpoints: the store as it is now, as another store in a directory of its own.
 *
 * Its files are hard links to this one's, which are immutable, and its log is empty, since all memtables are flushed first.
 * While the links are made no compaction runs: only a compaction removes files. A file with tagged versions, which
 * only this store's host can judge, is written anew without the tags.
 */
#include <stdlib.h>

#include "db/job.h"
#include "db/source.h"
#include "store/table.h"

#define WAIT_US 100000

typedef struct checkpoint {
	aidb_db *db;
	const char *directory;
	aidb_tag_fate (*tag_fate)(void *argument, aidb_tag tag);
	void *argument;
	lsm_manifest_header header;
	lsm_version *version; /* what the checkpoint consists of; malloc'd */
	lsm_ref *made;        /* descriptions of files written anew, to be released */
	uint32_t made_count;
} checkpoint;

/* The present version's levels and the manifest's head, from the same moment. */
static aidb_status note_version(checkpoint *run) {
	lsm_shared *shared = run->db->shared;
	const lsm_version *current;
	uint32_t files;
	size_t bytes;

	if (!lsm_latch_acquire(&run->db->arena.waiting, &shared->versions.latch)) {
		return lsm_poisoned(run->db);
	}
	current = lsm_version_current(&run->db->arena, &shared->versions);
	files = current->level_begin[AIDB_LEVELS];
	bytes = sizeof(lsm_version) + files * sizeof(lsm_ref);
	run->version = malloc(bytes);
	run->made = malloc((files + 1) * sizeof(lsm_ref));
	if (run->version != NULL && run->made != NULL) {
		memcpy(run->version, current, bytes);
		run->header = shared->manifest;
		run->header.next_file_number = atomic_load(&shared->versions.next_file_number);
	}
	lsm_latch_release(&run->db->arena.waiting, &shared->versions.latch);
	if (run->version == NULL || run->made == NULL) {
		return lsm_fail(AIDB_NO_MEMORY, "out of memory: could not list %u files for a checkpoint", files);
	}
	return AIDB_OK;
}

/* ---- Files ------------------------------------------------------------------------------------------------- */

static aidb_status link_file(const checkpoint *run, const lsm_file *file) {
	const aidb_host *host = run->db->host;
	char from[LSM_PATH_BYTES], to[LSM_PATH_BYTES];
	int error;

	lsm_sstable_path(run->db->directory, file->number, from);
	lsm_sstable_path(run->directory, file->number, to);
	error = host->file_link(host->context, from, to);
	return error == 0 ? AIDB_OK : lsm_fail_errno(error, "make hard link", to);
}

/* Whether the entry is to be there, without a tag if its fate is known. */
static bool judge(const checkpoint *run, lsm_entry *entry) {
	aidb_tag_fate fate;

	if (!lsm_is_tagged(entry->trailer)) {
		return true;
	}
	fate = run->tag_fate(run->argument, lsm_tag_of(entry));
	if (fate == AIDB_TAG_COMMITTED) {
		lsm_strip_tag(entry);
	}
	return fate != AIDB_TAG_ABORTED;
}

static aidb_status copy_entries(const checkpoint *run, lsm_cursor *cursor, lsm_table_writer *writer, uint64_t *kept) {
	uint64_t entries = 0;
	aidb_status rc = AIDB_OK;

	for (cursor->ops->seek_first(cursor); cursor->valid && rc == AIDB_OK; cursor->ops->next(cursor)) {
		lsm_entry entry = cursor->entry;

		if (judge(run, &entry)) {
			rc = lsm_table_writer_add(writer, &entry);
			++*kept;
		}
		if (rc == AIDB_OK && ++entries % LSM_ENTRIES_PER_CHECK == 0) {
			rc = lsm_check_interrupt(run->db);
		}
	}
	return rc == AIDB_OK ? cursor->status : rc;
}

static aidb_status describe(checkpoint *run, uint64_t number, const lsm_table_description *made, lsm_ref *file) {
	aidb_db *db = run->db;

	*file = lsm_file_create(&db->arena, &db->shared->heap, number, &made->properties, made->smallest,
							made->smallest_trailer, made->largest, made->largest_trailer);
	if (*file == 0) {
		return lsm_no_room_for_files(db);
	}
	run->made[run->made_count++] = *file;
	return AIDB_OK;
}

/* Writes what is to be kept of the file, under the same number; *file is 0 when that is nothing. */
static aidb_status rewrite_file(checkpoint *run, lsm_block_source *source, int level, lsm_ref *file) {
	static const lsm_table_reading reading = {
		.use = LSM_CACHE_BYPASS, .priority = LSM_CACHE_LOW, .readahead_bytes = LSM_READAHEAD_MAX_BYTES};
	const lsm_file *old = lsm_at(&run->db->arena, *file);
	const aidb_options *options = &run->db->shared->options;
	lsm_sstable_options format = {.filter_bits = options->filter_bits,
								  .compression = lsm_compression_of(options, level)};
	lsm_table table = lsm_table_of(old);
	lsm_table_description made;
	lsm_table_writer *writer = NULL;
	lsm_cursor *cursor = NULL;
	uint64_t kept = 0;
	aidb_status rc = lsm_table_cursor_create(source, &table, &reading, &cursor);

	*file = 0;
	if (rc == AIDB_OK) {
		rc = lsm_table_writer_create(run->db->host, run->directory, old->number, &format, &writer);
	}
	if (rc == AIDB_OK) {
		rc = copy_entries(run, cursor, writer, &kept);
	}
	if (rc == AIDB_OK && kept > 0) {
		rc = lsm_table_writer_finish(writer, &made);
	}
	if (rc == AIDB_OK && kept > 0) {
		rc = describe(run, old->number, &made, file);
	}
	lsm_table_writer_destroy(writer);
	if (cursor != NULL) {
		cursor->ops->close(cursor);
	}
	return rc;
}

/* Puts all files into the directory, and what has become of them into the version. */
static aidb_status place_files(checkpoint *run) {
	lsm_block_source source = lsm_source_of(run->db, run->db->host->member(run->db->host->context));
	lsm_version *version = run->version;
	uint32_t count = 0, begin = 0;

	for (int level = 0; level < AIDB_LEVELS; level++) {
		for (uint32_t i = begin; i < run->version->level_begin[level + 1]; i++) {
			lsm_ref file = version->files[i];
			const lsm_file *old = lsm_at(&run->db->arena, file);
			aidb_status rc = run->tag_fate != NULL && old->properties.max_tag != 0
								 ? rewrite_file(run, &source, level, &file)
								 : link_file(run, old);

			if (rc != AIDB_OK) {
				return rc;
			}
			if (file != 0) {
				version->files[count++] = file;
			}
		}
		begin = version->level_begin[level + 1];
		version->level_begin[level + 1] = count;
	}
	return AIDB_OK;
}

/* ---- The whole --------------------------------------------------------------------------------------------- */

static void refuse_file(void *argument, const char *name) {
	(void)name;
	*(bool *)argument = true;
}

static aidb_status make_directory(const checkpoint *run) {
	const aidb_host *host = run->db->host;
	bool used = false;
	int error = host->directory_create(host->context, run->directory);

	if (error == 0) {
		error = host->directory_list(host->context, run->directory, refuse_file, &used);
	}
	if (error != 0) {
		return lsm_fail_errno(error, "create directory", run->directory);
	}
	return used ? lsm_fail(AIDB_EXISTS, "\"%s\" is not empty: a checkpoint needs a new directory", run->directory)
				: AIDB_OK;
}

static aidb_status write_store(checkpoint *run) {
	const aidb_host *host = run->db->host;
	aidb_status rc = note_version(run);

	if (rc == AIDB_OK) {
		rc = place_files(run);
	}
	if (rc == AIDB_OK) {
		run->header.store_id = host->random(host->context) | 1;
		run->header.log_start = 0;
		run->header.pin_count = 0;
		rc = lsm_manifest_write(&run->db->arena, run->directory, &run->header, run->version);
	}
	return rc;
}

/* Until no compaction runs; none does then before the latch is released. */
static aidb_status stop_compaction(aidb_db *db) {
	lsm_event *changed = &db->shared->versions.changed;
	aidb_status rc = AIDB_OK;

	while (rc == AIDB_OK && !lsm_latch_try(&db->arena.waiting, &db->shared->compact_latch)) {
		rc = lsm_event_wait(&db->arena.waiting, changed, lsm_event_prepare(changed), WAIT_US, AIDB_WAIT_JOB);
		if (rc == AIDB_OK) {
			rc = lsm_check_members(db);
		}
	}
	return rc;
}

aidb_status aidb_checkpoint(aidb_db *db, const char *path, aidb_tag_fate (*tag_fate)(void *argument, aidb_tag tag),
							void *argument) {
	checkpoint run = {.db = db, .directory = path, .tag_fate = tag_fate, .argument = argument};
	aidb_status rc;

	if (db->host->file_link == NULL) {
		return lsm_fail(AIDB_UNSUPPORTED, "a checkpoint needs a host with hard links");
	}
	rc = aidb_flush(db);
	if (rc == AIDB_OK) {
		rc = make_directory(&run);
	}
	if (rc == AIDB_OK) {
		rc = stop_compaction(db);
	}
	if (rc == AIDB_OK) {
		rc = write_store(&run);
		lsm_latch_release(&db->arena.waiting, &db->shared->compact_latch);
		lsm_background(db, AIDB_WORK_COMPACT);
	}
	for (uint32_t i = 0; i < run.made_count; i++) {
		lsm_file_release(&db->arena, &db->shared->heap, run.made[i]);
	}
	free(run.made);
	free(run.version);
	return rc;
}
