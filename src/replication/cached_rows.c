#include "replication/cached_rows.h"

#include "postgres.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "access.h"
#include "host.h"
#include "key_codec.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "replication/rows_format.h"
#include "replication/upstream.h"
#include "role.h"
#include "row_cache.h"
#include "settings.h"
#include "shared.h"
#include "storage/fd.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#define CONNECT_MS 5000
#define ANSWER_MS 10000
#define CATCH_UP_MS 10000
#define CHUNK_BYTES 0x40000
#define MAX_CONNECTIONS 8
#define WARM_UP_ROWS 500 /* asked for at a time */
#define MAX_SAVED_BYTES (16 << 20)

#define ROWS_GET "SELECT aidb.rows_get($1, $2)"
#define ROWS_SCAN "SELECT aidb.rows_scan($1, $2, $3, $4, $5)"

/* ---- Connections ------------------------------------------------------------------------------------------ */

/* Of this process, to the primary; a range scan keeps one for itself, everything else needs one for a moment. */
typedef struct connection {
	aipg_upstream *upstream; /* NULL: none */
	uint64 role_changes;     /* when it was made: it is to the primary of that time */
	uint64 epoch;
	bool busy;
} connection;

static connection connections[MAX_CONNECTIONS];

static void close_connection(connection *closed) {
	aipg_upstream_close(closed->upstream);
	*closed = (connection){0};
}

static connection *take_connection(void) {
	uint64 changes = aipg_role_changes();
	connection *taken = NULL;
	aipg_role_state role;

	for (int i = 0; i < MAX_CONNECTIONS; i++) {
		connection *each = &connections[i];

		if (each->upstream != NULL && !each->busy && each->role_changes != changes) {
			close_connection(each);
		}
		if (!each->busy && (taken == NULL || (taken->upstream == NULL && each->upstream != NULL))) {
			taken = each;
		}
	}
	if (taken == NULL) {
		ereport(ERROR, (errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
						errmsg("a statement on a caching read node can have %d open scans", MAX_CONNECTIONS)));
	}
	if (taken->upstream == NULL) {
		role = aipg_role_get();
		taken->upstream = aipg_upstream_connect(role.conninfo, CONNECT_MS);
		taken->role_changes = changes;
		taken->epoch = role.epoch;
	}
	taken->busy = true;
	return taken;
}

static aidb_slice number(char to[sizeof(uint64)], uint64 value) {
	aipg_rows_write_sequence((uint8_t *)to, value);
	return (aidb_slice){to, sizeof(uint64)};
}

/* What is asked for is asked on this connection; it is of no use after an error. */
static PGresult *ask(connection *on, const char *sql, int count, const aidb_slice *values) {
	PGresult *result = NULL;

	PG_TRY();
	{ result = aipg_upstream_execute(on->upstream, sql, count, values, ANSWER_MS); }
	PG_CATCH();
	{
		close_connection(on);
		PG_RE_THROW();
	}
	PG_END_TRY();
	return result;
}

static void pg_attribute_noreturn() refuse_answer(void) {
	ereport(ERROR, (errcode(ERRCODE_PROTOCOL_VIOLATION), errmsg("the primary's answer is malformed")));
}

/* The answer's bytes, and the commit that it is as of. */
static aidb_slice read_answer(const PGresult *result, uint64 *sequence) {
	aidb_slice answer;

	if (PQntuples(result) != 1 || PQgetisnull(result, 0, 0) != 0) {
		refuse_answer();
	}
	answer = (aidb_slice){PQgetvalue(result, 0, 0), (size_t)PQgetlength(result, 0, 0)};
	if (!aipg_rows_read_sequence(&answer, sequence)) {
		refuse_answer();
	}
	return answer;
}

/* The stream passes the commit, unless it is away: then nothing is remembered that could be older. */
static void catch_up(uint64 sequence) {
	if (aipg_row_cache_is_open() && !aipg_progress_wait(sequence, CATCH_UP_MS) && aipg_row_cache_is_open()) {
		ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
						errmsg("the primary's stream has not come within %d ms to where its answer was", CATCH_UP_MS),
						errhint("aidb.node_status() shows how far it is.")));
	}
}

/* ---- Single rows ------------------------------------------------------------------------------------------ */

static void append_key(StringInfo keys, aidb_slice key) {
	uint8_t length[AIPG_LENGTH_BYTES];

	aipg_rows_write_length(length, (uint32)key.size);
	appendBinaryStringInfo(keys, (const char *)length, sizeof(length));
	appendBinaryStringInfo(keys, key.data, (int)key.size);
}

