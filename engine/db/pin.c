#include "db/pin.h"

#include <inttypes.h>
#include <string.h>

#include "db/job.h"

static lsm_pin *find(lsm_log *log, const char *name) {
	for (uint32_t i = 0; i < AIDB_MAX_PINS; i++) {
		if (strcmp(log->pins[i].name, name) == 0) {
			return &log->pins[i];
		}
	}
	return NULL;
}

static aidb_status check_name(const char *name) {
	if (name[0] == '\0' || strlen(name) >= AIDB_PIN_NAME_BYTES) {
		return lsm_fail(AIDB_INVALID, "the name of a pin has 1 to %u bytes, not %zu", AIDB_PIN_NAME_BYTES - 1,
						strlen(name));
	}
	return AIDB_OK;
}

static aidb_status no_such_pin(const char *name) {
	return lsm_fail(AIDB_NOT_FOUND, "there is no pin \"%s\"", name);
}

/* ---- What the log is kept for ---------------------------------------------------------------------------- */

uint64_t lsm_pins_oldest(aidb_db *db, uint64_t needed) {
	lsm_log *log = &db->shared->log;
	uint64_t end = atomic_load(&log->written);
	uint64_t limit = db->shared->options.pin_limit_bytes;
	uint64_t oldest = needed;

	for (uint32_t i = 0; i < AIDB_MAX_PINS; i++) {
		lsm_pin *pin = &log->pins[i];

		if (pin->name[0] == '\0' || pin->lost) {
			continue;
		}
		if (end > pin->stored && end - pin->stored > limit) {
			pin->lost = true;
			lsm_fail(AIDB_LIMIT,
					 "pin \"%s\" is lost: %" PRIu64 " bytes of log have been written since, more than the limit of "
					 "%" PRIu64 "; its replica has to be copied anew",
					 pin->name, end - pin->stored, limit);
			db->host->log(db->host->context, AIDB_LOG_WARNING, aidb_last_error());
		} else if (pin->stored < oldest) {
			oldest = pin->stored;
		}
	}
	return oldest;
}

/* ---- The manifest ---------------------------------------------------------------------------------------- */

void lsm_pins_save(aidb_db *db, lsm_manifest_header *header) {
	lsm_log *log = &db->shared->log;

	if (!lsm_latch_acquire(&db->arena.waiting, &log->segment_latch)) {
		return; /* poisoned: nothing is kept any more */
	}
	header->pin_count = 0;
	for (uint32_t i = 0; i < AIDB_MAX_PINS; i++) {
		const lsm_pin *pin = &log->pins[i];

		if (pin->name[0] != '\0' && !pin->lost) {
			lsm_manifest_pin *saved = &header->pins[header->pin_count++];

			memcpy(saved->name, pin->name, sizeof(saved->name));
			saved->sequence = pin->sequence;
			saved->position = pin->position;
		}
	}
	lsm_latch_release(&db->arena.waiting, &log->segment_latch);
}

void lsm_pins_saved(aidb_db *db, const lsm_manifest_header *header) {
	lsm_log *log = &db->shared->log;

	if (!lsm_latch_acquire(&db->arena.waiting, &log->segment_latch)) {
		return;
	}
	for (uint32_t i = 0; i < header->pin_count; i++) {
		lsm_pin *pin = find(log, header->pins[i].name);

		if (pin != NULL && pin->stored < header->pins[i].position) {
			pin->stored = header->pins[i].position;
		}
	}
	lsm_latch_release(&db->arena.waiting, &log->segment_latch);
}

void lsm_pins_load(aidb_db *db) {
	const lsm_manifest_header *header = &db->shared->manifest;

	for (uint32_t i = 0; i < header->pin_count; i++) {
		lsm_pin *pin = &db->shared->log.pins[i];

		memcpy(pin->name, header->pins[i].name, sizeof(pin->name));
		pin->sequence = header->pins[i].sequence;
		pin->position = header->pins[i].position;
		pin->stored = pin->position;
	}
}

void lsm_pins_check(aidb_db *db, uint64_t first, uint64_t end) {
	lsm_log *log = &db->shared->log;

	for (uint32_t i = 0; i < AIDB_MAX_PINS; i++) {
		lsm_pin *pin = &log->pins[i];

		if (pin->name[0] != '\0' && (pin->position / log->geometry.segment_bytes < first || pin->position > end)) {
			pin->lost = true;
		}
	}
}

/* ---- Making and dropping --------------------------------------------------------------------------------- */

/* The newest commit that is in the log's ring without a gap before it, and where its record ends. */
static aidb_status newest(aidb_db *db, aidb_sequence *sequence, uint64_t *position) {
	lsm_log *log = &db->shared->log;
	aidb_status rc = aidb_sync(db); /* all that has been given out so far is copied then */

	if (rc != AIDB_OK) {
		return rc;
	}
	if (!lsm_latch_acquire(&db->arena.waiting, &log->write_latch)) {
		return lsm_poisoned(db);
	}
	*sequence = log->copied_sequence;
	*position = log->copied_position;
	lsm_latch_release(&db->arena.waiting, &log->write_latch);
	return AIDB_OK;
}

