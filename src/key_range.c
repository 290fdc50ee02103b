#include "key_range.h"

#include "access/detoast.h"
#include "access/stratnum.h"
#include "catalog/pg_type.h"
#include "key_codec.h"
#include "miscadmin.h"
#include "placement/slot.h"
#include "slots.h"
#include "utils/array.h"
#include "utils/lsyscache.h"

#define KEY_END_BYTES 2 /* what ends a text or bytea in a key */

/* Where a value lies, seen from the values that the column can hold. */
typedef enum value_place { PLACE_INSIDE, PLACE_BELOW, PLACE_ABOVE, PLACE_TOO_LONG } value_place;

/* How the values of one condition become key bytes. */
typedef struct value_encoder {
	Oid column_type;
	Oid value_type;
	bool variable_length;
} value_encoder;

/* Encoded values or leading parts of keys: sorted and distinct, none a prefix of another. */
typedef struct byte_strings {
	int count;
	aidb_slice *item;
} byte_strings;

/* An inequality, encoded. */
typedef struct key_bound {
	int strategy;
	aidb_slice bytes;
} key_bound;

/* ---- Bytes ----------------------------------------------------------------------------------------------- */

static int compare_slices(aidb_slice a, aidb_slice b) {
	int order = memcmp(a.data, b.data, Min(a.size, b.size));

	if (order != 0) {
		return order;
	}
	return (a.size > b.size) - (a.size < b.size);
}

static int compare_items(const void *a, const void *b) {
	return compare_slices(*(const aidb_slice *)a, *(const aidb_slice *)b);
}

static void sort_distinct(byte_strings *strings) {
	int kept = 0;

	qsort(strings->item, strings->count, sizeof(aidb_slice), compare_items);
	for (int i = 0; i < strings->count; i++) {
		if (kept == 0 || compare_slices(strings->item[kept - 1], strings->item[i]) != 0) {
			strings->item[kept++] = strings->item[i];
		}
	}
	strings->count = kept;
}

static aidb_slice take_bytes(const StringInfoData *bytes) {
	return (aidb_slice){bytes->data, (size_t)bytes->len};
}

static aidb_slice join_bytes(aidb_slice head, aidb_slice tail) {
	char *bytes = palloc(head.size + tail.size);

	memcpy(bytes, head.data, head.size);
	memcpy(bytes + head.size, tail.data, tail.size);
	return (aidb_slice){bytes, head.size + tail.size};
}

/* The first key beyond all keys that start with `prefix`, which starts with an index id: there always is one. */
static aidb_slice successor_of(aidb_slice prefix) {
	StringInfoData key;
	bool found;

	initStringInfo(&key);
	appendBinaryStringInfo(&key, prefix.data, (int)prefix.size);
	found = aipg_key_successor(&key);
	Assert(found);
	(void)found;
	return take_bytes(&key);
}

/* The same cut between stored keys as `key` makes, by a key that is not too long itself. */
static aidb_slice fit_cut(aidb_slice key) {
	if (key.size <= AIDB_MAX_KEY_BYTES) {
		return key;
	}
	/* No stored key is an extension of these bytes, and those before `key` are these bytes or less. */
	return successor_of((aidb_slice){key.data, AIDB_MAX_KEY_BYTES});
}

/* ---- Values ---------------------------------------------------------------------------------------------- */

static bool is_integer(Oid type) {
	return type == INT2OID || type == INT4OID || type == INT8OID;
}

static int64 read_integer(Oid type, Datum value) {
	switch (type) {
	case INT2OID:
		return DatumGetInt16(value);
	case INT4OID:
		return DatumGetInt32(value);
	default:
		return DatumGetInt64(value);
	}
}

