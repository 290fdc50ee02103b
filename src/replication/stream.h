/*
 * stream.h: what a copy of the store, by rows or by files, has in common with the stream that goes on from it.
 */
#ifndef AIPG_STREAM_H
#define AIPG_STREAM_H

#include "postgres.h"

/* Only a server that may commit has a stream. A higher epoch than its own tells it that it may no more. Raises IA002. */
extern void aipg_stream_check_primary(uint64 epoch);
/*
 * Waits for the transactions that run now to end. What one of them has prepared before the place from which the stream is read is not
 * in the stream, and not in a copy either before it has ended.
 */
extern void aipg_stream_wait_for_running(void);

#endif
