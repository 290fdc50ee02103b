/*
 * generator: scripts drawn at random from a grammar, each from one number.
 *
 * The grammar is a file of entries like those of script.h:
 *
 *   rule NAME              followed by indented alternatives, each a weight and a text:
 *       3 UPDATE ...       {NAME} in it stands for a text of that rule, " ;; " separates steps
 *       1 [FEATURE] ...    is not drawn when the feature is switched off
 *   family NAME WEIGHT     begins a kind of script; followed by
 *   needs FEATURE          is not drawn when the feature is switched off
 *   table, heap, create, alter, setup   as in a script; rules are replaced in `setup`
 *   program TEXT           what each session does
 *
 * Rules that are built in: {key}, one of {keys} keys (3 to 6, from 1); {small}, a digit; {fresh}, a number that comes
 * only once in a script; {session}, its number.
 */
#ifndef AIDB_DIFFERENTIAL_GENERATOR_H
#define AIDB_DIFFERENTIAL_GENERATOR_H

#include <stdint.h>

#include "script.h"

typedef struct diff_generator diff_generator;

/* Reads a grammar. Ends the program when it is not well formed. */
diff_generator *generator_read(const char *path, const text_list *features_off);
/* The same number gives the same script. */
void generator_draw(const diff_generator *generator, uint64_t seed, diff_script *script);
void generator_free(diff_generator *generator);

#endif
