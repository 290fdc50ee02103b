#include "db/recovery.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "db/batch.h"
#include "db/pin.h"
#include "db/redo.h"

/* ---- Files --------------------------------------------------------------------------------------------- */

typedef struct loading {
	aidb_db *db;
	lsm_ref *files;
	uint8_t *levels;
	uint32_t count;
	uint32_t capacity;
	aidb_sequence max_sequence;
} loading;

static aidb_status load_file(void *argument, int level, uint64_t number, const lsm_sstable_properties *properties,
							 aidb_slice smallest, uint64_t smallest_trailer, aidb_slice largest,
							 uint64_t largest_trailer) {
	loading *load = argument;
	lsm_ref file;

	if (load->count == load->capacity) {
		uint32_t capacity = load->capacity == 0 ? 256 : load->capacity * 2;
		lsm_ref *files = realloc(load->files, capacity * sizeof(*files));
		uint8_t *levels = files == NULL ? NULL : realloc(load->levels, capacity);

		load->files = files == NULL ? load->files : files;
		load->levels = levels == NULL ? load->levels : levels;
		if (files == NULL || levels == NULL) {
			return lsm_fail(AIDB_NO_MEMORY, "out of memory: could not load the list of files");
		}
		load->capacity = capacity;
	}
	file = lsm_file_create(&load->db->arena, &load->db->shared->heap, number, properties, smallest, smallest_trailer,
						   largest, largest_trailer);
	if (file == 0) {
		return lsm_no_room_for_files(load->db);
	}
	load->files[load->count] = file;
	load->levels[load->count] = (uint8_t)level;
	load->count++;
	if (properties->max_sequence > load->max_sequence) {
		load->max_sequence = properties->max_sequence;
	}
	return AIDB_OK;
}

static int compare_numbers(const void *a, const void *b) {
	uint64_t left = *(const uint64_t *)a;
	uint64_t right = *(const uint64_t *)b;

	return (left > right) - (left < right);
}

typedef struct listing {
	uint64_t *segments;
	uint64_t *orphans; /* numbers of SSTables found; those in use are taken out */
	uint32_t segment_count, segment_capacity;
	uint32_t orphan_count, orphan_capacity;
	bool any_redo; /* there are commits that another log has carried */
	bool no_memory;
} listing;

static void append_number(listing *list, uint64_t **numbers, uint32_t *count, uint32_t *capacity, uint64_t number) {
	if (*count == *capacity) {
		uint32_t larger = *capacity == 0 ? 64 : *capacity * 2;
		uint64_t *moved = realloc(*numbers, larger * sizeof(**numbers));

		if (moved == NULL) {
			list->no_memory = true;
			return;
		}
		*numbers = moved;
		*capacity = larger;
	}
	(*numbers)[(*count)++] = number;
}

static void note_name(void *argument, const char *name) {
	listing *list = argument;
	uint64_t number;
	int used = 0;

	if (lsm_segment_number(name, &number)) {
		append_number(list, &list->segments, &list->segment_count, &list->segment_capacity, number);
	} else if (lsm_is_redo_file(name)) {
		list->any_redo = true;
	} else if (sscanf(name, "%" SCNu64 ".sst%n", &number, &used) == 1 && used > 0 && name[used] == '\0') {
		append_number(list, &list->orphans, &list->orphan_count, &list->orphan_capacity, number);
	}
}

static aidb_status list_directory(const aidb_db *db, listing *list) {
	int error = db->host->directory_list(db->host->context, db->directory, note_name, list);

	if (error != 0) {
		return lsm_fail_errno(error, "list directory", db->directory);
	}
	if (list->no_memory) {
		return lsm_fail(AIDB_NO_MEMORY, "out of memory: could not list \"%s\"", db->directory);
	}
	if (list->segment_count > 0) {
		qsort(list->segments, list->segment_count, sizeof(uint64_t), compare_numbers);
	}
	return AIDB_OK;
}

