/*
 * stream_format.h: what a primary answers to aidb.stream_read, as bytes. Nothing of PostgreSQL's, so that it can be tested and
 * fuzzed alone.
 *
 *   head    version u8 (1), flags u8, epoch u64, store id u64, from u64, upto u64, current u64, clock u64, events u32
 *   event   kind u8, sequence u64, tag u64, bytes u32, operations (as aidb_operation_next takes them)
 *
 * Numbers are big-endian. A response covers the commits beyond `from` up to `upto`. What several responses up to one with
 * AIPG_STREAM_WINDOW_END bring is to be shown to readers together.
 *
 * Who wants the state at a commit in the middle of that takes the commits up to it, and the decisions that bear a sequence up
 * to it, or 0 when their last batch does.
 *
 * Among the commits of a primary whose log is archived are *marks*, rows that tell the time or bear a name:
 *
 *   key     slot u16 (0), index id u32 (7), then the name, if there is one
 *   value   version u8 (1), microseconds since 2000 u64
 */
#ifndef AIPG_STREAM_FORMAT_H
#define AIPG_STREAM_FORMAT_H

#include "aidb.h"

#define AIPG_STREAM_VERSION 1
#define AIPG_STREAM_HEAD_BYTES 54
#define AIPG_STREAM_EVENT_BYTES 21
#define AIPG_STREAM_WINDOW_END 1 /* a flag */

typedef enum aipg_event_kind {
	AIPG_EVENT_PLAIN = 1,    /* a commit */
	AIPG_EVENT_PREPARED = 2, /* operations of a transaction that is to be decided */
	AIPG_EVENT_COMMIT = 3,   /* of the tag; no operations */
	AIPG_EVENT_ABORT = 4,
} aipg_event_kind;

typedef struct aipg_stream_head {
	uint8_t flags;
	uint64_t epoch;
	uint64_t store_id;
	uint64_t from;
	uint64_t upto;
	uint64_t current;  /* the newest commit that the primary has */
	uint64_t clock_us; /* the primary's, since 2000 */
	uint32_t events;
} aipg_stream_head;

typedef struct aipg_stream_event {
	aipg_event_kind kind;
	/* Of a commit. Of a decision about a transaction that was prepared for later, the newest commit that could be seen when it was
	 * made; of others 0: they are decided right after their last batch. */
	uint64_t sequence;
	uint64_t tag;
	aidb_slice operations; /* in the bytes that were read */
} aipg_stream_event;

#define AIPG_INDEX_MARKS 7
#define AIPG_MARK_NAME_BYTES 64 /* with a final zero byte */
#define AIPG_MARK_KEY_BYTES (6 + AIPG_MARK_NAME_BYTES)
#define AIPG_MARK_VALUE_BYTES 9

typedef struct aipg_mark {
	char name[AIPG_MARK_NAME_BYTES]; /* empty: it just tells the time */
	uint64_t clock_us;
} aipg_mark;

/* Takes the head off *bytes. False: malformed. */
bool aipg_stream_read_head(aidb_slice *bytes, aipg_stream_head *head);
/* Takes the next event off *bytes, and makes sure that its operations are well-formed. False: malformed. */
bool aipg_stream_read_event(aidb_slice *bytes, aipg_stream_event *event);

void aipg_stream_write_head(uint8_t to[AIPG_STREAM_HEAD_BYTES], const aipg_stream_head *head);
/* False: the operation is no mark. */
bool aipg_stream_read_mark(const aidb_operation *operation, aipg_mark *mark);
/* Key and value of a mark's row; returns the key's size. */
size_t aipg_stream_write_mark(const aipg_mark *mark, uint8_t key[AIPG_MARK_KEY_BYTES],
							  uint8_t value[AIPG_MARK_VALUE_BYTES]);
/* The part of an event that stands before its operations. */
void aipg_stream_write_event(uint8_t to[AIPG_STREAM_EVENT_BYTES], const aipg_stream_event *event);

#endif
