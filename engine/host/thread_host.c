/*
 * The host of a standalone store. Stages of this file: members, odds and ends, background threads,
 * creation. Files and waiting are in posix.c.
 */
#define _GNU_SOURCE 1
#include "host/thread_host.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/status.h"
#include "host/latch.h"

#define IDLE_WAIT_US 10000000u
#define LOG_PERIOD_US 200000u
#define RETRY_US 100000u
#define MAX_LINE_BYTES 2048

/*
 * Who holds a member number: process, thread, and the low bits of the moment the thread began, so that neither a
 * process nor a thread that was given a dead one's id is taken for it. In one word, so that a claim is one
 * compare-and-swap. 0: nobody. Linux keeps process ids below 2^22. `began` is 0 where /proc cannot be read.
 */
#define ID_BITS 22
#define BEGAN_BITS 20

typedef struct shared_table {
	_Atomic uint64_t random_state;
	lsm_event wanted[AIDB_WORK_KINDS];
	_Atomic uint64_t claims[];
} shared_table;

typedef struct thread_host thread_host;

struct worker {
	thread_host *host;
	aidb_work_kind kind;
	pthread_t thread;
	aidb_status status; /* of the last call that was reported */
};

struct thread_host {
	aidb_host host;
	uint64_t instance; /* unique in this process for ever, so that what threads remember of a dead host is harmless */
	thread_host *next; /* in `hosts` */
	uint32_t members;
	bool verbose;
	shared_table *table; /* MAP_SHARED: the same in forked processes */
	size_t table_bytes;
	lsm_waiting waiting;
	_Atomic uint32_t never_poisoned; /* 0: what a host waits for has no owner who could die */

	pid_t worker_process; /* 0: no background threads */
	unsigned worker_count;
	struct worker workers[AIDB_WORK_KINDS];
	lsm_thread_host_work work;
	void *work_argument;
	_Atomic uint32_t stopping;
};

/* ---- Members ------------------------------------------------------------------------------------------- */

#define REMEMBERED 4

/* A thread's member numbers in the hosts that it used last. */
typedef struct membership {
	uint64_t instance; /* 0: none */
	uint32_t member;
} membership;

static pthread_once_t once = PTHREAD_ONCE_INIT;
static int once_error;
static pthread_key_t thread_end;
static pthread_mutex_t hosts_mutex = PTHREAD_MUTEX_INITIALIZER; /* protects `hosts` and last_instance */
static thread_host *hosts;
static uint64_t last_instance;

static _Thread_local uint64_t my_claim; /* 0: not made up yet */
static _Thread_local membership my_memberships[REMEMBERED];

static void forget_memberships(void) {
	my_claim = 0;
	memset(my_memberships, 0, sizeof(my_memberships));
}

static void release_claims(thread_host *host, uint64_t claim) {
	for (uint32_t member = 0; member < host->members; member++) {
		uint64_t mine = claim;

		(void)atomic_compare_exchange_strong(&host->table->claims[member], &mine, 0);
	}
}

static void at_thread_end(void *unused) {
	(void)unused;
	pthread_mutex_lock(&hosts_mutex);
	for (thread_host *host = hosts; host != NULL; host = host->next) {
		release_claims(host, my_claim);
	}
	pthread_mutex_unlock(&hosts_mutex);
	forget_memberships();
}

static void before_fork(void) {
	pthread_mutex_lock(&hosts_mutex);
}

static void after_fork_in_parent(void) {
	pthread_mutex_unlock(&hosts_mutex);
}

/* The child's only thread is a copy of the one that forked, but another member. */
static void after_fork_in_child(void) {
	pthread_mutex_unlock(&hosts_mutex);
	forget_memberships();
}

static void initialise_process(void) {
	once_error = pthread_key_create(&thread_end, at_thread_end);
	if (once_error == 0) {
		once_error = pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child);
	}
}

