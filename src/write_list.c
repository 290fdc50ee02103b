#include "write_list.h"

#include "common/pg_prng.h"
#include "utils/memutils.h"

#define HEIGHT 16
#define CHUNK_BYTES (256 * 1024)

struct aipg_write_list {
	MemoryContext context; /* of the writes; the list itself lies outside */
	char *chunk;           /* keys and writes are never freed one by one: memory is cut from chunks */
	Size chunk_left;
	aipg_listed_key *head[HEIGHT];
	aipg_listed_key *last; /* in key order; appending in order needs no search */
	aipg_listed_key **last_links[HEIGHT];
	int height;
	uint64 key_count;
	aipg_listed_key **log; /* the key of each write, in the order of writing */
	uint64 log_count;
	uint64 log_capacity;
};

static void *cut(aipg_write_list *list, Size bytes) {
	char *memory;

	bytes = MAXALIGN(bytes);
	if (bytes > CHUNK_BYTES / 4) {
		return MemoryContextAllocHuge(list->context, bytes);
	}
	if (bytes > list->chunk_left) {
		list->chunk = MemoryContextAlloc(list->context, CHUNK_BYTES);
		list->chunk_left = CHUNK_BYTES;
	}
	memory = list->chunk;
	list->chunk += bytes;
	list->chunk_left -= bytes;
	return memory;
}

static void make_empty(aipg_write_list *list, MemoryContext context) {
	*list = (aipg_write_list){.context = context, .height = 1};
	for (int level = 0; level < HEIGHT; level++) {
		list->last_links[level] = &list->head[level];
	}
}

aipg_write_list *aipg_write_list_create(MemoryContext parent) {
	aipg_write_list *list = MemoryContextAlloc(parent, sizeof(*list));

	make_empty(list, AllocSetContextCreate(parent, "AiDb writes in memory", ALLOCSET_DEFAULT_SIZES));
	return list;
}

void aipg_write_list_reset(aipg_write_list *list) {
	MemoryContextReset(list->context);
	make_empty(list, list->context);
}

Size aipg_write_list_bytes(const aipg_write_list *list) {
	return MemoryContextMemAllocated(list->context, false);
}

bool aipg_write_list_is_empty(const aipg_write_list *list) {
	return list->log_count == 0;
}

uint64 aipg_write_list_keys(const aipg_write_list *list) {
	return list->key_count;
}

static int compare(const aipg_listed_key *key, aidb_slice other) {
	return aipg_compare_keys(aipg_listed_key_slice(key), other);
}

/* The first key >= `key`, and the links that would lead to one put before it. */
static aipg_listed_key *search(aipg_write_list *list, aidb_slice key, aipg_listed_key ***links) {
	aipg_listed_key **at = list->head;

	for (int level = list->height - 1; level >= 0; level--) {
		while (at[level] != NULL && compare(at[level], key) < 0) {
			at = at[level]->next;
		}
		if (links != NULL) {
			links[level] = &at[level];
		}
	}
	return at[0];
}

static bool is_past_last(const aipg_write_list *list, aidb_slice key) {
	return list->last == NULL || compare(list->last, key) < 0;
}

static bool has_writes(const aipg_listed_key *key) {
	return key->newest != NULL;
}

aipg_listed_key *aipg_write_list_find(const aipg_write_list *list, aidb_slice key) {
	aipg_listed_key *found = is_past_last(list, key) ? NULL : search((aipg_write_list *)list, key, NULL);

	return found != NULL && has_writes(found) && compare(found, key) == 0 ? found : NULL;
}

static int random_height(void) {
	int height = 1;

	while (height < HEIGHT && (pg_prng_uint32(&pg_global_prng_state) & 3) == 0) {
		height++;
	}
	return height;
}

static void link_key(aipg_write_list *list, aipg_listed_key *key, int height, aipg_listed_key ***links) {
	for (int level = 0; level < height; level++) {
		key->next[level] = *links[level];
		*links[level] = key;
		if (key->next[level] == NULL) {
			list->last_links[level] = &key->next[level];
		}
	}
	if (key->next[0] == NULL) {
		list->last = key;
	}
	list->height = Max(list->height, height);
	list->key_count++;
}

