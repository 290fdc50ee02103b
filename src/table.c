#include "table.h"

#include "access/htup_details.h"
#include "catalog/pg_class.h"
#include "catalog/pg_foreign_data_wrapper.h"
#include "catalog/pg_foreign_server.h"
#include "catalog/pg_foreign_table.h"
#include "catalog/pg_language.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "handler.h"
#include "key_codec.h"
#include "miscadmin.h"
#include "options.h"
#include "placement/slot.h"
#include "row_codec.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/syscache.h"

/* ---- Which tables are ours ------------------------------------------------------------------------------- */

/* By name first, so that the library of another wrapper is not loaded just to look at it. */
static bool is_function(Oid handler, const char *symbol, PGFunction expected) {
	HeapTuple tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(handler));
	FmgrInfo function;
	Datum source;
	bool null, named;

	if (!HeapTupleIsValid(tuple)) {
		return false;
	}
	source = SysCacheGetAttr(PROCOID, tuple, Anum_pg_proc_prosrc, &null);
	named = !null && ((Form_pg_proc)GETSTRUCT(tuple))->prolang == ClanguageId &&
			strcmp(TextDatumGetCString(source), symbol) == 0;
	ReleaseSysCache(tuple);
	if (!named) {
		return false;
	}
	fmgr_info(handler, &function);
	return function.fn_addr == expected;
}

bool aipg_server_has_handler(Oid server, const char *symbol, PGFunction expected) {
	HeapTuple tuple = SearchSysCache1(FOREIGNSERVEROID, ObjectIdGetDatum(server));
	Oid wrapper, handler;

	if (!HeapTupleIsValid(tuple)) {
		return false;
	}
	wrapper = ((Form_pg_foreign_server)GETSTRUCT(tuple))->srvfdw;
	ReleaseSysCache(tuple);

	tuple = SearchSysCache1(FOREIGNDATAWRAPPEROID, ObjectIdGetDatum(wrapper));
	if (!HeapTupleIsValid(tuple)) {
		return false;
	}
	handler = ((Form_pg_foreign_data_wrapper)GETSTRUCT(tuple))->fdwhandler;
	ReleaseSysCache(tuple);
	return OidIsValid(handler) && is_function(handler, symbol, expected);
}

bool aipg_is_server(Oid server) {
	return aipg_server_has_handler(server, "aidb_fdw_handler", aidb_fdw_handler);
}

Oid aipg_server_of(Oid relid) {
	HeapTuple tuple;
	Oid server;

	if (get_rel_relkind(relid) != RELKIND_FOREIGN_TABLE) {
		return InvalidOid;
	}
	tuple = SearchSysCache1(FOREIGNTABLEREL, ObjectIdGetDatum(relid));
	if (!HeapTupleIsValid(tuple)) {
		return InvalidOid;
	}
	server = ((Form_pg_foreign_table)GETSTRUCT(tuple))->ftserver;
	ReleaseSysCache(tuple);
	return server;
}

bool aipg_is_table(Oid relid) {
	Oid server = aipg_server_of(relid);

	return OidIsValid(server) && aipg_is_server(server);
}

/* ---- Key columns ----------------------------------------------------------------------------------------- */

static void pg_attribute_noreturn() refuse_no_key(Relation relation) {
	ereport(ERROR, (errcode(ERRCODE_INVALID_TABLE_DEFINITION),
					errmsg("AiDb table \"%s\" has no primary key", RelationGetRelationName(relation)),
					errdetail("The rows of an AiDb table are stored in the order of their primary key."),
					errhint("Declare one with PRIMARY KEY, or with the option key '1', '2', ... on its columns.")));
}

static void pg_attribute_noreturn() refuse_positions(Relation relation, int position, bool twice) {
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_TABLE_DEFINITION),
			 errmsg("the primary key of AiDb table \"%s\" is not well defined", RelationGetRelationName(relation)),
			 twice ? errdetail("Two columns have the option key '%d'.", position)
				   : errdetail("No column has the option key '%d', but one has a higher number.", position),
			 errhint("Number the key columns from 1 without gaps, or declare the key as PRIMARY KEY.")));
}