/* Removes SSTables that a flush or compaction had not finished when the store went down. */
static void remove_orphans(aidb_db *db, const loading *load, const listing *list) {
	uint64_t *used = malloc((load->count + 1) * sizeof(*used));
	char path[LSM_PATH_BYTES];

	if (used == NULL) {
		return; /* they are only disk space; the next start finds them again */
	}
	for (uint32_t i = 0; i < load->count; i++) {
		used[i] = ((const lsm_file *)lsm_at(&db->arena, load->files[i]))->number;
	}
	qsort(used, load->count, sizeof(*used), compare_numbers);
	for (uint32_t i = 0; i < list->orphan_count; i++) {
		if (bsearch(&list->orphans[i], used, load->count, sizeof(*used), compare_numbers) == NULL) {
			lsm_sstable_path(db->directory, list->orphans[i], path);
			db->host->file_remove(db->host->context, path);
		}
	}
	free(used);
}

/* A file that the manifest names must be there, and as long as it says. */
static aidb_status check_file(aidb_db *db, const lsm_file *file) {
	char path[LSM_PATH_BYTES];
	uint64_t size = 0;
	int fd;
	int error;

	lsm_sstable_path(db->directory, file->number, path);
	error = db->host->file_open(db->host->context, path, AIDB_FILE_READ, &fd);
	if (error == ENOENT) {
		return lsm_fail(AIDB_CORRUPT, "%s: the file is missing, though the manifest names it; restore it from a backup",
						path);
	}
	if (error != 0) {
		return lsm_fail_errno(error, "open", path);
	}
	error = db->host->file_size(db->host->context, fd, &size);
	db->host->file_close(db->host->context, fd);
	if (error != 0) {
		return lsm_fail_errno(error, "get the size of", path);
	}
	if (size != file->properties.file_bytes) {
		return lsm_fail(AIDB_CORRUPT,
						"%s: the file has %" PRIu64 " bytes instead of %" PRIu64 "; restore it from a backup", path,
						size, file->properties.file_bytes);
	}
	return AIDB_OK;
}

static aidb_status install_files(aidb_db *db, const loading *load) {
	lsm_shared *shared = db->shared;
	lsm_version_edit edit = {.add_memtable = -1,
							 .remove_memtable = -1,
							 .added_files = load->files,
							 .added_levels = load->levels,
							 .added_count = load->count};
	lsm_ref version;

	for (uint32_t i = 0; i < load->count; i++) {
		aidb_status rc = check_file(db, lsm_at(&db->arena, load->files[i]));

		if (rc != AIDB_OK) {
			return rc;
		}
	}
	version = lsm_version_build(&db->arena, &shared->heap, &shared->versions, &edit);
	if (version == 0) {
		return lsm_no_room_for_files(db);
	}
	lsm_version_install(&db->arena, &shared->versions, version, &edit);
	return AIDB_OK;
}

/* ---- The log ------------------------------------------------------------------------------------------- */

typedef struct replay {
	aidb_db *db;
	lsm_record_reader reader;
	int file;
	uint64_t segment; /* that `file` is */
	uint64_t synced;  /* the highest synced position that a record bears */
	aidb_sequence sequence;
	bool any_header; /* read segments whatever their header */
	bool bad_header; /* of the segment read last */
} replay;

/* Reads the log for the record reader; a segment that is missing or not that segment's is where the log ends. */
static aidb_status read_log(void *argument, uint64_t position, uint8_t *data, size_t size, size_t *got) {
	replay *state = argument;
	aidb_db *db = state->db;
	const lsm_log_geometry *geometry = &db->shared->log.geometry;
	uint64_t segment = position / geometry->segment_bytes;
	uint64_t offset = position % geometry->segment_bytes;
	uint8_t header[LSM_SEGMENT_HEADER_BYTES];
	char path[LSM_PATH_BYTES];
	size_t header_got = 0;
	int error;

	*got = 0;
	lsm_segment_path(db->directory, segment, path, sizeof(path));
	if (state->file < 0 || state->segment != segment) {
		if (state->file >= 0) {
			db->host->file_close(db->host->context, state->file);
			state->file = -1;
		}
		error = db->host->file_open(db->host->context, path, AIDB_FILE_READ, &state->file);
		if (error == ENOENT) {
			state->file = -1;
			return AIDB_OK;
		}
		if (error != 0) {
			state->file = -1;
			return lsm_fail_errno(error, "open log segment", path);
		}
		state->segment = segment;
	}
	error = db->host->file_read(db->host->context, state->file, header, sizeof(header), 0, &header_got);
	state->bad_header = header_got < sizeof(header) || !lsm_segment_header_check(header, geometry, segment);
	if (error == 0 && (state->any_header || !state->bad_header)) {
		if (size > geometry->segment_bytes - offset) {
			size = (size_t)(geometry->segment_bytes - offset);
		}
		error = db->host->file_read(db->host->context, state->file, data, size, offset, got);
	}
	return error == 0 ? AIDB_OK : lsm_fail_errno(error, "read log segment", path);
}

