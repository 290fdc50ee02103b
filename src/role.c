#include "role.h"

#include <fcntl.h>
#include <time.h>
#include <unistd.h>

#include "access.h"
#include "lib/stringinfo.h"
#include "port/atomics.h"
#include "port/pg_bswap.h"
#include "port/pg_crc32c.h"
#include "storage/condition_variable.h"
#include "shared.h"
#include "miscadmin.h"
#include "settings.h"
#include "storage/fd.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#define MAGIC "AIDBrol1"
#define MAGIC_BYTES 8
#define FILE_BYTES 4096
#define VERSION 1
#define TRANCHE "aidb_role"

typedef struct shared_role {
	pg_atomic_uint32 role;
	pg_atomic_uint32 sealed;
	pg_atomic_uint64 epoch;
	pg_atomic_uint64 changes;
	pg_atomic_uint64 published;
	pg_atomic_uint64 unreplicated;
	pg_atomic_uint64 recovered; /* what a restart has found, and the replica may not have yet; 0: nothing */
	pg_atomic_uint32 applying;
	ConditionVariable applied;       /* signalled when that is over */
	pg_atomic_uint64 position;       /* progress.applied */
	ConditionVariable progressed;    /* signalled when it has grown, or nothing is followed any more */
	pg_atomic_uint64 lease_until_ms; /* by the clock that counts suspension; 0: none was given since the start */
	/* under the tranche's lock */
	aipg_role_state state;
	aipg_progress progress;
	Latch *watcher; /* of the process that starts and stops following; NULL: there is none */
} shared_role;

static shared_role *shared = NULL;
bool aipg_role_internal = false;

static const char *const names[AIPG_ROLES] = {"alone", "primary", "standby", "cache", "restoring"};

static LWLock *state_lock(void) {
	return &GetNamedLWLockTranche(TRANCHE)[0].lock;
}

void aipg_role_shmem_request(void) {
	RequestAddinShmemSpace(MAXALIGN(sizeof(shared_role)));
	RequestNamedLWLockTranche(TRANCHE, 1);
}

void aipg_role_shmem_startup(void) {
	bool found;

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	shared = ShmemInitStruct("aidb role", sizeof(shared_role), &found);
	if (!found) {
		memset(shared, 0, sizeof(*shared));
		pg_atomic_init_u32(&shared->role, AIPG_ALONE);
		pg_atomic_init_u32(&shared->sealed, 0);
		pg_atomic_init_u64(&shared->epoch, 0);
		pg_atomic_init_u64(&shared->changes, 0);
		pg_atomic_init_u64(&shared->published, AIDB_SEQUENCE_LATEST);
		pg_atomic_init_u64(&shared->unreplicated, 0);
		pg_atomic_init_u64(&shared->recovered, 0);
		pg_atomic_init_u32(&shared->applying, 0);
		ConditionVariableInit(&shared->applied);
		pg_atomic_init_u64(&shared->position, 0);
		ConditionVariableInit(&shared->progressed);
		pg_atomic_init_u64(&shared->lease_until_ms, 0);
	}
	LWLockRelease(AddinShmemInitLock);
}

/* ---- The file ------------------------------------------------------------------------------------------- */

static void append_string(StringInfo bytes, const char *string) {
	uint16 size = (uint16)strlen(string);
	uint16 written = pg_hton16(size);

	appendBinaryStringInfo(bytes, (const char *)&written, sizeof(written));
	appendBinaryStringInfo(bytes, string, size);
}

static StringInfo encode(const aipg_role_state *state) {
	StringInfo bytes = makeStringInfo();
	uint64 epoch = pg_hton64(state->epoch);
	uint64 configuration = pg_hton64(state->configuration);
	pg_crc32c crc;

	appendBinaryStringInfo(bytes, MAGIC, MAGIC_BYTES);
	appendStringInfoChar(bytes, VERSION);
	appendStringInfoChar(bytes, (char)state->role);
	appendStringInfoChar(bytes, state->sealed ? 1 : 0);
	appendStringInfoChar(bytes, state->leased ? 1 : 0);
	appendBinaryStringInfo(bytes, (const char *)&epoch, sizeof(epoch));
	appendBinaryStringInfo(bytes, (const char *)&configuration, sizeof(configuration));
	append_string(bytes, state->database);
	append_string(bytes, state->conninfo);
	append_string(bytes, state->slot);
	append_string(bytes, state->synchronous);
	INIT_CRC32C(crc);
	COMP_CRC32C(crc, bytes->data, bytes->len);
	FIN_CRC32C(crc);
	crc = pg_hton32(crc);
	appendBinaryStringInfo(bytes, (const char *)&crc, sizeof(crc));
	return bytes;
}

