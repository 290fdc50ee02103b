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
	"\n"
	"  --conninfo=CONNINFO  the database with the cluster's catalog, where extension aidb is installed\n"
	"  --name=NAME          of this coordinator (host and process id); of several, one acts\n"
	"  --interval=MS        between two questions to a node (500)\n"
	"  --timeout=MS         for an answer (1000)\n"
	"  --retries=N          answers that fail in a row before a node counts as down (3)\n"
	"  --lease=MS           for how long a primary may serve reads unasked (3000)\n"
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
static int read_options(int count, char **arguments, aidb_coordinator_options *options) {
	static const struct option known[] = {
		{"conninfo", required_argument, NULL, 'c'}, {"name", required_argument, NULL, 'n'},
		{"interval", required_argument, NULL, 'i'}, {"timeout", required_argument, NULL, 't'},
		{"retries", required_argument, NULL, 'r'},  {"lease", required_argument, NULL, 'l'},
		{"quiet", no_argument, NULL, 'q'},          {"help", no_argument, NULL, 'h'},
		{"version", no_argument, NULL, 'v'},        {NULL, 0, NULL, 0}};
	bool fine = true;
	int option;

	while (fine && (option = getopt_long(count, arguments, "", known, NULL)) != -1) {
		switch (option) {
		case 'c':
			options->conninfo = optarg;
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
	if (fine && (options->conninfo == NULL || optind < count)) {
		fputs("aidb_coordinator: give --conninfo, and nothing else than options. Try --help.\n", stderr);
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

int main(int count, char **arguments) {
	char host[128] = "", name[192];
	aidb_coordinator_options options = {
		.name = name, .interval_ms = 500, .timeout_ms = 1000, .retries = 3, .lease_ms = 3000};
	aidb_coordinator *coordinator;
	int status = read_options(count, arguments, &options);

	if (status != 0) {
		return status - 1;
	}
	gethostname(host, sizeof(host) - 1);
	snprintf(name, sizeof(name), "%s/%ld", host, (long)getpid());
	signal(SIGTERM, stop);
	signal(SIGINT, stop);
	signal(SIGPIPE, SIG_IGN);
	coordinator = aidb_coordinator_create(&options);
	if (coordinator == NULL) {
		fputs("aidb_coordinator: out of memory\n", stderr);
		return 1;
	}
	status = run(coordinator);
	aidb_coordinator_destroy(coordinator);
	return status;
}
