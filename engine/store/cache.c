#include "store/cache.h"

/*
 * The word of a frame:
 *
 *   bit  31      VALID: holds a block, and may be looked up
 *   bit  30      LOADING: a member is filling it; nobody else touches the word
 *   bit  29      RETIRED: its block cannot be found any more, and its id is the epoch at which that began
 *   bits 24, 25  usage, what CLOCK counts down
 *
 *   free --reserve--> LOADING --publish--> VALID --reserve: unused, and no reader left from before--> LOADING
 *     ^                  |  ^                |
 *     +-----abandon------+  +----RETIRED <---+ reserve: unused, but readers from before are about
 *
 * Only the member that has a frame LOADING writes its id, size and contents. A member that finds a VALID word inside
 * its epoch has acquired what the loader released. From then on the frame may be retired but not loaded anew before
 * the member leaves its epoch (arena.c says why); so comparing the id once more, after the word, is final.
 */
#define VALID (1u << 31)
#define LOADING (1u << 30)
#define RETIRED (1u << 29)
#define USAGE_ONE (1u << 24)
#define USAGE_MASK (3u << 24)
#define MAX_USAGE 3u
#define SWEEP_STEPS ((MAX_USAGE + 1) * LSM_CACHE_WAYS) /* brings any frame from full usage to replaced */

#define NO_WAY LSM_CACHE_WAYS

#define FRAME_UNITS (LSM_BLOCK_BYTES / LSM_REF_UNIT)

_Static_assert(sizeof(lsm_cache_set) == 256, "a set is four cache lines");
_Static_assert((LSM_CACHE_WAYS & (LSM_CACHE_WAYS - 1)) == 0, "the hand wraps by a mask");
_Static_assert(LSM_BLOCK_BYTES <= UINT16_MAX, "sizes fit 16 bits");

/* ---- Places -------------------------------------------------------------------------------------------- */

static lsm_cache_set *sets_of(const lsm_arena *arena, const lsm_cache *cache) {
	return lsm_at(arena, cache->sets);
}

/* The two sets that may hold a block (they may be one): both halves of splitmix64's finaliser, scaled to the number of
 * sets. */
typedef struct set_pair {
	uint32_t number[2];
} set_pair;

static set_pair sets_for(const lsm_cache *cache, uint64_t id) {
	id = (id ^ id >> 30) * 0xbf58476d1ce4e5b9ull;
	id = (id ^ id >> 27) * 0x94d049bb133111ebull;
	id ^= id >> 31;
	return (set_pair){
		{(uint32_t)((id >> 32) * cache->set_count >> 32), (uint32_t)((id & UINT32_MAX) * cache->set_count >> 32)}};
}

static lsm_frame frame_of(const lsm_arena *arena, const lsm_cache *cache, uint32_t number, uint32_t size) {
	return (lsm_frame){.data = lsm_at(arena, cache->frames + number * FRAME_UNITS), .size = size, .number = number};
}

static lsm_cache_set *set_of(const lsm_arena *arena, const lsm_cache *cache, const lsm_frame *frame) {
	assert(frame->number / LSM_CACHE_WAYS < cache->set_count);
	return sets_of(arena, cache) + frame->number / LSM_CACHE_WAYS;
}

static uint64_t sets_bytes(uint32_t set_count) {
	return lsm_round_up((uint64_t)set_count * sizeof(lsm_cache_set), LSM_BLOCK_BYTES);
}

uint64_t lsm_cache_bytes(uint32_t set_count) {
	return sets_bytes(set_count) + (uint64_t)set_count * LSM_CACHE_WAYS * LSM_BLOCK_BYTES;
}

void lsm_cache_init(const lsm_arena *arena, lsm_cache *cache, lsm_ref begin, uint32_t set_count) {
	assert(begin % FRAME_UNITS == 0 && set_count > 0);
	cache->sets = begin;
	cache->frames = begin + (lsm_ref)(sets_bytes(set_count) / LSM_REF_UNIT);
	cache->set_count = set_count;
	memset(sets_of(arena, cache), 0, (size_t)set_count * sizeof(lsm_cache_set));
}

/* ---- Lookup -------------------------------------------------------------------------------------------- */

/* Whether the frame is valid; if so, adds to its usage, unless another member changes the word just now. */
static bool use_valid(_Atomic uint32_t *word) {
	uint32_t seen = atomic_load_explicit(word, memory_order_acquire);

	if ((seen & VALID) == 0) {
		return false;
	}
	if ((seen & USAGE_MASK) != USAGE_MASK) {
		(void)atomic_compare_exchange_strong_explicit(word, &seen, seen + USAGE_ONE, memory_order_relaxed,
													  memory_order_relaxed);
	}
	return true;
}

