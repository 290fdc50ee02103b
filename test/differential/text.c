#define _GNU_SOURCE 1

#include "text.h"

#include <ctype.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FIRST_CAPACITY 64

void fail(const char *format, ...) {
	va_list arguments;

	va_start(arguments, format);
	fflush(stdout);
	fputs("differential: ", stderr);
	vfprintf(stderr, format, arguments);
	fputc('\n', stderr);
	va_end(arguments);
	exit(2);
}

void *allocate(size_t count, size_t size) {
	void *memory = calloc(count != 0 ? count : 1, size);

	if (memory == NULL) {
		fail("out of memory");
	}
	return memory;
}

char *copy_string(const char *string) {
	size_t size = strlen(string) + 1;

	return memcpy(allocate(size, 1), string, size);
}

bool starts_with(const char *string, const char *prefix) {
	return strncmp(string, prefix, strlen(prefix)) == 0;
}

/* ---- Text ------------------------------------------------------------------------------------------------ */

void text_add_bytes(text *to, const char *bytes, size_t size) {
	if (to->size + size + 1 > to->capacity) {
		to->capacity = 2 * (to->size + size + FIRST_CAPACITY);
		to->data = realloc(to->data, to->capacity);
		if (to->data == NULL) {
			fail("out of memory");
		}
	}
	memcpy(to->data + to->size, bytes, size);
	to->size += size;
	to->data[to->size] = '\0';
}

void text_add(text *to, const char *format, ...) {
	va_list arguments;
	char *formatted;
	int size;

	va_start(arguments, format);
	size = vasprintf(&formatted, format, arguments);
	va_end(arguments);
	if (size < 0) {
		fail("out of memory");
	}
	text_add_bytes(to, formatted, (size_t)size);
	free(formatted);
}

void text_trim(text *of) {
	while (of->size > 0 && isspace((unsigned char)of->data[of->size - 1])) {
		of->data[--of->size] = '\0';
	}
}

const char *text_get(const text *of) {
	return of->data != NULL ? of->data : "";
}

char *text_take(text *from) {
	char *taken = from->data != NULL ? from->data : copy_string("");

	*from = (text){0};
	return taken;
}

void text_free(text *of) {
	free(of->data);
	*of = (text){0};
}

/* ---- Lists ----------------------------------------------------------------------------------------------- */

void text_list_add(text_list *to, char *string) {
	to->items = realloc(to->items, ((size_t)to->count + 1) * sizeof(*to->items));
	if (to->items == NULL) {
		fail("out of memory");
	}
	to->items[to->count++] = string;
}

void text_list_copy(text_list *to, const text_list *from) {
	for (int i = 0; i < from->count; i++) {
		text_list_add(to, copy_string(from->items[i]));
	}
}

static int compare_items(const void *left, const void *right) {
	return strcmp(*(char *const *)left, *(char *const *)right);
}

void text_list_sort(text_list *of) {
	if (of->count > 1) {
		qsort(of->items, (size_t)of->count, sizeof(*of->items), compare_items);
	}
}

bool text_list_has(const text_list *list, const char *string) {
	for (int i = 0; i < list->count; i++) {
		if (strcmp(list->items[i], string) == 0) {
			return true;
		}
	}
	return false;
}

void text_list_split(text_list *to, const char *string, const char *separators) {
	char *copy = copy_string(string);
	char *rest = NULL;

	for (char *word = strtok_r(copy, separators, &rest); word != NULL; word = strtok_r(NULL, separators, &rest)) {
		text_list_add(to, copy_string(word));
	}
	free(copy);
}

void text_list_free(text_list *of) {
	for (int i = 0; i < of->count; i++) {
		free(of->items[i]);
	}
	free(of->items);
	*of = (text_list){0};
}
