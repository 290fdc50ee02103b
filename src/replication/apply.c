#include "replication/apply.h"

#include "access.h"
#include "access/xact.h"
#include "catalog.h"
#include "catalog/namespace.h"
#include "commands/dbcommands.h"
#include "ddl_alter.h"
#include "ddl_log.h"
#include "executor/spi.h"
#include "host.h"
#include "key_codec.h"
#include "latest.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "port/pg_bswap.h"
#include "role.h"
#include "row_cache.h"
#include "slots.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"

#define POSITION_VERSION 1
#define PURGE_ROWS 100000
#define MAX_IN_DOUBT 4096
#define POSITION_BYTES (3 + 3 * sizeof(uint64))

static aidb_slice slice_of(StringInfo bytes) {
	return (aidb_slice){bytes->data, (size_t)bytes->len};
}

static StringInfo index_key(uint32 index_id) {
	StringInfo key = makeStringInfo();

	aipg_key_start(key, 0, index_id);
	return key;
}

static void check(aidb_status rc) {
	if (rc != AIDB_OK) {
		aipg_raise(rc, "could not apply what the primary has written");
	}
}

/* ---- Position -------------------------------------------------------------------------------------------- */

static void put_u64(StringInfo bytes, uint64 value) {
	value = pg_hton64(value);
	appendBinaryStringInfo(bytes, (const char *)&value, sizeof(value));
}

static uint64 get_u64(const char *from) {
	uint64 value;

	memcpy(&value, from, sizeof(value));
	return pg_ntoh64(value);
}

static StringInfo encode_position(const aipg_position *position) {
	StringInfo bytes = makeStringInfo();

	appendStringInfoChar(bytes, POSITION_VERSION);
	appendStringInfoChar(bytes, position->copied ? 1 : 0);
	appendStringInfoChar(bytes, position->window_open ? 1 : 0);
	put_u64(bytes, position->store_id);
	put_u64(bytes, position->applied);
	put_u64(bytes, position->complete_at);
	return bytes;
}

aipg_position aipg_position_read(void) {
	aidb_buffer *value = aipg_buffer_create();
	aipg_position position = {0};
	aidb_status rc = aidb_get(aipg_store(), NULL, slice_of(index_key(AIPG_INDEX_POSITION)), value, NULL);

	if (rc == AIDB_NOT_FOUND) {
		return position;
	}
	check(rc);
	if (value->size != POSITION_BYTES || value->data[0] != POSITION_VERSION) {
		ereport(ERROR, (errcode(ERRCODE_DATA_CORRUPTED), errmsg("malformed position of a replica in the AiDb store"),
						errhint("Call aidb.follow() to copy the primary anew.")));
	}
	position.copied = value->data[1] != 0;
	position.window_open = value->data[2] != 0;
	position.store_id = get_u64(value->data + 3);
	position.applied = get_u64(value->data + 11);
	position.complete_at = get_u64(value->data + 19);
	return position;
}

/* ---- Batches --------------------------------------------------------------------------------------------- */

/* A batch that is being filled; one at a time, kept from one to the next. */
static aidb_batch *batch = NULL;

static void begin_batch(void) {
	if (batch == NULL) {
		batch = aidb_batch_create();
	}
	if (batch == NULL) {
		check(AIDB_NO_MEMORY);
	}
	aidb_batch_clear(batch);
}

static void write_batch(aidb_durability durability) {
	aidb_write_options options = {.durability = durability, .state = AIDB_BATCH_PLAIN};
	aidb_status rc;

	do {
		CHECK_FOR_INTERRUPTS();
		rc = aidb_write(aipg_store(), &options, batch, NULL);
	} while (rc == AIDB_INTERRUPTED);
	check(rc);
	aidb_batch_clear(batch);
}

static void flush_batch(void) {
	if (aidb_batch_count(batch) > 0) {
		write_batch(AIDB_LAZY);
	}
}

/* Half of what the store takes: the position, and one more operation, have room in any case. */
static bool is_full(size_t more) {
	size_t limit = aidb_max_batch_bytes(aipg_store()) / 2;

	return aidb_batch_bytes(batch) > 0 && aidb_batch_bytes(batch) + more > limit;
}

static void add_position(const aipg_position *position) {
	check(aidb_batch_put(batch, slice_of(index_key(AIPG_INDEX_POSITION)), slice_of(encode_position(position))));
}

void aipg_position_write(const aipg_position *position) {
	begin_batch();
	add_position(position);
	write_batch(AIDB_SYNC);
}

/* ---- Transactions ------------------------------------------------------------------------------------------ */

