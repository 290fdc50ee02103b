#define _GNU_SOURCE 1
#include "admin/backup.h"

#include <inttypes.h>
#include <libpq-fe.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "admin/output.h"
#include "backup/backup.h"
#include "backup/restore.h"
#include "backup/retention.h"
#include "backup/verify.h"
#include "object_store/failure.h"

#define TIME_BYTES 40
#define CONNINFO_BYTES 2048
#define ADDRESS_BYTES 2048
#define FIRST_NAP_S 1u
#define LAST_NAP_S 30u
#define SINCE_2000_US 946684800000000ull

const char aidb_backup_help[] =
	"  backup                        backs up the AiDb tables of a server: what the repository has not yet\n"
	"  archive                       archives what is committed, as it comes; takes a backup first if there is none\n"
	"                                of this server; --every=SECONDS (5) a piece is written, --once: what there is\n"
	"  restore DIRECTORY             makes a server there from the latest state, or as it was\n"
	"                                --to-point=NAME, --to-time='2026-11-27 06:10:05', --to-sequence=NUMBER;\n"
	"                                --backup=LABEL to begin with, --before=FILE of SQL that makes types and so on,\n"
	"                                --bindir=DIRECTORY of PostgreSQL's programs\n"
	"  info                          the backups, and how far the archived log goes\n"
	"  verify [--quick]              whether all in the repository is what was written\n"
	"  expire --keep-backups=N       removes backups but the newest N, or --keep-days=N those not needed for so many\n"
	"                                days; --dry-run says which\n"
	"  point NAME                    a restore point: a name for the present state of the server\n"
	"  cluster backup|info|verify    the same for all groups of a cluster, with its catalog; --conninfo is that of the "
	"catalog\n"
	"  cluster point NAME            a restore point on all groups, while definitions of tables stay as they are\n"
	"  cluster restore-catalog       the catalog of the last cluster backup, into a new coordinator's database\n"
	"      --repo=REPOSITORY         of these: a directory, or s3://BUCKET/PREFIX; or environment variable\n"
	"                                AIDB_REPOSITORY. For S3: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY or\n"
	"                                ~/.aws/credentials; AWS_REGION, AWS_ENDPOINT_URL\n"
	"      --conninfo=CONNINFO       of the server; or with --group=NAME of the cluster: the primary of that group,\n"
	"                                and what stands below NAME in the repository\n"
	"      --jobs=N (2), --rate=MB   files at the same time; megabytes a second at most\n";

/* ---- Options --------------------------------------------------------------------------------------------- */

static bool take_text(const char *option, const char *name, const char **value) {
	size_t length = strlen(name);

	if (strncmp(option, name, length) != 0 || option[length] == '\0') {
		return false;
	}
	*value = option + length;
	return true;
}

static bool take_number(const char *option, const char *name, unsigned low, unsigned high, unsigned *value) {
	const char *text;
	char *end;
	unsigned long number;

	if (!take_text(option, name, &text)) {
		return false;
	}
	number = strtoul(text, &end, 10);
	if (*end != '\0' || number < low || number > high) {
		return false;
	}
	*value = (unsigned)number;
	return true;
}

static bool take_flag(const char *option, const char *name, bool *value) {
	if (strcmp(option, name) != 0) {
		return false;
	}
	*value = true;
	return true;
}

bool aidb_backup_option(const char *option, aidb_backup_arguments *given) {
	unsigned megabytes;

	if (take_number(option, "--rate=", 1, 1000000, &megabytes)) {
		given->rate_bytes = (uint64_t)megabytes * 1000000;
		return true;
	}
	return take_text(option, "--repo=", &given->repository) || take_text(option, "--group=", &given->group) ||
		   take_text(option, "--slot=", &given->slot) || take_text(option, "--backup=", &given->label) ||
		   take_text(option, "--before=", &given->before) || take_text(option, "--to-time=", &given->to_time) ||
		   take_text(option, "--to-sequence=", &given->to_sequence) ||
		   take_text(option, "--to-point=", &given->to_point) ||
		   take_number(option, "--jobs=", 1, AIDB_MAX_JOBS, &given->jobs) ||
		   take_number(option, "--keep-backups=", 1, 1000000, &given->keep_backups) ||
		   take_number(option, "--keep-days=", 1, 36500, &given->keep_days) ||
		   take_number(option, "--every=", 1, 86400, &given->every_s) ||
		   take_flag(option, "--dry-run", &given->dry_run) || take_flag(option, "--quick", &given->quick) ||
		   take_flag(option, "--keep", &given->keep) || take_flag(option, "--once", &given->once);
}

/* ---- Saying ---------------------------------------------------------------------------------------------- */

static int complain(void) {
	fprintf(stderr, "aidb-admin: %s\n", aidb_failure());
	return 1;
}

static int usage(const char *what) {
	fprintf(stderr, "aidb-admin: %s\nTry aidb-admin --help.\n", what);
	return 2;
}