static PGresult *ask_for_keys(connection *on, const StringInfoData *keys) {
	char epoch[sizeof(uint64)];
	aidb_slice values[2] = {number(epoch, on->epoch), {keys->data, (size_t)keys->len}};

	return ask(on, ROWS_GET, lengthof(values), values);
}

/* Whether an error may be that of a connection which has died while it was idle. */
static bool is_lost(void) {
	MemoryContext caller = MemoryContextSwitchTo(TopMemoryContext);
	ErrorData *error = CopyErrorData();
	bool lost = ERRCODE_TO_CATEGORY(error->sqlerrcode) == ERRCODE_CONNECTION_EXCEPTION ||
				error->sqlerrcode == ERRCODE_ADMIN_SHUTDOWN;

	FreeErrorData(error);
	MemoryContextSwitchTo(caller);
	return lost;
}

/* One attempt. NULL: it was made on a connection that had been idle, and has been lost. */
static PGresult *try_keys(const StringInfoData *keys) {
	connection *on = take_connection();
	PGresult *volatile result = NULL;
	MemoryContext caller = CurrentMemoryContext;
	volatile bool used = on->upstream != NULL && aipg_upstream_is_used(on->upstream);

	PG_TRY();
	{
		result = ask_for_keys(on, keys);
		on->busy = false;
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(caller);
		if (!used || !is_lost()) {
			PG_RE_THROW();
		}
		FlushErrorState();
	}
	PG_END_TRY();
	return result;
}

/* The row as the primary has it; remembered under the stamp. */
static bool fetch_row(aidb_slice key, aidb_buffer *value, uint64 stamp) {
	StringInfoData keys;
	PGresult *result = NULL;
	volatile bool found = false;

	initStringInfo(&keys);
	append_key(&keys, key);
	while (result == NULL) {
		result = try_keys(&keys);
	}
	pfree(keys.data);
	PG_TRY();
	{
		uint64 sequence;
		aidb_slice answer = read_answer(result, &sequence);
		aidb_slice row;

		if (!aipg_rows_read_string(&answer, &row)) {
			refuse_answer();
		}
		catch_up(sequence);
		aipg_fault_point("cached_row_read");
		found = row.data != NULL;
		aipg_row_cache_put(key, found ? &row : NULL, stamp);
		if (found && value != NULL && aidb_buffer_set(value, row) != AIDB_OK) {
			aipg_raise(AIDB_NO_MEMORY, "could not read from the primary");
		}
	}
	PG_FINALLY();
	{ PQclear(result); }
	PG_END_TRY();
	return found;
}

/* Whether the stream was heard of within aidb.max_staleness. */
static bool is_fresh(void) {
	TimestampTz heard_at;

	if (aipg_max_staleness_ms == 0) {
		return true;
	}
	heard_at = aipg_progress_get().heard_at;
	return heard_at != 0 && !TimestampDifferenceExceeds(heard_at, GetCurrentTimestamp(), aipg_max_staleness_ms);
}

static bool get_row(aidb_slice key, aidb_buffer *value) {
	uint64 stamp = 0;

	if (is_fresh()) {
		switch (aipg_row_cache_get(key, value, &stamp)) {
		case AIPG_CACHED_ROW:
			return true;
		case AIPG_CACHED_ABSENT:
			return false;
		default:
			break;
		}
	}
	return fetch_row(key, value, stamp);
}

/* ---- Several rows ----------------------------------------------------------------------------------------- */

/* So many at a time: those that are not remembered are asked for together. */
#define KEYS_AT_A_TIME 1000

typedef struct found_row {
	bool known;
	bool there;
	int at, size; /* in the cursor's bytes */
	uint64 stamp; /* of one that is not known */
} found_row;

typedef struct keys_cursor {
	MemoryContext context;
	const aidb_slice *keys; /* from the next ones on */
	int count;
	int looked_up, handed_out; /* of the keys */
	aidb_buffer *value;
	StringInfoData bytes, asked;
	found_row rows[KEYS_AT_A_TIME];
} keys_cursor;

static void *open_keys(const aidb_slice *keys, int count) {
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "AiDb cached rows", ALLOCSET_DEFAULT_SIZES);
	MemoryContext caller = MemoryContextSwitchTo(context);
	keys_cursor *cursor = palloc0(sizeof(keys_cursor));

	cursor->context = context;
	cursor->keys = keys;
	cursor->count = count;
	cursor->value = aipg_buffer_create();
	initStringInfo(&cursor->bytes);
	initStringInfo(&cursor->asked);
	MemoryContextSwitchTo(caller);
	return cursor;
}

