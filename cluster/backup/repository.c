#include "backup/repository.h"

#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "object_store/failure.h"

#define BACKUPS "backups/"
#define OBJECTS "objects/"
#define LOG "log/"
#define POINTS "points/"
#define LOCKS "locks/"
#define MAX_POINT_BYTES 256
#define MAX_LOCK_BYTES 64
#define LOCK_S (24 * 3600)

aidb_status aidb_repository_open(const char *address, aidb_repository *repository) {
	*repository = (aidb_repository){.storage = NULL};
	return aidb_storage_open(address, &repository->storage);
}

void aidb_repository_close(aidb_repository *repository) {
	if (repository->lock[0] != '\0') {
		(void)aidb_storage_remove(repository->storage, repository->lock);
		repository->lock[0] = '\0';
	}
	aidb_storage_close(repository->storage);
	repository->storage = NULL;
}

/* ---- Lists ----------------------------------------------------------------------------------------------- */

/* Makes room for one more: grows by doubling, at the powers of two. */
static aidb_status grow(void **items, uint32_t count, size_t item_bytes) {
	void *larger;

	if ((count & (count - 1)) != 0) {
		return AIDB_OK;
	}
	larger = realloc(*items, (count == 0 ? 1 : 2 * (size_t)count) * item_bytes);
	if (larger == NULL) {
		return aidb_fail(AIDB_NO_MEMORY, "out of memory: could not list what is in the repository");
	}
	*items = larger;
	return AIDB_OK;
}

/* ---- Backups --------------------------------------------------------------------------------------------- */

void aidb_manifest_name(const char *label, char name[AIDB_OBJECT_NAME_BYTES]) {
	snprintf(name, AIDB_OBJECT_NAME_BYTES, BACKUPS "%s", label);
}

static aidb_status add_label(void *argument, const char *name, uint64_t bytes) {
	aidb_labels *labels = argument;
	const char *label = name + strlen(BACKUPS);
	aidb_status rc;

	(void)bytes;
	if (strchr(label, '/') != NULL || strlen(label) >= AIDB_LABEL_BYTES) {
		return AIDB_OK; /* somebody else's */
	}
	rc = grow((void **)&labels->labels, labels->count, sizeof(labels->labels[0]));
	if (rc == AIDB_OK) {
		snprintf(labels->labels[labels->count++], AIDB_LABEL_BYTES, "%s", label);
	}
	return rc;
}

aidb_status aidb_repository_labels(aidb_repository *repository, aidb_labels *labels) {
	aidb_status rc;

	*labels = (aidb_labels){.labels = NULL};
	rc = aidb_storage_list(repository->storage, BACKUPS, add_label, labels);
	if (rc != AIDB_OK) {
		free(labels->labels);
		*labels = (aidb_labels){.labels = NULL};
	}
	return rc;
}

aidb_status aidb_repository_load(aidb_repository *repository, const char *label, aidb_manifest *manifest) {
	char name[AIDB_OBJECT_NAME_BYTES], *text;
	size_t size;
	aidb_status rc;

	aidb_manifest_name(label, name);
	rc = aidb_storage_load(repository->storage, name, AIDB_MAX_MANIFEST_BYTES, &text, &size);
	if (rc != AIDB_OK) {
		return rc;
	}
	rc = aidb_manifest_read(name, text, size, manifest);
	free(text);
	if (rc == AIDB_OK && strcmp(manifest->label, label) != 0) {
		rc = aidb_fail(AIDB_CORRUPT, "%s: this is the manifest of backup %s", name, manifest->label);
		aidb_manifest_free(manifest);
	}
	return rc;
}

aidb_status aidb_repository_put_manifest(aidb_repository *repository, const aidb_manifest *manifest) {
	char name[AIDB_OBJECT_NAME_BYTES], *text;
	size_t size;
	aidb_status rc = aidb_manifest_write(manifest, &text, &size);

	if (rc == AIDB_OK) {
		aidb_manifest_name(manifest->label, name);
		rc = aidb_storage_put(repository->storage, name, text, size);
		free(text);
	}
	return rc;
}

/* ---- Objects --------------------------------------------------------------------------------------------- */

void aidb_object_name(const char *hash, char name[AIDB_OBJECT_NAME_BYTES]) {
	snprintf(name, AIDB_OBJECT_NAME_BYTES, OBJECTS "%.2s/%s", hash, hash);
}

static aidb_status add_object(void *argument, const char *name, uint64_t bytes) {
	aidb_objects *objects = argument;
	const char *hash = strrchr(name, '/') + 1;
	aidb_status rc;

	if (!aidb_hash_is(hash)) {
		return AIDB_OK;
	}
	rc = grow((void **)&objects->objects, objects->count, sizeof(objects->objects[0]));
	if (rc == AIDB_OK) {
		aidb_object *object = &objects->objects[objects->count++];

		object->bytes = bytes;
		memcpy(object->hash, hash, AIDB_HASH_TEXT);
	}
	return rc;
}

