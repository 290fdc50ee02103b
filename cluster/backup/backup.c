#include "backup/backup.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "object_store/failure.h"

#define WAIT_S 600 /* for another process to archive what belongs to the backup */
#define WAIT_STEP_MS 200

/* What each thread has of its own. */
typedef struct worker {
	aidb_source *source;
	aidb_storage *storage;
	aidb_hash *hash;
} worker;

typedef struct backup {
	const aidb_backup_options *options;
	aidb_repository *repository;
	aidb_manifest *manifest;
	aidb_objects objects; /* that the repository has */
	aidb_manifest known;  /* the files of the last backup of this store */
	worker workers[AIDB_MAX_JOBS];
	aidb_progress progress;
	_Atomic uint64_t stored_bytes;
} backup;

/* ---- What is there already ------------------------------------------------------------------------------- */

/* The newest backup of this store, if there is one: its files have the same names. */
static aidb_status find_known(backup *run) {
	aidb_labels labels;
	aidb_status rc = aidb_repository_labels(run->repository, &labels);

	for (uint32_t i = labels.count; i > 0 && rc == AIDB_OK; i--) {
		rc = aidb_repository_load(run->repository, labels.labels[i - 1], &run->known);
		if (rc == AIDB_OK && run->known.store == run->manifest->store) {
			break;
		}
		if (rc == AIDB_CORRUPT || rc == AIDB_NOT_FOUND) {
			rc = AIDB_OK; /* then its files are written again, if need be */
		}
		aidb_manifest_free(&run->known);
	}
	free(labels.labels);
	return rc;
}

static int compare_names(const void *a, const void *b) {
	return strcmp(((const aidb_manifest_file *)a)->name, ((const aidb_manifest_file *)b)->name);
}

/* One of another size is damaged, and written again. */
static bool is_there(const backup *run, const aidb_manifest_file *file) {
	const aidb_object *object = aidb_objects_find(&run->objects, file->hash);

	return object != NULL && object->bytes == file->bytes;
}

/* A table file never changes, and its number is never another's; that it was written at the same moment tells it from a file of a
 * server that was copied with its store. */
static void take_known(const backup *run, aidb_manifest_file *file) {
	const aidb_manifest_file *known =
		run->known.file_count == 0
			? NULL
			: bsearch(file, run->known.files, run->known.file_count, sizeof(*file), compare_names);

	if (known != NULL && strstr(file->name, ".sst") != NULL && known->bytes == file->bytes &&
		known->modified == file->modified && is_there(run, known)) {
		memcpy(file->hash, known->hash, sizeof(file->hash));
	}
}

/* ---- Files ----------------------------------------------------------------------------------------------- */

typedef struct sending {
	backup *run;
	worker *by;
	aidb_upload *upload;
} sending;

static aidb_status send_part(void *argument, const void *data, size_t size) {
	const sending *self = argument;
	aidb_status rc;

	aidb_hash_add(self->by->hash, data, size);
	rc = aidb_upload_write(self->upload, data, size);
	if (rc == AIDB_OK) {
		aidb_copy_note(&self->run->progress, &self->run->options->copy, size);
	}
	return rc;
}

/* Connects when the thread has its first file to send. */
static aidb_status prepare(const backup *run, worker *by) {
	aidb_status rc = AIDB_OK;

	if (by->source == NULL) {
		rc = aidb_source_connect(run->options->conninfo, &by->source);
	}
	if (rc == AIDB_OK && by->storage == NULL) {
		rc = aidb_storage_open(run->options->address, &by->storage);
	}
	if (rc == AIDB_OK && by->hash == NULL) {
		by->hash = aidb_hash_create();
		rc = by->hash != NULL ? AIDB_OK : aidb_fail(AIDB_NO_MEMORY, "out of memory");
	}
	return rc;
}

static aidb_status send_file(void *argument, unsigned job, uint32_t number) {
	backup *run = argument;
	worker *by = &run->workers[job];
	aidb_manifest_file *file = &run->manifest->files[number];
	sending self = {.run = run, .by = by};
	char name[AIDB_OBJECT_NAME_BYTES];
	aidb_status rc;

	if (file->hash[0] != '\0') {
		atomic_fetch_add(&run->progress.bytes_done, file->bytes);
		atomic_fetch_add(&run->progress.files_done, 1);
		return AIDB_OK;
	}
	rc = prepare(run, by);
	if (rc == AIDB_OK) {
		rc = aidb_upload_begin(by->storage, &self.upload);
	}
	if (rc != AIDB_OK) {
		return rc;
	}
	rc = aidb_source_read(by->source, file, send_part, &self);
	aidb_hash_finish(by->hash, file->hash);
	if (rc != AIDB_OK || is_there(run, file)) {
		aidb_upload_abandon(self.upload);
	} else {
		aidb_object_name(file->hash, name);
		rc = aidb_upload_finish(self.upload, name);
		atomic_fetch_add(&run->stored_bytes, file->bytes);
	}
	atomic_fetch_add(&run->progress.files_done, 1);
	return rc;
}

