/* Operations on keys: a batch is divided among the groups that keep them; one key is a batch of one. */
#include <stdlib.h>
#include <string.h>

#include "client/bytes_array.h"
#include "client/operation.h"
#include "client/socket.h"
#include "client/space.h"

#define CHUNK_KEYS 1000u            /* of one statement, at most; */
#define CHUNK_BYTES (4u << 20)      /* it ends with the key that comes to this */
#define MAX_BYTES ((size_t)1 << 29) /* of a key and its value: PostgreSQL's limit of a row, and some room */

/* A key that is not done yet. */
typedef struct item {
	const aidb_client_bytes *key;
	size_t index; /* of the caller's arrays */
	uint16_t slot;
	uint16_t group; /* in the topology of the attempt */
	bool done;
} item;

typedef struct batch {
	aidb_space_statement kind; /* GET, PUT or DELETE */
	const aidb_client_bytes *keys;
	const aidb_client_bytes *puts;
	aidb_client_value *gets;
	item *items; /* of each part those of its group in the order of keys, equal keys in that of the caller */
	size_t count;
	size_t *cuts; /* of each part: where its chunks begin, and where the last one ends */
	aidb_bytes_array key_array, put_array;
} batch;

/* ---- Dividing -------------------------------------------------------------------------------------------- */

static int compare_bytes(const void *a, size_t a_size, const void *b, size_t b_size) {
	size_t common = a_size < b_size ? a_size : b_size;
	int order = common > 0 ? memcmp(a, b, common) : 0;

	return order != 0 ? order : (a_size > b_size) - (a_size < b_size);
}

static int compare_keys(const item *a, const item *b) {
	return compare_bytes(a->key->data, a->key->size, b->key->data, b->key->size);
}

static int compare_items(const void *left, const void *right) {
	const item *a = left, *b = right;
	int order = (a->group > b->group) - (a->group < b->group);

	if (order == 0) {
		order = compare_keys(a, b);
	}
	return order != 0 ? order : (a->index > b->index) - (a->index < b->index);
}

/* Whether the item after this one, of the same group, has another key, or there is none. */
static bool is_last_of_key(const batch *self, size_t at) {
	const item *this = &self->items[at];

	return at + 1 == self->count || this[1].group != this->group || compare_keys(this, this + 1) != 0;
}

static size_t item_bytes(const batch *self, const item *of) {
	return of->key->size + (self->puts != NULL ? self->puts[of->index].size : 0);
}

/* One group's items from `at` on, into chunks; where they end. A key's items stay together. */
static size_t cut_part(const batch *self, size_t at, aidb_part *part, size_t *cut_count) {
	size_t first = at, bytes = 0;
	uint16_t group = self->items[at].group;

	part->group = group;
	part->first_cut = *cut_count;
	self->cuts[(*cut_count)++] = first;
	for (; at < self->count && self->items[at].group == group; at++) {
		bytes += item_bytes(self, &self->items[at]);
		if (is_last_of_key(self, at) && (at + 1 - first >= CHUNK_KEYS || bytes >= CHUNK_BYTES)) {
			self->cuts[(*cut_count)++] = first = at + 1;
			bytes = 0;
		}
	}
	if (first < at) {
		self->cuts[(*cut_count)++] = at;
	}
	part->chunk_count = *cut_count - part->first_cut - 1;
	return at;
}

static void drop_done_items(batch *self) {
	size_t left = 0;

	for (size_t i = 0; i < self->count; i++) {
		if (!self->items[i].done) {
			self->items[left++] = self->items[i];
		}
	}
	self->count = left;
}

static bool plan(void *argument, aidb_topology *topology, aidb_part *parts, size_t *count) {
	batch *self = argument;
	size_t cut_count = 0;

	drop_done_items(self);
	for (size_t i = 0; i < self->count; i++) {
		self->items[i].group = topology->group_of_slot[self->items[i].slot];
	}
	if (self->count > 1) {
		qsort(self->items, self->count, sizeof(item), compare_items);
	}
	for (size_t at = 0; at < self->count; (*count)++) {
		at = cut_part(self, at, &parts[*count], &cut_count);
	}
	return true;
}

/* ---- Sending and receiving ------------------------------------------------------------------------------- */

static void set_value(const char **values, int *sizes, int at, const void *data, size_t size) {
	values[at] = size > 0 ? data : "";
	sizes[at] = (int)size;
}

