#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "arena_fixture.h"
#include "store/cache.h"

#define ME 0u /* the member of the tests with a single thread, and of one that reads meanwhile */
#define OTHER 1u
#define SETS 4u
#define FRAMES (SETS * LSM_CACHE_WAYS)
#define WORKERS 8u
#define ROUNDS 20000u
#define BLOCKS (FRAMES * 2) /* twice what fits */
#define RACE_ROUNDS 200000u
#define RACE_BLOCKS (2 * LSM_CACHE_WAYS)

enum { HITS, LOADS };

static lsm_cache *cache;

static int set_up(void **state) {
	static arena_fixture fixture;

	fixture_create(&fixture, lsm_cache_bytes(SETS) + (1 << 20), 16);
	cache = lsm_at(&fixture.arena, fixture_take(&fixture, sizeof(lsm_cache), 8));
	lsm_cache_init(&fixture.arena, cache, fixture_take(&fixture, lsm_cache_bytes(SETS), 4096), SETS);
	*state = &fixture;
	return 0;
}

static int tear_down(void **state) {
	fixture_destroy(*state);
	return 0;
}

/* ---- Blocks whose contents follow from their id -------------------------------------------------------------- */

static uint32_t size_of_block(uint64_t id) {
	return 8 * (1 + (uint32_t)(id * 2654435761u >> 16) % (LSM_BLOCK_BYTES / 8));
}

static void fill_block(uint64_t id, lsm_frame *frame) {
	frame->size = size_of_block(id);
	for (uint32_t at = 0; at < frame->size; at += 8) {
		lsm_put_u64(frame->data + at, id ^ at);
	}
}

static bool is_block(uint64_t id, const lsm_frame *frame) {
	if (frame->size != size_of_block(id)) {
		return false;
	}
	for (uint32_t at = 0; at < frame->size; at += 8) {
		if (lsm_get_u64(frame->data + at) != (id ^ at)) {
			return false;
		}
	}
	return true;
}

static uint64_t id_of(uint64_t number) {
	return lsm_block_id(1 + number % 5, number * 4096);
}

static bool load(const lsm_arena *arena, uint64_t id, lsm_cache_priority priority) {
	lsm_frame frame;

	if (!lsm_cache_reserve(arena, cache, ME, id, priority, &frame)) {
		return false;
	}
	fill_block(id, &frame);
	lsm_cache_publish(arena, cache, &frame);
	return true;
}

static bool is_cached(const lsm_arena *arena, uint64_t id) {
	lsm_frame frame;

	if (!lsm_cache_lookup(arena, cache, id, &frame)) {
		return false;
	}
	assert_true(is_block(id, &frame));
	return true;
}

/* For what happens inside a set. */
static void use_one_set(const lsm_arena *arena) {
	lsm_cache_init(arena, cache, cache->sets, 1);
}

/* ---- Cases ------------------------------------------------------------------------------------------------ */

static void test_layout(void **state) {
	const lsm_arena *arena = &((arena_fixture *)*state)->arena;
	lsm_frame frame;

	assert_int_equal((uint64_t)cache->frames * LSM_REF_UNIT % 4096, 0);
	assert_int_equal(((uint64_t)cache->frames - cache->sets) * LSM_REF_UNIT + (uint64_t)FRAMES * LSM_BLOCK_BYTES,
					 lsm_cache_bytes(SETS));
	assert_true(lsm_cache_reserve(arena, cache, ME, 42, LSM_CACHE_NORMAL, &frame));
	assert_int_equal((frame.data - arena->base) % 4096, 0);
	assert_ptr_equal(frame.data, (uint8_t *)lsm_at(arena, cache->frames) + (size_t)frame.number * LSM_BLOCK_BYTES);
	assert_true(frame.number < FRAMES);
	lsm_cache_abandon(arena, cache, &frame);
}

static void test_block_is_seen_from_publishing_on(void **state) {
	const lsm_arena *arena = &((arena_fixture *)*state)->arena;
	uint64_t id = id_of(1);
	lsm_frame loading;
	lsm_frame frame;

	assert_false(lsm_cache_lookup(arena, cache, id, &frame));
	assert_true(lsm_cache_reserve(arena, cache, ME, id, LSM_CACHE_NORMAL, &loading));
	assert_int_equal(lsm_cache_loading(arena, cache), 1);
	assert_false(lsm_cache_lookup(arena, cache, id, &frame));
	assert_false(lsm_cache_reserve(arena, cache, ME, id, LSM_CACHE_NORMAL, &frame));
	fill_block(id, &loading);
	lsm_cache_publish(arena, cache, &loading);
	assert_true(is_cached(arena, id));
	assert_false(lsm_cache_reserve(arena, cache, ME, id, LSM_CACHE_NORMAL, &frame));
	assert_int_equal(lsm_cache_loading(arena, cache), 0);
	assert_true(is_cached(arena, id));
}