static aidb_status corrupt_log(const replay *state, uint64_t position, const char *reason) {
	const lsm_log_geometry *geometry = &state->db->shared->log.geometry;
	char path[LSM_PATH_BYTES];

	lsm_segment_path(state->db->directory, position / geometry->segment_bytes, path, sizeof(path));
	return lsm_fail(AIDB_CORRUPT, "%s: offset %" PRIu64 ": %s; restore the store from a backup", path,
					position % geometry->segment_bytes, reason);
}

/* Room in the active memtable; a full one is sealed, and the oldest flushed when none is free. */
static aidb_status replay_reserve(aidb_db *db, uint64_t bytes, lsm_ref *piece) {
	lsm_shared *shared = db->shared;

	for (;;) {
		uint32_t active = shared->commits.active;
		aidb_status rc;
		bool did;

		*piece = lsm_memtable_reserve(&shared->memtables[active], bytes);
		if (*piece != 0) {
			return AIDB_OK;
		}
		if (atomic_load(&shared->memtables[active].entries) == 0) {
			return lsm_fail(AIDB_LIMIT,
							"a record of the log needs %" PRIu64
							" bytes of memtable, more than one has; open the store with more memory",
							bytes);
		}
		rc = lsm_switch_memtable(db, active);
		if (rc == AIDB_NOT_FOUND) {
			rc = lsm_flush_oldest(db, &did);
			lsm_reclaim(db);
		}
		if (rc != AIDB_OK) {
			return rc;
		}
	}
}

static aidb_status replay_operations(replay *state, const lsm_payload_head *head, lsm_reader operations,
									 uint64_t begin) {
	aidb_db *db = state->db;
	unsigned flag = head->state == AIDB_BATCH_PREPARED ? LSM_KIND_TAGGED : 0;
	uint64_t seed = db->host->random(db->host->context);
	uint64_t bytes = 0;
	lsm_reader first = operations;
	lsm_entry entry;
	lsm_ref piece = 0;
	aidb_status rc;

	for (uint32_t i = 0; i < head->count; i++) {
		if (!lsm_read_operation(&first, &entry)) {
			return corrupt_log(state, begin, "a record with a valid checksum has malformed operations");
		}
		bytes += lsm_memtable_node_bytes(seed, i, entry.key.size, entry.value.size + (flag != 0 ? LSM_TAG_BYTES : 0));
	}
	if (bytes == 0) {
		return AIDB_OK;
	}
	rc = replay_reserve(db, bytes, &piece);
	for (uint32_t i = 0; rc == AIDB_OK && i < head->count; i++) {
		lsm_read_operation(&operations, &entry);
		entry.trailer = lsm_trailer(head->sequence, lsm_kind_of(entry.trailer) | flag);
		lsm_memtable_insert(&db->arena, &db->shared->memtables[db->shared->commits.active], &piece, seed, i, &entry,
							head->tag);
	}
	return rc;
}

static aidb_status replay_record(replay *state, aidb_slice payload, uint64_t begin) {
	lsm_shared *shared = state->db->shared;
	lsm_reader reader = lsm_reader_of(payload.data, payload.size);
	lsm_payload_head head;
	aidb_status rc;

	if (!lsm_payload_head_read(&reader, &head) || head.sequence <= state->sequence) {
		return corrupt_log(state, begin, "a record with a valid checksum is malformed or out of order");
	}
	if (head.synced > state->synced) {
		state->synced = head.synced;
	}
	/* a memtable that is begun for this record starts with it */
	shared->commits.next_position = begin;
	lsm_log_reset(state->db, begin, state->sequence);
	rc = replay_operations(state, &head, reader, begin);
	if (rc == AIDB_OK) {
		state->sequence = head.sequence;
		if (head.sequence > atomic_load(&shared->commits.visible)) {
			atomic_store(&shared->commits.visible, head.sequence);
		}
	}
	return rc;
}

