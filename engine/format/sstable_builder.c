/*
 * Building an SSTable bottom-up in one pass: data blocks as they fill, above them a node in work for every level of
 * the index, which moves up one entry whenever it is full.
 */
#include "format/sstable.h"

#include <assert.h>
#include <stdlib.h>

#include "base/status.h"

/*
 * Entries between restart points, chosen by counting the instructions of a cached get over 16-byte keys: with 16 and 16 it
 * takes 5,360, with these 4,470; the file grows by two percent.
 */
#define DATA_RESTART_INTERVAL 4
#define INDEX_RESTART_INTERVAL 2

/* A node of the index in work; its block's last_key is its last separator. */
typedef struct index_node {
	lsm_block_builder block;
	uint64_t last_trailer;
} index_node;

struct lsm_sstable_builder {
	lsm_sstable_options options;
	lsm_sink sink;
	void *sink_argument;
	aidb_status status; /* of the first failure */
	uint64_t offset;    /* bytes that the sink has got */
	aidb_buffer sealed;

	lsm_block_builder data; /* its last_key is the last key of all */
	uint64_t last_trailer;
	bool continues; /* the data block in work begins with the key that the one before it ended with */

	/* Hashes of the keys under the level-0 node in work, then of those in the data block in work. */
	uint64_t *hashes;
	uint32_t hash_count;
	uint32_t node_hash_count;
	uint32_t max_hashes;
	aidb_buffer filter;

	index_node nodes[LSM_MAX_INDEX_LEVEL + 1];
	uint32_t top_level; /* the highest that has an entry */

	aidb_buffer smallest;
	uint64_t smallest_trailer;
	lsm_sstable_properties properties;
};

static aidb_slice contents_of(const aidb_buffer *buffer) {
	return (aidb_slice){buffer->data, buffer->size};
}

aidb_status lsm_sstable_builder_create(const lsm_sstable_options *options, lsm_sink sink, void *sink_argument,
									   lsm_sstable_builder **builder) {
	lsm_sstable_builder *created;

	if (options->filter_bits < 1 || options->filter_bits > LSM_FILTER_MAX_BITS_PER_KEY) {
		return lsm_fail(AIDB_INVALID, "filter bits a key must be between 1 and %u, not %u", LSM_FILTER_MAX_BITS_PER_KEY,
						options->filter_bits);
	}
	created = calloc(1, sizeof(*created));
	if (created == NULL) {
		return lsm_fail(AIDB_NO_MEMORY, "out of memory: could not allocate %zu bytes", sizeof(*created));
	}
	created->options = *options;
	created->data.restart_interval = DATA_RESTART_INTERVAL;
	for (uint32_t level = 0; level <= LSM_MAX_INDEX_LEVEL; level++) {
		created->nodes[level].block.restart_interval = INDEX_RESTART_INTERVAL;
	}
	created->sink = sink;
	created->sink_argument = sink_argument;
	created->properties.min_sequence = LSM_MAX_SEQUENCE;
	created->max_hashes = lsm_filter_max_keys(options->filter_bits);
	created->hashes = malloc(created->max_hashes * sizeof(uint64_t));
	if (created->hashes == NULL) {
		free(created);
		return lsm_fail(AIDB_NO_MEMORY, "out of memory: could not allocate the hashes of a filter");
	}
	*builder = created;
	return AIDB_OK;
}

void lsm_sstable_builder_destroy(lsm_sstable_builder *builder) {
	if (builder == NULL) {
		return;
	}
	for (uint32_t level = 0; level <= LSM_MAX_INDEX_LEVEL; level++) {
		lsm_block_builder_free(&builder->nodes[level].block);
	}
	lsm_block_builder_free(&builder->data);
	aidb_buffer_free(&builder->sealed);
	aidb_buffer_free(&builder->filter);
	aidb_buffer_free(&builder->smallest);
	free(builder->hashes);
	free(builder);
}

/* ---- Writing ------------------------------------------------------------------------------------------- */

static aidb_status write_bytes(lsm_sstable_builder *builder, const void *data, size_t size) {
	aidb_status rc = builder->sink(builder->sink_argument, data, size);

	if (rc == AIDB_OK) {
		builder->offset += size;
	}
	return rc;
}

