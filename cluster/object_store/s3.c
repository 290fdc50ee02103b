/*
 * A bucket of an S3-compatible service as a storage, by libcurl, which also signs the requests (AWS Signature Version 4). Each request
 * bears the SHA-256 of its body, so that what arrives is what was sent. Objects of more than PART_BYTES go in parts, which
 * become an object with the last request.
 *
 * After "Amazon Simple Storage Service API Reference": PutObject, GetObject, ListObjectsV2, DeleteObject, and the multipart
 * operations.
 */
#define _GNU_SOURCE 1
#include <curl/curl.h>
#include <fcntl.h>
#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "object_store/adapter.h"
#include "object_store/credentials.h"
#include "object_store/failure.h"
#include "object_store/hash.h"
#include "object_store/s3_answer.h"

#define PART_BYTES ((size_t)64 << 20)
#define MAX_PARTS 10000
#define TAG_BYTES 128   /* of a part, as the service calls it */
#define TEXT_BYTES 4096 /* of an address, a header, a query */
#define ANSWER_BYTES ((size_t)8 << 20)
#define ATTEMPTS 6
#define FIRST_NAP_MS 200
#define CONNECT_S 10
#define STALLED_S 20 /* a transfer that stands still for so long is given up */
#define USER_AGENT "aidb/1.0"

typedef struct s3 {
	aidb_storage base;
	CURL *curl;
	aidb_credentials credentials;
	char root[TEXT_BYTES];   /* address of the bucket, without a final slash */
	char prefix[TEXT_BYTES]; /* of all names, "" or with a final slash */
	char signing[TEXT_BYTES];
	bool may_pass; /* of the last attempt's failure: another one may help */
} s3;

/* ---- Requests -------------------------------------------------------------------------------------------- */

typedef struct request {
	const char *method;
	const char *name;  /* of the object; NULL: the bucket */
	const char *query; /* encoded and in order; NULL: none */
	const void *body;
	size_t body_bytes;
	size_t sent;
	/* The answer goes to the sink, if it is a good one, else into `answer`. */
	aidb_object_sink sink;
	void *argument;
	aidb_status sink_status;
	uint64_t received; /* by the sink, in all attempts */
	char *answer;
	size_t answer_bytes;
	char tag[TAG_BYTES];
	long status;
} request;

static size_t send_body(char *to, size_t size, size_t count, void *argument) {
	request *self = argument;
	size_t bytes = size * count;

	if (bytes > self->body_bytes - self->sent) {
		bytes = self->body_bytes - self->sent;
	}
	memcpy(to, (const char *)self->body + self->sent, bytes);
	self->sent += bytes;
	return bytes;
}

/* libcurl wants to send it again. */
static int rewind_body(void *argument, curl_off_t offset, int origin) {
	request *self = argument;

	if (origin != SEEK_SET || offset < 0 || (size_t)offset > self->body_bytes) {
		return CURL_SEEKFUNC_FAIL;
	}
	self->sent = (size_t)offset;
	return CURL_SEEKFUNC_OK;
}

static bool keep_answer(request *self, const char *data, size_t bytes) {
	char *larger;

	if (bytes > ANSWER_BYTES - self->answer_bytes) {
		return false;
	}
	larger = realloc(self->answer, self->answer_bytes + bytes + 1);
	if (larger == NULL) {
		return false;
	}
	self->answer = larger;
	memcpy(self->answer + self->answer_bytes, data, bytes);
	self->answer_bytes += bytes;
	self->answer[self->answer_bytes] = '\0';
	return true;
}

static size_t take_answer(char *data, size_t size, size_t count, void *argument) {
	request *self = argument;
	size_t bytes = size * count;

	if (self->sink == NULL || self->status / 100 != 2) {
		return keep_answer(self, data, bytes) ? bytes : 0;
	}
	self->sink_status = self->sink(self->argument, data, bytes);
	self->received += bytes;
	return self->sink_status == AIDB_OK ? bytes : 0;
}

