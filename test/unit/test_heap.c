#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "arena_fixture.h"
#include "store/heap.h"

#define HEAP_BYTES (4u << 20)
#define WORKERS 8u
#define ROUNDS 5000u
#define HELD 16u

static lsm_heap *heap;

static int set_up(void **state) {
	static arena_fixture fixture;
	lsm_ref begin;

	fixture_create(&fixture, HEAP_BYTES + (1 << 20), 16);
	heap = lsm_at(&fixture.arena, fixture_take(&fixture, sizeof(lsm_heap), 8));
	begin = fixture_take(&fixture, HEAP_BYTES, 8);
	lsm_heap_init(heap, begin, begin + HEAP_BYTES / LSM_REF_UNIT);
	*state = &fixture;
	return 0;
}

static int tear_down(void **state) {
	fixture_destroy(*state);
	return 0;
}

static bool holds_only(const lsm_arena *arena, lsm_ref ref, uint64_t bytes, uint8_t byte) {
	const uint8_t *at = lsm_at(arena, ref);

	for (uint64_t i = 0; i < bytes; i++) {
		if (at[i] != byte) {
			return false;
		}
	}
	return true;
}

static void test_memory_is_zeroed_and_reused(void **state) {
	const lsm_arena *arena = &((arena_fixture *)*state)->arena;
	lsm_ref a = lsm_heap_allocate(arena, heap, 100);
	lsm_ref b = lsm_heap_allocate(arena, heap, 128);

	assert_true(a != 0 && b != 0 && a != b);
	assert_int_equal(heap->used_bytes, 256);
	memset(lsm_at(arena, a), 0xee, 128);
	lsm_heap_release(arena, heap, a, 100);
	assert_int_equal(heap->used_bytes, 128);
	assert_int_not_equal(lsm_heap_allocate(arena, heap, 64), a); /* another class */
	assert_int_equal(lsm_heap_allocate(arena, heap, 65), a);
	assert_true(holds_only(arena, a, 128, 0));
}

static void test_sizes_round_up_to_classes(void **state) {
	const lsm_arena *arena = &((arena_fixture *)*state)->arena;
	static const uint64_t sizes[][2] = {{0, 32},
										{1, 32},
										{32, 32},
										{33, 64},
										{4096, 4096},
										{4097, 8192},
										{1u << 19, 1u << 19},
										{(1u << 19) + 1, 1u << 20},
										{1u << 20, 1u << 20}};

	for (unsigned i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		uint64_t before = heap->used_bytes;
		lsm_ref ref = lsm_heap_allocate(arena, heap, sizes[i][0]);

		assert_int_not_equal(ref, 0);
		assert_int_equal(heap->used_bytes - before, sizes[i][1]);
		lsm_heap_release(arena, heap, ref, sizes[i][0]);
		assert_int_equal(heap->used_bytes, before);
	}
	assert_int_equal(lsm_heap_allocate(arena, heap, LSM_HEAP_MAX_BYTES + 1), 0);
	assert_int_equal(lsm_heap_allocate(arena, heap, UINT64_MAX), 0);
}

static void test_exhaustion_and_recovery(void **state) {
	const lsm_arena *arena = &((arena_fixture *)*state)->arena;
	lsm_ref big[HEAP_BYTES >> 20];

	for (unsigned i = 0; i < HEAP_BYTES >> 20; i++) {
		big[i] = lsm_heap_allocate(arena, heap, 1u << 20);
		assert_int_not_equal(big[i], 0);
	}
	assert_int_equal(heap->used_bytes, HEAP_BYTES);
	assert_int_equal(lsm_heap_allocate(arena, heap, 1), 0);
	lsm_heap_release(arena, heap, big[2], 1u << 20);
	assert_int_equal(lsm_heap_allocate(arena, heap, 1u << 20), big[2]);
	assert_int_equal(heap->used_bytes, HEAP_BYTES);
}

static void test_the_last_bytes_are_used(void **state) {
	const lsm_arena *arena = &((arena_fixture *)*state)->arena;

	lsm_heap_init(heap, heap->begin, heap->begin + (64 + 32) / LSM_REF_UNIT);
	assert_int_not_equal(lsm_heap_allocate(arena, heap, 32), 0);
	assert_int_equal(lsm_heap_allocate(arena, heap, 65), 0);
	assert_int_not_equal(lsm_heap_allocate(arena, heap, 64), 0);
	assert_int_equal(lsm_heap_allocate(arena, heap, 1), 0);
}

static void test_poisoned_arena_gives_nothing(void **state) {
	const lsm_arena *arena = &((arena_fixture *)*state)->arena;
	lsm_ref ref = lsm_heap_allocate(arena, heap, 32);

	atomic_store(arena->waiting.poisoned, 1);
	assert_int_equal(lsm_heap_allocate(arena, heap, 32), 0);
	lsm_heap_release(arena, heap, ref, 32);
	assert_int_equal(heap->used_bytes, 32);
}

typedef struct piece {
	lsm_ref ref;
	uint64_t bytes;
	uint8_t byte;
} piece;

/* Holds pieces full of a byte of its own, and replaces one after the other. */
static void allocate_and_release(arena_fixture *fixture, unsigned number, void *argument) {
	const lsm_arena *arena = &fixture->arena;
	uint64_t random = fixture_seed() + number;
	piece pieces[HELD] = {{0, 0, 0}};

	(void)argument;
	for (unsigned i = 0; i < ROUNDS; i++) {
		piece *mine = &pieces[fixture_random(&random) % HELD];

		if (mine->ref != 0) {
			EXPECT(fixture, holds_only(arena, mine->ref, mine->bytes, mine->byte));
			lsm_heap_release(arena, heap, mine->ref, mine->bytes);
		}
		mine->bytes = fixture_random(&random) % (32u << fixture_random(&random) % 7) + 1;
		mine->byte = (uint8_t)fixture_random(&random);
		mine->ref = lsm_heap_allocate(arena, heap, mine->bytes);
		EXPECT(fixture, mine->ref != 0 && holds_only(arena, mine->ref, mine->bytes, 0));
		memset(lsm_at(arena, mine->ref), mine->byte, mine->bytes);
	}
	for (unsigned i = 0; i < HELD; i++) {
		if (pieces[i].ref != 0) {
			lsm_heap_release(arena, heap, pieces[i].ref, pieces[i].bytes);
		}
	}
}

static void test_members_share_the_heap(void **state) {
	arena_fixture *fixture = *state;

	fixture_run_threads(fixture, WORKERS, allocate_and_release, NULL);
	assert_int_equal(heap->used_bytes, 0);
	fixture_run_processes(fixture, 4, allocate_and_release, NULL);
	assert_int_equal(heap->used_bytes, 0);
	assert_int_equal(fixture_failures(fixture), 0);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void) {
	const struct CMUnitTest tests[] = {
		CASE(test_memory_is_zeroed_and_reused),  CASE(test_sizes_round_up_to_classes),
		CASE(test_exhaustion_and_recovery),      CASE(test_the_last_bytes_are_used),
		CASE(test_poisoned_arena_gives_nothing), CASE(test_members_share_the_heap),
	};

	fixture_seed();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
