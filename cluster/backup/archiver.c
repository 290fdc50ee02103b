#include "backup/archiver.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "backup/replay.h"
#include "object_store/failure.h"

#define ANSWER_BYTES (1u << 20)
#define PIECE_BYTES ((size_t)16 << 20)
#define REACH_WAIT_MS 1000u

/* The last piece that the repository has of this store; false: it has none. */
static bool last_piece(const aidb_pieces *pieces, aidb_piece *last) {
	bool found = false;

	for (uint32_t i = 0; i < pieces->count; i++) {
		const aidb_piece *piece = &pieces->pieces[i];

		if (!found || piece->upto > last->upto || (piece->upto == last->upto && piece->clock_us > last->clock_us)) {
			*last = *piece;
			found = true;
		}
	}
	return found;
}

/* Goes on from there: what it left undecided is still to be decided. */
static aidb_status follow(aidb_archiver *archiver, const aidb_piece *last, uint64_t slot_at) {
	aidb_status rc = AIDB_OK;

	if (slot_at > last->upto) {
		archiver->gap_from = last->upto;
		return AIDB_OK;
	}
	rc = aidb_repository_read_piece(archiver->repository, last, &archiver->segment);
	if (rc == AIDB_OK) {
		archiver->begun_from = last->from;
		archiver->archived = last->upto;
	}
	return rc;
}

static aidb_status find_place(aidb_archiver *archiver, uint64_t slot_at) {
	bool begins = true;
	aidb_pieces pieces;
	aidb_piece last;
	aidb_status rc = aidb_repository_pieces(archiver->repository, archiver->store, &pieces);

	if (rc != AIDB_OK) {
		return rc;
	}
	archiver->begun_from = archiver->archived = slot_at;
	archiver->gap_from = 0;
	archiver->segment.undecided_count = 0;
	if (last_piece(&pieces, &last)) {
		rc = follow(archiver, &last, slot_at);
		begins = archiver->gap_from != 0;
	}
	free(pieces.pieces);
	archiver->segment.upto = archiver->archived;
	aidb_segment_begin(&archiver->segment);
	archiver->segment.begins = begins;
	return rc;
}

aidb_status aidb_archiver_begin(aidb_archiver *archiver, aidb_repository *repository, aidb_source *source,
								const char *slot) {
	uint64_t slot_at;
	aidb_status rc;

	*archiver = (aidb_archiver){.repository = repository, .source = source, .slot = slot};
	rc = aidb_source_open_slot(source, slot, &slot_at, &archiver->store, &archiver->epoch);
	return rc == AIDB_OK ? find_place(archiver, slot_at) : rc;
}

void aidb_archiver_end(aidb_archiver *archiver) {
	aidb_segment_free(&archiver->segment);
}

/* ---- Restore points -------------------------------------------------------------------------------------- */

typedef struct noting {
	aidb_archiver *archiver;
	aidb_status rc;
} noting;

static void note_point(void *argument, const aipg_mark *mark, uint64_t sequence) {
	noting *run = argument;
	aidb_point point = {.store = run->archiver->store, .sequence = sequence, .clock_us = mark->clock_us};

	if (mark->name[0] != '\0' && run->rc == AIDB_OK) {
		snprintf(point.name, sizeof(point.name), "%s", mark->name);
		run->rc = aidb_repository_put_point(run->archiver->repository, &point);
	}
}

static aidb_status put_points(aidb_archiver *archiver) {
	noting run = {.archiver = archiver};
	size_t offset = 0;
	aidb_slice answer;

	while (aidb_segment_next(&archiver->segment, &offset, &answer)) {
		aidb_marks_in(answer, note_point, &run);
	}
	return run.rc;
}

/* ---- Archiving ------------------------------------------------------------------------------------------- */

aidb_status aidb_archiver_flush(aidb_archiver *archiver) {
	uint64_t bytes;
	aidb_status rc = AIDB_OK;

	if (archiver->segment.answers == 0) {
		return AIDB_OK;
	}
	rc = aidb_repository_put_segment(archiver->repository, &archiver->segment, &bytes);
	if (rc == AIDB_OK) {
		rc = put_points(archiver);
	}
	if (rc == AIDB_OK) {
		archiver->archived = archiver->segment.upto;
		archiver->written_bytes += bytes;
		aidb_segment_begin(&archiver->segment);
	}
	return rc;
}

static aidb_status take(aidb_archiver *archiver, aidb_slice answer, bool *got) {
	aidb_slice rest = answer;
	aipg_stream_head head;
	aidb_status rc;

	if (!aipg_stream_read_head(&rest, &head)) {
		return aidb_fail(AIDB_CORRUPT, "the server's stream is malformed behind commit %" PRIu64,
						 archiver->segment.upto);
	}
	archiver->window_open = (head.flags & AIPG_STREAM_WINDOW_END) == 0;
	*got = head.upto > head.from || head.events > 0;
	if (!*got) {
		return AIDB_OK;
	}
	rc = aidb_segment_add(&archiver->segment, answer);
	archiver->epoch = head.epoch;
	return rc == AIDB_OK && archiver->segment.bytes.size >= PIECE_BYTES ? aidb_archiver_flush(archiver) : rc;
}

/* The server has not kept what follows: goes on where it can, and notes the gap. */
static aidb_status skip_gap(aidb_archiver *archiver) {
	uint64_t from = archiver->archived, slot_at;
	aidb_status rc = aidb_archiver_flush(archiver);

	if (rc == AIDB_OK) {
		from = archiver->archived;
		rc = aidb_source_reopen_slot(archiver->source, archiver->slot, &slot_at);
	}
	if (rc == AIDB_OK && slot_at <= from) {
		return aidb_fail(AIDB_CORRUPT,
						 "the server is at commit %" PRIu64 ", and the archive of its log has come to %" PRIu64
						 ": it is not the server that the archive is of; give it a repository of its own",
						 slot_at, from);
	}
	if (rc == AIDB_OK) {
		archiver->gap_from = from;
		archiver->begun_from = archiver->archived = archiver->segment.upto = slot_at;
		archiver->segment.undecided_count = 0;
		aidb_segment_begin(&archiver->segment);
		archiver->segment.begins = true;
	}
	return rc;
}

aidb_status aidb_archiver_step(aidb_archiver *archiver, unsigned wait_ms, bool *got) {
	aidb_stream_place place = {.slot = archiver->slot,
							   .epoch = archiver->epoch,
							   .after = archiver->segment.upto,
							   .acknowledged = archiver->archived,
							   .undecided = archiver->segment.undecided,
							   .undecided_count = archiver->segment.undecided_count};
	aidb_slice answer;
	aidb_status rc = aidb_source_stream(archiver->source, &place, ANSWER_BYTES, wait_ms, &answer);

	*got = false;
	if (rc == AIDB_NOT_FOUND) {
		return skip_gap(archiver);
	}
	return rc == AIDB_OK ? take(archiver, answer, got) : rc;
}

aidb_status aidb_archiver_reach(aidb_archiver *archiver, uint64_t sequence) {
	aidb_status rc = AIDB_OK;
	bool got;

	while (rc == AIDB_OK && (archiver->segment.upto < sequence || archiver->window_open)) {
		rc = aidb_archiver_step(archiver, REACH_WAIT_MS, &got);
	}
	return rc == AIDB_OK ? aidb_archiver_flush(archiver) : rc;
}
