#include "sim_disk.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "store_fixture.h"

/* A write or a change of size that may be lost. */
typedef struct sim_write {
	struct sim_write *next;
	uint64_t offset; /* of a change of size: the new one */
	size_t size;     /* 0: a change of size */
	uint8_t data[];
} sim_write;

typedef struct sim_contents {
	uint8_t *data;
	size_t size;
	size_t capacity;
} sim_contents;

typedef struct sim_inode {
	struct sim_inode *next;
	sim_contents seen;
	sim_contents durable;
	sim_write *writes; /* oldest first */
	sim_write **last_write;
} sim_inode;

typedef struct sim_name {
	struct sim_name *next;
	char path[STORE_PATH_BYTES];
	sim_inode *seen;    /* NULL: not there */
	sim_inode *durable; /* the same, after the last sync of the directory */
} sim_name;

/* What one call has changed in a directory; a rename changes two names. */
typedef struct sim_change {
	struct sim_change *next;
	sim_name *names[2];
	sim_inode *to[2];
	int count;
} sim_change;

static sim_disk *mounted;

static void *must_have(void *memory) {
	if (memory == NULL) {
		abort();
	}
	return memory;
}

/* ---- Contents -------------------------------------------------------------------------------------------- */

static void resize(sim_contents *contents, size_t size) {
	if (size > contents->capacity) {
		contents->capacity = size * 2;
		contents->data = must_have(realloc(contents->data, contents->capacity));
	}
	if (size > contents->size) {
		memset(contents->data + contents->size, 0, size - contents->size);
	}
	contents->size = size;
}

static void overwrite(sim_contents *contents, uint64_t offset, const uint8_t *data, size_t size) {
	if (offset + size > contents->size) {
		resize(contents, offset + size);
	}
	memcpy(contents->data + offset, data, size);
}

static void apply(sim_contents *contents, const sim_write *write) {
	if (write->size == 0) {
		resize(contents, write->offset);
	} else {
		overwrite(contents, write->offset, write->data, write->size);
	}
}

/* Some of the sectors. */
static void apply_torn(sim_disk *disk, sim_contents *contents, const sim_write *write) {
	for (size_t from = 0, end; from < write->size; from = end) {
		end = from + SIM_SECTOR_BYTES - (write->offset + from) % SIM_SECTOR_BYTES;
		end = end < write->size ? end : write->size;
		if (store_random_below(&disk->random, 2) == 0) {
			overwrite(contents, write->offset + from, write->data + from, end - from);
		}
	}
}

static void add_write(sim_inode *inode, uint64_t offset, const void *data, size_t size) {
	sim_write *write = must_have(malloc(sizeof(*write) + size));

	*write = (sim_write){.offset = offset, .size = size};
	if (size > 0) {
		memcpy(write->data, data, size);
	}
	*inode->last_write = write;
	inode->last_write = &write->next;
	apply(&inode->seen, write);
}

static void forget_writes(sim_inode *inode) {
	for (sim_write *write = inode->writes, *next; write != NULL; write = next) {
		next = write->next;
		free(write);
	}
	inode->writes = NULL;
	inode->last_write = &inode->writes;
}

static void keep_writes(sim_disk *disk, sim_inode *inode, sim_fate fate) {
	for (const sim_write *write = inode->writes; write != NULL; write = write->next) {
		uint64_t luck = fate == SIM_KEPT ? 0 : fate == SIM_LOST ? 1 : store_random_below(&disk->random, 3);

		if (luck == 0) {
			apply(&inode->durable, write);
		} else if (luck == 2) {
			apply_torn(disk, &inode->durable, write);
		}
	}
	forget_writes(inode);
}

/* ---- Names ----------------------------------------------------------------------------------------------- */

static sim_name *find_name(sim_disk *disk, const char *path) {
	sim_name *name = disk->names;

	while (name != NULL && strcmp(name->path, path) != 0) {
		name = name->next;
	}
	if (name == NULL) {
		name = must_have(calloc(1, sizeof(*name)));
		strcpy(name->path, path);
		name->next = disk->names;
		disk->names = name;
	}
	return name;
}

/* The part of the path behind the directory; NULL: it lies elsewhere. */
static const char *name_in(const sim_name *name, const char *directory) {
	size_t length = strlen(directory);

	if (strncmp(name->path, directory, length) != 0 || name->path[length] != '/' ||
		strchr(name->path + length + 1, '/') != NULL) {
		return NULL;
	}
	return name->path + length + 1;
}

static void change_names(sim_disk *disk, sim_change change) {
	sim_change *kept = must_have(malloc(sizeof(*kept)));

	*kept = change;
	kept->next = disk->changes;
	disk->changes = kept;
	for (int i = 0; i < kept->count; i++) {
		kept->names[i]->seen = kept->to[i];
	}
}

