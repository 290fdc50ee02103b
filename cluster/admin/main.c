/*
 * aidb-admin: shows a cluster and changes it, by SQL in the database with its catalog. What it asks for is done by the coordinator.
 */
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "admin/backup.h"
#include "admin/doctor.h"
#include "admin/local.h"
#include "admin/output.h"
#include "admin/scaling.h"

#define MAX_ARGUMENTS 3

static const char help[] =
	"aidb-admin shows an AiDb cluster and changes it.\n"
	"\n"
	"Usage: aidb-admin [OPTION...] COMMAND\n"
	"\n"
	"  cluster init DIRECTORY        makes the coordinator's PostgreSQL there; --port=PORT (5432), "
	"--listen=ADDRESSES,\n"
	"                                --bindir=DIRECTORY of PostgreSQL's programs\n"
	"  cluster start DIRECTORY       starts it, with the coordinator; says where SQL over the cluster is served\n"
	"  cluster stop DIRECTORY        stops both; the nodes go on\n"
	"  cluster status                the same as status\n"
	"  status                        the groups, and the nodes with their roles\n"
	"  node list\n"
	"  node add NAME CONNINFO        makes a server known; AiDb has to be installed there\n"
	"  node remove NAME\n"
	"  group list\n"
	"  group add NAME NODE           a group with this primary; it gets slots by rebalance\n"
	"  group drain NAME              moves all slots of the group to others; --dry-run\n"
	"  group undrain NAME            it may have slots again\n"
	"  group remove NAME             the group, which keeps no slots, is forgotten, and its tables are dropped\n"
	"  rebalance [--dry-run]         moves slots to where the groups' weights want them, while all is in use;\n"
	"                                --slots-per-move=N (16)\n"
	"  replica add GROUP NODE        a standby: the node is copied, and follows the primary\n"
	"  replica add GROUP NODE cache  a caching read node: it remembers rows\n"
	"  replica remove GROUP NODE\n"
	"  slots                         which group keeps how many of the 256 slots, and which\n"
	"  autoscale                     groups with aidb.set_autoscale(): their load, and what was done to their caches\n"
	"  failover GROUP                the in-sync standby becomes the primary; nothing is lost\n"
	"  failover GROUP NODE --allow-data-loss\n"
	"                                another one does, without the commits that it lacks\n"
	"  events [--follow]             what has happened\n"
	"  doctor                        what is wrong with a server, or with a cluster and its nodes, and what to do\n"
	"\n";

static const char help_end[] =
	"\n"
	"  --conninfo=CONNINFO  the database with the cluster's catalog; or environment variable AIDB_CLUSTER\n"
	"  --json               for programs\n"
	"  --watch=SECONDS      shows it again and again\n"
	"  --help, --version\n"
	"\n"
	"Exit status: 0 done, 1 refused or failed, 2 wrong usage.\n";

/* How a command is done. The first words name it; arguments are $1... */
typedef struct command {
	const char *words[2];
	int arguments;
	bool may_lose; /* takes --allow-data-loss as the last argument */
	const char *title;
	const char *sql;
	const char *done; /* what to say instead of a table; NULL: the table */
	const char *also_title;
	const char *also;
} command;

#define GROUPS                                                                                                         \
	"SELECT name, epoch, \"primary\", coalesce(in_sync, '-') AS in_sync, coalesce(other_standbys, '-') AS "            \
	"other_standbys, coalesce(caches, '-') AS caches FROM aidb.groups"
#define NODES                                                                                                          \
	"SELECT name, coalesce(\"group\", '-') AS \"group\", coalesce(role, '-') AS role, state, detail, conninfo FROM "   \
	"aidb.nodes"
#define SLOTS                                                                                                          \
	"SELECT \"group\", sum(n)::int AS slots, round(sum(n) / 2.56, 1) || ' %' AS share,"                                \
	" string_agg(CASE WHEN n = 1 THEN a::text ELSE a || '-' || b END, ' ' ORDER BY a) AS which"                        \
	" FROM (SELECT \"group\", min(slot) AS a, max(slot) AS b, count(*) AS n FROM (SELECT \"group\", slot,"             \
	" slot - row_number() OVER (PARTITION BY \"group\" ORDER BY slot) AS run FROM aidb.slots) s"                       \
	" GROUP BY \"group\", run) r GROUP BY \"group\" ORDER BY \"group\""
