/*
 * control/failover.h against a simulated world: three servers with logs, a catalog, two coordinators, a network that loses,
 * delays and repeats messages and falls into parts, servers that die and come back, clocks that differ. The servers do what
 * aidb.seal, promote, set_in_sync, follow and the stream do. In every schedule:
 *
 *   - what was acknowledged is at the primary in the end, and no read that was served missed what had been acknowledged;
 *   - in one epoch no two servers acknowledge;
 *   - once the faults are over, the group takes writes again, with a standby in sync.
 *
 * AIDB_SIM_SCHEDULES schedules (100,000) from AIDB_SIM_SEED (1) on; a failure names the seed that shows it alone. That the
 * checks find what they are for is tested with servers and coordinators that each break one rule.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "control/failover.h"
#include "control/health.h"

#define NODES 3u
#define COORDINATORS 2u
#define MAX_COMMITS 64u
#define MAX_MESSAGES 128u
#define STEP_MS 100u
#define FAULTY_STEPS 150u
#define CALM_STEPS 250u
#define LEASE_MS 1500u
#define GRACE_MS 900u
#define MAX_DELAY_MS 500u
#define ACTION_MS 800u  /* until a coordinator gives an action up */
#define LEADER_MS 2000u /* for how long the catalog lets one act */

/* Rules that can be broken, one at a time. */
typedef enum bug {
	NO_BUG,
	ACKNOWLEDGES_ALONE,    /* a primary does not wait for its standby */
	SHRINKS_PRIMARY_FIRST, /* the primary is released before the record says so */
	ACTS_WITHOUT_LEADING,  /* a coordinator acts that the catalog did not choose */
	SKIPS_LEASE,           /* a new primary is recorded while the old one may still serve reads */
	GROWS_AT_ONCE,         /* a standby counts as in sync before it has everything */
	PROMOTES_ANY,          /* a standby that is not in sync is promoted */
	BUGS
} bug;

static const char *const bug_names[] = {"none",
										"acknowledges alone",

										"shrinks the primary first",
										"acts without leading",

										"skips the lease",
										"grows at once",
										"promotes any"};

typedef struct server {
	bool alive;
	aidb_member_role role;
	uint64_t epoch;
	bool sealed;
	uint8_t log[MAX_COMMITS]; /* commits, in order; durable */
	uint32_t length;
	/* primary */
	uint32_t waits_for;
	uint64_t configuration;
	uint32_t replicated;  /* of the log, at waits_for */
	uint32_t visible;     /* of the log; never less */
	uint32_t growth;      /* of the log, when commits began to wait */
	bool confirmed;       /* the standby has spoken since the start */
	uint32_t recovered;   /* served only once the standby has that much */
	bool leased;          /* it has had a lease: no reads without one */
	uint64_t lease_until; /* by its clock; 0: none was given since its start */
	uint32_t incarnation; /* of its history */
	/* standby */
	uint32_t follows;
	uint32_t copied_from; /* the incarnation of that history; 0: nothing yet */
	bool streaming;
	double rate; /* of its clock */
} server;

typedef struct commit {
	uint32_t node;
	uint64_t epoch;
	bool pending, acknowledged;
} commit;

typedef enum message_kind { PROBE, STATUS, ACTION, RESULT, READ, RECORD, LEAD, LED, ACKNOWLEDGE } message_kind;

typedef struct message {
	bool used;
	message_kind kind;
	uint64_t due;
	uint32_t from, to;
	aidb_member_report report;
	aidb_action action;
	uint64_t number; /* of the action, or when it was sent; of an acknowledgement: how much */
	uint32_t incarnation;
	bool fine;
} message;

typedef struct coordinator {
	aidb_failover state;
	aidb_health health[NODES];
	uint64_t answered[NODES];
	bool busy;
	aidb_action action;
	uint64_t number, gives_up;
	uint64_t leads_until; /* by its clock */
	double rate;
} coordinator;

