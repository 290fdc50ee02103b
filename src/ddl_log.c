#include "ddl_log.h"

#include "access.h"
#include "catalog.h"
#include "catalog/namespace.h"
#include "commands/dbcommands.h"
#include "key_codec.h"
#include "latest.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "port/pg_bswap.h"
#include "role.h"
#include "utils/guc.h"

#define VERSION 1

static void append_u32(StringInfo bytes, uint32 value) {
	value = pg_hton32(value);
	appendBinaryStringInfo(bytes, (const char *)&value, sizeof(value));
}

static void append_string(StringInfo bytes, const char *string) {
	uint32 size = string == NULL ? 0 : (uint32)strlen(string);

	append_u32(bytes, size);
	if (size > 0) {
		appendBinaryStringInfo(bytes, string, (int)size);
	}
}

static bool is_written = false;

bool aipg_ddl_log_is_written(void) {
	return is_written;
}

void aipg_ddl_log_end(void) {
	is_written = false;
}

void aipg_ddl_log_add(const aipg_change *change) {
	StringInfo key = makeStringInfo();
	StringInfo value = makeStringInfo();

	if (aipg_role_internal) {
		return;
	}
	is_written = true;
	aipg_key_start(key, 0, AIPG_INDEX_DEFINITIONS);
	append_u32(key, aipg_catalog_new_id());
	appendStringInfoChar(value, VERSION);
	appendStringInfoChar(value, (char)change->kind);
	append_u32(value, change->index_id);
	append_u32(value, change->former);
	append_string(value, get_database_name(MyDatabaseId));
	append_string(value,
				  change->search_path != NULL ? change->search_path : GetConfigOption("search_path", false, false));
	append_string(value, change->schema);
	append_string(value, change->name);
	append_string(value, change->statement);
	append_string(value, change->missing);
	aipg_put((aidb_slice){key->data, (size_t)key->len}, (aidb_slice){value->data, (size_t)value->len});
}

static void pg_attribute_noreturn() report_malformed(void) {
	ereport(ERROR, (errcode(ERRCODE_DATA_CORRUPTED), errmsg("malformed definition in the AiDb store"),
					errhint("Restore the store from a backup.")));
}

static const uint8 *take(aidb_slice *bytes, size_t size) {
	const uint8 *at = bytes->data;

	if (bytes->size < size) {
		report_malformed();
	}
	*bytes = (aidb_slice){at + size, bytes->size - size};
	return at;
}

static uint32 take_u32(aidb_slice *bytes) {
	uint32 value;

	memcpy(&value, take(bytes, sizeof(value)), sizeof(value));
	return pg_ntoh32(value);
}

static const char *take_string(aidb_slice *bytes) {
	uint32 size = take_u32(bytes);

	return pnstrdup((const char *)take(bytes, size), size);
}

aipg_change aipg_ddl_log_read(aidb_slice value) {
	aipg_change change = {0};

	if (*take(&value, 1) != VERSION) {
		report_malformed();
	}
	change.kind = (aipg_change_kind)*take(&value, 1);
	change.index_id = take_u32(&value);
	change.former = take_u32(&value);
	change.database = take_string(&value);
	change.search_path = take_string(&value);
	change.schema = take_string(&value);
	change.name = take_string(&value);
	change.statement = take_string(&value);
	change.missing = take_string(&value);
	if (value.size > 0 || change.kind < AIPG_CHANGE_CREATE || change.kind > AIPG_CHANGE_SPACE) {
		report_malformed();
	}
	return change;
}

/* Copies of the keys of a database's rows. */
static List *keys_of(const char *database) {
	StringInfo lower = makeStringInfo(), upper = makeStringInfo();
	aipg_view view = aipg_latest_begin();
	aipg_cursor *cursor;
	aidb_slice key, value;
	List *keys = NIL;

	aipg_key_start(lower, 0, AIPG_INDEX_DEFINITIONS);
	aipg_key_start(upper, 0, AIPG_INDEX_DEFINITIONS + 1);
	cursor = aipg_cursor_open(&view, (aidb_slice){lower->data, (size_t)lower->len},
							  (aidb_slice){upper->data, (size_t)upper->len}, false);
	while (aipg_cursor_next(cursor, &key, &value)) {
		if (strcmp(aipg_ddl_log_read(value).database, database) == 0) {
			StringInfo copy = makeStringInfo();

			appendBinaryStringInfo(copy, key.data, (int)key.size);
			keys = lappend(keys, copy);
		}
	}
	aipg_cursor_close(cursor);
	aipg_latest_end();
	return keys;
}

void aipg_ddl_log_forget(Oid database) {
	const char *name = get_database_name(database);
	ListCell *cell;

	foreach(cell, name == NULL ? NIL : keys_of(name)) {
		StringInfo key = lfirst(cell);

		aipg_remove((aidb_slice){key->data, (size_t)key->len});
	}
}

char *aipg_statement_text(const char *query, int location, int length) {
	if (location < 0) {
		return pstrdup(query);
	}
	return length > 0 ? pnstrdup(query + location, (size_t)length) : pstrdup(query + location);
}
