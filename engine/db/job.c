#include "db/job.h"

#include <errno.h>
#include <stdlib.h>

#include "db/pin.h"

aidb_status lsm_check_interrupt(const aidb_db *db) {
	lsm_event *event = &db->shared->versions.changed;

	/* the word differs from what is expected, so this asks and does not wait */
	if (db->host->wait(db->host->context, (uint32_t *)&event->count, lsm_event_prepare(event) + 1, 0, AIDB_WAIT_JOB) ==
		EINTR) {
		return lsm_fail(AIDB_INTERRUPTED, "interrupted; the call may be repeated");
	}
	return atomic_load_explicit(&db->shared->poisoned, memory_order_relaxed) == 0 ? AIDB_OK : lsm_poisoned(db);
}

/* Compression by level: the place to make upper levels cheaper to write, which takes 1.8 times their bytes. */
aidb_compression lsm_compression_of(const aidb_options *options, int level) {
	(void)level;
	return options->compression_set ? options->compression_default : AIDB_COMPRESSION_SNAPPY;
}

aidb_status lsm_job_begin(lsm_job *job, aidb_db *db, int level, uint64_t file_bytes,
						  bool (*is_bottom)(void *argument, aidb_slice key), void *bottom_argument) {
	*job = (lsm_job){.db = db, .level = level, .file_bytes = file_bytes};
	job->retention.host = db->host;
	job->retention.is_bottom = is_bottom;
	job->retention.bottom_argument = bottom_argument;
	return lsm_snapshots_list(db, &job->snapshots, &job->retention.snapshot_count);
}

static aidb_status open_file(lsm_job *job) {
	aidb_db *db = job->db;
	lsm_sstable_options options = {.filter_bits = db->shared->options.filter_bits,
								   .compression = lsm_compression_of(&db->shared->options, job->level)};

	job->number = atomic_fetch_add(&db->shared->versions.next_file_number, 1);
	return lsm_table_writer_create(db->host, db->directory, job->number, &options, &job->writer);
}

static aidb_status make_place(lsm_job *job) {
	uint32_t capacity = job->capacity == 0 ? 8 : job->capacity * 2;
	lsm_ref *files;
	uint8_t *levels;

	if (job->count < job->capacity) {
		return AIDB_OK;
	}
	files = realloc(job->files, capacity * sizeof(*files));
	if (files != NULL) {
		job->files = files;
	}
	levels = realloc(job->levels, capacity);
	if (levels != NULL) {
		job->levels = levels;
	}
	if (files == NULL || levels == NULL) {
		return lsm_fail(AIDB_NO_MEMORY, "out of memory: could not list the files written");
	}
	job->capacity = capacity;
	return AIDB_OK;
}

static void remove_file(const aidb_db *db, uint64_t number) {
	char path[LSM_PATH_BYTES];

	lsm_sstable_path(db->directory, number, path);
	db->host->file_remove(db->host->context, path); /* a start removes what is left */
}

static aidb_status describe_file(lsm_job *job, const lsm_table_description *made) {
	lsm_ref file = lsm_file_create(&job->db->arena, &job->db->shared->heap, job->number, &made->properties,
								   made->smallest, made->smallest_trailer, made->largest, made->largest_trailer);

	if (file == 0) {
		remove_file(job->db, job->number);
		return lsm_no_room_for_files(job->db);
	}
	job->files[job->count] = file;
	job->levels[job->count] = (uint8_t)job->level;
	job->count++;
	job->bytes += made->properties.file_bytes;
	if (made->properties.max_sequence > job->max_sequence) {
		job->max_sequence = made->properties.max_sequence;
	}
	return AIDB_OK;
}

static aidb_status close_file(lsm_job *job) {
	lsm_table_description made;
	aidb_status rc = make_place(job);

	if (rc == AIDB_OK) {
		rc = lsm_table_writer_finish(job->writer, &made);
	}
	if (rc == AIDB_OK) {
		rc = describe_file(job, &made);
	}
	lsm_table_writer_destroy(job->writer);
	job->writer = NULL;
	return rc;
}

static aidb_status write_entry(lsm_job *job, const lsm_entry *entry) {
	aidb_status rc = AIDB_OK;

	if (job->writer != NULL && lsm_table_writer_bytes(job->writer) >= job->file_bytes &&
		!lsm_equal(entry->key, (aidb_slice){job->last_key, job->last_key_bytes})) {
		rc = close_file(job);
	}
	if (rc == AIDB_OK && job->writer == NULL) {
		rc = open_file(job);
	}
	if (rc == AIDB_OK) {
		memcpy(job->last_key, entry->key.data, entry->key.size);
		job->last_key_bytes = (uint32_t)entry->key.size;
		rc = lsm_table_writer_add(job->writer, entry);
	}
	return rc;
}

