/*
 * manifest.h: what a backup consists of, as text. Written last, so a backup without one is none.
 *
 *   aidb backup 1
 *   label 20261127T055046Z        and so on, a line each, in this order: see manifest.c
 *   file SHA-256 BYTES MODIFIED NAME
 *   sha256 HASH                   of all lines before
 *
 * Times are microseconds since 1970.
 */
#ifndef AIDB_BACKUP_MANIFEST_H
#define AIDB_BACKUP_MANIFEST_H

#include <stdint.h>

#include "aidb.h"
#include "object_store/hash.h"

#define AIDB_LABEL_BYTES 32
#define AIDB_FILE_NAME_BYTES 64
#define AIDB_TEXT_BYTES 256
#define AIDB_MAX_MANIFEST_BYTES ((size_t)256 << 20)

typedef struct aidb_manifest_file {
	char hash[AIDB_HASH_TEXT];
	char name[AIDB_FILE_NAME_BYTES]; /* in the store's directory */
	uint64_t bytes;
	uint64_t modified;
} aidb_manifest_file;

typedef struct aidb_manifest {
	char label[AIDB_LABEL_BYTES];
	char database[AIDB_TEXT_BYTES];
	char owner[AIDB_TEXT_BYTES]; /* the server's first superuser */
	char encoding[AIDB_TEXT_BYTES];
	char collation[AIDB_TEXT_BYTES];
	char ctype[AIDB_TEXT_BYTES];
	char server[AIDB_TEXT_BYTES]; /* PostgreSQL's version */
	uint64_t store;               /* id of the store */
	uint64_t epoch;
	uint64_t after;       /* the log that follows begins at or before this commit */
	uint64_t complete_at; /* the files together with the log up to here are a state of the store */
	uint64_t started;
	uint64_t finished;
	uint64_t stored_bytes; /* what had to be written for it */
	aidb_manifest_file *files;
	uint32_t file_count;
} aidb_manifest;

/* *text is malloc'd, the caller's to free. AIDB_INVALID when a text has a line end. */
aidb_status aidb_manifest_write(const aidb_manifest *manifest, char **text, size_t *size);
/* `name` is for messages. Release with aidb_manifest_free. AIDB_CORRUPT, AIDB_UNSUPPORTED. */
aidb_status aidb_manifest_read(const char *name, const char *text, size_t size, aidb_manifest *manifest);
void aidb_manifest_free(aidb_manifest *manifest);

/* Adds a file; AIDB_NO_MEMORY. */
aidb_status aidb_manifest_add(aidb_manifest *manifest, const aidb_manifest_file *file);
uint64_t aidb_manifest_bytes(const aidb_manifest *manifest);

#endif
