/*
 * checker.h: finds in a history what its isolation level forbids.
 *
 * The method is that of Elle (Kingsbury and Alvaro, VLDB 2020) for lists: since elements are unique and only appended,
 * a list that was read names all versions of its key in their order, and so who overwrote whom (ww), who read from whom
 * (wr), and who read what somebody then overwrote (rw). What Adya's thesis (1999) forbids are cycles of these. Two things
 * are added. That one transaction ended before another began (rt) is an edge too, since PostgreSQL's snapshots are never
 * of the past. And REPEATABLE READ is snapshot isolation: forbidden are not only cycles with a single rw (G-single) but
 * all in which no two rw follow each other (Cerone and Gotsman, PODC 2016), such as the long fork.
 *
 *   level             forbidden beyond the line above
 *   READ COMMITTED    anomalies up to G1c; G-single and G-nonadjacent for transactions that are a single reading statement
 *   REPEATABLE READ   G-single and G-nonadjacent for all
 *   SERIALIZABLE      G2, without rt
 *
 * Transactions with status unknown count as committed when somebody read an element of theirs, and as nothing otherwise.
 */
#ifndef AIDB_TEST_CHECKER_H
#define AIDB_TEST_CHECKER_H

#include "history.h"

typedef enum isolation_level { LEVEL_READ_COMMITTED, LEVEL_REPEATABLE_READ, LEVEL_SERIALIZABLE } isolation_level;

typedef enum anomaly {
	ANOMALY_INTERNAL,      /* a read that contradicts what its own transaction did before */
	ANOMALY_UNWRITTEN,     /* an element that nobody appended to this list, or one twice */
	ANOMALY_ORDER,         /* two lists of one key, neither of which continues the other */
	ANOMALY_LOST,          /* a committed element that is not there at the end */
	ANOMALY_G0,            /* cycle of ww */
	ANOMALY_G1A,           /* aborted read */
	ANOMALY_G1B,           /* intermediate read */
	ANOMALY_G1C,           /* cycle of ww and wr */
	ANOMALY_G_SINGLE,      /* cycle with one rw */
	ANOMALY_G_NONADJACENT, /* cycle with several rw, no two in a row */
	ANOMALY_G2             /* cycle with two rw in a row */
} anomaly;

#define ANOMALIES (ANOMALY_G2 + 1)

extern const char *const anomaly_names[ANOMALIES];

typedef struct check_report {
	size_t found[ANOMALIES]; /* cycles: components of the graph that have one */
	size_t total;
	size_t ww_edges;
	size_t wr_edges;
	size_t rw_edges;
} check_report;

/* Explains the first few findings of each kind in `details`; NULL for silence. */
check_report check_history(const list_history *history, isolation_level level, FILE *details);

#endif
