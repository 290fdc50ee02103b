#include "object_store/hash.h"

#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>

#define BYTES 32

struct aidb_hash {
	EVP_MD_CTX *context;
};

static void must(int done) {
	if (done != 1) {
		abort(); /* SHA-256 has no errors but those of a broken library */
	}
}

aidb_hash *aidb_hash_create(void) {
	aidb_hash *hash = malloc(sizeof(*hash));

	if (hash == NULL || (hash->context = EVP_MD_CTX_new()) == NULL) {
		free(hash);
		return NULL;
	}
	must(EVP_DigestInit_ex(hash->context, EVP_sha256(), NULL));
	return hash;
}

void aidb_hash_add(aidb_hash *hash, const void *data, size_t size) {
	must(EVP_DigestUpdate(hash->context, data, size));
}

static void write_text(const unsigned char bytes[BYTES], char text[AIDB_HASH_TEXT]) {
	static const char digits[] = "0123456789abcdef";

	for (int i = 0; i < BYTES; i++) {
		text[2 * i] = digits[bytes[i] >> 4];
		text[2 * i + 1] = digits[bytes[i] & 15];
	}
	text[AIDB_HASH_TEXT - 1] = '\0';
}

void aidb_hash_finish(aidb_hash *hash, char text[AIDB_HASH_TEXT]) {
	unsigned char bytes[BYTES];

	must(EVP_DigestFinal_ex(hash->context, bytes, NULL));
	must(EVP_DigestInit_ex(hash->context, EVP_sha256(), NULL));
	write_text(bytes, text);
}

void aidb_hash_destroy(aidb_hash *hash) {
	if (hash != NULL) {
		EVP_MD_CTX_free(hash->context);
		free(hash);
	}
}

void aidb_hash_of(const void *data, size_t size, char text[AIDB_HASH_TEXT]) {
	unsigned char bytes[BYTES];

	must(EVP_Digest(data, size, bytes, NULL, EVP_sha256(), NULL));
	write_text(bytes, text);
}

bool aidb_hash_is(const char *text) {
	return strlen(text) == AIDB_HASH_TEXT - 1 && strspn(text, "0123456789abcdef") == AIDB_HASH_TEXT - 1;
}
