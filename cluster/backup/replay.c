#include "backup/replay.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "object_store/failure.h"

static aidb_status append(aidb_buffer *to, const void *data, size_t size) {
	if (size > to->capacity - to->size) {
		size_t capacity = 2 * (to->size + size);
		char *larger = realloc(to->data, capacity);

		if (larger == NULL) {
			return aidb_fail(AIDB_NO_MEMORY, "out of memory: could not cut the log to the target");
		}
		to->data = larger;
		to->capacity = capacity;
	}
	if (size > 0) {
		memcpy(to->data + to->size, data, size);
		to->size += size;
	}
	return AIDB_OK;
}

static aidb_status append_event(aidb_buffer *to, const aipg_stream_event *event) {
	uint8_t head[AIPG_STREAM_EVENT_BYTES];
	aidb_status rc;

	aipg_stream_write_event(head, event);
	rc = append(to, head, sizeof(head));
	return rc == AIDB_OK ? append(to, event->operations.data, event->operations.size) : rc;
}

static aidb_prepared *find(aidb_replay *replay, uint64_t tag) {
	for (uint32_t i = 0; i < replay->prepared_count; i++) {
		if (replay->prepared[i].tag == tag) {
			return &replay->prepared[i];
		}
	}
	return NULL;
}

static aidb_status note_prepared(aidb_replay *replay, const aipg_stream_event *event) {
	aidb_prepared *known = find(replay, event->tag);

	if (known == NULL) {
		if (replay->prepared_count == AIDB_MAX_UNDECIDED) {
			return aidb_fail(AIDB_LIMIT, "more than %u transactions of the log are undecided", AIDB_MAX_UNDECIDED);
		}
		known = &replay->prepared[replay->prepared_count++];
		*known = (aidb_prepared){.tag = event->tag};
	}
	known->sequence = event->sequence > known->sequence ? event->sequence : known->sequence;
	return AIDB_OK;
}

/* A decision belongs to the last batch, unless it says when it was made. */
static bool is_decided_by_then(aidb_replay *replay, const aipg_stream_event *event) {
	const aidb_prepared *known = find(replay, event->tag);

	if (event->sequence == 0) {
		return known == NULL || known->sequence <= replay->target;
	}
	return replay->target_is_mark ? event->sequence < replay->target : event->sequence <= replay->target;
}

static void forget(aidb_replay *replay, uint64_t tag) {
	aidb_prepared *known = find(replay, tag);

	if (known != NULL) {
		*known = replay->prepared[--replay->prepared_count];
	}
}

static aidb_status keep_event(aidb_replay *replay, const aipg_stream_event *event, uint32_t *kept) {
	bool is_batch = event->kind == AIPG_EVENT_PLAIN || event->kind == AIPG_EVENT_PREPARED;
	bool keep = is_batch ? event->sequence > replay->reached && event->sequence <= replay->target
						 : is_decided_by_then(replay, event);
	aidb_status rc = AIDB_OK;

	if (event->kind == AIPG_EVENT_PREPARED) {
		rc = note_prepared(replay, event);
	} else if (!is_batch) {
		forget(replay, event->tag);
	}
	if (rc == AIDB_OK && keep) {
		rc = append_event(&replay->answer, event);
		++*kept;
	}
	return rc;
}

static aidb_status keep_events(aidb_replay *replay, aidb_slice events, uint32_t count, uint32_t *kept) {
	aidb_status rc = AIDB_OK;

	*kept = 0;
	for (uint32_t i = 0; i < count && rc == AIDB_OK; i++) {
		aipg_stream_event event;

		if (!aipg_stream_read_event(&events, &event)) {
			return aidb_fail(AIDB_CORRUPT, "the log is malformed behind commit %" PRIu64, replay->reached);
		}
		rc = keep_event(replay, &event, kept);
	}
	return rc;
}

aidb_status aidb_replay_next(aidb_replay *replay, aidb_slice answer, aidb_slice *cut) {
	static const uint8_t room[AIPG_STREAM_HEAD_BYTES];
	aidb_slice events = answer;
	aipg_stream_head head;
	uint32_t kept = 0;
	aidb_status rc;

	if (!aipg_stream_read_head(&events, &head) || head.store_id != replay->store) {
		return aidb_fail(AIDB_CORRUPT, "the log is malformed behind commit %" PRIu64, replay->reached);
	}
	if (head.from > replay->read) {
		return aidb_fail(AIDB_NOT_FOUND, "the log has a gap: the commits from %" PRIu64 " to %" PRIu64 " are missing",
						 replay->read + 1, head.from);
	}
	replay->answer.size = 0;
	rc = append(&replay->answer, room, sizeof(room));
	if (rc == AIDB_OK) {
		rc = keep_events(replay, events, head.events, &kept);
	}
	if (rc != AIDB_OK) {
		return rc;
	}
	replay->read = head.upto > replay->read ? head.upto : replay->read;
	replay->done = head.upto >= replay->target && (head.flags & AIPG_STREAM_WINDOW_END) != 0;
	head.from = replay->reached;
	head.upto = head.upto > replay->target ? replay->target : head.upto;
	head.upto = head.upto > replay->reached ? head.upto : replay->reached;
	head.events = kept;
	aipg_stream_write_head((uint8_t *)replay->answer.data, &head);
	*cut = kept > 0 || head.upto > head.from ? (aidb_slice){replay->answer.data, replay->answer.size}
											 : (aidb_slice){NULL, 0};
	replay->reached = head.upto;
	return AIDB_OK;
}

void aidb_replay_free(aidb_replay *replay) {
	free(replay->answer.data);
	replay->answer = (aidb_buffer){.data = NULL};
}

/* ---- Marks ----------------------------------------------------------------------------------------------- */

void aidb_marks_in(aidb_slice answer, void (*each)(void *argument, const aipg_mark *mark, uint64_t sequence),
				   void *argument) {
	aipg_stream_head head;
	aipg_stream_event event;

	if (!aipg_stream_read_head(&answer, &head)) {
		return;
	}
	for (uint32_t i = 0; i < head.events && aipg_stream_read_event(&answer, &event); i++) {
		aidb_operation operation;
		aipg_mark mark;

		while (event.kind == AIPG_EVENT_PLAIN && aidb_operation_next(&event.operations, &operation)) {
			if (aipg_stream_read_mark(&operation, &mark)) {
				each(argument, &mark, event.sequence);
			}
		}
	}
}
