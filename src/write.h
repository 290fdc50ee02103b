/*
 * write.h: one write of a transaction to one key, as the modules that keep writes hand it around.
 */
#ifndef AIPG_WRITE_H
#define AIPG_WRITE_H

#include "postgres.h"

#include "aidb.h"

/* What holds for all of a transaction's writes to a key: known when the first one is made. Stored as it is. */
typedef struct aipg_key_facts {
	Oid relation; /* InvalidOid for key spaces */
	bool existed; /* there may be a committed version, which the first write has replaced */
} aipg_key_facts;

typedef struct aipg_write {
	aidb_slice key;
	aidb_slice value; /* of a deletion: its note */
	aipg_key_facts facts;
	uint64 ordinal; /* grows with every write of the transaction */
	CommandId command;
	bool is_delete;
} aipg_write;

/* For "writes of commands below": all of them. */
#define AIPG_ALL_COMMANDS InvalidCommandId

static inline int aipg_compare_keys(aidb_slice a, aidb_slice b) {
	int order = memcmp(a.data, b.data, Min(a.size, b.size));

	return order != 0 ? order : (a.size > b.size) - (a.size < b.size);
}

#endif
