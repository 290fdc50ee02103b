#include "upsert.h"

#include "access/genam.h"
#include "access/table.h"
#include "catalog/partition.h"
#include "catalog/pg_am_d.h"
#include "catalog/pg_class_d.h"
#include "catalog/pg_inherits.h"
#include "commands/defrem.h"
#include "nodes/makefuncs.h"
#include "optimizer/planner.h"
#include "parser/parsetree.h"
#include "utils/lsyscache.h"
#include "utils/partcache.h"
#include "utils/rel.h"

static planner_hook_type next_planner;

/* ---- What is unique --------------------------------------------------------------------------------------- */

/* A column of a key or of a unique index. Named, since partitions number their columns as they like. */
typedef struct unique_column {
	const char *name;
	Oid collation;
	Oid family;
	Oid input_type;
} unique_column;

typedef struct unique_columns {
	int count;
	unique_column column[AIPG_MAX_KEY_COLUMNS];
} unique_columns;

/* The columns of ON CONFLICT: parallel lists of InferenceElem and of their columns' names. */
typedef struct arbiter_columns {
	List *elements;
	List *names;
} arbiter_columns;

static void read_key(Relation relation, unique_columns *columns) {
	aipg_key_column key[AIPG_MAX_KEY_COLUMNS];

	columns->count = aipg_table_key_columns(relation, key);
	for (int i = 0; i < columns->count; i++) {
		Oid class = GetDefaultOpClass(key[i].type, BTREE_AM_OID);

		columns->column[i] = (unique_column){
			.name = get_attname(RelationGetRelid(relation), key[i].attnum, false),
			.collation = key[i].collation,
			.family = get_opclass_family(class),
			.input_type = get_opclass_input_type(class),
		};
	}
}

/* False when a column is an expression. */
static bool read_index(Relation index, unique_columns *columns) {
	Oid relid = index->rd_index->indrelid;

	columns->count = IndexRelationGetNumberOfKeyAttributes(index);
	for (int i = 0; i < columns->count; i++) {
		AttrNumber attnum = index->rd_index->indkey.values[i];

		if (attnum == 0) {
			return false;
		}
		columns->column[i] = (unique_column){
			.name = get_attname(relid, attnum, false),
			.collation = index->rd_indcollation[i],
			.family = index->rd_opfamily[i],
			.input_type = index->rd_opcintype[i],
		};
	}
	return true;
}

static char *names_text(const unique_columns *columns) {
	StringInfoData text;

	initStringInfo(&text);
	for (int i = 0; i < columns->count; i++) {
		appendStringInfo(&text, "%s%s", i == 0 ? "" : ", ", columns->column[i].name);
	}
	return text.data;
}

/* ---- What is asked for ------------------------------------------------------------------------------------ */

/* False when an element is no plain column. */
static bool read_arbiter(Oid relid, const OnConflictExpr *conflict, arbiter_columns *arbiter) {
	ListCell *cell;

	arbiter->elements = conflict->arbiterElems;
	arbiter->names = NIL;
	foreach(cell, conflict->arbiterElems) {
		const Var *column = (const Var *)lfirst_node(InferenceElem, cell)->expr;

		if (!IsA(column, Var) || column->varattno <= 0) {
			return false;
		}
		arbiter->names = lappend(arbiter->names, get_attname(relid, column->varattno, false));
	}
	return true;
}

/* A collation and an operator class count only where they are written. */
static bool is_column(const InferenceElem *element, const char *name, const unique_column *column) {
	if (strcmp(name, column->name) != 0 ||
		(OidIsValid(element->infercollid) && element->infercollid != column->collation)) {
		return false;
	}
	return !OidIsValid(element->inferopclass) || (get_opclass_family(element->inferopclass) == column->family &&
												  get_opclass_input_type(element->inferopclass) == column->input_type);
}

static bool names_column(const arbiter_columns *arbiter, const char *name) {
	ListCell *cell;

	foreach(cell, arbiter->names) {
		if (strcmp(lfirst(cell), name) == 0) {
			return true;
		}
	}
	return false;
}

/* Whether the two are the same set. */
static bool matches(const arbiter_columns *arbiter, const unique_columns *columns) {
	ListCell *element;
	ListCell *name;

	for (int i = 0; i < columns->count; i++) {
		if (!names_column(arbiter, columns->column[i].name)) {
			return false;
		}
	}
	forboth(element, arbiter->elements, name, arbiter->names) {
		bool found = false;

		for (int i = 0; i < columns->count && !found; i++) {
			found = is_column(lfirst(element), lfirst(name), &columns->column[i]);
		}
		if (!found) {
			return false;
		}
	}
	return true;
}

/* ---- Tables ----------------------------------------------------------------------------------------------- */

static void pg_attribute_noreturn() refuse(const char *detail) {
	ereport(ERROR, (errcode(ERRCODE_INVALID_COLUMN_REFERENCE),
					errmsg("there is no unique or exclusion constraint matching the ON CONFLICT specification"),
					errdetail_internal("%s", detail)));
}

static void check_key(Relation relation, const arbiter_columns *arbiter) {
	unique_columns key;

	read_key(relation, &key);
	if (arbiter == NULL || !matches(arbiter, &key)) {
		refuse(psprintf(_("AiDb table \"%s\" is unique by its key only, which is (%s)."),
						RelationGetRelationName(relation), names_text(&key)));
	}
}

/* Whether core can decide conflicts in the given columns by the index, at once and for all rows. */
static bool index_matches(Relation index, const arbiter_columns *arbiter) {
	unique_columns columns;

	return index->rd_index->indisunique && index->rd_index->indimmediate && index->rd_index->indisvalid &&
		   heap_attisnull(index->rd_indextuple, Anum_pg_index_indpred, NULL) && read_index(index, &columns) &&
		   matches(arbiter, &columns);
}

