/* A piece of the archived log, and what a restore makes of its answers: any bytes, also with a checksum that fits. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "backup/replay.h"
#include "backup/segment.h"
#include "object_store/hash.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void note_mark(void *argument, const aipg_mark *mark, uint64_t sequence) {
	*(uint64_t *)argument += mark->clock_us + sequence + strlen(mark->name);
}

static void replay(const aidb_segment *segment) {
	aidb_replay run = {.store = segment->store,
					   .reached = segment->from,
					   .read = segment->from,
					   .target = segment->from + (segment->upto - segment->from) / 2};
	size_t offset = 0;
	uint64_t sum = 0;
	aidb_slice answer, cut;

	while (aidb_segment_next(segment, &offset, &answer)) {
		aidb_marks_in(answer, note_mark, &sum);
		if (aidb_replay_next(&run, answer, &cut) != AIDB_OK) {
			break;
		}
	}
	aidb_replay_free(&run);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
	static aidb_segment segment;
	char *sealed = malloc(size + AIDB_HASH_TEXT), hash[AIDB_HASH_TEXT];

	if (sealed == NULL) {
		return 0;
	}
	memcpy(sealed, data, size);
	(void)aidb_segment_read("fuzz", sealed, size, &segment);
	aidb_hash_of(data, size, hash);
	memcpy(sealed + size, hash, AIDB_HASH_TEXT - 1);
	if (aidb_segment_read("fuzz", sealed, size + AIDB_HASH_TEXT - 1, &segment) == AIDB_OK) {
		replay(&segment);
	}
	free(sealed);
	/* an answer of a server, as it comes */
	segment.bytes.size = 0;
	segment.answers = 0;
	segment.from = segment.upto = 0;
	segment.undecided_count = 0;
	(void)aidb_segment_add(&segment, (aidb_slice){data, size});
	return 0;
}
