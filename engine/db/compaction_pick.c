#include "db/compaction_pick.h"

#include <stdlib.h>

#include "base/status.h"

typedef struct picking {
	const lsm_arena *arena;
	const lsm_version *version;
	const lsm_compaction_rules *rules;
	lsm_compaction *compaction;
} picking;

static const lsm_file *file_of(const picking *pick, lsm_ref ref) {
	return lsm_at(pick->arena, ref);
}

static lsm_ref ref_at(const picking *pick, int level, uint32_t index) {
	return pick->version->files[pick->version->level_begin[level] + index];
}

static uint64_t bytes_at(const picking *pick, int level, uint32_t index) {
	return file_of(pick, ref_at(pick, level, index))->properties.file_bytes;
}

/* ---- Which level, which file ------------------------------------------------------------------------------- */

static uint64_t level_bytes(const picking *pick, int level) {
	uint64_t bytes = 0;

	for (uint32_t i = 0; i < lsm_level_count(pick->version, level); i++) {
		bytes += bytes_at(pick, level, i);
	}
	return bytes;
}

/* The level that exceeds its measure most; -1 when none does. The last level has no measure. */
static int fullest_level(const picking *pick) {
	double most = (double)lsm_level_count(pick->version, 0) / LSM_LEVEL0_TRIGGER;
	double measure = (double)pick->rules->level1_bytes;
	int fullest = 0;

	for (int level = 1; level < AIDB_LEVELS - 1; level++) {
		double score = (double)level_bytes(pick, level) / measure;

		if (score > most) {
			most = score;
			fullest = level;
		}
		measure *= LSM_LEVEL_GROWTH;
	}
	return most >= 1 ? fullest : -1;
}

/* The file of a level below 0 that overlaps least of the next level, for its size. */
static uint32_t least_overlapping(const picking *pick, int level) {
	uint32_t below = lsm_level_count(pick->version, level + 1);
	uint32_t first = 0, best = 0;
	double least = -1;

	for (uint32_t i = 0; i < lsm_level_count(pick->version, level); i++) {
		const lsm_file *file = file_of(pick, ref_at(pick, level, i));
		uint64_t overlap = 0;
		double share;

		while (first < below && lsm_compare(lsm_file_largest(file_of(pick, ref_at(pick, level + 1, first))),
											lsm_file_smallest(file)) < 0) {
			first++;
		}
		for (uint32_t j = first; j < below && lsm_compare(lsm_file_smallest(file_of(pick, ref_at(pick, level + 1, j))),
														  lsm_file_largest(file)) <= 0;
			 j++) {
			overlap += bytes_at(pick, level + 1, j);
		}
		share = (double)overlap / (double)file->properties.file_bytes;
		if (least < 0 || share < least) {
			least = share;
			best = i;
		}
	}
	return best;
}

/* A file that is mostly tombstones, with data below its level that they may hide. */
static bool find_tombstones(const picking *pick, int *level, uint32_t *index) {
	for (*level = 1; *level < AIDB_LEVELS - 1; ++*level) {
		if (pick->version->level_begin[*level + 1] == pick->version->level_begin[AIDB_LEVELS]) {
			return false;
		}
		for (*index = 0; *index < lsm_level_count(pick->version, *level); ++*index) {
			const lsm_sstable_properties *properties = &file_of(pick, ref_at(pick, *level, *index))->properties;

			if (properties->deletes > properties->entries / 2) {
				return true;
			}
		}
	}
	return false;
}

/* A file that has tags, which are decided. */
static bool find_settled_tags(const picking *pick, int *level, uint32_t *index) {
	const aidb_host *host = pick->rules->host;

	for (*level = 0; host->tag_fate != NULL && *level < AIDB_LEVELS; ++*level) {
		for (*index = 0; *index < lsm_level_count(pick->version, *level); ++*index) {
			aidb_tag tag = file_of(pick, ref_at(pick, *level, *index))->properties.max_tag;

			if (tag != 0 && host->tag_fate(host->context, tag) != AIDB_TAG_OPEN) {
				return true;
			}
		}
	}
	return false;
}

/* ---- What goes along ---------------------------------------------------------------------------------------- */

typedef struct range {
	aidb_slice smallest;
	aidb_slice largest;
} range;

static range range_of(const lsm_file *file) {
	return (range){lsm_file_smallest(file), lsm_file_largest(file)};
}

static void widen(range *keys, const lsm_file *file) {
	if (lsm_compare(lsm_file_smallest(file), keys->smallest) < 0) {
		keys->smallest = lsm_file_smallest(file);
	}
	if (lsm_compare(lsm_file_largest(file), keys->largest) > 0) {
		keys->largest = lsm_file_largest(file);
	}
}

static void add_input(picking *pick, lsm_ref ref) {
	pick->compaction->inputs[pick->compaction->upper_count + pick->compaction->lower_count++] = ref;
}

