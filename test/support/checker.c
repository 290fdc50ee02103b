#include "checker.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "graph.h"

/* Findings of a kind that are explained; the rest is counted. */
#define EXPLAINED 3

const char *const anomaly_names[ANOMALIES] = {"internal", "unwritten", "order",    "lost",          "G0", "G1a",
											  "G1b",      "G1c",       "G-single", "G-nonadjacent", "G2"};

static const char *const edge_names[] = {"ww", "wr", "rw", "rt"};

/* Who appended an element. */
typedef struct append_origin {
	const history_operation *operation; /* NULL: nobody */
	uint32_t transaction;
	bool last; /* of what its transaction appended to the key and did not take back */
} append_origin;

typedef struct list_checker {
	const list_history *history;
	isolation_level level;
	FILE *details;
	check_report report;
	uint32_t key_limit;
	uint32_t element_limit;
	append_origin *origins;                /* by element */
	const history_operation **longest;     /* by key: the longest list that was read; NULL: none */
	const history_operation **final_reads; /* by key: what the final transaction read */
	bool *effective;                       /* by transaction: it counts as committed */
	bool has_final;
	dependency_graph graph;
} list_checker;

static void *allocate(size_t count, size_t element_bytes) {
	void *memory = calloc(count + 1, element_bytes);

	if (memory == NULL) {
		fputs("out of memory\n", stderr);
		exit(2);
	}
	return memory;
}

/* ---- Reporting ------------------------------------------------------------------------------------------- */

/* Counts a finding; whether it is to be explained. */
static bool count_finding(list_checker *checker, anomaly kind) {
	checker->report.total++;
	return ++checker->report.found[kind] <= EXPLAINED && checker->details != NULL;
}

static void print_transaction(list_checker *checker, uint32_t transaction) {
	fprintf(checker->details, "    T%u ", transaction);
	transaction_print(checker->details, &checker->history->transactions[transaction]);
}

/* A finding about one transaction. */
static void report(list_checker *checker, anomaly kind, uint32_t transaction, const char *format, ...)
	__attribute__((format(printf, 4, 5)));

static void report(list_checker *checker, anomaly kind, uint32_t transaction, const char *format, ...) {
	va_list arguments;

	if (count_finding(checker, kind)) {
		fprintf(checker->details, "%s: ", anomaly_names[kind]);
		va_start(arguments, format);
		vfprintf(checker->details, format, arguments);
		va_end(arguments);
		fputc('\n', checker->details);
		print_transaction(checker, transaction);
	}
}

/* ---- Lists ----------------------------------------------------------------------------------------------- */

static bool is_prefix(const history_operation *shorter, const history_operation *longer) {
	return shorter->count <= longer->count &&
		   (shorter->count == 0 ||
			memcmp(shorter->elements, longer->elements, shorter->count * sizeof(*shorter->elements)) == 0);
}

static const append_origin *origin_of(const list_checker *checker, uint32_t element, uint32_t key) {
	const append_origin *origin = element < checker->element_limit ? &checker->origins[element] : NULL;

	return origin == NULL || origin->operation == NULL || origin->operation->key != key ? NULL : origin;
}

static void find_limits(list_checker *checker) {
	for (size_t i = 0; i < checker->history->count; i++) {
		const history_transaction *transaction = &checker->history->transactions[i];

		checker->has_final = checker->has_final || transaction->status == STATUS_FINAL;
		for (size_t j = 0; j < transaction->count; j++) {
			const history_operation *operation = &transaction->operations[j];

			if (operation->key >= checker->key_limit) {
				checker->key_limit = operation->key + 1;
			}
			if (operation->kind != OPERATION_READ && operation->element >= checker->element_limit) {
				checker->element_limit = operation->element + 1;
			}
		}
	}
}

/* Whether no later operation of the transaction appends to the same key for good. */
static bool is_last_append(const history_transaction *transaction, size_t position) {
	for (size_t i = position + 1; i < transaction->count; i++) {
		if (transaction->operations[i].kind == OPERATION_APPEND &&
			transaction->operations[i].key == transaction->operations[position].key) {
			return false;
		}
	}
	return true;
}

