#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "arena_fixture.h"
#include "base/status.h"
#include "host/thread_host.h"

#define MEMBERS 12u
#define WORKERS 8u

static char directory[64];

static const char *path_of(const char *name) {
	static char paths[4][128];
	static unsigned turn;
	char *path = paths[turn++ % 4];

	snprintf(path, sizeof(paths[0]), "%s/%s", directory, name);
	return path;
}

static int set_up(void **state) {
	static arena_fixture fixture;

	strcpy(directory, "/tmp/test_thread_host.XXXXXX");
	if (mkdtemp(directory) == NULL) {
		return -1;
	}
	fixture_create(&fixture, 1 << 20, MEMBERS);
	*state = &fixture;
	return 0;
}

static void remove_name(void *unused, const char *name) {
	(void)unused;
	unlink(path_of(name));
	rmdir(path_of(name));
}

static int tear_down(void **state) {
	arena_fixture *fixture = *state;

	fixture->host->directory_list(fixture->host->context, directory, remove_name, NULL);
	rmdir(directory);
	fixture_destroy(fixture);
	return 0;
}

static aidb_host *host_of(void **state) {
	return ((arena_fixture *)*state)->host;
}

/* ---- Files --------------------------------------------------------------------------------------------- */

static int open_new(const aidb_host *host, const char *name) {
	int file = -1;

	assert_int_equal(
		host->file_open(host->context, path_of(name), AIDB_FILE_READ | AIDB_FILE_WRITE | AIDB_FILE_CREATE, &file), 0);
	return file;
}

