/*
 * The file MANIFEST, all integers little-endian:
 *
 *   magic u64 "AIDBman1" | format version u32 | number of files u32
 *   store id u64 | segment bytes u64 | next file number u64 | last sequence u64 | log start u64 | edit u64
 *   number of pins u32 (since version 2) | for each pin: name, 32 bytes | sequence u64 | log position u64
 *   for each file, level by level, in the order of its level:
 *     level u8 | number u64
 *     file bytes u64 | entries u64 | deletes u64 | min sequence u64 | max sequence u64 | max tag u64 | raw bytes u64
 *     root offset u64 | root size u32 | root level u32
 *     smallest trailer u64 | largest trailer u64
 *     smallest key: length u32, bytes | largest key: length u32, bytes
 *   checksum u64: XXH3 of all bytes before
 */
#include "store/manifest.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "base/buffer.h"
#include "base/checksum.h"
#include "base/status.h"
#include "store/file_table.h"

#define MANIFEST_NAME "MANIFEST"
#define NEW_NAME "MANIFEST.new"
#define MAGIC 0x316e616d42444941ull /* "AIDBman1" */
#define HEADER_BYTES 64u
#define PIN_BYTES (AIDB_PIN_NAME_BYTES + 16u)
#define FILE_FIXED_BYTES 97u /* a file's entry without its keys' lengths and bytes */
#define CHECKSUM_BYTES 8u
#define MAX_MANIFEST_BYTES (1ull << 30)

/* ---- Writing --------------------------------------------------------------------------------------------- */

static uint8_t *put_u32(uint8_t *to, uint32_t value) {
	lsm_put_u32(to, value);
	return to + sizeof(value);
}

static uint8_t *put_u64(uint8_t *to, uint64_t value) {
	lsm_put_u64(to, value);
	return to + sizeof(value);
}

static uint8_t *put_key(uint8_t *to, aidb_slice key) {
	to = put_u32(to, (uint32_t)key.size);
	memcpy(to, key.data, key.size);
	return to + key.size;
}

static void encode_header(uint8_t *to, const lsm_manifest_header *header, uint32_t files) {
	to = put_u64(to, MAGIC);
	to = put_u32(to, LSM_MANIFEST_VERSION);
	to = put_u32(to, files);
	to = put_u64(to, header->store_id);
	to = put_u64(to, header->segment_bytes);
	to = put_u64(to, header->next_file_number);
	to = put_u64(to, header->last_sequence);
	to = put_u64(to, header->log_start);
	put_u64(to, header->edit);
}

static uint8_t *encode_pins(uint8_t *to, const lsm_manifest_header *header) {
	to = put_u32(to, header->pin_count);
	for (uint32_t i = 0; i < header->pin_count; i++) {
		memcpy(to, header->pins[i].name, AIDB_PIN_NAME_BYTES);
		to = put_u64(to + AIDB_PIN_NAME_BYTES, header->pins[i].sequence);
		to = put_u64(to, header->pins[i].position);
	}
	return to;
}

static uint8_t *encode_file(uint8_t *to, int level, const lsm_file *file) {
	const lsm_sstable_properties *properties = &file->properties;

	*to++ = (uint8_t)level;
	to = put_u64(to, file->number);
	to = put_u64(to, properties->file_bytes);
	to = put_u64(to, properties->entries);
	to = put_u64(to, properties->deletes);
	to = put_u64(to, properties->min_sequence);
	to = put_u64(to, properties->max_sequence);
	to = put_u64(to, properties->max_tag);
	to = put_u64(to, properties->raw_bytes);
	to = put_u64(to, properties->root.offset);
	to = put_u32(to, properties->root.size);
	to = put_u32(to, properties->root_level);
	to = put_u64(to, file->smallest_trailer);
	to = put_u64(to, file->largest_trailer);
	to = put_key(to, lsm_file_smallest(file));
	return put_key(to, lsm_file_largest(file));
}

static aidb_status encode(const lsm_arena *arena, const lsm_manifest_header *header, const lsm_version *version,
						  aidb_buffer *out) {
	uint32_t count = version->level_begin[AIDB_LEVELS];
	size_t bytes = HEADER_BYTES + sizeof(uint32_t) + header->pin_count * PIN_BYTES + CHECKSUM_BYTES;
	uint8_t *to;
	aidb_status rc;

	for (uint32_t i = 0; i < count; i++) {
		const lsm_file *file = lsm_at(arena, version->files[i]);

		bytes += FILE_FIXED_BYTES + 2 * sizeof(uint32_t) + file->smallest_bytes + file->largest_bytes;
	}
	rc = lsm_buffer_reserve(out, bytes);
	if (rc != AIDB_OK) {
		return rc;
	}
	encode_header((uint8_t *)out->data, header, count);
	to = encode_pins((uint8_t *)out->data + HEADER_BYTES, header);
	for (int level = 0; level < AIDB_LEVELS; level++) {
		for (uint32_t i = 0; i < lsm_level_count(version, level); i++) {
			to = encode_file(to, level, lsm_level_file(arena, version, level, i));
		}
	}
	out->size = bytes;
	assert(to == (uint8_t *)out->data + bytes - CHECKSUM_BYTES);
	put_u64(to, lsm_hash64(out->data, bytes - CHECKSUM_BYTES, 0));
	return AIDB_OK;
}

