/*
 * differential: runs the same statements of several sessions, in the same order, on heap tables and on AiDb tables, and
 * compares what each session gets and which session waits for which. See docs/testing.md.
 *
 * Exit status: 0 when the worlds agree, 1 when they diverge, 2 when it could not be found out.
 */
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "corpus.h"
#include "generator.h"
#include "judge.h"

#define DEFAULT_ORDERS 20
#define DEFAULT_REPORTS 5
#define MAX_STATES 32

typedef struct diff_settings {
	const char *connection;
	const char *worlds;
	const char *right_settings;
	const char *grammar;
	const char *known;
	const char *output;
	text_list features_off;
	text_list tests;
	uint64_t seed;
	uint64_t scripts;
	unsigned orders;
	unsigned reports;
	bool verbose;
	wait_detail detail;
} diff_settings;

typedef struct state_count {
	char state[8];
	uint64_t count;
} state_count;

typedef struct diff_campaign {
	const diff_settings *settings;
	diff_judge judge;
	uint64_t verdicts[VERDICT_COUNT];
	uint64_t steps;
	uint64_t waits;
	state_count states[MAX_STATES]; /* of the first world */
	int state_kinds;
} diff_campaign;

/* ---- Settings -------------------------------------------------------------------------------------------- */

static const char usage[] =
	"Usage: differential [OPTION]... [CORPUS FILE]...\n"
	"  --connect STRING     of libpq; for a superuser\n"
	"  --worlds LEFT,RIGHT  what is compared, each heap or aidb (heap,aidb)\n"
	"  --right-set OPTIONS  of the server, for the sessions of the second world: \"-c name=value\"\n"
	"  --generate N         scripts drawn from the grammar\n"
	"  --grammar FILE       the grammar\n"
	"  --seed N             of the first generated script, and of what is drawn of tests (the time)\n"
	"  --orders N           at most so many scripts of a test, drawn at random (20)\n"
	"  --only NAME,...      of the tests in the corpus files\n"
	"  --without NAME,...   features that are not to be used\n"
	"  --known FILE         differences that are let pass\n"
	"  --direct             compare for whom a session waits directly, not who holds it up in the end\n"
	"  --output DIRECTORY   gets a file for each script that diverges; such a file is a corpus file\n"
	"  --reports N          shrink and print so many divergences (5)\n"
	"  --verbose            print every script with its outcome\n"
	"  --help               print this\n";

enum {
	OPTION_CONNECT = 256,
	OPTION_WORLDS,
	OPTION_RIGHT_SET,
	OPTION_GENERATE,
	OPTION_GRAMMAR,
	OPTION_SEED,
	OPTION_ORDERS,
	OPTION_ONLY,
	OPTION_WITHOUT,
	OPTION_KNOWN,
	OPTION_DIRECT,
	OPTION_OUTPUT,
	OPTION_REPORTS,
	OPTION_VERBOSE,
	OPTION_HELP
};

static const struct option options[] = {
	{"connect", required_argument, NULL, OPTION_CONNECT},
	{"worlds", required_argument, NULL, OPTION_WORLDS},
	{"right-set", required_argument, NULL, OPTION_RIGHT_SET},
	{"generate", required_argument, NULL, OPTION_GENERATE},
	{"grammar", required_argument, NULL, OPTION_GRAMMAR},
	{"seed", required_argument, NULL, OPTION_SEED},
	{"orders", required_argument, NULL, OPTION_ORDERS},
	{"only", required_argument, NULL, OPTION_ONLY},
	{"without", required_argument, NULL, OPTION_WITHOUT},
	{"known", required_argument, NULL, OPTION_KNOWN},
	{"direct", no_argument, NULL, OPTION_DIRECT},
	{"output", required_argument, NULL, OPTION_OUTPUT},
	{"reports", required_argument, NULL, OPTION_REPORTS},
	{"verbose", no_argument, NULL, OPTION_VERBOSE},
	{"help", no_argument, NULL, OPTION_HELP},
	{NULL, 0, NULL, 0},
};