static struct world {
	uint64_t random, now;
	bug broken;
	bool calm;
	server servers[NODES];
	commit commits[MAX_COMMITS];
	uint32_t commit_count;
	uint64_t acknowledged; /* bits */
	aidb_group_record record;
	uint32_t leader;
	uint64_t leader_until;
	coordinator coordinators[COORDINATORS];
	message messages[MAX_MESSAGES];
	bool cut[NODES + COORDINATORS + 1]; /* off from all others: servers, coordinators, the catalog */
	uint32_t incarnations;
	const char *wrong;
	uint32_t failovers;
} world;

static uint64_t next_random(void) {
	uint64_t z = world.random += 0x9e3779b97f4a7c15ull;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ z >> 27) * 0x94d049bb133111ebull;
	return z ^ z >> 31;
}

static uint64_t below(uint64_t limit) {
	return next_random() % limit;
}

static bool chance(uint32_t in_thousand) {
	return below(1000) < in_thousand;
}

static void wrong(const char *what) {
	if (world.wrong == NULL) {
		world.wrong = what;
	}
}

static server *server_of(uint32_t id) {
	return &world.servers[id - 1];
}

static uint64_t local(double rate) {
	return (uint64_t)((double)world.now * rate) + 1;
}

/* ---- Network ----------------------------------------------------------------------------------------------- */

/* Places: servers 1..NODES, coordinators after them, then the catalog. */
#define COORDINATOR_PLACE(i) (NODES + 1 + (i))
#define CATALOG_PLACE (NODES + COORDINATORS + 1)

static bool connected(uint32_t a, uint32_t b) {
	return !world.cut[a - 1] && !world.cut[b - 1];
}

static void send_once(const message *sent) {
	for (uint32_t i = 0; i < MAX_MESSAGES; i++) {
		if (!world.messages[i].used) {
			world.messages[i] = *sent;
			world.messages[i].used = true;
			world.messages[i].due =
				world.now + (world.calm ? below(STEP_MS) : below(chance(100) ? MAX_DELAY_MS : STEP_MS * 2));
			return;
		}
	}
}

static void post(message sent) {
	if (!connected(sent.from, sent.to) || (!world.calm && chance(20))) {
		return;
	}
	send_once(&sent);
	if (!world.calm && chance(30)) {
		send_once(&sent);
	}
}

/* ---- Servers ----------------------------------------------------------------------------------------------- */

static uint64_t bits_of(const server *self, uint32_t length) {
	uint64_t bits = 0;

	for (uint32_t i = 0; i < length; i++) {
		bits |= 1ull << self->log[i];
	}
	return bits;
}

static uint32_t visible_of(server *self) {
	uint32_t may = self->waits_for == 0 || world.broken == ACKNOWLEDGES_ALONE ? self->length : self->replicated;

	may = may < self->length ? may : self->length;
	self->visible = may > self->visible ? may : self->visible;
	return self->visible;
}

static void check_epoch_owner(uint32_t node, uint64_t epoch) {
	for (uint32_t i = 0; i < world.commit_count; i++) {
		if (world.commits[i].acknowledged && world.commits[i].epoch == epoch && world.commits[i].node != node) {
			wrong("two servers acknowledge in one epoch");
		}
	}
}

static void acknowledge_commits(uint32_t node) {
	server *self = server_of(node);
	uint64_t visible;

	if (!self->alive || self->role != AIDB_MEMBER_PRIMARY || self->sealed) {
		return;
	}
	visible = bits_of(self, visible_of(self));
	for (uint32_t i = 0; i < world.commit_count; i++) {
		commit *of = &world.commits[i];

		if (of->pending && of->node == node && (visible >> i & 1) != 0) {
			check_epoch_owner(node, of->epoch);
			of->pending = false;
			of->acknowledged = true;
			world.acknowledged |= 1ull << i;
		}
	}
}

