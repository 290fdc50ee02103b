/* replication/stream_format.h: what is written comes back, and what is cut or changed is refused or harmless. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "replication/stream_format.h"
#include "store_fixture.h"

static const aipg_stream_head head = {.flags = AIPG_STREAM_WINDOW_END,
									  .epoch = 0x0102030405060708,
									  .store_id = UINT64_MAX,
									  .from = 7,
									  .upto = 9,
									  .current = 11,
									  .clock_us = 13,
									  .events = 2};

typedef struct encoded {
	uint8_t bytes[1024];
	size_t size;
} encoded;

static void encode(encoded *to) {
	aidb_batch *batch = aidb_batch_create();
	aidb_slice operations;
	aipg_stream_event event = {.kind = AIPG_EVENT_PREPARED, .sequence = 8, .tag = 99};

	assert_ok(aidb_batch_put(batch, text("key"), text("value")));
	assert_ok(aidb_batch_delete(batch, text("other")));
	operations = aidb_batch_operations(batch);
	event.operations = operations;
	aipg_stream_write_head(to->bytes, &head);
	to->size = AIPG_STREAM_HEAD_BYTES;
	aipg_stream_write_event(to->bytes + to->size, &event);
	to->size += AIPG_STREAM_EVENT_BYTES;
	memcpy(to->bytes + to->size, operations.data, operations.size);
	to->size += operations.size;
	aipg_stream_write_event(to->bytes + to->size,
							&(aipg_stream_event){.kind = AIPG_EVENT_COMMIT, .sequence = 9, .tag = 99});
	to->size += AIPG_STREAM_EVENT_BYTES;
	aidb_batch_destroy(batch);
}

/* All of it, as a replica reads it. */
static bool read_all(aidb_slice bytes, aipg_stream_head *read, aipg_stream_event events[2]) {
	if (!aipg_stream_read_head(&bytes, read) || read->events != 2) {
		return false;
	}
	return aipg_stream_read_event(&bytes, &events[0]) && aipg_stream_read_event(&bytes, &events[1]) && bytes.size == 0;
}

static void a_response_comes_back(void **state) {
	aipg_stream_event events[2];
	aipg_stream_head read;
	aidb_operation operation;
	encoded made;

	(void)state;
	encode(&made);
	assert_true(read_all((aidb_slice){made.bytes, made.size}, &read, events));
	assert_int_equal(read.flags, head.flags);
	assert_true(read.epoch == head.epoch && read.store_id == head.store_id && read.from == head.from);
	assert_true(read.upto == head.upto && read.current == head.current && read.clock_us == head.clock_us);
	assert_int_equal(events[0].kind, AIPG_EVENT_PREPARED);
	assert_int_equal(events[0].sequence, 8);
	assert_int_equal(events[0].tag, 99);
	assert_true(aidb_operation_next(&events[0].operations, &operation));
	assert_memory_equal(operation.value.data, "value", 5);
	assert_int_equal(events[1].kind, AIPG_EVENT_COMMIT);
	assert_int_equal(events[1].operations.size, 0);
}

static void what_is_cut_is_refused(void **state) {
	aipg_stream_event events[2];
	aipg_stream_head read;
	encoded made;

	(void)state;
	encode(&made);
	for (size_t size = 0; size < made.size; size++) {
		uint8_t *copy = malloc(size == 0 ? 1 : size); /* so that reading beyond it is noticed */

		memcpy(copy, made.bytes, size);
		assert_false(read_all((aidb_slice){copy, size}, &read, events));
		free(copy);
	}
}

static void what_makes_no_sense_is_refused(void **state) {
	static const struct {
		size_t offset;
		uint8_t value;
	} changes[] = {{0, 2},
				   {1, 2},
				   {18, 1},
				   {AIPG_STREAM_HEAD_BYTES, 0},
				   {AIPG_STREAM_HEAD_BYTES, 5},
				   {AIPG_STREAM_HEAD_BYTES + 17, 1},
				   {AIPG_STREAM_HEAD_BYTES + 20, 3},
				   {AIPG_STREAM_HEAD_BYTES + AIPG_STREAM_EVENT_BYTES, 77}};
	aipg_stream_event events[2];
	aipg_stream_head read;

	(void)state;
	for (size_t i = 0; i < sizeof(changes) / sizeof(changes[0]); i++) {
		encoded made;

		encode(&made);
		made.bytes[changes[i].offset] = changes[i].value;
		assert_false(read_all((aidb_slice){made.bytes, made.size}, &read, events));
	}
}

int main(void) {
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_response_comes_back),
		cmocka_unit_test(what_is_cut_is_refused),
		cmocka_unit_test(what_makes_no_sense_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
