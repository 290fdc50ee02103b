/*
 * What a primary serves to its replicas: aidb.stream_open, stream_read, stream_drop, stream_slots.
 *
 * The engine's log has plain commits, which are passed on as they are, and prepared batches, tagged with the id of a
 * PostgreSQL transaction. A replica cannot know what has become of that, so it is told: commit(T) or abort(T). Where, in the
 * order of the stream?
 *
 *   - Not after a commit that may build on T. Such a commit was written after T had ended. So the end of what is passed on is
 *     fixed first (the log as far as it is durable); whoever is found running after that, has nothing in it that builds on it.
 *   - Not seen before what T may build on. That is at most what was visible when T ended, which T has noted (view.h); or,
 *     when no note is found, what is visible once T is seen to have ended: its *bound*. Readers on the replica are shown
 *     whole windows only, and a window does not end before every transaction in it that has ended is decided, which
 *     happens once the stream is beyond its bound.
 *   - Between its batches and its end, T has its keys locked: it does not matter where among the others its effects come.
 *
 * A commit is told only when it is durable in PostgreSQL's log.
 *
 * The session keeps its place in the log from one call to the next; what it does not know it is told by the replica.
 */
#include "postgres.h"

#include "access.h"
#include "access/transam.h"
#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "host.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "replication/stream.h"
#include "replication/stream_format.h"
#include "role.h"
#include "shared.h"
#include "sql_value.h"
#include "storage/latch.h"
#include "storage/lmgr.h"
#include "storage/procarray.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"
#include "view.h"

PG_FUNCTION_INFO_V1(aipg_sql_stream_open);
PG_FUNCTION_INFO_V1(aipg_sql_stream_read);
PG_FUNCTION_INFO_V1(aipg_sql_stream_drop);
PG_FUNCTION_INFO_V1(aipg_sql_stream_slots);

#define MAX_OPEN 4096 /* transactions that are to be decided */
#define MAX_PLACES 64 /* ends of responses that were not acknowledged yet */
#define MIN_RESPONSE_BYTES 1024
#define MAX_RESPONSE_BYTES (64 << 20)
#define MAX_WAIT_MS 60000
#define OPEN_WAIT_MS 10000
#define OPEN_NAP_MS 20
#define NAP_US 1000000 /* transactions that were prepared tell nobody when they end */

/* A transaction of which batches were passed on. */
typedef struct open_tag {
	aidb_tag tag;
	aidb_sequence bound; /* 0: it runs, as far as is known */
	bool was_prepared;   /* it ended some time after its last batch, when the bound could be seen */
} open_tag;

typedef struct place {
	aidb_sequence sequence;
	uint64 position;
} place;

static struct {
	char slot[AIDB_PIN_NAME_BYTES];
	aidb_stream *stream; /* NULL: none is open */
	aidb_sequence sequence;
	uint64 position; /* 0: not known */
	open_tag open[MAX_OPEN];
	int open_count;
	place places[MAX_PLACES];
	int place_count;
} session;

/* ---- Arguments ------------------------------------------------------------------------------------------- */

static const char *slot_argument(FunctionCallInfo fcinfo, int argument) {
	const char *slot = text_to_cstring(PG_GETARG_TEXT_PP(argument));

	if (slot[0] == '\0' || strlen(slot) >= AIDB_PIN_NAME_BYTES) {
		ereport(ERROR, (errcode(ERRCODE_INVALID_NAME), errmsg("invalid name of a slot: \"%s\"", slot),
						errhint("Use a name of 1 to %u bytes.", AIDB_PIN_NAME_BYTES - 1)));
	}
	return slot;
}

static uint64 sequence_argument(FunctionCallInfo fcinfo, int argument, const char *name) {
	int64 value = PG_GETARG_INT64(argument);

	if (value < 0) {
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("%s must not be negative", name)));
	}
	return (uint64)value;
}

