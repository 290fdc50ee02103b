#include "row_codec.h"

#include "access/detoast.h"
#include "access/sysattr.h"
#include "access/tupmacs.h"
#include "key_codec.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/lsyscache.h"

/*
 * A row:
 *
 *   u8       version in the low four bits, ROW_HAS_NULLS, ROW_HAS_INCARNATION
 *   varint   number of attributes of the table when the row was written
 *   bytes    with ROW_HAS_NULLS: a bit for each of them, attribute 1 in the lowest bit of the first byte; set: absent
 *   fields   of the attributes that are neither key columns nor absent, ascending
 *   u64      with ROW_HAS_INCARNATION: which of the rows with this key it is
 *
 * A field has the bytes of the value as on a heap page, in the machine's byte order, so that a Datum can point into a
 * row that was copied to aligned memory:
 *
 *   by value              its bytes, unaligned
 *   fixed length          its bytes, aligned
 *   varlena, short header unaligned; the header's first byte is never zero
 *   varlena, long header  aligned, uncompressed; padding is zero bytes
 *   cstring               with its zero byte, unaligned
 *
 * Alignment counts from the start of the row. Attributes beyond the row's number of attributes were added later: they
 * read as the column's missing value.
 */
#define ROW_VERSION 1
#define ROW_VERSION_MASK 0x0F
#define ROW_HAS_NULLS 0x10
#define ROW_HAS_INCARNATION 0x20

/* Rows up to this size are copied as a whole; of larger ones, only the fields that are needed. */
#define COPY_WHOLE_BYTES 4096

/* ---- Encoding ------------------------------------------------------------------------------------------- */

static void pad(StringInfo row, char alignment) {
	static const char zeros[MAXIMUM_ALIGNOF];
	int aligned = (int)att_align_nominal(row->len, alignment);

	appendBinaryStringInfo(row, zeros, aligned - row->len);
}

static void append_by_value(StringInfo row, Datum value, int16 size) {
	Datum bytes;

	store_att_byval(&bytes, value, size);
	appendBinaryStringInfo(row, (const char *)&bytes, size);
}

static void append_short(StringInfo row, const struct varlena *value) {
	char header;

	SET_VARSIZE_1B(&header, VARATT_CONVERTED_SHORT_SIZE(value));
	appendStringInfoChar(row, header);
	appendBinaryStringInfo(row, VARDATA_4B(value), (int)VARSIZE_4B(value) - VARHDRSZ);
}

static void append_varlena(StringInfo row, Form_pg_attribute attribute, Datum datum) {
	struct varlena *value = (struct varlena *)DatumGetPointer(datum);

	if (VARATT_IS_EXTERNAL(value) || VARATT_IS_COMPRESSED(value)) {
		value = detoast_attr(value);
	}
	if (VARATT_IS_SHORT(value)) {
		appendBinaryStringInfo(row, (const char *)value, (int)VARSIZE_SHORT(value));
	} else if (attribute->attstorage != TYPSTORAGE_PLAIN && VARATT_CAN_MAKE_SHORT(value)) {
		append_short(row, value);
	} else {
		pad(row, attribute->attalign);
		appendBinaryStringInfo(row, (const char *)value, (int)VARSIZE_4B(value));
	}
	if (PointerGetDatum(value) != datum) {
		pfree(value);
	}
}

static void append_field(StringInfo row, Form_pg_attribute attribute, Datum value) {
	if (attribute->attbyval) {
		append_by_value(row, value, attribute->attlen);
	} else if (attribute->attlen > 0) {
		pad(row, attribute->attalign);
		appendBinaryStringInfo(row, DatumGetPointer(value), attribute->attlen);
	} else if (attribute->attlen == -1) {
		append_varlena(row, attribute, value);
	} else {
		appendBinaryStringInfo(row, DatumGetCString(value), (int)strlen(DatumGetCString(value)) + 1);
	}
}

static void append_varint(StringInfo row, uint32 value) {
	for (; value >= 0x80; value >>= 7) {
		appendStringInfoChar(row, (char)(value | 0x80));
	}
	appendStringInfoChar(row, (char)value);
}

