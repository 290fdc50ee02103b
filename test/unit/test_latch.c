#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "arena_fixture.h"

#define WORKERS 8
#define ROUNDS 20000u
#define HOLD_US 350000u /* several times the period at which waiters look for a dead owner */
#define LOST_US 1000000u

enum { READY, GO, WAKES, LOST_WAKES, TURN };

/*
 * The thread host, but a wait that its waker has forgotten takes a second (the thread host's longest) instead of the
 * short time after which waiters look again by themselves, and is counted.
 */
static aidb_host patient;
static aidb_host base;
static fixture_shared *counted;

static int wait_patiently(void *context, uint32_t *word, uint32_t expected, uint64_t timeout_us,
						  aidb_wait_reason reason) {
	uint64_t start_us = base.clock_us(context);

	(void)timeout_us;
	(void)base.wait(context, word, expected, LOST_US, reason);
	if (base.clock_us(context) - start_us >= LOST_US) {
		atomic_fetch_add(&counted->words[LOST_WAKES], 1);
	}
	return 0;
}

static void count_wake(void *context, uint32_t *word) {
	atomic_fetch_add(&counted->words[WAKES], 1);
	base.wake(context, word);
}

static int interrupt(void *context, uint32_t *word, uint32_t expected, uint64_t timeout_us, aidb_wait_reason reason) {
	(void)context, (void)word, (void)expected, (void)timeout_us;
	return reason == AIDB_WAIT_ROOM ? EINTR : 0;
}

static void be_patient(arena_fixture *fixture) {
	base = *fixture->host;
	patient = base;
	patient.wait = wait_patiently;
	patient.wake = count_wake;
	counted = fixture->shared;
	fixture->arena.waiting.host = &patient;
}

static int set_up(void **state) {
	static arena_fixture fixture;

	fixture_create(&fixture, 1 << 20, 32);
	*state = &fixture;
	return 0;
}

static int tear_down(void **state) {
	fixture_destroy(*state);
	return 0;
}

/* ---- Latches ------------------------------------------------------------------------------------------- */

static void count_up(arena_fixture *fixture, unsigned number, void *argument) {
	const lsm_waiting *waiting = &fixture->arena.waiting;
	fixture_shared *shared = fixture->shared;

	(void)number, (void)argument;
	for (unsigned i = 0; i < ROUNDS; i++) {
		if (i % 8 == 0 && lsm_latch_try(waiting, &shared->latch)) {
			shared->counter++;
			lsm_latch_release(waiting, &shared->latch);
			continue;
		}
		EXPECT(fixture, lsm_latch_acquire(waiting, &shared->latch));
		shared->counter++;
		if (i % 128 == 1) {
			fixture_sleep_us(1); /* long enough for the others to fall asleep */
		}
		lsm_latch_release(waiting, &shared->latch);
	}
}

static void test_threads_exclude_each_other(void **state) {
	arena_fixture *fixture = *state;

	be_patient(fixture);
	fixture_run_threads(fixture, WORKERS, count_up, NULL);
	assert_int_equal(fixture->shared->counter, WORKERS * ROUNDS);
	assert_int_equal(atomic_load(&fixture->shared->latch.word), 0);
	assert_int_equal(atomic_load(&fixture->shared->words[LOST_WAKES]), 0);
	assert_int_equal(fixture_failures(fixture), 0);
}

static void test_processes_exclude_each_other(void **state) {
	arena_fixture *fixture = *state;

	be_patient(fixture);
	fixture_run_processes(fixture, 4, count_up, NULL);
	assert_int_equal(fixture->shared->counter, 4 * ROUNDS);
	assert_int_equal(atomic_load(&fixture->shared->words[LOST_WAKES]), 0);
	assert_int_equal(fixture_failures(fixture), 0);
}

static void test_try_and_poison(void **state) {
	arena_fixture *fixture = *state;
	const lsm_waiting *waiting = &fixture->arena.waiting;
	lsm_latch *latch = &fixture->shared->latch;

	assert_true(lsm_latch_try(waiting, latch));
	assert_false(lsm_latch_try(waiting, latch));
	lsm_latch_release(waiting, latch);
	atomic_store(waiting->poisoned, 1);
	assert_false(lsm_latch_try(waiting, latch));
	assert_false(lsm_latch_acquire(waiting, latch));
	assert_int_equal(atomic_load(&latch->word), 0);
}

