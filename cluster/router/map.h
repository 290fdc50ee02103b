/*
 * map.h: which group keeps which slot, and which node is a group's primary, as the cluster's catalog says. Each backend keeps a
 * copy, which a commit that changes the catalog makes it read again.
 */
#ifndef ROUTER_MAP_H
#define ROUTER_MAP_H

#include "postgres.h"

#include "placement/ring.h"
#include "placement/slot_set.h"

/* A replica of a group that may be read from. */
typedef struct router_reader {
	bool is_cache;
	char name[NAMEDATALEN];
	char *conninfo;
} router_reader;

typedef struct router_group {
	int id;
	int64 epoch;
	char name[NAMEDATALEN];
	char node[NAMEDATALEN]; /* its primary */
	char *conninfo;         /* of that */
	aidb_slot_set slots;    /* that the group keeps */
	int reader_count;       /* of its replicas, those that are up */
	router_reader *readers;
} router_group;

typedef struct router_map {
	uint64 placement; /* another number when a slot is kept by another group than before */
	int group_count;  /* by id, ascending */
	router_group *groups;
	int group_of_slot[AIDB_SLOTS]; /* index into groups */
} router_map;

/* The map as it is now, good until the next call. Raises when the cluster has no group, with a hint how to add one. */
extern const router_map *router_map_get(void);
/* The group of this id in it; NULL when there is none any more. */
extern const router_group *router_map_group(const router_map *map, int id);
/* For a statement that has begun with this placement: raises 40001 when slots have moved since, so that it would miss rows or see them twice. */
extern void router_map_check_placement(uint64 placement);
extern void router_map_raise_moved(const char *detail) pg_attribute_noreturn();
/* Has the next call read the catalog again: what the map says has turned out to be wrong. */
extern void router_map_forget(void);

#endif
