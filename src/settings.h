/*
 * settings.h: what an administrator can set in postgresql.conf.
 */
#ifndef AIPG_SETTINGS_H
#define AIPG_SETTINGS_H

#include "postgres.h"

extern int aipg_memory_mb;             /* aidb.memory: the arena */
extern bool aipg_tables_exist;         /* of the cluster, on its groups, which CREATE need not make there */
extern bool aipg_allow_mixed;          /* aidb.allow_mixed */
extern int aipg_row_cache_mb;          /* aidb.row_cache: of a caching read node */
extern int aipg_max_staleness_ms;      /* aidb.max_staleness */
extern char *aipg_read_token;          /* aidb.read_token: "epoch:sequence", or empty */
extern int aipg_read_token_timeout_ms; /* aidb.read_token_timeout */
extern int aipg_expected_epoch;        /* aidb.expected_epoch */

/* False for what is no token. */
extern bool aipg_read_token_parse(const char *token, uint64 *epoch, uint64 *sequence);

/* Defines the settings; from _PG_init. */
extern void aipg_settings_init(void);

#endif