static void pg_attribute_noreturn() refuse_type(Relation relation, Form_pg_attribute attribute) {
	const char *reason = "There is no order-preserving encoding for this type.";

	if (attribute->atttypid == BPCHAROID) {
		reason = "Values of this type that differ in trailing blanks are equal, but not as bytes.";
	} else if (get_typtype(attribute->atttypid) == TYPTYPE_DOMAIN) {
		reason = "The type is a domain, and DROP DOMAIN ... CASCADE would drop the column.";
	}
	ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					errmsg("column \"%s\" of type %s cannot be in the primary key of AiDb table \"%s\"",
						   NameStr(attribute->attname), format_type_be(attribute->atttypid),
						   RelationGetRelationName(relation)),
					errdetail("%s", _(reason)),
					errhint("Types of key columns: smallint, integer, bigint, boolean, text, character varying, bytea, "
							"uuid, date, timestamp with or without time zone.")));
}

static void check_key_column(Relation relation, Form_pg_attribute attribute) {
	if (!aipg_key_type_supported(attribute->atttypid)) {
		refuse_type(relation, attribute);
	}
	if (OidIsValid(attribute->attcollation) && !get_collation_isdeterministic(attribute->attcollation)) {
		ereport(
			ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("column \"%s\" with a nondeterministic collation cannot be in the primary key of AiDb table \"%s\"",
					NameStr(attribute->attname), RelationGetRelationName(relation)),
			 errdetail("Under collation \"%s\" strings of different bytes can be equal.",
					   get_collation_name(attribute->attcollation)),
			 errhint("Give the column a deterministic collation, such as \"C\".")));
	}
	if (attribute->attgenerated) {
		ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
						errmsg("generated column \"%s\" cannot be in the primary key of AiDb table \"%s\"",
							   NameStr(attribute->attname), RelationGetRelationName(relation)),
						errdetail("An UPDATE of what it is generated from would have to move the row."),
						errhint("Store the value in a column of its own, filled by a trigger.")));
	}
}

/* Enters the column at its place if it has option `key`; returns the place, or 0. */
static int place_column(Relation relation, Form_pg_attribute attribute, aipg_key_column *columns) {
	char *option = aipg_column_option(RelationGetRelid(relation), attribute->attnum, AIPG_OPTION_KEY);
	aipg_key_column *column;
	int position;

	if (option == NULL) {
		return 0;
	}
	position = aipg_parse_key_position(option);
	column = &columns[position - 1];
	if (column->attnum != InvalidAttrNumber) {
		refuse_positions(relation, position, true);
	}
	check_key_column(relation, attribute);
	column->attnum = attribute->attnum;
	column->type = attribute->atttypid;
	column->typmod = attribute->atttypmod;
	column->collation = attribute->attcollation;
	column->ordered = aipg_key_type_ordered(column->type, column->collation);
	return position;
}

bool aipg_is_restoring_dump(void) {
	return !check_function_bodies;
}

bool aipg_awaits_key(Relation relation) {
	for (int i = 0; i < RelationGetNumberOfAttributes(relation); i++) {
		if (aipg_column_option(RelationGetRelid(relation), (AttrNumber)(i + 1), AIPG_OPTION_KEY) != NULL) {
			return false;
		}
	}
	return aipg_is_restoring_dump();
}

int aipg_table_key_columns(Relation relation, aipg_key_column columns[AIPG_MAX_KEY_COLUMNS]) {
	TupleDesc tuple_desc = RelationGetDescr(relation);
	int count = 0;

	memset(columns, 0, AIPG_MAX_KEY_COLUMNS * sizeof(aipg_key_column));
	for (int i = 0; i < tuple_desc->natts; i++) {
		Form_pg_attribute attribute = TupleDescAttr(tuple_desc, i);

		if (!attribute->attisdropped) {
			int position = place_column(relation, attribute, columns);

			count = Max(count, position);
		}
	}
	if (count == 0) {
		refuse_no_key(relation);
	}
	for (int i = 0; i < count; i++) {
		if (columns[i].attnum == InvalidAttrNumber) {
			refuse_positions(relation, i + 1, false);
		}
	}
	return count;
}

