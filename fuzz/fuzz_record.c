/*
 * Log records: the input as a log that is read and resynchronised, as it is; then as a plan: records of lengths that it
 * gives are written from a position that it gives, bytes that it names are damaged, and what is read must be a prefix
 * of what was written.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include "format/record.h"

#define SEGMENT_BYTES (2ull * LSM_LOG_BLOCK_BYTES)
#define RING_BYTES (2ull * SEGMENT_BYTES)
#define MAX_RECORDS 32

static const lsm_log_geometry geometry = {.segment_bytes = SEGMENT_BYTES, .store_id = 42};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Log bytes [begin, begin + size) lie at data, or in a ring when mask is not 0. */
typedef struct log_bytes {
	const uint8_t *data;
	uint64_t begin;
	uint64_t size;
	uint64_t mask;
} log_bytes;

static aidb_status read_bytes(void *argument, uint64_t position, uint8_t *to, size_t size, size_t *got) {
	const log_bytes *bytes = argument;

	*got = 0;
	while (*got < size && position >= bytes->begin && position - bytes->begin < bytes->size) {
		uint64_t at = bytes->mask == 0 ? position - bytes->begin : position & bytes->mask;
		uint64_t run = bytes->mask == 0 ? bytes->size - at : bytes->mask + 1 - at;

		run = run < size - *got ? run : size - *got;
		run = run < bytes->size - (position - bytes->begin) ? run : bytes->size - (position - bytes->begin);
		memcpy(to + *got, bytes->data + at, run);
		*got += run;
		position += run;
	}
	return AIDB_OK;
}

static lsm_record_reader reader_of(log_bytes *bytes, uint64_t position) {
	return (lsm_record_reader){
		.geometry = geometry, .source = read_bytes, .source_argument = bytes, .position = position};
}

static void read_raw(const uint8_t *data, size_t size, uint64_t begin) {
	log_bytes bytes = {.data = data, .begin = begin, .size = size};
	lsm_record_reader reader = reader_of(&bytes, begin);
	aidb_slice payload;
	aidb_status status;

	while (lsm_record_read(&reader, &payload, &status) == LSM_RECORD_OK) {
		if (reader.position > begin + size) {
			abort();
		}
	}
	lsm_record_resync(&reader, reader.position, begin + size, &status);
	lsm_record_reader_free(&reader);
}

/* A plan's records: all payloads are prefixes of one pattern. */
typedef struct log_plan {
	uint8_t ring[RING_BYTES];
	uint8_t pattern[1u << 17];
	uint64_t begin;
	uint64_t ends[MAX_RECORDS];
	size_t sizes[MAX_RECORDS];
	int count;
} log_plan;

static void write_records(log_plan *plan, lsm_reader *input) {
	uint64_t position = plan->begin;

	for (plan->count = 0; plan->count < MAX_RECORDS && lsm_read_u8(input) % 8 != 0; plan->count++) {
		size_t size = lsm_read_u32(input) % sizeof(plan->pattern);
		size_t head_bytes = size / 3;
		uint64_t end = lsm_record_end(&geometry, position, size);

		if (input->failed || end - plan->begin > RING_BYTES) {
			break;
		}
		position =
			lsm_record_write(&geometry, plan->ring, RING_BYTES, position, (aidb_slice){plan->pattern, head_bytes},
							 (aidb_slice){plan->pattern + head_bytes, size - head_bytes});
		if (position != end) {
			abort();
		}
		plan->ends[plan->count] = position;
		plan->sizes[plan->count] = size;
	}
}

/* Returns the lowest position that was changed. */
static uint64_t damage(log_plan *plan, lsm_reader *input) {
	uint64_t lowest = UINT64_MAX;

	while (lsm_reader_left(input) >= 5) {
		uint64_t position = plan->begin + lsm_read_u32(input) % RING_BYTES;
		uint8_t flip = lsm_read_u8(input);

		plan->ring[position & (RING_BYTES - 1)] ^= flip;
		if (flip != 0 && position < lowest) {
			lowest = position;
		}
	}
	return lowest;
}

/* Every record that ends before the damage must be there, and no record may be there that was not written. */
static void read_records(log_plan *plan, uint64_t damaged) {
	log_bytes bytes = {.data = plan->ring, .begin = plan->begin, .size = RING_BYTES, .mask = RING_BYTES - 1};
	lsm_record_reader reader = reader_of(&bytes, plan->begin);
	aidb_slice payload;
	aidb_status status;
	int found = 0;

	while (lsm_record_read(&reader, &payload, &status) == LSM_RECORD_OK) {
		if (found == plan->count || reader.position != plan->ends[found] || payload.size != plan->sizes[found] ||
			memcmp(payload.data, plan->pattern, payload.size) != 0) {
			abort();
		}
		found++;
	}
	if (found < plan->count && plan->ends[found] <= damaged) {
		abort();
	}
	lsm_record_resync(&reader, reader.position, plan->begin + RING_BYTES, &status);
	lsm_record_reader_free(&reader);
}

static log_plan *create_plan(void) {
	log_plan *created = calloc(1, sizeof(*created));

	if (created == NULL) {
		abort();
	}
	for (size_t i = 0; i < sizeof(created->pattern); i++) {
		created->pattern[i] = (uint8_t)(i * 7 + (i >> 8));
	}
	return created;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
	static log_plan *plan;
	lsm_reader input = lsm_reader_of(data, size);
	uint64_t begin = lsm_read_u32(&input);

	read_raw(data, size, begin);
	if (plan == NULL) {
		plan = create_plan();
	}
	memset(plan->ring, 0, sizeof(plan->ring));
	plan->begin = begin;
	write_records(plan, &input);
	read_records(plan, damage(plan, &input));
	return 0;
}
