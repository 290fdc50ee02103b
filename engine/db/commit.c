/*
 * The path of a write.
 *
 *   reserve   memory in the active memtable, space in the log            may wait, may fail
 *   sequence  the next sequence number and a range of the log            under commits.latch
 *   copy      the record into the log's ring, in parallel with others
 *   insert    the operations into the memtable, invisible as yet
 *   wait      until the log is written or synced, as asked
 *   publish   in the order of sequence numbers, and not before replicas have it where they must
 *
 * aidb_write does the first two under one hold of the latch, so that memtables and sequence numbers agree about the order
 * of two blind writes to one key. A reservation made ahead (aidb_write_reserve) may be committed into a memtable that
 * has been sealed meanwhile; the caller's locks see to it that no other commit to its keys comes in between.
 */
#include <errno.h>

#include "db/batch.h"
#include "db/redo.h"

#define WAIT_US 100000
#define RECLAIM_WAIT_US 10000
#define PUBLISH_SPINS 200

/* A single operation up to this size is put together on the stack. */
#define SMALL_BATCH_BYTES 1024

/* Level-0 files at which writers help to compact before they go on: reads stay bounded. */
#define LEVEL0_STOP 16

static uint64_t next_seed(const aidb_db *db) {
	static _Thread_local uint64_t counter;

	if (counter == 0) {
		counter = db->host->random(db->host->context);
	}
	/* the stride leaves room for the indexes of a batch's operations */
	counter += (uint64_t)1 << 32;
	return counter;
}

/* ---- The dead ------------------------------------------------------------------------------------------ */

/* Whether the commit that all later ones wait for belongs to a dead member. */
static bool next_writer_is_dead(aidb_db *db) {
	lsm_commits *commits = &db->shared->commits;
	lsm_commit_slot *slots = lsm_at(&db->arena, commits->slots);
	uint32_t member = 0;
	const lsm_commit_slot *slot;
	uint64_t next;
	bool taken;

	if (!lsm_latch_acquire(&db->arena.waiting, &commits->latch)) {
		return false; /* poisoned already */
	}
	next = atomic_load(&commits->visible) + 1;
	slot = &slots[next & (commits->slot_count - 1)];
	/* one that has done all it has to and waits for a replica may go */
	taken =
		next < commits->next_sequence && atomic_load(&slot->awaits_sync) != next && atomic_load(&slot->done) != next;
	if (taken) {
		member = atomic_load_explicit(&slot->member, memory_order_relaxed);
	}
	lsm_latch_release(&db->arena.waiting, &commits->latch);
	return taken && !db->host->member_alive(db->host->context, member) && atomic_load(&commits->visible) + 1 == next;
}

aidb_status lsm_check_members(aidb_db *db) {
	static _Thread_local uint64_t looked_us;
	lsm_shared *shared = db->shared;
	lsm_latch *const latches[] = {&shared->log.sync_latch, &shared->log.write_latch, &shared->flush_latch,
								  &shared->compact_latch};
	uint64_t now_us = db->host->clock_us(db->host->context);

	if (now_us - looked_us < WAIT_US) {
		return AIDB_OK;
	}
	looked_us = now_us;
	for (unsigned i = 0; i < sizeof(latches) / sizeof(latches[0]); i++) {
		lsm_latch_check(&db->arena.waiting, latches[i]);
	}
	if (next_writer_is_dead(db) || lsm_member_died_inside(&db->arena)) {
		atomic_store(&shared->poisoned, 1);
	}
	return atomic_load(&shared->poisoned) == 0 ? AIDB_OK : lsm_poisoned(db);
}

/* ---- Memtables ----------------------------------------------------------------------------------------- */

static int find_free_memtable(const lsm_shared *shared) {
	for (int i = 0; i < LSM_MEMTABLES; i++) {
		if (shared->memtables[i].number == 0) {
			return i;
		}
	}
	return -1;
}

static aidb_status add_memtable(aidb_db *db, int index) {
	lsm_shared *shared = db->shared;
	lsm_commits *commits = &shared->commits;
	lsm_version_edit edit = {.add_memtable = index, .remove_memtable = -1};
	lsm_ref version = lsm_version_build(&db->arena, &shared->heap, &shared->versions, &edit);

	if (version == 0) {
		return lsm_no_room_for_files(db);
	}
	lsm_memtable_reset(&db->arena, &shared->memtables[index], shared->memtables[commits->active].number + 1, 0);
	if (!lsm_latch_acquire(&db->arena.waiting, &commits->latch)) {
		return lsm_poisoned(db);
	}
	shared->memtables[index].log_position = commits->next_position;
	commits->active = (uint32_t)index;
	lsm_version_install(&db->arena, &shared->versions, version, &edit);
	lsm_latch_release(&db->arena.waiting, &commits->latch);
	return AIDB_OK;
}