static void close_keys(void *argument) {
	MemoryContextDelete(((keys_cursor *)argument)->context);
}

static void add_row(keys_cursor *cursor, found_row *row, aidb_slice value) {
	row->known = true;
	row->there = true;
	row->at = cursor->bytes.len;
	row->size = (int)value.size;
	appendBinaryStringInfo(&cursor->bytes, value.data, (int)value.size);
}

/* Takes what is remembered, and notes what is to be asked for. */
static void look_up(keys_cursor *cursor) {
	bool fresh = is_fresh();

	resetStringInfo(&cursor->bytes);
	resetStringInfo(&cursor->asked);
	for (int i = 0; i < cursor->looked_up; i++) {
		found_row *row = &cursor->rows[i];

		*row = (found_row){0};
		switch (fresh ? aipg_row_cache_get(cursor->keys[i], cursor->value, &row->stamp) : AIPG_CACHED_NOTHING) {
		case AIPG_CACHED_ROW:
			add_row(cursor, row, (aidb_slice){cursor->value->data, cursor->value->size});
			break;
		case AIPG_CACHED_ABSENT:
			row->known = true;
			break;
		default:
			append_key(&cursor->asked, cursor->keys[i]);
			break;
		}
	}
}

/* The primary's answer for the keys that are not known. */
static void take_rows(keys_cursor *cursor, const PGresult *result) {
	uint64 sequence;
	aidb_slice answer = read_answer(result, &sequence);

	catch_up(sequence);
	aipg_fault_point("cached_row_read");
	for (int i = 0; i < cursor->looked_up; i++) {
		found_row *row = &cursor->rows[i];
		aidb_slice value;

		if (row->known) {
			continue;
		}
		if (!aipg_rows_read_string(&answer, &value)) {
			refuse_answer();
		}
		aipg_row_cache_put(cursor->keys[i], value.data != NULL ? &value : NULL, row->stamp);
		if (value.data != NULL) {
			add_row(cursor, row, value);
		}
	}
}

static void fetch_rows(keys_cursor *cursor) {
	PGresult *result = NULL;

	while (result == NULL) {
		result = try_keys(&cursor->asked);
	}
	PG_TRY();
	{ take_rows(cursor, result); }
	PG_FINALLY();
	{ PQclear(result); }
	PG_END_TRY();
}

/* The next keys' rows. False: there are no more keys. */
static bool read_keys(keys_cursor *cursor) {
	cursor->keys += cursor->looked_up;
	cursor->count -= cursor->looked_up;
	cursor->looked_up = Min(cursor->count, KEYS_AT_A_TIME);
	cursor->handed_out = 0;
	if (cursor->looked_up == 0) {
		return false;
	}
	look_up(cursor);
	if (cursor->asked.len > 0) {
		fetch_rows(cursor);
	}
	return true;
}

static bool next_of_keys(void *argument, aidb_slice *key, aidb_slice *value) {
	keys_cursor *cursor = argument;

	for (;;) {
		const found_row *row;

		if (cursor->handed_out == cursor->looked_up && !read_keys(cursor)) {
			return false;
		}
		row = &cursor->rows[cursor->handed_out++];
		if (row->there) {
			*key = cursor->keys[cursor->handed_out - 1];
			*value = (aidb_slice){cursor->bytes.data + row->at, (size_t)row->size};
			return true;
		}
	}
}

/* ---- Ranges ----------------------------------------------------------------------------------------------- */

/* Reads chunk by chunk; what does not fit into one is read in a transaction of one snapshot. */
typedef struct range_cursor {
	StringInfoData lower;
	StringInfoData upper;
	bool backwards;
	connection *on; /* while there is a transaction; NULL: none */
	PGresult *result;
	aidb_slice rows; /* of the result, that are to come */
	aidb_slice last; /* the key that was handed out last */
	bool begun;
	bool more; /* than in the result */
	MemoryContextCallback callback;
} range_cursor;

static void release(void *argument) {
	range_cursor *cursor = argument;

	PQclear(cursor->result);
	cursor->result = NULL;
	if (cursor->on != NULL) {
		close_connection(cursor->on); /* in the middle of its transaction */
		cursor->on = NULL;
	}
}

