#include "router/sharded_table.h"

#include "options.h"
#include "router/handler.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/varlena.h"

bool router_is_server(Oid server) {
	return aipg_server_has_handler(server, "router_fdw_handler", router_fdw_handler);
}

bool router_is_table(Oid relid) {
	Oid server = aipg_server_of(relid);

	return OidIsValid(server) && router_is_server(server);
}

const char *router_table_name(Oid relid) {
	return quote_qualified_identifier(get_namespace_name(get_rel_namespace(relid)), get_rel_name(relid));
}

static void pg_attribute_noreturn() refuse_shard_key(Relation relation, const char *option) {
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_TABLE_DEFINITION),
			 errmsg("invalid shard key \"%s\" of table \"%s\"", option, RelationGetRelationName(relation)),
			 errdetail("The shard key is the first column of the primary key, or the first ones in their order."),
			 errhint("Put the columns that say where a row is kept first in PRIMARY KEY.")));
}

/* How many columns the option names. */
static int shard_columns(Relation relation, const aipg_table *table) {
	char *option = aipg_table_option(table->relid, ROUTER_OPTION_SHARD_KEY);
	List *names;
	ListCell *cell;
	int count = 0;

	if (option == NULL) {
		return 1;
	}
	if (!SplitIdentifierString(pstrdup(option), ',', &names) || names == NIL || list_length(names) > table->key_count) {
		refuse_shard_key(relation, option);
	}
	foreach(cell, names) {
		Form_pg_attribute attribute = TupleDescAttr(RelationGetDescr(relation), table->key[count++].attnum - 1);

		if (strcmp(NameStr(attribute->attname), lfirst(cell)) != 0) {
			refuse_shard_key(relation, option);
		}
	}
	return count;
}

aipg_table *router_table_describe(Relation relation) {
	aipg_table *table = palloc0(sizeof(aipg_table));

	table->relid = RelationGetRelid(relation);
	table->tuple_desc = RelationGetDescr(relation);
	table->key_count = aipg_table_key_columns(relation, table->key);
	table->shard_count = shard_columns(relation, table);
	table->key_position = palloc0((size_t)table->tuple_desc->natts + 1);
	for (int i = 0; i < table->key_count; i++) {
		table->key_position[table->key[i].attnum - 1] = (uint8)(i + 1);
	}
	return table;
}