aidb_status lsm_switch_memtable(aidb_db *db, uint32_t memtable) {
	lsm_shared *shared = db->shared;
	aidb_status rc = AIDB_OK;

	if (!lsm_latch_acquire(&db->arena.waiting, &shared->versions.latch)) {
		return lsm_poisoned(db);
	}
	/* the active memtable changes only under the versions latch, so it may be read here */
	if (shared->commits.active == memtable) {
		int index = find_free_memtable(shared);

		rc = index < 0 ? AIDB_NOT_FOUND : add_memtable(db, index);
	}
	lsm_latch_release(&db->arena.waiting, &shared->versions.latch);
	if (rc == AIDB_OK) {
		lsm_background(db, AIDB_WORK_FLUSH);
	}
	return rc;
}

static bool is_active(const aidb_db *db, uint32_t memtable) {
	return atomic_load(&db->shared->commits.active) == memtable;
}

/* Waits for room that others are to make. */
static aidb_status wait_for_others(aidb_db *db, lsm_event *event, uint32_t ticket, uint64_t timeout_us) {
	aidb_status rc = lsm_event_wait(&db->arena.waiting, event, ticket, timeout_us, AIDB_WAIT_ROOM);

	return rc == AIDB_OK ? lsm_check_members(db) : rc;
}

/* All memtables are in use: flushes the oldest, or waits for who does, or for the last readers of a flushed one. */
static aidb_status wait_for_memtable(aidb_db *db) {
	lsm_shared *shared = db->shared;
	const lsm_waiting *waiting = &db->arena.waiting;
	uint32_t changed = lsm_event_prepare(&shared->versions.changed);
	uint32_t left = lsm_event_prepare(&shared->epochs.left);
	aidb_status rc;
	bool did = false;

	lsm_reclaim(db);
	if (find_free_memtable(shared) >= 0) {
		return AIDB_OK;
	}
	if (!lsm_latch_try(waiting, &shared->flush_latch)) {
		return wait_for_others(db, &shared->versions.changed, changed, WAIT_US);
	}
	rc = lsm_flush_oldest(db, &did);
	lsm_latch_release(waiting, &shared->flush_latch);
	if (rc == AIDB_OK && !did) {
		atomic_store(&shared->epochs.wanted, 1);
		rc = wait_for_others(db, &shared->epochs.left, left, RECLAIM_WAIT_US);
		atomic_store(&shared->epochs.wanted, 0);
	}
	return rc;
}

static uint32_t level0_files(const aidb_db *db) {
	uint32_t member = db->host->member(db->host->context);
	uint32_t files;

	lsm_epoch_enter(&db->arena, member);
	files = lsm_level_count(lsm_version_current(&db->arena, &db->shared->versions), 0);
	lsm_epoch_leave(&db->arena, member);
	return files;
}

/* Too many files in level 0: compacts, or waits for who does. */
static aidb_status wait_for_compaction(aidb_db *db) {
	lsm_shared *shared = db->shared;
	const lsm_waiting *waiting = &db->arena.waiting;
	uint32_t changed = lsm_event_prepare(&shared->versions.changed);
	aidb_status rc;
	bool did = false;

	if (level0_files(db) < LEVEL0_STOP) {
		return AIDB_OK;
	}
	if (!lsm_latch_try(waiting, &shared->compact_latch)) {
		return wait_for_others(db, &shared->versions.changed, changed, WAIT_US);
	}
	rc = lsm_compact_once(db, &did);
	lsm_latch_release(waiting, &shared->compact_latch);
	lsm_reclaim(db);
	return rc;
}

aidb_status lsm_make_room(aidb_db *db, uint32_t memtable, uint64_t bytes) {
	uint64_t start_us = db->host->clock_us(db->host->context);
	bool stalled = false;
	aidb_status rc = AIDB_OK;

	(void)bytes;
	while (rc == AIDB_OK && is_active(db, memtable)) {
		if (level0_files(db) >= LEVEL0_STOP) {
			stalled = true;
			rc = wait_for_compaction(db);
			continue;
		}
		rc = lsm_switch_memtable(db, memtable);
		if (rc == AIDB_NOT_FOUND) {
			stalled = true;
			rc = wait_for_memtable(db);
		}
	}
	if (stalled) {
		atomic_fetch_add_explicit(&db->shared->counters.stalls, 1, memory_order_relaxed);
		atomic_fetch_add_explicit(&db->shared->counters.stall_us, db->host->clock_us(db->host->context) - start_us,
								  memory_order_relaxed);
	}
	return rc;
}

