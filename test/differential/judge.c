#define _GNU_SOURCE 1

#include "judge.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define RUNS_TO_CONFIRM 4
#define MAX_SHRINKING_RUNS 200

/* ---- Known differences ----------------------------------------------------------------------------------- */

static char **known_field(known_difference *known, const char *keyword) {
	return strcmp(keyword, "ran") == 0          ? &known->ran
		   : strcmp(keyword, "others-ran") == 0 ? &known->others_ran
		   : strcmp(keyword, "waited-for") == 0 ? &known->waited_for
		   : strcmp(keyword, "reason") == 0     ? &known->reason
												: NULL;
}

static void take_known_line(diff_judge *to, const char *path, const char *keyword, const char *rest) {
	char **place;

	if (strcmp(keyword, "known") == 0) {
		to->known = realloc(to->known, ((size_t)to->known_count + 1) * sizeof(*to->known));
		if (to->known == NULL) {
			fail("out of memory");
		}
		to->known[to->known_count++] = (known_difference){.name = copy_string(rest)};
		return;
	}
	place = to->known_count > 0 ? known_field(&to->known[to->known_count - 1], keyword) : NULL;
	if (place == NULL || *place != NULL) {
		fail("%s: not expected: %s %s", path, keyword, rest);
	}
	*place = copy_string(rest);
}

void judge_read_known(diff_judge *judge, const char *path) {
	FILE *file = fopen(path, "r");
	char *line = NULL;
	size_t capacity = 0;

	if (file == NULL) {
		fail("cannot read %s", path);
	}
	while (getline(&line, &capacity, file) >= 0) {
		char *rest;

		line[strcspn(line, "\n")] = '\0';
		if (line[0] == '#' || line[0] == '\0') {
			continue;
		}
		rest = line + strcspn(line, " ");
		if (*rest != '\0') {
			*rest++ = '\0';
		}
		take_known_line(judge, path, line, rest);
	}
	free(line);
	fclose(file);
	for (int i = 0; i < judge->known_count; i++) {
		const known_difference *known = &judge->known[i];

		if (known->reason == NULL || (known->ran == NULL && known->others_ran == NULL && known->waited_for == NULL)) {
			fail("%s: %s: a condition and a reason are needed", path, known->name);
		}
	}
}

/* What an outcome says about one session. */
static char *part_of(const char *outcome, int session) {
	text part = {0};
	bool wanted = false;

	while (*outcome != '\0') {
		size_t length = strcspn(outcome, "\n");

		if (isdigit((unsigned char)outcome[0])) {
			wanted = outcome[0] - '1' == session;
		}
		if (wanted) {
			text_add_bytes(&part, outcome, length);
			text_add(&part, "\n");
		}
		outcome += length;
		outcome += *outcome == '\n';
	}
	return text_take(&part);
}

/* Bits of the sessions that get something else; of all when it is something else that differs. */
static unsigned differing_sessions(const diff_judgement *of) {
	unsigned differing = 0;

	for (int session = 0; session < MAX_SESSIONS; session++) {
		char *left = part_of(of->left.events[of->event].outcome, session);
		char *right = part_of(of->right.events[of->event].outcome, session);

		differing |= strcmp(left, right) != 0 ? 1u << session : 0;
		free(left);
		free(right);
	}
	return differing != 0 ? differing : (1u << MAX_SESSIONS) - 1;
}

static bool is_run_by(const diff_script *script, unsigned sessions, const char *fragment) {
	for (int i = 0; i < script->step_count; i++) {
		if ((sessions & 1u << script->steps[i].session) != 0 && strstr(script->steps[i].sql, fragment) != NULL) {
			return true;
		}
	}
	return false;
}

/* Whether these sessions have run all fragments of a condition, which are separated by &. NULL is no condition. */
static bool have_run(const diff_script *script, unsigned sessions, const char *condition) {
	text_list fragments = {0};
	bool all = true;

	text_list_split(&fragments, condition != NULL ? condition : "", "&");
	for (int i = 0; i < fragments.count; i++) {
		all = all && is_run_by(script, sessions, fragments.items[i]);
	}
	text_list_free(&fragments);
	return all;
}

static bool explains(const known_difference *known, const diff_script *script, const diff_judgement *judgement) {
	unsigned differing = differing_sessions(judgement);

	for (int session = 0; session < MAX_SESSIONS; session++) {
		unsigned bit = 1u << session;
		unsigned waited_for = judgement->left.waited_for[session] | judgement->right.waited_for[session];

		if ((differing & bit) != 0 &&
			(!have_run(script, bit, known->ran) || !have_run(script, ~bit, known->others_ran) ||
			 !have_run(script, waited_for, known->waited_for))) {
			return false;
		}
	}
	return true;
}

