#include "db/redo.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/checksum.h"
#include "db/batch.h"

#define REDO_NAME "REDO"
#define MISSING_NAME "REDO.missing"
#define NEW_NAME "REDO.new"

#define ENTRY_HEADER_BYTES 12u
#define WINDOW_BYTES (1u << 20)
#define PRUNE_COUNT 1024
#define MAX_RECORD_BYTES (1u << 28) /* the size of a longer one is damage */

/* ---- Records ------------------------------------------------------------------------------------------- */

void lsm_carried_head_write(uint8_t to[AIDB_CARRIED_HEAD_BYTES], const lsm_carried_head *head) {
	lsm_put_u64(to, head->store_id);
	lsm_put_u64(to + 8, head->log_end);
	lsm_put_u64(to + 16, head->synced);
	lsm_put_u64(to + 24, head->tag);
	lsm_put_u32(to + 32, head->count);
}

/* The head, and the operations as a batch, which borrows the record's bytes. False when malformed. */
static bool parse_record(aidb_slice record, lsm_carried_head *head, aidb_batch *batch) {
	lsm_reader reader = lsm_reader_of(record.data, record.size);
	lsm_entry entry;

	head->store_id = lsm_read_u64(&reader);
	head->log_end = lsm_read_u64(&reader);
	head->synced = lsm_read_u64(&reader);
	head->tag = lsm_read_u64(&reader);
	head->count = lsm_read_u32(&reader);
	if (reader.failed || (head->tag == 0 && head->count > 0) || record.size > MAX_RECORD_BYTES) {
		return false;
	}
	*batch = (aidb_batch){
		.operations = {(char *)record.data + AIDB_CARRIED_HEAD_BYTES, record.size - AIDB_CARRIED_HEAD_BYTES, 0},
		.count = head->count};
	for (uint32_t i = 0; i < head->count; i++) {
		if (!lsm_read_operation(&reader, &entry)) {
			return false;
		}
		batch->bytes += entry.key.size + entry.value.size + AIDB_BATCH_OPERATION_BYTES;
	}
	return lsm_reader_left(&reader) == 0;
}

/* ---- Files --------------------------------------------------------------------------------------------- */

bool lsm_is_redo_file(const char *name) {
	return strcmp(name, REDO_NAME) == 0 || strcmp(name, MISSING_NAME) == 0 || strcmp(name, NEW_NAME) == 0;
}

typedef struct redo_path {
	char text[LSM_PATH_BYTES];
} redo_path;

static redo_path path_of(const char *directory, const char *name) {
	redo_path path;

	snprintf(path.text, sizeof(path.text), "%s/%s", directory, name);
	return path;
}

/* A file that is read from its beginning, a window at a time. */
typedef struct redo_reader {
	const aidb_host *host;
	redo_path path;
	int file;
	uint64_t offset; /* of the next entry */
	aidb_buffer window;
	uint64_t window_offset;
} redo_reader;

/* The `size` bytes at `offset`; NULL with AIDB_OK where the file ends before. */
static aidb_status read_bytes(redo_reader *reader, uint64_t offset, size_t size, const uint8_t **bytes) {
	aidb_buffer *window = &reader->window;
	size_t wanted = size > WINDOW_BYTES ? size : WINDOW_BYTES;
	aidb_status rc = AIDB_OK;
	int error = 0;

	if (offset < reader->window_offset || offset + size > reader->window_offset + window->size) {
		rc = lsm_buffer_reserve(window, wanted);
		if (rc == AIDB_OK) {
			error = reader->host->file_read(reader->host->context, reader->file, window->data, wanted, offset,
											&window->size);
			reader->window_offset = offset;
		}
	}
	if (error != 0) {
		return lsm_fail_errno(error, "read", reader->path.text);
	}
	if (rc == AIDB_OK) {
		*bytes = size <= window->size - (offset - reader->window_offset)
					 ? (const uint8_t *)window->data + (offset - reader->window_offset)
					 : NULL;
	}
	return rc;
}

typedef enum entry_kind { ENTRY_RECORD, ENTRY_MARK, ENTRY_NONE } entry_kind;