static void forget_changes(sim_disk *disk, const char *directory) {
	sim_change **at = &disk->changes;

	while (*at != NULL) {
		sim_change *change = *at;

		if (directory == NULL || name_in(change->names[0], directory) != NULL) {
			*at = change->next;
			free(change);
		} else {
			at = &change->next;
		}
	}
}

/* In the order in which they came. */
static void keep_changes(sim_disk *disk, const sim_change *change, sim_fate fate) {
	if (change == NULL) {
		return;
	}
	keep_changes(disk, change->next, fate);
	if (fate == SIM_KEPT || (fate == SIM_MIXED && store_random_below(&disk->random, 2) == 0)) {
		for (int i = 0; i < change->count; i++) {
			change->names[i]->durable = change->to[i];
		}
	}
}

/* ---- Calls ----------------------------------------------------------------------------------------------- */

/* Whether this call fails, and with what. A write, unless NULL, is told that it may be done in part. */
static int step(sim_disk *disk, bool takes_space, bool *in_part) {
	if (disk->off) {
		return EIO;
	}
	if (++disk->steps != disk->fault_step) {
		return 0;
	}
	switch (disk->fault) {
	case SIM_POWER_OFF:
		disk->off = true;
		if (in_part != NULL) {
			*in_part = true;
		}
		return EIO;
	case SIM_IO_ERROR:
		return EIO;
	case SIM_NO_SPACE:
		return takes_space ? ENOSPC : 0;
	case SIM_SHORT_WRITE:
		if (in_part != NULL) {
			*in_part = true;
		}
		return in_part != NULL ? ENOSPC : 0;
	}
	return 0;
}

static int sim_open(void *context, const char *path, int flags, int *file) {
	sim_disk *disk = mounted;
	sim_name *name = find_name(disk, path);
	int number = 0, error;

	(void)context;
	if (disk->off) {
		return EIO;
	}
	if (name->seen != NULL && (flags & AIDB_FILE_EXCLUSIVE) != 0) {
		return EEXIST;
	}
	if (name->seen == NULL) {
		sim_inode *inode;

		error = (flags & AIDB_FILE_CREATE) == 0 ? ENOENT : step(disk, true, NULL);
		if (error != 0) {
			return error;
		}
		inode = must_have(calloc(1, sizeof(*inode)));
		inode->last_write = &inode->writes;
		inode->next = disk->inodes;
		disk->inodes = inode;
		change_names(disk, (sim_change){.names = {name}, .to = {inode}, .count = 1});
	}
	while (number < disk->file_count && disk->files[number] != NULL) {
		number++;
	}
	if (number == disk->file_count) {
		disk->file_count++;
		disk->files = must_have(realloc(disk->files, (size_t)disk->file_count * sizeof(disk->files[0])));
	}
	disk->files[number] = name->seen;
	*file = number;
	return 0;
}

static void sim_close(void *context, int file) {
	(void)context;
	mounted->files[file] = NULL;
}

static int sim_read(void *context, int file, void *data, size_t size, uint64_t offset, size_t *got) {
	const sim_contents *seen = &mounted->files[file]->seen;
	int error = mounted->off ? EIO : mounted->count_reads ? step(mounted, false, NULL) : 0;

	(void)context;
	if (error != 0) {
		return error;
	}
	*got = offset >= seen->size ? 0 : seen->size - offset < size ? seen->size - offset : size;
	if (*got > 0) {
		memcpy(data, seen->data + offset, *got);
	}
	return 0;
}

static int sim_write_file(void *context, int file, const void *data, size_t size, uint64_t offset) {
	bool in_part = false;
	int error = step(mounted, true, &in_part);

	(void)context;
	if (in_part && !mounted->off) {
		size = size / 2;
	}
	if ((error == 0 || in_part) && size > 0) {
		add_write(mounted->files[file], offset, data, size);
	}
	return error;
}

static int sim_sync(void *context, int file) {
	int error = step(mounted, false, NULL);

	(void)context;
	if (error == 0) {
		keep_writes(mounted, mounted->files[file], SIM_KEPT);
	} else if (!mounted->off) {
		keep_writes(mounted, mounted->files[file], SIM_MIXED);
	}
	return error;
}

static int sim_allocate(void *context, int file, uint64_t size) {
	int error = step(mounted, true, NULL);

	(void)context;
	if (error == 0 && size > mounted->files[file]->seen.size) {
		add_write(mounted->files[file], size, NULL, 0);
	}
	return error;
}

static int sim_truncate(void *context, int file, uint64_t size) {
	int error = step(mounted, false, NULL);

	(void)context;
	if (error == 0) {
		add_write(mounted->files[file], size, NULL, 0);
	}
	return error;
}

