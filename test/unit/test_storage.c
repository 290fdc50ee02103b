/* What a storage promises, of a directory, or of what AIDB_TEST_STORAGE names: an empty place in a bucket, say. */
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "object_store/failure.h"
#include "object_store/hash.h"
#include "object_store/s3_answer.h"
#include "object_store/storage.h"
#include "store_fixture.h"

#define LARGE_BYTES ((size_t)150 << 20) /* more than an upload in one part takes */
#define PIECE_BYTES ((size_t)1 << 20)

static char directory[STORE_PATH_BYTES];
static const char *address;
static aidb_storage *storage;

static int set_up(void **state) {
	(void)state;
	directory_make(directory);
	address = getenv("AIDB_TEST_STORAGE");
	address = address != NULL ? address : directory;
	assert_int_equal(aidb_storage_open(address, &storage), AIDB_OK);
	return 0;
}

static int tear_down(void **state) {
	char command[STORE_PATH_BYTES + 16];

	(void)state;
	aidb_storage_close(storage);
	snprintf(command, sizeof(command), "rm -rf '%s'", directory);
	return system(command);
}

static void put_text(const char *name, const char *text) {
	assert_int_equal(aidb_storage_put(storage, name, text, strlen(text)), AIDB_OK);
}

static void expect_text(const char *name, const char *text) {
	char *data;
	size_t size;

	assert_int_equal(aidb_storage_load(storage, name, 1000, &data, &size), AIDB_OK);
	assert_int_equal(size, strlen(text));
	assert_string_equal(data, text);
	free(data);
}

static aidb_status note_name(void *argument, const char *name, uint64_t bytes) {
	char *text = argument;

	sprintf(text + strlen(text), "%s:%" PRIu64 " ", name, bytes);
	return AIDB_OK;
}

static const char *listed(const char *prefix) {
	static char text[1 << 16];

	text[0] = '\0';
	assert_int_equal(aidb_storage_list(storage, prefix, note_name, text), AIDB_OK);
	return text;
}

static void test_objects(void **state) {
	char *data;
	size_t size;

	(void)state;
	assert_int_equal(aidb_storage_load(storage, "t/none", 10, &data, &size), AIDB_NOT_FOUND);
	put_text("t/one", "first");
	expect_text("t/one", "first");
	put_text("t/one", "second");
	expect_text("t/one", "second");
	put_text("t/empty", "");
	expect_text("t/empty", "");
	put_text("t/with blank + percent%", "odd");
	expect_text("t/with blank + percent%", "odd");
	assert_int_equal(aidb_storage_load(storage, "t/one", 5, &data, &size), AIDB_CORRUPT);
	assert_int_equal(aidb_storage_remove(storage, "t/one"), AIDB_OK);
	assert_int_equal(aidb_storage_remove(storage, "t/one"), AIDB_OK);
	assert_int_equal(aidb_storage_load(storage, "t/one", 10, &data, &size), AIDB_NOT_FOUND);
	assert_non_null(strstr(aidb_failure(), "t/one"));
}

static void test_lists(void **state) {
	char name[64];
	unsigned count = 0;

	(void)state;
	assert_string_equal(listed("l/"), "");
	put_text("l/b", "1");
	put_text("l/a/y", "22");
	put_text("l/a.z", "333");
	put_text("l/a/x", "");
	assert_string_equal(listed("l/"), "l/a.z:3 l/a/x:0 l/a/y:2 l/b:1 ");
	assert_string_equal(listed("l/a/"), "l/a/x:0 l/a/y:2 ");
	assert_string_equal(listed("l/a"), "l/a.z:3 l/a/x:0 l/a/y:2 ");
	/* more than a page of a service's has */
	for (int i = 0; i < 1100; i++) {
		snprintf(name, sizeof(name), "many/%04d", i);
		put_text(name, "");
	}
	for (const char *at = listed("many/0"); (at = strchr(at, ' ')) != NULL; at++) {
		count++;
	}
	assert_int_equal(count, 1000);
}

static aidb_status stop_early(void *argument, const char *name, uint64_t bytes) {
	(void)name;
	(void)bytes;
	++*(int *)argument;
	return AIDB_INTERRUPTED;
}

static void test_sinks_end_it(void **state) {
	int calls = 0;

	(void)state;
	put_text("s/a", "1");
	put_text("s/b", "1");
	assert_int_equal(aidb_storage_list(storage, "s/", stop_early, &calls), AIDB_INTERRUPTED);
	assert_int_equal(calls, 1);
}

static void test_unfinished(void **state) {
	aidb_upload *upload;

	(void)state;
	assert_int_equal(aidb_upload_begin(storage, &upload), AIDB_OK);
	assert_int_equal(aidb_upload_write(upload, "half", 4), AIDB_OK);
	assert_string_equal(listed("u/"), "");
	aidb_upload_abandon(upload);
	assert_string_equal(listed("u/"), "");
}

static aidb_status hash_part(void *argument, const void *data, size_t size) {
	aidb_hash_add(argument, data, size);
	return AIDB_OK;
}