static void set_option(diff_settings *to, int option) {
	switch (option) {
	case OPTION_CONNECT:
		to->connection = optarg;
		break;
	case OPTION_WORLDS:
		to->worlds = optarg;
		break;
	case OPTION_RIGHT_SET:
		to->right_settings = optarg;
		break;
	case OPTION_GENERATE:
		to->scripts = strtoull(optarg, NULL, 10);
		break;
	case OPTION_GRAMMAR:
		to->grammar = optarg;
		break;
	case OPTION_SEED:
		to->seed = strtoull(optarg, NULL, 10);
		break;
	case OPTION_ORDERS:
		to->orders = (unsigned)strtoul(optarg, NULL, 10);
		break;
	case OPTION_ONLY:
		text_list_split(&to->tests, optarg, ",");
		break;
	case OPTION_WITHOUT:
		text_list_split(&to->features_off, optarg, ",");
		break;
	case OPTION_KNOWN:
		to->known = optarg;
		break;
	case OPTION_DIRECT:
		to->detail = WAIT_DIRECT;
		break;
	case OPTION_OUTPUT:
		to->output = optarg;
		break;
	case OPTION_REPORTS:
		to->reports = (unsigned)strtoul(optarg, NULL, 10);
		break;
	case OPTION_VERBOSE:
		to->verbose = true;
		break;
	case OPTION_HELP:
		fputs(usage, stdout);
		exit(0);
	default:
		exit(2);
	}
}

/* ---- One script ------------------------------------------------------------------------------------------ */

static void count_states(diff_campaign *campaign, const diff_record *record) {
	for (int i = 0; i < record->states.count; i++) {
		int kind = 0;

		while (kind < campaign->state_kinds && strcmp(campaign->states[kind].state, record->states.items[i]) != 0) {
			kind++;
		}
		if (kind == campaign->state_kinds && kind < MAX_STATES) {
			snprintf(campaign->states[kind].state, sizeof(campaign->states[kind].state), "%s", record->states.items[i]);
			campaign->state_kinds++;
		}
		if (kind < campaign->state_kinds) {
			campaign->states[kind].count++;
		}
	}
}

static void save_report(const diff_campaign *campaign, const diff_script *script, const char *report) {
	text path = {0};
	FILE *file;

	text_add(&path, "%s/%s-%" PRIu64 ".txt", campaign->settings->output, script->name,
			 campaign->verdicts[VERDICT_DIVERGE]);
	file = fopen(text_get(&path), "w");
	if (file == NULL || fputs(report, file) < 0 || fclose(file) != 0) {
		fail("cannot write %s", text_get(&path));
	}
	text_free(&path);
}

static void report_divergence(diff_campaign *campaign, const diff_script *script) {
	text report = {0};
	diff_script smaller;
	diff_judgement judgement;

	judge_shrink(&campaign->judge, script, &smaller);
	judge_script(&campaign->judge, &smaller, &judgement);
	judge_report(&campaign->judge, &smaller, &judgement, &report);
	printf("# shrunk it is:\n%s\n", text_get(&report));
	judgement_free(&judgement);
	script_free(&smaller);
	text_free(&report);
}

static void judge_one(const diff_script *script, void *context) {
	diff_campaign *campaign = context;
	const diff_settings *settings = campaign->settings;
	diff_judgement judgement;
	text report = {0};

	judge_script(&campaign->judge, script, &judgement);
	campaign->verdicts[judgement.verdict]++;
	if (judgement.known != NULL) {
		judgement.known->found++;
	}
	campaign->steps += (uint64_t)script->step_count;
	campaign->waits += (uint64_t)judgement.left.waits;
	count_states(campaign, &judgement.left);
	judge_report(&campaign->judge, script, &judgement, &report);
	if (settings->verbose) {
		printf("%s\n", text_get(&report));
	}
	if (judgement.verdict == VERDICT_DIVERGE) {
		printf("# %s diverges\n", script->name);
		if (settings->output != NULL) {
			save_report(campaign, script, text_get(&report));
		}
		if (campaign->verdicts[VERDICT_DIVERGE] <= settings->reports) {
			report_divergence(campaign, script);
		}
	}
	text_free(&report);
	judgement_free(&judgement);
}

/* ---- All scripts ----------------------------------------------------------------------------------------- */

static bool is_wanted(const diff_settings *settings, const corpus_test *test) {
	for (int i = 0; i < test->needs.count; i++) {
		if (text_list_has(&settings->features_off, test->needs.items[i])) {
			return false;
		}
	}
	return settings->tests.count == 0 || text_list_has(&settings->tests, test->script.name);
}

