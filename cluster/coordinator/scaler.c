#include "coordinator/scaler.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "client/socket.h"
#include "control/autoscale.h"
#include "scaling/session.h"

#define MAX_NODES 256
#define ANSWER_MS 5000
#define MAX_GROUPS 64
#define NAME_BYTES 64
#define CONNINFO_BYTES 1024
#define LINE_BYTES (NAME_BYTES + CONNINFO_BYTES + 2)

/* What a node has counted. */
typedef struct node {
	aidb_session session;
	bool known;
	uint64_t at_ms;
	uint64_t reads, hits, misses;
	bool seen; /* in the round that goes on */
} node;

typedef struct group {
	char id[24];
	char name[NAME_BYTES];
	bool dry_run;
	aidb_autoscale_policy policy;
	aidb_autoscale state;
	char last_cache[NAME_BYTES]; /* that was added last */
	char primary[CONNINFO_BYTES];
	bool seen; /* in the round that goes on */
} group;

typedef struct scaler {
	const aidb_scaler_options *options;
	aidb_trouble trouble;
	aidb_session catalog;
	/* each at the place of its id */
	int64_t node_ids[MAX_NODES], group_ids[MAX_GROUPS];
	node nodes[MAX_NODES];
	group groups[MAX_GROUPS];
} scaler;

/* ---- The catalog ------------------------------------------------------------------------------------------ */

static bool is_open(scaler *self) {
	if (self->catalog.connection != NULL && PQstatus(self->catalog.connection) != CONNECTION_OK) {
		aidb_session_close(&self->catalog);
	}
	return self->catalog.connection != NULL || aidb_session_open(&self->catalog, self->options->conninfo, "the catalog",
																 "-c statement_timeout=10s", &self->trouble);
}

static bool leads(scaler *self) {
	aidb_value value = aidb_value_text(self->options->name);
	int64_t acts;

	return aidb_session_number(&self->catalog,
							   "SELECT count(*) FROM aidb.coordinator WHERE holder = $1 AND until > clock_timestamp()",
							   1, &value, &acts) &&
		   acts > 0;
}

/* The place of an id, or a free one, which is then its own; -1: there is none. Free places have id 0. */
static int place_of(int64_t *ids, int count, int64_t id) {
	int place = -1;

	for (int i = 0; i < count; i++) {
		if (ids[i] == id) {
			return i;
		}
		place = ids[i] == 0 && place < 0 ? i : place;
	}
	if (place >= 0) {
		ids[place] = id;
	}
	return place;
}

static PGresult *read_policies(scaler *self) {
	return aidb_session_query(
		&self->catalog,
		"SELECT g.group_id, g.name, a.dry_run, a.min_caches, a.max_caches, a.target_reads, a.target_latency_ms, "
		"a.max_lag_ms,"
		" a.min_hit_rate, a.up_after_s * 1000, a.down_after_s * 1000, a.pause_s * 1000, p.conninfo"
		" FROM aidb.autoscale a JOIN aidb.node_group g USING (group_id) JOIN aidb.node p ON p.node_id = g.primary_id "
		"ORDER BY 1",
		0, NULL, false);
}

static void take_policy(const PGresult *result, int row, uint32_t interval_ms, group *to) {
	double numbers[9];

	for (int i = 0; i < 9; i++) {
		numbers[i] = strtod(PQgetvalue(result, row, 3 + i), NULL);
	}
	snprintf(to->id, sizeof(to->id), "%s", PQgetvalue(result, row, 0));
	snprintf(to->name, sizeof(to->name), "%s", PQgetvalue(result, row, 1));
	snprintf(to->primary, sizeof(to->primary), "%s", PQgetvalue(result, row, 12));
	to->dry_run = PQgetvalue(result, row, 2)[0] == 't';
	to->policy = (aidb_autoscale_policy){.min_caches = (uint32_t)numbers[0],
										 .max_caches = (uint32_t)numbers[1],
										 .target_reads = numbers[2],
										 .target_latency_ms = numbers[3],
										 .max_lag_ms = numbers[4],
										 .min_hit_rate = numbers[5],
										 .up_after_ms = (uint64_t)numbers[6],
										 .down_after_ms = (uint64_t)numbers[7],
										 .pause_ms = (uint64_t)numbers[8],
										 .max_gap_ms = 3 * (uint64_t)interval_ms + ANSWER_MS};
}

/* ---- Measuring -------------------------------------------------------------------------------------------- */

