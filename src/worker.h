/*
 * worker.h: the background workers that flush, compact, and sync what commits left to be synced later.
 */
#ifndef AIPG_WORKER_H
#define AIPG_WORKER_H

#include "postgres.h"

/* Registers them; from _PG_init, when preloading. */
extern void aipg_worker_register(void);

extern PGDLLEXPORT void aipg_worker_main(Datum kind) pg_attribute_noreturn();

#endif