void aipg_stream_check_primary(uint64 epoch) {
	aipg_role_state state = aipg_role_get();

	if (state.role == AIPG_PRIMARY && epoch > state.epoch) {
		state.epoch = epoch;
		state.sealed = true;
		aipg_role_set(&state);
		ereport(LOG,
				(errmsg("this server is not the primary of its group any more: a replica knows of epoch " UINT64_FORMAT,
						epoch)));
	}
	if (state.role != AIPG_PRIMARY || state.sealed) {
		ereport(ERROR, (errcode(AIPG_ERRCODE_WRONG_EPOCH), errmsg("this server is no primary that can be followed"),
						errdetail("Its role is \"%s\"%s, its epoch " UINT64_FORMAT ".", aipg_role_name(state.role),
								  state.sealed ? ", sealed" : "", state.epoch),
						errhint("Ask the coordinator for the present primary, or call aidb.become_primary() here.")));
	}
}

/* ---- The session's place --------------------------------------------------------------------------------- */

static void pg_attribute_noreturn() raise_stream(aidb_status rc) {
	const char *reason = pstrdup(aidb_last_error());

	if (rc == AIDB_NOT_FOUND) {
		ereport(ERROR, (errcode(AIPG_ERRCODE_STREAM_LOST), errmsg("the stream cannot go on from there"),
						errdetail("%s.", reason)));
	}
	aipg_raise(rc, "could not read the log of the AiDb store");
}

static void close_stream(void) {
	aidb_stream_close(session.stream);
	session.stream = NULL;
	session.open_count = 0;
	session.place_count = 0;
}

static void add_open(aidb_tag tag) {
	for (int i = 0; i < session.open_count; i++) {
		if (session.open[i].tag == tag) {
			return;
		}
	}
	if (session.open_count == MAX_OPEN) {
		ereport(ERROR, (errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
						errmsg("more than %d transactions of the stream are undecided", MAX_OPEN),
						errhint("See pg_prepared_xacts for transactions that wait to be finished.")));
	}
	session.open[session.open_count++] = (open_tag){.tag = tag};
}

static void add_tags(ArrayType *array) {
	Datum *tags;
	bool *nulls;
	int count;

	deconstruct_array(array, INT8OID, 8, FLOAT8PASSBYVAL, TYPALIGN_DOUBLE, &tags, &nulls, &count);
	for (int i = 0; i < count; i++) {
		if (!nulls[i]) {
			add_open((aidb_tag)DatumGetInt64(tags[i]));
		}
	}
}

/* Opens the stream where the replica is, unless that is where the session's stands. */
static void take_place(const char *slot, aidb_sequence after, ArrayType *tags) {
	aidb_status rc;

	if (session.stream == NULL || strcmp(session.slot, slot) != 0 || session.sequence != after) {
		close_stream();
		rc = aidb_stream_open(aipg_store(), slot, after, &session.stream);
		if (rc != AIDB_OK) {
			session.stream = NULL;
			raise_stream(rc);
		}
		strlcpy(session.slot, slot, sizeof(session.slot));
		session.sequence = after;
	}
	add_tags(tags);
}

/* The replica has everything up to there durably. */
static void acknowledge(const char *slot, aidb_sequence acknowledged) {
	aidb_db *db = aipg_store();
	aipg_role_state state = aipg_role_get();
	place reached = {0};
	int left = 0;

	for (int i = 0; i < session.place_count; i++) {
		if (session.places[i].sequence <= acknowledged) {
			reached = session.places[i];
		} else {
			session.places[left++] = session.places[i];
		}
	}
	session.place_count = left;
	if (reached.position != 0) {
		(void)aidb_pin_advance(db, slot, reached.sequence, reached.position); /* a lost one is found out by reading */
	}
	if (strcmp(state.synchronous, slot) == 0) {
		aidb_replication_advance(db, acknowledged);
	}
}

static void note_place(aidb_sequence sequence, uint64 position) {
	if (session.place_count == MAX_PLACES) {
		memmove(session.places, session.places + 1, (MAX_PLACES - 1) * sizeof(place));
		session.place_count--;
	}
	session.places[session.place_count++] = (place){sequence, position};
}

