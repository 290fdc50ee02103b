/*
 * aidb.h: the public interface of the AiDb storage engine.
 *
 * AiDb is a log-structured merge-tree whose whole shared state (memtables, block cache, version set,
 * snapshots, statistics) lives in one arena of shared memory. Every process or thread that has attached to the
 * arena reads and writes the store by direct function call. A program that wants an embedded store calls
 * aidb_open(); a program that has its own shared memory and its own way of waiting (a database server, say)
 * fills an aidb_host, formats an arena and attaches to it.
 *
 * Conventions
 *   - A function that can fail returns an aidb_status; AIDB_OK is 0. Output arguments come last and are left
 *     untouched on error. aidb_last_error() says what went wrong, where, and what to do.
 *   - Keys and values are arbitrary bytes. Keys sort by memcmp, a prefix before its extensions.
 *   - An argument that is passed in stays the caller's. What a function hands out is the caller's to release
 *     with the function named beside it.
 *   - All functions may be called from any thread, on one aidb_db at the same time, unless they say otherwise.
 *     Iterators, batches and buffers belong to one thread at a time.
 *   - No function calls longjmp, exit or a signal handler; none allocates shared memory after the arena is
 *     formatted.
 */
#ifndef AIDB_H
#define AIDB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define AIDB_PUBLIC __attribute__((visibility("default")))
#define AIDB_PRINTF(format_index, first_argument) __attribute__((format(printf, format_index, first_argument)))
#else
#define AIDB_PUBLIC
#define AIDB_PRINTF(format_index, first_argument)
#endif

/* ---- Limits -------------------------------------------------------------------------------------------- */

#define AIDB_MAX_KEY_BYTES 1024u            /* a longer key is refused with AIDB_LIMIT */
#define AIDB_MIN_MEMORY_BYTES (16ull << 20) /* the smallest arena */
#define AIDB_MAX_MEMORY_BYTES (32ull << 30) /* what a 32-bit offset in units of 8 bytes reaches */

/* ---- Status -------------------------------------------------------------------------------------------- */

typedef enum aidb_status {
	AIDB_OK = 0,
	AIDB_NOT_FOUND,    /* no such key, file or store */
	AIDB_INVALID,      /* an argument or option is wrong */
	AIDB_LIMIT,        /* a key, value or batch is larger than the store accepts */
	AIDB_IO,           /* the operating system reported an error; writes are off until the store is reopened */
	AIDB_NO_SPACE,     /* the disk is full; reads go on, and writes resume once there is space */
	AIDB_NO_MEMORY,    /* the process or the arena has no memory left for this call */
	AIDB_CORRUPT,      /* bytes on disk are not what was written */
	AIDB_UNSUPPORTED,  /* the store was written by a newer version or with a feature this build lacks */
	AIDB_IN_USE,       /* another process owns the store */
	AIDB_EXISTS,       /* the store exists and was not to be */
	AIDB_INTERRUPTED,  /* the host asked a wait to end; nothing was changed, the call may be repeated */
	AIDB_POISONED,     /* a member died inside the engine; reopen the store to recover */
	AIDB_UNREPLICATED, /* committed and durable here, but a replica that must have it too has not said so */
} aidb_status;

/* A short English phrase for a status. The text is static. */
AIDB_PUBLIC const char *aidb_status_text(aidb_status status);

/*
 * What the last failed call of this thread met: file, offset, reason, remedy. Valid until the next call that
 * fails in this thread. Never NULL; empty when nothing has failed.
 */
AIDB_PUBLIC const char *aidb_last_error(void);

/* ---- Bytes --------------------------------------------------------------------------------------------- */

typedef struct aidb_slice {
	const void *data;
	size_t size;
} aidb_slice;

/* Bytes that grow; zero-initialise before first use, reuse as often as wanted, release with aidb_buffer_free. */
typedef struct aidb_buffer {
	char *data;
	size_t size;
	size_t capacity;
} aidb_buffer;

AIDB_PUBLIC void aidb_buffer_free(aidb_buffer *buffer);
/* Replaces the contents by a copy; AIDB_NO_MEMORY leaves the buffer as it was. */
AIDB_PUBLIC aidb_status aidb_buffer_set(aidb_buffer *buffer, aidb_slice contents);

/* ---- Sequences, tags, visibility ----------------------------------------------------------------------- */

/*
 * Every commit gets one sequence number, strictly increasing in log order. A reader at sequence S sees, of each
 * key, the newest version whose sequence is not above S. 56 bits.
 */
typedef uint64_t aidb_sequence;
#define AIDB_SEQUENCE_LATEST ((aidb_sequence)1 << 56) /* "whatever is newest" */

