#include "backup/verify.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "object_store/failure.h"

#define TEXT_BYTES 1024

typedef struct verification {
	const aidb_verify_options *options;
	aidb_repository *repository;
	void (*problem)(void *argument, const char *text);
	void *argument;
	aidb_verified *verified;
	pthread_mutex_t latch; /* of telling problems */
	aidb_objects objects;
	bool *used; /* an object each */
	struct {
		uint64_t store;
		uint64_t after;
	} * begins; /* of each backup that can be read, where its log begins */
	uint32_t begin_count;
	aidb_storage *storages[AIDB_MAX_JOBS];
	aidb_hash *hashes[AIDB_MAX_JOBS];
	aidb_progress progress;
} verification;

static void tell(verification *run, const char *format, ...) AIDB_PRINTF(2, 3);

static void tell(verification *run, const char *format, ...) {
	char text[TEXT_BYTES];
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(text, sizeof(text), format, arguments);
	va_end(arguments);
	pthread_mutex_lock(&run->latch);
	run->verified->problems++;
	run->problem(run->argument, text);
	pthread_mutex_unlock(&run->latch);
}

/* ---- Backups --------------------------------------------------------------------------------------------- */

static void check_files(verification *run, const aidb_manifest *manifest) {
	for (uint32_t i = 0; i < manifest->file_count; i++) {
		const aidb_manifest_file *file = &manifest->files[i];
		const aidb_object *object = aidb_objects_find(&run->objects, file->hash);
		char name[AIDB_OBJECT_NAME_BYTES];

		aidb_object_name(file->hash, name);
		if (object == NULL) {
			tell(run, "%s is missing: it is file %s of backup %s", name, file->name, manifest->label);
		} else if (object->bytes != file->bytes) {
			tell(run, "%s has %" PRIu64 " bytes, not %" PRIu64 ": it is file %s of backup %s", name, object->bytes,
				 file->bytes, file->name, manifest->label);
		}
		if (object != NULL) {
			run->used[object - run->objects.objects] = true;
		}
	}
}

static void check_log_of(verification *run, const aidb_manifest *manifest, const aidb_pieces *pieces) {
	uint64_t reach = aidb_pieces_reach(pieces, manifest->store, manifest->after);

	if (reach < manifest->complete_at) {
		tell(run,
			 "backup %s cannot be restored: it needs the log from commit %" PRIu64 " to %" PRIu64
			 ", which goes to %" PRIu64 " without a gap",
			 manifest->label, manifest->after, manifest->complete_at, reach);
	}
}

static aidb_status check_backups(verification *run, const aidb_pieces *pieces) {
	aidb_labels labels;
	aidb_status rc = aidb_repository_labels(run->repository, &labels);

	run->begins = calloc(labels.count + 1, sizeof(run->begins[0]));
	if (rc == AIDB_OK && run->begins == NULL) {
		rc = aidb_fail(AIDB_NO_MEMORY, "out of memory");
	}
	for (uint32_t i = 0; i < labels.count && rc == AIDB_OK; i++) {
		aidb_manifest manifest;

		rc = aidb_repository_load(run->repository, labels.labels[i], &manifest);
		if (rc == AIDB_OK) {
			check_files(run, &manifest);
			check_log_of(run, &manifest, pieces);
			run->begins[run->begin_count].store = manifest.store;
			run->begins[run->begin_count++].after = manifest.after;
			aidb_manifest_free(&manifest);
		} else if (rc == AIDB_CORRUPT || rc == AIDB_UNSUPPORTED) {
			tell(run, "%s", aidb_failure());
			rc = AIDB_OK;
		}
	}
	run->verified->backups = labels.count;
	free(labels.labels);
	return rc;
}

/* ---- Objects --------------------------------------------------------------------------------------------- */

static aidb_status hash_part(void *argument, const void *data, size_t size) {
	aidb_hash_add(argument, data, size);
	return AIDB_OK;
}

static aidb_status check_object(void *argument, unsigned job, uint32_t number) {
	verification *run = argument;
	const aidb_object *object = &run->objects.objects[number];
	char name[AIDB_OBJECT_NAME_BYTES], hash[AIDB_HASH_TEXT];
	aidb_status rc = AIDB_OK;

	if (run->storages[job] == NULL) {
		rc = aidb_storage_open(run->options->address, &run->storages[job]);
	}
	if (rc == AIDB_OK && run->hashes[job] == NULL && (run->hashes[job] = aidb_hash_create()) == NULL) {
		rc = aidb_fail(AIDB_NO_MEMORY, "out of memory");
	}
	if (rc != AIDB_OK) {
		return rc;
	}
	aidb_object_name(object->hash, name);
	rc = aidb_storage_get(run->storages[job], name, hash_part, run->hashes[job]);
	aidb_hash_finish(run->hashes[job], hash);
	if (rc == AIDB_OK && strcmp(hash, object->hash) != 0) {
		tell(run, "%s is damaged: its checksum is %s%s", name, hash, run->used[number] ? "" : " (no backup needs it)");
	}
	aidb_copy_note(&run->progress, &run->options->copy, object->bytes);
	atomic_fetch_add(&run->progress.files_done, 1);
	return rc == AIDB_NOT_FOUND ? AIDB_OK : rc; /* it has just been removed */
}

