/*
 * The store against a model: random operations on both, and every answer compared.
 *
 * The model knows all keys in advance, in order, and keeps of each all versions that were ever committed. Values are
 * made from a seed and a size, so that only these need be remembered. One thread; background work runs in threads of
 * the store or when the operations ask for it.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>

#include "store_fixture.h"

#define KEYS 3000
#define SNAPSHOTS 6
#define ITERATORS 4
#define TAGS 64
#define MAX_OPERATIONS 24
#define MAX_VALUE_BYTES (200u << 10)

typedef struct version {
	aidb_sequence sequence;
	aidb_tag tag; /* 0: plain */
	uint64_t seed;
	uint32_t bytes;
	bool deletes;
} version;

typedef struct model_key {
	uint8_t bytes[AIDB_MAX_KEY_BYTES];
	uint32_t size;
	uint32_t count;
	uint32_t capacity;
	version *versions; /* oldest first */
} model_key;

/* An iterator of the store, and where it ought to be. */
typedef struct model_iterator {
	aidb_iterator *iterator; /* NULL: none */
	aidb_sequence sequence;
	aidb_tag own;
	int lower; /* index of the first key within the bounds */
	int upper; /* and of the first beyond */
	int at;    /* index, or -1 */
	bool has_lower, has_upper;
} model_iterator;

/* What is different from one run to the next. */
typedef struct test_recipe {
	const char *name;
	aidb_options options;
	bool attached; /* on the test's host, without background, instead of by aidb_open */
	bool tags;
	uint32_t operations;
	uint32_t value_bytes; /* usual size */
	int deepest;          /* a level that must have been reached */
} test_recipe;

typedef struct test_model {
	const test_recipe *recipe;
	uint64_t random;
	test_store store;
	aidb_db *db;
	model_key *keys;
	aidb_sequence last;
	aidb_snapshot snapshots[SNAPSHOTS];
	bool has_snapshot[SNAPSHOTS];
	model_iterator iterators[ITERATORS];
	uint32_t largest_value;
	uint64_t compactions; /* before the store was last opened, as are the next */
	uint64_t flushes;
	bool level_seen[AIDB_LEVELS];
	uint8_t value[MAX_VALUE_BYTES];
} test_model;

static uint64_t below(test_model *model, uint64_t limit) {
	return store_random_below(&model->random, limit);
}

/* ---- Tags ---------------------------------------------------------------------------------------------- */

static aidb_tag_fate fates[TAGS + 1]; /* of tags 1 to TAGS */
static aidb_tag next_tag;

static aidb_tag_fate fate_of(aidb_tag tag) {
	return fates[tag];
}

/* A reader sees what has committed, and what carries its own tag. */
static bool sees_tag(void *argument, aidb_tag tag) {
	return fates[tag] == AIDB_TAG_COMMITTED || (fates[tag] == AIDB_TAG_OPEN && tag == *(const aidb_tag *)argument);
}

/* ---- Keys and values ----------------------------------------------------------------------------------- */

static aidb_slice key_slice(const model_key *key) {
	return (aidb_slice){key->bytes, key->size};
}

static int compare_keys(const void *a, const void *b) {
	return lsm_compare(key_slice(a), key_slice(b));
}

static void make_key(test_model *model, model_key *key) {
	static const uint32_t prefixes[] = {0, 0, 1, 7, 8, 9, 40, 200, 1000};
	uint32_t prefix = prefixes[below(model, sizeof(prefixes) / sizeof(prefixes[0]))];

	memset(key->bytes, 'p', prefix);
	key->size = prefix + (uint32_t)below(model, below(model, 4) == 0 ? AIDB_MAX_KEY_BYTES - prefix + 1 : 12);
	for (uint32_t i = prefix; i < key->size; i++) {
		key->bytes[i] = (uint8_t)(below(model, 3) == 0 ? below(model, 256) : 'a' + below(model, 4));
	}
}

