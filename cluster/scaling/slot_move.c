#include "scaling/slot_move.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/socket.h"
#include "scaling/changes.h"

#define LOCK "7017294236571234561"             /* by who moves slots */
#define DEFINITIONS_LOCK "7017294236571234560" /* by who needs definitions of tables to stay as they are */
#define PIN "move"                             /* for which the source keeps its log */
#define CHUNK_BYTES (1u << 20)
#define CHUNK_TEXT "1048576"
#define PURGE_ROWS "10000"
#define MARK_WAIT "60s" /* for transactions that may have written to the slots before */
#define DIGEST_TRIES 100
#define DIGEST_PAUSE_MS 20
#define HOLD_TRIES 300
#define HOLD_WAIT "80ms" /* for transactions that have written to the slots, while others wait behind */
#define HOLD_PAUSE_MS 50
#define HOLD_LIMIT_MS 1000 /* then writers go on, and it is tried again */
#define HOLD_SILENCE "2s" /* when the source hears nothing for so long, it lets go of the slots by ending the session */
#define END_LIMIT_MS 10000 /* for sessions that are told to end */

typedef struct mover {
	aidb_slot_move *move;
	aidb_session stream, source, target;
	aidb_changes changes;
	char slots[AIDB_SLOTS_TEXT_BYTES];
	char *chunk; /* operations on their way to the target */
	size_t chunk_size;
	size_t answer_size; /* of the stream, the last time */
} mover;

void aidb_slots_text(const aidb_slot_set *slots, char text[AIDB_SLOTS_TEXT_BYTES]) {
	char *at = text;

	*at++ = '{';
	for (uint32_t slot = 0; slot < AIDB_SLOTS; slot++) {
		if (aidb_slot_set_has(slots, slot)) {
			at += sprintf(at, "%s%" PRIu32, at == text + 1 ? "" : ",", slot);
		}
	}
	strcpy(at, "}");
}

static aidb_value number_value(char text[24], uint64_t number) {
	snprintf(text, 24, "%" PRIu64, number);
	return aidb_value_text(text);
}

static bool fail(aidb_trouble *trouble, const char *format, const char *what) {
	snprintf(trouble->text, sizeof(trouble->text), format, what);
	trouble->state[0] = '\0';
	return false;
}

/* ---- The catalog ------------------------------------------------------------------------------------------ */

bool aidb_slot_moves_begin(aidb_session *catalog) {
	int64_t unused;
	PGresult *result = aidb_session_query(catalog, "SELECT pg_try_advisory_lock(" LOCK ")", 0, NULL, false);
	bool taken = result != NULL && PQgetvalue(result, 0, 0)[0] == 't';

	PQclear(result);
	if (result != NULL && !taken) {
		return fail(catalog->trouble, "%s; wait until it is done", "another process moves slots of this cluster");
	}
	/* And no table is made or dropped meanwhile. */
	return taken &&
		   aidb_session_number(catalog, "SELECT 1 FROM pg_advisory_lock(" DEFINITIONS_LOCK ")", 0, NULL, &unused);
}

bool aidb_move_group_read(aidb_session *catalog, uint32_t id, aidb_move_group *group) {
	char number[24];
	aidb_value value = number_value(number, id);
	PGresult *result =
		aidb_session_query(catalog,
						   "SELECT g.name, n.name, n.conninfo, g.epoch FROM aidb.node_group g JOIN aidb.node n"
						   " ON n.node_id = g.primary_id WHERE g.group_id = $1",
						   1, &value, false);

	if (result == NULL || PQntuples(result) != 1) {
		PQclear(result);
		return result == NULL ? false : fail(catalog->trouble, "%s is not in the cluster any more", "a group");
	}
	*group = (aidb_move_group){.id = id, .epoch = strtoull(PQgetvalue(result, 0, 3), NULL, 10)};
	snprintf(group->name, sizeof(group->name), "%s", PQgetvalue(result, 0, 0));
	snprintf(group->node, sizeof(group->node), "%s", PQgetvalue(result, 0, 1));
	snprintf(group->conninfo, sizeof(group->conninfo), "%s", PQgetvalue(result, 0, 2));
	PQclear(result);
	return true;
}