static bool lookup_in(const lsm_arena *arena, const lsm_cache *cache, uint32_t number, uint64_t id, lsm_frame *frame) {
	lsm_cache_set *set = sets_of(arena, cache) + number;

	for (unsigned way = 0; way < LSM_CACHE_WAYS; way++) {
		if (atomic_load_explicit(&set->ids[way], memory_order_relaxed) == id && use_valid(&set->words[way]) &&
			atomic_load_explicit(&set->ids[way], memory_order_relaxed) == id) {
			*frame = frame_of(arena, cache, number * LSM_CACHE_WAYS + way, set->sizes[way]);
			return true;
		}
	}
	return false;
}

bool lsm_cache_lookup(const lsm_arena *arena, const lsm_cache *cache, uint64_t id, lsm_frame *frame) {
	set_pair sets = sets_for(cache, id);

	return lookup_in(arena, cache, sets.number[0], id, frame) || lookup_in(arena, cache, sets.number[1], id, frame);
}

/* ---- Loading ------------------------------------------------------------------------------------------- */

static bool is_present_in(const lsm_cache_set *set, uint64_t id, unsigned but) {
	for (unsigned way = 0; way < LSM_CACHE_WAYS; way++) {
		if (way != but && atomic_load(&set->ids[way]) == id &&
			(atomic_load_explicit(&set->words[way], memory_order_relaxed) & (VALID | LOADING)) != 0) {
			return true;
		}
	}
	return false;
}

/* Whether a frame other than `but_way` of `but_set` (NULL: any) holds the block or is to hold it. */
static bool is_present(const lsm_cache_set *all, set_pair sets, uint64_t id, const lsm_cache_set *but_set,
					   unsigned but_way) {
	for (unsigned i = 0; i < 2; i++) {
		const lsm_cache_set *set = all + sets.number[i];

		if (is_present_in(set, id, set == but_set ? but_way : NO_WAY)) {
			return true;
		}
	}
	return false;
}

/* Takes the frame if its word is still `seen`. */
static bool take(_Atomic uint32_t *word, uint32_t seen, uint32_t taken) {
	return atomic_compare_exchange_strong_explicit(word, &seen, taken, memory_order_acquire, memory_order_relaxed);
}

static unsigned take_free(lsm_cache_set *set, uint32_t taken) {
	for (unsigned way = 0; way < LSM_CACHE_WAYS; way++) {
		if (atomic_load_explicit(&set->words[way], memory_order_relaxed) == 0 && take(&set->words[way], 0, taken)) {
			return way;
		}
	}
	return NO_WAY;
}

/* CLOCK: counts down the usage of frames, and takes the first that has none left. The hand is a hint; members that
 * move it at the same time lose nothing but fairness. */
static unsigned take_unused(lsm_cache_set *set, uint32_t taken) {
	uint32_t hand = atomic_load_explicit(&set->hand, memory_order_relaxed);
	unsigned taken_way = NO_WAY;

	for (unsigned step = 0; step < SWEEP_STEPS && taken_way == NO_WAY; step++) {
		unsigned way = hand++ & (LSM_CACHE_WAYS - 1);
		uint32_t seen = atomic_load_explicit(&set->words[way], memory_order_relaxed);

		if ((seen & VALID) == 0) {
			continue;
		}
		if ((seen & USAGE_MASK) != 0) {
			(void)atomic_compare_exchange_strong_explicit(&set->words[way], &seen, seen - USAGE_ONE,
														  memory_order_relaxed, memory_order_relaxed);
		} else if (take(&set->words[way], seen, taken)) {
			taken_way = way;
		}
	}
	atomic_store_explicit(&set->hand, hand, memory_order_relaxed);
	return taken_way;
}

/* Leaves a frame that was taken to whoever comes after the readers of `epoch`. */
static void leave_retired(lsm_cache_set *set, unsigned way, uint64_t epoch) {
	atomic_store_explicit(&set->ids[way], epoch, memory_order_relaxed);
	atomic_store_explicit(&set->words[way], RETIRED, memory_order_release);
}

/* Takes a retired frame whose readers are gone. *waiting: there are some whose readers are not. */
static unsigned take_retired(const lsm_arena *arena, lsm_cache_set *set, uint32_t member, uint32_t taken,
							 bool *waiting) {
	*waiting = false;
	for (unsigned way = 0; way < LSM_CACHE_WAYS; way++) {
		uint64_t epoch;

		if (atomic_load_explicit(&set->words[way], memory_order_relaxed) != RETIRED ||
			!take(&set->words[way], RETIRED, taken)) {
			continue;
		}
		epoch = atomic_load_explicit(&set->ids[way], memory_order_relaxed);
		if (lsm_epoch_passed(arena, member, epoch)) {
			return way;
		}
		leave_retired(set, way, epoch);
		*waiting = true;
	}
	return NO_WAY;
}

/*
 * Takes a frame whose old contents nobody reads any more. When other members are reading, the frame found unused is not
 * to be had at once: then one frame of the set is always kept retired ahead, and its readers are gone by the time the
 * next is wanted. It is only one, so that a member that stays in its epoch does not empty the cache.
 */
