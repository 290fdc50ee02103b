#include "postgres.h"

#include "settings.h"

#include "aidb.h"
#include "host.h"
#include "utils/guc.h"

int aipg_memory_mb = 256;

void aipg_settings_init(void) {
	DefineCustomIntVariable("aidb.memory", "Shared memory for AiDb tables: memtables, block cache and all else.",
							"A hard limit: AiDb uses no more shared memory than this, whatever is loaded.", &aipg_memory_mb, 256,
							(int)(AIDB_MIN_MEMORY_BYTES >> 20), (int)(AIDB_MAX_MEMORY_BYTES >> 20), PGC_POSTMASTER,
							GUC_UNIT_MB, NULL, NULL, NULL);
	DefineCustomStringVariable("aidb.fault_point", "Lets a step of a commit or of recovery fail, for tests.",
							   "name=action, where action is kill, kill-all, error or pause.", &aipg_fault_setting, "",
							   PGC_SUSET, GUC_NOT_IN_SAMPLE | GUC_NO_SHOW_ALL, NULL, NULL, NULL);
	MarkGUCPrefixReserved("aidb");
}