/*
 * A version may carry a tag: the id of the transaction that wrote it together with something outside this store.
 * While its fate is open, the reader decides for itself whether it sees the version.
 */
typedef uint64_t aidb_tag;

/* Whether a version with this tag is visible to the reader. Must not fail and must not call the engine. */
typedef bool (*aidb_tag_visible)(void *argument, aidb_tag tag);

/* Told of a tagged version that the reader does not see. Must not fail and must not call the engine. */
typedef void (*aidb_tag_unseen)(void *argument, aidb_tag tag);

typedef enum aidb_tag_fate {
	AIDB_TAG_OPEN,      /* undecided, not durable yet, or readers disagree: keep the version as it is */
	AIDB_TAG_COMMITTED, /* durable, and every present and future reader sees it */
	AIDB_TAG_ABORTED,   /* no reader will ever see it */
} aidb_tag_fate;

/* ---- Host: what the engine asks of its surroundings ------------------------------------------------------ */

typedef enum aidb_log_level { AIDB_LOG_DEBUG, AIDB_LOG_INFO, AIDB_LOG_WARNING, AIDB_LOG_ERROR } aidb_log_level;

/* Work that the engine wants done in the background, see aidb_work(). */
typedef enum aidb_work_kind {
	AIDB_WORK_FLUSH,   /* write full memtables to level 0 */
	AIDB_WORK_COMPACT, /* merge files so that reads stay bounded */
	AIDB_WORK_LOG,     /* write and sync what lazy commits left, prepare the next log segment */
} aidb_work_kind;
#define AIDB_WORK_KINDS 3

/* Why a member waits; the host may show it. */
typedef enum aidb_wait_reason {
	AIDB_WAIT_LATCH,   /* a short critical section of another member */
	AIDB_WAIT_SYNC,    /* the log to be written or synced by another member */
	AIDB_WAIT_PUBLISH, /* earlier commits to become visible */
	AIDB_WAIT_ROOM,    /* memory to be freed by a flush */
	AIDB_WAIT_JOB,     /* a background job to finish */
	AIDB_WAIT_STREAM,  /* more log to read */
	AIDB_WAIT_REPLICA, /* a replica to have a commit */
} aidb_wait_reason;

enum {
	AIDB_FILE_READ = 1,
	AIDB_FILE_WRITE = 2,
	AIDB_FILE_CREATE = 4,
	AIDB_FILE_EXCLUSIVE = 8, /* with CREATE: fail with EEXIST when the file exists */
};

/*
 * All functions get `context` first. Those that return int return 0 or an errno value. None may throw or longjmp.
 * Files are small integers private to the process. Paths are as given to the engine, joined with '/'.
 */
typedef struct aidb_host {
	void *context;

	int (*file_open)(void *context, const char *path, int flags, int *file);
	void (*file_close)(void *context, int file);
	/* Reads up to `size` bytes at `offset`; *got is less only at the end of the file. */
	int (*file_read)(void *context, int file, void *data, size_t size, uint64_t offset, size_t *got);
	int (*file_write)(void *context, int file, const void *data, size_t size, uint64_t offset);
	int (*file_sync)(void *context, int file); /* data and size are durable on return */
	int (*file_allocate)(void *context, int file, uint64_t size);
	int (*file_truncate)(void *context, int file, uint64_t size);
	int (*file_size)(void *context, int file, uint64_t *size);
	int (*file_rename)(void *context, const char *from, const char *to); /* replaces atomically */
	int (*file_remove)(void *context, const char *path);
	/* Another name of the same file; EEXIST when there is one. NULL: no checkpoints can be made. */
	int (*file_link)(void *context, const char *from, const char *to);
	/* Exclusive ownership until closed or the process dies; EWOULDBLOCK when another process has it. */
	int (*file_lock)(void *context, const char *path, int *file);
	int (*directory_create)(void *context, const char *path); /* 0 also when it exists */
	int (*directory_remove)(void *context, const char *path);
	int (*directory_sync)(void *context, const char *path);
	int (*directory_list)(void *context, const char *path, void (*each)(void *argument, const char *name),
						  void *argument);

	uint64_t (*clock_us)(void *context); /* monotonic */
	uint64_t (*random)(void *context);

	/* This thread's or process's number, below the arena's `members`; constant while it is attached. */
	uint32_t (*member)(void *context);
	/* False when the member has died inside the engine. */
	bool (*member_alive)(void *context, uint32_t member);

	/*
	 * Sleeps until woken, while *word == expected, at the longest timeout_us; may return early at any time.
	 * Returns EINTR when `reason` is one that may take long (ROOM, JOB, STREAM, REPLICA) and the caller should give up its wait
	 * because a cancel or shutdown was asked for; 0 otherwise. The word lies in the arena.
	 */
	int (*wait)(void *context, uint32_t *word, uint32_t expected, uint64_t timeout_us, aidb_wait_reason reason);
	void (*wake)(void *context, uint32_t *word); /* wakes all */
	/* Lets others that can run go first. NULL: nothing to do. */
	void (*yield)(void *context);

	void (*log)(void *context, aidb_log_level level, const char *text);

	/* Asks for aidb_work(kind) to be called soon by a background member; optional, may do nothing. */
	void (*background)(void *context, aidb_work_kind kind);

	/* The fate of a tag, for flush and compaction. NULL: every tag stays open. */
	aidb_tag_fate (*tag_fate)(void *context, aidb_tag tag);
	/* The lowest sequence at which a snapshot may still be taken; NULL: the current one. */
	aidb_sequence (*snapshot_floor)(void *context);
	/* Called before log bytes are handed to the operating system: what they depend on must be durable on return.
	 * NULL: nothing to do. */
	int (*before_log_write)(void *context);
	/* Called once by a start, when all has been recovered and is durable, before anybody can write. An error ends the
	 * start. NULL: nothing to do. */
	int (*before_open)(void *context);
	/* Called at named steps of the commit path and of recovery; for fault tests. NULL: nothing to do. */
	void (*fault_point)(void *context, const char *name);
} aidb_host;

