/*
 * write_run.h: a sorted run: writes in a temporary file, by key, and those to one key from the newest to the oldest.
 *
 * Memory that a run takes: an index of some of its keys, which thins out as the run grows (entries further apart, so
 * that a look-up reads more), and perhaps a filter of its keys. Both are limited by who makes it.
 *
 * The file is PostgreSQL's (temp_tablespaces, temp_file_limit and log_temp_files apply) and belongs to the top-level
 * transaction: it outlives statements and savepoints, and the end of the transaction or of the process removes it.
 */
#ifndef AIPG_WRITE_RUN_H
#define AIPG_WRITE_RUN_H

#include "write.h"

typedef struct aipg_write_run aipg_write_run;

/* An empty run. It lives in a context of its own below `parent`. */
extern aipg_write_run *aipg_write_run_create(MemoryContext parent, Size index_limit_bytes);
/* Lets it live below another context. Never raises. */
extern void aipg_write_run_move(aipg_write_run *run, MemoryContext parent);
/* Removes the file. Never raises. */
extern void aipg_write_run_free(aipg_write_run *run);

extern Size aipg_write_run_filter_bytes(const aipg_write_run *run);
extern uint64 aipg_write_run_keys(const aipg_write_run *run);             /* at most so many */
extern uint64 aipg_write_run_first_ordinal(const aipg_write_run *run);    /* the lowest */
extern CommandId aipg_write_run_first_command(const aipg_write_run *run); /* the lowest */
extern aidb_slice aipg_write_run_first_key(const aipg_write_run *run);
extern aidb_slice aipg_write_run_last_key(const aipg_write_run *run);

/* Writes from this ordinal on count as not there any more; some are left. Never raises. */
extern void aipg_write_run_cut(aipg_write_run *run, uint64 ordinal);
extern bool aipg_write_run_is_cut(const aipg_write_run *run);

/* ---- Writing ---------------------------------------------------------------------------------------------- */

/*
 * Adds to the end of a run, in order. What was added counts from aipg_write_run_finish on. Until then the run is as it
 * was; a writer that raised an error is given up by aipg_write_run_cancel, and its memory goes with the context in
 * which it was made.
 */
typedef struct aipg_write_run_writer aipg_write_run_writer;

/* A new run gets a filter for `keys` keys, if that fits the limit; one that is extended loses its filter. */
extern aipg_write_run_writer *aipg_write_run_begin(aipg_write_run *run, uint64 keys, Size filter_limit_bytes);
extern void aipg_write_run_append(aipg_write_run_writer *writer, const aipg_write *write);
extern void aipg_write_run_finish(aipg_write_run_writer *writer);
extern void aipg_write_run_cancel(aipg_write_run *run); /* never raises */

/* ---- Reading ---------------------------------------------------------------------------------------------- */

/* A position in a run. In the current memory context; not to be used after the run has changed or gone. */
typedef struct aipg_write_reader aipg_write_reader;

extern aipg_write_reader *aipg_write_reader_create(const aipg_write_run *run); /* NULL: none yet */
/* Lets a reader read another run. */
extern void aipg_write_reader_set_run(aipg_write_reader *reader, const aipg_write_run *run);

extern void aipg_write_reader_seek(aipg_write_reader *reader, aidb_slice from);       /* first >= from; NULL: first */
extern void aipg_write_reader_seek_below(aipg_write_reader *reader, aidb_slice from); /* last < from; NULL: last */
extern void aipg_write_reader_next(aipg_write_reader *reader);
extern void aipg_write_reader_prev(aipg_write_reader *reader);

/* Where the reader stands: NULL beyond either end. Without the value; valid until the reader moves. */
extern const aipg_write *aipg_write_reader_at(const aipg_write_reader *reader);
/* Its value, valid until the reader moves. */
extern aidb_slice aipg_write_reader_value(aipg_write_reader *reader);

/* The newest write to a key of a command below `below`; the reader, set to the run, then stands there. */
extern bool aipg_write_run_find(const aipg_write_run *run, aipg_write_reader *reader, aidb_slice key, CommandId below);

#endif