static void test_large(void **state) {
	char *piece = malloc(PIECE_BYTES), written[AIDB_HASH_TEXT], read[AIDB_HASH_TEXT];
	aidb_hash *hash = aidb_hash_create();
	uint64_t seed = 1;
	aidb_upload *upload;

	(void)state;
	assert_int_equal(aidb_upload_begin(storage, &upload), AIDB_OK);
	for (size_t at = 0; at < LARGE_BYTES; at += PIECE_BYTES) {
		for (size_t i = 0; i < PIECE_BYTES; i += 8) {
			uint64_t random = store_random(&seed);

			memcpy(piece + i, &random, 8);
		}
		aidb_hash_add(hash, piece, PIECE_BYTES);
		assert_int_equal(aidb_upload_write(upload, piece, PIECE_BYTES), AIDB_OK);
	}
	aidb_hash_finish(hash, written);
	assert_int_equal(aidb_upload_finish(upload, "large/one"), AIDB_OK);
	assert_int_equal(aidb_storage_get(storage, "large/one", hash_part, hash), AIDB_OK);
	aidb_hash_finish(hash, read);
	assert_string_equal(read, written);
	assert_int_equal(aidb_storage_remove(storage, "large/one"), AIDB_OK);
	aidb_hash_destroy(hash);
	free(piece);
}

/* ---- Addresses and credentials ----------------------------------------------------------------------------- */

static void expect_invalid(const char *bad, const char *word) {
	aidb_storage *none = NULL;

	assert_int_equal(aidb_storage_open(bad, &none), AIDB_INVALID);
	assert_non_null(strstr(aidb_failure(), word));
	assert_null(none);
}

static void test_addresses(void **state) {
	static const char *const names[] = {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SHARED_CREDENTIALS_FILE",
										"AWS_PROFILE", "AWS_ENDPOINT_URL"};
	char *saved[5], path[2 * STORE_PATH_BYTES];
	aidb_storage *opened;

	(void)state;
	for (int i = 0; i < 5; i++) {
		saved[i] = getenv(names[i]) != NULL ? strdup(getenv(names[i])) : NULL;
		unsetenv(names[i]);
	}
	expect_invalid("", "directory");
	expect_invalid("ftp://host/path", "ftp");
	expect_invalid("s3://x", "3 to 63");
	snprintf(path, sizeof(path), "%s/credentials", directory);
	setenv("AWS_SHARED_CREDENTIALS_FILE", path, 1);
	expect_invalid("s3://bucket", path);
	file_store(path, "[other]\naws_access_key_id = a\naws_secret_access_key = hidden\n", 61);
	expect_invalid("s3://bucket", "[default]");
	assert_null(strstr(aidb_failure(), "hidden"));
	setenv("AWS_PROFILE", "other", 1);
	assert_int_equal(aidb_storage_open("s3://bucket/prefix", &opened), AIDB_OK);
	assert_string_equal(aidb_storage_address(opened), "s3://bucket/prefix");
	aidb_storage_close(opened);
	setenv("AWS_ENDPOINT_URL", "no address", 1);
	expect_invalid("s3://bucket", "AWS_ENDPOINT_URL");
	for (int i = 0; i < 5; i++) {
		if (saved[i] != NULL) {
			setenv(names[i], saved[i], 1);
		} else {
			unsetenv(names[i]);
		}
		free(saved[i]);
	}
}

/* ---- What a service answers -------------------------------------------------------------------------------- */

#define PAGE                                                                                                           \
	"<?xml version='1.0'?><ListBucketResult xmlns='http://s3.amazonaws.com/doc/2006-03-01/'><IsTruncated>true"         \
	"</IsTruncated><NextContinuationToken>t1</NextContinuationToken><Contents><Key>a&amp;b</Key><Size>12</Size>"       \
	"</Contents><Contents><Key>no size</Key></Contents></ListBucketResult>"

static void test_answers(void **state) {
	char text[256] = "", next[32], upload_id[32];

	(void)state;
	assert_int_equal(aidb_s3_listing(PAGE, strlen(PAGE), note_name, text, next, sizeof(next)), AIDB_OK);
	assert_string_equal(text, "a&b:12 ");
	assert_string_equal(next, "t1");
	for (size_t size = 0; size < strlen(PAGE); size++) {
		assert_int_equal(aidb_s3_listing(PAGE, size, note_name, text, next, sizeof(next)), AIDB_IO);
		text[0] = '\0';
	}
	assert_true(aidb_s3_error("<Error><Code>C</Code><Message>m</Message></Error>", 49, text, sizeof(text)));
	assert_string_equal(text, "C: m");
	assert_false(aidb_s3_error(PAGE, strlen(PAGE), text, sizeof(text)));
	assert_false(aidb_s3_error(NULL, 0, text, sizeof(text)));
	assert_true(aidb_s3_upload_id("<A><UploadId>xyz</UploadId></A>", 31, upload_id, sizeof(upload_id)));
	assert_string_equal(upload_id, "xyz");
	assert_false(aidb_s3_upload_id("<A><UploadId>x&amp;y</UploadId></A>", 35, upload_id, sizeof(upload_id)));
}

int main(void) {
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_objects, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_lists, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_sinks_end_it, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_unfinished, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_large, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_addresses, set_up, tear_down),
		cmocka_unit_test(test_answers),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