/* The next entry; the record is valid until the one after it is read. ENTRY_NONE: none, or a damaged one. */
static aidb_status read_entry(redo_reader *reader, entry_kind *kind, aidb_slice *record) {
	const uint8_t *bytes = NULL;
	uint32_t size;
	aidb_status rc = read_bytes(reader, reader->offset, ENTRY_HEADER_BYTES, &bytes);

	*kind = ENTRY_NONE;
	if (rc != AIDB_OK || bytes == NULL) {
		return rc;
	}
	size = lsm_get_u32(bytes + 8);
	if (size > MAX_RECORD_BYTES) {
		return AIDB_OK;
	}
	rc = read_bytes(reader, reader->offset, ENTRY_HEADER_BYTES + size, &bytes);
	if (rc != AIDB_OK || bytes == NULL || lsm_get_u64(bytes) != lsm_hash64(bytes + 8, 4 + size, reader->offset)) {
		return rc;
	}
	*kind = size == 0 ? ENTRY_MARK : ENTRY_RECORD;
	*record = (aidb_slice){bytes + ENTRY_HEADER_BYTES, size};
	reader->offset += ENTRY_HEADER_BYTES + size;
	return AIDB_OK;
}

/* AIDB_NOT_FOUND when the file is not there; without a message. */
static aidb_status open_reader(const aidb_host *host, const redo_path *path, redo_reader *reader) {
	int error;

	*reader = (redo_reader){.host = host, .path = *path, .file = -1};
	error = host->file_open(host->context, path->text, AIDB_FILE_READ, &reader->file);
	if (error == ENOENT) {
		return AIDB_NOT_FOUND;
	}
	return error == 0 ? AIDB_OK : lsm_fail_errno(error, "open", path->text);
}

static void close_reader(redo_reader *reader) {
	if (reader->file >= 0) {
		reader->host->file_close(reader->host->context, reader->file);
	}
	aidb_buffer_free(&reader->window);
}

/* ---- Lists of records ---------------------------------------------------------------------------------- */

/* A record that the log lacks. */
typedef struct missing {
	uint64_t log_end;
	aidb_slice record; /* malloc'd */
} missing;

typedef struct missing_list {
	missing *records;
	size_t count;
	size_t capacity;
} missing_list;

/* Leaves those that end beyond `log_end`. */
static void drop_up_to(missing_list *list, uint64_t log_end) {
	size_t kept = 0;

	for (size_t i = 0; i < list->count; i++) {
		missing entry = list->records[i];

		if (entry.log_end > log_end) {
			list->records[i] = list->records[kept];
			list->records[kept++] = entry;
		} else {
			free((void *)entry.record.data);
			list->records[i].record.data = NULL;
		}
	}
	list->count = kept;
}

static void free_missing(missing_list *list) {
	drop_up_to(list, UINT64_MAX);
	free(list->records);
}

static aidb_status append_missing(missing_list *list, uint64_t log_end, aidb_slice record) {
	void *copy = malloc(record.size);

	if (copy != NULL && list->count == list->capacity) {
		size_t capacity = list->capacity == 0 ? 64 : list->capacity * 2;
		missing *records = realloc(list->records, capacity * sizeof(*records));

		if (records == NULL) {
			free(copy);
			copy = NULL;
		} else {
			list->records = records;
			list->capacity = capacity;
		}
	}
	if (copy == NULL) {
		return lsm_fail(AIDB_NO_MEMORY, "out of memory: could not read carried batches");
	}
	memcpy(copy, record.data, record.size);
	list->records[list->count++] = (missing){log_end, {copy, record.size}};
	return AIDB_OK;
}

/* ---- Adding -------------------------------------------------------------------------------------------- */

/* A file that is written from its beginning, or from where its whole entries end. */
typedef struct redo_writer {
	const aidb_host *host;
	const char *directory;
	redo_path path;
	int file;
	uint64_t offset;
	aidb_buffer entry;
} redo_writer;

static void step(const aidb_host *host, const char *name) {
	if (host->fault_point != NULL) {
		host->fault_point(host->context, name);
	}
}

