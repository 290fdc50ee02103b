#include "object_store/credentials.h"

#include <errno.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "object_store/failure.h"

#define LINE_BYTES 4096

static bool take(const char *value, char *to, size_t size) {
	return value != NULL && value[0] != '\0' && snprintf(to, size, "%s", value) < (int)size;
}

static bool from_environment(aidb_credentials *credentials) {
	(void)take(getenv("AWS_SESSION_TOKEN"), credentials->token, sizeof(credentials->token));
	return take(getenv("AWS_ACCESS_KEY_ID"), credentials->key, sizeof(credentials->key)) &&
		   take(getenv("AWS_SECRET_ACCESS_KEY"), credentials->secret, sizeof(credentials->secret));
}

/* Without blanks around it. */
static char *trim(char *text) {
	size_t length;

	text += strspn(text, " \t");
	length = strlen(text);
	while (length > 0 && strchr(" \t\r\n", text[length - 1]) != NULL) {
		text[--length] = '\0';
	}
	return text;
}

static void take_line(char *line, aidb_credentials *credentials) {
	char *equals = strchr(line, '=');
	const char *name, *value;

	if (equals == NULL) {
		return;
	}
	*equals = '\0';
	name = trim(line);
	value = trim(equals + 1);
	if (strcmp(name, "aws_access_key_id") == 0) {
		(void)take(value, credentials->key, sizeof(credentials->key));
	} else if (strcmp(name, "aws_secret_access_key") == 0) {
		(void)take(value, credentials->secret, sizeof(credentials->secret));
	} else if (strcmp(name, "aws_session_token") == 0) {
		(void)take(value, credentials->token, sizeof(credentials->token));
	}
}

static void read_profile(FILE *file, const char *profile, aidb_credentials *credentials) {
	char line[LINE_BYTES], wanted[LINE_BYTES];
	bool inside = false;

	snprintf(wanted, sizeof(wanted), "[%s]", profile);
	while (fgets(line, sizeof(line), file) != NULL) {
		char *text = trim(line);

		if (text[0] == '[') {
			inside = strcmp(text, wanted) == 0;
		} else if (inside && text[0] != '#') {
			take_line(text, credentials);
		}
	}
	explicit_bzero(line, sizeof(line));
}

static const char *file_path(char path[PATH_MAX]) {
	const char *given = getenv("AWS_SHARED_CREDENTIALS_FILE");
	const char *home = getenv("HOME");

	if (given != NULL && given[0] != '\0') {
		snprintf(path, PATH_MAX, "%s", given);
	} else {
		snprintf(path, PATH_MAX, "%s/.aws/credentials", home != NULL ? home : "");
	}
	return path;
}

aidb_status aidb_credentials_find(aidb_credentials *credentials) {
	const char *profile = getenv("AWS_PROFILE");
	char path[PATH_MAX];
	FILE *file;

	*credentials = (aidb_credentials){.token = ""};
	if (from_environment(credentials)) {
		return AIDB_OK;
	}
	*credentials = (aidb_credentials){.token = ""};
	profile = profile != NULL && profile[0] != '\0' ? profile : "default";
	file = fopen(file_path(path), "re");
	if (file != NULL) {
		read_profile(file, profile, credentials);
		fclose(file);
	}
	if (credentials->key[0] == '\0' || credentials->secret[0] == '\0') {
		return aidb_fail(AIDB_INVALID,
						 "there are no credentials for S3: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or write "
						 "them into profile [%s] of \"%s\" (AWS_PROFILE, AWS_SHARED_CREDENTIALS_FILE)",
						 profile, path);
	}
	return AIDB_OK;
}