static void *open_range(aidb_slice lower, aidb_slice upper, bool backwards) {
	range_cursor *cursor = palloc0(sizeof(range_cursor));

	cursor->backwards = backwards;
	initStringInfo(&cursor->lower);
	initStringInfo(&cursor->upper);
	appendBinaryStringInfo(&cursor->lower, lower.data, (int)lower.size);
	if (upper.data != NULL) {
		appendBinaryStringInfo(&cursor->upper, upper.data, (int)upper.size);
	} else { /* to the end of the index */
		appendBinaryStringInfo(&cursor->upper, lower.data, AIPG_KEY_PREFIX_BYTES);
		(void)aipg_key_successor(&cursor->upper);
	}
	cursor->callback = (MemoryContextCallback){.func = release, .arg = cursor};
	MemoryContextRegisterResetCallback(CurrentMemoryContext, &cursor->callback);
	return cursor;
}

static void read_chunk(range_cursor *cursor, connection *on) {
	char epoch[sizeof(uint64)], bytes[sizeof(uint32)], direction = cursor->backwards ? 1 : 0;
	aidb_slice values[5] = {number(epoch, on->epoch),
							{cursor->lower.data, (size_t)cursor->lower.len},
							{cursor->upper.data, (size_t)cursor->upper.len},
							{&direction, 1},
							{bytes, sizeof(bytes)}};
	uint64 sequence;
	uint8 more;

	aipg_rows_write_length((uint8_t *)bytes, CHUNK_BYTES);
	PQclear(cursor->result);
	cursor->result = NULL;
	cursor->result = ask(on, ROWS_SCAN, lengthof(values), values);
	cursor->rows = read_answer(cursor->result, &sequence);
	if (!aipg_rows_read_byte(&cursor->rows, &more)) {
		refuse_answer();
	}
	cursor->more = more != 0;
	catch_up(sequence);
}

