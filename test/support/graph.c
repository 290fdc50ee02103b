/*
 * To search for cycles without adjacent rw edges, every node is doubled: state 1 means that it was reached by an rw edge
 * and may not be left by one. Such cycles are then simply those of the doubled graph.
 */
#include "graph.h"

#include <stdlib.h>
#include <string.h>

#include "history.h"

#define NOWHERE UINT32_MAX
/* Edges of a component from which a short cycle is looked for. */
#define STARTS_TRIED 20

void graph_add(dependency_graph *graph, uint32_t from, uint32_t to, edge_kind kind, uint32_t key) {
	graph->edges = history_grow(graph->edges, graph->edge_count, sizeof(*graph->edges));
	graph->edges[graph->edge_count++] = (graph_edge){from, to, kind, key};
}

static void *allocate(size_t count, size_t element_bytes) {
	void *memory = calloc(count + 1, element_bytes);

	if (memory == NULL) {
		fputs("out of memory\n", stderr);
		exit(2);
	}
	return memory;
}

/* Sorts edges by the node that they leave, those of a node in the order in which they were added. */
void graph_finish(dependency_graph *graph) {
	graph_edge *sorted = allocate(graph->edge_count, sizeof(*sorted));
	size_t *next = allocate(graph->node_count + 1, sizeof(*next));

	graph->first = allocate(graph->node_count + 1, sizeof(*graph->first));
	for (size_t i = 0; i < graph->edge_count; i++) {
		graph->first[graph->edges[i].from + 1]++;
	}
	for (uint32_t node = 0; node < graph->node_count; node++) {
		graph->first[node + 1] += graph->first[node];
	}
	memcpy(next, graph->first, (graph->node_count + 1) * sizeof(*next));
	for (size_t i = 0; i < graph->edge_count; i++) {
		sorted[next[graph->edges[i].from]++] = graph->edges[i];
	}
	free(next);
	free(graph->edges);
	graph->edges = sorted;
}

void graph_free(dependency_graph *graph) {
	free(graph->edges);
	free(graph->first);
	*graph = (dependency_graph){0};
}

/* ---- The doubled graph ----------------------------------------------------------------------------------- */

/* A place is a node times two plus its state. */
typedef struct cycle_walk {
	const dependency_graph *graph;
	const cycle_search *search;
	uint32_t places;
	uint32_t *component;
	/* Tarjan's */
	uint32_t *visited; /* in which order; 0: not yet */
	uint32_t *lowest;
	uint32_t *stack;
	uint32_t stack_count;
	uint32_t *path;
	size_t *path_edge; /* the next edge to follow from each place of the path */
	uint32_t path_count;
	uint32_t visits;
	uint32_t components;
	/* of the search for a short cycle */
	const graph_edge **reached_by;
	uint32_t *came_from;
	uint32_t *queue;
} cycle_walk;

/* Where an edge leads from a place, or NOWHERE. */
static uint32_t follow(const cycle_walk *walk, uint32_t place, const graph_edge *edge) {
	if ((walk->search->kinds >> edge->kind & 1) == 0) {
		return NOWHERE;
	}
	if (!walk->search->no_adjacent_rw || edge->kind != EDGE_RW) {
		return edge->to * 2;
	}
	return (place & 1) != 0 ? NOWHERE : edge->to * 2 + 1;
}

static void visit(cycle_walk *walk, uint32_t place) {
	walk->visited[place] = walk->lowest[place] = ++walk->visits;
	walk->stack[walk->stack_count++] = place;
	walk->path_edge[walk->path_count] = walk->graph->first[place / 2];
	walk->path[walk->path_count++] = place;
}

static void note_lower(cycle_walk *walk, uint32_t place, uint32_t number) {
	if (number < walk->lowest[place]) {
		walk->lowest[place] = number;
	}
}

/* Leaves the last place of the path; its component is complete when nothing before it was reached. */
static void leave(cycle_walk *walk) {
	uint32_t place = walk->path[--walk->path_count];
	uint32_t member;

	if (walk->path_count > 0) {
		note_lower(walk, walk->path[walk->path_count - 1], walk->lowest[place]);
	}
	if (walk->lowest[place] != walk->visited[place]) {
		return;
	}
	walk->components++;
	do {
		member = walk->stack[--walk->stack_count];
		walk->component[member] = walk->components;
	} while (member != place);
}

/* Tarjan's strongly connected components (1972), with a path of its own instead of recursion. */
static void find_components(cycle_walk *walk, uint32_t start) {
	visit(walk, start);
	while (walk->path_count > 0) {
		uint32_t place = walk->path[walk->path_count - 1];
		size_t *next = &walk->path_edge[walk->path_count - 1];
		uint32_t to;

		if (*next == walk->graph->first[place / 2 + 1]) {
			leave(walk);
			continue;
		}
		to = follow(walk, place, &walk->graph->edges[(*next)++]);
		if (to == NOWHERE || walk->component[to] != 0) {
			continue;
		}
		if (walk->visited[to] == 0) {
			visit(walk, to);
		} else {
			note_lower(walk, place, walk->visited[to]);
		}
	}
}

