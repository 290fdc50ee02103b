/*
 * slots.h: which slots of sharded tables this server does not keep, and which are just being moved away.
 *
 * A slot is *closed* here while another group keeps it. What is found of it then is not to be seen: a copy that is being made, or
 * what is left of one. The set of closed slots is a row of the store, so replicas have it at the same place in the stream
 * as the primary: they close a slot before its rows go, and open it when they have all of them.
 *
 *   index id 11, closed slots   no key                          version u8 (1), the set as aidb_slot_set_pack writes it
 *
 * While a slot is moved, transactions that write to it hold a lock in common until they end; who moves it takes the lock alone for
 * the last moment. Nobody pays for that while nothing moves.
 */
#ifndef AIPG_SLOTS_H
#define AIPG_SLOTS_H

#include "postgres.h"

#include "access.h"
#include "aidb.h"
#include "placement/slot_set.h"

/* From the shared memory hooks. */
extern void aipg_slots_shmem_request(void);
extern void aipg_slots_shmem_startup(void);
/* Defines the setting aidb.slots; from _PG_init. */
extern void aipg_slots_init(void);

/* -- for statements -- */

/* The slots that a scan of a whole table goes through: those that aidb.slots names, or all that are not closed. Raises as the
 * next. */
extern void aipg_slots_to_scan(aidb_slot_set *slots, const aipg_view *view);
/* Whether rows of the slot are to be looked for: not when aidb.slots names others. Raises IA001 when it is closed,
 * or was opened after the view was taken, which may miss rows that came before. What the view sees of a slot that is open stays there. */
extern bool aipg_slots_has(uint32 slot, const aipg_view *view);
/* The same for the slot of a stored key, whatever aidb.slots names. */
extern void aipg_slots_check_key(aidb_slice key, const aipg_view *view);
/* Before a row under this key is locked or written: waits while its slot is held, and raises IA001 when it is closed. */
extern void aipg_slots_enter(aidb_slice key);

/* -- closing and opening -- */

extern aidb_slot_set aipg_slots_closed(void);
/* Durable, and in the stream. Raises. */
extern void aipg_slots_close(const aidb_slot_set *slots);
extern void aipg_slots_open(const aidb_slot_set *slots);
/* Opens these, and closes all others; writes nothing when that is so. */
extern void aipg_slots_keep(const aidb_slot_set *slots);
/* By who has opened the store, before anybody else uses it. */
extern void aipg_slots_start(aidb_db *db);

/* -- for a replica -- */

/* Whether the key is that of the row. */
extern bool aipg_slots_is_row(aidb_slice key);
/* The stream has brought the row: what it closes is closed from now on. What it opens is once all before it is shown: then aipg_slots_show. */
extern void aipg_slots_note(aidb_slice value);
extern void aipg_slots_show(void);
/* The replica is to be copied anew. */
extern void aipg_slots_forget(void);

/* -- moving; one session at a time -- */

/* Returns when every transaction that may write to these slots is one that will hold the lock. Raises 55006 when another session moves slots. */
extern void aipg_slots_mark(const aidb_slot_set *slots);
/* Waits for transactions that have written to them; from then on who wants to waits, until aipg_slots_release. lock_timeout applies. */
extern void aipg_slots_hold(void);
/* Ends both. The end of the session does, too. */
extern void aipg_slots_release(void);

#endif
