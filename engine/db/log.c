#include "db/log.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>

#include "base/checksum.h"
#include "db/db.h"
#include "db/pin.h"

/* Old segments kept for reuse, beyond those that recovery needs. */
#define SPARE_SEGMENTS 2

#define WAIT_US 100000
#define ZERO_BYTES 65536
#define COPY_WAIT_US 50

/* ---- Payload head -------------------------------------------------------------------------------------- */

void lsm_payload_head_write(uint8_t to[LSM_PAYLOAD_HEAD_BYTES], const lsm_payload_head *head) {
	lsm_put_u64(to, head->sequence);
	lsm_put_u64(to + 8, head->synced);
	lsm_put_u64(to + 16, head->tag);
	to[24] = (uint8_t)head->state;
	lsm_put_u32(to + 25, head->count);
}

bool lsm_payload_head_read(lsm_reader *reader, lsm_payload_head *head) {
	uint8_t state;

	head->sequence = lsm_read_u64(reader);
	head->synced = lsm_read_u64(reader);
	head->tag = lsm_read_u64(reader);
	state = lsm_read_u8(reader);
	head->count = lsm_read_u32(reader);
	if (reader->failed || state > AIDB_BATCH_ABORT || head->sequence == 0 || head->sequence > LSM_MAX_SEQUENCE) {
		return false;
	}
	head->state = (aidb_batch_state)state;
	return true;
}

/* ---- Segment files ------------------------------------------------------------------------------------- */

void lsm_segment_path(const char *directory, uint64_t segment, char *path, size_t path_bytes) {
	snprintf(path, path_bytes, "%s/%016" PRIx64 ".log", directory, segment);
}

bool lsm_segment_number(const char *name, uint64_t *segment) {
	int used = 0;

	return strlen(name) == 20 && sscanf(name, "%16" SCNx64 "%n", segment, &used) == 1 && used == 16 &&
		   strcmp(name + 16, ".log") == 0;
}

static void fill_header(uint8_t header[LSM_SEGMENT_HEADER_BYTES], const lsm_log_geometry *geometry, uint64_t segment) {
	memset(header, 0, LSM_SEGMENT_HEADER_BYTES);
	lsm_put_u64(header, LSM_SEGMENT_MAGIC);
	lsm_put_u32(header + 8, LSM_LOG_VERSION);
	lsm_put_u64(header + 16, geometry->store_id);
	lsm_put_u64(header + 24, segment * geometry->segment_bytes);
	lsm_put_u64(header + 32, geometry->segment_bytes);
	lsm_put_u64(header + 56, lsm_hash64(header, 56, 0));
}

bool lsm_segment_header_check(const uint8_t header[LSM_SEGMENT_HEADER_BYTES], const lsm_log_geometry *geometry,
							  uint64_t segment) {
	uint8_t expected[LSM_SEGMENT_HEADER_BYTES];

	fill_header(expected, geometry, segment);
	return memcmp(header, expected, LSM_SEGMENT_HEADER_BYTES) == 0;
}

static bool is_open(const lsm_segment_file *open) {
	return open->file >= 0 && open->forks == lsm_forks();
}

static void close_segment(const aidb_db *db, lsm_segment_file *open) {
	if (is_open(open)) {
		db->host->file_close(db->host->context, open->file);
	}
	open->file = -1;
}

/* Opens a segment for writing, unless it is the one that is open. */
static int open_segment(const aidb_db *db, lsm_segment_file *open, uint64_t segment) {
	char path[LSM_PATH_BYTES];
	int error;

	if (is_open(open) && open->segment == segment) {
		return 0;
	}
	close_segment(db, open);
	lsm_segment_path(db->directory, segment, path, sizeof(path));
	error = db->host->file_open(db->host->context, path, AIDB_FILE_READ | AIDB_FILE_WRITE, &open->file);
	if (error != 0) {
		open->file = -1;
		return error;
	}
	open->segment = segment;
	open->forks = lsm_forks();
	return 0;
}

void lsm_log_close(aidb_db *db) {
	close_segment(db, &db->write_segment);
	close_segment(db, &db->sync_segment);
}

int lsm_write_zeroes(const aidb_host *host, int file, uint64_t offset, uint64_t end) {
	static const uint8_t zeroes[ZERO_BYTES];
	int error = 0;

	while (error == 0 && offset < end) {
		uint64_t size = end - offset > ZERO_BYTES ? ZERO_BYTES : end - offset;

		error = host->file_write(host->context, file, zeroes, size, offset);
		offset += size;
	}
	return error;
}

