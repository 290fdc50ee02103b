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
#include "storage/failure.h"

#define SINCE_2000_US 946684800000000ull /* microseconds from 1970 */
#define NUMBER_BYTES 24

typedef struct restore {
	const aidb_restore_options *options;
	aidb_repository *repository;
	aidb_manifest manifest;
	aidb_pieces pieces; /* of the log of its store */
	uint64_t target;
	aidb_restored_server server;
	char store[PATH_MAX + 8]; /* the store's directory in the new server's */
	aidb_storage *storages[AIDB_MAX_JOBS];
	aidb_hash *hashes[AIDB_MAX_JOBS];
	aidb_progress progress;
	aidb_replay replay;
} restore;

/* ---- The target ------------------------------------------------------------------------------------------ */

/* Whether the target can be reached from a backup, as far as is known before the log has been looked at. */
static bool suits(const restore *run, const aidb_manifest *manifest, const aidb_point *point) {
	switch (run->options->kind) {
	case AIDB_TARGET_TIME:
		return manifest->finished <= run->options->time;
	case AIDB_TARGET_SEQUENCE:
		return manifest->complete_at <= run->options->sequence;
	case AIDB_TARGET_POINT:
		return manifest->store == point->store && manifest->complete_at <= point->sequence;
	default:
		return true;
	}
}

static aidb_status no_backup(const restore *run, const aidb_labels *labels) {
	if (labels->count == 0) {
		return aidb_fail(AIDB_NOT_FOUND, "there is no backup in %s", run->options->address);
	}
	return aidb_fail(
		AIDB_NOT_FOUND,
		"none of the %u backups in %s leads to that target: it is before all of them, or of another store; "
		"see: aidb-admin info",
		labels->count, run->options->address);
}

static aidb_status choose_backup(restore *run, const aidb_point *point) {
	aidb_labels labels;
	bool found = false;
	aidb_status rc = aidb_repository_labels(run->repository, &labels);

	for (uint32_t i = labels.count; i > 0 && rc == AIDB_OK && !found; i--) {
		const char *label = labels.labels[i - 1];

		if (run->options->label != NULL && strcmp(label, run->options->label) != 0) {
			continue;
		}
		rc = aidb_repository_load(run->repository, label, &run->manifest);
		if (rc == AIDB_OK) {
			found = suits(run, &run->manifest, point);
			if (!found) {
				aidb_manifest_free(&run->manifest);
			}
		}
	}
	if (rc == AIDB_OK && !found) {
		rc = run->options->label != NULL
				 ? aidb_fail(AIDB_NOT_FOUND, "there is no backup %s in %s, or it does not lead to that target",
							 run->options->label, run->options->address)
				 : no_backup(run, &labels);
	}
	free(labels.labels);
	return rc;
}

typedef struct looking {
	uint64_t clock_us;
	uint64_t found; /* the last mark that is not later; 0: none */
} looking;

static void look_at_mark(void *argument, const aipg_mark *mark, uint64_t sequence) {
	looking *run = argument;

	if (mark->clock_us <= run->clock_us && sequence > run->found) {
		run->found = sequence;
	}
}

/* The last mark in a piece that is not later than the time. */
static aidb_status look_for_mark(const restore *run, const aidb_piece *piece, looking *look) {
	aidb_segment *segment = calloc(1, sizeof(*segment));
	aidb_status rc = segment == NULL ? aidb_fail(AIDB_NO_MEMORY, "out of memory")
									 : aidb_repository_read_piece(run->repository, piece, segment);
	size_t offset = 0;
	aidb_slice answer;

	while (rc == AIDB_OK && aidb_segment_next(segment, &offset, &answer)) {
		aidb_marks_in(answer, look_at_mark, look);
	}
	if (segment != NULL) {
		aidb_segment_free(segment);
	}
	free(segment);
	return rc;
}

/* Every second in which there were commits ends with a mark. So from the last mark before it on nothing was committed, but in the
 * last second. */
static aidb_status find_time(restore *run) {
	looking look = {.clock_us = run->options->time > SINCE_2000_US ? run->options->time - SINCE_2000_US : 0};
	uint32_t after = run->pieces.count; /* the first piece that ends later */
	aidb_status rc = AIDB_OK;

	for (uint32_t i = run->pieces.count; i > 0 && run->pieces.pieces[i - 1].clock_us > look.clock_us; i--) {
		after = i - 1;
	}
	if (after == run->pieces.count) {
		return aidb_fail(
			AIDB_NOT_FOUND,
			"the archived log does not come to that time; restore to the latest state, or wait until it is "
			"archived; see: aidb-admin info");
	}
	for (uint32_t i = after + 1; i > 0 && rc == AIDB_OK && look.found == 0; i--) {
		if (run->pieces.pieces[i - 1].upto <= run->manifest.complete_at) {
			break;
		}
		rc = look_for_mark(run, &run->pieces.pieces[i - 1], &look);
	}
	run->target = look.found > run->manifest.complete_at ? look.found : run->manifest.complete_at;
	return rc;
}