/* An entry of an empty record is an end mark. */
static aidb_status append_entry(redo_writer *redo, aidb_slice record) {
	uint8_t header[ENTRY_HEADER_BYTES];
	aidb_status rc;
	int error;

	lsm_put_u32(header + 8, (uint32_t)record.size);
	rc = lsm_buffer_set(&redo->entry, header, sizeof(header));
	if (rc == AIDB_OK) {
		rc = lsm_buffer_append(&redo->entry, record.data, record.size);
	}
	if (rc != AIDB_OK) {
		return rc;
	}
	lsm_put_u64((uint8_t *)redo->entry.data, lsm_hash64(redo->entry.data + 8, redo->entry.size - 8, redo->offset));
	error = redo->host->file_write(redo->host->context, redo->file, redo->entry.data, redo->entry.size, redo->offset);
	if (error != 0) {
		return lsm_fail_errno(error, "write", redo->path.text);
	}
	redo->offset += redo->entry.size;
	return AIDB_OK;
}

static void close_writer(redo_writer *writer) {
	if (writer->file >= 0) {
		writer->host->file_close(writer->host->context, writer->file);
	}
	aidb_buffer_free(&writer->entry);
}

/* Makes the file end with a mark, and durable. */
static aidb_status finish(redo_writer *redo) {
	const aidb_host *host = redo->host;
	aidb_status rc = append_entry(redo, (aidb_slice){"", 0});
	int error = 0;

	if (rc == AIDB_OK) {
		error = host->file_sync(host->context, redo->file);
	}
	if (error == 0) {
		error = host->directory_sync(host->context, redo->directory);
	}
	return error == 0 ? rc : lsm_fail_errno(error, "sync", redo->path.text);
}

/* Where the whole entries of a file end. */
static aidb_status find_end(const aidb_host *host, const redo_path *path, bool *there, uint64_t *end) {
	entry_kind kind = ENTRY_RECORD;
	redo_reader reader;
	aidb_slice record;
	aidb_status rc = open_reader(host, path, &reader);

	while (rc == AIDB_OK && kind != ENTRY_NONE) {
		rc = read_entry(&reader, &kind, &record);
	}
	*there = reader.file >= 0;
	*end = reader.offset;
	close_reader(&reader);
	return rc == AIDB_NOT_FOUND ? AIDB_OK : rc;
}

/* A file of this name whose entries up to `end` stay. To be closed in any case. */
static aidb_status open_writer(const aidb_host *host, const char *directory, const char *name, uint64_t end,
							   redo_writer *writer) {
	int error;

	*writer = (redo_writer){
		.host = host, .directory = directory, .path = path_of(directory, name), .file = -1, .offset = end};
	error = host->file_open(host->context, writer->path.text, AIDB_FILE_READ | AIDB_FILE_WRITE | AIDB_FILE_CREATE,
							&writer->file);
	if (error == 0) {
		error = host->file_truncate(host->context, writer->file, end);
	}
	return error == 0 ? AIDB_OK : lsm_fail_errno(error, "make", writer->path.text);
}

static aidb_status write_records(redo_writer *writer, const missing_list *list) {
	aidb_status rc = AIDB_OK;

	for (size_t i = 0; i < list->count && rc == AIDB_OK; i++) {
		rc = append_entry(writer, list->records[i].record);
	}
	return rc == AIDB_OK ? finish(writer) : rc;
}

/* ---- Collecting ---------------------------------------------------------------------------------------- */

/* What has been added and not found to be durable in our log, by later records. The file is written at the end. */
struct aidb_redo {
	const aidb_host *host;
	char *directory;
	missing_list pending;
	uint64_t synced;    /* no record up to here is needed */
	size_t prune_count; /* of pending ones, at which to look for those */
	bool anew;          /* what the file has is not needed either */
};

static void release(aidb_redo *redo) {
	free_missing(&redo->pending);
	free(redo->directory);
	free(redo);
}

aidb_status aidb_redo_open(const aidb_host *host, const char *path, aidb_redo **redo) {
	aidb_redo *collector = calloc(1, sizeof(*collector));
	int error = host->directory_create(host->context, path);

	if (error != 0) {
		free(collector);
		return lsm_fail_errno(error, "create directory", path);
	}
	if (collector != NULL) {
		*collector = (aidb_redo){.host = host, .directory = strdup(path), .prune_count = PRUNE_COUNT};
	}
	if (collector == NULL || collector->directory == NULL) {
		free(collector);
		return lsm_fail(AIDB_NO_MEMORY, "out of memory: could not collect carried batches");
	}
	*redo = collector;
	return AIDB_OK;
}