static aidb_status write_file(const aidb_host *host, const char *path, const aidb_buffer *bytes) {
	aidb_status rc;
	int error, file;

	error = host->file_open(host->context, path, AIDB_FILE_READ | AIDB_FILE_WRITE | AIDB_FILE_CREATE, &file);
	if (error != 0) {
		return lsm_fail_errno(error, "create file", path);
	}
	error = host->file_truncate(host->context, file, 0); /* a failed attempt may have left one */
	if (error == 0) {
		error = host->file_write(host->context, file, bytes->data, bytes->size, 0);
	}
	if (error == 0) {
		error = host->file_sync(host->context, file);
	}
	rc = error == 0 ? AIDB_OK : lsm_fail_errno(error, "write file", path);
	host->file_close(host->context, file);
	return rc;
}

/* From here on a failure leaves it open which of the two manifests a restart finds. */
static aidb_status replace(const aidb_host *host, const char *directory, const char *from, const char *to) {
	int error = host->file_rename(host->context, from, to);

	if (error != 0) {
		return lsm_fail(AIDB_IO, "could not rename \"%s\" to \"%s\": %s", from, to, strerror(error));
	}
	error = host->directory_sync(host->context, directory);
	if (error != 0) {
		return lsm_fail(AIDB_IO, "could not sync directory \"%s\": %s", directory, strerror(error));
	}
	return AIDB_OK;
}

aidb_status lsm_manifest_write(const lsm_arena *arena, const char *directory, const lsm_manifest_header *header,
							   const lsm_version *version) {
	const aidb_host *host = arena->waiting.host;
	aidb_buffer bytes = {NULL, 0, 0};
	char path[LSM_PATH_BYTES], new_path[LSM_PATH_BYTES];
	aidb_status rc;

	snprintf(path, sizeof(path), "%s/%s", directory, MANIFEST_NAME);
	snprintf(new_path, sizeof(new_path), "%s/%s", directory, NEW_NAME);
	rc = encode(arena, header, version, &bytes);
	if (rc == AIDB_OK) {
		rc = write_file(host, new_path, &bytes);
	}
	if (rc == AIDB_OK) {
		rc = replace(host, directory, new_path, path);
	}
	aidb_buffer_free(&bytes);
	return rc;
}

/* ---- Reading --------------------------------------------------------------------------------------------- */

/* The whole file into `bytes`; AIDB_NOT_FOUND when there is none. */
static aidb_status read_file(const aidb_host *host, const char *path, aidb_buffer *bytes) {
	uint64_t size = 0;
	size_t got = 0;
	int error, file;
	aidb_status rc;

	error = host->file_open(host->context, path, AIDB_FILE_READ, &file);
	if (error != 0) {
		return lsm_fail_errno(error, "open file", path);
	}
	error = host->file_size(host->context, file, &size);
	rc = error == 0 ? AIDB_OK : lsm_fail_errno(error, "get the size of file", path);
	if (rc == AIDB_OK && size > MAX_MANIFEST_BYTES) {
		rc = lsm_fail(AIDB_CORRUPT,
					  "%s: offset 0: a manifest of %llu bytes is too large to be true; restore the store from a backup",
					  path, (unsigned long long)size);
	}
	if (rc == AIDB_OK) {
		rc = lsm_buffer_reserve(bytes, (size_t)size + 1);
	}
	if (rc == AIDB_OK) {
		error = host->file_read(host->context, file, bytes->data, (size_t)size, 0, &got);
		bytes->size = got;
		rc = error == 0 ? AIDB_OK : lsm_fail_errno(error, "read file", path);
	}
	host->file_close(host->context, file);
	return rc;
}

static aidb_status corrupt(const char *path, size_t offset, const char *reason) {
	return lsm_fail(AIDB_CORRUPT, "%s: offset %zu: %s; restore the store from a backup", path, offset, reason);
}

/* Magic, version and checksum. */
static aidb_status check(const char *path, const aidb_buffer *bytes) {
	const uint8_t *data = (const uint8_t *)bytes->data;
	size_t checked = bytes->size - CHECKSUM_BYTES;
	uint32_t version;

	if (bytes->size < HEADER_BYTES + CHECKSUM_BYTES) {
		return corrupt(path, bytes->size, "the file is cut off");
	}
	if (lsm_get_u64(data) != MAGIC) {
		return corrupt(path, 0, "it does not begin as a manifest");
	}
	if (lsm_hash64(data, checked, 0) != lsm_get_u64(data + checked)) {
		return corrupt(path, checked, "the checksum does not match");
	}
	version = lsm_get_u32(data + 8);
	if (version == 0 || version > LSM_MANIFEST_VERSION) {
		return lsm_fail(AIDB_UNSUPPORTED,
						"%s: offset 8: format version %u is none of those up to %u, which this build knows", path,
						version, LSM_MANIFEST_VERSION);
	}
	return AIDB_OK;
}