static void note_appends(list_checker *checker, uint32_t number) {
	const history_transaction *transaction = &checker->history->transactions[number];

	for (size_t i = 0; i < transaction->count; i++) {
		const history_operation *operation = &transaction->operations[i];

		if (operation->kind != OPERATION_READ) {
			checker->origins[operation->element] = (append_origin){operation, number, is_last_append(transaction, i)};
		}
	}
}

/* Keeps the longer of two lists of a key, of which one continues the other. */
static void note_list(list_checker *checker, uint32_t number, const history_operation *read) {
	const history_operation **longest = &checker->longest[read->key];

	if (*longest == NULL || is_prefix(*longest, read)) {
		*longest = read;
	} else if (!is_prefix(read, *longest)) {
		report(checker, ANOMALY_ORDER, number, "a list of key %u does not agree with one of %zu elements that was read",
			   read->key, (*longest)->count);
	}
}

static void note_reads(list_checker *checker, uint32_t number) {
	const history_transaction *transaction = &checker->history->transactions[number];

	for (size_t i = 0; i < transaction->count; i++) {
		const history_operation *read = &transaction->operations[i];

		if (read->kind == OPERATION_READ) {
			note_list(checker, number, read);
			if (transaction->status == STATUS_FINAL) {
				checker->final_reads[read->key] = read;
			}
		}
	}
}

static bool is_committed(const history_transaction *transaction) {
	return transaction->status == STATUS_COMMITTED || transaction->status == STATUS_FINAL;
}

/* Those that committed, and those of unknown fate that left something. */
static void find_effective(list_checker *checker) {
	for (uint32_t i = 0; i < checker->history->count; i++) {
		checker->effective[i] = is_committed(&checker->history->transactions[i]);
	}
	for (uint32_t key = 0; key < checker->key_limit; key++) {
		const history_operation *list = checker->longest[key];

		for (size_t i = 0; list != NULL && i < list->count; i++) {
			const append_origin *origin = origin_of(checker, list->elements[i], key);

			if (origin != NULL && checker->history->transactions[origin->transaction].status == STATUS_UNKNOWN) {
				checker->effective[origin->transaction] = true;
			}
		}
	}
}

/* ---- Single transactions --------------------------------------------------------------------------------- */

static bool contains(const history_operation *list, uint32_t element) {
	for (size_t i = 0; i < list->count; i++) {
		if (list->elements[i] == element) {
			return true;
		}
	}
	return false;
}

/* What a transaction may expect to read of a key: an earlier list, when one binds it, and its own appends since. */
typedef struct expectation {
	const history_operation *known;
	size_t own_count; /* of the appends that have to stand at the end */
	uint32_t *own;
} expectation;

static expectation expect(const list_checker *checker, const history_transaction *transaction, size_t position) {
	const history_operation *read = &transaction->operations[position];
	expectation expected = {.own = allocate(position, sizeof(uint32_t))};
	bool appended = false;

	for (size_t i = 0; i < position; i++) {
		const history_operation *operation = &transaction->operations[i];

		if (operation->key != read->key || operation->kind == OPERATION_UNDONE) {
			continue;
		}
		if (operation->kind == OPERATION_APPEND) {
			appended = true;
			expected.own[expected.own_count++] = operation->element;
		} else if (appended || checker->level != LEVEL_READ_COMMITTED) {
			expected.known = operation; /* nobody else can have changed it since */
			expected.own_count = 0;
		}
	}
	return expected;
}

static bool meets(const history_operation *read, const expectation *expected) {
	size_t before = read->count - expected->own_count;

	if (read->count < expected->own_count ||
		(expected->own_count > 0 &&
		 memcmp(read->elements + before, expected->own, expected->own_count * sizeof(*expected->own)) != 0)) {
		return false;
	}
	return expected->known == NULL || (expected->known->count == before && is_prefix(expected->known, read));
}

static void check_internal(list_checker *checker, uint32_t number, size_t position) {
	const history_transaction *transaction = &checker->history->transactions[number];
	const history_operation *read = &transaction->operations[position];
	expectation expected = expect(checker, transaction, position);

	if (!meets(read, &expected)) {
		report(checker, ANOMALY_INTERNAL, number, "operation %zu is not what its transaction has to see", position + 1);
	}
	free(expected.own);
	for (size_t i = position + 1; i < transaction->count; i++) {
		if (transaction->operations[i].kind != OPERATION_READ && contains(read, transaction->operations[i].element)) {
			report(checker, ANOMALY_INTERNAL, number, "operation %zu sees what is appended later", position + 1);
		}
	}
}