aidb_status aidb_repository_objects(aidb_repository *repository, aidb_objects *objects) {
	aidb_status rc;

	*objects = (aidb_objects){.objects = NULL};
	rc = aidb_storage_list(repository->storage, OBJECTS, add_object, objects);
	if (rc != AIDB_OK) {
		free(objects->objects);
		*objects = (aidb_objects){.objects = NULL};
	}
	return rc;
}

static int compare_hash(const void *hash, const void *object) {
	return strcmp(hash, ((const aidb_object *)object)->hash);
}

const aidb_object *aidb_objects_find(const aidb_objects *objects, const char *hash) {
	return objects->count == 0 ? NULL
							   : bsearch(hash, objects->objects, objects->count, sizeof(aidb_object), compare_hash);
}

/* ---- The log --------------------------------------------------------------------------------------------- */

void aidb_piece_name(const aidb_piece *piece, char name[AIDB_OBJECT_NAME_BYTES]) {
	snprintf(name, AIDB_OBJECT_NAME_BYTES, LOG "%016" PRIx64 "/%016" PRIx64 "-%016" PRIx64 "-%016" PRIx64, piece->store,
			 piece->from, piece->upto, piece->clock_us);
}

static aidb_status add_piece(void *argument, const char *name, uint64_t bytes) {
	aidb_pieces *pieces = argument;
	aidb_piece piece = {.bytes = bytes};
	char same[AIDB_OBJECT_NAME_BYTES];
	aidb_status rc;

	if (sscanf(name, LOG "%16" SCNx64 "/%16" SCNx64 "-%16" SCNx64 "-%16" SCNx64, &piece.store, &piece.from, &piece.upto,
			   &piece.clock_us) != 4) {
		return AIDB_OK;
	}
	aidb_piece_name(&piece, same);
	if (strcmp(name, same) != 0) {
		return AIDB_OK;
	}
	rc = grow((void **)&pieces->pieces, pieces->count, sizeof(pieces->pieces[0]));
	if (rc == AIDB_OK) {
		pieces->pieces[pieces->count++] = piece;
	}
	return rc;
}

aidb_status aidb_repository_pieces(aidb_repository *repository, uint64_t store, aidb_pieces *pieces) {
	char prefix[AIDB_OBJECT_NAME_BYTES] = LOG;
	aidb_status rc;

	*pieces = (aidb_pieces){.pieces = NULL};
	if (store != 0) {
		snprintf(prefix, sizeof(prefix), LOG "%016" PRIx64 "/", store);
	}
	rc = aidb_storage_list(repository->storage, prefix, add_piece, pieces);
	if (rc != AIDB_OK) {
		free(pieces->pieces);
		*pieces = (aidb_pieces){.pieces = NULL};
	}
	return rc;
}

aidb_status aidb_repository_read_piece(aidb_repository *repository, const aidb_piece *piece, aidb_segment *segment) {
	char name[AIDB_OBJECT_NAME_BYTES], *bytes;
	size_t size;
	aidb_status rc;

	aidb_piece_name(piece, name);
	rc = aidb_storage_load(repository->storage, name, 2 * AIDB_MAX_SEGMENT_BYTES, &bytes, &size);
	if (rc != AIDB_OK) {
		return rc;
	}
	rc = aidb_segment_read(name, bytes, size, segment);
	free(bytes);
	if (rc == AIDB_OK && (segment->store != piece->store || segment->from != piece->from ||
						  segment->upto != piece->upto || segment->clock_us != piece->clock_us)) {
		rc = aidb_fail(AIDB_CORRUPT,
					   "%s: this piece of the log is another: of store %016" PRIx64 ", from %" PRIu64 " to %" PRIu64,
					   name, segment->store, segment->from, segment->upto);
	}
	return rc;
}

aidb_status aidb_repository_put_segment(aidb_repository *repository, const aidb_segment *segment, uint64_t *bytes) {
	aidb_piece piece = {
		.store = segment->store, .from = segment->from, .upto = segment->upto, .clock_us = segment->clock_us};
	char name[AIDB_OBJECT_NAME_BYTES], *written;
	size_t size;
	aidb_status rc = aidb_segment_write(segment, &written, &size);

	if (rc == AIDB_OK) {
		aidb_piece_name(&piece, name);
		rc = aidb_storage_put(repository->storage, name, written, size);
		free(written);
		*bytes = size;
	}
	return rc;
}

uint64_t aidb_pieces_reach(const aidb_pieces *pieces, uint64_t store, uint64_t sequence) {
	uint64_t reached = sequence;

	for (uint32_t i = 0; i < pieces->count; i++) {
		const aidb_piece *piece = &pieces->pieces[i];

		if (piece->store == store && piece->from <= reached && piece->upto > reached) {
			reached = piece->upto;
		}
	}
	return reached;
}

/* ---- Restore points -------------------------------------------------------------------------------------- */