/* A log that begins beyond the header of a segment has records there. */
static aidb_status check_begin(replay *state, uint64_t begin) {
	uint8_t byte;
	size_t got = 0;
	aidb_status rc;

	if (begin % state->db->shared->log.geometry.segment_bytes <= LSM_SEGMENT_HEADER_BYTES) {
		return AIDB_OK;
	}
	rc = read_log(state, begin - 1, &byte, sizeof(byte), &got);
	if (rc == AIDB_OK && got == 0) {
		rc = corrupt_log(state, begin, "the segment in which the log begins is missing or damaged");
	}
	return rc;
}

/* Whether a record in [from, limit) tells that the log did not end at `end`: because it was synced beyond, or because
 * the record's segment had a good header when it was written. */
static aidb_status check_segment_beyond(replay *state, uint64_t from, uint64_t limit, uint64_t end) {
	lsm_record_reader *reader = &state->reader;
	aidb_status rc = AIDB_OK;

	while (from < limit) {
		lsm_payload_head head;
		lsm_reader payload_reader;
		aidb_slice payload;

		if (lsm_record_resync(reader, from, limit, &rc) != LSM_RECORD_OK ||
			lsm_record_read(reader, &payload, &rc) != LSM_RECORD_OK) {
			break;
		}
		from = reader->position;
		payload_reader = lsm_reader_of(payload.data, payload.size);
		if (state->bad_header || (lsm_payload_head_read(&payload_reader, &head) && head.synced > end)) {
			return corrupt_log(state, end, "the log is damaged below a position that later records know to be synced");
		}
	}
	return rc;
}

/* A segment has its whole length, durably, before its first record: a shorter one with a good header was cut off. */
static aidb_status check_length(replay *state, uint64_t end) {
	const aidb_host *host = state->db->host;
	uint64_t size = 0;
	uint8_t byte;
	size_t got;
	aidb_status rc = read_log(state, end, &byte, sizeof(byte), &got); /* opens the segment */
	int error;

	if (rc != AIDB_OK || state->file < 0 || state->bad_header) {
		return rc;
	}
	error = host->file_size(host->context, state->file, &size);
	if (error != 0) {
		return lsm_fail(AIDB_IO, "could not get the size of a log segment: %s", strerror(error));
	}
	return size < state->db->shared->log.geometry.segment_bytes ? corrupt_log(state, end, "the segment is cut off")
																: AIDB_OK;
}

/* Whether the place where the log seems to end had been synced: then it is no torn tail. */
static aidb_status check_end(replay *state, const listing *list, uint64_t end) {
	uint64_t segment_bytes = state->db->shared->log.geometry.segment_bytes;
	aidb_status rc = AIDB_OK;

	if (state->synced > end) {
		return corrupt_log(state, end, "the log is damaged below its synced position");
	}
	rc = check_length(state, end);
	state->any_header = true;
	for (uint32_t i = 0; i < list->segment_count && rc == AIDB_OK; i++) {
		uint64_t segment = list->segments[i];
		uint64_t begin = segment * segment_bytes;

		if (segment >= end / segment_bytes && segment < UINT64_MAX / segment_bytes) {
			rc = check_segment_beyond(state, begin < end ? end : begin, begin + segment_bytes, end);
		}
	}
	return rc;
}

#define REWRITE_BYTES 65536u

/*
 * Writes what is in [from, to) of a file again. After a sync that failed, the operating system may show bytes that it takes
 * for written, and a later sync would leave them out: after a power failure the log would have a hole there.
 */
static int rewrite(const aidb_host *host, int file, uint64_t from, uint64_t to) {
	uint8_t *data = from < to ? malloc(REWRITE_BYTES) : NULL;
	int error = from < to && data == NULL ? ENOMEM : 0;

	while (error == 0 && from < to) {
		size_t got = 0;

		error = host->file_read(host->context, file, data,
								to - from < REWRITE_BYTES ? (size_t)(to - from) : REWRITE_BYTES, from, &got);
		error = error == 0 && got == 0 ? EIO : error;
		error = error == 0 ? host->file_write(host->context, file, data, got, from) : error;
		from += got;
	}
	free(data);
	return error;
}

