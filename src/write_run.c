/*
 * The file: entries one after the other,
 *
 *     header (entry_header), key, value, uint32 bytes of all this
 *
 * The last field is for reading backwards. Nothing outlives the process, so there are no checksums and the byte order
 * is the machine's.
 */
#include "write_run.h"

#include "executor/instrument.h"
#include "key_filter.h"
#include "commands/tablespace.h"
#include "miscadmin.h"
#include "storage/fd.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/wait_event.h"

#define WRITE_BYTES (64 * 1024)  /* written at a time */
#define WINDOW_BYTES BLCKSZ      /* read at a time */
#define FIRST_SPACING_BYTES 4096 /* of the index: entries in the file that it skips */

typedef struct entry_header {
	uint64 ordinal;
	aipg_key_facts facts;
	CommandId command;
	uint32 value_bytes;
	uint16 key_bytes;
	bool is_delete;
} entry_header;

typedef struct index_entry {
	off_t offset; /* of the newest write to the key */
	uint32 key_at;
	uint16 key_bytes;
} index_entry;

/* Some keys of the run, in order, with their places. */
typedef struct key_index {
	Size limit_bytes;
	off_t spacing_bytes;
	index_entry *entries;
	uint64 count;
	uint64 capacity;
	char *keys;
	uint32 key_bytes;
	uint32 key_capacity;
} key_index;

struct aipg_write_run {
	MemoryContext context;
	File file;
	off_t bytes;
	uint64 keys;
	uint64 first_ordinal;
	uint64 last_ordinal;
	uint64 cut; /* writes from this ordinal on were taken back */
	CommandId first_command;
	key_index index;
	aipg_key_filter *filter;
	uint16 first_key_bytes;
	uint16 last_key_bytes;
	char first_key[AIDB_MAX_KEY_BYTES];
	char last_key[AIDB_MAX_KEY_BYTES];
};

/* ---- The run ---------------------------------------------------------------------------------------------- */

static File open_file(void) {
	ResourceOwner owner = CurrentResourceOwner;
	File file;

	PrepareTempTablespaces();
	CurrentResourceOwner = TopTransactionResourceOwner;
	file = OpenTemporaryFile(false);
	CurrentResourceOwner = owner;
	return file;
}

aipg_write_run *aipg_write_run_create(MemoryContext parent, Size index_limit_bytes) {
	MemoryContext context = AllocSetContextCreate(parent, "AiDb spilled writes", ALLOCSET_SMALL_SIZES);
	aipg_write_run *run = MemoryContextAllocZero(context, sizeof(*run));

	run->context = context;
	run->first_ordinal = PG_UINT64_MAX;
	run->cut = PG_UINT64_MAX;
	run->first_command = InvalidCommandId;
	run->index.limit_bytes = index_limit_bytes;
	run->index.spacing_bytes = FIRST_SPACING_BYTES;
	run->file = open_file();
	return run;
}

void aipg_write_run_move(aipg_write_run *run, MemoryContext parent) {
	MemoryContextSetParent(run->context, parent);
}

void aipg_write_run_free(aipg_write_run *run) {
	FileClose(run->file);
	MemoryContextDelete(run->context);
}

Size aipg_write_run_filter_bytes(const aipg_write_run *run) {
	return aipg_key_filter_bytes(run->filter);
}

uint64 aipg_write_run_keys(const aipg_write_run *run) {
	return run->keys;
}

uint64 aipg_write_run_first_ordinal(const aipg_write_run *run) {
	return run->first_ordinal;
}

CommandId aipg_write_run_first_command(const aipg_write_run *run) {
	return run->first_command;
}

aidb_slice aipg_write_run_first_key(const aipg_write_run *run) {
	return (aidb_slice){run->first_key, run->first_key_bytes};
}

aidb_slice aipg_write_run_last_key(const aipg_write_run *run) {
	return (aidb_slice){run->last_key, run->last_key_bytes};
}

