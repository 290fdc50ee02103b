/*
 * access.h: transactional access to the store of this server.
 *
 * Everything above (scan, modify, ddl, functions) reads and writes through these functions and never calls the
 * engine itself. They give PostgreSQL's rules: a statement reads one snapshot, taken at the instant of
 * PostgreSQL's own; a transaction sees its own writes by command id; savepoints cut them back; who changes a row
 * locks it.
 *
 * Errors are raised with ereport. Memory is the current context's unless said otherwise.
 */
#ifndef AIPG_ACCESS_H
#define AIPG_ACCESS_H

#include "postgres.h"

#include "aidb.h"
#include "lib/stringinfo.h"
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
	Oid relation;      /* whose rows are read, for SERIALIZABLE; InvalidOid: latest rows, for DDL */
} aipg_view;

/* Stands for key spaces where a relation is asked for. No relation has this id; if one ever has, it is locked with them. */
#define AIPG_KEY_SPACES ((Oid)PG_UINT32_MAX)

/* The view that belongs to a PostgreSQL snapshot: es_snapshot of an executor state, or GetActiveSnapshot(). `relation` is
 * whose rows are to be read by it; AIPG_KEY_SPACES for key spaces. */
extern aipg_view aipg_view_of(Snapshot snapshot, Oid relation);

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
/* A cursor over the rows that there are under these keys, in their order, when rows are elsewhere and are better asked for together.
 * NULL: they are here, and aipg_get is the way. The keys are the caller's, and stay until the cursor is closed. */
extern aipg_cursor *aipg_cursor_open_keys(const aidb_slice *keys, int count);
/* Moves to the next row; false at the end. The slices are valid until the next call on the cursor. */
extern bool aipg_cursor_next(aipg_cursor *cursor, aidb_slice *key, aidb_slice *value);
extern void aipg_cursor_close(aipg_cursor *cursor);

/* ---- Rows that are elsewhere ------------------------------------------------------------------------------- */

/*
 * On a caching read node the rows of tables and key spaces are not in its store but at its primary: aipg_get and cursors read them
 * by these functions, which are set at start-up by who knows the way there.
 */
typedef struct aipg_row_source {
	bool (*get)(aidb_slice key, aidb_buffer *value);
	void *(*open)(aidb_slice lower, aidb_slice upper, bool backwards); /* in the current memory context */
	bool (*next)(void *cursor, aidb_slice *key, aidb_slice *value);
	void (*close)(void *cursor);
	void *(*open_keys)(const aidb_slice *keys, int count); /* the same for rows by key */
	bool (*next_of_keys)(void *cursor, aidb_slice *key, aidb_slice *value);
	void (*close_keys)(void *cursor);
} aipg_row_source;

extern const aipg_row_source *aipg_row_source_elsewhere;

/* ---- Locking and writing --------------------------------------------------------------------------------- */

/* What has become of a row since the view was taken. */
typedef enum aipg_row_state {
	AIPG_ROW_SAME,             /* nothing */
	AIPG_ROW_NEWER,            /* another transaction has changed it, and committed */
	AIPG_ROW_GONE,             /* ... has deleted it */
	AIPG_ROW_BUSY,             /* LockWaitSkip: another transaction holds it */
	AIPG_ROW_SELF_MODIFIED,    /* this command has changed it already; skip it, as for a heap row */
	AIPG_ROW_TRIGGER_MODIFIED, /* what this command set off (a trigger, a function) has: 27000 when it is to be changed */
} aipg_row_state;

/*
 * Locks the row under `key`, which the view sees, and looks what it is now: *current gets the row for AIPG_ROW_SAME and
 * AIPG_ROW_NEWER. When another transaction has given it another key, that is in *moved, which is empty otherwise. Waits as `policy` says for who has locked it in a conflicting mode. With a transaction's
 * snapshot (REPEATABLE READ and above) a row that others have changed raises 40001. FOR KEY SHARE is content with a row
 * whose key is the same, and gets it as the view sees it. The lock is held until the (sub)transaction ends, but for rows
 * that are gone.
 */
extern aipg_row_state aipg_lock_row(const aipg_view *view, Oid relation, aidb_slice key, LockTupleMode mode,
									LockWaitPolicy policy, aidb_buffer *current, StringInfo moved);

/* The same for a row that this command has locked before, whatever it was to the view. */
extern aipg_row_state aipg_read_locked(const aipg_view *view, aidb_slice key, aidb_buffer *current);

/*
 * Whether a row has the key, whatever the snapshot sees. Waits like an insert for a transaction that has written the key and
 * is still open, but locks nothing.
 */
extern bool aipg_row_exists(Oid relation, aidb_slice key);

/*
 * Like aipg_lock_row for whatever row has the key now, which the view need not see: the conflict of an insert. Nothing is
 * locked when the row is gone; the insert is then tried again.
 */
extern aipg_row_state aipg_lock_newest(const aipg_view *view, Oid relation, aidb_slice key, LockTupleMode mode,
									   aidb_buffer *current);
/* Raises 40001 when the key's row has been committed after the view: for transactions that go by one snapshot. */
extern void aipg_check_newest_seen(const aipg_view *view, aidb_slice key);

/*
 * Writes belong to a command (of the statement that makes them, not of what that sets off) and to the current
 * subtransaction; keys and rows are copied. `relation` names the table for messages.
 *
 * Insert waits for a transaction that has written the key and is still open. It returns false when a live row has this
 * key, whatever the snapshot sees. The row may get some bytes appended, see aipg_row_set_incarnation.
 */
extern bool aipg_insert(Oid relation, CommandId command, aidb_slice key, StringInfo row);
/* After aipg_lock_row has locked the row, in a mode that is strong enough, and found it as `current`. */
extern void aipg_update(Oid relation, CommandId command, aidb_slice key, aidb_slice current, StringInfo row);
extern void aipg_delete(Oid relation, CommandId command, aidb_slice key, aidb_slice current);
/* Gives the locked row under `key` the key `to`; false when a live row has that, as for an insert. */
extern bool aipg_move(Oid relation, CommandId command, aidb_slice key, aidb_slice current, aidb_slice to,
					  StringInfo row);
/*
 * Locks a key to be written blindly, and returns whether it is there now; when it is not, it is not locked either. With a
 * transaction's snapshot a key that others have written after the view raises 40001.
 */
extern bool aipg_lock_blind(const aipg_view *view, aidb_slice key);
/* Blind writes, of key spaces and the catalog: whatever was there. They wait for who has written the key before. */
extern void aipg_put(aidb_slice key, aidb_slice value);
extern void aipg_remove(aidb_slice key);

/* The newest committed row or own write of any command, for catalog rows. */
extern bool aipg_get_latest(aidb_slice key, aidb_buffer *value);

#endif