/* Who waits for an acknowledgement learns that the outcome is unknown. */
static void forget_pending(uint32_t node) {
	for (uint32_t i = 0; i < world.commit_count; i++) {
		if (world.commits[i].node == node) {
			world.commits[i].pending = false;
		}
	}
}

static bool primary_takes(const server *self) {
	return self->alive && self->role == AIDB_MEMBER_PRIMARY && !self->sealed;
}

static void client_writes(uint32_t node) {
	server *self = server_of(node);

	if (!primary_takes(self) || world.commit_count == MAX_COMMITS) {
		return;
	}
	world.commits[world.commit_count] = (commit){.node = node, .epoch = self->epoch, .pending = true};
	self->log[self->length++] = (uint8_t)world.commit_count++;
	acknowledge_commits(node);
}

static void client_reads(uint32_t node) {
	server *self = server_of(node);

	if (!primary_takes(self) || (self->waits_for != 0 && self->leased && local(self->rate) > self->lease_until) ||
		(self->waits_for != 0 && (!self->confirmed || self->replicated < self->recovered))) {
		return;
	}
	if ((world.acknowledged & ~bits_of(self, visible_of(self))) != 0) {
		wrong("a read misses what was acknowledged");
	}
}

static void start_server(uint32_t node) {
	server *self = server_of(node);

	self->alive = true;
	self->lease_until = 0;
	self->replicated = 0;
	self->confirmed = false;
	self->visible = self->length;
	self->recovered = self->length;
	self->streaming = false;
}

static void stop_server(uint32_t node) {
	server_of(node)->alive = false;
	forget_pending(node);
}

/* A standby asks its primary for more. */
static void pull(uint32_t node) {
	server *self = server_of(node);
	server *primary;

	if (!self->alive || self->role != AIDB_MEMBER_STANDBY || self->follows == 0 || self->sealed) {
		return;
	}
	primary = server_of(self->follows);
	if (!connected(node, self->follows) || !primary->alive || primary->role != AIDB_MEMBER_PRIMARY) {
		self->streaming = false;
		return;
	}
	if (self->epoch > primary->epoch && !self->sealed) {
		primary->epoch = self->epoch;
		primary->sealed = true;
		forget_pending(self->follows);
	}
	if (primary->sealed) {
		self->streaming = false;
		return;
	}
	if (!self->sealed) {
		self->epoch = primary->epoch;
	}
	self->copied_from = primary->incarnation;
	self->length = primary->length;
	memcpy(self->log, primary->log, sizeof(self->log));
	self->streaming = true;
	post((message){.kind = ACKNOWLEDGE,
				   .from = node,
				   .to = self->follows,
				   .number = self->length,
				   .incarnation = primary->incarnation});
}

static void take_acknowledgement(const message *got) {
	server *self = server_of(got->to);

	if (self->alive && self->role == AIDB_MEMBER_PRIMARY && !self->sealed && self->waits_for == got->from &&
		self->incarnation == got->incarnation) {
		self->confirmed = true;
		self->replicated = (uint32_t)got->number > self->replicated ? (uint32_t)got->number : self->replicated;
		acknowledge_commits(got->to);
	}
}

/* The SQL functions. */
static bool seal_server(server *self, uint32_t node, uint64_t epoch) {
	if (self->role == AIDB_MEMBER_ALONE || epoch < self->epoch || (epoch == self->epoch && !self->sealed)) {
		return false;
	}
	self->epoch = epoch;
	self->sealed = true;
	self->streaming = false;
	if (self->role == AIDB_MEMBER_PRIMARY) {
		forget_pending(node);
	}
	return true;
}

static bool promote_server(server *self, uint64_t epoch) {
	if (self->role == AIDB_MEMBER_PRIMARY && self->epoch == epoch && !self->sealed) {
		return true;
	}
	if (self->role == AIDB_MEMBER_PRIMARY && self->epoch < epoch) {
		self->epoch = epoch;
		self->sealed = false;
		return true;
	}
	if (self->role != AIDB_MEMBER_STANDBY || !self->sealed || self->epoch != epoch || self->copied_from == 0) {
		return false;
	}
	self->role = AIDB_MEMBER_PRIMARY;
	self->sealed = false;
	self->waits_for = 0;
	self->configuration = 0;
	self->incarnation = ++world.incarnations;
	self->visible = self->length;
	self->confirmed = true;
	self->leased = false;
	self->lease_until = 0;
	world.failovers++;
	return true;
}

