/*
 * key_filter.h: a Bloom filter of keys, in memory: may a key be in a set, or is it certainly not?
 *
 * All probes of a key fall into one cache line (Putze, Sanders and Singler, "Cache-, hash- and space-efficient Bloom
 * filters", 2007).
 */
#ifndef AIPG_KEY_FILTER_H
#define AIPG_KEY_FILTER_H

#include "postgres.h"

#include "aidb.h"

typedef struct aipg_key_filter aipg_key_filter;

/* For at most so many keys, in at most so much memory of the context; NULL when that is too little to be of use. */
extern aipg_key_filter *aipg_key_filter_create(MemoryContext context, uint64 keys, Size limit_bytes);
extern void aipg_key_filter_free(aipg_key_filter *filter);        /* NULL is fine */
extern Size aipg_key_filter_bytes(const aipg_key_filter *filter); /* NULL: 0 */
extern void aipg_key_filter_add(aipg_key_filter *filter, aidb_slice key);
extern bool aipg_key_filter_may_have(const aipg_key_filter *filter, aidb_slice key);

#endif
