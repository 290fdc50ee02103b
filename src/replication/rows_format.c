#include "replication/rows_format.h"

static uint64_t read_number(const uint8_t *from, size_t size) {
	uint64_t number = 0;

	for (size_t i = 0; i < size; i++) {
		number = number << 8 | from[i];
	}
	return number;
}

static void write_number(uint8_t *to, uint64_t number, size_t size) {
	for (size_t i = 0; i < size; i++) {
		to[i] = (uint8_t)(number >> 8 * (size - 1 - i));
	}
}

/* NULL: there are not so many bytes. */
static const uint8_t *take(aidb_slice *bytes, size_t size) {
	const uint8_t *data = bytes->data;

	if (bytes->size < size) {
		return NULL;
	}
	*bytes = (aidb_slice){data + size, bytes->size - size};
	return data;
}

void aipg_rows_write_length(uint8_t to[AIPG_LENGTH_BYTES], uint32_t length) {
	write_number(to, length, AIPG_LENGTH_BYTES);
}

void aipg_rows_write_sequence(uint8_t to[AIPG_SEQUENCE_BYTES], uint64_t sequence) {
	write_number(to, sequence, AIPG_SEQUENCE_BYTES);
}

bool aipg_rows_read_sequence(aidb_slice *bytes, uint64_t *sequence) {
	const uint8_t *from = take(bytes, AIPG_SEQUENCE_BYTES);

	if (from == NULL) {
		return false;
	}
	*sequence = read_number(from, AIPG_SEQUENCE_BYTES);
	return true;
}

bool aipg_rows_read_byte(aidb_slice *bytes, uint8_t *byte) {
	const uint8_t *from = take(bytes, 1);

	if (from == NULL) {
		return false;
	}
	*byte = *from;
	return true;
}

bool aipg_rows_read_string(aidb_slice *bytes, aidb_slice *string) {
	const uint8_t *from = take(bytes, AIPG_LENGTH_BYTES);
	uint32_t length;

	if (from == NULL) {
		return false;
	}
	length = (uint32_t)read_number(from, AIPG_LENGTH_BYTES);
	if (length == AIPG_NO_ROW) {
		*string = (aidb_slice){NULL, 0};
		return true;
	}
	from = take(bytes, length);
	*string = (aidb_slice){from, length};
	return from != NULL;
}
