#define _GNU_SOURCE /* open_memstream */
#include "exporter/metrics.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/socket.h"

#define STATS "SELECT name, value FROM aidb.stats()"
#define NODE "SELECT role, state, epoch, sealed::int, applied, lag_commits, heard_ms FROM aidb.node_status()"
#define DURATIONS "SELECT operation, seconds, count, total_seconds FROM aidb.durations() ORDER BY operation, seconds"
#define ROUTES "SELECT target, seconds, count, total_seconds FROM aidb.router_durations() ORDER BY target, seconds"
#define LEVELS 16

/* Of aidb.stats(). A name with * is that of each level. */
static const struct {
	const char *stat;
	const char *metric;
	const char *type;
	const char *help;
	double unit; /* of the stat, in that of the metric */
} stats[] = {
	{"commits", "aidb_engine_commits_total", "counter", "Commits to the store.", 1},
	{"gets", "aidb_engine_gets_total", "counter", "Reads by key.", 1},
	{"seeks", "aidb_engine_seeks_total", "counter", "Starts of range scans.", 1},
	{"entries", "aidb_engine_entries", "gauge", "Versions of rows in the store.", 1},
	{"sequence", "aidb_engine_sequence", "gauge", "The newest visible commit.", 1},
	{"oldest_snapshot", "aidb_engine_oldest_snapshot", "gauge", "The oldest commit that a snapshot still needs.", 1},
	{"snapshots", "aidb_engine_snapshots", "gauge", "Snapshots that are registered now.", 1},
	{"readers", "aidb_engine_readers", "gauge", "Processes that are reading now.", 1},
	{"row_locks", "aidb_engine_row_locks", "gauge", "Row locks that are held now.", 1},
	{"writes_off", "aidb_engine_writes_off", "gauge", "1 when an I/O error or a full disk has turned writes off.", 1},
	{"stalls", "aidb_engine_write_stalls_total", "counter", "Writes that had to wait for flushes or compactions.", 1},
	{"stall_us", "aidb_engine_write_stall_seconds_total", "counter", "How long they have waited.", 1e-6},
	{"reservations", "aidb_log_reservations", "gauge", "Commits that have room in the log, and are not decided yet.",
	 1},
	{"reserved_bytes", "aidb_log_reserved_bytes", "gauge", "Room in the log that is promised to them.", 1},
	{"log_writes", "aidb_log_writes_total", "counter", "Writes to the log.", 1},
	{"log_syncs", "aidb_log_syncs_total", "counter", "Syncs of the log.", 1},
	{"log_bytes", "aidb_log_written_bytes_total", "counter", "Bytes written to the log.", 1},
	{"log_live_bytes", "aidb_log_live_bytes", "gauge", "Log that recovery would read.", 1},
	{"memory_bytes", "aidb_memory_arena_bytes", "gauge", "The shared memory of the store.", 1},
	{"memtable_bytes", "aidb_memory_memtable_bytes", "gauge", "What memtables take of it.", 1},
	{"cache_bytes", "aidb_memory_block_cache_bytes", "gauge", "What the block cache takes of it.", 1},
	{"flushes", "aidb_flush_runs_total", "counter", "Memtables written to SSTables.", 1},
	{"flush_bytes", "aidb_flush_written_bytes_total", "counter", "Bytes of them.", 1},
	{"compactions", "aidb_compaction_runs_total", "counter", "Merges of SSTables.", 1},
	{"moves", "aidb_compaction_moves_total", "counter", "SSTables moved to the next level as they are.", 1},
	{"compaction_read_bytes", "aidb_compaction_read_bytes_total", "counter", "Bytes that merges have read.", 1},
	{"compaction_write_bytes", "aidb_compaction_written_bytes_total", "counter", "Bytes that merges have written.", 1},
	{"cache_hits", "aidb_block_cache_hits_total", "counter", "Blocks found in the cache.", 1},
	{"cache_misses", "aidb_block_cache_misses_total", "counter", "Blocks read from files.", 1},
	{"filter_checks", "aidb_filter_checks_total", "counter", "Questions to bloom filters.", 1},
	{"filter_skips", "aidb_filter_skips_total", "counter", "SSTables that they have saved reading.", 1},
	{"level*_files", "aidb_level_files", "gauge", "SSTables by level.", 1},
	{"level*_bytes", "aidb_level_bytes", "gauge", "Bytes of SSTables by level.", 1},
	{"row_cache_hits", "aidb_row_cache_hits_total", "counter", "Rows that a caching read node knew.", 1},
	{"row_cache_misses", "aidb_row_cache_misses_total", "counter", "Rows that it had to ask for.", 1},
	{"row_cache_invalidations", "aidb_row_cache_invalidations_total", "counter",
	 "Rows that it forgot since they changed.", 1},
	{"row_cache_bytes", "aidb_row_cache_bytes", "gauge", "What it remembers.", 1},
};

