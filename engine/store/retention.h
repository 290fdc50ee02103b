/*
 * retention.h: which versions a flush or compaction keeps.
 *
 * A version is needed when some reader may see it: when it is above the newest snapshot there is (the floor), or
 * when it lies at or below a snapshot with no plain version of its key in between. A version whose tag is open hides
 * nothing, because readers may skip it, and is kept unless every snapshot sees a newer plain version, because readers
 * that do not see it may want to know of it; one whose tag has committed loses it and counts as plain; an aborted one
 * goes. A tombstone that every reader sees goes too, with all that it hides, where nothing older can lie outside the
 * merge.
 */
#ifndef LSM_RETENTION_H
#define LSM_RETENTION_H

#include "format/key.h"

typedef struct lsm_retention {
	/* Set by the caller; must outlive the use. */
	const aidb_sequence *snapshots; /* ascending, distinct, at least one: the last is the floor */
	uint32_t snapshot_count;
	const aidb_host *host; /* for tag_fate */
	/* Whether no version of `key` lies below the sources of the merge. Keys are asked for in order. NULL: never. */
	bool (*is_bottom)(void *argument, aidb_slice key);
	void *bottom_argument;

	/* Zero at first. */
	bool has_key;
	uint32_t key_bytes;
	aidb_sequence last;  /* of the key's last version met */
	aidb_sequence plain; /* of its last plain version met; AIDB_SEQUENCE_LATEST: none */
	aidb_tag known_tag;  /* the tag asked for last; 0: none */
	aidb_tag_fate known_fate;
	uint8_t key[AIDB_MAX_KEY_BYTES];
} lsm_retention;

/* Takes all entries in their order. True: keep the entry, as it is now: its tag may have been taken off. */
bool lsm_retention_keep(lsm_retention *retention, lsm_entry *entry);

#endif
