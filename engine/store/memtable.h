/*
 * memtable.h: the newest entries, sorted, in a region of the arena.
 *
 * A skip list (Pugh 1990) with 32-bit references. Any number of members insert and read at the same time: links are
 * set by compare-and-swap from the bottom level up, nodes never move and are never unlinked. The memory of a whole
 * memtable is reused at once, when it has been flushed and no reader can hold it.
 *
 * Nodes with their keys fill the region from its beginning, values from its end: searching touches the former only,
 * which so stay close together, in fewer cache lines and pages.
 *
 * Memory is taken ahead of insertion, for a whole batch at a time: lsm_memtable_reserve gives a piece, and inserting
 * into it cannot fail. Node heights come from (seed, index of the operation), so that the size can be computed before.
 *
 * Thread safety: reserve is serialised by the caller (commit latch); insert and reads need no latch. Reads need an epoch.
 */
#ifndef LSM_MEMTABLE_H
#define LSM_MEMTABLE_H

#include "format/cursor.h"
#include "store/arena.h"

#define LSM_MEMTABLE_MAX_HEIGHT 12

typedef struct lsm_memtable {
	_Atomic uint64_t number; /* increasing; 0 while the memtable is free */
	uint64_t log_position;   /* no record of its entries lies before it */
	lsm_ref begin;           /* the region; fixed */
	lsm_ref end;
	_Atomic lsm_ref mark;  /* what is reserved, counted from begin */
	_Atomic uint64_t used; /* units inserted: of nodes, from begin (low half), and of values, from end (high half) */
	lsm_ref head;
	_Atomic uint32_t height;
	_Atomic uint32_t writers; /* reservations that are neither committed nor cancelled */
	_Atomic uint64_t entries;
} lsm_memtable;

/* Empties the memtable; its region (begin, end) stays. */
void lsm_memtable_reset(const lsm_arena *arena, lsm_memtable *memtable, uint64_t number, uint64_t log_position);

/* Memory that a node takes for the operation with this index. */
uint64_t lsm_memtable_node_bytes(uint64_t seed, uint32_t index, size_t key_bytes, size_t value_bytes);
/* Room for `bytes`: what to insert with, or 0 when the memtable is full. */
lsm_ref lsm_memtable_reserve(lsm_memtable *memtable, uint64_t bytes);
/*
 * Inserts one entry (the tag, when the trailer says TAGGED, is put in front of the value) on account of the reserved
 * *piece and moves *piece on by lsm_memtable_node_bytes (for a tagged entry: of value bytes plus LSM_TAG_BYTES). An
 * entry with the key and sequence of an earlier one goes before it.
 */
void lsm_memtable_insert(const lsm_arena *arena, lsm_memtable *memtable, lsm_ref *piece, uint64_t seed, uint32_t index,
						 const lsm_entry *entry, aidb_tag tag);

/* A position; no memory of its own. The entry's slices point into the arena. */
typedef struct lsm_memtable_cursor {
	const lsm_arena *arena;
	const lsm_memtable *memtable;
	lsm_ref node; /* 0: not valid */
} lsm_memtable_cursor;

void lsm_memtable_seek(lsm_memtable_cursor *cursor, aidb_slice key, uint64_t trailer);        /* first at or after */
void lsm_memtable_seek_before(lsm_memtable_cursor *cursor, aidb_slice key, uint64_t trailer); /* last before */
void lsm_memtable_seek_first(lsm_memtable_cursor *cursor);
void lsm_memtable_seek_last(lsm_memtable_cursor *cursor);
void lsm_memtable_next(lsm_memtable_cursor *cursor);
void lsm_memtable_prev(lsm_memtable_cursor *cursor);
void lsm_memtable_entry(const lsm_memtable_cursor *cursor, lsm_entry *entry);

/* Bytes in use. */
uint64_t lsm_memtable_bytes(const lsm_memtable *memtable);

#endif
