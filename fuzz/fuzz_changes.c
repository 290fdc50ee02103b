/* What the mover of slots takes from a primary's stream: any bytes, twice, and any snapshot. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "scaling/changes.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void take(aidb_changes *changes, const uint8_t *data, size_t size) {
	aidb_slice operations;
	uint64_t sum = 0;

	if (aidb_changes_take(changes, (aidb_slice){data, size}) == AIDB_OK) {
		while (aidb_changes_next(changes, NULL, &operations)) {
			for (size_t at = 0; at < operations.size; at++) {
				sum += ((const uint8_t *)operations.data)[at];
			}
		}
	}
	if (sum == UINT64_MAX) {
		abort();
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
	static aidb_seen seen;
	aidb_changes changes = {.read = 0};
	char *text = malloc(size + 1);

	memset(&changes.slots, 0xFF, sizeof(changes.slots));
	if (size >= 30) {
		for (int i = 0; i < 8; i++) { /* where the stream is: that which the head says */
			changes.read = changes.read << 8 | data[18 + i];
		}
	}
	take(&changes, data, size);
	take(&changes, data, size);
	aidb_changes_free(&changes);
	if (text != NULL) {
		memcpy(text, data, size);
		text[size] = '\0';
		(void)aidb_seen_read(&seen, text);
		free(text);
	}
	return 0;
}
