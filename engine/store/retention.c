#include "store/retention.h"

#include <assert.h>

static void note_key(lsm_retention *retention, aidb_slice key) {
	assert(key.size <= sizeof(retention->key));
	memcpy(retention->key, key.data, key.size);
	retention->key_bytes = (uint32_t)key.size;
	retention->has_key = true;
	retention->plain = AIDB_SEQUENCE_LATEST;
}

static aidb_tag_fate fate_of(lsm_retention *retention, aidb_tag tag) {
	if (retention->host->tag_fate == NULL) {
		return AIDB_TAG_OPEN;
	}
	if (tag != retention->known_tag || tag == 0) {
		retention->known_fate = retention->host->tag_fate(retention->host->context, tag);
		retention->known_tag = tag;
	}
	return retention->known_fate;
}

/* The oldest snapshot that is not below `sequence`, or AIDB_SEQUENCE_LATEST. */
static aidb_sequence first_snapshot_from(const lsm_retention *retention, aidb_sequence sequence) {
	uint32_t low = 0, high = retention->snapshot_count;

	while (low < high) {
		uint32_t middle = low + (high - low) / 2;

		if (retention->snapshots[middle] < sequence) {
			low = middle + 1;
		} else {
			high = middle;
		}
	}
	return low == retention->snapshot_count ? AIDB_SEQUENCE_LATEST : retention->snapshots[low];
}

bool lsm_retention_keep(lsm_retention *retention, lsm_entry *entry) {
	aidb_sequence sequence = lsm_sequence_of(entry->trailer);
	aidb_sequence hidden_by, seen_from;

	if (!retention->has_key || !lsm_equal(entry->key, (aidb_slice){retention->key, retention->key_bytes})) {
		note_key(retention, entry->key);
	} else if (sequence == retention->last) {
		return false; /* written twice: the first stands */
	}
	retention->last = sequence;
	if (lsm_is_tagged(entry->trailer)) {
		aidb_tag_fate fate = fate_of(retention, lsm_tag_of(entry));

		if (fate == AIDB_TAG_ABORTED) {
			return false;
		}
		if (fate == AIDB_TAG_COMMITTED) {
			lsm_strip_tag(entry);
		}
	}
	hidden_by = retention->plain;
	seen_from = first_snapshot_from(retention, sequence);
	if (lsm_is_tagged(entry->trailer)) {
		return retention->snapshots[0] < hidden_by;
	}
	retention->plain = sequence;
	if (seen_from == AIDB_SEQUENCE_LATEST) {
		return true;
	}
	if (seen_from >= hidden_by) {
		return false;
	}
	return !(lsm_is_delete(entry->trailer) && seen_from == retention->snapshots[0] && retention->is_bottom != NULL &&
			 retention->is_bottom(retention->bottom_argument, entry->key));
}
