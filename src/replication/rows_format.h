/*
 * rows_format.h: what a caching read node asks its primary for, and gets, as bytes. Nothing of PostgreSQL's, so that it can be
 * tested and fuzzed alone.
 *
 *   keys, and rows of a range:   strings, one after the other: length u32, bytes. Rows: key, value.
 *   answers for keys:            sequence u64, then a string for each key; length 0xffffffff: there is no row
 *   answers for a range:         sequence u64, more u8 (1: there are more rows), then rows
 *
 * Numbers are big-endian. `sequence` is the commit that the answer is as of.
 */
#ifndef AIPG_ROWS_FORMAT_H
#define AIPG_ROWS_FORMAT_H

#include "aidb.h"

#define AIPG_NO_ROW UINT32_MAX
#define AIPG_LENGTH_BYTES 4
#define AIPG_SEQUENCE_BYTES 8

void aipg_rows_write_length(uint8_t to[AIPG_LENGTH_BYTES], uint32_t length);
void aipg_rows_write_sequence(uint8_t to[AIPG_SEQUENCE_BYTES], uint64_t sequence);
/* Take something off *bytes. False: malformed, which is nothing but too short. */
bool aipg_rows_read_sequence(aidb_slice *bytes, uint64_t *sequence);
bool aipg_rows_read_byte(aidb_slice *bytes, uint8_t *byte);
/* data NULL: there is no row. */
bool aipg_rows_read_string(aidb_slice *bytes, aidb_slice *string);

#endif