static size_t take_header(char *data, size_t size, size_t count, void *argument) {
	request *self = argument;
	size_t bytes = size * count;
	int status;

	if (sscanf(data, "HTTP/%*s %d", &status) == 1) {
		self->status = status;
	} else if (bytes > 5 && strncasecmp(data, "etag:", 5) == 0) {
		size_t blanks = strspn(data + 5, " ");
		size_t length = strcspn(data + 5 + blanks, "\r\n");

		snprintf(self->tag, sizeof(self->tag), "%.*s", (int)length, data + 5 + blanks);
	}
	return bytes;
}

static bool may_help_again(CURLcode code, const request *self) {
	if (code == CURLE_OK) {
		return self->status == 408 || self->status == 429 || self->status >= 500;
	}
	return self->sink_status == AIDB_OK && code != CURLE_OUT_OF_MEMORY && code != CURLE_URL_MALFORMAT &&
		   code != CURLE_UNSUPPORTED_PROTOCOL && code != CURLE_PEER_FAILED_VERIFICATION;
}

static aidb_status judge(s3 *storage, const request *self, CURLcode code) {
	char reason[TEXT_BYTES / 4];
	const char *object = self->name != NULL ? self->name : "";

	storage->may_pass = may_help_again(code, self);
	if (self->sink_status != AIDB_OK) {
		return self->sink_status;
	}
	if (code != CURLE_OK) {
		return aidb_fail(AIDB_IO, "%s: %s %s failed: %s", storage->base.address, self->method, object,
						 curl_easy_strerror(code));
	}
	if (self->status / 100 == 2) {
		return AIDB_OK;
	}
	aidb_s3_error(self->answer, self->answer_bytes, reason, sizeof(reason));
	/* what was sent has changed on its way */
	storage->may_pass = storage->may_pass || strncmp(reason, "BadDigest", 9) == 0 ||
						strncmp(reason, "XAmzContentSHA256Mismatch", 25) == 0;
	if (self->status == 404) {
		return strncmp(reason, "NoSuchBucket", 12) == 0
				   ? aidb_fail(AIDB_INVALID, "%s: there is no such bucket; make it first", storage->base.address)
				   : aidb_fail(AIDB_NOT_FOUND, "%s: there is no object %s", storage->base.address, object);
	}
	if (self->status == 403) {
		return aidb_fail(AIDB_INVALID,
						 "%s: the service refuses %s %s: %s; check the credentials, what they permit, and the clock",
						 storage->base.address, self->method, object, reason);
	}
	return aidb_fail(AIDB_IO, "%s: %s %s failed with %ld: %s", storage->base.address, self->method, object,
					 self->status, reason);
}

/* The object's address: each part of its name encoded. */
static aidb_status address_of(const s3 *storage, const request *self, char address[TEXT_BYTES]) {
	char whole[TEXT_BYTES], *encoded;
	size_t length = (size_t)snprintf(address, TEXT_BYTES, "%s/", storage->root);

	snprintf(whole, sizeof(whole), "%s%s", self->name != NULL ? storage->prefix : "",
			 self->name != NULL ? self->name : "");
	for (char *part = whole, *next; part != NULL && part[0] != '\0' && length < TEXT_BYTES; part = next) {
		next = strchr(part, '/');
		if (next != NULL) {
			*next++ = '\0';
		}
		encoded = curl_easy_escape(storage->curl, part, 0);
		if (encoded == NULL) {
			return aidb_fail(AIDB_NO_MEMORY, "out of memory");
		}
		length += (size_t)snprintf(address + length, TEXT_BYTES - length, "%s%s", encoded, next != NULL ? "/" : "");
		curl_free(encoded);
	}
	if (self->query != NULL && length < TEXT_BYTES) {
		length += (size_t)snprintf(address + length, TEXT_BYTES - length, "?%s", self->query);
	}
	return length < TEXT_BYTES ? AIDB_OK : aidb_fail(AIDB_INVALID, "the name of an object is too long: %s", whole);
}

