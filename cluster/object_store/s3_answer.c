#include "object_store/s3_answer.h"

#include <libxml/parser.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "object_store/failure.h"

/* Entities stay what they are, and nothing is fetched: libxml2's defaults with these. */
#define PARSE_OPTIONS (XML_PARSE_NONET | XML_PARSE_NOERROR | XML_PARSE_NOWARNING | XML_PARSE_COMPACT)

static xmlDoc *parse(const char *bytes, size_t size) {
	return bytes == NULL || size > INT_MAX ? NULL : xmlReadMemory(bytes, (int)size, "answer", NULL, PARSE_OPTIONS);
}

static bool is_named(const xmlNode *node, const char *name) {
	return node->type == XML_ELEMENT_NODE && strcmp((const char *)node->name, name) == 0;
}

/* The text of a child of that name; false when there is none, or it does not fit. */
static bool text_of(const xmlNode *parent, const char *name, char *to, size_t to_bytes) {
	to[0] = '\0';
	for (const xmlNode *node = parent->children; node != NULL; node = node->next) {
		if (is_named(node, name)) {
			xmlChar *text = xmlNodeGetContent(node);
			bool fits = text != NULL && snprintf(to, to_bytes, "%s", (const char *)text) < (int)to_bytes;

			xmlFree(text);
			return fits;
		}
	}
	return false;
}

bool aidb_s3_error(const char *bytes, size_t size, char *reason, size_t reason_bytes) {
	xmlDoc *document = parse(bytes, size);
	const xmlNode *root = document != NULL ? xmlDocGetRootElement(document) : NULL;
	bool is_error = root != NULL && is_named(root, "Error");

	snprintf(reason, reason_bytes, "it gives no reason");
	if (is_error) {
		char code[128], message[512];

		(void)text_of(root, "Code", code, sizeof(code));
		(void)text_of(root, "Message", message, sizeof(message));
		snprintf(reason, reason_bytes, "%s: %s", code, message);
	}
	xmlFreeDoc(document);
	return is_error;
}

bool aidb_s3_upload_id(const char *bytes, size_t size, char *upload_id, size_t upload_id_bytes) {
	xmlDoc *document = parse(bytes, size);
	const xmlNode *root = document != NULL ? xmlDocGetRootElement(document) : NULL;
	bool found = root != NULL && text_of(root, "UploadId", upload_id, upload_id_bytes) && upload_id[0] != '\0';

	/* services make them of what needs no encoding */
	found = found && strpbrk(upload_id, "&?#%+ /\r\n") == NULL;
	xmlFreeDoc(document);
	return found;
}

static aidb_status list_contents(const xmlNode *node, aidb_object_each each, void *argument) {
	char key[2 * AIDB_OBJECT_NAME_BYTES + 1024], bytes[32];

	if (!text_of(node, "Key", key, sizeof(key)) || !text_of(node, "Size", bytes, sizeof(bytes))) {
		return AIDB_OK; /* no object of ours has such a name */
	}
	return each(argument, key, strtoull(bytes, NULL, 10));
}

aidb_status aidb_s3_listing(const char *bytes, size_t size, aidb_object_each each, void *argument, char *next,
							size_t next_bytes) {
	xmlDoc *document = parse(bytes, size);
	const xmlNode *root = document != NULL ? xmlDocGetRootElement(document) : NULL;
	aidb_status rc = AIDB_OK;
	char truncated[8];

	if (root == NULL || !is_named(root, "ListBucketResult")) {
		rc = aidb_fail(AIDB_IO, "the service's answer is no list of objects");
	}
	for (const xmlNode *node = rc == AIDB_OK ? root->children : NULL; node != NULL && rc == AIDB_OK;
		 node = node->next) {
		if (is_named(node, "Contents")) {
			rc = list_contents(node, each, argument);
		}
	}
	next[0] = '\0';
	if (rc == AIDB_OK && text_of(root, "IsTruncated", truncated, sizeof(truncated)) && strcmp(truncated, "true") == 0 &&
		!text_of(root, "NextContinuationToken", next, next_bytes)) {
		rc = aidb_fail(AIDB_IO, "the service's list of objects does not say how to go on");
	}
	xmlFreeDoc(document);
	return rc;
}