/* Each element must have been appended to this key, by nobody who aborted, and but once. */
static void check_elements(list_checker *checker, uint32_t number, const history_operation *read) {
	for (size_t i = 0; i < read->count; i++) {
		uint32_t element = read->elements[i];
		const append_origin *origin = origin_of(checker, element, read->key);
		history_operation before = {.elements = read->elements, .count = i};

		if (origin == NULL || contains(&before, element)) {
			report(checker, ANOMALY_UNWRITTEN, number, "element %u of key %u", element, read->key);
		} else if (origin->operation->kind == OPERATION_UNDONE ||
				   (origin->transaction != number &&
					checker->history->transactions[origin->transaction].status == STATUS_ABORTED)) {
			report(checker, ANOMALY_G1A, number, "element %u of key %u, of T%u, which took it back or aborted", element,
				   read->key, origin->transaction);
		}
	}
}

static void check_last_element(list_checker *checker, uint32_t number, const history_operation *read) {
	const append_origin *origin =
		read->count == 0 ? NULL : origin_of(checker, read->elements[read->count - 1], read->key);

	if (origin != NULL && origin->transaction != number && !origin->last) {
		report(checker, ANOMALY_G1B, number, "key %u as it was in the middle of T%u", read->key, origin->transaction);
	}
}

static void check_reads(list_checker *checker, uint32_t number) {
	const history_transaction *transaction = &checker->history->transactions[number];

	for (size_t i = 0; i < transaction->count; i++) {
		if (transaction->operations[i].kind == OPERATION_READ) {
			check_internal(checker, number, i);
			check_elements(checker, number, &transaction->operations[i]);
			check_last_element(checker, number, &transaction->operations[i]);
		}
	}
}

/* Whether what the transaction appended is there at the end. */
static void check_lost(list_checker *checker, uint32_t number) {
	const history_transaction *transaction = &checker->history->transactions[number];

	for (size_t i = 0; i < transaction->count; i++) {
		const history_operation *append = &transaction->operations[i];
		const history_operation *end = checker->final_reads[append->key];

		if (append->kind == OPERATION_APPEND && (end == NULL || !contains(end, append->element))) {
			report(checker, ANOMALY_LOST, number, "element %u of key %u is not there at the end", append->element,
				   append->key);
		}
	}
}

/* ---- The graph ------------------------------------------------------------------------------------------- */

static void add_edge(list_checker *checker, uint32_t from, uint32_t to, edge_kind kind, uint32_t key) {
	size_t *counts[] = {&checker->report.ww_edges, &checker->report.wr_edges, &checker->report.rw_edges};

	if (from != to && checker->effective[from] && checker->effective[to]) {
		graph_add(&checker->graph, from, to, kind, key);
		++*counts[kind];
	}
}

static void add_version_edges(list_checker *checker, uint32_t key) {
	const history_operation *list = checker->longest[key];

	for (size_t i = 1; list != NULL && i < list->count; i++) {
		const append_origin *before = origin_of(checker, list->elements[i - 1], key);
		const append_origin *after = origin_of(checker, list->elements[i], key);

		if (before != NULL && after != NULL) {
			add_edge(checker, before->transaction, after->transaction, EDGE_WW, key);
		}
	}
}

static void add_read_edges(list_checker *checker, uint32_t number, const history_operation *read, bool with_rw) {
	const history_operation *longest = checker->longest[read->key];
	const append_origin *last =
		read->count == 0 ? NULL : origin_of(checker, read->elements[read->count - 1], read->key);
	const append_origin *next = NULL;

	if (is_prefix(read, longest) && read->count < longest->count) {
		next = origin_of(checker, longest->elements[read->count], read->key);
	}
	if (last != NULL) {
		add_edge(checker, last->transaction, number, EDGE_WR, read->key);
	}
	if (with_rw && next != NULL) {
		add_edge(checker, number, next->transaction, EDGE_RW, read->key);
	}
}