/* Of microseconds since 1970. */
static const char *time_text(uint64_t us, char text[TIME_BYTES]) {
	time_t seconds = (time_t)(us / 1000000);
	struct tm parts;

	gmtime_r(&seconds, &parts);
	strftime(text, TIME_BYTES, "%Y-%m-%d %H:%M:%SZ", &parts);
	return text;
}

static const char *size_text(uint64_t bytes, char text[TIME_BYTES]) {
	if (bytes < 10000) {
		snprintf(text, TIME_BYTES, "%" PRIu64 " B", bytes);
	} else if (bytes < 10000000) {
		snprintf(text, TIME_BYTES, "%.1f kB", (double)bytes / 1e3);
	} else if (bytes < 10000000000) {
		snprintf(text, TIME_BYTES, "%.1f MB", (double)bytes / 1e6);
	} else {
		snprintf(text, TIME_BYTES, "%.1f GB", (double)bytes / 1e9);
	}
	return text;
}

/* A line with the time, for a log. */
static void say(const char *format, ...) AIDB_PRINTF(1, 2);

static void say(const char *format, ...) {
	char text[TIME_BYTES];
	va_list arguments;

	printf("%s  ", time_text((uint64_t)time(NULL) * 1000000, text));
	va_start(arguments, format);
	vprintf(format, arguments);
	va_end(arguments);
	putchar('\n');
	fflush(stdout);
}

/* ---- Server and repository ------------------------------------------------------------------------------- */

/* Of a group, the present primary's. */
static aidb_status find_server(const aidb_backup_arguments *given, char conninfo[CONNINFO_BYTES]) {
	const char *values[1] = {given->group};
	PGconn *catalog;
	PGresult *result;
	aidb_status rc = AIDB_OK;

	if (given->group == NULL) {
		snprintf(conninfo, CONNINFO_BYTES, "%s", given->conninfo != NULL ? given->conninfo : "");
		return AIDB_OK;
	}
	catalog = PQconnectdb(given->conninfo != NULL ? given->conninfo : "");
	if (PQstatus(catalog) != CONNECTION_OK) {
		rc = aidb_fail(AIDB_IO, "cannot connect to the cluster's catalog: %s", PQerrorMessage(catalog));
		PQfinish(catalog);
		return rc;
	}
	result = PQexecParams(catalog,
						  "SELECT n.conninfo FROM aidb.node_group g JOIN aidb.node n ON n.node_id = g.primary_id WHERE "
						  "g.name = $1",
						  1, NULL, values, NULL, NULL, 0);
	if (PQresultStatus(result) != PGRES_TUPLES_OK) {
		rc = aidb_fail(AIDB_IO, "cannot read the cluster's catalog: %s", PQresultErrorMessage(result));
	} else if (PQntuples(result) != 1) {
		rc = aidb_fail(AIDB_NOT_FOUND, "there is no group \"%s\"; see: aidb-admin group list", given->group);
	} else {
		snprintf(conninfo, CONNINFO_BYTES, "%s", PQgetvalue(result, 0, 0));
	}
	PQclear(result);
	PQfinish(catalog);
	return rc;
}

static void find_repository(const aidb_backup_arguments *given, char address[ADDRESS_BYTES]) {
	size_t length = strlen(given->repository);

	snprintf(address, ADDRESS_BYTES, "%s%s%s", given->repository,
			 given->group != NULL && length > 0 && given->repository[length - 1] != '/' ? "/" : "",
			 given->group != NULL ? given->group : "");
}

static aidb_backup_options options_of(const aidb_backup_arguments *given, const char *conninfo, const char *address) {
	return (aidb_backup_options){.conninfo = conninfo,
								 .address = address,
								 .slot = given->slot != NULL ? given->slot : AIDB_ARCHIVE_SLOT,
								 .copy = {.jobs = given->jobs, .rate_bytes = given->rate_bytes},
								 .show_progress = isatty(STDERR_FILENO) && !given->json};
}

/* ---- backup ---------------------------------------------------------------------------------------------- */

static void print_taken(const aidb_manifest *manifest, const char *address) {
	char bytes[TIME_BYTES], stored[TIME_BYTES];

	printf("backup %s of database %s is in %s: %u files, %s, of which %s were new\n", manifest->label,
		   manifest->database, address, manifest->file_count, size_text(aidb_manifest_bytes(manifest), bytes),
		   size_text(manifest->stored_bytes, stored));
}

/* With the archiver of this process, unless another has the slot. */
static aidb_status take_backup(const aidb_backup_options *options, aidb_repository *repository,
							   aidb_manifest *manifest) {
	aidb_archiver *archiver = calloc(1, sizeof(*archiver));
	aidb_source *source = NULL;
	aidb_status rc =
		archiver == NULL ? aidb_fail(AIDB_NO_MEMORY, "out of memory") : aidb_source_connect(options->conninfo, &source);

	if (rc == AIDB_OK) {
		rc = aidb_archiver_begin(archiver, repository, source, options->slot);
		if (rc == AIDB_OK || rc == AIDB_IN_USE) {
			rc = aidb_backup_take(options, repository, rc == AIDB_OK ? archiver : NULL, manifest);
		}
		aidb_archiver_end(archiver);
	}
	aidb_source_close(source);
	free(archiver);
	return rc;
}