static bool read_string(aidb_slice *bytes, char *to, size_t to_bytes) {
	uint16 size;

	if (bytes->size < sizeof(size)) {
		return false;
	}
	memcpy(&size, bytes->data, sizeof(size));
	size = pg_ntoh16(size);
	if (bytes->size - sizeof(size) < size || size >= to_bytes) {
		return false;
	}
	memcpy(to, (const char *)bytes->data + sizeof(size), size);
	to[size] = '\0';
	*bytes = (aidb_slice){(const char *)bytes->data + sizeof(size) + size, bytes->size - sizeof(size) - size};
	return true;
}

static bool decode(aidb_slice bytes, aipg_role_state *state) {
	const uint8 *data = bytes.data;
	uint64 epoch, configuration;
	pg_crc32c crc, stored;

	if (bytes.size < MAGIC_BYTES + sizeof(crc) || memcmp(data, MAGIC, MAGIC_BYTES) != 0) {
		return false;
	}
	INIT_CRC32C(crc);
	COMP_CRC32C(crc, data, bytes.size - sizeof(crc));
	FIN_CRC32C(crc);
	memcpy(&stored, data + bytes.size - sizeof(crc), sizeof(stored));
	if (pg_ntoh32(stored) != crc) {
		return false;
	}
	data += MAGIC_BYTES;
	bytes.size -= MAGIC_BYTES + sizeof(crc);
	if (bytes.size < 4 + sizeof(epoch) + sizeof(configuration) || data[0] != VERSION || data[1] >= AIPG_ROLES ||
		data[2] > 1 || data[3] > 1) {
		return false;
	}
	state->role = (aipg_role)data[1];
	state->sealed = data[2] != 0;
	state->leased = data[3] != 0;
	data += 4;
	memcpy(&epoch, data, sizeof(epoch));
	state->epoch = pg_ntoh64(epoch);
	memcpy(&configuration, data + sizeof(epoch), sizeof(configuration));
	state->configuration = pg_ntoh64(configuration);
	data += sizeof(epoch) + sizeof(configuration);
	bytes = (aidb_slice){data, bytes.size - 4 - sizeof(epoch) - sizeof(configuration)};
	return read_string(&bytes, state->database, sizeof(state->database)) &&
		   read_string(&bytes, state->conninfo, sizeof(state->conninfo)) &&
		   read_string(&bytes, state->slot, sizeof(state->slot)) &&
		   read_string(&bytes, state->synchronous, sizeof(state->synchronous)) && bytes.size == 0;
}

/* ---- Reading and changing -------------------------------------------------------------------------------- */

static bool is_replica(aipg_role role) {
	return role == AIPG_STANDBY || role == AIPG_CACHE;
}

/* Makes it known to all processes; state lock held, or nobody else is there yet. */
static void announce(const aipg_role_state *state) {
	bool was_replica = is_replica((aipg_role)pg_atomic_read_u32(&shared->role));

	shared->state = *state;
	if (is_replica(state->role) != was_replica || !is_replica(state->role)) {
		pg_atomic_write_u64(&shared->published, is_replica(state->role) ? 0 : AIDB_SEQUENCE_LATEST);
	}
	pg_atomic_write_u64(&shared->epoch, state->epoch);
	pg_atomic_write_u32(&shared->sealed, state->sealed ? 1 : 0);
	pg_atomic_write_u32(&shared->role, state->role);
	pg_atomic_fetch_add_u64(&shared->changes, 1);
	if (shared->watcher != NULL) {
		SetLatch(shared->watcher);
	}
}

static const char *role_path(char path[MAXPGPATH], const char *directory, const char *suffix) {
	snprintf(path, MAXPGPATH, "%s/role%s", directory, suffix);
	return path;
}

/* False: there is no file. */
static bool read_file(aipg_role_state *state) {
	char directory[MAXPGPATH], path[MAXPGPATH], bytes[FILE_BYTES];
	int file = OpenTransientFile(role_path(path, aipg_store_path(directory), ""), O_RDONLY | PG_BINARY);
	ssize_t got;

	if (file < 0 && errno == ENOENT) {
		return false;
	}
	got = file < 0 ? -1 : pg_pread(file, bytes, sizeof(bytes), 0);
	if (got < 0) {
		ereport(ERROR, (errcode_for_file_access(), errmsg("could not read file \"%s\": %m", path)));
	}
	CloseTransientFile(file);
	if (!decode((aidb_slice){bytes, (size_t)got}, state)) {
		ereport(ERROR, (errcode(ERRCODE_DATA_CORRUPTED), errmsg("file \"%s\" is damaged", path),
						errdetail("It says what this server is in its group."),
						errhint("Restore it, or remove it and make the server follow its primary again.")));
	}
	return true;
}

