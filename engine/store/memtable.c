#include "store/memtable.h"

#include <stddef.h>

/*
 * A node, in units of 8 bytes:
 *
 *   0   trailer u64
 *   8   value u32, where it lies; 0: it is empty
 *   12  key bytes u16
 *   14  height u8, 1 to LSM_MEMTABLE_MAX_HEIGHT
 *   15  unused
 *   16  next u32[height], the successor on each level, lowest first; 0 at the end
 *       key
 *
 * A value: bytes u32 | the bytes themselves.
 *
 * The head is a node of full height without key or value, and sorts before all others. Everything but `next` is
 * written before the node can be reached, and never again.
 */
struct node {
	uint64_t trailer;
	lsm_ref value;
	uint16_t key_bytes;
	uint8_t height;
	uint8_t unused;
	_Atomic lsm_ref next[];
};

_Static_assert(offsetof(struct node, next) == 16, "links follow 16 bytes of header");
_Static_assert(sizeof(_Atomic lsm_ref) == 4, "links are 4 bytes");
_Static_assert(AIDB_MAX_KEY_BYTES <= UINT16_MAX, "key lengths fit 16 bits");

/* What a search looks for. */
struct target {
	aidb_slice key;
	uint64_t trailer;
};

/* For each level, the neighbours of a place in the list. */
struct splice {
	struct node *before[LSM_MEMTABLE_MAX_HEIGHT];
	lsm_ref after[LSM_MEMTABLE_MAX_HEIGHT];
};

/* ---- Nodes --------------------------------------------------------------------------------------------- */

static struct node *node_at(const lsm_arena *arena, lsm_ref ref) {
	return lsm_at(arena, ref);
}

static lsm_ref next_of(const struct node *from, unsigned level) {
	return atomic_load_explicit(&from->next[level], memory_order_acquire);
}

static uint8_t *key_of(const struct node *node) {
	return (uint8_t *)&node->next[node->height];
}

static uint64_t bytes_of_node(unsigned height, size_t key_bytes) {
	return lsm_round_up(sizeof(struct node) + height * sizeof(lsm_ref) + key_bytes, LSM_REF_UNIT);
}

static uint64_t bytes_of_value(size_t value_bytes) {
	return value_bytes == 0 ? 0 : lsm_round_up(sizeof(uint32_t) + value_bytes, LSM_REF_UNIT);
}

/* Geometric with p = 1/4, from the mixing function of splitmix64 (Steele, Lea, Flood 2014). */
static unsigned height_of(uint64_t seed, uint32_t index) {
	uint64_t mix = seed + (index + 1ull) * 0x9e3779b97f4a7c15ull;

	mix = (mix ^ mix >> 30) * 0xbf58476d1ce4e5b9ull;
	mix = (mix ^ mix >> 27) * 0x94d049bb133111ebull;
	mix ^= mix >> 31;
	return 1 + (unsigned)__builtin_ctzll(mix | 1ull << 2 * (LSM_MEMTABLE_MAX_HEIGHT - 1)) / 2;
}

uint64_t lsm_memtable_node_bytes(uint64_t seed, uint32_t index, size_t key_bytes, size_t value_bytes) {
	return bytes_of_node(height_of(seed, index), key_bytes) + bytes_of_value(value_bytes);
}

/* ---- Searching ----------------------------------------------------------------------------------------- */

static bool is_before(const struct node *node, const struct target *target) {
	aidb_slice key = {key_of(node), node->key_bytes};

	return lsm_compare_versions(key, node->trailer, target->key, target->trailer) < 0;
}

/*
 * Goes right on one level, from a node before the target to the last one before it. *after gets that node's
 * successor; on entry it is a node already known not to be before the target (usually found one level up), or 0.
 */
static struct node *walk(const lsm_arena *arena, struct node *from, unsigned level, const struct target *target,
						 lsm_ref *after) {
	lsm_ref known = *after;

	for (;;) {
		lsm_ref ref = next_of(from, level);
		struct node *next;

		if (ref == 0 || ref == known) {
			*after = ref;
			return from;
		}
		next = node_at(arena, ref);
		if (!is_before(next, target)) {
			*after = ref;
			return from;
		}
		from = next;
	}
}

static unsigned height_now(const lsm_memtable *memtable) {
	return atomic_load_explicit(&memtable->height, memory_order_relaxed);
}

/* The last node before the target, perhaps the head; *after gets the first one that is not. */
static struct node *find(const lsm_arena *arena, const lsm_memtable *memtable, const struct target *target,
						 lsm_ref *after) {
	struct node *before = node_at(arena, memtable->head);

	*after = 0;
	for (unsigned level = height_now(memtable); level-- > 0;) {
		before = walk(arena, before, level, target, after);
	}
	return before;
}