static void test_files_keep_what_is_written(void **state) {
	const aidb_host *host = host_of(state);
	int file = open_new(host, "a");
	char text[16] = {0};
	size_t got = 99;
	uint64_t size = 0;

	assert_int_equal(fcntl(file, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
	assert_int_equal(host->file_write(host->context, file, "hello", 5, 3), 0);
	assert_int_equal(host->file_sync(host->context, file), 0);
	assert_int_equal(host->file_size(host->context, file, &size), 0);
	assert_int_equal(size, 8);
	assert_int_equal(host->file_read(host->context, file, text, sizeof(text), 2, &got), 0);
	assert_int_equal(got, 6);
	assert_memory_equal(text, "\0hello", 6);
	assert_int_equal(host->file_read(host->context, file, text, sizeof(text), 8, &got), 0);
	assert_int_equal(got, 0);
	assert_int_equal(host->file_truncate(host->context, file, 4), 0);
	assert_int_equal(host->file_size(host->context, file, &size), 0);
	assert_int_equal(size, 4);
	host->file_close(host->context, file);
}

static void test_open_flags(void **state) {
	const aidb_host *host = host_of(state);
	int file = -1;
	char byte;
	size_t got;

	assert_int_equal(host->file_open(host->context, path_of("b"), AIDB_FILE_READ, &file), ENOENT);
	assert_int_equal(file, -1);
	host->file_close(host->context, open_new(host, "b"));
	assert_int_equal(
		host->file_open(host->context, path_of("b"), AIDB_FILE_WRITE | AIDB_FILE_CREATE | AIDB_FILE_EXCLUSIVE, &file),
		EEXIST);
	assert_int_equal(host->file_open(host->context, path_of("b"), AIDB_FILE_READ, &file), 0);
	assert_int_equal(host->file_write(host->context, file, "x", 1, 0), EBADF);
	host->file_close(host->context, file);
	assert_int_equal(host->file_open(host->context, path_of("b"), AIDB_FILE_WRITE, &file), 0);
	assert_int_equal(host->file_read(host->context, file, &byte, 1, 0, &got), EBADF);
	host->file_close(host->context, file);
}

static void test_allocation_keeps_contents(void **state) {
	const aidb_host *host = host_of(state);
	int file = open_new(host, "c");
	char text[6] = {0};
	uint64_t size;
	size_t got;

	assert_int_equal(host->file_write(host->context, file, "hello", 5, 0), 0);
	assert_int_equal(host->file_allocate(host->context, file, 100000), 0);
	assert_int_equal(host->file_size(host->context, file, &size), 0);
	assert_int_equal(size, 100000);
	assert_int_equal(host->file_allocate(host->context, file, 10), 0);
	assert_int_equal(host->file_allocate(host->context, file, 0), 0);
	assert_int_equal(host->file_size(host->context, file, &size), 0);
	assert_int_equal(size, 100000);
	assert_int_equal(host->file_read(host->context, file, text, 6, 0, &got), 0);
	assert_memory_equal(text, "hello", 6);
	host->file_close(host->context, file);
}

static void test_full_disk_is_reported(void **state) {
	const aidb_host *host = host_of(state);
	int file = -1;

	assert_int_equal(host->file_open(host->context, "/dev/full", AIDB_FILE_WRITE, &file), 0);
	assert_int_equal(host->file_write(host->context, file, "x", 1, 0), ENOSPC);
	host->file_close(host->context, file);
}

/* A limit on file size lets the first part of a write through and refuses the rest. */
static void test_short_write_is_continued(void **state) {
	const aidb_host *host = host_of(state);
	static char bytes[5000];
	struct rlimit before;
	struct rlimit limit;
	int file = open_new(host, "d");
	uint64_t size = 0;
	int error;

	signal(SIGXFSZ, SIG_IGN);
	assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
	limit = before;
	limit.rlim_cur = 3000;
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
	error = host->file_write(host->context, file, bytes, sizeof(bytes), 0);
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
	assert_int_equal(error, EFBIG);
	assert_int_equal(host->file_size(host->context, file, &size), 0);
	assert_int_equal(size, 3000);
	host->file_close(host->context, file);
}

static void lock_again(arena_fixture *fixture, unsigned number, void *argument) {
	int file;

	(void)number, (void)argument;
	EXPECT(fixture, fixture->host->file_lock(fixture->host->context, path_of("LOCK"), &file) == EWOULDBLOCK);
}

static void test_lock_excludes(void **state) {
	arena_fixture *fixture = *state;
	const aidb_host *host = fixture->host;
	int file;

	assert_int_equal(host->file_lock(host->context, path_of("LOCK"), &file), 0);
	lock_again(fixture, 0, NULL);
	fixture_run_processes(fixture, 1, lock_again, NULL);
	host->file_close(host->context, file);
	assert_int_equal(host->file_lock(host->context, path_of("LOCK"), &file), 0);
	host->file_close(host->context, file);
	assert_int_equal(fixture_failures(fixture), 0);
}

static void count_name(void *argument, const char *name) {
	unsigned *seen = argument;

	*seen += strcmp(name, "x") == 0 ? 1 : strcmp(name, "sub") == 0 ? 10 : 100;
}

static void test_directories(void **state) {
	const aidb_host *host = host_of(state);
	unsigned seen = 0;

	assert_int_equal(host->directory_create(host->context, path_of("sub")), 0);
	assert_int_equal(host->directory_create(host->context, path_of("sub")), 0);
	host->file_close(host->context, open_new(host, "w"));
	assert_int_equal(host->directory_create(host->context, path_of("w")), ENOTDIR);
	assert_int_equal(host->file_rename(host->context, path_of("w"), path_of("x")), 0);
	assert_int_equal(host->directory_sync(host->context, directory), 0);
	assert_int_equal(host->directory_sync(host->context, path_of("none")), ENOENT);
	assert_int_equal(host->directory_list(host->context, directory, count_name, &seen), 0);
	assert_int_equal(seen, 11);
	assert_int_equal(host->directory_list(host->context, path_of("none"), count_name, &seen), ENOENT);
	assert_int_equal(host->directory_remove(host->context, path_of("sub")), 0);
	assert_int_equal(host->file_remove(host->context, path_of("x")), 0);
	assert_int_equal(host->file_remove(host->context, path_of("x")), ENOENT);
}

/* ---- Members ------------------------------------------------------------------------------------------- */

enum { ARRIVED, LEAVE, TAKEN, CALLS, CALLED };

/* Claims a number and keeps it until all have one. */
static void claim_together(arena_fixture *fixture, unsigned number, void *argument) {
	_Atomic uint32_t *words = fixture->shared->words;
	const uint32_t *count = argument;
	uint32_t member = fixture_member(fixture);

	(void)number;
	EXPECT(fixture, member < MEMBERS);
	EXPECT(fixture, (atomic_fetch_or(&words[TAKEN], 1u << member) & 1u << member) == 0);
	EXPECT(fixture, fixture->host->member_alive(fixture->host->context, member));
	atomic_fetch_add(&words[ARRIVED], 1);
	EXPECT(fixture, fixture_await(&words[ARRIVED], *count));
	EXPECT(fixture, fixture_member(fixture) == member);
}

static void start_afresh(arena_fixture *fixture) {
	for (unsigned i = 0; i < 8; i++) {
		atomic_store(&fixture->shared->words[i], 0);
	}
}

static void test_members_are_distinct(void **state) {
	arena_fixture *fixture = *state;
	uint32_t count = WORKERS;

	for (unsigned round = 0; round < 3; round++) {
		start_afresh(fixture);
		fixture_run_threads(fixture, WORKERS, claim_together, &count);
		start_afresh(fixture);
		fixture_run_processes(fixture, WORKERS, claim_together, &count);
	}
	assert_int_equal(fixture_failures(fixture), 0);
}

static void test_ended_thread_gives_its_number_back(void **state) {
	arena_fixture *fixture = *state;
	uint32_t count = 1;

	for (unsigned round = 0; round < 3; round++) {
		start_afresh(fixture);
		fixture_run_threads(fixture, 1, claim_together, &count);
		assert_int_equal(atomic_load(&fixture->shared->words[TAKEN]), 1);
		assert_false(fixture->host->member_alive(fixture->host->context, 0));
	}
	assert_int_equal(fixture_failures(fixture), 0);
}

static void test_child_gets_a_number_of_its_own(void **state) {
	arena_fixture *fixture = *state;
	uint32_t count = 2;

	assert_int_equal(fixture_member(fixture), 0);
	start_afresh(fixture);
	fixture_run_processes(fixture, 2, claim_together, &count);
	assert_int_equal(atomic_load(&fixture->shared->words[TAKEN]), 2 | 4);
	assert_int_equal(fixture_member(fixture), 0);
	assert_true(fixture->host->member_alive(fixture->host->context, 0));
	assert_false(fixture->host->member_alive(fixture->host->context, 1));
	assert_false(fixture->host->member_alive(fixture->host->context, MEMBERS));
	assert_int_equal(fixture_failures(fixture), 0);
}

static void claim_one_too_many(arena_fixture *fixture, unsigned number, void *argument) {
	(void)number, (void)argument;
	EXPECT(fixture, fixture_member(fixture) == UINT32_MAX);
	EXPECT(fixture, fixture_member(fixture) == UINT32_MAX);
}

static void claim_and_overflow(arena_fixture *fixture, unsigned number, void *argument) {
	uint32_t count = MEMBERS;

	claim_together(fixture, number, &count);
	if (number == 0) {
		fixture_run_processes(fixture, 1, claim_one_too_many, argument);
		atomic_store(&fixture->shared->words[LEAVE], 1);
	}
	EXPECT(fixture, fixture_await(&fixture->shared->words[LEAVE], 1));
}

static void test_numbers_run_out_and_the_dead_give_theirs(void **state) {
	arena_fixture *fixture = *state;
	uint32_t count = 4;

	fixture_run_threads(fixture, MEMBERS, claim_and_overflow, NULL);
	/* Processes that end with _exit leave their claims behind. */
	for (unsigned round = 0; round < 4; round++) {
		start_afresh(fixture);
		fixture_run_processes(fixture, 4, claim_together, &count);
	}
	start_afresh(fixture);
	fixture_run_threads(fixture, MEMBERS, claim_and_overflow, NULL);
	assert_int_equal(fixture_failures(fixture), 0);
}

static void test_zombie_is_not_alive(void **state) {
	arena_fixture *fixture = *state;
	const aidb_host *host = fixture->host;
	siginfo_t information;
	pid_t child = fork();

	if (child == 0) {
		_exit(fixture_member(fixture) == 0 ? 0 : 1);
	}
	assert_int_equal(waitid(P_PID, (id_t)child, &information, WEXITED | WNOWAIT), 0);
	assert_int_equal(information.si_status, 0);
	assert_false(host->member_alive(host->context, 0));
	assert_int_equal(waitpid(child, NULL, 0), child);
}

static void use_hosts(arena_fixture *fixture, unsigned number, void *argument) {
	aidb_host **hosts = argument;

	(void)number;
	for (unsigned round = 0; round < 100; round++) {
		for (unsigned i = 0; i < 10; i++) {
			EXPECT(fixture, hosts[i]->member(hosts[i]->context) < WORKERS);
		}
	}
}

static void test_many_hosts_in_one_thread(void **state) {
	arena_fixture *fixture = *state;
	aidb_host *hosts[10];

	for (unsigned i = 0; i < 10; i++) {
		assert_int_equal(lsm_thread_host_create(WORKERS, &hosts[i]), AIDB_OK);
	}
	for (unsigned round = 0; round < 5; round++) {
		fixture_run_threads(fixture, WORKERS, use_hosts, hosts);
	}
	for (unsigned i = 0; i < 10; i++) {
		for (uint32_t member = 0; member < WORKERS; member++) {
			assert_false(hosts[i]->member_alive(hosts[i]->context, member));
		}
		lsm_thread_host_destroy(hosts[i]);
	}
	lsm_thread_host_destroy(NULL);
	assert_int_equal(lsm_thread_host_create(0, &hosts[0]), AIDB_INVALID);
	assert_int_equal(fixture_failures(fixture), 0);
}

/* ---- Waiting, random numbers, messages -------------------------------------------------------------------- */

static void wait_or_wake(arena_fixture *fixture, unsigned number, void *argument) {
	const aidb_host *host = fixture->host;
	_Atomic uint32_t *word = &fixture->shared->words[ARRIVED];

	(void)argument;
	if (number == 0) {
		while (atomic_load(word) == 0) {
			EXPECT(fixture, host->wait(host->context, (uint32_t *)word, 0, 100000, AIDB_WAIT_LATCH) == 0);
		}
	} else {
		atomic_store(word, 1);
		host->wake(host->context, (uint32_t *)word);
	}
}

static void test_wait_and_wake(void **state) {
	arena_fixture *fixture = *state;
	const aidb_host *host = fixture->host;
	uint64_t start_us = host->clock_us(host->context);

	fixture_run_processes(fixture, 2, wait_or_wake, NULL);
	/* Neither a value that is not the expected one nor an endless timeout keeps a waiter asleep. */
	assert_int_equal(
		host->wait(host->context, (uint32_t *)&fixture->shared->words[ARRIVED], 0, UINT64_MAX, AIDB_WAIT_JOB), 0);
	assert_int_equal(
		host->wait(host->context, (uint32_t *)&fixture->shared->words[ARRIVED], 1, UINT64_MAX, AIDB_WAIT_JOB), 0);
	assert_true(host->clock_us(host->context) - start_us < 60000000);
	assert_int_equal(fixture_failures(fixture), 0);
}

static void draw(arena_fixture *fixture, unsigned number, void *argument) {
	(void)argument;
	atomic_store(&fixture->shared->words[number], (uint32_t)fixture->host->random(fixture->host->context));
}

static void test_processes_draw_different_numbers(void **state) {
	arena_fixture *fixture = *state;

	fixture_run_processes(fixture, 2, draw, NULL);
	draw(fixture, 2, NULL);
	assert_int_not_equal(atomic_load(&fixture->shared->words[0]), atomic_load(&fixture->shared->words[1]));
	assert_int_not_equal(atomic_load(&fixture->shared->words[0]), atomic_load(&fixture->shared->words[2]));
}

/* Logs one message of each level with standard error going into a file, and gives back what is in it. */
static void log_all(const aidb_host *host, char *text, size_t size) {
	int file = open_new(host, "log");
	int standard_error = dup(STDERR_FILENO);
	size_t got = 0;

	dup2(file, STDERR_FILENO);
	host->log(host->context, AIDB_LOG_DEBUG, "one");
	host->log(host->context, AIDB_LOG_INFO, "two");
	host->log(host->context, AIDB_LOG_WARNING, "three");
	host->log(host->context, AIDB_LOG_ERROR, "four");
	dup2(standard_error, STDERR_FILENO);
	close(standard_error);
	assert_int_equal(host->file_read(host->context, file, text, size - 1, 0, &got), 0);
	text[got] = '\0';
	host->file_close(host->context, file);
}

static void test_log_levels(void **state) {
	char text[200];
	aidb_host *verbose;

	log_all(host_of(state), text, sizeof(text));
	assert_string_equal(text, "aidb: three\naidb: four\n");
	setenv("AIDB_LOG", "debug", 1);
	assert_int_equal(lsm_thread_host_create(1, &verbose), AIDB_OK);
	unsetenv("AIDB_LOG");
	unlink(path_of("log"));
	log_all(verbose, text, sizeof(text));
	assert_string_equal(text, "aidb: one\naidb: two\naidb: three\naidb: four\n");
	lsm_thread_host_destroy(verbose);
}

/* ---- Background threads ------------------------------------------------------------------------------------ */

typedef struct work_record {
	_Atomic uint32_t calls[AIDB_WORK_KINDS];
	_Atomic uint32_t left; /* flushes that find something to do */
	_Atomic uint32_t failures;
	_Atomic uint32_t reports;
} work_record;

static work_record record;

static aidb_status do_work(void *argument, aidb_work_kind kind, bool *did) {
	work_record *mine = argument;
	uint32_t left = atomic_load(&mine->left);

	atomic_fetch_add(&mine->calls[kind], 1);
	if (kind == AIDB_WORK_FLUSH && left > 0) {
		atomic_fetch_sub(&mine->left, 1);
		*did = true;
	}
	if (kind == AIDB_WORK_COMPACT && atomic_load(&mine->failures) > 0) {
		atomic_fetch_sub(&mine->failures, 1);
		return lsm_fail(AIDB_NO_SPACE, "no room");
	}
	return AIDB_OK;
}

static void count_report(void *context, aidb_log_level level, const char *text) {
	(void)context;
	if (level == AIDB_LOG_WARNING && strstr(text, "no room") != NULL) {
		atomic_fetch_add(&record.reports, 1);
	}
}

static void start(aidb_host *host) {
	memset(&record, 0, sizeof(record));
	assert_int_equal(lsm_thread_host_start(host, do_work, &record), AIDB_OK);
	assert_int_equal(lsm_thread_host_start(host, do_work, &record), AIDB_INVALID);
}

/* At least this many calls within 20 seconds. */
static void await_calls(aidb_work_kind kind, uint32_t calls) {
	for (unsigned i = 0; i < 20000 && atomic_load(&record.calls[kind]) < calls; i++) {
		fixture_sleep_us(1000);
	}
	assert_true(atomic_load(&record.calls[kind]) >= calls);
}

static void test_background_works_until_nothing_is_left(void **state) {
	aidb_host *host = host_of(state);
	uint32_t compactions;

	start(host);
	await_calls(AIDB_WORK_FLUSH, 1);
	await_calls(AIDB_WORK_COMPACT, 1);
	compactions = atomic_load(&record.calls[AIDB_WORK_COMPACT]);
	atomic_store(&record.left, 5);
	host->background(host->context, AIDB_WORK_FLUSH);
	await_calls(AIDB_WORK_FLUSH, 1 + 5 + 1);
	assert_int_equal(atomic_load(&record.left), 0);
	/* The log is looked after without being asked, the rest is not. */
	await_calls(AIDB_WORK_LOG, 4);
	assert_int_equal(atomic_load(&record.calls[AIDB_WORK_COMPACT]), compactions);
	lsm_thread_host_stop(host);
}

static void ask(arena_fixture *fixture, unsigned number, void *argument) {
	(void)number, (void)argument;
	fixture->host->background(fixture->host->context, AIDB_WORK_COMPACT);
	lsm_thread_host_stop(fixture->host);
}

static void test_child_reaches_its_parents_threads(void **state) {
	arena_fixture *fixture = *state;

	start(fixture->host);
	await_calls(AIDB_WORK_COMPACT, 1);
	fixture_run_processes(fixture, 1, ask, NULL);
	await_calls(AIDB_WORK_COMPACT, 2);
	lsm_thread_host_stop(fixture->host);
	assert_int_equal(fixture_failures(fixture), 0);
}

static void test_background_retries_after_failure(void **state) {
	aidb_host *host = host_of(state);
	uint64_t start_us = host->clock_us(host->context);
	void (*log)(void *, aidb_log_level, const char *) = host->log;

	host->log = count_report;
	start(host);
	await_calls(AIDB_WORK_COMPACT, 1);
	atomic_store(&record.failures, 3);
	host->background(host->context, AIDB_WORK_COMPACT);
	await_calls(AIDB_WORK_COMPACT, 1 + 3 + 1);
	assert_true(host->clock_us(host->context) - start_us >= 300000);
	assert_int_equal(atomic_load(&record.reports), 1);
	lsm_thread_host_stop(host);
	host->log = log;
}

static void test_background_stops_at_any_time(void **state) {
	aidb_host *host = host_of(state);

	for (unsigned i = 0; i < 200; i++) {
		start(host);
		if (i % 2 == 0) {
			atomic_store(&record.failures, UINT32_MAX);
			host->background(host->context, AIDB_WORK_COMPACT);
		}
		lsm_thread_host_stop(host);
	}
	lsm_thread_host_stop(host);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void) {
	const struct CMUnitTest tests[] = {
		CASE(test_files_keep_what_is_written),
		CASE(test_open_flags),
		CASE(test_allocation_keeps_contents),
		CASE(test_full_disk_is_reported),
		CASE(test_short_write_is_continued),
		CASE(test_lock_excludes),
		CASE(test_directories),
		CASE(test_members_are_distinct),
		CASE(test_ended_thread_gives_its_number_back),
		CASE(test_child_gets_a_number_of_its_own),
		CASE(test_numbers_run_out_and_the_dead_give_theirs),
		CASE(test_zombie_is_not_alive),
		CASE(test_many_hosts_in_one_thread),
		CASE(test_wait_and_wake),
		CASE(test_processes_draw_different_numbers),
		CASE(test_log_levels),
		CASE(test_background_works_until_nothing_is_left),
		CASE(test_child_reaches_its_parents_threads),
		CASE(test_background_retries_after_failure),
		CASE(test_background_stops_at_any_time),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