/* ---- Transactions that are to be decided ------------------------------------------------------------------ */

/* What was visible when the transaction ended, as it has noted; 0 when there is no note. */
static aidb_sequence noted_end(aidb_tag tag, bool *was_prepared) {
	aipg_shared *shared = aipg_shared_memory;
	aidb_sequence found = 0;
	uint64 count, first;

	SpinLockAcquire(&shared->ended_lock);
	count = pg_atomic_read_u64(&shared->ended_count);
	first = count > shared->ended_size ? count - shared->ended_size : 0;
	for (uint64 index = first; index < count; index++) {
		aipg_ended *ended = &shared->ended[index & (shared->ended_size - 1)];

		if (pg_atomic_read_u64(&ended->transaction) == tag) {
			found = pg_atomic_read_u64(&ended->sequence);
			*was_prepared = pg_atomic_read_u32(&ended->prepared) != 0;
			break;
		}
	}
	SpinLockRelease(&shared->ended_lock);
	return found;
}

static TransactionId xid_of(aidb_tag tag) {
	return XidFromFullTransactionId((FullTransactionId){.value = tag});
}

/* Whether it can be decided in a response that ends with `upto`. Sets its bound once it has ended. */
static bool is_decidable(open_tag *open, aidb_sequence upto) {
	if (open->bound == 0) {
		if (TransactionIdIsInProgress(xid_of(open->tag))) {
			return false;
		}
		open->bound = noted_end(open->tag, &open->was_prepared);
		if (open->bound == 0) {
			open->bound = aidb_current_sequence(aipg_store());
		}
	}
	return open->bound <= upto;
}

static bool any_waits_for_its_bound(void) {
	for (int i = 0; i < session.open_count; i++) {
		if (session.open[i].bound != 0) {
			return true;
		}
	}
	return false;
}

/* ---- A response ------------------------------------------------------------------------------------------ */

typedef struct response {
	StringInfoData bytes;
	aipg_stream_head head;
	uint64 position; /* in the log, of its end */
} response;

static void append_event(response *to, const aipg_stream_event *event) {
	uint8_t head[AIPG_STREAM_EVENT_BYTES];

	aipg_stream_write_event(head, event);
	appendBinaryStringInfo(&to->bytes, (const char *)head, sizeof(head));
	if (event->operations.size > 0) {
		appendBinaryStringInfo(&to->bytes, event->operations.data, (int)event->operations.size);
	}
	to->head.events++;
}

/* Everything up to the stream's limit, or what fits. */
static void append_records(response *to, int max_bytes) {
	aidb_stream_record record;
	bool got = true;

	while (to->bytes.len < max_bytes) {
		aidb_status rc = aidb_stream_next(session.stream, &record, &got);

		if (rc != AIDB_OK) {
			raise_stream(rc);
		}
		if (!got) {
			break;
		}
		to->head.upto = record.sequence;
		to->position = record.end;
		if (record.state == AIDB_BATCH_PREPARED) {
			add_open(record.tag);
		}
		if (record.state == AIDB_BATCH_PLAIN || record.state == AIDB_BATCH_PREPARED) {
			append_event(to, &(aipg_stream_event){.kind = record.state == AIDB_BATCH_PLAIN ? AIPG_EVENT_PLAIN
																						   : AIPG_EVENT_PREPARED,
												  .sequence = record.sequence,
												  .tag = record.tag,
												  .operations = record.operations});
		}
	}
}

static void append_decisions(response *to) {
	bool flushed = false;
	int left = 0;

	for (int i = 0; i < session.open_count; i++) {
		open_tag *open = &session.open[i];
		bool committed;

		if (!is_decidable(open, to->head.upto)) {
			session.open[left++] = *open;
			continue;
		}
		committed = TransactionIdDidCommit(xid_of(open->tag));
		if (committed && !flushed) {
			XLogFlush(aipg_inserted_end());
			flushed = true;
		}
		append_event(to, &(aipg_stream_event){.kind = committed ? AIPG_EVENT_COMMIT : AIPG_EVENT_ABORT,
											  .sequence = open->was_prepared ? open->bound : 0,
											  .tag = open->tag});
	}
	session.open_count = left;
}

