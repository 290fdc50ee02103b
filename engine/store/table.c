#include "store/table.h"

#include <stdlib.h>

#include "base/status.h"

static aidb_status malformed(const lsm_block_source *source, const lsm_table *table, lsm_handle handle) {
	return lsm_block_malformed(source, table->number, handle.offset, "its contents are malformed");
}

static lsm_block_request request_of(const lsm_table *table, lsm_handle handle, lsm_cache_use use,
									lsm_cache_priority priority) {
	return (lsm_block_request){.file_number = table->number,
							   .file_bytes = table->file_bytes,
							   .handle = handle,
							   .use = use,
							   .priority = priority};
}

/* ---- Point lookup -------------------------------------------------------------------------------------- */

/* The way down from the root to the data block that an entry belongs to. */
typedef struct descent {
	lsm_handle child;  /* the data block, when found */
	lsm_handle filter; /* the one over the leaf's keys */
	bool found;
	/* The last separator that was passed: whether its key is the one looked for, and its sequence. If so, further
	 * versions of the key may lie beyond it. */
	bool passed_same_key;
	aidb_sequence passed;
	aidb_buffer memory; /* of blocks that no frame takes */
} descent;

/* Looks for (key, trailer) in one index node. *inside: the node has a child for it. */
static aidb_status search_node(lsm_block_source *source, const lsm_table *table, lsm_handle node, uint32_t level,
							   lsm_cache_use use, aidb_slice key, uint64_t trailer, descent *way, bool *inside) {
	lsm_block_request request = request_of(table, node, use, LSM_CACHE_HIGH);
	lsm_block_cursor cursor;
	lsm_block block;
	aidb_status rc = lsm_block_fetch(source, &request, &way->memory, &block);

	if (rc != AIDB_OK) {
		return rc;
	}
	lsm_block_cursor_open(&cursor, block.contents);
	lsm_block_cursor_seek(&cursor, key, trailer);
	*inside = cursor.valid;
	if (cursor.corrupt || (cursor.valid && !lsm_index_entry(cursor.entry.value, level, &way->child, &way->filter))) {
		rc = malformed(source, table, node);
	} else if (cursor.valid) {
		way->passed_same_key = lsm_equal(cursor.entry.key, key);
		way->passed = lsm_sequence_of(cursor.entry.trailer);
	}
	return rc;
}

/* Whether the leaf that the descent has come to may have the key. */
static aidb_status check_filter(lsm_block_source *source, const lsm_table *table, lsm_cache_use use, uint64_t hash,
								descent *way, bool *may_contain) {
	lsm_block_request request = request_of(table, way->filter, use, LSM_CACHE_HIGH);
	lsm_block block;
	aidb_status rc = lsm_block_fetch(source, &request, &way->memory, &block);

	if (rc == AIDB_OK) {
		*may_contain = lsm_filter_may_contain(block.contents, hash);
		source->filter_checks++;
		source->filter_skips += !*may_contain;
	}
	return rc;
}

/* From the root to a data block; with a hash, only past a filter that lets it. */
static aidb_status descend(lsm_block_source *source, const lsm_table *table, lsm_cache_use use, aidb_slice key,
						   uint64_t trailer, const uint64_t *hash, descent *way) {
	lsm_handle node = table->root;
	aidb_status rc = AIDB_OK;
	bool go_on = true;

	way->found = false;
	way->passed_same_key = false;
	for (uint32_t level = table->root_level + 1; rc == AIDB_OK && go_on && level-- > 0;) {
		rc = search_node(source, table, node, level, use, key, trailer, way, &go_on);
		node = way->child;
		if (rc == AIDB_OK && go_on && level == 1 && hash != NULL) {
			rc = check_filter(source, table, use, *hash, way, &go_on);
		}
	}
	way->found = rc == AIDB_OK && go_on;
	return rc;
}

/* Offers what the data block has of the key. *ended: the block ended before the key's versions did. */
static aidb_status offer_block(lsm_block_source *source, const lsm_table *table, lsm_cache_use use, uint64_t trailer,
							   lsm_lookup *lookup, descent *way, bool *ended) {
	lsm_block_request request = request_of(table, way->child, use, LSM_CACHE_NORMAL);
	lsm_block_cursor cursor;
	lsm_block block;
	aidb_status rc = lsm_block_fetch(source, &request, &way->memory, &block);

	if (rc != AIDB_OK) {
		return rc;
	}
	lsm_block_cursor_open(&cursor, block.contents);
	lsm_block_cursor_seek(&cursor, lookup->key, trailer);
	while (rc == AIDB_OK && cursor.valid && lsm_equal(cursor.entry.key, lookup->key)) {
		rc = lsm_lookup_offer(lookup, &cursor.entry);
		if (lookup->decided) {
			break;
		}
		lsm_block_cursor_next(&cursor);
	}
	*ended = !cursor.valid;
	if (cursor.corrupt) {
		rc = malformed(source, table, way->child);
	}
	return rc;
}

