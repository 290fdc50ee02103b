#include "backup/retention.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "object_store/failure.h"

#define DAY_US (24ull * 3600 * 1000000)

void aidb_retention_choose(const aidb_retention_rules *rules, uint64_t now, aidb_backup_age *backups, uint32_t count) {
	uint64_t since = rules->days * DAY_US < now ? now - rules->days * DAY_US : 0;
	bool reaches_back = false; /* a backup that is kept is from before the days that count */

	for (uint32_t i = count; i > 0; i--) {
		aidb_backup_age *backup = &backups[i - 1];

		backup->keep = i == count || (rules->count > 0 && count - i < rules->count);
		if (rules->days > 0 && !reaches_back) {
			backup->keep = true;
			reaches_back = backup->finished < since;
		}
	}
}

typedef struct expiring {
	aidb_repository *repository;
	bool dry_run;
	aidb_expired *expired;
	aidb_labels labels;
	aidb_manifest *manifests; /* one each; of those that go only the head may be there */
	aidb_backup_age *ages;
	aidb_objects objects;
	bool *used;
} expiring;

static aidb_status remove_object(expiring *run, const char *name, uint64_t bytes) {
	run->expired->bytes += bytes;
	return run->dry_run ? AIDB_OK : aidb_storage_remove(run->repository->storage, name);
}

static aidb_status load(expiring *run) {
	aidb_status rc = aidb_repository_labels(run->repository, &run->labels);

	if (rc != AIDB_OK) {
		return rc;
	}
	run->manifests = calloc(run->labels.count + 1, sizeof(run->manifests[0]));
	run->ages = calloc(run->labels.count + 1, sizeof(run->ages[0]));
	if (run->manifests == NULL || run->ages == NULL) {
		return aidb_fail(AIDB_NO_MEMORY, "out of memory");
	}
	for (uint32_t i = 0; i < run->labels.count && rc == AIDB_OK; i++) {
		rc = aidb_repository_load(run->repository, run->labels.labels[i], &run->manifests[i]);
		run->ages[i].finished = run->manifests[i].finished;
	}
	if (rc == AIDB_OK) {
		rc = aidb_repository_objects(run->repository, &run->objects);
	}
	if (rc == AIDB_OK && (run->used = calloc(run->objects.count + 1, sizeof(bool))) == NULL) {
		rc = aidb_fail(AIDB_NO_MEMORY, "out of memory");
	}
	return rc;
}

static void mark(expiring *run, const aidb_manifest *manifest) {
	for (uint32_t i = 0; i < manifest->file_count; i++) {
		const aidb_object *object = aidb_objects_find(&run->objects, manifest->files[i].hash);

		if (object != NULL) {
			run->used[object - run->objects.objects] = true;
		}
	}
}

/* From where on the log of a store is needed; UINT64_MAX: not at all. */
static uint64_t needed_from(const expiring *run, uint64_t store) {
	uint64_t from = UINT64_MAX;

	for (uint32_t i = 0; i < run->labels.count; i++) {
		if (run->ages[i].keep && run->manifests[i].store == store && run->manifests[i].after < from) {
			from = run->manifests[i].after;
		}
	}
	return from;
}

/* Manifests first: whoever finds one finds all that it names. */
static aidb_status remove_manifests(expiring *run, void (*each)(void *argument, const char *label), void *argument) {
	aidb_status rc = AIDB_OK;

	for (uint32_t i = 0; i < run->labels.count && rc == AIDB_OK; i++) {
		char name[AIDB_OBJECT_NAME_BYTES];

		if (run->ages[i].keep) {
			mark(run, &run->manifests[i]);
			continue;
		}
		each(argument, run->labels.labels[i]);
		aidb_manifest_name(run->labels.labels[i], name);
		run->expired->backups++;
		rc = remove_object(run, name, 0);
	}
	return rc;
}

static aidb_status remove_objects(expiring *run) {
	aidb_status rc = AIDB_OK;

	for (uint32_t i = 0; i < run->objects.count && rc == AIDB_OK; i++) {
		char name[AIDB_OBJECT_NAME_BYTES];

		if (!run->used[i]) {
			aidb_object_name(run->objects.objects[i].hash, name);
			run->expired->objects++;
			rc = remove_object(run, name, run->objects.objects[i].bytes);
		}
	}
	return rc;
}

static aidb_status remove_pieces(expiring *run) {
	aidb_pieces pieces;
	aidb_status rc = aidb_repository_pieces(run->repository, 0, &pieces);

	for (uint32_t i = 0; i < pieces.count && rc == AIDB_OK; i++) {
		const aidb_piece *piece = &pieces.pieces[i];
		uint64_t from = needed_from(run, piece->store);
		char name[AIDB_OBJECT_NAME_BYTES];

		/* what is decided right at the beginning may have been prepared before */
		if (piece->upto < from) {
			aidb_piece_name(piece, name);
			run->expired->pieces++;
			rc = remove_object(run, name, piece->bytes);
		}
	}
	free(pieces.pieces);
	return rc;
}

static aidb_status remove_points(expiring *run) {
	aidb_points points;
	aidb_status rc = aidb_repository_points(run->repository, &points);

	for (uint32_t i = 0; i < points.count && rc == AIDB_OK; i++) {
		char name[AIDB_OBJECT_NAME_BYTES];

		if (points.points[i].sequence < needed_from(run, points.points[i].store)) {
			aidb_point_name(points.points[i].name, name);
			run->expired->points++;
			rc = remove_object(run, name, 0);
		}
	}
	free(points.points);
	return rc;
}

aidb_status aidb_expire(aidb_repository *repository, const aidb_retention_rules *rules, bool dry_run,
						void (*each)(void *argument, const char *label), void *argument, aidb_expired *expired) {
	expiring run = {.repository = repository, .dry_run = dry_run, .expired = expired};
	aidb_status rc = dry_run ? AIDB_OK : aidb_repository_lock(repository, "expire", "backup");

	*expired = (aidb_expired){.backups = 0};
	if (rc == AIDB_OK) {
		rc = load(&run);
	}
	if (rc == AIDB_OK && run.labels.count > 0) {
		aidb_retention_choose(rules, (uint64_t)time(NULL) * 1000000, run.ages, run.labels.count);
		rc = remove_manifests(&run, each, argument);
		if (rc == AIDB_OK) {
			rc = remove_objects(&run);
		}
		if (rc == AIDB_OK) {
			rc = remove_pieces(&run);
		}
		if (rc == AIDB_OK) {
			rc = remove_points(&run);
		}
	}
	for (uint32_t i = 0; run.manifests != NULL && i < run.labels.count; i++) {
		aidb_manifest_free(&run.manifests[i]);
	}
	free(run.labels.labels);
	free(run.manifests);
	free(run.ages);
	free(run.objects.objects);
	free(run.used);
	return rc;
}