/* Fills in what Linux gives every process: files, directories, the clock, waiting by futex. All else is set to NULL. */
AIDB_PUBLIC void aidb_host_init(aidb_host *host);

/* ---- Options ------------------------------------------------------------------------------------------- */

typedef enum aidb_compression { AIDB_COMPRESSION_NONE = 0, AIDB_COMPRESSION_SNAPPY = 1 } aidb_compression;

/* How safe a commit is when the call returns. */
typedef enum aidb_durability {
	AIDB_SYNC,    /* on stable storage: survives power loss */
	AIDB_WRITE,   /* handed to the operating system: survives the death of every process */
	AIDB_LAZY,    /* in shared memory: survives the death of this process where shared memory does, and is
				   written within a fraction of a second */
	AIDB_CARRIED, /* the same, for prepared batches that the caller makes durable elsewhere: see aidb_write_carried */
} aidb_durability;

/* Zero means the default for every field; initialise with {0} or aidb_options_init. */
typedef struct aidb_options {
	uint64_t memory_bytes;                /* the arena, all of the engine's shared memory; default 256 MiB */
	uint64_t write_buffer_bytes;          /* one of the three memtables; default memory / 8 */
	uint32_t members;                     /* threads or processes at the same time; default 128 */
	uint32_t log_segment_bytes;           /* a power of two; default 16 MiB, less for a small arena */
	uint64_t file_bytes;                  /* target size of an SSTable; default 32 MiB, less for a small arena */
	uint32_t filter_bits;                 /* bloom filter bits a key, 1 to 20; default 10 */
	uint64_t pin_limit_bytes;             /* of log that a pin may hold, see aidb_pin_create; default 1 GiB */
	aidb_compression compression_default; /* ignored unless compression_set */
	bool compression_set;                 /* default: snappy */
	bool create_if_missing;               /* aidb_open, aidb_start: make a new store in an empty or absent directory */
	bool error_if_exists;
	bool no_background; /* aidb_open only: start no threads; the writers do the work themselves */
} aidb_options;

AIDB_PUBLIC void aidb_options_init(aidb_options *options);
/* Fills in defaults and checks ranges; AIDB_INVALID with the reason in aidb_last_error(). */
AIDB_PUBLIC aidb_status aidb_options_resolve(aidb_options *options);

/* ---- Opening and closing ------------------------------------------------------------------------------- */

typedef struct aidb_db aidb_db;

/*
 * Opens the store in directory `path` for this process: makes an arena (anonymous shared memory, inherited by
 * fork), recovers, starts background threads. The owner of the directory is locked against other processes.
 * After fork() a child may use the handle as another member; only the process that opened it may close it.
 * Release with aidb_close, after all iterators are gone.
 */
AIDB_PUBLIC aidb_status aidb_open(const char *path, const aidb_options *options, aidb_db **db);

/* Stops background threads, writes and syncs the log, and releases the handle. NULL is fine. */
AIDB_PUBLIC void aidb_close(aidb_db *db);

/* Removes a store's files; AIDB_IN_USE when a process has it open. Files that are not the store's are left. */
AIDB_PUBLIC aidb_status aidb_destroy(const char *path);