/* Sorted and distinct; the first is the empty key, and another is of the greatest length. */
static void make_keys(test_model *model) {
	int made = 0;

	model->keys = calloc(KEYS, sizeof(model_key));
	assert_non_null(model->keys);
	while (made < KEYS) {
		int distinct = 0;

		for (; made < KEYS; made++) {
			make_key(model, &model->keys[made]);
		}
		model->keys[0].size = 0;
		model->keys[KEYS - 1].size = AIDB_MAX_KEY_BYTES;
		qsort(model->keys, KEYS, sizeof(model_key), compare_keys);
		for (int i = 0; i < KEYS; i++) {
			if (distinct == 0 || compare_keys(&model->keys[distinct - 1], &model->keys[i]) != 0) {
				model->keys[distinct++] = model->keys[i];
			}
		}
		made = distinct;
	}
}

/* The first index whose key is not before `key`. */
static int find_key(const test_model *model, aidb_slice key) {
	int low = 0, high = KEYS;

	while (low < high) {
		int middle = low + (high - low) / 2;

		if (lsm_compare(key_slice(&model->keys[middle]), key) < 0) {
			low = middle + 1;
		} else {
			high = middle;
		}
	}
	return low;
}

/* Half random, half of one letter, so that compression has something to do. */
static aidb_slice make_value(test_model *model, uint64_t seed, uint32_t bytes) {
	for (uint32_t i = 0; i < bytes; i += 8) {
		uint64_t word = (seed & 1) != 0 && i % 64 >= 32 ? 0x7676767676767676ull : store_random(&seed);

		memcpy(model->value + i, &word, bytes - i < 8 ? bytes - i : 8);
	}
	return (aidb_slice){model->value, bytes};
}

static uint32_t pick_value_bytes(test_model *model) {
	switch (below(model, 40)) {
	case 0:
	case 1:
		return 0;
	case 2:
		return (uint32_t)below(model, 8);
	case 3:
		return 4000 + (uint32_t)below(model, 200); /* around a block */
	case 4:
		return (uint32_t)below(model, 20000);
	case 5:
		return below(model, 20) == 0 ? (uint32_t)below(model, model->largest_value) : 5000;
	default:
		return (uint32_t)below(model, 2ull * model->recipe->value_bytes);
	}
}

static void note_version(model_key *key, version written) {
	if (key->count > 0 && key->versions[key->count - 1].sequence == written.sequence) {
		key->count--; /* the later of two in a batch stands */
	}
	if (key->count == key->capacity) {
		key->capacity = key->capacity == 0 ? 8 : key->capacity * 2;
		key->versions = realloc(key->versions, key->capacity * sizeof(version));
		assert_non_null(key->versions);
	}
	key->versions[key->count++] = written;
}

/* What a reader with this view finds; NULL: nothing. */
static const version *find_version(const model_key *key, aidb_sequence sequence, aidb_tag own) {
	for (uint32_t i = key->count; i-- > 0;) {
		const version *found = &key->versions[i];

		if (found->sequence <= sequence && (found->tag == 0 || sees_tag(&own, found->tag))) {
			return found->deletes ? NULL : found;
		}
	}
	return NULL;
}

/* ---- Checks -------------------------------------------------------------------------------------------- */

static void check_get(test_model *model, int at, aidb_sequence sequence, aidb_tag own) {
	const version *wanted = find_version(&model->keys[at], sequence == 0 ? model->last : sequence, own);
	aidb_read_options options = {.sequence = sequence, .tag_visible = sees_tag, .tag_argument = &own};
	aidb_buffer value = {0};
	aidb_sequence found = 0;
	aidb_status rc = aidb_get(model->db, &options, key_slice(&model->keys[at]), &value, &found);

	assert_status(rc, wanted == NULL ? AIDB_NOT_FOUND : AIDB_OK);
	if (wanted != NULL) {
		assert_int_equal(found, wanted->sequence);
		assert_true(lsm_equal((aidb_slice){value.data, value.size}, make_value(model, wanted->seed, wanted->bytes)));
	}
	aidb_buffer_free(&value);
}