static void find_splice(const lsm_arena *arena, const lsm_memtable *memtable, const struct target *target,
						struct splice *splice) {
	struct node *before = node_at(arena, memtable->head);
	lsm_ref after = 0;

	for (unsigned level = height_now(memtable); level-- > 0;) {
		before = walk(arena, before, level, target, &after);
		splice->before[level] = before;
		splice->after[level] = after;
	}
}

/* ---- The memtable -------------------------------------------------------------------------------------- */

void lsm_memtable_reset(const lsm_arena *arena, lsm_memtable *memtable, uint64_t number, uint64_t log_position) {
	uint64_t head_bytes = bytes_of_node(LSM_MEMTABLE_MAX_HEIGHT, 0);
	struct node *head;

	atomic_store(&memtable->mark, memtable->begin);
	atomic_store(&memtable->height, 1);
	atomic_store(&memtable->writers, 0);
	atomic_store(&memtable->entries, 0);
	(void)lsm_memtable_reserve(memtable, head_bytes);
	atomic_store(&memtable->used, head_bytes / LSM_REF_UNIT);
	memtable->head = memtable->begin;
	head = node_at(arena, memtable->head);
	*head = (struct node){.height = LSM_MEMTABLE_MAX_HEIGHT};
	for (unsigned level = 0; level < LSM_MEMTABLE_MAX_HEIGHT; level++) {
		atomic_store(&head->next[level], 0);
	}
	memtable->log_position = log_position;
	memtable->number = number;
}

lsm_ref lsm_memtable_reserve(lsm_memtable *memtable, uint64_t bytes) {
	lsm_ref piece = atomic_load_explicit(&memtable->mark, memory_order_relaxed);
	uint64_t units = lsm_round_up(bytes, LSM_REF_UNIT) / LSM_REF_UNIT;

	if (units > memtable->end - piece) {
		return 0;
	}
	atomic_store_explicit(&memtable->mark, piece + (lsm_ref)units, memory_order_relaxed);
	return piece;
}

uint64_t lsm_memtable_bytes(const lsm_memtable *memtable) {
	return (uint64_t)(atomic_load_explicit(&memtable->mark, memory_order_relaxed) - memtable->begin) * LSM_REF_UNIT;
}

/* ---- Inserting ----------------------------------------------------------------------------------------- */

static void write_value(const lsm_arena *arena, lsm_ref ref, const lsm_entry *entry, aidb_tag tag) {
	bool tagged = lsm_is_tagged(entry->trailer);
	uint8_t *to = lsm_at(arena, ref);

	lsm_put_u32(to, (uint32_t)(entry->value.size + (tagged ? LSM_TAG_BYTES : 0)));
	to += sizeof(uint32_t);
	if (tagged) {
		lsm_put_u64(to, tag);
		to += LSM_TAG_BYTES;
	}
	if (entry->value.size > 0) {
		memcpy(to, entry->value.data, entry->value.size);
	}
}

/*
 * Writes a node and its value, not linked yet, and returns the node. Where they come to lie is decided only now; that
 * there is room, the reservation has seen to.
 */
static lsm_ref write_node(const lsm_arena *arena, lsm_memtable *memtable, unsigned height, const lsm_entry *entry,
						  aidb_tag tag) {
	size_t value_bytes = entry->value.size + (lsm_is_tagged(entry->trailer) ? LSM_TAG_BYTES : 0);
	uint64_t node_units = bytes_of_node(height, entry->key.size) / LSM_REF_UNIT;
	uint64_t value_units = bytes_of_value(value_bytes) / LSM_REF_UNIT;
	uint64_t used = atomic_fetch_add_explicit(&memtable->used, node_units | value_units << 32, memory_order_relaxed);
	lsm_ref ref = memtable->begin + (lsm_ref)used;
	lsm_ref value = value_units == 0 ? 0 : memtable->end - (lsm_ref)((used >> 32) + value_units);
	struct node *node = node_at(arena, ref);

	assert(entry->key.size <= AIDB_MAX_KEY_BYTES && value_bytes <= UINT32_MAX);
	node->trailer = entry->trailer;
	node->value = value;
	node->key_bytes = (uint16_t)entry->key.size;
	node->height = (uint8_t)height;
	node->unused = 0;
	if (entry->key.size > 0) {
		memcpy(key_of(node), entry->key.data, entry->key.size);
	}
	if (value != 0) {
		write_value(arena, value, entry, tag);
	}
	return ref;
}

/* Makes the list at least this high, so that a search from its top finds neighbours for all of a node's levels. */
static void raise_height(lsm_memtable *memtable, unsigned height) {
	uint32_t present = height_now(memtable);

	while (present < height && !atomic_compare_exchange_weak_explicit(&memtable->height, &present, height,
																	  memory_order_relaxed, memory_order_relaxed)) {}
}

