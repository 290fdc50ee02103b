#include "write_set.h"

#include "access/xact.h"
#include "common/pg_prng.h"
#include "utils/memutils.h"

#define CHUNK_BYTES (256 * 1024)

/* The writes from `first` on were made at this nesting level or, when it ended well, below it. */
typedef struct level_mark {
	int level;
	uint64 first;
} level_mark;

struct aipg_write_set {
	MemoryContext context;
	char *chunk; /* keys and writes are never freed one by one: memory is cut from chunks */
	Size chunk_left;
	aipg_written_key *head[AIPG_WRITE_SET_HEIGHT];
	aipg_written_key *last; /* in key order; appending in order needs no search */
	aipg_written_key **last_links[AIPG_WRITE_SET_HEIGHT];
	int height;
	aipg_written_key **log; /* the key of each write, in the order of writing */
	uint64 log_count;
	uint64 log_capacity;
	level_mark *marks;
	int mark_count;
	int mark_capacity;
	uint64 version;
};

static void *cut(aipg_write_set *set, Size bytes) {
	char *memory;

	bytes = MAXALIGN(bytes);
	if (bytes > CHUNK_BYTES / 4) {
		return MemoryContextAllocHuge(set->context, bytes);
	}
	if (bytes > set->chunk_left) {
		set->chunk = MemoryContextAlloc(set->context, CHUNK_BYTES);
		set->chunk_left = CHUNK_BYTES;
	}
	memory = set->chunk;
	set->chunk += bytes;
	set->chunk_left -= bytes;
	return memory;
}

aipg_write_set *aipg_write_set_create(MemoryContext parent) {
	MemoryContext context = AllocSetContextCreate(parent, "AiDb write set", ALLOCSET_DEFAULT_SIZES);
	aipg_write_set *set = MemoryContextAllocZero(context, sizeof(*set));

	set->context = context;
	set->height = 1;
	for (int level = 0; level < AIPG_WRITE_SET_HEIGHT; level++) {
		set->last_links[level] = &set->head[level];
	}
	return set;
}

static int compare(const aipg_written_key *key, aidb_slice other) {
	size_t common = Min((size_t)key->key_bytes, other.size);
	int order = memcmp(key->key, other.data, common);

	return order != 0 ? order : (key->key_bytes > other.size) - (key->key_bytes < other.size);
}

/* The first key >= `key`, and the links that would lead to one put before it. */
static aipg_written_key *search(aipg_write_set *set, aidb_slice key, aipg_written_key ***links) {
	aipg_written_key **at = set->head;

	for (int level = set->height - 1; level >= 0; level--) {
		while (at[level] != NULL && compare(at[level], key) < 0) {
			at = at[level]->next;
		}
		if (links != NULL) {
			links[level] = &at[level];
		}
	}
	return at[0];
}

static bool has_writes(const aipg_written_key *key) {
	return key->newest != NULL;
}

aipg_written_key *aipg_write_set_find(const aipg_write_set *set, aidb_slice key) {
	aipg_written_key *found = search((aipg_write_set *)set, key, NULL);

	return found != NULL && has_writes(found) && compare(found, key) == 0 ? found : NULL;
}

static int random_height(void) {
	int height = 1;

	while (height < AIPG_WRITE_SET_HEIGHT && (pg_prng_uint32(&pg_global_prng_state) & 3) == 0) {
		height++;
	}
	return height;
}

aipg_written_key *aipg_write_set_key(aipg_write_set *set, aidb_slice key) {
	aipg_written_key **links[AIPG_WRITE_SET_HEIGHT];
	aipg_written_key *found = NULL;
	int height;

	if (set->last != NULL && compare(set->last, key) < 0) {
		memcpy(links, set->last_links, sizeof(links));
	} else {
		for (int level = set->height; level < AIPG_WRITE_SET_HEIGHT; level++) {
			links[level] = &set->head[level];
		}
		found = search(set, key, links);
		if (found != NULL && compare(found, key) == 0) {
			return found;
		}
	}
	height = random_height();
	found = cut(set, offsetof(aipg_written_key, next) + height * sizeof(aipg_written_key *));
	memset(found, 0, offsetof(aipg_written_key, next));
	found->key = cut(set, key.size + 1);
	memcpy(found->key, key.data, key.size);
	found->key_bytes = (uint16)key.size;
	for (int level = 0; level < height; level++) {
		found->next[level] = *links[level];
		*links[level] = found;
		if (found->next[level] == NULL) {
			set->last_links[level] = &found->next[level];
		}
	}
	if (found->next[0] == NULL) {
		set->last = found;
	}
	set->height = Max(set->height, height);
	return found;
}

