/*
 * s3_answer.h: what an S3 service answers, in XML (read by libxml2). Bytes of a network: anything may come.
 */
#ifndef AIDB_S3_ANSWER_H
#define AIDB_S3_ANSWER_H

#include <stdbool.h>

#include "object_store/storage.h"

/* "Code: message" of an error, or what is known instead. False: the answer is no error. `bytes` may be NULL when size is 0. */
bool aidb_s3_error(const char *bytes, size_t size, char *reason, size_t reason_bytes);
/* Of an upload in parts that was begun, as a part of a query. False: the answer has none. */
bool aidb_s3_upload_id(const char *bytes, size_t size, char *upload_id, size_t upload_id_bytes);
/* Hands out a page of a listing; *next goes on from there, empty: it was the last. AIDB_IO when the answer is none. */
aidb_status aidb_s3_listing(const char *bytes, size_t size, aidb_object_each each, void *argument, char *next,
							size_t next_bytes);

#endif
