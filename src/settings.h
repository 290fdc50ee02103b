/*
 * settings.h: what an administrator can set in postgresql.conf.
 */
#ifndef AIPG_SETTINGS_H
#define AIPG_SETTINGS_H

extern int aipg_memory_mb;      /* aidb.memory: the arena */
extern bool aipg_allow_mixed;   /* aidb.allow_mixed */
extern int aipg_expected_epoch; /* aidb.expected_epoch */

/* Defines the settings; from _PG_init. */
extern void aipg_settings_init(void);

#endif