static aidb_status write_block(lsm_sstable_builder *builder, aidb_slice contents, aidb_compression compression,
							   lsm_handle *handle) {
	aidb_status rc;

	builder->sealed.size = 0;
	rc = lsm_block_seal(contents, compression, builder->offset, &builder->sealed, handle);
	if (rc == AIDB_OK) {
		rc = write_bytes(builder, builder->sealed.data, builder->sealed.size);
	}
	return rc;
}

/* ---- The index ----------------------------------------------------------------------------------------- */

/* Writes the filter of the keys under the level-0 node in work, and keeps the hashes of the data block that goes into
 * the next node: with the last key before it too, when its versions go on there. */
static aidb_status write_filter(lsm_sstable_builder *builder, lsm_handle *handle) {
	uint32_t rest = builder->node_hash_count - (builder->continues ? 1 : 0);
	aidb_status rc =
		lsm_filter_build(builder->hashes, builder->node_hash_count, builder->options.filter_bits, &builder->filter);

	if (rc == AIDB_OK) {
		rc = write_block(builder, contents_of(&builder->filter), AIDB_COMPRESSION_NONE, handle);
	}
	if (rc == AIDB_OK) {
		builder->hash_count -= rest;
		memmove(builder->hashes, builder->hashes + rest, builder->hash_count * sizeof(uint64_t));
		builder->node_hash_count = 0;
	}
	return rc;
}

static aidb_status write_node(lsm_sstable_builder *builder, uint32_t level, lsm_handle *handle) {
	lsm_block_builder *block = &builder->nodes[level].block;
	aidb_slice contents;
	aidb_status rc = lsm_block_builder_finish(block, &contents);

	if (rc == AIDB_OK) {
		assert(contents.size <= LSM_BLOCK_BYTES);
		rc = write_block(builder, contents, AIDB_COMPRESSION_NONE, handle);
		lsm_block_builder_reset(block);
	}
	return rc;
}

static aidb_status add_to_node(lsm_sstable_builder *builder, uint32_t level, const lsm_entry *entry);

/* Writes the node in work and enters it one level up. */
static aidb_status close_node(lsm_sstable_builder *builder, uint32_t level) {
	index_node *node = &builder->nodes[level];
	uint8_t value[2 * LSM_MAX_HANDLE_BYTES];
	uint8_t *value_end = value;
	lsm_handle filter = {0, 0};
	lsm_handle handle = {0, 0};
	aidb_status rc = AIDB_OK;
	lsm_entry entry;

	if (level == 0) {
		rc = write_filter(builder, &filter);
	}
	if (rc == AIDB_OK) {
		rc = write_node(builder, level, &handle);
	}
	if (rc != AIDB_OK) {
		return rc;
	}
	value_end = lsm_put_handle(value_end, handle);
	if (level == 0) {
		value_end = lsm_put_handle(value_end, filter);
	}
	entry = (lsm_entry){.key = contents_of(&node->block.last_key),
						.trailer = node->last_trailer,
						.value = {value, (size_t)(value_end - value)}};
	return add_to_node(builder, level + 1, &entry);
}

static aidb_status add_to_node(lsm_sstable_builder *builder, uint32_t level, const lsm_entry *entry) {
	aidb_status rc = AIDB_OK;
	index_node *node;

	if (level > LSM_MAX_INDEX_LEVEL) {
		return lsm_fail(AIDB_LIMIT, "an SSTable with more than %d levels of index: choose smaller files",
						LSM_MAX_INDEX_LEVEL);
	}
	node = &builder->nodes[level];
	if (node->block.count > 0 && lsm_block_builder_size_with(&node->block, entry) > LSM_BLOCK_BYTES) {
		rc = close_node(builder, level);
	}
	if (rc == AIDB_OK) {
		rc = lsm_block_builder_add(&node->block, entry);
		node->last_trailer = entry->trailer;
	}
	if (level > builder->top_level) {
		builder->top_level = level;
	}
	return rc;
}

/* ---- Data blocks --------------------------------------------------------------------------------------- */

