/*
 * The store of this server: its arena in main shared memory, and this process's handle on it.
 */
#include <sys/stat.h>

#include "access.h"
#include "access/twophase.h"
#include "access/xlog.h"
#include "catalog.h"
#include "host.h"
#include "lineage.h"
#include "miscadmin.h"
#include "role.h"
#include "settings.h"
#include "shared.h"
#include "slots.h"
#include "storage/ipc.h"
#include "storage/proc.h"
#include "storage/shmem.h"
#include "utils/memutils.h"

#define DIRECTORY "aidb" /* below the data directory */
#define ARENA_ALIGNMENT 4096
#define MIN_ENDED 1024

aipg_shared *aipg_shared_memory = NULL;

static void *arena = NULL;
static aidb_db *store = NULL;

/* ---- Shared memory ------------------------------------------------------------------------------------- */

static uint32 ended_size(void) {
	uint32 size = MIN_ENDED;

	while (size < 4 * (uint32)(MaxBackends + max_prepared_xacts)) {
		size *= 2;
	}
	return size;
}

static Size arena_bytes(void) {
	return (Size)aipg_memory_mb << 20;
}

static Size shared_bytes(void) {
	return offsetof(aipg_shared, ended) + ended_size() * sizeof(aipg_ended);
}

void aipg_store_shmem_request(void) {
	RequestAddinShmemSpace(arena_bytes() + ARENA_ALIGNMENT);
	RequestAddinShmemSpace(shared_bytes());
}

static void init_shared(aipg_shared *shared) {
	memset(shared, 0, shared_bytes());
	pg_atomic_init_u64(&shared->required_lsn, 0);
	pg_atomic_init_u32(&shared->asynchronous_commits, 0);
	pg_atomic_init_u32(&shared->has_our_past, 0);
	for (int kind = 0; kind < AIDB_WORK_KINDS; kind++) {
		pg_atomic_init_u32(&shared->worker_process[kind], 0);
	}
	SpinLockInit(&shared->ended_lock);
	pg_atomic_init_u64(&shared->ended_count, 0);
	shared->ended_size = ended_size();
}

static void format_arena(void) {
	aidb_options options;
	aidb_status rc;

	aidb_options_init(&options);
	options.memory_bytes = arena_bytes();
	options.members = ProcGlobal->allProcCount;
	options.create_if_missing = true;
	memset(arena, 0, ARENA_ALIGNMENT);
	rc = aidb_arena_format(arena, arena_bytes(), &options);
	if (rc != AIDB_OK) {
		ereport(FATAL,
				(errcode(ERRCODE_CONFIG_FILE_ERROR), errmsg("could not set up AiDb's shared memory"),
				 errdetail("%s.", aidb_last_error()), errhint("Raise \"aidb.memory\" or lower \"max_connections\".")));
	}
}

void aipg_store_shmem_startup(void) {
	bool found;
	void *memory = ShmemInitStruct("aidb arena", arena_bytes() + ARENA_ALIGNMENT, &found);

	arena = (void *)TYPEALIGN(ARENA_ALIGNMENT, memory);
	if (!found) {
		format_arena();
	}
	aipg_shared_memory = ShmemInitStruct("aidb", shared_bytes(), &found);
	if (!found) {
		init_shared(aipg_shared_memory);
	}
	store = NULL; /* after a crash restart the postmaster comes here again, with fresh memory */
}

/* ---- This process -------------------------------------------------------------------------------------- */

static void leave(int code, Datum argument) {
	HOLD_INTERRUPTS();
	if (aidb_is_started(store)) {
		/* what was committed asynchronously does not wait for a worker that may be gone already */
		aidb_sync(store);
		aidb_member_leave(store);
	}
	RESUME_INTERRUPTS();
}

const char *aipg_store_path(char path[MAXPGPATH]) {
	snprintf(path, MAXPGPATH, "%s/%s", DataDir, DIRECTORY);
	return path;
}

