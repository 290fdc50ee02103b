/*
 * handler.h: the function that CREATE FOREIGN DATA WRAPPER names. Its address tells our tables from others.
 */
#ifndef AIPG_HANDLER_H
#define AIPG_HANDLER_H

#include "postgres.h"

#include "fmgr.h"

extern PGDLLEXPORT Datum aidb_fdw_handler(PG_FUNCTION_ARGS);

#endif
