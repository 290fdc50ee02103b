/*
 * slice.h: comparing keys.
 */
#ifndef LSM_SLICE_H
#define LSM_SLICE_H

#include <string.h>

#include "aidb.h"

/* memcmp order, a prefix before its extensions. */
static inline int lsm_compare(aidb_slice a, aidb_slice b) {
	size_t common = a.size < b.size ? a.size : b.size;
	int order = common == 0 ? 0 : memcmp(a.data, b.data, common);

	if (order != 0) {
		return order;
	}
	return (a.size > b.size) - (a.size < b.size);
}

static inline bool lsm_equal(aidb_slice a, aidb_slice b) {
	return a.size == b.size && (a.size == 0 || memcmp(a.data, b.data, a.size) == 0);
}

#endif
