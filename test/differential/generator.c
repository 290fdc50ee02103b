#include "generator.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "random.h"

#define MAX_RULES 128
#define MAX_ALTERNATIVES 64
#define MAX_FAMILIES 16
#define MAX_DEPTH 30
#define SEEDS_OF_A_FAMILY 32 /* neighbours share their tables, which need not be made anew then */
#define FEWEST_KEYS 3
#define MOST_KEYS 6
#define FIRST_FRESH 100

typedef struct alternative {
	unsigned weight;
	char *text;
} alternative;

typedef struct diff_rule {
	char *name;
	alternative alternatives[MAX_ALTERNATIVES];
	int count;
} diff_rule;

typedef struct diff_family {
	diff_script frame;
	unsigned weight;
	char *program;
} diff_family;

struct diff_generator {
	const char *path;
	const text_list *features_off;
	diff_rule rules[MAX_RULES];
	int rule_count;
	diff_family families[MAX_FAMILIES];
	int family_count;
};

/* ---- Reading --------------------------------------------------------------------------------------------- */

static void add_rule(diff_generator *to, const char *name) {
	if (to->rule_count == MAX_RULES) {
		fail("%s: more than %d rules", to->path, MAX_RULES);
	}
	to->rules[to->rule_count++].name = copy_string(name);
}

/* An alternative of the last rule: WEIGHT [FEATURE] TEXT. */
static void add_alternative(diff_generator *to, const char *line) {
	diff_rule *rule = &to->rules[to->rule_count - 1];
	char *rest;
	unsigned weight = (unsigned)strtoul(line, &rest, 10);
	char feature[32];
	int length = 0;

	rest += strspn(rest, " \t");
	if (sscanf(rest, "[%31[a-z]] %n", feature, &length) == 1 && length > 0) {
		if (text_list_has(to->features_off, feature)) {
			return;
		}
		rest += length;
	}
	if (to->rule_count == 0 || weight == 0 || rest[0] == '\0' || rule->count == MAX_ALTERNATIVES) {
		fail("%s: not an alternative of a rule, or one too many: %s", to->path, line);
	}
	rule->alternatives[rule->count++] = (alternative){.weight = weight, .text = copy_string(rest)};
}

static void add_family(diff_generator *to, const char *rest) {
	char name[32];
	unsigned weight;

	if (to->family_count == MAX_FAMILIES || sscanf(rest, "%31s %u", name, &weight) != 2) {
		fail("%s: not a family, or one too many: %s", to->path, rest);
	}
	to->families[to->family_count++] = (diff_family){.weight = weight, .frame.name = copy_string(name)};
}

static void take_entry(diff_generator *to, const char *entry) {
	diff_family *family = to->family_count > 0 ? &to->families[to->family_count - 1] : NULL;
	const char *rest = entry + strcspn(entry, " ");

	rest += strspn(rest, " ");
	if (starts_with(entry, "rule ")) {
		add_rule(to, rest);
	} else if (starts_with(entry, "family ")) {
		add_family(to, rest);
	} else if (family == NULL) {
		fail("%s: not known, or outside a family: %s", to->path, entry);
	} else if (starts_with(entry, "setup ")) {
		text_list_add(&family->frame.setup, copy_string(rest));
	} else if (starts_with(entry, "needs ")) {
		family->weight = text_list_has(to->features_off, rest) ? 0 : family->weight;
	} else if (starts_with(entry, "program ")) {
		family->program = copy_string(rest);
	} else {
		text_list_add(&family->frame.schema, copy_string(entry));
	}
}

static void end_entry(diff_generator *to, text *entry) {
	text_trim(entry);
	if (entry->size > 0) {
		take_entry(to, text_get(entry));
	}
	text_free(entry);
}

diff_generator *generator_read(const char *path, const text_list *features_off) {
	diff_generator *made = allocate(1, sizeof(*made));
	FILE *file = fopen(path, "r");
	text entry = {0};
	char *line = NULL;
	size_t capacity = 0;

	if (file == NULL) {
		fail("cannot read %s", path);
	}
	made->path = path;
	made->features_off = features_off;
	while (getline(&line, &capacity, file) >= 0) {
		const char *content = line + strspn(line, " \t");

		if (line[0] == '#' || (content[0] == '\n' && content != line)) {
			continue;
		}
		if (content == line) {
			end_entry(made, &entry);
		}
		if (content != line && isdigit((unsigned char)content[0])) {
			end_entry(made, &entry);
			line[strcspn(line, "\n")] = '\0';
			add_alternative(made, content);
			continue;
		}
		text_add(&entry, "%s", line + (content != line ? 1 : 0));
	}
	end_entry(made, &entry);
	free(line);
	fclose(file);
	return made;
}

void generator_free(diff_generator *generator) {
	for (int i = 0; i < generator->rule_count; i++) {
		for (int j = 0; j < generator->rules[i].count; j++) {
			free(generator->rules[i].alternatives[j].text);
		}
		free(generator->rules[i].name);
	}
	for (int i = 0; i < generator->family_count; i++) {
		script_free(&generator->families[i].frame);
		free(generator->families[i].program);
	}
	free(generator);
}

/* ---- Drawing --------------------------------------------------------------------------------------------- */

typedef struct drawing {
	const diff_generator *generator;
	test_random random;
	unsigned keys;
	unsigned fresh;
	int session;
} drawing;

static void expand(drawing *state, const char *form, int depth, text *to);

