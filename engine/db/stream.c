/*
 * Reading the log as it grows.
 *
 * A stream begins where its pin stands and walks the records from there; the pin keeps the segments. When it is lost on the
 * way, segments may be renamed to be new ones under our feet: then their headers, or the checksums of their fragments,
 * which depend on the position, do not fit, and the stream ends with AIDB_NOT_FOUND.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "db/db.h"

struct aidb_stream {
	aidb_db *db;
	char pin[AIDB_PIN_NAME_BYTES];
	aidb_sequence sequence; /* of the last record read */
	aidb_sequence after;    /* those up to here are passed over */
	uint64_t limit;         /* records that end up to here may be handed out */
	lsm_record_reader reader;
	lsm_segment_file file;
};

/* ---- Reading segments ------------------------------------------------------------------------------------ */

static void close_file(aidb_stream *stream) {
	if (stream->file.file >= 0) {
		stream->db->host->file_close(stream->db->host->context, stream->file.file);
		stream->file.file = -1;
	}
}

/* For the record reader: a segment that is missing or not that segment's any more has nothing to read. */
static aidb_status read_segment(void *argument, uint64_t position, uint8_t *data, size_t size, size_t *got) {
	aidb_stream *stream = argument;
	const aidb_host *host = stream->db->host;
	const lsm_log_geometry *geometry = &stream->reader.geometry;
	uint64_t segment = position / geometry->segment_bytes;
	uint8_t header[LSM_SEGMENT_HEADER_BYTES];
	char path[LSM_PATH_BYTES];
	size_t header_got = 0;
	int error = 0;

	*got = 0;
	lsm_segment_path(stream->db->directory, segment, path, sizeof(path));
	if (stream->file.file < 0 || stream->file.segment != segment) {
		close_file(stream);
		error = host->file_open(host->context, path, AIDB_FILE_READ, &stream->file.file);
		if (error != 0) {
			stream->file.file = -1;
			return error == ENOENT ? AIDB_OK : lsm_fail_errno(error, "open log segment", path);
		}
		stream->file.segment = segment;
	}
	error = host->file_read(host->context, stream->file.file, header, sizeof(header), 0, &header_got);
	if (error == 0 && header_got == sizeof(header) && lsm_segment_header_check(header, geometry, segment)) {
		error = host->file_read(host->context, stream->file.file, data, size, position % geometry->segment_bytes, got);
	}
	if (error != 0 || *got == 0) {
		close_file(stream);
	}
	return error == 0 ? AIDB_OK : lsm_fail_errno(error, "read log segment", path);
}

/* ---- Opening and closing --------------------------------------------------------------------------------- */

static bool find_pin(aidb_db *db, const char *name, aidb_pin *found) {
	aidb_pin pins[AIDB_MAX_PINS];
	uint32_t count = aidb_pin_list(db, pins);

	for (uint32_t i = 0; i < count; i++) {
		if (strcmp(pins[i].name, name) == 0) {
			*found = pins[i];
			return true;
		}
	}
	return false;
}

static aidb_status check_start(aidb_db *db, const char *name, aidb_sequence after, aidb_pin *pin) {
	aidb_sequence last = aidb_last_sequence(db);

	if (!find_pin(db, name, pin)) {
		return lsm_fail(AIDB_NOT_FOUND, "there is no pin \"%s\"; the replica has to be copied anew", name);
	}
	if (pin->lost) {
		return lsm_fail(AIDB_NOT_FOUND,
						"pin \"%s\" is lost, the log has been discarded; the replica has to be copied anew", name);
	}
	if (after < pin->sequence) {
		return lsm_fail(AIDB_NOT_FOUND,
						"the log is kept for pin \"%s\" beyond commit %" PRIu64 ", and the replica has %" PRIu64
						"; it has to be copied anew",
						name, pin->sequence, after);
	}
	if (after > last) {
		return lsm_fail(AIDB_NOT_FOUND,
						"the replica has commit %" PRIu64 ", and this store's last is %" PRIu64
						": they have different histories; it has to be copied anew",
						after, last);
	}
	return AIDB_OK;
}

aidb_status aidb_stream_open(aidb_db *db, const char *pin, aidb_sequence after, aidb_stream **stream) {
	aidb_stream *opened;
	aidb_pin start;
	uint32_t member;
	aidb_status rc = lsm_enter(db, &member);

	if (rc == AIDB_OK) {
		rc = check_start(db, pin, after, &start);
	}
	if (rc != AIDB_OK) {
		return rc;
	}
	opened = calloc(1, sizeof(*opened));
	if (opened == NULL) {
		return lsm_fail(AIDB_NO_MEMORY, "out of memory: could not open a stream");
	}
	opened->db = db;
	memcpy(opened->pin, start.name, sizeof(opened->pin));
	opened->sequence = start.sequence;
	opened->after = after;
	opened->limit = start.position;
	opened->file.file = -1;
	opened->reader.geometry = db->shared->log.geometry;
	opened->reader.source = read_segment;
	opened->reader.source_argument = opened;
	opened->reader.position = start.position;
	*stream = opened;
	return AIDB_OK;
}