/* Puts a file of full size and with its header where segment `segment` belongs. */
static aidb_status make_segment(aidb_db *db, uint64_t segment) {
	lsm_log *log = &db->shared->log;
	const aidb_host *host = db->host;
	uint8_t header[LSM_SEGMENT_HEADER_BYTES];
	char path[LSM_PATH_BYTES], old_path[LSM_PATH_BYTES];
	bool reuse = false;
	int file = -1;
	int error;

	lsm_segment_path(db->directory, segment, path, sizeof(path));
	while (log->first_segment < log->keep_segment && !reuse) {
		lsm_segment_path(db->directory, log->first_segment, old_path, sizeof(old_path));
		error = host->file_rename(host->context, old_path, path);
		if (error != 0 && error != ENOENT) {
			return lsm_fail_errno(error, "rename log segment to", path);
		}
		reuse = error == 0;
		log->first_segment++;
	}
	error = host->file_open(host->context, path, AIDB_FILE_READ | AIDB_FILE_WRITE | AIDB_FILE_CREATE, &file);
	if (error == 0 && !reuse) {
		error = host->file_allocate(host->context, file, log->geometry.segment_bytes);
		if (error == 0) {
			error = lsm_write_zeroes(host, file, 0, log->geometry.segment_bytes);
		}
		if (error == 0) {
			error = host->file_sync(host->context, file); /* a good header says that the file has its whole length */
		}
	}
	if (error == 0) {
		fill_header(header, &log->geometry, segment);
		error = host->file_write(host->context, file, header, sizeof(header), 0);
	}
	if (error == 0) {
		error = host->file_sync(host->context, file);
	}
	if (file >= 0) {
		host->file_close(host->context, file);
	}
	if (error == 0) {
		error = host->directory_sync(host->context, db->directory);
	}
	if (error != 0) {
		host->file_remove(host->context, path);
		return lsm_fail_errno(error, "create log segment", path);
	}
	return AIDB_OK;
}

aidb_status lsm_log_prepare(aidb_db *db, uint64_t position) {
	lsm_log *log = &db->shared->log;
	aidb_status rc = AIDB_OK;

	if (atomic_load(&log->prepared) >= position) {
		return AIDB_OK;
	}
	if (!lsm_latch_acquire(&db->arena.waiting, &log->segment_latch)) {
		return lsm_poisoned(db);
	}
	while (rc == AIDB_OK && atomic_load(&log->prepared) < position) {
		uint64_t segment = atomic_load(&log->prepared) / log->geometry.segment_bytes;

		rc = make_segment(db, segment);
		if (rc == AIDB_OK) {
			atomic_store(&log->prepared, (segment + 1) * log->geometry.segment_bytes);
		}
	}
	lsm_latch_release(&db->arena.waiting, &log->segment_latch);
	return rc;
}

void lsm_log_discard(aidb_db *db, uint64_t position) {
	lsm_log *log = &db->shared->log;
	char path[LSM_PATH_BYTES];
	uint64_t keep;

	if (!lsm_latch_acquire(&db->arena.waiting, &log->segment_latch)) {
		return;
	}
	keep = lsm_pins_oldest(db, position) / log->geometry.segment_bytes;
	if (keep > log->keep_segment) {
		log->keep_segment = keep;
	}
	while (log->first_segment + SPARE_SEGMENTS < log->keep_segment) {
		lsm_segment_path(db->directory, log->first_segment, path, sizeof(path));
		db->host->file_remove(db->host->context, path);
		log->first_segment++;
	}
	lsm_latch_release(&db->arena.waiting, &log->segment_latch);
}

/* ---- Writing and syncing --------------------------------------------------------------------------------- */

aidb_status lsm_log_check(const aidb_db *db) {
	uint32_t error = atomic_load(&db->shared->log.failed);

	if (error == 0) {
		return AIDB_OK;
	}
	return lsm_fail(AIDB_IO,
					"writes are off: writing the log in \"%s\" failed earlier: %s; reopen the store to recover",
					db->directory, strerror((int)error));
}