/* False: there is nothing to tell. */
static bool fill(response *to, int max_bytes) {
	uint8_t head[AIPG_STREAM_HEAD_BYTES] = {0};
	bool more;
	aidb_status rc = aidb_stream_wait(session.stream, 0, &more);

	if (rc != AIDB_OK) {
		raise_stream(rc);
	}
	resetStringInfo(&to->bytes);
	appendBinaryStringInfo(&to->bytes, (const char *)head, sizeof(head));
	to->head = (aipg_stream_head){.from = session.sequence, .upto = session.sequence};
	to->position = 0;
	if (more) {
		append_records(to, max_bytes);
	}
	append_decisions(to);
	if (!any_waits_for_its_bound()) {
		to->head.flags |= AIPG_STREAM_WINDOW_END;
	}
	return to->head.events > 0 || to->head.upto > to->head.from;
}

static void finish(response *to) {
	to->head.epoch = aipg_role_epoch();
	to->head.store_id = aidb_store_id(aipg_store());
	to->head.current = aidb_current_sequence(aipg_store());
	to->head.clock_us = (uint64)GetCurrentTimestamp();
	aipg_stream_write_head((uint8_t *)to->bytes.data, &to->head);
	if (to->position != 0) {
		note_place(to->head.upto, to->position);
	}
	session.sequence = to->head.upto;
}

/* Waits for more log, or for the end of a transaction. */
static void wait_for_more(TimestampTz deadline) {
	long left_us = (long)(deadline - GetCurrentTimestamp());
	aidb_status rc;
	bool more;

	rc = aidb_stream_wait(session.stream, (uint64)Max(Min(left_us, NAP_US), 1), &more);
	CHECK_FOR_INTERRUPTS();
	if (rc != AIDB_OK && rc != AIDB_INTERRUPTED) {
		raise_stream(rc);
	}
}

/* What commits wait for is in nobody's hands before the replica that they wait for has it: no other one is told earlier. */
static void wait_visible(aidb_sequence sequence) {
	aidb_status rc;

	do {
		CHECK_FOR_INTERRUPTS();
		rc = aidb_wait_visible(aipg_store(), sequence);
	} while (rc == AIDB_INTERRUPTED);
	if (rc != AIDB_OK) {
		raise_stream(rc);
	}
}

/* stream_read(slot, epoch, after, acknowledged, undecided, max_bytes, wait_ms) */
Datum aipg_sql_stream_read(PG_FUNCTION_ARGS) {
	const char *slot = slot_argument(fcinfo, 0);
	uint64 epoch = sequence_argument(fcinfo, 1, "epoch");
	aidb_sequence after = sequence_argument(fcinfo, 2, "after");
	aidb_sequence acknowledged = sequence_argument(fcinfo, 3, "acknowledged");
	int max_bytes = aipg_int32_argument(fcinfo, 5, "max_bytes", MIN_RESPONSE_BYTES, MAX_RESPONSE_BYTES);
	int wait_ms = aipg_int32_argument(fcinfo, 6, "wait_ms", 0, MAX_WAIT_MS);
	TimestampTz deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), wait_ms);
	response answer = {0};

	aipg_stream_check_primary(epoch);
	initStringInfo(&answer.bytes);
	PG_TRY();
	{
		take_place(slot, after, PG_GETARG_ARRAYTYPE_P(4));
		acknowledge(slot, Min(acknowledged, after));
		while (!fill(&answer, max_bytes) && GetCurrentTimestamp() < deadline) {
			wait_for_more(deadline);
			aipg_stream_check_primary(epoch);
		}
		if (strcmp(aipg_role_get().synchronous, slot) != 0) {
			wait_visible(answer.head.upto);
		}
		finish(&answer);
	}
	PG_CATCH();
	{
		close_stream(); /* what has been read on the way would be missing */
		PG_RE_THROW();
	}
	PG_END_TRY();
	PG_RETURN_BYTEA_P(aipg_bytea((aidb_slice){answer.bytes.data, (size_t)answer.bytes.len}));
}