void aidb_stream_close(aidb_stream *stream) {
	if (stream != NULL) {
		close_file(stream);
		lsm_record_reader_free(&stream->reader);
		free(stream);
	}
}

uint64_t aidb_store_id(const aidb_db *db) {
	return db->shared->log.geometry.store_id;
}

/* ---- Waiting --------------------------------------------------------------------------------------------- */

aidb_status aidb_stream_wait(aidb_stream *stream, uint64_t timeout_us, bool *more) {
	aidb_db *db = stream->db;
	lsm_log *log = &db->shared->log;
	uint32_t ticket = lsm_event_prepare(&log->progress);
	aidb_status rc = AIDB_OK;

	stream->limit = atomic_load(&log->synced);
	if (stream->limit <= stream->reader.position && timeout_us > 0) {
		rc = lsm_event_wait(&db->arena.waiting, &log->progress, ticket, timeout_us, AIDB_WAIT_STREAM);
		stream->limit = atomic_load(&log->synced);
	}
	if (rc == AIDB_OK) {
		*more = stream->limit > stream->reader.position;
	}
	return rc;
}

void aidb_stream_wake(aidb_db *db) {
	lsm_event_signal(&db->arena.waiting, &db->shared->log.progress);
}

/* ---- Records --------------------------------------------------------------------------------------------- */

/* What is synced cannot be read: the log is damaged, or it has been discarded because the pin was lost. */
static aidb_status unreadable(const aidb_stream *stream, const char *reason) {
	uint64_t position = stream->reader.position;
	char path[LSM_PATH_BYTES];
	aidb_pin pin;

	if (!find_pin(stream->db, stream->pin, &pin) || pin.lost) {
		return lsm_fail(AIDB_NOT_FOUND,
						"pin \"%s\" is lost, the log has been discarded; the replica has to be copied anew",
						stream->pin);
	}
	lsm_segment_path(stream->db->directory, position / stream->reader.geometry.segment_bytes, path, sizeof(path));
	return lsm_fail(AIDB_CORRUPT, "%s: offset %" PRIu64 ": %s; copy the replica anew", path,
					position % stream->reader.geometry.segment_bytes, reason);
}

/* The block that the reader has may have been read before the record was written; the second time it is read anew. */
static aidb_status read_record(aidb_stream *stream, aidb_slice *payload) {
	lsm_record_result result = LSM_RECORD_END;
	aidb_status rc = AIDB_OK;

	for (int attempt = 0; attempt < 2 && result == LSM_RECORD_END; attempt++) {
		result = lsm_record_read(&stream->reader, payload, &rc);
	}
	if (result == LSM_RECORD_END) {
		rc = unreadable(stream, "a record below the synced position cannot be read");
	}
	return rc;
}

static aidb_status decode_record(aidb_stream *stream, aidb_slice payload, aidb_stream_record *record) {
	lsm_reader reader = lsm_reader_of(payload.data, payload.size);
	lsm_payload_head head;

	if (!lsm_payload_head_read(&reader, &head) || head.sequence <= stream->sequence) {
		return unreadable(stream, "a record with a valid checksum is malformed or out of order");
	}
	stream->sequence = head.sequence;
	*record = (aidb_stream_record){.sequence = head.sequence,
								   .state = head.state,
								   .tag = head.tag,
								   .count = head.count,
								   .operations = {reader.at, lsm_reader_left(&reader)},
								   .end = stream->reader.position};
	return AIDB_OK;
}

aidb_status aidb_stream_next(aidb_stream *stream, aidb_stream_record *record, bool *got) {
	aidb_stream_record read = {.sequence = 0};
	aidb_slice payload;
	aidb_status rc = AIDB_OK;

	do {
		if (stream->reader.position >= stream->limit) {
			*got = false;
			return AIDB_OK;
		}
		rc = read_record(stream, &payload);
		if (rc == AIDB_OK) {
			rc = decode_record(stream, payload, &read);
		}
	} while (rc == AIDB_OK && read.sequence <= stream->after);
	if (rc == AIDB_OK) {
		*record = read;
		*got = true;
	}
	return rc;
}