static bool one_parameters(void *argument, const aidb_part *part, size_t chunk, const char **values, int *sizes,
						   int *count) {
	const batch *self = argument;

	(void)part;
	(void)chunk;
	set_value(values, sizes, 0, self->keys[0].data, self->keys[0].size);
	*count = 1;
	if (self->puts != NULL) {
		set_value(values, sizes, 1, self->puts[0].data, self->puts[0].size);
		*count = 2;
	}
	return true;
}

static bool fill_arrays(batch *self, size_t first, size_t end) {
	bool filled = aidb_bytes_array_begin(&self->key_array) && aidb_bytes_array_begin(&self->put_array);

	for (size_t i = first; filled && i < end; i++) {
		const item *of = &self->items[i];

		if (is_last_of_key(self, i)) {
			filled = aidb_bytes_array_add(&self->key_array, of->key->data, of->key->size) &&
					 (self->puts == NULL ||
					  aidb_bytes_array_add(&self->put_array, self->puts[of->index].data, self->puts[of->index].size));
		}
	}
	return filled;
}

static bool many_parameters(void *argument, const aidb_part *part, size_t chunk, const char **values, int *sizes,
							int *count) {
	batch *self = argument;
	const size_t *cut = &self->cuts[part->first_cut + chunk];

	if (!fill_arrays(self, cut[0], cut[1])) {
		return false;
	}
	aidb_bytes_array_end(&self->key_array);
	aidb_bytes_array_end(&self->put_array);
	set_value(values, sizes, 0, self->key_array.data, self->key_array.size);
	set_value(values, sizes, 1, self->put_array.data, self->put_array.size);
	*count = self->puts != NULL ? 2 : 1;
	return true;
}

/* The first of the items from `first` to `end`, in order, whose key is not less. */
static size_t find_item(const batch *self, size_t first, size_t end, const void *key, size_t size) {
	while (first < end) {
		size_t middle = first + (end - first) / 2;
		const aidb_client_bytes *at = self->items[middle].key;

		if (compare_bytes(at->data, at->size, key, size) < 0) {
			first = middle + 1;
		} else {
			end = middle;
		}
	}
	return first;
}

static bool set_get(aidb_client_value *to, const char *data, size_t size) {
	free(to->data);
	*to = (aidb_client_value){.data = malloc(size + 1)};
	if (to->data == NULL) {
		return false;
	}
	memcpy(to->data, data, size);
	((char *)to->data)[size] = '\0'; /* a courtesy to those who keep strings */
	to->size = size;
	to->found = true;
	return true;
}

/* A row, to all items of its key. */
static bool take_row(const batch *self, size_t first, size_t end, const PGresult *result, int row) {
	const char *key = PQgetvalue(result, row, 0), *value = PQgetvalue(result, row, 1);
	size_t size = (size_t)PQgetlength(result, row, 0), at = find_item(self, first, end, key, size);
	bool taken = false;

	for (; at < end; at++) {
		const item *of = &self->items[at];

		if (compare_bytes(of->key->data, of->key->size, key, size) != 0) {
			break;
		}
		if (!set_get(&self->gets[of->index], value, (size_t)PQgetlength(result, row, 1))) {
			return false;
		}
		taken = true;
	}
	return taken;
}

static bool take_rows(void *argument, const aidb_part *part, size_t chunk, PGresult *result) {
	const batch *self = argument;
	const size_t *cut = &self->cuts[part->first_cut + chunk];
	bool taken = self->gets != NULL && PQnfields(result) == 2;

	for (int row = 0; taken && row < PQntuples(result); row++) {
		taken = take_row(self, cut[0], cut[1], result, row);
	}
	PQclear(result);
	return taken;
}

static void settle(void *argument, const aidb_part *part) {
	batch *self = argument;

	for (size_t i = self->cuts[part->first_cut]; i < self->cuts[part->first_cut + part->answered]; i++) {
		self->items[i].done = true;
	}
}

/* ---- Running --------------------------------------------------------------------------------------------- */

static aidb_client_status run(aidb_client_space *space, batch *self, size_t count) {
	aidb_space_statement statement = count == 1 ? self->kind : self->kind + AIDB_SPACE_GET_MANY;
	aidb_operation operation = {
		.client = space->client,
		.exchange = {.statement = &space->statements[statement],
					 .parameters = count == 1 ? one_parameters : many_parameters,
					 .result = take_rows},
		.writes = self->kind != AIDB_SPACE_GET,
		.plan = plan,
		.settle = settle,
		.argument = self,
	};

	return aidb_operation_run(&operation, aidb_socket_now_ms() + aidb_client_timeout_ms(space->client));
}

