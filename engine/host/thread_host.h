/*
 * thread_host.h: the host of a standalone store. Files by POSIX calls, waiting by futexes, members are threads.
 *
 * Forked processes may use the host of their parent: what members share (their numbers, the wishes for background
 * work, the state of the random numbers) lies in shared anonymous memory. The child's thread gets a number of its own;
 * that needs fork(), which runs the fork handlers, not _Fork() or a bare clone().
 *
 * A thread takes a member number at its first call and gives it back when it ends. When all are taken, the numbers of
 * threads whose process has ended are taken over; failing that, host->member returns UINT32_MAX.
 *
 * A lock by file_lock belongs to the open file, which children inherit: it is free when the last of them has closed
 * it or ended.
 */
#ifndef LSM_THREAD_HOST_H
#define LSM_THREAD_HOST_H

#include "aidb.h"

/* `members` is the number of threads of all processes at the same time. Release with lsm_thread_host_destroy. The
 * optional functions of the host are NULL, for the caller to set before use. */
aidb_status lsm_thread_host_create(uint32_t members, aidb_host **host);
/* Stops background threads too. No thread may be using the host. NULL is fine. */
void lsm_thread_host_destroy(aidb_host *host);

/* Zeroed memory that threads and forked processes share; NULL with errno when there is none. Pages are taken as they are
 * touched. */
void *lsm_thread_host_map(size_t bytes);
void lsm_thread_host_unmap(void *memory, size_t bytes);

typedef aidb_status (*lsm_thread_host_work)(void *argument, aidb_work_kind kind, bool *did);

/*
 * Starts one thread for each kind of work; they are members. A thread calls `work` when it starts and when the host's
 * `background` asks for its kind (from whichever process), the one for AIDB_WORK_LOG also every 200 ms, until *did is
 * false. After an error it waits 100 ms and goes on.
 */
aidb_status lsm_thread_host_start(aidb_host *host, lsm_thread_host_work work, void *argument);
/* Waits for the work in progress and ends the threads. Does nothing when they are not running in this process. */
void lsm_thread_host_stop(aidb_host *host);

#endif