static inline bool is_stored(const aipg_table *table, const TupleTableSlot *slot, int index) {
	return !slot->tts_isnull[index] && !TupleDescAttr(table->tuple_desc, index)->attisdropped;
}

static bool has_nulls(const aipg_table *table, const TupleTableSlot *slot) {
	for (int i = 0; i < table->tuple_desc->natts; i++) {
		if (table->key_position[i] == 0 && !is_stored(table, slot, i)) {
			return true;
		}
	}
	return false;
}

static void append_null_bits(StringInfo row, const aipg_table *table, const TupleTableSlot *slot) {
	int start = row->len;

	for (int i = 0; i < table->tuple_desc->natts; i++) {
		if (i % 8 == 0) {
			appendStringInfoChar(row, '\0');
		}
		if (table->key_position[i] == 0 && !is_stored(table, slot, i)) {
			row->data[start + i / 8] |= (char)(1 << (i % 8));
		}
	}
}

void aipg_row_encode(const aipg_table *table, TupleTableSlot *slot, StringInfo row) {
	bool nulls;

	slot_getallattrs(slot);
	nulls = has_nulls(table, slot);
	resetStringInfo(row);
	appendStringInfoChar(row, (char)(ROW_VERSION | (nulls ? ROW_HAS_NULLS : 0)));
	append_varint(row, (uint32)table->tuple_desc->natts);
	if (nulls) {
		append_null_bits(row, table, slot);
	}
	for (int i = 0; i < table->tuple_desc->natts; i++) {
		if (table->key_position[i] == 0 && is_stored(table, slot, i)) {
			append_field(row, TupleDescAttr(table->tuple_desc, i), slot->tts_values[i]);
		}
	}
}

/* ---- Decoding ------------------------------------------------------------------------------------------- */

static void pg_attribute_noreturn() report_malformed(const char *reason) {
	ereport(ERROR, (errcode(ERRCODE_DATA_CORRUPTED), errmsg("malformed row in the AiDb store"),
					errdetail_internal("%s", reason),
					errhint("Restore the table from a backup, or drop it and load it again.")));
}

/* The size of the varlena at `at`, by its header; 0 when that is not one we write, or not there as a whole. */
static inline size_t varlena_size(aidb_slice row, size_t at) {
	const char *data = (const char *)row.data + at;
	varattrib_4b header;

	if (at >= row.size) {
		return 0;
	}
	if (VARATT_IS_1B(data)) {
		return VARATT_IS_1B_E(data) ? 0 : VARSIZE_1B(data);
	}
	if (row.size - at < VARHDRSZ) {
		return 0;
	}
	memcpy(&header, data, VARHDRSZ);
	return VARATT_IS_4B_U(&header) && VARSIZE_4B(&header) >= VARHDRSZ ? VARSIZE_4B(&header) : 0;
}

/* Moves *at over the padding before a field and returns the field's size; all of it lies within the row. */
static inline size_t locate_field(aidb_slice row, size_t *at, Form_pg_attribute attribute) {
	const char *data = row.data;
	size_t size;

	if (attribute->attlen > 0) {
		size = (size_t)attribute->attlen;
		if (!attribute->attbyval) {
			*at = att_align_nominal(*at, attribute->attalign);
		}
	} else if (attribute->attlen == -1) {
		if (*at < row.size && data[*at] == 0) {
			*at = att_align_nominal(*at, attribute->attalign);
		}
		size = varlena_size(row, *at);
	} else {
		const char *end = *at < row.size ? memchr(data + *at, 0, row.size - *at) : NULL;

		size = end ? (size_t)(end - data) + 1 - *at : 0;
	}
	if (size == 0 || *at > row.size || row.size - *at < size) {
		report_malformed("A field is longer than the row.");
	}
	return size;
}

static inline Datum load_by_value(const char *from, int16 size) {
	char value1;
	int16 value2;
	int32 value4;
	int64 value8;

	switch (size) {
	case sizeof(value1):
		memcpy(&value1, from, sizeof(value1));
		return CharGetDatum(value1);
	case sizeof(value2):
		memcpy(&value2, from, sizeof(value2));
		return Int16GetDatum(value2);
	case sizeof(value4):
		memcpy(&value4, from, sizeof(value4));
		return Int32GetDatum(value4);
	case sizeof(value8):
		memcpy(&value8, from, sizeof(value8));
		return Int64GetDatum(value8);
	default:
		elog(ERROR, "unsupported by-value length %d", size);
	}
}

