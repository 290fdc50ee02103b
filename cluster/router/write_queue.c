#include "router/write_queue.h"

#include "lib/stringinfo.h"
#include "nodes/pg_list.h"
#include "utils/memutils.h"

#define MAX_ROWS 64          /* of one statement; a power of two */
#define MAX_PARAMETERS 65535 /* of the protocol */

/* A statement, or rows of one kind. */
typedef struct item {
	router_statement statement;
	router_insert insert; /* its head is NULL for a statement */
	List *rows;           /* of const char ** */
} item;

struct router_write_queue {
	MemoryContext context; /* of what is queued */
	List *items;
	size_t bytes;
};

router_write_queue *router_write_queue_create(MemoryContext parent) {
	router_write_queue *queue = MemoryContextAllocZero(parent, sizeof(router_write_queue));

	queue->context = AllocSetContextCreate(parent, "aidb router queue", ALLOCSET_DEFAULT_SIZES);
	return queue;
}

bool router_write_queue_is_empty(const router_write_queue *queue) {
	return queue->items == NIL;
}

size_t router_write_queue_bytes(const router_write_queue *queue) {
	return queue->bytes;
}

void router_write_queue_clear(router_write_queue *queue) {
	queue->items = NIL;
	queue->bytes = 0;
	MemoryContextReset(queue->context);
}

static const char **copy_values(router_write_queue *queue, const char *const *values, int count) {
	const char **copy = palloc0((Size)Max(count, 1) * sizeof(char *));

	for (int i = 0; i < count; i++) {
		if (values[i] != NULL) {
			copy[i] = pstrdup(values[i]);
			queue->bytes += strlen(copy[i]);
		}
	}
	queue->bytes += (size_t)count * sizeof(char *);
	return copy;
}

static Oid *copy_types(const Oid *types, int count) {
	return memcpy(palloc((Size)Max(count, 1) * sizeof(Oid)), types, (size_t)count * sizeof(Oid));
}

static item *add_item(router_write_queue *queue) {
	item *added = palloc0(sizeof(item));

	queue->items = lappend(queue->items, added);
	return added;
}

void router_write_queue_add(router_write_queue *queue, const router_statement *statement) {
	MemoryContext caller = MemoryContextSwitchTo(queue->context);
	item *added = add_item(queue);

	added->statement = *statement;
	added->statement.sql = pstrdup(statement->sql);
	added->statement.types = copy_types(statement->types, statement->count);
	added->statement.values = copy_values(queue, statement->values, statement->count);
	queue->bytes += strlen(statement->sql);
	MemoryContextSwitchTo(caller);
}

/* Of this kind, at the end of the queue. */
static item *insert_item(router_write_queue *queue, const router_insert *insert) {
	item *last = queue->items != NIL ? llast(queue->items) : NULL;
	const char **casts;

	if (last != NULL && last->insert.head != NULL && last->insert.id == insert->id) {
		return last;
	}
	last = add_item(queue);
	casts = palloc((Size)Max(insert->count, 1) * sizeof(char *));
	for (int i = 0; i < insert->count; i++) {
		casts[i] = pstrdup(insert->casts[i]);
	}
	last->insert = *insert;
	last->insert.head = pstrdup(insert->head);
	last->insert.types = copy_types(insert->types, insert->count);
	last->insert.casts = casts;
	return last;
}

void router_write_queue_add_row(router_write_queue *queue, const router_insert *insert, const char *const *values) {
	MemoryContext caller = MemoryContextSwitchTo(queue->context);
	item *to = insert_item(queue, insert);

	to->rows = lappend(to->rows, copy_values(queue, values, insert->count));
	MemoryContextSwitchTo(caller);
}

/* The rows from `first` on as one statement. */
static void send_rows(const item *from, int first, int rows, void (*send)(void *, const router_statement *),
					  void *argument) {
	const router_insert *insert = &from->insert;
	int count = rows * insert->count;
	const char **values = palloc((Size)Max(count, 1) * sizeof(char *));
	Oid *types = palloc((Size)Max(count, 1) * sizeof(Oid));
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfoString(&sql, insert->head);
	for (int i = 0; i < rows; i++) {
		const char **row = list_nth(from->rows, first + i);

		appendStringInfoString(&sql, i > 0 ? ", (" : " (");
		for (int j = 0; j < insert->count; j++) {
			appendStringInfo(&sql, "%s$%d%s", j > 0 ? ", " : "", i * insert->count + j + 1, insert->casts[j]);
			values[i * insert->count + j] = row[j];
			types[i * insert->count + j] = insert->types[j];
		}
		appendStringInfoChar(&sql, ')');
	}
	send(argument, &(router_statement){sql.data, count, types, values, true});
	pfree(sql.data);
	pfree(types);
	pfree(values);
}

/* Numbers of rows that are powers of two: few statements to be prepared. */
static void send_all_rows(const item *from, void (*send)(void *, const router_statement *), void *argument) {
	int rows = MAX_ROWS;

	while (rows > 1 && rows * from->insert.count > MAX_PARAMETERS) {
		rows /= 2;
	}
	for (int first = 0; first < list_length(from->rows); first += rows) {
		while (rows > list_length(from->rows) - first) {
			rows /= 2;
		}
		send_rows(from, first, rows, send, argument);
	}
}

void router_write_queue_send(const router_write_queue *queue,
							 void (*send)(void *argument, const router_statement *statement), void *argument) {
	ListCell *cell;

	foreach(cell, queue->items) {
		const item *each = lfirst(cell);

		if (each->insert.head != NULL) {
			send_all_rows(each, send, argument);
		} else {
			send(argument, &each->statement);
		}
	}
}