/* ---- Short cycles ---------------------------------------------------------------------------------------- */

/* Adds to the queue what can be reached from a place within its component. */
static uint32_t spread(cycle_walk *walk, uint32_t place, uint32_t queued) {
	for (size_t i = walk->graph->first[place / 2]; i < walk->graph->first[place / 2 + 1]; i++) {
		const graph_edge *edge = &walk->graph->edges[i];
		uint32_t to = follow(walk, place, edge);

		if (to != NOWHERE && walk->component[to] == walk->component[place] && walk->reached_by[to] == NULL) {
			walk->reached_by[to] = edge;
			walk->came_from[to] = place;
			walk->queue[queued++] = to;
		}
	}
	return queued;
}

/* From `start`, left by `edge`, back to it, breadth first. Returns how many edges, in an array that is the caller's. */
static size_t shortest_cycle(cycle_walk *walk, uint32_t start, const graph_edge *edge, const graph_edge ***cycle) {
	uint32_t first = follow(walk, start, edge);
	uint32_t queued = 1;
	size_t count = 0;

	walk->queue[0] = first;
	walk->reached_by[first] = edge;
	walk->came_from[first] = start;
	for (uint32_t done = 0; done < queued && walk->reached_by[start] == NULL; done++) {
		queued = spread(walk, walk->queue[done], queued);
	}
	for (uint32_t place = walk->came_from[start];; place = walk->came_from[place]) {
		count++;
		if (place == start) {
			break;
		}
	}
	*cycle = allocate(count, sizeof(**cycle));
	for (uint32_t place = start, i = 0; i < count; place = walk->came_from[place], i++) {
		(*cycle)[count - 1 - i] = walk->reached_by[place];
	}
	for (uint32_t i = 0; i < queued; i++) {
		walk->reached_by[walk->queue[i]] = NULL;
	}
	return count;
}

/* What is known of each component so far. */
typedef struct shortest {
	const graph_edge **edges;
	size_t count;
	int tried;
} shortest;

/* Looks for cycles through every edge that a cycle must have, and keeps the shortest of each component. */
static void collect_cycles(cycle_walk *walk, shortest *best) {
	for (uint32_t place = 0; place < walk->places; place++) {
		shortest *known = &best[walk->component[place]];

		for (size_t i = walk->graph->first[place / 2]; i < walk->graph->first[place / 2 + 1]; i++) {
			const graph_edge *edge = &walk->graph->edges[i];
			uint32_t to = edge->kind == walk->search->through ? follow(walk, place, edge) : NOWHERE;
			const graph_edge **edges;
			size_t count;

			if (to == NOWHERE || walk->component[to] != walk->component[place] || known->tried == STARTS_TRIED) {
				continue;
			}
			known->tried++;
			count = shortest_cycle(walk, place, edge, &edges);
			if (known->edges != NULL && known->count <= count) {
				free(edges);
				continue;
			}
			free(known->edges);
			known->edges = edges;
			known->count = count;
		}
	}
}

static cycle_walk begin_walk(const dependency_graph *graph, const cycle_search *search) {
	uint32_t places = graph->node_count * 2;

	return (cycle_walk){.graph = graph,
						.search = search,
						.places = places,
						.component = allocate(places, sizeof(uint32_t)),
						.visited = allocate(places, sizeof(uint32_t)),
						.lowest = allocate(places, sizeof(uint32_t)),
						.stack = allocate(places, sizeof(uint32_t)),
						.path = allocate(places, sizeof(uint32_t)),
						.path_edge = allocate(places, sizeof(size_t)),
						.reached_by = allocate(places, sizeof(const graph_edge *)),
						.came_from = allocate(places, sizeof(uint32_t)),
						.queue = allocate(places, sizeof(uint32_t))};
}

static void end_walk(cycle_walk *walk) {
	void *owned[] = {walk->component, walk->visited,    walk->lowest,    walk->stack, walk->path,
					 walk->path_edge, walk->reached_by, walk->came_from, walk->queue};

	for (size_t i = 0; i < sizeof(owned) / sizeof(*owned); i++) {
		free(owned[i]);
	}
}

void graph_search(const dependency_graph *graph, const cycle_search *search, graph_cycle_found *found, void *argument) {
	cycle_walk walk = begin_walk(graph, search);
	shortest *best;

	for (uint32_t place = 0; place < walk.places; place++) {
		if (walk.visited[place] == 0) {
			find_components(&walk, place);
		}
	}
	best = allocate(walk.components + 1, sizeof(*best));
	collect_cycles(&walk, best);
	for (uint32_t component = 1; component <= walk.components; component++) {
		if (best[component].edges != NULL) {
			found(argument, best[component].edges, best[component].count);
			free(best[component].edges);
		}
	}
	free(best);
	end_walk(&walk);
}
