/*
 * pipeline.h: what a session has sent on its connection and not been answered yet, in libpq's pipeline mode: its entries, in order. Who waits
 * for one takes in what comes for those before it. A connection that is lost takes the remote transaction with it, and is told of as an
 * error, unless all that was on its way are reads of which nothing has come: those can be sent again.
 *
 * The fields of a session are for session.c and transaction.c; others call those.
 */
#ifndef ROUTER_PIPELINE_H
#define ROUTER_PIPELINE_H

#include "postgres.h"

#include "libpq-fe.h"
#include "datatype/timestamp.h"
#include "lib/ilist.h"
#include "router/map.h"
#include "router/write_queue.h"
#include "storage/latch.h"
#include "utils/hsearch.h"

#define ROUTER_TOKEN_BYTES 48
#define ROUTER_AVOID_MS 2000 /* how long a replica that was of no use is not asked */

typedef struct router_session router_session;

/* Rows that a query sends. Owned by who reads them; to be closed when he stops before the end. */
typedef struct router_stream {
	router_session *session;                                            /* NULL: nothing to come */
	void (*deliver)(struct router_stream *stream, const PGresult *row); /* called with one row at a time */
	bool lost;   /* the connection broke before any row came, and no transaction with it: the query may be sent again */
	uint64 rows; /* that have come */
} router_stream;

typedef enum router_entry_kind { ROUTER_ENTRY_COMMAND, ROUTER_ENTRY_QUERY, ROUTER_ENTRY_SYNC } router_entry_kind;

/* What was sent and is not answered yet. */
typedef struct router_entry {
	dlist_node node;
	router_entry_kind kind;
	char *sql;             /* for error messages */
	router_stream *stream; /* of a query; NULL: its rows are not wanted any more */
	int level;             /* of nested transactions, in which the stream was opened */
	int64 *changed;        /* NULL, or counts the rows */
	bool prepares;         /* it prepares a statement */
	uint64 begun_us;       /* of a sync: when it was sent */
} router_entry;

struct router_session {
	int group_id;
	int64 epoch;
	aidb_slot_set slots; /* that the node takes to be its own in scans */
	char group[NAMEDATALEN];
	char node[NAMEDATALEN];
	char *conninfo;

	PGconn *connection;    /* NULL: none */
	WaitEventSet *waits;   /* for it */
	MemoryContext context; /* lives as long as the connection */
	HTAB *prepared;
	int prepared_count;
	dlist_head entries;
	int entry_count;
	PGresult *result; /* the last that came; kept until the next, since who looks at it may raise */

	int level;               /* nested transactions that the node has: 0 none, 1 BEGIN, 2 and more savepoints */
	bool failed;             /* the node has reported an error, and skips what else was sent */
	bool draining;           /* a transaction was aborted: answers to come mean nothing */
	bool broken;             /* the connection was lost within the transaction */
	bool wrote;              /* this transaction */
	bool is_reader;          /* of a replica */
	TimestampTz avoid_until; /* a replica that was of no use */
	/* The last commit of this process at the primary; at a replica, what it waits for. */
	char token[ROUTER_TOKEN_BYTES];
	router_stream token_stream;
	bool read_here;       /* at the primary, after the last commit or token */
	bool commits;         /* what is sent commits by itself: without an answer nobody knows */
	char prepared_as[96]; /* the remote transaction is prepared under this name; empty: it is not */

	router_write_queue *queue;
	int queue_level; /* of nested transactions, in which it was filled */
};

extern int router_node_timeout_ms;

/* Settings; from _PG_init. */
extern void router_pipeline_init(void);

/* Raises that the connection was lost: 08006, or 08007 during a commit. */
extern void router_report_loss(const router_session *session, const char *reason) pg_attribute_noreturn();
/* The connection is of no use any more. Raises unless the readers can try again. */
extern void router_lose(router_session *session, char *reason);
/* Closes it, with all that is under way. */
extern void router_forget_connection(router_session *session);

/* What was sent. */
extern router_entry *router_add_entry(router_session *session, router_entry_kind kind, const char *sql);
extern void router_send_command(router_session *session, const char *sql);
extern router_entry *router_send_statement(router_session *session, const router_statement *statement,
										   router_entry_kind kind);
extern void router_send_sync(router_session *session);
/* The node's transaction gets as deep as the one here. */
extern void router_begin(router_session *session);

/* Takes in what is there, without waiting; true when there was something. */
extern bool router_take_in(router_session *session);
/* Waits until there is something to be taken in, or the connection is lost. */
extern void router_await_input(router_session *session);
/* Waits for the next, and takes it in. */
extern void router_receive(router_session *session);
extern void router_receive_all(router_session *session);
/* Until no write is without an answer. */
extern void router_receive_commands(router_session *session);
/* What an aborted transaction has left. */
extern void router_drain(router_session *session);
/* The streams of (sub)transactions from this level on are gone, or about to. */
extern void router_detach_streams(router_session *session, int level);

#endif
