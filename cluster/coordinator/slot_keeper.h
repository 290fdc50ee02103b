/*
 * slot_keeper.h: looks for moves of slots whose process is gone, and completes or undoes them.
 */
#ifndef AIDB_SLOT_KEEPER_H
#define AIDB_SLOT_KEEPER_H

#include <poll.h>
#include <stdbool.h>
#include <stdint.h>

typedef struct aidb_slot_keeper aidb_slot_keeper;

/* NULL: out of memory. The string must outlive it. */
aidb_slot_keeper *aidb_slot_keeper_create(const char *conninfo);
void aidb_slot_keeper_destroy(aidb_slot_keeper *keeper); /* NULL is fine */

/* For poll(): the socket (-1: none) and the events that it waits for. */
int aidb_slot_keeper_socket(const aidb_slot_keeper *keeper, short *events);
/* To be called when they have come, and when time has passed. `leads`: this daemon is the one that acts. */
void aidb_slot_keeper_step(aidb_slot_keeper *keeper, bool leads, uint64_t now_ms);

#endif
