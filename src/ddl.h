/*
 * ddl.h: SQL that core refuses for foreign tables, or does not tell wrappers about, brought back with hooks.
 */
#ifndef AIPG_DDL_H
#define AIPG_DDL_H

/* Installs the utility and object access hooks; from _PG_init. */
extern void aipg_ddl_init(void);

#endif
