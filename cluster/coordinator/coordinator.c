#include "coordinator/coordinator.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "client/link.h"
#include "control/failover.h"
#include "control/health.h"
#include "coordinator/job.h"
#include "coordinator/scaler.h"
#include "coordinator/slot_keeper.h"

#define MAX_NODES 256u
#define MAX_GROUPS 64u
#define NAME_BYTES 64u
#define CONNINFO_BYTES 1024u
#define ADDRESS_BYTES 512u
#define TEXT_BYTES 512u
#define CATALOG_TIMEOUT_MS 3000u
#define FINISH_INTERVAL_MS 5000
#define FOLLOW_INTERVAL_MS 2000u
#define SCALER_INTERVAL_MS 10000u
#define FINISH_TIMEOUT_MS 60000
#define READ_INTERVAL_MS 2000u
#define MAX_ANSWERS 64u

typedef struct node {
	struct aidb_coordinator *owner;
	uint32_t id;
	char name[NAME_BYTES];
	char conninfo[CONNINFO_BYTES];
	char address[ADDRESS_BYTES];
	aidb_link *probes;
	aidb_link *actions;
	uint64_t probe_at_ms;
	uint64_t asked_ms; /* when the question was put that is or was answered last */
	uint64_t acted_ms; /* when an action upon it was over: what it said before counts no more */
	aidb_health health;
	aidb_member_report report;
	char in_sync[NAME_BYTES];     /* the slot that its commits wait for */
	char upstream[ADDRESS_BYTES]; /* of whom it follows */
	char role[NAME_BYTES];        /* as it says */
	uint32_t cache_of;            /* the group whose rows it is to remember; 0: it is no caching read node */
	uint64_t follow_at_ms;        /* not before that is it told again whom to follow */
	bool seen;                    /* in the catalog that is being read */
} node;

/* What an answer to an action belongs to. */
typedef struct pending {
	struct group *of;
	uint64_t number;
} pending;

typedef struct group {
	struct aidb_coordinator *owner;
	uint32_t id;
	char name[NAME_BYTES];
	aidb_failover state;
	bool busy;
	aidb_action action;
	uint64_t number; /* of the action: what comes back for an earlier one counts no more */
	pending answers
		[MAX_ANSWERS]; /* more than can be under way: an action is over before the next, or given up by its deadline */
	bool told;         /* that it has no primary and nobody to take its place */
	bool seen;
} group;

struct aidb_coordinator {
	const aidb_coordinator_options *options;
	aidb_failover_options failover;
	aidb_link *catalog;
	aidb_link *finisher; /* to the catalog as well, for what may have to wait for nodes */
	uint64_t finish_at_ms;
	aidb_slot_keeper *keeper;
	aidb_scaler_options scaling;
	aidb_job scaler;
	uint64_t scale_at_ms; /* not before that is the scaler started again */
	node nodes[MAX_NODES];
	uint32_t node_count;
	group groups[MAX_GROUPS];
	uint32_t group_count;
	uint64_t leads_until_ms;
	uint64_t asked_lease_ms;
	uint64_t lead_at_ms;
	uint64_t read_at_ms;
	bool reading;
	bool connected;
};

