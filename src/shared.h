/*
 * shared.h: the extension's part of PostgreSQL's shared memory, beside the engine's arena.
 */
#ifndef AIPG_SHARED_H
#define AIPG_SHARED_H

#include "postgres.h"

#include "aidb.h"
#include "port/atomics.h"
#include "storage/spin.h"

/* A transaction with an id that has ended; see view.h. */
typedef struct aipg_ended {
	pg_atomic_uint64 transaction; /* full transaction id */
	pg_atomic_uint64 sequence;    /* newest visible sequence when it ended */
	pg_atomic_uint32 prepared;    /* 1: it was finished by COMMIT PREPARED or ROLLBACK PREPARED */
} aipg_ended;

typedef struct aipg_shared {
	/* PostgreSQL's own log must be flushed up to here before AiDb's log may be written: what AiDb's records depend on. */
	pg_atomic_uint64 required_lsn;
	/* Asynchronous commits that may be visible already while required_lsn does not cover them yet. */
	pg_atomic_uint32 asynchronous_commits;
	pg_atomic_uint32 has_our_past;                    /* 1: aipg_lineage_check has passed */
	pg_atomic_uint32 worker_process[AIDB_WORK_KINDS]; /* process number + 1 of the worker for each kind */
	slock_t ended_lock;                               /* to add an entry */
	pg_atomic_uint64 ended_count;                     /* ended[i % ended_size] holds the i-th */
	uint32 ended_size;                                /* a power of two */
	aipg_ended ended[FLEXIBLE_ARRAY_MEMBER];
} aipg_shared;

/* NULL unless the library was preloaded. */
extern aipg_shared *aipg_shared_memory;

/* From the shared memory hooks. */
extern void aipg_store_shmem_request(void);
extern void aipg_store_shmem_startup(void);

/* True when the store has been opened and found to be this server's, by whomever; attaches this process to it. A store that
 * cannot be opened must not stop statements that do not need it. */
extern bool aipg_store_is_ready(void);
/* The store's directory, written into `path` and returned. */
extern const char *aipg_store_path(char path[MAXPGPATH]);
/* The store, when this process has attached to it; NULL otherwise. Never raises. */
extern aidb_db *aipg_store_if_attached(void);

/* Raises *shared to at least `lsn`. */
extern void aipg_require_lsn(uint64 lsn);

#endif