static void check_iterator(test_model *model, const model_iterator *mine) {
	const version *wanted;
	aidb_slice value;

	assert_int_equal(aidb_iterator_status(mine->iterator), AIDB_OK);
	assert_int_equal(aidb_iterator_valid(mine->iterator), mine->at >= 0);
	if (mine->at < 0) {
		return;
	}
	wanted = find_version(&model->keys[mine->at], mine->sequence, mine->own);
	assert_true(lsm_equal(aidb_iterator_key(mine->iterator), key_slice(&model->keys[mine->at])));
	assert_int_equal(aidb_iterator_version(mine->iterator), wanted->sequence);
	value = aidb_iterator_value(mine->iterator);
	assert_true(lsm_equal(value, make_value(model, wanted->seed, wanted->bytes)));
}

/* ---- Iterators ----------------------------------------------------------------------------------------- */

static bool is_seen(const test_model *model, const model_iterator *mine, int at) {
	return find_version(&model->keys[at], mine->sequence, mine->own) != NULL;
}

static void settle_forward(const test_model *model, model_iterator *mine, int at) {
	at = at < mine->lower ? mine->lower : at;
	while (at < mine->upper && !is_seen(model, mine, at)) {
		at++;
	}
	mine->at = at < mine->upper ? at : -1;
}

static void settle_backward(const test_model *model, model_iterator *mine, int at) {
	at = at >= mine->upper ? mine->upper - 1 : at;
	while (at >= mine->lower && !is_seen(model, mine, at)) {
		at--;
	}
	mine->at = at >= mine->lower ? at : -1;
}

/* A key to look for: mostly one of the model's, sometimes one that is nowhere. */
static aidb_slice pick_target(test_model *model, model_key *other) {
	if (below(model, 3) > 0) {
		return key_slice(&model->keys[below(model, KEYS)]);
	}
	make_key(model, other);
	return key_slice(other);
}

static void seek(test_model *model, model_iterator *mine) {
	static model_key other;
	aidb_slice target = pick_target(model, &other);
	int at = find_key(model, target);
	bool exact = at < KEYS && lsm_equal(key_slice(&model->keys[at]), target);

	switch (below(model, 4)) {
	case 0:
		aidb_iterator_seek(mine->iterator, target);
		settle_forward(model, mine, at);
		break;
	case 1:
		aidb_iterator_seek_for_prev(mine->iterator, target);
		settle_backward(model, mine, exact ? at : at - 1);
		break;
	case 2:
		aidb_iterator_seek_first(mine->iterator);
		settle_forward(model, mine, 0);
		break;
	default:
		aidb_iterator_seek_last(mine->iterator);
		settle_backward(model, mine, KEYS - 1);
		break;
	}
	check_iterator(model, mine);
}

static void step(test_model *model, model_iterator *mine, bool backward) {
	if (mine->at < 0) {
		seek(model, mine);
		return;
	}
	if (backward) {
		aidb_iterator_prev(mine->iterator);
		settle_backward(model, mine, mine->at - 1);
	} else {
		aidb_iterator_next(mine->iterator);
		settle_forward(model, mine, mine->at + 1);
	}
	check_iterator(model, mine);
}

static void close_iterator(model_iterator *mine) {
	aidb_iterator_destroy(mine->iterator);
	mine->iterator = NULL;
}

/* The snapshot of a slot, or none: then 0. */
static aidb_sequence pick_sequence(test_model *model) {
	unsigned slot = (unsigned)below(model, SNAPSHOTS);

	return model->has_snapshot[slot] ? model->snapshots[slot].sequence : 0;
}

/* A snapshot that an iterator reads at must not be released before it. */
static bool is_read(const test_model *model, aidb_sequence sequence) {
	for (int i = 0; i < ITERATORS; i++) {
		if (model->iterators[i].iterator != NULL && model->iterators[i].sequence == sequence) {
			return true;
		}
	}
	return false;
}

