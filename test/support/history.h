/*
 * history.h: what transactions did to lists: each appends unique elements to lists and reads lists. As text, a
 * transaction is a line:
 *
 *     committed@1200-1950 r1:[4,7] a1:9 +r1:[4,7,9] u2:10
 *
 * First what became of it: committed; aborted; unknown, when the connection was lost in its commit; or final, a
 * committed one that read all lists after everything else. Then the moments of its beginning and end, in microseconds;
 * without them it may have been at any time. Then its operations: r, a list that it read; a, an element that it
 * appended; u, an element that it appended and took back by rolling back to a savepoint. A `+` stands before an operation
 * of the same statement as the one before it. Empty lines and lines that begin with `#` are nothing.
 *
 * Memory is allocated or the program ends. Not thread-safe.
 */
#ifndef AIDB_TEST_HISTORY_H
#define AIDB_TEST_HISTORY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

/* Keys and elements lie below this. */
#define HISTORY_MAX_NUMBER (1u << 26)

typedef enum operation_kind { OPERATION_READ, OPERATION_APPEND, OPERATION_UNDONE } operation_kind;

typedef struct history_operation {
	operation_kind kind;
	bool same_statement;
	uint32_t key;
	uint32_t element;   /* of an append */
	uint32_t *elements; /* of a read */
	size_t count;
} history_operation;

typedef enum transaction_status { STATUS_COMMITTED, STATUS_ABORTED, STATUS_UNKNOWN, STATUS_FINAL } transaction_status;

typedef struct history_transaction {
	transaction_status status;
	int64_t begin_us; /* INT64_MIN: at any time */
	int64_t end_us;   /* INT64_MAX: at any time */
	history_operation *operations;
	size_t count;
} history_transaction;

typedef struct list_history {
	history_transaction *transactions;
	size_t count;
} list_history;

/* Makes room for one more at the end of an array of `count`; returns the array, which may have moved. */
void *history_grow(void *array, size_t count, size_t element_bytes);

/* Adds an operation, which is the caller's to fill in; valid until the next is added. */
history_operation *transaction_add(history_transaction *transaction, operation_kind kind, uint32_t key);

/* Adds an element to the list of a read. */
void operation_add_element(history_operation *read, uint32_t element);

/* Appends a transaction; its operations become the history's. */
void history_add(list_history *to, history_transaction transaction);

/* Parses text into an empty history. Returns 0, or the number of the first line that is none. */
size_t history_parse(const char *text, list_history *out);

void transaction_print(FILE *file, const history_transaction *transaction);
void history_free(list_history *history);

#endif
