#include <inttypes.h>

#include "base/status.h"
#include "format/record.h"

#define MIB (1ull << 20)

void aidb_options_init(aidb_options *options) {
	*options = (aidb_options){0};
}

static uint64_t clamp(uint64_t value, uint64_t low, uint64_t high) {
	return value < low ? low : value > high ? high : value;
}

static uint64_t power_of_two_below(uint64_t value) {
	uint64_t power = 1;

	while (power <= value / 2) {
		power *= 2;
	}
	return power;
}

static void fill_defaults(aidb_options *options) {
	if (options->memory_bytes == 0) {
		options->memory_bytes = options->write_buffer_bytes == 0 ? 256 * MIB : options->write_buffer_bytes * 8;
	}
	if (options->write_buffer_bytes == 0) {
		options->write_buffer_bytes = options->memory_bytes / 8;
	}
	if (options->members == 0) {
		options->members = 128;
	}
	if (options->log_segment_bytes == 0) {
		options->log_segment_bytes = (uint32_t)clamp(power_of_two_below(options->memory_bytes / 16), MIB, 16 * MIB);
	}
	if (options->file_bytes == 0) {
		options->file_bytes = clamp(options->memory_bytes / 8, 2 * MIB, 32 * MIB);
	}
	if (options->pin_limit_bytes == 0) {
		options->pin_limit_bytes = 1024 * MIB;
	}
	if (options->filter_bits == 0) {
		options->filter_bits = 10;
	}
	if (!options->compression_set) {
		options->compression_default = AIDB_COMPRESSION_SNAPPY;
		options->compression_set = true;
	}
}

static aidb_status out_of_range(const char *option, uint64_t value, uint64_t low, uint64_t high) {
	return lsm_fail(AIDB_INVALID, "option %s is %" PRIu64 ", outside of %" PRIu64 " to %" PRIu64, option, value, low,
					high);
}

aidb_status aidb_options_resolve(aidb_options *options) {
	aidb_options filled = *options;

	fill_defaults(&filled);
	if (filled.memory_bytes < AIDB_MIN_MEMORY_BYTES || filled.memory_bytes > AIDB_MAX_MEMORY_BYTES) {
		return out_of_range("memory_bytes", filled.memory_bytes, AIDB_MIN_MEMORY_BYTES, AIDB_MAX_MEMORY_BYTES);
	}
	if (filled.write_buffer_bytes < MIB || filled.write_buffer_bytes > filled.memory_bytes / 5) {
		return out_of_range("write_buffer_bytes", filled.write_buffer_bytes, MIB, filled.memory_bytes / 5);
	}
	if (filled.members > 65536) {
		return out_of_range("members", filled.members, 1, 65536);
	}
	if (filled.log_segment_bytes < 2 * LSM_LOG_BLOCK_BYTES ||
		(filled.log_segment_bytes & (filled.log_segment_bytes - 1)) != 0) {
		return lsm_fail(AIDB_INVALID, "option log_segment_bytes is %" PRIu32 ", not a power of two of at least %u",
						filled.log_segment_bytes, 2 * LSM_LOG_BLOCK_BYTES);
	}
	if (filled.file_bytes < 65536 || filled.file_bytes > 1024 * MIB) {
		return out_of_range("file_bytes", filled.file_bytes, 65536, 1024 * MIB);
	}
	if (filled.filter_bits > 20) {
		return out_of_range("filter_bits", filled.filter_bits, 1, 20);
	}
	if (filled.compression_default != AIDB_COMPRESSION_NONE && filled.compression_default != AIDB_COMPRESSION_SNAPPY) {
		return lsm_fail(AIDB_INVALID, "option compression_default is %d, which names no compression",
						(int)filled.compression_default);
	}
	filled.write_buffer_bytes &= ~(uint64_t)4095;
	*options = filled;
	return AIDB_OK;
}