/* Makes the replayed segments durable: what lies beyond `synced` was handed to the operating system, and maybe no more. */
static aidb_status sync_segments(aidb_db *db, uint64_t synced, uint64_t end) {
	const lsm_log_geometry *geometry = &db->shared->log.geometry;
	uint64_t segment = db->shared->manifest.log_start / geometry->segment_bytes;

	synced = synced > db->shared->manifest.log_start ? synced : db->shared->manifest.log_start;
	for (; segment * geometry->segment_bytes < end; segment++) {
		uint64_t begin = segment * geometry->segment_bytes;
		uint64_t bytes = end - begin < geometry->segment_bytes ? end - begin : geometry->segment_bytes;
		char path[LSM_PATH_BYTES];
		int file;
		int error;

		lsm_segment_path(db->directory, segment, path, sizeof(path));
		error = db->host->file_open(db->host->context, path, AIDB_FILE_READ | AIDB_FILE_WRITE, &file);
		if (error == 0) {
			error = rewrite(db->host, file, synced > begin ? synced - begin : 0, bytes);
			error = error == 0 ? db->host->file_sync(db->host->context, file) : error;
			db->host->file_close(db->host->context, file);
		}
		if (error != 0) {
			return lsm_fail_errno(error, "sync log segment", path);
		}
	}
	return AIDB_OK;
}

/* Removes what lies behind the end of the log: the rest of its last segment, and the segments beyond. */
static aidb_status cut_tail(aidb_db *db, const listing *list, uint64_t synced, uint64_t end) {
	lsm_log *log = &db->shared->log;
	uint64_t segment = end / log->geometry.segment_bytes;
	uint64_t offset = end % log->geometry.segment_bytes;
	bool holds_records = offset > LSM_SEGMENT_HEADER_BYTES;
	uint64_t first_removed = holds_records ? segment + 1 : segment;
	char path[LSM_PATH_BYTES];
	int error = 0;

	for (uint32_t i = 0; i < list->segment_count && error == 0; i++) {
		if (list->segments[i] >= first_removed) {
			lsm_segment_path(db->directory, list->segments[i], path, sizeof(path));
			error = db->host->file_remove(db->host->context, path);
		}
	}
	if (holds_records && error == 0) {
		int file;

		lsm_segment_path(db->directory, segment, path, sizeof(path));
		error = db->host->file_open(db->host->context, path, AIDB_FILE_READ | AIDB_FILE_WRITE, &file);
		if (error == 0) {
			error = lsm_write_zeroes(db->host, file, offset, log->geometry.segment_bytes);
			db->host->file_close(db->host->context, file);
		}
	}
	if (error != 0) {
		return lsm_fail_errno(error, "cut the tail of log segment", path);
	}
	atomic_store(&log->prepared, first_removed * log->geometry.segment_bytes);
	return sync_segments(db, synced, end);
}

/* Leaves the arena ready for commits that follow the last one of the log. */
static aidb_status replay_log(aidb_db *db, const listing *list, aidb_sequence last_sequence) {
	lsm_shared *shared = db->shared;
	lsm_log_geometry *geometry = &shared->log.geometry;
	replay state = {.db = db, .file = -1, .sequence = 0};
	uint64_t end = shared->manifest.log_start;
	aidb_slice payload;
	aidb_status rc = check_begin(&state, end);

	state.reader.geometry = *geometry;
	state.reader.source = read_log;
	state.reader.source_argument = &state;
	state.reader.position = end;
	while (rc == AIDB_OK && lsm_record_read(&state.reader, &payload, &rc) == LSM_RECORD_OK) {
		rc = replay_record(&state, payload, end);
		end = state.reader.position;
		lsm_fault_point(db, "replayed");
	}
	if (rc == AIDB_OK) {
		rc = check_end(&state, list, end);
	}
	if (state.file >= 0) {
		db->host->file_close(db->host->context, state.file);
	}
	lsm_record_reader_free(&state.reader);
	if (rc == AIDB_OK) {
		rc = cut_tail(db, list, state.synced, end);
	}
	if (rc == AIDB_OK) {
		aidb_sequence sequence = state.sequence > last_sequence ? state.sequence : last_sequence;

		shared->commits.next_position = end;
		shared->commits.next_sequence = sequence + 1;
		atomic_store(&shared->commits.visible, sequence);
		lsm_log_reset(db, end, sequence);
		lsm_pins_check(db, 0, end);
		rc = lsm_log_prepare(db, end + 1);
	}
	return rc;
}

/* ---- The whole ----------------------------------------------------------------------------------------- */

