#include "backup/restore.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "backup/replay.h"
#include "backup/restored_server.h"
#include "object_store/failure.h"

#define NUMBER_BYTES 24

typedef struct restore {
	const aidb_restore_options *options;
	aidb_repository *repository;
	aidb_found found;
	aidb_restored_server server;
	char store[PATH_MAX + 8]; /* the store's directory in the new server's */
	aidb_storage *storages[AIDB_MAX_JOBS];
	aidb_hash *hashes[AIDB_MAX_JOBS];
	aidb_progress progress;
	aidb_replay replay;
} restore;

/* ---- Files ----------------------------------------------------------------------------------------------- */

static aidb_status check_space(const restore *run) {
	struct statvfs space;
	uint64_t needed = aidb_manifest_bytes(&run->found.manifest), free_bytes;

	if (statvfs(run->server.data, &space) != 0) {
		return aidb_fail_errno(errno, "look at the space for", run->server.data);
	}
	free_bytes = (uint64_t)space.f_bavail * space.f_frsize;
	return free_bytes >= needed
			   ? AIDB_OK
			   : aidb_fail(AIDB_NO_SPACE, "the backup has %" PRIu64 " MB, and for \"%s\" there are %" PRIu64 " MB",
						   needed >> 20, run->server.data, free_bytes >> 20);
}

typedef struct receiving {
	restore *run;
	aidb_hash *hash;
	int file;
	const char *path;
	uint64_t bytes;
} receiving;

static aidb_status receive_part(void *argument, const void *data, size_t size) {
	receiving *self = argument;
	const char *at = data;
	size_t left = size;

	aidb_hash_add(self->hash, data, size);
	while (left > 0) {
		ssize_t written = write(self->file, at, left);

		if (written < 0 && errno != EINTR) {
			return aidb_fail_errno(errno, "write", self->path);
		}
		at += written > 0 ? written : 0;
		left -= written > 0 ? (size_t)written : 0;
	}
	self->bytes += size;
	aidb_copy_note(&self->run->progress, &self->run->options->copy, size);
	return AIDB_OK;
}

static aidb_status receive_object(restore *run, unsigned job, const aidb_manifest_file *file, const char *path) {
	receiving self = {.run = run, .hash = run->hashes[job], .path = path};
	char name[AIDB_OBJECT_NAME_BYTES], hash[AIDB_HASH_TEXT];
	aidb_status rc;

	self.file = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (self.file < 0) {
		return aidb_fail_errno(errno, "make", path);
	}
	aidb_object_name(file->hash, name);
	rc = aidb_storage_get(run->storages[job], name, receive_part, &self);
	aidb_hash_finish(self.hash, hash);
	if (rc == AIDB_NOT_FOUND) {
		rc = aidb_fail(AIDB_CORRUPT, "object %s, which is file %s of backup %s, is missing in %s", name, file->name,
					   run->found.manifest.label, run->options->address);
	} else if (rc == AIDB_OK && (self.bytes != file->bytes || strcmp(hash, file->hash) != 0)) {
		rc = aidb_fail(AIDB_CORRUPT,
					   "object %s, which is file %s of backup %s, is damaged in %s: it has %" PRIu64
					   " bytes of %" PRIu64 ", and %s",
					   name, file->name, run->found.manifest.label, run->options->address, self.bytes, file->bytes,
					   strcmp(hash, file->hash) == 0 ? "the same checksum" : "another checksum");
	}
	if (rc == AIDB_OK && fsync(self.file) != 0) {
		rc = aidb_fail_errno(errno, "sync", path);
	}
	close(self.file);
	return rc;
}

