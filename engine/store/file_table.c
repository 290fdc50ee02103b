#include "store/file_table.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/status.h"

/*
 * Numbers lie apart from the rest, so that finding one reads a few cache lines. When every place is pinned, a file is
 * opened for the one pin and closed with it.
 */
struct lsm_file_table {
	const aidb_host *host;
	char *directory;
	lsm_file_table *next; /* in `tables` */

	pthread_mutex_t mutex; /* protects the rest */
	uint64_t clock;
	uint64_t numbers[LSM_OPEN_FILES]; /* 0: no file, or one that was removed and waits for its last unpin */
	struct place {
		int file; /* -1: free */
		uint32_t pins;
		uint64_t used;
	} places[LSM_OPEN_FILES];
};

/* ---- Forks --------------------------------------------------------------------------------------------- */

/*
 * A mutex that some thread holds at the moment of a fork would stay locked in the child, which has no such thread. So
 * whoever forks takes all of them first.
 */
static pthread_once_t once = PTHREAD_ONCE_INIT;
static int once_error;
static pthread_mutex_t tables_mutex = PTHREAD_MUTEX_INITIALIZER; /* protects `tables`; taken before those of tables */
static lsm_file_table *tables;
static uint32_t forks;

uint32_t lsm_forks(void) {
	return forks;
}

static void lock_all(void) {
	pthread_mutex_lock(&tables_mutex);
	for (lsm_file_table *table = tables; table != NULL; table = table->next) {
		pthread_mutex_lock(&table->mutex);
	}
}

static void unlock_all(void) {
	for (lsm_file_table *table = tables; table != NULL; table = table->next) {
		pthread_mutex_unlock(&table->mutex);
	}
	pthread_mutex_unlock(&tables_mutex);
}

static void after_fork_in_child(void) {
	unlock_all();
	forks++;
}

static void watch_forks(void) {
	once_error = pthread_atfork(lock_all, unlock_all, after_fork_in_child);
}

static void add_table(lsm_file_table *table) {
	pthread_mutex_lock(&tables_mutex);
	table->next = tables;
	tables = table;
	pthread_mutex_unlock(&tables_mutex);
}

static void remove_table(const lsm_file_table *table) {
	pthread_mutex_lock(&tables_mutex);
	for (lsm_file_table **link = &tables; *link != NULL; link = &(*link)->next) {
		if (*link == table) {
			*link = table->next;
			break;
		}
	}
	pthread_mutex_unlock(&tables_mutex);
}

/* ---- Tables -------------------------------------------------------------------------------------------- */

void lsm_sstable_path(const char *directory, uint64_t number, char path[LSM_PATH_BYTES]) {
	snprintf(path, LSM_PATH_BYTES, "%s/%06llu.sst", directory, (unsigned long long)number);
}

aidb_status lsm_file_table_create(const aidb_host *host, const char *directory, lsm_file_table **table) {
	lsm_file_table *created = calloc(1, sizeof(*created));
	char *copy = strdup(directory);

	pthread_once(&once, watch_forks);
	if (created == NULL || copy == NULL || once_error != 0) {
		free(created);
		free(copy);
		return lsm_fail(AIDB_NO_MEMORY, "out of memory: could not make the table of open files");
	}
	created->host = host;
	created->directory = copy;
	pthread_mutex_init(&created->mutex, NULL);
	for (int i = 0; i < LSM_OPEN_FILES; i++) {
		created->places[i].file = -1;
	}
	add_table(created);
	*table = created;
	return AIDB_OK;
}

void lsm_file_table_destroy(lsm_file_table *table) {
	if (table == NULL) {
		return;
	}
	remove_table(table);
	for (int i = 0; i < LSM_OPEN_FILES; i++) {
		if (table->places[i].file >= 0) {
			table->host->file_close(table->host->context, table->places[i].file);
		}
	}
	pthread_mutex_destroy(&table->mutex);
	free(table->directory);
	free(table);
}

