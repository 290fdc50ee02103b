#include "workload.h"

#include <time.h>

const char *const mode_names[4] = {"aidb", "mixed", "split", "heap"};
const char *const level_names[3] = {"READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"};

int64_t workload_now_us(void) {
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

void workload_start(workload *load) {
	load->next_element = 1;
	load->next_list = load->active_lists;
	load->transactions = 0;
	load->committed = 0;
	for (uint32_t i = 0; i < load->active_lists; i++) {
		load->lists[i] = i;
		load->appends[i] = 0;
	}
}

bool workload_goes_on(workload *load) {
	return (workload_now_us() < load->deadline_us || load->committed < load->least_committed) &&
		   atomic_fetch_add(&load->transactions, 1) < load->max_transactions &&
		   load->next_element < HISTORY_MAX_NUMBER - load->sessions &&
		   load->next_list < HISTORY_MAX_NUMBER - load->sessions;
}

static bool is_among(uint32_t list, const uint32_t *others, unsigned count) {
	for (unsigned i = 0; i < count; i++) {
		if (others[i] == list) {
			return true;
		}
	}
	return false;
}

uint32_t workload_choose_list(workload *load, test_random *random, const uint32_t *others, unsigned count) {
	uint32_t list;

	do {
		list = (uint32_t)load->lists[test_random_below(random, load->active_lists)];
	} while (is_among(list, others, count));
	return list;
}

/* Who makes the list full gives its place to another; those who are about to append still may. */
uint32_t workload_take_element(workload *load, uint32_t list) {
	for (unsigned i = 0; i < load->active_lists; i++) {
		if (load->lists[i] == list && atomic_fetch_add(&load->appends[i], 1) + 1 == load->appends_per_list) {
			load->appends[i] = 0;
			load->lists[i] = atomic_fetch_add(&load->next_list, 1);
		}
	}
	return (uint32_t)atomic_fetch_add(&load->next_element, 1);
}

const char *workload_table(const workload *load, uint32_t list) {
	return load->mode == MODE_HEAP || (load->mode == MODE_SPLIT && list % 2 == 1) ? "list_heap" : "list_aidb";
}
