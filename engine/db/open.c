#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "db/layout.h"
#include "db/recovery.h"
#include "db/redo.h"
#include "host/thread_host.h"

#define LOCK_NAME "LOCK"

/* ---- The arena ----------------------------------------------------------------------------------------- */

static lsm_arena arena_of(void *memory, const aidb_host *host) {
	lsm_shared *shared = memory;

	return (lsm_arena){.base = memory,
					   .bytes = shared->arena_bytes,
					   .epochs = &shared->epochs,
					   .waiting = {.host = host, .poisoned = &shared->poisoned}};
}

aidb_status aidb_arena_format(void *memory, size_t bytes, const aidb_options *options) {
	lsm_shared *shared = memory;
	aidb_options resolved = *options;
	aidb_status rc;

	if (resolved.memory_bytes == 0) {
		resolved.memory_bytes = bytes;
	}
	rc = aidb_options_resolve(&resolved);
	if (rc != AIDB_OK) {
		return rc;
	}
	if (resolved.memory_bytes > bytes) {
		return lsm_fail(AIDB_INVALID, "an arena of %zu bytes cannot hold %llu bytes of memory", bytes,
						(unsigned long long)resolved.memory_bytes);
	}
	shared->arena_bytes = bytes;
	shared->options = resolved;
	atomic_store(&shared->epochs.current, 1);
	rc = lsm_layout_check(shared);
	if (rc == AIDB_OK) {
		shared->magic = LSM_ARENA_MAGIC;
	}
	return rc;
}

/* ---- Attaching, starting, stopping ----------------------------------------------------------------------- */

aidb_status lsm_poisoned(const aidb_db *db) {
	return lsm_fail(AIDB_POISONED,
					"a thread or process died while it was changing the store \"%s\" in memory; close the "
					"store everywhere and open it again to recover",
					db->directory);
}

aidb_status lsm_no_room_for_files(const aidb_db *db) {
	if (atomic_load(&db->shared->poisoned) != 0) {
		return lsm_poisoned(db);
	}
	return lsm_fail(AIDB_NO_MEMORY, "the arena has no memory left for the list of files; give the store more memory");
}

aidb_status lsm_enter(aidb_db *db, uint32_t *member) {
	lsm_shared *shared = db->shared;
	uint32_t number = db->host->member(db->host->context);

	if (number >= shared->epochs.members) {
		return lsm_fail(AIDB_LIMIT, "more than %u threads or processes use the store at the same time; raise `members`",
						shared->epochs.members);
	}
	if (atomic_load_explicit(&shared->poisoned, memory_order_relaxed) != 0) {
		return lsm_poisoned(db);
	}
	if (atomic_load_explicit(&shared->state, memory_order_acquire) != LSM_OPEN) {
		return lsm_fail(AIDB_INVALID, "the store \"%s\" is not open: it was not started, or has been stopped",
						db->directory);
	}
	if (atomic_load_explicit(&shared->versions.removed_count, memory_order_relaxed) !=
		atomic_load_explicit(&db->removed_count, memory_order_relaxed)) {
		lsm_close_removed(db);
	}
	*member = number;
	return AIDB_OK;
}

aidb_status aidb_attach(void *memory, const aidb_host *host, const char *path, aidb_db **db) {
	const lsm_shared *shared = memory;
	aidb_db *handle;
	aidb_status rc;

	if (shared->magic != LSM_ARENA_MAGIC) {
		return lsm_fail(AIDB_INVALID, "the memory holds no arena, or one of another version");
	}
	handle = calloc(1, sizeof(*handle));
	if (handle == NULL) {
		return lsm_fail(AIDB_NO_MEMORY, "out of memory: could not attach to the store");
	}
	handle->arena = arena_of(memory, host);
	handle->host = host;
	handle->shared = memory;
	handle->lock = -1;
	handle->write_segment.file = -1;
	handle->sync_segment.file = -1;
	handle->directory = strdup(path);
	rc = handle->directory == NULL ? lsm_fail(AIDB_NO_MEMORY, "out of memory: could not attach to the store")
								   : lsm_file_table_create(host, path, &handle->files);
	if (rc != AIDB_OK) {
		aidb_detach(handle);
		return rc;
	}
	*db = handle;
	return AIDB_OK;
}

