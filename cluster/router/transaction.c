#include "router/transaction.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "miscadmin.h"
#include "router/map.h"
#include "router/pipeline.h"
#include "utils/guc.h"
#include "utils/memutils.h"

typedef enum multi_group { MULTI_GROUP_REFUSE, MULTI_GROUP_SEPARATELY } multi_group;

static const struct config_enum_entry multi_group_names[] = {
	{"refuse", MULTI_GROUP_REFUSE, false},
	{"separately", MULTI_GROUP_SEPARATELY, false},
	{NULL, 0, false},
};

static int multi_group_writes = MULTI_GROUP_REFUSE;
static bool two_phases;

void router_session_check_write(router_session *session) {
	ListCell *cell;

	foreach(cell, router_sessions) {
		const router_session *other = lfirst(cell);

		if (other != session && other->wrote && multi_group_writes == MULTI_GROUP_REFUSE && !two_phases) {
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("a transaction can write to one group of the cluster only"),
					 errdetail("It has written to group \"%s\", and is about to write to group \"%s\".", other->group,
							   session->group),
					 errhint("Write rows of one shard key in a transaction. For a load that can be repeated, SET "
							 "aidb.multi_group_writes = separately: then each group's part commits for itself.")));
		}
	}
	session->wrote = true;
}

/* ---- Its end ---------------------------------------------------------------------------------------------- */

void router_commit_in_two_phases(void) {
	two_phases = true;
	(void)GetTopTransactionId(); /* its fate decides, also after a crash */
	ForceSyncCommit();
}

/* The only one that has anything to commit, and has not begun yet. */
static router_session *only_writer(void) {
	router_session *only = NULL;
	ListCell *cell;

	foreach(cell, router_sessions) {
		router_session *session = lfirst(cell);

		if (!router_write_queue_is_empty(session->queue) || session->level > 0) {
			if (only != NULL || session->level > 0) {
				return NULL;
			}
			only = session;
		}
	}
	return only;
}

static void send_commit(router_session *session) {
	session->commits = session->wrote;
	router_send_command(session, "COMMIT");
}

static void end_on_all(void (*send)(router_session *session)) {
	ListCell *cell;

	foreach(cell, router_sessions) {
		router_session *session = lfirst(cell);

		if (session->level > 0) {
			send(session);
			router_send_sync(session);
			if (send == send_commit) {
				router_ask_after_commit(session);
			}
		}
	}
	foreach(cell, router_sessions) {
		router_session *session = lfirst(cell);

		if (session->level > 0) {
			router_receive_all(session);
			session->level = 0;
			session->commits = false;
		}
	}
}

char *router_prepared_prefix(void) {
	return psprintf("aidb:" UINT64_FORMAT ":%u:", GetSystemIdentifier(), MyDatabaseId);
}

static void send_prepare(router_session *session) {
	snprintf(session->prepared_as, sizeof(session->prepared_as), "%s" UINT64_FORMAT ":%d", router_prepared_prefix(),
			 U64FromFullTransactionId(GetTopFullTransactionId()), session->group_id);
	router_send_command(session, psprintf("PREPARE TRANSACTION '%s'", session->prepared_as));
}

static void check_broken(void) {
	ListCell *cell;

	foreach(cell, router_sessions) {
		const router_session *session = lfirst(cell);

		if (session->broken) {
			router_report_loss(session, "It was lost earlier in this transaction.");
		}
	}
}

/* All that can fail is done before the local commit, which nothing can stop any more. */
static void pre_commit(void) {
	router_session *only = only_writer();

	check_broken();
	if (only != NULL && !two_phases && !IsolationIsSerializable()) {
		/* One round trip: what is sent up to a sync is a transaction of its own. */
		router_reconnect(only);
		only->commits = true;
		router_send_queued(only);
		router_ask_after_commit(only);
		router_receive_all(only);
		only->commits = false;
		return;
	}
	router_flush_all();
	end_on_all(two_phases ? send_prepare : send_commit);
}

/* "COMMIT PREPARED" or "ROLLBACK PREPARED". Never raises: what cannot be reached is finished later. */
static void finish_prepared(router_session *session, const char *command) {
	MemoryContext caller = CurrentMemoryContext;

	PG_TRY();
	{
		if (session->connection != NULL) {
			router_send_command(session, psprintf("%s '%s'", command, session->prepared_as));
			router_send_sync(session);
			router_receive_all(session);
		}
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(caller);
		FlushErrorState();
		router_forget_connection(session);
		ereport(WARNING, (errmsg("group \"%s\" has not confirmed the end of the transaction", session->group),
						  errhint("aidb.finish_transactions() ends it there; the coordinator calls that by itself.")));
	}
	PG_END_TRY();
	session->prepared_as[0] = '\0';
}

