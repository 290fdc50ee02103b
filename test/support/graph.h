/*
 * graph.h: a directed graph of dependencies, and its cycles of a certain kind. Memory is allocated or the program ends.
 */
#ifndef AIDB_TEST_GRAPH_H
#define AIDB_TEST_GRAPH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum edge_kind { EDGE_WW, EDGE_WR, EDGE_RW, EDGE_RT } edge_kind;

typedef struct graph_edge {
	uint32_t from;
	uint32_t to;
	edge_kind kind;
	uint32_t key; /* that the edge is about; not for EDGE_RT */
} graph_edge;

typedef struct dependency_graph {
	graph_edge *edges;
	size_t edge_count;
	uint32_t node_count;
	size_t *first; /* of each node and one more: where its edges begin; since graph_finish() */
} dependency_graph;

typedef struct cycle_search {
	unsigned kinds;      /* 1 << kind for each that a cycle may have */
	edge_kind through;   /* of which it has at least one */
	bool no_adjacent_rw; /* it may not have two EDGE_RW one after the other */
} cycle_search;

/* Is told one cycle; `edges` are valid during the call. */
typedef void graph_cycle_found(void *argument, const graph_edge **edges, size_t count);

void graph_add(dependency_graph *graph, uint32_t from, uint32_t to, edge_kind kind, uint32_t key);

/* After the last edge; `node_count` is set by now. */
void graph_finish(dependency_graph *graph);

/* Reports one short cycle of each strongly connected component that has one. */
void graph_search(const dependency_graph *graph, const cycle_search *search, graph_cycle_found *found, void *argument);

void graph_free(dependency_graph *graph);

#endif