static aidb_status fail_log(aidb_db *db, int error, const char *action, uint64_t segment) {
	lsm_log *log = &db->shared->log;
	char path[LSM_PATH_BYTES];

	lsm_segment_path(db->directory, segment, path, sizeof(path));
	atomic_store(&log->failed, (uint32_t)error);
	lsm_event_signal(&db->arena.waiting, &log->progress);
	lsm_event_signal(&db->arena.waiting, &db->shared->commits.published);
	lsm_fail_errno(error, action, path);
	db->host->log(db->host->context, AIDB_LOG_ERROR, aidb_last_error());
	return lsm_fail(AIDB_IO, "could not %s \"%s\": %s; writes are off until the store is reopened", action, path,
					strerror(error));
}

/*
 * Advances to the last record that is in the ring with none missing before it. Whatever is visible has been copied. A
 * slot may be taken for a later sequence while we look: its end counts only when `copied` is the same before and after,
 * since whoever takes a slot clears `copied` before it changes `end`.
 */
static void collect_copied(aidb_db *db) {
	lsm_log *log = &db->shared->log;
	lsm_commits *commits = &db->shared->commits;
	lsm_commit_slot *slots = lsm_at(&db->arena, commits->slots);

	for (;;) {
		uint64_t visible = atomic_load(&commits->visible);
		uint64_t next = visible > log->copied_sequence ? visible : log->copied_sequence + 1;
		lsm_commit_slot *slot = &slots[next & (commits->slot_count - 1)];
		bool copied = atomic_load(&slot->copied) == next;
		uint64_t end = atomic_load(&slot->end);

		if (copied && atomic_load(&slot->copied) == next) {
			log->copied_sequence = next;
			log->copied_position = end;
		} else if (atomic_load(&commits->visible) < next) {
			return; /* not there yet; otherwise it has been overtaken, and a later one tells as much */
		}
	}
}

/* Writes [from, to) of the log, which lies in the ring, to its segments; headers of segments stand already. */
static aidb_status write_range(aidb_db *db, uint64_t from, uint64_t to) {
	lsm_log *log = &db->shared->log;
	const uint8_t *ring = lsm_at(&db->arena, log->ring);

	while (from < to) {
		uint64_t segment = from / log->geometry.segment_bytes;
		uint64_t offset = from % log->geometry.segment_bytes;
		uint64_t ring_offset = from & (log->ring_bytes - 1);
		uint64_t size = to - from;
		int error;

		if (offset < LSM_SEGMENT_HEADER_BYTES) {
			from += LSM_SEGMENT_HEADER_BYTES - offset;
			continue;
		}
		if (size > log->geometry.segment_bytes - offset) {
			size = log->geometry.segment_bytes - offset;
		}
		if (size > log->ring_bytes - ring_offset) {
			size = log->ring_bytes - ring_offset;
		}
		error = open_segment(db, &db->write_segment, segment);
		if (error == 0) {
			error = db->host->file_write(db->host->context, db->write_segment.file, ring + ring_offset, size, offset);
		}
		if (error != 0) {
			return fail_log(db, error, "write log segment", segment);
		}
		from += size;
	}
	return AIDB_OK;
}

/* Hands everything copied to the operating system; write latch held. */
static aidb_status write_copied(aidb_db *db) {
	lsm_log *log = &db->shared->log;
	uint64_t from = atomic_load(&log->written);
	aidb_status rc = lsm_log_check(db);
	int error = 0;

	if (rc != AIDB_OK) {
		return rc;
	}
	collect_copied(db);
	if (log->copied_position <= from) {
		return AIDB_OK;
	}
	if (db->host->before_log_write != NULL) {
		error = db->host->before_log_write(db->host->context);
	}
	if (error != 0) {
		return fail_log(db, error, "make durable what the log depends on, before writing",
						from / log->geometry.segment_bytes);
	}
	rc = write_range(db, from, log->copied_position);
	if (rc == AIDB_OK) {
		atomic_store(&log->written, log->copied_position);
		atomic_fetch_add_explicit(&db->shared->counters.log_writes, 1, memory_order_relaxed);
		lsm_fault_point(db, "log_written");
	}
	return rc;
}

/* Makes durable what is written; sync latch held. The position is read before the sync begins. */
static aidb_status sync_written(aidb_db *db) {
	lsm_log *log = &db->shared->log;
	uint64_t from = atomic_load(&log->synced);
	uint64_t to = atomic_load(&log->written);
	uint64_t begin_us;

	if (to <= from) {
		return AIDB_OK;
	}
	begin_us = lsm_now_us(db);
	for (uint64_t segment = from / log->geometry.segment_bytes; segment <= (to - 1) / log->geometry.segment_bytes;
		 segment++) {
		int error = open_segment(db, &db->sync_segment, segment);

		if (error == 0) {
			error = db->host->file_sync(db->host->context, db->sync_segment.file);
		}
		if (error != 0) {
			return fail_log(db, error, "sync log segment", segment);
		}
	}
	atomic_store(&log->synced, to);
	atomic_fetch_add_explicit(&db->shared->counters.log_syncs, 1, memory_order_relaxed);
	lsm_note_duration(db, &db->shared->counters.log_sync_durations, begin_us);
	lsm_fault_point(db, "log_synced");
	return AIDB_OK;
}