void aidb_detach(aidb_db *db) {
	if (db != NULL) {
		lsm_log_close(db);
		lsm_file_table_destroy(db->files);
		free(db->directory);
		free(db);
	}
}

bool aidb_is_started(const aidb_db *db) {
	return atomic_load_explicit(&db->shared->state, memory_order_acquire) == LSM_OPEN;
}

static aidb_status tell_host(const aidb_db *db) {
	int error = db->host->before_open == NULL ? 0 : db->host->before_open(db->host->context);

	return error == 0 ? AIDB_OK : lsm_fail_errno(error, "record the start of", db->directory);
}

aidb_status aidb_start(aidb_db *db) {
	lsm_shared *shared = db->shared;
	aidb_status rc = AIDB_OK;

	if (aidb_is_started(db)) {
		return AIDB_OK;
	}
	if (!lsm_latch_acquire(&db->arena.waiting, &shared->start_latch)) {
		return lsm_poisoned(db);
	}
	if (atomic_load(&shared->state) == LSM_STOPPED) {
		rc = lsm_fail(AIDB_INVALID, "the store \"%s\" has been stopped", db->directory);
	} else if (atomic_load(&shared->state) == LSM_NEW) {
		atomic_store(&shared->state, LSM_STARTING);
		rc = lsm_layout(&db->arena, shared);
		if (rc == AIDB_OK) {
			rc = lsm_recover(db);
		}
		if (rc == AIDB_OK) {
			rc = tell_host(db);
		}
		if (rc != AIDB_OK) {
			lsm_log_close(db);
		}
		atomic_store(&shared->state, rc == AIDB_OK ? LSM_OPEN : LSM_NEW);
	}
	lsm_latch_release(&db->arena.waiting, &shared->start_latch);
	return rc;
}

aidb_status aidb_stop(aidb_db *db) {
	aidb_status rc;

	if (!aidb_is_started(db)) {
		return AIDB_OK;
	}
	rc = aidb_sync(db);
	atomic_store(&db->shared->state, LSM_STOPPED);
	return rc;
}

/* ---- Embedded ------------------------------------------------------------------------------------------ */

static aidb_status work(void *argument, aidb_work_kind kind, bool *did) {
	return aidb_work(argument, kind, did);
}

static aidb_status take_directory(aidb_db *db, const aidb_options *options) {
	char path[LSM_PATH_BYTES];
	int error = 0;

	if (options->create_if_missing) {
		error = db->host->directory_create(db->host->context, db->directory);
	}
	if (error != 0) {
		return lsm_fail_errno(error, "create directory", db->directory);
	}
	snprintf(path, sizeof(path), "%s/%s", db->directory, LOCK_NAME);
	error = db->host->file_lock(db->host->context, path, &db->lock);
	if (error == EWOULDBLOCK) {
		return lsm_fail(AIDB_IN_USE, "another process has the store \"%s\" open", db->directory);
	}
	return error == 0 ? AIDB_OK : lsm_fail_errno(error, "lock", path);
}

static aidb_status open_embedded(void *memory, aidb_host *host, const char *path, const aidb_options *options,
								 aidb_db **db) {
	aidb_db *handle = NULL;
	aidb_status rc = aidb_arena_format(memory, options->memory_bytes, options);

	if (rc == AIDB_OK) {
		rc = aidb_attach(memory, host, path, &handle);
	}
	if (rc == AIDB_OK) {
		rc = take_directory(handle, options);
	}
	if (rc == AIDB_OK) {
		rc = aidb_start(handle);
	}
	if (rc == AIDB_OK && !options->no_background) {
		rc = lsm_thread_host_start(host, work, handle);
	}
	if (rc != AIDB_OK) {
		if (handle != NULL && handle->lock >= 0) {
			host->file_close(host->context, handle->lock);
		}
		aidb_detach(handle);
		return rc;
	}
	handle->own_host = host;
	*db = handle;
	return AIDB_OK;
}