/* Reads a thread's state letter and the moment it began, in clock ticks since boot; false when /proc does not tell. */
static bool read_thread_stat(pid_t process, pid_t thread, char *state, unsigned long long *began) {
	char path[64];
	char text[1024];
	const char *fields;
	ssize_t got;
	int file;

	snprintf(path, sizeof(path), "/proc/%d/task/%d/stat", (int)process, (int)thread);
	file = open(path, O_RDONLY | O_CLOEXEC);
	if (file < 0) {
		return false;
	}
	got = read(file, text, sizeof(text) - 1);
	close(file);
	if (got <= 0) {
		return false;
	}
	text[got] = '\0';
	fields = strrchr(text, ')'); /* ends the second field, a name that may hold anything */
	return fields != NULL &&
		   sscanf(fields, ") %c %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %llu", state,
				  began) == 2;
}

static uint64_t began_bits(unsigned long long began) {
	uint64_t bits = began & ((1u << BEGAN_BITS) - 1);

	return bits == 0 ? 1 : bits;
}

static uint64_t make_claim(void) {
	pid_t process = getpid();
	pid_t thread = (pid_t)syscall(SYS_gettid);
	unsigned long long began;
	char state;
	uint64_t bits = read_thread_stat(process, thread, &state, &began) ? began_bits(began) : 0;

	return (uint64_t)process | (uint64_t)thread << ID_BITS | bits << (2 * ID_BITS);
}

static bool claim_is_alive(uint64_t claim) {
	pid_t process = (pid_t)(claim & ((1u << ID_BITS) - 1));
	pid_t thread = (pid_t)(claim >> ID_BITS & ((1u << ID_BITS) - 1));
	uint64_t bits = claim >> (2 * ID_BITS);
	unsigned long long began;
	char state;

	if (syscall(SYS_tgkill, process, thread, 0) != 0 && errno == ESRCH) {
		return false;
	}
	if (!read_thread_stat(process, thread, &state, &began)) {
		return true; /* it exists, and no more can be known */
	}
	return state != 'Z' && state != 'X' && state != 'x' && (bits == 0 || bits == began_bits(began));
}

static uint32_t claim_member(thread_host *host, uint64_t claim) {
	_Atomic uint64_t *claims = host->table->claims;
	uint32_t member;

	for (member = 0; member < host->members; member++) {
		if (atomic_load(&claims[member]) == claim) {
			return member;
		}
	}
	for (member = 0; member < host->members; member++) {
		uint64_t seen = 0;

		if (atomic_compare_exchange_strong(&claims[member], &seen, claim)) {
			return member;
		}
	}
	for (member = 0; member < host->members; member++) {
		uint64_t seen = atomic_load(&claims[member]);

		if ((seen == 0 || !claim_is_alive(seen)) && atomic_compare_exchange_strong(&claims[member], &seen, claim)) {
			return member;
		}
	}
	return UINT32_MAX;
}

static uint32_t find_member(thread_host *host) {
	uint32_t member;

	if (my_claim == 0) {
		my_claim = make_claim();
		/* Any value but NULL makes at_thread_end run. */
		if (pthread_setspecific(thread_end, &thread_end) != 0) {
			my_claim = 0;
			return UINT32_MAX;
		}
	}
	member = claim_member(host, my_claim);
	if (member != UINT32_MAX) {
		my_memberships[host->instance % REMEMBERED] = (membership){host->instance, member};
	}
	return member;
}

static uint32_t host_member(void *context) {
	thread_host *host = context;
	const membership *known = &my_memberships[host->instance % REMEMBERED];

	return known->instance == host->instance ? known->member : find_member(host);
}

static bool host_member_alive(void *context, uint32_t member) {
	const thread_host *host = context;
	uint64_t claim;

	if (member >= host->members) {
		return false;
	}
	claim = atomic_load(&host->table->claims[member]);
	return claim != 0 && claim_is_alive(claim);
}

/* ---- Random numbers and messages ------------------------------------------------------------------------- */

#define GOLDEN_GAMMA 0x9e3779b97f4a7c15ull

/* splitmix64 (Steele, Lea, Flood 2014) on shared state, so that a forked child does not repeat its parent's numbers. */
static uint64_t host_random(void *context) {
	const thread_host *host = context;
	uint64_t mix = atomic_fetch_add_explicit(&host->table->random_state, GOLDEN_GAMMA, memory_order_relaxed);

	mix = (mix ^ mix >> 30) * 0xbf58476d1ce4e5b9ull;
	mix = (mix ^ mix >> 27) * 0x94d049bb133111ebull;
	return mix ^ mix >> 31;
}