/* ---- Slots ----------------------------------------------------------------------------------------------- */

void aipg_stream_wait_for_running(void) {
	Snapshot snapshot = GetLatestSnapshot();
	int count = (int)snapshot->xcnt;
	TransactionId *running = palloc(sizeof(TransactionId) * (size_t)Max(count, 1));

	memcpy(running, snapshot->xip, sizeof(TransactionId) * (size_t)count);
	for (int i = 0; i < count; i++) {
		XactLockTableWait(running[i], NULL, NULL, XLTW_None);
	}
}

/*
 * A copy that is made from now on has what is visible, and the stream goes on behind the newest commit: what lies in between, because
 * it waits for a replica, would be in neither. For the replica that it waits for itself that may be for ever.
 */
static void wait_for_place(const char *slot, aidb_sequence sequence) {
	TimestampTz deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), OPEN_WAIT_MS);

	if (strcmp(aipg_role_get().synchronous, slot) != 0) {
		wait_visible(sequence);
		return;
	}
	while (aidb_current_sequence(aipg_store()) < sequence) {
		if (GetCurrentTimestamp() >= deadline) {
			ereport(ERROR, (errcode(ERRCODE_OBJECT_IN_USE),
							errmsg("commits wait for slot \"%s\": a copy for it would be without them", slot),
							errhint("Call aidb.set_in_sync() first.")));
		}
		CHECK_FOR_INTERRUPTS();
		(void)WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, OPEN_NAP_MS, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
	}
}

Datum aipg_sql_stream_open(PG_FUNCTION_ARGS) {
	const char *slot = slot_argument(fcinfo, 0);
	aidb_pin pin;
	aidb_status rc;

	aipg_stream_check_primary(0);
	rc = aidb_pin_create(aipg_store(), slot, &pin);
	if (rc != AIDB_OK) {
		aipg_raise(rc, "could not make a slot for a replica");
	}
	wait_for_place(slot, pin.sequence);
	aipg_stream_wait_for_running();
	PG_RETURN_INT64((int64)pin.sequence);
}

Datum aipg_sql_stream_drop(PG_FUNCTION_ARGS) {
	const char *slot = slot_argument(fcinfo, 0);
	aipg_role_state state = aipg_role_get();
	aidb_status rc;

	if (strcmp(state.synchronous, slot) == 0) {
		ereport(ERROR, (errcode(ERRCODE_OBJECT_IN_USE), errmsg("commits wait for slot \"%s\"", slot),
						errhint("Call aidb.set_in_sync() first.")));
	}
	rc = aidb_pin_drop(aipg_store(), slot);
	if (rc != AIDB_OK && rc != AIDB_NOT_FOUND) {
		aipg_raise(rc, "could not drop the slot of a replica");
	}
	PG_RETURN_BOOL(rc == AIDB_OK);
}

Datum aipg_sql_stream_slots(PG_FUNCTION_ARGS) {
	ReturnSetInfo *result = (ReturnSetInfo *)fcinfo->resultinfo;
	aidb_pin pins[AIDB_MAX_PINS];
	uint32 count = aidb_pin_list(aipg_store(), pins);

	InitMaterializedSRF(fcinfo, 0);
	for (uint32 i = 0; i < count; i++) {
		Datum columns[4] = {CStringGetTextDatum(pins[i].name), Int64GetDatum((int64)pins[i].sequence),
							Int64GetDatum((int64)pins[i].retained_bytes), BoolGetDatum(pins[i].lost)};
		bool nulls[4] = {false};

		tuplestore_putvalues(result->setResult, result->setDesc, columns, nulls);
	}
	return (Datum)0;
}
