/* format/record.h: records come back wherever they lie, and nothing else passes for one. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "base/status.h"
#include "format/record.h"
#include "random.h"

#define SEGMENT_BYTES (2 * LSM_LOG_BLOCK_BYTES)
#define RING_BYTES (16 * SEGMENT_BYTES)
#define UNTOUCHED 0xee
#define MAX_RECORDS 4096

static const lsm_log_geometry geometry = {.segment_bytes = SEGMENT_BYTES, .store_id = 0x1122334455667788ull};

/* A log that lies in a ring, as far as `end`. */
typedef struct test_log {
	uint8_t *ring;
	uint64_t ring_bytes;
	uint64_t end;
	aidb_status failure; /* of every read */
	int reads;
} test_log;

static test_log log_create(uint64_t ring_bytes) {
	test_log log = {.ring = malloc(ring_bytes), .ring_bytes = ring_bytes, .end = UINT64_MAX};

	assert_non_null(log.ring);
	memset(log.ring, UNTOUCHED, ring_bytes);
	return log;
}

static uint8_t *log_byte(const test_log *log, uint64_t position) {
	return log->ring + (position & (log->ring_bytes - 1));
}

static aidb_status log_read(void *argument, uint64_t position, uint8_t *data, size_t size, size_t *got) {
	test_log *log = argument;

	log->reads++;
	if (log->failure != AIDB_OK) {
		return lsm_fail(log->failure, "the test's log fails");
	}
	*got = 0;
	while (*got < size && position < log->end) {
		data[(*got)++] = *log_byte(log, position++);
	}
	return AIDB_OK;
}

static lsm_record_reader reader_at(test_log *log, uint64_t position) {
	return (lsm_record_reader){.geometry = geometry, .source = log_read, .source_argument = log, .position = position};
}

static uint64_t log_write(test_log *log, uint64_t position, const void *data, size_t size, size_t head_bytes) {
	aidb_slice head = {data, head_bytes};
	aidb_slice body = {(const uint8_t *)data + head_bytes, size - head_bytes};
	uint64_t end = lsm_record_write(&geometry, log->ring, log->ring_bytes, position, head, body);

	assert_true(end == lsm_record_end(&geometry, position, size));
	return end;
}

static void expect_record(lsm_record_reader *reader, const void *data, size_t size, uint64_t end) {
	aidb_slice payload = {NULL, 0};
	aidb_status status = AIDB_OK;

	assert_int_equal(lsm_record_read(reader, &payload, &status), LSM_RECORD_OK);
	assert_int_equal(payload.size, size);
	assert_memory_equal(payload.data, data, size);
	assert_true(reader->position == end);
}

static void expect_end(lsm_record_reader *reader, uint64_t position) {
	aidb_slice payload = {NULL, 0};
	aidb_status status = AIDB_OK;

	reader->position = position;
	assert_int_equal(lsm_record_read(reader, &payload, &status), LSM_RECORD_END);
	assert_true(reader->position == position);
	assert_int_equal(status, AIDB_OK);
}

/* ---- Where records lie --------------------------------------------------------------------------------- */

static bool may_begin(uint64_t position) {
	return position % SEGMENT_BYTES >= LSM_SEGMENT_HEADER_BYTES &&
		   position % LSM_LOG_BLOCK_BYTES + LSM_FRAGMENT_HEADER_BYTES <= LSM_LOG_BLOCK_BYTES;
}

static void begin_is_the_next_place_with_room(void **state) {
	uint64_t base = 5ull * SEGMENT_BYTES;
	uint64_t expected = base + SEGMENT_BYTES + LSM_SEGMENT_HEADER_BYTES;

	(void)state;
	for (uint64_t position = base + SEGMENT_BYTES; position-- > base;) {
		if (may_begin(position)) {
			expected = position;
		}
		assert_true(lsm_record_begin(&geometry, position) == expected);
	}
}

