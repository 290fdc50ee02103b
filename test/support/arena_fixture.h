/*
 * arena_fixture.h: what tests of shared structures have in common: an arena that forked processes share, threads and
 * processes to use it with, random numbers from a seed that is printed, and checks that any of them may make.
 *
 * cmocka's own assertions belong to the main thread of the test program; workers use EXPECT.
 */
#ifndef ARENA_FIXTURE_H
#define ARENA_FIXTURE_H

#include "store/arena.h"

/* Shared by all members of one fixture; lies at the arena's beginning. */
typedef struct fixture_shared {
	lsm_epochs epochs;
	_Atomic uint32_t poisoned;
	_Atomic uint32_t failures;
	_Atomic uint32_t words[8]; /* for the test's own use, like the rest */
	lsm_latch latch;
	lsm_event event;
	uint64_t counter;
} fixture_shared;

typedef struct arena_fixture {
	lsm_arena arena;
	aidb_host *host; /* a thread host */
	fixture_shared *shared;
	lsm_ref mark; /* memory from here on is free */
} arena_fixture;

/* Both end the program when the system refuses. */
void fixture_create(arena_fixture *fixture, uint64_t bytes, uint32_t members);
void fixture_destroy(arena_fixture *fixture);
/* Zeroed memory out of the arena; `alignment` is a power of two. */
lsm_ref fixture_take(arena_fixture *fixture, uint64_t bytes, uint64_t alignment);
uint32_t fixture_member(const arena_fixture *fixture);

typedef void (*fixture_worker)(arena_fixture *fixture, unsigned number, void *argument);

/* Runs `count` threads or processes to their end. A process that does not end well counts as a failed check. */
void fixture_run_threads(arena_fixture *fixture, unsigned count, fixture_worker worker, void *argument);
void fixture_run_processes(arena_fixture *fixture, unsigned count, fixture_worker worker, void *argument);

void fixture_fail(arena_fixture *fixture, const char *file, int line, const char *text);
#define EXPECT(fixture, condition) ((condition) ? (void)0 : fixture_fail(fixture, __FILE__, __LINE__, #condition))
uint32_t fixture_failures(const arena_fixture *fixture);

void fixture_sleep_us(uint64_t us);
/* Waits, 20 seconds at most, until *word has the value; false when it does not come. */
bool fixture_await(_Atomic uint32_t *word, uint32_t value);

/* From AIDB_TEST_SEED, or of the moment; printed once. */
uint64_t fixture_seed(void);
/* splitmix64. */
uint64_t fixture_random(uint64_t *state);

#endif