static bool is_valid(const batch *self, size_t count) {
	for (size_t i = 0; i < count; i++) {
		const aidb_client_bytes *key = &self->keys[i], *put = self->puts != NULL ? &self->puts[i] : NULL;

		if ((key->data == NULL && key->size > 0) || key->size > MAX_BYTES ||
			(put != NULL && ((put->data == NULL && put->size > 0) || put->size > MAX_BYTES))) {
			return false;
		}
	}
	return true;
}

static aidb_client_status run_batch(aidb_client_space *space, batch *self, size_t count) {
	aidb_client_status status;

	if (space == NULL || !is_valid(self, count)) {
		return aidb_client_fail(AIDB_CLIENT_INVALID, "keys and values need data, of %zu bytes at most", MAX_BYTES);
	}
	if (count == 0) {
		return AIDB_CLIENT_OK;
	}
	self->items = calloc(count, sizeof(*self->items));
	self->cuts = calloc(count + AIDB_MAX_GROUPS, sizeof(*self->cuts));
	if (self->items == NULL || self->cuts == NULL) {
		status = aidb_client_fail(AIDB_CLIENT_NO_MEMORY, "out of memory");
	} else {
		for (size_t i = 0; i < count; i++) {
			self->items[i] = (item){.key = &self->keys[i],
									.index = i,
									.slot = (uint16_t)aidb_slot_of_bytes(self->keys[i].data, self->keys[i].size)};
		}
		self->count = count;
		status = run(space, self, count);
	}
	free(self->items);
	free(self->cuts);
	aidb_bytes_array_free(&self->key_array);
	aidb_bytes_array_free(&self->put_array);
	return status;
}

aidb_client_status aidb_client_batch_get(aidb_client_space *space, size_t count, const aidb_client_bytes *keys,
										 aidb_client_value *values) {
	batch self = {.kind = AIDB_SPACE_GET, .keys = keys, .gets = values};
	aidb_client_status status;

	if (count > 0 && (keys == NULL || values == NULL)) {
		return aidb_client_fail(AIDB_CLIENT_INVALID, "a batch needs keys, and a place for values");
	}
	for (size_t i = 0; i < count; i++) {
		values[i] = (aidb_client_value){0};
	}
	status = run_batch(space, &self, count);
	for (size_t i = 0; status != AIDB_CLIENT_OK && i < count; i++) {
		aidb_client_value_free(&values[i]);
	}
	return status;
}

aidb_client_status aidb_client_batch_put(aidb_client_space *space, size_t count, const aidb_client_bytes *keys,
										 const aidb_client_bytes *values) {
	batch self = {.kind = AIDB_SPACE_PUT, .keys = keys, .puts = values};

	if (count > 0 && (keys == NULL || values == NULL)) {
		return aidb_client_fail(AIDB_CLIENT_INVALID, "a batch needs keys, and their values");
	}
	return run_batch(space, &self, count);
}

aidb_client_status aidb_client_batch_delete(aidb_client_space *space, size_t count, const aidb_client_bytes *keys) {
	batch self = {.kind = AIDB_SPACE_DELETE, .keys = keys};

	if (count > 0 && keys == NULL) {
		return aidb_client_fail(AIDB_CLIENT_INVALID, "a batch needs keys");
	}
	return run_batch(space, &self, count);
}

aidb_client_status aidb_client_get(aidb_client_space *space, aidb_client_bytes key, aidb_client_value *value) {
	aidb_client_status status = aidb_client_batch_get(space, 1, &key, value);

	return status == AIDB_CLIENT_OK && !value->found ? AIDB_CLIENT_NOT_FOUND : status;
}

aidb_client_status aidb_client_put(aidb_client_space *space, aidb_client_bytes key, aidb_client_bytes value) {
	return aidb_client_batch_put(space, 1, &key, &value);
}

aidb_client_status aidb_client_delete(aidb_client_space *space, aidb_client_bytes key) {
	return aidb_client_batch_delete(space, 1, &key);
}

void aidb_client_value_free(aidb_client_value *value) {
	free(value->data);
	*value = (aidb_client_value){0};
}
