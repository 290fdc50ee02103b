/*
 * The autoscaler against simulated load: a group whose nodes share the reads, and answer later the busier they are; a node that is
 * ordered serves after a while. Whatever the load does:
 *
 *   - there are never fewer caching read nodes than the least, nor more than the most;
 *   - between two actions there is the pause, and a node is added or removed only when that was wanted for as long as it is to be, of this
 *     number of nodes;
 *   - a load that has come to rest is served within the target, by no more nodes than it needs, and then nothing happens any more;
 *   - a load that comes and goes quickly does not make nodes come and go;
 *   - without data nothing happens.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "control/autoscale.h"
#include "random.h"

#define STEP_MS 5000
#define ORDER_MS 30000 /* until a node serves */

static const aidb_autoscale_policy policy = {.min_caches = 0,
											 .max_caches = 5,
											 .target_reads = 10000,
											 .target_latency_ms = 20,
											 .max_lag_ms = 10000,
											 .min_hit_rate = 0.2,
											 .up_after_ms = 30000,
											 .down_after_ms = 300000,
											 .pause_ms = 60000,
											 .max_gap_ms = 4 * STEP_MS};

typedef struct world {
	aidb_autoscale scaler;
	uint64_t now_ms;
	uint32_t caches, ordered;
	uint64_t ordered_at_ms, acted_at_ms;
	uint32_t adds, removes;
	double overload; /* the most that a node had, of its target, in the last half hour */
} world;

static double latency_at(double load) {
	return load < 1.9 ? 4 / (2 - load) : 40;
}

static void act(world *self, aidb_autoscale_action action) {
	if (action == AIDB_AUTOSCALE_NOTHING) {
		return;
	}
	if (self->acted_at_ms != 0) {
		uint64_t since_ms = self->now_ms - self->acted_at_ms;

		assert_true(since_ms >= policy.pause_ms);
		assert_true(since_ms >= (action == AIDB_AUTOSCALE_ADD ? policy.up_after_ms : policy.down_after_ms));
	}
	assert_true(strlen(self->scaler.reason) > 0);
	self->acted_at_ms = self->now_ms;
	if (action == AIDB_AUTOSCALE_ADD) {
		assert_true(self->caches + self->ordered < policy.max_caches);
		self->ordered++;
		self->ordered_at_ms = self->now_ms;
		self->adds++;
	} else {
		assert_true(self->caches > policy.min_caches);
		self->caches--;
		self->removes++;
	}
}

static void step(world *self, double reads, bool complete) {
	double load;

	self->now_ms += STEP_MS;
	if (self->ordered > 0 && self->now_ms - self->ordered_at_ms >= ORDER_MS) {
		self->caches += self->ordered;
		self->ordered = 0;
	}
	load = reads / policy.target_reads / (self->caches + 1);
	self->overload = load > self->overload ? load : self->overload;
	act(self, aidb_autoscale_step(&self->scaler, &policy,
								  &(aidb_autoscale_sample){.at_ms = self->now_ms,
														   .complete = complete,
														   .caches = self->caches + self->ordered,
														   .reads = reads,
														   .latency_ms = latency_at(load),
														   .hit_rate = self->caches > 0 ? 0.9 : -1}));
}

/* Until the load has been the same for two hours. */
static void rest(world *self, double reads) {
	uint32_t actions;

	for (int i = 0; i < 3600000 / STEP_MS; i++) {
		step(self, reads, true);
	}
	actions = self->adds + self->removes;
	self->overload = 0;
	for (int i = 0; i < 3600000 / STEP_MS; i++) {
		step(self, reads, true);
	}
	assert_int_equal(self->adds + self->removes, actions);
	if (reads <= policy.target_reads * (policy.max_caches + 1)) {
		assert_true(self->overload <= 1.1);
		assert_true(self->caches <= ceil(reads / policy.target_reads)); /* one more, by the tolerance, at most */
	} else {
		assert_int_equal(self->caches, policy.max_caches);
	}
}

static void steady_loads_are_served(void **state) {
	(void)state;
	for (double reads = 0; reads < 80000; reads += 3777) {
		world self = {.now_ms = 1000};

		rest(&self, reads);
		assert_int_equal(self.removes, 0);
	}
}

static void loads_that_fall_let_nodes_go(void **state) {
	world self = {.now_ms = 1000};

	(void)state;
	rest(&self, 55000);
	assert_int_equal(self.caches, 5);
	rest(&self, 0);
	assert_int_equal(self.caches, 0);
	assert_int_equal(self.adds, self.removes);
}

/* A day and a night: as many nodes come and go as the difference asks for. */
static void waves_are_followed(void **state) {
	world self = {.now_ms = 1000};
	const int day = 86400000 / STEP_MS;
	int served = 0;

	(void)state;
	for (int i = 0; i < 3 * day; i++) {
		double reads = 25000 - 20000 * cos(2 * M_PI * i / day);

		step(&self, reads, true);
		served += reads / policy.target_reads / (self.caches + 1) < 1.25;
	}
	assert_true(served > 3 * day * 0.99);
	assert_in_range(self.adds, 10, 15);
	assert_in_range(self.removes, 10, 15);
}

static void a_spike_is_no_reason(void **state) {
	world self = {.now_ms = 1000};

	(void)state;
	rest(&self, 9000);
	for (int i = 0; i < 20000 / STEP_MS; i++) {
		step(&self, 60000, true);
	}
	rest(&self, 9000);
	assert_int_equal(self.adds, 0);
	for (int i = 0; i < 180000 / STEP_MS; i++) { /* but one that lasts is */
		step(&self, 60000, true);
	}
	assert_in_range(self.adds, 2, 4);
	rest(&self, 9000);
	assert_int_equal(self.caches, 0);
}

