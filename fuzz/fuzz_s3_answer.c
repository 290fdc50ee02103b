/* What an S3 service answers: any bytes. */
#include <stddef.h>
#include <stdint.h>

#include "object_store/s3_answer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static aidb_status each(void *argument, const char *name, uint64_t bytes) {
	*(uint64_t *)argument += bytes + (uint8_t)name[0];
	return AIDB_OK;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
	char text[64];
	uint64_t sum = 0;

	(void)aidb_s3_listing((const char *)data, size, each, &sum, text, sizeof(text));
	(void)aidb_s3_error((const char *)data, size, text, sizeof(text));
	(void)aidb_s3_upload_id((const char *)data, size, text, sizeof(text));
	return 0;
}
