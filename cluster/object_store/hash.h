/*
 * hash.h: SHA-256, by which contents are known (OpenSSL's).
 */
#ifndef AIDB_HASH_H
#define AIDB_HASH_H

#include <stdbool.h>
#include <stddef.h>

#define AIDB_HASH_TEXT 65 /* 64 hexadecimal digits, and a zero byte */

typedef struct aidb_hash aidb_hash;

aidb_hash *aidb_hash_create(void); /* NULL: out of memory */
void aidb_hash_add(aidb_hash *hash, const void *data, size_t size);
/* Of all that was added; begins anew. */
void aidb_hash_finish(aidb_hash *hash, char text[AIDB_HASH_TEXT]);
void aidb_hash_destroy(aidb_hash *hash); /* NULL is fine */

/* Of these bytes. */
void aidb_hash_of(const void *data, size_t size, char text[AIDB_HASH_TEXT]);
/* Whether the text is a hash. */
bool aidb_hash_is(const char *text);

#endif