aidb_status aidb_open(const char *path, const aidb_options *options, aidb_db **db) {
	aidb_options resolved = {0};
	aidb_host *host = NULL;
	void *memory;
	aidb_status rc;

	if (options != NULL) {
		resolved = *options;
	}
	rc = aidb_options_resolve(&resolved);
	if (rc == AIDB_OK) {
		rc = lsm_thread_host_create(resolved.members, &host);
	}
	if (rc != AIDB_OK) {
		return rc;
	}
	memory = lsm_thread_host_map(resolved.memory_bytes);
	if (memory == NULL) {
		rc = lsm_fail(AIDB_NO_MEMORY, "could not map %llu bytes of memory: %s",
					  (unsigned long long)resolved.memory_bytes, strerror(errno));
	} else {
		rc = open_embedded(memory, host, path, &resolved, db);
		if (rc != AIDB_OK) {
			lsm_thread_host_unmap(memory, resolved.memory_bytes);
		}
	}
	if (rc != AIDB_OK) {
		lsm_thread_host_destroy(host);
	}
	return rc;
}

void aidb_close(aidb_db *db) {
	aidb_host *host;
	void *memory;
	size_t bytes;

	if (db == NULL) {
		return;
	}
	host = db->own_host;
	memory = db->shared;
	bytes = db->shared->arena_bytes;
	lsm_thread_host_stop(host);
	if (aidb_stop(db) != AIDB_OK) {
		host->log(host->context, AIDB_LOG_ERROR, aidb_last_error());
	}
	host->file_close(host->context, db->lock);
	aidb_detach(db);
	lsm_thread_host_destroy(host);
	lsm_thread_host_unmap(memory, bytes);
}

/* ---- Destroying ---------------------------------------------------------------------------------------- */

typedef struct destruction {
	const aidb_host *host;
	const char *directory;
	int error;
} destruction;

static bool has_suffix(const char *name, const char *suffix) {
	size_t length = strlen(name), suffix_length = strlen(suffix);

	return length > suffix_length && strcmp(name + length - suffix_length, suffix) == 0;
}

static void destroy_file(void *argument, const char *name) {
	destruction *run = argument;
	uint64_t segment;
	char path[LSM_PATH_BYTES];
	bool ours = lsm_segment_number(name, &segment) || has_suffix(name, ".sst") || strcmp(name, "MANIFEST") == 0 ||
				strcmp(name, "MANIFEST.new") == 0 || lsm_is_redo_file(name);

	if (ours) {
		int error;

		snprintf(path, sizeof(path), "%s/%s", run->directory, name);
		error = run->host->file_remove(run->host->context, path);
		run->error = run->error == 0 ? error : run->error;
	}
}

aidb_status aidb_destroy(const char *path) {
	aidb_host *host = NULL;
	destruction run = {.directory = path};
	char lock_path[LSM_PATH_BYTES];
	int lock = -1;
	aidb_status rc = lsm_thread_host_create(1, &host);

	if (rc != AIDB_OK) {
		return rc;
	}
	run.host = host;
	snprintf(lock_path, sizeof(lock_path), "%s/%s", path, LOCK_NAME);
	run.error = host->file_lock(host->context, lock_path, &lock);
	if (run.error == EWOULDBLOCK) {
		rc = lsm_fail(AIDB_IN_USE, "another process has the store \"%s\" open", path);
	} else if (run.error != 0) {
		rc = lsm_fail_errno(run.error, "lock", lock_path);
	} else {
		int error = host->directory_list(host->context, path, destroy_file, &run);

		run.error = run.error == 0 ? error : run.error;
		host->file_remove(host->context, lock_path);
		host->file_close(host->context, lock);
		host->directory_remove(host->context, path); /* stays when it holds files of others */
		rc = run.error == 0 ? AIDB_OK : lsm_fail_errno(run.error, "destroy the store in", path);
	}
	lsm_thread_host_destroy(host);
	return rc;
}