aidb_status lsm_table_get(lsm_block_source *source, const lsm_table *table, lsm_cache_use use, lsm_lookup *lookup) {
	uint64_t trailer = lsm_view_start(&lookup->view);
	descent way = {.memory = {NULL, 0, 0}};
	aidb_status rc;
	bool more;

	do {
		more = true;
		rc = descend(source, table, use, lookup->key, trailer, &lookup->hash, &way);
		if (rc == AIDB_OK && way.found) {
			rc = offer_block(source, table, use, trailer, lookup, &way, &more);
		}
		/* only a separator of the same key can have versions of it on its other side */
		more = more && way.passed_same_key && way.passed > 0;
		trailer = lsm_seek_trailer(way.passed - 1);
	} while (rc == AIDB_OK && more && !lookup->decided);
	aidb_buffer_free(&way.memory);
	return rc;
}

/* ---- Places -------------------------------------------------------------------------------------------- */

aidb_status lsm_table_locate(lsm_block_source *source, const lsm_table *table, aidb_slice key, uint64_t trailer,
							 lsm_table_place *place) {
	descent way = {.memory = {NULL, 0, 0}};
	aidb_status rc = descend(source, table, LSM_CACHE_FILL, key, trailer, NULL, &way);

	if (rc == AIDB_OK) {
		*place = (lsm_table_place){.beyond = !way.found, .block = way.child};
	}
	aidb_buffer_free(&way.memory);
	return rc;
}

aidb_status lsm_table_count(lsm_block_source *source, const lsm_table *table, lsm_handle handle, aidb_slice lower,
							aidb_slice upper, uint64_t *entries) {
	lsm_block_request request = request_of(table, handle, LSM_CACHE_FILL, LSM_CACHE_LOW);
	aidb_buffer memory = {NULL, 0, 0};
	lsm_block_cursor cursor;
	lsm_block block;
	aidb_status rc = lsm_block_fetch(source, &request, &memory, &block);

	if (rc != AIDB_OK) {
		aidb_buffer_free(&memory);
		return rc;
	}
	*entries = 0;
	lsm_block_cursor_open(&cursor, block.contents);
	if (lower.data == NULL) {
		lsm_block_cursor_seek_first(&cursor);
	} else {
		lsm_block_cursor_seek(&cursor, lower, UINT64_MAX);
	}
	while (cursor.valid && (upper.data == NULL || lsm_compare(cursor.entry.key, upper) < 0)) {
		++*entries;
		lsm_block_cursor_next(&cursor);
	}
	if (cursor.corrupt) {
		rc = malformed(source, table, handle);
	}
	aidb_buffer_free(&memory);
	return rc;
}

/* ---- Cursor over a table ------------------------------------------------------------------------------- */

/*
 * The position in one index node. After a seek the block cursor's contents may have been a frame that is long
 * replaced; before the cursor moves, the node is fetched again into `memory` and the cursor put onto that: offsets
 * are the same in every copy. A seek that ends in its first data block so copies no index node.
 */
typedef struct index_position {
	lsm_handle node;
	lsm_handle child;
	bool loaded; /* the contents are in memory */
	aidb_buffer memory;
	lsm_block_cursor cursor;
} index_position;

typedef struct table_cursor {
	lsm_cursor base;
	lsm_block_source *source;
	lsm_table table;
	lsm_table_reading reading;
	lsm_readahead ahead;
	index_position *index[LSM_MAX_INDEX_LEVEL + 1];
	aidb_buffer memory; /* the data block */
	lsm_handle data_handle;
	lsm_block_cursor data;
} table_cursor;

typedef enum edge { EDGE_FIRST, EDGE_LAST } edge;

static void fail(table_cursor *cursor, aidb_status status) {
	cursor->base.valid = false;
	cursor->base.status = status;
}

static void seek_edge(lsm_block_cursor *cursor, edge end) {
	if (end == EDGE_FIRST) {
		lsm_block_cursor_seek_first(cursor);
	} else {
		lsm_block_cursor_seek_last(cursor);
	}
}

/* Hands out the entry that the data block's cursor stands on, if any. */
static void show(table_cursor *cursor) {
	if (cursor->data.corrupt) {
		fail(cursor, malformed(cursor->source, &cursor->table, cursor->data_handle));
		return;
	}
	cursor->base.valid = cursor->data.valid;
	cursor->base.entry = cursor->data.entry;
}