/* The first chunk, which mostly is all; or else the same in a transaction. */
static void begin_range(range_cursor *cursor) {
	connection *on = take_connection();

	cursor->begun = true;
	cursor->on = on;
	read_chunk(cursor, on);
	if (cursor->more) {
		PQclear(
			aipg_upstream_query(on->upstream, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY", 0, NULL, ANSWER_MS));
		read_chunk(cursor, on);
	} else {
		cursor->on = NULL;
		on->busy = false;
	}
}

static void set_bound(StringInfo bound, aidb_slice key, bool beyond) {
	resetStringInfo(bound);
	appendBinaryStringInfo(bound, key.data, (int)key.size);
	if (beyond) {
		appendStringInfoChar(bound, '\0');
	}
}

static void continue_range(range_cursor *cursor) {
	set_bound(cursor->backwards ? &cursor->upper : &cursor->lower, cursor->last, !cursor->backwards);
	read_chunk(cursor, cursor->on);
}

static void end_range(range_cursor *cursor) {
	connection *on = cursor->on;

	if (on != NULL) {
		PQclear(aipg_upstream_query(on->upstream, "COMMIT", 0, NULL, ANSWER_MS));
		on->busy = false;
		cursor->on = NULL;
	}
}

static bool next_row(void *argument, aidb_slice *key, aidb_slice *value) {
	range_cursor *cursor = argument;

	if (!cursor->begun) {
		begin_range(cursor);
	}
	while (cursor->rows.size == 0) {
		if (!cursor->more) {
			end_range(cursor);
			return false;
		}
		continue_range(cursor);
	}
	if (!aipg_rows_read_string(&cursor->rows, key) || key->data == NULL ||
		!aipg_rows_read_string(&cursor->rows, value) || value->data == NULL) {
		refuse_answer();
	}
	cursor->last = *key;
	return true;
}

static void end_reading(void *argument) {
	release(argument);
}

/* ---- Warming up ------------------------------------------------------------------------------------------- */

/* Of the process that follows: keys that are still to be asked for, and an answer that the stream has not caught up with. */
static struct {
	MemoryContext context; /* NULL: not begun, or done */
	aidb_slice keys;
	PGresult *result;
	uint64 sequence;
	aidb_slice rows;
	StringInfoData asked; /* the keys of the answer */
	uint64 stamps[WARM_UP_ROWS];
} warming;

static const char *keys_path(char path[MAXPGPATH], const char *suffix) {
	char directory[MAXPGPATH];

	snprintf(path, MAXPGPATH, "%s/row_cache.keys%s", aipg_store_path(directory), suffix);
	return path;
}

static void append_saved(void *argument, aidb_slice key) {
	StringInfo keys = argument;

	if (keys->len + (int)key.size + AIPG_LENGTH_BYTES <= MAX_SAVED_BYTES) {
		append_key(keys, key);
	}
}

/* What cannot be written is not worth an error. */
void aipg_cached_rows_save(void) {
	char path[MAXPGPATH], new_path[MAXPGPATH];
	StringInfoData keys;
	int file;
	bool written;

	if (!aipg_row_cache_is_open()) {
		return;
	}
	initStringInfo(&keys);
	aipg_row_cache_each(append_saved, &keys);
	file = BasicOpenFile(keys_path(new_path, ".new"), O_WRONLY | O_CREAT | O_TRUNC | PG_BINARY);
	written = file >= 0 && write(file, keys.data, (size_t)keys.len) == keys.len;
	if (file >= 0) {
		close(file);
	}
	if (!written || rename(new_path, keys_path(path, "")) != 0) {
		ereport(LOG, (errcode_for_file_access(), errmsg("could not write file \"%s\": %m", new_path)));
	}
	pfree(keys.data);
}

static void end_warm_up(void) {
	PQclear(warming.result);
	if (warming.context != NULL) {
		MemoryContextDelete(warming.context);
	}
	memset(&warming, 0, sizeof(warming));
}

void aipg_cached_rows_begin_warm_up(void) {
	char path[MAXPGPATH];
	struct stat found;
	int file = BasicOpenFile(keys_path(path, ""), O_RDONLY | PG_BINARY);
	char *bytes;
	ssize_t size;

	end_warm_up();
	if (file < 0 || fstat(file, &found) != 0 || found.st_size > MAX_SAVED_BYTES) {
		if (file >= 0) {
			close(file);
		}
		return;
	}
	warming.context = AllocSetContextCreate(TopMemoryContext, "AiDb warm-up", ALLOCSET_DEFAULT_SIZES);
	bytes = MemoryContextAlloc(warming.context, (Size)found.st_size + 1);
	size = read(file, bytes, (size_t)found.st_size);
	close(file);
	warming.keys = (aidb_slice){bytes, (size_t)Max(size, 0)};
}

static void ask_for_warm_up(void) {
	MemoryContext caller = MemoryContextSwitchTo(warming.context);
	connection *on;
	aidb_slice key;
	int count = 0;

	initStringInfo(&warming.asked);
	while (count < WARM_UP_ROWS && warming.keys.size > 0) {
		if (!aipg_rows_read_string(&warming.keys, &key) || key.data == NULL) {
			warming.keys.size = 0; /* the file is damaged: what follows means nothing */
			break;
		}
		warming.stamps[count++] = aipg_row_cache_stamp(key);
		append_key(&warming.asked, key);
	}
	MemoryContextSwitchTo(caller);
	if (count > 0) {
		on = take_connection();
		warming.result = ask_for_keys(on, &warming.asked);
		on->busy = false;
		warming.rows = read_answer(warming.result, &warming.sequence);
	}
}

static void remember_warm_up(void) {
	aidb_slice keys = {warming.asked.data, (size_t)warming.asked.len};
	aidb_slice key, row;

	for (int i = 0; i < WARM_UP_ROWS && aipg_rows_read_string(&keys, &key); i++) {
		if (!aipg_rows_read_string(&warming.rows, &row)) {
			refuse_answer();
		}
		aipg_row_cache_put(key, row.data != NULL ? &row : NULL, warming.stamps[i]);
	}
	PQclear(warming.result);
	warming.result = NULL;
	pfree(warming.asked.data);
}

void aipg_cached_rows_warm_up(uint64 applied) {
	if (warming.context == NULL) {
		return;
	}
	if (warming.result != NULL && warming.sequence <= applied) {
		remember_warm_up();
	}
	if (warming.result == NULL) {
		ask_for_warm_up();
		if (warming.result == NULL) {
			ereport(LOG, (errmsg("AiDb's row cache holds again what it held before the restart")));
			end_warm_up();
		}
	}
}

/* ---- Reading ---------------------------------------------------------------------------------------------- */

static const aipg_row_source source = {
	.get = get_row,
	.open = open_range,
	.next = next_row,
	.close = end_reading,
	.open_keys = open_keys,
	.next_of_keys = next_of_keys,
	.close_keys = close_keys,
};

void aipg_cached_rows_init(void) {
	aipg_row_source_elsewhere = &source;
}
