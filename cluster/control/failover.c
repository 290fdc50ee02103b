#include "control/failover.h"

#include <stddef.h>
#include <string.h>

/* A rule looks whether it applies and then fills in the action. The first that does is it. */
typedef struct situation {
	aidb_failover *self;
	const aidb_failover_options *options;
	uint64_t now_ms;
} situation;
typedef bool (*rule_function)(const situation *at, aidb_action *action);

static const aidb_member_report *report_of(const aidb_failover *self, uint32_t member) {
	for (uint32_t i = 0; i < self->record.member_count; i++) {
		if (self->record.members[i] == member) {
			return &self->reports[i];
		}
	}
	return NULL;
}

aidb_member_report *aidb_failover_report(aidb_failover *self, uint32_t member) {
	return (aidb_member_report *)report_of(self, member);
}

static bool is_up(const aidb_failover *self, uint32_t member) {
	const aidb_member_report *report = report_of(self, member);

	return report != NULL && report->known && report->up;
}

static bool is_down(const aidb_failover *self, uint32_t member) {
	const aidb_member_report *report = report_of(self, member);

	return report == NULL || report->down;
}

/* The recorded primary is up and the primary of the recorded epoch. */
static bool primary_serves(const aidb_failover *self) {
	const aidb_member_report *report = report_of(self, self->record.primary);

	return is_up(self, self->record.primary) && report->role == AIDB_MEMBER_PRIMARY && !report->sealed &&
		   report->epoch == self->record.epoch;
}

/* It follows the primary of this epoch, and has caught up. */
static bool is_streaming(const aidb_failover *self, uint32_t member) {
	const aidb_member_report *report = report_of(self, member);

	return is_up(self, member) && report->role == AIDB_MEMBER_STANDBY && !report->sealed && report->streaming &&
		   report->epoch == self->record.epoch && report->follows == self->record.primary;
}

static uint64_t highest_epoch(const aidb_failover *self) {
	uint64_t highest = self->record.epoch;

	for (uint32_t i = 0; i < self->record.member_count; i++) {
		if (self->reports[i].known && self->reports[i].epoch > highest) {
			highest = self->reports[i].epoch;
		}
	}
	return highest;
}

/* A change of the record. */
static void change_record(const aidb_failover *self, aidb_action *action) {
	action->kind = AIDB_ACT_RECORD;
	action->record = self->record;
	action->record.version++;
}

/* Whether the primary's set may be changed to this now: only with a version that was never used for anything else. */
static bool claim(aidb_failover *self, uint32_t member, aidb_action *action) {
	if (self->claimed != self->record.version || (self->claim_used && self->claimed_for != member)) {
		change_record(self, action);
		return false;
	}
	self->claim_used = true;
	self->claimed_for = member;
	return true;
}

static void set_in_sync(aidb_failover *self, uint32_t member, aidb_action *action) {
	if (claim(self, member, action)) {
		action->kind = AIDB_ACT_SET_IN_SYNC;
		action->member = self->record.primary;
		action->other = member;
		action->epoch = self->record.epoch;
		action->version = self->claimed;
	}
}

/* ---- Rules ----------------------------------------------------------------------------------------------- */

static bool promote_recorded(const situation *at, aidb_action *action) {
	aidb_failover *self = at->self;
	const aidb_member_report *report = report_of(self, self->record.primary);
	bool sealed_for_it, goes_on, is_new;

	if (!is_up(self, self->record.primary)) {
		return false;
	}
	sealed_for_it = report->role == AIDB_MEMBER_STANDBY && report->sealed && report->epoch == self->record.epoch;
	goes_on = report->role == AIDB_MEMBER_PRIMARY && report->epoch < self->record.epoch;
	is_new = report->role == AIDB_MEMBER_ALONE && self->record.version == 1 && self->record.epoch == 1;
	if (!sealed_for_it && !goes_on && !is_new) {
		return false;
	}
	action->kind = AIDB_ACT_PROMOTE;
	action->member = self->record.primary;
	action->epoch = self->record.epoch;
	return true;
}

