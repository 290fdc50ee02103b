/*
 * failover.h: what a coordinator does next for a group of servers. Pure: given what the catalog records of the group and what its
 * members last said, the next action. There are no phases that a restart could lose: each action changes the record or a
 * member, which is seen the next time.
 *
 * In the manner of Kafka's in-sync replicas, with one replica that commits wait for:
 *   - The record (epoch, primary, in_sync) changes by compare-and-set on its version only.
 *   - A commit is acknowledged by the primary and the in-sync standby. The set shrinks in the record first, then at the primary;
 *     it grows at the primary first, and in the record once the standby has everything.
 *   - A failover seals the in-sync standby with a higher epoch, which ends the old primary's acknowledgements, waits until the
 *     old primary's lease for reads has run out, records the new primary, and promotes it.
 *   - What is asked of the primary's set bears the version of a record that this coordinator has just written: a primary
 *     refuses lower ones, so nothing that was sent long ago undoes what others have done since.
 */
#ifndef AIDB_FAILOVER_H
#define AIDB_FAILOVER_H

#include <stdbool.h>
#include <stdint.h>

#define AIDB_MAX_MEMBERS 8u

/* What the catalog says. Members are node ids, never 0. */
typedef struct aidb_group_record {
	uint64_t version;
	uint64_t epoch;
	uint32_t primary;
	uint32_t in_sync; /* the standby that has every acknowledged commit; 0: none */
	bool synchronous; /* commits are to wait for a standby, where there is one */
	uint32_t members[AIDB_MAX_MEMBERS];
	uint32_t member_count;
} aidb_group_record;

typedef enum aidb_member_role { AIDB_MEMBER_ALONE, AIDB_MEMBER_PRIMARY, AIDB_MEMBER_STANDBY } aidb_member_role;

/* What a member last said, and whether it is up. */
typedef struct aidb_member_report {
	bool known; /* it has said something since this coordinator was started */
	bool up;
	bool down; /* for sure; neither up nor down: suspect, or not heard of yet */
	aidb_member_role role;
	uint64_t epoch;
	bool sealed;
	bool streaming;
	uint64_t applied;
	uint32_t follows;   /* the member that a standby follows; 0: nobody of the group */
	uint32_t waits_for; /* the member that a primary's commits wait for; 0: none */
} aidb_member_report;

typedef enum aidb_action_kind {
	AIDB_ACT_NOTHING,
	AIDB_ACT_RECORD,  /* compare-and-set: `record` replaces the one of version record.version - 1 */
	AIDB_ACT_SEAL,    /* member, epoch */
	AIDB_ACT_PROMOTE, /* member, epoch: a sealed standby, the primary of a lower epoch, or the server of a new group */
	AIDB_ACT_SET_IN_SYNC, /* at the primary `member`: commits wait for `other` (0: for none); bears `version` */
	AIDB_ACT_FOLLOW,      /* `member` follows `other`, copied anew */
	AIDB_ACT_RENEW_LEASE, /* of the primary `member` */
} aidb_action_kind;

typedef struct aidb_action {
	aidb_action_kind kind;
	uint32_t member;
	uint32_t other;
	uint64_t epoch;
	uint64_t version;
	aidb_group_record record;
	const char *reason; /* a sentence for people; static */
} aidb_action;

/* A coordinator's view of a group. Zero-initialise; record and reports are set by the caller as they come. */
typedef struct aidb_failover {
	aidb_group_record record;
	aidb_member_report reports[AIDB_MAX_MEMBERS]; /* of record.members[i] */
	bool stale;                                   /* the record has to be read before anything is done */
	uint64_t claimed; /* the version of a record that this coordinator wrote to act upon; 0: none */
	bool claim_used;  /* it was sent to the primary, with `claimed_for`: nothing else may bear the same version */
	uint32_t claimed_for;
	uint32_t caught_up;      /* the member that the primary waits for, and that has everything, as of `claimed` */
	uint64_t lease_until_ms; /* a primary may serve reads until then, by this coordinator's clock, as far as it knows */
	uint64_t renew_at_ms;
	uint64_t leased; /* the epoch whose primary has had a lease for certain; 0: none */
	/* an operator's command; 0 and false when done */
	uint32_t wanted_primary;
	bool allow_data_loss;
} aidb_failover;

typedef struct aidb_failover_options {
	uint32_t lease_ms;       /* of a primary */
	uint32_t lease_grace_ms; /* how much longer to wait, for clocks that differ */
} aidb_failover_options;

/* The next action, for `now_ms` of a monotonic clock. Remembers a lease that it gives. */
aidb_action aidb_failover_next(aidb_failover *self, const aidb_failover_options *options, uint64_t now_ms);
/* The action has succeeded. For AIDB_ACT_RECORD the caller takes the record over by this. */
void aidb_failover_done(aidb_failover *self, const aidb_action *action);
/* It has failed, or whether it has is not known. After a change of the record nothing is done until the caller has read it. */
void aidb_failover_failed(aidb_failover *self, const aidb_action *action);
/* A coordinator that starts, or may act again, knows neither what leases were given nor what was recorded: all leases count as
 * given now, and nothing is done before the caller has read the record, by a request that is sent after this. */
void aidb_failover_start(aidb_failover *self, const aidb_failover_options *options, uint64_t now_ms);
/* A record that was read from the catalog. Reports of members that stay are kept. */
void aidb_failover_set_record(aidb_failover *self, const aidb_group_record *record);
/* The report of a member; NULL: it is none. */
aidb_member_report *aidb_failover_report(aidb_failover *self, uint32_t member);

#endif