/* The same, a byte at a time: a header, then data until the block ends. */
static uint64_t slow_end(uint64_t position, uint64_t size) {
	for (;;) {
		while (!may_begin(position)) {
			position++;
		}
		position += LSM_FRAGMENT_HEADER_BYTES;
		while (size > 0 && position % LSM_LOG_BLOCK_BYTES != 0) {
			position++;
			size--;
		}
		if (size == 0) {
			return position;
		}
	}
}

static void end_counts_headers_and_gaps(void **state) {
	test_random random = test_random_seeded("record end");

	(void)state;
	for (int i = 0; i < 2000; i++) {
		uint64_t position =
			test_random_below(&random, 2) == 0
				? test_random_below(&random, 4 * SEGMENT_BYTES)
				: (test_random_below(&random, 8) + 1) * LSM_LOG_BLOCK_BYTES - 30 + test_random_below(&random, 130);
		uint64_t size = test_random_below(&random, 3) == 0 ? test_random_below(&random, 3 * SEGMENT_BYTES)
														   : test_random_below(&random, 100);

		assert_true(lsm_record_end(&geometry, position, size) == slow_end(position, size));
	}
}

/* ---- There and back ------------------------------------------------------------------------------------ */

static size_t random_size(test_random *random) {
	switch (test_random_below(random, 8)) {
	case 0:
		return test_random_below(random, 5 * LSM_LOG_BLOCK_BYTES);
	case 1:
		return LSM_LOG_BLOCK_BYTES - test_random_below(random, 100);
	case 2:
		return 0;
	default:
		return test_random_below(random, 400);
	}
}

/* What lies outside of [from, to), and segment headers inside, must be as it was. */
static void check_untouched(const test_log *log, uint64_t from, uint64_t to) {
	for (uint64_t position = from; position < to; position += SEGMENT_BYTES) {
		uint64_t segment = position - position % SEGMENT_BYTES + SEGMENT_BYTES;

		for (uint64_t i = 0; segment < to && i < LSM_SEGMENT_HEADER_BYTES; i++) {
			assert_int_equal(*log_byte(log, segment + i), UNTOUCHED);
		}
	}
	for (uint64_t position = to; position < from + log->ring_bytes; position++) {
		assert_int_equal(*log_byte(log, position), UNTOUCHED);
	}
}

static void records_come_back(void **state) {
	test_random random = test_random_seeded("records");
	static uint8_t data[5 * LSM_LOG_BLOCK_BYTES + MAX_RECORDS];
	static size_t sizes[MAX_RECORDS];
	static uint64_t ends[MAX_RECORDS];

	(void)state;
	test_random_bytes(&random, data, sizeof(data));
	for (int round = 0; round < 30; round++) {
		test_log log = log_create(RING_BYTES);
		uint64_t start = test_random_next(&random) >> 20;
		uint64_t position = start;
		lsm_record_reader reader = reader_at(&log, start);
		int count = 0;

		for (; count < MAX_RECORDS; count++) {
			sizes[count] = random_size(&random);
			if (lsm_record_end(&geometry, position, sizes[count]) > start + RING_BYTES - SEGMENT_BYTES) {
				break;
			}
			position =
				log_write(&log, position, data + count, sizes[count], test_random_below(&random, sizes[count] + 1));
			ends[count] = position;
		}
		check_untouched(&log, start, position);
		log.end = test_random_below(&random, 2) == 0 ? position : UINT64_MAX;
		for (int i = 0; i < count; i++) {
			expect_record(&reader, data + i, sizes[i], ends[i]);
		}
		expect_end(&reader, position);
		lsm_record_reader_free(&reader);
		free(log.ring);
	}
}

