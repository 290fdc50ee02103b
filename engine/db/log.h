/*
 * log.h: the write-ahead log.
 *
 * One endless sequence of bytes (format/record.h), of which a window lies in a ring in the arena. Committing members
 * copy their records into the ring in parallel; whoever needs them written or synced first becomes the leader, writes
 * out everything copied without a gap, and syncs for the whole group. Segments are made ahead and filled with zeroes: so
 * a full disk is met when space is reserved and not when a commit is written, and a sync changes no metadata of the file
 * system, which makes it several times faster. Old segments are renamed to be new ones.
 *
 * Segment file: <number, 16 hex digits>.log, of segment_bytes. Header, LSM_SEGMENT_HEADER_BYTES: magic u64 | format
 * version u32 | reserved u32 | store id u64 | log position of the segment u64 | segment bytes u64 | reserved u64*2 |
 * checksum u64 (XXH3 of the bytes before).
 *
 * Payload of a record: sequence u64 | synced position u64 when it was written | tag u64 | state u8 | operation count
 * u32 | operations (db/batch.c). Damage below a synced position that any later record bears is corruption; damage
 * above is the torn tail.
 */
#ifndef LSM_LOG_H
#define LSM_LOG_H

#include "format/record.h"
#include "store/arena.h"

#define LSM_SEGMENT_MAGIC 0x31676f6c62444941ull /* "AIDblog1" */
#define LSM_LOG_VERSION 1u
#define LSM_PAYLOAD_HEAD_BYTES 29u

/* The fixed head of a record's payload. */
typedef struct lsm_payload_head {
	aidb_sequence sequence;
	uint64_t synced;
	aidb_tag tag;
	aidb_batch_state state;
	uint32_t count;
} lsm_payload_head;

void lsm_payload_head_write(uint8_t to[LSM_PAYLOAD_HEAD_BYTES], const lsm_payload_head *head);
/* Leaves the reader at the operations. False when malformed. */
bool lsm_payload_head_read(lsm_reader *reader, lsm_payload_head *head);

/* A pin, see aidb_pin_create; without a name it is free. */
typedef struct lsm_pin {
	char name[AIDB_PIN_NAME_BYTES];
	aidb_sequence sequence;
	uint64_t position;
	uint64_t stored; /* the position that the manifest has, from which a restart goes on */
	bool lost;
} lsm_pin;

typedef struct lsm_log {
	lsm_log_geometry geometry;
	lsm_ref ring;
	uint64_t ring_bytes; /* a power of two */

	_Alignas(LSM_CACHE_LINE) _Atomic uint64_t written; /* handed to the operating system up to here */
	_Atomic uint64_t synced;                           /* durable up to here */
	lsm_event progress;      /* signalled when `written` or `synced` moved, or the log failed */
	_Atomic uint32_t failed; /* errno of a failed write or sync: the log takes nothing more */

	lsm_latch sync_latch;     /* who syncs; taken before the write latch */
	lsm_latch write_latch;    /* who writes; protects the next two */
	uint64_t copied_sequence; /* the last sequence known to be in the ring without a gap before it */
	uint64_t copied_position; /* the log position after it */

	lsm_latch segment_latch; /* protects the segment files and the next three */
	uint64_t first_segment;  /* the oldest whose file is there */
	uint64_t keep_segment;   /* the oldest that recovery or a pin needs; those before it may be reused */
	lsm_pin pins[AIDB_MAX_PINS];
	_Atomic uint64_t prepared; /* segments are there up to this position */
} lsm_log;

/* A segment file that this process has open. */
typedef struct lsm_segment_file {
	uint64_t segment;
	int file;       /* -1: none */
	uint32_t forks; /* lsm_forks when it was opened */
} lsm_segment_file;

/* The log is empty and begins (or, after recovery, goes on) at `position`; no other member is there yet. */
void lsm_log_reset(aidb_db *db, uint64_t position, aidb_sequence sequence);
/* The most log that a payload of this size can take, wherever it comes to lie. */
uint64_t lsm_log_bound(const lsm_log *log, uint64_t payload_bytes);
/* Makes segments up to `position` at least. */
aidb_status lsm_log_prepare(aidb_db *db, uint64_t position);
/* Waits until the ring has room for a record that ends at `end`, writing out what is copied. */
aidb_status lsm_log_wait_room(aidb_db *db, uint64_t end);
/* Returns once the log is written (AIDB_WRITE) or durable (AIDB_SYNC) up to `end`. */
aidb_status lsm_log_wait(aidb_db *db, uint64_t end, aidb_durability durability);
/* Segments that lie wholly before `position` are needed for pins at most. */
void lsm_log_discard(aidb_db *db, uint64_t position);
/* Closes this process's segment files. */
void lsm_log_close(aidb_db *db);
/* AIDB_IO with its text, when the log has failed. */
aidb_status lsm_log_check(const aidb_db *db);

/* Writes zeroes to [offset, end) of a file. 0 or an errno value. */
int lsm_write_zeroes(const aidb_host *host, int file, uint64_t offset, uint64_t end);

/* "directory/00000000000000a3.log" into `path`. */
void lsm_segment_path(const char *directory, uint64_t segment, char *path, size_t path_bytes);
/* Parses a file name of the directory; false when it is no segment. */
bool lsm_segment_number(const char *name, uint64_t *segment);
/* Checks a segment's header; false when it is not that segment's (a file that was being prepared when the server
 * died). */
bool lsm_segment_header_check(const uint8_t header[LSM_SEGMENT_HEADER_BYTES], const lsm_log_geometry *geometry,
							  uint64_t segment);

#endif
