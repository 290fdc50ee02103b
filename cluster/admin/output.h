/*
 * output.h: results of queries for people, and for programs.
 */
#ifndef AIDB_OUTPUT_H
#define AIDB_OUTPUT_H

#include <stdio.h>

#include "libpq-fe.h"

/* Columns aligned, numbers to the right, under a line of names; "(none)" when there are no rows. */
void aidb_print_table(FILE *to, const PGresult *result);
/* An array of objects; numbers, booleans and nulls as such. */
void aidb_print_json(FILE *to, const PGresult *result);
/* In quotation marks. */
void aidb_print_json_string(FILE *to, const char *text);

#endif