static aidb_status find_target(restore *run) {
	aidb_point point = {.sequence = 0};
	uint64_t reach;
	aidb_status rc = AIDB_OK;

	if (run->options->kind == AIDB_TARGET_POINT) {
		rc = aidb_repository_find_point(run->repository, run->options->point, &point);
		if (rc == AIDB_NOT_FOUND) {
			return aidb_fail(rc, "there is no restore point \"%s\" in %s", run->options->point, run->options->address);
		}
	}
	if (rc == AIDB_OK) {
		rc = choose_backup(run, &point);
	}
	if (rc == AIDB_OK) {
		rc = aidb_repository_pieces(run->repository, run->manifest.store, &run->pieces);
	}
	if (rc != AIDB_OK) {
		return rc;
	}
	reach = aidb_pieces_reach(&run->pieces, run->manifest.store, run->manifest.after);
	run->target = run->options->kind == AIDB_TARGET_SEQUENCE ? run->options->sequence
				  : run->options->kind == AIDB_TARGET_POINT  ? point.sequence
															 : reach;
	if (run->options->kind == AIDB_TARGET_TIME) {
		rc = find_time(run);
	}
	if (rc == AIDB_OK && (reach < run->target || reach < run->manifest.complete_at)) {
		rc = aidb_fail(AIDB_NOT_FOUND,
					   "the archived log goes on from backup %s to commit %" PRIu64
					   " without a gap, and the target is %" PRIu64 "; see: aidb-admin info",
					   run->manifest.label, reach,
					   run->target > run->manifest.complete_at ? run->target : run->manifest.complete_at);
	}
	return rc;
}

/* ---- Files ----------------------------------------------------------------------------------------------- */

static aidb_status check_space(const restore *run) {
	struct statvfs space;
	uint64_t needed = aidb_manifest_bytes(&run->manifest), free_bytes;

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
					   run->manifest.label, run->options->address);
	} else if (rc == AIDB_OK && (self.bytes != file->bytes || strcmp(hash, file->hash) != 0)) {
		rc = aidb_fail(AIDB_CORRUPT,
					   "object %s, which is file %s of backup %s, is damaged in %s: it has %" PRIu64
					   " bytes of %" PRIu64 ", and %s",
					   name, file->name, run->manifest.label, run->options->address, self.bytes, file->bytes,
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
	const aidb_manifest_file *file = &run->manifest.files[number];
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
		run->progress.files = run->manifest.file_count;
		run->progress.bytes = aidb_manifest_bytes(&run->manifest);
		rc = aidb_copy_all(&run->options->copy, &run->progress, run->manifest.file_count, receive_file, run);
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

	snprintf(store, sizeof(store), "%" PRId64, (int64_t)run->manifest.store);
	snprintf(after, sizeof(after), "%" PRIu64, run->manifest.after);
	snprintf(complete_at, sizeof(complete_at), "%" PRIu64, run->manifest.complete_at);
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

	run->replay = (aidb_replay){
		.store = run->manifest.store, .reached = run->manifest.after, .target = run->target, .done = false};
	for (uint32_t i = 0; i < run->pieces.count && rc == AIDB_OK && !run->replay.done; i++) {
		const aidb_piece *piece = &run->pieces.pieces[i];

		if (piece->upto >= run->replay.reached && (piece->upto > run->manifest.after || piece->from == piece->upto)) {
			rc = apply_piece(run, piece, segment);
			if (run->options->show_progress) {
				fprintf(stderr, "\rlog applied: up to commit %" PRIu64 " of %" PRIu64 "   ", run->replay.reached,
						run->target);
			}
		}
	}
	if (run->options->show_progress) {
		fputc('\n', stderr);
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
	aidb_status rc = aidb_restored_server_make(&run->server, run->options->bindir, run->options->data, &run->manifest);

	if (rc == AIDB_OK) {
		rc = receive_files(run);
	}
	if (rc == AIDB_OK) {
		rc = aidb_restored_server_start(&run->server, &run->manifest);
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
	aidb_manifest_free(&run->manifest);
	free(run->pieces.pieces);
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
	rc = find_target(run);
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
		snprintf(restored->label, sizeof(restored->label), "%s", run->manifest.label);
		snprintf(restored->database, sizeof(restored->database), "%s", run->manifest.database);
		restored->sequence = run->replay.reached;
		restored->bytes = aidb_manifest_bytes(&run->manifest);
	}
	release(run);
	return rc;
}