/*
 * A heap partition has to have an index for the columns, and, since core will look at all its unique indexes, no other
 * one.
 */
static void check_heap(Relation relation, const arbiter_columns *arbiter) {
	bool found = false;
	List *indexes = RelationGetIndexList(relation);
	ListCell *cell;

	foreach(cell, indexes) {
		Relation index = index_open(lfirst_oid(cell), AccessShareLock);
		bool decides = index->rd_index->indisunique || index->rd_index->indisexclusion;

		if (index_matches(index, arbiter)) {
			found = true;
		} else if (decides) {
			ereport(
				ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("ON CONFLICT with columns is not supported for partition \"%s\" beside AiDb partitions",
						RelationGetRelationName(relation)),
				 errdetail("It has another unique or exclusion constraint, \"%s\".", RelationGetRelationName(index)),
				 errhint("Insert into the partition itself.")));
		}
		index_close(index, NoLock);
	}
	if (!found) {
		refuse(psprintf(_("Partition \"%s\" has no unique index on the columns."), RelationGetRelationName(relation)));
	}
}

/* Else two partitions could have the key. */
static void check_partition_key(Relation relation, const arbiter_columns *arbiter) {
	PartitionKey key = RelationGetPartitionKey(relation);

	for (int i = 0; i < get_partition_natts(key); i++) {
		AttrNumber attnum = get_partition_col_attnum(key, i);

		if (attnum == 0 || !names_column(arbiter, get_attname(RelationGetRelid(relation), attnum, false))) {
			refuse(psprintf(_("The columns do not include the partition key of \"%s\"."),
							RelationGetRelationName(relation)));
		}
	}
}

static void check_partition(Oid relid, const arbiter_columns *arbiter) {
	Relation relation = table_open(relid, NoLock);

	if (relation->rd_rel->relkind == RELKIND_PARTITIONED_TABLE) {
		check_partition_key(relation, arbiter);
	} else if (relation->rd_rel->relkind == RELKIND_RELATION) {
		check_heap(relation, arbiter);
	} else if (aipg_is_table(relid)) {
		check_key(relation, arbiter);
	} else {
		refuse(
			psprintf(_("Partition \"%s\" is a foreign table that is not of AiDb."), RelationGetRelationName(relation)));
	}
	table_close(relation, NoLock);
}

static bool has_unique_index(Oid relid) {
	Relation relation = table_open(relid, NoLock);
	List *indexes = RelationGetIndexList(relation);
	bool found = false;
	ListCell *cell;

	foreach(cell, indexes) {
		Relation index = index_open(lfirst_oid(cell), AccessShareLock);

		found = found || index->rd_index->indisunique;
		index_close(index, NoLock);
	}
	table_close(relation, NoLock);
	return found;
}

/*
 * The partitioned table and all below it, locked, when AiDb tables are among them; NIL when this is core's affair.
 * Core allows no unique index above a foreign table.
 */
static List *tables_below(Oid relid) {
	List *tables;
	ListCell *cell;

	if (has_unique_index(relid)) {
		return NIL;
	}
	tables = find_all_inheritors(relid, AccessShareLock, NULL);
	foreach(cell, tables) {
		if (aipg_is_table(lfirst_oid(cell))) {
			return tables;
		}
	}
	return NIL;
}

/* ---- Queries ---------------------------------------------------------------------------------------------- */

/* Takes the columns out when they are what is unique; returns the tables that this was read from. */
static List *settle_insert(const RangeTblEntry *target, OnConflictExpr *conflict) {
	arbiter_columns arbiter;
	bool plain = read_arbiter(target->relid, conflict, &arbiter);
	List *tables = NIL;
	ListCell *cell;

	if (target->relkind == RELKIND_FOREIGN_TABLE && aipg_is_table(target->relid)) {
		Relation relation = table_open(target->relid, NoLock);

		check_key(relation, plain ? &arbiter : NULL);
		table_close(relation, NoLock);
	} else {
		if (target->relkind == RELKIND_PARTITIONED_TABLE && plain) {
			tables = tables_below(target->relid);
		}
		if (tables == NIL) {
			return NIL;
		}
		foreach(cell, tables) {
			check_partition(lfirst_oid(cell), &arbiter);
		}
	}
	conflict->arbiterElems = NIL;
	conflict->arbiterWhere = NULL; /* would only choose among partial indexes */
	return tables;
}

/* Data-modifying statements are at the top of a query, or in its WITH. */
static List *settle_query(Query *query) {
	List *tables = NIL;
	ListCell *cell;

	if (query->commandType == CMD_INSERT && query->onConflict != NULL && query->onConflict->arbiterElems != NIL) {
		tables = settle_insert(rt_fetch(query->resultRelation, query->rtable), query->onConflict);
	}
	if (query->hasModifyingCTE) {
		foreach(cell, query->cteList) {
			Node *statement = lfirst_node(CommonTableExpr, cell)->ctequery;

			if (IsA(statement, Query)) {
				tables = list_concat(tables, settle_query((Query *)statement));
			}
		}
	}
	return tables;
}

static PlannedStmt *plan_query(Query *query, const char *text, int cursor_options, ParamListInfo parameters) {
	List *tables = settle_query(query);
	PlannedStmt *plan = next_planner != NULL ? next_planner(query, text, cursor_options, parameters)
											 : standard_planner(query, text, cursor_options, parameters);

	/* A plan that is kept is made anew when a partition comes or goes, or an index of one. */
	plan->relationOids = list_concat_unique_oid(plan->relationOids, tables);
	return plan;
}

void aipg_upsert_init(void) {
	next_planner = planner_hook;
	planner_hook = plan_query;
}
