#include "history.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static const char *const status_names[] = {"committed", "aborted", "unknown", "final"};
static const char kind_letters[] = {'r', 'a', 'u'};

/* ---- Building -------------------------------------------------------------------------------------------- */

void *history_grow(void *array, size_t count, size_t element_bytes) {
	if (count > 0 && (count < 4 || (count & (count - 1)) != 0)) {
		return array; /* arrays grow at powers of two, and begin with room for four */
	}
	array = realloc(array, (count == 0 ? 4 : 2 * count) * element_bytes);
	if (array == NULL) {
		fputs("out of memory\n", stderr);
		exit(2);
	}
	return array;
}

history_operation *transaction_add(history_transaction *transaction, operation_kind kind, uint32_t key) {
	history_operation *operation;

	transaction->operations = history_grow(transaction->operations, transaction->count, sizeof(*operation));
	operation = &transaction->operations[transaction->count++];
	*operation = (history_operation){.kind = kind, .key = key};
	return operation;
}

void operation_add_element(history_operation *read, uint32_t element) {
	read->elements = history_grow(read->elements, read->count, sizeof(*read->elements));
	read->elements[read->count++] = element;
}

void history_add(list_history *to, history_transaction transaction) {
	to->transactions = history_grow(to->transactions, to->count, sizeof(transaction));
	to->transactions[to->count++] = transaction;
}

void history_free(list_history *history) {
	for (size_t i = 0; i < history->count; i++) {
		for (size_t j = 0; j < history->transactions[i].count; j++) {
			free(history->transactions[i].operations[j].elements);
		}
		free(history->transactions[i].operations);
	}
	free(history->transactions);
	*history = (list_history){NULL, 0};
}

/* ---- Reading --------------------------------------------------------------------------------------------- */

static bool take(const char **at, char expected) {
	if (**at != expected) {
		return false;
	}
	(*at)++;
	return true;
}

static bool take_number(const char **at, uint32_t *number) {
	char *end;
	unsigned long value = strtoul(*at, &end, 10);

	if (end == *at || **at == '-' || value >= HISTORY_MAX_NUMBER) {
		return false;
	}
	*at = end;
	*number = (uint32_t)value;
	return true;
}

static bool take_list(const char **at, history_operation *read) {
	uint32_t element;

	if (!take(at, '[')) {
		return false;
	}
	while (**at != ']') {
		if ((read->count > 0 && !take(at, ',')) || !take_number(at, &element)) {
			return false;
		}
		operation_add_element(read, element);
	}
	return take(at, ']');
}

static bool take_operation(const char **at, history_transaction *transaction) {
	bool same_statement = take(at, '+');
	const char *letter = memchr(kind_letters, **at, sizeof(kind_letters));
	history_operation *operation;
	uint32_t key;

	if (letter == NULL) {
		return false;
	}
	(*at)++;
	if (!take_number(at, &key) || !take(at, ':')) {
		return false;
	}
	operation = transaction_add(transaction, (operation_kind)(letter - kind_letters), key);
	operation->same_statement = same_statement;
	return operation->kind == OPERATION_READ ? take_list(at, operation) : take_number(at, &operation->element);
}

static bool take_times(const char **at, history_transaction *transaction) {
	char *end;

	transaction->begin_us = strtoll(*at, &end, 10);
	if (end == *at || *end != '-') {
		return false;
	}
	*at = end + 1;
	transaction->end_us = strtoll(*at, &end, 10);
	if (end == *at) {
		return false;
	}
	*at = end;
	return true;
}

static bool take_status(const char **at, transaction_status *status) {
	for (int i = 0; i < 4; i++) {
		size_t length = strlen(status_names[i]);

		if (strncmp(*at, status_names[i], length) == 0) {
			*at += length;
			*status = (transaction_status)i;
			return true;
		}
	}
	return false;
}

/* Adds the transaction of one line, as far as it can be read. */
static bool parse_line(const char *at, list_history *out) {
	history_transaction transaction = {.begin_us = INT64_MIN, .end_us = INT64_MAX};
	bool good = take_status(&at, &transaction.status) && (!take(&at, '@') || take_times(&at, &transaction));

	while (good && take(&at, ' ')) {
		good = take_operation(&at, &transaction);
	}
	history_add(out, transaction);
	return good && (*at == '\n' || *at == '\0');
}

size_t history_parse(const char *text, list_history *out) {
	for (size_t line = 1; *text != '\0'; line++) {
		const char *end = strchr(text, '\n');

		if (*text != '\n' && *text != '#' && !parse_line(text, out)) {
			return line;
		}
		text = end == NULL ? text + strlen(text) : end + 1;
	}
	return 0;
}

/* ---- Writing --------------------------------------------------------------------------------------------- */

void transaction_print(FILE *file, const history_transaction *transaction) {
	fputs(status_names[transaction->status], file);
	if (transaction->begin_us != INT64_MIN) {
		fprintf(file, "@%" PRId64 "-%" PRId64, transaction->begin_us, transaction->end_us);
	}
	for (size_t i = 0; i < transaction->count; i++) {
		const history_operation *operation = &transaction->operations[i];

		fprintf(file, " %s%c%u:", operation->same_statement ? "+" : "", kind_letters[operation->kind], operation->key);
		if (operation->kind != OPERATION_READ) {
			fprintf(file, "%u", operation->element);
			continue;
		}
		for (size_t j = 0; j < operation->count; j++) {
			fprintf(file, "%c%u", j == 0 ? '[' : ',', operation->elements[j]);
		}
		fputs(operation->count == 0 ? "[]" : "]", file);
	}
	fputc('\n', file);
}