/* A worker has none; a statement that restores has one, which all becomes a part of. True: it was begun here. */
static bool begin_transaction(void) {
	bool begun = !IsTransactionState();

	if (begun) {
		StartTransactionCommand();
		XactIsoLevel = XACT_READ_COMMITTED; /* whatever the default is */
	}
	PushActiveSnapshot(GetTransactionSnapshot());
	return begun;
}

static void end_transaction(bool begun, MemoryContext caller) {
	PopActiveSnapshot();
	if (begun) {
		CommitTransactionCommand();
	} else {
		CommandCounterIncrement();
	}
	MemoryContextSwitchTo(caller);
}

/* ---- Changes of definitions -------------------------------------------------------------------------------- */

static void execute(const char *sql) {
	int rc;

	SPI_connect();
	rc = SPI_execute(sql, false, 0);
	SPI_finish();
	if (rc < 0) {
		elog(ERROR, "could not execute \"%s\": %s", sql, SPI_result_code_string(rc));
	}
}

static char *qualified_name(Oid relid) {
	return quote_qualified_identifier(get_namespace_name(get_rel_namespace(relid)), get_rel_name(relid));
}

static void make_schema(const char *schema) {
	if (!OidIsValid(get_namespace_oid(schema, true))) {
		execute(psprintf("CREATE SCHEMA %s", quote_identifier(schema)));
		CommandCounterIncrement();
	}
}

static void create_table(const aipg_change *change) {
	if (OidIsValid(aipg_catalog_find_table(change->index_id))) {
		return;
	}
	make_schema(change->schema);
	aipg_catalog_give_id(change->index_id);
	execute(change->statement);
	aipg_catalog_give_id(0);
}

static void alter_table(const aipg_change *change) {
	Oid relid;

	execute(change->statement);
	CommandCounterIncrement();
	relid = aipg_catalog_find_table(change->index_id);
	if (OidIsValid(relid)) {
		aipg_set_missing(relid, change->missing);
	}
}

static void drop_table(const aipg_change *change) {
	Oid relid = aipg_catalog_find_table(change->index_id);

	if (OidIsValid(relid)) {
		execute(psprintf("DROP FOREIGN TABLE %s CASCADE", qualified_name(relid)));
	}
}

static void truncate_table(const aipg_change *change) {
	Oid relid = aipg_catalog_find_table(change->former);

	if (OidIsValid(relid)) {
		LockRelationOid(relid, AccessExclusiveLock);
		aipg_catalog_give_id(change->index_id);
		aipg_catalog_truncate(relid);
	}
}

static void make_space(const aipg_change *change) {
	aipg_catalog_give_id(change->index_id);
	aipg_catalog_make_space(change->name, strlen(change->name));
	aipg_catalog_give_id(0);
}

static void change_definition(const aipg_change *change) {
	if (change->search_path[0] != '\0') {
		set_config_option("search_path", change->search_path, PGC_USERSET, PGC_S_SESSION, GUC_ACTION_LOCAL, true, 0,
						  false);
	}
	/* what was allowed there is allowed here */
	set_config_option("check_function_bodies", "off", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_LOCAL, true, 0, false);
	switch (change->kind) {
	case AIPG_CHANGE_CREATE:
		create_table(change);
		break;
	case AIPG_CHANGE_ALTER:
		alter_table(change);
		break;
	case AIPG_CHANGE_DROP:
		drop_table(change);
		break;
	case AIPG_CHANGE_TRUNCATE:
		truncate_table(change);
		break;
	case AIPG_CHANGE_SPACE:
		make_space(change);
		break;
	}
}

/* Does what a row of the definitions says, unless it has been done, and keeps the row: in one transaction. */
static void apply_change(aidb_slice key, aidb_slice value) {
	MemoryContext caller = CurrentMemoryContext;
	aipg_change change;
	bool begun = begin_transaction();

	change = aipg_ddl_log_read(value);
	if (strcmp(change.database, get_database_name(MyDatabaseId)) == 0 && !aipg_get_latest(key, NULL)) {
		change_definition(&change);
		aipg_put(key, value);
	}
	end_transaction(begun, caller);
}

/* ---- Operations ------------------------------------------------------------------------------------------- */

/* Rows of the catalog are each server's own, but for the log of definitions and the set of closed slots. */
static bool is_own(aidb_slice key) {
	return key.size < AIPG_KEY_PREFIX_BYTES ||
		   (aipg_key_index_id(key) < AIPG_FIRST_INDEX_ID && !aipg_slots_is_row(key));
}

static bool is_definition(aidb_slice key) {
	return key.size >= AIPG_KEY_PREFIX_BYTES && aipg_key_index_id(key) == AIPG_INDEX_DEFINITIONS;
}