/* False: malformed. */
static bool decode_pins(lsm_reader *reader, lsm_manifest_header *header) {
	header->pin_count = lsm_read_u32(reader);
	if (reader->failed || header->pin_count > AIDB_MAX_PINS) {
		return false;
	}
	for (uint32_t i = 0; i < header->pin_count; i++) {
		lsm_manifest_pin *pin = &header->pins[i];
		const uint8_t *name = lsm_read_bytes(reader, AIDB_PIN_NAME_BYTES);

		pin->sequence = lsm_read_u64(reader);
		pin->position = lsm_read_u64(reader);
		if (reader->failed || name[0] == 0 || name[AIDB_PIN_NAME_BYTES - 1] != 0) {
			return false;
		}
		memcpy(pin->name, name, AIDB_PIN_NAME_BYTES);
	}
	return true;
}

static void decode_header(lsm_reader *reader, lsm_manifest_header *header, uint32_t *version, uint32_t *files) {
	lsm_read_bytes(reader, 8);
	*version = lsm_read_u32(reader);
	*files = lsm_read_u32(reader);
	header->store_id = lsm_read_u64(reader);
	header->segment_bytes = lsm_read_u64(reader);
	header->next_file_number = lsm_read_u64(reader);
	header->last_sequence = lsm_read_u64(reader);
	header->log_start = lsm_read_u64(reader);
	header->edit = lsm_read_u64(reader);
}

static aidb_slice read_key(lsm_reader *reader) {
	aidb_slice key = {.size = lsm_read_u32(reader)};

	if (key.size > AIDB_MAX_KEY_BYTES) {
		reader->failed = true;
	}
	key.data = lsm_read_bytes(reader, key.size);
	return key;
}

static void decode_properties(lsm_reader *reader, lsm_sstable_properties *properties) {
	properties->file_bytes = lsm_read_u64(reader);
	properties->entries = lsm_read_u64(reader);
	properties->deletes = lsm_read_u64(reader);
	properties->min_sequence = lsm_read_u64(reader);
	properties->max_sequence = lsm_read_u64(reader);
	properties->max_tag = lsm_read_u64(reader);
	properties->raw_bytes = lsm_read_u64(reader);
	properties->root.offset = lsm_read_u64(reader);
	properties->root.size = lsm_read_u32(reader);
	properties->root_level = lsm_read_u32(reader);
}

/* Reads one file's entry and hands it over. False: it is malformed. */
static bool decode_file(lsm_reader *reader, lsm_manifest_file each, void *argument, aidb_status *rc) {
	lsm_sstable_properties properties = {0};
	uint64_t number, smallest_trailer, largest_trailer;
	aidb_slice smallest, largest;
	int level = lsm_read_u8(reader);

	number = lsm_read_u64(reader);
	decode_properties(reader, &properties);
	smallest_trailer = lsm_read_u64(reader);
	largest_trailer = lsm_read_u64(reader);
	smallest = read_key(reader);
	largest = read_key(reader);
	if (reader->failed || level >= AIDB_LEVELS || number == 0 || properties.root_level == 0 ||
		properties.root_level > LSM_MAX_INDEX_LEVEL) {
		return false;
	}
	*rc = each(argument, level, number, &properties, smallest, smallest_trailer, largest, largest_trailer);
	return true;
}

static aidb_status decode(const char *path, const aidb_buffer *bytes, lsm_manifest_header *header,
						  lsm_manifest_file each, void *argument) {
	lsm_reader reader = lsm_reader_of(bytes->data, bytes->size - CHECKSUM_BYTES);
	aidb_status rc = AIDB_OK;
	uint32_t version, files;

	decode_header(&reader, header, &version, &files);
	if (version >= 2 && !decode_pins(&reader, header)) {
		return corrupt(path, HEADER_BYTES, "the list of pins is malformed");
	}
	for (uint32_t i = 0; rc == AIDB_OK && i < files; i++) {
		size_t offset = (size_t)(reader.at - (const uint8_t *)bytes->data);

		if (!decode_file(&reader, each, argument, &rc)) {
			return corrupt(path, offset, "the entry of a file is malformed");
		}
	}
	if (rc == AIDB_OK && lsm_reader_left(&reader) > 0) {
		rc = corrupt(path, (size_t)(reader.at - (const uint8_t *)bytes->data), "there is more than the files named");
	}
	return rc;
}

aidb_status lsm_manifest_read(const aidb_host *host, const char *directory, lsm_manifest_header *header,
							  lsm_manifest_file each, void *argument) {
	aidb_buffer bytes = {NULL, 0, 0};
	lsm_manifest_header read = {0};
	char path[LSM_PATH_BYTES];
	aidb_status rc;

	snprintf(path, sizeof(path), "%s/%s", directory, MANIFEST_NAME);
	rc = read_file(host, path, &bytes);
	if (rc == AIDB_OK) {
		rc = check(path, &bytes);
	}
	if (rc == AIDB_OK) {
		rc = decode(path, &bytes, &read, each, argument);
	}
	if (rc == AIDB_OK) {
		*header = read;
	}
	aidb_buffer_free(&bytes);
	return rc;
}