int aipg_table_shard_columns(Relation relation, int key_count) {
	char *option = aipg_table_option(RelationGetRelid(relation), AIPG_OPTION_SHARD_COLUMNS);
	int count = option == NULL ? 0 : aipg_parse_shard_columns(option);

	if (count > key_count) {
		ereport(ERROR, (errcode(ERRCODE_INVALID_TABLE_DEFINITION),
						errmsg("the primary key of AiDb table \"%s\" has not %d columns",
							   RelationGetRelationName(relation), count),
						errdetail("Option \"%s\" counts columns of the primary key.", AIPG_OPTION_SHARD_COLUMNS)));
	}
	return count;
}

/* ---- Descriptions, kept by relation ------------------------------------------------------------------------ */

typedef struct cache_entry {
	Oid relid;
	bool valid;
	MemoryContext context; /* of *table; NULL when there is none */
	aipg_table *table;     /* without its tuple descriptor */
} cache_entry;

static HTAB *cache;

static void invalidate(Datum argument, Oid relid) {
	HASH_SEQ_STATUS scan;
	cache_entry *entry;

	(void)argument;
	if (OidIsValid(relid)) {
		entry = hash_search(cache, &relid, HASH_FIND, NULL);
		if (entry != NULL) {
			entry->valid = false;
		}
		return;
	}
	hash_seq_init(&scan, cache);
	while ((entry = hash_seq_search(&scan)) != NULL) {
		entry->valid = false;
	}
}

static void create_cache(void) {
	HASHCTL control = {.keysize = sizeof(Oid), .entrysize = sizeof(cache_entry), .hcxt = CacheMemoryContext};

	cache = hash_create("aidb tables", 64, &control, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	CacheRegisterRelcacheCallback(invalidate, (Datum)0);
}

static void read_missing(aipg_table *table, Relation relation) {
	TupleDesc tuple_desc = RelationGetDescr(relation);

	table->missing = palloc((size_t)tuple_desc->natts * sizeof(aipg_missing));
	for (int i = 0; i < tuple_desc->natts; i++) {
		Form_pg_attribute attribute = TupleDescAttr(tuple_desc, i);
		char *option = NULL;

		if (!attribute->attisdropped) {
			option = aipg_column_option(table->relid, attribute->attnum, AIPG_OPTION_MISSING);
		}
		if (option != NULL) {
			aipg_missing *missing = &table->missing[table->missing_count++];

			missing->attnum = attribute->attnum;
			missing->value = aipg_field_from_hex(attribute, option);
		}
	}
}

static aipg_table *read_table(Relation relation) {
	aipg_table *table = palloc0(sizeof(aipg_table));

	table->relid = RelationGetRelid(relation);
	table->key_count = aipg_table_key_columns(relation, table->key);
	table->shard_count = aipg_table_shard_columns(relation, table->key_count);
	if (!aipg_catalog_lookup(table->relid, &table->index_id)) {
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("AiDb table \"%s\" is not in the catalog of the store", RelationGetRelationName(relation)),
				 errdetail("It was created without the library aidb in shared_preload_libraries, or its database was "
						   "copied or restored without the store."),
				 errhint("Drop the table, create it again and load its rows.")));
	}
	table->key_position = palloc0((size_t)RelationGetDescr(relation)->natts + 1);
	for (int i = 0; i < table->key_count; i++) {
		table->key_position[table->key[i].attnum - 1] = (uint8)(i + 1);
	}
	read_missing(table, relation);
	return table;
}

/* The description is marked valid before it is read: an invalidation that arrives meanwhile makes the next call read
 * again. */
static aipg_table *fill_entry(cache_entry *entry, Relation relation) {
	MemoryContext caller;

	if (entry->context != NULL) {
		MemoryContextDelete(entry->context);
	}
	entry->table = NULL;
	entry->context = AllocSetContextCreate(CacheMemoryContext, "aidb table", ALLOCSET_SMALL_SIZES);
	entry->valid = true;
	caller = MemoryContextSwitchTo(entry->context);
	entry->table = read_table(relation);
	MemoryContextSwitchTo(caller);
	return entry->table;
}