/* A caching read node has no rows of its own: what it remembers of this one is not so any more. */
static void forget_row(aidb_slice key) {
	aipg_row_cache_invalidate(key);
}

static bool keeps_rows(void) {
	return aipg_role_now() != AIPG_CACHE;
}

/* False: it is about a row that this server does not keep. */
static bool takes(const aidb_operation *operation) {
	if (aipg_slots_is_row(operation->key)) {
		aipg_slots_note(operation->value);
		return true;
	}
	if (!keeps_rows()) {
		forget_row(operation->key);
	}
	return keeps_rows();
}

static void add_operation(const aidb_operation *operation) {
	if (!takes(operation)) {
		return;
	}
	if (is_full(operation->key.size + operation->value.size + AIDB_BATCH_OPERATION_BYTES)) {
		write_batch(AIDB_LAZY);
	}
	check(aidb_batch_add(batch, operation));
}

/* Definitions first: rows of a table may stand before the row that says what table it is. */
static void apply_operations(aidb_slice operations) {
	aidb_slice left = operations;
	aidb_operation operation;

	while (aidb_operation_next(&left, &operation)) {
		if (is_definition(operation.key) && operation.kind == AIDB_OPERATION_PUT) {
			if (aidb_batch_count(batch) > 0) {
				write_batch(AIDB_LAZY);
			}
			apply_change(operation.key, operation.value);
		}
	}
	left = operations;
	while (aidb_operation_next(&left, &operation)) {
		if (!is_own(operation.key)) {
			add_operation(&operation);
		}
	}
}

void aipg_apply_rows(aidb_slice operations) {
	begin_batch();
	apply_operations(operations);
	flush_batch();
}

/* ---- Transactions that are to be decided ------------------------------------------------------------------ */

static StringInfo tag_key(aidb_tag tag) {
	StringInfo key = index_key(AIPG_INDEX_IN_DOUBT);

	put_u64(key, tag);
	return key;
}

typedef void (*each_piece)(aidb_slice key, aidb_slice value, void *argument);

/* Calls for each row in doubt whose key begins with the prefix; what is only in the batch must be written before. */
static void for_pieces(StringInfo prefix, each_piece call, void *argument) {
	StringInfo upper = makeStringInfo();
	aidb_read_options options = {.lower = slice_of(prefix)};
	aidb_iterator *iterator;

	appendBinaryStringInfo(upper, prefix->data, prefix->len);
	if (aipg_key_successor(upper)) {
		options.upper = slice_of(upper);
	}
	check(aidb_iterator_create(aipg_store(), &options, &iterator));
	PG_TRY();
	{
		for (aidb_iterator_seek_first(iterator); aidb_iterator_valid(iterator); aidb_iterator_next(iterator)) {
			call(aidb_iterator_key(iterator), aidb_iterator_value(iterator), argument);
		}
		check(aidb_iterator_status(iterator));
	}
	PG_FINALLY();
	{ aidb_iterator_destroy(iterator); }
	PG_END_TRY();
}

static void count_piece(aidb_slice key, aidb_slice value, void *count) {
	(*(uint32 *)count)++;
}

static void apply_piece(aidb_slice key, aidb_slice value, void *unused) {
	apply_operations(value);
}

static void drop_piece(aidb_slice key, aidb_slice value, void *unused) {
	check(aidb_batch_delete(batch, key));
}

/* The tags in doubt are kept in memory: looking for their rows would have to pass all that were there before. */
static struct {
	bool known;
	int count;
	aidb_tag tags[MAX_IN_DOUBT];
} in_doubt;

static void note_tag(aidb_tag tag) {
	for (int i = 0; i < in_doubt.count; i++) {
		if (in_doubt.tags[i] == tag) {
			return;
		}
	}
	if (in_doubt.count == MAX_IN_DOUBT) {
		ereport(ERROR, (errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
						errmsg("more than %d transactions of the primary are undecided", MAX_IN_DOUBT)));
	}
	in_doubt.tags[in_doubt.count++] = tag;
}

static void forget_tag(aidb_tag tag) {
	for (int i = 0; i < in_doubt.count; i++) {
		if (in_doubt.tags[i] == tag) {
			in_doubt.tags[i] = in_doubt.tags[--in_doubt.count];
			return;
		}
	}
}

static void note_row(aidb_slice key, aidb_slice value, void *unused) {
	note_tag(get_u64((const char *)key.data + AIPG_KEY_PREFIX_BYTES));
}

void aipg_apply_restart(void) {
	in_doubt.known = false;
	in_doubt.count = 0;
}