#define AUTOSCALE                                                                                                      \
	"SELECT g.name AS \"group\", min_caches AS min, max_caches AS max, (SELECT count(*) FROM aidb.member m WHERE "     \
	"m.group_id = g.group_id AND m.role = 'cache') AS now, target_reads, round(reads) AS reads, "                      \
	"CASE WHEN dry_run THEN 'dry run' ELSE 'acts' END AS mode, coalesce(finding, 'not looked at yet') AS finding "     \
	"FROM aidb.autoscale a JOIN aidb.node_group g USING (group_id) ORDER BY 1"
#define SCALING                                                                                                        \
	"SELECT to_char(at, 'YYYY-MM-DD HH24:MI:SS') AS at, group_name AS \"group\", action, caches AS \"from\", reason "  \
	"FROM aidb.scaling ORDER BY scaling_id DESC LIMIT 20"
#define EVENTS "SELECT to_char(at, 'YYYY-MM-DD HH24:MI:SS') AS at, severity, message FROM aidb.event"

static const command commands[] = {
	{.words = {"cluster", "status"}, .title = "Groups", .sql = GROUPS, .also_title = "Nodes", .also = NODES},
	{.words = {"status"}, .title = "Groups", .sql = GROUPS, .also_title = "Nodes", .also = NODES},
	{.words = {"node", "list"}, .sql = NODES},
	{.words = {"node", "add"}, .arguments = 2, .sql = "SELECT aidb.add_node($1, $2)", .done = "the node is known"},
	{.words = {"node", "remove"},
	 .arguments = 1,
	 .sql = "SELECT aidb.remove_node($1)",
	 .done = "the node is not known any more"},
	{.words = {"group", "list"}, .sql = GROUPS},
	{.words = {"group", "add"},
	 .arguments = 2,
	 .sql = "SELECT aidb.add_group($1, $2)",
	 .done = "the group is known; if there are tables, give it slots with aidb-admin rebalance"},
	{.words = {"group", "undrain"},
	 .arguments = 1,
	 .sql = "SELECT aidb.drain_group($1, false)",
	 .done = "the group may have slots again: aidb-admin rebalance moves them"},
	{.words = {"group", "remove"},
	 .arguments = 1,
	 .sql = "SELECT aidb.remove_group($1)",
	 .done = "the group is forgotten; its nodes stay known"},
	{.words = {"replica", "add"},
	 .arguments = 2,
	 .sql = "SELECT aidb.add_replica($1, $2)",
	 .done = "the coordinator has the node copied; see: aidb-admin status"},
	{.words = {"replica", "add"},
	 .arguments = 3,
	 .sql = "SELECT aidb.add_replica($1, $2, $3)",
	 .done = "the coordinator has the node follow; see: aidb-admin status"},
	{.words = {"replica", "remove"},
	 .arguments = 2,
	 .sql = "SELECT aidb.remove_replica($1, $2)",
	 .done = "the node is in no group any more"},
	{.words = {"slots"}, .sql = SLOTS},
	{.words = {"autoscale"}, .title = "Groups", .sql = AUTOSCALE, .also_title = "What was done", .also = SCALING},
	{.words = {"failover"},
	 .arguments = 1,
	 .sql = "SELECT aidb.failover($1)",
	 .done = "the coordinator changes the primary; see: aidb-admin events"},
	{.words = {"failover"},
	 .arguments = 2,
	 .may_lose = true,
	 .sql = "SELECT aidb.failover($1, $2, $3)",
	 .done = "the coordinator changes the primary; see: aidb-admin events"},
	{.words = {"events"}, .sql = EVENTS " ORDER BY event_id"},
};

typedef struct options {
	const char *conninfo;
	bool json;
	bool follow;
	bool allow_data_loss;
	int watch_s;
	aidb_local_options local;
	aidb_backup_arguments backup;
	unsigned slots_per_move;
	const char *words[8];
	int count;
} options;

static int usage(const char *what) {
	fprintf(stderr, "aidb-admin: %s\nTry aidb-admin --help.\n", what);
	return 2;
}