void aipg_write_run_cut(aipg_write_run *run, uint64 ordinal) {
	if (ordinal <= run->last_ordinal) {
		run->cut = Min(run->cut, ordinal);
	}
}

bool aipg_write_run_is_cut(const aipg_write_run *run) {
	return run->cut != PG_UINT64_MAX;
}

/* ---- The index -------------------------------------------------------------------------------------------- */

static aidb_slice index_key(const key_index *index, uint64 i) {
	return (aidb_slice){index->keys + index->entries[i].key_at, index->entries[i].key_bytes};
}

/* Keeps every other entry. */
static void thin_out(key_index *index) {
	uint64 kept = 0;
	uint32 key_bytes = 0;

	for (uint64 i = 0; i < index->count; i += 2) {
		index_entry entry = index->entries[i];

		memmove(index->keys + key_bytes, index->keys + entry.key_at, entry.key_bytes);
		entry.key_at = key_bytes;
		index->entries[kept++] = entry;
		key_bytes += entry.key_bytes;
	}
	index->count = kept;
	index->key_bytes = key_bytes;
	index->spacing_bytes *= 2;
}

/* Room for one more entry, as long as the limit allows; then by thinning out. */
static void reserve_index(aipg_write_run *run, uint16 key_bytes) {
	key_index *index = &run->index;

	if (index->entries == NULL) {
		index->capacity = 16;
		index->key_capacity = 2 * AIDB_MAX_KEY_BYTES;
		index->entries = MemoryContextAlloc(run->context, index->capacity * sizeof(index_entry));
		index->keys = MemoryContextAlloc(run->context, index->key_capacity);
	}
	if (index->count < index->capacity && index->key_capacity - index->key_bytes >= key_bytes) {
		return;
	}
	if (index->capacity * sizeof(index_entry) + index->key_capacity > index->limit_bytes / 2) {
		thin_out(index);
	} else if (index->count == index->capacity) {
		index->entries = repalloc_huge(index->entries, index->capacity * 2 * sizeof(index_entry));
		index->capacity *= 2;
	} else {
		index->keys = repalloc_huge(index->keys, (Size)index->key_capacity * 2);
		index->key_capacity *= 2;
	}
}

static void add_to_index(aipg_write_run *run, aidb_slice key, off_t offset) {
	key_index *index = &run->index;

	if (index->count > 0 && offset - index->entries[index->count - 1].offset < index->spacing_bytes) {
		return;
	}
	do {
		reserve_index(run, (uint16)key.size);
	} while (index->count == index->capacity || index->key_capacity - index->key_bytes < key.size);
	memcpy(index->keys + index->key_bytes, key.data, key.size);
	index->entries[index->count++] =
		(index_entry){.offset = offset, .key_at = index->key_bytes, .key_bytes = (uint16)key.size};
	index->key_bytes += (uint32)key.size;
}

/* A place from which to look for the first write to a key >= `key`. */
static off_t search_index(const key_index *index, aidb_slice key) {
	uint64 low = 0;
	uint64 high = index->count;

	while (low < high) {
		uint64 middle = low + (high - low) / 2;

		if (aipg_compare_keys(index_key(index, middle), key) <= 0) {
			low = middle + 1;
		} else {
			high = middle;
		}
	}
	return low == 0 ? 0 : index->entries[low - 1].offset;
}

/* ---- Writing ---------------------------------------------------------------------------------------------- */

struct aipg_write_run_writer {
	aipg_write_run *run;
	aipg_key_filter *filter;
	off_t written; /* the buffer goes there */
	Size used;
	uint64 keys;
	uint64 first_ordinal;
	uint64 last_ordinal;
	CommandId first_command;
	uint16 key_bytes; /* of the latest key */
	char key[AIDB_MAX_KEY_BYTES];
	char buffer[WRITE_BYTES];
};