static void test_uncontended_use_calls_nobody(void **state) {
	arena_fixture *fixture = *state;
	const lsm_waiting *waiting = &fixture->arena.waiting;

	be_patient(fixture);
	assert_true(lsm_latch_acquire(waiting, &fixture->shared->latch));
	lsm_latch_release(waiting, &fixture->shared->latch);
	lsm_event_signal(waiting, &fixture->shared->event);
	assert_int_equal(atomic_load(&fixture->shared->words[WAKES]), 0);
}

static void hold_or_wait(arena_fixture *fixture, unsigned number, void *argument) {
	const lsm_waiting *waiting = &fixture->arena.waiting;
	fixture_shared *shared = fixture->shared;

	(void)argument;
	if (number == 0) {
		EXPECT(fixture, lsm_latch_acquire(waiting, &shared->latch));
		atomic_store(&shared->words[READY], 1);
		fixture_sleep_us(HOLD_US);
		lsm_latch_release(waiting, &shared->latch);
	} else {
		EXPECT(fixture, fixture_await(&shared->words[READY], 1));
		EXPECT(fixture, lsm_latch_acquire(waiting, &shared->latch));
		lsm_latch_release(waiting, &shared->latch);
	}
}

static void test_slow_owner_is_not_dead(void **state) {
	arena_fixture *fixture = *state;

	fixture_run_threads(fixture, 3, hold_or_wait, NULL);
	assert_int_equal(atomic_load(&fixture->shared->poisoned), 0);
	atomic_store(&fixture->shared->words[READY], 0);
	fixture_run_processes(fixture, 3, hold_or_wait, NULL);
	assert_int_equal(atomic_load(&fixture->shared->poisoned), 0);
	assert_int_equal(fixture_failures(fixture), 0);
}

static void fail_to_acquire(arena_fixture *fixture, unsigned number, void *argument) {
	(void)number, (void)argument;
	EXPECT(fixture, !lsm_latch_acquire(&fixture->arena.waiting, &fixture->shared->latch));
	EXPECT(fixture, atomic_load(&fixture->shared->poisoned) == 1);
}

/* Forks a child that takes the latch and is killed with it. */
static pid_t kill_an_owner(arena_fixture *fixture) {
	fixture_shared *shared = fixture->shared;
	pid_t child = fork();

	if (child == 0) {
		if (lsm_latch_acquire(&fixture->arena.waiting, &shared->latch)) {
			atomic_store(&shared->words[READY], 1);
		}
		for (;;) {
			pause();
		}
	}
	assert_true(child > 0);
	assert_true(fixture_await(&shared->words[READY], 1));
	assert_int_equal(kill(child, SIGKILL), 0);
	return child;
}

static void test_killed_owner_poisons(void **state) {
	arena_fixture *fixture = *state;
	pid_t child = kill_an_owner(fixture);

	/* Nobody has reaped the child yet. */
	fixture_run_threads(fixture, 3, fail_to_acquire, NULL);
	assert_int_equal(waitpid(child, NULL, 0), child);
	assert_int_equal(fixture_failures(fixture), 0);
}

static void test_reaped_owner_poisons(void **state) {
	arena_fixture *fixture = *state;
	pid_t child = kill_an_owner(fixture);

	assert_int_equal(waitpid(child, NULL, 0), child);
	fixture_run_processes(fixture, 3, fail_to_acquire, NULL);
	assert_int_equal(fixture_failures(fixture), 0);
}

static void take_and_leave(arena_fixture *fixture, unsigned number, void *argument) {
	(void)number, (void)argument;
	EXPECT(fixture, lsm_latch_acquire(&fixture->arena.waiting, &fixture->shared->latch));
}

static void test_ended_thread_poisons(void **state) {
	arena_fixture *fixture = *state;

	assert_int_equal(fixture_member(fixture), 0); /* so that the thread gets another number than ours */
	fixture_run_threads(fixture, 1, take_and_leave, NULL);
	fail_to_acquire(fixture, 0, NULL);
	assert_int_equal(fixture_failures(fixture), 0);
}

static void test_predecessors_latch_poisons(void **state) {
	arena_fixture *fixture = *state;

	fixture_run_threads(fixture, 1, take_and_leave, NULL);
	assert_int_equal(fixture_member(fixture), 0); /* the number that the thread had */
	fail_to_acquire(fixture, 0, NULL);
	assert_int_equal(fixture_failures(fixture), 0);
}

