#include "key_codec.h"

#include "catalog/pg_collation.h"
#include "catalog/pg_type.h"
#include "placement/slot.h"
#include "port/pg_bswap.h"
#include "utils/builtins.h"
#include "utils/date.h"
#include "utils/pg_locale.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"

/*
 * Integers are big-endian with the sign bit flipped. Text and bytea keep their bytes, with a zero byte written as
 * 00 FF, and end with 00 01: the end sorts before every byte that could follow, so a prefix sorts before its
 * extensions and whatever column comes next cannot disturb the order.
 */
#define ESCAPE AIDB_KEY_ESCAPE
#define ESCAPED_ZERO AIDB_KEY_ESCAPED_ZERO
#define ESCAPED_END AIDB_KEY_ESCAPED_END

/* How a type is laid out. The number of the integer encodings is their width in bytes. */
typedef enum key_encoding {
	KEY_NONE = 0, /* not a key type */
	KEY_BOOL = 1,
	KEY_INT16 = 2,
	KEY_INT32 = 4,
	KEY_INT64 = 8,
	KEY_UUID = UUID_LEN,
	KEY_BYTES,
} key_encoding;

StaticAssertDecl(UUID_LEN == 16, "the width of a uuid is a part of the format");

static key_encoding encoding_of(Oid type) {
	switch (type) {
	case BOOLOID:
		return KEY_BOOL;
	case INT2OID:
		return KEY_INT16;
	case INT4OID:
	case DATEOID:
		return KEY_INT32;
	case INT8OID:
	case TIMESTAMPOID:
	case TIMESTAMPTZOID:
		return KEY_INT64;
	case UUIDOID:
		return KEY_UUID;
	case TEXTOID:
	case VARCHAROID:
	case BYTEAOID:
		return KEY_BYTES;
	default:
		return KEY_NONE;
	}
}

bool aipg_key_type_supported(Oid type) {
	return encoding_of(type) != KEY_NONE;
}

bool aipg_key_type_ordered(Oid type, Oid collation) {
	if (type == TEXTOID || type == VARCHAROID) {
		return OidIsValid(collation) && lc_collate_is_c(collation);
	}
	return aipg_key_type_supported(type);
}

/* ---- Encoding ------------------------------------------------------------------------------------------- */

static void append_uint16(StringInfo key, uint16 value) {
	value = pg_hton16(value);
	appendBinaryStringInfo(key, (const char *)&value, sizeof(value));
}

static void append_uint32(StringInfo key, uint32 value) {
	value = pg_hton32(value);
	appendBinaryStringInfo(key, (const char *)&value, sizeof(value));
}

static void append_uint64(StringInfo key, uint64 value) {
	value = pg_hton64(value);
	appendBinaryStringInfo(key, (const char *)&value, sizeof(value));
}

static void pg_attribute_noreturn() refuse_length(size_t size) {
	ereport(ERROR, (errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED), errmsg("key is too long for an AiDb table"),
					errdetail("The key takes %zu bytes as stored; the maximum is %u.", size, AIDB_MAX_KEY_BYTES),
					errhint("Make a shorter column, or a digest of the long value, the primary key.")));
}

static void append_bytes(StringInfo key, const char *data, size_t size) {
	const char *end = data + size;

	/* Keeps a value of a gigabyte from being copied before it is refused. */
	if (size > AIDB_MAX_KEY_BYTES) {
		refuse_length((size_t)key->len + size + 2);
	}
	while (data < end) {
		const char *zero = memchr(data, 0, (size_t)(end - data));
		const char *stop = zero ? zero : end;

		appendBinaryStringInfo(key, data, (int)(stop - data));
		if (zero) {
			appendStringInfoChar(key, (char)ESCAPE);
			appendStringInfoChar(key, (char)ESCAPED_ZERO);
			stop++;
		}
		data = stop;
	}
	appendStringInfoChar(key, (char)ESCAPE);
	appendStringInfoChar(key, (char)ESCAPED_END);
}

static void append_varlena(StringInfo key, Datum value) {
	struct varlena *bytes = PG_DETOAST_DATUM_PACKED(value);

	append_bytes(key, VARDATA_ANY(bytes), VARSIZE_ANY_EXHDR(bytes));
	if ((Pointer)bytes != DatumGetPointer(value)) {
		pfree(bytes);
	}
}

void aipg_key_set_slot(char *key, uint16 slot) {
	slot = pg_hton16(slot);
	memcpy(key, &slot, sizeof(slot));
}

void aipg_key_start(StringInfo key, uint16 slot, uint32 index_id) {
	resetStringInfo(key);
	append_uint16(key, slot);
	append_uint32(key, index_id);
}

uint32 aipg_key_index_id(aidb_slice key) {
	uint32 index_id;

	Assert(key.size >= AIPG_KEY_PREFIX_BYTES);
	memcpy(&index_id, (const char *)key.data + sizeof(uint16), sizeof(index_id));
	return pg_ntoh32(index_id);
}