static void test_abandoned_frame_is_free(void **state) {
	const lsm_arena *arena = &((arena_fixture *)*state)->arena;
	uint64_t id = id_of(1);
	lsm_frame frame;

	assert_true(lsm_cache_reserve(arena, cache, ME, id, LSM_CACHE_HIGH, &frame));
	lsm_cache_abandon(arena, cache, &frame);
	assert_int_equal(lsm_cache_loading(arena, cache), 0);
	assert_false(lsm_cache_lookup(arena, cache, id, &frame));
	assert_true(load(arena, id, LSM_CACHE_HIGH));
	assert_true(is_cached(arena, id));
}

/* While another member reads, a set gives up one block ahead, and no more; and the member keeps what it has found. */
static void test_blocks_stay_for_who_may_have_found_them(void **state) {
	const lsm_arena *arena = &((arena_fixture *)*state)->arena;
	uint64_t number = 1;
	uint64_t ids[LSM_CACHE_WAYS + 1];
	lsm_frame found[LSM_CACHE_WAYS];
	lsm_frame frame;
	unsigned left = 0;

	use_one_set(arena);
	for (unsigned i = 0; i <= LSM_CACHE_WAYS; i++) {
		ids[i] = id_of(number++);
	}
	for (unsigned i = 0; i < LSM_CACHE_WAYS; i++) {
		assert_true(load(arena, ids[i], LSM_CACHE_LOW));
	}
	lsm_epoch_enter(arena, OTHER);
	for (unsigned i = 0; i < LSM_CACHE_WAYS; i++) {
		assert_true(lsm_cache_lookup(arena, cache, ids[i], &found[i]));
	}
	for (unsigned i = 0; i < 5; i++) {
		assert_false(lsm_cache_reserve(arena, cache, ME, ids[LSM_CACHE_WAYS], LSM_CACHE_HIGH, &frame));
	}
	for (unsigned i = 0; i < LSM_CACHE_WAYS; i++) {
		assert_true(is_block(ids[i], &found[i]));
		left += is_cached(arena, ids[i]);
	}
	assert_int_equal(left, LSM_CACHE_WAYS - 1);
	lsm_epoch_leave(arena, OTHER);
	assert_true(load(arena, ids[LSM_CACHE_WAYS], LSM_CACHE_LOW));
	assert_true(is_cached(arena, ids[LSM_CACHE_WAYS]));
	assert_int_equal(lsm_cache_loading(arena, cache), 0);
}

/* Only the blocks of others stop it, so that a lonely reader loads at once; unless its own calls are nested. */
static void test_ones_own_epoch_stops_no_replacement(void **state) {
	const lsm_arena *arena = &((arena_fixture *)*state)->arena;
	uint64_t number = 1;
	uint64_t ids[3 * LSM_CACHE_WAYS];
	lsm_frame frame;

	use_one_set(arena);
	for (unsigned i = 0; i < 3 * LSM_CACHE_WAYS; i++) {
		ids[i] = id_of(number++);
	}
	lsm_epoch_enter(arena, ME);
	for (unsigned i = 0; i < 2 * LSM_CACHE_WAYS; i++) {
		assert_true(load(arena, ids[i], LSM_CACHE_LOW));
	}
	lsm_epoch_enter(arena, ME);
	for (unsigned i = 2 * LSM_CACHE_WAYS; i < 3 * LSM_CACHE_WAYS; i++) {
		assert_false(lsm_cache_reserve(arena, cache, ME, ids[i], LSM_CACHE_LOW, &frame));
	}
	lsm_epoch_leave(arena, ME);
	lsm_epoch_leave(arena, ME);
}

