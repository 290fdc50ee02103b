/*
 * cached_rows.h: reading on a caching read node: from the rows that it remembers, else from its primary.
 *
 * What a read gives was so at the primary at a commit that the stream has passed here, and later reads never go back behind
 * it: what is remembered is as of the stream's place, and an answer of the primary, which may be ahead, is waited for until the
 * stream has caught up. Rows of one statement may be as of different commits; those of one range scan are as of one.
 */
#ifndef AIPG_CACHED_ROWS_H
#define AIPG_CACHED_ROWS_H

#include "postgres.h"

/* Settings; makes `access` read here on a caching read node. From _PG_init. */
extern void aipg_cached_rows_init(void);

/* For the process that follows. Reads which keys were remembered before a restart, if that is known. */
extern void aipg_cached_rows_begin_warm_up(void);
/* Asks for the rows of some of these keys, or remembers those that it has asked for, when `applied`, the stream's place, has come to
 * where they were read. To be called again and again; cheap when there is nothing left to do. */
extern void aipg_cached_rows_warm_up(uint64 applied);
/* Writes down what is remembered now. */
extern void aipg_cached_rows_save(void);

#endif
