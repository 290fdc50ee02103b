/*
 * bytes_array.h: values of PostgreSQL's type bytea[], as a parameter in binary form (its array_recv): built one element after the other.
 */
#ifndef AIDB_BYTES_ARRAY_H
#define AIDB_BYTES_ARRAY_H

#include <stdbool.h>
#include <stddef.h>

typedef struct aidb_bytes_array {
	char *data;
	size_t size, room;
	size_t count;
} aidb_bytes_array; /* all zero: empty, and to be begun */

/* Empties it. False, also of the others: out of memory, or it would exceed what a parameter can be (1 GB). */
bool aidb_bytes_array_begin(aidb_bytes_array *self);
bool aidb_bytes_array_add(aidb_bytes_array *self, const void *data, size_t size);
/* Then `data` and `size` are the parameter. */
void aidb_bytes_array_end(aidb_bytes_array *self);
void aidb_bytes_array_free(aidb_bytes_array *self);

#endif
