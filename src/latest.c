#include "latest.h"

#include "utils/snapmgr.h"

aipg_view aipg_latest_begin(void) {
	PushActiveSnapshot(GetLatestSnapshot());
	/* Sequence 0 is the engine's newest; its iterator holds that by itself. */
	return (aipg_view){.sequence = 0, .snapshot = GetActiveSnapshot(), .command = GetActiveSnapshot()->curcid};
}

void aipg_latest_end(void) {
	PopActiveSnapshot();
}