static known_difference *find_known(const diff_judge *judge, const diff_script *script,
									const diff_judgement *judgement) {
	for (int i = 0; i < judge->known_count; i++) {
		if (explains(&judge->known[i], script, judgement)) {
			return &judge->known[i];
		}
	}
	return NULL;
}

void judge_free(diff_judge *judge) {
	for (int i = 0; i < judge->known_count; i++) {
		free(judge->known[i].name);
		free(judge->known[i].ran);
		free(judge->known[i].others_ran);
		free(judge->known[i].waited_for);
		free(judge->known[i].reason);
	}
	free(judge->known);
}

/* ---- Comparing ------------------------------------------------------------------------------------------- */

/* Several sessions hold one row only when they share it. */
static bool shares_rows(const diff_script *script) {
	for (int i = 0; i < script->step_count; i++) {
		const char *sql = script->steps[i].sql;

		if (strcasestr(sql, "for share") != NULL || strcasestr(sql, "for key share") != NULL) {
			return true;
		}
	}
	return false;
}

/* An outcome without the names of those who are waited for. */
static char *without_holders(const char *outcome) {
	static const char marker[] = " waits for";
	text stripped = {0};
	const char *at;

	while ((at = strstr(outcome, marker)) != NULL) {
		text_add_bytes(&stripped, outcome, (size_t)(at - outcome) + strlen(marker));
		outcome = at + strlen(marker);
		outcome += strspn(outcome, " 0123456789");
	}
	text_add(&stripped, "%s", outcome);
	return text_take(&stripped);
}

/* Of several who hold a row, a session may wait for any first. */
static bool is_same(const record_event *left, const record_event *right, bool shared) {
	char *left_outcome;
	char *right_outcome;
	bool same;

	if (strcmp(left->step, right->step) != 0 || !shared) {
		return strcmp(left->step, right->step) == 0 && strcmp(left->outcome, right->outcome) == 0;
	}
	left_outcome = without_holders(left->outcome);
	right_outcome = without_holders(right->outcome);
	same = strcmp(left_outcome, right_outcome) == 0;
	free(left_outcome);
	free(right_outcome);
	return same;
}

/* The index of the first event that differs, or -1. */
static int first_difference(const diff_script *script, const diff_record *left, const diff_record *right) {
	int common = left->count < right->count ? left->count : right->count;
	bool shared = shares_rows(script);

	for (int i = 0; i < common; i++) {
		if (!is_same(&left->events[i], &right->events[i], shared)) {
			return i;
		}
	}
	return left->count == right->count ? -1 : common - 1;
}

static bool is_serializable(const diff_script *script, int session) {
	for (int i = 0; i < script->step_count; i++) {
		if (script->steps[i].session == session && strcasestr(script->steps[i].sql, "serializable") != NULL) {
			return true;
		}
	}
	return false;
}

/* Bits of sessions that use SERIALIZABLE and fail with 40001 in this event. */
static unsigned serialization_failures(const diff_script *script, const record_event *event) {
	unsigned failures = 0;
	int session = 0;

	for (const char *line = event->outcome; *line != '\0';) {
		if (isdigit((unsigned char)line[0])) {
			session = line[0] - '1';
		} else if (starts_with(line, "   ERROR 40001") && is_serializable(script, session)) {
			failures |= 1u << session;
		}
		line += strcspn(line, "\n");
		line += *line == '\n';
	}
	return failures;
}

static void run_both(const diff_judge *judge, const diff_script *script, wake_order order, diff_judgement *result) {
	driver_run(judge->left, script, judge->detail, order, &result->left);
	driver_run(judge->right, script, judge->detail, order, &result->right);
	result->event = first_difference(script, &result->left, &result->right);
	result->runs = 1;
	result->differ = result->event >= 0;
}

static verdict judge_once(const diff_judge *judge, const diff_script *script, diff_judgement *result) {
	run_both(judge, script, WAKE_NEWEST, result);
	if (result->event < 0) {
		return VERDICT_AGREE;
	}
	if (serialization_failures(script, &result->left.events[result->event]) !=
		serialization_failures(script, &result->right.events[result->event])) {
		return VERDICT_SERIALIZATION;
	}
	result->known = find_known(judge, script, result);
	return result->known != NULL ? VERDICT_KNOWN : VERDICT_DIVERGE;
}

static bool is_among(const diff_script *script, const diff_record *record, const diff_judgement *runs, int count) {
	for (int i = 0; i < count; i++) {
		if (first_difference(script, record, &runs[i].left) < 0) {
			return true;
		}
	}
	return false;
}