static struct curl_slist *add_header(struct curl_slist *headers, bool *complete, const char *name, const char *value) {
	char line[TEXT_BYTES];
	struct curl_slist *longer;

	snprintf(line, sizeof(line), "%s: %s", name, value);
	longer = curl_slist_append(headers, line);
	*complete = *complete && longer != NULL;
	return longer != NULL ? longer : headers;
}

static aidb_status attempt(s3 *storage, request *self, const char *address, struct curl_slist *headers) {
	CURL *curl = storage->curl;
	char range[64];
	CURLcode code;

	self->sent = 0;
	self->status = 0;
	self->answer_bytes = 0;
	self->tag[0] = '\0';
	curl_easy_reset(curl);
	curl_easy_setopt(curl, CURLOPT_URL, address);
	curl_easy_setopt(curl, CURLOPT_CUSTOMREQUEST, self->method);
	curl_easy_setopt(curl, CURLOPT_HTTPHEADER, headers);
	curl_easy_setopt(curl, CURLOPT_AWS_SIGV4, storage->signing);
	curl_easy_setopt(curl, CURLOPT_USERNAME, storage->credentials.key);
	curl_easy_setopt(curl, CURLOPT_PASSWORD, storage->credentials.secret);
	curl_easy_setopt(curl, CURLOPT_USERAGENT, USER_AGENT);
	curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
	curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT, (long)CONNECT_S);
	curl_easy_setopt(curl, CURLOPT_LOW_SPEED_LIMIT, 1L);
	curl_easy_setopt(curl, CURLOPT_LOW_SPEED_TIME, (long)STALLED_S);
	curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, take_answer);
	curl_easy_setopt(curl, CURLOPT_WRITEDATA, self);
	curl_easy_setopt(curl, CURLOPT_HEADERFUNCTION, take_header);
	curl_easy_setopt(curl, CURLOPT_HEADERDATA, self);
	if (strcmp(self->method, "PUT") == 0 || strcmp(self->method, "POST") == 0) {
		curl_easy_setopt(curl, CURLOPT_UPLOAD, 1L);
		curl_easy_setopt(curl, CURLOPT_READFUNCTION, send_body);
		curl_easy_setopt(curl, CURLOPT_READDATA, self);
		curl_easy_setopt(curl, CURLOPT_SEEKFUNCTION, rewind_body);
		curl_easy_setopt(curl, CURLOPT_SEEKDATA, self);
		curl_easy_setopt(curl, CURLOPT_INFILESIZE_LARGE, (curl_off_t)self->body_bytes);
	}
	if (self->received > 0) {
		snprintf(range, sizeof(range), "%llu-", (unsigned long long)self->received);
		curl_easy_setopt(curl, CURLOPT_RANGE, range); /* goes on where it was cut */
	}
	code = curl_easy_perform(curl);
	return judge(storage, self, code);
}

static void nap(int attempts) {
	long ms = (FIRST_NAP_MS << attempts) + random() % FIRST_NAP_MS;
	struct timespec time = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};

	nanosleep(&time, NULL);
}

/* Makes the request, again if that may help. The answer is the caller's to free. */
static aidb_status perform(s3 *storage, request *self) {
	struct curl_slist *headers = NULL;
	char address[TEXT_BYTES], hash[AIDB_HASH_TEXT];
	bool complete = true;
	aidb_status rc = address_of(storage, self, address);

	if (rc != AIDB_OK) {
		return rc;
	}
	aidb_hash_of(self->body != NULL ? self->body : "", self->body_bytes, hash);
	headers = add_header(headers, &complete, "x-amz-content-sha256", hash);
	if (storage->credentials.token[0] != '\0') {
		headers = add_header(headers, &complete, "x-amz-security-token", storage->credentials.token);
	}
	if (!complete) {
		rc = aidb_fail(AIDB_NO_MEMORY, "out of memory");
	} else {
		for (int attempts = 0; attempts < ATTEMPTS; attempts++) {
			rc = attempt(storage, self, address, headers);
			if (rc == AIDB_OK || !storage->may_pass || attempts + 1 == ATTEMPTS) {
				break;
			}
			nap(attempts);
		}
	}
	curl_slist_free_all(headers);
	return rc;
}