static index_position *position_at(table_cursor *cursor, uint32_t level) {
	if (cursor->index[level] == NULL) {
		index_position *position = malloc(sizeof(*position));

		if (position == NULL) {
			fail(cursor, lsm_fail(AIDB_NO_MEMORY, "out of memory: could not make a cursor"));
			return NULL;
		}
		position->memory = (aidb_buffer){NULL, 0, 0};
		position->loaded = false;
		cursor->index[level] = position;
	}
	return cursor->index[level];
}

/* Gets a block into the cursor's own memory. */
static aidb_status fetch_copy(table_cursor *cursor, const lsm_block_request *request, aidb_buffer *memory) {
	lsm_block block;
	aidb_status rc = lsm_block_fetch(cursor->source, request, memory, &block);

	if (rc == AIDB_OK && block.cached) {
		rc = aidb_buffer_set(memory, block.contents);
	}
	return rc;
}

static lsm_block_request index_request(const table_cursor *cursor, lsm_handle node) {
	return request_of(&cursor->table, node, cursor->reading.use, LSM_CACHE_HIGH);
}

/* Reads the child that the node's cursor stands on. */
static bool read_child(table_cursor *cursor, index_position *position, uint32_t level) {
	lsm_handle filter;

	if (position->cursor.corrupt ||
		(position->cursor.valid && !lsm_index_entry(position->cursor.entry.value, level, &position->child, &filter))) {
		fail(cursor, malformed(cursor->source, &cursor->table, position->node));
		return false;
	}
	return position->cursor.valid;
}

/* Opens a node and seeks in it: to `key` if given, else to the edge. False: no entry there, or an error. */
static bool enter_node(table_cursor *cursor, uint32_t level, lsm_handle node, const aidb_slice *key, uint64_t trailer,
					   edge end) {
	lsm_block_request request = index_request(cursor, node);
	index_position *position = position_at(cursor, level);
	lsm_block block;
	aidb_status rc;
	bool inside;

	if (position == NULL) {
		return false;
	}
	rc = lsm_block_fetch(cursor->source, &request, &position->memory, &block);
	if (rc != AIDB_OK) {
		fail(cursor, rc);
		return false;
	}
	position->node = node;
	position->loaded = !block.cached;
	lsm_block_cursor_open(&position->cursor, block.contents);
	if (key != NULL) {
		lsm_block_cursor_seek(&position->cursor, *key, trailer);
	} else {
		seek_edge(&position->cursor, end);
	}
	inside = read_child(cursor, position, level);
	if (!inside && key == NULL && cursor->base.status == AIDB_OK) {
		fail(cursor, malformed(cursor->source, &cursor->table, node)); /* no node is empty */
	}
	return inside;
}

/* Moves within the node at `level`. False: its end, or an error. */
static bool step_node(table_cursor *cursor, uint32_t level, edge end) {
	index_position *position = cursor->index[level];

	if (!position->loaded) {
		lsm_block_request request = index_request(cursor, position->node);
		aidb_status rc = fetch_copy(cursor, &request, &position->memory);

		if (rc != AIDB_OK) {
			fail(cursor, rc);
			return false;
		}
		position->loaded = true;
		position->cursor.data = (const uint8_t *)position->memory.data;
	}
	if (end == EDGE_FIRST) {
		lsm_block_cursor_next(&position->cursor);
	} else {
		lsm_block_cursor_prev(&position->cursor);
	}
	return read_child(cursor, position, level);
}

/* Opens the data block that the leaf's cursor stands on. */
static bool enter_data(table_cursor *cursor) {
	lsm_block_request request =
		request_of(&cursor->table, cursor->index[0]->child, cursor->reading.use, cursor->reading.priority);
	aidb_status rc;

	request.ahead = &cursor->ahead;
	cursor->data_handle = request.handle;
	rc = fetch_copy(cursor, &request, &cursor->memory);
	if (rc != AIDB_OK) {
		fail(cursor, rc);
		return false;
	}
	lsm_block_cursor_open(&cursor->data, (aidb_slice){cursor->memory.data, cursor->memory.size});
	return true;
}

/* From the node at `level` (whose cursor stands on a child) down along the edge to an entry. */
static void descend_edge(table_cursor *cursor, uint32_t level, edge end) {
	while (level > 0) {
		lsm_handle child = cursor->index[level]->child;

		if (!enter_node(cursor, --level, child, NULL, 0, end)) {
			return;
		}
	}
	if (!enter_data(cursor)) {
		return;
	}
	seek_edge(&cursor->data, end);
	show(cursor);
	if (!cursor->base.valid && cursor->base.status == AIDB_OK) {
		fail(cursor, malformed(cursor->source, &cursor->table, cursor->data_handle)); /* no block is empty */
	}
}

