/*
 * parameters.h: values of expressions as a statement's parameters, and which groups a shard key's values belong to.
 */
#ifndef ROUTER_PARAMETERS_H
#define ROUTER_PARAMETERS_H

#include "postgres.h"

#include "nodes/execnodes.h"
#include "router/map.h"
#include "router/plan.h"

/* How values of some types become text. */
typedef struct router_encoder {
	int count;
	Oid *types;
	FmgrInfo *outputs;
} router_encoder;

/* For expressions; memory is the current context's. */
extern router_encoder *router_encoder_create(const Oid *types, int count);
/* *text becomes the value as text, NULL for null; palloc'd. Between router_begin_values and its end. */
extern const char *router_encode(router_encoder *encoder, int index, Datum value, bool null);
/* Evaluates all (ExprState), into an array of as many. */
extern const char **router_encode_all(router_encoder *encoder, List *expressions, ExprContext *context);

/* The groups, as a set of indexes into the map, that have rows which satisfy the conditions with these values (ExprState). */
extern Bitmapset *router_groups_of(const router_map *map, const aipg_table *table, const aipg_key_condition *conditions,
								   int count, List *expressions, ExprContext *context);
/* The group, as an index into the map, of a row whose shard key's columns are set in the slot. Raises 23502 for a null. */
extern int router_group_of_row(const router_map *map, const aipg_table *table, TupleTableSlot *slot);

#endif
