#include "postgres.h"

#include "settings.h"

#include "aidb.h"
#include "host.h"
#include "utils/guc.h"

#define MIN_MEMORY_MB ((int)(AIDB_MIN_MEMORY_BYTES >> 20))
#define MAX_MEMORY_MB ((int)(AIDB_MAX_MEMORY_BYTES >> 20))

int aipg_memory_mb = 256;
bool aipg_tables_exist = false;
bool aipg_allow_mixed = false;
int aipg_expected_epoch = 0;
int aipg_row_cache_mb = 0;
int aipg_max_staleness_ms = 0;
char *aipg_read_token = NULL;
int aipg_read_token_timeout_ms = 5000;

/* PostgreSQL itself would only warn of a bad value for a library's setting, and start with the default. */
static void check_memory(void) {
	const char *given = GetConfigOption("aidb.memory", true, false);
	int memory_mb;

	if (given != NULL &&
		(!parse_int(given, &memory_mb, GUC_UNIT_MB, NULL) || memory_mb < MIN_MEMORY_MB || memory_mb > MAX_MEMORY_MB)) {
		ereport(FATAL,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid value for parameter \"aidb.memory\": \"%s\"", given),
				 errhint("Give it a size from %d MB to %d GB, such as '512MB'.", MIN_MEMORY_MB, MAX_MEMORY_MB >> 10)));
	}
}

bool aipg_read_token_parse(const char *token, uint64 *epoch, uint64 *sequence) {
	int end = 0;

	return sscanf(token, UINT64_FORMAT ":" UINT64_FORMAT "%n", epoch, sequence, &end) == 2 && token[end] == '\0';
}

static bool check_token(char **value, void **extra, GucSource source) {
	uint64 epoch, sequence;

	(void)extra;
	(void)source;
	if ((*value)[0] == '\0' || aipg_read_token_parse(*value, &epoch, &sequence)) {
		return true;
	}
	GUC_check_errdetail("A token is an epoch and a sequence, such as \"1:4711\".");
	return false;
}

void aipg_settings_init(void) {
	check_memory();
	DefineCustomIntVariable("aidb.memory", "Shared memory for AiDb tables: memtables, block cache and all else.",
							"A hard limit: AiDb uses no more shared memory than this, whatever is loaded.",
							&aipg_memory_mb, 256, MIN_MEMORY_MB, MAX_MEMORY_MB, PGC_POSTMASTER, GUC_UNIT_MB, NULL, NULL,
							NULL);
	DefineCustomStringVariable(
		"aidb.fault_point", "Lets a step of a commit or of recovery fail, for tests.",
		"name=action, where action is kill, kill-all, panic, terminate, cancel, error, fatal or pause.",
		&aipg_fault_setting, "", PGC_SUSET, GUC_NOT_IN_SAMPLE | GUC_NO_SHOW_ALL, NULL, NULL, NULL);
	DefineCustomBoolVariable("aidb.tables_exist",
							 "CREATE FOREIGN TABLE on server aidb_cluster makes the table here alone.",
							 "The groups have it already: for a coordinator's server that is made anew.",
							 &aipg_tables_exist, false, PGC_SUSET, 0, NULL, NULL, NULL);
	DefineCustomBoolVariable("aidb.allow_mixed",
							 "Allows transactions over AiDb tables and other things where commits wait for a replica.",
							 "Such a transaction is acknowledged by this server alone.", &aipg_allow_mixed, false,
							 PGC_USERSET, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("aidb.row_cache", "Shared memory for the rows that a caching read node remembers.",
							"Other servers do not use it. 0: rows are never remembered.", &aipg_row_cache_mb, 0, 0,
							1 << 20, PGC_POSTMASTER, GUC_UNIT_MB, NULL, NULL, NULL);
	DefineCustomIntVariable(
		"aidb.max_staleness", "How old the last news of the primary may be for reads on a replica.",
		"Beyond that a caching read node asks the primary, and a standby refuses reads. 0: no limit.",
		&aipg_max_staleness_ms, 0, 0, PG_INT32_MAX, PGC_USERSET, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomStringVariable(
		"aidb.read_token", "What reads on a replica are to see at least: a value of aidb.token().", "They wait for it.",
		&aipg_read_token, "", PGC_USERSET, GUC_NOT_IN_SAMPLE, check_token, NULL, NULL);
	DefineCustomIntVariable("aidb.read_token_timeout", "How long they wait for that.", NULL,
							&aipg_read_token_timeout_ms, 5000, 0, PG_INT32_MAX, PGC_USERSET, GUC_UNIT_MS, NULL, NULL,
							NULL);
	DefineCustomIntVariable(
		"aidb.expected_epoch", "The epoch in which this server is to be its group's primary.",
		"In another one AiDb tables are not accessible: a router has connected to the wrong server. 0: not checked.",
		&aipg_expected_epoch, 0, 0, PG_INT32_MAX, PGC_USERSET, GUC_NOT_IN_SAMPLE, NULL, NULL, NULL);
}
