#include "control/autoscale.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>

#define TOLERANCE 0.1 /* about so much more or less load than the target is none of our business */

static void because(aidb_autoscale *self, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void because(aidb_autoscale *self, const char *format, ...) {
	va_list arguments;

	va_start(arguments, format);
	(void)vsnprintf(self->reason, sizeof(self->reason), format, arguments);
	va_end(arguments);
}

static uint32_t clamp(const aidb_autoscale_policy *policy, double caches) {
	return caches < policy->min_caches   ? policy->min_caches
		   : caches > policy->max_caches ? policy->max_caches
										 : (uint32_t)caches;
}

/* How many caching read nodes the load asks for; the primary serves reads besides. */
static uint32_t wanted_caches(const aidb_autoscale_policy *policy, const aidb_autoscale_sample *sample) {
	double nodes = sample->caches + 1, load = sample->reads / policy->target_reads;
	double wanted = fabs(load / nodes - 1) <= TOLERANCE ? nodes : ceil(load);

	if (policy->target_latency_ms > 0 && sample->latency_ms > policy->target_latency_ms && wanted <= nodes) {
		wanted = nodes + 1;
	}
	return clamp(policy, wanted - 1);
}

/* What was wanted before counts no more. */
static void forget(aidb_autoscale *self) {
	self->more_since_ms = self->fewer_since_ms = 0;
}

static void note_since(uint64_t *since_ms, bool wanted, uint64_t now_ms) {
	*since_ms = !wanted ? 0 : *since_ms != 0 ? *since_ms : now_ms;
}

/* Since when more or fewer nodes are wanted than there are: another number of them is judged anew, as it is after a gap. */
static void remember(aidb_autoscale *self, const aidb_autoscale_policy *policy, const aidb_autoscale_sample *sample,
					 uint32_t wanted) {
	if (sample->caches != self->caches || sample->at_ms - self->sampled_at_ms > policy->max_gap_ms) {
		forget(self);
	}
	self->caches = sample->caches;
	self->sampled_at_ms = sample->at_ms;
	note_since(&self->more_since_ms, wanted > sample->caches, sample->at_ms);
	note_since(&self->fewer_since_ms, wanted < sample->caches, sample->at_ms);
}

static bool has_lasted(uint64_t since_ms, uint64_t now_ms, uint64_t for_ms) {
	return since_ms != 0 && now_ms - since_ms >= for_ms;
}

static bool is_pausing(const aidb_autoscale *self, const aidb_autoscale_policy *policy, uint64_t now_ms) {
	return self->acted_at_ms != 0 && now_ms - self->acted_at_ms < policy->pause_ms;
}

/* Why nothing is to be done, whatever the load is. */
static bool is_unfit(aidb_autoscale *self, const aidb_autoscale_policy *policy, const aidb_autoscale_sample *sample) {
	if (!sample->complete || !(policy->target_reads > 0)) {
		forget(self);
		because(self, "not every node has answered: nothing is done on missing data");
		return true;
	}
	if (policy->max_lag_ms > 0 && sample->lag_ms > policy->max_lag_ms) {
		forget(self);
		because(self, "a replica is %.0f ms behind: the number of them is not what is wrong", sample->lag_ms);
		return true;
	}
	return false;
}

static aidb_autoscale_action act(aidb_autoscale *self, const aidb_autoscale_sample *sample,
								 aidb_autoscale_action action) {
	self->acted_at_ms = sample->at_ms;
	return action;
}

aidb_autoscale_action aidb_autoscale_step(aidb_autoscale *self, const aidb_autoscale_policy *policy,
										  const aidb_autoscale_sample *sample) {
	uint32_t wanted;

	if (is_unfit(self, policy, sample)) {
		return AIDB_AUTOSCALE_NOTHING;
	}
	wanted = wanted_caches(policy, sample);
	remember(self, policy, sample, wanted);
	because(self, "%.0f reads/s on %u nodes, %.1f ms: %u caching read nodes are right, and there are %u", sample->reads,
			sample->caches + 1, sample->latency_ms, wanted, sample->caches);
	if (wanted == sample->caches || is_pausing(self, policy, sample->at_ms)) {
		return AIDB_AUTOSCALE_NOTHING;
	}
	if (sample->caches < policy->min_caches) {
		return act(self, sample, AIDB_AUTOSCALE_ADD);
	}
	if (sample->caches > policy->max_caches) {
		return act(self, sample, AIDB_AUTOSCALE_REMOVE);
	}
	if (has_lasted(self->more_since_ms, sample->at_ms, policy->up_after_ms)) {
		if (sample->caches > 0 && sample->hit_rate >= 0 && sample->hit_rate < policy->min_hit_rate) {
			because(self, "only %.0f %% of reads are found in caches: another one would not help",
					100 * sample->hit_rate);
			return AIDB_AUTOSCALE_NOTHING;
		}
		return act(self, sample, AIDB_AUTOSCALE_ADD);
	}
	if (has_lasted(self->fewer_since_ms, sample->at_ms, policy->down_after_ms)) {
		return act(self, sample, AIDB_AUTOSCALE_REMOVE);
	}
	return AIDB_AUTOSCALE_NOTHING;
}
