/*
 * aidb_exporter: metrics of one server with AiDb over HTTP, for Prometheus.
 */
#include <arpa/inet.h>
#include <getopt.h>
#include <microhttpd.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/socket.h"
#include "exporter/metrics.h"

#define DEFAULT_PORT 9187
#define TIMEOUT_MS 5000u /* half of what Prometheus waits for by default */
#define CONNECTIONS 16u  /* of HTTP, at a time */
#define IDLE_S 30u

static const char help[] =
	"aidb_exporter serves metrics of one server with AiDb over HTTP, as Prometheus reads them.\n"
	"\n"
	"Usage: aidb_exporter --conninfo=CONNINFO [OPTION...]\n"
	"\n"
	"  --conninfo=CONNINFO     the server, and the database with extension aidb\n"
	"  --cluster               that database has the catalog of a cluster: tells of its groups and nodes, too\n"
	"  --listen=ADDRESS:PORT   (127.0.0.1:9187); port 0: a free one, which is printed\n"
	"  --help, --version\n"
	"\n"
	"Metrics are at /metrics. The role that it connects as needs EXECUTE on functions "
	"aidb.stats, aidb.node_status and\n"
	"aidb.stream_slots; with --cluster SELECT on the tables of the catalog. While the server does not answer, aidb_up "
	"is 0.\n";

/* The library serves one request at a time: it has one thread. */
typedef struct exporter {
	const char *conninfo;
	bool of_cluster;    /* it has the catalog */
	PGconn *connection; /* kept from one request to the next; NULL: none */
} exporter;

static void collect(exporter *self, aidb_metrics *metrics) {
	uint64_t deadline_ms = aidb_socket_now_ms() + TIMEOUT_MS;
	char *error = NULL;

	for (int attempt = 0; attempt < 2; attempt++) {
		bool kept = self->connection != NULL;

		if (!kept) {
			self->connection =
				aidb_socket_connect(self->conninfo, "-c application_name=aidb_exporter", deadline_ms, &error);
		}
		if (aidb_metrics_collect(self->connection, self->of_cluster, error != NULL ? error : "out of memory",
								 deadline_ms, metrics)) {
			break;
		}
		PQfinish(self->connection);
		self->connection = NULL;
		if (!kept || attempt == 1) {
			break; /* else it may have been lost since the last request */
		}
		free(metrics->text);
	}
	free(error);
}

static enum MHD_Result reply(struct MHD_Connection *http, unsigned status, const char *type, char *text, size_t size,
							 enum MHD_ResponseMemoryMode mode) {
	struct MHD_Response *response = MHD_create_response_from_buffer(size, text, mode);
	enum MHD_Result queued;

	if (response == NULL) {
		return MHD_NO;
	}
	MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, type);
	queued = MHD_queue_response(http, status, response);
	MHD_destroy_response(response);
	return queued;
}

static enum MHD_Result answer(void *argument, struct MHD_Connection *http, const char *url, const char *method,
							  const char *version, const char *upload, size_t *upload_size, void **request) {
	static char page[] = "AiDb's metrics are at /metrics\n", nothing[] = "There is nothing here; try /metrics\n";
	aidb_metrics metrics = {0};

	(void)version;
	(void)upload;
	(void)upload_size;
	(void)request;
	if (strcmp(method, MHD_HTTP_METHOD_GET) != 0 && strcmp(method, MHD_HTTP_METHOD_HEAD) != 0) {
		return reply(http, MHD_HTTP_METHOD_NOT_ALLOWED, "text/plain", nothing, strlen(nothing), MHD_RESPMEM_PERSISTENT);
	}
	if (strcmp(url, "/") == 0) {
		return reply(http, MHD_HTTP_OK, "text/plain", page, strlen(page), MHD_RESPMEM_PERSISTENT);
	}
	if (strcmp(url, "/metrics") != 0) {
		return reply(http, MHD_HTTP_NOT_FOUND, "text/plain", nothing, strlen(nothing), MHD_RESPMEM_PERSISTENT);
	}
	collect(argument, &metrics);
	return metrics.text == NULL ? MHD_NO
								: reply(http, MHD_HTTP_OK, "text/plain; version=0.0.4; charset=utf-8", metrics.text,
										metrics.size, MHD_RESPMEM_MUST_FREE);
}