/* ---- Reservations -------------------------------------------------------------------------------------- */

size_t aidb_max_batch_bytes(const aidb_db *db) {
	uint64_t ring = db->shared->log.ring_bytes / 2;
	uint64_t memtable = db->shared->options.write_buffer_bytes / 2;

	return (size_t)(ring < memtable ? ring : memtable);
}

/* Memtable bytes that a batch takes with this seed. The batch is our own, well-formed. */
static uint64_t batch_memory(const aidb_batch *batch, uint64_t seed, bool tagged) {
	lsm_reader reader = lsm_reader_of(batch->operations.data, batch->operations.size);
	uint64_t bytes = 0;
	lsm_entry entry;

	for (uint32_t i = 0; i < batch->count && lsm_read_operation(&reader, &entry); i++) {
		bytes += lsm_memtable_node_bytes(seed, i, entry.key.size, entry.value.size + (tagged ? LSM_TAG_BYTES : 0));
	}
	return bytes;
}

static aidb_status check_batch(const aidb_db *db, const aidb_batch *batch) {
	if (batch->error != AIDB_OK) {
		return lsm_fail(batch->error, "the batch is incomplete: an operation could not be added to it");
	}
	if (batch->bytes > aidb_max_batch_bytes(db)) {
		return lsm_fail(AIDB_LIMIT,
						"a batch of %zu bytes is larger than the limit of %zu; split it or give the store more memory",
						batch->bytes, aidb_max_batch_bytes(db));
	}
	return AIDB_OK;
}

/* What a write takes with it from the latch. */
typedef struct turn {
	aidb_sequence sequence;
	uint64_t begin; /* of its record in the log */
	uint64_t end;
} turn;

/* Takes the next sequence number and a range of the log; commits.latch held, log space secured. */
static void take_turn(aidb_db *db, uint64_t payload_bytes, turn *mine) {
	lsm_commits *commits = &db->shared->commits;
	lsm_commit_slot *slot;

	mine->sequence = commits->next_sequence++;
	mine->begin = commits->next_position;
	mine->end = lsm_record_end(&db->shared->log.geometry, mine->begin, payload_bytes);
	commits->next_position = mine->end;
	slot = (lsm_commit_slot *)lsm_at(&db->arena, commits->slots) + (mine->sequence & (commits->slot_count - 1));
	atomic_store(&slot->copied, 0);
	atomic_store(&slot->end, mine->end);
	atomic_store_explicit(&slot->member, db->host->member(db->host->context), memory_order_relaxed);
}

/* Has the next segment made in the background, when the log has just come within half a segment of what is prepared. */
static void ask_for_segment(const aidb_db *db, uint64_t from, uint64_t to) {
	const lsm_log *log = &db->shared->log;
	uint64_t threshold = atomic_load_explicit(&log->prepared, memory_order_relaxed) - log->geometry.segment_bytes / 2;

	if (from < threshold && to >= threshold) {
		lsm_background(db, AIDB_WORK_LOG);
	}
}

/* Too many commits wait for a replica, whose writers have given up: the slot of the next may still be in use. Every member
 * may have one more on its way, which has reserved its place. */
static bool slots_are_full(const aidb_db *db) {
	const lsm_commits *commits = &db->shared->commits;

	return commits->next_sequence - atomic_load(&commits->visible) >
		   commits->slot_count - db->shared->options.members - 1;
}

static aidb_status wait_for_slot(aidb_db *db) {
	lsm_commits *commits = &db->shared->commits;
	uint32_t ticket = lsm_event_prepare(&commits->published);
	aidb_status rc = AIDB_OK;

	if (slots_are_full(db)) {
		rc = lsm_event_wait(&db->arena.waiting, &commits->published, ticket, WAIT_US, AIDB_WAIT_REPLICA);
	}
	return rc == AIDB_OK ? lsm_check_members(db) : rc;
}

/*
 * Secures memory and log space; with `mine` takes the turn in the same hold of the latch. Loops until both are there at
 * once: each wait gives the latch up.
 */