static bool open_node(aidb_session *session, const aidb_move_group *group, aidb_trouble *trouble) {
	char settings[256], name[160];

	snprintf(settings, sizeof(settings),
			 "-c search_path=pg_catalog -c aidb.expected_epoch=%" PRIu64
			 " -c statement_timeout=0 -c lock_timeout=0 -c idle_in_transaction_session_timeout=0",
			 group->epoch);
	snprintf(name, sizeof(name), "node \"%s\" of group \"%s\"", group->node, group->name);
	return aidb_session_open(session, group->conninfo, name, settings, trouble);
}

/* Sessions of who was killed may still be busy on a node: what they do late is worse than what they leave undone. */
static bool end_others(aidb_session *session) {
	uint64_t deadline_ms = aidb_socket_now_ms() + END_LIMIT_MS;
	int64_t left;

	for (;;) {
		if (!aidb_session_number(
				session,
				"SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = "
				"'" AIDB_SESSION_APPLICATION "' AND pid <> pg_backend_pid() AND datname = current_database()",
				0, NULL, &left)) {
			return false;
		}
		if (left == 0 || aidb_socket_now_ms() > deadline_ms) {
			return left == 0 || fail(session->trouble, "%s: a session of an earlier move does not end", session->name);
		}
		aidb_socket_sleep_ms(5);
	}
}

static bool purge(aidb_session *session, const char *slots) {
	aidb_value value = aidb_value_text(slots);
	int64_t removed;

	do {
		if (!aidb_session_number(session, "SELECT aidb.slots_purge($1::int[], " PURGE_ROWS ")", 1, &value, &removed)) {
			return false;
		}
	} while (removed > 0);
	return true;
}

static bool drop_pin(aidb_session *session) {
	return aidb_session_run(session, "SELECT aidb.stream_drop('" PIN "')", 0, NULL);
}

/* ---- Steps ------------------------------------------------------------------------------------------------ */

static bool on_slots(const mover *self, aidb_session *session, const char *sql) {
	aidb_value value = aidb_value_text(self->slots);

	return aidb_session_run(session, sql, 1, &value);
}

static void report(const mover *self, const char *step) {
	self->move->progress.step = step;
	if (self->move->report != NULL) {
		self->move->report(self->move->argument, self->move);
	}
}

/* Tells the catalog, too. */
static bool enter(const mover *self, const char *step) {
	aidb_value values[2] = {aidb_value_text(self->slots), aidb_value_text(step)};

	report(self, step);
	return aidb_session_run(self->move->catalog, "UPDATE aidb.slot_move SET step = $2 WHERE slot = ANY ($1::int[])", 2,
							values);
}

static bool begin(mover *self) {
	const aidb_slot_move *move = self->move;
	aidb_trouble *trouble = move->catalog->trouble;
	char source[24], target[24];
	aidb_value values[3] = {aidb_value_text(self->slots), number_value(source, move->source->id),
							number_value(target, move->target->id)};

	report(self, "begin");
	return open_node(&self->source, move->source, trouble) && open_node(&self->target, move->target, trouble) &&
		   end_others(&self->source) && end_others(&self->target) && open_node(&self->stream, move->source, trouble) &&
		   aidb_session_run(move->catalog,
							"INSERT INTO aidb.slot_move (slot, source_id, target_id) SELECT s, $2::int, $3::int FROM "
							"unnest($1::int[]) s",
							3, values) &&
		   on_slots(self, &self->target, "SELECT aidb.close_slots($1::int[])") && purge(&self->target, self->slots) &&
		   drop_pin(&self->source);
}

/* -- rows -- */

static bool write_operations(mover *self, const char *data, size_t size) {
	aidb_value value = {.data = data, .size = size};

	self->move->progress.bytes += size;
	return size == 0 || aidb_session_run(&self->target, "SELECT aidb.slots_write($1)", 1, &value);
}