static uint64_t now_ms(void) {
	struct timespec now;

	clock_gettime(CLOCK_BOOTTIME, &now);
	return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* ---- Telling --------------------------------------------------------------------------------------------- */

static void say(const aidb_coordinator *self, const char *severity, const char *text) {
	char at[64];
	time_t now = time(NULL);
	struct tm local;

	if (self->options->quiet && strcmp(severity, "info") == 0) {
		return;
	}
	strftime(at, sizeof(at), "%Y-%m-%d %H:%M:%S", localtime_r(&now, &local));
	fprintf(stderr, "%s %s: %s\n", at, severity, text);
}

/* To the log, and into the catalog, whose listeners hear of it. */
static void tell(aidb_coordinator *self, const char *severity, const group *of, const node *about, const char *format,
				 ...) __attribute__((format(printf, 5, 6)));

static void tell(aidb_coordinator *self, const char *severity, const group *of, const node *about, const char *format,
				 ...) {
	char text[TEXT_BYTES];
	const char *values[4] = {severity, of == NULL ? NULL : of->name, about == NULL ? NULL : about->name, text};
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(text, sizeof(text), format, arguments);
	va_end(arguments);
	say(self, severity, text);
	(void)aidb_link_send(self->catalog,
						 "INSERT INTO aidb.event (severity, group_name, node_name, message) VALUES ($1, $2, $3, $4)", 4,
						 values, CATALOG_TIMEOUT_MS, now_ms(), NULL, NULL);
}

/* ---- Finding --------------------------------------------------------------------------------------------- */

static node *node_of(aidb_coordinator *self, uint32_t id) {
	for (uint32_t i = 0; i < self->node_count; i++) {
		if (self->nodes[i].id == id) {
			return &self->nodes[i];
		}
	}
	return NULL;
}

static const char *name_of(aidb_coordinator *self, uint32_t id) {
	const node *found = node_of(self, id);

	return found == NULL ? "nobody" : found->name;
}

static uint32_t member_named(aidb_coordinator *self, const aidb_group_record *record, const char *name) {
	for (uint32_t i = 0; i < record->member_count; i++) {
		const node *member = node_of(self, record->members[i]);

		if (member != NULL && strcmp(member->name, name) == 0) {
			return member->id;
		}
	}
	return 0;
}

static uint32_t member_at(aidb_coordinator *self, const aidb_group_record *record, const char *address) {
	for (uint32_t i = 0; i < record->member_count; i++) {
		const node *member = node_of(self, record->members[i]);

		if (member != NULL && strcmp(member->address, address) == 0) {
			return member->id;
		}
	}
	return 0;
}

/* "host:port" as servers say it. */
static void find_address(node *of) {
	PQconninfoOption *options = PQconninfoParse(of->conninfo, NULL);
	const char *host = "", *port = "";

	for (PQconninfoOption *option = options; option != NULL && option->keyword != NULL; option++) {
		if (option->val != NULL && strcmp(option->keyword, "host") == 0) {
			host = option->val;
		} else if (option->val != NULL && strcmp(option->keyword, "port") == 0) {
			port = option->val;
		}
	}
	snprintf(of->address, sizeof(of->address), "%s%s%s", host, host[0] != '\0' && port[0] != '\0' ? ":" : "", port);
	PQconninfoFree(options);
}

/* ---- Nodes ----------------------------------------------------------------------------------------------- */

static void note_state(node *of, const char *detail) {
	static const char *const names[] = {"unknown", "up", "suspect", "down"};
	char id[16];
	const char *values[3] = {id, names[of->health.state], detail};

	snprintf(id, sizeof(id), "%u", of->id);
	(void)aidb_link_send(of->owner->catalog, "UPDATE aidb.node SET state = $2, detail = $3 WHERE node_id = $1", 3,
						 values, CATALOG_TIMEOUT_MS, now_ms(), NULL, NULL);
}

static void copy_value(const PGresult *result, const char *column, char *to, size_t size) {
	int number = PQfnumber(result, column);

	snprintf(to, size, "%s", number < 0 ? "" : PQgetvalue(result, 0, number));
}

static uint64_t number_in(const PGresult *result, const char *column) {
	int number = PQfnumber(result, column);

	return number < 0 ? 0 : strtoull(PQgetvalue(result, 0, number), NULL, 10);
}

static bool flag_in(const PGresult *result, const char *column) {
	int number = PQfnumber(result, column);

	return number >= 0 && PQgetvalue(result, 0, number)[0] == 't';
}

static void take_status(node *of, const PGresult *result, char *state, size_t state_size) {
	char *role = of->role;

	copy_value(result, "role", role, sizeof(of->role));
	copy_value(result, "state", state, state_size);
	copy_value(result, "in_sync", of->in_sync, sizeof(of->in_sync));
	copy_value(result, "upstream", of->upstream, sizeof(of->upstream));
	of->report = (aidb_member_report){.known = true,
									  .role = strcmp(role, "primary") == 0   ? AIDB_MEMBER_PRIMARY
											  : strcmp(role, "standby") == 0 ? AIDB_MEMBER_STANDBY
																			 : AIDB_MEMBER_ALONE,
									  .epoch = number_in(result, "epoch"),
									  .sealed = flag_in(result, "sealed"),
									  .streaming = strcmp(state, "streaming") == 0,
									  .applied = number_in(result, "applied")};
}

static void probe_done(void *argument, const PGresult *result, const char *error) {
	node *of = argument;
	char state[TEXT_BYTES] = "";
	bool answered = result != NULL && PQntuples(result) == 1;
	bool changed;

	if (answered && of->asked_ms > of->acted_ms) {
		take_status(of, result, state, sizeof(state));
	}
	changed = aidb_health_step(&of->health, answered, of->owner->options->retries);
	of->report.up = of->health.state == AIDB_NODE_UP;
	of->report.down = of->health.state == AIDB_NODE_DOWN;
	if (changed && of->report.up) {
		tell(of->owner, "info", NULL, of, "node %s is up", of->name);
	} else if (changed) {
		tell(of->owner, "alert", NULL, of, "node %s is down: %s", of->name, error == NULL ? "no answer" : error);
	}
	if (changed) {
		note_state(of, error == NULL ? state : error);
	}
}

static void probe(node *of, uint64_t now) {
	const aidb_coordinator_options *options = of->owner->options;

	if (now >= of->probe_at_ms && aidb_link_is_idle(of->probes)) {
		of->probe_at_ms = now + options->interval_ms;
		of->asked_ms = now;
		(void)aidb_link_send(of->probes, "SELECT * FROM aidb.node_status()", 0, NULL, options->timeout_ms, now,
							 probe_done, of);
	}
}

/* ---- The catalog ------------------------------------------------------------------------------------------- */

static void remove_node(aidb_coordinator *self, uint32_t index) {
	aidb_link_destroy(self->nodes[index].probes);
	aidb_link_destroy(self->nodes[index].actions);
	self->nodes[index].id = 0; /* its place stays: what is under way points to it */
}

static void take_node(aidb_coordinator *self, const PGresult *result, int row) {
	uint32_t id = (uint32_t)strtoul(PQgetvalue(result, row, 0), NULL, 10);
	node *of = node_of(self, id);

	if (of == NULL) {
		of = node_of(self, 0);
		if (of == NULL && self->node_count < MAX_NODES) {
			of = &self->nodes[self->node_count++];
		}
		if (of == NULL) {
			return;
		}
		*of = (node){.owner = self, .id = id};
		snprintf(of->name, sizeof(of->name), "%s", PQgetvalue(result, row, 1));
		snprintf(of->conninfo, sizeof(of->conninfo), "%s", PQgetvalue(result, row, 2));
		find_address(of);
		of->probes = aidb_link_create(of->conninfo, "aidb_coordinator");
		of->actions = aidb_link_create(of->conninfo, "aidb_coordinator");
	}
	of->seen = true;
	of->cache_of = (uint32_t)strtoul(PQgetvalue(result, row, 3), NULL, 10);
}

static void nodes_read(void *argument, const PGresult *result, const char *error) {
	aidb_coordinator *self = argument;

	(void)error;
	if (result == NULL) {
		return;
	}
	for (uint32_t i = 0; i < self->node_count; i++) {
		self->nodes[i].seen = false;
	}
	for (int row = 0; row < PQntuples(result); row++) {
		take_node(self, result, row);
	}
	for (uint32_t i = 0; i < self->node_count; i++) {
		if (!self->nodes[i].seen && self->nodes[i].id != 0) {
			remove_node(self, i);
		}
	}
}

static uint32_t number_at(const PGresult *result, int row, int column) {
	return (uint32_t)strtoul(PQgetvalue(result, row, column), NULL, 10);
}

/* "{1,2}" */
static void take_members(aidb_group_record *record, const char *array) {
	char *end;

	for (const char *at = array + 1; *at != '\0' && *at != '}' && record->member_count < AIDB_MAX_MEMBERS;
		 at = *end == ',' ? end + 1 : end) {
		record->members[record->member_count++] = (uint32_t)strtoul(at, &end, 10);
		if (end == at) {
			record->member_count--;
			return;
		}
	}
}

static group *group_with(aidb_coordinator *self, uint32_t id) {
	for (uint32_t i = 0; i < self->group_count; i++) {
		if (self->groups[i].id == id) {
			return &self->groups[i];
		}
	}
	return NULL;
}

static void take_group(aidb_coordinator *self, const PGresult *result, int row) {
	uint32_t id = number_at(result, row, 0);
	group *of = group_with(self, id);
	aidb_group_record record = {.version = strtoull(PQgetvalue(result, row, 2), NULL, 10),
								.epoch = strtoull(PQgetvalue(result, row, 3), NULL, 10),
								.primary = number_at(result, row, 4),
								.in_sync = number_at(result, row, 5),
								.synchronous = PQgetvalue(result, row, 6)[0] == 't'};

	take_members(&record, PQgetvalue(result, row, 9));
	if (of == NULL) {
		of = group_with(self, 0);
		if (of == NULL && self->group_count < MAX_GROUPS) {
			of = &self->groups[self->group_count++];
		}
		if (of == NULL) {
			return;
		}
		*of = (group){.owner = self, .id = id};
		snprintf(of->name, sizeof(of->name), "%s", PQgetvalue(result, row, 1));
		aidb_failover_start(&of->state, &self->failover, now_ms());
	}
	of->seen = true;
	if (of->busy && of->action.kind == AIDB_ACT_RECORD) {
		return; /* this may be from before */
	}
	aidb_failover_set_record(&of->state, &record);
	of->state.wanted_primary = number_at(result, row, 7);
	of->state.allow_data_loss = PQgetvalue(result, row, 8)[0] == 't';
}

static void groups_read(void *argument, const PGresult *result, const char *error) {
	aidb_coordinator *self = argument;

	self->reading = false;
	if (result == NULL) {
		if (self->connected) {
			fprintf(stderr, "cannot read the catalog: %s\n", error);
		}
		self->connected = false;
		return;
	}
	self->connected = true;
	for (uint32_t i = 0; i < self->group_count; i++) {
		self->groups[i].seen = false;
	}
	for (int row = 0; row < PQntuples(result); row++) {
		take_group(self, result, row);
	}
	for (uint32_t i = 0; i < self->group_count; i++) {
		if (!self->groups[i].seen) {
			self->groups[i].id = 0;
		}
	}
}

static void read_catalog(aidb_coordinator *self, uint64_t now) {
	self->reading = true;
	self->read_at_ms = now + READ_INTERVAL_MS;
	(void)aidb_link_send(
		self->catalog,
		"SELECT node_id, name, conninfo, CASE role WHEN 'cache' THEN group_id ELSE 0 END FROM aidb.node"
		" LEFT JOIN aidb.member USING (node_id)",
		0, NULL, CATALOG_TIMEOUT_MS, now, nodes_read, self);
	if (!aidb_link_send(self->catalog,
						"SELECT g.group_id, name, version, epoch, primary_id, coalesce(in_sync_id, 0), synchronous, "
						"coalesce(wanted_id, 0),"
						" allow_data_loss, array_agg(node_id ORDER BY node_id) FILTER (WHERE role <> 'cache')"
						" FROM aidb.node_group g JOIN aidb.member USING (group_id) GROUP BY g.group_id",
						0, NULL, CATALOG_TIMEOUT_MS, now, groups_read, self)) {
		self->reading = false;
	}
}

/* ---- Acting ------------------------------------------------------------------------------------------------ */

static bool leads(const aidb_coordinator *self, uint64_t now) {
	return now < self->leads_until_ms;
}

static void lease_done(void *argument, const PGresult *result, const char *error) {
	aidb_coordinator *self = argument;
	bool led = leads(self, now_ms());

	(void)error;
	if (result == NULL || PQgetvalue(result, 0, 0)[0] != 't') {
		return;
	}
	/* counted from before the question, and shorter than the catalog counts */
	self->leads_until_ms = self->asked_lease_ms + self->options->lease_ms * 3 / 4;
	if (!led) {
		say(self, "info", "this coordinator acts from now on");
		for (uint32_t i = 0; i < self->group_count; i++) {
			self->groups[i].busy = false;
			self->groups[i].number++;
			aidb_failover_start(&self->groups[i].state, &self->failover, now_ms());
		}
		self->read_at_ms = 0;
		self->reading = false;
	}
}

static void ask_lease(aidb_coordinator *self, uint64_t now) {
	char lease[16];
	const char *values[2] = {self->options->name, lease};

	if (now < self->lead_at_ms) {
		return;
	}
	self->lead_at_ms = now + self->options->lease_ms / 4;
	self->asked_lease_ms = now;
	snprintf(lease, sizeof(lease), "%u", self->options->lease_ms);
	(void)aidb_link_send(self->catalog, "SELECT aidb.lease($1, $2)", 2, values, self->options->lease_ms / 4, now,
						 lease_done, self);
}

static void tell_done(group *of, const aidb_action *action) {
	aidb_coordinator *self = of->owner;
	const node *about = node_of(self, action->kind == AIDB_ACT_RECORD ? action->record.primary : action->member);
	const aidb_group_record *before = &of->state.record;

	switch (action->kind) {
	case AIDB_ACT_SEAL:
		tell(self, "alert", of, about, "group %s: node %s was sealed with epoch %llu; %s", of->name,
			 name_of(self, action->member), (unsigned long long)action->epoch, action->reason);
		break;
	case AIDB_ACT_PROMOTE:
		tell(self, "info", of, about, "group %s: node %s is the primary, in epoch %llu", of->name,
			 name_of(self, action->member), (unsigned long long)action->epoch);
		break;
	case AIDB_ACT_FOLLOW:
		tell(self, "info", of, about, "group %s: node %s follows %s, and is copied", of->name,
			 name_of(self, action->member), name_of(self, action->other));
		break;
	case AIDB_ACT_RECORD:
		if (action->record.primary == before->primary && action->record.in_sync != before->in_sync) {
			tell(self, action->record.in_sync == 0 ? "warning" : "info", of, about,
				 action->record.in_sync == 0
					 ? "group %s: node %s is not in sync any more; the primary acknowledges alone"
					 : "group %s: node %s is in sync",
				 of->name, name_of(self, action->record.in_sync == 0 ? before->in_sync : action->record.in_sync));
		}
		break;
	default:
		break;
	}
}

/* An action changes what its member would say. */
static void forget_status(group *of, const aidb_action *action) {
	node *member = action->kind == AIDB_ACT_RECORD || action->kind == AIDB_ACT_RENEW_LEASE
					   ? NULL
					   : node_of(of->owner, action->member);

	if (member != NULL) {
		member->report.known = false;
		member->acted_ms = now_ms();
		member->probe_at_ms = member->acted_ms + 1; /* later than what was asked before */
	}
}

static void action_done(void *argument, const PGresult *result, const char *error) {
	const pending *answered = argument;
	group *of = answered->of;
	bool counts = of->busy && of->number == answered->number;
	bool fine = result != NULL && (of->action.kind != AIDB_ACT_RECORD || PQgetvalue(result, 0, 0)[0] == 't');

	if (!counts) {
		return;
	}
	of->busy = false;
	forget_status(of, &of->action);
	if (fine) {
		tell_done(of, &of->action);
		aidb_failover_done(&of->state, &of->action);
		if (of->action.kind == AIDB_ACT_PROMOTE) {
			of->told = false;
		}
		return;
	}
	aidb_failover_failed(&of->state, &of->action);
	if (error != NULL && of->action.kind != AIDB_ACT_SET_IN_SYNC) {
		char text[TEXT_BYTES];

		snprintf(text, sizeof(text), "group %s: %s: %s", of->name, name_of(of->owner, of->action.member), error);
		say(of->owner, "warning", text);
	}
	of->owner->read_at_ms = 0;
}

typedef struct statement {
	const char *sql;
	unsigned count;
	const char *values[5];
	char numbers[5][32];
	char array[NAME_BYTES + 8];
} statement;

static void add_number(statement *to, uint64_t number) {
	snprintf(to->numbers[to->count], sizeof(to->numbers[0]), "%llu", (unsigned long long)number);
	to->values[to->count] = to->numbers[to->count];
	to->count++;
}

static void add_text(statement *to, const char *text) {
	to->values[to->count++] = text;
}

static void make_record(const group *of, statement *to) {
	const aidb_group_record *record = &of->action.record;

	to->sql = "SELECT aidb.group_compare_and_set($1, $2, $3, $4, nullif($5, 0))";
	add_number(to, of->id);
	add_number(to, record->version - 1);
	add_number(to, record->epoch);
	add_number(to, record->primary);
	add_number(to, record->in_sync);
}

static void make_follow(group *of, statement *to) {
	const node *member = node_of(of->owner, of->action.member);
	const node *primary = node_of(of->owner, of->action.other);

	to->sql = "SELECT aidb.follow($1, $2, 'standby', discard => $3)";
	add_text(to, primary == NULL ? "" : primary->conninfo);
	add_text(to, member->name);
	add_text(to, member->report.role == AIDB_MEMBER_ALONE ? "false" : "true");
}

static void make_statement(group *of, statement *to) {
	const aidb_action *action = &of->action;
	const node *member = node_of(of->owner, action->member);

	switch (action->kind) {
	case AIDB_ACT_RECORD:
		make_record(of, to);
		break;
	case AIDB_ACT_SEAL:
		to->sql = "SELECT aidb.seal($1)";
		add_number(to, action->epoch);
		break;
	case AIDB_ACT_PROMOTE:
		to->sql =
			member->report.role == AIDB_MEMBER_STANDBY ? "SELECT aidb.promote($1)" : "SELECT aidb.become_primary($1)";
		add_number(to, action->epoch);
		break;
	case AIDB_ACT_SET_IN_SYNC:
		to->sql = "SELECT aidb.set_in_sync($1, $2::text[], $3)";
		add_number(to, action->epoch);
		snprintf(to->array, sizeof(to->array), "{%s}", action->other == 0 ? "" : name_of(of->owner, action->other));
		add_text(to, to->array);
		add_number(to, action->version);
		break;
	case AIDB_ACT_FOLLOW:
		make_follow(of, to);
		break;
	default:
		to->sql = "SELECT aidb.renew_lease($1, $2)";
		add_number(to, action->epoch);
		add_number(to, of->owner->failover.lease_ms);
		break;
	}
}

/* What the members of a group have said, as its own numbers. */
static void take_reports(group *of) {
	aidb_coordinator *self = of->owner;
	const aidb_group_record *record = &of->state.record;

	for (uint32_t i = 0; i < record->member_count; i++) {
		const node *member = node_of(self, record->members[i]);

		if (member != NULL) {
			of->state.reports[i] = member->report;
			of->state.reports[i].follows = member_at(self, record, member->upstream);
			of->state.reports[i].waits_for = member_named(self, record, member->in_sync);
		}
	}
}

/* A primary that is lost, when nobody may take its place. */
static void tell_stuck(group *of) {
	const node *primary = node_of(of->owner, of->state.record.primary);

	if (primary != NULL && primary->report.down && of->state.record.in_sync == 0 && !of->told) {
		of->told = true;
		tell(of->owner, "alert", of, primary,
			 "group %s has no primary, and no standby is in sync; bring node %s back, or call aidb.failover('%s', "
			 "allow_data_loss => true)",
			 of->name, primary->name, of->name);
	}
}

static void cache_told(void *argument, const PGresult *result, const char *error) {
	node *of = argument;

	if (result == NULL) {
		fprintf(stderr, "node %s cannot be made a caching read node: %s\n", of->name, error);
	}
}

/* A caching read node follows whoever is the primary of its group. */
static void see_to_cache(node *of, uint64_t now) {
	group *with = of->cache_of == 0 ? NULL : group_with(of->owner, of->cache_of);
	const node *primary = with == NULL ? NULL : node_of(of->owner, with->state.record.primary);
	bool is_cache = strcmp(of->role, "cache") == 0;
	const char *values[3];

	if (primary == NULL || !of->report.up || !primary->report.up || now < of->follow_at_ms || !leads(of->owner, now) ||
		!aidb_link_is_idle(of->actions) || (is_cache && strcmp(of->upstream, primary->address) == 0)) {
		return;
	}
	of->follow_at_ms = now + FOLLOW_INTERVAL_MS;
	values[0] = primary->conninfo;
	values[1] = of->name;
	values[2] = is_cache || strcmp(of->role, "alone") == 0 ? "false" : "true";
	tell(of->owner, "info", with, of, "group %s: node %s remembers rows of %s", with->name, of->name, primary->name);
	(void)aidb_link_send(of->actions, "SELECT aidb.follow($1, $2, 'cache', discard => $3)", 3, values,
						 of->owner->options->timeout_ms, now, cache_told, of);
}

static void act(group *of, uint64_t now) {
	aidb_coordinator *self = of->owner;
	statement made = {.count = 0};
	pending *answer;
	aidb_link *link;

	if (of->id == 0 || of->busy || !leads(self, now)) {
		return;
	}
	take_reports(of);
	of->action = aidb_failover_next(&of->state, &self->failover, now);
	if (of->action.kind == AIDB_ACT_NOTHING) {
		tell_stuck(of);
		return;
	}
	if (of->action.kind != AIDB_ACT_RECORD && node_of(self, of->action.member) == NULL) {
		return;
	}
	make_statement(of, &made);
	link = of->action.kind == AIDB_ACT_RECORD ? self->catalog : node_of(self, of->action.member)->actions;
	of->number++;
	answer = &of->answers[of->number % MAX_ANSWERS];
	*answer = (pending){of, of->number};
	of->busy = true;
	if (!aidb_link_send(link, made.sql, made.count, made.values, self->options->timeout_ms, now, action_done, answer)) {
		of->busy = false;
	}
}

/* ---- The whole --------------------------------------------------------------------------------------------- */

static void take_notification(void *argument, const char *channel, const char *payload) {
	(void)channel;
	(void)payload;
	((aidb_coordinator *)argument)->read_at_ms = 0;
}

/* What changes of definitions have left prepared on nodes, when their session was lost between the two phases. */
static void finish_transactions(aidb_coordinator *self, uint64_t now) {
	if (now < self->finish_at_ms || !leads(self, now) || !aidb_link_is_idle(self->finisher)) {
		return;
	}
	self->finish_at_ms = now + FINISH_INTERVAL_MS;
	(void)aidb_link_send(self->finisher,
						 "SELECT aidb.finish_transactions() FROM pg_catalog.pg_foreign_server"
						 " WHERE srvname = 'aidb_cluster' AND EXISTS (SELECT FROM aidb.slot)",
						 0, NULL, FINISH_TIMEOUT_MS, now, NULL, NULL);
}

/* It runs all the time, and acts while this daemon does. */
static void see_to_scaler(aidb_coordinator *self, uint64_t now) {
	int status;

	(void)aidb_job_has_ended(&self->scaler, &status);
	if (self->scaler.pid == 0 && now >= self->scale_at_ms) {
		self->scale_at_ms = now + SCALER_INTERVAL_MS;
		(void)aidb_job_start(&self->scaler, aidb_scaler_run, &self->scaling);
	}
}

aidb_coordinator *aidb_coordinator_create(const aidb_coordinator_options *options) {
	aidb_coordinator *self = calloc(1, sizeof(*self));

	if (self == NULL) {
		return NULL;
	}
	self->options = options;
	self->failover = (aidb_failover_options){.lease_ms = options->lease_ms,
											 .lease_grace_ms = options->timeout_ms + options->lease_ms / 10};
	self->catalog = aidb_link_create(options->conninfo, options->name);
	self->finisher = aidb_link_create(options->conninfo, options->name);
	self->keeper = aidb_slot_keeper_create(options->conninfo);
	if (self->catalog == NULL || self->finisher == NULL || self->keeper == NULL) {
		aidb_link_destroy(self->catalog);
		aidb_link_destroy(self->finisher);
		aidb_slot_keeper_destroy(self->keeper);
		free(self);
		return NULL;
	}
	self->scaling =
		(aidb_scaler_options){options->conninfo, options->name, options->scale_command, options->scale_interval_ms};
	aidb_link_on_notify(self->catalog, take_notification, self);
	(void)aidb_link_send(self->catalog, "LISTEN aidb_cluster", 0, NULL, CATALOG_TIMEOUT_MS, now_ms(), NULL, NULL);
	return self;
}

void aidb_coordinator_destroy(aidb_coordinator *self) {
	if (self == NULL) {
		return;
	}
	for (uint32_t i = 0; i < self->node_count; i++) {
		if (self->nodes[i].id != 0) {
			remove_node(self, i);
		}
	}
	aidb_link_destroy(self->catalog);
	aidb_link_destroy(self->finisher);
	aidb_slot_keeper_destroy(self->keeper);
	aidb_job_stop(&self->scaler);
	free(self);
}

static uint32_t put_socket(int socket, short events, struct pollfd *sockets, uint32_t count, uint32_t capacity) {
	if (socket >= 0 && count < capacity) {
		sockets[count++] = (struct pollfd){.fd = socket, .events = events};
	}
	return count;
}

static uint32_t add_socket(aidb_link *link, struct pollfd *sockets, uint32_t count, uint32_t capacity) {
	short events = 0;
	int socket = link == NULL ? -1 : aidb_link_socket(link, &events);

	return put_socket(socket, events, sockets, count, capacity);
}

uint32_t aidb_coordinator_sockets(aidb_coordinator *self, struct pollfd *sockets, uint32_t capacity) {
	uint32_t count = add_socket(self->finisher, sockets, add_socket(self->catalog, sockets, 0, capacity), capacity);
	short events = 0;
	int keeper = aidb_slot_keeper_socket(self->keeper, &events);

	count = put_socket(keeper, events, sockets, count, capacity);
	for (uint32_t i = 0; i < self->node_count; i++) {
		if (self->nodes[i].id != 0) {
			count = add_socket(self->nodes[i].probes, sockets, count, capacity);
			count = add_socket(self->nodes[i].actions, sockets, count, capacity);
		}
	}
	return count;
}

void aidb_coordinator_step(aidb_coordinator *self) {
	uint64_t now = now_ms();

	ask_lease(self, now);
	if (now >= self->read_at_ms && !self->reading) {
		read_catalog(self, now);
	}
	finish_transactions(self, now);
	aidb_slot_keeper_step(self->keeper, leads(self, now), now);
	see_to_scaler(self, now);
	aidb_link_step(self->catalog, now);
	aidb_link_step(self->finisher, now);
	for (uint32_t i = 0; i < self->node_count; i++) {
		node *of = &self->nodes[i];

		if (of->id != 0 && of->probes != NULL && of->actions != NULL) {
			probe(of, now);
			see_to_cache(of, now);
			aidb_link_step(of->probes, now);
			aidb_link_step(of->actions, now);
		}
	}
	for (uint32_t i = 0; i < self->group_count; i++) {
		act(&self->groups[i], now);
	}
}
