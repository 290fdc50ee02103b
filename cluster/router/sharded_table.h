/*
 * sharded_table.h: foreign tables of server aidb_cluster: each is a table of the same name on the primaries of all groups, where its rows
 * are, by the slot of their shard key.
 */
#ifndef ROUTER_TABLE_H
#define ROUTER_TABLE_H

#include "postgres.h"

#include "table.h"

#define ROUTER_OPTION_SHARD_KEY "shard_key" /* of a table: the first columns of its primary key, by default one */

/* Like aipg_table_describe; no index id, which is the nodes' affair. Raises when the shard key is not what the key begins with. */
extern aipg_table *router_table_describe(Relation relation);
extern bool router_is_table(Oid relid);
extern bool router_is_server(Oid server);
/* The table's name on the nodes, quoted. */
extern const char *router_table_name(Oid relid);

#endif