/* Every way in which a record can meet the end of a block and of a segment. */
static void records_meet_every_boundary(void **state) {
	static const uint8_t data[] = "0123456789abcdefghij";
	test_log log = log_create(RING_BYTES);

	(void)state;
	for (uint64_t boundary = LSM_LOG_BLOCK_BYTES; boundary <= SEGMENT_BYTES; boundary += LSM_LOG_BLOCK_BYTES) {
		for (uint64_t left = 0; left <= 40; left++) {
			for (size_t size = 0; size <= 20; size++) {
				uint64_t position = boundary - left;
				lsm_record_reader reader = reader_at(&log, position);
				uint64_t middle = log_write(&log, position, data, size, size / 2);
				uint64_t end = log_write(&log, middle, data, 20 - size, 0);

				expect_record(&reader, data, size, middle);
				expect_record(&reader, data, 20 - size, end);
				lsm_record_reader_free(&reader);
			}
		}
	}
	free(log.ring);
}

static void skipped_tails_are_zeroed(void **state) {
	test_log log = log_create(RING_BYTES);

	(void)state;
	log_write(&log, LSM_LOG_BLOCK_BYTES - 6, "x", 1, 0);
	assert_memory_equal(log.ring + LSM_LOG_BLOCK_BYTES - 6, "\0\0\0\0\0\0", 6);
	assert_int_equal(log.ring[LSM_LOG_BLOCK_BYTES - 7], UNTOUCHED);
	assert_int_equal(log.ring[LSM_LOG_BLOCK_BYTES + 6], LSM_FRAGMENT_FULL);
	free(log.ring);
}

/* A ring of one block, as small as it may be: written and read turn by turn, for many laps. */
static void a_small_ring_wraps(void **state) {
	test_random random = test_random_seeded("ring");
	test_log log = log_create(LSM_LOG_BLOCK_BYTES);
	uint8_t data[3000];
	uint64_t position = 0;
	lsm_record_reader reader = reader_at(&log, 0);

	(void)state;
	test_random_bytes(&random, data, sizeof(data));
	for (int i = 0; i < 3000; i++) {
		size_t size = test_random_below(&random, sizeof(data));

		position = log_write(&log, position, data, size, size / 3);
		log.end = position;
		expect_record(&reader, data, size, position);
		expect_end(&reader, position); /* and the next round reads anew */
	}
	assert_true(position > 50ull * LSM_LOG_BLOCK_BYTES);
	lsm_record_reader_free(&reader);
	free(log.ring);
}

static void a_block_is_read_once(void **state) {
	test_log log = log_create(RING_BYTES);
	lsm_record_reader reader = reader_at(&log, 0);
	uint64_t position = 0;
	uint64_t at = 0;

	(void)state;
	for (int i = 0; i < 1000; i++) {
		position = log_write(&log, position, "payload", 7, 0);
	}
	assert_true(position < LSM_LOG_BLOCK_BYTES);
	for (int i = 0; i < 1000; i++) {
		at = lsm_record_end(&geometry, at, 7);
		expect_record(&reader, "payload", 7, at);
	}
	assert_int_equal(log.reads, 1);
	lsm_record_reader_free(&reader);
	free(log.ring);
}

/* ---- Damage -------------------------------------------------------------------------------------------- */

/* A record that spans a segment's end, preceded and followed by others. */
typedef struct spanning {
	test_log log;
	uint64_t first;
	uint64_t record;
	uint64_t next;
	uint64_t end;
	size_t size;
	uint8_t data[2 * LSM_LOG_BLOCK_BYTES + 500];
} spanning;

static void spanning_write(spanning *log) {
	test_random random = {.state = 99};

	log->log = log_create(RING_BYTES);
	log->first = SEGMENT_BYTES - 300;
	log->size = sizeof(log->data);
	test_random_bytes(&random, log->data, log->size);
	log->record = log_write(&log->log, log->first, "first", 5, 0);
	log->next = log_write(&log->log, log->record, log->data, log->size, LSM_LOG_BLOCK_BYTES / 2);
	log->end = log_write(&log->log, log->next, "next", 4, 0);
}

/* Bytes inside [record, next) that belong to the record: neither a segment header nor a skipped tail. */
static bool belongs(uint64_t position) {
	return position % SEGMENT_BYTES >= LSM_SEGMENT_HEADER_BYTES;
}