/* Whether the node is, or may be, at work on something. */
static bool is_busy(router_session *session) {
	dlist_iter at;

	dlist_foreach(at, &session->entries) {
		if (dlist_container(router_entry, node, at.cur)->kind != ROUTER_ENTRY_SYNC) {
			return true;
		}
	}
	return false;
}

/* Without waiting: the node's answer is taken in before the connection is used again. */
static void roll_back(router_session *session) {
	bool busy = is_busy(session) && !session->failed;

	router_write_queue_clear(session->queue);
	router_detach_streams(session, 0);
	if (session->connection == NULL) {
		return;
	}
	if (busy || PQstatus(session->connection) != CONNECTION_OK) {
		router_forget_connection(session);
	} else if (session->level > 0) {
		if (PQsendQueryParams(session->connection, "ROLLBACK", 0, NULL, NULL, NULL, NULL, 0) != 1 ||
			PQpipelineSync(session->connection) != 1 || PQflush(session->connection) < 0) {
			router_forget_connection(session);
		} else {
			router_add_entry(session, ROUTER_ENTRY_COMMAND, "ROLLBACK");
			router_add_entry(session, ROUTER_ENTRY_SYNC, NULL);
		}
	}
	session->draining = session->entry_count > 0;
}

static void end_transaction(bool committed) {
	ListCell *cell;

	foreach(cell, router_sessions) {
		router_session *session = lfirst(cell);

		if (!committed && (session->level > 0 || session->prepared_as[0] == '\0')) {
			roll_back(session);
			session->prepared_as[0] = '\0'; /* if it is, it is found later */
		}
		if (session->prepared_as[0] != '\0') {
			finish_prepared(session, committed ? "COMMIT PREPARED" : "ROLLBACK PREPARED");
		}
		session->level = 0;
		session->broken = false;
		session->wrote = false;
		session->commits = false;
	}
	two_phases = false;
}

static void refuse_prepare(void) {
	ListCell *cell;

	foreach(cell, router_sessions) {
		const router_session *session = lfirst(cell);

		if (session->level > 0 || !router_write_queue_is_empty(session->queue)) {
			ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
							errmsg("cannot PREPARE a transaction that has used tables of the cluster")));
		}
	}
}

static void on_transaction(XactEvent event, void *argument) {
	(void)argument;
	switch (event) {
	case XACT_EVENT_PRE_COMMIT:
		pre_commit();
		break;
	case XACT_EVENT_PRE_PREPARE:
		refuse_prepare();
		break;
	case XACT_EVENT_COMMIT:
		end_transaction(true);
		break;
	case XACT_EVENT_ABORT:
		end_transaction(false);
		break;
	default:
		break;
	}
}

static void release_savepoint(router_session *session, int level) {
	if (session->queue_level == level) {
		session->queue_level = level - 1;
	}
	if (session->level == level) {
		router_send_queue(session);
		router_send_command(session, psprintf("RELEASE SAVEPOINT aidb_%d", level));
		router_send_sync(session);
		session->level = level - 1;
	}
}

static void roll_back_to_savepoint(router_session *session, int level) {
	router_detach_streams(session, level);
	if (session->queue_level == level) {
		router_write_queue_clear(session->queue);
	}
	if (session->level != level) {
		return;
	}
	session->level = level - 1;
	if (session->connection != NULL && PQstatus(session->connection) == CONNECTION_OK) {
		char *sql = psprintf("ROLLBACK TO SAVEPOINT aidb_%d", level);
		bool sent = PQsendQueryParams(session->connection, sql, 0, NULL, NULL, NULL, NULL, 0) == 1 &&
					PQpipelineSync(session->connection) == 1;

		if (sent) {
			router_add_entry(session, ROUTER_ENTRY_COMMAND, sql);
			router_add_entry(session, ROUTER_ENTRY_SYNC, NULL);
			return;
		}
	}
	session->broken = true;
}

static void on_subtransaction(SubXactEvent event, SubTransactionId id, SubTransactionId parent, void *argument) {
	int level = GetCurrentTransactionNestLevel();
	ListCell *cell;

	(void)id;
	(void)parent;
	(void)argument;
	foreach(cell, router_sessions) {
		if (event == SUBXACT_EVENT_PRE_COMMIT_SUB) {
			release_savepoint(lfirst(cell), level);
		} else if (event == SUBXACT_EVENT_ABORT_SUB) {
			roll_back_to_savepoint(lfirst(cell), level);
		}
	}
}

/* ---- Settings --------------------------------------------------------------------------------------------- */

void router_transaction_init(void) {
	DefineCustomEnumVariable(
		"aidb.multi_group_writes", "What happens to a transaction that writes to several groups.",
		"\"refuse\": it fails; \"separately\": each group's part commits for itself, so that after "
		"a failure some may be there and others not.",
		&multi_group_writes, MULTI_GROUP_REFUSE, multi_group_names, PGC_USERSET, 0, NULL, NULL, NULL);
	RegisterXactCallback(on_transaction, NULL);
	RegisterSubXactCallback(on_subtransaction, NULL);
}
