#include "control/health.h"

bool aidb_health_step(aidb_health *health, bool answered, uint32_t retries) {
	aidb_health_state before = health->state;

	if (answered) {
		*health = (aidb_health){.state = AIDB_NODE_UP};
		return before == AIDB_NODE_UNKNOWN || before == AIDB_NODE_DOWN;
	}
	if (health->failures < retries) {
		health->failures++;
	}
	if (health->failures >= retries) {
		health->state = AIDB_NODE_DOWN;
	} else if (before == AIDB_NODE_UP) {
		health->state = AIDB_NODE_SUSPECT;
	}
	return health->state == AIDB_NODE_DOWN && before != AIDB_NODE_DOWN;
}
