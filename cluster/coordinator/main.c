/*
 * aidb_coordinator: watches the nodes of a cluster and keeps each group with a primary and a standby in sync.
 */
#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "coordinator/coordinator.h"
#include "coordinator/local_server.h"

#ifndef AIDB_BINDIR
#define AIDB_BINDIR "/usr/lib/postgresql/15/bin"
#endif
#define MAX_SOCKETS 520u
#define TICK_MS 100

static volatile sig_atomic_t stopping = 0;

static void stop(int signal) {
	(void)signal;
	stopping = 1;
}

static const char help[] =
	"aidb_coordinator watches the nodes of an AiDb cluster: it asks each how it is, lets standbys follow and come in\n"
	"sync, and when a primary is lost makes the standby that has every acknowledged commit the primary.\n"
	"\n"
	"Usage: aidb_coordinator --conninfo=CONNINFO [OPTION...]\n"
	"       aidb_coordinator --data=DIRECTORY [OPTION...]\n"
	"\n"
	"  --conninfo=CONNINFO  the database with the cluster's catalog, where extension aidb is installed\n"
	"  --data=DIRECTORY     a PostgreSQL server for the catalog, made here if there is none: it is started and "
	"stopped\n"
	"                       with the coordinator, and serves SQL over the cluster. For a server that is made:\n"
	"    --port=PORT          (5432)\n"
	"    --listen=ADDRESSES   besides the socket in the directory; such as '*' (none)\n"
	"    --bindir=DIRECTORY   of PostgreSQL's programs (" AIDB_BINDIR ")\n"
	"    --init               makes the server, and ends\n"
	"  --name=NAME          of this coordinator (host and process id); of several, one acts\n"
	"  --interval=MS        between two questions to a node (500)\n"
	"  --timeout=MS         for an answer (1000)\n"
	"  --retries=N          answers that fail in a row before a node counts as down (3)\n"
	"  --lease=MS           for how long a primary may serve reads unasked (3000)\n"
	"  --scale-command=FILE a program that makes and removes servers, for groups with aidb.set_autoscale(): FILE add "
	"GROUP\n"
	"                       writes a line NAME CONNINFO, FILE remove GROUP NAME is called when one is not used any "
	"more\n"
	"  --scale-interval=MS  between two measurements of the load of such groups (5000)\n"
	"  --quiet              logs warnings and alerts only\n"
	"  --help, --version\n"
	"\n"
	"The cluster is described in SQL, in that database:\n"
	"\n"
	"  SELECT aidb.add_node('a', 'host=10.0.0.1 dbname=app'), aidb.add_node('b', 'host=10.0.0.2 dbname=app');\n"
	"  SELECT aidb.add_group('one', 'a');          -- a becomes its primary\n"
	"  SELECT aidb.add_replica('one', 'b');        -- b is copied, follows, and comes in sync\n"
	"  TABLE aidb.groups; TABLE aidb.nodes; TABLE aidb.events;\n"
	"  SELECT aidb.failover('one');                -- changes places\n"
	"\n"
	"Events are also notified on channel aidb_events. Stop it with SIGTERM; nothing is lost while it is away.\n";

static bool read_number(const char *option, const char *text, uint32_t low, uint32_t high, uint32_t *number) {
	char *end;
	unsigned long value = strtoul(text, &end, 10);

	if (end == text || *end != '\0' || value < low || value > high) {
		fprintf(stderr, "aidb_coordinator: --%s=%s: give a number from %u to %u\n", option, text, low, high);
		return false;
	}
	*number = (uint32_t)value;
	return true;
}

