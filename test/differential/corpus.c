#include "corpus.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- Reading --------------------------------------------------------------------------------------------- */

typedef struct diff_reader {
	const char *path;
	int line;
	diff_corpus *corpus;
} diff_reader;

static corpus_test *add_test(diff_corpus *to) {
	to->tests = realloc(to->tests, ((size_t)to->count + 1) * sizeof(*to->tests));
	if (to->tests == NULL) {
		fail("out of memory");
	}
	to->tests[to->count] = (corpus_test){0};
	return &to->tests[to->count++];
}

static bool is_step_name(const char *word) {
	return isdigit((unsigned char)word[0]) && islower((unsigned char)word[1]);
}

static bool is_schema_entry(const char *word) {
	return strcmp(word, "table") == 0 || strcmp(word, "heap") == 0 || strcmp(word, "create") == 0 ||
		   strcmp(word, "alter") == 0;
}

/* One entry with its continuation lines. */
static void take_entry(const diff_reader *reader, const char *entry) {
	diff_corpus *corpus = reader->corpus;
	corpus_test *test = corpus->count > 0 ? &corpus->tests[corpus->count - 1] : NULL;
	size_t length = strcspn(entry, " \t\n");
	char *word = strndup(entry, length);
	const char *rest = entry + length + strspn(entry + length, " \t\n");

	if (strcmp(word, "test") == 0) {
		add_test(corpus)->script.name = copy_string(rest);
	} else if (test == NULL) {
		fail("%s:%d: a file begins with \"test NAME\"", reader->path, reader->line);
	} else if (strcmp(word, "needs") == 0) {
		text_list_split(&test->needs, rest, " ");
	} else if (strcmp(word, "order") == 0) {
		text_list_add(&test->orders, copy_string(rest));
	} else if (strcmp(word, "setup") == 0) {
		text_list_add(&test->script.setup, copy_string(rest));
	} else if (is_schema_entry(word)) {
		text_list_add(&test->script.schema, copy_string(entry));
	} else if (is_step_name(word)) {
		script_add_step(&test->script, word[0] - '1', word, rest);
	} else {
		fail("%s:%d: \"%s\" begins no entry", reader->path, reader->line, word);
	}
	free(word);
}

static void end_entry(const diff_reader *reader, text *entry) {
	text_trim(entry);
	if (entry->size > 0) {
		take_entry(reader, text_get(entry));
	}
	text_free(entry);
}

void corpus_read(diff_corpus *to, const char *path) {
	diff_reader reader = {.path = path, .corpus = to};
	FILE *file = fopen(path, "r");
	text entry = {0};
	char *line = NULL;
	size_t capacity = 0;

	if (file == NULL) {
		fail("cannot read %s", path);
	}
	while (getline(&line, &capacity, file) >= 0) {
		reader.line++;
		if (line[0] == '#') {
			continue;
		}
		if (!isspace((unsigned char)line[0])) {
			end_entry(&reader, &entry);
		}
		text_add(&entry, "%s", line + strspn(line, " \t"));
	}
	end_entry(&reader, &entry);
	free(line);
	fclose(file);
}

void corpus_free(diff_corpus *corpus) {
	for (int i = 0; i < corpus->count; i++) {
		script_free(&corpus->tests[i].script);
		text_list_free(&corpus->tests[i].needs);
		text_list_free(&corpus->tests[i].orders);
	}
	free(corpus->tests);
	*corpus = (diff_corpus){0};
}

/* ---- Orders ---------------------------------------------------------------------------------------------- */

typedef struct interleaving {
	const diff_script *source;
	int position[MAX_SESSIONS]; /* index of the next step of each session */
	int left[MAX_SESSIONS];
	int order[MAX_STEPS];
	int length;
	corpus_visit visit;
	void *context;
} interleaving;

static int next_of(const diff_script *source, int session, int from) {
	while (from < source->step_count && source->steps[from].session != session) {
		from++;
	}
	return from;
}

static void start_interleaving(interleaving *state) {
	for (int session = 0; session < MAX_SESSIONS; session++) {
		state->position[session] = next_of(state->source, session, 0);
		state->left[session] = 0;
		for (int i = 0; i < state->source->step_count; i++) {
			state->left[session] += state->source->steps[i].session == session;
		}
	}
	state->length = 0;
}

static void visit_order(const interleaving *state) {
	diff_script permuted;

	script_copy_frame(&permuted, state->source);
	for (int i = 0; i < state->length; i++) {
		script_copy_step(&permuted, &state->source->steps[state->order[i]]);
	}
	state->visit(&permuted, state->context);
	script_free(&permuted);
}

static void take_step(interleaving *state, int session) {
	state->order[state->length++] = state->position[session];
	state->position[session] = next_of(state->source, session, state->position[session] + 1);
	state->left[session]--;
}

static void give_step_back(interleaving *state, int session) {
	state->position[session] = state->order[--state->length];
	state->left[session]++;
}

static void visit_all(interleaving *state) {
	if (state->length == state->source->step_count) {
		visit_order(state);
		return;
	}
	for (int session = 0; session < MAX_SESSIONS; session++) {
		if (state->left[session] > 0) {
			take_step(state, session);
			visit_all(state);
			give_step_back(state, session);
		}
	}
}

/* Each interleaving is as likely as any other. */
static void visit_random(interleaving *state, test_random *random) {
	start_interleaving(state);
	while (state->length < state->source->step_count) {
		int drawn = (int)test_random_below(random, (uint64_t)(state->source->step_count - state->length));
		int session = 0;

		while (drawn >= state->left[session]) {
			drawn -= state->left[session++];
		}
		take_step(state, session);
	}
	visit_order(state);
}

static double count_interleavings(const interleaving *state) {
	double count = 1;
	int length = 0;

	for (int session = 0; session < MAX_SESSIONS; session++) {
		for (int i = 1; i <= state->left[session]; i++) {
			count = count * ++length / i;
		}
	}
	return count;
}

static void visit_given(interleaving *state, const char *order) {
	text_list names = {0};

	state->length = 0;
	text_list_split(&names, order, " \t\n");
	for (int i = 0; i < names.count; i++) {
		int step = 0;

		while (step < state->source->step_count && strcmp(state->source->steps[step].name, names.items[i]) != 0) {
			step++;
		}
		if (step == state->source->step_count || state->length == MAX_STEPS) {
			fail("%s: order: no step %s, or too many", state->source->name, names.items[i]);
		}
		state->order[state->length++] = step;
	}
	text_list_free(&names);
	visit_order(state);
}

void corpus_each_order(const corpus_test *test, unsigned limit, test_random *random, corpus_visit visit,
					   void *context) {
	interleaving state = {.source = &test->script, .visit = visit, .context = context};

	for (int i = 0; i < test->orders.count; i++) {
		if (strcmp(test->orders.items[i], "all") != 0) {
			visit_given(&state, test->orders.items[i]);
			continue;
		}
		start_interleaving(&state);
		if (count_interleavings(&state) <= limit) {
			visit_all(&state);
			continue;
		}
		for (unsigned drawn = 0; drawn < limit; drawn++) {
			visit_random(&state, random);
		}
	}
}
