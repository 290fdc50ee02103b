/*
 * redo.h: prepared batches that another log has carried, and ours may have lost.
 *
 * After a crash the records that our log lacks are its last ones: those that end beyond the position where replay has
 * stopped. Whoever carried them hands them over in the file REDO, which a start of the store reads once:
 *
 *   REDO          written by aidb_redo_close: what the other log has, in its order, perhaps several times
 *   REDO.missing  of these, what our log lacks, in our log's order, each once. Made as REDO.new and renamed.
 *   (none)        once they have been written to our log again, as new records, and that is durable
 *
 * Nothing else is written before that, so a start that does not get to the end is repeated: what has got into the log of
 * REDO.missing stands there twice then, in the same order, which changes nothing. Both files are gone, durably, before the
 * store takes other writes: positions behind the replayed end are given out again, and what is left of REDO would be
 * taken for new. For the same reason nobody may hand over again what was carried before a start (aidb_redo_discard).
 *
 * File: entries. Entry: checksum u64 (XXH3 of what follows, seeded with its offset in the file) | bytes u32 | record of so
 * many bytes; an entry without one is an end mark. A file ends with a mark, or it is not complete.
 *
 * Record: store id u64 | position after it in the log u64 | synced position when it was
 * written u64 | tag u64 | operation count u32 | operations (db/batch.c).
 */
#ifndef LSM_REDO_H
#define LSM_REDO_H

#include "db/db.h"

typedef struct lsm_carried_head {
	uint64_t store_id;
	uint64_t log_end;
	uint64_t synced; /* what ends up to here is durable in our log */
	aidb_tag tag;    /* 0: there is no batch */
	uint32_t count;
} lsm_carried_head;

void lsm_carried_head_write(uint8_t to[AIDB_CARRIED_HEAD_BYTES], const lsm_carried_head *head);

/* Writes what the log lacks, makes it durable, and removes the files. The log has been replayed, and nobody else is there. */
aidb_status lsm_redo(aidb_db *db);

bool lsm_is_redo_file(const char *name);

#endif