static void open_iterator(test_model *model, model_iterator *mine) {
	aidb_read_options options = {.sequence = pick_sequence(model), .tag_visible = sees_tag};

	*mine = (model_iterator){.own = below(model, next_tag + 1), .lower = 0, .upper = KEYS, .at = -1};
	mine->sequence = options.sequence == 0 ? model->last : options.sequence;
	mine->has_lower = below(model, 2) == 0;
	mine->has_upper = below(model, 2) == 0;
	if (mine->has_lower) {
		mine->lower = (int)below(model, KEYS);
		options.lower = key_slice(&model->keys[mine->lower]);
	}
	if (mine->has_upper) {
		mine->upper = (int)below(model, KEYS);
		options.upper = key_slice(&model->keys[mine->upper]);
	}
	options.tag_argument = &mine->own;
	options.skip_cache_fill = below(model, 4) == 0;
	assert_ok(aidb_iterator_create(model->db, &options, &mine->iterator));
	assert_false(aidb_iterator_valid(mine->iterator));
	seek(model, mine);
}

static void use_iterator(test_model *model) {
	model_iterator *mine = &model->iterators[below(model, ITERATORS)];
	unsigned steps = 1 + (unsigned)below(model, 30);

	if (mine->iterator == NULL) {
		open_iterator(model, mine);
	} else if (below(model, 10) == 0) {
		close_iterator(mine);
	} else if (below(model, 3) == 0) {
		seek(model, mine);
	} else if (below(model, 3) == 0) {
		for (unsigned i = 0; i < steps; i++) {
			step(model, mine, below(model, 2) == 0); /* back and forth */
		}
	} else {
		bool backward = below(model, 2) == 0;

		for (unsigned i = 0; i < steps; i++) {
			step(model, mine, backward);
		}
	}
}

/* Every key, both ways and one by one, as of `sequence`. */
static void check_all(test_model *model, aidb_sequence sequence) {
	model_iterator mine = {.upper = KEYS, .at = -1, .sequence = sequence == 0 ? model->last : sequence};
	aidb_read_options options = {.sequence = sequence, .tag_visible = sees_tag, .tag_argument = &mine.own};

	assert_ok(aidb_iterator_create(model->db, &options, &mine.iterator));
	aidb_iterator_seek_first(mine.iterator);
	settle_forward(model, &mine, 0);
	check_iterator(model, &mine);
	while (mine.at >= 0) {
		step(model, &mine, false);
	}
	aidb_iterator_seek_last(mine.iterator);
	settle_backward(model, &mine, KEYS - 1);
	check_iterator(model, &mine);
	while (mine.at >= 0) {
		step(model, &mine, true);
	}
	close_iterator(&mine);
	for (int at = 0; at < KEYS; at++) {
		check_get(model, at, sequence, 0);
	}
}

/* ---- Writing ------------------------------------------------------------------------------------------- */

static aidb_write_options pick_write_options(test_model *model) {
	static const aidb_durability kinds[] = {AIDB_WRITE, AIDB_WRITE, AIDB_WRITE, AIDB_LAZY};
	aidb_write_options options = {.durability = kinds[below(model, 4)]};

	if (below(model, 100) == 0) {
		options.durability = AIDB_SYNC;
	}
	if (model->recipe->tags && next_tag < TAGS && below(model, 20) == 0) {
		options.state = AIDB_BATCH_PREPARED;
		options.tag = next_tag > 0 && fates[next_tag] == AIDB_TAG_OPEN && below(model, 2) == 0 ? next_tag : ++next_tag;
	}
	return options;
}