static aidb_status reserve(aidb_db *db, aidb_batch *batch, bool tagged, aidb_reservation *reservation, turn *mine) {
	lsm_shared *shared = db->shared;
	lsm_commits *commits = &shared->commits;
	uint64_t payload_bytes = LSM_PAYLOAD_HEAD_BYTES + batch->operations.size;
	aidb_reservation taken = {.batch = batch, .seed = next_seed(db), .member = db->host->member(db->host->context)};

	taken.memtable_bytes = batch_memory(batch, taken.seed, tagged);
	taken.log_bytes = lsm_log_bound(&shared->log, payload_bytes);
	for (;;) {
		uint64_t log_end;
		aidb_status rc;

		if (!lsm_latch_acquire(&db->arena.waiting, &commits->latch)) {
			return lsm_poisoned(db);
		}
		taken.memtable = commits->active;
		log_end = commits->next_position + commits->log_reserved + taken.log_bytes;
		if (slots_are_full(db)) {
			lsm_latch_release(&db->arena.waiting, &commits->latch);
			rc = wait_for_slot(db);
		} else if (log_end > atomic_load(&shared->log.prepared)) {
			lsm_latch_release(&db->arena.waiting, &commits->latch);
			rc = lsm_log_prepare(db, log_end);
		} else if (taken.memtable_bytes > 0 && (taken.memory = lsm_memtable_reserve(&shared->memtables[taken.memtable],
																					taken.memtable_bytes)) == 0) {
			lsm_latch_release(&db->arena.waiting, &commits->latch);
			rc = lsm_make_room(db, taken.memtable, taken.memtable_bytes);
		} else {
			atomic_fetch_add(&shared->memtables[taken.memtable].writers, 1);
			if (mine != NULL) {
				take_turn(db, payload_bytes, mine);
			} else {
				commits->log_reserved += taken.log_bytes;
				atomic_fetch_add(&lsm_member_slot_of(&db->arena, taken.member)->reservations, 1);
			}
			lsm_latch_release(&db->arena.waiting, &commits->latch);
			ask_for_segment(db, log_end - taken.log_bytes, log_end);
			*reservation = taken;
			return AIDB_OK;
		}
		if (rc != AIDB_OK) {
			return rc;
		}
	}
}

/* The reservation is none any more; commits.latch held. */
static void give_back_log(aidb_db *db, const aidb_reservation *reservation) {
	db->shared->commits.log_reserved -= reservation->log_bytes;
	atomic_fetch_sub(&lsm_member_slot_of(&db->arena, reservation->member)->reservations, 1);
}

/* The memtable may be flushed once its last writer is gone. */
static void leave_memtable(aidb_db *db, uint32_t memtable) {
	if (atomic_fetch_sub(&db->shared->memtables[memtable].writers, 1) == 1 && !is_active(db, memtable)) {
		lsm_event_signal(&db->arena.waiting, &db->shared->commits.published);
	}
}

/* ---- Commit -------------------------------------------------------------------------------------------- */

static aidb_status copy_record(aidb_db *db, const aidb_write_options *options, const aidb_batch *batch,
							   const turn *mine) {
	lsm_log *log = &db->shared->log;
	lsm_commits *commits = &db->shared->commits;
	lsm_commit_slot *slot =
		(lsm_commit_slot *)lsm_at(&db->arena, commits->slots) + (mine->sequence & (commits->slot_count - 1));
	uint8_t head[LSM_PAYLOAD_HEAD_BYTES];
	aidb_status rc = lsm_log_check(db);

	if (rc == AIDB_OK) {
		rc = lsm_log_wait_room(db, mine->end);
	}
	if (rc != AIDB_OK) {
		return rc;
	}
	lsm_payload_head_write(head, &(lsm_payload_head){.sequence = mine->sequence,
													 .synced = atomic_load(&log->synced),
													 .tag = options->tag,
													 .state = options->state,
													 .count = batch->count});
	lsm_record_write(&log->geometry, lsm_at(&db->arena, log->ring), log->ring_bytes, mine->begin,
					 (aidb_slice){head, sizeof(head)}, (aidb_slice){batch->operations.data, batch->operations.size});
	atomic_store(&slot->copied, mine->sequence);
	lsm_fault_point(db, "log_copied");
	return AIDB_OK;
}

static void insert(aidb_db *db, const aidb_write_options *options, const aidb_reservation *reservation,
				   aidb_sequence sequence) {
	const aidb_batch *batch = reservation->batch;
	lsm_reader reader = lsm_reader_of(batch->operations.data, batch->operations.size);
	unsigned flag = options->state == AIDB_BATCH_PREPARED ? LSM_KIND_TAGGED : 0;
	lsm_ref piece = reservation->memory;
	lsm_entry entry;

	for (uint32_t i = 0; i < batch->count && lsm_read_operation(&reader, &entry); i++) {
		entry.trailer = lsm_trailer(sequence, lsm_kind_of(entry.trailer) | flag);
		lsm_memtable_insert(&db->arena, &db->shared->memtables[reservation->memtable], &piece, reservation->seed, i,
							&entry, options->tag);
	}
	lsm_fault_point(db, "memtable_inserted");
}

