/*
 * corpus: scripts that were written by hand, read from files in the form of script.h.
 */
#ifndef AIDB_DIFFERENTIAL_CORPUS_H
#define AIDB_DIFFERENTIAL_CORPUS_H

#include "random.h"
#include "script.h"

typedef struct corpus_test {
	diff_script script; /* its steps in the order of the file */
	text_list needs;
	text_list choices; /* "NAME alternative | alternative ..." */
	text_list orders;
} corpus_test;

typedef struct diff_corpus {
	corpus_test *tests;
	int count;
} diff_corpus;

/* Adds the tests of a file. Ends the program when it is not well formed. */
void corpus_read(diff_corpus *to, const char *path);
void corpus_free(diff_corpus *corpus);

typedef void (*corpus_visit)(const diff_script *script, void *context);

/* Calls `visit` with the script of each order and combination of choices; of more than `limit`, so many are drawn. */
void corpus_each_script(const corpus_test *test, unsigned limit, test_random *random, corpus_visit visit,
						void *context);

#endif
