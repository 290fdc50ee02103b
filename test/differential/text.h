/*
 * text: strings that grow, lists of strings, and the end of the program when something cannot be.
 */
#ifndef AIDB_DIFFERENTIAL_TEXT_H
#define AIDB_DIFFERENTIAL_TEXT_H

#include <stdbool.h>
#include <stddef.h>

/* Zeroed is empty. */
typedef struct text {
	char *data; /* ends with a zero byte; NULL when nothing was added yet */
	size_t size;
	size_t capacity;
} text;

/* Owns its items. Zeroed is empty. */
typedef struct text_list {
	char **items;
	int count;
} text_list;

/* Prints to standard error and exits with status 2. */
_Noreturn void fail(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Never NULL; the caller frees it. */
void *allocate(size_t count, size_t size);
char *copy_string(const char *string);

void text_add(text *to, const char *format, ...) __attribute__((format(printf, 2, 3)));
void text_add_bytes(text *to, const char *bytes, size_t size);
/* Removes blanks at the end. */
void text_trim(text *of);
/* Valid until the next change. */
const char *text_get(const text *of);
/* The caller owns the string; the text is empty then. */
char *text_take(text *from);
void text_free(text *of);

/* Takes the string over. */
void text_list_add(text_list *to, char *string);
void text_list_copy(text_list *to, const text_list *from);
void text_list_sort(text_list *of);
bool text_list_has(const text_list *list, const char *string);
/* Adds the words of a string, which are separated by any of `separators`. */
void text_list_split(text_list *to, const char *string, const char *separators);
void text_list_free(text_list *of);

bool starts_with(const char *string, const char *prefix);

#endif
