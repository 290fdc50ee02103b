/*
 * segment.h: a piece of the archived log: what a primary has answered to aidb.stream_read, one after the other, compressed.
 *
 *   head      magic "AIDBLOG1", version u8 (1), begins u8 (1: what came before is not in the archive), store id, epoch, from, upto, clock (of the last answer; µs since 2000) u64 each,
 *             answers u32, bytes u64, packed bytes u64, undecided u32, then as many tags u64: transactions that were passed on up to
 *             `upto`, and not decided
 *   packed    Zstandard: for each answer its size u32, then its bytes
 *   trailer   SHA-256 of all before, as 64 hexadecimal digits
 *
 * Numbers are big-endian. An answer is as in replication/stream_format.h.
 */
#ifndef AIDB_BACKUP_SEGMENT_H
#define AIDB_BACKUP_SEGMENT_H

#include <stdbool.h>
#include <stdint.h>

#include "aidb.h"

#define AIDB_MAX_UNDECIDED 4096u
#define AIDB_MAX_SEGMENT_BYTES ((size_t)512 << 20) /* of answers, not packed */

typedef struct aidb_segment {
	uint64_t store;
	uint64_t epoch;
	uint64_t from;
	uint64_t upto;
	uint64_t clock_us;
	bool begins; /* what came before it is not in the archive */
	uint32_t answers;
	uint32_t undecided_count;
	uint64_t undecided[AIDB_MAX_UNDECIDED];
	aidb_buffer bytes; /* sizes and answers */
} aidb_segment;

/* Forgets all but the tags that are undecided, for the segment that follows. */
void aidb_segment_begin(aidb_segment *segment);
/* Adds an answer that follows the ones before, or is the first. AIDB_CORRUPT when it is malformed, or does not follow; AIDB_LIMIT. */
aidb_status aidb_segment_add(aidb_segment *segment, aidb_slice answer);
/* As bytes; *bytes is malloc'd, the caller's to free. */
aidb_status aidb_segment_write(const aidb_segment *segment, char **bytes, size_t *size);
/* `name` is for messages. Replaces what was there. AIDB_CORRUPT, AIDB_UNSUPPORTED. */
aidb_status aidb_segment_read(const char *name, const char *bytes, size_t size, aidb_segment *segment);
/* The next answer behind *offset, which is 0 at first and moves on; false: there are no more. */
bool aidb_segment_next(const aidb_segment *segment, size_t *offset, aidb_slice *answer);
void aidb_segment_free(aidb_segment *segment); /* what it has allocated */

#endif
