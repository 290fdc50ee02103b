/* Retention: which backups are kept, and what goes with the others. */
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "backup/retention.h"
#include "object_store/failure.h"
#include "store_fixture.h"

#define DAY_US (UINT64_C(24) * 3600 * 1000000)
#define NOW (1000 * DAY_US)

/* Which of backups of 1, 2, ... days ago are kept, the oldest first. */
static const char *kept(uint32_t count, uint32_t keep_count, uint32_t keep_days) {
	static char text[64];
	aidb_backup_age ages[32];
	aidb_retention_rules rules = {keep_count, keep_days};

	for (uint32_t i = 0; i < count; i++) {
		ages[i] = (aidb_backup_age){.finished = NOW - (count - i) * DAY_US};
	}
	aidb_retention_choose(&rules, NOW, ages, count);
	for (uint32_t i = 0; i < count; i++) {
		text[i] = ages[i].keep ? 'K' : '-';
	}
	text[count] = '\0';
	return text;
}

static void test_choose(void **state) {
	(void)state;
	assert_string_equal(kept(5, 2, 0), "---KK");
	assert_string_equal(kept(5, 9, 0), "KKKKK");
	assert_string_equal(kept(5, 0, 3), "-KKKK"); /* the fourth leads to what was three days ago */
	assert_string_equal(kept(5, 0, 100), "KKKKK");
	assert_string_equal(kept(5, 4, 1), "-KKKK"); /* what either rule wants */
	assert_string_equal(kept(5, 1, 3), "-KKKK");
	assert_string_equal(kept(1, 0, 0), "K"); /* the newest in any case */
	assert_string_equal(kept(0, 1, 1), "");
}

static char directory[STORE_PATH_BYTES];
static aidb_repository repository;

static int set_up(void **state) {
	(void)state;
	directory_make(directory);
	assert_int_equal(aidb_repository_open(directory, &repository), AIDB_OK);
	return 0;
}

static int tear_down(void **state) {
	char command[STORE_PATH_BYTES + 16];

	(void)state;
	aidb_repository_close(&repository);
	snprintf(command, sizeof(command), "rm -rf '%s'", directory);
	return system(command);
}

static void put_object(const char *contents, char hash[AIDB_HASH_TEXT]) {
	char name[AIDB_OBJECT_NAME_BYTES];

	aidb_hash_of(contents, strlen(contents), hash);
	aidb_object_name(hash, name);
	assert_int_equal(aidb_storage_put(repository.storage, name, contents, strlen(contents)), AIDB_OK);
}

/* A backup of two files, one of which is its own. */
static void put_backup(int number) {
	aidb_manifest manifest = {
		.database = "d", .owner = "o", .encoding = "e", .collation = "c", .ctype = "c", .server = "s"};
	char contents[32];

	snprintf(manifest.label, sizeof(manifest.label), "2026010%dT000000Z", number);
	manifest.store = 7;
	manifest.after = (uint64_t)number * 100;
	manifest.complete_at = manifest.after + 10;
	manifest.finished = (uint64_t)time(NULL) * 1000000 - (uint64_t)(10 - number) * DAY_US;
	for (int i = 0; i < 2; i++) {
		aidb_manifest_file file = {.bytes = 1};

		snprintf(contents, sizeof(contents), "%s %d", i == 0 ? "shared" : "own", i == 0 ? 0 : number);
		snprintf(file.name, sizeof(file.name), "00000%d.sst", i);
		file.bytes = strlen(contents);
		put_object(contents, file.hash);
		assert_int_equal(aidb_manifest_add(&manifest, &file), AIDB_OK);
	}
	assert_int_equal(aidb_repository_put_manifest(&repository, &manifest), AIDB_OK);
	aidb_manifest_free(&manifest);
}

static void put_piece(uint64_t from) {
	aidb_piece piece = {.store = 7, .from = from, .upto = from + 50, .clock_us = 1};
	char name[AIDB_OBJECT_NAME_BYTES];

	aidb_piece_name(&piece, name);
	assert_int_equal(aidb_storage_put(repository.storage, name, "x", 1), AIDB_OK);
}

static void put_point(const char *name, uint64_t sequence) {
	aidb_point point = {.store = 7, .sequence = sequence, .clock_us = 1};

	snprintf(point.name, sizeof(point.name), "%s", name);
	assert_int_equal(aidb_repository_put_point(&repository, &point), AIDB_OK);
}

