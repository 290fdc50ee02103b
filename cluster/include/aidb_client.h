/*
 * aidb_client.h: the C client of an AiDb cluster: keys and values, straight to the nodes that have them.
 *
 * A *key space* is a table of the cluster with the columns (key bytea PRIMARY KEY, value bytea), made in the coordinator's database:
 *
 *     CREATE FOREIGN TABLE session (key bytea, value bytea, PRIMARY KEY (key)) SERVER aidb_cluster;
 *
 * The client reads there which group keeps which keys and where its nodes are, once, and again when a node says that it is not
 * the primary any more, or cannot be reached. Operations on several keys go to all groups that have some at the same time.
 *
 * Operations end within the time that the options give, with an error at the latest; a node that has not answered for half of it
 * is taken for lost. What fails because a node is away is tried again until then: writing a value, or deleting a key, twice is the
 * same as once, unless another client writes the same key in between; who minds that sets `no_retry`, and gets
 * AIDB_CLIENT_UNKNOWN when a write may have been done or not.
 * An operation on several keys is not one transaction: each group's part, and of large ones each thousand keys, is.
 *
 * Reads may go to replicas, to that of a group with the least to do. They see all that this client has written, or read at a
 * primary, before; and what others have written, as soon as the replica has it. When none answers, the primary is asked.
 *
 * Thread safety: a client may be used by many threads at a time. Errors are told to the thread that made the call. Memory that is
 * given is the caller's again when the call returns.
 */
#ifndef AIDB_CLIENT_H
#define AIDB_CLIENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Those marked so are the library's symbols. */
#define AIDB_CLIENT_PUBLIC __attribute__((visibility("default")))

typedef struct aidb_client aidb_client;
typedef struct aidb_client_space aidb_client_space;

typedef enum aidb_client_status {
	AIDB_CLIENT_OK,
	AIDB_CLIENT_NOT_FOUND,   /* no such key */
	AIDB_CLIENT_INVALID,     /* an argument */
	AIDB_CLIENT_UNREACHABLE, /* the catalog, or a node; nothing was done, or a read failed */
	AIDB_CLIENT_TIMEOUT,     /* it took longer than the options allow; a write may have been done */
	AIDB_CLIENT_UNKNOWN,     /* a write may have been done */
	AIDB_CLIENT_REFUSED,     /* by a server, with its reason */
	AIDB_CLIENT_NO_MEMORY,
} aidb_client_status;

typedef enum aidb_client_read_from {
	AIDB_CLIENT_PRIMARY,
	AIDB_CLIENT_STANDBY,
	AIDB_CLIENT_CACHE
} aidb_client_read_from;

typedef struct aidb_client_options {
	uint32_t connections; /* to each node, at most; 0: 8 */
	uint32_t timeout_ms;  /* of an operation; 0: 5000 */
	bool no_retry;        /* of writes whose answer was lost */
	aidb_client_read_from read_from;
} aidb_client_options;

typedef struct aidb_client_bytes {
	const void *data;
	size_t size;
} aidb_client_bytes;

/* A value that was read; to be released with aidb_client_value_free. */
typedef struct aidb_client_value {
	void *data;
	size_t size;
	bool found;
} aidb_client_value;

/* What went wrong in this thread's last call that did not return AIDB_CLIENT_OK or AIDB_CLIENT_NOT_FOUND: what, where, what to do. */
AIDB_CLIENT_PUBLIC const char *aidb_client_error(void);

/* `conninfo` is of the coordinator's database, as for libpq. NULL options: the defaults. *client is the caller's, to close. */
AIDB_CLIENT_PUBLIC aidb_client_status aidb_client_open(const char *conninfo, const aidb_client_options *options,
													   aidb_client **client);
/* No call is under way, and no key space open. NULL is fine. */
AIDB_CLIENT_PUBLIC void aidb_client_close(aidb_client *client);

/* A NULL schema: "public". That the table exists is seen at the first operation. */
AIDB_CLIENT_PUBLIC aidb_client_status aidb_client_space_open(aidb_client *client, const char *schema, const char *table,
															 aidb_client_space **space);
AIDB_CLIENT_PUBLIC void aidb_client_space_close(aidb_client_space *space);

AIDB_CLIENT_PUBLIC aidb_client_status aidb_client_get(aidb_client_space *space, aidb_client_bytes key,
													  aidb_client_value *value);
AIDB_CLIENT_PUBLIC aidb_client_status aidb_client_put(aidb_client_space *space, aidb_client_bytes key,
													  aidb_client_bytes value);
/* AIDB_CLIENT_OK also when there was no such key. */
AIDB_CLIENT_PUBLIC aidb_client_status aidb_client_delete(aidb_client_space *space, aidb_client_bytes key);

/* values[i] is what keys[i] has; on an error none is left to be released. AIDB_CLIENT_OK also when some are not found. */
AIDB_CLIENT_PUBLIC aidb_client_status aidb_client_batch_get(aidb_client_space *space, size_t count,
															const aidb_client_bytes *keys, aidb_client_value *values);
/* Of a key that is given more than once the last value stays. */
AIDB_CLIENT_PUBLIC aidb_client_status aidb_client_batch_put(aidb_client_space *space, size_t count,
															const aidb_client_bytes *keys,
															const aidb_client_bytes *values);
AIDB_CLIENT_PUBLIC aidb_client_status aidb_client_batch_delete(aidb_client_space *space, size_t count,
															   const aidb_client_bytes *keys);

/* Called with each row; the bytes are good during the call. False ends the scan. */
typedef bool (*aidb_client_row)(void *argument, aidb_client_bytes key, aidb_client_bytes value);
/*
 * Rows from `lower` (inclusive) to `upper` (exclusive; NULL data: to the end) in the order of keys, at most `limit` (0: all), over all
 * groups. It is read in pages: each row is as it was at some time during the scan, which is not one moment for all. The time
 * limit is for a page.
 */
AIDB_CLIENT_PUBLIC aidb_client_status aidb_client_scan(aidb_client_space *space, aidb_client_bytes lower,
													   aidb_client_bytes upper, uint64_t limit, aidb_client_row row,
													   void *argument);

/* Called with each group: its name, its primary's, and NULL or why that does not answer; the strings are good during the call. */
typedef void (*aidb_client_node)(void *argument, const char *group, const char *node, const char *error);
/* Asks the catalog and all primaries, once. AIDB_CLIENT_OK when all answer. */
AIDB_CLIENT_PUBLIC aidb_client_status aidb_client_health(aidb_client *client, aidb_client_node node, void *argument);

AIDB_CLIENT_PUBLIC void aidb_client_value_free(aidb_client_value *value); /* also of one that was not found */

#ifdef __cplusplus
}
#endif

#endif