/* Now and then, so that memory holds but twice what may be needed. */
static void prune(aidb_redo *redo) {
	if (redo->pending.count >= redo->prune_count) {
		drop_up_to(&redo->pending, redo->synced);
		redo->prune_count = redo->pending.count * 2 > PRUNE_COUNT ? redo->pending.count * 2 : PRUNE_COUNT;
	}
}

aidb_status aidb_redo_add(aidb_redo *redo, aidb_slice record) {
	lsm_carried_head head;
	aidb_batch batch;
	aidb_status rc = AIDB_OK;

	if (!parse_record(record, &head, &batch)) {
		return lsm_fail(AIDB_CORRUPT, "a carried batch of %zu bytes is malformed", record.size);
	}
	if (head.synced > redo->synced) {
		redo->synced = head.synced;
	}
	if (head.tag != 0) {
		rc = append_missing(&redo->pending, head.log_end, record);
		prune(redo);
	}
	step(redo->host, "redo_added");
	return rc;
}

void aidb_redo_discard(aidb_redo *redo) {
	drop_up_to(&redo->pending, UINT64_MAX);
	redo->synced = 0; /* positions may have been given out again */
	redo->anew = true;
}

static aidb_status write_file(aidb_redo *redo) {
	redo_path path = path_of(redo->directory, REDO_NAME);
	redo_writer writer;
	uint64_t end;
	bool there;
	aidb_status rc = find_end(redo->host, &path, &there, &end);

	if (rc != AIDB_OK || (!there && redo->pending.count == 0)) {
		return rc;
	}
	rc = open_writer(redo->host, redo->directory, REDO_NAME, redo->anew ? 0 : end, &writer);
	if (rc == AIDB_OK) {
		rc = write_records(&writer, &redo->pending);
	}
	close_writer(&writer);
	return rc;
}

aidb_status aidb_redo_close(aidb_redo *redo) {
	const aidb_host *host = redo->host;
	aidb_status rc;

	drop_up_to(&redo->pending, redo->synced);
	rc = write_file(redo);
	release(redo);
	step(host, "redo_closed");
	return rc;
}

/* ---- Starting ------------------------------------------------------------------------------------------ */

static aidb_status corrupt_file(const redo_reader *reader, const char *reason) {
	return lsm_fail(AIDB_CORRUPT,
					"%s: offset %" PRIu64
					": %s; the commits that it holds are in no other file of the store: restore the "
					"store from a backup",
					reader->path.text, reader->offset, reason);
}

/* One record of the file; it counts when it ends beyond `log_end`. */
static aidb_status take_record(const aidb_db *db, const redo_reader *reader, aidb_slice record, uint64_t log_end,
							   missing_list *list) {
	lsm_carried_head head;
	aidb_batch batch;

	if (!parse_record(record, &head, &batch)) {
		return corrupt_file(reader, "a record with a valid checksum is malformed");
	}
	if (head.store_id != db->shared->log.geometry.store_id) {
		return corrupt_file(reader, "a record of another store");
	}
	return head.log_end > log_end ? append_missing(list, head.log_end, record) : AIDB_OK;
}

/* Adds those records of the file that end beyond `log_end`; AIDB_NOT_FOUND when there is no file. */
static aidb_status load(const aidb_db *db, const char *name, uint64_t log_end, missing_list *list) {
	redo_path path = path_of(db->directory, name);
	entry_kind last = ENTRY_NONE, kind = ENTRY_NONE;
	redo_reader reader;
	aidb_slice record;
	uint64_t size = 0;
	aidb_status rc = open_reader(db->host, &path, &reader);
	int error;

	while (rc == AIDB_OK && (rc = read_entry(&reader, &kind, &record)) == AIDB_OK && kind != ENTRY_NONE) {
		last = kind;
		rc = kind == ENTRY_RECORD ? take_record(db, &reader, record, log_end, list) : AIDB_OK;
	}
	if (rc == AIDB_OK) {
		error = db->host->file_size(db->host->context, reader.file, &size);
		if (error != 0) {
			rc = lsm_fail_errno(error, "get the size of", path.text);
		} else if (size != reader.offset || last != ENTRY_MARK) {
			rc = corrupt_file(&reader, "the file is damaged or cut off");
		}
	}
	close_reader(&reader);
	return rc;
}

