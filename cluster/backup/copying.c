#include "backup/copying.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "object_store/failure.h"

#define SHOW_MS 200
#define TEXT_BYTES 2048

static uint64_t now_us(void) {
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

static void sleep_us(uint64_t us) {
	struct timespec time = {.tv_sec = (time_t)(us / 1000000), .tv_nsec = (long)(us % 1000000) * 1000};

	nanosleep(&time, NULL);
}

typedef struct copying {
	const aidb_copy_options *options;
	aidb_copy_file copy;
	void *argument;
	uint32_t count;
	_Atomic uint32_t next;
	_Atomic uint32_t running;
	pthread_mutex_t latch; /* of what follows */
	aidb_status rc;
	char failure[TEXT_BYTES];
} copying;

typedef struct job {
	copying *run;
	unsigned number;
	pthread_t thread;
} job;

static void *work(void *argument) {
	job *self = argument;
	copying *run = self->run;
	uint32_t file;

	while ((file = atomic_fetch_add(&run->next, 1)) < run->count) {
		aidb_status rc = run->copy(run->argument, self->number, file);

		if (rc != AIDB_OK) {
			pthread_mutex_lock(&run->latch);
			if (run->rc == AIDB_OK) {
				run->rc = rc;
				snprintf(run->failure, sizeof(run->failure), "%s", aidb_failure());
			}
			pthread_mutex_unlock(&run->latch);
			atomic_store(&run->next, run->count);
		}
	}
	atomic_fetch_sub(&run->running, 1);
	return NULL;
}

static void show(const aidb_progress *progress, uint64_t begun_us, const char *end) {
	uint64_t bytes = atomic_load(&progress->bytes_done), us = now_us() - begun_us;

	fprintf(stderr, "\r%s: %" PRIu64 " of %" PRIu64 " files, %" PRIu64 " of %" PRIu64 " MB, %" PRIu64 " MB/s   %s",
			progress->what, atomic_load(&progress->files_done), progress->files, bytes >> 20, progress->bytes >> 20,
			us > 0 ? bytes / us : 0, end);
}

/* While the threads work. */
static void wait_for_jobs(copying *run, const aidb_progress *progress, job *jobs, unsigned count) {
	uint64_t begun_us = now_us();

	if (progress->show) {
		while (atomic_load(&run->running) > 0) {
			show(progress, begun_us, "");
			sleep_us(SHOW_MS * 1000);
		}
		show(progress, begun_us, "\n");
	}
	for (unsigned i = 0; i < count; i++) {
		pthread_join(jobs[i].thread, NULL);
	}
}

aidb_status aidb_copy_all(const aidb_copy_options *options, aidb_progress *progress, uint32_t count,
						  aidb_copy_file copy, void *argument) {
	copying run = {.options = options, .copy = copy, .argument = argument, .count = count};
	job jobs[AIDB_MAX_JOBS];
	unsigned started = 0;

	pthread_mutex_init(&run.latch, NULL);
	for (; started < options->jobs && started < AIDB_MAX_JOBS; started++) {
		jobs[started] = (job){.run = &run, .number = started};
		atomic_fetch_add(&run.running, 1);
		if (pthread_create(&jobs[started].thread, NULL, work, &jobs[started]) != 0) {
			atomic_fetch_sub(&run.running, 1);
			break;
		}
	}
	wait_for_jobs(&run, progress, jobs, started);
	pthread_mutex_destroy(&run.latch);
	if (started == 0 && count > 0) {
		return aidb_fail(AIDB_NO_MEMORY, "could not start a thread");
	}
	return run.rc == AIDB_OK ? AIDB_OK : aidb_fail(run.rc, "%s", run.failure);
}

/* ---- Rate ------------------------------------------------------------------------------------------------ */

void aidb_copy_note(aidb_progress *progress, const aidb_copy_options *options, size_t bytes) {
	static _Atomic uint64_t free_at_us; /* when what was copied so far may have been copied */
	uint64_t now, free_at, at;

	atomic_fetch_add(&progress->bytes_done, bytes);
	if (options->rate_bytes == 0) {
		return;
	}
	now = now_us();
	free_at = atomic_load(&free_at_us);
	do {
		at = free_at > now ? free_at : now;
	} while (!atomic_compare_exchange_weak(&free_at_us, &free_at, at + bytes * 1000000 / options->rate_bytes));
	if (at > now) {
		sleep_us(at - now);
	}
}