/* Has all that was acknowledged, or the operator does without the rest. */
static bool may_be_promoted(const aidb_failover *self, uint32_t member) {
	return member == self->record.in_sync || self->allow_data_loss;
}

static bool record_sealed(const situation *at, aidb_action *action) {
	aidb_failover *self = at->self;
	for (uint32_t i = 0; i < self->record.member_count; i++) {
		const aidb_member_report *report = &self->reports[i];
		uint32_t member = self->record.members[i];

		if (member == self->record.primary || !is_up(self, member) || report->role != AIDB_MEMBER_STANDBY ||
			!report->sealed || report->epoch <= self->record.epoch || !may_be_promoted(self, member)) {
			continue;
		}
		if (at->now_ms < self->lease_until_ms) {
			return true; /* nothing else until the old primary does not serve reads any more */
		}
		change_record(self, action);
		action->record.epoch = report->epoch;
		action->record.primary = member;
		action->record.in_sync = 0;
		return true;
	}
	return false;
}

/* A member was sealed, and its failover did not come to an end; or it has told the primary of its epoch, which has sealed
 * itself. The primary that is recorded has every acknowledged commit: it goes on, in an epoch above all. */
static bool raise_epoch(const situation *at, aidb_action *action) {
	aidb_failover *self = at->self;
	const aidb_member_report *primary = report_of(self, self->record.primary);
	bool outdone = false;

	if (!is_up(self, self->record.primary) || primary->role != AIDB_MEMBER_PRIMARY) {
		return false;
	}
	for (uint32_t i = 0; i < self->record.member_count; i++) {
		outdone = outdone || (is_up(self, self->record.members[i]) && self->reports[i].epoch > self->record.epoch);
	}
	if (!outdone && !primary->sealed) {
		return false;
	}
	change_record(self, action);
	action->record.epoch = highest_epoch(self) + 1;
	return true;
}

/* The standby that has most; 0: none is up. */
static uint32_t best_standby(const aidb_failover *self) {
	uint32_t best = 0;
	uint64_t applied = 0;

	for (uint32_t i = 0; i < self->record.member_count; i++) {
		uint32_t member = self->record.members[i];

		if (member != self->record.primary && is_up(self, member) && self->reports[i].role == AIDB_MEMBER_STANDBY &&
			(best == 0 || self->reports[i].applied > applied)) {
			best = member;
			applied = self->reports[i].applied;
		}
	}
	return best;
}

static bool seal(const aidb_failover *self, uint32_t member, aidb_action *action) {
	action->kind = AIDB_ACT_SEAL;
	action->member = member;
	action->epoch = highest_epoch(self) + 1;
	return true;
}

/* Down, or up and not the primary any more. A server that is just starting is neither. */
static bool primary_is_lost(const aidb_failover *self) {
	return is_down(self, self->record.primary) || (is_up(self, self->record.primary) && !primary_serves(self));
}

static bool seal_in_sync(const situation *at, aidb_action *action) {
	aidb_failover *self = at->self;
	uint32_t member = self->record.in_sync;

	if (!primary_is_lost(self) || member == 0 || !is_up(self, member) ||
		report_of(self, member)->role != AIDB_MEMBER_STANDBY) {
		return false;
	}
	return seal(self, member, action);
}

static bool seal_any(const situation *at, aidb_action *action) {
	aidb_failover *self = at->self;
	uint32_t member = best_standby(self);

	if (!primary_is_lost(self) || !self->allow_data_loss || member == 0) {
		return false;
	}
	return seal(self, member, action);
}

static bool seal_wanted(const situation *at, aidb_action *action) {
	aidb_failover *self = at->self;
	uint32_t member = self->wanted_primary;

	if (member == 0 || member == self->record.primary || !is_up(self, member) ||
		report_of(self, member)->role != AIDB_MEMBER_STANDBY || !may_be_promoted(self, member)) {
		return false;
	}
	return seal(self, member, action);
}

