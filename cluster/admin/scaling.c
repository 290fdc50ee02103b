#include "admin/scaling.h"

#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "scaling/rebalance.h"

#define REPORT_MS 200

typedef struct shown {
	const aidb_scaling_arguments *arguments;
	bool is_terminal;
	const char *step; /* that was shown last */
	unsigned moves, slots;
	uint64_t rows;
	uint64_t longest_hold_ms;
	bool nothing_to_do;
} shown;

/* Lets a test look at what is there in the middle: AIDB_FAULT_POINT=move_STEP stops this process before that step. */
static void fault_point(const char *step) {
	const char *wanted = getenv("AIDB_FAULT_POINT");

	if (wanted != NULL && strncmp(wanted, "move_", 5) == 0 && strcmp(wanted + 5, step) == 0) {
		(void)raise(SIGSTOP);
	}
}

static void show_plan_json(const aidb_planned *plans, uint32_t count) {
	printf("[");
	for (uint32_t i = 0; i < count; i++) {
		printf("%s\n  {\"source\": \"%s\", \"target\": \"%s\", \"slots\": %" PRIu32 ", \"rows\": %" PRIu64
			   ", \"bytes\": %" PRIu64 "}",
			   i > 0 ? "," : "", plans[i].source.name, plans[i].target.name, aidb_slot_set_count(&plans[i].slots),
			   plans[i].rows, plans[i].bytes);
	}
	printf("%s]\n", count > 0 ? "\n" : "");
}

static bool show_plan(void *argument, const aidb_planned *plans, uint32_t count) {
	shown *self = argument;

	self->nothing_to_do = count == 0;
	if (self->arguments->json) {
		if (self->arguments->dry_run) {
			show_plan_json(plans, count);
		}
		return true;
	}
	for (uint32_t i = 0; i < count; i++) {
		printf("%s %" PRIu32 " slots from group %s to group %s: about %" PRIu64 " rows, %" PRIu64 " MB\n",
			   self->arguments->dry_run ? "would move" : "to move:", aidb_slot_set_count(&plans[i].slots),
			   plans[i].source.name, plans[i].target.name, plans[i].rows, plans[i].bytes >> 20);
	}
	if (count == 0) {
		puts("every slot is where it is wanted");
	}
	fflush(stdout);
	return true;
}

static void show_progress(void *argument, const aidb_slot_move *move) {
	shown *self = argument;
	bool is_new = self->step == NULL || strcmp(self->step, move->progress.step) != 0;

	if (is_new) {
		self->step = move->progress.step;
		fault_point(self->step);
	}
	if (self->is_terminal) {
		fprintf(stderr, "\r\033[K%s -> %s: %s, %" PRIu64 " of about %" PRIu64 " rows", move->source->name,
				move->target->name, move->progress.step, move->progress.rows, move->progress.wanted_rows);
	}
}

static void show_moved(void *argument, const aidb_slot_move *move) {
	shown *self = argument;

	self->step = NULL;
	self->moves++;
	self->slots += aidb_slot_set_count(&move->slots);
	self->rows += move->progress.rows;
	if (move->progress.hold_ms > self->longest_hold_ms) {
		self->longest_hold_ms = move->progress.hold_ms;
	}
	if (!self->arguments->json) {
		printf("%smoved %" PRIu32 " slots from %s to %s: %" PRIu64 " rows; writes to them waited for %" PRIu64 " ms\n",
			   self->is_terminal ? "\r\033[K" : "", aidb_slot_set_count(&move->slots), move->source->name,
			   move->target->name, move->progress.rows, move->progress.hold_ms);
		fflush(stdout);
	}
}

static void show_finished(void *argument, uint32_t slots) {
	const shown *self = argument;

	if (!self->arguments->json) {
		printf("put %" PRIu32 " slots in order that an earlier move has left\n", slots);
	}
}

static bool drain(const aidb_scaling_arguments *arguments, aidb_trouble *trouble) {
	aidb_session catalog;
	aidb_value value = aidb_value_text(arguments->drain);
	bool done = aidb_session_open(&catalog, arguments->conninfo, "the catalog", "", trouble) &&
				aidb_session_run(&catalog, "SELECT aidb.drain_group($1)", 1, &value);

	aidb_session_close(&catalog);
	return done;
}

int aidb_scaling_run(const aidb_scaling_arguments *arguments) {
	aidb_trouble trouble = {.text = ""};
	shown self = {.arguments = arguments, .is_terminal = isatty(STDERR_FILENO) && !arguments->json};
	aidb_rebalance rebalance = {
		.conninfo = arguments->conninfo,
		.slots_per_move = arguments->slots_per_move > 0 ? arguments->slots_per_move : AIDB_SLOTS_PER_MOVE,
		.dry_run = arguments->dry_run,
		.without = arguments->drain,
		.plan = show_plan,
		.report = show_progress,
		.moved = show_moved,
		.finished = show_finished,
		.argument = &self,
	};

	if ((arguments->drain != NULL && !arguments->dry_run && !drain(arguments, &trouble)) ||
		!aidb_rebalance_run(&rebalance, &trouble)) {
		fprintf(stderr, "%saidb-admin: %s\n", self.is_terminal ? "\r\033[K" : "", trouble.text);
		return 1;
	}
	if (arguments->json && !arguments->dry_run) {
		printf("{\"moves\": %u, \"slots\": %u, \"rows\": %" PRIu64 ", \"longest_hold_ms\": %" PRIu64 "}\n", self.moves,
			   self.slots, self.rows, self.longest_hold_ms);
	} else if (!arguments->json && !arguments->dry_run && !self.nothing_to_do) {
		printf("done: %u slots, %" PRIu64 " rows; the longest hold was %" PRIu64 " ms\n", self.slots, self.rows,
			   self.longest_hold_ms);
	}
	return 0;
}