static uint64_t now_ns(void) {
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

static uint64_t random_seed(void) {
	uint64_t seed;

	if (getrandom(&seed, sizeof(seed), GRND_NONBLOCK) == (ssize_t)sizeof(seed)) {
		return seed;
	}
	return now_ns() * GOLDEN_GAMMA ^ (uint64_t)getpid(); /* early at boot; uniqueness is all we need */
}

static void host_log(void *context, aidb_log_level level, const char *text) {
	const thread_host *host = context;
	char line[MAX_LINE_BYTES];
	int size;

	if (level < AIDB_LOG_WARNING && !host->verbose) {
		return;
	}
	size = snprintf(line, sizeof(line), "aidb: %s", text);
	if (size < 0) {
		return;
	}
	if ((size_t)size > sizeof(line) - 2) {
		size = (int)sizeof(line) - 2;
	}
	line[size] = '\n';
	/* One write, so that lines of several processes do not mix; when it fails there is nobody to tell. */
	if (write(STDERR_FILENO, line, (size_t)size + 1) < 0) {
		return;
	}
}

/* ---- Background threads ---------------------------------------------------------------------------------- */

static void host_background(void *context, aidb_work_kind kind) {
	thread_host *host = context;

	lsm_event_signal(&host->waiting, &host->table->wanted[kind]);
}

static bool is_stopping(const thread_host *host) {
	return atomic_load(&host->stopping) != 0;
}

static void report_failure(struct worker *worker, aidb_status status) {
	static const char *const names[AIDB_WORK_KINDS] = {"flush", "compaction", "log writing"};
	const thread_host *host = worker->host;
	char text[MAX_LINE_BYTES];

	if (status == worker->status) {
		return; /* a lasting failure is one message, not ten a second */
	}
	snprintf(text, sizeof(text), "background %s failed (%s): %s", names[worker->kind], aidb_status_text(status),
			 aidb_last_error());
	host->host.log(host->host.context, AIDB_LOG_WARNING, text);
}

static void work_until_done(struct worker *worker) {
	thread_host *host = worker->host;
	bool did = true;

	while (did && !is_stopping(host)) {
		aidb_status status;

		did = false;
		status = host->work(host->work_argument, worker->kind, &did);
		if (status != AIDB_OK) {
			report_failure(worker, status);
			host->host.wait(host, (uint32_t *)&host->stopping, 0, RETRY_US, AIDB_WAIT_JOB);
			did = true;
		}
		worker->status = status;
	}
}

static void *worker_main(void *argument) {
	struct worker *worker = argument;
	thread_host *host = worker->host;
	lsm_event *wanted = &host->table->wanted[worker->kind];
	bool periodic = worker->kind == AIDB_WORK_LOG;

	for (;;) {
		/* Taken before everything else, so that a wish that comes in meanwhile ends the wait, and so does the end. */
		uint32_t ticket = lsm_event_prepare(wanted);

		if (is_stopping(host)) {
			break;
		}
		work_until_done(worker);
		do {
			(void)lsm_event_wait(&host->waiting, wanted, ticket, periodic ? LOG_PERIOD_US : IDLE_WAIT_US,
								 AIDB_WAIT_JOB);
		} while (!periodic && lsm_event_prepare(wanted) == ticket);
	}
	return NULL;
}

static int start_worker(thread_host *host, aidb_work_kind kind) {
	struct worker *worker = &host->workers[kind];
	sigset_t all;
	sigset_t before;
	int error;

	*worker = (struct worker){.host = host, .kind = kind, .status = AIDB_OK};
	/* Signals are the program's business: its own threads shall get them. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	error = pthread_create(&worker->thread, NULL, worker_main, worker);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return error;
}

aidb_status lsm_thread_host_start(aidb_host *host_interface, lsm_thread_host_work work, void *argument) {
	thread_host *host = host_interface->context;

	if (host->worker_process != 0) {
		return lsm_fail(AIDB_INVALID, "the background threads run already");
	}
	host->worker_process = getpid();
	host->worker_count = 0;
	host->work = work;
	host->work_argument = argument;
	atomic_store(&host->stopping, 0);
	while (host->worker_count < AIDB_WORK_KINDS) {
		int error = start_worker(host, (aidb_work_kind)host->worker_count);

		if (error != 0) {
			lsm_thread_host_stop(host_interface);
			return lsm_fail(AIDB_NO_MEMORY, "could not start a background thread: %s", strerror(error));
		}
		host->worker_count++;
	}
	return AIDB_OK;
}

void lsm_thread_host_stop(aidb_host *host_interface) {
	thread_host *host = host_interface->context;

	if (host->worker_process != getpid()) {
		return; /* not started, or by the parent */
	}
	atomic_store(&host->stopping, 1);
	host->host.wake(host, (uint32_t *)&host->stopping);
	for (unsigned kind = 0; kind < host->worker_count; kind++) {
		host_background(host, (aidb_work_kind)kind);
	}
	for (unsigned kind = 0; kind < host->worker_count; kind++) {
		pthread_join(host->workers[kind].thread, NULL);
	}
	host->worker_count = 0;
	host->worker_process = 0;
}