static void fill(void) {
	char hash[AIDB_HASH_TEXT];

	for (int number = 1; number <= 4; number++) {
		put_backup(number);
	}
	for (uint64_t from = 100; from < 500; from += 50) {
		put_piece(from);
	}
	put_point("early", 150);
	put_point("late", 450);
	put_object("left by a backup that was broken off", hash);
}

static void note_label(void *argument, const char *label) {
	strcat(strcat(argument, label + 6), " ");
}

static uint32_t count_of(const char *prefix) {
	aidb_objects objects;
	aidb_pieces pieces;
	aidb_labels labels;
	uint32_t count;

	assert_int_equal(aidb_repository_objects(&repository, &objects), AIDB_OK);
	assert_int_equal(aidb_repository_pieces(&repository, 0, &pieces), AIDB_OK);
	assert_int_equal(aidb_repository_labels(&repository, &labels), AIDB_OK);
	count = prefix[0] == 'o' ? objects.count : prefix[0] == 'l' ? pieces.count : labels.count;
	free(objects.objects);
	free(pieces.pieces);
	free(labels.labels);
	return count;
}

static void test_expire(void **state) {
	aidb_retention_rules rules = {.count = 2};
	char labels[256] = "";
	aidb_expired expired;
	aidb_point point;

	(void)state;
	fill();
	assert_int_equal(aidb_expire(&repository, &rules, true, note_label, labels, &expired), AIDB_OK);
	assert_string_equal(labels, "01T000000Z 02T000000Z ");
	assert_int_equal(expired.objects, 3); /* two own ones, and what was left */
	assert_int_equal(count_of("backups"), 4);
	assert_int_equal(count_of("objects"), 6);

	labels[0] = '\0';
	assert_int_equal(aidb_expire(&repository, &rules, false, note_label, labels, &expired), AIDB_OK);
	assert_int_equal(expired.backups, 2);
	assert_int_equal(expired.pieces, 3); /* up to 300, which ends where the third backup begins */
	assert_int_equal(expired.points, 1);
	assert_int_equal(count_of("backups"), 2);
	assert_int_equal(count_of("objects"), 3);
	assert_int_equal(count_of("log"), 5);
	assert_int_equal(aidb_repository_find_point(&repository, "early", &point), AIDB_NOT_FOUND);
	assert_int_equal(aidb_repository_find_point(&repository, "late", &point), AIDB_OK);
}

/* What a manifest needs that cannot be read is not known: nothing is removed. */
static void test_unreadable(void **state) {
	aidb_retention_rules rules = {.count = 1};
	char labels[256] = "";
	aidb_expired expired;

	(void)state;
	fill();
	assert_int_equal(aidb_storage_put(repository.storage, "backups/20260103T000000Z", "garbage", 7), AIDB_OK);
	assert_int_equal(aidb_expire(&repository, &rules, false, note_label, labels, &expired), AIDB_CORRUPT);
	assert_non_null(strstr(aidb_failure(), "backups/20260103T000000Z"));
	assert_int_equal(count_of("backups"), 4);
	assert_int_equal(count_of("objects"), 6);
}

/* Who backs up and who expires keep out of each other's way. */
static void test_locks(void **state) {
	aidb_retention_rules rules = {.count = 1};
	char labels[256] = "", text[32];
	aidb_repository other;
	aidb_expired expired;

	(void)state;
	fill();
	assert_int_equal(aidb_repository_open(directory, &other), AIDB_OK);
	assert_int_equal(aidb_repository_lock(&other, "backup", "expire"), AIDB_OK);
	assert_int_equal(aidb_expire(&repository, &rules, false, note_label, labels, &expired), AIDB_IN_USE);
	assert_int_equal(count_of("backups"), 4);
	aidb_repository_close(&other);
	assert_int_equal(aidb_repository_lock(&repository, "expire", "backup"), AIDB_OK);
	assert_int_equal(aidb_repository_open(directory, &other), AIDB_OK);
	assert_int_equal(aidb_repository_lock(&other, "backup", "expire"), AIDB_IN_USE);
	aidb_repository_close(&other);
	/* of somebody who has died long ago */
	snprintf(text, sizeof(text), "%lld\n", (long long)time(NULL) - 2 * 24 * 3600);
	assert_int_equal(aidb_storage_put(repository.storage, "locks/backup-host-1", text, strlen(text)), AIDB_OK);
	assert_int_equal(aidb_expire(&repository, &rules, false, note_label, labels, &expired), AIDB_OK);
}

int main(void) {
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_choose),
		cmocka_unit_test_setup_teardown(test_expire, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_unreadable, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_locks, set_up, tear_down),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