/* "ADDRESS:PORT" of IPv4. */
static bool read_address(const char *text, struct sockaddr_in *address) {
	const char *colon = strrchr(text, ':');
	char host[INET_ADDRSTRLEN] = "", *end = NULL;
	unsigned long port = colon != NULL ? strtoul(colon + 1, &end, 10) : 65536;

	if (colon == NULL || (size_t)(colon - text) >= sizeof(host) || end == colon + 1 || *end != '\0' || port > 65535) {
		return false;
	}
	memcpy(host, text, (size_t)(colon - text));
	*address = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
	return inet_pton(AF_INET, host, &address->sin_addr) == 1;
}

/* Returns 0, or the exit status + 1 when there is nothing more to do. */
static int read_options(int count, char **arguments, exporter *self, struct sockaddr_in *address) {
	static const struct option known[] = {
		{"conninfo", required_argument, NULL, 'c'}, {"cluster", no_argument, NULL, 'g'},
		{"listen", required_argument, NULL, 'l'},   {"help", no_argument, NULL, 'h'},
		{"version", no_argument, NULL, 'v'},        {NULL, 0, NULL, 0}};
	int option;

	while ((option = getopt_long(count, arguments, "", known, NULL)) != -1) {
		switch (option) {
		case 'c':
			self->conninfo = optarg;
			break;
		case 'l':
			if (!read_address(optarg, address)) {
				fprintf(stderr, "aidb_exporter: --listen=%s: give an IPv4 address and a port, such as 0.0.0.0:9187\n",
						optarg);
				return 3;
			}
			break;
		case 'g':
			self->of_cluster = true;
			break;
		case 'h':
			fputs(help, stdout);
			return 1;
		case 'v':
			puts("aidb_exporter 1.0");
			return 1;
		default:
			fputs("Try --help.\n", stderr);
			return 3;
		}
	}
	if (self->conninfo == NULL || optind < count) {
		fputs("aidb_exporter: give --conninfo, and nothing else than options. Try --help.\n", stderr);
		return 3;
	}
	return 0;
}

/* Until it is told to end. */
static void wait_for_end(const sigset_t *ends) {
	int signal;

	while (sigwait(ends, &signal) != 0) {}
}

int main(int count, char **arguments) {
	struct sockaddr_in address = {
		.sin_family = AF_INET, .sin_port = htons(DEFAULT_PORT), .sin_addr = {htonl(INADDR_LOOPBACK)}};
	exporter self = {0};
	int status = read_options(count, arguments, &self, &address);
	struct MHD_Daemon *daemon;
	sigset_t ends;

	if (status != 0) {
		return status - 1;
	}
	signal(SIGPIPE, SIG_IGN);
	sigemptyset(&ends);
	sigaddset(&ends, SIGTERM);
	sigaddset(&ends, SIGINT);
	sigprocmask(SIG_BLOCK, &ends, NULL);
	daemon = MHD_start_daemon(MHD_USE_INTERNAL_POLLING_THREAD, 0, NULL, NULL, answer, &self, MHD_OPTION_SOCK_ADDR,
							  &address, MHD_OPTION_CONNECTION_LIMIT, CONNECTIONS, MHD_OPTION_CONNECTION_TIMEOUT, IDLE_S,
							  MHD_OPTION_END);
	if (daemon == NULL) {
		perror("aidb_exporter: cannot listen");
		return 1;
	}
	printf("metrics are at port %u\n", (unsigned)MHD_get_daemon_info(daemon, MHD_DAEMON_INFO_BIND_PORT)->port);
	fflush(stdout);
	wait_for_end(&ends);
	MHD_stop_daemon(daemon);
	PQfinish(self.connection);
	return 0;
}