static void run_corpus(diff_campaign *campaign, const char *path) {
	test_random random = {.state = campaign->settings->seed};
	diff_corpus corpus = {0};

	corpus_read(&corpus, path);
	for (int i = 0; i < corpus.count; i++) {
		if (is_wanted(campaign->settings, &corpus.tests[i])) {
			corpus_each_script(&corpus.tests[i], campaign->settings->orders, &random, judge_one, campaign);
		}
	}
	corpus_free(&corpus);
}

static void run_generated(diff_campaign *campaign) {
	const diff_settings *settings = campaign->settings;
	diff_generator *generator;

	if (settings->grammar == NULL) {
		fail("--generate needs --grammar");
	}
	generator = generator_read(settings->grammar, &settings->features_off);
	for (uint64_t i = 0; i < settings->scripts; i++) {
		diff_script script;

		generator_draw(generator, settings->seed + i, &script);
		judge_one(&script, campaign);
		script_free(&script);
	}
	generator_free(generator);
}

static uint64_t print_summary(const diff_campaign *campaign) {
	const uint64_t *verdicts = campaign->verdicts;
	uint64_t scripts = 0;

	for (int i = 0; i < VERDICT_COUNT; i++) {
		scripts += verdicts[i];
	}
	printf("seed %" PRIu64 ": %" PRIu64 " interleavings of %" PRIu64 " steps, %" PRIu64 " waits; errors:",
		   campaign->settings->seed, scripts, campaign->steps, campaign->waits);
	for (int i = 0; i < campaign->state_kinds; i++) {
		printf(" %s %" PRIu64, campaign->states[i].state, campaign->states[i].count);
	}
	printf("\n%" PRIu64 " agree, %" PRIu64 " differ in serialization failures, %" PRIu64 " in known ways, %" PRIu64
		   " are left to chance, %" PRIu64 " diverge\n",
		   verdicts[VERDICT_AGREE], verdicts[VERDICT_SERIALIZATION], verdicts[VERDICT_KNOWN], verdicts[VERDICT_CHANCE],
		   verdicts[VERDICT_DIVERGE]);
	return scripts;
}

/* World `number` of two, of a kind that is one of `kinds`. */
static void open_world(diff_world *world, const diff_settings *settings, const text_list *kinds, int number) {
	const char *kind = kinds->items[number - 1];
	text name = {0};

	if (strcmp(kind, "heap") != 0 && strcmp(kind, "aidb") != 0) {
		fail("--worlds: neither heap nor aidb: %s", kind);
	}
	text_add(&name, "%s_%d", kind, number);
	world_open(world, text_get(&name), strcmp(kind, "aidb") == 0, settings->connection,
			   number == 2 ? settings->right_settings : NULL);
	text_free(&name);
}

static void open_worlds(const diff_settings *settings, diff_world *left, diff_world *right) {
	text_list kinds = {0};

	text_list_split(&kinds, settings->worlds, ",");
	if (kinds.count != 2) {
		fail("--worlds: two are needed: %s", settings->worlds);
	}
	open_world(left, settings, &kinds, 1);
	open_world(right, settings, &kinds, 2);
	text_list_free(&kinds);
}

static diff_world left_world;
static diff_world right_world;

/* However the program ends, it leaves no stopped process behind. */
static void continue_worlds(void) {
	world_continue(&left_world);
	world_continue(&right_world);
}

int main(int argc, char **argv) {
	diff_settings settings = {.connection = "", .worlds = "heap,aidb", .seed = (uint64_t)time(NULL)};
	diff_campaign campaign = {.settings = &settings};
	uint64_t scripts;
	int option;

	settings.orders = DEFAULT_ORDERS;
	settings.reports = DEFAULT_REPORTS;
	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		set_option(&settings, option);
	}
	setvbuf(stdout, NULL, _IOLBF, 0);
	atexit(continue_worlds);
	open_worlds(&settings, &left_world, &right_world);
	campaign.judge = (diff_judge){.left = &left_world, .right = &right_world, .detail = settings.detail};
	if (settings.known != NULL) {
		judge_read_known(&campaign.judge, settings.known);
	}
	for (int i = optind; i < argc; i++) {
		run_corpus(&campaign, argv[i]);
	}
	if (settings.scripts > 0) {
		run_generated(&campaign);
	}
	scripts = print_summary(&campaign);
	judge_free(&campaign.judge);
	world_close(&left_world);
	world_close(&right_world);
	text_list_free(&settings.features_off);
	text_list_free(&settings.tests);
	return scripts > 0 && campaign.verdicts[VERDICT_DIVERGE] == 0 ? 0 : 1;
}
