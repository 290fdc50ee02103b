#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "arena_fixture.h"
#include "store/cache.h"

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

static void fill_block(uint64_t id, lsm_pin *pin) {
	pin->size = size_of_block(id);
	for (uint32_t at = 0; at < pin->size; at += 8) {
		lsm_put_u64(pin->data + at, id ^ at);
	}
}

static bool is_block(uint64_t id, const lsm_pin *pin) {
	if (pin->size != size_of_block(id)) {
		return false;
	}
	for (uint32_t at = 0; at < pin->size; at += 8) {
		if (lsm_get_u64(pin->data + at) != (id ^ at)) {
			return false;
		}
	}
	return true;
}

static uint64_t id_of(uint64_t number) {
	return lsm_block_id(1 + number % 5, number * 4096);
}

static bool load(const lsm_arena *arena, uint64_t id, lsm_cache_priority priority) {
	lsm_pin pin;

	if (!lsm_cache_reserve(arena, cache, id, priority, &pin)) {
		return false;
	}
	fill_block(id, &pin);
	lsm_cache_publish(arena, cache, &pin);
	lsm_cache_release(arena, cache, &pin);
	return true;
}

static bool is_cached(const lsm_arena *arena, uint64_t id) {
	lsm_pin pin;

	if (!lsm_cache_lookup(arena, cache, id, &pin)) {
		return false;
	}
	assert_true(is_block(id, &pin));
	lsm_cache_release(arena, cache, &pin);
	return true;
}

/* Blocks that fall into the first set, from the first not used yet. */
static uint64_t next_of_one_set(const lsm_arena *arena, uint64_t *number) {
	const lsm_cache_set *set = lsm_at(arena, cache->sets);

	for (;;) {
		uint64_t id = id_of((*number)++);
		lsm_pin pin;

		if (lsm_cache_reserve(arena, cache, id, LSM_CACHE_LOW, &pin)) {
			lsm_cache_abandon(arena, cache, &pin);
			if (pin.frame / LSM_CACHE_WAYS == 0) {
				assert_true(atomic_load(&set->words[pin.frame]) == 0);
				return id;
			}
		}
	}
}

/* ---- Cases ------------------------------------------------------------------------------------------------ */

static void test_layout(void **state) {
	const lsm_arena *arena = &((arena_fixture *)*state)->arena;
	lsm_pin pin;

	assert_int_equal((uint64_t)cache->frames * LSM_REF_UNIT % 4096, 0);
	assert_int_equal(((uint64_t)cache->frames - cache->sets) * LSM_REF_UNIT + (uint64_t)FRAMES * LSM_BLOCK_BYTES,
					 lsm_cache_bytes(SETS));
	assert_true(lsm_cache_reserve(arena, cache, 42, LSM_CACHE_NORMAL, &pin));
	assert_int_equal((pin.data - arena->base) % 4096, 0);
	assert_ptr_equal(pin.data, (uint8_t *)lsm_at(arena, cache->frames) + (size_t)pin.frame * LSM_BLOCK_BYTES);
	assert_true(pin.frame < FRAMES);
	lsm_cache_abandon(arena, cache, &pin);
}

static void test_block_is_seen_from_publishing_on(void **state) {
	const lsm_arena *arena = &((arena_fixture *)*state)->arena;
	uint64_t id = id_of(1);
	lsm_pin loading;
	lsm_pin pin;

	assert_false(lsm_cache_lookup(arena, cache, id, &pin));
	assert_true(lsm_cache_reserve(arena, cache, id, LSM_CACHE_NORMAL, &loading));
	assert_int_equal(lsm_cache_pinned(arena, cache), 1);
	assert_false(lsm_cache_lookup(arena, cache, id, &pin));
	assert_false(lsm_cache_reserve(arena, cache, id, LSM_CACHE_NORMAL, &pin));
	fill_block(id, &loading);
	lsm_cache_publish(arena, cache, &loading);
	assert_true(is_cached(arena, id));
	assert_false(lsm_cache_reserve(arena, cache, id, LSM_CACHE_NORMAL, &pin));
	assert_int_equal(lsm_cache_pinned(arena, cache), 1);
	lsm_cache_release(arena, cache, &loading);
	assert_int_equal(lsm_cache_pinned(arena, cache), 0);
	assert_true(is_cached(arena, id));
}

