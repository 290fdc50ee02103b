#include "backup/target.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "backup/replay.h"
#include "object_store/failure.h"

#define SINCE_2000_US 946684800000000ull /* microseconds from 1970 */

typedef struct finding {
	aidb_repository *repository;
	const aidb_target *target;
	const char *address;
	aidb_point point;
	aidb_found *found;
	uint64_t reach; /* how far the log goes on from the backup without a gap */
} finding;

/* ---- The backup ------------------------------------------------------------------------------------------ */

/* Whether the target can be reached from a backup, as far as is known before the log has been looked at. */
static bool suits(const finding *run, const aidb_manifest *manifest) {
	switch (run->target->kind) {
	case AIDB_TARGET_TIME:
		return manifest->finished <= run->target->time;
	case AIDB_TARGET_SEQUENCE:
		return manifest->complete_at <= run->target->sequence;
	case AIDB_TARGET_POINT:
		return manifest->store == run->point.store && manifest->complete_at <= run->point.sequence;
	default:
		return true;
	}
}

static aidb_status no_backup(const finding *run, const aidb_labels *labels) {
	if (labels->count == 0) {
		return aidb_fail(AIDB_NOT_FOUND, "there is no backup in %s", run->address);
	}
	if (run->target->label != NULL) {
		return aidb_fail(AIDB_NOT_FOUND, "there is no backup %s in %s, or it does not lead to that target",
						 run->target->label, run->address);
	}
	return aidb_fail(
		AIDB_NOT_FOUND,
		"none of the %u backups in %s leads to that target: it is before all of them, or of another store; "
		"see: aidb-admin info",
		labels->count, run->address);
}

static aidb_status choose_backup(finding *run) {
	aidb_manifest *manifest = &run->found->manifest;
	aidb_labels labels;
	bool found = false;
	aidb_status rc = aidb_repository_labels(run->repository, &labels);

	for (uint32_t i = labels.count; i > 0 && rc == AIDB_OK && !found; i--) {
		const char *label = labels.labels[i - 1];

		if (run->target->label != NULL && strcmp(label, run->target->label) != 0) {
			continue;
		}
		rc = aidb_repository_load(run->repository, label, manifest);
		found = rc == AIDB_OK && suits(run, manifest);
		if (rc == AIDB_OK && !found) {
			aidb_manifest_free(manifest);
		}
	}
	if (rc == AIDB_OK && !found) {
		rc = no_backup(run, &labels);
	}
	free(labels.labels);
	return rc;
}

/* ---- The commit ------------------------------------------------------------------------------------------ */

/* Calls for the answers of a piece, in order. */
static aidb_status for_answers(const finding *run, const aidb_piece *piece,
							   void (*call)(void *argument, aidb_slice answer), void *argument) {
	aidb_segment *segment = calloc(1, sizeof(*segment));
	aidb_status rc = segment == NULL ? aidb_fail(AIDB_NO_MEMORY, "out of memory")
									 : aidb_repository_read_piece(run->repository, piece, segment);
	size_t offset = 0;
	aidb_slice answer;

	while (rc == AIDB_OK && aidb_segment_next(segment, &offset, &answer)) {
		call(argument, answer);
	}
	if (segment != NULL) {
		aidb_segment_free(segment);
	}
	free(segment);
	return rc;
}

static void look_at_end(void *argument, aidb_slice answer) {
	uint64_t *last = argument;
	aipg_stream_head head;

	if (aipg_stream_read_head(&answer, &head) && (head.flags & AIPG_STREAM_WINDOW_END) != 0 && head.upto > *last) {
		*last = head.upto;
	}
}

/* The last state that the log leads to: in the midst of a window something may be missing that is decided behind it. */
static aidb_status find_latest(finding *run) {
	const aidb_pieces *pieces = &run->found->pieces;
	aidb_status rc = AIDB_OK;

	run->found->sequence = 0;
	for (uint32_t i = pieces->count; i > 0 && rc == AIDB_OK && run->found->sequence == 0; i--) {
		const aidb_piece *piece = &pieces->pieces[i - 1];

		if (piece->upto <= run->reach && piece->upto >= run->found->manifest.after) {
			rc = for_answers(run, piece, look_at_end, &run->found->sequence);
		}
	}
	if (run->found->sequence < run->found->manifest.after) { /* nothing was committed since */
		run->found->sequence = run->found->manifest.after;
	}
	return rc;
}

