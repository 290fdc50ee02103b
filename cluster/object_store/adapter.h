/*
 * adapter.h: what a kind of storage has to do; see storage.h for what each function promises.
 */
#ifndef AIDB_ADAPTER_H
#define AIDB_ADAPTER_H

#include "object_store/storage.h"

typedef struct aidb_adapter {
	void (*close)(aidb_storage *storage);
	aidb_status (*begin)(aidb_storage *storage, aidb_upload **upload);
	aidb_status (*write)(aidb_upload *upload, const void *data, size_t size);
	aidb_status (*finish)(aidb_upload *upload, const char *name);
	void (*abandon)(aidb_upload *upload);
	aidb_status (*sync)(aidb_storage *storage); /* NULL: what is finished is durable */
	aidb_status (*get)(aidb_storage *storage, const char *name, aidb_object_sink sink, void *argument);
	aidb_status (*list)(aidb_storage *storage, const char *prefix, aidb_object_each each, void *argument);
	aidb_status (*remove)(aidb_storage *storage, const char *name);
} aidb_adapter;

/* Each begins with one of these. */
struct aidb_storage {
	const aidb_adapter *adapter;
	char *address;
};

struct aidb_upload {
	aidb_storage *storage;
};

/* `path` from the root or the working directory. */
aidb_status aidb_directory_open(const char *path, aidb_storage **storage);
/* `place` is what stands behind "s3://". */
aidb_status aidb_s3_open(const char *place, aidb_storage **storage);

#endif