/* One round as the leader, if nobody else is; *led says whether. */
static aidb_status lead(aidb_db *db, aidb_durability durability, bool *led) {
	lsm_log *log = &db->shared->log;
	lsm_latch *first = durability == AIDB_SYNC ? &log->sync_latch : &log->write_latch;
	aidb_status rc = AIDB_OK;

	*led = lsm_latch_try(&db->arena.waiting, first);
	if (!*led) {
		return AIDB_OK;
	}
	if (durability == AIDB_SYNC && db->host->yield != NULL) {
		db->host->yield(db->host->context); /* who is about to copy its record does so before the sync, not behind it */
	}
	if (durability == AIDB_SYNC && !lsm_latch_acquire(&db->arena.waiting, &log->write_latch)) {
		rc = lsm_poisoned(db);
	} else {
		rc = write_copied(db);
		lsm_latch_release(&db->arena.waiting, &log->write_latch);
	}
	if (durability == AIDB_SYNC) {
		if (rc == AIDB_OK) {
			rc = sync_written(db);
		}
		lsm_latch_release(&db->arena.waiting, &log->sync_latch);
		/* for all who wait for it: each doing so for itself would have to wait for those before it to get the processor */
		lsm_commits_advance(db);
		lsm_event_signal(&db->arena.waiting, &db->shared->commits.published);
	}
	lsm_event_signal(&db->arena.waiting, &log->progress);
	return rc;
}

aidb_status lsm_log_wait(aidb_db *db, uint64_t end, aidb_durability durability) {
	lsm_log *log = &db->shared->log;
	_Atomic uint64_t *reached = durability == AIDB_SYNC ? &log->synced : &log->written;

	while (atomic_load(reached) < end) {
		uint32_t ticket = lsm_event_prepare(&log->progress);
		uint64_t wait_us = WAIT_US;
		aidb_status rc = lsm_log_check(db);
		bool led = false;

		if (rc == AIDB_OK) {
			rc = lead(db, durability, &led);
		}
		if (led) { /* what is missing is still being copied by an earlier commit, which signals nobody */
			ticket = lsm_event_prepare(&log->progress);
			wait_us = COPY_WAIT_US;
		}
		if (rc == AIDB_OK && atomic_load(reached) < end) {
			rc = lsm_event_wait(&db->arena.waiting, &log->progress, ticket, wait_us, AIDB_WAIT_SYNC);
		}
		if (rc == AIDB_OK && atomic_load(reached) < end) {
			rc = lsm_check_members(db);
		}
		if (rc != AIDB_OK) {
			return rc;
		}
	}
	return AIDB_OK;
}

aidb_status lsm_log_wait_room(aidb_db *db, uint64_t end) {
	lsm_log *log = &db->shared->log;

	if (end <= log->ring_bytes) {
		return AIDB_OK;
	}
	return lsm_log_wait(db, end - log->ring_bytes, AIDB_WRITE);
}

/* ---- Set-up -------------------------------------------------------------------------------------------- */

uint64_t lsm_log_bound(const lsm_log *log, uint64_t payload_bytes) {
	uint64_t usable = LSM_LOG_BLOCK_BYTES - LSM_FRAGMENT_HEADER_BYTES - LSM_SEGMENT_HEADER_BYTES;
	uint64_t fragments = payload_bytes / usable + 2;
	uint64_t segments = payload_bytes / log->geometry.segment_bytes + 2;

	/* each fragment its header and a skipped block tail; each segment its header */
	return payload_bytes + fragments * 2 * LSM_FRAGMENT_HEADER_BYTES + segments * LSM_SEGMENT_HEADER_BYTES;
}

void lsm_log_reset(aidb_db *db, uint64_t position, aidb_sequence sequence) {
	lsm_log *log = &db->shared->log;

	atomic_store(&log->written, position);
	atomic_store(&log->synced, position);
	log->copied_sequence = sequence;
	log->copied_position = position;
}
