/* A backup's manifest: any text, also with a checksum that fits. */
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backup/manifest.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void read_text(const char *text, size_t size) {
	aidb_manifest manifest, again;
	char *written;
	size_t written_bytes;

	if (aidb_manifest_read("fuzz", text, size, &manifest) != AIDB_OK) {
		return;
	}
	/* what is good is written as something that is good */
	if (aidb_manifest_write(&manifest, &written, &written_bytes) == AIDB_OK) {
		if (aidb_manifest_read("fuzz", written, written_bytes, &again) != AIDB_OK) {
			abort();
		}
		aidb_manifest_free(&again);
		free(written);
	}
	aidb_manifest_free(&manifest);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
	char *sealed = malloc(size + AIDB_HASH_TEXT + 8), hash[AIDB_HASH_TEXT];

	if (sealed == NULL) {
		return 0;
	}
	memcpy(sealed, data, size);
	read_text(sealed, size);
	aidb_hash_of(data, size, hash);
	read_text(sealed, size + (size_t)sprintf(sealed + size, "sha256 %s\n", hash));
	free(sealed);
	return 0;
}