/* Returns 0, or an exit status + 1. */
static int read_options(int count, char **arguments, options *given) {
	given->conninfo = getenv("AIDB_CLUSTER");
	for (int i = 1; i < count; i++) {
		const char *at = arguments[i];

		if (strcmp(at, "--help") == 0 || strcmp(at, "help") == 0) {
			fputs(help, stdout);
			fputs(aidb_backup_help, stdout);
			fputs(help_end, stdout);
			return 1;
		} else if (strcmp(at, "--version") == 0) {
			puts("aidb-admin 1.0");
			return 1;
		} else if (strncmp(at, "--conninfo=", 11) == 0) {
			given->conninfo = at + 11;
		} else if (strcmp(at, "--json") == 0) {
			given->json = true;
		} else if (strcmp(at, "--follow") == 0) {
			given->follow = true;
		} else if (strcmp(at, "--allow-data-loss") == 0) {
			given->allow_data_loss = true;
		} else if (strncmp(at, "--port=", 7) == 0) {
			given->local.port = at;
		} else if (strncmp(at, "--listen=", 9) == 0) {
			given->local.listen = at;
		} else if (strncmp(at, "--bindir=", 9) == 0) {
			given->local.bindir = at;
		} else if (strncmp(at, "--watch=", 8) == 0 && atoi(at + 8) > 0) {
			given->watch_s = atoi(at + 8);
		} else if (strncmp(at, "--slots-per-move=", 17) == 0 && atoi(at + 17) > 0 && atoi(at + 17) <= 256) {
			given->slots_per_move = (unsigned)atoi(at + 17);
		} else if (aidb_backup_option(at, &given->backup)) {
			continue;
		} else if (strncmp(at, "--", 2) == 0) {
			fprintf(stderr, "aidb-admin: unknown option, or not with this value: %s\nTry aidb-admin --help.\n", at);
			return 3;
		} else if (given->count == (int)(sizeof(given->words) / sizeof(given->words[0]))) {
			return usage("too many words") + 1;
		} else {
			given->words[given->count++] = at;
		}
	}
	return 0;
}

static const command *find_command(const options *given, int *first) {
	for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++) {
		const command *of = &commands[i];
		int words = of->words[1] == NULL ? 1 : 2;

		if (given->count == words + of->arguments && strcmp(given->words[0], of->words[0]) == 0 &&
			(words == 1 || strcmp(given->words[1], of->words[1]) == 0)) {
			*first = words;
			return of;
		}
	}
	return NULL;
}

/* What moves slots: the exit status; -1: the command is another one. */
static int scale(const options *given) {
	bool rebalances = given->count == 1 && strcmp(given->words[0], "rebalance") == 0;
	bool drains = given->count == 3 && strcmp(given->words[0], "group") == 0 && strcmp(given->words[1], "drain") == 0;
	aidb_scaling_arguments arguments = {.conninfo = given->conninfo,
										.drain = drains ? given->words[2] : NULL,
										.dry_run = given->backup.dry_run,
										.json = given->json,
										.slots_per_move = given->slots_per_move};

	if (!rebalances && !drains) {
		return -1;
	}
	return given->conninfo != NULL ? aidb_scaling_run(&arguments) : usage("give --conninfo, or set AIDB_CLUSTER");
}

/* What is done to the coordinator of a directory of this machine. */
static int (*find_local(const char *word))(const char *directory, const aidb_local_options *options) {
	return strcmp(word, "init") == 0    ? aidb_local_init
		   : strcmp(word, "start") == 0 ? aidb_local_start
		   : strcmp(word, "stop") == 0  ? aidb_local_stop
										: NULL;
}

static PGconn *connect_to(const char *conninfo) {
	PGconn *connection = PQconnectdb(conninfo);

	if (PQstatus(connection) != CONNECTION_OK) {
		fprintf(stderr,
				"aidb-admin: cannot connect to the cluster's catalog: %sCheck --conninfo or AIDB_CLUSTER, and that the "
				"server is up.\n",
				PQerrorMessage(connection));
		PQfinish(connection);
		return NULL;
	}
	return connection;
}

/* The statement's result; NULL: refused, and said why. */
static PGresult *query(PGconn *connection, const char *sql, int count, const char *const *values) {
	PGresult *result = PQexecParams(connection, sql, count, NULL, values, NULL, NULL, 0);
	const char *hint;

	if (PQresultStatus(result) == PGRES_TUPLES_OK) {
		return result;
	}
	hint = PQresultErrorField(result, PG_DIAG_MESSAGE_HINT);
	fprintf(stderr, "aidb-admin: %s\n",
			PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY) == NULL
				? PQerrorMessage(connection)
				: PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY));
	if (hint != NULL) {
		fprintf(stderr, "%s\n", hint);
	} else if (PQresultErrorField(result, PG_DIAG_SQLSTATE) != NULL &&
			   strcmp(PQresultErrorField(result, PG_DIAG_SQLSTATE), "3F000") == 0) {
		fputs("Is extension aidb installed in this database?\n", stderr);
	}
	PQclear(result);
	return NULL;
}

