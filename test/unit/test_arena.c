#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "arena_fixture.h"

#define REPLACEMENTS 20000u
#define OBJECTS 2u /* so that what was replaced is used again at once */
#define OBJECT_WORDS 8u
#define LOOKS 16u
#define FREE UINT64_MAX

enum { DONE };

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

static void test_references(void **state) {
	const arena_fixture *fixture = *state;
	uint8_t *place = fixture->arena.base + 4096;

	assert_ptr_equal(lsm_at(&fixture->arena, 512), place);
	assert_int_equal(lsm_ref_of(&fixture->arena, place), 512);
	assert_int_equal(lsm_round_up(0, 8), 0);
	assert_int_equal(lsm_round_up(1, 8), 8);
	assert_int_equal(lsm_round_up(4096, 4096), 4096);
}

static void test_readers_hold_epochs(void **state) {
	const lsm_arena *arena = &((arena_fixture *)*state)->arena;
	uint64_t before = lsm_epoch_retire(arena);
	uint64_t during;

	assert_true(lsm_epoch_safe(arena) > before);
	lsm_epoch_enter(arena, 3);
	assert_true(lsm_epoch_safe(arena) > before);
	during = lsm_epoch_retire(arena);
	assert_true(during > before);
	assert_true(lsm_epoch_safe(arena) <= during);
	lsm_epoch_enter(arena, 4); /* came after, and holds nothing of it */
	lsm_epoch_leave(arena, 3);
	assert_true(lsm_epoch_safe(arena) > during);
	lsm_epoch_leave(arena, 4);
	assert_true(lsm_epoch_safe(arena) > during);
}

static void test_enter_and_leave_nest(void **state) {
	const lsm_arena *arena = &((arena_fixture *)*state)->arena;
	uint64_t tag;

	lsm_epoch_enter(arena, 0);
	tag = lsm_epoch_retire(arena);
	lsm_epoch_enter(arena, 0);
	lsm_epoch_leave(arena, 0);
	assert_true(lsm_epoch_safe(arena) <= tag);
	lsm_epoch_leave(arena, 0);
	assert_true(lsm_epoch_safe(arena) > tag);
}

static void test_ones_own_epoch_is_passed_unless_nested(void **state) {
	const lsm_arena *arena = &((arena_fixture *)*state)->arena;
	uint64_t tag;

	lsm_epoch_enter(arena, 0);
	tag = lsm_epoch_retire(arena);
	assert_true(lsm_epoch_passed(arena, 0, tag));
	assert_false(lsm_epoch_passed(arena, 1, tag));
	lsm_epoch_enter(arena, 1); /* came after */
	assert_true(lsm_epoch_passed(arena, 0, tag));
	lsm_epoch_enter(arena, 0);
	assert_false(lsm_epoch_passed(arena, 0, tag));
	lsm_epoch_leave(arena, 0);
	tag = lsm_epoch_retire(arena);
	assert_false(lsm_epoch_passed(arena, 0, tag));
	lsm_epoch_leave(arena, 1);
	assert_true(lsm_epoch_passed(arena, 0, tag));
	lsm_epoch_leave(arena, 0);
}

static void test_leaving_is_told_when_wanted(void **state) {
	const lsm_arena *arena = &((arena_fixture *)*state)->arena;
	uint32_t ticket = lsm_event_prepare(&arena->epochs->left);

	lsm_epoch_enter(arena, 0);
	lsm_epoch_leave(arena, 0);
	assert_int_equal(lsm_event_prepare(&arena->epochs->left), ticket);
	atomic_store(&arena->epochs->wanted, 1);
	lsm_epoch_enter(arena, 0);
	lsm_epoch_leave(arena, 0);
	assert_int_not_equal(lsm_event_prepare(&arena->epochs->left), ticket);
}

/* ---- Reuse while others read ------------------------------------------------------------------------------- */

/* All words of an object that can be reached are equal; those of one that waits for its next use are FREE. They are
 * not atomic: what keeps readers and writers apart is the epochs alone. */
struct object {
	uint64_t words[OBJECT_WORDS];
	uint64_t tag; /* the writers', under the latch */
	bool used;
};

struct pool {
	_Atomic lsm_ref current;
	lsm_ref objects;
	unsigned writers; /* the first workers; the others read */
};

static void fill(struct object *object, uint64_t with) {
	for (unsigned i = 0; i < OBJECT_WORDS; i++) {
		object->words[i] = with;
	}
}

static bool is_whole(const struct object *object) {
	uint64_t first = object->words[0];

	for (unsigned i = 1; i < OBJECT_WORDS; i++) {
		if (object->words[i] != first) {
			return false;
		}
	}
	return first != FREE;
}

