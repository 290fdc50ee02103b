#include "scaling/changes.h"

#include <stdlib.h>
#include <string.h>

#include "replication/stream_format.h"

struct aidb_change {
	aidb_change *next;
	uint64_t sequence; /* of a commit */
	uint64_t tag;      /* of a transaction; 0: it is a commit */
	size_t size, capacity;
	char operations[];
};

/* ---- What was seen ---------------------------------------------------------------------------------------- */

/* "xmin:xmax:xip,xip..." */
bool aidb_seen_read(aidb_seen *seen, const char *snapshot) {
	char *at;

	(void)strtoull(snapshot, &at, 10);
	if (at == snapshot || *at != ':') {
		return false;
	}
	snapshot = at + 1;
	seen->next = strtoull(snapshot, &at, 10);
	if (at == snapshot || *at != ':') {
		return false;
	}
	seen->running_count = 0;
	for (snapshot = at + 1; *snapshot != '\0'; snapshot = *at == ',' ? at + 1 : at) {
		uint64_t number = strtoull(snapshot, &at, 10);

		if (at == snapshot || (*at != ',' && *at != '\0') || seen->running_count == AIDB_SNAPSHOT_TRANSACTIONS) {
			return false;
		}
		seen->running[seen->running_count++] = number;
	}
	return true;
}

static bool has_seen_transaction(const aidb_seen *seen, uint64_t tag) {
	bool running = false;

	for (uint32_t i = 0; i < seen->running_count; i++) {
		running = running || seen->running[i] == tag;
	}
	return tag < seen->next && !running;
}

static bool has_seen(const aidb_seen *seen, const aidb_change *change) {
	return change->tag != 0 ? has_seen_transaction(seen, change->tag) : change->sequence <= seen->sequence;
}

/* ---- Operations ------------------------------------------------------------------------------------------- */

static bool is_wanted(const aidb_slot_set *slots, aidb_slice key) {
	uint32_t slot;

	return aidb_slot_of_stored_key(key.data, key.size, &slot) && aidb_slot_set_has(slots, slot);
}

/* How many bytes the operations of the slots have; with `to`, copies them. */
static size_t select_operations(const aidb_slot_set *slots, aidb_slice operations, char *to) {
	aidb_operation operation;
	size_t size = 0;

	while (aidb_operation_next(&operations, &operation)) {
		if (is_wanted(slots, operation.key)) {
			if (to != NULL) {
				memcpy(to + size, operation.bytes.data, operation.bytes.size);
			}
			size += operation.bytes.size;
		}
	}
	return size;
}

/* The same change with room for more. */
static aidb_change *with_room(aidb_change *change, size_t more) {
	size_t capacity = change == NULL ? more : 2 * (change->size + more);
	aidb_change *larger;

	if (change != NULL && change->capacity - change->size >= more) {
		return change;
	}
	larger = realloc(change, sizeof(*larger) + capacity);
	if (larger == NULL) {
		return NULL;
	}
	if (change == NULL) {
		memset(larger, 0, sizeof(*larger));
	}
	larger->capacity = capacity;
	return larger;
}

/* ---- Events ----------------------------------------------------------------------------------------------- */

static void add_ready(aidb_changes *changes, aidb_change *change) {
	change->next = NULL;
	if (changes->ready == NULL) {
		changes->ready = change;
	} else {
		changes->last_ready->next = change;
	}
	changes->last_ready = change;
}

static aidb_change **find_prepared(aidb_changes *changes, uint64_t tag) {
	aidb_change **link = &changes->prepared;

	while (*link != NULL && (*link)->tag != tag) {
		link = &(*link)->next;
	}
	return link;
}

static aidb_status take_batch(aidb_changes *changes, const aipg_stream_event *event) {
	size_t size = select_operations(&changes->slots, event->operations, NULL);
	aidb_change **link = event->kind == AIPG_EVENT_PREPARED ? find_prepared(changes, event->tag) : NULL;
	aidb_change *change;

	if (size == 0) {
		return AIDB_OK;
	}
	change = with_room(link != NULL ? *link : NULL, size);
	if (change == NULL) {
		return AIDB_NO_MEMORY;
	}
	(void)select_operations(&changes->slots, event->operations, change->operations + change->size);
	change->size += size;
	change->sequence = event->sequence;
	if (link == NULL) {
		add_ready(changes, change);
	} else {
		change->tag = event->tag;
		*link = change;
	}
	return AIDB_OK;
}

static void take_decision(aidb_changes *changes, const aipg_stream_event *event) {
	aidb_change **link = find_prepared(changes, event->tag);
	aidb_change *change = *link;

	if (change == NULL) {
		return;
	}
	*link = change->next;
	if (event->kind == AIPG_EVENT_COMMIT) {
		add_ready(changes, change);
	} else {
		free(change);
	}
}

aidb_status aidb_changes_take(aidb_changes *changes, aidb_slice answer) {
	aipg_stream_head head;
	aidb_status rc = AIDB_OK;

	if (!aipg_stream_read_head(&answer, &head) || head.from != changes->read) {
		return AIDB_CORRUPT;
	}
	for (uint32_t i = 0; i < head.events && rc == AIDB_OK; i++) {
		aipg_stream_event event;

		if (!aipg_stream_read_event(&answer, &event)) {
			return AIDB_CORRUPT;
		}
		if (event.kind == AIPG_EVENT_PLAIN || event.kind == AIPG_EVENT_PREPARED) {
			rc = take_batch(changes, &event);
		} else {
			take_decision(changes, &event);
		}
	}
	changes->read = head.upto;
	changes->current = head.current;
	return rc;
}

/* ---- Handing out ------------------------------------------------------------------------------------------ */

/* Takes it out of the list. */
static void unlink_change(aidb_changes *changes, aidb_change *change, aidb_change *before) {
	if (before == NULL) {
		changes->ready = change->next;
	} else {
		before->next = change->next;
	}
	if (changes->last_ready == change) {
		changes->last_ready = before;
	}
}

bool aidb_changes_next(aidb_changes *changes, const aidb_seen *seen, aidb_slice *operations) {
	aidb_change *before = NULL, *change = changes->ready;

	free(changes->handed_out);
	while (change != NULL && seen != NULL && !has_seen(seen, change)) {
		before = change;
		change = change->next;
	}
	changes->handed_out = change;
	if (change == NULL) {
		return false;
	}
	unlink_change(changes, change, before);
	*operations = (aidb_slice){change->operations, change->size};
	return true;
}

bool aidb_changes_is_settled(const aidb_changes *changes, const aidb_seen *seen) {
	for (const aidb_change *change = changes->prepared; change != NULL; change = change->next) {
		if (seen == NULL || has_seen(seen, change)) {
			return false;
		}
	}
	return true;
}

void aidb_changes_free(aidb_changes *changes) {
	aidb_change *lists[] = {changes->ready, changes->prepared};

	for (size_t i = 0; i < sizeof(lists) / sizeof(lists[0]); i++) {
		while (lists[i] != NULL) {
			aidb_change *change = lists[i];

			lists[i] = change->next;
			free(change);
		}
	}
	free(changes->handed_out);
	*changes = (aidb_changes){.slots = changes->slots};
}
