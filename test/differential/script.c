#include "script.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

static char *next_name(const diff_script *of, int session) {
	text name = {0};
	int number = 0;

	for (int i = 0; i < of->step_count; i++) {
		number += of->steps[i].session == session;
	}
	text_add(&name, "%d", session + 1);
	if (number >= 26) {
		text_add(&name, "%c", 'a' + number / 26 - 1);
	}
	text_add(&name, "%c", 'a' + number % 26);
	return text_take(&name);
}

void script_add_step(diff_script *to, int session, const char *name, const char *sql) {
	script_step *step;

	if (to->step_count == MAX_STEPS) {
		fail("%s: more than %d steps", to->name, MAX_STEPS);
	}
	if (session < 0 || session >= MAX_SESSIONS) {
		fail("%s: session %d: they are numbered from 1 to %d", to->name, session + 1, MAX_SESSIONS);
	}
	step = &to->steps[to->step_count];
	step->session = session;
	step->name = name != NULL ? copy_string(name) : next_name(to, session);
	step->patient = sql[0] == '!';
	step->sql = copy_string(step->patient ? sql + 1 : sql);
	to->step_count++;
}

void script_copy_step(diff_script *to, const script_step *step) {
	script_add_step(to, step->session, step->name, step->sql);
	to->steps[to->step_count - 1].patient = step->patient;
}

void script_copy_frame(diff_script *to, const diff_script *from) {
	*to = (diff_script){.name = copy_string(from->name)};
	text_list_copy(&to->schema, &from->schema);
	text_list_copy(&to->setup, &from->setup);
}

void script_copy(diff_script *to, const diff_script *from) {
	script_copy_frame(to, from);
	for (int i = 0; i < from->step_count; i++) {
		script_copy_step(to, &from->steps[i]);
	}
}

void script_free(diff_script *script) {
	free(script->name);
	text_list_free(&script->schema);
	text_list_free(&script->setup);
	for (int i = 0; i < script->step_count; i++) {
		free(script->steps[i].name);
		free(script->steps[i].sql);
	}
	script->step_count = 0;
}

/* One entry, its further lines indented. */
static void print_entry(text *to, const char *kind, const char *mark, const char *content) {
	text_add(to, "%s%s%s", kind, kind[0] != '\0' ? " " : "", mark);
	for (const char *at = content; *at != '\0'; at++) {
		text_add(to, *at == '\n' ? "%c\t" : "%c", *at);
	}
	text_add(to, "\n");
}

void script_print(const diff_script *script, text *to) {
	print_entry(to, "test", "", script->name);
	for (int i = 0; i < script->schema.count; i++) {
		print_entry(to, "", "", script->schema.items[i]);
	}
	for (int i = 0; i < script->setup.count; i++) {
		print_entry(to, "setup", "", script->setup.items[i]);
	}
	for (int session = 0; session < MAX_SESSIONS; session++) {
		for (int i = 0; i < script->step_count; i++) {
			const script_step *step = &script->steps[i];

			if (step->session == session) {
				print_entry(to, step->name, step->patient ? "!" : "", step->sql);
			}
		}
	}
	text_add(to, "order");
	for (int i = 0; i < script->step_count; i++) {
		text_add(to, " %s", script->steps[i].name);
	}
	text_add(to, "\n");
}

void script_tables(const diff_script *script, text_list *to) {
	for (int i = 0; i < script->schema.count; i++) {
		const char *entry = script->schema.items[i];
		const char *name = strchr(entry, ' ');
		size_t length;

		if (name == NULL || (!starts_with(entry, "table ") && !starts_with(entry, "heap "))) {
			continue;
		}
		name += strspn(name, " ");
		length = strcspn(name, " (\n");
		text_list_add(to, strndup(name, length));
	}
}