/* Links the node in on one level. When another member was faster, the place is looked for again from the predecessor,
 * which is still there and still before. */
static void link_level(const lsm_arena *arena, struct node *node, lsm_ref ref, unsigned level,
					   const struct target *target, struct splice *splice) {
	for (;;) {
		lsm_ref after = splice->after[level];

		atomic_store_explicit(&node->next[level], after, memory_order_relaxed);
		if (atomic_compare_exchange_strong_explicit(&splice->before[level]->next[level], &after, ref,
													memory_order_release, memory_order_relaxed)) {
			return;
		}
		splice->before[level] = walk(arena, splice->before[level], level, target, &splice->after[level]);
	}
}

void lsm_memtable_insert(const lsm_arena *arena, lsm_memtable *memtable, lsm_ref *piece, uint64_t seed, uint32_t index,
						 const lsm_entry *entry, aidb_tag tag) {
	unsigned height = height_of(seed, index);
	struct target target = {entry->key, entry->trailer};
	lsm_ref ref = write_node(arena, memtable, height, entry, tag);
	struct node *node = node_at(arena, ref);
	size_t value_bytes = entry->value.size + (lsm_is_tagged(entry->trailer) ? LSM_TAG_BYTES : 0);
	struct splice splice;

	raise_height(memtable, height);
	find_splice(arena, memtable, &target, &splice);
	for (unsigned level = 0; level < height; level++) {
		link_level(arena, node, ref, level, &target, &splice);
	}
	atomic_fetch_add_explicit(&memtable->entries, 1, memory_order_relaxed);
	*piece += (lsm_ref)((bytes_of_node(height, entry->key.size) + bytes_of_value(value_bytes)) / LSM_REF_UNIT);
}

/* ---- Reading ------------------------------------------------------------------------------------------- */

static void stand_on(lsm_memtable_cursor *cursor, const struct node *node) {
	lsm_ref ref = lsm_ref_of(cursor->arena, node);

	cursor->node = ref == cursor->memtable->head ? 0 : ref;
}

void lsm_memtable_seek(lsm_memtable_cursor *cursor, aidb_slice key, uint64_t trailer) {
	struct target target = {key, trailer};

	find(cursor->arena, cursor->memtable, &target, &cursor->node);
}

void lsm_memtable_seek_before(lsm_memtable_cursor *cursor, aidb_slice key, uint64_t trailer) {
	struct target target = {key, trailer};
	lsm_ref after;

	stand_on(cursor, find(cursor->arena, cursor->memtable, &target, &after));
}

void lsm_memtable_seek_first(lsm_memtable_cursor *cursor) {
	cursor->node = next_of(node_at(cursor->arena, cursor->memtable->head), 0);
}

void lsm_memtable_seek_last(lsm_memtable_cursor *cursor) {
	struct node *last = node_at(cursor->arena, cursor->memtable->head);

	for (unsigned level = height_now(cursor->memtable); level-- > 0;) {
		for (lsm_ref ref; (ref = next_of(last, level)) != 0;) {
			last = node_at(cursor->arena, ref);
		}
	}
	stand_on(cursor, last);
}

void lsm_memtable_next(lsm_memtable_cursor *cursor) {
	assert(cursor->node != 0);
	cursor->node = next_of(node_at(cursor->arena, cursor->node), 0);
	if (cursor->node != 0) {
		lsm_ref ahead = next_of(node_at(cursor->arena, cursor->node), 0);

		if (ahead != 0) {
			__builtin_prefetch(node_at(cursor->arena, ahead));
		}
	}
}

/* The list has no links back: search for the entry, and stop before it. Entries of the same key and sequence stand
 * together, and the search stops before the first of them. */
void lsm_memtable_prev(lsm_memtable_cursor *cursor) {
	const struct node *present = node_at(cursor->arena, cursor->node);
	struct target target = {{key_of(present), present->key_bytes}, present->trailer};
	lsm_ref ref;
	const struct node *before = find(cursor->arena, cursor->memtable, &target, &ref);

	while ((ref = next_of(before, 0)) != cursor->node) {
		before = node_at(cursor->arena, ref);
	}
	stand_on(cursor, before);
}

void lsm_memtable_entry(const lsm_memtable_cursor *cursor, lsm_entry *entry) {
	const struct node *node = node_at(cursor->arena, cursor->node);
	const uint8_t *key = key_of(node);

	entry->key = (aidb_slice){key, node->key_bytes};
	entry->trailer = node->trailer;
	entry->value = (aidb_slice){NULL, 0};
	if (node->value != 0) {
		const uint8_t *value = lsm_at(cursor->arena, node->value);

		entry->value = (aidb_slice){value + sizeof(uint32_t), lsm_get_u32(value)};
	}
}
