#include "client/bytes_array.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define BYTEA_OID 17
#define HEADER_BYTES 20 /* dimensions, flags, type of elements, length, lower bound: 4 each */
#define LENGTH_AT 12
#define MAX_BYTES ((size_t)1 << 30)

static void put_number(char *to, uint32_t number) {
	for (int i = 0; i < 4; i++) {
		to[i] = (char)(number >> (24 - 8 * i));
	}
}

static bool make_room(aidb_bytes_array *self, size_t more) {
	size_t room = self->room > 0 ? self->room : 256;
	char *grown;

	if (more > MAX_BYTES - self->size) {
		return false;
	}
	while (room < self->size + more) {
		room *= 2;
	}
	if (room == self->room) {
		return true;
	}
	grown = realloc(self->data, room);
	if (grown == NULL) {
		return false;
	}
	self->data = grown;
	self->room = room;
	return true;
}

bool aidb_bytes_array_begin(aidb_bytes_array *self) {
	static const uint32_t header[] = {1, 0, BYTEA_OID, 0, 1};

	self->size = 0;
	self->count = 0;
	if (!make_room(self, HEADER_BYTES)) {
		return false;
	}
	for (size_t i = 0; i < sizeof(header) / sizeof(header[0]); i++) {
		put_number(self->data + 4 * i, header[i]);
	}
	self->size = HEADER_BYTES;
	return true;
}

bool aidb_bytes_array_add(aidb_bytes_array *self, const void *data, size_t size) {
	if (size > MAX_BYTES || !make_room(self, size + 4)) {
		return false;
	}
	put_number(self->data + self->size, (uint32_t)size);
	if (size > 0) {
		memcpy(self->data + self->size + 4, data, size);
	}
	self->size += size + 4;
	self->count++;
	return true;
}

void aidb_bytes_array_end(aidb_bytes_array *self) {
	put_number(self->data + LENGTH_AT, (uint32_t)self->count);
}

void aidb_bytes_array_free(aidb_bytes_array *self) {
	free(self->data);
	*self = (aidb_bytes_array){0};
}