/* Each bit in turn of the header at `fragment`, which is part of the record. */
static void flip_header_bits(spanning *log, lsm_record_reader *reader, uint64_t fragment) {
	for (unsigned bit = 0; bit < 8 * LSM_FRAGMENT_HEADER_BYTES; bit++) {
		*log_byte(&log->log, fragment + bit / 8) ^= (uint8_t)(1u << bit % 8);
		expect_end(reader, log->record);
		*log_byte(&log->log, fragment + bit / 8) ^= (uint8_t)(1u << bit % 8);
	}
}

static void every_flipped_byte_ends_the_log(void **state) {
	spanning log;
	lsm_record_reader reader;
	uint64_t step = 1;

	(void)state;
	spanning_write(&log);
	reader = reader_at(&log.log, log.record);
	expect_record(&reader, log.data, log.size, log.next);
	for (uint64_t position = log.record; position < log.next; position += step) {
		uint64_t in_block = position % LSM_LOG_BLOCK_BYTES;

		if (!belongs(position)) {
			continue;
		}
		*log_byte(&log.log, position) ^= (uint8_t)(1u << position % 8);
		expect_end(&reader, log.record);
		*log_byte(&log.log, position) ^= (uint8_t)(1u << position % 8);
		step = in_block > 200 && in_block < LSM_LOG_BLOCK_BYTES - 300 ? 37 : 1; /* long stretches of data: samples */
	}
	flip_header_bits(&log, &reader, log.record);
	flip_header_bits(&log, &reader, SEGMENT_BYTES + LSM_SEGMENT_HEADER_BYTES);
	flip_header_bits(&log, &reader, SEGMENT_BYTES + LSM_LOG_BLOCK_BYTES);
	expect_record(&reader, log.data, log.size, log.next);
	lsm_record_reader_free(&reader);
	free(log.log.ring);
}

static void every_truncation_ends_the_log(void **state) {
	spanning log;
	lsm_record_reader reader;

	(void)state;
	spanning_write(&log);
	reader = reader_at(&log.log, log.record);
	for (log.log.end = log.record; log.log.end < log.next; log.log.end += log.log.end % 1000 < 900 ? 13 : 1) {
		expect_end(&reader, log.record);
	}
	for (log.log.end = log.next - 200; log.log.end < log.next; log.log.end++) {
		expect_end(&reader, log.record);
	}
	expect_record(&reader, log.data, log.size, log.next);
	for (log.log.end = log.next; log.log.end < log.end; log.log.end++) {
		expect_end(&reader, log.next);
	}
	expect_record(&reader, "next", 4, log.end);
	lsm_record_reader_free(&reader);
	free(log.log.ring);
}

static void zeroes_and_nothing_end_the_log(void **state) {
	test_log log = log_create(RING_BYTES);
	lsm_record_reader reader = reader_at(&log, 0);

	(void)state;
	memset(log.ring, 0, log.ring_bytes);
	expect_end(&reader, 0);
	expect_end(&reader, 12345);
	expect_end(&reader, LSM_LOG_BLOCK_BYTES - 3);
	log.end = 0;
	expect_end(&reader, 0);
	lsm_record_reader_free(&reader);
	free(log.ring);
}

/* A chain must begin with its first fragment and go on with its own. */
static void fragments_out_of_order_end_the_log(void **state) {
	spanning log;
	lsm_record_reader reader;
	uint64_t second = SEGMENT_BYTES + LSM_SEGMENT_HEADER_BYTES;

	(void)state;
	spanning_write(&log);
	reader = reader_at(&log.log, second);
	assert_int_equal(*log_byte(&log.log, second + 6), LSM_FRAGMENT_MIDDLE);
	expect_end(&reader, second);
	log_write(&log.log, second, "full", 4, 0);
	expect_end(&reader, log.record);
	log_write(&log.log, second, log.data, LSM_LOG_BLOCK_BYTES, 0);
	assert_int_equal(*log_byte(&log.log, second + 6), LSM_FRAGMENT_FIRST);
	expect_end(&reader, log.record);
	lsm_record_reader_free(&reader);
	free(log.log.ring);
}