/* Whether it is one statement that reads. */
static bool is_single_read(const history_transaction *transaction) {
	for (size_t i = 0; i < transaction->count; i++) {
		if (transaction->operations[i].kind != OPERATION_READ ||
			(i > 0 && !transaction->operations[i].same_statement)) {
			return false;
		}
	}
	return true;
}

static void add_transaction_edges(list_checker *checker, uint32_t number) {
	const history_transaction *transaction = &checker->history->transactions[number];
	bool with_rw = checker->level != LEVEL_READ_COMMITTED || is_single_read(transaction);

	for (size_t i = 0; i < transaction->count; i++) {
		if (transaction->operations[i].kind == OPERATION_READ) {
			add_read_edges(checker, number, &transaction->operations[i], with_rw);
		}
	}
}

static const list_history *sorted_history; /* qsort has no argument */

static int compare_ends(const void *a, const void *b) {
	int64_t left = sorted_history->transactions[*(const uint32_t *)a].end_us;
	int64_t right = sorted_history->transactions[*(const uint32_t *)b].end_us;

	return (left > right) - (left < right);
}

static int compare_begins(const void *a, const void *b) {
	int64_t left = sorted_history->transactions[*(const uint32_t *)a].begin_us;
	int64_t right = sorted_history->transactions[*(const uint32_t *)b].begin_us;

	return (left > right) - (left < right);
}

/*
 * That one ended before another began: an edge for each pair would be too many. So each end is a node, `count` above its
 * transaction's, the ends are a chain in their order, and each transaction comes after the last end before it.
 */
static void add_time_edges(list_checker *checker) {
	uint32_t count = (uint32_t)checker->history->count;
	uint32_t *by_end = allocate(count, sizeof(*by_end));
	uint32_t *by_begin = allocate(count, sizeof(*by_begin));
	uint32_t ended = 0;
	uint32_t last = UINT32_MAX;

	for (uint32_t i = 0; i < count; i++) {
		by_end[i] = by_begin[i] = i;
	}
	sorted_history = checker->history;
	qsort(by_end, count, sizeof(*by_end), compare_ends);
	qsort(by_begin, count, sizeof(*by_begin), compare_begins);
	for (uint32_t i = 0; i < count; i++) {
		const history_transaction *beginning = &checker->history->transactions[by_begin[i]];

		for (; ended < count && checker->history->transactions[by_end[ended]].end_us < beginning->begin_us; ended++) {
			uint32_t end = by_end[ended];

			if (!is_committed(&checker->history->transactions[end])) {
				continue; /* it was not told when it committed, if it did */
			}
			graph_add(&checker->graph, end, count + end, EDGE_RT, 0);
			if (last != UINT32_MAX) {
				graph_add(&checker->graph, last, count + end, EDGE_RT, 0);
			}
			last = count + end;
		}
		if (last != UINT32_MAX && checker->effective[by_begin[i]]) {
			graph_add(&checker->graph, last, by_begin[i], EDGE_RT, 0);
		}
	}
	free(by_end);
	free(by_begin);
}

static void build_graph(list_checker *checker) {
	for (uint32_t key = 0; key < checker->key_limit; key++) {
		add_version_edges(checker, key);
	}
	for (uint32_t i = 0; i < checker->history->count; i++) {
		if (checker->effective[i]) {
			add_transaction_edges(checker, i);
		}
	}
	add_time_edges(checker);
	checker->graph.node_count = (uint32_t)checker->history->count * 2;
	graph_finish(&checker->graph);
}

/* ---- Cycles ---------------------------------------------------------------------------------------------- */

typedef struct cycle_report {
	list_checker *checker;
	anomaly kind;       /* as it is when the cycle has no rw */
	bool adjacent_only; /* others were looked for before */
} cycle_report;

static size_t rw_of(const graph_edge **edges, size_t count, bool *adjacent) {
	size_t found = 0;

	*adjacent = false;
	for (size_t i = 0; i < count; i++) {
		if (edges[i]->kind == EDGE_RW) {
			found++;
			*adjacent = *adjacent || edges[(i + 1) % count]->kind == EDGE_RW;
		}
	}
	return found;
}