/*
 * A separator between the last key so far and the `next` (NULL: there is none): the shortest prefix of the next key
 * that is above the last, unless that is the next key itself, whose newest version must not be looked for on the left.
 */
static void choose_separator(const lsm_sstable_builder *builder, const aidb_slice *next, lsm_entry *separator) {
	aidb_slice last = contents_of(&builder->data.last_key);
	size_t common = 0;

	separator->key = last;
	separator->trailer = lsm_trailer(lsm_sequence_of(builder->last_trailer), LSM_KIND_PUT);
	if (next == NULL || lsm_equal(last, *next)) {
		return;
	}
	while (common < last.size && ((const uint8_t *)last.data)[common] == ((const uint8_t *)next->data)[common]) {
		common++;
	}
	if (common + 1 < next->size && common + 1 < last.size) {
		separator->key = (aidb_slice){next->data, common + 1}; /* nobody's key: its trailer does not matter */
	}
}

static aidb_status close_data_block(lsm_sstable_builder *builder, const aidb_slice *next) {
	uint8_t value[LSM_MAX_HANDLE_BYTES];
	lsm_handle handle = {0, 0};
	lsm_entry entry;
	aidb_slice contents;
	aidb_status rc = lsm_block_builder_finish(&builder->data, &contents);

	if (rc == AIDB_OK) {
		rc = write_block(builder, contents, builder->options.compression, &handle);
	}
	if (rc == AIDB_OK) {
		choose_separator(builder, next, &entry);
		entry.value = (aidb_slice){value, (size_t)(lsm_put_handle(value, handle) - value)};
		rc = add_to_node(builder, 0, &entry);
	}
	builder->node_hash_count = builder->hash_count;
	lsm_block_builder_reset(&builder->data);
	return rc;
}

/* Closes what the entry does not fit into. */
static aidb_status make_room(lsm_sstable_builder *builder, const lsm_entry *entry, bool is_new_key) {
	bool filter_full = is_new_key && builder->hash_count == builder->max_hashes;
	aidb_status rc = AIDB_OK;

	if (builder->data.count == 0) {
		return AIDB_OK;
	}
	if (filter_full || lsm_block_builder_size_with(&builder->data, entry) > LSM_BLOCK_BYTES) {
		rc = close_data_block(builder, &entry->key);
		builder->continues = !is_new_key;
	}
	if (rc == AIDB_OK && is_new_key && builder->hash_count == builder->max_hashes) {
		rc = close_node(builder, 0);
	}
	return rc;
}

static void count_entry(lsm_sstable_builder *builder, const lsm_entry *entry) {
	lsm_sstable_properties *properties = &builder->properties;
	aidb_sequence sequence = lsm_sequence_of(entry->trailer);

	properties->entries++;
	properties->deletes += lsm_is_delete(entry->trailer) ? 1 : 0;
	properties->raw_bytes += entry->key.size + entry->value.size;
	if (sequence < properties->min_sequence) {
		properties->min_sequence = sequence;
	}
	if (sequence > properties->max_sequence) {
		properties->max_sequence = sequence;
	}
	if (lsm_is_tagged(entry->trailer) && lsm_tag_of(entry) > properties->max_tag) {
		properties->max_tag = lsm_tag_of(entry);
	}
}

/* *is_new_key: whether the entry is the first version of its key in the file. */
static aidb_status check_order(const lsm_sstable_builder *builder, const lsm_entry *entry, bool *is_new_key) {
	int order;

	if (builder->properties.entries == 0) {
		*is_new_key = true;
		return AIDB_OK;
	}
	order = lsm_compare(contents_of(&builder->data.last_key), entry->key);
	if (order > 0 || (order == 0 && lsm_sequence_of(builder->last_trailer) <= lsm_sequence_of(entry->trailer))) {
		return lsm_fail(AIDB_CORRUPT, "entries for an SSTable out of order: a key of %zu bytes, sequence %llu",
						entry->key.size, (unsigned long long)lsm_sequence_of(entry->trailer));
	}
	*is_new_key = order < 0;
	return AIDB_OK;
}

