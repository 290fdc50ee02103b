/*
 * host.h: PostgreSQL as the engine's host: files by POSIX, waiting by futex with wait events and interrupts, background
 * workers woken by their latches, the fate of tags from the commit log.
 */
#ifndef AIPG_HOST_H
#define AIPG_HOST_H

#include "postgres.h"

#include "access/xlogdefs.h"
#include "aidb.h"

extern const aidb_host *aipg_host(void);

/* From the shared memory hook: names for what processes wait for. */
extern void aipg_host_shmem_request(void);

/* Ends this process when its postmaster is gone; for loops that wait for other processes. */
extern void aipg_leave_if_orphaned(void);
/* Whether checkpoints must not go on without this process. Then the checkpointer, which would wait for ever and keep a new
 * server from starting, leaves with it. */
extern bool aipg_holds_checkpointer;

/* The end of the last record in PostgreSQL's log, to flush it up to. */
extern XLogRecPtr aipg_inserted_end(void);

/* Acts on aidb.fault_point when it names this step; for tests. */
extern void aipg_fault_point(const char *name);

/* Callbacks of the engine must not raise. An error that one met is kept, and raised by this after the engine returned. */
extern void aipg_raise_deferred(void);

/* For aidb_read_options.tag_visible: the argument is a Snapshot; visible as a heap row of that transaction would be. */
extern bool aipg_tag_visible(void *snapshot, aidb_tag tag);
/* The same for "newest committed": visible when the transaction has committed. The argument is not used. */
extern bool aipg_tag_committed(void *unused, aidb_tag tag);

extern char *aipg_fault_setting;

#endif
