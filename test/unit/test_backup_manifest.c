#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "backup/manifest.h"
#include "object_store/failure.h"

static aidb_manifest sample(void) {
	aidb_manifest manifest = {.label = "20261127T055046Z",
							  .database = "app with blanks",
							  .owner = "postgres",
							  .encoding = "UTF8",
							  .collation = "C.UTF-8",
							  .ctype = "C.UTF-8",
							  .server = "15.20 (Debian)",
							  .store = UINT64_C(0xd868e62765486681),
							  .epoch = 3,
							  .after = 16,
							  .complete_at = 27,
							  .started = UINT64_C(1795758646000000),
							  .finished = UINT64_C(1795758647000000),
							  .stored_bytes = 4};

	for (int i = 0; i < 5; i++) {
		aidb_manifest_file file = {.bytes = (uint64_t)i * 1000, .modified = 5};

		snprintf(file.name, sizeof(file.name), "00000%d.sst", i);
		aidb_hash_of(file.name, strlen(file.name), file.hash);
		assert_int_equal(aidb_manifest_add(&manifest, &file), AIDB_OK);
	}
	return manifest;
}

static void test_round_trip(void **state) {
	aidb_manifest manifest = sample(), read;
	char *text, *again;
	size_t size, again_size;

	(void)state;
	assert_int_equal(aidb_manifest_write(&manifest, &text, &size), AIDB_OK);
	assert_int_equal(aidb_manifest_read("m", text, size, &read), AIDB_OK);
	assert_string_equal(read.database, "app with blanks");
	assert_int_equal(read.store, manifest.store);
	assert_int_equal(read.file_count, 5);
	assert_string_equal(read.files[4].name, "000004.sst");
	assert_int_equal(aidb_manifest_bytes(&read), 10000);
	assert_int_equal(aidb_manifest_write(&read, &again, &again_size), AIDB_OK);
	assert_int_equal(again_size, size);
	assert_memory_equal(again, text, size);
	aidb_manifest_free(&manifest);
	aidb_manifest_free(&read);
	free(text);
	free(again);
}

/* No byte can be changed, and nothing be cut off, without being noticed. */
static void test_damage(void **state) {
	aidb_manifest manifest = sample(), read;
	char *text;
	size_t size;

	(void)state;
	assert_int_equal(aidb_manifest_write(&manifest, &text, &size), AIDB_OK);
	for (size_t at = 0; at < size; at++) {
		text[at] ^= 1;
		assert_int_not_equal(aidb_manifest_read("the name", text, size, &read), AIDB_OK);
		text[at] ^= 1;
		assert_int_not_equal(aidb_manifest_read("the name", text, at, &read), AIDB_OK);
	}
	assert_non_null(strstr(aidb_failure(), "the name"));
	assert_int_equal(aidb_manifest_read("m", text, size, &read), AIDB_OK);
	aidb_manifest_free(&read);
	aidb_manifest_free(&manifest);
	free(text);
}

/* With a checksum that fits: who writes it may be anybody. */
static void seal(char *text) {
	char hash[AIDB_HASH_TEXT];

	aidb_hash_of(text, strlen(text), hash);
	sprintf(text + strlen(text), "sha256 %s\n", hash);
}

static void test_refusals(void **state) {
	static const char *const names[] = {"../postgresql.conf", ".hidden", "a/b", ""};
	aidb_manifest manifest = sample(), read;
	char *text, bad[8192];
	size_t size;

	(void)state;
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		strcpy(manifest.files[1].name, names[i]);
		assert_int_equal(aidb_manifest_write(&manifest, &text, &size), AIDB_OK);
		assert_int_equal(aidb_manifest_read("m", text, size, &read), AIDB_CORRUPT);
		free(text);
	}
	strcpy(manifest.database, "two\nlines");
	assert_int_equal(aidb_manifest_write(&manifest, &text, &size), AIDB_INVALID);
	strcpy(bad, "aidb backup 2\n");
	seal(bad);
	assert_int_equal(aidb_manifest_read("m", bad, strlen(bad), &read), AIDB_UNSUPPORTED);
	strcpy(bad, "aidb backup 1\nlabel x\n");
	seal(bad);
	assert_int_equal(aidb_manifest_read("m", bad, strlen(bad), &read), AIDB_CORRUPT);
	aidb_manifest_free(&manifest);
}

int main(void) {
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_round_trip),
		cmocka_unit_test(test_damage),
		cmocka_unit_test(test_refusals),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
