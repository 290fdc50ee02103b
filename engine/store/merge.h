/*
 * merge.h: several sorted runs as one.
 *
 * The sources that stand on an entry are kept in a small array in the order of their entries. A step moves the first
 * one on and puts it back into its place: one comparison while one source dominates, and no more than their number
 * otherwise. Of entries with the same key and sequence, the one of the source named first is shown and the others
 * are skipped.
 */
#ifndef LSM_MERGE_H
#define LSM_MERGE_H

#include "format/cursor.h"

/* Takes the cursors, newest source first, and closes them with itself; on error they stay the caller's. The array stays
 * the caller's. No source has two entries with the same key and sequence. */
aidb_status lsm_merge_create(lsm_cursor *const *sources, uint32_t count, lsm_cursor **merge);

/* To the last entry before (key, trailer). */
void lsm_merge_seek_before(lsm_cursor *merge, aidb_slice key, uint64_t trailer);

#endif