void aidb_point_name(const char *point, char name[AIDB_OBJECT_NAME_BYTES]) {
	snprintf(name, AIDB_OBJECT_NAME_BYTES, POINTS "%.*s", AIDB_POINT_NAME_BYTES - 1, point);
}

aidb_status aidb_repository_put_point(aidb_repository *repository, const aidb_point *point) {
	char name[AIDB_OBJECT_NAME_BYTES], text[MAX_POINT_BYTES];
	int size = snprintf(text, sizeof(text), "%016" PRIx64 " %" PRIu64 " %" PRIu64 "\n", point->store, point->sequence,
						point->clock_us);

	aidb_point_name(point->name, name);
	return aidb_storage_put(repository->storage, name, text, (size_t)size);
}

aidb_status aidb_repository_find_point(aidb_repository *repository, const char *point_name, aidb_point *point) {
	char name[AIDB_OBJECT_NAME_BYTES], *text;
	size_t size;
	aidb_status rc;

	aidb_point_name(point_name, name);
	rc = aidb_storage_load(repository->storage, name, MAX_POINT_BYTES, &text, &size);
	if (rc != AIDB_OK) {
		return rc;
	}
	snprintf(point->name, sizeof(point->name), "%.*s", AIDB_POINT_NAME_BYTES - 1, point_name);
	if (sscanf(text, "%16" SCNx64 " %20" SCNu64 " %20" SCNu64 "\n", &point->store, &point->sequence,
			   &point->clock_us) != 3) {
		rc = aidb_fail(AIDB_CORRUPT, "%s: the restore point is damaged", name);
	}
	free(text);
	return rc;
}

typedef struct listing_points {
	aidb_repository *repository;
	aidb_points *points;
} listing_points;

static aidb_status add_point(void *argument, const char *name, uint64_t bytes) {
	const listing_points *run = argument;
	aidb_points *points = run->points;
	const char *point = name + strlen(POINTS);
	aidb_status rc;

	(void)bytes;
	if (strlen(point) >= AIDB_POINT_NAME_BYTES) {
		return AIDB_OK;
	}
	rc = grow((void **)&points->points, points->count, sizeof(points->points[0]));
	if (rc == AIDB_OK) {
		rc = aidb_repository_find_point(run->repository, point, &points->points[points->count]);
		points->count += rc == AIDB_OK;
	}
	return rc;
}

aidb_status aidb_repository_points(aidb_repository *repository, aidb_points *points) {
	listing_points run = {repository, points};
	aidb_status rc;

	*points = (aidb_points){.points = NULL};
	rc = aidb_storage_list(repository->storage, POINTS, add_point, &run);
	if (rc != AIDB_OK) {
		free(points->points);
		*points = (aidb_points){.points = NULL};
	}
	return rc;
}

/* ---- Locks ----------------------------------------------------------------------------------------------- */

typedef struct looking {
	aidb_repository *repository;
	const char *kind;
	bool found;
	char name[AIDB_OBJECT_NAME_BYTES];
} looking;

static aidb_status look_at_lock(void *argument, const char *name, uint64_t bytes) {
	looking *run = argument;
	char *text;
	size_t size;
	aidb_status rc;

	(void)bytes;
	if (strncmp(name + strlen(LOCKS), run->kind, strlen(run->kind)) != 0) {
		return AIDB_OK;
	}
	rc = aidb_storage_load(run->repository->storage, name, MAX_LOCK_BYTES, &text, &size);
	if (rc == AIDB_OK) {
		if (strtoll(text, NULL, 10) + LOCK_S > (long long)time(NULL)) {
			run->found = true;
			snprintf(run->name, sizeof(run->name), "%s", name);
		}
		free(text);
	}
	return rc == AIDB_NOT_FOUND ? AIDB_OK : rc;
}

aidb_status aidb_repository_lock(aidb_repository *repository, const char *kind, const char *other) {
	looking run = {.repository = repository, .kind = other};
	char host[HOST_NAME_MAX + 1] = "", text[MAX_LOCK_BYTES];
	aidb_status rc;

	(void)gethostname(host, sizeof(host) - 1);
	snprintf(repository->lock, sizeof(repository->lock), LOCKS "%s-%s-%ld", kind, host, (long)getpid());
	snprintf(text, sizeof(text), "%lld\n", (long long)time(NULL));
	rc = aidb_storage_put(repository->storage, repository->lock, text, strlen(text));
	if (rc == AIDB_OK) {
		rc = aidb_storage_list(repository->storage, LOCKS, look_at_lock, &run);
	}
	if (rc == AIDB_OK && run.found) {
		rc = aidb_fail(
			AIDB_IN_USE,
			"%s: in the repository is %s: somebody is at it; wait, or remove that object if its process is dead",
			aidb_storage_address(repository->storage), run.name);
	}
	if (rc != AIDB_OK) {
		(void)aidb_storage_remove(repository->storage, repository->lock);
		repository->lock[0] = '\0';
	}
	return rc;
}