static int sim_size(void *context, int file, uint64_t *size) {
	(void)context;
	*size = mounted->files[file]->seen.size;
	return mounted->off ? EIO : 0;
}

static int sim_rename(void *context, const char *from, const char *to) {
	sim_name *old = find_name(mounted, from);
	int error = old->seen == NULL ? ENOENT : step(mounted, true, NULL);

	(void)context;
	if (error == 0) {
		change_names(mounted,
					 (sim_change){.names = {old, find_name(mounted, to)}, .to = {NULL, old->seen}, .count = 2});
	}
	return error;
}

static int sim_remove(void *context, const char *path) {
	sim_name *name = find_name(mounted, path);
	int error = name->seen == NULL ? ENOENT : step(mounted, false, NULL);

	(void)context;
	if (error == 0) {
		change_names(mounted, (sim_change){.names = {name}, .to = {NULL}, .count = 1});
	}
	return error;
}

static int sim_link(void *context, const char *from, const char *to) {
	sim_name *old = find_name(mounted, from), *name = find_name(mounted, to);
	int error = old->seen == NULL ? ENOENT : name->seen != NULL ? EEXIST : step(mounted, true, NULL);

	(void)context;
	if (error == 0) {
		change_names(mounted, (sim_change){.names = {name}, .to = {old->seen}, .count = 1});
	}
	return error;
}

/* Only one process has the disk. */
static int sim_lock(void *context, const char *path, int *file) {
	return sim_open(context, path, AIDB_FILE_READ | AIDB_FILE_WRITE | AIDB_FILE_CREATE, file);
}

/* Directories themselves are there, always. */
static int sim_directory(void *context, const char *path) {
	(void)context;
	(void)path;
	return mounted->off ? EIO : 0;
}

static int sim_directory_sync(void *context, const char *path) {
	int error = step(mounted, false, NULL);

	(void)context;
	for (sim_name *name = mounted->names; error == 0 && name != NULL; name = name->next) {
		if (name_in(name, path) != NULL) {
			name->durable = name->seen;
		}
	}
	if (error == 0) {
		forget_changes(mounted, path);
	}
	return error;
}

static int sim_list(void *context, const char *path, void (*each)(void *argument, const char *name), void *argument) {
	(void)context;
	for (const sim_name *name = mounted->names; name != NULL && !mounted->off; name = name->next) {
		if (name->seen != NULL && name_in(name, path) != NULL) {
			each(argument, name_in(name, path));
		}
	}
	return mounted->off ? EIO : 0;
}

static uint64_t sim_random(void *context) {
	(void)context;
	return store_random(&mounted->random);
}

/* ---- The disk -------------------------------------------------------------------------------------------- */

void sim_disk_mount(sim_disk *disk, aidb_host *host) {
	mounted = disk;
	host->file_open = sim_open;
	host->file_close = sim_close;
	host->file_read = sim_read;
	host->file_write = sim_write_file;
	host->file_sync = sim_sync;
	host->file_allocate = sim_allocate;
	host->file_truncate = sim_truncate;
	host->file_size = sim_size;
	host->file_rename = sim_rename;
	host->file_remove = sim_remove;
	host->file_link = sim_link;
	host->file_lock = sim_lock;
	host->directory_create = sim_directory;
	host->directory_remove = sim_directory;
	host->directory_sync = sim_directory_sync;
	host->directory_list = sim_list;
	host->random = sim_random;
}

void sim_disk_close_files(sim_disk *disk) {
	for (int i = 0; i < disk->file_count; i++) {
		disk->files[i] = NULL;
	}
}

void sim_disk_restart(sim_disk *disk, sim_fate fate) {
	sim_disk_close_files(disk);
	keep_changes(disk, disk->changes, fate);
	forget_changes(disk, NULL);
	for (sim_name *name = disk->names; name != NULL; name = name->next) {
		name->seen = name->durable;
	}
	for (sim_inode *inode = disk->inodes; inode != NULL; inode = inode->next) {
		keep_writes(disk, inode, fate);
		inode->seen.size = 0;
		overwrite(&inode->seen, 0, inode->durable.data != NULL ? inode->durable.data : (const uint8_t *)"",
				  inode->durable.size);
	}
	disk->off = false;
	disk->fault_step = 0;
}

void sim_disk_destroy(sim_disk *disk) {
	forget_changes(disk, NULL);
	for (sim_inode *inode = disk->inodes, *next; inode != NULL; inode = next) {
		next = inode->next;
		forget_writes(inode);
		free(inode->seen.data);
		free(inode->durable.data);
		free(inode);
	}
	for (sim_name *name = disk->names, *next; name != NULL; name = next) {
		next = name->next;
		free(name);
	}
	free(disk->files);
	*disk = (sim_disk){0};
}