static int run_backup(const aidb_backup_arguments *given) {
	char conninfo[CONNINFO_BYTES], address[ADDRESS_BYTES];
	aidb_backup_options options;
	aidb_repository repository;
	aidb_manifest manifest;
	aidb_status rc = find_server(given, conninfo);

	if (rc != AIDB_OK) {
		return complain();
	}
	find_repository(given, address);
	options = options_of(given, conninfo, address);
	rc = aidb_repository_open(address, &repository);
	if (rc == AIDB_OK) {
		rc = take_backup(&options, &repository, &manifest);
		aidb_repository_close(&repository);
	}
	if (rc != AIDB_OK) {
		return complain();
	}
	print_taken(&manifest, address);
	aidb_manifest_free(&manifest);
	return 0;
}

/* ---- archive --------------------------------------------------------------------------------------------- */

static volatile sig_atomic_t ending = 0;

static void end(int signal_number) {
	(void)signal_number;
	ending = 1;
}

/* Whether the repository has a backup from which the archive goes on. */
static aidb_status needs_backup(aidb_repository *repository, const aidb_archiver *archiver, bool *needs) {
	aidb_labels labels;
	aidb_status rc = aidb_repository_labels(repository, &labels);

	*needs = true;
	for (uint32_t i = labels.count; i > 0 && rc == AIDB_OK && *needs; i--) {
		aidb_manifest manifest;

		rc = aidb_repository_load(repository, labels.labels[i - 1], &manifest);
		if (rc == AIDB_OK) {
			*needs = manifest.store != archiver->store || manifest.complete_at < archiver->gap_from ||
					 (archiver->gap_from != 0 && manifest.complete_at < archiver->begun_from);
			aidb_manifest_free(&manifest);
		} else if (rc == AIDB_CORRUPT) {
			rc = AIDB_OK;
		}
	}
	free(labels.labels);
	return rc;
}

static aidb_status back_up_if_needed(const aidb_backup_options *options, aidb_repository *repository,
									 aidb_archiver *archiver) {
	aidb_manifest manifest;
	bool needs;
	aidb_status rc = needs_backup(repository, archiver, &needs);

	if (rc != AIDB_OK || !needs) {
		return rc;
	}
	if (archiver->gap_from != 0) {
		say("the server has not kept its log from commit %" PRIu64 " to %" PRIu64
			": backups from before can be restored up to there",
			archiver->gap_from + 1, archiver->begun_from);
	}
	say("taking a backup, from which the archive goes on");
	rc = aidb_backup_take(options, repository, archiver, &manifest);
	if (repository->lock[0] != '\0') {
		(void)aidb_storage_remove(repository->storage, repository->lock);
		repository->lock[0] = '\0';
	}
	if (rc == AIDB_OK) {
		say("backup %s: %u files", manifest.label, manifest.file_count);
		aidb_manifest_free(&manifest);
	}
	return rc;
}

