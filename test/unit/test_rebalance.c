/* rebalance: whether what is planned has room where it is to go. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "scaling/rebalance.h"

#define MB UINT64_C(1048576)

static aidb_planned plan_for(uint32_t target, const char *name, uint64_t bytes, uint64_t free_bytes) {
	aidb_planned planned = {.target = {.id = target}, .bytes = bytes, .free_bytes = free_bytes};

	strcpy(planned.target.name, name);
	strcpy(planned.target.node, "n1");
	return planned;
}

static void a_copy_is_written_twice(void **state) {
	aidb_planned plan = plan_for(1, "one", 100 * MB, 264 * MB);
	aidb_trouble trouble = {.text = ""};

	(void)state;
	assert_true(aidb_rebalance_has_room(&plan, 1, &trouble));
	plan.free_bytes--;
	assert_false(aidb_rebalance_has_room(&plan, 1, &trouble));
	assert_string_equal(trouble.text,
						"group \"one\" has no room for the slots: node \"n1\" has 263 MB free, and 264 MB are needed; "
						"make room there, or give the group a lower weight");
}

/* Each target takes all that comes to it, from whatever group, and nothing else. */
static void what_comes_to_a_target_counts_together(void **state) {
	aidb_planned plans[] = {plan_for(1, "one", 100 * MB, 463 * MB), plan_for(2, "two", 900 * MB, 2000 * MB),
							plan_for(1, "one", 100 * MB, 463 * MB)};
	aidb_trouble trouble = {.text = ""};

	(void)state;
	assert_true(aidb_rebalance_has_room(plans, 2, &trouble));
	assert_false(aidb_rebalance_has_room(plans, 3, &trouble));
	assert_non_null(strstr(trouble.text, "group \"one\""));
	plans[0].free_bytes = plans[2].free_bytes = 464 * MB;
	assert_true(aidb_rebalance_has_room(plans, 3, &trouble));
	assert_true(aidb_rebalance_has_room(NULL, 0, &trouble));
}

int main(void) {
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_copy_is_written_twice),
		cmocka_unit_test(what_comes_to_a_target_counts_together),
	};

	return cmocka_run_group_tests_name("rebalance", tests, NULL, NULL);
}