static aidb_status send_files(backup *run) {
	aidb_manifest *manifest = run->manifest;
	aidb_status rc = aidb_repository_objects(run->repository, &run->objects);

	if (rc == AIDB_OK) {
		rc = find_known(run);
	}
	if (rc != AIDB_OK) {
		return rc;
	}
	for (uint32_t i = 0; i < manifest->file_count; i++) {
		take_known(run, &manifest->files[i]);
	}
	run->progress.what = "backed up";
	run->progress.show = run->options->show_progress;
	run->progress.files = manifest->file_count;
	run->progress.bytes = aidb_manifest_bytes(manifest);
	rc = aidb_copy_all(&run->options->copy, &run->progress, manifest->file_count, send_file, run);
	for (unsigned i = 0; i < AIDB_MAX_JOBS; i++) {
		aidb_source_close(run->workers[i].source);
		aidb_storage_close(run->workers[i].storage);
		aidb_hash_destroy(run->workers[i].hash);
	}
	manifest->stored_bytes = atomic_load(&run->stored_bytes);
	return rc == AIDB_OK ? aidb_storage_sync(run->repository->storage) : rc;
}

/* ---- The log that belongs to it -------------------------------------------------------------------------- */

/* Another process archives: looks until it has come far enough. */
static aidb_status wait_for_archive(const backup *run) {
	struct timespec step = {.tv_nsec = WAIT_STEP_MS * 1000000L};
	uint64_t reached = 0;

	for (int waited_ms = 0; waited_ms < WAIT_S * 1000; waited_ms += WAIT_STEP_MS) {
		aidb_pieces pieces;
		aidb_status rc = aidb_repository_pieces(run->repository, run->manifest->store, &pieces);

		if (rc != AIDB_OK) {
			return rc;
		}
		reached = aidb_pieces_reach(&pieces, run->manifest->store, run->manifest->after);
		free(pieces.pieces);
		if (reached >= run->manifest->complete_at) {
			return AIDB_OK;
		}
		nanosleep(&step, NULL);
	}
	return aidb_fail(AIDB_IO,
					 "another process archives the log of the server, and has not come to commit %" PRIu64
					 " within %d s, only to %" PRIu64 "; see whether it is well, and take the backup again",
					 run->manifest->complete_at, WAIT_S, reached);
}

static aidb_status get_log(const backup *run, aidb_archiver *archiver) {
	aidb_status rc;

	if (archiver == NULL) {
		return wait_for_archive(run);
	}
	rc = aidb_archiver_reach(archiver, run->manifest->complete_at);
	if (rc == AIDB_OK && archiver->begun_from > run->manifest->after) {
		rc = aidb_fail(AIDB_IO,
					   "the server has not kept its log while the backup was taken: take it again, or raise its "
					   "limit");
	}
	return rc;
}

/* ---- The whole ------------------------------------------------------------------------------------------- */

/* The time, and something more when there is one of that second. */
static aidb_status make_label(const backup *run) {
	char name[AIDB_LABEL_BYTES];
	time_t now = time(NULL);
	struct tm parts;
	aidb_labels labels;
	bool taken = true;
	aidb_status rc = aidb_repository_labels(run->repository, &labels);

	gmtime_r(&now, &parts);
	strftime(name, sizeof(name), "%Y%m%dT%H%M%SZ", &parts);
	for (int i = 0; taken && rc == AIDB_OK; i++) {
		snprintf(run->manifest->label, AIDB_LABEL_BYTES, i == 0 ? "%.24s" : "%.24s-%d", name, i);
		taken = false;
		for (uint32_t k = 0; k < labels.count; k++) {
			taken = taken || strcmp(labels.labels[k], run->manifest->label) == 0;
		}
	}
	free(labels.labels);
	return rc;
}

static aidb_status finish(backup *run, aidb_source *source, aidb_archiver *archiver) {
	aidb_status rc = get_log(run, archiver);

	if (rc == AIDB_OK) {
		rc = make_label(run);
	}
	if (rc == AIDB_OK) {
		run->manifest->finished = (uint64_t)time(NULL) * 1000000;
		rc = aidb_repository_put_manifest(run->repository, run->manifest);
	}
	return rc == AIDB_OK ? aidb_source_note_backup(source, run->options->address, run->manifest) : rc;
}

aidb_status aidb_backup_take(const aidb_backup_options *options, aidb_repository *repository, aidb_archiver *archiver,
							 aidb_manifest *manifest) {
	backup run = {.options = options, .repository = repository, .manifest = manifest};
	aidb_source *source = NULL;
	aidb_status rc, stopped;

	*manifest = (aidb_manifest){.files = NULL};
	rc = aidb_repository_lock(repository, "backup", "expire");
	if (rc == AIDB_OK) {
		rc = aidb_source_connect(options->conninfo, &source);
	}
	if (rc == AIDB_OK) {
		rc = aidb_source_start(source, manifest);
	}
	if (rc == AIDB_OK) {
		rc = send_files(&run);
		stopped = aidb_source_stop(source);
		rc = rc == AIDB_OK ? stopped : rc;
	}
	if (rc == AIDB_OK) {
		rc = finish(&run, source, archiver);
	}
	aidb_source_close(source);
	free(run.objects.objects);
	aidb_manifest_free(&run.known);
	if (rc != AIDB_OK) {
		aidb_manifest_free(manifest);
	}
	return rc;
}
