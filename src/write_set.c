#include "write_set.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "utils/memutils.h"
#include "write_run.h"

#define FAN_IN 8 /* so many runs of a tier become one of the next */
#define INDEX_SHARE 64
#define MAX_INDEX_BYTES (64 * 1024 * 1024) /* of a run */

/* The writes from ordinal `first` on were made at this nesting level or, when it ended well, below it. */
typedef struct level_mark {
	int level;
	uint64 first;
} level_mark;

typedef struct tiered_run {
	aipg_write_run *run;
	int tier;
} tiered_run;

struct aipg_write_set {
	MemoryContext context;
	aipg_write_list *list;
	uint64 next_ordinal;
	uint64 spilled_ordinal; /* the list has the writes from here on, the runs what is below */
	tiered_run *runs;       /* from the oldest to the newest; all writes of one are older than those of the next */
	int run_count;
	int run_capacity;
	uint64 generation;
	aipg_write_reader *finder;
	/* While a run is written; left behind by an error, which is followed by the abort of a (sub)transaction. */
	MemoryContext work;
	aipg_write_run *unfinished;
	bool extends; /* it is one of `runs` */
	level_mark *marks;
	int mark_count;
	int mark_capacity;
};

static Size memory_limit(void) {
	return (Size)maintenance_work_mem * 1024;
}

aipg_write_set *aipg_write_set_create(MemoryContext context) {
	aipg_write_set *set = MemoryContextAllocZero(context, sizeof(*set));

	set->context = context;
	set->list = aipg_write_list_create(context);
	return set;
}

/* Readers do not hold any more: lists or runs they are in have gone. */
static void invalidate(aipg_write_set *set) {
	set->generation++;
	if (set->finder != NULL) {
		aipg_write_reader_set_run(set->finder, NULL);
	}
}

bool aipg_write_set_is_empty(const aipg_write_set *set) {
	return aipg_write_list_is_empty(set->list) && set->run_count == 0;
}

/* ---- Writing runs ----------------------------------------------------------------------------------------- */

/* Gives up what an error left behind. Never raises. */
static void discard_unfinished(aipg_write_set *set) {
	if (set->unfinished != NULL && set->extends) {
		aipg_write_run_cancel(set->unfinished);
	} else if (set->unfinished != NULL) {
		aipg_write_run_free(set->unfinished);
	}
	set->unfinished = NULL;
	if (set->work != NULL) {
		MemoryContextDelete(set->work);
		set->work = NULL;
	}
}

void aipg_write_set_close(aipg_write_set *set) {
	if (set == NULL) {
		return;
	}
	discard_unfinished(set);
	while (set->run_count > 0) {
		aipg_write_run_free(set->runs[--set->run_count].run);
	}
}

/* Memory that a filter may have: half of what the runs before this one leave of a quarter of all. */
static Size filter_limit(const aipg_write_set *set, int run_count) {
	Size left = memory_limit() / 4;

	for (int i = 0; i < run_count; i++) {
		left -= Min(left, aipg_write_run_filter_bytes(set->runs[i].run));
	}
	return left / 2;
}

static void begin_work(aipg_write_set *set) {
	discard_unfinished(set);
	if (set->run_count == set->run_capacity) {
		int capacity = Max(FAN_IN, set->run_capacity * 2);

		set->runs = set->runs == NULL ? MemoryContextAlloc(set->context, capacity * sizeof(*set->runs))
									  : repalloc(set->runs, capacity * sizeof(*set->runs));
		set->run_capacity = capacity;
	}
	set->work = AllocSetContextCreate(set->context, "AiDb writes being spilled", ALLOCSET_DEFAULT_SIZES);
}

static aipg_write_run *begin_run(aipg_write_set *set) {
	set->extends = false;
	set->unfinished = aipg_write_run_create(set->work, Min(memory_limit() / INDEX_SHARE, MAX_INDEX_BYTES));
	return set->unfinished;
}

/* The unfinished run is finished, and takes the place of those from `at` on. Nothing here raises. */
static void install_run(aipg_write_set *set, int at, int tier) {
	aipg_write_run *run = set->unfinished;

	while (set->run_count > at) {
		aipg_write_run_free(set->runs[--set->run_count].run);
	}
	aipg_write_run_move(run, set->context);
	set->runs[set->run_count++] = (tiered_run){.run = run, .tier = tier};
}

static void end_work(aipg_write_set *set) {
	set->unfinished = NULL;
	discard_unfinished(set);
	invalidate(set);
}

/* ---- Merging ---------------------------------------------------------------------------------------------- */

