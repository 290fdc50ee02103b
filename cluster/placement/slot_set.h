/*
 * slot_set.h: a set of slots, and its text: 64 hexadecimal digits, of which each stands for four slots, the first for slots 0 to 3, with
 * slot 0 as its lowest bit.
 */
#ifndef AIDB_SLOT_SET_H
#define AIDB_SLOT_SET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "placement/slot.h"

#define AIDB_SLOT_WORDS (AIDB_SLOTS / 64)
#define AIDB_SLOT_SET_DIGITS (AIDB_SLOTS / 4)
#define AIDB_SLOT_SET_BYTES (AIDB_SLOTS / 8) /* as aidb_slot_set_pack writes it */

typedef struct aidb_slot_set {
	uint64_t words[AIDB_SLOT_WORDS];
} aidb_slot_set;

static inline void aidb_slot_set_add(aidb_slot_set *set, uint32_t slot) {
	set->words[slot / 64] |= UINT64_C(1) << slot % 64;
}

static inline bool aidb_slot_set_has(const aidb_slot_set *set, uint32_t slot) {
	return (set->words[slot / 64] >> slot % 64 & 1) != 0;
}

uint32_t aidb_slot_set_count(const aidb_slot_set *set);
void aidb_slot_set_write(const aidb_slot_set *set, char text[AIDB_SLOT_SET_DIGITS + 1]);
/* False: that is no text of a set. */
bool aidb_slot_set_read(const char *text, aidb_slot_set *set);
/* The same bytes on every machine. */
void aidb_slot_set_pack(const aidb_slot_set *set, uint8_t bytes[AIDB_SLOT_SET_BYTES]);
void aidb_slot_set_unpack(const uint8_t bytes[AIDB_SLOT_SET_BYTES], aidb_slot_set *set);

#endif
