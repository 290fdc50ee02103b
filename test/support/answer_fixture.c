#include "answer_fixture.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void answer_begin(test_answer *answer, uint64_t store, uint64_t from) {
	answer->head = (aipg_stream_head){.epoch = 1, .store_id = store, .from = from};
	answer->size = AIPG_STREAM_HEAD_BYTES;
}

static void add_event(test_answer *answer, const aipg_stream_event *event) {
	aipg_stream_write_event(answer->bytes + answer->size, event);
	answer->size += AIPG_STREAM_EVENT_BYTES;
	if (event->operations.size > 0) {
		memcpy(answer->bytes + answer->size, event->operations.data, event->operations.size);
		answer->size += event->operations.size;
	}
	answer->head.events++;
}

static void add_put(test_answer *answer, aipg_event_kind kind, uint64_t sequence, uint64_t tag, aidb_slice key,
					aidb_slice value) {
	aidb_batch *batch = aidb_batch_create();

	if (batch == NULL || aidb_batch_put(batch, key, value) != AIDB_OK) {
		abort();
	}
	add_event(answer, &(aipg_stream_event){
						  .kind = kind, .sequence = sequence, .tag = tag, .operations = aidb_batch_operations(batch)});
	aidb_batch_destroy(batch);
}

void answer_batch(test_answer *answer, aipg_event_kind kind, uint64_t sequence, uint64_t tag, const char *key) {
	add_put(answer, kind, sequence, tag, (aidb_slice){key, strlen(key)}, (aidb_slice){"value", 5});
}

void answer_row(test_answer *answer, aipg_event_kind kind, uint64_t sequence, uint64_t tag, uint32_t slot, char name) {
	const uint8_t key[] = {(uint8_t)((slot + 1) >> 8), (uint8_t)(slot + 1), 0x80, 0, 0, 1, (uint8_t)name};

	add_put(answer, kind, sequence, tag, (aidb_slice){key, sizeof(key)}, (aidb_slice){"value", 5});
}

void answer_decision(test_answer *answer, aipg_event_kind kind, uint64_t sequence, uint64_t tag) {
	add_event(answer, &(aipg_stream_event){.kind = kind, .sequence = sequence, .tag = tag});
}

void answer_mark(test_answer *answer, uint64_t sequence, const char *name, uint64_t clock_us) {
	aipg_mark mark = {.clock_us = clock_us};
	uint8_t key[AIPG_MARK_KEY_BYTES], value[AIPG_MARK_VALUE_BYTES];
	size_t size;

	snprintf(mark.name, sizeof(mark.name), "%s", name);
	size = aipg_stream_write_mark(&mark, key, value);
	add_put(answer, AIPG_EVENT_PLAIN, sequence, 0, (aidb_slice){key, size}, (aidb_slice){value, sizeof(value)});
}

aidb_slice answer_end(test_answer *answer, uint64_t upto, bool window_end) {
	answer->head.upto = upto;
	answer->head.flags = window_end ? AIPG_STREAM_WINDOW_END : 0;
	answer->head.clock_us = upto * 1000000;
	aipg_stream_write_head(answer->bytes, &answer->head);
	return (aidb_slice){answer->bytes, answer->size};
}

const char *answer_text(aidb_slice answer) {
	static char text[ANSWER_BYTES];
	static const char letters[] = "?Pxca";
	size_t length = 0;
	aipg_stream_head head;
	aipg_stream_event event;

	text[0] = '\0';
	if (answer.size == 0) {
		return "nothing";
	}
	if (!aipg_stream_read_head(&answer, &head)) {
		return "malformed";
	}
	for (uint32_t i = 0; i < head.events; i++) {
		if (!aipg_stream_read_event(&answer, &event)) {
			return "malformed";
		}
		length += (size_t)snprintf(text + length, sizeof(text) - length, "%c", letters[event.kind]);
		if (event.kind != AIPG_EVENT_PLAIN) {
			length += (size_t)snprintf(text + length, sizeof(text) - length, "%" PRIu64 "%s", event.tag,
									   event.kind == AIPG_EVENT_PREPARED ? ":" : "");
		}
		if (event.kind == AIPG_EVENT_PLAIN || event.kind == AIPG_EVENT_PREPARED) {
			length += (size_t)snprintf(text + length, sizeof(text) - length, "%" PRIu64, event.sequence);
		}
		length += (size_t)snprintf(text + length, sizeof(text) - length, " ");
	}
	return answer.size == 0 ? text : "malformed";
}
