#include "db/batch.h"

#include <stdlib.h>

#include "base/status.h"

aidb_batch *aidb_batch_create(void) {
	aidb_batch *batch = calloc(1, sizeof(*batch));

	if (batch == NULL) {
		lsm_fail(AIDB_NO_MEMORY, "out of memory: could not create a batch");
	}
	return batch;
}

void aidb_batch_destroy(aidb_batch *batch) {
	if (batch != NULL) {
		aidb_buffer_free(&batch->operations);
		free(batch);
	}
}

void aidb_batch_clear(aidb_batch *batch) {
	batch->operations.size = 0;
	batch->count = 0;
	batch->bytes = 0;
	batch->error = AIDB_OK;
}

uint32_t aidb_batch_count(const aidb_batch *batch) {
	return batch->count;
}

size_t aidb_batch_bytes(const aidb_batch *batch) {
	return batch->bytes;
}

/* A batch that lost an operation must not be committed without it. */
static aidb_status refuse(aidb_batch *batch, aidb_status error) {
	batch->error = error;
	return error;
}

static aidb_status add(aidb_batch *batch, unsigned kind, aidb_slice key, aidb_slice value) {
	aidb_buffer *operations = &batch->operations;
	size_t most = 1 + LSM_MAX_VARINT64 + key.size + LSM_MAX_VARINT64 + value.size;
	uint8_t *at;

	if (key.size > AIDB_MAX_KEY_BYTES) {
		return refuse(batch, lsm_fail(AIDB_LIMIT, "a key has %zu bytes, more than the limit of %u", key.size,
									  AIDB_MAX_KEY_BYTES));
	}
	if (value.size > UINT32_MAX - LSM_TAG_BYTES || batch->count == UINT32_MAX) {
		return refuse(batch,
					  lsm_fail(AIDB_LIMIT, "a value of %zu bytes or a batch of that many operations is not supported",
							   value.size));
	}
	if (lsm_buffer_reserve(operations, operations->size + most) != AIDB_OK) {
		return refuse(batch, AIDB_NO_MEMORY);
	}
	at = (uint8_t *)operations->data + operations->size;
	*at++ = (uint8_t)kind;
	at = lsm_put_varint(at, key.size);
	if (key.size > 0) {
		memcpy(at, key.data, key.size);
		at += key.size;
	}
	if (kind != LSM_KIND_DELETE) {
		at = lsm_put_varint(at, value.size);
		if (value.size > 0) {
			memcpy(at, value.data, value.size);
			at += value.size;
		}
	}
	operations->size = (size_t)(at - (uint8_t *)operations->data);
	batch->count++;
	batch->bytes += key.size + value.size + AIDB_BATCH_OPERATION_BYTES;
	return AIDB_OK;
}

aidb_status aidb_batch_put(aidb_batch *batch, aidb_slice key, aidb_slice value) {
	return add(batch, LSM_KIND_PUT, key, value);
}

aidb_status aidb_batch_delete(aidb_batch *batch, aidb_slice key) {
	return add(batch, LSM_KIND_DELETE, key, (aidb_slice){NULL, 0});
}

aidb_status aidb_batch_delete_noted(aidb_batch *batch, aidb_slice key, aidb_slice note) {
	return add(batch, LSM_KIND_DELETE_NOTED, key, note);
}

aidb_slice aidb_batch_operations(const aidb_batch *batch) {
	return (aidb_slice){batch->operations.data, batch->operations.size};
}

aidb_status aidb_batch_add(aidb_batch *batch, const aidb_operation *operation) {
	if (operation->kind == AIDB_OPERATION_PUT) {
		return aidb_batch_put(batch, operation->key, operation->value);
	}
	return operation->value.size > 0 ? aidb_batch_delete_noted(batch, operation->key, operation->value)
									 : aidb_batch_delete(batch, operation->key);
}

bool aidb_operation_next(aidb_slice *operations, aidb_operation *operation) {
	lsm_reader reader = lsm_reader_of(operations->data, operations->size);
	lsm_entry entry;

	if (operations->size == 0 || !lsm_read_operation(&reader, &entry)) {
		return false;
	}
	operation->kind = lsm_kind_of(entry.trailer) == LSM_KIND_PUT ? AIDB_OPERATION_PUT : AIDB_OPERATION_DELETE;
	operation->key = entry.key;
	operation->value = entry.value;
	operation->bytes = (aidb_slice){operations->data, operations->size - lsm_reader_left(&reader)};
	*operations = (aidb_slice){reader.at, lsm_reader_left(&reader)};
	return true;
}

bool lsm_read_operation(lsm_reader *reader, lsm_entry *entry) {
	uint8_t kind = lsm_read_u8(reader);
	aidb_slice key = lsm_read_slice(reader);
	aidb_slice value = {NULL, 0};

	if (kind != LSM_KIND_DELETE) {
		value = lsm_read_slice(reader);
	}
	if (reader->failed || (kind & LSM_KIND_TAGGED) != 0 || !lsm_kind_is_valid(kind) || key.size > AIDB_MAX_KEY_BYTES) {
		return false;
	}
	*entry = (lsm_entry){key, kind, value};
	return true;
}