static void test_abandoned_frame_is_free(void **state) {
	const lsm_arena *arena = &((arena_fixture *)*state)->arena;
	uint64_t id = id_of(1);
	lsm_pin pin;

	assert_true(lsm_cache_reserve(arena, cache, id, LSM_CACHE_HIGH, &pin));
	lsm_cache_abandon(arena, cache, &pin);
	assert_int_equal(lsm_cache_pinned(arena, cache), 0);
	assert_false(lsm_cache_lookup(arena, cache, id, &pin));
	assert_true(load(arena, id, LSM_CACHE_HIGH));
	assert_true(is_cached(arena, id));
}

static void test_pinned_blocks_stay(void **state) {
	const lsm_arena *arena = &((arena_fixture *)*state)->arena;
	uint64_t number = 1;
	uint64_t ids[LSM_CACHE_WAYS + 1];
	lsm_pin pins[LSM_CACHE_WAYS];
	lsm_pin pin;

	for (unsigned i = 0; i <= LSM_CACHE_WAYS; i++) {
		ids[i] = next_of_one_set(arena, &number);
	}
	for (unsigned i = 0; i < LSM_CACHE_WAYS; i++) {
		assert_true(lsm_cache_reserve(arena, cache, ids[i], LSM_CACHE_LOW, &pins[i]));
		fill_block(ids[i], &pins[i]);
		lsm_cache_publish(arena, cache, &pins[i]);
	}
	assert_false(lsm_cache_reserve(arena, cache, ids[LSM_CACHE_WAYS], LSM_CACHE_HIGH, &pin));
	for (unsigned i = 0; i < LSM_CACHE_WAYS; i++) {
		assert_true(is_block(ids[i], &pins[i]));
	}
	lsm_cache_release(arena, cache, &pins[5]);
	assert_true(load(arena, ids[LSM_CACHE_WAYS], LSM_CACHE_LOW));
	assert_false(is_cached(arena, ids[5]));
	for (unsigned i = 0; i < LSM_CACHE_WAYS; i++) {
		if (i != 5) {
			lsm_cache_release(arena, cache, &pins[i]);
			assert_true(is_cached(arena, ids[i]));
		}
	}
	assert_int_equal(lsm_cache_pinned(arena, cache), 0);
}