static aidb_status put(s3 *storage, const char *name, const char *query, const void *data, size_t size,
					   char tag[TAG_BYTES]) {
	request self = {.method = "PUT", .name = name, .query = query, .body = data, .body_bytes = size};
	aidb_status rc = perform(storage, &self);

	memcpy(tag, self.tag, TAG_BYTES);
	free(self.answer);
	return rc;
}

/* ---- Uploads --------------------------------------------------------------------------------------------- */

typedef struct s3_upload {
	aidb_upload base;
	char *data; /* what the file has not; up to PART_BYTES */
	size_t size;
	size_t capacity;
	int file; /* the parts before, -1: there are none */
	int parts;
} s3_upload;

static aidb_status s3_begin(aidb_storage *storage, aidb_upload **upload) {
	s3_upload *self = calloc(1, sizeof(*self));

	if (self == NULL) {
		return aidb_fail(AIDB_NO_MEMORY, "out of memory");
	}
	self->base.storage = storage;
	self->file = -1;
	*upload = &self->base;
	return AIDB_OK;
}

static const char *temporary_directory(void) {
	const char *directory = getenv("TMPDIR");

	return directory != NULL && directory[0] != '\0' ? directory : "/tmp";
}

/* Moves a full part from memory to a file that nobody else sees. */
static aidb_status spill(s3_upload *self) {
	size_t written = 0;

	if (self->file < 0) {
		self->file = open(temporary_directory(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
		if (self->file < 0) {
			return aidb_fail_errno(errno, "make a temporary file in", temporary_directory());
		}
	}
	if (self->parts == MAX_PARTS) {
		return aidb_fail(AIDB_LIMIT, "an object has at most %d parts of %zu bytes", MAX_PARTS, PART_BYTES);
	}
	while (written < self->size) {
		ssize_t more = write(self->file, self->data + written, self->size - written);

		if (more < 0 && errno != EINTR) {
			return aidb_fail_errno(errno, "write a temporary file in", temporary_directory());
		}
		written += more > 0 ? (size_t)more : 0;
	}
	self->parts++;
	self->size = 0;
	return AIDB_OK;
}

static aidb_status make_room(s3_upload *self, size_t size) {
	size_t capacity = self->capacity == 0 ? 1 << 16 : self->capacity;
	char *larger;

	while (capacity < self->size + size) {
		capacity *= 2;
	}
	if (capacity == self->capacity) {
		return AIDB_OK;
	}
	larger = realloc(self->data, capacity);
	if (larger == NULL) {
		return aidb_fail(AIDB_NO_MEMORY, "out of memory: could not take %zu bytes to be uploaded", capacity);
	}
	self->data = larger;
	self->capacity = capacity;
	return AIDB_OK;
}

static aidb_status s3_write(aidb_upload *upload, const void *data, size_t size) {
	s3_upload *self = (s3_upload *)upload;
	const char *at = data;
	aidb_status rc = AIDB_OK;

	while (size > 0 && rc == AIDB_OK) {
		size_t fits = PART_BYTES - self->size;
		size_t bytes = size < fits ? size : fits;

		rc = make_room(self, bytes);
		if (rc == AIDB_OK) {
			memcpy(self->data + self->size, at, bytes);
			self->size += bytes;
			at += bytes;
			size -= bytes;
			rc = self->size == PART_BYTES ? spill(self) : AIDB_OK;
		}
	}
	return rc;
}

static void s3_abandon(aidb_upload *upload) {
	s3_upload *self = (s3_upload *)upload;

	if (self->file >= 0) {
		close(self->file);
	}
	free(self->data);
	free(self);
}

static aidb_status begin_parts(s3 *storage, const char *name, char upload_id[TEXT_BYTES / 2]) {
	request self = {.method = "POST", .name = name, .query = "uploads="};
	aidb_status rc = perform(storage, &self);

	if (rc == AIDB_OK && !aidb_s3_upload_id(self.answer, self.answer_bytes, upload_id, TEXT_BYTES / 2)) {
		rc = aidb_fail(AIDB_IO, "%s: the service's answer is none", storage->base.address);
	}
	free(self.answer);
	return rc;
}

static aidb_status read_part(s3_upload *self, int part) {
	size_t got = 0;

	while (got < PART_BYTES) {
		ssize_t more =
			pread(self->file, self->data + got, PART_BYTES - got, (off_t)part * (off_t)PART_BYTES + (off_t)got);

		if (more == 0 || (more < 0 && errno != EINTR)) {
			return aidb_fail_errno(more == 0 ? EIO : errno, "read a temporary file in", temporary_directory());
		}
		got += more > 0 ? (size_t)more : 0;
	}
	return AIDB_OK;
}

static aidb_status send_part(s3 *storage, const char *name, const char *upload_id, int number, const char *data,
							 size_t size, FILE *list) {
	char query[TEXT_BYTES], tag[TAG_BYTES];
	aidb_status rc;

	snprintf(query, sizeof(query), "partNumber=%d&uploadId=%s", number, upload_id);
	rc = put(storage, name, query, data, size, tag);
	if (rc == AIDB_OK) {
		fprintf(list, "<Part><PartNumber>%d</PartNumber><ETag>%s</ETag></Part>", number, tag);
	}
	return rc;
}

/* The service may answer well at first, and with an error then. */
static aidb_status finish_parts(s3 *storage, const char *name, const char *upload_id, const char *list, size_t size) {
	char query[TEXT_BYTES], reason[TEXT_BYTES / 4];
	request self = {.method = "POST", .name = name, .query = query, .body = list, .body_bytes = size};
	aidb_status rc;

	snprintf(query, sizeof(query), "uploadId=%s", upload_id);
	rc = perform(storage, &self);
	if (rc == AIDB_OK && aidb_s3_error(self.answer, self.answer_bytes, reason, sizeof(reason))) {
		rc = aidb_fail(AIDB_IO, "%s: putting together the parts of %s failed: %s", storage->base.address, name, reason);
	}
	free(self.answer);
	return rc;
}

static void drop_parts(s3 *storage, const char *name, const char *upload_id) {
	char query[TEXT_BYTES], reason[TEXT_BYTES / 2];
	request self = {.method = "DELETE", .name = name, .query = query};

	snprintf(reason, sizeof(reason), "%s", aidb_failure());
	snprintf(query, sizeof(query), "uploadId=%s", upload_id);
	(void)perform(storage, &self);
	free(self.answer);
	aidb_fail(AIDB_IO, "%s", reason); /* what led here */
}

static aidb_status send_parts(s3 *storage, s3_upload *self, const char *name) {
	char upload_id[TEXT_BYTES / 2], *text = NULL;
	size_t text_bytes = 0, last_bytes = self->size;
	char *last = malloc(last_bytes + 1);
	FILE *list = last == NULL ? NULL : open_memstream(&text, &text_bytes);
	aidb_status rc = list == NULL ? aidb_fail(AIDB_NO_MEMORY, "out of memory") : begin_parts(storage, name, upload_id);
	bool begun = rc == AIDB_OK;

	if (begun) {
		memcpy(last, self->data, last_bytes);
		fputs("<CompleteMultipartUpload>", list);
	}
	for (int part = 0; part < self->parts && rc == AIDB_OK; part++) {
		rc = read_part(self, part);
		if (rc == AIDB_OK) {
			rc = send_part(storage, name, upload_id, part + 1, self->data, PART_BYTES, list);
		}
	}
	if (rc == AIDB_OK && last_bytes > 0) {
		rc = send_part(storage, name, upload_id, self->parts + 1, last, last_bytes, list);
	}
	if (list != NULL) {
		fputs("</CompleteMultipartUpload>", list);
		if (fclose(list) != 0 && rc == AIDB_OK) {
			rc = aidb_fail(AIDB_NO_MEMORY, "out of memory");
		}
	}
	if (rc == AIDB_OK) {
		rc = finish_parts(storage, name, upload_id, text, text_bytes);
	}
	if (rc != AIDB_OK && begun) {
		drop_parts(storage, name, upload_id);
	}
	free(text);
	free(last);
	return rc;
}

static aidb_status s3_finish(aidb_upload *upload, const char *name) {
	s3_upload *self = (s3_upload *)upload;
	s3 *storage = (s3 *)upload->storage;
	char tag[TAG_BYTES];
	aidb_status rc =
		self->parts == 0 ? put(storage, name, NULL, self->data, self->size, tag) : send_parts(storage, self, name);

	s3_abandon(upload);
	return rc;
}

/* ---- Reading, listing, removing -------------------------------------------------------------------------- */

static aidb_status s3_get(aidb_storage *storage, const char *name, aidb_object_sink sink, void *argument) {
	request self = {.method = "GET", .name = name, .sink = sink, .argument = argument};
	aidb_status rc = perform((s3 *)storage, &self);

	free(self.answer);
	return rc;
}

typedef struct listing {
	const s3 *storage;
	aidb_object_each each;
	void *argument;
} listing;

static aidb_status list_object(void *argument, const char *key, uint64_t bytes) {
	const listing *run = argument;
	size_t prefix = strlen(run->storage->prefix);

	return strncmp(key, run->storage->prefix, prefix) == 0 ? run->each(run->argument, key + prefix, bytes) : AIDB_OK;
}

static aidb_status s3_list(aidb_storage *storage, const char *prefix, aidb_object_each each, void *argument) {
	s3 *self = (s3 *)storage;
	listing run = {self, each, argument};
	char whole[TEXT_BYTES], query[TEXT_BYTES], next[TEXT_BYTES / 4] = "";
	aidb_status rc = AIDB_OK;

	snprintf(whole, sizeof(whole), "%s%s", self->prefix, prefix);
	do {
		request page = {.method = "GET", .query = query};
		char *wanted = curl_easy_escape(self->curl, whole, 0);
		char *from = curl_easy_escape(self->curl, next, 0);

		snprintf(query, sizeof(query), "%s%s%slist-type=2&max-keys=1000&prefix=%s",
				 next[0] != '\0' ? "continuation-token=" : "", from != NULL ? from : "", next[0] != '\0' ? "&" : "",
				 wanted != NULL ? wanted : "");
		curl_free(wanted);
		curl_free(from);
		rc = perform(self, &page);
		if (rc == AIDB_OK) {
			rc = aidb_s3_listing(page.answer, page.answer_bytes, list_object, &run, next, sizeof(next));
		}
		free(page.answer);
	} while (rc == AIDB_OK && next[0] != '\0');
	return rc;
}

static aidb_status s3_remove(aidb_storage *storage, const char *name) {
	request self = {.method = "DELETE", .name = name};
	aidb_status rc = perform((s3 *)storage, &self);

	free(self.answer);
	return rc == AIDB_NOT_FOUND ? AIDB_OK : rc;
}

/* ---- Opening --------------------------------------------------------------------------------------------- */

static void s3_close(aidb_storage *storage) {
	s3 *self = (s3 *)storage;

	curl_easy_cleanup(self->curl);
	explicit_bzero(&self->credentials, sizeof(self->credentials));
	free(self);
}

static const char *setting(const char *name, const char *otherwise) {
	const char *value = getenv(name);

	return value != NULL && value[0] != '\0' ? value : otherwise;
}

/* Where the bucket is: a host of the service, or a path there. */
static aidb_status find_root(s3 *self, const char *bucket, const char *region) {
	const char *endpoint = setting("AWS_ENDPOINT_URL", NULL);
	const char *style = setting("AIDB_S3_STYLE", endpoint == NULL ? "virtual" : "path");
	char service[TEXT_BYTES / 2];
	const char *host;

	snprintf(service, sizeof(service), "https://s3.%s.amazonaws.com", region);
	if (endpoint != NULL) {
		snprintf(service, sizeof(service), "%.*s",
				 (int)(strlen(endpoint) - (endpoint[strlen(endpoint) - 1] == '/' ? 1 : 0)), endpoint);
	}
	host = strstr(service, "://");
	if (host == NULL) {
		return aidb_fail(AIDB_INVALID, "AWS_ENDPOINT_URL is \"%s\", which is no address like https://host:port",
						 service);
	}
	if (strcmp(style, "virtual") == 0) {
		snprintf(self->root, sizeof(self->root), "%.*s%s.%s", (int)(host + 3 - service), service, bucket, host + 3);
	} else if (strcmp(style, "path") == 0) {
		snprintf(self->root, sizeof(self->root), "%s/%s", service, bucket);
	} else {
		return aidb_fail(AIDB_INVALID, "AIDB_S3_STYLE is \"%s\"; it can be \"virtual\" or \"path\"", style);
	}
	return AIDB_OK;
}

static pthread_once_t once = PTHREAD_ONCE_INIT;

static void start_curl(void) {
	(void)curl_global_init(CURL_GLOBAL_DEFAULT);
}

static aidb_status set_up(s3 *self, const char *place) {
	const char *region = setting("AWS_REGION", setting("AWS_DEFAULT_REGION", "us-east-1"));
	size_t bucket_bytes = strcspn(place, "/");
	const char *prefix = place + bucket_bytes + (place[bucket_bytes] == '/' ? 1 : 0);
	char bucket[64];
	aidb_status rc;

	if (bucket_bytes < 3 || bucket_bytes >= sizeof(bucket) || strlen(prefix) > TEXT_BYTES / 4) {
		return aidb_fail(AIDB_INVALID, "\"s3://%s\": the name of a bucket has 3 to 63 characters", place);
	}
	snprintf(bucket, sizeof(bucket), "%.*s", (int)bucket_bytes, place);
	snprintf(self->prefix, sizeof(self->prefix), "%s%s", prefix,
			 prefix[0] == '\0' || prefix[strlen(prefix) - 1] == '/' ? "" : "/");
	snprintf(self->signing, sizeof(self->signing), "aws:amz:%s:s3", region);
	rc = find_root(self, bucket, region);
	if (rc == AIDB_OK) {
		rc = aidb_credentials_find(&self->credentials);
	}
	if (rc == AIDB_OK && (self->curl = curl_easy_init()) == NULL) {
		rc = aidb_fail(AIDB_NO_MEMORY, "out of memory");
	}
	return rc;
}

aidb_status aidb_s3_open(const char *place, aidb_storage **storage) {
	static const aidb_adapter adapter = {.close = s3_close,
										 .begin = s3_begin,
										 .write = s3_write,
										 .finish = s3_finish,
										 .abandon = s3_abandon,
										 .get = s3_get,
										 .list = s3_list,
										 .remove = s3_remove};
	s3 *self = calloc(1, sizeof(*self));
	aidb_status rc;

	if (self == NULL) {
		return aidb_fail(AIDB_NO_MEMORY, "out of memory");
	}
	pthread_once(&once, start_curl);
	self->base.adapter = &adapter;
	rc = set_up(self, place);
	if (rc != AIDB_OK) {
		s3_close(&self->base);
		return rc;
	}
	*storage = &self->base;
	return AIDB_OK;
}