void aipg_role_write(const char *directory, const aipg_role_state *state) {
	char path[MAXPGPATH], new_path[MAXPGPATH];
	StringInfo bytes = encode(state);
	int file = OpenTransientFile(role_path(new_path, directory, ".new"), O_RDWR | O_CREAT | O_TRUNC | PG_BINARY);

	if (file < 0 || pg_pwrite(file, bytes->data, (size_t)bytes->len, 0) != bytes->len || pg_fsync(file) != 0) {
		ereport(ERROR, (errcode_for_file_access(), errmsg("could not write file \"%s\": %m", new_path)));
	}
	CloseTransientFile(file);
	durable_rename(new_path, role_path(path, directory, ""), ERROR);
}

void aipg_role_load(aidb_db *db) {
	aipg_role_state state = {.role = AIPG_ALONE};

	read_file(&state);
	LWLockAcquire(state_lock(), LW_EXCLUSIVE);
	if (pg_atomic_read_u64(&shared->changes) == 0) {
		announce(&state);
		if (state.synchronous[0] != '\0') {
			aidb_replication_require(db, 0);
			pg_atomic_write_u64(&shared->recovered, aidb_current_sequence(db));
		}
	}
	LWLockRelease(state_lock());
}

const char *aipg_role_name(aipg_role role) {
	return names[role];
}

aipg_role aipg_role_of_name(const char *name) {
	for (int role = 0; role < AIPG_ROLES; role++) {
		if (strcmp(name, names[role]) == 0) {
			return (aipg_role)role;
		}
	}
	ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("\"%s\" is no role of a server", name),
					errhint("Use \"standby\" or \"cache\".")));
}

aipg_role aipg_role_now(void) {
	return (aipg_role)pg_atomic_read_u32(&shared->role);
}

uint64 aipg_role_epoch(void) {
	return pg_atomic_read_u64(&shared->epoch);
}

uint64 aipg_role_changes(void) {
	return pg_atomic_read_u64(&shared->changes);
}

aipg_role_state aipg_role_get(void) {
	aipg_role_state state;

	aipg_store();
	LWLockAcquire(state_lock(), LW_SHARED);
	state = shared->state;
	LWLockRelease(state_lock());
	return state;
}

void aipg_role_set(const aipg_role_state *state) {
	char directory[MAXPGPATH];

	aipg_store();
	LWLockAcquire(state_lock(), LW_EXCLUSIVE);
	if (state->epoch < shared->state.epoch) {
		uint64 known = shared->state.epoch;

		LWLockRelease(state_lock());
		ereport(ERROR, (errcode(AIPG_ERRCODE_WRONG_EPOCH),
						errmsg("epoch " UINT64_FORMAT " is over: this server knows of epoch " UINT64_FORMAT,
							   state->epoch, known)));
	}
	aipg_role_write(aipg_store_path(directory), state);
	announce(state);
	LWLockRelease(state_lock());
}

static void stop_watching(int code, Datum argument) {
	LWLockAcquire(state_lock(), LW_EXCLUSIVE);
	shared->watcher = NULL;
	LWLockRelease(state_lock());
}

void aipg_role_watch(void) {
	before_shmem_exit(stop_watching, (Datum)0);
	LWLockAcquire(state_lock(), LW_EXCLUSIVE);
	shared->watcher = MyLatch;
	LWLockRelease(state_lock());
}

bool aipg_role_is_sealed(void) {
	return pg_atomic_read_u32(&shared->sealed) != 0;
}

bool aipg_role_is_synchronous(void) {
	bool is;

	LWLockAcquire(state_lock(), LW_SHARED);
	is = shared->state.role == AIPG_PRIMARY && shared->state.synchronous[0] != '\0';
	LWLockRelease(state_lock());
	return is;
}

void aipg_role_note_unreplicated(aidb_sequence sequence) {
	uint64 noted = pg_atomic_read_u64(&shared->unreplicated);

	while (noted < sequence && !pg_atomic_compare_exchange_u64(&shared->unreplicated, &noted, sequence)) {}
}

aidb_sequence aipg_role_unreplicated(void) {
	return pg_atomic_read_u64(&shared->unreplicated);
}

