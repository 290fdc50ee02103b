#include "base/buffer.h"

#include <stdlib.h>
#include <string.h>

#include "base/status.h"

aidb_status lsm_buffer_reserve(aidb_buffer *buffer, size_t size) {
	size_t capacity = buffer->capacity < 64 ? 64 : buffer->capacity;
	char *data;

	if (size <= buffer->capacity) {
		return AIDB_OK;
	}
	while (capacity < size) {
		capacity *= 2;
	}
	data = realloc(buffer->data, capacity);
	if (data == NULL) {
		return lsm_fail(AIDB_NO_MEMORY, "out of memory: could not allocate %zu bytes", capacity);
	}
	buffer->data = data;
	buffer->capacity = capacity;
	return AIDB_OK;
}

aidb_status lsm_buffer_append(aidb_buffer *buffer, const void *data, size_t size) {
	aidb_status rc = lsm_buffer_reserve(buffer, buffer->size + size);

	if (rc == AIDB_OK && size > 0) {
		memcpy(buffer->data + buffer->size, data, size);
		buffer->size += size;
	}
	return rc;
}

aidb_status lsm_buffer_set(aidb_buffer *buffer, const void *data, size_t size) {
	aidb_status rc = lsm_buffer_reserve(buffer, size);

	if (rc == AIDB_OK) {
		if (size > 0) {
			memcpy(buffer->data, data, size);
		}
		buffer->size = size;
	}
	return rc;
}

aidb_status aidb_buffer_set(aidb_buffer *buffer, aidb_slice contents) {
	return lsm_buffer_set(buffer, contents.data, contents.size);
}

void aidb_buffer_free(aidb_buffer *buffer) {
	free(buffer->data);
	*buffer = (aidb_buffer){NULL, 0, 0};
}