static uint64_t fill_lap(test_log *log, test_random *random, uint64_t lap, uint64_t bytes, uint64_t *begins,
						 int *count) {
	static const uint8_t data[2 * SEGMENT_BYTES] = "the same in every lap";
	uint64_t position = lap * log->ring_bytes;
	uint64_t limit = position + bytes;

	for (*count = 0; *count < MAX_RECORDS; (*count)++) {
		size_t size = (200 + random_size(random)) % sizeof(data);

		if (lsm_record_end(&geometry, position, size) > limit) {
			break;
		}
		begins[*count] = lsm_record_begin(&geometry, position);
		position = log_write(log, position, data, size, 0);
	}
	return position;
}

/* The ring stands for files that are used again: a later lap's positions, an earlier lap's bytes. */
static void recycled_segments_never_replay(void **state) {
	test_random random = test_random_seeded("recycled");
	static uint64_t begins[MAX_RECORDS];
	static uint64_t unused[MAX_RECORDS];
	int new_count;
	int count;

	(void)state;
	for (int round = 0; round < 20; round++) {
		test_log log = log_create(RING_BYTES);
		uint64_t lap = test_random_below(&random, 1000);
		lsm_record_reader reader;
		aidb_slice payload;
		aidb_status status = AIDB_OK;
		uint64_t end;

		fill_lap(&log, &random, lap, RING_BYTES, begins, &count);
		end = fill_lap(&log, &random, lap + 1, RING_BYTES / 2, unused, &new_count);
		reader = reader_at(&log, (lap + 1) * RING_BYTES);
		for (int i = 0; i < new_count; i++) {
			assert_int_equal(lsm_record_read(&reader, &payload, &status), LSM_RECORD_OK);
		}
		assert_true(reader.position == end);
		expect_end(&reader, end);
		assert_int_equal(lsm_record_resync(&reader, end, (lap + 2) * RING_BYTES, &status), LSM_RECORD_END);
		for (int i = 0; i < count; i++) {
			if (begins[i] + RING_BYTES >= end) {
				expect_end(&reader, begins[i] + RING_BYTES);
			}
		}
		lsm_record_reader_free(&reader);
		free(log.ring);
	}
}

static void records_of_another_store_are_refused(void **state) {
	spanning log;
	lsm_record_reader reader;

	(void)state;
	spanning_write(&log);
	reader = reader_at(&log.log, log.first);
	reader.geometry.store_id++;
	expect_end(&reader, log.first);
	expect_end(&reader, log.record);
	lsm_record_reader_free(&reader);
	free(log.log.ring);
}

static void errors_of_the_source_are_handed_on(void **state) {
	spanning log;
	lsm_record_reader reader;
	aidb_slice payload;
	aidb_status status = AIDB_OK;

	(void)state;
	spanning_write(&log);
	reader = reader_at(&log.log, log.record);
	log.log.failure = AIDB_IO;
	assert_int_equal(lsm_record_read(&reader, &payload, &status), LSM_RECORD_ERROR);
	assert_int_equal(status, AIDB_IO);
	assert_true(reader.position == log.record);
	assert_int_equal(lsm_record_resync(&reader, log.record, log.end, &status), LSM_RECORD_ERROR);
	assert_true(reader.position == log.record);
	log.log.failure = AIDB_OK;
	expect_record(&reader, log.data, log.size, log.next);
	lsm_record_reader_free(&reader);
	free(log.log.ring);
}

/* ---- Resynchronising ----------------------------------------------------------------------------------- */