aipg_write_run_writer *aipg_write_run_begin(aipg_write_run *run, uint64 keys, Size filter_limit_bytes) {
	aipg_write_run_writer *writer = palloc(sizeof(*writer));

	writer->run = run;
	writer->written = run->bytes;
	writer->used = 0;
	writer->keys = 0;
	writer->first_ordinal = run->first_ordinal;
	writer->last_ordinal = run->last_ordinal;
	writer->first_command = run->first_command;
	writer->filter = run->bytes == 0 ? aipg_key_filter_create(run->context, keys, filter_limit_bytes) : NULL;
	return writer;
}

static void write_bytes(aipg_write_run_writer *writer, const char *data, Size bytes) {
	int done = FileWrite(writer->run->file, (char *)data, (int)bytes, writer->written, WAIT_EVENT_BUFFILE_WRITE);

	if (done != (int)bytes) {
		ereport(ERROR, (errcode_for_file_access(),
						errmsg("could not write to temporary file \"%s\": %m", FilePathName(writer->run->file)),
						errhint("A transaction's changes to AiDb tables are kept in temporary files until it ends when "
								"they are many: make room there, or see \"temp_tablespaces\".")));
	}
	writer->written += bytes;
	pgBufferUsage.temp_blks_written += (int64)((bytes + BLCKSZ - 1) / BLCKSZ);
}

static void flush(aipg_write_run_writer *writer) {
	if (writer->used > 0) {
		write_bytes(writer, writer->buffer, writer->used);
		writer->used = 0;
	}
}

static void put_bytes(aipg_write_run_writer *writer, const void *data, Size bytes) {
	if (bytes > WRITE_BYTES - writer->used) {
		flush(writer);
	}
	if (bytes > WRITE_BYTES) {
		write_bytes(writer, data, bytes);
	} else {
		memcpy(writer->buffer + writer->used, data, bytes);
		writer->used += bytes;
	}
}

static bool is_new_key(const aipg_write_run_writer *writer, aidb_slice key) {
	return writer->keys == 0 || key.size != writer->key_bytes || memcmp(key.data, writer->key, key.size) != 0;
}

static void begin_key(aipg_write_run_writer *writer, aidb_slice key) {
	aipg_write_run *run = writer->run;

	add_to_index(run, key, writer->written + (off_t)writer->used);
	if (writer->filter != NULL) {
		aipg_key_filter_add(writer->filter, key);
	}
	if (run->bytes == 0 && writer->keys == 0) {
		memcpy(run->first_key, key.data, key.size);
		run->first_key_bytes = (uint16)key.size;
	}
	memcpy(writer->key, key.data, key.size);
	writer->key_bytes = (uint16)key.size;
	writer->keys++;
}

void aipg_write_run_append(aipg_write_run_writer *writer, const aipg_write *write) {
	entry_header header;
	uint32 bytes = (uint32)(sizeof(header) + write->key.size + write->value.size + sizeof(uint32));

	if (is_new_key(writer, write->key)) {
		begin_key(writer, write->key);
	}
	memset(&header, 0, sizeof(header));
	header.ordinal = write->ordinal;
	header.facts = write->facts;
	header.command = write->command;
	header.value_bytes = (uint32)write->value.size;
	header.key_bytes = (uint16)write->key.size;
	header.is_delete = write->is_delete;
	put_bytes(writer, &header, sizeof(header));
	put_bytes(writer, write->key.data, write->key.size);
	put_bytes(writer, write->value.data, write->value.size);
	put_bytes(writer, &bytes, sizeof(bytes));
	writer->first_ordinal = Min(writer->first_ordinal, write->ordinal);
	writer->last_ordinal = Max(writer->last_ordinal, write->ordinal);
	writer->first_command = Min(writer->first_command, write->command);
}