static value_place convert_integer(const value_encoder *encoder, Datum *value) {
	int64 number = read_integer(encoder->value_type, *value);
	int64 lowest = PG_INT64_MIN;
	int64 highest = PG_INT64_MAX;

	if (encoder->column_type == INT2OID) {
		lowest = PG_INT16_MIN;
		highest = PG_INT16_MAX;
		*value = Int16GetDatum((int16)number);
	} else if (encoder->column_type == INT4OID) {
		lowest = PG_INT32_MIN;
		highest = PG_INT32_MAX;
		*value = Int32GetDatum((int32)number);
	} else {
		*value = Int64GetDatum(number);
	}
	return number < lowest ? PLACE_BELOW : number > highest ? PLACE_ABOVE : PLACE_INSIDE;
}

static value_encoder prepare_encoder(const aipg_table *table, const aipg_key_condition *condition) {
	Oid type = table->key[condition->column].type;

	return (value_encoder){type, condition->value_type, get_typlen(type) == -1};
}

/* Whether a text or bytea takes more bytes in a key, where zeros take two, than any key has. */
static bool is_too_long(Datum value) {
	struct varlena *bytes;
	size_t size;

	if (toast_raw_datum_size(value) - VARHDRSZ > AIDB_MAX_KEY_BYTES) {
		return true;
	}
	bytes = PG_DETOAST_DATUM_PACKED(value);
	size = VARSIZE_ANY_EXHDR(bytes);
	for (size_t i = 0; i < VARSIZE_ANY_EXHDR(bytes); i++) {
		size += VARDATA_ANY(bytes)[i] == '\0';
	}
	return size + KEY_END_BYTES > AIDB_MAX_KEY_BYTES;
}

/* Encodes a value as the column would be; sets *bytes only when the column can hold it. */
static value_place encode_value(const value_encoder *encoder, Datum value, aidb_slice *bytes) {
	StringInfoData encoded;

	if (is_integer(encoder->column_type) && is_integer(encoder->value_type)) {
		value_place place = convert_integer(encoder, &value);

		if (place != PLACE_INSIDE) {
			return place;
		}
	} else if (encoder->variable_length && is_too_long(value)) {
		return PLACE_TOO_LONG;
	}
	initStringInfo(&encoded);
	aipg_key_append(&encoded, encoder->column_type, value);
	*bytes = take_bytes(&encoded);
	return PLACE_INSIDE;
}

/* All values that an equality admits. */
static byte_strings encode_equality(const aipg_table *table, const aipg_key_condition *condition, NullableDatum value) {
	value_encoder encoder = prepare_encoder(table, condition);
	byte_strings strings = {0, NULL};
	Datum *elements = &value.value;
	bool *nulls = &value.isnull;
	int count = 1;

	if (condition->array && !value.isnull) {
		ArrayType *array = DatumGetArrayTypeP(value.value);
		int16 length;
		bool by_value;
		char alignment;

		get_typlenbyvalalign(ARR_ELEMTYPE(array), &length, &by_value, &alignment);
		deconstruct_array(array, ARR_ELEMTYPE(array), length, by_value, alignment, &elements, &nulls, &count);
	}
	strings.item = palloc(Max(count, 1) * sizeof(aidb_slice));
	for (int i = 0; i < count; i++) {
		CHECK_FOR_INTERRUPTS();
		if (!nulls[i] && encode_value(&encoder, elements[i], &strings.item[strings.count]) == PLACE_INSIDE) {
			strings.count++;
		}
	}
	sort_distinct(&strings);
	return strings;
}

/* ---- Ranges ---------------------------------------------------------------------------------------------- */

/* Every prefix with every value behind it. Sorted again, since no prefix and no value is a prefix of another. */
static byte_strings combine(byte_strings prefixes, byte_strings values) {
	byte_strings product = {0, palloc(Max(prefixes.count * values.count, 1) * sizeof(aidb_slice))};

	for (int i = 0; i < prefixes.count; i++) {
		CHECK_FOR_INTERRUPTS();
		for (int j = 0; j < values.count; j++) {
			aidb_slice key = join_bytes(prefixes.item[i], values.item[j]);

			if (key.size <= AIDB_MAX_KEY_BYTES) {
				product.item[product.count++] = key;
			}
		}
	}
	return product;
}