static void read_current(arena_fixture *fixture, struct pool *pool) {
	const lsm_arena *arena = &fixture->arena;
	uint32_t member = fixture_member(fixture);

	while (atomic_load(&fixture->shared->words[DONE]) < pool->writers) {
		const struct object *seen;

		lsm_epoch_enter(arena, member);
		seen = lsm_at(arena, atomic_load_explicit(&pool->current, memory_order_acquire));
		for (unsigned i = 0; i < LOOKS; i++) {
			EXPECT(fixture, is_whole(seen));
			atomic_signal_fence(memory_order_seq_cst);
		}
		lsm_epoch_leave(arena, member);
	}
}

/* An object that no reader can hold, waiting for readers if it must. The latch is held. */
static struct object *find_reusable(arena_fixture *fixture, struct pool *pool) {
	const lsm_arena *arena = &fixture->arena;
	struct object *objects = lsm_at(arena, pool->objects);

	for (;;) {
		uint32_t ticket = lsm_event_prepare(&arena->epochs->left);
		uint64_t safe = lsm_epoch_safe(arena);

		for (unsigned i = 0; i < OBJECTS; i++) {
			if (!objects[i].used && objects[i].tag < safe) {
				return &objects[i];
			}
		}
		atomic_store(&arena->epochs->wanted, 1);
		if (lsm_epoch_safe(arena) == safe) {
			(void)lsm_event_wait(&arena->waiting, &arena->epochs->left, ticket, 10000, AIDB_WAIT_ROOM);
		}
		atomic_store(&arena->epochs->wanted, 0);
	}
}

static void replace_current(arena_fixture *fixture, struct pool *pool) {
	const lsm_arena *arena = &fixture->arena;
	fixture_shared *shared = fixture->shared;

	for (unsigned i = 0; i < REPLACEMENTS / pool->writers; i++) {
		struct object *fresh;
		struct object *old;

		EXPECT(fixture, lsm_latch_acquire(&arena->waiting, &shared->latch));
		fresh = find_reusable(fixture, pool);
		fill(fresh, FREE); /* what a reader that was missed would see */
		atomic_signal_fence(memory_order_seq_cst);
		fill(fresh, ++shared->counter);
		fresh->used = true;
		old = lsm_at(arena, atomic_exchange_explicit(&pool->current, lsm_ref_of(arena, fresh), memory_order_acq_rel));
		old->tag = lsm_epoch_retire(arena);
		old->used = false;
		lsm_latch_release(&arena->waiting, &shared->latch);
	}
	atomic_fetch_add(&shared->words[DONE], 1);
}

static void read_or_replace(arena_fixture *fixture, unsigned number, void *argument) {
	struct pool *pool = argument;

	if (number < pool->writers) {
		replace_current(fixture, pool);
	} else {
		read_current(fixture, pool);
	}
}

static struct pool *make_pool(arena_fixture *fixture, unsigned writers) {
	struct pool *made = lsm_at(&fixture->arena, fixture_take(fixture, sizeof(struct pool), LSM_CACHE_LINE));
	struct object *objects;

	made->objects = fixture_take(fixture, OBJECTS * sizeof(struct object), LSM_CACHE_LINE);
	made->writers = writers;
	objects = lsm_at(&fixture->arena, made->objects);
	objects[0].used = true;
	atomic_store(&made->current, made->objects);
	return made;
}

static void test_nothing_is_reused_under_many_readers(void **state) {
	arena_fixture *fixture = *state;
	struct pool *made = make_pool(fixture, 2);

	fixture_run_threads(fixture, 8, read_or_replace, made);
	assert_int_equal(fixture->shared->counter, REPLACEMENTS);
	atomic_store(&fixture->shared->words[DONE], 0);
	fixture_run_processes(fixture, 8, read_or_replace, made);
	assert_int_equal(fixture->shared->counter, 2 * REPLACEMENTS);
	assert_int_equal(fixture_failures(fixture), 0);
}

/* One of each, on processors of their own if there are two: what only the order of memory accesses keeps apart. */
static void test_nothing_is_reused_under_one_reader(void **state) {
	arena_fixture *fixture = *state;

	fixture_run_threads(fixture, 2, read_or_replace, make_pool(fixture, 1));
	assert_int_equal(fixture->shared->counter, REPLACEMENTS);
	assert_int_equal(fixture_failures(fixture), 0);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void) {
	const struct CMUnitTest tests[] = {
		CASE(test_references),
		CASE(test_readers_hold_epochs),
		CASE(test_enter_and_leave_nest),
		CASE(test_ones_own_epoch_is_passed_unless_nested),
		CASE(test_leaving_is_told_when_wanted),
		CASE(test_nothing_is_reused_under_many_readers),
		CASE(test_nothing_is_reused_under_one_reader),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
