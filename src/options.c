#include "options.h"

#include "access/reloptions.h"
#include "catalog/pg_attribute.h"
#include "catalog/pg_foreign_data_wrapper.h"
#include "catalog/pg_foreign_server.h"
#include "catalog/pg_foreign_table.h"
#include "catalog/pg_user_mapping.h"
#include "commands/defrem.h"
#include "fmgr.h"
#include "foreign/foreign.h"
#include "table.h"
#include "utils/builtins.h"

PG_FUNCTION_INFO_V1(aidb_fdw_validator);

typedef struct option_place {
	Oid catalog;
	const char *name;
	const char *options; /* NULL: none */
} option_place;

static const option_place places[] = {
	{ForeignDataWrapperRelationId, "foreign-data wrapper", NULL},
	{ForeignServerRelationId, "server", NULL},
	{UserMappingRelationId, "user mapping", NULL},
	{ForeignTableRelationId, "table", AIPG_OPTION_SHARD_COLUMNS},
	{AttributeRelationId, "column", AIPG_OPTION_KEY ", " AIPG_OPTION_MISSING},
};

static void pg_attribute_noreturn() refuse_option(Oid catalog, const char *option) {
	const option_place *place = NULL;

	for (size_t i = 0; i < lengthof(places); i++) {
		if (places[i].catalog == catalog) {
			place = &places[i];
		}
	}
	ereport(ERROR, (errcode(ERRCODE_FDW_INVALID_OPTION_NAME), errmsg("invalid option \"%s\"", option),
					place == NULL            ? 0
					: place->options == NULL ? errhint("There are no %s options for AiDb.", place->name)
											 : errhint("Valid %s options: %s.", place->name, place->options)));
}

/* A number of key columns, or 0. */
static int parse_number(const char *value) {
	char *end;
	long number = strtol(value, &end, 10);

	return end == value || *end != '\0' || number < 1 || number > AIPG_MAX_KEY_COLUMNS ? 0 : (int)number;
}

int aipg_parse_key_position(const char *value) {
	int position = parse_number(value);

	if (position == 0) {
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_ATTRIBUTE_VALUE),
				 errmsg("invalid value for option \"%s\": \"%s\"", AIPG_OPTION_KEY, value),
				 errdetail("It is the place of the column in the primary key, a number from 1 to %d.",
						   AIPG_MAX_KEY_COLUMNS),
				 errhint("Write OPTIONS (key '1') on the first key column, or declare the key as PRIMARY KEY.")));
	}
	return position;
}

int aipg_parse_shard_columns(const char *value) {
	int count = parse_number(value);

	if (count == 0) {
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_ATTRIBUTE_VALUE),
				 errmsg("invalid value for option \"%s\": \"%s\"", AIPG_OPTION_SHARD_COLUMNS, value),
				 errdetail("It is how many columns of the primary key say where a row is kept in a cluster, a number "
						   "from 1 to %d.",
						   AIPG_MAX_KEY_COLUMNS)));
	}
	return count;
}

static void check_missing(const char *value) {
	size_t size = strlen(value);

	if (size == 0 || size % 2 != 0 || strspn(value, "0123456789abcdefABCDEF") != size) {
		ereport(ERROR, (errcode(ERRCODE_FDW_INVALID_ATTRIBUTE_VALUE),
						errmsg("invalid value for option \"%s\"", AIPG_OPTION_MISSING),
						errdetail("It is a stored field as pairs of hexadecimal digits."),
						errhint("AiDb sets this option itself when a column with a default is added; leave it out.")));
	}
}

static void check_column_option(const DefElem *option) {
	if (strcmp(option->defname, AIPG_OPTION_KEY) == 0) {
		(void)aipg_parse_key_position(defGetString((DefElem *)option));
	} else if (strcmp(option->defname, AIPG_OPTION_MISSING) == 0) {
		check_missing(defGetString((DefElem *)option));
	} else {
		refuse_option(AttributeRelationId, option->defname);
	}
}

static void check_table_option(const DefElem *option) {
	if (strcmp(option->defname, AIPG_OPTION_SHARD_COLUMNS) != 0) {
		refuse_option(ForeignTableRelationId, option->defname);
	}
	(void)aipg_parse_shard_columns(defGetString((DefElem *)option));
}

Datum aidb_fdw_validator(PG_FUNCTION_ARGS) {
	Oid catalog = PG_GETARG_OID(1);
	ListCell *cell;

	foreach(cell, untransformRelOptions(PG_GETARG_DATUM(0))) {
		const DefElem *option = lfirst(cell);

		if (catalog == AttributeRelationId) {
			check_column_option(option);
		} else if (catalog == ForeignTableRelationId) {
			check_table_option(option);
		} else {
			refuse_option(catalog, option->defname);
		}
	}
	PG_RETURN_VOID();
}

static char *find_option(List *options, const char *name) {
	ListCell *cell;

	foreach(cell, options) {
		DefElem *option = lfirst(cell);

		if (strcmp(option->defname, name) == 0) {
			return defGetString(option);
		}
	}
	return NULL;
}

char *aipg_table_option(Oid relid, const char *name) {
	return find_option(GetForeignTable(relid)->options, name);
}

char *aipg_column_option(Oid relid, AttrNumber attnum, const char *name) {
	return find_option(GetForeignColumnOptions(relid, attnum), name);
}
