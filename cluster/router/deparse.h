/*
 * deparse.h: SQL for the nodes. What a node computes must come out as it would here: expressions are *shippable* when all that is
 * in them is built in and immutable, over columns of the table. What does not depend on the table (parameters, columns of other
 * tables, now()) is computed here and sent as a parameter.
 */
#ifndef ROUTER_DEPARSE_H
#define ROUTER_DEPARSE_H

#include "postgres.h"

#include "lib/stringinfo.h"
#include "nodes/pathnodes.h"

/* A statement that is being written. */
typedef struct router_writer {
	PlannerInfo *root;
	Index varno; /* the table's, in expressions that are appended */
	Oid relid;
	bool no_constants; /* constants become parameters, so that a prepared statement serves all of them */
	StringInfoData sql;
	List *parameters; /* expressions to be computed here; $1 is the first */
} router_writer;

extern void router_writer_init(router_writer *writer, PlannerInfo *root, Index varno, Oid relid);

extern bool router_is_shippable(PlannerInfo *root, Index varno, Expr *expression);
/* Appends a shippable expression. */
extern void router_write_expression(router_writer *writer, Expr *expression);
/* Appends " WHERE a AND b"; nothing without conditions (expressions, not RestrictInfos). */
extern void router_write_conditions(router_writer *writer, List *conditions);
/* The quoted name of a column. */
extern const char *router_column_name(Oid relid, AttrNumber attnum);

/*
 * Whether the nodes can compute the transition state of an aggregate, for PostgreSQL to combine here; and that, appended: the
 * aggregate itself where its state is its result, else one of the extension that stops before the final function.
 */
extern bool router_is_partial_aggregate(PlannerInfo *root, Index varno, const Aggref *aggregate);
extern void router_write_partial_aggregate(router_writer *writer, const Aggref *aggregate);

/* Values as text mean the same on all nodes between these two. */
extern int router_begin_values(void);
extern void router_end_values(int level);

#endif
