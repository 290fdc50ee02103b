/*
 * cursor.h: a position in a sorted run of entries, whatever holds the run.
 *
 * A cursor is process-local. Seeks position it; when `valid`, `entry` is the one it stands on, and its slices hold
 * until the next call. At either end, or after an error, it is not valid, and `status` tells which.
 */
#ifndef LSM_CURSOR_H
#define LSM_CURSOR_H

#include "format/key.h"

typedef struct lsm_cursor lsm_cursor;

typedef struct lsm_cursor_ops {
	void (*seek)(lsm_cursor *cursor, aidb_slice key, uint64_t trailer); /* first entry at or after */
	void (*seek_first)(lsm_cursor *cursor);
	void (*seek_last)(lsm_cursor *cursor);
	void (*next)(lsm_cursor *cursor);  /* only when valid */
	void (*prev)(lsm_cursor *cursor);  /* only when valid */
	void (*close)(lsm_cursor *cursor); /* frees the cursor itself */
} lsm_cursor_ops;

struct lsm_cursor {
	const lsm_cursor_ops *ops;
	bool valid;
	aidb_status status;
	lsm_entry entry;
};

#endif