static void head(FILE *out, const char *name, const char *type, const char *help) {
	fprintf(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

static void value(FILE *out, const char *text, double unit) {
	if (unit == 1) {
		fprintf(out, "%s\n", text);
	} else {
		fprintf(out, "%.9g\n", strtod(text, NULL) * unit);
	}
}

/* As a label: backslashes, quotes and line feeds are escaped. */
static void label(FILE *out, const char *name, const char *text) {
	fprintf(out, "%s=\"", name);
	for (; *text != '\0'; text++) {
		if (*text == '\n') {
			fputs("\\n", out);
		} else {
			fprintf(out, "%s%c", *text == '\\' || *text == '"' ? "\\" : "", *text);
		}
	}
	fputc('"', out);
}

/* The stat's value; NULL: the server has none of this name. */
static const char *find(const PGresult *result, const char *name) {
	for (int row = 0; row < PQntuples(result); row++) {
		if (strcmp(PQgetvalue(result, row, 0), name) == 0) {
			return PQgetvalue(result, row, 1);
		}
	}
	return NULL;
}

static void write_levels(FILE *out, const PGresult *result, size_t of) {
	head(out, stats[of].metric, stats[of].type, stats[of].help);
	for (int level = 0; level < LEVELS; level++) {
		char name[64];
		const char *text;

		snprintf(name, sizeof(name), "level%d%s", level, strchr(stats[of].stat, '*') + 1);
		text = find(result, name);
		if (text != NULL) {
			fprintf(out, "%s{level=\"%d\"} %s\n", stats[of].metric, level, text);
		}
	}
}

static void write_stats(FILE *out, const PGresult *result) {
	for (size_t i = 0; i < sizeof(stats) / sizeof(stats[0]); i++) {
		const char *text = find(result, stats[i].stat);

		if (strchr(stats[i].stat, '*') != NULL) {
			write_levels(out, result, i);
		} else if (text != NULL) {
			head(out, stats[i].metric, stats[i].type, stats[i].help);
			fprintf(out, "%s ", stats[i].metric);
			value(out, text, stats[i].unit);
		}
	}
}

static void write_node(FILE *out, const PGresult *result) {
	static const struct {
		const char *metric, *help;
		double unit;
	} columns[] = {
		{"aidb_node_epoch", "The highest epoch that it has seen.", 1},
		{"aidb_node_sealed", "1 when it must not acknowledge commits.", 1},
		{"aidb_replication_applied_sequence", "The primary's commit that this replica has come to.", 1},
		{"aidb_replication_lag_commits", "Commits of the primary that this replica does not have yet.", 1},
		{"aidb_replication_heard_seconds", "Since when this replica has not heard of its primary.", 1e-3},
	};

	if (PQntuples(result) != 1) {
		return;
	}
	head(out, "aidb_node_info", "gauge", "1, with what this server is in its group, and what it is doing.");
	fputs("aidb_node_info{", out);
	label(out, "role", PQgetvalue(result, 0, 0));
	fputc(',', out);
	label(out, "state", PQgetvalue(result, 0, 1));
	fputs("} 1\n", out);
	for (int i = 0; i < (int)(sizeof(columns) / sizeof(columns[0])); i++) {
		if (!PQgetisnull(result, 0, 2 + i)) {
			head(out, columns[i].metric, "gauge", columns[i].help);
			fprintf(out, "%s ", columns[i].metric);
			value(out, PQgetvalue(result, 0, 2 + i), columns[i].unit);
		}
	}
}

/* Buckets of each operation follow each other, the last of which is infinity. */
static void write_durations(FILE *out, const PGresult *result, const char *name, const char *by, const char *help) {
	head(out, name, "histogram", help);
	for (int row = 0; row < PQntuples(result); row++) {
		const char *operation = PQgetvalue(result, row, 0), *count = PQgetvalue(result, row, 2);
		bool last = strcmp(PQgetvalue(result, row, 1), "Infinity") == 0;

		fprintf(out, "%s_bucket{", name);
		label(out, by, operation);
		fputc(',', out);
		label(out, "le", last ? "+Inf" : PQgetvalue(result, row, 1));
		fprintf(out, "} %s\n", count);
		if (last) {
			fprintf(out, "%s_sum{", name);
			label(out, by, operation);
			fprintf(out, "} %s\n%s_count{", PQgetvalue(result, row, 3), name);
			label(out, by, operation);
			fprintf(out, "} %s\n", count);
		}
	}
}

/* A table: columns that are labels, then columns that are metrics. */
typedef struct labelled {
	const char *sql;
	int label_count;
	const char *labels[3];
	int metric_count;
	const char *type;          /* NULL: gauge */
	const char *metrics[4][2]; /* names, and what they are */
} labelled;

static const labelled node[] = {
	{.sql = "SELECT connections, statements, losses, moved FROM aidb.stat_router",
	 .metric_count = 4,
	 .type = "counter",
	 .metrics = {{"aidb_router_connections_total", "Connections to nodes that routers have made."},
				 {"aidb_router_statements_total", "Statements that routers have sent to nodes."},
				 {"aidb_router_losses_total", "Connections to nodes that were lost with something under way."},
				 {"aidb_router_moved_total", "Transactions that were told to repeat since rows have moved."}}},
	{.sql = "SELECT slot, acknowledged, retained_bytes, lost::int FROM aidb.stream_slots() ORDER BY slot",
	 .label_count = 1,
	 .labels = {"slot"},
	 .metric_count = 3,
	 .metrics = {{"aidb_stream_acknowledged_sequence",
				  "The commit up to which a replica or an archive has everything, by slot."},
				 {"aidb_stream_retained_bytes", "Log that is kept for a replica or an archive, by slot."},
				 {"aidb_stream_lost", "1 when the log that a replica needs is not there any more, by slot."}}},
	{.sql = "SELECT extract(epoch FROM finished), extract(epoch FROM finished - started), bytes, stored_bytes"
			" FROM aidb.backup ORDER BY finished DESC LIMIT 1",
	 .metric_count = 4,
	 .metrics = {{"aidb_backup_last_timestamp_seconds", "When the last backup of this server was finished."},
				 {"aidb_backup_last_duration_seconds", "How long it took."},
				 {"aidb_backup_last_bytes", "What it consists of."},
				 {"aidb_backup_last_written_bytes", "What of that had to be written."}}},
};
#define NODE_TABLES (sizeof(node) / sizeof(node[0]))

static const labelled cluster[] = {
	{.sql = "SELECT n.name, coalesce(g.name, ''), CASE WHEN g.primary_id = n.node_id THEN 'primary' WHEN g.in_sync_id ="
			" n.node_id THEN 'in-sync standby' ELSE coalesce(m.role, '') END, (n.state = 'up')::int FROM aidb.node n"
			" LEFT JOIN aidb.member m USING (node_id) LEFT JOIN aidb.node_group g USING (group_id) ORDER BY n.name",
	 .label_count = 3,
	 .labels = {"node", "group", "role"},
	 .metric_count = 1,
	 .metrics = {{"aidb_cluster_node_up", "1 when the coordinator finds the node up."}}},
	{.sql = "SELECT g.name, g.epoch, (g.in_sync_id IS NOT NULL)::int, g.synchronous::int,"
			" (SELECT count(*) FROM aidb.slot s WHERE s.group_id = g.group_id) FROM aidb.node_group g ORDER BY g.name",
	 .label_count = 1,
	 .labels = {"group"},
	 .metric_count = 4,
	 .metrics = {{"aidb_cluster_group_epoch", "The epoch of the group's primary: it grows with each failover."},
				 {"aidb_cluster_group_in_sync", "1 when a standby has all that is acknowledged."},
				 {"aidb_cluster_group_synchronous", "1 when the group is to have such a standby."},
				 {"aidb_cluster_group_slots", "Slots, of 256, whose rows the group keeps."}}},
	{.sql =
		 "SELECT extract(epoch FROM max(until) - clock_timestamp())::float8 FROM aidb.coordinator HAVING count(*) > 0",
	 .metric_count = 1,
	 .metrics = {{"aidb_cluster_lease_seconds",
				  "For how long a coordinator may still act; below zero: none has acted for so long."}}},
	{.sql = "SELECT \"group\", leaving, coming FROM aidb.stat_slots",
	 .label_count = 1,
	 .labels = {"group"},
	 .metric_count = 2,
	 .metrics = {{"aidb_cluster_slots_leaving", "Slots that are being moved from the group."},
				 {"aidb_cluster_slots_coming", "Slots that are being moved to the group."}}},
	{.sql = "SELECT count(*), coalesce(sum(slots), 0), coalesce(sum(bytes), 0), coalesce(sum(hold_ms), 0) / 1000 FROM "
			"aidb.slot_history",
	 .metric_count = 4,
	 .type = "counter",
	 .metrics = {{"aidb_cluster_moves_total", "Moves of slots that are over."},
				 {"aidb_cluster_moved_slots_total", "Slots that they have moved."},
				 {"aidb_cluster_moved_bytes_total", "Bytes that they have copied."},
				 {"aidb_cluster_move_hold_seconds_total", "For how long writes to them had to wait."}}},
	{.sql = "SELECT coalesce(max(extract(epoch FROM clock_timestamp() - started_at)), 0)::float8 FROM aidb.slot_move",
	 .metric_count = 1,
	 .metrics = {{"aidb_cluster_move_age_seconds", "For how long the move that goes on has; 0: none does."}}},
	{.sql = "SELECT g.name, coalesce(a.reads, 0), coalesce(a.latency_ms, 0) / 1000, coalesce(a.hit_rate, 0),"
			" coalesce(extract(epoch FROM clock_timestamp() - a.looked_at), -1)::float8"
			" FROM aidb.autoscale a JOIN aidb.node_group g USING (group_id) ORDER BY g.name",
	 .label_count = 1,
	 .labels = {"group"},
	 .metric_count = 4,
	 .metrics = {{"aidb_autoscale_reads", "Reads per second of the group, as the autoscaler has measured them."},
				 {"aidb_autoscale_latency_seconds", "How long the slowest of its nodes took to answer."},
				 {"aidb_autoscale_hit_ratio", "What part of reads its caching read nodes knew."},
				 {"aidb_autoscale_age_seconds", "When it was looked at last; -1: never."}}},
	{.sql = "SELECT action, count(*) FROM aidb.scaling WHERE NOT dry_run GROUP BY action ORDER BY action",
	 .label_count = 1,
	 .labels = {"action"},
	 .metric_count = 1,
	 .type = "counter",
	 .metrics = {{"aidb_autoscale_actions_total", "Caching read nodes that were added and removed."}}},
	{.sql = "SELECT severity, count(*) FROM aidb.event GROUP BY severity ORDER BY severity",
	 .label_count = 1,
	 .labels = {"severity"},
	 .metric_count = 1,
	 .metrics = {{"aidb_cluster_events", "Events that the catalog has kept."}}},
};
#define CLUSTER_TABLES (sizeof(cluster) / sizeof(cluster[0]))

static void write_labelled(FILE *out, const labelled *of, const PGresult *result) {
	for (int i = 0; i < of->metric_count && PQntuples(result) > 0; i++) {
		head(out, of->metrics[i][0], of->type != NULL ? of->type : "gauge", of->metrics[i][1]);
		for (int row = 0; row < PQntuples(result); row++) {
			fputs(of->metrics[i][0], out);
			for (int j = 0; j < of->label_count; j++) {
				fputc(j == 0 ? '{' : ',', out);
				label(out, of->labels[j], PQgetvalue(result, row, j));
			}
			fprintf(out, "%s %s\n", of->label_count > 0 ? "}" : "", PQgetvalue(result, row, of->label_count + i));
		}
	}
}

/* The questions, in the order in which their answers are written. */
#define FIRST_QUESTIONS 4
#define NODE_QUESTIONS (FIRST_QUESTIONS + NODE_TABLES)
#define QUESTIONS (NODE_QUESTIONS + CLUSTER_TABLES)

static const labelled *table_of(size_t number) {
	return number < NODE_QUESTIONS ? &node[number - FIRST_QUESTIONS] : &cluster[number - NODE_QUESTIONS];
}

static const char *question(size_t number) {
	static const char *const first[FIRST_QUESTIONS] = {STATS, NODE, DURATIONS, ROUTES};

	return number < FIRST_QUESTIONS ? first[number] : table_of(number)->sql;
}

static void write_answer(FILE *out, size_t number, const PGresult *result) {
	if (number == 0) {
		write_stats(out, result);
	} else if (number == 1) {
		write_node(out, result);
	} else if (number == 2) {
		write_durations(out, result, "aidb_engine_duration_seconds", "op",
						"How long commits that wait, syncs of the log, flushes and compactions take.");
	} else if (number == 3) {
		write_durations(out, result, "aidb_router_duration_seconds", "target",
						"How long answers to statements over tables of the cluster take, from primaries and replicas.");
	} else {
		write_labelled(out, table_of(number), result);
	}
}

/* NULL, or why there is no answer. */
static const char *ask_all(PGconn *connection, size_t count, uint64_t deadline_ms, PGresult **results) {
	for (size_t i = 0; i < count; i++) {
		results[i] = aidb_socket_execute(connection, question(i), deadline_ms);
		if (PQresultStatus(results[i]) != PGRES_TUPLES_OK) {
			return results[i] == NULL ? "no answer in time" : PQresultErrorMessage(results[i]);
		}
	}
	return NULL;
}

bool aidb_metrics_collect(PGconn *connection, bool of_cluster, const char *reason, uint64_t deadline_ms,
						  aidb_metrics *metrics) {
	PGresult *results[QUESTIONS] = {NULL};
	size_t count = of_cluster ? QUESTIONS : NODE_QUESTIONS;
	FILE *out = open_memstream(&metrics->text, &metrics->size);
	const char *wrong = reason;

	if (out == NULL) {
		metrics->text = NULL;
		return false;
	}
	if (connection != NULL) {
		wrong = ask_all(connection, count, deadline_ms, results);
	}
	head(out, "aidb_up", "gauge", "1 when the server answers, and has AiDb.");
	fprintf(out, "aidb_up %d\n", wrong == NULL ? 1 : 0);
	if (wrong != NULL) {
		fprintf(out, "# %.*s\n", (int)strcspn(wrong, "\n"), wrong);
	}
	for (size_t i = 0; i < count; i++) {
		if (wrong == NULL) {
			write_answer(out, i, results[i]);
		}
		PQclear(results[i]);
	}
	if (fclose(out) != 0) {
		free(metrics->text);
		metrics->text = NULL;
	}
	return wrong == NULL;
}
