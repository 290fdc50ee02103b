/*
 * A directory as a storage: an object is a file, written beside its place under a name that no object has, synced, and renamed.
 */
#define _GNU_SOURCE 1
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "object_store/adapter.h"
#include "object_store/failure.h"

#define PATH_BYTES (2 * PATH_MAX)
#define READ_BYTES (1u << 20)
#define UNFINISHED ".unfinished" /* how the names of files begin that are no objects yet */

typedef struct directory {
	aidb_storage base;
	char path[PATH_MAX];
} directory;

typedef struct file_upload {
	aidb_upload base;
	int file;
	off_t written;
	char path[PATH_BYTES];
} file_upload;

static void path_of(const directory *self, const char *name, char path[PATH_BYTES]) {
	snprintf(path, PATH_BYTES, "%s/%s", self->path, name);
}

/* The directories that the file is to be in. */
static aidb_status make_parents(const char *path) {
	char parent[PATH_BYTES];

	snprintf(parent, sizeof(parent), "%s", path);
	for (char *at = strchr(parent + 1, '/'); at != NULL; at = strchr(at + 1, '/')) {
		*at = '\0';
		if (mkdir(parent, 0700) != 0 && errno != EEXIST) {
			return aidb_fail_errno(errno, "make directory", parent);
		}
		*at = '/';
	}
	return AIDB_OK;
}

static void directory_close(aidb_storage *storage) {
	free(storage);
}

/* ---- Writing --------------------------------------------------------------------------------------------- */

static aidb_status directory_begin(aidb_storage *storage, aidb_upload **upload) {
	const directory *self = (const directory *)storage;
	file_upload *made = malloc(sizeof(*made));
	aidb_status rc;

	if (made == NULL) {
		return aidb_fail(AIDB_NO_MEMORY, "out of memory");
	}
	made->base.storage = storage;
	made->written = 0;
	path_of(self, UNFINISHED ".XXXXXX", made->path);
	rc = make_parents(made->path);
	if (rc == AIDB_OK) {
		made->file = mkostemp(made->path, O_CLOEXEC);
		rc = made->file >= 0 ? AIDB_OK : aidb_fail_errno(errno, "make a file in", self->path);
	}
	if (rc != AIDB_OK) {
		free(made);
		return rc;
	}
	*upload = &made->base;
	return AIDB_OK;
}

static aidb_status directory_write(aidb_upload *upload, const void *data, size_t size) {
	file_upload *self = (file_upload *)upload;
	const char *at = data;

	while (size > 0) {
		ssize_t written = write(self->file, at, size);

		if (written < 0 && errno != EINTR) {
			return aidb_fail_errno(errno, "write", self->path);
		}
		at += written > 0 ? written : 0;
		size -= written > 0 ? (size_t)written : 0;
	}
	/* on its way to the disk already, so that the end need not wait for all of it */
	(void)sync_file_range(self->file, self->written, at - (const char *)data, SYNC_FILE_RANGE_WRITE);
	self->written += at - (const char *)data;
	return AIDB_OK;
}

static void directory_abandon(aidb_upload *upload) {
	file_upload *self = (file_upload *)upload;

	close(self->file);
	unlink(self->path);
	free(self);
}

static aidb_status directory_finish(aidb_upload *upload, const char *name) {
	file_upload *self = (file_upload *)upload;
	const directory *storage = (const directory *)upload->storage;
	char path[PATH_BYTES];
	aidb_status rc;

	path_of(storage, name, path);
	rc = fsync(self->file) == 0 ? make_parents(path) : aidb_fail_errno(errno, "sync", self->path);
	if (rc == AIDB_OK && rename(self->path, path) != 0) {
		rc = aidb_fail_errno(errno, "make", path);
	}
	if (rc != AIDB_OK) {
		directory_abandon(upload);
		return rc;
	}
	close(self->file);
	free(self);
	return AIDB_OK;
}

