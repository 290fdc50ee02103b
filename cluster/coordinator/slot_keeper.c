#include "coordinator/slot_keeper.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/link.h"
#include "coordinator/job.h"
#include "scaling/rebalance.h"

#define LOOK_INTERVAL_MS 1000
#define LOOK_TIMEOUT_MS 3000
#define AGAIN_MS 3000 /* after an attempt that failed */

struct aidb_slot_keeper {
	const char *conninfo;
	aidb_link *link;
	aidb_job job;
	uint64_t look_at_ms;
	bool asked;
	bool broken_off; /* there is something to be done */
};

aidb_slot_keeper *aidb_slot_keeper_create(const char *conninfo) {
	aidb_slot_keeper *self = calloc(1, sizeof(*self));

	if (self == NULL) {
		return NULL;
	}
	self->conninfo = conninfo;
	self->link = aidb_link_create(conninfo, "aidb coordinator");
	if (self->link == NULL) {
		free(self);
		return NULL;
	}
	return self;
}

void aidb_slot_keeper_destroy(aidb_slot_keeper *self) {
	if (self != NULL) {
		aidb_job_stop(&self->job);
		aidb_link_destroy(self->link);
		free(self);
	}
}

int aidb_slot_keeper_socket(const aidb_slot_keeper *self, short *events) {
	return aidb_link_socket(self->link, events);
}

static void looked(void *argument, const PGresult *result, const char *error) {
	aidb_slot_keeper *self = argument;

	(void)error;
	self->asked = false;
	self->broken_off = result != NULL && PQgetvalue(result, 0, 0)[0] == 't';
}

/* In a process of its own, since it waits for nodes. */
static int finish(void *argument) {
	const aidb_slot_keeper *self = argument;
	aidb_trouble trouble = {.text = ""};
	uint32_t slots = 0;

	if (!aidb_rebalance_finish(self->conninfo, &slots, &trouble)) {
		fprintf(stderr, "a move of slots that was broken off cannot be put in order yet: %s\n", trouble.text);
		return 1;
	}
	fprintf(stderr, "a move of %u slots that was broken off is put in order\n", (unsigned)slots);
	return 0;
}

void aidb_slot_keeper_step(aidb_slot_keeper *self, bool leads, uint64_t now_ms) {
	int status;

	aidb_link_step(self->link, now_ms);
	if (aidb_job_has_ended(&self->job, &status)) {
		self->broken_off = false;
		self->look_at_ms = now_ms + (status == 0 ? 0 : AGAIN_MS);
	}
	if (!leads || self->job.pid != 0) {
		return;
	}
	if (self->broken_off) {
		if (!aidb_job_start(&self->job, finish, self)) {
			self->broken_off = false;
		}
	} else if (now_ms >= self->look_at_ms && !self->asked) {
		self->look_at_ms = now_ms + LOOK_INTERVAL_MS;
		self->asked = aidb_link_send(self->link, "SELECT aidb.moves_broken_off()", 0, NULL, LOOK_TIMEOUT_MS, now_ms,
									 looked, self);
	}
}