/* Whether what comes next may become visible. Its slot is not used again before it is. */
static bool may_become_visible(const aidb_db *db, const lsm_commit_slot *slot, aidb_sequence next) {
	return next <= atomic_load(&db->shared->commits.replicated) &&
		   (atomic_load(&slot->done) == next || (atomic_load(&slot->awaits_sync) == next &&
												 atomic_load(&slot->end) <= atomic_load(&db->shared->log.synced)));
}

static bool is_replicated(const lsm_commits *commits, aidb_sequence sequence) {
	return sequence <= atomic_load(&commits->replicated);
}

void lsm_commits_advance(aidb_db *db) {
	lsm_commits *commits = &db->shared->commits;
	lsm_commit_slot *slots = lsm_at(&db->arena, commits->slots);

	for (;;) {
		uint64_t visible = atomic_load(&commits->visible);
		const lsm_commit_slot *slot = &slots[(visible + 1) & (commits->slot_count - 1)];

		if (!may_become_visible(db, slot, visible + 1)) {
			return;
		}
		atomic_compare_exchange_strong(&commits->visible, &visible, visible + 1);
	}
}

/* What a wait for a replica, or for those before, gives that was interrupted: the commit stands. */
static aidb_status unreplicated(aidb_sequence sequence) {
	return lsm_fail(AIDB_UNREPLICATED,
					"commit %llu is durable here, but the replica that must have it too has not acknowledged it",
					(unsigned long long)sequence);
}

static aidb_status wait_for_replica(aidb_db *db, uint32_t ticket, aidb_sequence sequence) {
	lsm_event *published = &db->shared->commits.published;
	aidb_status rc = lsm_event_wait(&db->arena.waiting, published, ticket, WAIT_US, AIDB_WAIT_REPLICA);

	return rc == AIDB_INTERRUPTED ? unreplicated(sequence) : rc;
}

/* Returns when the sequence, which may become visible as far as this store goes, is. */
static aidb_status publish(aidb_db *db, aidb_sequence sequence) {
	lsm_commits *commits = &db->shared->commits;
	const lsm_waiting *waiting = &db->arena.waiting;

	lsm_commits_advance(db);
	lsm_event_signal(waiting, &commits->published);
	for (int spin = 0; spin < PUBLISH_SPINS && atomic_load(&commits->visible) < sequence; spin++) {
		lsm_pause();
	}
	while (atomic_load(&commits->visible) < sequence) {
		uint32_t ticket = lsm_event_prepare(&commits->published);
		aidb_status rc = AIDB_OK;

		if (atomic_load(&commits->visible) < sequence) {
			rc = is_replicated(commits, sequence)
					 ? lsm_event_wait(waiting, &commits->published, ticket, WAIT_US, AIDB_WAIT_PUBLISH)
					 : wait_for_replica(db, ticket, sequence);
		}
		if (rc == AIDB_OK && atomic_load(&commits->visible) < sequence) {
			rc = lsm_log_check(db);
		}
		if (rc == AIDB_OK && atomic_load(&commits->visible) < sequence) {
			rc = lsm_check_members(db);
		}
		if (rc != AIDB_OK) {
			return rc;
		}
	}
	lsm_fault_point(db, "published");
	return AIDB_OK;
}

/* The same, counted among those who wait for a replica. */
static aidb_status publish_awaiting(aidb_db *db, aidb_sequence sequence) {
	_Atomic uint32_t *awaiting = &db->shared->commits.awaiting;
	aidb_status rc;

	atomic_fetch_add(awaiting, 1);
	rc = publish(db, sequence);
	atomic_fetch_sub(awaiting, 1);
	lsm_event_signal(&db->arena.waiting, &db->shared->commits.published);
	return rc;
}

static void note_unsynced(lsm_commits *commits, uint64_t end) {
	uint64_t noted = atomic_load(&commits->unsynced_end);

	while (noted < end && !atomic_compare_exchange_weak(&commits->unsynced_end, &noted, end)) {}
}