/* -- for hosts with their own shared memory -- */

/* Prepares `bytes` of zeroed shared memory, aligned to 4096, as an arena; once, by one process. The effective options
 * are kept in it. */
AIDB_PUBLIC aidb_status aidb_arena_format(void *memory, size_t bytes, const aidb_options *options);

/* Attaches this process to an arena, for the store in directory `path`. The memory and *host must outlive the
 * handle. Release with aidb_detach. */
AIDB_PUBLIC aidb_status aidb_attach(void *memory, const aidb_host *host, const char *path, aidb_db **db);
AIDB_PUBLIC void aidb_detach(aidb_db *db);

/* Recovers the store if nobody has yet, or waits for who is at it; cheap once started. A failed start may be tried
 * again. Call it with interrupts held. */
AIDB_PUBLIC aidb_status aidb_start(aidb_db *db);
AIDB_PUBLIC bool aidb_is_started(const aidb_db *db);

/* Last act of the last member: writes and syncs the log. Writes after it are refused. */
AIDB_PUBLIC aidb_status aidb_stop(aidb_db *db);

/* Frees what this member holds in the arena (snapshots). Call when a thread or process ends; aidb_open's threads
 * do it by themselves. */
AIDB_PUBLIC void aidb_member_leave(aidb_db *db);

/* ---- Reading ------------------------------------------------------------------------------------------- */

/* A registered sequence: what it can see is kept. A value; copy it freely, release it once. */
typedef struct aidb_snapshot {
	aidb_sequence sequence;
	uint32_t slot;
} aidb_snapshot;

/* The current moment. AIDB_LIMIT when too many are held. */
AIDB_PUBLIC aidb_status aidb_snapshot_acquire(aidb_db *db, aidb_snapshot *snapshot);
/* Moves a snapshot back to `sequence`, which must not be below the host's snapshot_floor at any time since the
 * snapshot was acquired. */
AIDB_PUBLIC void aidb_snapshot_lower(aidb_db *db, aidb_snapshot *snapshot, aidb_sequence sequence);
AIDB_PUBLIC void aidb_snapshot_release(aidb_db *db, const aidb_snapshot *snapshot);
/* The newest visible sequence. One atomic load. */
AIDB_PUBLIC aidb_sequence aidb_current_sequence(const aidb_db *db);

typedef struct aidb_read_options {
	aidb_sequence sequence;       /* read as of; 0: latest. Unless latest, a snapshot must hold it. */
	aidb_tag_visible tag_visible; /* NULL: tagged versions are not seen */
	void *tag_argument;
	/* NULL, or called, perhaps more than once, for every tagged version of the keys read that is not seen and newer than
	 * the one seen of its key, if any, as long as the tag's fate is open; perhaps for older ones too. Of an iterator, the
	 * keys read are those within its bounds from where it was put to where it stands. */
	aidb_tag_unseen unseen;
	void *unseen_argument;
	aidb_slice lower;     /* iterators: first key, inclusive; data NULL: none. Must outlive the iterator. */
	aidb_slice upper;     /* iterators: first key beyond, exclusive; data NULL: none. Must outlive the iterator. */
	bool skip_cache_fill; /* do not keep what was read from disk in the cache */
} aidb_read_options;

/*
 * Reads the value of `key` into *value and the sequence of its version into *version (either may be NULL).
 * AIDB_NOT_FOUND when the key is absent or deleted; then *version is the sequence of its deletion, and *value the note that
 * the deletion bears (empty when it bears none). Of deletions that no snapshot needs to see the store knows nothing
 * after some time: then *version is 0, and *value is as it was. `options` may be NULL.
 */
AIDB_PUBLIC aidb_status aidb_get(aidb_db *db, const aidb_read_options *options, aidb_slice key, aidb_buffer *value,
								 aidb_sequence *version);

/*
 * An iterator over visible keys in order. Holds no latch, no memory of the arena and no file between calls, so an
 * idle one stops nothing. With options->sequence 0 it registers a snapshot of its own. Starts invalid: seek first.
 */