static int compare_missing(const void *a, const void *b) {
	uint64_t left = ((const missing *)a)->log_end;
	uint64_t right = ((const missing *)b)->log_end;

	return (left > right) - (left < right);
}

/* In the order of the log, each once. */
static void put_in_order(missing_list *list) {
	size_t kept = 0;

	if (list->count > 0) {
		qsort(list->records, list->count, sizeof(*list->records), compare_missing);
	}
	for (size_t i = 0; i < list->count; i++) {
		if (kept > 0 && list->records[kept - 1].log_end == list->records[i].log_end) {
			free((void *)list->records[i].record.data);
		} else {
			list->records[kept++] = list->records[i];
		}
	}
	list->count = kept;
}

static aidb_status keep_missing(const aidb_db *db, const missing_list *list) {
	const aidb_host *host = db->host;
	redo_path from = path_of(db->directory, NEW_NAME), to = path_of(db->directory, MISSING_NAME);
	redo_writer writer;
	int error = 0;
	aidb_status rc = open_writer(host, db->directory, NEW_NAME, 0, &writer);

	if (rc == AIDB_OK) {
		rc = write_records(&writer, list);
	}
	close_writer(&writer);
	if (rc == AIDB_OK) {
		lsm_fault_point(db, "redo_selected");
		error = host->file_rename(host->context, from.text, to.text);
		if (error == 0) {
			error = host->directory_sync(host->context, db->directory);
		}
	}
	return error == 0 ? rc : lsm_fail_errno(error, "make", to.text);
}

/* What is to be done, as REDO.missing, or nothing. */
static aidb_status select_missing(const aidb_db *db, missing_list *list) {
	aidb_status rc = load(db, MISSING_NAME, 0, list);

	if (rc != AIDB_NOT_FOUND) {
		return rc; /* a start before this one has selected; REDO has nothing else since */
	}
	rc = load(db, REDO_NAME, db->shared->commits.next_position, list);
	if (rc == AIDB_NOT_FOUND) {
		return AIDB_OK;
	}
	put_in_order(list);
	return rc == AIDB_OK && list->count > 0 ? keep_missing(db, list) : rc;
}

static aidb_status write_missing(aidb_db *db, const missing_list *list) {
	aidb_status rc = AIDB_OK;

	for (size_t i = 0; i < list->count && rc == AIDB_OK; i++) {
		lsm_carried_head head;
		aidb_batch batch;

		parse_record(list->records[i].record, &head, &batch);
		rc = lsm_write_prepared(db, head.tag, &batch);
		lsm_fault_point(db, "redo_written");
	}
	return rc == AIDB_OK ? aidb_sync(db) : rc;
}

/* Removes a file, durably. It may be gone, but not durably yet: removed by a start that failed then. */
static aidb_status remove_file(const aidb_db *db, const char *name) {
	const aidb_host *host = db->host;
	redo_path path = path_of(db->directory, name);
	int error = host->file_remove(host->context, path.text);

	if (error == 0 || error == ENOENT) {
		error = host->directory_sync(host->context, db->directory);
	}
	return error == 0 ? AIDB_OK : lsm_fail_errno(error, "remove", path.text);
}

aidb_status lsm_redo(aidb_db *db) {
	missing_list list = {0};
	aidb_status rc = select_missing(db, &list);

	if (rc == AIDB_OK) {
		lsm_fault_point(db, "redo_ready");
		rc = remove_file(db, REDO_NAME); /* first: without REDO.missing it would be taken for new */
	}
	if (rc == AIDB_OK) {
		lsm_fault_point(db, "redo_begun");
		rc = write_missing(db, &list);
	}
	if (rc == AIDB_OK) {
		lsm_fault_point(db, "redo_synced");
		rc = remove_file(db, NEW_NAME);
	}
	if (rc == AIDB_OK) {
		rc = remove_file(db, MISSING_NAME);
		lsm_fault_point(db, "redo_removed");
	}
	free_missing(&list);
	return rc;
}
