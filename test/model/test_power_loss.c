/*
 * Power that fails, and calls that do, at every step.
 *
 * One thread runs a workload that its seed determines on a disk in memory (test/support/sim_disk.h). Each run of it is
 * broken off at another call to the disk, or lets that call fail; then the store is opened and compared with a model:
 * it holds the commits of a prefix of all that were acknowledged, in their order, at least up to the last one that was
 * promised to be durable, and at most one more, whose outcome was not said.
 *
 * AIDB_SEED replays a run; AIDB_WORKLOADS says how many workloads there are (1).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "host/thread_host.h"
#include "sim_disk.h"
#include "store_fixture.h"

#define DIRECTORY "disk"
#define STEPS 160
#define KEYS 40
#define MOST_PARTS 4
#define MAX_VALUE_BYTES 3000
#define RECOVERY_STEPS 40

/* ---- Commits --------------------------------------------------------------------------------------------- */

typedef enum outcome { REFUSED, DONE, UNKNOWN } outcome;

typedef struct part {
	uint32_t key;
	uint32_t size; /* of the value, at least 8; 0: deletion */
} part;

/* A commit, known by its number and the seed. */
typedef struct commit {
	part parts[MOST_PARTS];
	uint32_t count;
	aidb_durability durability;
} commit;

typedef struct world {
	uint64_t seed;
	sim_disk disk;
	aidb_options options;
	aidb_host *base;
	aidb_host host;
	void *memory;
	aidb_db *db; /* NULL: closed */
	uint8_t outcomes[STEPS * 2];
	uint32_t unknown; /* a commit of this process whose outcome was not said; 0: none */
	uint32_t issued;  /* the last number given to a commit */
	uint32_t written; /* this one and those before survive the process */
	uint32_t durable; /* ... and the loss of power */
} world;

static commit commit_of(const world *self, uint32_t number) {
	static const aidb_durability durabilities[] = {AIDB_SYNC, AIDB_SYNC, AIDB_WRITE, AIDB_LAZY};
	uint64_t random = self->seed + number * UINT64_C(0x9e3779b97f4a7c15);
	commit made = {.count = 1 + (uint32_t)store_random_below(&random, MOST_PARTS),
				   .durability = durabilities[store_random_below(&random, 4)]};

	for (uint32_t i = 0; i < made.count; i++) {
		made.parts[i].key = (uint32_t)store_random_below(&random, KEYS);
		made.parts[i].size =
			store_random_below(&random, 4) == 0 ? 0 : 8 + (uint32_t)store_random_below(&random, MAX_VALUE_BYTES - 8);
	}
	return made;
}

static aidb_slice key_of(char text_of[16], uint32_t key) {
	snprintf(text_of, 16, "key %u", key);
	return text(text_of);
}

static aidb_slice value_of(uint8_t value[MAX_VALUE_BYTES], uint32_t number, uint32_t size) {
	uint64_t wide = number;

	memset(value, (int)(number % 251), size);
	memcpy(value, &wide, sizeof(wide));
	return (aidb_slice){value, size};
}

static aidb_status write_commit(world *self, uint32_t number, aidb_durability durability) {
	static uint8_t value[MAX_VALUE_BYTES];
	aidb_batch *batch = aidb_batch_create();
	commit made = commit_of(self, number);
	aidb_status rc;
	char key[16];

	assert_non_null(batch);
	assert_ok(aidb_batch_put(batch, text("number"), value_of(value, number, 8)));
	for (uint32_t i = 0; i < made.count; i++) {
		key_of(key, made.parts[i].key);
		assert_ok(made.parts[i].size == 0
					  ? aidb_batch_delete(batch, text(key))
					  : aidb_batch_put(batch, text(key), value_of(value, number, made.parts[i].size)));
	}
	rc = aidb_write(self->db, &(aidb_write_options){.durability = durability}, batch, NULL);
	aidb_batch_destroy(batch);
	return rc;
}

/* ---- The store ------------------------------------------------------------------------------------------- */

static void be_silent(void *context, aidb_log_level level, const char *message) {
	(void)context;
	(void)level;
	(void)message;
}

static void let_go(world *self) {
	aidb_detach(self->db);
	self->db = NULL;
	lsm_thread_host_destroy(self->base);
	munmap(self->memory, self->options.memory_bytes);
	sim_disk_close_files(&self->disk);
}