/* An int8 of PostgreSQL's. */
static uint64_t big_endian(const char *bytes) {
	uint64_t number = 0;

	for (int i = 0; i < 8; i++) {
		number = number << 8 | (uint8_t)bytes[i];
	}
	return number;
}

/* One answer of the source; its last key goes to *after. */
static bool copy_chunk(mover *self, char **after, size_t *after_size, bool *more) {
	aidb_value values[2] = {aidb_value_text(self->slots), {.data = *after != NULL ? *after : "", .size = *after_size}};
	PGresult *result = aidb_session_query(
		&self->source, "SELECT operations, rows, last FROM aidb.slots_read($1::int[], $2, " CHUNK_TEXT ")", 2, values,
		true);
	bool done;

	if (result == NULL) {
		return false;
	}
	done = write_operations(self, PQgetvalue(result, 0, 0), (size_t)PQgetlength(result, 0, 0));
	self->move->progress.rows += big_endian(PQgetvalue(result, 0, 1));
	*more = PQgetisnull(result, 0, 2) == 0;
	*after_size = (size_t)PQgetlength(result, 0, 2);
	free(*after);
	*after = malloc(*after_size + 1);
	if (*after == NULL) {
		done = fail(self->move->catalog->trouble, "%s", "out of memory");
	} else {
		memcpy(*after, PQgetvalue(result, 0, 2), *after_size);
	}
	PQclear(result);
	return done;
}

