/*
 * write_queue.h: writes of a session that wait to be sent: statements, and rows to be inserted, which become statements of many
 * rows. Kept in order.
 */
#ifndef ROUTER_WRITE_QUEUE_H
#define ROUTER_WRITE_QUEUE_H

#include "postgres.h"

#include "router/statement.h"

/* What INSERT statements of one kind have in common. */
typedef struct router_insert {
	uint64 id;                /* of this kind, in this process */
	const char *head;         /* up to VALUES */
	int count;                /* of columns */
	const Oid *types;         /* of parameters; InvalidOid where the cast says it */
	const char *const *casts; /* behind a parameter; "" */
} router_insert;

typedef struct router_write_queue router_write_queue;

extern router_write_queue *router_write_queue_create(MemoryContext parent);
extern bool router_write_queue_is_empty(const router_write_queue *queue);
extern size_t router_write_queue_bytes(const router_write_queue *queue);
/* All is copied. */
extern void router_write_queue_add(router_write_queue *queue, const router_statement *statement);
extern void router_write_queue_add_row(router_write_queue *queue, const router_insert *insert,
									   const char *const *values);
/* Hands everything to `send`, as few statements; the queue stays as it is, in case that raises. */
extern void router_write_queue_send(const router_write_queue *queue,
									void (*send)(void *argument, const router_statement *statement), void *argument);
extern void router_write_queue_clear(router_write_queue *queue);

#endif
