/*
 * session.h: a backend's connections to the primaries of the groups, one each, and the transactions on them; and to replicas, to read from.
 *
 * Statements go out in libpq's pipeline mode (pipeline.h): what has to precede one (BEGIN, SAVEPOINT, PREPARE, writes that wait to be sent)
 * travels with it, in one round trip. Answers come in the order of the statements; whoever waits for his own takes in what is
 * there for others on the way. No wait is without an end: the user can cancel it, and a node that says nothing for
 * aidb.node_timeout is asked on another connection whether it is alive.
 */
#ifndef ROUTER_SESSION_H
#define ROUTER_SESSION_H

#include "postgres.h"

#include "nodes/pg_list.h"
#include "router/pipeline.h"

/* Settings; from _PG_init. */
extern void router_session_init(void);

/*
 * The session of a group, connected. Waits for aidb.failover_timeout when the primary cannot be reached, and follows the map
 * meanwhile; then raises 08001. `group` may be gone afterwards.
 */
extern router_session *router_session_open(const router_group *group);
/*
 * A session to read from: by aidb.read_from with a replica of the group, else with its primary. Always the primary when this
 * transaction has written there, or goes by one snapshot. A replica that cannot be reached is passed over for a while. It waits
 * for what this session has committed to the group before.
 */
extern router_session *router_session_open_reader(const router_group *group);

/* Sends a query. `locks`: within the remote transaction, since it locks rows. */
extern void router_query(router_session *session, const router_statement *statement, bool locks, router_stream *stream);
/* Takes in what has come; true when that was something for this stream. Never waits. Raises what the node reports. */
extern bool router_stream_poll(router_stream *stream);
/* Waits until something comes for one of the streams that are not over (at least one). */
extern void router_streams_wait(router_stream *const *streams, int count);
extern void router_stream_close(router_stream *stream);
/* Before a query is sent again: waits a moment, and has the map read anew. Raises when aidb.failover_timeout is over since the
 * connection was lost first, at `since`. */
extern void router_retry(int group_id, TimestampTz since);

/* A write; returns how many rows it has changed. */
extern int64 router_execute(router_session *session, const router_statement *statement);
/* A row whose insertion is not needed yet: goes out with others, before anything is read. What it fails with comes later, at the
 * latest at commit. */
extern void router_insert_later(router_session *session, const router_insert *insert, const char *const *values);
/* Sends what is queued in all sessions, and waits for the answers. */
extern void router_flush_all(void);
/* Whether the statement that runs is a transaction of its own, whose writes may wait for its commit. */
extern bool router_may_defer(void);

/* A command that is no part of a transaction, while none is open on the session. */
extern void router_command_alone(router_session *session, const char *sql);

/* All of this process, in TopMemoryContext. For transaction.c, as what follows. */
extern List *router_sessions;
/* What a reader has closed is connected again; no transaction was on it. */
extern void router_reconnect(router_session *session);
/* Sends what is queued, in the remote transaction; the other one in none, up to a sync that commits it. */
extern void router_send_queue(router_session *session);
extern void router_send_queued(router_session *session);
/* Asks what a later read of this process on a replica has to wait for, if it may go to one. */
extern void router_ask_after_commit(router_session *session);

#endif