typedef struct aidb_iterator aidb_iterator;
AIDB_PUBLIC aidb_status aidb_iterator_create(aidb_db *db, const aidb_read_options *options, aidb_iterator **iterator);
AIDB_PUBLIC void aidb_iterator_destroy(aidb_iterator *iterator);                       /* NULL is fine */
AIDB_PUBLIC void aidb_iterator_seek(aidb_iterator *iterator, aidb_slice key);          /* first key >= key */
AIDB_PUBLIC void aidb_iterator_seek_for_prev(aidb_iterator *iterator, aidb_slice key); /* last key <= key */
AIDB_PUBLIC void aidb_iterator_seek_first(aidb_iterator *iterator);
AIDB_PUBLIC void aidb_iterator_seek_last(aidb_iterator *iterator);
AIDB_PUBLIC void aidb_iterator_next(aidb_iterator *iterator);
AIDB_PUBLIC void aidb_iterator_prev(aidb_iterator *iterator);
/* False at either end and after an error: then aidb_iterator_status says which. */
AIDB_PUBLIC bool aidb_iterator_valid(const aidb_iterator *iterator);
AIDB_PUBLIC aidb_status aidb_iterator_status(const aidb_iterator *iterator);
/* Valid until the next call on the iterator. */
AIDB_PUBLIC aidb_slice aidb_iterator_key(const aidb_iterator *iterator);
AIDB_PUBLIC aidb_slice aidb_iterator_value(const aidb_iterator *iterator);
AIDB_PUBLIC aidb_sequence aidb_iterator_version(const aidb_iterator *iterator);

/* ---- Writing ------------------------------------------------------------------------------------------- */

/* Operations that become visible together. Of two on one key, the later stands. */
typedef struct aidb_batch aidb_batch;
AIDB_PUBLIC aidb_batch *aidb_batch_create(void); /* NULL: out of memory */
AIDB_PUBLIC void aidb_batch_destroy(aidb_batch *batch);
AIDB_PUBLIC void aidb_batch_clear(aidb_batch *batch);
AIDB_PUBLIC aidb_status aidb_batch_put(aidb_batch *batch, aidb_slice key, aidb_slice value);
AIDB_PUBLIC aidb_status aidb_batch_delete(aidb_batch *batch, aidb_slice key);
/* The same with a note for who finds the key deleted (where its value has moved to, say), see aidb_get. */
AIDB_PUBLIC aidb_status aidb_batch_delete_noted(aidb_batch *batch, aidb_slice key, aidb_slice note);
AIDB_PUBLIC uint32_t aidb_batch_count(const aidb_batch *batch);
/* Memory that the batch takes once written: keys, values, and AIDB_BATCH_OPERATION_BYTES an operation. */
#define AIDB_BATCH_OPERATION_BYTES 48u
AIDB_PUBLIC size_t aidb_batch_bytes(const aidb_batch *batch);

/* The state of the transaction that a batch belongs to, as the log records it. */
typedef enum aidb_batch_state {
	AIDB_BATCH_PLAIN = 0,    /* commits by itself */
	AIDB_BATCH_PREPARED = 1, /* its versions carry the tag; someone else decides */
	AIDB_BATCH_COMMIT = 2,   /* no operations: the tag's owner committed */
	AIDB_BATCH_ABORT = 3,    /* no operations: the tag's owner aborted */
} aidb_batch_state;

typedef struct aidb_write_options {
	aidb_durability durability;
	aidb_batch_state state;
	aidb_tag tag; /* unless plain */
} aidb_write_options;

/* The largest batch that aidb_write accepts, in aidb_batch_bytes. */
AIDB_PUBLIC size_t aidb_max_batch_bytes(const aidb_db *db);

/*
 * Commits the batch. Errors before the commit point (AIDB_LIMIT, AIDB_NO_SPACE, AIDB_INTERRUPTED, AIDB_NO_MEMORY)
 * leave the store as it was; AIDB_IO means that the outcome is unknown until the store is reopened. `options`
 * NULL: plain and synced. *sequence (may be NULL) gets the commit's number, also with AIDB_UNREPLICATED.
 */
AIDB_PUBLIC aidb_status aidb_write(aidb_db *db, const aidb_write_options *options, aidb_batch *batch,
								   aidb_sequence *sequence);
AIDB_PUBLIC aidb_status aidb_put(aidb_db *db, const aidb_write_options *options, aidb_slice key, aidb_slice value);
AIDB_PUBLIC aidb_status aidb_delete(aidb_db *db, const aidb_write_options *options, aidb_slice key);

/*
 * The same in two steps, for a caller whose own commit protocol has a point after which nothing may fail.
 * aidb_write_reserve does everything that can fail, taking space in a memtable and in the log;
 * aidb_write_commit then fails only with AIDB_IO. Between the two the caller holds its own locks on the batch's
 * keys (taken before the reservation, released after the commit), so that no other commit touches them. The
 * batch stays unchanged until commit or cancel. A reservation is short: it holds up the flush of its memtable.
 */