static void learn_in_doubt(void) {
	if (!in_doubt.known) {
		in_doubt.count = 0;
		for_pieces(index_key(AIPG_INDEX_IN_DOUBT), note_row, NULL);
		in_doubt.known = true;
	}
}

/* The piece's number is its commit at the primary: the same when it comes again. */
static void keep_piece(const aipg_stream_event *event) {
	StringInfo key = tag_key(event->tag);

	note_tag(event->tag);
	put_u64(key, event->sequence);
	flush_batch();
	check(aidb_batch_put(batch, slice_of(key), event->operations));
	flush_batch();
}

/* Pieces are in the order of their commits. They stay until the position is beyond: should the response be applied again, they
 * are needed once more, for what was before them comes again, too. */
static List *decide(const aipg_stream_event *event, List *decided) {
	StringInfo prefix = tag_key(event->tag);

	flush_batch();
	if (event->kind == AIPG_EVENT_COMMIT) {
		for_pieces(prefix, apply_piece, NULL);
	}
	return lappend(decided, prefix);
}

char *aipg_apply_in_doubt(void) {
	StringInfo text = makeStringInfo();

	learn_in_doubt();
	appendStringInfoChar(text, '{');
	for (int i = 0; i < in_doubt.count; i++) {
		appendStringInfo(text, "%s" INT64_FORMAT, i > 0 ? "," : "", (int64)in_doubt.tags[i]);
	}
	appendStringInfoChar(text, '}');
	return text->data;
}

void aipg_apply_drop_in_doubt(void) {
	uint32 pieces = 0;

	aipg_apply_restart();
	for_pieces(index_key(AIPG_INDEX_IN_DOUBT), count_piece, &pieces);
	if (pieces > 0) {
		begin_batch();
		for_pieces(index_key(AIPG_INDEX_IN_DOUBT), drop_piece, NULL);
		flush_batch();
		check(aidb_sync(aipg_store()));
	}
}

/* ---- Responses -------------------------------------------------------------------------------------------- */

static void pg_attribute_noreturn() report_malformed(void) {
	ereport(ERROR, (errcode(ERRCODE_DATA_CORRUPTED), errmsg("the primary has sent a malformed part of its stream")));
}

/* Adds to the list what can go with the position. */
static List *apply_event(const aipg_stream_event *event, List *decided) {
	switch (event->kind) {
	case AIPG_EVENT_PLAIN:
		apply_operations(event->operations);
		break;
	case AIPG_EVENT_PREPARED:
		keep_piece(event);
		break;
	case AIPG_EVENT_COMMIT:
	case AIPG_EVENT_ABORT:
		decided = decide(event, decided);
		break;
	}
	return decided;
}

/* All of it, before anything is applied. */
static void check_response(aidb_slice bytes, const aipg_stream_head *head, const aipg_position *position) {
	aipg_stream_event event;

	for (uint32 i = 0; i < head->events; i++) {
		if (!aipg_stream_read_event(&bytes, &event)) {
			report_malformed();
		}
	}
	if (bytes.size > 0 || head->from != position->applied || head->store_id != position->store_id) {
		report_malformed();
	}
}

/* Says that what is here is not to be shown before this is applied; durable before the first part of it is written. */
static void note_incomplete(aipg_position *position, uint64 complete_at) {
	if (position->complete_at < complete_at) {
		position->complete_at = complete_at;
		aipg_position_write(position);
	}
}

/* Whether all that is to be applied goes into one batch, together with the position. */
static bool is_one_batch(aidb_slice bytes, const aipg_stream_head *head) {
	aipg_stream_event event;

	for (uint32 i = 0; i < head->events; i++) {
		aidb_slice left;
		aidb_operation operation;

		aipg_stream_read_event(&bytes, &event);
		if (event.kind != AIPG_EVENT_PLAIN) {
			return false;
		}
		left = event.operations;
		while (aidb_operation_next(&left, &operation)) {
			if (is_definition(operation.key)) {
				return false;
			}
			if (!is_own(operation.key) && takes(&operation)) {
				check(aidb_batch_add(batch, &operation));
			}
			if (is_full(0)) {
				return false;
			}
		}
	}
	return true;
}

static void forget_decided(aidb_slice bytes, const aipg_stream_head *head) {
	aipg_stream_event event;

	for (uint32 i = 0; i < head->events && aipg_stream_read_event(&bytes, &event); i++) {
		if (event.kind == AIPG_EVENT_COMMIT || event.kind == AIPG_EVENT_ABORT) {
			forget_tag(event.tag);
		}
	}
}