static void attach(void) {
	char path[MAXPGPATH];
	aidb_status rc;

	if (arena == NULL) {
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE), errmsg("AiDb is not loaded in this server"),
				 errdetail("AiDb keeps its state in shared memory, which is reserved when the server starts."),
				 errhint("Add \"aidb\" to shared_preload_libraries in postgresql.conf and restart the server.")));
	}
	rc = aidb_attach(arena, aipg_host(), aipg_store_path(path), &store);
	if (rc != AIDB_OK) {
		aipg_raise(rc, "could not attach to the AiDb store");
	}
	on_shmem_exit(leave, (Datum)0);
}

static bool is_usable(void) {
	return store != NULL && aidb_is_started(store) && pg_atomic_read_u32(&aipg_shared_memory->has_our_past) != 0;
}

aidb_db *aipg_store(void) {
	aidb_status rc;

	if (is_usable()) {
		return store;
	}
	if (RecoveryInProgress()) {
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED), errmsg("AiDb tables cannot be used on a standby server"),
				 errdetail("AiDb's data is not part of PostgreSQL's write-ahead log, so this server does not have it."),
				 errhint("Connect to the primary server.")));
	}
	if (store == NULL) {
		attach();
	}
	HOLD_INTERRUPTS();
	rc = aidb_start(store);
	RESUME_INTERRUPTS();
	if (rc != AIDB_OK) {
		aipg_raise(rc, "could not open the AiDb store");
	}
	aipg_role_load(store);
	aipg_slots_start(store);
	if (aipg_role_now() != AIPG_RESTORING) {
		aipg_lineage_check(store);
	}
	pg_atomic_write_u32(&aipg_shared_memory->has_our_past, 1);
	return store;
}

bool aipg_store_is_ready(void) {
	if (arena == NULL || RecoveryInProgress()) {
		return false;
	}
	if (store == NULL) {
		attach();
	}
	return is_usable();
}

aidb_db *aipg_store_if_attached(void) {
	return store;
}

/* ---- Errors -------------------------------------------------------------------------------------------- */

static int sqlstate_of(aidb_status status) {
	switch (status) {
	case AIDB_LIMIT:
		return ERRCODE_PROGRAM_LIMIT_EXCEEDED;
	case AIDB_NO_SPACE:
		return ERRCODE_DISK_FULL;
	case AIDB_NO_MEMORY:
		return ERRCODE_OUT_OF_MEMORY;
	case AIDB_CORRUPT:
		return ERRCODE_DATA_CORRUPTED;
	case AIDB_UNSUPPORTED:
		return ERRCODE_FEATURE_NOT_SUPPORTED;
	case AIDB_IO:
		return ERRCODE_IO_ERROR;
	case AIDB_IN_USE:
		return ERRCODE_OBJECT_IN_USE;
	case AIDB_INTERRUPTED:
		return ERRCODE_QUERY_CANCELED;
	case AIDB_UNREPLICATED:
		return AIPG_ERRCODE_UNKNOWN_OUTCOME;
	default:
		return ERRCODE_INTERNAL_ERROR;
	}
}

static const char *hint_of(aidb_status status) {
	switch (status) {
	case AIDB_LIMIT:
		return "Write less at once, or raise \"aidb.memory\" and restart the server.";
	case AIDB_NO_SPACE:
		return "Free space on the disk of the data directory; reads go on meanwhile, and writes resume by themselves.";
	case AIDB_NO_MEMORY:
		return "Raise \"aidb.memory\" and restart the server.";
	case AIDB_CORRUPT:
		return "The store was changed or damaged from outside; restore it from a backup.";
	case AIDB_UNSUPPORTED:
		return "Install the version of AiDb that wrote the store, or a newer one.";
	case AIDB_IO:
		return "See the server log, check the disk, and restart the server.";
	default:
		return NULL;
	}
}

void aipg_raise(aidb_status status, const char *what) {
	const char *hint = hint_of(status);

	aipg_raise_deferred();
	if (status == AIDB_INTERRUPTED) {
		CHECK_FOR_INTERRUPTS();
	}
	ereport(ERROR, (errcode(sqlstate_of(status)), errmsg("%s", what), errdetail("%s.", aidb_last_error()),
					hint != NULL ? errhint("%s", hint) : 0));
	pg_unreachable();
}