static void write_merged(aipg_write_set *set, int first, aipg_write_run *target) {
	aipg_write_merge *merge = aipg_write_merge_create(set->run_count - first, false);
	aipg_write_run_writer *writer;
	aipg_write_reader *reader;
	uint64 keys = 0;

	for (int i = first; i < set->run_count; i++) {
		reader = aipg_write_reader_create(set->runs[i].run);
		aipg_write_reader_seek(reader, (aidb_slice){NULL, 0});
		aipg_write_merge_add(merge, reader);
		keys += aipg_write_run_keys(set->runs[i].run);
	}
	writer = aipg_write_run_begin(target, keys, filter_limit(set, first));
	for (; (reader = aipg_write_merge_first(merge)) != NULL; aipg_write_merge_next(merge)) {
		aipg_write write = *aipg_write_reader_at(reader);

		CHECK_FOR_INTERRUPTS();
		write.value = aipg_write_reader_value(reader);
		aipg_write_run_append(writer, &write);
	}
	aipg_write_run_finish(writer);
}

/* The newest runs, from `first` on, become one. */
static void merge_runs(aipg_write_set *set, int first, int tier) {
	MemoryContext outer;

	begin_work(set);
	outer = MemoryContextSwitchTo(set->work);
	write_merged(set, first, begin_run(set));
	MemoryContextSwitchTo(outer);
	install_run(set, first, tier);
	end_work(set);
}

/* Merges while there are many of a tier. The tiers of older runs are not lower. */
static void keep_runs_few(aipg_write_set *set) {
	for (;;) {
		int first = set->run_count;

		while (first > 0 && set->runs[first - 1].tier == set->runs[set->run_count - 1].tier) {
			first--;
		}
		if (set->run_count - first < FAN_IN) {
			return;
		}
		merge_runs(set, first, set->runs[first].tier + 1);
	}
}

/* ---- Spilling --------------------------------------------------------------------------------------------- */

/* The newest run, when the list can be added to its end, as it is when rows are written in the order of their keys. */
static aipg_write_run *run_to_extend(const aipg_write_set *set) {
	aipg_listed_key *first = aipg_write_list_seek(set->list, (aidb_slice){NULL, 0});
	aipg_write_run *newest = set->run_count == 0 ? NULL : set->runs[set->run_count - 1].run;

	return newest != NULL && !aipg_write_run_is_cut(newest) &&
				   aipg_compare_keys(aipg_listed_key_slice(first), aipg_write_run_last_key(newest)) > 0
			   ? newest
			   : NULL;
}

static void write_list(aipg_write_set *set, aipg_write_run *target) {
	aipg_write_run_writer *writer =
		aipg_write_run_begin(target, aipg_write_list_keys(set->list), filter_limit(set, set->run_count));

	for (aipg_listed_key *key = aipg_write_list_seek(set->list, (aidb_slice){NULL, 0}); key != NULL;
		 key = aipg_write_list_next(key)) {
		CHECK_FOR_INTERRUPTS();
		for (const aipg_listed_write *write = key->newest; write != NULL; write = write->older) {
			aipg_write copy = aipg_listed_get(key, write);

			aipg_write_run_append(writer, &copy);
		}
	}
	aipg_write_run_finish(writer);
}

static void spill_list(aipg_write_set *set) {
	aipg_write_run *extended = run_to_extend(set);
	MemoryContext outer;

	begin_work(set);
	outer = MemoryContextSwitchTo(set->work);
	if (extended != NULL) {
		set->extends = true;
		set->unfinished = extended;
		write_list(set, extended);
	} else {
		write_list(set, begin_run(set));
	}
	MemoryContextSwitchTo(outer);
	if (extended == NULL) {
		install_run(set, set->run_count, 0);
	}
	end_work(set);
}

static void make_room(aipg_write_set *set) {
	if (aipg_write_list_bytes(set->list) < memory_limit() / 2) {
		return;
	}
	if (!aipg_write_list_is_empty(set->list)) {
		spill_list(set);
	}
	aipg_write_list_reset(set->list);
	set->spilled_ordinal = set->next_ordinal;
	invalidate(set);
	keep_runs_few(set);
}

/* ---- Adding and finding ----------------------------------------------------------------------------------- */

/* Writes from here on belong to the present nesting level. */
static void mark_level(aipg_write_set *set, int level) {
	if (set->mark_count > 0 && set->marks[set->mark_count - 1].level >= level) {
		return;
	}
	if (set->mark_count == set->mark_capacity) {
		int capacity = Max(8, set->mark_capacity * 2);

		set->marks = set->marks == NULL ? MemoryContextAlloc(set->context, capacity * sizeof(level_mark))
										: repalloc_huge(set->marks, capacity * sizeof(level_mark));
		set->mark_capacity = capacity;
	}
	set->marks[set->mark_count++] = (level_mark){.level = level, .first = set->next_ordinal};
}

