/*
 * workload.h: what the sessions have in common: the settings of a run, which lists are in use, and which elements are
 * taken. All sessions may call the functions at any time.
 */
#ifndef AIDB_TEST_WORKLOAD_H
#define AIDB_TEST_WORKLOAD_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "checker.h"
#include "random.h"

#define MAX_ACTIVE_LISTS 64

/* Where the lists are, and what else a transaction does. */
typedef enum workload_mode {
	MODE_AIDB,  /* all in AiDb */
	MODE_MIXED, /* all in AiDb; most transactions write a heap table or advance a sequence too */
	MODE_SPLIT, /* half in AiDb, half in heap */
	MODE_HEAP   /* all in heap: PostgreSQL alone, to know the checker by */
} workload_mode;

typedef struct workload {
	const char *connection;
	workload_mode mode;
	isolation_level level;
	bool no_conflicts; /* 40001 is an error, as it should be in READ COMMITTED when writers wait for each other */
	bool upsert;       /* append by INSERT ... ON CONFLICT DO UPDATE */
	unsigned sessions;
	unsigned active_lists;
	unsigned appends_per_list; /* about so many, then another list takes its place */
	uint64_t max_transactions;
	uint64_t least_committed; /* goes on for them beyond the deadline */
	int64_t deadline_us;
	uint64_t seed;

	atomic_uint_fast32_t next_element;
	atomic_uint_fast32_t next_list;
	atomic_uint_fast32_t lists[MAX_ACTIVE_LISTS];
	atomic_uint_fast32_t appends[MAX_ACTIVE_LISTS];
	atomic_uint_fast64_t transactions;
	atomic_uint_fast64_t committed;
} workload;

extern const char *const mode_names[4];
extern const char *const level_names[3]; /* as SQL has them */

/* Microseconds of a clock that only goes forward. */
int64_t workload_now_us(void);

/* Puts the first lists in use. */
void workload_start(workload *load);

/* Whether there is time for another transaction, which is then counted. */
bool workload_goes_on(workload *load);

/* A list in use; different from the `count` in `others`, which must be fewer than there are. */
uint32_t workload_choose_list(workload *load, test_random *random, const uint32_t *others, unsigned count);

/* A new element for a list. */
uint32_t workload_take_element(workload *load, uint32_t list);

/* The table that a list is in. */
const char *workload_table(const workload *load, uint32_t list);

#endif