typedef struct aidb_reservation {
	aidb_batch *batch;
	uint64_t memtable_bytes;
	uint64_t log_bytes;
	uint64_t seed;
	uint32_t memory;   /* offset of the reserved memtable memory */
	uint32_t memtable; /* which memtable */
	uint32_t member;   /* who took it, and must live until commit or cancel */
} aidb_reservation;
AIDB_PUBLIC aidb_status aidb_write_reserve(aidb_db *db, aidb_batch *batch, aidb_reservation *reservation);
AIDB_PUBLIC aidb_status aidb_write_commit(aidb_db *db, const aidb_write_options *options, aidb_reservation *reservation,
										  aidb_sequence *sequence);
AIDB_PUBLIC void aidb_write_cancel(aidb_db *db, aidb_reservation *reservation);

/* Writes and syncs the log up to everything committed before the call. */
AIDB_PUBLIC aidb_status aidb_sync(aidb_db *db);
/* The same up to a position that a call has handed out. */
AIDB_PUBLIC aidb_status aidb_sync_to(aidb_db *db, uint64_t position);
/* The same for what can be seen already, without waiting for commits that are under way. Free when all of it was synced. */
AIDB_PUBLIC aidb_status aidb_sync_visible(aidb_db *db);

/* ---- Carried batches ----------------------------------------------------------------------------------- */

/*
 * A caller that syncs a log of its own at each commit can have that log carry our prepared batches too, which spares it
 * the sync of ours:
 *
 *   1. aidb_write_carried() writes the batch to the memtable and, lazily, to the log. What it may depend on is durable on
 *      return, but for other carried batches.
 *   2. The caller writes *carried to its log, and later its own commit of the tag, and makes both durable. Of two batches
 *      of which the later may depend on the earlier, the earlier comes first in its log.
 *   3. It must be able to bring the record back until aidb_sync() has returned once after step 1.
 *   4. After a crash and before aidb_start(), it hands all those records to aidb_redo_add(), in any order; too many and
 *      the same more than once are fine, but none from before an earlier start of the store: its log gives positions out
 *      again that it has lost. aidb_start() writes those that the log has lost.
 */
#define AIDB_CARRIED_HEAD_BYTES 36u

/* The record is `head`, then `operations`, which are the batch's: valid until that is changed. */
typedef struct aidb_carried {
	uint8_t head[AIDB_CARRIED_HEAD_BYTES];
	aidb_slice operations;
	uint64_t log_end; /* for aidb_sync_to, when the caller cannot carry it after all */
} aidb_carried;
AIDB_PUBLIC aidb_status aidb_write_carried(aidb_db *db, aidb_tag tag, aidb_batch *batch, aidb_carried *carried);
/* A record without a batch, which says how far the log is synced: optional, it saves keeping what comes before. */
AIDB_PUBLIC void aidb_carry_synced(const aidb_db *db, aidb_carried *carried);

/* Records for the next start of the store in directory `path`, which is not started, in a file there. One process. */
typedef struct aidb_redo aidb_redo;
/* Goes on with what is there already. */
AIDB_PUBLIC aidb_status aidb_redo_open(const aidb_host *host, const char *path, aidb_redo **redo);
/* AIDB_CORRUPT when the bytes are no record. Keeps in memory what the log may have lost, by what the records say. */
AIDB_PUBLIC aidb_status aidb_redo_add(aidb_redo *redo, aidb_slice record);
/* Forgets all that was added: the store has been started after it. */
AIDB_PUBLIC void aidb_redo_discard(aidb_redo *redo);
/* Writes the file, unless it is not there and nothing would be in it, durably. Releases the handle in any case. */
AIDB_PUBLIC aidb_status aidb_redo_close(aidb_redo *redo);

/* ---- Replication --------------------------------------------------------------------------------------- */

/* An operation of a batch, as bytes that others wrote. */
typedef enum aidb_operation_kind { AIDB_OPERATION_PUT, AIDB_OPERATION_DELETE } aidb_operation_kind;
typedef struct aidb_operation {
	aidb_operation_kind kind;
	aidb_slice key;
	aidb_slice value; /* of a put; of a deletion its note, or empty */
	aidb_slice bytes; /* the whole operation */
} aidb_operation;

/* Takes the first operation off *operations; *operation points into the bytes. False: none is left, or what is left is
 * malformed; then operations->size is not 0. */
AIDB_PUBLIC bool aidb_operation_next(aidb_slice *operations, aidb_operation *operation);
/* All operations of a batch; valid until it is changed. */
AIDB_PUBLIC aidb_slice aidb_batch_operations(const aidb_batch *batch);
/* Adds a copy of an operation that aidb_operation_next has given. */
AIDB_PUBLIC aidb_status aidb_batch_add(aidb_batch *batch, const aidb_operation *operation);

