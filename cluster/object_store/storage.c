#include "object_store/storage.h"

#include <stdlib.h>
#include <string.h>

#include "object_store/adapter.h"
#include "object_store/failure.h"

aidb_status aidb_storage_open(const char *address, aidb_storage **storage) {
	aidb_status rc;

	if (strncmp(address, "s3://", 5) == 0) {
		rc = aidb_s3_open(address + 5, storage);
	} else if (strncmp(address, "file://", 7) == 0) {
		rc = aidb_directory_open(address + 7, storage);
	} else if (strstr(address, "://") != NULL || address[0] == '\0') {
		rc = aidb_fail(AIDB_INVALID, "\"%s\" is no place for a repository: give a directory, or s3://BUCKET/PREFIX",
					   address);
	} else {
		rc = aidb_directory_open(address, storage);
	}
	if (rc == AIDB_OK && ((*storage)->address = strdup(address)) == NULL) {
		aidb_storage_close(*storage);
		rc = aidb_fail(AIDB_NO_MEMORY, "out of memory");
	}
	return rc;
}

void aidb_storage_close(aidb_storage *storage) {
	if (storage != NULL) {
		free(storage->address);
		storage->adapter->close(storage);
	}
}

const char *aidb_storage_address(const aidb_storage *storage) {
	return storage->address;
}

aidb_status aidb_upload_begin(aidb_storage *storage, aidb_upload **upload) {
	return storage->adapter->begin(storage, upload);
}

aidb_status aidb_upload_write(aidb_upload *upload, const void *data, size_t size) {
	return upload->storage->adapter->write(upload, data, size);
}

aidb_status aidb_upload_finish(aidb_upload *upload, const char *name) {
	return upload->storage->adapter->finish(upload, name);
}

void aidb_upload_abandon(aidb_upload *upload) {
	if (upload != NULL) {
		upload->storage->adapter->abandon(upload);
	}
}

aidb_status aidb_storage_put(aidb_storage *storage, const char *name, const void *data, size_t size) {
	aidb_upload *upload;
	aidb_status rc = aidb_upload_begin(storage, &upload);

	if (rc != AIDB_OK) {
		return rc;
	}
	rc = aidb_upload_write(upload, data, size);
	if (rc != AIDB_OK) {
		aidb_upload_abandon(upload);
		return rc;
	}
	rc = aidb_upload_finish(upload, name);
	return rc == AIDB_OK ? aidb_storage_sync(storage) : rc;
}

aidb_status aidb_storage_sync(aidb_storage *storage) {
	return storage->adapter->sync != NULL ? storage->adapter->sync(storage) : AIDB_OK;
}

aidb_status aidb_storage_get(aidb_storage *storage, const char *name, aidb_object_sink sink, void *argument) {
	return storage->adapter->get(storage, name, sink, argument);
}

/* ---- Loading --------------------------------------------------------------------------------------------- */

typedef struct loading {
	const char *name;
	char *data;
	size_t size;
	size_t capacity;
	size_t max_bytes;
} loading;

static aidb_status load_part(void *argument, const void *data, size_t size) {
	loading *load = argument;

	if (size > load->max_bytes - load->size) {
		return aidb_fail(AIDB_CORRUPT, "%s: the object has more than %zu bytes", load->name, load->max_bytes);
	}
	if (load->size + size + 1 > load->capacity) {
		size_t capacity = 2 * (load->size + size + 1);
		char *larger = realloc(load->data, capacity);

		if (larger == NULL) {
			return aidb_fail(AIDB_NO_MEMORY, "out of memory: could not read %s", load->name);
		}
		load->data = larger;
		load->capacity = capacity;
	}
	memcpy(load->data + load->size, data, size);
	load->size += size;
	return AIDB_OK;
}

aidb_status aidb_storage_load(aidb_storage *storage, const char *name, size_t max_bytes, char **data, size_t *size) {
	loading load = {.name = name, .max_bytes = max_bytes};
	aidb_status rc = load_part(&load, "", 0);

	if (rc == AIDB_OK) {
		rc = aidb_storage_get(storage, name, load_part, &load);
	}
	if (rc != AIDB_OK) {
		free(load.data);
		return rc;
	}
	load.data[load.size] = '\0';
	*data = load.data;
	*size = load.size;
	return AIDB_OK;
}

/* ---- Listing and removing -------------------------------------------------------------------------------- */

aidb_status aidb_storage_list(aidb_storage *storage, const char *prefix, aidb_object_each each, void *argument) {
	return storage->adapter->list(storage, prefix, each, argument);
}

aidb_status aidb_storage_remove(aidb_storage *storage, const char *name) {
	return storage->adapter->remove(storage, name);
}
