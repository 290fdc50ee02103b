#include "base/status.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define MESSAGE_BYTES 1024

static _Thread_local char message[MESSAGE_BYTES];

aidb_status lsm_fail(aidb_status status, const char *format, ...) {
	char text[MESSAGE_BYTES]; /* an argument may be the previous message */
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(text, sizeof(text), format, arguments);
	va_end(arguments);
	memcpy(message, text, sizeof(message));
	return status;
}

static aidb_status status_of_errno(int error) {
	switch (error) {
	case ENOSPC:
	case EDQUOT:
		return AIDB_NO_SPACE;
	case ENOENT:
		return AIDB_NOT_FOUND;
	case ENOMEM:
		return AIDB_NO_MEMORY;
	default:
		return AIDB_IO;
	}
}

aidb_status lsm_fail_errno(int error, const char *action, const char *path) {
	return lsm_fail(status_of_errno(error), "could not %s \"%s\": %s", action, path, strerror(error));
}

const char *aidb_last_error(void) {
	return message;
}

const char *aidb_status_text(aidb_status status) {
	switch (status) {
	case AIDB_OK:
		return "success";
	case AIDB_NOT_FOUND:
		return "not found";
	case AIDB_INVALID:
		return "invalid argument";
	case AIDB_LIMIT:
		return "limit exceeded";
	case AIDB_IO:
		return "input/output error";
	case AIDB_NO_SPACE:
		return "no space left on disk";
	case AIDB_NO_MEMORY:
		return "out of memory";
	case AIDB_CORRUPT:
		return "data corrupted";
	case AIDB_UNSUPPORTED:
		return "unsupported format";
	case AIDB_IN_USE:
		return "store in use by another process";
	case AIDB_EXISTS:
		return "store exists";
	case AIDB_INTERRUPTED:
		return "interrupted";
	case AIDB_UNREPLICATED:
		return "not replicated yet";
	case AIDB_POISONED:
		return "store poisoned by a dead member";
	}
	return "unknown status";
}