static aidb_status receive_file(void *argument, unsigned job, uint32_t number) {
	restore *run = argument;
	const aidb_manifest_file *file = &run->found.manifest.files[number];
	char path[PATH_MAX + 128];
	aidb_status rc = AIDB_OK;

	if (run->storages[job] == NULL) {
		rc = aidb_storage_open(run->options->address, &run->storages[job]);
	}
	if (rc == AIDB_OK && run->hashes[job] == NULL && (run->hashes[job] = aidb_hash_create()) == NULL) {
		rc = aidb_fail(AIDB_NO_MEMORY, "out of memory");
	}
	if (rc == AIDB_OK) {
		snprintf(path, sizeof(path), "%s/%s", run->store, file->name);
		rc = receive_object(run, job, file, path);
	}
	atomic_fetch_add(&run->progress.files_done, 1);
	return rc;
}

static aidb_status sync_directory(const char *path) {
	int directory = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int error = directory < 0 || fsync(directory) != 0 ? errno : 0;

	if (directory >= 0) {
		close(directory);
	}
	return error == 0 ? AIDB_OK : aidb_fail_errno(error, "sync directory", path);
}

static aidb_status receive_files(restore *run) {
	aidb_status rc = check_space(run);

	snprintf(run->store, sizeof(run->store), "%s/aidb", run->server.data);
	if (rc == AIDB_OK && mkdir(run->store, 0700) != 0) {
		rc = aidb_fail_errno(errno, "make directory", run->store);
	}
	if (rc == AIDB_OK) {
		run->progress.what = "restored";
		run->progress.show = run->options->show_progress;
		run->progress.files = run->found.manifest.file_count;
		run->progress.bytes = aidb_manifest_bytes(&run->found.manifest);
		rc = aidb_copy_all(&run->options->copy, &run->progress, run->found.manifest.file_count, receive_file, run);
	}
	if (rc == AIDB_OK) {
		rc = sync_directory(run->store);
	}
	return rc == AIDB_OK ? sync_directory(run->server.data) : rc;
}

/* ---- The log --------------------------------------------------------------------------------------------- */

static aidb_status begin(restore *run) {
	char store[NUMBER_BYTES], after[NUMBER_BYTES], complete_at[NUMBER_BYTES];
	const char *values[3] = {store, after, complete_at};

	snprintf(store, sizeof(store), "%" PRId64, (int64_t)run->found.manifest.store);
	snprintf(after, sizeof(after), "%" PRIu64, run->found.manifest.after);
	snprintf(complete_at, sizeof(complete_at), "%" PRIu64, run->found.manifest.complete_at);
	return aidb_restored_server_query(&run->server, "cannot make the tables", "SELECT aidb.restore_begin($1, $2, $3)",
									  3, values, NULL, NULL);
}

static aidb_status apply(restore *run, aidb_slice answer) {
	aidb_slice cut;
	aidb_status rc = aidb_replay_next(&run->replay, answer, &cut);

	if (rc == AIDB_OK && cut.size > 0) {
		const char *values[1] = {cut.data};
		int lengths[1] = {(int)cut.size};

		rc = aidb_restored_server_query(&run->server, "cannot apply the log", "SELECT aidb.restore_apply($1)", 1,
										values, lengths, NULL);
	}
	return rc;
}

static aidb_status apply_piece(restore *run, const aidb_piece *piece, aidb_segment *segment) {
	aidb_status rc = aidb_repository_read_piece(run->repository, piece, segment);
	size_t offset = 0;
	aidb_slice answer;

	while (rc == AIDB_OK && !run->replay.done && aidb_segment_next(segment, &offset, &answer)) {
		rc = apply(run, answer);
	}
	return rc;
}

