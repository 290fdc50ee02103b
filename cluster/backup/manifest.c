#include "backup/manifest.h"

#include <ctype.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "object_store/failure.h"

#define TITLE "aidb backup "
#define VERSION 1
#define SEAL "sha256 "
#define MAX_FILES 1000000u

/* The lines between title and files. */
typedef struct field {
	const char *name;
	size_t offset;
	size_t bytes; /* of a text; 0: a number */
} field;

#define TEXT(name)                                                                                                     \
	{ #name, offsetof(aidb_manifest, name), sizeof(((aidb_manifest *)NULL)->name) }
#define NUMBER(name)                                                                                                   \
	{ #name, offsetof(aidb_manifest, name), 0 }

static const field fields[] = {TEXT(label),      TEXT(database),      TEXT(owner),         TEXT(encoding),
							   TEXT(collation),  TEXT(ctype),         TEXT(server),        NUMBER(store),
							   NUMBER(epoch),    NUMBER(after),       NUMBER(complete_at), NUMBER(started),
							   NUMBER(finished), NUMBER(stored_bytes)};

#define FIELDS (sizeof(fields) / sizeof(fields[0]))

aidb_status aidb_manifest_add(aidb_manifest *manifest, const aidb_manifest_file *file) {
	/* grows by doubling, at the powers of two */
	if ((manifest->file_count & (manifest->file_count - 1)) == 0) {
		size_t count = manifest->file_count == 0 ? 1 : 2 * (size_t)manifest->file_count;
		aidb_manifest_file *files = realloc(manifest->files, count * sizeof(*files));

		if (files == NULL) {
			return aidb_fail(AIDB_NO_MEMORY, "out of memory: could not list the files of a backup");
		}
		manifest->files = files;
	}
	manifest->files[manifest->file_count++] = *file;
	return AIDB_OK;
}

void aidb_manifest_free(aidb_manifest *manifest) {
	free(manifest->files);
	*manifest = (aidb_manifest){.files = NULL};
}

uint64_t aidb_manifest_bytes(const aidb_manifest *manifest) {
	uint64_t bytes = 0;

	for (uint32_t i = 0; i < manifest->file_count; i++) {
		bytes += manifest->files[i].bytes;
	}
	return bytes;
}

/* ---- Writing --------------------------------------------------------------------------------------------- */

static aidb_status write_field(FILE *to, const field *of, const aidb_manifest *manifest) {
	const char *at = (const char *)manifest + of->offset;

	if (of->bytes == 0) {
		fprintf(to, "%s %" PRIu64 "\n", of->name, *(const uint64_t *)at);
		return AIDB_OK;
	}
	if (strpbrk(at, "\r\n") != NULL) {
		return aidb_fail(AIDB_INVALID, "the %s has a line end in its name: it cannot be backed up", of->name);
	}
	fprintf(to, "%s %s\n", of->name, at);
	return AIDB_OK;
}

static aidb_status write_lines(FILE *to, const aidb_manifest *manifest) {
	aidb_status rc = AIDB_OK;

	fprintf(to, TITLE "%d\n", VERSION);
	for (size_t i = 0; i < FIELDS && rc == AIDB_OK; i++) {
		rc = write_field(to, &fields[i], manifest);
	}
	for (uint32_t i = 0; i < manifest->file_count; i++) {
		const aidb_manifest_file *file = &manifest->files[i];

		fprintf(to, "file %s %" PRIu64 " %" PRIu64 " %s\n", file->hash, file->bytes, file->modified, file->name);
	}
	return rc;
}

aidb_status aidb_manifest_write(const aidb_manifest *manifest, char **text, size_t *size) {
	char *bytes = NULL, hash[AIDB_HASH_TEXT];
	size_t written = 0;
	FILE *to = open_memstream(&bytes, &written);
	aidb_status rc = to == NULL ? aidb_fail(AIDB_NO_MEMORY, "out of memory") : write_lines(to, manifest);

	if (to != NULL) {
		fflush(to);
		aidb_hash_of(bytes, written, hash);
		fprintf(to, SEAL "%s\n", hash);
		if (fclose(to) != 0 && rc == AIDB_OK) {
			rc = aidb_fail(AIDB_NO_MEMORY, "out of memory");
		}
	}
	if (rc != AIDB_OK) {
		free(bytes);
		return rc;
	}
	*text = bytes;
	*size = written;
	return AIDB_OK;
}

/* ---- Reading --------------------------------------------------------------------------------------------- */

typedef struct reader {
	const char *name;
	const char *at;
	const char *end;
	unsigned line;
} reader;

static aidb_status malformed(const reader *from, const char *what) {
	return aidb_fail(AIDB_CORRUPT, "%s: line %u of the backup's manifest is damaged: %s", from->name, from->line, what);
}

/* The next line, without its end; false: there is none. */
static bool next_line(reader *from, const char **line, size_t *size) {
	const char *end = memchr(from->at, '\n', (size_t)(from->end - from->at));

	if (end == NULL) {
		return false;
	}
	from->line++;
	*line = from->at;
	*size = (size_t)(end - from->at);
	from->at = end + 1;
	return true;
}

static bool begins(const char *line, size_t size, const char *with) {
	size_t length = strlen(with);

	return size >= length && memcmp(line, with, length) == 0;
}

/* The number up to `stop`; moves *at behind that. */
static bool take_number(const char **at, const char *end, char stop, uint64_t *number) {
	uint64_t value = 0;
	const char *from = *at;

	while (*at < end && isdigit((unsigned char)**at) && value < UINT64_MAX / 10 - 1) {
		value = value * 10 + (uint64_t)(**at - '0');
		++*at;
	}
	if (*at == from || (stop == '\0' ? *at != end : *at == end || **at != stop)) {
		return false;
	}
	*at += stop != '\0';
	*number = value;
	return true;
}

static aidb_status read_field(reader *from, const field *of, aidb_manifest *manifest) {
	char *to = (char *)manifest + of->offset;
	size_t length = strlen(of->name), size;
	const char *line;

	if (!next_line(from, &line, &size) || !begins(line, size, of->name) || size == length || line[length] != ' ') {
		return malformed(from, of->name);
	}
	line += length + 1;
	size -= length + 1;
	if (of->bytes == 0) {
		return take_number(&line, line + size, '\0', (uint64_t *)to) ? AIDB_OK : malformed(from, of->name);
	}
	if (size >= of->bytes || memchr(line, '\0', size) != NULL) {
		return malformed(from, of->name);
	}
	memcpy(to, line, size);
	to[size] = '\0';
	return AIDB_OK;
}

/* Names that lead out of a directory are none of ours. */
static bool is_file_name(const char *name) {
	return name[0] != '\0' && name[0] != '.' && strchr(name, '/') == NULL;
}

static aidb_status read_file(reader *from, const char *line, size_t size, aidb_manifest *manifest) {
	const char *at = line + 5, *end = line + size;
	aidb_manifest_file file = {.bytes = 0};

	if (size < 5 + AIDB_HASH_TEXT || manifest->file_count == MAX_FILES) {
		return malformed(from, "file");
	}
	memcpy(file.hash, at, AIDB_HASH_TEXT - 1);
	at += AIDB_HASH_TEXT - 1;
	if (!aidb_hash_is(file.hash) || *at++ != ' ' || !take_number(&at, end, ' ', &file.bytes) ||
		!take_number(&at, end, ' ', &file.modified) || (size_t)(end - at) >= sizeof(file.name)) {
		return malformed(from, "file");
	}
	memcpy(file.name, at, (size_t)(end - at));
	return is_file_name(file.name) ? aidb_manifest_add(manifest, &file) : malformed(from, "file");
}

static aidb_status read_title(reader *from) {
	const char *line;
	size_t size;
	uint64_t version;

	if (!next_line(from, &line, &size) || !begins(line, size, TITLE)) {
		return malformed(from, "it is no manifest");
	}
	line += strlen(TITLE);
	if (!take_number(&line, from->at - 1, '\0', &version)) {
		return malformed(from, "version");
	}
	return version == VERSION ? AIDB_OK
							  : aidb_fail(AIDB_UNSUPPORTED,
										  "%s: the backup is of format %" PRIu64 ", and this program knows %d; use a "
										  "newer version of it",
										  from->name, version, VERSION);
}

static aidb_status read_seal(reader *from, const char *text, const char *line, size_t size) {
	char hash[AIDB_HASH_TEXT];

	aidb_hash_of(text, (size_t)(line - text), hash);
	if (size != strlen(SEAL) + AIDB_HASH_TEXT - 1 || memcmp(line + strlen(SEAL), hash, AIDB_HASH_TEXT - 1) != 0) {
		return malformed(from, "the checksum is another");
	}
	return from->at == from->end ? AIDB_OK : malformed(from, "something follows");
}

static aidb_status read_lines(reader *from, const char *text, aidb_manifest *manifest) {
	aidb_status rc = read_title(from);
	const char *line;
	size_t size;

	for (size_t i = 0; i < FIELDS && rc == AIDB_OK; i++) {
		rc = read_field(from, &fields[i], manifest);
	}
	while (rc == AIDB_OK && next_line(from, &line, &size)) {
		if (begins(line, size, SEAL)) {
			return read_seal(from, text, line, size);
		}
		rc = begins(line, size, "file ") ? read_file(from, line, size, manifest) : malformed(from, "what is this?");
	}
	return rc == AIDB_OK ? malformed(from, "the end is missing") : rc;
}

aidb_status aidb_manifest_read(const char *name, const char *text, size_t size, aidb_manifest *manifest) {
	reader from = {.name = name, .at = text, .end = text + size};
	aidb_manifest read = {.files = NULL};
	aidb_status rc = read_lines(&from, text, &read);

	if (rc != AIDB_OK) {
		aidb_manifest_free(&read);
		return rc;
	}
	*manifest = read;
	return AIDB_OK;
}