/* Encodes the inequalities; returns how many bound anything, or -1 when nothing can satisfy one of them. */
static int encode_bounds(const aipg_table *table, const aipg_key_condition *conditions, int count,
						 const NullableDatum *values, key_bound *bounds) {
	int used = 0;

	for (int i = 0; i < count; i++) {
		int strategy = conditions[i].strategy;
		bool upper = strategy == BTLessStrategyNumber || strategy == BTLessEqualStrategyNumber;
		value_encoder encoder = prepare_encoder(table, &conditions[i]);
		value_place place;

		if (values[i].isnull) {
			return -1;
		}
		place = encode_value(&encoder, values[i].value, &bounds[used].bytes);
		if (place == PLACE_INSIDE) {
			bounds[used++].strategy = strategy;
		} else if (place == (upper ? PLACE_BELOW : PLACE_ABOVE)) {
			return -1;
		}
	}
	return used;
}

static void narrow(aipg_key_range *range, aidb_slice prefix, const key_bound *bound) {
	aidb_slice cut = join_bytes(prefix, bound->bytes);

	if (bound->strategy == BTGreaterStrategyNumber || bound->strategy == BTLessEqualStrategyNumber) {
		cut = successor_of(cut);
	}
	cut = fit_cut(cut);
	if (bound->strategy == BTGreaterStrategyNumber || bound->strategy == BTGreaterEqualStrategyNumber) {
		if (compare_slices(cut, range->lower) > 0) {
			range->lower = cut;
		}
	} else if (compare_slices(cut, range->upper) < 0) {
		range->upper = cut;
	}
}

static void add_range(aipg_key_ranges *ranges, aidb_slice prefix, const key_bound *bounds, int count) {
	aipg_key_range range = {prefix, successor_of(prefix), false};

	for (int i = 0; i < count; i++) {
		narrow(&range, prefix, &bounds[i]);
	}
	if (compare_slices(range.lower, range.upper) < 0) {
		ranges->range[ranges->count++] = range;
	}
}

/* -- slots -- */

/* The prefixes are whole shard keys: each belongs to one slot. Those stay of which the slot is here. */
static void set_slots(byte_strings *prefixes, const aipg_view *view) {
	int kept = 0;

	for (int i = 0; i < prefixes->count; i++) {
		uint32 slot = aipg_table_set_slot((char *)prefixes->item[i].data, prefixes->item[i].size);

		if (view == NULL || aipg_slots_has(slot, view)) {
			prefixes->item[kept++] = prefixes->item[i];
		}
	}
	prefixes->count = kept;
	qsort(prefixes->item, prefixes->count, sizeof(aidb_slice), compare_items);
}

/* Rows with these prefixes are in any slot that is here. */
static byte_strings in_all_slots(byte_strings prefixes, const aipg_view *view) {
	byte_strings all = {0, NULL};
	aidb_slot_set slots;

	memset(&slots, 0xFF, sizeof(slots));
	if (view != NULL) {
		aipg_slots_to_scan(&slots, view);
	}
	all.item = palloc(Max((Size)prefixes.count * aidb_slot_set_count(&slots), 1) * sizeof(aidb_slice));
	for (uint32 slot = 0; slot < AIDB_SLOTS; slot++) {
		CHECK_FOR_INTERRUPTS();
		for (int i = 0; i < prefixes.count && aidb_slot_set_has(&slots, slot); i++) {
			aidb_slice copy = join_bytes(prefixes.item[i], (aidb_slice){"", 0});

			aipg_key_set_slot((char *)copy.data, (uint16)(AIDB_FIRST_STORED_SLOT + slot));
			all.item[all.count++] = copy;
		}
	}
	return all;
}