/* Answers only once the standby has everything; false: ask again. */
static bool set_in_sync(server *self, const aidb_action *action) {
	if (self->role != AIDB_MEMBER_PRIMARY || self->sealed || self->epoch != action->epoch) {
		return false;
	}
	if (action->version < self->configuration) {
		return false;
	}
	self->configuration = action->version;
	if (self->waits_for != action->other) {
		self->waits_for = action->other;
		self->replicated = 0;
		self->growth = self->length;
	}
	acknowledge_commits(action->member);
	return action->other == 0 || self->replicated >= self->growth || world.broken == GROWS_AT_ONCE;
}

static bool follow_server(server *self, uint32_t node, uint32_t primary) {
	forget_pending(node);
	*self = (server){
		.alive = true, .role = AIDB_MEMBER_STANDBY, .epoch = self->epoch, .follows = primary, .rate = self->rate};
	return true;
}

static bool execute(uint32_t node, const aidb_action *action) {
	server *self = server_of(node);

	switch (action->kind) {
	case AIDB_ACT_SEAL:
		return seal_server(self, node, action->epoch);
	case AIDB_ACT_PROMOTE:
		return promote_server(self, action->epoch);
	case AIDB_ACT_SET_IN_SYNC:
		return set_in_sync(self, action);
	case AIDB_ACT_FOLLOW:
		if (action->member == world.record.in_sync && action->epoch == world.record.epoch) {
			wrong("a standby that is recorded as in sync is copied anew");
		}
		/* not while it is the primary of this epoch or a later one */
		return self->role == AIDB_MEMBER_PRIMARY && self->epoch >= action->epoch && !self->sealed
				   ? false
				   : follow_server(self, node, action->other);
	case AIDB_ACT_RENEW_LEASE:
		if (primary_takes(self) && self->epoch == action->epoch) {
			self->leased = true;
			self->lease_until = local(self->rate) + LEASE_MS;
			return true;
		}
		return false;
	default:
		return false;
	}
}

static aidb_member_report status_of(const server *self) {
	return (aidb_member_report){.known = true,
								.role = self->role,
								.epoch = self->epoch,
								.sealed = self->sealed,
								.streaming = self->streaming,
								.applied = self->length,
								.follows = self->follows,
								.waits_for = self->waits_for};
}

/* ---- The catalog --------------------------------------------------------------------------------------------- */

static bool compare_and_set(const aidb_group_record *record) {
	if (world.record.version + 1 != record->version) {
		return false;
	}
	world.record = *record;
	return true;
}

static void serve_catalog(const message *got) {
	message answer = {.from = CATALOG_PLACE, .to = got->from, .number = got->number};

	if (got->kind == ACTION) {
		answer.kind = RESULT;
		answer.fine = compare_and_set(&got->action.record);
	} else if (got->kind == READ) {
		answer.kind = RECORD;
		answer.action.record = world.record;
	} else {
		answer.kind = LED;
		answer.fine = world.leader == got->from || world.now > world.leader_until;
		if (answer.fine) {
			world.leader = got->from;
			world.leader_until = world.now + LEADER_MS;
		}
	}
	post(answer);
}

/* ---- Coordinators -------------------------------------------------------------------------------------------- */

static const aidb_failover_options options = {.lease_ms = LEASE_MS, .lease_grace_ms = GRACE_MS};

static uint32_t place_of(const coordinator *self) {
	return COORDINATOR_PLACE((uint32_t)(self - world.coordinators));
}

static bool leads(const coordinator *self) {
	return local(self->rate) < self->leads_until || world.broken == ACTS_WITHOUT_LEADING;
}