/* In the current context, since an invalidation may free what is kept. */
static aipg_table *copy_table(const aipg_table *kept, TupleDesc tuple_desc) {
	aipg_table *table = palloc(sizeof(aipg_table));

	*table = *kept;
	table->tuple_desc = tuple_desc;
	table->key_position = memcpy(palloc((size_t)tuple_desc->natts + 1), kept->key_position, (size_t)tuple_desc->natts);
	table->missing = palloc((size_t)kept->missing_count * sizeof(aipg_missing));
	for (int i = 0; i < kept->missing_count; i++) {
		Form_pg_attribute attribute = TupleDescAttr(tuple_desc, kept->missing[i].attnum - 1);

		table->missing[i].attnum = kept->missing[i].attnum;
		table->missing[i].value = datumCopy(kept->missing[i].value, attribute->attbyval, attribute->attlen);
	}
	return table;
}

aipg_table *aipg_table_describe(Relation relation) {
	Oid relid = RelationGetRelid(relation);
	cache_entry *entry;
	bool found;

	if (cache == NULL) {
		create_cache();
	}
	entry = hash_search(cache, &relid, HASH_ENTER, &found);
	if (!found) {
		*entry = (cache_entry){.relid = relid};
	}
	if (!entry->valid || entry->table == NULL) {
		fill_entry(entry, relation);
	}
	return copy_table(entry->table, RelationGetDescr(relation));
}

/* ---- Stored keys ----------------------------------------------------------------------------------------- */

void aipg_table_key(const aipg_table *table, TupleTableSlot *slot, StringInfo key) {
	aipg_key_start(key, 0, table->index_id);
	for (int i = 0; i < table->key_count; i++) {
		const aipg_key_column *column = &table->key[i];
		bool null;
		Datum value = slot_getattr(slot, column->attnum, &null);

		if (null) {
			Form_pg_attribute attribute = TupleDescAttr(table->tuple_desc, column->attnum - 1);

			ereport(ERROR, (errcode(ERRCODE_NOT_NULL_VIOLATION),
							errmsg("null value in column \"%s\" of relation \"%s\" violates not-null constraint",
								   NameStr(attribute->attname), get_rel_name(table->relid))));
		}
		aipg_key_append(key, column->type, value);
		if (i + 1 == table->shard_count) {
			(void)aipg_table_set_slot(key->data, (size_t)key->len);
		}
	}
}

uint32 aipg_table_set_slot(char *key, size_t size) {
	uint32 slot = aidb_slot_of(key + AIPG_KEY_PREFIX_BYTES, size - AIPG_KEY_PREFIX_BYTES);

	aipg_key_set_slot(key, (uint16)(AIDB_FIRST_STORED_SLOT + slot));
	return slot;
}

static bool may_read_key(const aipg_table *table) {
	Oid user = GetUserId();

	if (pg_class_aclcheck(table->relid, user, ACL_SELECT) == ACLCHECK_OK) {
		return true;
	}
	for (int i = 0; i < table->key_count; i++) {
		if (pg_attribute_aclcheck(table->relid, table->key[i].attnum, user, ACL_SELECT) != ACLCHECK_OK) {
			return false;
		}
	}
	return true;
}

static void append_key_values(StringInfo text, const aipg_table *table, aidb_slice key) {
	size_t position = AIPG_KEY_PREFIX_BYTES;

	for (int i = 0; i < table->key_count; i++) {
		const aipg_key_column *column = &table->key[i];
		Datum value = aipg_key_read(key, &position, column->type, column->typmod);
		Oid output;
		bool varlena;

		getTypeOutputInfo(column->type, &output, &varlena);
		appendStringInfo(text, "%s%s", i > 0 ? ", " : "", OidOutputFunctionCall(output, value));
	}
}

char *aipg_table_key_text(const aipg_table *table, aidb_slice key) {
	StringInfoData text;

	initStringInfo(&text);
	appendStringInfoChar(&text, '(');
	for (int i = 0; i < table->key_count; i++) {
		Form_pg_attribute attribute = TupleDescAttr(table->tuple_desc, table->key[i].attnum - 1);

		appendStringInfo(&text, "%s%s", i > 0 ? ", " : "", NameStr(attribute->attname));
	}
	appendStringInfoString(&text, ")=(");
	if (may_read_key(table)) {
		append_key_values(&text, table, key);
	} else {
		appendStringInfoString(&text, "...");
	}
	appendStringInfoChar(&text, ')');
	return text.data;
}
