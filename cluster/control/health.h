/*
 * health.h: whether a node is up, by the answers to probes. A pure step function: the daemon and the simulator run the same.
 *
 *   state     probe answered   probe failed
 *   up        up               suspect, or down after `retries` in a row
 *   suspect   up               down after `retries` in a row
 *   down      up               down
 *   unknown   up               down after `retries` in a row
 */
#ifndef AIDB_HEALTH_H
#define AIDB_HEALTH_H

#include <stdbool.h>
#include <stdint.h>

typedef enum aidb_health_state { AIDB_NODE_UNKNOWN, AIDB_NODE_UP, AIDB_NODE_SUSPECT, AIDB_NODE_DOWN } aidb_health_state;

typedef struct aidb_health {
	aidb_health_state state;
	uint32_t failures; /* in a row */
} aidb_health;

/* What a probe's answer means; true when the state has changed to up or to down. `retries` is at least 1. */
bool aidb_health_step(aidb_health *health, bool answered, uint32_t retries);

#endif