static void note_answers(coordinator *self) {
	for (uint32_t node = 1; node <= NODES; node++) {
		aidb_member_report *report = aidb_failover_report(&self->state, node);
		bool answered = self->answered[node - 1] + 2 * STEP_MS >= world.now;

		aidb_health_step(&self->health[node - 1], answered, 4);
		if (report != NULL) {
			report->up = self->health[node - 1].state == AIDB_NODE_UP;
			report->down = self->health[node - 1].state == AIDB_NODE_DOWN;
		}
	}
}

/* What a coordinator that breaks a rule does instead. */
static void break_action(coordinator *self, aidb_action *action) {
	aidb_failover *state = &self->state;

	if (world.broken == SKIPS_LEASE) {
		state->lease_until_ms = 0;
	}
	if (world.broken == PROMOTES_ANY) {
		state->allow_data_loss = true;
	}
	if (world.broken == SHRINKS_PRIMARY_FIRST && action->kind == AIDB_ACT_RECORD && action->record.in_sync == 0 &&
		state->record.in_sync != 0 && action->record.primary == state->record.primary) {
		*action = (aidb_action){.kind = AIDB_ACT_SET_IN_SYNC,
								.member = state->record.primary,
								.epoch = state->record.epoch,
								.version = state->record.version};
	}
}

/* With AIDB_SIM_TRACE, what is done and what the world is then. */
static void trace(const coordinator *self) {
	static const char *const kinds[] = {"nothing", "record", "seal", "promote", "set in sync", "follow", "renew lease"};
	const aidb_action *action = &self->action;

	if (getenv("AIDB_SIM_TRACE") == NULL) {
		return;
	}
	print_message(
		"%llu coordinator %u: %s %u %u epoch %llu version %llu (record %llu/%llu: primary %u, in sync %u): %s\n",
		(unsigned long long)world.now, place_of(self) - NODES, kinds[action->kind], action->member, action->other,
		(unsigned long long)action->epoch, (unsigned long long)action->version,
		(unsigned long long)world.record.version, (unsigned long long)world.record.epoch, world.record.primary,
		world.record.in_sync, action->reason);
	for (uint32_t node = 1; node <= NODES; node++) {
		const server *at = server_of(node);

		print_message("    %u:%s%s role %d epoch %llu%s follows %u%s waits for %u, %u of %u\n", node,
					  at->alive ? "" : " dead", world.cut[node - 1] ? " cut" : "", at->role,
					  (unsigned long long)at->epoch, at->sealed ? " sealed" : "", at->follows,
					  at->streaming ? " streaming" : "", at->waits_for, at->replicated, at->length);
	}
}

static void act(coordinator *self) {
	aidb_action action;

	if (!leads(self) || self->busy || self->state.record.version == 0) {
		return;
	}
	action = aidb_failover_next(&self->state, &options, local(self->rate));
	break_action(self, &action);
	if (action.kind == AIDB_ACT_NOTHING) {
		return;
	}
	self->busy = true;
	self->action = action;
	self->number++;
	self->gives_up = world.now + ACTION_MS;
	trace(self);
	post((message){.kind = ACTION,
				   .from = place_of(self),
				   .to = action.kind == AIDB_ACT_RECORD ? CATALOG_PLACE : action.member,
				   .action = action,
				   .number = self->number});
}

static void read_record(const coordinator *self) {
	post((message){.kind = READ, .from = place_of(self), .to = CATALOG_PLACE, .number = self->number});
}

static void step_coordinator(coordinator *self) {
	if (self->busy && world.now > self->gives_up) {
		self->busy = false;
		aidb_failover_failed(&self->state, &self->action);
		read_record(self);
	}
	note_answers(self);
	for (uint32_t node = 1; node <= NODES; node++) {
		post((message){.kind = PROBE, .from = place_of(self), .to = node, .number = world.now});
	}
	if (chance(200)) {
		read_record(self);
	}
	post((message){.kind = LEAD, .from = place_of(self), .to = CATALOG_PLACE, .number = local(self->rate)});
	act(self);
}