/* Up, but no standby of this primary: it is to be copied anew, and what waits for it would be missing from the copy. */
static bool is_estranged(const aidb_failover *self, uint32_t member) {
	const aidb_member_report *report = report_of(self, member);

	return is_up(self, member) &&
		   (report->role != AIDB_MEMBER_STANDBY || report->sealed || report->follows != self->record.primary);
}

static bool is_away(const aidb_failover *self, uint32_t member) {
	return is_down(self, member) || is_estranged(self, member);
}

static bool shrink_record(const situation *at, aidb_action *action) {
	aidb_failover *self = at->self;
	uint32_t member = self->record.in_sync;

	if (!primary_serves(self) || member == 0 || !is_away(self, member)) {
		return false;
	}
	change_record(self, action);
	action->record.in_sync = 0;
	return true;
}

static bool shrink_primary(const situation *at, aidb_action *action) {
	aidb_failover *self = at->self;
	uint32_t waits_for = primary_serves(self) ? report_of(self, self->record.primary)->waits_for : 0;

	if (waits_for == 0 || self->record.in_sync != 0 || (self->record.synchronous && !is_away(self, waits_for))) {
		return false;
	}
	set_in_sync(self, 0, action);
	return true;
}

static bool restore_primary(const situation *at, aidb_action *action) {
	aidb_failover *self = at->self;
	if (!primary_serves(self) || self->record.in_sync == 0 ||
		report_of(self, self->record.primary)->waits_for == self->record.in_sync) {
		return false;
	}
	set_in_sync(self, self->record.in_sync, action);
	return true;
}

static bool grow_record(const situation *at, aidb_action *action) {
	aidb_failover *self = at->self;
	if (!primary_serves(self) || self->record.in_sync != 0 || self->caught_up == 0 ||
		self->claimed != self->record.version || !self->record.synchronous) {
		return false;
	}
	change_record(self, action);
	action->record.in_sync = self->caught_up;
	return true;
}

static bool renew_lease(const situation *at, aidb_action *action) {
	aidb_failover *self = at->self;
	if (!primary_serves(self) || !self->record.synchronous || at->now_ms < self->renew_at_ms) {
		return false;
	}
	action->kind = AIDB_ACT_RENEW_LEASE;
	action->member = self->record.primary;
	action->epoch = self->record.epoch;
	self->lease_until_ms = at->now_ms + at->options->lease_ms + at->options->lease_grace_ms; /* should it arrive */
	self->renew_at_ms = at->now_ms + at->options->lease_ms / 3;
	return true;
}

static bool grow_primary(const situation *at, aidb_action *action) {
	aidb_failover *self = at->self;
	uint32_t waits_for;

	if (!primary_serves(self) || self->record.in_sync != 0 || !self->record.synchronous) {
		return false;
	}
	if (self->leased != self->record.epoch) {
		self->renew_at_ms = at->now_ms; /* from its first lease on, it serves no reads without one */
		return renew_lease(at, action);
	}
	waits_for = report_of(self, self->record.primary)->waits_for;
	for (uint32_t i = 0; i < self->record.member_count; i++) {
		uint32_t member = self->record.members[i];

		if (is_streaming(self, member) && (waits_for == 0 || waits_for == member)) {
			set_in_sync(self, member, action);
			return true;
		}
	}
	return false;
}

/* Not the primary, and not its standby: what it has may be of another history, so it is copied anew. */
static bool follow_primary(const situation *at, aidb_action *action) {
	aidb_failover *self = at->self;
	if (!primary_serves(self)) {
		return false;
	}
	for (uint32_t i = 0; i < self->record.member_count; i++) {
		const aidb_member_report *report = &self->reports[i];
		uint32_t member = self->record.members[i];

		if (member == self->record.primary || !is_up(self, member)) {
			continue;
		}
		if (report->role != AIDB_MEMBER_STANDBY || report->sealed || report->follows != self->record.primary) {
			action->kind = AIDB_ACT_FOLLOW;
			action->member = member;
			action->other = self->record.primary;
			action->epoch = self->record.epoch;
			return true;
		}
	}
	return false;
}

