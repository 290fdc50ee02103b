/* What a primary answers to a caching read node, and what that asks: any bytes. */
#include <stddef.h>
#include <stdint.h>

#include "replication/rows_format.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
	aidb_slice left = {data, size}, string;
	uint64_t sum = 0;
	uint8_t more;

	if (aipg_rows_read_sequence(&left, &sum) && aipg_rows_read_byte(&left, &more)) {
		while (aipg_rows_read_string(&left, &string)) {
			for (size_t at = 0; at < string.size; at++) {
				sum += ((const uint8_t *)string.data)[at];
			}
		}
	}
	return sum == UINT64_MAX; /* so that the bytes are read */
}