/* What the fields of a row are read from. */
typedef struct row_reader {
	aidb_slice row;
	size_t position;   /* of the next field */
	char *copy;        /* the row in aligned memory; NULL until a by-reference field is needed */
	uint32 attributes; /* stored in the row */
	const uint8 *null_bits;
} row_reader;

static inline Datum load_field(row_reader *reader, Form_pg_attribute attribute, size_t size) {
	const char *from = (const char *)reader->row.data + reader->position;

	if (attribute->attbyval) {
		return load_by_value(from, attribute->attlen);
	}
	if (reader->row.size > COPY_WHOLE_BYTES) {
		return PointerGetDatum(memcpy(palloc(size), from, size));
	}
	if (reader->copy == NULL) {
		reader->copy = memcpy(palloc(reader->row.size), reader->row.data, reader->row.size);
	}
	return PointerGetDatum(reader->copy + reader->position);
}

static uint8 next_byte(row_reader *reader) {
	if (reader->position >= reader->row.size) {
		report_malformed("The row ends within its header.");
	}
	return ((const uint8 *)reader->row.data)[reader->position++];
}

static uint32 next_varint(row_reader *reader) {
	uint32 value = 0;

	for (int shift = 0; shift <= 28; shift += 7) {
		uint8 byte = next_byte(reader);

		value |= (uint32)(byte & 0x7F) << shift;
		if (byte < 0x80) {
			return value;
		}
	}
	report_malformed("The number of attributes is not a number.");
}

static void read_header(row_reader *reader) {
	uint8 head = next_byte(reader);

	if ((head & ROW_VERSION_MASK) != ROW_VERSION ||
		(head & ~(ROW_VERSION_MASK | ROW_HAS_NULLS | ROW_HAS_INCARNATION)) != 0) {
		report_malformed("The row is of an unknown version.");
	}
	reader->attributes = next_varint(reader);
	if (reader->attributes > MaxTupleAttributeNumber) {
		report_malformed("The row has more attributes than a table can have.");
	}
	if (head & ROW_HAS_NULLS) {
		size_t size = (reader->attributes + 7) / 8;

		if (reader->row.size - reader->position < size) {
			report_malformed("The row ends within its header.");
		}
		reader->null_bits = (const uint8 *)reader->row.data + reader->position;
		reader->position += size;
	}
}

static inline bool is_needed(const Bitmapset *needed, int attnum) {
	return needed == NULL || bms_is_member(attnum - FirstLowInvalidHeapAttributeNumber, needed);
}

static void decode_key(const aipg_table *table, aidb_slice key, const Bitmapset *needed, TupleTableSlot *slot) {
	size_t position = AIPG_KEY_PREFIX_BYTES;
	int last = table->key_count;

	while (last > 0 && !is_needed(needed, table->key[last - 1].attnum)) {
		last--;
	}
	for (int i = 0; i < last; i++) {
		const aipg_key_column *column = &table->key[i];
		int index = column->attnum - 1;

		if (is_needed(needed, column->attnum)) {
			slot->tts_values[index] = aipg_key_read(key, &position, column->type, column->typmod);
			slot->tts_isnull[index] = false;
		} else {
			aipg_key_skip(key, &position, column->type);
		}
	}
}

/* The columns that the row is older than. */
static void decode_missing(const aipg_table *table, uint32 attributes, const Bitmapset *needed, TupleTableSlot *slot) {
	for (int i = 0; i < table->missing_count; i++) {
		const aipg_missing *missing = &table->missing[i];
		int index = missing->attnum - 1;
		Form_pg_attribute attribute = TupleDescAttr(table->tuple_desc, index);

		if ((uint32)missing->attnum > attributes && is_needed(needed, missing->attnum)) {
			slot->tts_values[index] = datumCopy(missing->value, attribute->attbyval, attribute->attlen);
			slot->tts_isnull[index] = false;
		}
	}
}