static aidb_status apply_log(restore *run) {
	aidb_segment *segment = calloc(1, sizeof(*segment));
	aidb_status rc = segment == NULL ? aidb_fail(AIDB_NO_MEMORY, "out of memory") : begin(run);

	run->replay = (aidb_replay){.store = run->found.manifest.store,
								.reached = run->found.manifest.after,
								.read = run->found.manifest.after,
								.target = run->found.sequence,
								.target_is_mark = run->found.is_mark,
								.done = run->found.sequence <= run->found.manifest.after};
	for (uint32_t i = 0; i < run->found.pieces.count && rc == AIDB_OK && !run->replay.done; i++) {
		const aidb_piece *piece = &run->found.pieces.pieces[i];

		if (piece->upto >= run->replay.read &&
			(piece->upto > run->found.manifest.after || piece->from == piece->upto)) {
			rc = apply_piece(run, piece, segment);
			if (run->options->show_progress) {
				fprintf(stderr, "\rlog applied: up to commit %" PRIu64 " of %" PRIu64 "   ", run->replay.reached,
						run->found.sequence);
			}
		}
	}
	if (run->options->show_progress) {
		fputc('\n', stderr);
	}
	if (rc == AIDB_OK && !run->replay.done) {
		rc = aidb_fail(AIDB_NOT_FOUND,
					   "the archived log ends before all is decided that was committed up to %" PRIu64
					   ": restore to the latest state, or to an earlier one",
					   run->found.sequence);
	}
	if (segment != NULL) {
		aidb_segment_free(segment);
	}
	free(segment);
	return rc == AIDB_OK ? aidb_restored_server_query(&run->server, "cannot finish", "SELECT aidb.restore_finish()", 0,
													  NULL, NULL, NULL)
						 : rc;
}

/* ---- The whole ------------------------------------------------------------------------------------------- */

static aidb_status count_tables(restore *run, uint64_t *tables) {
	PGresult *result;
	aidb_status rc = aidb_restored_server_query(
		&run->server, "cannot count the tables",
		"SELECT count(*) FROM pg_foreign_table t JOIN pg_foreign_server s ON s.oid = t.ftserver WHERE srvname = 'aidb'",
		0, NULL, NULL, &result);

	if (rc == AIDB_OK) {
		*tables = strtoull(PQgetvalue(result, 0, 0), NULL, 10);
		PQclear(result);
	}
	return rc;
}

static aidb_status make_server(restore *run, aidb_restored *restored) {
	aidb_status rc =
		aidb_restored_server_make(&run->server, run->options->bindir, run->options->data, &run->found.manifest);

	if (rc == AIDB_OK) {
		rc = receive_files(run);
	}
	if (rc == AIDB_OK) {
		rc = aidb_restored_server_start(&run->server, &run->found.manifest);
	}
	if (rc == AIDB_OK && run->options->before != NULL) {
		rc = aidb_restored_server_run(&run->server, run->options->before);
	}
	if (rc == AIDB_OK) {
		rc = apply_log(run);
	}
	return rc == AIDB_OK ? count_tables(run, &restored->tables) : rc;
}

static void release(restore *run) {
	for (unsigned i = 0; i < AIDB_MAX_JOBS; i++) {
		aidb_storage_close(run->storages[i]);
		aidb_hash_destroy(run->hashes[i]);
	}
	aidb_target_free(&run->found);
	aidb_replay_free(&run->replay);
	free(run);
}

aidb_status aidb_restore(const aidb_restore_options *options, aidb_repository *repository, aidb_restored *restored) {
	restore *run = calloc(1, sizeof(*run));
	aidb_status rc, stopped;
	char failure[2048];

	if (run == NULL) {
		return aidb_fail(AIDB_NO_MEMORY, "out of memory");
	}
	run->options = options;
	run->repository = repository;
	*restored = (aidb_restored){.tables = 0};
	rc = aidb_target_find(repository, &options->target, &run->found);
	if (rc == AIDB_OK) {
		rc = make_server(run, restored);
		snprintf(failure, sizeof(failure), "%s", aidb_failure());
		stopped = aidb_restored_server_stop(&run->server);
		if (rc != AIDB_OK) {
			aidb_fail(rc, "%s", failure);
		}
		rc = rc == AIDB_OK ? stopped : rc;
		if (rc != AIDB_OK && !options->keep) {
			aidb_restored_server_discard(&run->server);
		}
	}
	if (rc == AIDB_OK) {
		snprintf(restored->label, sizeof(restored->label), "%s", run->found.manifest.label);
		snprintf(restored->database, sizeof(restored->database), "%s", run->found.manifest.database);
		restored->sequence = run->replay.reached;
		restored->bytes = aidb_manifest_bytes(&run->found.manifest);
	}
	release(run);
	return rc;
}