static void print(const options *given, const char *title, const PGresult *result) {
	if (given->json) {
		aidb_print_json(stdout, result);
		return;
	}
	if (title != NULL) {
		printf("%s\n", title);
	}
	aidb_print_table(stdout, result);
}

static int run(PGconn *connection, const options *given, const command *of, int first) {
	const char *values[MAX_ARGUMENTS] = {NULL};
	PGresult *result;

	for (int i = 0; i < of->arguments; i++) {
		values[i] = given->words[first + i];
	}
	if (of->may_lose) {
		values[of->arguments] = given->allow_data_loss ? "true" : "false";
	}
	result = query(connection, of->sql, of->arguments + (of->may_lose ? 1 : 0), values);
	if (result == NULL) {
		return 1;
	}
	if (of->done != NULL) {
		puts(of->done);
	} else {
		print(given, of->title, result);
	}
	PQclear(result);
	if (of->also != NULL) {
		result = query(connection, of->also, 0, NULL);
		if (result == NULL) {
			return 1;
		}
		if (!given->json) {
			puts("");
		}
		print(given, of->also_title, result);
		PQclear(result);
	}
	fflush(stdout);
	return 0;
}

/* Waits for events, as they are notified. */
static int follow_events(PGconn *connection) {
	PGresult *result = PQexec(connection, "LISTEN aidb_events");
	struct pollfd socket = {.fd = PQsocket(connection), .events = POLLIN};

	PQclear(result);
	while (PQstatus(connection) == CONNECTION_OK) {
		PGnotify *notify;

		if (poll(&socket, 1, -1) < 0 || PQconsumeInput(connection) == 0) {
			break;
		}
		while ((notify = PQnotifies(connection)) != NULL) {
			puts(notify->extra);
			fflush(stdout);
			PQfreemem(notify);
		}
	}
	fputs("aidb-admin: lost the connection to the catalog\n", stderr);
	return 1;
}

int main(int count, char **arguments) {
	options given = {.json = false, .backup = AIDB_BACKUP_ARGUMENTS};
	int status = read_options(count, arguments, &given);
	const command *of;
	PGconn *connection;
	int first = 0;

	if (status != 0) {
		return status - 1;
	}
	if (given.count == 0) {
		return usage("give a command");
	}
	given.backup.conninfo = given.conninfo;
	given.backup.json = given.json;
	given.backup.bindir = given.local.bindir != NULL ? given.local.bindir + strlen("--bindir=") : NULL;
	if (given.count >= 2 && strcmp(given.words[0], "cluster") == 0 && aidb_cluster_backup_command(given.words[1])) {
		return aidb_cluster_backup_run(given.words + 1, given.count - 1, &given.backup);
	}
	if (given.count == 3 && strcmp(given.words[0], "cluster") == 0) {
		int (*act)(const char *directory, const aidb_local_options *options) = find_local(given.words[1]);

		return act != NULL ? act(given.words[2], &given.local) : usage("cluster can init, start, stop or status");
	}
	if (aidb_backup_command(given.words[0])) {
		return aidb_backup_run(given.words, given.count, &given.backup);
	}
	if (strcmp(given.words[0], "doctor") == 0 && given.count == 1) {
		return aidb_doctor(given.conninfo != NULL ? given.conninfo : "", given.json);
	}
	status = scale(&given);
	if (status >= 0) {
		return status;
	}
	of = find_command(&given, &first);
	if (of == NULL) {
		return usage("no such command, or not with so many words");
	}
	if (given.conninfo == NULL) {
		return usage("give --conninfo, or set AIDB_CLUSTER");
	}
	connection = connect_to(given.conninfo);
	if (connection == NULL) {
		return 1;
	}
	do {
		if (given.watch_s > 0 && !given.json) {
			fputs("\033[H\033[2J", stdout);
		}
		status = run(connection, &given, of, first);
		if (status == 0 && given.follow) {
			status = follow_events(connection);
		}
	} while (status == 0 && given.watch_s > 0 && sleep((unsigned)given.watch_s) == 0);
	PQfinish(connection);
	return status;
}
