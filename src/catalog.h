/*
 * catalog.h: the store's own catalog, kept as rows of reserved index ids in slot 0.
 *
 *   index id   key behind the prefix           value
 *   1 tables   database (u32), relation (u32)  version (u8), index id (u32)
 *   2 dropped  index id (u32)                  version (u8)
 *   3 spaces   database (u32), name            version (u8), index id (u32)
 *   4 counter                                  version (u8), first index id not given out (u32)
 *   5 prepared transactions, see prepared.h
 *   6 timeline, see lineage.h               version (u8), timeline (u32)
 *   7 marks, see replication/stream_format.h
 *   8 definitions, see ddl_log.h
 *   9 position of a replica, 10 batches in doubt, see replication/apply.h
 *
 * Numbers are big-endian. All rows but those of 4 to 7 and 9, 10 are transactional: they go through the write set, so that CREATE,
 * DROP and TRUNCATE roll back with their transaction. Callers hold a lock on the relation that keeps others from
 * changing its row; names of key spaces are locked here.
 */
#ifndef AIPG_CATALOG_H
#define AIPG_CATALOG_H

#include "postgres.h"

#include "nodes/pg_list.h"

#define AIPG_INDEX_TABLES 1
#define AIPG_INDEX_SPACES 3
#define AIPG_INDEX_PREPARED 5
#define AIPG_INDEX_LINEAGE 6
#define AIPG_INDEX_DEFINITIONS 8
#define AIPG_INDEX_POSITION 9
#define AIPG_INDEX_IN_DOUBT 10
#define AIPG_INDEX_SLOTS 11
#define AIPG_FIRST_INDEX_ID 16 /* those below are reserved */
#define AIPG_FIRST_CLUSTER_ID                                                                                          \
	0x80000000u /* those from here on are given by the catalog of a cluster, to tables of all groups */

/* Called from the shared memory hooks. */
extern void aipg_catalog_shmem_request(void);
extern void aipg_catalog_shmem_startup(void);

/* A number that was never given out before, larger than all that were; not transactional. */
extern uint32 aipg_catalog_new_id(void);
/* The next table or key space that this transaction makes or truncates gets this index id, as it has elsewhere. */
extern void aipg_catalog_give_id(uint32 index_id);
/* No id up to the highest that rows of the catalog bear is given out from now on. For a replica that becomes a primary. */
extern void aipg_catalog_pass_ids(void);

/* -- tables: (database, relation) -> index id -- */

extern bool aipg_catalog_lookup(Oid relid, uint32 *index_id); /* false when the relation has no row */
extern Oid aipg_catalog_find_table(uint32 index_id);          /* of the current database; InvalidOid: none */
extern void aipg_catalog_create(Oid relid);                   /* a new id for a new table */
extern void aipg_catalog_truncate(Oid relid);                 /* a new id; the old one's rows are queued for removal */
extern void aipg_catalog_drop(Oid relid);                     /* the same, without a new id; nothing without a row */

/* -- key spaces of the current database: name -> index id -- */

extern bool aipg_catalog_find_space(const char *name, size_t size, uint32 *index_id);
/* The same, and makes one that does not exist; its name is then locked until the transaction ends. */
extern uint32 aipg_catalog_make_space(const char *name, size_t size);
extern void aipg_catalog_drop_spaces(void);

/* The index ids of all tables and key spaces of the current database, as a list of integers. */
extern List *aipg_catalog_ids(void);

/* -- databases -- */

extern void aipg_catalog_drop_database(Oid database); /* all its tables and key spaces */
/* True when the database has tables or key spaces. */
extern bool aipg_catalog_database_used(Oid database);

/*
 * Removes up to `limit` rows of dropped tables; true when there may be more. For the maintenance worker: runs within
 * its transaction, starting and ending none, but the removals are commits of their own. Only what a committed
 * transaction has dropped is touched, and the queue entry goes last, so that a crash on the way repeats the rest.
 */
extern bool aipg_catalog_purge(int limit);

#endif