void aipg_apply_response(aidb_slice response, aipg_position *position, aipg_stream_head *head) {
	aidb_slice bytes = response;
	aidb_slice events;
	List *decided = NIL;
	ListCell *cell;
	bool one;

	aipg_fault_point("apply_begin");
	if (!aipg_stream_read_head(&bytes, head)) {
		report_malformed();
	}
	check_response(bytes, head, position);
	if (head->upto == head->from && head->events == 0 &&
		position->window_open == ((head->flags & AIPG_STREAM_WINDOW_END) == 0)) {
		return;
	}
	begin_batch();
	one = is_one_batch(bytes, head);
	if (!one || (head->flags & AIPG_STREAM_WINDOW_END) == 0) {
		note_incomplete(position, head->upto);
		begin_batch();
		events = bytes;
		for (uint32 i = 0; i < head->events; i++) {
			aipg_stream_event event;

			aipg_stream_read_event(&events, &event);
			decided = apply_event(&event, decided);
		}
	}
	if (decided != NIL) {
		flush_batch();
	}
	foreach(cell, decided) {
		for_pieces(lfirst(cell), drop_piece, NULL);
	}
	position->applied = head->upto;
	position->window_open = (head->flags & AIPG_STREAM_WINDOW_END) == 0;
	add_position(position);
	aipg_fault_point("apply_position");
	write_batch(keeps_rows() ? AIDB_SYNC
							 : AIDB_LAZY); /* what a crash takes back of it was about rows that are forgotten, too */
	forget_decided(bytes, head);
}

bool aipg_apply_is_complete(const aipg_position *position) {
	return position->copied && !position->window_open && position->applied >= position->complete_at;
}

/* ---- A new copy -------------------------------------------------------------------------------------------- */

static void drop_tables(void) {
	ListCell *cell;

	foreach(cell, aipg_catalog_ids()) {
		Oid relid = aipg_catalog_find_table((uint32)lfirst_int(cell));

		if (OidIsValid(relid)) {
			execute(psprintf("DROP FOREIGN TABLE %s CASCADE", qualified_name(relid)));
			CommandCounterIncrement();
		}
	}
}

void aipg_apply_wipe(void) {
	MemoryContext caller = CurrentMemoryContext;
	aipg_position none = {0};
	bool more, begun;

	aipg_position_write(&none);
	begun = begin_transaction();
	drop_tables();
	aipg_catalog_drop_spaces();
	aipg_ddl_log_forget(MyDatabaseId);
	end_transaction(begun, caller);
	do {
		begun = begin_transaction();
		more = aipg_catalog_purge(PURGE_ROWS);
		end_transaction(begun, caller);
	} while (more);
	aipg_slots_forget();
	aipg_apply_drop_in_doubt();
}

/* ---- A copied store ---------------------------------------------------------------------------------------- */

/* Of the catalog's rows, those that hold for one server alone. What is queued for removal still is to go, and ids that were given
 * out stay so. */
static const uint32 of_one_server[] = {AIPG_INDEX_TABLES,   AIPG_INDEX_SPACES,     AIPG_INDEX_PREPARED,
									   AIPG_INDEX_LINEAGE,  AIPG_INDEX_MARKS,      AIPG_INDEX_POSITION,
									   AIPG_INDEX_IN_DOUBT, AIPG_INDEX_DEFINITIONS};

typedef struct definition {
	StringInfo key;
	StringInfo value;
} definition;

static StringInfo copy_of(aidb_slice bytes) {
	StringInfo copy = makeStringInfo();

	appendBinaryStringInfo(copy, bytes.data, (int)bytes.size);
	return copy;
}

static void note_definition(aidb_slice key, aidb_slice value, void *list) {
	definition *row = palloc(sizeof(definition));

	*row = (definition){copy_of(key), copy_of(value)};
	*(List **)list = lappend(*(List **)list, row);
}

static void drop_row(aidb_slice key, aidb_slice value, void *unused) {
	if (is_full(key.size)) {
		write_batch(AIDB_LAZY);
	}
	check(aidb_batch_delete(batch, key));
}

void aipg_apply_adopt(void) {
	List *definitions = NIL;
	ListCell *cell;

	aipg_apply_restart();
	for_pieces(index_key(AIPG_INDEX_DEFINITIONS), note_definition, &definitions);
	begin_batch();
	for (size_t i = 0; i < lengthof(of_one_server); i++) {
		for_pieces(index_key(of_one_server[i]), drop_row, NULL);
	}
	write_batch(AIDB_SYNC);
	foreach(cell, definitions) {
		const definition *row = lfirst(cell);

		CHECK_FOR_INTERRUPTS();
		apply_change(slice_of(row->key), slice_of(row->value));
	}
}