/* Waits until the log holds the record as it is to be held, and says that the sequence may become visible. */
static aidb_status make_durable(aidb_db *db, aidb_durability durability, const turn *mine) {
	lsm_commits *commits = &db->shared->commits;
	lsm_commit_slot *slots = lsm_at(&db->arena, commits->slots);
	lsm_commit_slot *slot = &slots[mine->sequence & (commits->slot_count - 1)];
	aidb_status rc = AIDB_OK;

	if (durability == AIDB_SYNC || atomic_load_explicit(&commits->replicated, memory_order_relaxed) != UINT64_MAX) {
		/* from here on others may make it visible, and then somebody else may have the slot */
		atomic_store(&slot->awaits_sync, mine->sequence);
		return lsm_log_wait(db, mine->end, AIDB_SYNC);
	}
	if (durability == AIDB_CARRIED) {
		rc = lsm_log_wait(db, atomic_load(&commits->unsynced_end), AIDB_SYNC);
	} else {
		note_unsynced(commits, mine->end); /* before anybody can see it */
	}
	if (rc == AIDB_OK && durability == AIDB_WRITE) {
		rc = lsm_log_wait(db, mine->end, AIDB_WRITE);
	}
	if (rc == AIDB_OK) {
		atomic_store(&slot->done, mine->sequence);
	}
	return rc;
}

/* Everything after the turn was taken. */
static aidb_status finish(aidb_db *db, const aidb_write_options *options, const aidb_reservation *reservation,
						  const turn *mine) {
	bool waits = options->durability == AIDB_SYNC || options->durability == AIDB_WRITE ||
				 !is_replicated(&db->shared->commits, mine->sequence);
	uint64_t begin_us = waits ? lsm_now_us(db) : 0; /* others are not worth the time it takes to look at the clock */
	aidb_status rc = copy_record(db, options, reservation->batch, mine);

	if (rc == AIDB_OK) {
		insert(db, options, reservation, mine->sequence);
	}
	leave_memtable(db, reservation->memtable);
	if (rc == AIDB_OK) {
		rc = make_durable(db, options->durability, mine);
	}
	if (rc == AIDB_OK) {
		rc = is_replicated(&db->shared->commits, mine->sequence) ? publish(db, mine->sequence)
																 : publish_awaiting(db, mine->sequence);
	}
	if (rc == AIDB_OK) {
		atomic_fetch_add_explicit(&db->shared->counters.commits, 1, memory_order_relaxed);
		atomic_fetch_add_explicit(&db->shared->counters.log_bytes, mine->end - mine->begin, memory_order_relaxed);
		if (waits) {
			lsm_note_duration(db, &db->shared->counters.commit_durations, begin_us);
		}
	}
	return rc;
}

static const aidb_write_options default_options = {.durability = AIDB_SYNC, .state = AIDB_BATCH_PLAIN};

static aidb_status check_options(const aidb_write_options *options, const aidb_batch *batch) {
	bool decides = options->state == AIDB_BATCH_COMMIT || options->state == AIDB_BATCH_ABORT;

	if ((options->state != AIDB_BATCH_PLAIN && options->tag == 0) || (decides && batch->count > 0)) {
		return lsm_fail(AIDB_INVALID, "a batch of state %d needs a tag%s", (int)options->state,
						decides ? " and takes no operations" : "");
	}
	if (options->durability == AIDB_CARRIED && options->state != AIDB_BATCH_PREPARED) {
		return lsm_fail(AIDB_INVALID, "only prepared batches can be carried by another log");
	}
	return AIDB_OK;
}

static aidb_status check_write(aidb_db *db, const aidb_batch *batch) {
	aidb_status rc = lsm_log_check(db);

	return rc == AIDB_OK ? check_batch(db, batch) : rc;
}

static aidb_status begin_write(aidb_db *db, const aidb_batch *batch) {
	uint32_t member;
	aidb_status rc = lsm_enter(db, &member);

	return rc == AIDB_OK ? check_write(db, batch) : rc;
}

/* The batch and the options have been checked. */
static aidb_status write_batch(aidb_db *db, const aidb_write_options *options, aidb_batch *batch, turn *mine) {
	aidb_reservation reservation;
	aidb_status rc = reserve(db, batch, options->state == AIDB_BATCH_PREPARED, &reservation, mine);

	return rc == AIDB_OK ? finish(db, options, &reservation, mine) : rc;
}

aidb_status aidb_write(aidb_db *db, const aidb_write_options *options, aidb_batch *batch, aidb_sequence *sequence) {
	turn mine;
	aidb_status rc = begin_write(db, batch);

	if (options == NULL) {
		options = &default_options;
	}
	if (rc == AIDB_OK) {
		rc = check_options(options, batch);
	}
	if (rc == AIDB_OK && batch->count == 0 && options->state == AIDB_BATCH_PLAIN) {
		return AIDB_OK;
	}
	if (rc == AIDB_OK) {
		rc = write_batch(db, options, batch, &mine);
	}
	if ((rc == AIDB_OK || rc == AIDB_UNREPLICATED) && sequence != NULL) {
		*sequence = mine.sequence;
	}
	return rc;
}

