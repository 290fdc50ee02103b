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
	} else if (strcmp(word, "choice") == 0) {
		text_list_add(&test->choices, copy_string(rest));
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
		text_add(&entry, "%s", line + (isblank((unsigned char)line[0]) ? 1 : 0));
	}
	end_entry(&reader, &entry);
	free(line);
	fclose(file);
}

void corpus_free(diff_corpus *corpus) {
	for (int i = 0; i < corpus->count; i++) {
		script_free(&corpus->tests[i].script);
		text_list_free(&corpus->tests[i].needs);
		text_list_free(&corpus->tests[i].choices);
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

static bool is_all(const char *order) {
	return strcmp(order, "all") == 0;
}

static double count_orders(interleaving *state, const text_list *orders) {
	double count = 0;

	for (int i = 0; i < orders->count; i++) {
		start_interleaving(state);
		count += is_all(orders->items[i]) ? count_interleavings(state) : 1;
	}
	return count;
}

/* ---- Choices --------------------------------------------------------------------------------------------- */

/* One of a test's choices: what stands for a name. */
typedef struct choice {
	char *name;
	text_list alternatives;
} choice;

static void parse_choice(const char *entry, choice *parsed) {
	size_t length = strcspn(entry, " ");
	const char *at = entry + length + strspn(entry + length, " ");
	const char *end;

	parsed->name = strndup(entry, length);
	parsed->alternatives = (text_list){0};
	while ((end = strstr(at, " | ")) != NULL) {
		text_list_add(&parsed->alternatives, strndup(at, (size_t)(end - at)));
		at = end + strlen(" | ");
	}
	text_list_add(&parsed->alternatives, copy_string(at));
}

static void free_choice(choice *parsed) {
	free(parsed->name);
	text_list_free(&parsed->alternatives);
}

static void replace_name(char **sql, const char *name, const char *by) {
	text replaced = {0};
	size_t length = strlen(name);
	const char *rest = *sql;
	const char *at;

	while ((at = strchr(rest, '{')) != NULL) {
		bool found = strncmp(at + 1, name, length) == 0 && at[length + 1] == '}';

		text_add_bytes(&replaced, rest, (size_t)(at - rest));
		text_add(&replaced, "%s", found ? by : "{");
		rest = at + (found ? length + 2 : 1);
	}
	text_add(&replaced, "%s", rest);
	free(*sql);
	*sql = text_take(&replaced);
}

/* The script with the choices of a number below count_choices(). */
static void copy_chosen(diff_script *to, const corpus_test *test, unsigned number) {
	script_copy(to, &test->script);
	for (int i = 0; i < test->choices.count; i++) {
		choice parsed;
		unsigned count;

		parse_choice(test->choices.items[i], &parsed);
		count = (unsigned)parsed.alternatives.count;
		for (int step = 0; step < to->step_count; step++) {
			replace_name(&to->steps[step].sql, parsed.name, parsed.alternatives.items[number % count]);
		}
		number /= count;
		free_choice(&parsed);
	}
}

static unsigned count_choices(const corpus_test *test) {
	unsigned count = 1;

	for (int i = 0; i < test->choices.count; i++) {
		choice parsed;

		parse_choice(test->choices.items[i], &parsed);
		count *= (unsigned)parsed.alternatives.count;
		free_choice(&parsed);
	}
	return count;
}

/* ---- Scripts of a test ----------------------------------------------------------------------------------- */

static void visit_every(const corpus_test *test, interleaving *state, unsigned choices) {
	for (unsigned number = 0; number < choices; number++) {
		diff_script chosen;

		copy_chosen(&chosen, test, number);
		state->source = &chosen;
		for (int i = 0; i < test->orders.count; i++) {
			if (is_all(test->orders.items[i])) {
				start_interleaving(state);
				visit_all(state);
			} else {
				visit_given(state, test->orders.items[i]);
			}
		}
		state->source = &test->script;
		script_free(&chosen);
	}
}

static void visit_drawn(const corpus_test *test, interleaving *state, unsigned choices, test_random *random) {
	const char *order = test->orders.items[test_random_below(random, (uint64_t)test->orders.count)];
	diff_script chosen;

	copy_chosen(&chosen, test, (unsigned)test_random_below(random, choices));
	state->source = &chosen;
	if (is_all(order)) {
		visit_random(state, random);
	} else {
		visit_given(state, order);
	}
	state->source = &test->script;
	script_free(&chosen);
}

void corpus_each_script(const corpus_test *test, unsigned limit, test_random *random, corpus_visit visit,
						void *context) {
	interleaving state = {.source = &test->script, .visit = visit, .context = context};
	unsigned choices = count_choices(test);

	if (test->orders.count == 0) {
		fail("%s: no order", test->script.name);
	}
	if (choices * count_orders(&state, &test->orders) <= limit) {
		visit_every(test, &state, choices);
		return;
	}
	for (unsigned drawn = 0; drawn < limit; drawn++) {
		visit_drawn(test, &state, choices, random);
	}
}