/* Takes the file of level 0 and all that overlap what is taken, directly or by way of others. */
static range take_level0(picking *pick, uint32_t seed) {
	uint32_t count = lsm_level_count(pick->version, 0);
	range keys = range_of(file_of(pick, ref_at(pick, 0, seed)));
	uint32_t taken = 0, before;

	do {
		before = taken;
		taken = 0;
		for (uint32_t i = 0; i < count; i++) {
			const lsm_file *file = file_of(pick, ref_at(pick, 0, i));

			if (lsm_file_overlaps(file, keys.smallest, keys.largest)) {
				widen(&keys, file);
				pick->compaction->inputs[taken++] = ref_at(pick, 0, i);
			}
		}
	} while (taken != before);
	pick->compaction->upper_count = taken;
	return keys;
}

static uint64_t input_bytes(const picking *pick) {
	uint64_t bytes = 0;

	for (uint32_t i = 0; i < pick->compaction->upper_count + pick->compaction->lower_count; i++) {
		bytes += file_of(pick, pick->compaction->inputs[i])->properties.file_bytes;
	}
	return bytes;
}

/*
 * Takes the files of the output level that overlap, and with little data in all also a small neighbour on either side:
 * otherwise a store that is flushed often, with keys that only grow, would fill up with tiny files.
 */
static void take_lower(picking *pick, range keys) {
	int level = pick->compaction->output_level;
	uint32_t count = lsm_level_count(pick->version, level);
	uint32_t first = lsm_level_find(pick->arena, pick->version, level, keys.smallest);
	uint32_t end = first;
	uint64_t bytes = input_bytes(pick);
	uint64_t small_bytes = pick->rules->file_bytes / 2;

	while (end < count && lsm_compare(lsm_file_smallest(file_of(pick, ref_at(pick, level, end))), keys.largest) <= 0) {
		bytes += bytes_at(pick, level, end++);
	}
	if (first > 0 && bytes + bytes_at(pick, level, first - 1) <= small_bytes) {
		bytes += bytes_at(pick, level, --first);
	}
	if (end < count && bytes + bytes_at(pick, level, end) <= small_bytes) {
		end++;
	}
	for (uint32_t i = first; i < end; i++) {
		add_input(pick, ref_at(pick, level, i));
	}
}

static void take_deeper(picking *pick) {
	lsm_compaction *compaction = pick->compaction;
	uint32_t begin = pick->version->level_begin[compaction->output_level + 1];

	for (int level = compaction->output_level + 1; level < AIDB_LEVELS; level++) {
		compaction->deeper_begin[level] = pick->version->level_begin[level] - begin;
	}
	compaction->deeper_begin[AIDB_LEVELS] = pick->version->level_begin[AIDB_LEVELS] - begin;
	memcpy(compaction->deeper, pick->version->files + begin,
		   compaction->deeper_begin[AIDB_LEVELS] * sizeof(compaction->deeper[0]));
}

/* A file may go down as it is when nothing is to be merged with it and nothing in it is to be dropped at the bottom. */
static bool may_move(const picking *pick) {
	const lsm_compaction *compaction = pick->compaction;

	return compaction->upper_count == 1 && compaction->lower_count == 0 &&
		   (file_of(pick, compaction->inputs[0])->properties.deletes == 0 || compaction->deeper_begin[AIDB_LEVELS] > 0);
}

/* The compaction that starts with this file. */
static aidb_status plan(picking *pick, int level, uint32_t index, bool in_place) {
	lsm_compaction *compaction = pick->compaction;
	uint32_t files = pick->version->level_begin[AIDB_LEVELS];

	*compaction = (lsm_compaction){.level = level, .output_level = in_place ? level : level + 1};
	compaction->inputs = malloc((files + 1) * sizeof(compaction->inputs[0]));
	compaction->deeper = malloc((files + 1) * sizeof(compaction->deeper[0]));
	if (compaction->inputs == NULL || compaction->deeper == NULL) {
		lsm_compaction_free(compaction);
		return lsm_fail(AIDB_NO_MEMORY, "out of memory: could not plan a compaction of %u files", files);
	}
	if (level == 0) {
		take_lower(pick, take_level0(pick, index));
	} else {
		compaction->inputs[0] = ref_at(pick, level, index);
		compaction->upper_count = 1;
		if (!in_place) {
			take_lower(pick, range_of(file_of(pick, compaction->inputs[0])));
		}
	}
	take_deeper(pick);
	compaction->move = !in_place && may_move(pick);
	return AIDB_OK;
}

aidb_status lsm_compaction_pick(const lsm_arena *arena, const lsm_version *version, const lsm_compaction_rules *rules,
								lsm_compaction *compaction, bool *found) {
	picking pick = {.arena = arena, .version = version, .rules = rules, .compaction = compaction};
	uint32_t index;
	int level = fullest_level(&pick);

	*found = true;
	if (level >= 0) {
		index = level == 0 ? lsm_level_count(version, 0) - 1 : least_overlapping(&pick, level);
		return plan(&pick, level, index, false);
	}
	if (find_tombstones(&pick, &level, &index)) {
		return plan(&pick, level, index, false);
	}
	if (find_settled_tags(&pick, &level, &index)) {
		aidb_status rc = plan(&pick, level, index, level > 0);

		compaction->move = false; /* the file is to be rewritten */
		return rc;
	}
	*found = false;
	return AIDB_OK;
}

void lsm_compaction_free(lsm_compaction *compaction) {
	free(compaction->inputs);
	free(compaction->deeper);
	compaction->inputs = NULL;
	compaction->deeper = NULL;
}
