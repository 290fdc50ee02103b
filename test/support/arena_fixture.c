#include "arena_fixture.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "host/thread_host.h"

#define MAX_WORKERS 16
#define AWAIT_US 20000000u
#define AWAIT_STEP_US 500u

static void must(bool condition, const char *what) {
	if (!condition) {
		perror(what);
		exit(1);
	}
}

void fixture_create(arena_fixture *fixture, uint64_t bytes, uint32_t members) {
	void *memory;

	must(lsm_thread_host_create(members, &fixture->host) == AIDB_OK, "thread host");
	memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	must(memory != MAP_FAILED, "mmap");
	fixture->arena = (lsm_arena){.base = memory, .bytes = bytes};
	fixture->mark = LSM_CACHE_LINE / LSM_REF_UNIT;
	fixture->shared = lsm_at(&fixture->arena, fixture_take(fixture, sizeof(fixture_shared), LSM_CACHE_LINE));
	fixture->arena.epochs = &fixture->shared->epochs;
	fixture->arena.waiting = (lsm_waiting){fixture->host, &fixture->shared->poisoned};
	atomic_store(&fixture->shared->epochs.current, 1);
	fixture->shared->epochs.members = members;
	fixture->shared->epochs.slots = fixture_take(fixture, members * sizeof(lsm_member_slot), LSM_CACHE_LINE);
}

void fixture_destroy(arena_fixture *fixture) {
	munmap(fixture->arena.base, fixture->arena.bytes);
	lsm_thread_host_destroy(fixture->host);
}

lsm_ref fixture_take(arena_fixture *fixture, uint64_t bytes, uint64_t alignment) {
	uint64_t begin = lsm_round_up((uint64_t)fixture->mark * LSM_REF_UNIT, alignment);

	must(begin + bytes <= fixture->arena.bytes, "the fixture's arena is too small");
	fixture->mark = (lsm_ref)(lsm_round_up(begin + bytes, LSM_REF_UNIT) / LSM_REF_UNIT);
	return (lsm_ref)(begin / LSM_REF_UNIT);
}

uint32_t fixture_member(const arena_fixture *fixture) {
	return fixture->host->member(fixture->host->context);
}

/* ---- Workers ------------------------------------------------------------------------------------------- */

typedef struct job {
	arena_fixture *fixture;
	unsigned number;
	fixture_worker worker;
	void *argument;
} job;

static void *run_job(void *argument) {
	const job *mine = argument;

	mine->worker(mine->fixture, mine->number, mine->argument);
	return NULL;
}

void fixture_run_threads(arena_fixture *fixture, unsigned count, fixture_worker worker, void *argument) {
	pthread_t threads[MAX_WORKERS];
	job jobs[MAX_WORKERS];

	must(count <= MAX_WORKERS, "workers");
	for (unsigned i = 0; i < count; i++) {
		jobs[i] = (job){fixture, i, worker, argument};
		must(pthread_create(&threads[i], NULL, run_job, &jobs[i]) == 0, "pthread_create");
	}
	for (unsigned i = 0; i < count; i++) {
		pthread_join(threads[i], NULL);
	}
}

void fixture_run_processes(arena_fixture *fixture, unsigned count, fixture_worker worker, void *argument) {
	pid_t children[MAX_WORKERS];

	must(count <= MAX_WORKERS, "workers");
	fflush(NULL);
	for (unsigned i = 0; i < count; i++) {
		children[i] = fork();
		must(children[i] >= 0, "fork");
		if (children[i] == 0) {
			worker(fixture, i, argument);
			_exit(0);
		}
	}
	for (unsigned i = 0; i < count; i++) {
		int status = -1;

		EXPECT(fixture, waitpid(children[i], &status, 0) == children[i] && status == 0);
	}
}

void fixture_fail(arena_fixture *fixture, const char *file, int line, const char *text) {
	if (atomic_fetch_add(&fixture->shared->failures, 1) < 10) {
		fprintf(stderr, "# %s:%d: not so: %s\n", file, line, text);
	}
}

uint32_t fixture_failures(const arena_fixture *fixture) {
	return atomic_load(&fixture->shared->failures);
}

void fixture_sleep_us(uint64_t us) {
	struct timespec time = {.tv_sec = (time_t)(us / 1000000), .tv_nsec = (long)(us % 1000000) * 1000};

	nanosleep(&time, NULL);
}

bool fixture_await(_Atomic uint32_t *word, uint32_t value) {
	for (unsigned waited_us = 0; atomic_load(word) != value; waited_us += AWAIT_STEP_US) {
		if (waited_us >= AWAIT_US) {
			return false;
		}
		fixture_sleep_us(AWAIT_STEP_US);
	}
	return true;
}

/* ---- Random numbers ------------------------------------------------------------------------------------ */

uint64_t fixture_seed(void) {
	static uint64_t seed;

	if (seed == 0) {
		const char *given = getenv("AIDB_TEST_SEED");
		struct timespec now;

		clock_gettime(CLOCK_REALTIME, &now);
		seed = given != NULL ? strtoull(given, NULL, 0) : (uint64_t)now.tv_sec * 1000003u ^ (uint64_t)now.tv_nsec;
		seed += seed == 0;
		fprintf(stderr, "# seed %llu; AIDB_TEST_SEED=%llu repeats it\n", (unsigned long long)seed,
				(unsigned long long)seed);
	}
	return seed;
}

uint64_t fixture_random(uint64_t *state) {
	uint64_t mix = *state += 0x9e3779b97f4a7c15ull;

	mix = (mix ^ mix >> 30) * 0xbf58476d1ce4e5b9ull;
	mix = (mix ^ mix >> 27) * 0x94d049bb133111ebull;
	return mix ^ mix >> 31;
}