static void resync_finds_what_lies_behind_damage(void **state) {
	spanning log;
	lsm_record_reader reader;
	aidb_status status = AIDB_OK;

	(void)state;
	spanning_write(&log);
	reader = reader_at(&log.log, log.first);
	*log_byte(&log.log, log.first + 8) ^= 1;
	expect_end(&reader, log.first);
	/* the record that follows in the same block */
	assert_int_equal(lsm_record_resync(&reader, log.first, log.end, &status), LSM_RECORD_OK);
	assert_true(lsm_record_begin(&geometry, log.record) == reader.position);
	expect_record(&reader, log.data, log.size, log.next);
	/* that one damaged in its last fragment, too: the next, in the damaged fragment's block */
	*log_byte(&log.log, log.next - 1) ^= 1;
	assert_int_equal(lsm_record_resync(&reader, log.first, log.end, &status), LSM_RECORD_OK);
	assert_true(lsm_record_begin(&geometry, log.next) == reader.position);
	expect_record(&reader, "next", 4, log.end);
	/* nothing begins below the limit */
	reader.position = log.first;
	assert_int_equal(lsm_record_resync(&reader, log.first, log.next, &status), LSM_RECORD_END);
	assert_true(reader.position == log.first);
	/* the damage is the last thing in the log */
	*log_byte(&log.log, log.next + 8) ^= 1;
	assert_int_equal(lsm_record_resync(&reader, log.first, log.first + RING_BYTES / 2, &status), LSM_RECORD_END);
	assert_true(reader.position == log.first);
	lsm_record_reader_free(&reader);
	free(log.log.ring);
}

static void resync_goes_on_in_later_blocks(void **state) {
	test_log log = log_create(RING_BYTES);
	lsm_record_reader reader = reader_at(&log, 0);
	uint64_t position = 0;
	uint64_t later = 0;
	aidb_status status = AIDB_OK;

	(void)state;
	while (position < 5ull * LSM_LOG_BLOCK_BYTES) {
		if (later == 0 && lsm_record_begin(&geometry, position) >= 3ull * LSM_LOG_BLOCK_BYTES) {
			later = lsm_record_begin(&geometry, position);
		}
		position = log_write(&log, position, "some payload of a record", 24, 0);
	}
	log.end = position;
	for (uint64_t block = 0; block < 3; block++) {
		uint64_t first = lsm_record_begin(&geometry, block * LSM_LOG_BLOCK_BYTES);

		memset(log_byte(&log, first), 0x5a, LSM_LOG_BLOCK_BYTES - first % LSM_LOG_BLOCK_BYTES);
	}
	expect_end(&reader, 0);
	assert_int_equal(lsm_record_resync(&reader, 0, position, &status), LSM_RECORD_OK);
	assert_true(reader.position == later);
	assert_true(log.reads < 20);
	/* a limit far beyond what the log has costs nothing */
	log.end = LSM_LOG_BLOCK_BYTES;
	assert_int_equal(lsm_record_resync(&reader, 0, UINT64_MAX / 2, &status), LSM_RECORD_END);
	lsm_record_reader_free(&reader);
	free(log.ring);
}

int main(void) {
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(begin_is_the_next_place_with_room),
		cmocka_unit_test(end_counts_headers_and_gaps),
		cmocka_unit_test(records_come_back),
		cmocka_unit_test(records_meet_every_boundary),
		cmocka_unit_test(skipped_tails_are_zeroed),
		cmocka_unit_test(a_small_ring_wraps),
		cmocka_unit_test(a_block_is_read_once),
		cmocka_unit_test(every_flipped_byte_ends_the_log),
		cmocka_unit_test(every_truncation_ends_the_log),
		cmocka_unit_test(zeroes_and_nothing_end_the_log),
		cmocka_unit_test(fragments_out_of_order_end_the_log),
		cmocka_unit_test(recycled_segments_never_replay),
		cmocka_unit_test(records_of_another_store_are_refused),
		cmocka_unit_test(errors_of_the_source_are_handed_on),
		cmocka_unit_test(resync_finds_what_lies_behind_damage),
		cmocka_unit_test(resync_goes_on_in_later_blocks),
	};

	return cmocka_run_group_tests_name("record", tests, NULL, NULL);
}