static aidb_status sync_directory(const aidb_db *db) {
	int error = db->host->directory_sync(db->host->context, db->directory);

	return error == 0 ? AIDB_OK : lsm_fail_errno(error, "sync directory", db->directory);
}

aidb_status lsm_job_write(lsm_job *job, lsm_cursor *cursor) {
	uint64_t entries = 0;
	aidb_status rc = AIDB_OK;

	job->retention.snapshots = job->snapshots;
	for (cursor->ops->seek_first(cursor); cursor->valid && rc == AIDB_OK; cursor->ops->next(cursor)) {
		lsm_entry entry = cursor->entry;

		if (lsm_retention_keep(&job->retention, &entry)) {
			rc = write_entry(job, &entry);
		}
		if (rc == AIDB_OK && ++entries % LSM_ENTRIES_PER_CHECK == 0) {
			rc = lsm_check_interrupt(job->db);
		}
	}
	if (rc == AIDB_OK) {
		rc = cursor->status;
	}
	if (rc == AIDB_OK && job->writer != NULL) {
		rc = close_file(job);
	}
	return rc == AIDB_OK && job->count > 0 ? sync_directory(job->db) : rc;
}

/* The manifest's head as it is to be with this version. */
static lsm_manifest_header next_header(aidb_db *db, const lsm_version *version, aidb_sequence max_sequence) {
	const lsm_shared *shared = db->shared;
	lsm_manifest_header header = shared->manifest;
	aidb_sequence visible = aidb_current_sequence(db);

	header.edit++;
	header.next_file_number = atomic_load(&shared->versions.next_file_number);
	header.last_sequence = visible > header.last_sequence ? visible : header.last_sequence;
	header.last_sequence = max_sequence > header.last_sequence ? max_sequence : header.last_sequence;
	header.log_start = shared->memtables[version->memtables[version->memtable_count - 1]].log_position;
	lsm_pins_save(db, &header);
	return header;
}

/* Under the versions latch. */
static aidb_status install(aidb_db *db, const lsm_version_edit *edit, aidb_sequence max_sequence) {
	lsm_shared *shared = db->shared;
	lsm_ref ref = lsm_version_build(&db->arena, &shared->heap, &shared->versions, edit);
	lsm_manifest_header header;
	lsm_version *version;
	aidb_status rc;

	if (ref == 0) {
		return lsm_no_room_for_files(db);
	}
	version = lsm_at(&db->arena, ref);
	header = next_header(db, version, max_sequence);
	rc = lsm_manifest_write(&db->arena, db->directory, &header, version);
	if (rc != AIDB_OK) {
		lsm_heap_release(&db->arena, &shared->heap, ref, version->bytes);
		return rc;
	}
	shared->manifest = header;
	lsm_pins_saved(db, &header);
	lsm_fault_point(db, "manifest_written");
	lsm_version_install(&db->arena, &shared->versions, ref, edit);
	return AIDB_OK;
}

aidb_status lsm_install_edit(aidb_db *db, const lsm_version_edit *edit, aidb_sequence max_sequence) {
	aidb_status rc;

	if (!lsm_latch_acquire(&db->arena.waiting, &db->shared->versions.latch)) {
		return lsm_poisoned(db);
	}
	rc = install(db, edit, max_sequence);
	lsm_latch_release(&db->arena.waiting, &db->shared->versions.latch);
	return rc;
}

aidb_status lsm_job_install(lsm_job *job, const lsm_version_edit *edit) {
	lsm_version_edit whole = *edit;
	aidb_status rc;

	whole.added_files = job->files;
	whole.added_levels = job->levels;
	whole.added_count = job->count;
	rc = lsm_install_edit(job->db, &whole, job->max_sequence);
	if (rc == AIDB_OK) {
		job->count = 0; /* the store's now */
	}
	job->unknown = rc == AIDB_IO;
	return rc;
}

void lsm_job_end(lsm_job *job) {
	lsm_table_writer_destroy(job->writer);
	for (uint32_t i = 0; i < job->count; i++) {
		const lsm_file *file = lsm_at(&job->db->arena, job->files[i]);

		if (!job->unknown) {
			remove_file(job->db, file->number);
		}
		lsm_file_release(&job->db->arena, &job->db->shared->heap, job->files[i]);
	}
	free(job->files);
	free(job->levels);
	free(job->snapshots);
}