void aipg_key_ranges_build(const aipg_table *table, const aipg_view *view, const aipg_key_condition *conditions,
						   int count, const NullableDatum *values, aipg_key_ranges *ranges) {
	StringInfoData start;
	byte_strings prefixes;
	key_bound *bounds = palloc(Max(count, 1) * sizeof(key_bound));
	int bound_count = 0;
	int i = 0;

	initStringInfo(&start);
	aipg_key_start(&start, 0, table->index_id);
	prefixes = (byte_strings){1, palloc(sizeof(aidb_slice))};
	prefixes.item[0] = take_bytes(&start);

	for (; i < count && conditions[i].strategy == BTEqualStrategyNumber; i++) {
		byte_strings fixed = encode_equality(table, &conditions[i], values[i]);

		if (prefixes.count > 1 && fixed.count > 1 && fixed.count > AIPG_MAX_COMBINED_RANGES / prefixes.count) {
			count = i; /* what comes behind this column cannot be used without it */
			break;
		}
		prefixes = combine(prefixes, fixed);
		if (i + 1 == table->shard_count) {
			set_slots(&prefixes, view);
		}
	}
	if (i < table->shard_count) {
		prefixes = in_all_slots(prefixes, view);
	}
	bound_count = encode_bounds(table, &conditions[i], count - i, &values[i], bounds);

	ranges->count = 0;
	ranges->range = palloc(Max(prefixes.count, 1) * sizeof(aipg_key_range));
	for (int j = 0; j < prefixes.count && bound_count >= 0; j++) {
		CHECK_FOR_INTERRUPTS();
		if (i == table->key_count) {
			ranges->range[ranges->count++] = (aipg_key_range){.lower = prefixes.item[j], .point = true};
		} else {
			add_range(ranges, prefixes.item[j], bounds, bound_count);
		}
	}
}

/* ---- All rows of a table ----------------------------------------------------------------------------------- */

void aipg_all_rows_open(aipg_all_rows *rows, const aipg_table *table, const aipg_view *view) {
	*rows = (aipg_all_rows){.view = *view, .context = CurrentMemoryContext};
	aipg_key_ranges_build(table, view, NULL, 0, NULL, &rows->ranges);
}

bool aipg_all_rows_next(aipg_all_rows *rows, aidb_slice *key, aidb_slice *value) {
	for (;;) {
		const aipg_key_range *range;
		MemoryContext caller;

		if (rows->cursor != NULL && aipg_cursor_next(rows->cursor, key, value)) {
			return true;
		}
		aipg_all_rows_close(rows);
		if (rows->started == rows->ranges.count) {
			return false;
		}
		range = &rows->ranges.range[rows->started++];
		caller = MemoryContextSwitchTo(rows->context);
		rows->cursor = aipg_cursor_open(&rows->view, range->lower, range->upper, false);
		MemoryContextSwitchTo(caller);
	}
}

void aipg_all_rows_close(aipg_all_rows *rows) {
	if (rows->cursor != NULL) {
		aipg_cursor_close(rows->cursor);
		rows->cursor = NULL;
	}
}

/* ---- Estimates -------------------------------------------------------------------------------------------- */

void aipg_key_ranges_estimate(const aipg_key_ranges *ranges, const char *name, double *rows, double *bytes) {
	aidb_db *store = aipg_store();

	*rows = 0;
	*bytes = 0;
	for (int i = 0; i < ranges->count; i++) {
		const aipg_key_range *range = &ranges->range[i];
		uint64_t range_entries = 1;
		uint64_t range_bytes = 0;
		aidb_status status = AIDB_OK;

		if (!range->point) {
			HOLD_INTERRUPTS();
			status = aidb_estimate(store, range->lower, range->upper, &range_entries, &range_bytes);
			RESUME_INTERRUPTS();
		}
		if (status != AIDB_OK) {
			aipg_raise(status, psprintf(_("could not estimate the size of AiDb table \"%s\""), name));
		}
		*rows += (double)range_entries;
		*bytes += (double)range_bytes;
	}
}