static void decode_fields(const aipg_table *table, aidb_slice row, const Bitmapset *needed, TupleTableSlot *slot) {
	row_reader reader = {.row = row};
	int last = table->tuple_desc->natts;

	if (needed != NULL) {
		int highest = bms_prev_member(needed, -1) + FirstLowInvalidHeapAttributeNumber;

		last = Min(last, highest);
	}
	read_header(&reader);
	for (int i = 0; i < last && i < (int)reader.attributes; i++) {
		Form_pg_attribute attribute = TupleDescAttr(table->tuple_desc, i);
		size_t size;

		if (table->key_position[i] != 0 || (reader.null_bits && (reader.null_bits[i / 8] & (1 << (i % 8))))) {
			continue;
		}
		size = locate_field(row, &reader.position, attribute);
		if (is_needed(needed, i + 1) && !attribute->attisdropped) {
			slot->tts_values[i] = load_field(&reader, attribute, size);
			slot->tts_isnull[i] = false;
		}
		reader.position += size;
	}
	if (last > (int)reader.attributes) {
		decode_missing(table, reader.attributes, needed, slot);
	}
}

/* ---- Incarnations ---------------------------------------------------------------------------------------- */

void aipg_row_set_incarnation(StringInfo row, uint64 incarnation) {
	if (incarnation != 0) {
		row->data[0] |= ROW_HAS_INCARNATION;
		appendBinaryStringInfo(row, (const char *)&incarnation, sizeof(incarnation));
	}
}

static bool has_incarnation(aidb_slice row) {
	if (row.size == 0 || (((const uint8 *)row.data)[0] & ROW_HAS_INCARNATION) == 0) {
		return false;
	}
	if (row.size < 1 + sizeof(uint64)) {
		report_malformed("The row ends within its header.");
	}
	return true;
}

uint64 aipg_row_incarnation(aidb_slice row) {
	uint64 incarnation = 0;

	if (has_incarnation(row)) {
		memcpy(&incarnation, (const char *)row.data + row.size - sizeof(incarnation), sizeof(incarnation));
	}
	return incarnation;
}

void aipg_row_decode(const aipg_table *table, aidb_slice key, aidb_slice row, const Bitmapset *needed,
					 MemoryContext context, TupleTableSlot *slot) {
	MemoryContext caller = MemoryContextSwitchTo(context);

	if (has_incarnation(row)) {
		row.size -= sizeof(uint64);
	}

	/* A whole-row reference is attribute 0. */
	if (bms_is_member(-FirstLowInvalidHeapAttributeNumber, needed)) {
		needed = NULL;
	}
	ExecClearTuple(slot);
	memset(slot->tts_isnull, true, (size_t)table->tuple_desc->natts * sizeof(bool));
	memset(slot->tts_values, 0, (size_t)table->tuple_desc->natts * sizeof(Datum));
	decode_key(table, key, needed, slot);
	decode_fields(table, row, needed, slot);
	MemoryContextSwitchTo(caller);
	ExecStoreVirtualTuple(slot);
}

/* ---- Single fields --------------------------------------------------------------------------------------- */

char *aipg_field_to_hex(Form_pg_attribute attribute, Datum value) {
	StringInfoData field;
	char *hex;

	initStringInfo(&field);
	append_field(&field, attribute, value);
	hex = palloc((size_t)field.len * 2 + 1);
	hex[hex_encode(field.data, (size_t)field.len, hex)] = '\0';
	pfree(field.data);
	return hex;
}

Datum aipg_field_from_hex(Form_pg_attribute attribute, const char *hex) {
	size_t size = strlen(hex) / 2;
	char *field = palloc(size + 1);
	size_t at = 0;

	size = hex_decode(hex, size * 2, field);
	if (locate_field((aidb_slice){field, size}, &at, attribute) != size - at) {
		report_malformed("The value of option \"missing\" is not a value of the column's type.");
	}
	return attribute->attbyval ? load_by_value(field, attribute->attlen) : PointerGetDatum(field + at);
}
