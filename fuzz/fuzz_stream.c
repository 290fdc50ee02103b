/* What a primary answers to a replica: any bytes. */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "replication/stream_format.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
	aidb_slice left = {data, size};
	aipg_stream_head head;
	aipg_stream_event event;
	uint64_t sum = 0;

	if (aipg_stream_read_head(&left, &head)) {
		for (uint32_t i = 0; i < head.events && aipg_stream_read_event(&left, &event); i++) {
			aidb_operation operation;

			while (aidb_operation_next(&event.operations, &operation)) {
				for (size_t at = 0; at < operation.bytes.size; at++) {
					sum += ((const uint8_t *)operation.bytes.data)[at];
				}
			}
		}
	}
	return sum == UINT64_MAX; /* so that the bytes are read */
}
