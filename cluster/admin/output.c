#include "admin/output.h"

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

/* Of pg_type. */
#define TYPE_BOOL 16
#define TYPE_INT8 20
#define TYPE_INT2 21
#define TYPE_INT4 23
#define TYPE_FLOAT8 701
#define TYPE_NUMERIC 1700

#define MAX_COLUMNS 64

static bool is_number(const PGresult *result, int column) {
	switch (PQftype(result, column)) {
	case TYPE_INT2:
	case TYPE_INT4:
	case TYPE_INT8:
	case TYPE_FLOAT8:
	case TYPE_NUMERIC:
		return true;
	default:
		return false;
	}
}

/* Characters of UTF-8 text. */
static int width_of(const char *text) {
	int width = 0;

	for (; *text != '\0'; text++) {
		width += ((uint8_t)*text & 0xc0) != 0x80;
	}
	return width;
}

static void print_padded(FILE *to, const char *text, int width, bool right, bool last) {
	int padding = width - width_of(text);

	if (right) {
		fprintf(to, "%*s%s", padding, "", text);
	} else {
		fprintf(to, "%s%*s", text, last ? 0 : padding, "");
	}
	fputs(last ? "\n" : "  ", to);
}

void aidb_print_table(FILE *to, const PGresult *result) {
	int columns = PQnfields(result) < MAX_COLUMNS ? PQnfields(result) : MAX_COLUMNS;
	int widths[MAX_COLUMNS];

	if (PQntuples(result) == 0) {
		fputs("(none)\n", to);
		return;
	}
	for (int column = 0; column < columns; column++) {
		widths[column] = width_of(PQfname(result, column));
		for (int row = 0; row < PQntuples(result); row++) {
			int width = width_of(PQgetvalue(result, row, column));

			widths[column] = width > widths[column] ? width : widths[column];
		}
	}
	for (int column = 0; column < columns; column++) {
		print_padded(to, PQfname(result, column), widths[column], is_number(result, column), column == columns - 1);
	}
	for (int row = 0; row < PQntuples(result); row++) {
		for (int column = 0; column < columns; column++) {
			print_padded(to, PQgetvalue(result, row, column), widths[column], is_number(result, column),
						 column == columns - 1);
		}
	}
}

void aidb_print_json_string(FILE *to, const char *text) {
	fputc('"', to);
	for (; *text != '\0'; text++) {
		if (*text == '"' || *text == '\\') {
			fprintf(to, "\\%c", *text);
		} else if ((uint8_t)*text < 0x20) {
			fprintf(to, "\\u%04x", (unsigned)*text);
		} else {
			fputc(*text, to);
		}
	}
	fputc('"', to);
}

static void print_value(FILE *to, const PGresult *result, int row, int column) {
	const char *value = PQgetvalue(result, row, column);

	if (PQgetisnull(result, row, column)) {
		fputs("null", to);
	} else if (PQftype(result, column) == TYPE_BOOL) {
		fputs(value[0] == 't' ? "true" : "false", to);
	} else if (is_number(result, column) && strpbrk(value, "NI") == NULL) { /* no NaN, no Infinity */
		fputs(value, to);
	} else {
		aidb_print_json_string(to, value);
	}
}

void aidb_print_json(FILE *to, const PGresult *result) {
	fputc('[', to);
	for (int row = 0; row < PQntuples(result); row++) {
		fputs(row == 0 ? "\n  {" : ",\n  {", to);
		for (int column = 0; column < PQnfields(result); column++) {
			fputs(column == 0 ? "" : ", ", to);
			aidb_print_json_string(to, PQfname(result, column));
			fputs(": ", to);
			print_value(to, result, row, column);
		}
		fputc('}', to);
	}
	fputs(PQntuples(result) > 0 ? "\n]\n" : "]\n", to);
}