static aidb_status add_entry(lsm_sstable_builder *builder, const lsm_entry *entry) {
	bool is_new_key = false;
	aidb_status rc = check_order(builder, entry, &is_new_key);

	if (rc == AIDB_OK && builder->properties.entries == 0) {
		builder->smallest_trailer = entry->trailer;
		rc = lsm_buffer_set(&builder->smallest, entry->key.data, entry->key.size);
	}
	if (rc == AIDB_OK) {
		rc = make_room(builder, entry, is_new_key);
	}
	if (rc == AIDB_OK) {
		rc = lsm_block_builder_add(&builder->data, entry);
	}
	if (rc == AIDB_OK) {
		builder->last_trailer = entry->trailer;
		count_entry(builder, entry);
		if (is_new_key) {
			builder->hashes[builder->hash_count++] = lsm_filter_hash(entry->key);
		}
	}
	return rc;
}

aidb_status lsm_sstable_builder_add(lsm_sstable_builder *builder, const lsm_entry *entry) {
	assert(lsm_kind_is_valid(lsm_kind_of(entry->trailer)));
	assert(!lsm_is_tagged(entry->trailer) || entry->value.size >= LSM_TAG_BYTES);
	if (builder->status == AIDB_OK) {
		builder->status = add_entry(builder, entry);
	}
	return builder->status;
}

uint64_t lsm_sstable_builder_bytes(const lsm_sstable_builder *builder) {
	return builder->offset + builder->data.contents.size;
}

/* ---- The end ------------------------------------------------------------------------------------------- */

/* Writes the data block and the nodes in work, the root last. */
static aidb_status write_index(lsm_sstable_builder *builder) {
	lsm_sstable_properties *properties = &builder->properties;
	uint32_t level = 0;
	aidb_status rc = close_data_block(builder, NULL);

	builder->continues = false;
	for (; rc == AIDB_OK && (level == 0 || level < builder->top_level); level++) {
		rc = close_node(builder, level);
	}
	if (rc == AIDB_OK) {
		properties->root_level = level;
		rc = write_node(builder, level, &properties->root);
	}
	return rc;
}

static aidb_status write_properties_and_footer(lsm_sstable_builder *builder) {
	lsm_sstable_properties *properties = &builder->properties;
	uint8_t encoded[LSM_PROPERTIES_BYTES];
	uint8_t footer[LSM_FOOTER_BYTES];
	lsm_handle handle = {0, 0};
	aidb_status rc;

	properties->file_bytes = builder->offset + LSM_PROPERTIES_BYTES + LSM_ENVELOPE_BYTES + LSM_FOOTER_BYTES;
	lsm_sstable_put_properties(encoded, properties);
	rc = write_block(builder, (aidb_slice){encoded, sizeof(encoded)}, AIDB_COMPRESSION_NONE, &handle);
	if (rc == AIDB_OK) {
		lsm_sstable_put_footer(footer, properties->root, properties->root_level, handle);
		rc = write_bytes(builder, footer, sizeof(footer));
	}
	return rc;
}

aidb_status lsm_sstable_builder_finish(lsm_sstable_builder *builder, lsm_sstable_properties *properties) {
	if (builder->status == AIDB_OK && builder->properties.entries == 0) {
		builder->status = lsm_fail(AIDB_INVALID, "an SSTable needs at least one entry");
	}
	if (builder->status == AIDB_OK) {
		builder->status = write_index(builder);
	}
	if (builder->status == AIDB_OK) {
		builder->status = write_properties_and_footer(builder);
	}
	if (builder->status == AIDB_OK) {
		assert(builder->offset == builder->properties.file_bytes);
		*properties = builder->properties;
	}
	return builder->status;
}

void lsm_sstable_builder_range(const lsm_sstable_builder *builder, aidb_slice *smallest, aidb_slice *largest) {
	*smallest = contents_of(&builder->smallest);
	*largest = contents_of(&builder->data.last_key);
}

void lsm_sstable_builder_trailers(const lsm_sstable_builder *builder, uint64_t *smallest, uint64_t *largest) {
	*smallest = builder->smallest_trailer;
	*largest = builder->last_trailer;
}