/*
 * A pin keeps the log from a commit on, so that a replica that was away finds what it has missed. It outlives restarts. It
 * lets go, and is lost, when more than pin_limit_bytes have been written since, or when a damaged log was cut below it.
 */
#define AIDB_MAX_PINS 16u
#define AIDB_PIN_NAME_BYTES 32u /* with a final zero byte */

typedef struct aidb_pin {
	char name[AIDB_PIN_NAME_BYTES];
	aidb_sequence sequence;  /* commits beyond this one are kept */
	uint64_t position;       /* in the log, behind it */
	uint64_t retained_bytes; /* of log since */
	bool lost;
} aidb_pin;

/* Finds the pin of this name, or makes one at the newest commit, which is durable on return. One that is lost is made anew.
 * AIDB_LIMIT when there are AIDB_MAX_PINS; AIDB_INVALID for an empty or too long name. */
AIDB_PUBLIC aidb_status aidb_pin_create(aidb_db *db, const char *name, aidb_pin *pin);
/* Moves it forward to the end of a record that a stream has handed out; a place before its present one changes nothing.
 * AIDB_NOT_FOUND when there is none, or it is lost. Cheap: not durable before the next flush. */
AIDB_PUBLIC aidb_status aidb_pin_advance(aidb_db *db, const char *name, aidb_sequence sequence, uint64_t position);
AIDB_PUBLIC aidb_status aidb_pin_drop(aidb_db *db, const char *name); /* AIDB_NOT_FOUND when there is none */
/* All pins into pins[AIDB_MAX_PINS]; returns how many. */
AIDB_PUBLIC uint32_t aidb_pin_list(aidb_db *db, aidb_pin *pins);

/* Tells this store from all others: random, never 0. */
AIDB_PUBLIC uint64_t aidb_store_id(const aidb_db *db);

/*
 * Reads the commits of the log in order, and never one that is not durable yet. A stream belongs to one thread, holds no
 * latch and no memory of the arena.
 */
typedef struct aidb_stream aidb_stream;

typedef struct aidb_stream_record {
	aidb_sequence sequence;
	aidb_batch_state state;
	aidb_tag tag;
	uint32_t count;
	aidb_slice operations; /* valid until the next call on the stream */
	uint64_t end;          /* log position after the record, for aidb_pin_advance */
} aidb_stream_record;

/* A stream of the commits beyond `after`, of which a pin keeps the log. AIDB_NOT_FOUND when the pin is lost or lies beyond
 * `after`, or when the store has no commit `after`: the replica has fallen behind or is of another history. */
AIDB_PUBLIC aidb_status aidb_stream_open(aidb_db *db, const char *pin, aidb_sequence after, aidb_stream **stream);
AIDB_PUBLIC void aidb_stream_close(aidb_stream *stream); /* NULL is fine */
/*
 * Lets the stream see all that is durable now. When it has handed out all of that already, waits for more, for
 * aidb_stream_wake, or for timeout_us (0: not at all); *more says whether there is any. AIDB_INTERRUPTED when the host
 * wants the wait to end.
 */
AIDB_PUBLIC aidb_status aidb_stream_wait(aidb_stream *stream, uint64_t timeout_us, bool *more);
/* Ends the waits of all streams. Cheap when nobody waits. */
AIDB_PUBLIC void aidb_stream_wake(aidb_db *db);
/* The next commit; *got is false when all has been handed out that the last aidb_stream_wait saw. AIDB_NOT_FOUND when the pin
 * has been lost meanwhile; AIDB_CORRUPT when the log is damaged, with the place. */
AIDB_PUBLIC aidb_status aidb_stream_next(aidb_stream *stream, aidb_stream_record *record, bool *got);

/*
 * A store whose commits must be durable elsewhere, too. Once required, a commit becomes visible, and a write returns, only
 * when it is durable here and aidb_replication_advance has named its sequence or a later one; whatever its durability
 * asked for, it is synced. A write that the host interrupts in this wait gives AIDB_UNREPLICATED: it may be visible
 * later. A batch that is refused before its commit with AIDB_INTERRUPTED has left nothing. Not required after a start.
 */
AIDB_PUBLIC void aidb_replication_require(aidb_db *db, aidb_sequence replicated);
/* Commits are acknowledged by this store alone again; who waits goes on. */
AIDB_PUBLIC void aidb_replication_release(aidb_db *db);
/* The same for a store that is to acknowledge nothing any more: returns once the host has interrupted all who wait.
 * AIDB_INTERRUPTED. */