/* Loads a set full of blocks of one priority each, then others of low priority, and says how many are left. */
static unsigned survivors(const lsm_arena *arena, lsm_cache_priority priority, unsigned others) {
	uint64_t number = 1;
	uint64_t ids[LSM_CACHE_WAYS];
	uint64_t other_ids[64];
	unsigned left = 0;

	use_one_set(arena);
	for (unsigned i = 0; i < LSM_CACHE_WAYS; i++) {
		ids[i] = id_of(number++);
	}
	for (unsigned i = 0; i < others; i++) {
		other_ids[i] = id_of(number++);
	}
	for (unsigned i = 0; i < LSM_CACHE_WAYS; i++) {
		/* Half the set is of low priority: what the others are expected to push out. */
		assert_true(load(arena, ids[i], i % 2 == 0 ? priority : LSM_CACHE_LOW));
	}
	for (unsigned i = 0; i < others; i++) {
		assert_true(load(arena, other_ids[i], LSM_CACHE_LOW));
	}
	for (unsigned i = 0; i < LSM_CACHE_WAYS; i += 2) {
		left += is_cached(arena, ids[i]);
	}
	return left;
}

static void test_priority_decides_who_stays(void **state) {
	const lsm_arena *arena = &((arena_fixture *)*state)->arena;

	assert_int_equal(survivors(arena, LSM_CACHE_LOW, LSM_CACHE_WAYS), 0);
	assert_int_equal(survivors(arena, LSM_CACHE_NORMAL, LSM_CACHE_WAYS / 2), LSM_CACHE_WAYS / 2);
	assert_int_equal(survivors(arena, LSM_CACHE_HIGH, 2 * LSM_CACHE_WAYS / 2), LSM_CACHE_WAYS / 2);
	assert_int_equal(survivors(arena, LSM_CACHE_HIGH, 60), 0);
}

static void test_use_keeps_a_block(void **state) {
	const lsm_arena *arena = &((arena_fixture *)*state)->arena;
	uint64_t number = 1;
	uint64_t hot = id_of(number++);
	uint64_t ids[100];

	use_one_set(arena);
	for (unsigned i = 0; i < 100; i++) {
		ids[i] = id_of(number++);
	}
	assert_true(load(arena, hot, LSM_CACHE_NORMAL));
	for (unsigned i = 0; i < 100; i++) {
		assert_true(load(arena, ids[i], LSM_CACHE_NORMAL));
		assert_true(is_cached(arena, hot));
	}
}

/* Each block has the choice of two sets, so that hardly any must go before the whole cache is full. */
static void test_nearly_all_of_the_cache_is_used(void **state) {
	const lsm_arena *arena = &((arena_fixture *)*state)->arena;
	const unsigned blocks = FRAMES * 9 / 10;
	unsigned left = 0;

	for (unsigned i = 0; i < blocks; i++) {
		assert_true(load(arena, id_of(i), LSM_CACHE_NORMAL));
	}
	for (unsigned i = 0; i < blocks; i++) {
		left += is_cached(arena, id_of(i));
	}
	assert_true(left >= blocks - 1);
}

/* ---- Many members ------------------------------------------------------------------------------------------ */

/* Each block is in at most one frame that can be looked up. */
static void expect_no_duplicates(arena_fixture *fixture) {
	const lsm_cache_set *sets = lsm_at(&fixture->arena, cache->sets);

	for (unsigned a = 0; a < FRAMES; a++) {
		uint64_t id = atomic_load(&sets[a / LSM_CACHE_WAYS].ids[a % LSM_CACHE_WAYS]);

		for (unsigned b = a + 1; b < FRAMES; b++) {
			EXPECT(fixture, id == 0 || id != atomic_load(&sets[b / LSM_CACHE_WAYS].ids[b % LSM_CACHE_WAYS]));
		}
	}
}

static void use_block(arena_fixture *fixture, uint64_t id, uint32_t member, uint64_t *random) {
	const lsm_arena *arena = &fixture->arena;
	_Atomic uint32_t *words = fixture->shared->words;
	lsm_frame frame;

	if (lsm_cache_lookup(arena, cache, id, &frame)) {
		atomic_fetch_add_explicit(&words[HITS], 1, memory_order_relaxed);
	} else if (lsm_cache_reserve(arena, cache, member, id, (lsm_cache_priority)(fixture_random(random) % 3), &frame)) {
		memset(frame.data, 0xee, 64); /* a reader of the block that was here before would see it */
		if (fixture_random(random) % 16 == 0) {
			lsm_cache_abandon(arena, cache, &frame);
			return;
		}
		fill_block(id, &frame);
		lsm_cache_publish(arena, cache, &frame);
		atomic_fetch_add_explicit(&words[LOADS], 1, memory_order_relaxed);
	} else {
		return;
	}
	EXPECT(fixture, is_block(id, &frame));
}