/* Looks in the runs, and lets the finder stand there. */
static bool find_in_runs(aipg_write_set *set, aidb_slice key, CommandId below) {
	bool found = false;

	if (set->run_count > 0 && set->finder == NULL) {
		MemoryContext outer = MemoryContextSwitchTo(set->context);

		set->finder = aipg_write_reader_create(NULL);
		MemoryContextSwitchTo(outer);
	}
	for (int i = set->run_count - 1; i >= 0 && !found; i--) {
		found = aipg_write_run_find(set->runs[i].run, set->finder, key, below);
	}
	return found;
}

void aipg_write_set_add(aipg_write_set *set, aidb_slice key, const aipg_key_facts *facts, CommandId command,
						bool is_delete, aidb_slice value) {
	aipg_write write = {.key = key, .value = value, .facts = *facts, .command = command, .is_delete = is_delete};

	make_room(set);
	if (set->run_count > 0 && aipg_write_list_find(set->list, key) == NULL &&
		find_in_runs(set, key, AIPG_ALL_COMMANDS)) {
		write.facts = aipg_write_reader_at(set->finder)->facts;
	}
	mark_level(set, GetCurrentTransactionNestLevel());
	write.ordinal = set->next_ordinal;
	aipg_write_list_add(set->list, &write);
	set->next_ordinal++;
}

bool aipg_write_set_find(aipg_write_set *set, aidb_slice key, CommandId below, aipg_write *write) {
	aipg_listed_key *listed = aipg_write_list_find(set->list, key);
	const aipg_listed_write *visible = listed == NULL ? NULL : aipg_listed_visible(listed, below);

	if (visible != NULL) {
		*write = aipg_listed_get(listed, visible);
		return true;
	}
	if (!find_in_runs(set, key, below)) {
		return false;
	}
	*write = *aipg_write_reader_at(set->finder);
	write->value = aipg_write_reader_value(set->finder);
	return true;
}

/* ---- Subtransactions -------------------------------------------------------------------------------------- */

void aipg_write_set_subcommit(aipg_write_set *set, int level) {
	level_mark *top = set->mark_count > 0 ? &set->marks[set->mark_count - 1] : NULL;

	if (top == NULL || top->level < level) {
		return;
	}
	if (set->mark_count > 1 && top[-1].level == level - 1) {
		set->mark_count--;
	} else {
		top->level = level - 1;
	}
}

static void cut_runs(aipg_write_set *set, uint64 first) {
	while (set->run_count > 0 && aipg_write_run_first_ordinal(set->runs[set->run_count - 1].run) >= first) {
		aipg_write_run_free(set->runs[--set->run_count].run);
	}
	if (set->run_count > 0) {
		aipg_write_run_cut(set->runs[set->run_count - 1].run, first);
	}
	invalidate(set);
}

void aipg_write_set_subabort(aipg_write_set *set, int level) {
	level_mark *top = set->mark_count > 0 ? &set->marks[set->mark_count - 1] : NULL;

	discard_unfinished(set);
	if (top == NULL || top->level < level) {
		return;
	}
	while (set->next_ordinal > Max(top->first, set->spilled_ordinal)) {
		aipg_write_list_take_back(set->list);
		set->next_ordinal--;
	}
	if (top->first < set->spilled_ordinal) {
		cut_runs(set, top->first);
	}
	set->mark_count--;
}

/* ---- For cursors ------------------------------------------------------------------------------------------ */

const aipg_write_list *aipg_write_set_list(const aipg_write_set *set) {
	return set->list;
}

bool aipg_write_set_has_runs(const aipg_write_set *set) {
	return set->run_count > 0;
}

uint64 aipg_write_set_generation(const aipg_write_set *set) {
	return set->generation;
}

static bool may_concern(const aipg_write_run *run, aidb_slice lower, aidb_slice upper, CommandId below) {
	return aipg_write_run_first_command(run) < below &&
		   (lower.data == NULL || aipg_compare_keys(aipg_write_run_last_key(run), lower) >= 0) &&
		   (upper.data == NULL || aipg_compare_keys(aipg_write_run_first_key(run), upper) < 0);
}

aipg_write_merge *aipg_write_set_merge(const aipg_write_set *set, aidb_slice lower, aidb_slice upper, bool backwards,
									   CommandId below) {
	aipg_write_merge *merge = NULL;

	for (int i = 0; i < set->run_count; i++) {
		aipg_write_reader *reader;

		if (!may_concern(set->runs[i].run, lower, upper, below)) {
			continue;
		}
		if (merge == NULL) {
			merge = aipg_write_merge_create(set->run_count - i, backwards);
		}
		reader = aipg_write_reader_create(set->runs[i].run);
		if (backwards) {
			aipg_write_reader_seek_below(reader, upper);
		} else {
			aipg_write_reader_seek(reader, lower);
		}
		aipg_write_merge_add(merge, reader);
	}
	return merge;
}