/* Adds what the node has done since the last time. False: it does not answer, or it did not then. */
static bool measure(scaler *self, const PGresult *nodes, int row, aidb_autoscale_sample *sample, double *hits,
					double *asked) {
	int place = place_of(self->node_ids, MAX_NODES, strtoll(PQgetvalue(nodes, row, 0), NULL, 10));
	node *of = place < 0 ? NULL : &self->nodes[place];
	bool is_cache = PQgetvalue(nodes, row, 3)[0] == 't', known;
	uint64_t begun = aidb_socket_now_ms(), reads, found, missed;
	aidb_trouble trouble;
	PGresult *result;
	double seconds;

	if (of == NULL) {
		return false;
	}
	of->seen = true;
	if (of->session.connection == NULL &&
		!aidb_session_open(&of->session, PQgetvalue(nodes, row, 2), PQgetvalue(nodes, row, 1),
						   "-c statement_timeout=5s", &trouble)) {
		of->known = false;
		return false;
	}
	of->session.trouble = &trouble;
	of->session.timeout_ms = ANSWER_MS;
	result = aidb_session_query(
		&of->session,
		"SELECT sum(value) FILTER (WHERE name IN ('gets', 'seeks')), sum(value) FILTER (WHERE name = "
		"'row_cache_hits'), sum(value) FILTER (WHERE name = 'row_cache_misses'), (SELECT coalesce(heard_ms, 0) FROM "
		"aidb.node_status()) FROM aidb.stats()",
		0, NULL, false);
	if (result == NULL) {
		aidb_session_close(&of->session);
		of->known = false;
		return false;
	}
	found = strtoull(PQgetvalue(result, 0, 1), NULL, 10);
	missed = strtoull(PQgetvalue(result, 0, 2), NULL, 10);
	reads = is_cache ? found + missed : strtoull(PQgetvalue(result, 0, 0), NULL, 10);
	seconds = (double)(begun - of->at_ms) / 1000;
	known =
		of->known && reads >= of->reads && found >= of->hits && seconds > 0; /* counters begin anew with the server */
	if (known) {
		double lag_ms = is_cache ? strtod(PQgetvalue(result, 0, 3), NULL) : 0,
			   latency_ms = (double)(aidb_socket_now_ms() - begun);

		sample->reads += (double)(reads - of->reads) / seconds;
		sample->lag_ms = lag_ms > sample->lag_ms ? lag_ms : sample->lag_ms;
		sample->latency_ms = latency_ms > sample->latency_ms ? latency_ms : sample->latency_ms;
		*hits += is_cache ? (double)(found - of->hits) : 0;
		*asked += is_cache ? (double)(found + missed - of->hits - of->misses) : 0;
	}
	PQclear(result);
	of->known = true;
	of->at_ms = begun;
	of->reads = reads;
	of->hits = found;
	of->misses = missed;
	return known;
}

/* Of the primary and the caching read nodes of a group. */
static bool sample_group(scaler *self, group *of, aidb_autoscale_sample *sample) {
	aidb_value value = aidb_value_text(of->id);
	PGresult *nodes;
	double hits = 0, asked = 0;

	nodes = aidb_session_query(
		&self->catalog,
		"SELECT n.node_id, n.name, n.conninfo, m.role = 'cache' FROM aidb.member m JOIN aidb.node n USING (node_id)"
		" JOIN aidb.node_group g USING (group_id)"
		" WHERE g.group_id = $1 AND (m.role = 'cache' OR n.node_id = g.primary_id) ORDER BY 1",
		1, &value, false);
	if (nodes == NULL) {
		return false;
	}
	*sample = (aidb_autoscale_sample){.at_ms = aidb_socket_now_ms(), .complete = true, .hit_rate = -1};
	of->last_cache[0] = '\0';
	for (int row = 0; row < PQntuples(nodes); row++) {
		if (PQgetvalue(nodes, row, 3)[0] == 't') {
			sample->caches++;
			snprintf(of->last_cache, sizeof(of->last_cache), "%s", PQgetvalue(nodes, row, 1));
		}
		sample->complete = measure(self, nodes, row, sample, &hits, &asked) && sample->complete;
	}
	if (asked > 0) {
		sample->hit_rate = hits / asked;
	}
	PQclear(nodes);
	return true;
}

/* ---- Acting ----------------------------------------------------------------------------------------------- */

