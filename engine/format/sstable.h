/*
 * sstable.h: the file format of a sorted string table, and its builder.
 *
 * File: blocks (data blocks, filter blocks, index nodes, in the order they were completed), the properties block, and
 * a footer of fixed size. The index is a static B+-tree whose nodes are blocks that fit a cache frame:
 *
 *   level 0   entries (separator -> handle of a data block)
 *   level 1   entries (separator -> handle of a level-0 node, handle of the filter over that node's keys)
 *   level 2.. entries (separator -> handle of a node one level down)
 *
 * A separator is an entry key (key and trailer) not below the last entry below it and below the first entry of the
 * next child; it is shortened where the keys allow. The root is at level 1 or higher. A level-0 node is closed when
 * it is full or when its filter is (lsm_filter_max_keys). Data blocks are compressed; index nodes and filters are not:
 * they are a hundredth of the file, hold short separators and random bits that hardly shrink, and a cold read goes
 * through several of them.
 *
 * Properties block: version u32 | root level u32 | then u64 each: file bytes, entries, deletes, lowest and highest
 * sequence, highest tag, raw bytes, root offset, root size. Not compressed.
 *
 * Footer, LSM_FOOTER_BYTES: root offset u64 | root size u32 | root level u32 | properties offset u64 | properties size
 * u32 | format version u32 | reserved u32 | checksum u64 (XXH3 of the bytes before) | magic u64.
 */
#ifndef LSM_SSTABLE_H
#define LSM_SSTABLE_H

#include "format/block.h"
#include "format/filter.h"

#define LSM_SSTABLE_MAGIC 0x3173737442444941ull /* "AIDBtss1" */
#define LSM_SSTABLE_VERSION 1u
#define LSM_FOOTER_BYTES 52
/* Three entries with the longest keys fit a node, and so, in the very worst case, this is enough for 3^13 data blocks:
 * more than 6 GB before compression. */
#define LSM_MAX_INDEX_LEVEL 12

#define LSM_PROPERTIES_VERSION 1u
#define LSM_PROPERTIES_BYTES 80

/* What the manifest keeps of a file and what is needed to read it. */
typedef struct lsm_sstable_properties {
	uint64_t file_bytes;
	uint64_t entries;
	uint64_t deletes;
	aidb_sequence min_sequence;
	aidb_sequence max_sequence;
	aidb_tag max_tag;   /* of tagged entries; 0: none is tagged */
	uint64_t raw_bytes; /* keys and values before compression */
	lsm_handle root;
	uint32_t root_level;
} lsm_sstable_properties;

typedef struct lsm_sstable_options {
	uint32_t filter_bits;
	aidb_compression compression;
} lsm_sstable_options;

/* Takes bytes in file order; errors stop the build and are handed back. */
typedef aidb_status (*lsm_sink)(void *argument, const void *data, size_t size);

typedef struct lsm_sstable_builder lsm_sstable_builder;

/* One thread. *options is copied. Memory is bounded by one data block, one node a level, and one filter's hashes. */
aidb_status lsm_sstable_builder_create(const lsm_sstable_options *options, lsm_sink sink, void *sink_argument,
									   lsm_sstable_builder **builder);
/* Entries in order; no two with the same key and sequence: AIDB_CORRUPT. AIDB_LIMIT when the value is too long for a
 * block. After an error only lsm_sstable_builder_destroy is left to call; other calls repeat the status. */
aidb_status lsm_sstable_builder_add(lsm_sstable_builder *builder, const lsm_entry *entry);
/* Bytes that the file has so far, an estimate for the block in work. */
uint64_t lsm_sstable_builder_bytes(const lsm_sstable_builder *builder);
/* Writes what is left, index and footer. At least one entry has been added. */
aidb_status lsm_sstable_builder_finish(lsm_sstable_builder *builder, lsm_sstable_properties *properties);
/* First and last entry keys; valid until the builder is destroyed. */
void lsm_sstable_builder_range(const lsm_sstable_builder *builder, aidb_slice *smallest, aidb_slice *largest);
void lsm_sstable_builder_trailers(const lsm_sstable_builder *builder, uint64_t *smallest, uint64_t *largest);
void lsm_sstable_builder_destroy(lsm_sstable_builder *builder); /* NULL is fine */

/* Parses the file's last LSM_FOOTER_BYTES into root, root_level and the properties' handle. */
aidb_status lsm_sstable_read_footer(const uint8_t *footer, uint64_t file_bytes, const char *path, lsm_handle *root,
									uint32_t *root_level, lsm_handle *properties);
/* Parses an unpacked properties block; fills in every field. */
aidb_status lsm_sstable_read_properties(aidb_slice contents, const char *path, lsm_sstable_properties *properties);

/* The value of an index entry: a child, and at level 1 also its filter. False when malformed. */
bool lsm_index_entry(aidb_slice value, uint32_t level, lsm_handle *child, lsm_handle *filter);

/* The writing side of the three, for the builder. */
void lsm_sstable_put_footer(uint8_t footer[LSM_FOOTER_BYTES], lsm_handle root, uint32_t root_level,
							lsm_handle properties);
void lsm_sstable_put_properties(uint8_t to[LSM_PROPERTIES_BYTES], const lsm_sstable_properties *properties);

#endif