static uint64_t now_ms(void) {
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* Until it fails, is to end, or with `once` has all there is. *well: something was archived. */
static aidb_status archive_on(const aidb_backup_arguments *given, const aidb_backup_options *options,
							  aidb_repository *repository, aidb_archiver *archiver, bool *well) {
	uint64_t piece_at = now_ms() + given->every_s * 1000;
	aidb_status rc = back_up_if_needed(options, repository, archiver);

	while (rc == AIDB_OK && !ending) {
		uint64_t gap = archiver->gap_from, now = now_ms(), archived = archiver->archived;
		bool got;

		rc = aidb_archiver_step(archiver, now < piece_at && !given->once ? (unsigned)(piece_at - now) : 0, &got);
		if (rc == AIDB_OK && archiver->gap_from != gap) {
			rc = back_up_if_needed(options, repository, archiver);
		}
		if (rc == AIDB_OK && (now_ms() >= piece_at || (given->once && !got))) {
			rc = aidb_archiver_flush(archiver);
			piece_at = now_ms() + given->every_s * 1000;
		}
		if (rc == AIDB_OK && archiver->archived != archived) {
			say("archived up to commit %" PRIu64, archiver->archived);
		}
		*well = *well || rc == AIDB_OK;
		if (given->once && !got) {
			break;
		}
	}
	return rc == AIDB_OK ? aidb_archiver_flush(archiver) : rc;
}

static aidb_status archive(const aidb_backup_arguments *given, bool *well) {
	char conninfo[CONNINFO_BYTES], address[ADDRESS_BYTES];
	aidb_archiver *archiver = calloc(1, sizeof(*archiver));
	aidb_repository repository = {.storage = NULL};
	aidb_source *source = NULL;
	aidb_status rc = archiver == NULL ? aidb_fail(AIDB_NO_MEMORY, "out of memory") : find_server(given, conninfo);

	if (rc == AIDB_OK) {
		find_repository(given, address);
		rc = aidb_repository_open(address, &repository);
	}
	if (rc == AIDB_OK) {
		rc = aidb_source_connect(conninfo, &source);
	}
	if (rc == AIDB_OK) {
		aidb_backup_options options = options_of(given, conninfo, address);

		rc = aidb_archiver_begin(archiver, &repository, source, options.slot);
		if (rc == AIDB_OK) {
			say("archiving from commit %" PRIu64 " on, to %s", archiver->archived, address);
			rc = archive_on(given, &options, &repository, archiver, well);
		}
		aidb_archiver_end(archiver);
	}
	aidb_source_close(source);
	aidb_repository_close(&repository);
	free(archiver);
	return rc;
}

static int run_archive(const aidb_backup_arguments *given) {
	unsigned nap_s = FIRST_NAP_S;

	signal(SIGTERM, end);
	signal(SIGINT, end);
	while (!ending) {
		bool well = false;
		aidb_status rc = archive(given, &well);

		if (given->once && rc != AIDB_OK) {
			return complain();
		}
		if (given->once || ending) {
			return rc == AIDB_OK ? 0 : complain();
		}
		nap_s = well ? FIRST_NAP_S : 2 * nap_s < LAST_NAP_S ? 2 * nap_s : LAST_NAP_S;
		if (rc != AIDB_OK) {
			say("%s; trying again in %u s", aidb_failure(), nap_s);
		}
		sleep(nap_s);
	}
	return 0;
}

/* ---- restore --------------------------------------------------------------------------------------------- */

/* "2026-11-27 06:10:05", or with a T, a fraction, and Z or +hh:mm; local time without. */
static bool read_time(const char *text, uint64_t *us) {
	struct tm parts = {.tm_isdst = -1};
	const char *at = strptime(text, "%Y-%m-%d", &parts);
	uint64_t fraction = 0, unit = 100000;
	long offset_s = 0;
	int hours, minutes = 0, got = 0;
	char sign;
	time_t seconds;

	at = at == NULL || (*at != ' ' && *at != 'T') ? NULL : strptime(at + 1, "%H:%M:%S", &parts);
	if (at == NULL) {
		return false;
	}
	if (*at == '.') {
		for (at++; *at >= '0' && *at <= '9'; at++, unit /= 10) {
			fraction += (uint64_t)(*at - '0') * unit;
		}
	}
	if (strcmp(at, "Z") == 0 || strcmp(at, " UTC") == 0) {
		seconds = timegm(&parts);
	} else if (*at == '\0') {
		seconds = mktime(&parts);
	} else if (sscanf(at, "%c%2d%n:%2d%n", &sign, &hours, &got, &minutes, &got) >= 2 && at[got] == '\0' &&
			   (sign == '+' || sign == '-')) {
		offset_s = (sign == '+' ? 1 : -1) * (hours * 3600L + minutes * 60L);
		seconds = timegm(&parts) - offset_s;
	} else {
		return false;
	}
	*us = (uint64_t)seconds * 1000000 + fraction;
	return seconds > 0;
}

static bool read_target(const aidb_backup_arguments *given, aidb_target *target) {
	char *stop;

	*target = (aidb_target){.kind = AIDB_TARGET_LATEST, .label = given->label};
	if ((given->to_time != NULL) + (given->to_sequence != NULL) + (given->to_point != NULL) > 1) {
		return false;
	}
	if (given->to_time != NULL) {
		target->kind = AIDB_TARGET_TIME;
		return read_time(given->to_time, &target->time);
	}
	if (given->to_sequence != NULL) {
		target->kind = AIDB_TARGET_SEQUENCE;
		target->sequence = strtoull(given->to_sequence, &stop, 10);
		return *stop == '\0' && target->sequence > 0;
	}
	if (given->to_point != NULL) {
		target->kind = AIDB_TARGET_POINT;
		target->point = given->to_point;
		return strchr(given->to_point, '/') == NULL && strlen(given->to_point) < AIDB_POINT_NAME_BYTES;
	}
	return true;
}

static int run_restore(const char *directory, const aidb_backup_arguments *given) {
	char address[ADDRESS_BYTES], bytes[TIME_BYTES];
	aidb_restore_options options = {.address = address,
									.data = directory,
									.bindir = given->bindir != NULL ? given->bindir : AIDB_BINDIR,
									.before = given->before,
									.copy = {.jobs = given->jobs, .rate_bytes = given->rate_bytes},
									.show_progress = isatty(STDERR_FILENO) && !given->json,
									.keep = given->keep};
	aidb_repository repository;
	aidb_restored restored;
	aidb_status rc;

	if (!read_target(given, &options.target)) {
		return usage("give one of --to-time='2026-11-27 06:10:05', --to-sequence=NUMBER and --to-point=NAME, or none");
	}
	find_repository(given, address);
	rc = aidb_repository_open(address, &repository);
	if (rc == AIDB_OK) {
		rc = aidb_restore(&options, &repository, &restored);
		aidb_repository_close(&repository);
	}
	if (rc != AIDB_OK) {
		return complain();
	}
	printf("restored backup %s of database %s, %s, and the log up to commit %" PRIu64 ": %" PRIu64
		   " tables\nNext: %s/pg_ctl -D %s start\n",
		   restored.label, restored.database, size_text(restored.bytes, bytes), restored.sequence, restored.tables,
		   options.bindir, directory);
	return 0;
}

/* ---- info ------------------------------------------------------------------------------------------------ */

typedef struct inventory {
	aidb_manifest *manifests;
	uint32_t count;
	aidb_pieces pieces;
	aidb_points points;
	bool json;
} inventory;

static const char *status_of(const inventory *of, const aidb_manifest *manifest) {
	return aidb_pieces_reach(&of->pieces, manifest->store, manifest->after) >= manifest->complete_at
			   ? "ok"
			   : "its log is missing";
}

static void print_backup(const inventory *of, const aidb_manifest *manifest) {
	char started[TIME_BYTES], finished[TIME_BYTES], bytes[TIME_BYTES], stored[TIME_BYTES];

	printf("backup %s  database %s, PostgreSQL %s\n"
		   "    started %s, finished %s\n"
		   "    %u files, %s, of which %s were new\n"
		   "    store %016" PRIx64 ", epoch %" PRIu64 ", from commit %" PRIu64 " on: %s\n",
		   manifest->label, manifest->database, manifest->server, time_text(manifest->started, started),
		   time_text(manifest->finished, finished), manifest->file_count,
		   size_text(aidb_manifest_bytes(manifest), bytes), size_text(manifest->stored_bytes, stored), manifest->store,
		   manifest->epoch, manifest->complete_at, status_of(of, manifest));
}

static void json_field(const char *name, const char *value, const char *end_text) {
	printf("\"%s\": ", name);
	aidb_print_json_string(stdout, value);
	fputs(end_text, stdout);
}

static void print_backup_json(const inventory *of, const aidb_manifest *manifest) {
	char time[TIME_BYTES], store[TIME_BYTES];

	putchar('{');
	json_field("label", manifest->label, ", ");
	json_field("database", manifest->database, ", ");
	json_field("server", manifest->server, ", ");
	json_field("started", time_text(manifest->started, time), ", ");
	json_field("finished", time_text(manifest->finished, time), ", ");
	snprintf(store, sizeof(store), "%016" PRIx64, manifest->store);
	json_field("store", store, ", ");
	json_field("status", status_of(of, manifest), ", ");
	printf("\"files\": %u, \"bytes\": %" PRIu64 ", \"new_bytes\": %" PRIu64 ", \"epoch\": %" PRIu64
		   ", \"from_commit\": %" PRIu64 "}",
		   manifest->file_count, aidb_manifest_bytes(manifest), manifest->stored_bytes, manifest->epoch,
		   manifest->complete_at);
}

/* The runs of pieces that follow each other. */
static void print_ranges(const inventory *of) {
	bool first = true;

	for (uint32_t i = 0; i < of->pieces.count;) {
		const aidb_piece *begin = &of->pieces.pieces[i];
		uint64_t upto = begin->upto, bytes = 0, clock_us = begin->clock_us;
		uint32_t pieces = 0;
		char clock[TIME_BYTES], size[TIME_BYTES];

		for (; i < of->pieces.count && of->pieces.pieces[i].store == begin->store && of->pieces.pieces[i].from <= upto;
			 i++) {
			const aidb_piece *piece = &of->pieces.pieces[i];

			upto = piece->upto > upto ? piece->upto : upto;
			clock_us = piece->clock_us > clock_us ? piece->clock_us : clock_us;
			bytes += piece->bytes;
			pieces++;
		}
		if (of->json) {
			printf("%s{\"store\": \"%016" PRIx64 "\", \"from\": %" PRIu64 ", \"upto\": %" PRIu64
				   ", \"until\": \"%s\", \"pieces\": %u, \"bytes\": %" PRIu64 "}",
				   first ? "" : ", ", begin->store, begin->from, upto, time_text(clock_us + SINCE_2000_US, clock),
				   pieces, bytes);
		} else {
			printf("log of store %016" PRIx64 "  commits %" PRIu64 " to %" PRIu64 ", until %s: %u pieces, %s\n",
				   begin->store, begin->from, upto, time_text(clock_us + SINCE_2000_US, clock), pieces,
				   size_text(bytes, size));
		}
		first = false;
	}
}

static void print_points(const inventory *of) {
	for (uint32_t i = 0; i < of->points.count; i++) {
		const aidb_point *point = &of->points.points[i];
		char clock[TIME_BYTES];

		time_text(point->clock_us + SINCE_2000_US, clock);
		if (of->json) {
			fputs(i > 0 ? ", {" : "{", stdout);
			json_field("name", point->name, ", ");
			printf("\"store\": \"%016" PRIx64 "\", \"commit\": %" PRIu64 ", \"at\": \"%s\"}", point->store,
				   point->sequence, clock);
		} else {
			printf("restore point %s  commit %" PRIu64 " of store %016" PRIx64 ", %s\n", point->name, point->sequence,
				   point->store, clock);
		}
	}
}

static void print_inventory(const inventory *of, const char *address) {
	if (!of->json) {
		printf("repository %s\n", address);
		for (uint32_t i = 0; i < of->count; i++) {
			print_backup(of, &of->manifests[i]);
		}
		if (of->count == 0) {
			puts("there is no backup");
		}
		print_ranges(of);
		print_points(of);
		return;
	}
	putchar('{');
	json_field("repository", address, ", \"backups\": [");
	for (uint32_t i = 0; i < of->count; i++) {
		fputs(i > 0 ? ", " : "", stdout);
		print_backup_json(of, &of->manifests[i]);
	}
	fputs("], \"log\": [", stdout);
	print_ranges(of);
	fputs("], \"points\": [", stdout);
	print_points(of);
	puts("]}");
}

static aidb_status take_inventory(aidb_repository *repository, inventory *of) {
	aidb_labels labels;
	aidb_status rc = aidb_repository_labels(repository, &labels);

	of->manifests = calloc(labels.count + 1, sizeof(of->manifests[0]));
	if (rc == AIDB_OK && of->manifests == NULL) {
		rc = aidb_fail(AIDB_NO_MEMORY, "out of memory");
	}
	for (uint32_t i = 0; i < labels.count && rc == AIDB_OK; i++) {
		rc = aidb_repository_load(repository, labels.labels[i], &of->manifests[of->count]);
		of->count += rc == AIDB_OK;
		if (rc == AIDB_CORRUPT || rc == AIDB_UNSUPPORTED) {
			fprintf(stderr, "aidb-admin: %s\n", aidb_failure());
			rc = AIDB_OK;
		}
	}
	free(labels.labels);
	if (rc == AIDB_OK) {
		rc = aidb_repository_pieces(repository, 0, &of->pieces);
	}
	return rc == AIDB_OK ? aidb_repository_points(repository, &of->points) : rc;
}

static int run_info(const aidb_backup_arguments *given) {
	char address[ADDRESS_BYTES];
	inventory of = {.json = given->json};
	aidb_repository repository;
	aidb_status rc;

	find_repository(given, address);
	rc = aidb_repository_open(address, &repository);
	if (rc == AIDB_OK) {
		rc = take_inventory(&repository, &of);
		aidb_repository_close(&repository);
	}
	if (rc == AIDB_OK) {
		print_inventory(&of, address);
	}
	for (uint32_t i = 0; i < of.count; i++) {
		aidb_manifest_free(&of.manifests[i]);
	}
	free(of.manifests);
	free(of.pieces.pieces);
	free(of.points.points);
	return rc == AIDB_OK ? 0 : complain();
}

/* ---- verify, expire, point ------------------------------------------------------------------------------- */

static void print_problem(void *argument, const char *text) {
	(void)argument;
	printf("%s\n", text);
}

static int run_verify(const aidb_backup_arguments *given) {
	char address[ADDRESS_BYTES], bytes[TIME_BYTES];
	aidb_verify_options options = {.address = address,
								   .quick = given->quick,
								   .copy = {.jobs = given->jobs, .rate_bytes = given->rate_bytes},
								   .show_progress = isatty(STDERR_FILENO) != 0};
	aidb_verified verified;
	aidb_repository repository;
	aidb_status rc;

	find_repository(given, address);
	rc = aidb_repository_open(address, &repository);
	if (rc == AIDB_OK) {
		rc = aidb_verify(&options, &repository, print_problem, NULL, &verified);
		aidb_repository_close(&repository);
	}
	if (rc != AIDB_OK) {
		return complain();
	}
	printf("%u backups, %u files of %s (%u of them not needed by any), %u pieces of log: %u problems\n",
		   verified.backups, verified.objects, size_text(verified.object_bytes, bytes), verified.unused_objects,
		   verified.pieces, verified.problems);
	return verified.problems == 0 ? 0 : 1;
}

static void print_label(void *argument, const char *label) {
	printf("backup %s%s\n", label, *(const bool *)argument ? " would be removed" : " is removed");
}

static int run_expire(const aidb_backup_arguments *given) {
	char address[ADDRESS_BYTES], bytes[TIME_BYTES];
	aidb_retention_rules rules = {.count = given->keep_backups, .days = given->keep_days};
	bool dry_run = given->dry_run;
	aidb_expired expired;
	aidb_repository repository;
	aidb_status rc;

	if (rules.count == 0 && rules.days == 0) {
		return usage("give --keep-backups=N or --keep-days=N");
	}
	find_repository(given, address);
	rc = aidb_repository_open(address, &repository);
	if (rc == AIDB_OK) {
		rc = aidb_expire(&repository, &rules, dry_run, print_label, &dry_run, &expired);
		aidb_repository_close(&repository);
	}
	if (rc != AIDB_OK) {
		return complain();
	}
	printf("%u backups, %u files, %u pieces of log, %u restore points, %s%s\n", expired.backups, expired.objects,
		   expired.pieces, expired.points, size_text(expired.bytes, bytes), dry_run ? " would go" : " are gone");
	return 0;
}

static int run_point(const char *name, const aidb_backup_arguments *given) {
	char conninfo[CONNINFO_BYTES];
	aidb_source *source;
	uint64_t sequence;
	aidb_status rc = find_server(given, conninfo);

	if (rc == AIDB_OK) {
		rc = aidb_source_connect(conninfo, &source);
	}
	if (rc == AIDB_OK) {
		rc = aidb_source_mark(source, name, &sequence);
		aidb_source_close(source);
	}
	if (rc != AIDB_OK) {
		return complain();
	}
	printf("restore point %s is commit %" PRIu64 "\n", name, sequence);
	return 0;
}

/* ---- A whole cluster --------------------------------------------------------------------------------------- */

static PGconn *connect_to_catalog(const aidb_backup_arguments *given) {
	PGconn *catalog = PQconnectdb(given->conninfo != NULL ? given->conninfo : "");

	if (PQstatus(catalog) != CONNECTION_OK) {
		fprintf(stderr, "aidb-admin: cannot connect to the cluster's catalog: %s", PQerrorMessage(catalog));
		PQfinish(catalog);
		return NULL;
	}
	return catalog;
}

/* The rows, or NULL, and why was said. */
static PGresult *ask_catalog(PGconn *catalog, const char *sql) {
	PGresult *result = PQexec(catalog, sql);

	if (PQresultStatus(result) != PGRES_TUPLES_OK && PQresultStatus(result) != PGRES_COMMAND_OK) {
		fprintf(stderr, "aidb-admin: cannot read the cluster's catalog: %s", PQresultErrorMessage(result));
		PQclear(result);
		return NULL;
	}
	return result;
}

/* One after the other; returns the worst exit status. */
static int for_groups(const aidb_backup_arguments *given, PGconn *catalog,
					  int (*run)(const aidb_backup_arguments *of_group)) {
	PGresult *groups = ask_catalog(catalog, "SELECT name FROM aidb.node_group ORDER BY name");
	int worst = groups == NULL ? 1 : 0;

	for (int i = 0; i < PQntuples(groups); i++) {
		aidb_backup_arguments of_group = *given;
		int status;

		of_group.group = PQgetvalue(groups, i, 0);
		printf("%sgroup %s\n", i > 0 ? "\n" : "", of_group.group);
		fflush(stdout);
		status = run(&of_group);
		worst = status > worst ? status : worst;
	}
	PQclear(groups);
	return worst;
}

static int back_up_catalog(const aidb_backup_arguments *given, PGconn *catalog) {
	PGresult *script = ask_catalog(
		catalog, "SELECT aidb.catalog_script(), to_char(now() AT TIME ZONE 'UTC', 'YYYYMMDD\"T\"HH24MISS\"Z\"')");
	char name[AIDB_OBJECT_NAME_BYTES];
	aidb_storage *storage;
	aidb_status rc;

	if (script == NULL) {
		return 1;
	}
	rc = aidb_storage_open(given->repository, &storage);
	if (rc == AIDB_OK) {
		snprintf(name, sizeof(name), "catalog/%s.sql", PQgetvalue(script, 0, 1));
		rc = aidb_storage_put(storage, name, PQgetvalue(script, 0, 0), strlen(PQgetvalue(script, 0, 0)));
		aidb_storage_close(storage);
	}
	PQclear(script);
	if (rc != AIDB_OK) {
		return complain();
	}
	printf("\nthe catalog is %s\n", name);
	return 0;
}

/* On all groups, while definitions stay as they are. */
static int mark_cluster(const aidb_backup_arguments *given, PGconn *catalog, const char *name) {
	PGresult *begun = ask_catalog(catalog, "BEGIN; SELECT aidb.hold_definitions()");
	PGresult *groups = begun == NULL ? NULL : ask_catalog(catalog, "SELECT name FROM aidb.node_group ORDER BY name");
	int worst = groups == NULL ? 1 : 0;

	for (int i = 0; i < PQntuples(groups) && worst == 0; i++) {
		aidb_backup_arguments of_group = *given;

		of_group.group = PQgetvalue(groups, i, 0);
		printf("group %s: ", of_group.group);
		fflush(stdout);
		worst = run_point(name, &of_group);
	}
	PQclear(begun);
	PQclear(groups);
	PQclear(PQexec(catalog, "COMMIT"));
	return worst;
}

static aidb_status note_newest(void *newest, const char *name, uint64_t bytes) {
	(void)bytes;
	snprintf(newest, AIDB_OBJECT_NAME_BYTES, "%s", name);
	return AIDB_OK;
}

/* Into a database that has the extension, and no nodes yet. */
static int restore_catalog(const aidb_backup_arguments *given, PGconn *catalog) {
	char newest[AIDB_OBJECT_NAME_BYTES] = "", *script = NULL;
	aidb_storage *storage;
	PGresult *result;
	size_t size;
	aidb_status rc = aidb_storage_open(given->repository, &storage);

	if (rc != AIDB_OK) {
		return complain();
	}
	rc = aidb_storage_list(storage, "catalog/", note_newest, newest);
	if (rc == AIDB_OK && newest[0] == '\0') {
		rc = aidb_fail(AIDB_NOT_FOUND, "there is no catalog in %s; aidb-admin cluster backup writes one",
					   given->repository);
	}
	if (rc == AIDB_OK) {
		rc = aidb_storage_load(storage, newest, AIDB_MAX_MANIFEST_BYTES, &script, &size);
	}
	aidb_storage_close(storage);
	if (rc != AIDB_OK) {
		return complain();
	}
	result = ask_catalog(catalog, script);
	free(script);
	if (result == NULL) {
		return 1;
	}
	PQclear(result);
	printf("the catalog is that of %s\n", newest);
	return 0;
}

bool aidb_cluster_backup_command(const char *word) {
	return strcmp(word, "backup") == 0 || strcmp(word, "verify") == 0 || strcmp(word, "info") == 0 ||
		   strcmp(word, "point") == 0 || strcmp(word, "restore-catalog") == 0;
}

int aidb_cluster_backup_run(const char *const *words, int count, const aidb_backup_arguments *arguments) {
	aidb_backup_arguments given = *arguments;
	bool is_point = strcmp(words[0], "point") == 0;
	PGconn *catalog;
	int status;

	if (given.repository == NULL) {
		given.repository = getenv("AIDB_REPOSITORY");
	}
	if (count != (is_point ? 2 : 1)) {
		return usage(is_point ? "give the restore point a name" : "this command takes no more words");
	}
	if (!is_point && (given.repository == NULL || given.repository[0] == '\0')) {
		return usage("give --repo=REPOSITORY, or set AIDB_REPOSITORY");
	}
	catalog = connect_to_catalog(&given);
	if (catalog == NULL) {
		return 1;
	}
	if (is_point) {
		status = mark_cluster(&given, catalog, words[1]);
	} else if (strcmp(words[0], "restore-catalog") == 0) {
		status = restore_catalog(&given, catalog);
	} else {
		status = for_groups(&given, catalog,
							strcmp(words[0], "backup") == 0   ? run_backup
							: strcmp(words[0], "verify") == 0 ? run_verify
															  : run_info);
		if (status == 0 && strcmp(words[0], "backup") == 0) {
			status = back_up_catalog(&given, catalog);
		}
	}
	PQfinish(catalog);
	return status;
}

/* ---- Commands -------------------------------------------------------------------------------------------- */

static const char *const commands[] = {"backup", "archive", "restore", "info", "verify", "expire", "point"};

bool aidb_backup_command(const char *word) {
	for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++) {
		if (strcmp(word, commands[i]) == 0) {
			return true;
		}
	}
	return false;
}

int aidb_backup_run(const char *const *words, int count, const aidb_backup_arguments *arguments) {
	aidb_backup_arguments given = *arguments;
	bool takes_word = strcmp(words[0], "restore") == 0 || strcmp(words[0], "point") == 0;

	if (given.repository == NULL) {
		given.repository = getenv("AIDB_REPOSITORY");
	}
	if (count != (takes_word ? 2 : 1)) {
		return usage(takes_word ? "this command takes one word more" : "this command takes no more words");
	}
	if (strcmp(words[0], "point") == 0) {
		return run_point(words[1], &given);
	}
	if (given.repository == NULL || given.repository[0] == '\0') {
		return usage("give --repo=REPOSITORY, or set AIDB_REPOSITORY");
	}
	if (strcmp(words[0], "restore") == 0) {
		return run_restore(words[1], &given);
	}
	return strcmp(words[0], "backup") == 0    ? run_backup(&given)
		   : strcmp(words[0], "archive") == 0 ? run_archive(&given)
		   : strcmp(words[0], "info") == 0    ? run_info(&given)
		   : strcmp(words[0], "verify") == 0  ? run_verify(&given)
											  : run_expire(&given);
}