static bool copy(mover *self) {
	char *after = NULL;
	size_t after_size = 0;
	int64_t pinned, expected;
	aidb_value value = aidb_value_text(self->slots);
	bool more = true, done;

	done = enter(self, "copy") &&
		   aidb_session_number(&self->source, "SELECT rows FROM aidb.slots_size($1::int[])", 1, &value, &expected) &&
		   aidb_session_number(&self->stream, "SELECT aidb.stream_open('" PIN "')", 0, NULL, &pinned) &&
		   aidb_session_run(&self->source, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY", 0, NULL);
	if (done) {
		self->changes.read = (uint64_t)pinned;
		self->move->progress.wanted_rows = (uint64_t)expected;
	}
	while (done && more) {
		done = copy_chunk(self, &after, &after_size, &more);
		report(self, "copy");
	}
	free(after);
	return done && aidb_session_run(&self->source, "COMMIT", 0, NULL);
}

/* -- what was committed since -- */

static bool flush_chunk(mover *self) {
	bool done = write_operations(self, self->chunk, self->chunk_size);

	self->chunk_size = 0;
	return done;
}

/* Changes that have come, or those of them that were seen, go to the target. */
static bool write_changes(mover *self, const aidb_seen *seen) {
	aidb_slice operations;

	while (aidb_changes_next(&self->changes, seen, &operations)) {
		if (self->chunk_size + operations.size > CHUNK_BYTES && !flush_chunk(self)) {
			return false;
		}
		if (operations.size > CHUNK_BYTES) {
			if (!write_operations(self, operations.data, operations.size)) {
				return false;
			}
			continue;
		}
		memcpy(self->chunk + self->chunk_size, operations.data, operations.size);
		self->chunk_size += operations.size;
	}
	return flush_chunk(self);
}

/* The next answer of the source's stream. What has been written here by then need not be kept there. */
static bool read_stream(mover *self, const char *wait_ms) {
	char epoch[24], after[24];
	aidb_value values[3] = {number_value(epoch, self->move->source->epoch), number_value(after, self->changes.read),
							aidb_value_text(wait_ms)};
	PGresult *result = aidb_session_query(&self->stream,
										  "SELECT aidb.stream_read('" PIN
										  "', $1::int8, $2::int8, $2::int8, '{}', " CHUNK_TEXT ", $3::int4)",
										  3, values, true);
	aidb_status rc;

	if (result == NULL) {
		return false;
	}
	self->answer_size = (size_t)PQgetlength(result, 0, 0);
	rc = aidb_changes_take(&self->changes, (aidb_slice){PQgetvalue(result, 0, 0), self->answer_size});
	PQclear(result);
	return rc == AIDB_OK ||
		   fail(self->stream.trouble,
				rc == AIDB_NO_MEMORY ? "out of memory%s" : "%s has sent a malformed part of its stream",
				rc == AIDB_NO_MEMORY ? "" : self->stream.name);
}

/* Up to a commit, and until every transaction that may have been seen by then is decided. */
static bool follow_to(mover *self, uint64_t sequence, const aidb_seen *seen, uint64_t deadline_ms) {
	do {
		if (!read_stream(self, "2") || !write_changes(self, seen)) {
			return false;
		}
	} while ((self->changes.read < sequence || !aidb_changes_is_settled(&self->changes, seen)) &&
			 aidb_socket_now_ms() < deadline_ms);
	return true;
}

/* Until an answer has all that there is, which under load is never the newest commit. */
static bool follow(mover *self) {
	do {
		if (!read_stream(self, "0") || !write_changes(self, NULL)) {
			return false;
		}
		report(self, "follow");
	} while (self->answer_size > CHUNK_BYTES / 2);
	return true;
}

/* -- comparing -- */

/* Rows and hash; with `seen`, what that statement has seen. */
static bool digest(mover *self, aidb_session *session, char text[64], aidb_seen *seen) {
	aidb_value value = aidb_value_text(self->slots);
	PGresult *result = aidb_session_query(
		session, "SELECT rows, digest, sequence, pg_current_snapshot() FROM aidb.slots_digest($1::int[])", 1, &value,
		false);
	bool fine = true;

	if (result == NULL) {
		return false;
	}
	snprintf(text, 64, "%s rows, hash %s", PQgetvalue(result, 0, 0), PQgetvalue(result, 0, 1));
	if (seen != NULL) {
		seen->sequence = strtoull(PQgetvalue(result, 0, 2), NULL, 10);
		fine = aidb_seen_read(seen, PQgetvalue(result, 0, 3)) ||
			   fail(session->trouble, "%s: too many transactions run at the same time", session->name);
	}
	PQclear(result);
	return fine;
}

/* A snapshot may be of some commits before: of such from which what has been copied has gone on. The next one is of later ones. */
static bool digest_source(mover *self, char text[64], aidb_seen *seen) {
	for (int i = 0; i < DIGEST_TRIES; i++) {
		if (!digest(self, &self->source, text, seen)) {
			return false;
		}
		if (seen->sequence >= self->changes.read) {
			return true;
		}
		aidb_socket_sleep_ms(DIGEST_PAUSE_MS);
	}
	return fail(self->source.trouble,
				"%s: its snapshots stay behind its stream; a transaction may be ending there for too long",
				self->source.name);
}

static bool compare(mover *self) {
	char there[64], here[64];
	aidb_seen *seen = malloc(sizeof(*seen));
	bool done = seen != NULL || fail(self->source.trouble, "%s", "out of memory");

	done = done && enter(self, "compare") && digest_source(self, there, seen) &&
		   follow_to(self, seen->sequence, seen, UINT64_MAX) && digest(self, &self->target, here, NULL);
	free(seen);
	if (done && strcmp(there, here) != 0) {
		snprintf(self->source.trouble->text, sizeof(self->source.trouble->text),
				 "the copy at group \"%s\" differs from the slots of group \"%s\": %s instead of %s",
				 self->move->target->name, self->move->source->name, here, there);
		return false;
	}
	return done;
}

/* -- the last moment -- */

/* 1: held; 0: not now; -1: failed. */
static int try_hold(mover *self, uint64_t *sequence) {
	int64_t newest;

	if (aidb_session_number(&self->source,
							"SELECT sequence FROM (SELECT set_config('idle_session_timeout', '" HOLD_SILENCE
							"', false)) s, aidb.slots_hold() sequence",
							0, NULL, &newest)) {
		*sequence = (uint64_t)newest;
		return 1;
	}
	/* lock_not_available, deadlock_detected */
	return strcmp(self->source.trouble->state, "55P03") == 0 || strcmp(self->source.trouble->state, "40P01") == 0 ? 0
																												  : -1;
}

/* What waits there for longer than it should may itself wait for the mover: for definitions of tables. */
static bool mark(mover *self) {
	bool done = aidb_session_run(&self->source, "SET lock_timeout = '" MARK_WAIT "'", 0, NULL) &&
				on_slots(self, &self->source, "SELECT aidb.slots_mark($1::int[])");

	if (!done && strcmp(self->source.trouble->state, "55P03") == 0) {
		return fail(self->source.trouble,
					"%s: a transaction has been open for " MARK_WAIT "; see pg_stat_activity there", self->source.name);
	}
	return done && aidb_session_run(&self->source, "SET lock_timeout = '" HOLD_WAIT "'", 0, NULL);
}

static bool release(mover *self) {
	return aidb_session_run(&self->source,
							"SELECT aidb.slots_release(), set_config('idle_session_timeout', '0', false), "
							"set_config('lock_timeout', '0', false)",
							0, NULL);
}

/* Nobody writes to the slots, and all that was written is at the target. */
static bool hold_once(mover *self, uint64_t *begun_ms, bool *held) {
	uint64_t sequence;
	int tried;

	*held = false;
	if (!follow(self)) {
		return false;
	}
	*begun_ms = aidb_socket_now_ms();
	report(self, "hold");
	tried = try_hold(self, &sequence);
	if (tried <= 0) {
		aidb_socket_sleep_ms(tried == 0 ? HOLD_PAUSE_MS : 0);
		return tried == 0;
	}
	if (!follow_to(self, sequence, NULL, *begun_ms + HOLD_LIMIT_MS)) {
		return false;
	}
	*held = self->changes.read >= sequence && aidb_changes_is_settled(&self->changes, NULL);
	return *held || (release(self) && mark(self));
}

static bool hold(mover *self, uint64_t *begun_ms) {
	bool held = false;

	if (!enter(self, "hold")) {
		return false;
	}
	for (int i = 0; i < HOLD_TRIES && !held; i++) {
		if (!hold_once(self, begun_ms, &held)) {
			return false;
		}
	}
	return held || fail(self->source.trouble,
						"%s: transactions that write to the slots do not end; try again when there are none that last",
						self->source.name);
}

static bool hand_over(mover *self) {
	const aidb_slot_move *move = self->move;
	char source[24], target[24];
	aidb_value values[3] = {aidb_value_text(self->slots), number_value(source, move->source->id),
							number_value(target, move->target->id)};
	uint64_t begun_ms;

	if (!hold(self, &begun_ms) || !aidb_session_run(&self->target, "SELECT aidb.slots_sync()", 0, NULL)) {
		return false;
	}
	report(self, "close");
	if (!on_slots(self, &self->source, "SELECT aidb.close_slots($1::int[])")) {
		return false;
	}
	report(self, "record");
	if (!aidb_session_run(move->catalog, "SELECT aidb.record_move($1::int[], $2::int, $3::int)", 3, values)) {
		return false;
	}
	report(self, "open");
	if (!on_slots(self, &self->target, "SELECT aidb.open_slots($1::int[])") || !release(self)) {
		return false;
	}
	self->move->progress.hold_ms = aidb_socket_now_ms() - begun_ms;
	return true;
}

/* ---- The whole -------------------------------------------------------------------------------------------- */

static bool forget(aidb_session *catalog, const char *slots) {
	aidb_value value = aidb_value_text(slots);

	return aidb_session_run(catalog, "DELETE FROM aidb.slot_move WHERE slot = ANY ($1::int[])", 1, &value);
}

static bool note(const mover *self) {
	const aidb_slot_move *move = self->move;
	char text[256];
	aidb_value values[3] = {aidb_value_text(move->source->name), aidb_value_text(move->target->name),
							aidb_value_text(text)};

	snprintf(text, sizeof(text), "{%" PRIu32 ",%" PRIu64 ",%" PRIu64 ",%.3f,%" PRIu64 "}",
			 aidb_slot_set_count(&move->slots), move->progress.rows, move->progress.bytes,
			 (double)(aidb_socket_now_ms() - move->progress.begun_ms) / 1000, move->progress.hold_ms);
	return aidb_session_run(move->catalog,
							"INSERT INTO aidb.slot_history (source, target, slots, \"rows\", bytes, seconds, hold_ms)"
							" SELECT $1, $2, n[1], n[2], n[3], n[4], n[5] FROM (SELECT $3::float8[] AS n) a",
							3, values) &&
		   forget(move->catalog, self->slots);
}

static bool clean_up(mover *self) {
	return enter(self, "purge") && purge(&self->source, self->slots) && drop_pin(&self->source) && note(self);
}

static bool run_steps(mover *self) {
	return begin(self) && copy(self) && enter(self, "follow") && follow(self) && enter(self, "mark") && mark(self) &&
		   compare(self) && hand_over(self) && clean_up(self);
}

bool aidb_slot_move_run(aidb_slot_move *move) {
	mover self = {.move = move, .changes = {.slots = move->slots}, .chunk = malloc(CHUNK_BYTES)};
	bool done;

	move->progress = (aidb_move_progress){.begun_ms = aidb_socket_now_ms()};
	aidb_slots_text(&move->slots, self.slots);
	done = self.chunk != NULL ? run_steps(&self) : fail(move->catalog->trouble, "%s", "out of memory");
	aidb_session_close(&self.stream);
	aidb_session_close(&self.source);
	aidb_session_close(&self.target);
	aidb_changes_free(&self.changes);
	free(self.chunk);
	return done;
}

/* ---- What was broken off ---------------------------------------------------------------------------------- */

typedef struct leftover {
	uint32_t source, target;
	bool moved;
	uint32_t count;
	char slots[AIDB_SLOTS_TEXT_BYTES];
} leftover;

static bool finish_at(const leftover *of, aidb_session *source, aidb_session *target) {
	aidb_value value = aidb_value_text(of->slots);
	aidb_session *owner = of->moved ? target : source, *other = of->moved ? source : target;

	return end_others(source) && end_others(target) &&
		   aidb_session_run(other, "SELECT aidb.close_slots($1::int[])", 1, &value) &&
		   aidb_session_run(owner, "SELECT aidb.open_slots($1::int[])", 1, &value) && purge(other, of->slots) &&
		   drop_pin(source);
}

static bool finish(aidb_session *catalog, const leftover *of) {
	aidb_move_group groups[2];
	aidb_session source = {.connection = NULL}, target = {.connection = NULL};
	bool done = aidb_move_group_read(catalog, of->source, &groups[0]) &&
				aidb_move_group_read(catalog, of->target, &groups[1]) &&
				open_node(&source, &groups[0], catalog->trouble) && open_node(&target, &groups[1], catalog->trouble) &&
				finish_at(of, &source, &target) && forget(catalog, of->slots);

	aidb_session_close(&source);
	aidb_session_close(&target);
	return done;
}

bool aidb_slot_moves_finish(aidb_session *catalog, uint32_t *count) {
	PGresult *result = aidb_session_query(catalog,
										  "SELECT source_id, target_id, moved, array_agg(slot ORDER BY slot), count(*)"
										  " FROM aidb.slot_move GROUP BY 1, 2, 3",
										  0, NULL, false);
	bool done = result != NULL;
	uint32_t finished = 0;

	for (int row = 0; done && row < PQntuples(result); row++) {
		leftover of = {.source = (uint32_t)strtoul(PQgetvalue(result, row, 0), NULL, 10),
					   .target = (uint32_t)strtoul(PQgetvalue(result, row, 1), NULL, 10),
					   .moved = PQgetvalue(result, row, 2)[0] == 't',
					   .count = (uint32_t)strtoul(PQgetvalue(result, row, 4), NULL, 10)};

		snprintf(of.slots, sizeof(of.slots), "%s", PQgetvalue(result, row, 3));
		done = finish(catalog, &of);
		finished += done ? of.count : 0;
	}
	PQclear(result);
	if (count != NULL) {
		*count = finished;
	}
	return done;
}
