/*
 * access.h: transactional access to the store of this server.
 *
 * Everything above (scan, modify, ddl, functions) reads and writes through these functions and never calls the
 * engine itself. They give PostgreSQL's rules: a statement reads one snapshot, taken at the instant of
 * PostgreSQL's own; a transaction sees its own writes by command id; savepoints cut them back; two transactions
 * that change one key conflict.
 *
 * Errors are raised with ereport. Memory is the current context's unless said otherwise.
 */
#ifndef AIPG_ACCESS_H
#define AIPG_ACCESS_H

#include "postgres.h"

#include "aidb.h"
#include "nodes/lockoptions.h"
#include "utils/snapshot.h"

/* ---- The store ------------------------------------------------------------------------------------------ */

/*
 * The store, attached and recovered. Raises a clear error when the library was not preloaded, when this server is
 * a standby, or when the store cannot be opened.
 */
extern aidb_db *aipg_store(void);

/* Raises the engine's status as an ERROR: SQLSTATE by status, the engine's message as detail, a hint. `what` is the
 * attempted action, e.g. "could not read from AiDb table \"t\"" (already translated and formatted). */
extern void aipg_raise(aidb_status status, const char *what) pg_attribute_noreturn();

/* ---- Views: what a statement sees ------------------------------------------------------------------------- */

/*
 * What one statement may see: an engine snapshot, PostgreSQL's snapshot of the same instant (for the fate of tagged
 * versions) and the command id below which own writes are visible. Owned by the snapshot module; valid as long as
 * the PostgreSQL snapshot it was asked for.
 */
typedef struct aipg_view {
	aidb_sequence sequence;
	Snapshot snapshot;
	CommandId command; /* own writes with a lower command id are seen */
} aipg_view;

/* The view that belongs to a PostgreSQL snapshot: es_snapshot of an executor state, or GetActiveSnapshot(). */
extern aipg_view aipg_view_of(Snapshot snapshot);

/* ---- Reading -------------------------------------------------------------------------------------------- */

/*
 * The row under `key` as the view sees it, own writes included. *value (may be NULL) is the caller's buffer;
 * release with aidb_buffer_free, also on error: see aipg_buffer_create. Returns false when there is none.
 */
extern bool aipg_get(const aipg_view *view, aidb_slice key, aidb_buffer *value);

/* A buffer that lives and dies with the current memory context. */
extern aidb_buffer *aipg_buffer_create(void);

/*
 * A cursor over [lower, upper) as the view sees it, own writes merged in; forwards, or backwards from upper. The
 * bounds are copied; data NULL means open. Lives in the current memory context and is released with it, or by
 * aipg_cursor_close.
 */
typedef struct aipg_cursor aipg_cursor;
extern aipg_cursor *aipg_cursor_open(const aipg_view *view, aidb_slice lower, aidb_slice upper, bool backwards);
/* Moves to the next row; false at the end. The slices are valid until the next call on the cursor. */
extern bool aipg_cursor_next(aipg_cursor *cursor, aidb_slice *key, aidb_slice *value);
extern void aipg_cursor_close(aipg_cursor *cursor);

/* ---- Writing -------------------------------------------------------------------------------------------- */

/*
 * The outcome of a write to one row. The caller raises what it means in its own words, since it alone can show the
 * key as SQL.
 */
typedef enum aipg_outcome {
	AIPG_DONE,
	AIPG_DUPLICATE,        /* insert: a live row has this key, committed or own */
	AIPG_SELF_MODIFIED,    /* update, delete: this command has changed the row already; skip it, as for a heap row */
	AIPG_TRIGGER_MODIFIED, /* update, delete: what this command set off (a trigger, a function) has: 27000 */
	AIPG_CONFLICT,         /* update, delete: another transaction committed a newer version: 40001 */
} aipg_outcome;

/*
 * `relation` names the table for messages raised at commit (a key inserted concurrently, a row changed
 * concurrently); InvalidOid for key spaces. Key and value are copied. The write belongs to the current command and
 * subtransaction. Calls GetCurrentCommandId(true).
 */
extern aipg_outcome aipg_insert(Oid relation, aidb_slice key, aidb_slice value);
extern aipg_outcome aipg_update(const aipg_view *view, Oid relation, aidb_slice key, aidb_slice value);
extern aipg_outcome aipg_delete(const aipg_view *view, Oid relation, aidb_slice key);
/* Blind writes: whatever was there. The last one to commit stands. */
extern void aipg_put(Oid relation, aidb_slice key, aidb_slice value);
extern void aipg_remove(Oid relation, aidb_slice key);

typedef enum aipg_lock_outcome {
	AIPG_LOCKED,
	AIPG_LOCKED_NEWER,
	AIPG_LOCK_GONE,
	AIPG_LOCK_BUSY,
	AIPG_LOCK_SELF,
} aipg_lock_outcome;
extern aipg_lock_outcome aipg_lock_row(const aipg_view *view, Oid relation, aidb_slice key, LockTupleMode mode,
									   LockWaitPolicy policy, aidb_buffer *newest);

/* Whether the newest row of the key is one that the view sees, or an own write of any command. */
extern bool aipg_newest_is_visible(const aipg_view *view, aidb_slice key);

/* The newest committed row or own write of any command, for catalog rows. */
extern bool aipg_get_latest(aidb_slice key, aidb_buffer *value);

/*
 * Called at commit when a key that was absent has appeared meanwhile: raises 23505 with the key in the detail.
 * Set by the modify module, since it alone can decode keys. Called inside the transaction, before its commit.
 */
extern void (*aipg_report_duplicate)(Oid relation, aidb_slice key);

#endif