static const char *draw_alternative(drawing *state, const char *name, size_t length) {
	const diff_generator *generator = state->generator;
	const diff_rule *rule = NULL;
	unsigned total = 0;
	unsigned drawn;

	for (int i = 0; i < generator->rule_count; i++) {
		if (strlen(generator->rules[i].name) == length && strncmp(generator->rules[i].name, name, length) == 0) {
			rule = &generator->rules[i];
		}
	}
	for (int i = 0; rule != NULL && i < rule->count; i++) {
		total += rule->alternatives[i].weight;
	}
	if (total == 0) {
		fail("%s: no rule {%.*s}, or none of its alternatives is left", generator->path, (int)length, name);
	}
	drawn = (unsigned)test_random_below(&state->random, total);
	for (int i = 0;; i++) {
		if (drawn < rule->alternatives[i].weight) {
			return rule->alternatives[i].text;
		}
		drawn -= rule->alternatives[i].weight;
	}
}

static bool expand_builtin(drawing *state, const char *name, size_t length, text *to) {
	if (length == 3 && strncmp(name, "key", length) == 0) {
		text_add(to, "%u", 1 + (unsigned)test_random_below(&state->random, state->keys));
	} else if (length == 4 && strncmp(name, "keys", length) == 0) {
		text_add(to, "%u", state->keys);
	} else if (length == 5 && strncmp(name, "small", length) == 0) {
		text_add(to, "%u", (unsigned)test_random_below(&state->random, 10));
	} else if (length == 5 && strncmp(name, "fresh", length) == 0) {
		text_add(to, "%u", state->fresh++);
	} else if (length == 7 && strncmp(name, "session", length) == 0) {
		text_add(to, "%d", state->session + 1);
	} else {
		return false;
	}
	return true;
}

static void expand(drawing *state, const char *form, int depth, text *to) {
	if (depth > MAX_DEPTH) {
		fail("%s: rules that go on for ever: %s", state->generator->path, form);
	}
	while (*form != '\0') {
		size_t plain = strcspn(form, "{");
		size_t length;

		text_add_bytes(to, form, plain);
		form += plain;
		if (*form == '\0') {
			break;
		}
		length = strcspn(++form, "}");
		if (!expand_builtin(state, form, length, to)) {
			expand(state, draw_alternative(state, form, length), depth + 1, to);
		}
		form += length + (form[length] == '}');
	}
}

static const diff_family *draw_family(const diff_generator *generator, uint64_t seed) {
	test_random random = {.state = seed / SEEDS_OF_A_FAMILY};
	unsigned total = 0;
	unsigned drawn;

	for (int i = 0; i < generator->family_count; i++) {
		total += generator->families[i].weight;
	}
	if (total == 0) {
		fail("%s: no family", generator->path);
	}
	drawn = (unsigned)test_random_below(&random, total);
	for (const diff_family *family = generator->families;; family++) {
		if (drawn < family->weight) {
			return family;
		}
		drawn -= family->weight;
	}
}

/* The steps of a session, as one text each. */
static void draw_program(drawing *state, const diff_family *family, text_list *steps) {
	text program = {0};
	char *at;
	char *next;

	expand(state, family->program, 0, &program);
	for (at = program.data; at != NULL; at = next) {
		next = strstr(at, " ;; ");
		if (next != NULL) {
			*next = '\0';
			next += 4;
		}
		text_list_add(steps, copy_string(at));
	}
	text_free(&program);
}

/* Each interleaving is as likely as any other. */
static void interleave(drawing *state, text_list *programs, int sessions, diff_script *script) {
	int taken[MAX_SESSIONS] = {0};
	int left = 0;

	for (int session = 0; session < sessions; session++) {
		left += programs[session].count;
	}
	while (left > 0 && script->step_count < MAX_STEPS) {
		int drawn = (int)test_random_below(&state->random, (uint64_t)left);
		int session = 0;

		while (drawn >= programs[session].count - taken[session]) {
			drawn -= programs[session].count - taken[session];
			session++;
		}
		script_add_step(script, session, NULL, programs[session].items[taken[session]++]);
		left--;
	}
}

void generator_draw(const diff_generator *generator, uint64_t seed, diff_script *script) {
	const diff_family *family = draw_family(generator, seed);
	drawing state = {.generator = generator, .random.state = seed, .fresh = FIRST_FRESH};
	text_list programs[MAX_SESSIONS] = {0};
	text name = {0};
	int sessions;

	*script = (diff_script){0};
	text_add(&name, "%s-%llu", family->frame.name, (unsigned long long)seed);
	script->name = text_take(&name);
	text_list_copy(&script->schema, &family->frame.schema);
	state.keys = FEWEST_KEYS + (unsigned)test_random_below(&state.random, MOST_KEYS - FEWEST_KEYS + 1);
	for (int i = 0; i < family->frame.setup.count; i++) {
		text setup = {0};

		expand(&state, family->frame.setup.items[i], 0, &setup);
		text_list_add(&script->setup, text_take(&setup));
	}
	sessions = 2 + (int)test_random_below(&state.random, MAX_SESSIONS - 2);
	for (int session = 0; session < sessions; session++) {
		state.session = session;
		draw_program(&state, family, &programs[session]);
	}
	interleave(&state, programs, sessions, script);
	for (int session = 0; session < sessions; session++) {
		text_list_free(&programs[session]);
	}
}