static void write_batch(test_model *model) {
	static int touched[MAX_OPERATIONS];
	static version written[MAX_OPERATIONS];
	aidb_write_options options = pick_write_options(model);
	aidb_batch *batch = aidb_batch_create();
	unsigned count = 1 + (unsigned)(below(model, 3) == 0 ? below(model, MAX_OPERATIONS) : below(model, 3));
	unsigned done = 0;
	aidb_sequence sequence = 0;

	for (unsigned i = 0; i < count; i++) {
		version *mine = &written[done];

		touched[done] = (int)below(model, KEYS);
		*mine = (version){.tag = options.tag, .seed = store_random(&model->random), .deletes = below(model, 5) == 0};
		if (mine->deletes) {
			assert_ok(aidb_batch_delete(batch, key_slice(&model->keys[touched[done]])));
		} else {
			mine->bytes = pick_value_bytes(model);
			if (aidb_batch_bytes(batch) + mine->bytes + 2000 > aidb_max_batch_bytes(model->db)) {
				break;
			}
			assert_ok(aidb_batch_put(batch, key_slice(&model->keys[touched[done]]),
									 make_value(model, mine->seed, mine->bytes)));
		}
		done++;
	}
	if (done > 0 && options.state == AIDB_BATCH_PLAIN && below(model, 4) == 0) {
		aidb_reservation reservation;

		assert_ok(aidb_write_reserve(model->db, batch, &reservation));
		if (below(model, 4) == 0) {
			aidb_write_cancel(model->db, &reservation);
			done = 0;
		} else {
			assert_ok(aidb_write_commit(model->db, &options, &reservation, &sequence));
		}
	} else if (done > 0) {
		assert_ok(aidb_write(model->db, &options, batch, &sequence));
	}
	for (unsigned i = 0; i < done; i++) {
		written[i].sequence = sequence;
		note_version(&model->keys[touched[i]], written[i]);
	}
	if (done > 0) {
		assert_true(sequence > model->last);
		model->last = sequence;
		assert_int_equal(aidb_current_sequence(model->db), sequence);
	}
	aidb_batch_destroy(batch);
}

/* Lets an open tag commit or abort, and says so in the log. */
static void decide_tag(test_model *model) {
	aidb_tag tag = next_tag == 0 ? 0 : 1 + below(model, next_tag);
	aidb_write_options options = {.durability = AIDB_WRITE, .tag = tag};
	aidb_batch *batch;

	if (tag == 0 || fates[tag] != AIDB_TAG_OPEN) {
		return;
	}
	batch = aidb_batch_create();
	fates[tag] = below(model, 3) == 0 ? AIDB_TAG_ABORTED : AIDB_TAG_COMMITTED;
	options.state = fates[tag] == AIDB_TAG_ABORTED ? AIDB_BATCH_ABORT : AIDB_BATCH_COMMIT;
	assert_ok(aidb_write(model->db, &options, batch, &model->last));
	aidb_batch_destroy(batch);
}

/* ---- Opening and closing ------------------------------------------------------------------------------- */

static void open_model(test_model *model) {
	if (model->recipe->attached) {
		store_open(&model->store);
		faults.tag_fate = fate_of;
		model->db = model->store.db;
	} else {
		assert_ok(aidb_open(model->store.directory, &model->recipe->options, &model->db));
	}
	assert_true(aidb_current_sequence(model->db) >= model->last);
	model->last = aidb_current_sequence(model->db);
	model->largest_value = (uint32_t)aidb_max_batch_bytes(model->db) - 2000;
	if (model->largest_value > MAX_VALUE_BYTES) {
		model->largest_value = MAX_VALUE_BYTES;
	}
}

static void count_work(test_model *model) {
	aidb_stats stats = stats_of(model->db);

	model->compactions += stats.compactions;
	model->flushes += stats.flushes;
	for (int level = 0; level < AIDB_LEVELS; level++) {
		model->level_seen[level] |= stats.level_files[level] > 0;
	}
}

static void close_model(test_model *model) {
	count_work(model);
	for (int i = 0; i < ITERATORS; i++) {
		close_iterator(&model->iterators[i]);
	}
	memset(model->has_snapshot, 0, sizeof(model->has_snapshot));
	if (model->recipe->attached) {
		store_close(&model->store);
	} else {
		aidb_close(model->db);
	}
}

static void use_snapshot(test_model *model) {
	unsigned slot = (unsigned)below(model, SNAPSHOTS);

	if (!model->has_snapshot[slot]) {
		assert_ok(aidb_snapshot_acquire(model->db, &model->snapshots[slot]));
		assert_int_equal(model->snapshots[slot].sequence, model->last);
		model->has_snapshot[slot] = true;
	} else if (!is_read(model, model->snapshots[slot].sequence)) {
		aidb_snapshot_release(model->db, &model->snapshots[slot]);
		model->has_snapshot[slot] = false;
	}
}

