/*
 * manifest.h: the file that says what the store consists of.
 *
 * One file, MANIFEST, rewritten whole at every change: to MANIFEST.new, synced, renamed over MANIFEST, directory
 * synced. It is small (some hundred bytes a file) and never torn; see docs/decisions for the alternative. Ends with
 * an XXH3 checksum. The byte table is in manifest.c.
 */
#ifndef LSM_MANIFEST_H
#define LSM_MANIFEST_H

#include "store/version.h"

#define LSM_MANIFEST_VERSION 2u /* 1 had no pins, and is read */

/* A place of the log from which on it is kept. */
typedef struct lsm_manifest_pin {
	char name[AIDB_PIN_NAME_BYTES]; /* zeroes after the name */
	aidb_sequence sequence;
	uint64_t position;
} lsm_manifest_pin;

/* Everything in it but the files. */
typedef struct lsm_manifest_header {
	uint64_t store_id;      /* random, never 0 */
	uint64_t segment_bytes; /* of the log */
	uint64_t next_file_number;
	aidb_sequence last_sequence; /* no commit before this was lost track of */
	uint64_t log_start;          /* recovery replays the log from here */
	uint64_t edit;               /* counts writes of the manifest */
	uint32_t pin_count;
	lsm_manifest_pin pins[AIDB_MAX_PINS];
} lsm_manifest_header;

/* Called for each file; `level` below AIDB_LEVELS. The file is in the order of its level. */
typedef aidb_status (*lsm_manifest_file)(void *argument, int level, uint64_t number,
										 const lsm_sstable_properties *properties, aidb_slice smallest,
										 uint64_t smallest_trailer, aidb_slice largest, uint64_t largest_trailer);

/* Writes header and the files of `version` durably. When it fails the old manifest stands; but with AIDB_IO it may be
 * the new one that a restart finds, so the files of both must stay. */
aidb_status lsm_manifest_write(const lsm_arena *arena, const char *directory, const lsm_manifest_header *header,
							   const lsm_version *version);
/* AIDB_NOT_FOUND when there is none; AIDB_CORRUPT and AIDB_UNSUPPORTED with file, offset and reason. */
aidb_status lsm_manifest_read(const aidb_host *host, const char *directory, lsm_manifest_header *header,
							  lsm_manifest_file each, void *argument);

#endif