/* Returns 0, or the exit status + 1 when there is nothing more to do. */
static int read_options(int count, char **arguments, aidb_coordinator_options *options, aidb_local_server *server,
						bool *init) {
	static const struct option known[] = {{"data", required_argument, NULL, 'd'},
										  {"port", required_argument, NULL, 'p'},
										  {"listen", required_argument, NULL, 'a'},
										  {"bindir", required_argument, NULL, 'b'},
										  {"init", no_argument, NULL, 'I'},
										  {"conninfo", required_argument, NULL, 'c'},
										  {"name", required_argument, NULL, 'n'},
										  {"interval", required_argument, NULL, 'i'},
										  {"timeout", required_argument, NULL, 't'},
										  {"retries", required_argument, NULL, 'r'},
										  {"lease", required_argument, NULL, 'l'},
										  {"scale-command", required_argument, NULL, 's'},
										  {"scale-interval", required_argument, NULL, 'S'},
										  {"quiet", no_argument, NULL, 'q'},
										  {"help", no_argument, NULL, 'h'},
										  {"version", no_argument, NULL, 'v'},
										  {NULL, 0, NULL, 0}};
	bool fine = true;
	int option;

	while (fine && (option = getopt_long(count, arguments, "", known, NULL)) != -1) {
		switch (option) {
		case 'c':
			options->conninfo = optarg;
			break;
		case 'd':
			server->directory = optarg;
			break;
		case 'p':
			fine = read_number("port", optarg, 1, 65535, &server->port);
			break;
		case 'a':
			server->listen = optarg;
			break;
		case 'b':
			server->bindir = optarg;
			break;
		case 'I':
			*init = true;
			break;
		case 'n':
			options->name = optarg;
			break;
		case 'i':
			fine = read_number("interval", optarg, 50, 60000, &options->interval_ms);
			break;
		case 't':
			fine = read_number("timeout", optarg, 50, 60000, &options->timeout_ms);
			break;
		case 'r':
			fine = read_number("retries", optarg, 1, 100, &options->retries);
			break;
		case 'l':
			fine = read_number("lease", optarg, 500, 60000, &options->lease_ms);
			break;
		case 's':
			options->scale_command = optarg;
			break;
		case 'S':
			fine = read_number("scale-interval", optarg, 100, 600000, &options->scale_interval_ms);
			break;
		case 'q':
			options->quiet = true;
			break;
		case 'h':
			fputs(help, stdout);
			return 1;
		case 'v':
			puts("aidb_coordinator 1.0");
			return 1;
		default:
			fputs("Try --help.\n", stderr);
			return 2;
		}
	}
	if (fine && ((options->conninfo == NULL) == (server->directory == NULL) || optind < count)) {
		fputs("aidb_coordinator: give --conninfo or --data, and nothing else than options. Try --help.\n", stderr);
		fine = false;
	}
	return fine ? 0 : 2;
}

static int run(aidb_coordinator *coordinator) {
	static struct pollfd sockets[MAX_SOCKETS];

	while (!stopping) {
		uint32_t count;

		aidb_coordinator_step(coordinator);
		count = aidb_coordinator_sockets(coordinator, sockets, MAX_SOCKETS);
		if (poll(sockets, count, TICK_MS) < 0 && errno != EINTR) {
			fprintf(stderr, "aidb_coordinator: cannot wait: %s\n", strerror(errno));
			return 1;
		}
	}
	return 0;
}

static int coordinate(const aidb_coordinator_options *options) {
	aidb_coordinator *coordinator = aidb_coordinator_create(options);
	int status;

	if (coordinator == NULL) {
		fputs("aidb_coordinator: out of memory\n", stderr);
		return 1;
	}
	status = run(coordinator);
	aidb_coordinator_destroy(coordinator);
	return status;
}

/* With a server of its own for the catalog. */
static int coordinate_here(aidb_coordinator_options *options, aidb_local_server *server, bool init) {
	char conninfo[AIDB_CONNINFO_BYTES];
	int status = 1;

	if (aidb_local_server_lock(server) && aidb_local_server_create(server)) {
		aidb_local_server_conninfo(server, conninfo);
		options->conninfo = conninfo;
		if (init) {
			status = 0;
		} else if (aidb_local_server_start(server)) {
			printf("SQL over the cluster is served at: %s\n", conninfo);
			fflush(stdout);
			status = coordinate(options);
		}
	}
	aidb_local_server_close(server);
	options->conninfo = NULL;
	return status;
}

int main(int count, char **arguments) {
	char host[128] = "", name[192];
	aidb_local_server server = {.bindir = AIDB_BINDIR, .listen = "", .lock = -1};
	bool init = false;
	aidb_coordinator_options options = {.name = name,
										.interval_ms = 500,
										.timeout_ms = 1000,
										.retries = 3,
										.lease_ms = 3000,
										.scale_interval_ms = 5000};
	int status = read_options(count, arguments, &options, &server, &init);

	if (status != 0) {
		return status - 1;
	}
	gethostname(host, sizeof(host) - 1);
	snprintf(name, sizeof(name), "%s/%ld", host, (long)getpid());
	signal(SIGTERM, stop);
	signal(SIGINT, stop);
	signal(SIGPIPE, SIG_IGN);
	return server.directory != NULL ? coordinate_here(&options, &server, init) : coordinate(&options);
}