/* Up and down, at many rates: nodes stay, or are enough for the upper load; they do not come and go. */
static void flapping_loads_do_not_make_nodes_flap(void **state) {
	(void)state;
	for (int half_ms = STEP_MS; half_ms <= 240000; half_ms += STEP_MS) {
		world self = {.now_ms = 1000};
		uint32_t before;

		for (int i = 0; i < 7200000 / STEP_MS; i++) {
			step(&self, i * STEP_MS / half_ms % 2 == 0 ? 35000 : 5000, true);
		}
		before = self.adds + self.removes;
		for (int i = 0; i < 7200000 / STEP_MS; i++) {
			step(&self, i * STEP_MS / half_ms % 2 == 0 ? 35000 : 5000, true);
		}
		assert_true(self.adds + self.removes - before <= 2);
	}
}

static void random_loads_keep_the_bounds(void **state) {
	test_random random = {.state = 7};
	world self = {.now_ms = 1000};

	(void)state;
	for (int i = 0; i < 200000; i++) {
		step(&self, (double)(test_random_next(&random) % 100000), test_random_next(&random) % 50 != 0);
	}
	assert_true(self.adds + self.removes < 2000);
}

static void nothing_is_done_on_missing_data(void **state) {
	world self = {.now_ms = 1000};

	(void)state;
	rest(&self, 25000);
	for (int i = 0; i < 100; i++) {
		step(&self, 0, false);
		step(&self, 90000, false);
	}
	assert_non_null(strstr(self.scaler.reason, "missing"));
	assert_int_equal(self.removes, 0);
	assert_int_equal(self.caches, 2);
	/* what was wanted before does not count either */
	for (int i = 0; i < 30000 / STEP_MS - 1; i++) {
		step(&self, 90000, true);
	}
	step(&self, 0, false);
	step(&self, 90000, true);
	assert_int_equal(self.caches + self.ordered, 2);
}

/* What was wanted long ago, and is wanted now, need not have been wanted in between. */
static void a_gap_is_missing_data(void **state) {
	aidb_autoscale scaler = {.caches = 0};
	aidb_autoscale_sample sample = {.at_ms = 1000, .complete = true, .reads = 90000, .hit_rate = -1, .latency_ms = 1};

	(void)state;
	for (int i = 0; i < 50; i++) {
		assert_int_equal(aidb_autoscale_step(&scaler, &policy, &sample), AIDB_AUTOSCALE_NOTHING);
		sample.at_ms += policy.max_gap_ms + 1;
	}
}

/* However seldom or often is measured. */
static void the_interval_does_not_matter(void **state) {
	(void)state;
	for (uint64_t interval_ms = 100; interval_ms <= policy.max_gap_ms; interval_ms += 700) {
		aidb_autoscale scaler = {.caches = 0};
		aidb_autoscale_sample sample = {.at_ms = 1000, .complete = true, .caches = 3, .hit_rate = -1};
		aidb_autoscale_action action = AIDB_AUTOSCALE_NOTHING;

		while (action == AIDB_AUTOSCALE_NOTHING) {
			assert_true(sample.at_ms <= 1000 + policy.down_after_ms + interval_ms);
			action = aidb_autoscale_step(&scaler, &policy, &sample);
			sample.at_ms += interval_ms;
		}
		assert_int_equal(action, AIDB_AUTOSCALE_REMOVE);
	}
}

/* One step after the load was wanted long enough, with something else that speaks against it. */
static void other_reasons_hold_it_back(void **state) {
	aidb_autoscale scaler = {.caches = 0};
	aidb_autoscale_sample sample = {
		.at_ms = 1000, .complete = true, .caches = 1, .reads = 90000, .hit_rate = 0.1, .latency_ms = 1};
	aidb_autoscale_action action = AIDB_AUTOSCALE_NOTHING;

	(void)state;
	for (; sample.at_ms < 100000; sample.at_ms += STEP_MS) {
		assert_int_equal(aidb_autoscale_step(&scaler, &policy, &sample), AIDB_AUTOSCALE_NOTHING);
	}
	assert_non_null(strstr(scaler.reason, "found in caches"));
	sample.lag_ms = 20000;
	assert_int_equal(aidb_autoscale_step(&scaler, &policy, &sample), AIDB_AUTOSCALE_NOTHING);
	assert_non_null(strstr(scaler.reason, "behind"));
	sample = (aidb_autoscale_sample){
		.at_ms = 200000, .complete = true, .caches = 1, .reads = 19000, .hit_rate = 0.9, .latency_ms = 30};
	for (; sample.at_ms < 300000 && action == AIDB_AUTOSCALE_NOTHING; sample.at_ms += STEP_MS) {
		action = aidb_autoscale_step(&scaler, &policy, &sample); /* answers are late, if there are not too many reads */
	}
	assert_int_equal(action, AIDB_AUTOSCALE_ADD);
}

int main(void) {
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(steady_loads_are_served),
		cmocka_unit_test(loads_that_fall_let_nodes_go),
		cmocka_unit_test(waves_are_followed),
		cmocka_unit_test(a_spike_is_no_reason),
		cmocka_unit_test(flapping_loads_do_not_make_nodes_flap),
		cmocka_unit_test(random_loads_keep_the_bounds),
		cmocka_unit_test(nothing_is_done_on_missing_data),
		cmocka_unit_test(a_gap_is_missing_data),
		cmocka_unit_test(the_interval_does_not_matter),
		cmocka_unit_test(other_reasons_hold_it_back),
	};

	return cmocka_run_group_tests_name("autoscale", tests, NULL, NULL);
}