/* ---- What statements may do ------------------------------------------------------------------------------ */

char *aipg_role_address(const char *conninfo) {
	StringInfo address = makeStringInfo();
	static const char *const wanted[] = {"host=", "port="};

	for (size_t i = 0; i < lengthof(wanted); i++) {
		const char *found = strstr(conninfo, wanted[i]);

		if (found != NULL) {
			found += strlen(wanted[i]);
			appendStringInfo(address, "%s%.*s", address->len > 0 ? ":" : "", (int)strcspn(found, " "), found);
		}
	}
	return address->len > 0 ? address->data : pstrdup("the default host");
}

static void check_restored(aipg_role role) {
	if (role == AIPG_RESTORING) {
		ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
						errmsg("the AiDb store of this server is being restored from a backup"),
						errhint("Wait for aidb-admin restore; if it was broken off, restore into another directory.")));
	}
}

static void pg_attribute_noreturn() refuse_sealed(void) {
	ereport(ERROR, (errcode(AIPG_ERRCODE_WRONG_EPOCH), errmsg("this server is not the primary of its group any more"),
					errdetail("It was sealed with epoch " UINT64_FORMAT ".", aipg_role_epoch()),
					errhint("Ask the coordinator for the present primary.")));
}

/* A router has said in which epoch it takes this server for the primary. */
static void check_expected_epoch(aipg_role role) {
	uint64 epoch = aipg_role_epoch();

	if (aipg_expected_epoch > 0 && (role != AIPG_PRIMARY || epoch != (uint64)aipg_expected_epoch)) {
		ereport(ERROR, (errcode(AIPG_ERRCODE_WRONG_EPOCH),
						errmsg("this server is not the primary of its group in epoch %d", aipg_expected_epoch),
						errdetail("It is \"%s\", in epoch " UINT64_FORMAT ".", aipg_role_name(role), epoch),
						errhint("Ask the coordinator for the present primary.")));
	}
}

void aipg_role_check_write(void) {
	aipg_role role = aipg_role_now();

	check_expected_epoch(role);
	if (role == AIPG_ALONE || aipg_role_internal) {
		return;
	}
	check_restored(role);
	if (is_replica(role)) {
		aipg_role_state state = aipg_role_get();

		ereport(ERROR, (errcode(ERRCODE_READ_ONLY_SQL_TRANSACTION),
						errmsg("cannot write AiDb tables on a %s", aipg_role_name(role)),
						errhint("Connect to the primary at %s.", aipg_role_address(state.conninfo))));
	}
	if (pg_atomic_read_u32(&shared->sealed) != 0) {
		refuse_sealed();
	}
}

/* After a restart all of the log is visible here, also what nobody was told of because the replica did not have it. */
static void wait_for_recovered(uint64 sequence) {
	aidb_status rc = aidb_wait_replicated(aipg_store(), sequence);

	if (rc != AIDB_OK) {
		aipg_raise(rc, "could not wait for the replica that must have what this server has recovered");
	}
	pg_atomic_write_u64(&shared->recovered, 0);
}

/* Milliseconds since the machine was started, counted while it sleeps, too. */
static uint64 now_ms(void) {
	struct timespec now;

	clock_gettime(CLOCK_BOOTTIME, &now);
	return (uint64)now.tv_sec * 1000 + (uint64)now.tv_nsec / 1000000;
}

void aipg_role_lease(int64 ms) {
	pg_atomic_write_u64(&shared->lease_until_ms, now_ms() + (uint64)ms);
}

/* The sequence that aidb.read_token asks for; 0: none. A token of another epoch is of another primary, whose commits up to the
 * change have all been applied where the stream goes on from the new one. */
static uint64 token_sequence(void) {
	uint64 epoch, sequence;

	if (aipg_read_token == NULL || aipg_read_token[0] == '\0' ||
		!aipg_read_token_parse(aipg_read_token, &epoch, &sequence) || epoch != aipg_role_epoch()) {
		return 0;
	}
	return sequence;
}

void aipg_role_await_token(void) {
	uint64 sequence;

	if (is_replica(aipg_role_now()) && !aipg_role_internal && (sequence = token_sequence()) > 0) {
		(void)aipg_progress_wait(sequence, aipg_read_token_timeout_ms);
	}
}

