/*
 * driver: runs a script in a world, step by step, and records what can be observed.
 *
 * A step is sent, and its session followed until it comes to rest: it has answered, or it waits for another and has
 * looked for a deadlock without finding one. Then those sessions that it has released go on, one after the other, each
 * until it comes to rest; the processes of all others are stopped meanwhile (SIGSTOP), so that a run goes the same way each
 * time. A step of a session that still waits is put off until the session has answered. There are no pauses: a session
 * that has begun to wait says so itself (see world.c), and whether it still waits is looked up.
 *
 * The program has to run on the server's machine, as its user or as root.
 */
#ifndef AIDB_DIFFERENTIAL_DRIVER_H
#define AIDB_DIFFERENTIAL_DRIVER_H

#include "world.h"

typedef struct record_event {
	const char *step; /* the name of the step that was sent, or what was done at the end */
	const char *sql;
	char *outcome; /* lines: which sessions answered what, which wait for whom */
} record_event;

typedef struct diff_record {
	record_event events[2 * MAX_STEPS];
	int count;
	text_list states; /* the SQLSTATE of each error */
	int waits;
	unsigned waited_for[MAX_SESSIONS]; /* bits of sessions */
} diff_record;

typedef enum wait_detail {
	WAIT_ROOTS, /* who holds up a session in the end, through others that wait themselves */
	WAIT_DIRECT /* for whom it waits as PostgreSQL says it */
} wait_detail;

/* Of several sessions that one step has released, which goes on first. Where locks are fair, there is only one. */
typedef enum wake_order { WAKE_NEWEST, WAKE_OLDEST } wake_order;

/* Valid as long as the script is. */
void driver_run(diff_world *world, const diff_script *script, wait_detail detail, wake_order order,
				diff_record *record);
void record_free(diff_record *record);

#endif