/* A directory with files of a store and no manifest is no place for a new one: they would be taken for leavings. */
static aidb_status check_empty(const aidb_db *db) {
	listing list = {0};
	aidb_status rc = list_directory(db, &list);

	if (rc == AIDB_OK && (list.segment_count + list.orphan_count > 0 || list.any_redo)) {
		rc = lsm_fail(AIDB_CORRUPT,
					  "%s/MANIFEST: the file is missing, though there are others of a store; restore it from a backup",
					  db->directory);
	}
	free(list.segments);
	free(list.orphans);
	return rc;
}

/* So that a power failure does not take the directory's name. */
static int sync_parent(const aidb_db *db) {
	char parent[LSM_PATH_BYTES];
	char *slash;

	snprintf(parent, sizeof(parent), "%s", db->directory);
	slash = strrchr(parent, '/');
	if (slash == NULL) {
		snprintf(parent, sizeof(parent), ".");
	} else {
		slash[slash == parent ? 1 : 0] = '\0';
	}
	return db->host->directory_sync(db->host->context, parent);
}

static aidb_status create_store(aidb_db *db) {
	lsm_shared *shared = db->shared;
	const aidb_host *host = db->host;
	lsm_manifest_header *manifest = &shared->manifest;
	aidb_status rc;
	int error;

	if (!shared->options.create_if_missing) {
		return lsm_fail(AIDB_NOT_FOUND, "there is no store in \"%s\", and it was not to be created", db->directory);
	}
	error = host->directory_create(host->context, db->directory);
	if (error == 0) {
		error = sync_parent(db);
	}
	if (error != 0) {
		return lsm_fail_errno(error, "create directory", db->directory);
	}
	rc = check_empty(db);
	if (rc != AIDB_OK) {
		return rc;
	}
	*manifest = (lsm_manifest_header){.store_id = host->random(host->context) | 1,
									  .segment_bytes = shared->options.log_segment_bytes,
									  .next_file_number = 1,
									  .last_sequence = LSM_FIRST_SEQUENCE,
									  .edit = 1};
	return lsm_manifest_write(&db->arena, db->directory, manifest, lsm_version_current(&db->arena, &shared->versions));
}

/* The log is kept from where replay begins, or a pin stands that is not lost. */
static void keep_log(aidb_db *db, const listing *list) {
	lsm_log *log = &db->shared->log;
	uint64_t segment = db->shared->manifest.log_start / log->geometry.segment_bytes;
	uint64_t first = segment;

	/* without a gap back from there */
	for (uint32_t i = list->segment_count; i > 0; i--) {
		if (list->segments[i - 1] + 1 == first) {
			first = list->segments[i - 1];
		}
	}
	lsm_pins_check(db, first, UINT64_MAX);
	log->keep_segment = lsm_pins_oldest(db, db->shared->manifest.log_start) / log->geometry.segment_bytes;
}

aidb_status lsm_recover(aidb_db *db) {
	lsm_shared *shared = db->shared;
	loading load = {.db = db};
	listing list = {0};
	aidb_status rc = lsm_manifest_read(db->host, db->directory, &shared->manifest, load_file, &load);

	if (rc == AIDB_NOT_FOUND) {
		rc = create_store(db);
	} else if (rc == AIDB_OK && shared->options.error_if_exists) {
		rc = lsm_fail(AIDB_EXISTS, "there is a store in \"%s\" already", db->directory);
	}
	if (rc == AIDB_OK) {
		shared->log.geometry.segment_bytes = shared->manifest.segment_bytes;
		shared->log.geometry.store_id = shared->manifest.store_id;
		atomic_store(&shared->versions.next_file_number, shared->manifest.next_file_number);
		shared->memtables[shared->commits.active].log_position = shared->manifest.log_start;
		rc = install_files(db, &load);
	}
	if (rc == AIDB_OK) {
		rc = list_directory(db, &list);
	}
	if (rc == AIDB_OK) {
		aidb_sequence last = shared->manifest.last_sequence;

		atomic_store(&shared->commits.visible, last);
		lsm_pins_load(db);
		keep_log(db, &list);
		shared->log.first_segment = list.segment_count > 0 && list.segments[0] < shared->log.keep_segment
										? list.segments[0]
										: shared->log.keep_segment;
		remove_orphans(db, &load, &list);
		rc = replay_log(db, &list, last > load.max_sequence ? last : load.max_sequence);
	}
	if (rc == AIDB_OK) {
		rc = lsm_redo(db);
	}
	free(load.files);
	free(load.levels);
	free(list.segments);
	free(list.orphans);
	return rc;
}
