/*
 * storage.h: where objects are kept: a directory, or a bucket of an S3-compatible service.
 *
 * An object has a name of parts with '/' in between, and is written whole or not at all: nobody ever sees a part of one. What
 * is there is replaced. A storage belongs to one thread at a time; several may have the same place.
 *
 *   /srv/backup, file:///srv/backup   a directory, made when it is not there
 *   s3://bucket/prefix                a bucket that is there. Credentials as other programs take them: AWS_ACCESS_KEY_ID,
 *                                     AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, or of the profile AWS_PROFILE (default) in the
 *                                     file AWS_SHARED_CREDENTIALS_FILE (~/.aws/credentials). AWS_REGION (us-east-1). AWS_ENDPOINT_URL
 *                                     for another service than Amazon's, whose buckets are then paths;
 *                                     AIDB_S3_STYLE=virtual when they are hosts.
 *
 * A request to S3 that fails for a reason that may pass (the network, 429, 5xx) is made again, some seconds long.
 */
#ifndef AIDB_STORAGE_H
#define AIDB_STORAGE_H

#include <stdint.h>

#include "aidb.h"

#define AIDB_OBJECT_NAME_BYTES 256 /* with a final zero byte */

typedef struct aidb_storage aidb_storage;
typedef struct aidb_upload aidb_upload;

/* Takes bytes in their order; an error ends the reading and is handed back. */
typedef aidb_status (*aidb_object_sink)(void *argument, const void *data, size_t size);
typedef aidb_status (*aidb_object_each)(void *argument, const char *name, uint64_t bytes);

/* AIDB_INVALID for an address that is none, or credentials that are missing; nothing is asked of a service yet. Release with
 * aidb_storage_close. */
aidb_status aidb_storage_open(const char *address, aidb_storage **storage);
void aidb_storage_close(aidb_storage *storage); /* NULL is fine */
/* The address, for messages. */
const char *aidb_storage_address(const aidb_storage *storage);

/* Writes an object whose name may depend on what is in it. */
aidb_status aidb_upload_begin(aidb_storage *storage, aidb_upload **upload);
aidb_status aidb_upload_write(aidb_upload *upload, const void *data, size_t size);
/* The object is there; durably, once aidb_storage_sync has returned. Releases the upload in any case. */
aidb_status aidb_upload_finish(aidb_upload *upload, const char *name);
void aidb_upload_abandon(aidb_upload *upload); /* NULL is fine */

/* What uploads have written, of all storages of this place, is durable on return. */
aidb_status aidb_storage_sync(aidb_storage *storage);

/* Durable on return. */
aidb_status aidb_storage_put(aidb_storage *storage, const char *name, const void *data, size_t size);
/* AIDB_NOT_FOUND when there is none. */
aidb_status aidb_storage_get(aidb_storage *storage, const char *name, aidb_object_sink sink, void *argument);
/* A small one into memory, the caller's to free, with a zero byte behind; AIDB_CORRUPT when it has more than max_bytes. */
aidb_status aidb_storage_load(aidb_storage *storage, const char *name, size_t max_bytes, char **data, size_t *size);
/* All objects whose name begins with the prefix, in the order of their bytes. */
aidb_status aidb_storage_list(aidb_storage *storage, const char *prefix, aidb_object_each each, void *argument);
/* AIDB_OK also when there is none. */
aidb_status aidb_storage_remove(aidb_storage *storage, const char *name);

#endif
