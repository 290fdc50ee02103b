/*
 * Compaction: merging files so that reads stay bounded and hidden versions go.
 *
 * Runs outside of any epoch: only a compaction removes files, and there is one at a time, so its inputs and the files
 * below them stay. Inputs are read around the cache, in large pieces.
 */
#include <stdlib.h>

#include "db/compaction_pick.h"
#include "db/job.h"
#include "db/source.h"
#include "store/merge.h"
#include "store/table.h"

static const lsm_table_reading reading = {
	.use = LSM_CACHE_BYPASS, .priority = LSM_CACHE_LOW, .readahead_bytes = LSM_READAHEAD_MAX_BYTES};

typedef struct compacting {
	aidb_db *db;
	lsm_compaction plan;
	uint32_t deeper_at[AIDB_LEVELS]; /* the first file below, a level each, that does not end before the present key */
	lsm_block_source source;
	lsm_cursor **cursors;
	uint32_t cursor_count;
} compacting;

static const lsm_file *file_of(const compacting *run, lsm_ref ref) {
	return lsm_at(&run->db->arena, ref);
}

static uint32_t input_count(const compacting *run) {
	return run->plan.upper_count + run->plan.lower_count;
}

/* Whether no file below has the key in its range. Keys come in order. */
static bool is_bottom(void *argument, aidb_slice key) {
	compacting *run = argument;
	const lsm_compaction *plan = &run->plan;

	for (int level = plan->output_level + 1; level < AIDB_LEVELS; level++) {
		uint32_t *at = &run->deeper_at[level];

		while (*at < plan->deeper_begin[level + 1] &&
			   lsm_compare(lsm_file_largest(file_of(run, plan->deeper[*at])), key) < 0) {
			++*at;
		}
		if (*at < plan->deeper_begin[level + 1] &&
			lsm_compare(lsm_file_smallest(file_of(run, plan->deeper[*at])), key) <= 0) {
			return false;
		}
	}
	return true;
}

/* ---- Inputs ------------------------------------------------------------------------------------------------ */

static aidb_status open_inputs(compacting *run) {
	const lsm_compaction *plan = &run->plan;
	aidb_status rc = AIDB_OK;

	run->cursors = malloc((input_count(run) + 1) * sizeof(run->cursors[0]));
	if (run->cursors == NULL) {
		return lsm_fail(AIDB_NO_MEMORY, "out of memory: could not merge %u files", input_count(run));
	}
	for (uint32_t i = 0; plan->level == 0 && i < plan->upper_count && rc == AIDB_OK; i++) {
		lsm_table table = lsm_table_of(file_of(run, plan->inputs[i]));

		rc = lsm_table_cursor_create(&run->source, &table, &reading, &run->cursors[run->cursor_count]);
		run->cursor_count += rc == AIDB_OK;
	}
	if (rc == AIDB_OK && plan->level > 0) {
		rc = lsm_level_cursor_create(&run->source, plan->inputs, plan->upper_count, &reading,
									 &run->cursors[run->cursor_count]);
		run->cursor_count += rc == AIDB_OK;
	}
	if (rc == AIDB_OK && plan->lower_count > 0) {
		rc = lsm_level_cursor_create(&run->source, plan->inputs + plan->upper_count, plan->lower_count, &reading,
									 &run->cursors[run->cursor_count]);
		run->cursor_count += rc == AIDB_OK;
	}
	return rc;
}

static void close_inputs(compacting *run) {
	for (uint32_t i = 0; i < run->cursor_count; i++) {
		run->cursors[i]->ops->close(run->cursors[i]);
	}
	free(run->cursors);
}

/* All inputs as one cursor, the caller's to close. */
static aidb_status merge_inputs(compacting *run, lsm_cursor **merge) {
	aidb_status rc = open_inputs(run);

	if (rc == AIDB_OK) {
		rc = lsm_merge_create(run->cursors, run->cursor_count, merge);
	}
	if (rc == AIDB_OK) {
		run->cursor_count = 0; /* the merge's now */
	}
	close_inputs(run);
	return rc;
}

/* ---- Running ----------------------------------------------------------------------------------------------- */

