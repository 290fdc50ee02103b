/*
 * key.h: versions of a key, and their order.
 *
 * An entry is one version of a key. Its trailer holds the sequence number in the upper 56 bits and the kind in the
 * lower 8. Entries sort by key, and for one key from the newest version to the oldest. The value of an entry with
 * the TAGGED flag begins with the tag, 8 bytes little-endian.
 */
#ifndef LSM_KEY_H
#define LSM_KEY_H

#include "base/coding.h"
#include "base/slice.h"

#define LSM_KIND_PUT 1u
#define LSM_KIND_DELETE 2u
#define LSM_KIND_DELETE_NOTED 3u /* its value is a note for who finds the key deleted */
#define LSM_KIND_TAGGED 0x80u    /* a flag on top of any */
#define LSM_TAG_BYTES 8

#define LSM_MAX_SEQUENCE (AIDB_SEQUENCE_LATEST - 1)

typedef struct lsm_entry {
	aidb_slice key;
	uint64_t trailer;
	aidb_slice value; /* with the tag in front when tagged */
} lsm_entry;

static inline uint64_t lsm_trailer(aidb_sequence sequence, unsigned kind) {
	return sequence << 8 | kind;
}

static inline aidb_sequence lsm_sequence_of(uint64_t trailer) {
	return trailer >> 8;
}

static inline unsigned lsm_kind_of(uint64_t trailer) {
	return (unsigned)(trailer & 0xff);
}

/* The trailer that sorts before every version visible at `sequence` and after all newer ones. */
static inline uint64_t lsm_seek_trailer(aidb_sequence sequence) {
	return sequence >= AIDB_SEQUENCE_LATEST ? UINT64_MAX : (sequence << 8 | 0xff);
}

/* Key ascending, then sequence descending; the kind does not count. */
static inline int lsm_compare_versions(aidb_slice a_key, uint64_t a_trailer, aidb_slice b_key, uint64_t b_trailer) {
	int order = lsm_compare(a_key, b_key);

	if (order != 0) {
		return order;
	}
	return (a_trailer >> 8 < b_trailer >> 8) - (a_trailer >> 8 > b_trailer >> 8);
}

static inline bool lsm_is_tagged(uint64_t trailer) {
	return (trailer & LSM_KIND_TAGGED) != 0;
}

static inline bool lsm_is_delete(uint64_t trailer) {
	unsigned kind = lsm_kind_of(trailer) & ~LSM_KIND_TAGGED;

	return kind == LSM_KIND_DELETE || kind == LSM_KIND_DELETE_NOTED;
}

static inline bool lsm_kind_is_valid(unsigned kind) {
	kind &= ~LSM_KIND_TAGGED;
	return kind >= LSM_KIND_PUT && kind <= LSM_KIND_DELETE_NOTED;
}

/* The tag of a tagged entry whose value has been checked to hold one. */
static inline aidb_tag lsm_tag_of(const lsm_entry *entry) {
	return lsm_get_u64(entry->value.data);
}

/* The value as the user wrote it. */
static inline aidb_slice lsm_user_value(const lsm_entry *entry) {
	aidb_slice value = entry->value;

	if (lsm_is_tagged(entry->trailer)) {
		value.data = (const uint8_t *)value.data + LSM_TAG_BYTES;
		value.size -= LSM_TAG_BYTES;
	}
	return value;
}

static inline void lsm_strip_tag(lsm_entry *entry) {
	entry->value = lsm_user_value(entry);
	entry->trailer &= ~(uint64_t)LSM_KIND_TAGGED;
}

#endif
