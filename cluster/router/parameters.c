#include "router/parameters.h"

#include "executor/executor.h"
#include "key_codec.h"
#include "router/deparse.h"
#include "utils/lsyscache.h"

router_encoder *router_encoder_create(const Oid *types, int count) {
	router_encoder *encoder = palloc(sizeof(router_encoder));

	encoder->count = count;
	encoder->types = palloc((Size)Max(count, 1) * sizeof(Oid));
	encoder->outputs = palloc0((Size)Max(count, 1) * sizeof(FmgrInfo));
	for (int i = 0; i < count; i++) {
		Oid output;
		bool varlena;

		encoder->types[i] = types[i];
		getTypeOutputInfo(types[i], &output, &varlena);
		fmgr_info(output, &encoder->outputs[i]);
	}
	return encoder;
}

const char *router_encode(router_encoder *encoder, int index, Datum value, bool null) {
	return null ? NULL : OutputFunctionCall(&encoder->outputs[index], value);
}

const char **router_encode_all(router_encoder *encoder, List *expressions, ExprContext *context) {
	const char **values = palloc0((Size)Max(encoder->count, 1) * sizeof(char *));
	int level = router_begin_values();

	for (int i = 0; i < encoder->count; i++) {
		bool null;
		Datum value = ExecEvalExpr((ExprState *)list_nth(expressions, i), context, &null);

		values[i] = router_encode(encoder, i, value, null);
	}
	router_end_values(level);
	return values;
}

static int group_of_key(const router_map *map, aidb_slice key) {
	uint32 slot;

	if (!aidb_slot_of_stored_key(key.data, key.size, &slot)) {
		elog(ERROR, "a key of a table of the cluster has no slot");
	}
	return map->group_of_slot[slot];
}

Bitmapset *router_groups_of(const router_map *map, const aipg_table *table, const aipg_key_condition *conditions,
							int count, List *expressions, ExprContext *context) {
	NullableDatum *values = palloc((Size)Max(count, 1) * sizeof(NullableDatum));
	aipg_key_ranges ranges;
	Bitmapset *groups = NULL;

	if (count == 0) {
		return bms_add_range(NULL, 0, map->group_count - 1);
	}
	for (int i = 0; i < count; i++) {
		values[i].value = ExecEvalExpr((ExprState *)list_nth(expressions, i), context, &values[i].isnull);
	}
	aipg_key_ranges_build(table, NULL, conditions, count, values, &ranges);
	for (int i = 0; i < ranges.count; i++) {
		groups = bms_add_member(groups, group_of_key(map, ranges.range[i].lower));
	}
	return groups;
}

int router_group_of_row(const router_map *map, const aipg_table *table, TupleTableSlot *slot) {
	StringInfoData key;

	initStringInfo(&key);
	aipg_table_key(table, slot, &key);
	return group_of_key(map, (aidb_slice){key.data, (size_t)key.len});
}