/* The files' contents are synced already; their names are in many directories. */
static aidb_status directory_sync(aidb_storage *storage) {
	const directory *self = (const directory *)storage;
	int opened = open(self->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int error = opened < 0 || syncfs(opened) != 0 ? errno : 0;

	if (opened >= 0) {
		close(opened);
	}
	return error == 0 ? AIDB_OK : aidb_fail_errno(error, "sync", self->path);
}

/* ---- Reading --------------------------------------------------------------------------------------------- */

static aidb_status directory_get(aidb_storage *storage, const char *name, aidb_object_sink sink, void *argument) {
	char path[PATH_BYTES];
	char *bytes = malloc(READ_BYTES);
	aidb_status rc = AIDB_OK;
	ssize_t got = 1;
	int file;

	path_of((const directory *)storage, name, path);
	file = bytes == NULL ? -1 : open(path, O_RDONLY | O_CLOEXEC);
	if (file < 0) {
		rc = bytes == NULL ? aidb_fail(AIDB_NO_MEMORY, "out of memory") : aidb_fail_errno(errno, "open", path);
	}
	while (rc == AIDB_OK && got != 0) {
		got = read(file, bytes, READ_BYTES);
		if (got > 0) {
			rc = sink(argument, bytes, (size_t)got);
		} else if (got < 0 && errno != EINTR) {
			rc = aidb_fail_errno(errno, "read", path);
		}
	}
	if (file >= 0) {
		close(file);
	}
	free(bytes);
	return rc;
}

/* ---- Listing and removing -------------------------------------------------------------------------------- */

typedef struct listing {
	const directory *self;
	const char *prefix;
	aidb_object_each each;
	void *argument;
} listing;

static int is_visible(const struct dirent *entry) {
	return entry->d_name[0] != '.';
}

/* Names in byte order are not those of their directories in byte order: "a/b" follows "a.b". */
static int in_byte_order(const struct dirent **a, const struct dirent **b) {
	char left[NAME_MAX + 2], right[NAME_MAX + 2];

	snprintf(left, sizeof(left), "%s%s", (*a)->d_name, (*a)->d_type == DT_DIR ? "/" : "");
	snprintf(right, sizeof(right), "%s%s", (*b)->d_name, (*b)->d_type == DT_DIR ? "/" : "");
	return strcmp(left, right);
}

static aidb_status list_folder(const listing *run, const char *folder);

static aidb_status list_entry(const listing *run, const char *name) {
	char path[PATH_BYTES];
	struct stat status;
	size_t length = strlen(name), prefix = strlen(run->prefix);

	if (strncmp(name, run->prefix, length < prefix ? length : prefix) != 0) {
		return AIDB_OK;
	}
	path_of(run->self, name, path);
	if (stat(path, &status) != 0) {
		return errno == ENOENT ? AIDB_OK : aidb_fail_errno(errno, "look at", path);
	}
	if (S_ISDIR(status.st_mode)) {
		return list_folder(run, name);
	}
	return length >= prefix ? run->each(run->argument, name, (uint64_t)status.st_size) : AIDB_OK;
}

/* `folder` is empty for the storage itself. */
static aidb_status list_folder(const listing *run, const char *folder) {
	char path[PATH_BYTES], name[PATH_MAX];
	struct dirent **entries = NULL;
	aidb_status rc = AIDB_OK;
	int count;

	path_of(run->self, folder, path);
	count = scandir(path, &entries, is_visible, in_byte_order);
	if (count < 0) {
		return errno == ENOENT ? AIDB_OK : aidb_fail_errno(errno, "list directory", path);
	}
	for (int i = 0; i < count; i++) {
		if (rc == AIDB_OK) {
			snprintf(name, sizeof(name), "%s%s%s", folder, folder[0] != '\0' ? "/" : "", entries[i]->d_name);
			rc = list_entry(run, name);
		}
		free(entries[i]);
	}
	free(entries);
	return rc;
}

static aidb_status directory_list(aidb_storage *storage, const char *prefix, aidb_object_each each, void *argument) {
	listing run = {(const directory *)storage, prefix, each, argument};

	return list_folder(&run, "");
}

static aidb_status directory_remove(aidb_storage *storage, const char *name) {
	char path[PATH_BYTES];

	path_of((const directory *)storage, name, path);
	return unlink(path) == 0 || errno == ENOENT ? AIDB_OK : aidb_fail_errno(errno, "remove", path);
}

aidb_status aidb_directory_open(const char *path, aidb_storage **storage) {
	static const aidb_adapter adapter = {.close = directory_close,
										 .begin = directory_begin,
										 .write = directory_write,
										 .finish = directory_finish,
										 .abandon = directory_abandon,
										 .sync = directory_sync,
										 .get = directory_get,
										 .list = directory_list,
										 .remove = directory_remove};
	directory *self = calloc(1, sizeof(*self));

	if (self == NULL) {
		return aidb_fail(AIDB_NO_MEMORY, "out of memory");
	}
	self->base.adapter = &adapter;
	if (snprintf(self->path, sizeof(self->path), "%s", path) >= (int)sizeof(self->path)) {
		free(self);
		return aidb_fail(AIDB_INVALID, "the directory's name is too long: \"%s\"", path);
	}
	*storage = &self->base;
	return AIDB_OK;
}
