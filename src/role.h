/*
 * role.h: what this server is in its group: alone, the primary, or a replica of one.
 *
 * Kept in the file "role" of the store's directory, replaced as a whole, and in shared memory: no commit is needed to change it,
 * which might wait for a replica. The epoch counts the primaries that the group has had. A server that is *sealed* has promised
 * to follow nobody of a lower epoch: as a replica it applies nothing, as a primary it commits nothing, until it is promoted or
 * made to follow again.
 *
 *   file   magic u64 "AIDBrol1", then version (u8), role (u8), sealed (u8), leased (u8), epoch (u64), configuration (u64), then strings, each length (u16) and bytes:
 *          database, conninfo of the primary, slot there, the slot that commits wait for; crc32c (u32) of all before. Numbers are
 *          big-endian.
 */
#ifndef AIPG_ROLE_H
#define AIPG_ROLE_H

#include "postgres.h"

#include "aidb.h"

#define AIPG_CONNINFO_BYTES 1024

/* A server that is being restored has a store from a backup, which nobody is to see before all has been put in order. */
typedef enum aipg_role { AIPG_ALONE, AIPG_PRIMARY, AIPG_STANDBY, AIPG_CACHE, AIPG_RESTORING } aipg_role;
#define AIPG_ROLES 5

typedef struct aipg_role_state {
	aipg_role role;
	bool sealed;
	bool leased; /* it has had a lease: from then on, also after a restart, no reads without one */
	uint64 epoch;
	uint64 configuration;                  /* the version of the group's record that last changed `synchronous` */
	char database[NAMEDATALEN];            /* whose tables are replicated */
	char conninfo[AIPG_CONNINFO_BYTES];    /* of the primary that is followed */
	char slot[AIDB_PIN_NAME_BYTES];        /* this replica's name there */
	char synchronous[AIDB_PIN_NAME_BYTES]; /* the slot that commits wait for; empty: none */
} aipg_role_state;

/* How far a replica is; in shared memory only. */
typedef struct aipg_progress {
	uint64 applied;     /* the primary's sequence up to which all has been applied */
	uint64 current;     /* the primary's newest durable sequence, as it last said */
	int64 heard_at;     /* when it did: TimestampTz of this server, 0: never */
	uint64 rows_copied; /* while it is being copied */
	char state[16];     /* connecting, copying, streaming, failed; empty when nothing follows */
	char detail[256];   /* of a failure */
} aipg_progress;

/* From the shared memory hooks. */
extern void aipg_role_shmem_request(void);
extern void aipg_role_shmem_startup(void);
/* Reads the file; by who has opened the store, before anybody else uses it. */
extern void aipg_role_load(aidb_db *db);

extern const char *aipg_role_name(aipg_role role);
/* Raises 22023 for a name that is none. */
extern aipg_role aipg_role_of_name(const char *name);
extern aipg_role aipg_role_now(void);       /* one atomic load */
extern aipg_role_state aipg_role_get(void); /* of the store that is open */
extern uint64 aipg_role_epoch(void);
/* Makes it durable and then known; *state's epoch is not lower than before. Raises. */
extern void aipg_role_set(const aipg_role_state *state);
/* Writes the file into another directory, durably, for the store there. Raises. */
extern void aipg_role_write(const char *directory, const aipg_role_state *state);
/* This process's latch is set whenever the role changes. */
extern void aipg_role_watch(void);
/* Counts aipg_role_set: who follows looks whether it still does what it should. */
extern uint64 aipg_role_changes(void);

/* -- what statements may do -- */

/* Whether this server is a primary whose commits wait for a replica. */
extern bool aipg_role_is_synchronous(void);
extern bool aipg_role_is_sealed(void); /* one atomic load */
/* A commit waits for a replica that this session has given up waiting for. Who wants to build on what it wrote waits for it. */
extern void aipg_role_note_unreplicated(aidb_sequence sequence);
extern aidb_sequence aipg_role_unreplicated(void);

/* Raises 25006 with a hint that names the primary on a replica, IA002 on a sealed primary, and where aidb.expected_epoch says otherwise. */
extern void aipg_role_check_write(void);
/* Raises 55000 on a replica that is not complete yet, is behind aidb.read_token, or a standby beyond aidb.max_staleness, IA002 when the primary's lease has run out, or aidb.expected_epoch says otherwise. */
extern void aipg_role_check_read(void);
/* Waits for what aidb.read_token asks for, when this is a replica; in vain, aipg_role_check_read raises. */
extern void aipg_role_await_token(void);
/* This process is one of AiDb's own: it writes on a replica, too, and sees what is not published. */
extern bool aipg_role_internal;

/*
 * On a replica statements see nothing beyond this local sequence: AIDB_SEQUENCE_LATEST elsewhere. 0: nothing may be read yet.
 * It only grows while the role is the same.
 */
extern aidb_sequence aipg_role_published(void);
extern void aipg_role_publish(aidb_sequence sequence);

/* Reads on a primary whose commits wait for a replica are allowed for so long from now on. */
extern void aipg_role_lease(int64 ms);

/* -- applying -- */

/* Around what the primary has sent being applied, so that who seals this server knows what it has; false when it is sealed, or
 * its role has been changed since `changes`. */
extern bool aipg_role_begin_apply(uint64 changes);
extern void aipg_role_end_apply(void);
/* Waits until nothing is being applied. */
extern void aipg_role_wait_apply(void);
extern aipg_progress aipg_progress_get(void);
/* Waits until a replica has applied the primary's sequence; false when it has not in time, or follows nobody any more. */
extern bool aipg_progress_wait(uint64 sequence, int timeout_ms);
extern void aipg_progress_set(const aipg_progress *progress);

/* "host:port" of a connection string, without what else it has; palloc'd. */
extern char *aipg_role_address(const char *conninfo);

/* SQLSTATEs of the cluster. */
#define AIPG_ERRCODE_STALE_MAP MAKE_SQLSTATE('I', 'A', '0', '0', '1')
#define AIPG_ERRCODE_WRONG_EPOCH MAKE_SQLSTATE('I', 'A', '0', '0', '2')
#define AIPG_ERRCODE_STREAM_LOST MAKE_SQLSTATE('I', 'A', '0', '0', '3')
#define AIPG_ERRCODE_UNKNOWN_OUTCOME MAKE_SQLSTATE('I', 'A', '0', '0', '4')

#endif