/* Enters the pin; *kept is false when the log is not kept from `position` on any more. */
static aidb_status enter_pin(aidb_db *db, const char *name, aidb_sequence sequence, uint64_t position, bool *kept) {
	lsm_log *log = &db->shared->log;
	aidb_status rc = AIDB_OK;
	lsm_pin *pin;

	if (!lsm_latch_acquire(&db->arena.waiting, &log->segment_latch)) {
		return lsm_poisoned(db);
	}
	pin = find(log, name);
	if (pin == NULL) {
		pin = find(log, "");
	}
	*kept = position / log->geometry.segment_bytes >= log->keep_segment;
	if (pin == NULL) {
		rc = lsm_fail(AIDB_LIMIT, "there are %u pins already; drop one that is not needed", AIDB_MAX_PINS);
	} else if (*kept && (pin->name[0] == '\0' || pin->lost)) {
		*pin = (lsm_pin){.sequence = sequence, .position = position, .stored = position};
		memcpy(pin->name, name, strlen(name) + 1);
	}
	lsm_latch_release(&db->arena.waiting, &log->segment_latch);
	return rc;
}

static void remove_pin(aidb_db *db, const char *name, bool *was_there) {
	lsm_log *log = &db->shared->log;
	lsm_pin *pin;

	*was_there = false;
	if (lsm_latch_acquire(&db->arena.waiting, &log->segment_latch)) {
		pin = find(log, name);
		if (pin != NULL) {
			*pin = (lsm_pin){.sequence = 0};
			*was_there = true;
		}
		lsm_latch_release(&db->arena.waiting, &log->segment_latch);
	}
}

static aidb_status write_manifest(aidb_db *db) {
	return lsm_install_edit(db, &(lsm_version_edit){.add_memtable = -1, .remove_memtable = -1}, 0);
}

static bool get_pin(aidb_db *db, const char *name, aidb_pin *pin) {
	aidb_pin pins[AIDB_MAX_PINS];
	uint32_t count = aidb_pin_list(db, pins);

	for (uint32_t i = 0; i < count; i++) {
		if (strcmp(pins[i].name, name) == 0) {
			*pin = pins[i];
			return true;
		}
	}
	return false;
}

aidb_status aidb_pin_create(aidb_db *db, const char *name, aidb_pin *pin) {
	aidb_status rc = check_name(name);
	uint64_t position = 0;
	aidb_sequence sequence = 0;
	aidb_pin found;
	bool kept = false, was_there;
	uint32_t member;

	if (rc == AIDB_OK) {
		rc = lsm_enter(db, &member);
	}
	if (rc == AIDB_OK && get_pin(db, name, &found) && !found.lost) {
		*pin = found;
		return AIDB_OK;
	}
	while (rc == AIDB_OK && !kept) {
		rc = newest(db, &sequence, &position);
		if (rc == AIDB_OK) {
			rc = enter_pin(db, name, sequence, position, &kept);
		}
	}
	if (rc == AIDB_OK) {
		rc = aidb_sync_to(db, position);
	}
	if (rc == AIDB_OK) {
		rc = write_manifest(db);
	}
	if (rc == AIDB_OK && !get_pin(db, name, pin)) {
		rc = no_such_pin(name); /* dropped meanwhile */
	}
	if (rc != AIDB_OK && kept) {
		remove_pin(db, name, &was_there);
	}
	return rc;
}

aidb_status aidb_pin_advance(aidb_db *db, const char *name, aidb_sequence sequence, uint64_t position) {
	lsm_log *log = &db->shared->log;
	lsm_pin *pin;
	bool there;

	if (name[0] == '\0' || !lsm_latch_acquire(&db->arena.waiting, &log->segment_latch)) {
		return name[0] == '\0' ? check_name(name) : lsm_poisoned(db);
	}
	pin = find(log, name);
	there = pin != NULL && !pin->lost;
	if (there && position > pin->position) {
		pin->sequence = sequence;
		pin->position = position;
	}
	lsm_latch_release(&db->arena.waiting, &log->segment_latch);
	return there ? AIDB_OK : no_such_pin(name);
}

aidb_status aidb_pin_drop(aidb_db *db, const char *name) {
	aidb_status rc = check_name(name);
	bool was_there = false;
	uint32_t member;

	if (rc == AIDB_OK) {
		rc = lsm_enter(db, &member);
	}
	if (rc != AIDB_OK) {
		return rc;
	}
	remove_pin(db, name, &was_there);
	return was_there ? write_manifest(db) : no_such_pin(name);
}

uint32_t aidb_pin_list(aidb_db *db, aidb_pin *pins) {
	lsm_log *log = &db->shared->log;
	uint64_t end = atomic_load(&log->written);
	uint32_t count = 0;

	if (!lsm_latch_acquire(&db->arena.waiting, &log->segment_latch)) {
		return 0;
	}
	for (uint32_t i = 0; i < AIDB_MAX_PINS; i++) {
		const lsm_pin *pin = &log->pins[i];

		if (pin->name[0] != '\0') {
			aidb_pin *out = &pins[count++];

			memcpy(out->name, pin->name, sizeof(out->name));
			out->sequence = pin->sequence;
			out->position = pin->position;
			out->retained_bytes = end > pin->position ? end - pin->position : 0;
			out->lost = pin->lost;
		}
	}
	lsm_latch_release(&db->arena.waiting, &log->segment_latch);
	return count;
}