/* The key, made when it was not there. */
static aipg_listed_key *find_or_make(aipg_write_list *list, aidb_slice key) {
	aipg_listed_key **links[HEIGHT];
	aipg_listed_key *found;
	int height;

	if (is_past_last(list, key)) {
		memcpy(links, list->last_links, sizeof(links));
	} else {
		for (int level = list->height; level < HEIGHT; level++) {
			links[level] = &list->head[level];
		}
		found = search(list, key, links);
		if (found != NULL && compare(found, key) == 0) {
			return found;
		}
	}
	height = random_height();
	found = cut(list, offsetof(aipg_listed_key, next) + height * sizeof(aipg_listed_key *));
	memset(found, 0, offsetof(aipg_listed_key, next));
	found->key = cut(list, key.size + 1);
	memcpy(found->key, key.data, key.size);
	found->key_bytes = (uint16)key.size;
	link_key(list, found, height, links);
	return found;
}

static void reserve_log(aipg_write_list *list) {
	uint64 capacity = Max(64, list->log_capacity * 2);

	if (list->log_count < list->log_capacity) {
		return;
	}
	list->log = list->log == NULL ? MemoryContextAllocHuge(list->context, capacity * sizeof(*list->log))
								  : repalloc_huge(list->log, capacity * sizeof(*list->log));
	list->log_capacity = capacity;
}

void aipg_write_list_add(aipg_write_list *list, const aipg_write *write) {
	aipg_listed_write *listed = cut(list, offsetof(aipg_listed_write, value) + write->value.size);
	aipg_listed_key *key;

	reserve_log(list);
	key = find_or_make(list, write->key);
	if (!has_writes(key)) {
		key->facts = write->facts;
	}
	listed->older = key->newest;
	listed->ordinal = write->ordinal;
	listed->command = write->command;
	listed->is_delete = write->is_delete;
	listed->value_bytes = (uint32)write->value.size;
	if (write->value.size > 0) {
		memcpy(listed->value, write->value.data, write->value.size);
	}
	key->newest = listed;
	list->log[list->log_count++] = key;
}

void aipg_write_list_take_back(aipg_write_list *list) {
	aipg_listed_key *key = list->log[--list->log_count];

	key->newest = key->newest->older;
}

aipg_listed_key *aipg_write_list_next(const aipg_listed_key *key) {
	aipg_listed_key *next = key->next[0];

	while (next != NULL && !has_writes(next)) {
		next = next->next[0];
	}
	return next;
}

aipg_listed_key *aipg_write_list_seek(const aipg_write_list *list, aidb_slice from) {
	aipg_listed_key *found = from.data == NULL ? list->head[0] : search((aipg_write_list *)list, from, NULL);

	return found != NULL && !has_writes(found) ? aipg_write_list_next(found) : found;
}

/* The last key below `from` (NULL: of all), with or without writes. */
static aipg_listed_key *last_below(const aipg_write_list *list, aidb_slice from) {
	aipg_listed_key *const *at = list->head;
	aipg_listed_key *found = NULL;

	for (int level = list->height - 1; level >= 0; level--) {
		while (at[level] != NULL && (from.data == NULL || compare(at[level], from) < 0)) {
			found = at[level];
			at = found->next;
		}
	}
	return found;
}

aipg_listed_key *aipg_write_list_seek_below(const aipg_write_list *list, aidb_slice from) {
	aipg_listed_key *found = last_below(list, from);

	while (found != NULL && !has_writes(found)) {
		found = last_below(list, aipg_listed_key_slice(found));
	}
	return found;
}

const aipg_listed_write *aipg_listed_visible(const aipg_listed_key *key, CommandId below) {
	const aipg_listed_write *write = key->newest;

	while (write != NULL && write->command >= below) {
		write = write->older;
	}
	return write;
}

aipg_write aipg_listed_get(const aipg_listed_key *key, const aipg_listed_write *write) {
	return (aipg_write){.key = aipg_listed_key_slice(key),
						.value = {write->value, write->value_bytes},
						.facts = key->facts,
						.ordinal = write->ordinal,
						.command = write->command,
						.is_delete = write->is_delete};
}