static void work(test_model *model) {
	bool did;

	assert_ok(aidb_work(model->db, (aidb_work_kind)below(model, AIDB_WORK_KINDS), &did));
}

static void reopen(test_model *model) {
	close_model(model);
	open_model(model);
	check_all(model, 0);
}

static void operate(test_model *model) {
	unsigned choice = (unsigned)below(model, 1000);

	if (choice < 450) {
		write_batch(model);
	} else if (choice < 750) {
		check_get(model, (int)below(model, KEYS), pick_sequence(model), below(model, next_tag + 1));
	} else if (choice < 940) {
		use_iterator(model);
	} else if (choice < 960) {
		use_snapshot(model);
	} else if (choice < 985) {
		work(model);
	} else if (choice < 990) {
		assert_ok(aidb_flush(model->db));
	} else if (choice < 998) {
		decide_tag(model);
	} else if (choice == 998 && below(model, 10) == 0) {
		reopen(model);
	}
}

static void run_model(const test_recipe *recipe) {
	test_model *run = calloc(1, sizeof(*run));

	assert_non_null(run);
	run->recipe = recipe;
	run->random = store_seed("test_model");
	next_tag = 0;
	memset(fates, 0, sizeof(fates));
	make_keys(run);
	store_make(&run->store, &recipe->options);
	open_model(run);
	for (uint32_t i = 0; i < recipe->operations; i++) {
		operate(run);
	}
	for (int slot = 0; slot < SNAPSHOTS; slot++) {
		if (run->has_snapshot[slot]) {
			check_all(run, run->snapshots[slot].sequence);
		}
	}
	check_all(run, 0);
	reopen(run);
	store_settle(run->db);
	check_all(run, 0);
	close_model(run);
	assert_true(run->flushes >= 3);
	assert_true(run->compactions >= 2);
	assert_true(run->level_seen[recipe->deepest]);

	store_destroy(&run->store);
	for (int i = 0; i < KEYS; i++) {
		free(run->keys[i].versions);
	}
	free(run->keys);
	free(run);
}

/* ---- The runs ------------------------------------------------------------------------------------------ */

static void small_store_without_background(void **state) {
	test_recipe mine = {.operations = 8000, .value_bytes = 1500, .deepest = 2, .attached = true};

	(void)state;
	mine.options = store_small_options();
	run_model(&mine);
}

static void small_store_with_background_and_compression(void **state) {
	test_recipe mine = {.operations = 8000, .value_bytes = 1500, .deepest = 1};

	(void)state;
	mine.options = store_small_options();
	mine.options.log_segment_bytes = 1 << 20;
	mine.options.compression_default = AIDB_COMPRESSION_SNAPPY;
	run_model(&mine);
}

static void small_store_with_tags(void **state) {
	test_recipe mine = {.operations = 8000, .value_bytes = 1500, .deepest = 1, .attached = true, .tags = true};

	(void)state;
	mine.options = store_small_options();
	mine.options.log_segment_bytes = 1 << 20;
	mine.options.file_bytes = 256 << 10;
	run_model(&mine);
}

static void many_small_values_in_large_files(void **state) {
	test_recipe mine = {.operations = 15000, .value_bytes = 100, .deepest = 1};

	(void)state;
	mine.options = (aidb_options){.memory_bytes = 32 << 20,
								  .write_buffer_bytes = 1 << 20,
								  .filter_bits = 4,
								  .no_background = true,
								  .create_if_missing = true};
	run_model(&mine);
}

int main(void) {
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(small_store_without_background),
		cmocka_unit_test(small_store_with_background_and_compression),
		cmocka_unit_test(small_store_with_tags),
		cmocka_unit_test(many_small_values_in_large_files),
	};

	return cmocka_run_group_tests_name("model", tests, NULL, NULL);
}