/* To the edge of the data block after (EDGE_FIRST) or before (EDGE_LAST) the one that the index stands on, beginning at
 * `level`, below which there is nothing more in that direction. */
static void step_index(table_cursor *cursor, uint32_t level, edge end) {
	for (; level <= cursor->table.root_level; level++) {
		if (step_node(cursor, level, end)) {
			descend_edge(cursor, level, end);
			return;
		}
		if (cursor->base.status != AIDB_OK) {
			return;
		}
	}
}

static void start(table_cursor *cursor) {
	cursor->base.valid = false;
	cursor->base.status = AIDB_OK;
}

static void table_seek(lsm_cursor *base, aidb_slice key, uint64_t trailer) {
	table_cursor *cursor = (table_cursor *)base;
	lsm_handle node = cursor->table.root;

	start(cursor);
	for (uint32_t level = cursor->table.root_level + 1; level-- > 0;) {
		if (!enter_node(cursor, level, node, &key, trailer, EDGE_FIRST)) {
			if (cursor->base.status == AIDB_OK && level < cursor->table.root_level) {
				step_index(cursor, level + 1, EDGE_FIRST);
			}
			return;
		}
		node = cursor->index[level]->child;
	}
	if (!enter_data(cursor)) {
		return;
	}
	lsm_block_cursor_seek(&cursor->data, key, trailer);
	show(cursor);
	if (!cursor->base.valid && cursor->base.status == AIDB_OK) {
		step_index(cursor, 0, EDGE_FIRST);
	}
}

static void seek_end(table_cursor *cursor, edge end) {
	start(cursor);
	if (enter_node(cursor, cursor->table.root_level, cursor->table.root, NULL, 0, end)) {
		descend_edge(cursor, cursor->table.root_level, end);
	}
}

static void table_seek_first(lsm_cursor *base) {
	seek_end((table_cursor *)base, EDGE_FIRST);
}

static void table_seek_last(lsm_cursor *base) {
	seek_end((table_cursor *)base, EDGE_LAST);
}

static void table_next(lsm_cursor *base) {
	table_cursor *cursor = (table_cursor *)base;

	lsm_block_cursor_next(&cursor->data);
	show(cursor);
	if (!base->valid && base->status == AIDB_OK) {
		step_index(cursor, 0, EDGE_FIRST);
	}
}

static void table_prev(lsm_cursor *base) {
	table_cursor *cursor = (table_cursor *)base;

	lsm_block_cursor_prev(&cursor->data);
	show(cursor);
	if (!base->valid && base->status == AIDB_OK) {
		step_index(cursor, 0, EDGE_LAST);
	}
}

static void table_close(lsm_cursor *base) {
	table_cursor *cursor = (table_cursor *)base;

	for (int level = 0; level <= LSM_MAX_INDEX_LEVEL; level++) {
		if (cursor->index[level] != NULL) {
			aidb_buffer_free(&cursor->index[level]->memory);
			free(cursor->index[level]);
		}
	}
	lsm_readahead_free(&cursor->ahead);
	aidb_buffer_free(&cursor->memory);
	free(cursor);
}

static const lsm_cursor_ops table_ops = {.seek = table_seek,
										 .seek_first = table_seek_first,
										 .seek_last = table_seek_last,
										 .next = table_next,
										 .prev = table_prev,
										 .close = table_close};

static void table_open(table_cursor *cursor, const lsm_table *table) {
	start(cursor);
	cursor->table = *table;
	lsm_readahead_reset(&cursor->ahead, cursor->reading.readahead_bytes);
}

static table_cursor *make_table_cursor(lsm_block_source *source, const lsm_table_reading *reading) {
	table_cursor *cursor = malloc(sizeof(*cursor));

	if (cursor != NULL) {
		cursor->base = (lsm_cursor){.ops = &table_ops};
		cursor->source = source;
		cursor->reading = *reading;
		cursor->ahead = (lsm_readahead){.bytes = {NULL, 0, 0}};
		memset(cursor->index, 0, sizeof(cursor->index));
		cursor->memory = (aidb_buffer){NULL, 0, 0};
	}
	return cursor;
}