static lsm_version_edit edit_of(const compacting *run) {
	return (lsm_version_edit){.add_memtable = -1,
							  .remove_memtable = -1,
							  .removed_files = run->plan.inputs,
							  .removed_count = input_count(run)};
}

static aidb_status run_move(compacting *run) {
	lsm_version_edit edit = edit_of(run);
	uint8_t level = (uint8_t)run->plan.output_level;
	aidb_status rc;

	edit.added_files = run->plan.inputs;
	edit.added_levels = &level;
	edit.added_count = 1;
	rc = lsm_install_edit(run->db, &edit, 0);
	if (rc == AIDB_OK) {
		atomic_fetch_add_explicit(&run->db->shared->counters.moves, 1, memory_order_relaxed);
	}
	return rc;
}

static uint64_t input_bytes(const compacting *run) {
	uint64_t bytes = 0;

	for (uint32_t i = 0; i < input_count(run); i++) {
		bytes += file_of(run, run->plan.inputs[i])->properties.file_bytes;
	}
	return bytes;
}

static void count_merge(const compacting *run, uint64_t read_bytes, uint64_t written_bytes) {
	lsm_counters *counters = &run->db->shared->counters;

	atomic_fetch_add_explicit(&counters->compactions, 1, memory_order_relaxed);
	atomic_fetch_add_explicit(&counters->compaction_read_bytes, read_bytes, memory_order_relaxed);
	atomic_fetch_add_explicit(&counters->compaction_write_bytes, written_bytes, memory_order_relaxed);
}

static aidb_status run_merge(compacting *run) {
	lsm_version_edit edit = edit_of(run);
	uint64_t read_bytes = input_bytes(run); /* asked for while the inputs are sure to stay */
	uint64_t begin_us = lsm_now_us(run->db);
	lsm_cursor *merge = NULL;
	lsm_job job;
	aidb_status rc;

	rc = lsm_job_begin(&job, run->db, run->plan.output_level, run->db->shared->options.file_bytes, is_bottom, run);
	if (rc == AIDB_OK) {
		rc = merge_inputs(run, &merge);
	}
	if (rc == AIDB_OK) {
		rc = lsm_job_write(&job, merge);
		merge->ops->close(merge);
		lsm_fault_point(run->db, "compaction_written");
	}
	if (rc == AIDB_OK) {
		rc = lsm_job_install(&job, &edit);
	}
	if (rc == AIDB_OK) {
		count_merge(run, read_bytes, job.bytes);
		lsm_note_duration(run->db, &run->db->shared->counters.compaction_durations, begin_us);
	}
	lsm_job_end(&job);
	return rc;
}

static aidb_status pick(compacting *run, bool *found) {
	aidb_db *db = run->db;
	const aidb_options *options = &db->shared->options;
	uint32_t member = db->host->member(db->host->context);
	lsm_compaction_rules rules = {.file_bytes = options->file_bytes, .host = db->host};
	aidb_status rc;

	rules.level1_bytes =
		LSM_LEVEL0_TRIGGER *
		(options->write_buffer_bytes > options->file_bytes ? options->write_buffer_bytes : options->file_bytes);
	lsm_epoch_enter(&db->arena, member);
	rc = lsm_compaction_pick(&db->arena, lsm_version_current(&db->arena, &db->shared->versions), &rules, &run->plan,
							 found);
	lsm_epoch_leave(&db->arena, member);
	return rc;
}

aidb_status lsm_compact_once(aidb_db *db, bool *did) {
	compacting run = {.db = db, .source = lsm_source_of(db, db->host->member(db->host->context))};
	bool found = false;
	aidb_status rc;

	*did = false;
	rc = pick(&run, &found);
	if (rc == AIDB_OK && found) {
		memcpy(run.deeper_at, run.plan.deeper_begin, sizeof(run.deeper_at));
		rc = run.plan.move ? run_move(&run) : run_merge(&run);
		*did = rc == AIDB_OK;
		lsm_compaction_free(&run.plan);
	}
	if (rc != AIDB_INTERRUPTED) {
		atomic_store(&db->shared->compact_error, (uint32_t)rc);
	}
	if (*did) {
		lsm_reclaim(db);
	}
	return rc;
}