static aidb_status check_objects(verification *run) {
	aidb_verified *verified = run->verified;

	verified->objects = run->objects.count;
	for (uint32_t i = 0; i < run->objects.count; i++) {
		verified->object_bytes += run->objects.objects[i].bytes;
		verified->unused_objects += run->used[i] ? 0 : 1;
	}
	if (run->options->quick) {
		return AIDB_OK;
	}
	run->progress.what = "verified";
	run->progress.show = run->options->show_progress;
	run->progress.files = run->objects.count;
	run->progress.bytes = verified->object_bytes;
	return aidb_copy_all(&run->options->copy, &run->progress, run->objects.count, check_object, run);
}

/* ---- The log --------------------------------------------------------------------------------------------- */

/* From where on the log of a store is wanted: from its first backup; UINT64_MAX: it has none. */
static uint64_t wanted_from(const verification *run, uint64_t store) {
	uint64_t from = UINT64_MAX;

	for (uint32_t i = 0; i < run->begin_count; i++) {
		if (run->begins[i].store == store && run->begins[i].after < from) {
			from = run->begins[i].after;
		}
	}
	return from;
}

/* Pieces follow each other, but where an archive began anew. */
static void check_place(verification *run, const aidb_piece *piece, const aidb_segment *segment, uint64_t *reached) {
	if (piece->upto <= *reached) {
		return;
	}
	if (piece->from > *reached && !segment->begins) {
		tell(run, "a piece is missing: the log of store %016" PRIx64 " from commit %" PRIu64 " to %" PRIu64,
			 piece->store, *reached, piece->from);
	}
	*reached = piece->upto;
}

static aidb_status check_pieces(verification *run, const aidb_pieces *pieces) {
	aidb_segment *segment = calloc(1, sizeof(*segment));
	aidb_status rc = segment == NULL ? aidb_fail(AIDB_NO_MEMORY, "out of memory") : AIDB_OK;
	uint64_t store = 0, reached = 0;

	run->verified->pieces = pieces->count;
	for (uint32_t i = 0; i < pieces->count && rc == AIDB_OK && !run->options->quick; i++) {
		const aidb_piece *piece = &pieces->pieces[i];

		if (piece->store != store) {
			store = piece->store;
			reached = wanted_from(run, store);
		}
		rc = aidb_repository_read_piece(run->repository, piece, segment);
		if (rc == AIDB_OK) {
			check_place(run, piece, segment, &reached);
		} else if (rc == AIDB_CORRUPT || rc == AIDB_UNSUPPORTED) {
			tell(run, "%s", aidb_failure());
			reached = piece->upto > reached ? piece->upto : reached;
			rc = AIDB_OK;
		}
	}
	if (segment != NULL) {
		aidb_segment_free(segment);
	}
	free(segment);
	return rc;
}

aidb_status aidb_verify(const aidb_verify_options *options, aidb_repository *repository,
						void (*problem)(void *argument, const char *text), void *argument, aidb_verified *verified) {
	verification run = {
		.options = options, .repository = repository, .problem = problem, .argument = argument, .verified = verified};
	aidb_pieces pieces = {.pieces = NULL};
	aidb_status rc;

	*verified = (aidb_verified){.backups = 0};
	pthread_mutex_init(&run.latch, NULL);
	rc = aidb_repository_objects(repository, &run.objects);
	if (rc == AIDB_OK && (run.used = calloc(run.objects.count + 1, sizeof(bool))) == NULL) {
		rc = aidb_fail(AIDB_NO_MEMORY, "out of memory");
	}
	if (rc == AIDB_OK) {
		rc = aidb_repository_pieces(repository, 0, &pieces);
	}
	if (rc == AIDB_OK) {
		rc = check_backups(&run, &pieces);
	}
	if (rc == AIDB_OK) {
		rc = check_objects(&run);
	}
	if (rc == AIDB_OK) {
		rc = check_pieces(&run, &pieces);
	}
	for (unsigned i = 0; i < AIDB_MAX_JOBS; i++) {
		aidb_storage_close(run.storages[i]);
		aidb_hash_destroy(run.hashes[i]);
	}
	free(run.objects.objects);
	free(run.used);
	free(run.begins);
	free(pieces.pieces);
	pthread_mutex_destroy(&run.latch);
	return rc;
}