void aipg_write_run_finish(aipg_write_run_writer *writer) {
	aipg_write_run *run = writer->run;

	flush(writer);
	aipg_key_filter_free(run->filter); /* it does not know the new keys */
	run->filter = writer->filter;
	run->bytes = writer->written;
	run->keys += writer->keys;
	run->first_ordinal = writer->first_ordinal;
	run->last_ordinal = writer->last_ordinal;
	run->first_command = writer->first_command;
	memcpy(run->last_key, writer->key, writer->key_bytes);
	run->last_key_bytes = writer->key_bytes;
}

void aipg_write_run_cancel(aipg_write_run *run) {
	key_index *index = &run->index;

	while (index->count > 0 && index->entries[index->count - 1].offset >= run->bytes) {
		index->key_bytes = index->entries[--index->count].key_at;
	}
}

/* ---- Reading ---------------------------------------------------------------------------------------------- */

struct aipg_write_reader {
	const aipg_write_run *run;
	off_t offset; /* of the entry */
	Size bytes;   /* of the entry */
	bool valid;
	aipg_write at;
	char *window; /* a part of the file */
	Size window_capacity;
	Size window_bytes;
	off_t window_offset;
	char key[AIDB_MAX_KEY_BYTES];
};

aipg_write_reader *aipg_write_reader_create(const aipg_write_run *run) {
	aipg_write_reader *reader = palloc(sizeof(*reader));

	reader->window = palloc(WINDOW_BYTES);
	reader->window_capacity = WINDOW_BYTES;
	reader->run = NULL;
	aipg_write_reader_set_run(reader, run);
	return reader;
}

void aipg_write_reader_set_run(aipg_write_reader *reader, const aipg_write_run *run) {
	if (reader->run != run) {
		reader->run = run;
		reader->window_bytes = 0;
		reader->window_offset = 0;
	}
	reader->valid = false;
}

static void load_window(aipg_write_reader *reader, off_t offset, Size bytes) {
	int done;

	if (bytes > reader->window_capacity) {
		reader->window = repalloc_huge(reader->window, bytes);
		reader->window_capacity = bytes;
	}
	reader->window_bytes = 0;
	done = FileRead(reader->run->file, reader->window, (int)bytes, offset, WAIT_EVENT_BUFFILE_READ);
	if (done < 0) {
		ereport(ERROR,
				(errcode_for_file_access(), errmsg("could not read file \"%s\": %m", FilePathName(reader->run->file))));
	}
	if (done != (int)bytes) {
		ereport(ERROR, (errcode(ERRCODE_DATA_CORRUPTED), errmsg("could not read file \"%s\": read only %d of %zu bytes",
																FilePathName(reader->run->file), done, bytes)));
	}
	reader->window_offset = offset;
	reader->window_bytes = bytes;
	pgBufferUsage.temp_blks_read += (int64)((bytes + BLCKSZ - 1) / BLCKSZ);
}

static bool window_has(const aipg_write_reader *reader, off_t offset, Size bytes) {
	return offset >= reader->window_offset &&
		   offset + (off_t)bytes <= reader->window_offset + (off_t)reader->window_bytes;
}

/* A part of the file; valid until the next call. What follows is read ahead. */
static const char *fetch(aipg_write_reader *reader, off_t offset, Size bytes) {
	if (!window_has(reader, offset, bytes)) {
		load_window(reader, offset, Max(bytes, (Size)Min(WINDOW_BYTES, reader->run->bytes - offset)));
	}
	return reader->window + (offset - reader->window_offset);
}

/* The same, for the bytes that end at `end`. What precedes is read ahead. */
static const char *fetch_backwards(aipg_write_reader *reader, off_t end, Size bytes) {
	if (!window_has(reader, end - (off_t)bytes, bytes)) {
		off_t start = Max(0, end - WINDOW_BYTES);

		load_window(reader, start, (Size)(end - start));
	}
	return reader->window + (end - (off_t)bytes - reader->window_offset);
}

