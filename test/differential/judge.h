/*
 * judge: runs a script in two worlds and says whether they agree.
 *
 * A difference counts when the second world does what the first does in no run, in whatever order sessions go on that were
 * released together. Let pass are: a serialization failure (40001) of a SERIALIZABLE transaction that only one world
 * reports, since how coarsely reads are remembered is up to it; for which of several sessions that share a row another
 * waits first; and what stands in the list of known differences. A script is compared up to its first difference.
 */
#ifndef AIDB_DIFFERENTIAL_JUDGE_H
#define AIDB_DIFFERENTIAL_JUDGE_H

#include "driver.h"

typedef enum verdict {
	VERDICT_AGREE,
	VERDICT_SERIALIZATION,
	VERDICT_KNOWN,
	VERDICT_CHANCE, /* the first world does it too, in some order of waking */
	VERDICT_DIVERGE
} verdict;

#define VERDICT_COUNT (VERDICT_DIVERGE + 1)

/*
 * A difference that is known: the sessions that get something else have all run statements with `ran` in them, others with
 * `others_ran`, and have waited for sessions that ran `waited_for`. What is NULL is not asked for.
 */
typedef struct known_difference {
	char *name;
	char *ran;
	char *others_ran;
	char *waited_for;
	char *reason;
	unsigned long found;
} known_difference;

typedef struct diff_judge {
	diff_world *left;
	diff_world *right;
	wait_detail detail;
	known_difference *known;
	int known_count;
} diff_judge;

typedef struct diff_judgement {
	verdict verdict;
	diff_record left;
	diff_record right;
	int event;  /* the first that differs */
	int runs;   /* of both worlds */
	int differ; /* in so many of them */
	known_difference *known;
} diff_judgement;

/* Entries of lines: "known NAME"; one or more of "ran TEXT", "others-ran TEXT", "waited-for TEXT", where & separates several
 * texts; "reason TEXT". */
void judge_read_known(diff_judge *judge, const char *path);
/* The script has to live as long as the judgement. */
void judge_script(const diff_judge *judge, const diff_script *script, diff_judgement *result);
/* A script with fewer steps that still diverges. */
void judge_shrink(const diff_judge *judge, const diff_script *script, diff_script *smaller);
/* The script, what was alike, and both outcomes where they part. */
void judge_report(const diff_judge *judge, const diff_script *script, const diff_judgement *judgement, text *to);
void judgement_free(diff_judgement *judgement);
void judge_free(diff_judge *judge);

#endif