/* Runs the command; what it has written as its first line goes to `line`. False: it did not end well. */
static bool call(const char *command, const char *word, const char *group_name, const char *node_name,
				 char line[LINE_BYTES]) {
	int pipes[2], status = -1;
	FILE *from;
	pid_t pid;

	line[0] = '\0';
	if (pipe(pipes) != 0) {
		return false;
	}
	pid = fork();
	if (pid == 0) {
		(void)dup2(pipes[1], STDOUT_FILENO);
		close(pipes[0]);
		close(pipes[1]);
		execl(command, command, word, group_name, node_name, (char *)NULL);
		_exit(127);
	}
	close(pipes[1]);
	from = fdopen(pipes[0], "r");
	if (pid > 0 && from != NULL) {
		if (fgets(line, LINE_BYTES, from) == NULL) {
			line[0] = '\0';
		}
		line[strcspn(line, "\n")] = '\0';
	}
	if (from != NULL) {
		fclose(from);
	} else {
		close(pipes[0]);
	}
	return pid > 0 && waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

static bool add_cache(scaler *self, const group *to, char *what, size_t size) {
	char line[LINE_BYTES];
	char *conninfo;
	aidb_value values[3];

	if (!call(self->options->command, "add", to->name, NULL, line) || (conninfo = strchr(line, ' ')) == NULL) {
		snprintf(what, size, "%s add %s did not give a server", self->options->command, to->name);
		return false;
	}
	*conninfo++ = '\0';
	values[0] = aidb_value_text(line);
	values[1] = aidb_value_text(conninfo);
	values[2] = aidb_value_text(to->name);
	snprintf(what, size, "node %.63s is added", line);
	if (!aidb_session_run(&self->catalog, "SELECT aidb.add_node($1, $2), aidb.add_replica($3, $1, 'cache')", 3,
						  values)) {
		snprintf(what, size, "%s", self->trouble.text);
		return false;
	}
	return true;
}

static bool remove_cache(scaler *self, const group *from, char *what, size_t size) {
	char line[LINE_BYTES];
	aidb_value values[2] = {aidb_value_text(from->name), aidb_value_text(from->last_cache)};
	aidb_session primary;
	aidb_trouble trouble;
	bool done;

	if (!aidb_session_run(&self->catalog, "SELECT aidb.remove_replica($1, $2)", 2, values) ||
		!aidb_session_run(&self->catalog, "SELECT aidb.remove_node($1)", 1, &values[1])) {
		snprintf(what, size, "%s", self->trouble.text);
		return false;
	}
	done = call(self->options->command, "remove", from->name, from->last_cache, line);
	snprintf(what, size,
			 done ? "node %s is removed" : "node %s is not used any more, but the command to remove it has failed",
			 from->last_cache);
	/* the log is not kept for it any more, once it is not there to ask for it */
	if (aidb_session_open(&primary, from->primary, "the primary", "-c statement_timeout=5s", &trouble)) {
		(void)aidb_session_run(&primary, "SELECT aidb.stream_drop($1)", 1, &values[1]);
		aidb_session_close(&primary);
	}
	return done;
}

static void note(scaler *self, const group *of, const aidb_autoscale_sample *sample, const char *action,
				 const char *what) {
	char numbers[128];
	aidb_value values[4] = {aidb_value_text(of->name), aidb_value_text(action), aidb_value_text(what),
							aidb_value_text(numbers)};

	snprintf(numbers, sizeof(numbers), "{%.3f,%.3f,%.3f,%.4f,%" PRIu32 "}", sample->reads, sample->latency_ms,
			 sample->lag_ms, sample->hit_rate, sample->caches);
	(void)aidb_session_run(&self->catalog, "SELECT aidb.note_scaling($1, $2, $3, $4::float8[])", 4, values);
}

static void scale(scaler *self, group *of) {
	aidb_autoscale_sample sample;
	aidb_autoscale_action action;
	char what[2 * AIDB_AUTOSCALE_REASON_BYTES + CONNINFO_BYTES], done[sizeof(self->trouble.text)] = "";

	if (!sample_group(self, of, &sample)) {
		return;
	}
	action = aidb_autoscale_step(&of->state, &of->policy, &sample);
	if (action == AIDB_AUTOSCALE_NOTHING) {
		note(self, of, &sample, "", of->state.reason);
		return;
	}
	if (of->dry_run || self->options->command == NULL) {
		snprintf(done, sizeof(done), "%s",
				 of->dry_run ? "not done: this is a dry run" : "not done: the coordinator has no --scale-command");
	} else if (action == AIDB_AUTOSCALE_ADD) {
		(void)add_cache(self, of, done, sizeof(done));
	} else {
		(void)remove_cache(self, of, done, sizeof(done));
	}
	snprintf(what, sizeof(what), "%s; %s", of->state.reason, done);
	note(self, of, &sample, action == AIDB_AUTOSCALE_ADD ? "add" : "remove", what);
}

/* What is not in the catalog any more, or was not looked at, is begun anew when it comes again. */
static void forget_unseen(scaler *self) {
	for (int i = 0; i < MAX_NODES; i++) {
		if (self->node_ids[i] != 0 && !self->nodes[i].seen) {
			aidb_session_close(&self->nodes[i].session);
			self->nodes[i] = (node){.known = false};
			self->node_ids[i] = 0;
		}
		self->nodes[i].seen = false;
	}
	for (int i = 0; i < MAX_GROUPS; i++) {
		if (self->group_ids[i] != 0 && !self->groups[i].seen) {
			self->groups[i] = (group){.dry_run = false};
			self->group_ids[i] = 0;
		}
		self->groups[i].seen = false;
	}
}

static void run_round(scaler *self) {
	PGresult *policies = is_open(self) && leads(self) ? read_policies(self) : NULL;

	for (int row = 0; row < PQntuples(policies); row++) {
		int place = place_of(self->group_ids, MAX_GROUPS, strtoll(PQgetvalue(policies, row, 0), NULL, 10));

		if (place >= 0) {
			group *of = &self->groups[place];

			of->seen = true;
			take_policy(policies, row, self->options->interval_ms, of);
			scale(self, of);
		}
	}
	forget_unseen(self);
	PQclear(policies);
}

int aidb_scaler_run(void *options) {
	scaler *self = calloc(1, sizeof(*self));

	if (self == NULL) {
		return 1;
	}
	self->options = options;
	for (;;) {
		run_round(self);
		aidb_socket_sleep_ms(self->options->interval_ms);
	}
}