/* Whether a replica is as far as the session wants it to be. */
static void check_replica(aipg_role role) {
	uint64 sequence = token_sequence();
	TimestampTz heard_at;

	if (sequence > pg_atomic_read_u64(&shared->position)) {
		ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
						errmsg("this %s has not come to commit " UINT64_FORMAT " within %d ms", names[role], sequence,
							   aipg_read_token_timeout_ms),
						errdetail("That is what aidb.read_token asks for; it has come to " UINT64_FORMAT ".",
								  pg_atomic_read_u64(&shared->position)),
						errhint("Try again, or read at the primary.")));
	}
	if (aipg_max_staleness_ms > 0 && role == AIPG_STANDBY) {
		heard_at = aipg_progress_get().heard_at;
		if (TimestampDifferenceExceeds(heard_at, GetCurrentTimestamp(), aipg_max_staleness_ms)) {
			ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
							errmsg("this standby has not heard of its primary within aidb.max_staleness"),
							errhint("Read at the primary, or at another standby.")));
		}
	}
}

void aipg_role_check_read(void) {
	aipg_role role = aipg_role_now();
	uint64 lease, recovered;

	check_expected_epoch(role);
	if (role == AIPG_ALONE || aipg_role_internal) {
		return;
	}
	check_restored(role);
	if (is_replica(role) && pg_atomic_read_u64(&shared->published) == 0) {
		aipg_progress progress = aipg_progress_get();

		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE), errmsg("this %s is not complete yet", names[role]),
				 progress.detail[0] != '\0'
					 ? errdetail("Its state is \"%s\": %s", progress.state, progress.detail)
					 : errdetail("Its state is \"%s\", with " UINT64_FORMAT " rows copied so far.", progress.state,
								 progress.rows_copied),
				 errhint("aidb.node_status() shows how far it is.")));
	}
	if (is_replica(role)) {
		check_replica(role);
	}
	if (role == AIPG_PRIMARY) {
		if (pg_atomic_read_u32(&shared->sealed) != 0) {
			refuse_sealed();
		}
		lease = pg_atomic_read_u64(&shared->lease_until_ms);
		if (shared->state.leased && lease < now_ms() && shared->state.synchronous[0] != '\0') {
			ereport(ERROR,
					(errcode(AIPG_ERRCODE_WRONG_EPOCH), errmsg("this server may have been replaced as the primary"),
					 errdetail("Its lease has run out: the coordinator has not been heard of in time."),
					 errhint("Try again, or ask the coordinator for the present primary.")));
		}
		recovered = pg_atomic_read_u64(&shared->recovered);
		if (recovered != 0) {
			wait_for_recovered(recovered);
		}
	}
}

aidb_sequence aipg_role_published(void) {
	return pg_atomic_read_u64(&shared->published);
}

void aipg_role_publish(aidb_sequence sequence) {
	pg_atomic_write_u64(&shared->published, sequence);
}

/* ---- Applying -------------------------------------------------------------------------------------------- */

bool aipg_role_begin_apply(uint64 changes) {
	pg_atomic_write_u32(&shared->applying, 1);
	pg_memory_barrier();
	if (pg_atomic_read_u64(&shared->changes) != changes || pg_atomic_read_u32(&shared->sealed) != 0) {
		aipg_role_end_apply();
		return false;
	}
	return true;
}

void aipg_role_end_apply(void) {
	pg_atomic_write_u32(&shared->applying, 0);
	ConditionVariableBroadcast(&shared->applied);
}

void aipg_role_wait_apply(void) {
	ConditionVariablePrepareToSleep(&shared->applied);
	while (pg_atomic_read_u32(&shared->applying) != 0) {
		ConditionVariableSleep(&shared->applied, PG_WAIT_EXTENSION);
	}
	ConditionVariableCancelSleep();
}

aipg_progress aipg_progress_get(void) {
	aipg_progress progress;

	LWLockAcquire(state_lock(), LW_SHARED);
	progress = shared->progress;
	LWLockRelease(state_lock());
	return progress;
}

bool aipg_progress_wait(uint64 sequence, int timeout_ms) {
	TimestampTz deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), timeout_ms);
	bool there;

	while (!(there = pg_atomic_read_u64(&shared->position) >= sequence) && is_replica(aipg_role_now())) {
		long left_ms = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), deadline);

		if (left_ms <= 0) {
			break;
		}
		ConditionVariableTimedSleep(&shared->progressed, left_ms, PG_WAIT_EXTENSION);
	}
	ConditionVariableCancelSleep();
	return there;
}

void aipg_progress_set(const aipg_progress *progress) {
	LWLockAcquire(state_lock(), LW_EXCLUSIVE);
	shared->progress = *progress;
	pg_atomic_write_u64(&shared->position, progress->applied);
	LWLockRelease(state_lock());
	ConditionVariableBroadcast(&shared->progressed);
}
