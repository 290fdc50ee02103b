/*
 * pin.h: places of the log that are kept for replicas.
 *
 * They lie in lsm_log under its segment latch. The manifest has them, so that they outlive a restart; between two writes of
 * it a pin moves on in memory alone. What may be discarded goes by the manifest's positions: a restart goes on with those.
 */
#ifndef LSM_PIN_H
#define LSM_PIN_H

#include "db/db.h"

/* The oldest log position that is kept, given what recovery needs. Pins that hold too much are lost here. Segment latch
 * held. */
uint64_t lsm_pins_oldest(aidb_db *db, uint64_t needed);
/* Puts the pins into the head of a manifest that is to be written; versions latch held. */
void lsm_pins_save(aidb_db *db, lsm_manifest_header *header);
/* It has been written. */
void lsm_pins_saved(aidb_db *db, const lsm_manifest_header *header);
/* Takes the pins from the manifest that was read. Nobody else is there yet. */
void lsm_pins_load(aidb_db *db);
/* Recovery has found that the log is there from segment `first` on, and ends at `end`. */
void lsm_pins_check(aidb_db *db, uint64_t first, uint64_t end);

#endif