/* Loads a set full of blocks of one priority each, then others of low priority, and says how many are left. */
static unsigned survivors(const lsm_arena *arena, lsm_cache_priority priority, unsigned others) {
	uint64_t number = 1;
	uint64_t ids[LSM_CACHE_WAYS];
	uint64_t other_ids[64];
	unsigned left = 0;

	lsm_cache_init(arena, cache, cache->sets, SETS);
	for (unsigned i = 0; i < LSM_CACHE_WAYS; i++) {
		ids[i] = next_of_one_set(arena, &number);
	}
	for (unsigned i = 0; i < others; i++) {
		other_ids[i] = next_of_one_set(arena, &number);
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
	uint64_t hot = next_of_one_set(arena, &number);
	uint64_t ids[100];

	for (unsigned i = 0; i < 100; i++) {
		ids[i] = next_of_one_set(arena, &number);
	}
	assert_true(load(arena, hot, LSM_CACHE_NORMAL));
	for (unsigned i = 0; i < 100; i++) {
		assert_true(load(arena, ids[i], LSM_CACHE_NORMAL));
		assert_true(is_cached(arena, hot));
	}
}

/* ---- Many members ------------------------------------------------------------------------------------------ */

/* Each block is in at most one frame that can be looked up. */
static void expect_no_duplicates(arena_fixture *fixture) {
	const lsm_cache_set *sets = lsm_at(&fixture->arena, cache->sets);

	for (unsigned number = 0; number < SETS; number++) {
		for (unsigned a = 0; a < LSM_CACHE_WAYS; a++) {
			for (unsigned b = a + 1; b < LSM_CACHE_WAYS; b++) {
				uint64_t id = atomic_load(&sets[number].ids[a]);

				EXPECT(fixture, id == 0 || id != atomic_load(&sets[number].ids[b]));
			}
		}
	}
}

static void use_block(arena_fixture *fixture, uint64_t id, uint64_t *random) {
	const lsm_arena *arena = &fixture->arena;
	_Atomic uint32_t *words = fixture->shared->words;
	lsm_pin pin;

	if (lsm_cache_lookup(arena, cache, id, &pin)) {
		atomic_fetch_add_explicit(&words[HITS], 1, memory_order_relaxed);
	} else if (lsm_cache_reserve(arena, cache, id, (lsm_cache_priority)(fixture_random(random) % 3), &pin)) {
		memset(pin.data, 0xee, 64); /* a reader of the block that was here before would see it */
		if (fixture_random(random) % 16 == 0) {
			lsm_cache_abandon(arena, cache, &pin);
			return;
		}
		fill_block(id, &pin);
		lsm_cache_publish(arena, cache, &pin);
		atomic_fetch_add_explicit(&words[LOADS], 1, memory_order_relaxed);
	} else {
		return;
	}
	EXPECT(fixture, is_block(id, &pin));
	lsm_cache_release(arena, cache, &pin);
}

static void use_blocks(arena_fixture *fixture, unsigned number, void *argument) {
	uint64_t random = fixture_seed() + number;

	(void)argument;
	for (unsigned i = 0; i < ROUNDS; i++) {
		/* Some blocks are wanted by everybody, so that members meet. */
		uint64_t block = fixture_random(&random) % (i % 4 == 0 ? 8 : BLOCKS);

		use_block(fixture, id_of(block), &random);
	}
}

static void expect_sound(arena_fixture *fixture) {
	expect_no_duplicates(fixture);
	assert_int_equal(lsm_cache_pinned(&fixture->arena, cache), 0);
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

/* Another frame that can be looked up holds the block on which the caller has a pin. */
static bool has_duplicate(const lsm_arena *arena, uint64_t id, const lsm_pin *pin) {
	const lsm_cache_set *set = (const lsm_cache_set *)lsm_at(arena, cache->sets) + pin->frame / LSM_CACHE_WAYS;

	for (unsigned way = 0; way < LSM_CACHE_WAYS; way++) {
		bool valid;

		if (way == pin->frame % LSM_CACHE_WAYS || atomic_load(&set->ids[way]) != id) {
			continue;
		}
		valid = atomic_load(&set->words[way]) >> 31 != 0;
		if (valid && atomic_load(&set->ids[way]) == id) {
			return true;
		}
	}
	return false;
}

/* Blocks of one word, which are replaced within nanoseconds, in one set: what lookup and replacement do to each other
 * is all there is. */
static void race(arena_fixture *fixture, unsigned number, void *argument) {
	const lsm_arena *arena = &fixture->arena;
	uint64_t random = fixture_seed() + number;

	(void)argument;
	for (unsigned i = 0; i < RACE_ROUNDS; i++) {
		uint64_t id = 1 + fixture_random(&random) % RACE_BLOCKS;
		lsm_pin pin;

		if (!lsm_cache_lookup(arena, cache, id, &pin)) {
			if (!lsm_cache_reserve(arena, cache, id, LSM_CACHE_LOW, &pin)) {
				continue;
			}
			pin.size = 8;
			lsm_put_u64(pin.data, id);
			lsm_cache_publish(arena, cache, &pin);
		}
		EXPECT(fixture, pin.size == 8 && lsm_get_u64(pin.data) == id);
		EXPECT(fixture, !has_duplicate(arena, id, &pin));
		lsm_cache_release(arena, cache, &pin);
	}
}

static void test_members_race_for_frames(void **state) {
	arena_fixture *fixture = *state;

	lsm_cache_init(&fixture->arena, cache, cache->sets, 1);
	fixture_run_threads(fixture, WORKERS, race, NULL);
	fixture_run_processes(fixture, WORKERS, race, NULL);
	assert_int_equal(lsm_cache_pinned(&fixture->arena, cache), 0);
	assert_int_equal(fixture_failures(fixture), 0);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void) {
	const struct CMUnitTest tests[] = {
		CASE(test_layout),
		CASE(test_block_is_seen_from_publishing_on),
		CASE(test_abandoned_frame_is_free),
		CASE(test_pinned_blocks_stay),
		CASE(test_priority_decides_who_stays),
		CASE(test_use_keeps_a_block),
		CASE(test_threads_never_meet_a_wrong_block),
		CASE(test_processes_never_meet_a_wrong_block),
		CASE(test_members_race_for_frames),
	};

	fixture_seed();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