/*
 * Runs both worlds again, also with the other order of waking. Returns whether they diverge for sure: whether the second
 * has done what the first never does.
 */
static bool is_confirmed(const diff_judge *judge, const diff_script *script, diff_judgement *result) {
	diff_judgement runs[RUNS_TO_CONFIRM] = {0};
	bool confirmed = !is_among(script, &result->right, result, 1);

	for (int i = 0; i < RUNS_TO_CONFIRM; i++) {
		run_both(judge, script, i % 2 == 0 ? WAKE_OLDEST : WAKE_NEWEST, &runs[i]);
		result->runs++;
		result->differ += runs[i].differ;
	}
	confirmed = confirmed && !is_among(script, &result->right, runs, RUNS_TO_CONFIRM);
	for (int i = 0; i < RUNS_TO_CONFIRM; i++) {
		bool expected =
			is_among(script, &runs[i].right, result, 1) || is_among(script, &runs[i].right, runs, RUNS_TO_CONFIRM);

		confirmed = confirmed || !expected;
	}
	for (int i = 0; i < RUNS_TO_CONFIRM; i++) {
		judgement_free(&runs[i]);
	}
	return confirmed;
}

void judge_script(const diff_judge *judge, const diff_script *script, diff_judgement *result) {
	*result = (diff_judgement){0};
	result->verdict = judge_once(judge, script, result);
	if (result->verdict == VERDICT_DIVERGE && !is_confirmed(judge, script, result)) {
		result->verdict = VERDICT_CHANCE;
	}
}

void judgement_free(diff_judgement *judgement) {
	record_free(&judgement->left);
	record_free(&judgement->right);
}

/* ---- Shrinking ------------------------------------------------------------------------------------------- */

static void copy_without(diff_script *to, const diff_script *from, int left_out) {
	script_copy_frame(to, from);
	for (int i = 0; i < from->step_count; i++) {
		if (i != left_out) {
			script_copy_step(to, &from->steps[i]);
		}
	}
}

static bool still_diverges(const diff_judge *judge, const diff_script *script) {
	diff_judgement judgement = {0};
	bool diverges = judge_once(judge, script, &judgement) == VERDICT_DIVERGE && is_confirmed(judge, script, &judgement);

	judgement_free(&judgement);
	return diverges;
}

/* Steps are left out from the end to the beginning, over and over, until none can be spared. */
void judge_shrink(const diff_judge *judge, const diff_script *script, diff_script *smaller) {
	int runs = 0;
	bool shrunk = true;

	copy_without(smaller, script, -1);
	while (shrunk && runs < MAX_SHRINKING_RUNS) {
		shrunk = false;
		for (int i = smaller->step_count - 1; i >= 0 && runs < MAX_SHRINKING_RUNS; i--, runs++) {
			diff_script attempt;

			copy_without(&attempt, smaller, i);
			if (still_diverges(judge, &attempt)) {
				script_free(smaller);
				*smaller = attempt;
				shrunk = true;
			} else {
				script_free(&attempt);
			}
		}
	}
}

/* ---- Reporting ------------------------------------------------------------------------------------------- */

static void add_commented(text *to, const char *before, const char *lines) {
	do {
		size_t length = strcspn(lines, "\n");

		text_add(to, "# %s%.*s\n", before, (int)length, lines);
		lines += length;
		lines += *lines == '\n';
	} while (*lines != '\0');
}

static void add_difference(const diff_judge *judge, const diff_judgement *judgement, text *to) {
	const record_event *left = &judgement->left.events[judgement->event];
	const record_event *right = &judgement->right.events[judgement->event];

	text_add(to, "# --- %s; they differ in %d of %d runs\n", judge->left->name, judgement->differ, judgement->runs);
	add_commented(to, "      ", left->outcome);
	text_add(to, "# --- %s\n", judge->right->name);
	if (strcmp(right->step, left->step) != 0) {
		text_add(to, "# at %s: %s\n", right->step, right->sql);
	}
	add_commented(to, "      ", right->outcome);
}

void judge_report(const diff_judge *judge, const diff_script *script, const diff_judgement *judgement, text *to) {
	const diff_record *left = &judgement->left;
	int shown = judgement->event >= 0 ? judgement->event : left->count - 1;

	script_print(script, to);
	text_add(to, "#\n");
	for (int i = 0; i <= shown; i++) {
		text step = {0};

		text_add(&step, "%s  %s", left->events[i].step, left->events[i].sql);
		add_commented(to, "", text_get(&step));
		text_free(&step);
		if (i == judgement->event) {
			add_difference(judge, judgement, to);
		} else {
			add_commented(to, "      ", left->events[i].outcome);
		}
	}
}