/* ---- Creation -------------------------------------------------------------------------------------------- */

static bool wants_debug(void) {
	const char *level = getenv("AIDB_LOG");

	return level != NULL && strcmp(level, "debug") == 0;
}

static void register_host(thread_host *host) {
	pthread_mutex_lock(&hosts_mutex);
	host->instance = ++last_instance;
	host->next = hosts;
	hosts = host;
	pthread_mutex_unlock(&hosts_mutex);
}

static void unregister_host(thread_host *host) {
	pthread_mutex_lock(&hosts_mutex);
	for (thread_host **link = &hosts; *link != NULL; link = &(*link)->next) {
		if (*link == host) {
			*link = host->next;
			break;
		}
	}
	pthread_mutex_unlock(&hosts_mutex);
}

void *lsm_thread_host_map(size_t bytes) {
	void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return memory == MAP_FAILED ? NULL : memory;
}

void lsm_thread_host_unmap(void *memory, size_t bytes) {
	munmap(memory, bytes);
}

aidb_status lsm_thread_host_create(uint32_t members, aidb_host **out) {
	size_t table_bytes = sizeof(shared_table) + (size_t)members * sizeof(_Atomic uint64_t);
	thread_host *host;
	void *table;

	if (members == 0) {
		return lsm_fail(AIDB_INVALID, "a host needs at least one member");
	}
	pthread_once(&once, initialise_process);
	if (once_error != 0) {
		return lsm_fail(AIDB_NO_MEMORY, "could not prepare the process for threads: %s", strerror(once_error));
	}
	host = calloc(1, sizeof(*host));
	if (host == NULL) {
		return lsm_fail(AIDB_NO_MEMORY, "out of memory for a host");
	}
	table = lsm_thread_host_map(table_bytes);
	if (table == NULL) {
		free(host);
		return lsm_fail(AIDB_NO_MEMORY, "could not map %zu bytes of shared memory: %s", table_bytes, strerror(errno));
	}
	aidb_host_init(&host->host);
	host->host.context = host;
	host->host.random = host_random;
	host->host.member = host_member;
	host->host.member_alive = host_member_alive;
	host->host.log = host_log;
	host->host.background = host_background;
	host->members = members;
	host->verbose = wants_debug();
	host->table = table;
	host->table_bytes = table_bytes;
	host->waiting = (lsm_waiting){&host->host, &host->never_poisoned};
	atomic_store(&host->table->random_state, random_seed());
	register_host(host);
	*out = &host->host;
	return AIDB_OK;
}

void lsm_thread_host_destroy(aidb_host *host_interface) {
	thread_host *host;

	if (host_interface == NULL) {
		return;
	}
	host = host_interface->context;
	lsm_thread_host_stop(host_interface);
	if (my_claim != 0) {
		release_claims(host, my_claim); /* the table lives on in other processes */
	}
	unregister_host(host);
	lsm_thread_host_unmap(host->table, host->table_bytes);
	free(host);
}