void aipg_key_append(StringInfo key, Oid type, Datum value) {
	switch (encoding_of(type)) {
	case KEY_BOOL:
		appendStringInfoChar(key, DatumGetBool(value) ? 1 : 0);
		break;
	case KEY_INT16:
		append_uint16(key, (uint16)DatumGetInt16(value) ^ (uint16)0x8000);
		break;
	case KEY_INT32:
		append_uint32(key, (uint32)DatumGetInt32(value) ^ (uint32)0x80000000);
		break;
	case KEY_INT64:
		append_uint64(key, (uint64)DatumGetInt64(value) ^ UINT64CONST(0x8000000000000000));
		break;
	case KEY_UUID:
		appendBinaryStringInfo(key, (const char *)DatumGetUUIDP(value)->data, UUID_LEN);
		break;
	case KEY_BYTES:
		append_varlena(key, value);
		break;
	case KEY_NONE:
		elog(ERROR, "type %u is not a key type", type);
	}
	if (key->len > (int)AIDB_MAX_KEY_BYTES) {
		refuse_length((size_t)key->len);
	}
}

bool aipg_key_successor(StringInfo key) {
	while (key->len > 0) {
		unsigned char *last = (unsigned char *)&key->data[key->len - 1];

		if (*last != 0xFF) {
			(*last)++;
			return true;
		}
		key->len--;
		key->data[key->len] = '\0';
	}
	return false;
}

/* ---- Decoding ------------------------------------------------------------------------------------------- */

static void pg_attribute_noreturn() report_malformed(const char *reason) {
	ereport(ERROR, (errcode(ERRCODE_DATA_CORRUPTED), errmsg("malformed key in the AiDb store"),
					errdetail_internal("%s", reason),
					errhint("Restore the table from a backup, or drop it and load it again.")));
}

/* The next `size` bytes of the key. */
static const unsigned char *take(aidb_slice key, size_t *position, size_t size) {
	const unsigned char *data = (const unsigned char *)key.data + *position;

	if (*position > key.size || key.size - *position < size) {
		report_malformed("The key ends within a column.");
	}
	*position += size;
	return data;
}

static uint16 take_uint16(aidb_slice key, size_t *position) {
	uint16 value;

	memcpy(&value, take(key, position, sizeof(value)), sizeof(value));
	return pg_ntoh16(value);
}

static uint32 take_uint32(aidb_slice key, size_t *position) {
	uint32 value;

	memcpy(&value, take(key, position, sizeof(value)), sizeof(value));
	return pg_ntoh32(value);
}

static uint64 take_uint64(aidb_slice key, size_t *position) {
	uint64 value;

	memcpy(&value, take(key, position, sizeof(value)), sizeof(value));
	return pg_ntoh64(value);
}

/*
 * Moves behind the end mark of an escaped value. Returns the bytes it takes without the mark, *zeros of which stand
 * behind an escape.
 */
static size_t pass_bytes(aidb_slice key, size_t *position, size_t *zeros) {
	const unsigned char *data = key.data;
	size_t start = *position;
	size_t here = start;

	*zeros = 0;
	for (;;) {
		const unsigned char *escape = here < key.size ? memchr(data + here, ESCAPE, key.size - here) : NULL;

		if (escape == NULL || (here = (size_t)(escape - data) + 1) >= key.size) {
			report_malformed("A column has no end.");
		}
		if (data[here] == ESCAPED_END) {
			*position = here + 1;
			return here - 1 - start;
		}
		if (data[here] != ESCAPED_ZERO) {
			report_malformed("A column holds an unknown escape.");
		}
		(*zeros)++;
		here++;
	}
}

static Datum read_bytes(aidb_slice key, size_t *position) {
	const char *from = (const char *)key.data + *position;
	size_t zeros;
	size_t size = pass_bytes(key, position, &zeros);
	struct varlena *value = palloc(VARHDRSZ + size - zeros);
	char *to = VARDATA(value);

	SET_VARSIZE(value, VARHDRSZ + size - zeros);
	while (zeros > 0) {
		size_t chunk = (size_t)((const char *)memchr(from, ESCAPE, size) - from) + 1;

		memcpy(to, from, chunk);
		to += chunk;
		from += chunk + 1;
		size -= chunk + 1;
		zeros--;
	}
	memcpy(to, from, size);
	return PointerGetDatum(value);
}

static Datum read_uuid(aidb_slice key, size_t *position) {
	pg_uuid_t *value = palloc(sizeof(pg_uuid_t));

	memcpy(value->data, take(key, position, UUID_LEN), UUID_LEN);
	return UUIDPGetDatum(value);
}

static Datum read_bool(aidb_slice key, size_t *position) {
	unsigned char value = *take(key, position, 1);

	if (value > 1) {
		report_malformed("A boolean is neither true nor false.");
	}
	return BoolGetDatum(value == 1);
}

Datum aipg_key_read(aidb_slice key, size_t *position, Oid type, int32 typmod) {
	(void)typmod; /* what is stored has been through it */
	switch (encoding_of(type)) {
	case KEY_BOOL:
		return read_bool(key, position);
	case KEY_INT16:
		return Int16GetDatum((int16)(take_uint16(key, position) ^ (uint16)0x8000));
	case KEY_INT32:
		return Int32GetDatum((int32)(take_uint32(key, position) ^ (uint32)0x80000000));
	case KEY_INT64:
		return Int64GetDatum((int64)(take_uint64(key, position) ^ UINT64CONST(0x8000000000000000)));
	case KEY_UUID:
		return read_uuid(key, position);
	case KEY_BYTES:
		return read_bytes(key, position);
	case KEY_NONE:
		break;
	}
	elog(ERROR, "type %u is not a key type", type);
}

void aipg_key_skip(aidb_slice key, size_t *position, Oid type) {
	key_encoding encoding = encoding_of(type);
	size_t zeros;

	if (encoding == KEY_BYTES) {
		pass_bytes(key, position, &zeros);
	} else {
		take(key, position, (size_t)encoding);
	}
}
