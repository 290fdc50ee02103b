#include "store/table_writer.h"

#include <stdlib.h>

#include "base/status.h"
#include "store/file_table.h"

#define WRITE_BYTES (256u << 10)

struct lsm_table_writer {
	const aidb_host *host;
	lsm_sstable_builder *builder;
	int file;
	uint64_t written; /* file bytes handed to the host; `pending` follows them */
	aidb_buffer pending;
	bool has_entry;
	uint64_t first_trailer;
	uint64_t last_trailer;
	char path[LSM_PATH_BYTES];
};

static aidb_status write_pending(lsm_table_writer *writer) {
	int error = writer->host->file_write(writer->host->context, writer->file, writer->pending.data,
										 writer->pending.size, writer->written);

	if (error != 0) {
		return lsm_fail_errno(error, "write file", writer->path);
	}
	writer->written += writer->pending.size;
	writer->pending.size = 0;
	return AIDB_OK;
}

static aidb_status take_bytes(void *argument, const void *data, size_t size) {
	lsm_table_writer *writer = argument;
	aidb_status rc = AIDB_OK;

	if (writer->pending.size + size > WRITE_BYTES && writer->pending.size > 0) {
		rc = write_pending(writer);
	}
	return rc == AIDB_OK ? lsm_buffer_append(&writer->pending, data, size) : rc;
}

aidb_status lsm_table_writer_create(const aidb_host *host, const char *directory, uint64_t number,
									const lsm_sstable_options *options, lsm_table_writer **writer) {
	lsm_table_writer *created = calloc(1, sizeof(*created));
	aidb_status rc;
	int error;

	if (created == NULL) {
		return lsm_fail(AIDB_NO_MEMORY, "out of memory: could not write a file");
	}
	created->host = host;
	created->file = -1;
	lsm_sstable_path(directory, number, created->path);
	rc = lsm_buffer_reserve(&created->pending, WRITE_BYTES);
	if (rc == AIDB_OK) {
		rc = lsm_sstable_builder_create(options, take_bytes, created, &created->builder);
	}
	if (rc == AIDB_OK) {
		error =
			host->file_open(host->context, created->path,
							AIDB_FILE_READ | AIDB_FILE_WRITE | AIDB_FILE_CREATE | AIDB_FILE_EXCLUSIVE, &created->file);
		if (error != 0) {
			created->file = -1;
			rc = lsm_fail_errno(error, "create file", created->path);
		}
	}
	if (rc != AIDB_OK) {
		lsm_table_writer_destroy(created);
		return rc;
	}
	*writer = created;
	return AIDB_OK;
}

aidb_status lsm_table_writer_add(lsm_table_writer *writer, const lsm_entry *entry) {
	if (!writer->has_entry) {
		writer->first_trailer = entry->trailer;
		writer->has_entry = true;
	}
	writer->last_trailer = entry->trailer;
	return lsm_sstable_builder_add(writer->builder, entry);
}

uint64_t lsm_table_writer_bytes(const lsm_table_writer *writer) {
	return lsm_sstable_builder_bytes(writer->builder);
}

static aidb_status sync_and_close(lsm_table_writer *writer) {
	int error = writer->host->file_sync(writer->host->context, writer->file);

	if (error != 0) {
		return lsm_fail_errno(error, "sync file", writer->path);
	}
	writer->host->file_close(writer->host->context, writer->file);
	writer->file = -1;
	return AIDB_OK;
}

aidb_status lsm_table_writer_finish(lsm_table_writer *writer, lsm_table_description *description) {
	lsm_table_description made = {.smallest_trailer = writer->first_trailer, .largest_trailer = writer->last_trailer};
	aidb_status rc = lsm_sstable_builder_finish(writer->builder, &made.properties);

	if (rc == AIDB_OK) {
		rc = write_pending(writer);
	}
	if (rc == AIDB_OK) {
		rc = sync_and_close(writer);
	}
	if (rc == AIDB_OK) {
		lsm_sstable_builder_range(writer->builder, &made.smallest, &made.largest);
		*description = made;
	}
	return rc;
}

void lsm_table_writer_destroy(lsm_table_writer *writer) {
	if (writer == NULL) {
		return;
	}
	if (writer->file >= 0) { /* made, and not finished */
		writer->host->file_close(writer->host->context, writer->file);
		writer->host->file_remove(writer->host->context, writer->path);
	}
	lsm_sstable_builder_destroy(writer->builder);
	aidb_buffer_free(&writer->pending);
	free(writer);
}