static void explain_cycle(list_checker *checker, anomaly kind, const graph_edge **edges, size_t count) {
	uint32_t transactions = (uint32_t)checker->history->count;

	fprintf(checker->details, "%s:", anomaly_names[kind]);
	for (size_t i = 0; i < count; i++) {
		if (edges[i]->from < transactions && edges[i]->kind == EDGE_RT) {
			fprintf(checker->details, " T%u ended before", edges[i]->from);
		} else if (edges[i]->from < transactions) {
			fprintf(checker->details, " T%u %s(key %u)", edges[i]->from, edge_names[edges[i]->kind], edges[i]->key);
		}
	}
	fputs(", and round again\n", checker->details);
	for (size_t i = 0; i < count; i++) {
		if (edges[i]->from < transactions) {
			print_transaction(checker, edges[i]->from);
		}
	}
}

static void report_cycle(void *argument, const graph_edge **edges, size_t count) {
	cycle_report *cycle = argument;
	bool adjacent;
	size_t rw = rw_of(edges, count, &adjacent);
	anomaly kind = cycle->kind;

	if (cycle->adjacent_only && (rw < 2 || !adjacent)) {
		return;
	}
	if (rw > 0) {
		kind = rw == 1 ? ANOMALY_G_SINGLE : adjacent ? ANOMALY_G2 : ANOMALY_G_NONADJACENT;
	}
	if (count_finding(cycle->checker, kind)) {
		explain_cycle(cycle->checker, kind, edges, count);
	}
}

#define KIND(kind) (1u << (kind))

static void find_cycles(list_checker *checker) {
	static const struct {
		anomaly kind;
		cycle_search search;
	} passes[] = {
		{ANOMALY_G0, {KIND(EDGE_WW) | KIND(EDGE_RT), EDGE_WW, false}},
		{ANOMALY_G1C, {KIND(EDGE_WW) | KIND(EDGE_WR) | KIND(EDGE_RT), EDGE_WR, false}},
		{ANOMALY_G_SINGLE, {KIND(EDGE_WW) | KIND(EDGE_WR) | KIND(EDGE_RW) | KIND(EDGE_RT), EDGE_RW, true}},
		{ANOMALY_G2, {KIND(EDGE_WW) | KIND(EDGE_WR) | KIND(EDGE_RW), EDGE_RW, false}},
	};
	size_t count = sizeof(passes) / sizeof(*passes) - (checker->level == LEVEL_SERIALIZABLE ? 0 : 1);

	for (size_t i = 0; i < count; i++) {
		cycle_report cycle = {checker, passes[i].kind, passes[i].kind == ANOMALY_G2};

		graph_search(&checker->graph, &passes[i].search, report_cycle, &cycle);
	}
}

/* ---- All of it ------------------------------------------------------------------------------------------- */

static void prepare(list_checker *checker) {
	find_limits(checker);
	checker->origins = allocate(checker->element_limit, sizeof(*checker->origins));
	checker->longest = allocate(checker->key_limit, sizeof(const history_operation *));
	checker->final_reads = allocate(checker->key_limit, sizeof(const history_operation *));
	checker->effective = allocate(checker->history->count, sizeof(bool));
	for (uint32_t i = 0; i < checker->history->count; i++) {
		note_appends(checker, i);
		if (is_committed(&checker->history->transactions[i])) {
			note_reads(checker, i);
		}
	}
	find_effective(checker);
	for (uint32_t i = 0; i < checker->history->count; i++) {
		if (checker->effective[i] && !is_committed(&checker->history->transactions[i])) {
			note_reads(checker, i);
		}
	}
}

check_report check_history(const list_history *history, isolation_level level, FILE *details) {
	list_checker checker = {.history = history, .level = level, .details = details};

	prepare(&checker);
	for (uint32_t i = 0; i < history->count; i++) {
		check_reads(&checker, i);
		if (checker.has_final && checker.effective[i]) {
			check_lost(&checker, i);
		}
	}
	build_graph(&checker);
	find_cycles(&checker);
	graph_free(&checker.graph);
	free(checker.origins);
	free(checker.longest);
	free(checker.final_reads);
	free(checker.effective);
	return checker.report;
}