static void take_result(coordinator *self, const message *got) {
	if (!self->busy || got->number != self->number) {
		return;
	}
	self->busy = false;
	if (got->fine) {
		aidb_failover_done(&self->state, &self->action);
	} else {
		aidb_failover_failed(&self->state, &self->action);
		read_record(self);
	}
}

static void take_led(coordinator *self, const message *got) {
	bool led = leads(self);

	if (got->fine && got->number + LEADER_MS / 2 > self->leads_until) {
		self->leads_until = got->number + (uint64_t)(LEADER_MS * 0.8);
		if (!led && leads(self)) {
			self->busy = false;
			self->number++; /* what is under way counts no more */
			aidb_failover_start(&self->state, &options, local(self->rate));
			read_record(self);
		}
	}
}

static void serve_coordinator(coordinator *self, const message *got) {
	aidb_member_report *report;

	switch (got->kind) {
	case STATUS:
		report = aidb_failover_report(&self->state, got->from);
		if (report != NULL && got->number >= self->answered[got->from - 1]) {
			bool up = report->up, down = report->down;

			*report = got->report;
			report->up = up;
			report->down = down;
			self->answered[got->from - 1] = got->number;
		}
		break;
	case RESULT:
		take_result(self, got);
		break;
	case RECORD:
		if (!self->busy && got->number == self->number && got->action.record.version >= self->state.record.version) {
			aidb_failover_set_record(&self->state, &got->action.record);
		}
		break;
	case LED:
		take_led(self, got);
		break;
	default:
		break;
	}
}

/* ---- The world ------------------------------------------------------------------------------------------------ */

static void serve_server(uint32_t node, const message *got) {
	const server *self = server_of(node);
	message answer = {.from = node, .to = got->from, .number = got->number};

	if (got->kind == ACKNOWLEDGE) {
		take_acknowledgement(got);
	} else if (self->alive) {
		answer.kind = got->kind == PROBE ? STATUS : RESULT;
		answer.fine = got->kind == ACTION && execute(node, &got->action);
		answer.report = status_of(self);
		post(answer);
	}
}

static void deliver(void) {
	for (uint32_t i = 0; i < MAX_MESSAGES; i++) {
		message got = world.messages[i];

		if (!got.used || got.due > world.now) {
			continue;
		}
		world.messages[i].used = false;
		if (!connected(got.from, got.to)) {
			continue;
		}
		if (got.to <= NODES) {
			serve_server(got.to, &got);
		} else if (got.to < CATALOG_PLACE) {
			serve_coordinator(&world.coordinators[got.to - NODES - 1], &got);
		} else {
			serve_catalog(&got);
		}
	}
}

static void cause_faults(void) {
	uint32_t node = chance(400) ? world.record.primary : 1 + (uint32_t)below(NODES);
	uint32_t place = (uint32_t)below(CATALOG_PLACE);

	if (chance(15) && server_of(node)->alive) {
		stop_server(node);
	} else if (chance(100) && !server_of(node)->alive) {
		start_server(node);
	}
	if (chance(20)) {
		world.cut[place] = true;
	}
	if (chance(150)) {
		world.cut[place] = false;
	}
}

static void end_faults(void) {
	world.calm = true;
	memset(world.cut, 0, sizeof(world.cut));
	for (uint32_t node = 1; node <= NODES; node++) {
		if (!server_of(node)->alive) {
			start_server(node);
		}
	}
}

static void step(void) {
	world.now += STEP_MS;
	deliver();
	for (uint32_t node = 1; node <= NODES; node++) {
		if (chance(700)) {
			pull(node);
		}
		if (chance(world.calm ? 20 : 150)) {
			client_writes(node);
		}
		client_reads(node);
	}
	for (uint32_t i = 0; i < COORDINATORS; i++) {
		if (i == 0 || !world.calm) {
			step_coordinator(&world.coordinators[i]);
		}
	}
}