static void use_blocks(arena_fixture *fixture, unsigned number, void *argument) {
	uint32_t member = fixture_member(fixture);
	uint64_t random = fixture_seed() + number;

	(void)argument;
	for (unsigned i = 0; i < ROUNDS; i++) {
		/* Some blocks are wanted by everybody, so that members meet. */
		uint64_t block = fixture_random(&random) % (i % 4 == 0 ? 8 : BLOCKS);

		lsm_epoch_enter(&fixture->arena, member);
		use_block(fixture, id_of(block), member, &random);
		lsm_epoch_leave(&fixture->arena, member);
	}
}

static void expect_sound(arena_fixture *fixture) {
	expect_no_duplicates(fixture);
	assert_int_equal(lsm_cache_loading(&fixture->arena, cache), 0);
	assert_true(atomic_load(&fixture->shared->words[HITS]) > 0);
	assert_true(atomic_load(&fixture->shared->words[LOADS]) > 0);
	assert_int_equal(fixture_failures(fixture), 0);
}

static void test_threads_never_meet_a_wrong_block(void **state) {
	fixture_run_threads(*state, WORKERS, use_blocks, NULL);
	expect_sound(*state);
}

static void test_processes_never_meet_a_wrong_block(void **state) {
	fixture_run_processes(*state, WORKERS, use_blocks, NULL);
	expect_sound(*state);
}

/* Besides the frame in which the caller has found the block, another that can be looked up holds it. (Replaced in the
 * meantime, it may rightly have come into another.) */
static bool has_duplicate(const lsm_arena *arena, uint64_t id, const lsm_frame *frame) {
	const lsm_cache_set *set = (const lsm_cache_set *)lsm_at(arena, cache->sets) + frame->number / LSM_CACHE_WAYS;

	for (unsigned way = 0; way < LSM_CACHE_WAYS; way++) {
		bool valid;

		if (way == frame->number % LSM_CACHE_WAYS || atomic_load(&set->ids[way]) != id) {
			continue;
		}
		valid = atomic_load(&set->words[way]) >> 31 != 0;
		if (valid && atomic_load(&set->ids[way]) == id) {
			return atomic_load(&set->words[frame->number % LSM_CACHE_WAYS]) >> 31 != 0;
		}
	}
	return false;
}

/* Blocks of one word, which are replaced within nanoseconds, in one set: what lookup and replacement do to each other
 * is all there is. */
static void race(arena_fixture *fixture, unsigned number, void *argument) {
	const lsm_arena *arena = &fixture->arena;
	uint32_t member = fixture_member(fixture);
	uint64_t random = fixture_seed() + number;

	(void)argument;
	for (unsigned i = 0; i < RACE_ROUNDS; i++) {
		uint64_t id = 1 + fixture_random(&random) % RACE_BLOCKS;
		lsm_frame frame;
		bool found;

		lsm_epoch_enter(arena, member);
		found = lsm_cache_lookup(arena, cache, id, &frame);
		if (!found && lsm_cache_reserve(arena, cache, member, id, LSM_CACHE_LOW, &frame)) {
			frame.size = 8;
			lsm_put_u64(frame.data, id);
			lsm_cache_publish(arena, cache, &frame);
			found = true;
		}
		if (found) {
			EXPECT(fixture, !has_duplicate(arena, id, &frame));
			EXPECT(fixture, frame.size == 8 && lsm_get_u64(frame.data) == id);
		}
		lsm_epoch_leave(arena, member);
	}
}

static void test_members_race_for_frames(void **state) {
	arena_fixture *fixture = *state;

	use_one_set(&fixture->arena);
	fixture_run_threads(fixture, WORKERS, race, NULL);
	fixture_run_processes(fixture, WORKERS, race, NULL);
	assert_int_equal(lsm_cache_loading(&fixture->arena, cache), 0);
	assert_int_equal(fixture_failures(fixture), 0);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void) {
	const struct CMUnitTest tests[] = {
		CASE(test_layout),
		CASE(test_block_is_seen_from_publishing_on),
		CASE(test_abandoned_frame_is_free),
		CASE(test_blocks_stay_for_who_may_have_found_them),
		CASE(test_ones_own_epoch_stops_no_replacement),
		CASE(test_priority_decides_who_stays),
		CASE(test_use_keeps_a_block),
		CASE(test_nearly_all_of_the_cache_is_used),
		CASE(test_threads_never_meet_a_wrong_block),
		CASE(test_processes_never_meet_a_wrong_block),
		CASE(test_members_race_for_frames),
	};

	fixture_seed();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
