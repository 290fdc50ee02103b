#include "placement/slot_set.h"

#include <string.h>

uint32_t aidb_slot_set_count(const aidb_slot_set *set) {
	uint32_t count = 0;

	for (uint32_t slot = 0; slot < AIDB_SLOTS; slot++) {
		count += aidb_slot_set_has(set, slot);
	}
	return count;
}

void aidb_slot_set_write(const aidb_slot_set *set, char text[AIDB_SLOT_SET_DIGITS + 1]) {
	static const char digits[] = "0123456789abcdef";

	for (uint32_t i = 0; i < AIDB_SLOT_SET_DIGITS; i++) {
		text[i] = digits[set->words[i / 16] >> 4 * (i % 16) & 15];
	}
	text[AIDB_SLOT_SET_DIGITS] = '\0';
}

static int digit_of(char c) {
	return c >= '0' && c <= '9'   ? c - '0'
		   : c >= 'a' && c <= 'f' ? c - 'a' + 10
		   : c >= 'A' && c <= 'F' ? c - 'A' + 10
								  : -1;
}

bool aidb_slot_set_read(const char *text, aidb_slot_set *set) {
	aidb_slot_set read = {{0}};

	for (uint32_t i = 0; i < AIDB_SLOT_SET_DIGITS; i++) {
		int digit = digit_of(text[i]);

		if (digit < 0) {
			return false;
		}
		read.words[i / 16] |= (uint64_t)digit << 4 * (i % 16);
	}
	*set = read;
	return text[AIDB_SLOT_SET_DIGITS] == '\0';
}

void aidb_slot_set_pack(const aidb_slot_set *set, uint8_t bytes[AIDB_SLOT_SET_BYTES]) {
	for (uint32_t i = 0; i < AIDB_SLOT_SET_BYTES; i++) {
		bytes[i] = (uint8_t)(set->words[i / 8] >> 8 * (i % 8));
	}
}

void aidb_slot_set_unpack(const uint8_t bytes[AIDB_SLOT_SET_BYTES], aidb_slot_set *set) {
	memset(set, 0, sizeof(*set));
	for (uint32_t i = 0; i < AIDB_SLOT_SET_BYTES; i++) {
		set->words[i / 8] |= (uint64_t)bytes[i] << 8 * (i % 8);
	}
}
