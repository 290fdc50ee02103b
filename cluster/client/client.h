/*
 * client.h: what the operations of a client share: the topology in use, which of a group's nodes to ask, what reads have to wait for,
 * and the error of a thread. Thread-safe. The public functions are told of in aidb_client.h.
 */
#ifndef AIDB_CLIENT_CLIENT_H
#define AIDB_CLIENT_CLIENT_H

#include "aidb_client.h"
#include "client/topology.h"

/* The topology in use, to be let go. */
aidb_topology *aidb_client_hold(aidb_client *client);
void aidb_client_let_go(aidb_client *client, aidb_topology *topology);
/* Reads it anew, unless another thread has since `stale` was in use. False: failed, with *error to be freed or NULL. */
bool aidb_client_refresh(aidb_client *client, const aidb_topology *stale, uint64_t deadline_ms, char **error);

/* The node of a group for a read, and what it has to wait for (AIDB_TOKEN_BYTES): that replica with the least to do which the options
 * allow, else the primary. */
aidb_pool *aidb_client_choose(aidb_client *client, const aidb_client_group *group, char *token);
/* Whether what is done at primaries has to tell what reads at replicas wait for. */
bool aidb_client_wants_token(const aidb_client *client);
void aidb_client_note_token(aidb_client *client, uint32_t group_id, const char *token);

uint32_t aidb_client_timeout_ms(const aidb_client *client);
bool aidb_client_may_repeat_writes(const aidb_client *client);
/* A number that no statement had before: the first of so many. */
uint32_t aidb_client_new_statements(aidb_client *client, uint32_t count);

/* Keeps the thread's error, and returns the status. */
aidb_client_status aidb_client_fail(aidb_client_status status, const char *format, ...)
	__attribute__((format(printf, 2, 3)));

#endif
