#include "object_store/failure.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define TEXT_BYTES 2048

static _Thread_local char last[TEXT_BYTES];

aidb_status aidb_fail(aidb_status status, const char *format, ...) {
	char text[TEXT_BYTES]; /* an argument may be the last text */
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(text, sizeof(text), format, arguments);
	va_end(arguments);
	memcpy(last, text, sizeof(last));
	return status;
}

aidb_status aidb_fail_errno(int error, const char *what, const char *path) {
	aidb_status status = error == ENOENT                      ? AIDB_NOT_FOUND
						 : error == EEXIST                    ? AIDB_EXISTS
						 : error == ENOMEM                    ? AIDB_NO_MEMORY
						 : error == ENOSPC || error == EDQUOT ? AIDB_NO_SPACE
															  : AIDB_IO;

	return aidb_fail(status, "cannot %s \"%s\": %s", what, path, strerror(error));
}

const char *aidb_failure(void) {
	return last;
}
