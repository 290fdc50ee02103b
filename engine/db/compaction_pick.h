/*
 * compaction_pick.h: which files to merge next.
 *
 * Leveled compaction as in LevelDB: level 0 by the number of its files, the others by their bytes, each ten times
 * what the one above may have; the level that exceeds its measure most gives a file (level 0: all that overlap it
 * there), which is merged with what it overlaps one level down. Within a level the file goes that overlaps least for
 * its size (the rule of least overlap of RocksDB): that rewrites fewest bytes. When no level is too large, files go
 * down that are mostly tombstones, and those are rewritten whose tags have been decided.
 *
 * Decisions only: nothing is read or written.
 */
#ifndef LSM_COMPACTION_PICK_H
#define LSM_COMPACTION_PICK_H

#include "store/version.h"

#define LSM_LEVEL0_TRIGGER 4 /* files in level 0 that make its compaction due */
#define LSM_LEVEL_GROWTH 10  /* a level may have as many times the bytes of the one above */

typedef struct lsm_compaction_rules {
	uint64_t level1_bytes; /* that level 1 may have */
	uint64_t file_bytes;   /* target size of a file */
	const aidb_host *host; /* for tag_fate */
} lsm_compaction_rules;

/* What to do. References are to files of the version that it was picked from. */
typedef struct lsm_compaction {
	bool move; /* the one input goes down as it is */
	int level;
	int output_level; /* level + 1, or the same to rewrite a file in place */
	lsm_ref *inputs;  /* of `level`, in its order, then of output_level */
	uint32_t upper_count;
	uint32_t lower_count;
	/* The files of all levels beyond output_level, level by level, in key order. */
	lsm_ref *deeper;
	uint32_t deeper_begin[AIDB_LEVELS + 1];
} lsm_compaction;

/* In an epoch. *found false: nothing is due. Release a found compaction with lsm_compaction_free. */
aidb_status lsm_compaction_pick(const lsm_arena *arena, const lsm_version *version, const lsm_compaction_rules *rules,
								lsm_compaction *compaction, bool *found);
void lsm_compaction_free(lsm_compaction *compaction);

#endif