aidb_status lsm_table_cursor_create(lsm_block_source *source, const lsm_table *table, const lsm_table_reading *reading,
									lsm_cursor **cursor) {
	table_cursor *created = make_table_cursor(source, reading);

	if (created == NULL) {
		return lsm_fail(AIDB_NO_MEMORY, "out of memory: could not make a cursor");
	}
	table_open(created, table);
	*cursor = &created->base;
	return AIDB_OK;
}

/* ---- Cursor over a level ------------------------------------------------------------------------------- */

typedef struct level_cursor {
	lsm_cursor base;
	const lsm_ref *files;
	uint32_t count;
	uint32_t at; /* the file that `table` is open on; count: none */
	table_cursor *table;
} level_cursor;

static const lsm_file *file_at(const level_cursor *cursor, uint32_t index) {
	return lsm_at(cursor->table->source->arena, cursor->files[index]);
}

static void open_file(level_cursor *cursor, uint32_t index) {
	lsm_table table;

	if (cursor->at != index) {
		table = lsm_table_of(file_at(cursor, index));
		table_open(cursor->table, &table);
		cursor->at = index;
	}
}

static void level_show(level_cursor *cursor) {
	cursor->base.valid = cursor->table->base.valid;
	cursor->base.status = cursor->table->base.status;
	cursor->base.entry = cursor->table->base.entry;
}

static void level_none(level_cursor *cursor) {
	cursor->base.valid = false;
	cursor->base.status = AIDB_OK;
}

/* To the first entry after the file that ended, or the last before it. */
static void step_file(level_cursor *cursor, edge end) {
	while (!cursor->base.valid && cursor->base.status == AIDB_OK) {
		if (end == EDGE_FIRST ? cursor->at + 1 >= cursor->count : cursor->at == 0) {
			return;
		}
		open_file(cursor, end == EDGE_FIRST ? cursor->at + 1 : cursor->at - 1);
		seek_end(cursor->table, end);
		level_show(cursor);
	}
}

static void level_seek(lsm_cursor *base, aidb_slice key, uint64_t trailer) {
	level_cursor *cursor = (level_cursor *)base;
	uint32_t low = 0, high = cursor->count;

	while (low < high) { /* the first file whose last entry is not before the target */
		uint32_t middle = low + (high - low) / 2;
		const lsm_file *file = file_at(cursor, middle);

		if (lsm_compare_versions(lsm_file_largest(file), file->largest_trailer, key, trailer) < 0) {
			low = middle + 1;
		} else {
			high = middle;
		}
	}
	if (low == cursor->count) {
		level_none(cursor);
		return;
	}
	open_file(cursor, low);
	table_seek(&cursor->table->base, key, trailer);
	level_show(cursor);
	step_file(cursor, EDGE_FIRST);
}

static void level_seek_end(level_cursor *cursor, edge end) {
	if (cursor->count == 0) {
		level_none(cursor);
		return;
	}
	open_file(cursor, end == EDGE_FIRST ? 0 : cursor->count - 1);
	seek_end(cursor->table, end);
	level_show(cursor);
	step_file(cursor, end);
}

static void level_seek_first(lsm_cursor *base) {
	level_seek_end((level_cursor *)base, EDGE_FIRST);
}

static void level_seek_last(lsm_cursor *base) {
	level_seek_end((level_cursor *)base, EDGE_LAST);
}

static void level_next(lsm_cursor *base) {
	level_cursor *cursor = (level_cursor *)base;

	table_next(&cursor->table->base);
	level_show(cursor);
	step_file(cursor, EDGE_FIRST);
}

static void level_prev(lsm_cursor *base) {
	level_cursor *cursor = (level_cursor *)base;

	table_prev(&cursor->table->base);
	level_show(cursor);
	step_file(cursor, EDGE_LAST);
}

static void level_close(lsm_cursor *base) {
	table_close(&((level_cursor *)base)->table->base);
	free(base);
}

static const lsm_cursor_ops level_ops = {.seek = level_seek,
										 .seek_first = level_seek_first,
										 .seek_last = level_seek_last,
										 .next = level_next,
										 .prev = level_prev,
										 .close = level_close};

aidb_status lsm_level_cursor_create(lsm_block_source *source, const lsm_ref *files, uint32_t count,
									const lsm_table_reading *reading, lsm_cursor **cursor) {
	level_cursor *created = malloc(sizeof(*created));
	table_cursor *table = make_table_cursor(source, reading);

	if (created == NULL || table == NULL) {
		free(created);
		free(table);
		return lsm_fail(AIDB_NO_MEMORY, "out of memory: could not make a cursor");
	}
	*created = (level_cursor){.base = {.ops = &level_ops}, .files = files, .count = count, .at = count, .table = table};
	*cursor = &created->base;
	return AIDB_OK;
}
