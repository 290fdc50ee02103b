#include "wal.h"

#include "access/rmgr.h"
#include "access/transam.h"
#include "access/xlog.h"
#include "access/xlog_internal.h"
#include "access/xloginsert.h"
#include "host.h"
#include "miscadmin.h"
#include "shared.h"

#define RESOURCE_MANAGER 173 /* of the numbers for custom ones, 128 to 255 */
#define RECORD_RESERVE_IDS 0x00
#define RECORD_CARRY 0x10
#define RECORD_START 0x20

static aidb_redo *collected = NULL; /* by this process, which recovers */

static uint8 kind_of(XLogReaderState *record) {
	return XLogRecGetInfo(record) & ~XLR_INFO_MASK;
}

static void pg_attribute_noreturn() report_unknown(void) {
	elog(PANIC, "unknown record of AiDb in the write-ahead log");
}

/* ---- Logging ------------------------------------------------------------------------------------------- */

XLogRecPtr aipg_wal_reserve_ids(uint64 until) {
	XLogBeginInsert();
	XLogRegisterData((char *)&until, sizeof(until));
	return XLogInsert(RESOURCE_MANAGER, RECORD_RESERVE_IDS);
}

void aipg_wal_carry(const aidb_carried *carried) {
	START_CRIT_SECTION(); /* who holds the guard must not be left by an error */
	XLogBeginInsert();
	XLogRegisterData((char *)carried->head, AIDB_CARRIED_HEAD_BYTES);
	if (carried->operations.size > 0) {
		XLogRegisterData((char *)carried->operations.data, (int)carried->operations.size);
	}
	XLogInsert(RESOURCE_MANAGER, RECORD_CARRY);
	END_CRIT_SECTION();
}

void aipg_wal_start(void) {
	char version = 1; /* a record is never empty */

	START_CRIT_SECTION();
	XLogBeginInsert();
	XLogRegisterData(&version, sizeof(version));
	XLogFlush(XLogInsert(RESOURCE_MANAGER, RECORD_START));
	END_CRIT_SECTION();
}

/* ---- Recovering ---------------------------------------------------------------------------------------- */

static uint64 read_reservation(XLogReaderState *record) {
	uint64 until;

	if (XLogRecGetDataLen(record) != sizeof(until)) {
		report_unknown();
	}
	memcpy(&until, XLogRecGetData(record), sizeof(until));
	return until;
}

static void redo_reservation(XLogReaderState *record) {
	uint64 last = read_reservation(record) - 1;

	AdvanceNextFullTransactionIdPastXid(XidFromFullTransactionId((FullTransactionId){.value = last}));
}

/* An error ends the recovery, as one of PostgreSQL's own does. */
static void check(aidb_status rc) {
	if (rc != AIDB_OK) {
		aipg_raise_deferred();
		ereport(ERROR,
				(errmsg("could not collect AiDb's part of the write-ahead log"), errdetail("%s.", aidb_last_error())));
	}
}

static aidb_redo *collection(void) {
	char path[MAXPGPATH];

	if (collected == NULL) {
		check(aidb_redo_open(aipg_host(), aipg_store_path(path), &collected));
	}
	return collected;
}

static void collect(XLogReaderState *record) {
	check(aidb_redo_add(collection(), (aidb_slice){XLogRecGetData(record), XLogRecGetDataLen(record)}));
}

static void redo(XLogReaderState *record) {
	switch (kind_of(record)) {
	case RECORD_RESERVE_IDS:
		redo_reservation(record);
		break;
	case RECORD_CARRY:
		if (!ArchiveRecoveryRequested) {
			collect(record);
		}
		break;
	case RECORD_START:
		if (!ArchiveRecoveryRequested) {
			aidb_redo_discard(collection());
		}
		break;
	default:
		report_unknown();
	}
}

/* At the end of recovery, before the checkpoint from which another would begin. */
static void end_recovery(void) {
	aidb_redo *done = collected;

	if (done != NULL) {
		collected = NULL;
		check(aidb_redo_close(done));
	}
}

/* ---- Showing ------------------------------------------------------------------------------------------- */

static void describe(StringInfo text, XLogReaderState *record) {
	if (kind_of(record) == RECORD_RESERVE_IDS) {
		appendStringInfo(text, "transaction ids below " UINT64_FORMAT, read_reservation(record));
	} else if (kind_of(record) == RECORD_CARRY) {
		appendStringInfo(text, "batch of %u bytes", XLogRecGetDataLen(record));
	}
}

static const char *identify(uint8 info) {
	switch (info & ~XLR_INFO_MASK) {
	case RECORD_RESERVE_IDS:
		return "RESERVE_IDS";
	case RECORD_CARRY:
		return "CARRY";
	case RECORD_START:
		return "START";
	default:
		return NULL;
	}
}

void aipg_wal_init(void) {
	static RmgrData manager = {
		.rm_name = "aidb", .rm_redo = redo, .rm_desc = describe, .rm_identify = identify, .rm_cleanup = end_recovery};

	RegisterCustomRmgr(RESOURCE_MANAGER, &manager);
}
