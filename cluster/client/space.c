#include "client/space.h"

#include <stdlib.h>
#include <string.h>

/* What stands before and after the table's name. */
static const char *const texts[AIDB_SPACE_STATEMENTS][2] = {
	[AIDB_SPACE_GET] = {"SELECT key, value FROM ", " WHERE key = $1"},
	[AIDB_SPACE_PUT] = {"INSERT INTO ",
						" (key, value) VALUES ($1, $2) ON CONFLICT (key) DO UPDATE SET value = excluded.value"},
	[AIDB_SPACE_DELETE] = {"DELETE FROM ", " WHERE key = $1"},
	[AIDB_SPACE_GET_MANY] = {"SELECT key, value FROM ", " WHERE key = ANY ($1)"},
	[AIDB_SPACE_PUT_MANY] = {"INSERT INTO ", " (key, value) SELECT * FROM unnest($1::bytea[], $2::bytea[])"
											 " ON CONFLICT (key) DO UPDATE SET value = excluded.value"},
	[AIDB_SPACE_DELETE_MANY] = {"DELETE FROM ", " WHERE key = ANY ($1)"},
	[AIDB_SPACE_SCAN] = {"SELECT key, value FROM ", " WHERE key >= $1 ORDER BY key LIMIT $2::int8"},
	[AIDB_SPACE_SCAN_TO] = {"SELECT key, value FROM ", " WHERE key >= $1 AND key < $3 ORDER BY key LIMIT $2::int8"},
};

/* A name as SQL's quoted identifier; the end of what was written. */
static char *quote(char *to, const char *name) {
	*to++ = '"';
	for (; *name != '\0'; name++) {
		if (*name == '"') {
			*to++ = '"';
		}
		*to++ = *name;
	}
	*to++ = '"';
	*to = '\0';
	return to;
}

static char *statement_text(const char *const text[2], const char *table) {
	size_t size = strlen(text[0]) + strlen(table) + strlen(text[1]) + 1;
	char *made = malloc(size);

	if (made != NULL) {
		strcpy(made, text[0]);
		strcat(made, table);
		strcat(made, text[1]);
	}
	return made;
}

static aidb_client_space *create(aidb_client *client, const char *table) {
	aidb_client_space *made = calloc(1, sizeof(*made));
	uint32_t number = aidb_client_new_statements(client, AIDB_SPACE_STATEMENTS);

	if (made == NULL) {
		return NULL;
	}
	made->client = client;
	for (uint32_t i = 0; i < AIDB_SPACE_STATEMENTS; i++) {
		made->statements[i] = (aidb_statement){.number = number + i, .sql = statement_text(texts[i], table)};
		if (made->statements[i].sql == NULL) {
			aidb_client_space_close(made);
			return NULL;
		}
	}
	return made;
}

aidb_client_status aidb_client_space_open(aidb_client *client, const char *schema, const char *table,
										  aidb_client_space **space) {
	char name[4 * AIDB_NAME_BYTES + 8];
	char *end;

	schema = schema != NULL ? schema : "public";
	if (client == NULL || space == NULL || table == NULL || table[0] == '\0' || strlen(table) >= AIDB_NAME_BYTES ||
		strlen(schema) >= AIDB_NAME_BYTES) {
		return aidb_client_fail(AIDB_CLIENT_INVALID,
								"a key space needs the name of its table: of 1 to 63 bytes, as its schema's");
	}
	end = quote(name, schema);
	*end++ = '.';
	quote(end, table);
	*space = create(client, name);
	return *space != NULL ? AIDB_CLIENT_OK : aidb_client_fail(AIDB_CLIENT_NO_MEMORY, "out of memory");
}

void aidb_client_space_close(aidb_client_space *space) {
	if (space != NULL) {
		for (uint32_t i = 0; i < AIDB_SPACE_STATEMENTS; i++) {
			free((char *)space->statements[i].sql);
		}
		free(space);
	}
}