static aidb_status try_open(world *self) {
	aidb_status rc;

	self->unknown = 0;
	self->memory = mmap(NULL, self->options.memory_bytes, PROT_READ | PROT_WRITE,
						MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	assert_true(self->memory != MAP_FAILED);
	assert_ok(lsm_thread_host_create(self->options.members, &self->base));
	self->host = *self->base;
	self->host.log = be_silent;
	sim_disk_mount(&self->disk, &self->host);
	assert_ok(aidb_arena_format(self->memory, self->options.memory_bytes, &self->options));
	assert_ok(aidb_attach(self->memory, &self->host, DIRECTORY, &self->db));
	rc = aidb_start(self->db);
	if (rc != AIDB_OK) {
		let_go(self);
	}
	return rc;
}

static void begin(world *self, uint64_t seed) {
	*self = (world){.seed = seed, .options = store_small_options()};
	self->options.members = 2;
	assert_ok(aidb_options_resolve(&self->options));
}

static void end(world *self) {
	if (self->db != NULL) {
		let_go(self);
	}
	sim_disk_destroy(&self->disk);
}

/* ---- Comparison ------------------------------------------------------------------------------------------ */

static uint32_t last_number(world *self) {
	aidb_buffer value = {0};
	aidb_status rc = aidb_get(self->db, NULL, text("number"), &value, NULL);
	uint64_t number = 0;

	assert_true(rc == AIDB_OK || rc == AIDB_NOT_FOUND);
	if (rc == AIDB_OK) {
		assert_int_equal(value.size, sizeof(number));
		memcpy(&number, value.data, sizeof(number));
	}
	aidb_buffer_free(&value);
	return (uint32_t)number;
}

/* What the keys hold after the commits up to `last`. */
static void model_of(const world *self, uint32_t last, uint32_t numbers[KEYS], uint32_t sizes[KEYS]) {
	memset(numbers, 0, KEYS * sizeof(numbers[0]));
	memset(sizes, 0, KEYS * sizeof(sizes[0]));
	for (uint32_t number = 1; number <= last; number++) {
		commit made = commit_of(self, number);

		for (uint32_t i = 0; i < made.count && self->outcomes[number] != REFUSED; i++) {
			numbers[made.parts[i].key] = number;
			sizes[made.parts[i].key] = made.parts[i].size;
		}
	}
}

/* The store holds what a prefix of the commits, up to `least` or a later one, has left; the others are gone. */
static void check(world *self, uint32_t least) {
	static uint8_t value[MAX_VALUE_BYTES];
	uint32_t last = last_number(self), numbers[KEYS], sizes[KEYS], expected = last > 0;
	aidb_buffer found = {0};
	aidb_iterator *iterator;
	char key[16];

	if (last < least || last > self->issued || (last > 0 && self->outcomes[last] == REFUSED)) {
		print_error("the last commit is %u; %u were made, and %u must be there\n", last, self->issued, least);
		fail();
	}
	model_of(self, last, numbers, sizes);
	for (uint32_t i = 0; i < KEYS; i++) {
		aidb_status rc = aidb_get(self->db, NULL, key_of(key, i), &found, NULL);

		assert_status(rc, sizes[i] == 0 ? AIDB_NOT_FOUND : AIDB_OK);
		assert_true(rc != AIDB_OK ||
					lsm_equal((aidb_slice){found.data, found.size}, value_of(value, numbers[i], sizes[i])));
		expected += sizes[i] > 0;
	}
	assert_ok(aidb_iterator_create(self->db, NULL, &iterator));
	for (aidb_iterator_seek_first(iterator); aidb_iterator_valid(iterator); aidb_iterator_next(iterator)) {
		expected--;
	}
	assert_ok(aidb_iterator_status(iterator));
	assert_int_equal(expected, 0);
	aidb_iterator_destroy(iterator);
	aidb_buffer_free(&found);
	for (uint32_t number = last + 1; number <= self->issued; number++) {
		self->outcomes[number] = REFUSED;
	}
	/* a start makes durable what it has found */
	self->written = self->durable = last;
}

/* ---- The workload ---------------------------------------------------------------------------------------- */

static aidb_status write_next(world *self) {
	uint32_t number = ++self->issued;
	aidb_durability durability = commit_of(self, number).durability;
	aidb_status rc;

	self->outcomes[number] = UNKNOWN;
	rc = write_commit(self, number, durability);
	if (rc == AIDB_OK) {
		/* one that was begun would let no other go well */
		self->outcomes[self->unknown] = REFUSED;
		self->unknown = 0;
		self->outcomes[number] = DONE;
		self->written = durability == AIDB_LAZY ? self->written : number;
		self->durable = durability == AIDB_SYNC ? number : self->durable;
	} else if (rc != AIDB_IO || self->unknown != 0) {
		self->outcomes[number] = REFUSED;
	} else {
		self->unknown = number;
	}
	return rc;
}

/* All that is acknowledged is durable when this has gone well. */
static aidb_status promise(world *self, aidb_status rc) {
	if (rc == AIDB_OK) {
		for (uint32_t number = self->durable; number <= self->issued; number++) {
			self->durable = self->outcomes[number] == DONE ? number : self->durable;
		}
		self->written = self->durable > self->written ? self->durable : self->written;
	}
	return rc;
}

static aidb_status compact(world *self) {
	bool did = true;
	aidb_status rc = AIDB_OK;

	while (rc == AIDB_OK && did) {
		rc = aidb_work(self->db, AIDB_WORK_COMPACT, &did);
	}
	return rc;
}

static aidb_status reopen(world *self) {
	aidb_status rc = promise(self, aidb_stop(self->db));

	let_go(self);
	return rc == AIDB_OK ? try_open(self) : rc;
}

static aidb_status step_of(world *self, uint64_t *random) {
	uint64_t luck = store_random_below(random, 100);
	bool did;

	if (luck < 78) {
		return write_next(self);
	}
	if (luck < 84) {
		return promise(self, aidb_sync(self->db));
	}
	if (luck < 90) {
		return promise(self, aidb_flush(self->db));
	}
	if (luck < 94) {
		return compact(self);
	}
	return luck < 97 ? aidb_work(self->db, AIDB_WORK_LOG, &did) : reopen(self);
}

/* Until its end, or until the power fails. Some time after an error that turns writes off, the process begins anew. */
static void run(world *self) {
	uint64_t random = self->seed;
	aidb_status rc = try_open(self);

	for (uint32_t i = 0; i < STEPS && !self->disk.off; i++) {
		if (self->db != NULL) {
			rc = step_of(self, &random);
		}
		if (rc == AIDB_IO && !self->disk.off && self->db != NULL && store_random_below(&random, 3) == 0) {
			let_go(self);
		}
		if (self->db == NULL && !self->disk.off) {
			assert_ok(try_open(self));
			check(self, self->written);
		}
	}
}

/* ---- The tests ------------------------------------------------------------------------------------------- */

/* The store goes on: what is written now is there when the power has failed once more. */
static void check_usable(world *self) {
	for (int i = 0; i < 3; i++) {
		self->durable = ++self->issued;
		self->outcomes[self->durable] = DONE;
		assert_ok(write_commit(self, self->durable, AIDB_SYNC));
	}
	let_go(self);
	sim_disk_restart(&self->disk, SIM_LOST);
	assert_ok(try_open(self));
	check(self, self->durable);
}

static void after_power_loss(world *self, sim_fate fate) {
	if (self->db != NULL) {
		let_go(self);
	}
	sim_disk_restart(&self->disk, fate);
	/* and, maybe, once more while it recovers */
	self->disk.fault_step = self->disk.steps + 1 + store_random_below(&self->disk.random, RECOVERY_STEPS);
	self->disk.fault = SIM_POWER_OFF;
	if (try_open(self) != AIDB_OK) {
		if (!self->disk.off) {
			print_error("it does not open: %s\n", aidb_last_error());
			fail();
		}
		sim_disk_restart(&self->disk, fate);
		assert_ok(try_open(self));
	}
	self->disk.fault_step = 0;
	check(self, self->durable);
	check_usable(self);
}

static uint64_t seed;
static uint32_t workloads = 1;

/* What happens at a step. */
typedef struct scenario {
	sim_fault fault;
	bool count_reads;
	sim_fate fate;
	uint32_t draws; /* how often it is drawn what is kept by chance */
} scenario;

/* Runs a workload with the fault at step `at`, and comes back after it; false: it ended before. */
static bool one_step(uint64_t workload, uint64_t at, const scenario *of, uint32_t draw) {
	world self;
	bool reached;

	begin(&self, workload);
	self.disk.random = workload ^ at << 32 ^ (uint64_t)draw << 56;
	self.disk.count_reads = of->count_reads;
	self.disk.fault = of->fault;
	self.disk.fault_step = at;
	run(&self);
	reached = self.disk.steps >= at;
	after_power_loss(&self, of->fate);
	end(&self);
	return reached;
}

static void each_step(void **state) {
	const scenario *of = *state;

	for (uint32_t workload = 0; workload < workloads; workload++) {
		bool reached = true;
		uint64_t at = 0;

		while (reached) {
			at++;
			for (uint32_t draw = 0; draw < of->draws; draw++) {
				reached = one_step(seed + workload, at, of, draw);
			}
		}
		print_message("# workload %" PRIu64 ": %" PRIu64 " steps\n", seed + workload, at - 1);
	}
}

static int prepare(void **state) {
	const char *given = getenv("AIDB_WORKLOADS");

	(void)state;
	seed = store_seed("test_power_loss");
	workloads = given != NULL ? (uint32_t)strtoul(given, NULL, 10) : 1;
	return workloads > 0 ? 0 : -1;
}

int main(void) {
	static scenario lost = {SIM_POWER_OFF, false, SIM_LOST, 1};
	static scenario kept = {SIM_POWER_OFF, false, SIM_KEPT, 1};
	static scenario torn = {SIM_POWER_OFF, false, SIM_MIXED, 4};
	static scenario fails = {SIM_IO_ERROR, true, SIM_MIXED, 1};
	static scenario full = {SIM_NO_SPACE, false, SIM_MIXED, 1};
	static scenario halved = {SIM_SHORT_WRITE, false, SIM_MIXED, 1};
	const struct CMUnitTest tests[] = {
		{"unsynced_writes_are_lost", each_step, NULL, NULL, &lost},
		{"unsynced_writes_are_kept", each_step, NULL, NULL, &kept},
		{"unsynced_writes_are_torn", each_step, NULL, NULL, &torn},
		{"any_call_fails", each_step, NULL, NULL, &fails},
		{"any_call_finds_the_disk_full", each_step, NULL, NULL, &full},
		{"any_write_ends_in_the_middle", each_step, NULL, NULL, &halved},
	};

	return cmocka_run_group_tests_name("power loss", tests, prepare, NULL);
}