AIDB_PUBLIC aidb_status aidb_replication_abandon(aidb_db *db);
/* A lower sequence than before changes nothing, nor does it when nothing is required. */
AIDB_PUBLIC void aidb_replication_advance(aidb_db *db, aidb_sequence replicated);
/* Waits until `sequence` is visible, or until it is acknowledged or nothing is required; AIDB_INTERRUPTED. */
AIDB_PUBLIC aidb_status aidb_wait_visible(aidb_db *db, aidb_sequence sequence);
AIDB_PUBLIC aidb_status aidb_wait_replicated(aidb_db *db, aidb_sequence sequence);
/* The newest sequence that was given to a commit, visible or not. */
AIDB_PUBLIC aidb_sequence aidb_last_sequence(aidb_db *db);

/* ---- Maintenance --------------------------------------------------------------------------------------- */

/* Writes all memtables to SSTables and waits for it. */
AIDB_PUBLIC aidb_status aidb_flush(aidb_db *db);

/*
 * Makes a store of its own, with an id of its own, in the directory `path`, which is made or is empty, and on the same file system:
 * everything that was committed before the call, and maybe some of what is committed meanwhile. It takes hardly any time or
 * space, since its files are hard links to this store's; they keep these on disk until it is removed (aidb_destroy). Opened
 * or copied elsewhere, it does not know of this one.
 *
 * Versions whose tag has committed, as `tag_fate` says, are in it without their tag, and those of aborted ones are not. With
 * tag_fate NULL tags stay as they are. AIDB_EXISTS when the directory is not empty; AIDB_INTERRUPTED. After an error,
 * remove what is there.
 */
AIDB_PUBLIC aidb_status aidb_checkpoint(aidb_db *db, const char *path,
										aidb_tag_fate (*tag_fate)(void *argument, aidb_tag tag), void *argument);

/* Does one unit of background work if there is some and nobody is at it; *did says whether. */
AIDB_PUBLIC aidb_status aidb_work(aidb_db *db, aidb_work_kind kind, bool *did);

#define AIDB_LEVELS 7

/* How often something took how long. Bucket i counts what took less than AIDB_DURATION_FIRST_US << i, and no less than the bucket
 * before it; the last one, all that took longer. */
#define AIDB_DURATION_BUCKETS 24
#define AIDB_DURATION_FIRST_US 16u
typedef struct aidb_durations {
	uint64_t counts[AIDB_DURATION_BUCKETS];
	uint64_t sum_us;
} aidb_durations;

/* Counters since the arena was formatted, present sizes, and what is held at this moment. */
typedef struct aidb_stats {
	uint64_t commits;
	uint64_t log_writes;
	uint64_t log_syncs;
	uint64_t log_bytes;
	uint64_t flushes;
	uint64_t flush_bytes;
	uint64_t compactions; /* merges; trivial moves count as moves */
	uint64_t moves;
	uint64_t compaction_read_bytes;
	uint64_t compaction_write_bytes;
	uint64_t cache_hits;
	uint64_t cache_misses;
	uint64_t filter_checks;
	uint64_t filter_skips; /* reads of a file that the filter saved */
	uint64_t gets;
	uint64_t seeks;
	uint64_t stalls;
	uint64_t stall_us;
	uint64_t memory_bytes;   /* the arena */
	uint64_t memtable_bytes; /* used in all memtables */
	uint64_t cache_bytes;    /* the block cache's size */
	uint64_t entries;        /* versions in SSTables and memtables: an upper bound on keys */
	uint64_t level_files[AIDB_LEVELS];
	uint64_t level_bytes[AIDB_LEVELS];
	uint64_t log_live_bytes; /* log that recovery would replay */
	uint64_t snapshots;      /* registered now */
	uint64_t readers;        /* members inside a call that reads, besides this one */
	uint64_t reservations;   /* neither committed nor cancelled, of aidb_write_reserve */
	uint64_t reserved_bytes; /* of log that is promised to them */
	aidb_sequence sequence;  /* newest visible */
	aidb_sequence oldest_snapshot;
	bool writes_off;                 /* an I/O error turned writes off */
	aidb_durations commit_durations; /* of commits that wait for the log or for a replica */
	aidb_durations log_sync_durations;
	aidb_durations flush_durations;
	aidb_durations compaction_durations;
} aidb_stats;

AIDB_PUBLIC void aidb_stats_get(aidb_db *db, aidb_stats *stats);

/* Versions and stored bytes in [lower, upper), estimated from the SSTables and memtables; for planners. */
AIDB_PUBLIC aidb_status aidb_estimate(aidb_db *db, aidb_slice lower, aidb_slice upper, uint64_t *entries,
									  uint64_t *bytes);

#ifdef __cplusplus
}
#endif

#endif