static const struct {
	rule_function applies;
	const char *reason;
} rules[] = {
	{promote_recorded, "the primary of a new epoch is recorded: it takes over"},
	{record_sealed, "a standby that has everything is sealed: it is to be the primary"},
	{raise_epoch, "another epoch was begun and came to nothing: the primary goes on in a higher one"},
	{seal_in_sync, "the primary is lost: the in-sync standby is sealed, to take its place"},
	{seal_any, "the primary is lost, and losing data was allowed: the standby that has most is sealed"},
	{seal_wanted, "an operator wants another primary"},
	{shrink_record, "the in-sync standby is down, or follows nobody: commits are not to wait for it any more"},
	{shrink_primary, "no standby is in sync: the primary acknowledges alone"},
	{restore_primary, "commits must wait for the in-sync standby"},
	{grow_record, "the standby has every commit: it is in sync"},
	{grow_primary, "a standby follows: commits begin to wait for it"},
	{follow_primary, "a member does not follow the primary: it is copied anew"},
	{renew_lease, "the primary may serve reads"},
};

aidb_action aidb_failover_next(aidb_failover *self, const aidb_failover_options *options, uint64_t now_ms) {
	situation at = {self, options, now_ms};
	aidb_action action = {.kind = AIDB_ACT_NOTHING};

	for (size_t i = 0; i < sizeof(rules) / sizeof(rules[0]) && !self->stale; i++) {
		if (rules[i].applies(&at, &action)) {
			action.reason = rules[i].reason;
			break;
		}
	}
	return action;
}

void aidb_failover_done(aidb_failover *self, const aidb_action *action) {
	aidb_member_report *report = aidb_failover_report(self, action->member);

	switch (action->kind) {
	case AIDB_ACT_RECORD:
		if (action->record.primary != self->record.primary) {
			self->wanted_primary = 0;
			self->allow_data_loss = false;
		}
		self->record = action->record;
		self->claimed = action->record.version;
		self->claim_used = false;
		self->caught_up = 0;
		break;
	case AIDB_ACT_SET_IN_SYNC:
		if (action->version == self->claimed) {
			self->caught_up = action->other;
		}
		if (report != NULL) {
			report->waits_for = action->other;
		}
		break;
	case AIDB_ACT_RENEW_LEASE:
		self->leased = action->epoch;
		break;
	default:
		if (report != NULL) {
			report->known = false; /* until it says what it is now */
		}
		break;
	}
}

void aidb_failover_failed(aidb_failover *self, const aidb_action *action) {
	aidb_member_report *report = aidb_failover_report(self, action->member);

	if (action->kind == AIDB_ACT_RECORD) {
		self->stale = true;
	} else if (report != NULL) {
		report->known = false;
	}
}

void aidb_failover_start(aidb_failover *self, const aidb_failover_options *options, uint64_t now_ms) {
	self->stale = true;
	self->leased = 0;
	self->lease_until_ms = now_ms + options->lease_ms + options->lease_grace_ms;
}

void aidb_failover_set_record(aidb_failover *self, const aidb_group_record *record) {
	aidb_member_report reports[AIDB_MAX_MEMBERS] = {{0}};

	for (uint32_t i = 0; i < record->member_count; i++) {
		const aidb_member_report *known = report_of(self, record->members[i]);

		if (known != NULL) {
			reports[i] = *known;
		}
	}
	if (record->version != self->claimed) {
		self->caught_up = 0;
	}
	self->record = *record;
	self->stale = false;
	memcpy(self->reports, reports, sizeof(reports));
}