static unsigned take_used(const lsm_arena *arena, lsm_cache_set *set, uint32_t member, uint32_t taken) {
	bool waiting;
	unsigned way = take_retired(arena, set, member, taken, &waiting);
	unsigned unused;
	uint64_t epoch;

	unused = waiting ? NO_WAY : take_unused(set, taken);
	if (unused == NO_WAY) {
		return way;
	}
	epoch = lsm_epoch_retire(arena);
	if (way == NO_WAY && lsm_epoch_passed(arena, member, epoch)) {
		return unused;
	}
	leave_retired(set, unused, epoch);
	return way;
}

static uint32_t usage_of(lsm_cache_priority priority) {
	switch (priority) {
	case LSM_CACHE_LOW:
		return 0;
	case LSM_CACHE_NORMAL:
		return USAGE_ONE;
	case LSM_CACHE_HIGH:
		break;
	}
	return MAX_USAGE * USAGE_ONE;
}

static void give_back(lsm_cache_set *set, unsigned way) {
	atomic_store_explicit(&set->ids[way], 0, memory_order_relaxed);
	atomic_store_explicit(&set->words[way], 0, memory_order_release);
}

/*
 * A free frame of either set; when both are full, one of the set whose hand has gone round less, so that both are
 * renewed alike.
 */
static lsm_cache_set *take_frame(const lsm_arena *arena, lsm_cache_set *first, lsm_cache_set *second, uint32_t member,
								 uint32_t taken, unsigned *way) {
	bool second_is_due = (int32_t)(atomic_load_explicit(&second->hand, memory_order_relaxed) -
								   atomic_load_explicit(&first->hand, memory_order_relaxed)) < 0;
	lsm_cache_set *due = second_is_due ? second : first;

	*way = take_free(first, taken);
	if (*way != NO_WAY) {
		return first;
	}
	*way = take_free(second, taken);
	if (*way != NO_WAY) {
		return second;
	}
	*way = take_used(arena, due, member, taken);
	return due;
}

/*
 * Two members may want the same block at once. Each takes a frame, writes the id into it and only then looks whether
 * the id stands in another frame too; both steps are sequentially consistent, so at least one of the two sees the
 * other and gives up. Both may, and then each reads the block into memory of its own, once. A block is therefore never
 * in two frames that can be looked up.
 */
bool lsm_cache_reserve(const lsm_arena *arena, const lsm_cache *cache, uint32_t member, uint64_t id,
					   lsm_cache_priority priority, lsm_frame *frame) {
	lsm_cache_set *all = sets_of(arena, cache);
	set_pair sets = sets_for(cache, id);
	lsm_cache_set *set;
	unsigned way;

	assert(id != 0);
	if (is_present(all, sets, id, NULL, NO_WAY)) {
		return false;
	}
	set = take_frame(arena, all + sets.number[0], all + sets.number[1], member, LOADING | usage_of(priority), &way);
	if (way == NO_WAY) {
		return false;
	}
	atomic_store(&set->ids[way], id);
	if (is_present(all, sets, id, set, way)) {
		give_back(set, way);
		return false;
	}
	*frame = frame_of(arena, cache, (uint32_t)(set - all) * LSM_CACHE_WAYS + way, 0);
	return true;
}

void lsm_cache_publish(const lsm_arena *arena, const lsm_cache *cache, const lsm_frame *frame) {
	lsm_cache_set *set = set_of(arena, cache, frame);
	unsigned way = frame->number % LSM_CACHE_WAYS;
	uint32_t word = atomic_load_explicit(&set->words[way], memory_order_relaxed);

	assert((word & LOADING) != 0 && frame->size <= LSM_BLOCK_BYTES);
	set->sizes[way] = (uint16_t)frame->size;
	atomic_store_explicit(&set->words[way], (word & ~LOADING) | VALID, memory_order_release);
}

void lsm_cache_abandon(const lsm_arena *arena, const lsm_cache *cache, const lsm_frame *frame) {
	lsm_cache_set *set = set_of(arena, cache, frame);

	assert((atomic_load_explicit(&set->words[frame->number % LSM_CACHE_WAYS], memory_order_relaxed) & LOADING) != 0);
	give_back(set, frame->number % LSM_CACHE_WAYS);
}

uint32_t lsm_cache_loading(const lsm_arena *arena, const lsm_cache *cache) {
	const lsm_cache_set *sets = sets_of(arena, cache);
	uint32_t loading = 0;

	for (uint32_t number = 0; number < cache->set_count; number++) {
		for (unsigned way = 0; way < LSM_CACHE_WAYS; way++) {
			loading += (atomic_load_explicit(&sets[number].words[way], memory_order_relaxed) & LOADING) != 0;
		}
	}
	return loading;
}