aidb_status aidb_write_carried(aidb_db *db, aidb_tag tag, aidb_batch *batch, aidb_carried *carried) {
	aidb_write_options options = {.durability = AIDB_CARRIED, .state = AIDB_BATCH_PREPARED, .tag = tag};
	turn mine;
	aidb_status rc = begin_write(db, batch);

	if (rc == AIDB_OK) {
		rc = check_options(&options, batch);
	}
	if (rc == AIDB_OK) {
		rc = write_batch(db, &options, batch, &mine);
	}
	if (rc == AIDB_OK) {
		carried->log_end = mine.end;
		carried->operations = (aidb_slice){batch->operations.data, batch->operations.size};
		lsm_carried_head_write(carried->head, &(lsm_carried_head){.store_id = db->shared->log.geometry.store_id,
																  .log_end = mine.end,
																  .synced = atomic_load(&db->shared->log.synced),
																  .tag = tag,
																  .count = batch->count});
	}
	return rc;
}

void aidb_carry_synced(const aidb_db *db, aidb_carried *carried) {
	*carried = (aidb_carried){.log_end = atomic_load(&db->shared->log.synced)};
	lsm_carried_head_write(carried->head, &(lsm_carried_head){.store_id = db->shared->log.geometry.store_id,
															  .log_end = carried->log_end,
															  .synced = carried->log_end});
}

aidb_status lsm_write_prepared(aidb_db *db, aidb_tag tag, aidb_batch *batch) {
	aidb_write_options options = {.durability = AIDB_LAZY, .state = AIDB_BATCH_PREPARED, .tag = tag};
	turn mine;
	aidb_status rc = check_write(db, batch);

	if (rc == AIDB_OK) {
		rc = check_options(&options, batch);
	}
	return rc == AIDB_OK ? write_batch(db, &options, batch, &mine) : rc;
}

aidb_status aidb_write_reserve(aidb_db *db, aidb_batch *batch, aidb_reservation *reservation) {
	aidb_status rc = begin_write(db, batch);

	/* the reservation has room for tags, whether or not the commit brings one */
	return rc == AIDB_OK ? reserve(db, batch, true, reservation, NULL) : rc;
}

aidb_status aidb_write_commit(aidb_db *db, const aidb_write_options *options, aidb_reservation *reservation,
							  aidb_sequence *sequence) {
	lsm_commits *commits = &db->shared->commits;
	turn mine;
	aidb_status rc;

	if (!lsm_latch_acquire(&db->arena.waiting, &commits->latch)) {
		return lsm_poisoned(db);
	}
	give_back_log(db, reservation);
	take_turn(db, LSM_PAYLOAD_HEAD_BYTES + reservation->batch->operations.size, &mine);
	lsm_latch_release(&db->arena.waiting, &commits->latch);
	lsm_fault_point(db, "sequence_taken");
	rc = finish(db, options == NULL ? &default_options : options, reservation, &mine);
	if ((rc == AIDB_OK || rc == AIDB_UNREPLICATED) && sequence != NULL) {
		*sequence = mine.sequence;
	}
	return rc;
}

void aidb_write_cancel(aidb_db *db, aidb_reservation *reservation) {
	lsm_commits *commits = &db->shared->commits;

	if (lsm_latch_acquire(&db->arena.waiting, &commits->latch)) {
		give_back_log(db, reservation);
		lsm_latch_release(&db->arena.waiting, &commits->latch);
		leave_memtable(db, reservation->memtable);
	}
}

static aidb_status write_one(aidb_db *db, const aidb_write_options *options, unsigned kind, aidb_slice key,
							 aidb_slice value) {
	char small[SMALL_BATCH_BYTES];
	bool fits = key.size + value.size + AIDB_BATCH_OPERATION_BYTES <= sizeof(small);
	aidb_batch batch = {.operations = {fits ? small : NULL, 0, fits ? sizeof(small) : 0}};
	aidb_status rc = kind == LSM_KIND_PUT ? aidb_batch_put(&batch, key, value) : aidb_batch_delete(&batch, key);

	if (rc == AIDB_OK) {
		rc = aidb_write(db, options, &batch, NULL);
	}
	if (!fits) {
		aidb_buffer_free(&batch.operations);
	}
	return rc;
}

