/*
 * write_cursor.h: the keys of a write set in order, each with the write that a command sees.
 */
#ifndef AIPG_WRITE_CURSOR_H
#define AIPG_WRITE_CURSOR_H

#include "write_set.h"

/*
 * The keys in [lower, upper), each with its newest write of a command below `below`; forwards, or backwards from upper.
 * Bounds with data NULL are open; the caller keeps them as long as the cursor. In the current memory context.
 *
 * While it is open the set may change, and spill, as long as that does not concern what the cursor shows: by writes of
 * commands not below `below`, and by the abort of those. A write of a lower command that is added is shown or not.
 */
typedef struct aipg_write_cursor aipg_write_cursor;

extern aipg_write_cursor *aipg_write_cursor_open(const aipg_write_set *set, aidb_slice lower, aidb_slice upper,
												 bool backwards, CommandId below);
/* All keys, with their newest writes. The set must not change while it is open. */
extern aipg_write_cursor *aipg_write_cursor_open_all(const aipg_write_set *set);
/* The next write, valid until the next call for the cursor, whatever happens to the set; NULL at the end, for good. */
extern const aipg_write *aipg_write_cursor_next(aipg_write_cursor *cursor);
/* Frees its memory; not needed when the memory context goes. */
extern void aipg_write_cursor_close(aipg_write_cursor *cursor);

#endif
