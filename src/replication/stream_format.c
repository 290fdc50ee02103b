#include "replication/stream_format.h"

#include <string.h>

#define MARK_VERSION 1

static uint64_t take(const uint8_t **at, unsigned bytes) {
	uint64_t value = 0;

	for (unsigned i = 0; i < bytes; i++) {
		value = value << 8 | *(*at)++;
	}
	return value;
}

static void put(uint8_t **at, unsigned bytes, uint64_t value) {
	for (unsigned i = bytes; i > 0; i--) {
		*(*at)++ = (uint8_t)(value >> 8 * (i - 1));
	}
}

bool aipg_stream_read_head(aidb_slice *bytes, aipg_stream_head *head) {
	const uint8_t *at = bytes->data;
	uint64_t version;

	if (bytes->size < AIPG_STREAM_HEAD_BYTES) {
		return false;
	}
	version = take(&at, 1);
	head->flags = (uint8_t)take(&at, 1);
	head->epoch = take(&at, 8);
	head->store_id = take(&at, 8);
	head->from = take(&at, 8);
	head->upto = take(&at, 8);
	head->current = take(&at, 8);
	head->clock_us = take(&at, 8);
	head->events = (uint32_t)take(&at, 4);
	*bytes = (aidb_slice){at, bytes->size - AIPG_STREAM_HEAD_BYTES};
	return version == AIPG_STREAM_VERSION && head->from <= head->upto && (head->flags & ~AIPG_STREAM_WINDOW_END) == 0;
}

static bool are_operations(aidb_slice bytes) {
	aidb_operation operation;

	while (aidb_operation_next(&bytes, &operation)) {}
	return bytes.size == 0;
}

bool aipg_stream_read_event(aidb_slice *bytes, aipg_stream_event *event) {
	const uint8_t *at = bytes->data;
	uint64_t kind, size;

	if (bytes->size < AIPG_STREAM_EVENT_BYTES) {
		return false;
	}
	kind = take(&at, 1);
	event->sequence = take(&at, 8);
	event->tag = take(&at, 8);
	size = take(&at, 4);
	if (kind < AIPG_EVENT_PLAIN || kind > AIPG_EVENT_ABORT || size > bytes->size - AIPG_STREAM_EVENT_BYTES) {
		return false;
	}
	event->kind = (aipg_event_kind)kind;
	event->operations = (aidb_slice){at, (size_t)size};
	*bytes = (aidb_slice){at + size, bytes->size - AIPG_STREAM_EVENT_BYTES - (size_t)size};
	return are_operations(event->operations);
}

void aipg_stream_write_head(uint8_t to[AIPG_STREAM_HEAD_BYTES], const aipg_stream_head *head) {
	put(&to, 1, AIPG_STREAM_VERSION);
	put(&to, 1, head->flags);
	put(&to, 8, head->epoch);
	put(&to, 8, head->store_id);
	put(&to, 8, head->from);
	put(&to, 8, head->upto);
	put(&to, 8, head->current);
	put(&to, 8, head->clock_us);
	put(&to, 4, head->events);
}

void aipg_stream_write_event(uint8_t to[AIPG_STREAM_EVENT_BYTES], const aipg_stream_event *event) {
	put(&to, 1, event->kind);
	put(&to, 8, event->sequence);
	put(&to, 8, event->tag);
	put(&to, 4, event->operations.size);
}

/* ---- Marks ----------------------------------------------------------------------------------------------- */

#define MARK_PREFIX_BYTES 6

static void put_mark_prefix(uint8_t *key) {
	put(&key, 2, 0);
	put(&key, 4, AIPG_INDEX_MARKS);
}

bool aipg_stream_read_mark(const aidb_operation *operation, aipg_mark *mark) {
	uint8_t prefix[MARK_PREFIX_BYTES];
	const uint8_t *value = operation->value.data;
	size_t name_bytes = operation->key.size - MARK_PREFIX_BYTES;

	put_mark_prefix(prefix);
	if (operation->kind != AIDB_OPERATION_PUT || operation->key.size < MARK_PREFIX_BYTES ||
		name_bytes >= AIPG_MARK_NAME_BYTES || memcmp(operation->key.data, prefix, MARK_PREFIX_BYTES) != 0 ||
		operation->value.size != AIPG_MARK_VALUE_BYTES || take(&value, 1) != MARK_VERSION) {
		return false;
	}
	memcpy(mark->name, (const uint8_t *)operation->key.data + MARK_PREFIX_BYTES, name_bytes);
	mark->name[name_bytes] = '\0';
	mark->clock_us = take(&value, 8);
	return strlen(mark->name) == name_bytes;
}

size_t aipg_stream_write_mark(const aipg_mark *mark, uint8_t key[AIPG_MARK_KEY_BYTES],
							  uint8_t value[AIPG_MARK_VALUE_BYTES]) {
	size_t name_bytes = strlen(mark->name);

	put_mark_prefix(key);
	memcpy(key + MARK_PREFIX_BYTES, mark->name, name_bytes);
	put(&value, 1, MARK_VERSION);
	put(&value, 8, mark->clock_us);
	return MARK_PREFIX_BYTES + name_bytes;
}