/* Stands on the entry at `offset`. */
static void load_entry(aipg_write_reader *reader, off_t offset) {
	entry_header header;

	memcpy(&header, fetch(reader, offset, sizeof(header)), sizeof(header));
	memcpy(reader->key, fetch(reader, offset + (off_t)sizeof(header), header.key_bytes), header.key_bytes);
	reader->offset = offset;
	reader->bytes = sizeof(header) + header.key_bytes + header.value_bytes + sizeof(uint32);
	reader->at = (aipg_write){.key = {reader->key, header.key_bytes},
							  .value = {NULL, header.value_bytes},
							  .facts = header.facts,
							  .ordinal = header.ordinal,
							  .command = header.command,
							  .is_delete = header.is_delete};
	reader->valid = true;
}

/* From `offset` on, to the first entry that was not taken back. */
static void settle(aipg_write_reader *reader, off_t offset) {
	reader->valid = false;
	while (offset < reader->run->bytes) {
		load_entry(reader, offset);
		if (reader->at.ordinal < reader->run->cut) {
			return;
		}
		CHECK_FOR_INTERRUPTS();
		reader->valid = false;
		offset += (off_t)reader->bytes;
	}
}

/* From the entry that ends at `end` on, backwards. */
static void settle_backwards(aipg_write_reader *reader, off_t end) {
	reader->valid = false;
	while (end > 0) {
		uint32 bytes;

		memcpy(&bytes, fetch_backwards(reader, end, sizeof(bytes)), sizeof(bytes));
		end -= bytes;
		load_entry(reader, end);
		if (reader->at.ordinal < reader->run->cut) {
			return;
		}
		CHECK_FOR_INTERRUPTS();
		reader->valid = false;
	}
}

void aipg_write_reader_next(aipg_write_reader *reader) {
	settle(reader, reader->offset + (off_t)reader->bytes);
}

void aipg_write_reader_prev(aipg_write_reader *reader) {
	settle_backwards(reader, reader->offset);
}

void aipg_write_reader_seek(aipg_write_reader *reader, aidb_slice from) {
	if (from.data == NULL) {
		settle(reader, 0);
		return;
	}
	settle(reader, search_index(&reader->run->index, from));
	while (reader->valid && aipg_compare_keys(reader->at.key, from) < 0) {
		CHECK_FOR_INTERRUPTS();
		aipg_write_reader_next(reader);
	}
}

void aipg_write_reader_seek_below(aipg_write_reader *reader, aidb_slice from) {
	if (from.data != NULL) {
		aipg_write_reader_seek(reader, from);
	}
	settle_backwards(reader, from.data != NULL && reader->valid ? reader->offset : reader->run->bytes);
}

const aipg_write *aipg_write_reader_at(const aipg_write_reader *reader) {
	return reader->valid ? &reader->at : NULL;
}

aidb_slice aipg_write_reader_value(aipg_write_reader *reader) {
	off_t offset = reader->offset + (off_t)(sizeof(entry_header) + reader->at.key.size);

	return (aidb_slice){fetch(reader, offset, reader->at.value.size), reader->at.value.size};
}

bool aipg_write_run_find(const aipg_write_run *run, aipg_write_reader *reader, aidb_slice key, CommandId below) {
	if (aipg_compare_keys(key, aipg_write_run_first_key(run)) < 0 ||
		aipg_compare_keys(key, aipg_write_run_last_key(run)) > 0 ||
		(run->filter != NULL && !aipg_key_filter_may_have(run->filter, key))) {
		return false;
	}
	aipg_write_reader_set_run(reader, run);
	aipg_write_reader_seek(reader, key);
	while (reader->valid && aipg_compare_keys(reader->at.key, key) == 0) {
		if (reader->at.command < below) {
			return true;
		}
		CHECK_FOR_INTERRUPTS();
		aipg_write_reader_next(reader);
	}
	return false;
}
