/*
 * answer_fixture.h: answers of aidb.stream_read for tests, put together event by event.
 */
#ifndef ANSWER_FIXTURE_H
#define ANSWER_FIXTURE_H

#include <stdint.h>

#include "aidb.h"
#include "replication/stream_format.h"

#define ANSWER_BYTES 4096

typedef struct test_answer {
	aipg_stream_head head;
	uint8_t bytes[ANSWER_BYTES];
	size_t size;
} test_answer;

/* From the commit `from` on, with no events yet. */
void answer_begin(test_answer *answer, uint64_t store, uint64_t from);
/* A commit, or a batch of a transaction, that writes one row. */
void answer_batch(test_answer *answer, aipg_event_kind kind, uint64_t sequence, uint64_t tag, const char *key);
/* The same of a row of a sharded table, with a key of one letter. */
void answer_row(test_answer *answer, aipg_event_kind kind, uint64_t sequence, uint64_t tag, uint32_t slot, char name);
void answer_decision(test_answer *answer, aipg_event_kind kind, uint64_t sequence, uint64_t tag);
void answer_mark(test_answer *answer, uint64_t sequence, const char *name, uint64_t clock_us);
/* Its bytes, valid until it is changed. */
aidb_slice answer_end(test_answer *answer, uint64_t upto, bool window_end);
/* Events as text: "P5 x7:3 c7 a8 " for a commit 5, a batch of transaction 7 at 3, decisions of 7 and 8. */
const char *answer_text(aidb_slice answer);

#endif