/* ---- Events -------------------------------------------------------------------------------------------- */

/* Two members take turns; each wakes the other and then waits for it. */
static void take_turns(arena_fixture *fixture, unsigned number, void *argument) {
	const lsm_waiting *waiting = &fixture->arena.waiting;
	fixture_shared *shared = fixture->shared;

	(void)argument;
	for (unsigned i = 0; i < ROUNDS / 4; i++) {
		for (;;) {
			uint32_t ticket = lsm_event_prepare(&shared->event);

			if (atomic_load(&shared->words[TURN]) % 2 == number) {
				break;
			}
			EXPECT(fixture, lsm_event_wait(waiting, &shared->event, ticket, 5000000, AIDB_WAIT_JOB) == AIDB_OK);
		}
		atomic_fetch_add(&shared->words[TURN], 1);
		lsm_event_signal(waiting, &shared->event);
	}
}

static void test_no_signal_is_lost(void **state) {
	arena_fixture *fixture = *state;

	be_patient(fixture);
	fixture_run_threads(fixture, 2, take_turns, NULL);
	fixture_run_processes(fixture, 2, take_turns, NULL);
	assert_int_equal(atomic_load(&fixture->shared->words[TURN]), 4 * (ROUNDS / 4));
	assert_int_equal(atomic_load(&fixture->shared->words[LOST_WAKES]), 0);
	assert_int_equal(atomic_load(&fixture->shared->event.waiters), 0);
	assert_int_equal(fixture_failures(fixture), 0);
}

static void test_wait_ends_in_time(void **state) {
	arena_fixture *fixture = *state;
	const lsm_waiting *waiting = &fixture->arena.waiting;
	lsm_event *event = &fixture->shared->event;
	uint64_t start_us = fixture->host->clock_us(fixture->host->context);
	uint32_t ticket = lsm_event_prepare(event);

	assert_int_equal(lsm_event_wait(waiting, event, ticket, 150000, AIDB_WAIT_ROOM), AIDB_OK);
	assert_true(fixture->host->clock_us(fixture->host->context) - start_us >= 150000);
	lsm_event_signal(waiting, event);
	start_us = fixture->host->clock_us(fixture->host->context);
	assert_int_equal(lsm_event_wait(waiting, event, ticket, UINT64_MAX, AIDB_WAIT_ROOM), AIDB_OK);
	assert_true(fixture->host->clock_us(fixture->host->context) - start_us < 10000000);
}

static void test_wait_can_be_interrupted(void **state) {
	arena_fixture *fixture = *state;
	aidb_host host = *fixture->host;
	lsm_waiting waiting = {&host, &fixture->shared->poisoned};
	lsm_event *event = &fixture->shared->event;

	host.wait = interrupt;
	assert_int_equal(lsm_event_wait(&waiting, event, lsm_event_prepare(event), 1000000, AIDB_WAIT_ROOM),
					 AIDB_INTERRUPTED);
	assert_int_equal(atomic_load(&event->waiters), 0);
}

static void wait_for_poison(arena_fixture *fixture, unsigned number, void *argument) {
	lsm_event *event = &fixture->shared->event;

	(void)argument;
	if (number == 0) {
		atomic_store(&fixture->shared->poisoned, 1);
		return;
	}
	EXPECT(fixture, lsm_event_wait(&fixture->arena.waiting, event, lsm_event_prepare(event), UINT64_MAX,
								   AIDB_WAIT_JOB) == AIDB_POISONED);
}

static void test_poison_ends_waits(void **state) {
	arena_fixture *fixture = *state;

	fixture_run_threads(fixture, 3, wait_for_poison, NULL);
	assert_int_equal(atomic_load(&fixture->shared->event.waiters), 0);
	assert_int_equal(fixture_failures(fixture), 0);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void) {
	const struct CMUnitTest tests[] = {
		CASE(test_threads_exclude_each_other),
		CASE(test_processes_exclude_each_other),
		CASE(test_try_and_poison),
		CASE(test_uncontended_use_calls_nobody),
		CASE(test_slow_owner_is_not_dead),
		CASE(test_killed_owner_poisons),
		CASE(test_reaped_owner_poisons),
		CASE(test_ended_thread_poisons),
		CASE(test_predecessors_latch_poisons),
		CASE(test_no_signal_is_lost),
		CASE(test_wait_ends_in_time),
		CASE(test_wait_can_be_interrupted),
		CASE(test_poison_ends_waits),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
