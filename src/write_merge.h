/*
 * write_merge.h: the writes of several runs in one order: by key, those to one key from the newest to the oldest; or
 * all the other way round.
 */
#ifndef AIPG_WRITE_MERGE_H
#define AIPG_WRITE_MERGE_H

#include "write_run.h"

typedef struct aipg_write_merge aipg_write_merge;

/* In the current memory context. For at most `capacity` runs. */
extern aipg_write_merge *aipg_write_merge_create(int capacity, bool backwards);
/* The reader stands on the first write of its run that is to be merged, or at the end. */
extern void aipg_write_merge_add(aipg_write_merge *merge, aipg_write_reader *reader);
/* The reader that stands on the first write left; NULL at the end. */
extern aipg_write_reader *aipg_write_merge_first(const aipg_write_merge *merge);
/* Goes on behind it. */
extern void aipg_write_merge_next(aipg_write_merge *merge);

#endif