aidb_status aidb_put(aidb_db *db, const aidb_write_options *options, aidb_slice key, aidb_slice value) {
	return write_one(db, options, LSM_KIND_PUT, key, value);
}

aidb_status aidb_delete(aidb_db *db, const aidb_write_options *options, aidb_slice key) {
	return write_one(db, options, LSM_KIND_DELETE, key, (aidb_slice){NULL, 0});
}

aidb_sequence aidb_current_sequence(const aidb_db *db) {
	return atomic_load(&db->shared->commits.visible);
}

/* ---- Replication --------------------------------------------------------------------------------------- */

static void publish_for_all(aidb_db *db) {
	lsm_commits_advance(db);
	lsm_event_signal(&db->arena.waiting, &db->shared->commits.published);
}

void aidb_replication_require(aidb_db *db, aidb_sequence replicated) {
	atomic_store(&db->shared->commits.replicated, replicated);
	publish_for_all(db);
}

void aidb_replication_release(aidb_db *db) {
	aidb_replication_require(db, UINT64_MAX);
}

aidb_status aidb_replication_abandon(aidb_db *db) {
	lsm_commits *commits = &db->shared->commits;
	aidb_status rc = AIDB_OK;

	while (rc == AIDB_OK && atomic_load(&commits->awaiting) > 0) {
		uint32_t ticket = lsm_event_prepare(&commits->published);

		if (atomic_load(&commits->awaiting) > 0) {
			rc = lsm_event_wait(&db->arena.waiting, &commits->published, ticket, WAIT_US, AIDB_WAIT_JOB);
		}
	}
	if (rc == AIDB_OK) {
		aidb_replication_release(db);
	}
	return rc;
}

void aidb_replication_advance(aidb_db *db, aidb_sequence replicated) {
	_Atomic uint64_t *shared = &db->shared->commits.replicated;
	uint64_t present = atomic_load(shared);

	while (present < replicated) { /* never when nothing is required */
		if (atomic_compare_exchange_weak(shared, &present, replicated)) {
			publish_for_all(db);
			return;
		}
	}
}

/* Until the counter, `visible` or `replicated`, has reached the sequence. */
static aidb_status wait_until(aidb_db *db, _Atomic uint64_t *counter, aidb_sequence sequence) {
	lsm_commits *commits = &db->shared->commits;
	aidb_status rc = AIDB_OK;

	while (rc == AIDB_OK && atomic_load(counter) < sequence) {
		uint32_t ticket = lsm_event_prepare(&commits->published);

		if (atomic_load(counter) < sequence) {
			rc = lsm_event_wait(&db->arena.waiting, &commits->published, ticket, WAIT_US, AIDB_WAIT_REPLICA);
		}
		if (rc == AIDB_OK) {
			rc = lsm_check_members(db);
		}
	}
	return rc;
}

aidb_status aidb_wait_visible(aidb_db *db, aidb_sequence sequence) {
	return wait_until(db, &db->shared->commits.visible, sequence);
}

aidb_status aidb_wait_replicated(aidb_db *db, aidb_sequence sequence) {
	return wait_until(db, &db->shared->commits.replicated, sequence);
}

aidb_sequence aidb_last_sequence(aidb_db *db) {
	lsm_commits *commits = &db->shared->commits;
	aidb_sequence last = atomic_load(&commits->visible);

	if (lsm_latch_acquire(&db->arena.waiting, &commits->latch)) {
		last = commits->next_sequence - 1;
		lsm_latch_release(&db->arena.waiting, &commits->latch);
	}
	return last;
}

/* ---- Syncing ------------------------------------------------------------------------------------------- */

/* Where the log ends that has been given out. */
static aidb_status log_end(aidb_db *db, uint64_t *end) {
	lsm_commits *commits = &db->shared->commits;

	if (!lsm_latch_acquire(&db->arena.waiting, &commits->latch)) {
		return lsm_poisoned(db);
	}
	*end = commits->next_position;
	lsm_latch_release(&db->arena.waiting, &commits->latch);
	return AIDB_OK;
}

aidb_status aidb_sync(aidb_db *db) {
	uint64_t end = 0;
	aidb_status rc = log_end(db, &end);

	return rc == AIDB_OK ? lsm_log_wait(db, end, AIDB_SYNC) : rc;
}

aidb_status aidb_sync_to(aidb_db *db, uint64_t position) {
	return lsm_log_wait(db, position, AIDB_SYNC);
}

aidb_status aidb_sync_visible(aidb_db *db) {
	return lsm_log_wait(db, atomic_load(&db->shared->commits.unsynced_end), AIDB_SYNC);
}
