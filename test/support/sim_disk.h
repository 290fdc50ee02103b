/*
 * sim_disk.h: a disk in memory that loses what was not synced, for tests of stores that lose their power.
 *
 * It promises what POSIX does and nothing more. A write is durable once the file was synced after it, and the name of a
 * file once its directory was: until then each write may be kept, lost, or kept in some of its sectors, and each change
 * of a directory kept or lost, in any combination. A sync that fails loses what it was to keep for good, although readers
 * go on seeing it: a later sync does not bring it back, as on Linux.
 *
 * Every call that changes something is a step. At a given step the power fails, or the call does. One disk at a time is
 * mounted, for one thread.
 */
#ifndef SIM_DISK_H
#define SIM_DISK_H

#include "aidb.h"

#define SIM_SECTOR_BYTES 512u

typedef enum sim_fault {
	SIM_POWER_OFF,   /* the call and all that follow fail; of a write some may have been done */
	SIM_IO_ERROR,    /* it fails with EIO, once */
	SIM_NO_SPACE,    /* with ENOSPC, once; syncs and removals do not count */
	SIM_SHORT_WRITE, /* a write ends in the middle, with ENOSPC */
} sim_fault;

/* What becomes of what was not synced. */
typedef enum sim_fate { SIM_KEPT, SIM_LOST, SIM_MIXED } sim_fate;
#define SIM_FATES 3

typedef struct sim_disk {
	uint64_t steps;      /* so far */
	uint64_t fault_step; /* at which the fault comes; 0: never */
	sim_fault fault;
	bool count_reads; /* reads are steps, too */
	bool off;         /* the power has failed */
	uint64_t random;  /* state of the random numbers */
	struct sim_inode *inodes;
	struct sim_name *names;
	struct sim_change *changes; /* of names, that may be lost; newest first */
	struct sim_inode **files;   /* open ones by number; NULL: free */
	int file_count;
} sim_disk;

/* Zero-initialise the disk, and set `random`. Replaces the host's functions on files and its random numbers. */
void sim_disk_mount(sim_disk *disk, aidb_host *host);
/* Switches the power off, if it is not, and on again: open files are closed, and what was not synced meets its fate. */
void sim_disk_restart(sim_disk *disk, sim_fate fate);
/* Closes all files, as the death of the process does. */
void sim_disk_close_files(sim_disk *disk);
void sim_disk_destroy(sim_disk *disk);

#endif