static int find(const lsm_file_table *table, uint64_t number) {
	for (int i = 0; i < LSM_OPEN_FILES; i++) {
		if (table->numbers[i] == number) {
			return i;
		}
	}
	return -1;
}

/* A free place, or else the unpinned one that was not used for longest; -1 when all are pinned. */
static int choose_victim(const lsm_file_table *table) {
	int victim = -1;

	for (int i = 0; i < LSM_OPEN_FILES; i++) {
		const struct place *place = &table->places[i];

		if (place->file < 0) {
			return i;
		}
		if (place->pins == 0 && (victim < 0 || place->used < table->places[victim].used)) {
			victim = i;
		}
	}
	return victim;
}

static void close_place(lsm_file_table *table, int i) {
	if (table->places[i].file >= 0) {
		table->host->file_close(table->host->context, table->places[i].file);
		table->places[i].file = -1;
	}
	table->numbers[i] = 0;
}

static aidb_status open_file(const lsm_file_table *table, uint64_t number, int *file) {
	char path[LSM_PATH_BYTES];
	int error;

	lsm_sstable_path(table->directory, number, path);
	error = table->host->file_open(table->host->context, path, AIDB_FILE_READ, file);
	if (error == ENOENT) {
		return lsm_fail(AIDB_CORRUPT, "%s: the file is missing; restore the store from a backup", path);
	}
	return error == 0 ? AIDB_OK : lsm_fail_errno(error, "open file", path);
}

static aidb_status open_place(lsm_file_table *table, uint64_t number, int *file) {
	aidb_status rc = open_file(table, number, file);
	int i;

	if (rc != AIDB_OK) {
		return rc;
	}
	i = choose_victim(table);
	if (i >= 0) {
		close_place(table, i);
		table->numbers[i] = number;
		table->places[i] = (struct place){.file = *file, .pins = 1, .used = ++table->clock};
	}
	return AIDB_OK;
}

aidb_status lsm_file_table_pin(lsm_file_table *table, uint64_t number, int *file) {
	aidb_status rc = AIDB_OK;
	int i;

	pthread_mutex_lock(&table->mutex);
	i = find(table, number);
	if (i >= 0) {
		table->places[i].pins++;
		table->places[i].used = ++table->clock;
		*file = table->places[i].file;
	} else {
		rc = open_place(table, number, file);
	}
	pthread_mutex_unlock(&table->mutex);
	return rc;
}

void lsm_file_table_unpin(lsm_file_table *table, uint64_t number, int file) {
	int i;

	pthread_mutex_lock(&table->mutex);
	i = find(table, number);
	if (i < 0 || table->places[i].file != file) {
		i = 0;
		while (i < LSM_OPEN_FILES && table->places[i].file != file) {
			i++;
		}
	}
	if (i == LSM_OPEN_FILES) {
		table->host->file_close(table->host->context, file);
	} else if (--table->places[i].pins == 0 && table->numbers[i] == 0) {
		close_place(table, i);
	}
	pthread_mutex_unlock(&table->mutex);
}

/* Closes the file of a place, now or with its last unpin. */
static void forget_place(lsm_file_table *table, int i) {
	table->numbers[i] = 0;
	if (table->places[i].pins == 0) {
		close_place(table, i);
	}
}

void lsm_file_table_forget(lsm_file_table *table, uint64_t number) {
	int i;

	pthread_mutex_lock(&table->mutex);
	i = find(table, number);
	if (i >= 0) {
		forget_place(table, i);
	}
	pthread_mutex_unlock(&table->mutex);
}

void lsm_file_table_clear(lsm_file_table *table) {
	pthread_mutex_lock(&table->mutex);
	for (int i = 0; i < LSM_OPEN_FILES; i++) {
		forget_place(table, i);
	}
	pthread_mutex_unlock(&table->mutex);
}