static void begin(uint64_t seed, bug broken) {
	memset(&world, 0, sizeof(world));
	world.random = seed * 0x2545f4914f6cdd1dull;
	world.broken = broken;
	world.now = 1000;
	world.record = (aidb_group_record){
		.version = 1, .epoch = 1, .primary = 1, .synchronous = true, .members = {1, 2, 3}, .member_count = NODES};
	for (uint32_t node = 1; node <= NODES; node++) {
		*server_of(node) = (server){.alive = true,
									.role = node == 1 ? AIDB_MEMBER_PRIMARY : AIDB_MEMBER_STANDBY,
									.epoch = 1,
									.follows = node == 1 ? 0 : 1,
									.rate = 0.97 + (double)below(60) / 1000};
	}
	server_of(1)->incarnation = ++world.incarnations;
	server_of(1)->confirmed = true;
	for (uint32_t i = 0; i < COORDINATORS; i++) {
		world.coordinators[i].rate = 0.97 + (double)below(60) / 1000;
		aidb_failover_set_record(&world.coordinators[i].state, &world.record);
	}
}

static bool is_well(void) {
	const server *primary = server_of(world.record.primary);

	return primary_takes(primary) && primary->epoch == world.record.epoch && world.record.in_sync != 0 &&
		   primary->waits_for == world.record.in_sync;
}

static void check_end(void) {
	const server *primary = server_of(world.record.primary);

	if (!is_well()) {
		wrong("the group does not come back");
	} else if ((world.acknowledged & ~bits_of(primary, primary->length)) != 0) {
		wrong("an acknowledged commit is lost");
	}
}

/* What went wrong; NULL: nothing. */
static const char *run(uint64_t seed, bug broken) {
	begin(seed, broken);
	for (uint32_t i = 0; i < FAULTY_STEPS && world.wrong == NULL; i++) {
		cause_faults();
		step();
	}
	end_faults();
	for (uint32_t i = 0; i < CALM_STEPS && world.wrong == NULL; i++) {
		if (i > 60 && is_well()) {
			break;
		}
		step();
	}
	check_end();
	return world.wrong;
}

/* ---- Tests ------------------------------------------------------------------------------------------------------ */

static uint64_t from_environment(const char *name, uint64_t otherwise) {
	const char *value = getenv(name);

	return value == NULL ? otherwise : strtoull(value, NULL, 10);
}

static void no_schedule_loses_a_commit(void **state) {
	uint64_t seed = from_environment("AIDB_SIM_SEED", 1);
	uint64_t schedules = from_environment("AIDB_SIM_SCHEDULES", 100000);
	uint64_t failovers = 0;

	(void)state;
	for (uint64_t i = 0; i < schedules; i++) {
		const char *found = run(seed + i, NO_BUG);

		failovers += world.failovers;
		if (found != NULL) {
			print_error("AIDB_SIM_SEED=%" PRIu64 " AIDB_SIM_SCHEDULES=1: %s\n", seed + i, found);
		}
		assert_null(found);
	}
	print_message("# %llu schedules, %llu failovers\n", (unsigned long long)schedules, (unsigned long long)failovers);
	assert_true(schedules < 1000 || failovers > schedules / 20);
}

static void each_broken_rule_is_found(void **state) {
	bool all = true;

	(void)state;
	for (bug broken = NO_BUG + 1; broken < BUGS; broken++) {
		const char *found = NULL;
		uint64_t seed = 1;

		for (; seed <= 20000 && found == NULL; seed++) {
			found = run(seed, broken);
		}
		print_message("# %s: %s after %llu schedules\n", bug_names[broken], found == NULL ? "not found" : found,
					  (unsigned long long)(seed - 1));
		all = all && found != NULL;
	}
	assert_true(all);
}

int main(void) {
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(no_schedule_loses_a_commit),
		cmocka_unit_test(each_broken_rule_is_found),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