/* Writes from here on belong to the present nesting level. */
static void mark_level(aipg_write_set *set, int level) {
	if (set->mark_count > 0 && set->marks[set->mark_count - 1].level >= level) {
		return;
	}
	if (set->mark_count == set->mark_capacity) {
		set->mark_capacity = Max(8, set->mark_capacity * 2);
		set->marks = set->marks == NULL ? MemoryContextAlloc(set->context, set->mark_capacity * sizeof(level_mark))
										: repalloc(set->marks, set->mark_capacity * sizeof(level_mark));
	}
	set->marks[set->mark_count++] = (level_mark){.level = level, .first = set->log_count};
}

void aipg_write_set_add(aipg_write_set *set, aipg_written_key *key, CommandId command, bool is_delete,
						aidb_slice value) {
	aipg_write *write = cut(set, offsetof(aipg_write, value) + value.size);

	if (set->log_count == set->log_capacity) {
		uint64 capacity = Max(64, set->log_capacity * 2);

		set->log = set->log == NULL ? MemoryContextAllocHuge(set->context, capacity * sizeof(*set->log))
									: repalloc_huge(set->log, capacity * sizeof(*set->log));
		set->log_capacity = capacity;
	}
	mark_level(set, GetCurrentTransactionNestLevel());
	write->older = key->newest;
	write->command = command;
	write->is_delete = is_delete;
	write->value_bytes = (uint32)value.size;
	if (value.size > 0) {
		memcpy(write->value, value.data, value.size);
	}
	key->newest = write;
	set->log[set->log_count++] = key;
	set->version++;
}

const aipg_write *aipg_write_visible(const aipg_written_key *key, CommandId command) {
	const aipg_write *write = key->newest;

	while (write != NULL && write->command >= command) {
		write = write->older;
	}
	return write;
}

aipg_written_key *aipg_write_set_next(const aipg_written_key *key) {
	aipg_written_key *next = key->next[0];

	while (next != NULL && !has_writes(next)) {
		next = next->next[0];
	}
	return next;
}

aipg_written_key *aipg_write_set_seek(const aipg_write_set *set, aidb_slice from) {
	aipg_written_key *found = from.data == NULL ? set->head[0] : search((aipg_write_set *)set, from, NULL);

	return found != NULL && !has_writes(found) ? aipg_write_set_next(found) : found;
}

/* The last key below `from` (NULL: of all), with or without writes. */
static aipg_written_key *last_below(const aipg_write_set *set, aidb_slice from) {
	aipg_written_key *const *at = set->head;
	aipg_written_key *found = NULL;

	for (int level = set->height - 1; level >= 0; level--) {
		while (at[level] != NULL && (from.data == NULL || compare(at[level], from) < 0)) {
			found = at[level];
			at = found->next;
		}
	}
	return found;
}

aipg_written_key *aipg_write_set_seek_below(const aipg_write_set *set, aidb_slice from) {
	aipg_written_key *found = last_below(set, from);

	while (found != NULL && !has_writes(found)) {
		found = last_below(set, aipg_written_key_slice(found));
	}
	return found;
}

uint64 aipg_write_set_writes(const aipg_write_set *set) {
	return set->log_count;
}

uint64 aipg_write_set_version(const aipg_write_set *set) {
	return set->version;
}

void aipg_write_set_subcommit(aipg_write_set *set, int level) {
	level_mark *top = set->mark_count > 0 ? &set->marks[set->mark_count - 1] : NULL;

	if (top == NULL || top->level < level) {
		return;
	}
	if (set->mark_count > 1 && top[-1].level == level - 1) {
		set->mark_count--;
	} else {
		top->level = level - 1;
	}
}

void aipg_write_set_subabort(aipg_write_set *set, int level) {
	level_mark *top = set->mark_count > 0 ? &set->marks[set->mark_count - 1] : NULL;

	if (top == NULL || top->level < level) {
		return;
	}
	while (set->log_count > top->first) {
		aipg_written_key *key = set->log[--set->log_count];

		key->newest = key->newest->older;
	}
	set->mark_count--;
	set->version++;
}