typedef struct looking {
	uint64_t clock_us;
	uint64_t found; /* the last mark that is not later; 0: none */
} looking;

static void look_at_mark(void *argument, const aipg_mark *mark, uint64_t sequence) {
	looking *run = argument;

	if (mark->clock_us <= run->clock_us && sequence > run->found) {
		run->found = sequence;
	}
}

static void look_at_marks(void *argument, aidb_slice answer) {
	aidb_marks_in(answer, look_at_mark, argument);
}

/* Every second in which there were commits ends with a mark. So from the last mark before it on nothing was committed, but in the
 * last second. */
static aidb_status find_time(finding *run) {
	const aidb_pieces *pieces = &run->found->pieces;
	uint64_t complete_at = run->found->manifest.complete_at;
	looking look = {.clock_us = run->target->time > SINCE_2000_US ? run->target->time - SINCE_2000_US : 0};
	uint32_t after = pieces->count; /* the first piece that ends later */
	aidb_status rc = AIDB_OK;

	for (uint32_t i = pieces->count; i > 0 && pieces->pieces[i - 1].clock_us > look.clock_us; i--) {
		after = i - 1;
	}
	if (after == pieces->count) {
		return aidb_fail(
			AIDB_NOT_FOUND,
			"the archived log does not come to that time; restore to the latest state, or wait until it is "
			"archived; see: aidb-admin info");
	}
	for (uint32_t i = after + 1; i > 0 && rc == AIDB_OK && look.found == 0; i--) {
		if (pieces->pieces[i - 1].upto <= complete_at) {
			break;
		}
		rc = for_answers(run, &pieces->pieces[i - 1], look_at_marks, &look);
	}
	run->found->is_mark = look.found > complete_at;
	run->found->sequence = run->found->is_mark ? look.found : complete_at;
	return rc;
}

static aidb_status find_commit(finding *run) {
	switch (run->target->kind) {
	case AIDB_TARGET_LATEST:
		return find_latest(run);
	case AIDB_TARGET_TIME:
		return find_time(run);
	case AIDB_TARGET_SEQUENCE:
		run->found->sequence = run->target->sequence;
		return AIDB_OK;
	default:
		run->found->is_mark = true;
		run->found->sequence = run->point.sequence;
		return AIDB_OK;
	}
}

static aidb_status find_log(finding *run) {
	aidb_found *found = run->found;
	const aidb_manifest *manifest = &found->manifest;
	aidb_status rc = aidb_repository_pieces(run->repository, manifest->store, &found->pieces);

	if (rc != AIDB_OK) {
		return rc;
	}
	run->reach = aidb_pieces_reach(&found->pieces, manifest->store, manifest->after);
	rc = find_commit(run);
	if (rc == AIDB_OK && (run->reach < found->sequence || found->sequence < manifest->complete_at)) {
		rc = aidb_fail(AIDB_NOT_FOUND,
					   "the archived log goes on from backup %s to commit %" PRIu64
					   " without a gap, and is needed to %" PRIu64 "; see: aidb-admin info",
					   manifest->label, run->reach,
					   found->sequence > manifest->complete_at ? found->sequence : manifest->complete_at);
	}
	return rc;
}

aidb_status aidb_target_find(aidb_repository *repository, const aidb_target *target, aidb_found *found) {
	finding run = {.repository = repository,
				   .target = target,
				   .address = aidb_storage_address(repository->storage),
				   .found = found};
	aidb_status rc = AIDB_OK;

	*found = (aidb_found){.sequence = 0};
	if (target->kind == AIDB_TARGET_POINT) {
		rc = aidb_repository_find_point(repository, target->point, &run.point);
		if (rc == AIDB_NOT_FOUND) {
			rc = aidb_fail(rc, "there is no restore point \"%s\" in %s", target->point, run.address);
		}
	}
	if (rc == AIDB_OK) {
		rc = choose_backup(&run);
	}
	if (rc == AIDB_OK) {
		rc = find_log(&run);
	}
	if (rc != AIDB_OK) {
		aidb_target_free(found);
	}
	return rc;
}

void aidb_target_free(aidb_found *found) {
	aidb_manifest_free(&found->manifest);
	free(found->pieces.pieces);
	found->pieces = (aidb_pieces){.pieces = NULL};
}
