/* Scans: pages of rows from each group, merged; a group's next page is asked for when its last one is used up. */
#include <string.h>
#include <stdlib.h>

#include "client/operation.h"
#include "client/socket.h"
#include "client/space.h"

#define FIRST_PAGE_ROWS 100u
#define MAX_PAGE_ROWS 2000u
#define PAGE_BYTES (1u << 20) /* that a page is to come to */

/* Of one group. */
typedef struct cursor {
	uint32_t group_id;
	PGresult *page; /* key and value; NULL: none yet */
	int row;        /* that comes next */
	uint64_t page_rows;
	char *lower; /* where the next page begins; NULL: where the scan does */
	size_t lower_size;
	bool ended; /* there is none after this page */
} cursor;

typedef struct scan {
	aidb_client_space *space;
	aidb_client_bytes lower, upper;
	uint64_t limit; /* rows that are still wanted; 0: all */
	cursor *cursors;
	size_t count;
	size_t of_part[AIDB_MAX_GROUPS]; /* cursors that the parts are for */
	unsigned char rows[8];           /* the parameter */
	uint32_t placed_at[AIDB_SLOTS];  /* ids of groups, when the cursors were opened */
	char *last;                      /* the key of the last row that was handed on; NULL: none was */
	size_t last_size, last_capacity;
} scan;

/* ---- Pages ----------------------------------------------------------------------------------------------- */

static bool wants_page(const cursor *self) {
	return !self->ended && (self->page == NULL || self->row == PQntuples(self->page));
}

static void close_cursors(scan *self) {
	for (size_t i = 0; i < self->count; i++) {
		PQclear(self->cursors[i].page);
		free(self->cursors[i].lower);
	}
	free(self->cursors);
	self->cursors = NULL;
	self->count = 0;
}

/* The key that comes next after this one: that, and a zero. */
static bool set_lower(cursor *self, const char *key, size_t size) {
	char *lower = malloc(size + 1);

	if (lower == NULL) {
		return false;
	}
	memcpy(lower, key, size);
	lower[size] = '\0';
	free(self->lower);
	self->lower = lower;
	self->lower_size = size + 1;
	return true;
}

/* One for each group, behind what has been handed on. */
static bool open_cursors(scan *self, const aidb_topology *topology) {
	self->cursors = calloc(topology->group_count, sizeof(*self->cursors));
	self->count = self->cursors != NULL ? topology->group_count : 0;
	for (size_t i = 0; i < self->count; i++) {
		self->cursors[i] = (cursor){.group_id = topology->groups[i].id, .page_rows = FIRST_PAGE_ROWS};
		if (self->last != NULL && !set_lower(&self->cursors[i], self->last, self->last_size)) {
			return false;
		}
	}
	for (uint32_t slot = 0; slot < AIDB_SLOTS; slot++) {
		self->placed_at[slot] = topology->groups[topology->group_of_slot[slot]].id;
	}
	return self->cursors != NULL;
}

/* A group's pages have rows of the slots that it had then: with other slots, all groups are asked again. */
static bool is_of(const scan *self, const aidb_topology *topology) {
	for (uint32_t slot = 0; slot < AIDB_SLOTS; slot++) {
		if (self->placed_at[slot] != topology->groups[topology->group_of_slot[slot]].id) {
			return false;
		}
	}
	return self->count > 0;
}

static bool plan(void *argument, aidb_topology *topology, aidb_part *parts, size_t *count) {
	scan *self = argument;

	if (!is_of(self, topology)) {
		close_cursors(self);
		if (!open_cursors(self, topology)) {
			return false;
		}
	}
	for (size_t i = 0; i < self->count; i++) {
		const aidb_client_group *group = aidb_topology_group(topology, self->cursors[i].group_id);

		if (group != NULL && wants_page(&self->cursors[i])) {
			self->of_part[group - topology->groups] = i;
			parts[(*count)++] = (aidb_part){.group = (uint32_t)(group - topology->groups), .chunk_count = 1};
		}
	}
	return true;
}

static bool parameters(void *argument, const aidb_part *part, size_t chunk, const char **values, int *sizes,
					   int *count) {
	scan *self = argument;
	cursor *of = &self->cursors[self->of_part[part->group]];
	const char *lower = of->lower != NULL ? of->lower : self->lower.data;

	(void)chunk;
	if (self->limit > 0 && of->page_rows > self->limit) {
		of->page_rows = self->limit;
	}
	for (int i = 0; i < 8; i++) {
		self->rows[i] = (unsigned char)(of->page_rows >> (56 - 8 * i));
	}
	values[0] = lower != NULL ? lower : "";
	sizes[0] = (int)(of->lower != NULL ? of->lower_size : self->lower.size);
	values[1] = (const char *)self->rows;
	sizes[1] = sizeof(self->rows);
	values[2] = self->upper.data;
	sizes[2] = (int)self->upper.size;
	*count = self->upper.data != NULL ? 3 : 2;
	return true;
}

/* Behind the last one of the page. */
static bool advance_lower(cursor *self) {
	int last = PQntuples(self->page) - 1;

	return set_lower(self, PQgetvalue(self->page, last, 0), (size_t)PQgetlength(self->page, last, 0));
}

/* So many rows as are likely to come to PAGE_BYTES. */
static uint64_t next_page_rows(const PGresult *page) {
	uint64_t rows = (uint64_t)PQntuples(page), bytes = 1;

	for (int i = 0; i < (int)rows; i++) {
		bytes += (uint64_t)PQgetlength(page, i, 0) + (uint64_t)PQgetlength(page, i, 1);
	}
	rows = rows * PAGE_BYTES / bytes;
	return rows < 1 ? 1 : rows < MAX_PAGE_ROWS ? rows : MAX_PAGE_ROWS;
}

static bool take_page(void *argument, const aidb_part *part, size_t chunk, PGresult *result) {
	scan *self = argument;
	cursor *of = &self->cursors[self->of_part[part->group]];

	(void)chunk;
	PQclear(of->page);
	of->page = result;
	of->row = 0;
	of->ended = (uint64_t)PQntuples(result) < of->page_rows;
	if (PQnfields(result) != 2 || (!of->ended && !advance_lower(of))) {
		return false;
	}
	if (!of->ended) {
		of->page_rows = next_page_rows(result);
	}
	return true;
}

/* Pages for all groups that have none at hand. */
static aidb_client_status fetch(scan *self) {
	aidb_space_statement statement = self->upper.data != NULL ? AIDB_SPACE_SCAN_TO : AIDB_SPACE_SCAN;
	aidb_operation operation = {
		.client = self->space->client,
		.exchange = {.statement = &self->space->statements[statement], .parameters = parameters, .result = take_page},
		.plan = plan,
		.argument = self,
	};

	return aidb_operation_run(&operation, aidb_socket_now_ms() + aidb_client_timeout_ms(self->space->client));
}

/* ---- Merging --------------------------------------------------------------------------------------------- */

static aidb_client_bytes column(const cursor *of, int number) {
	return (aidb_client_bytes){.data = PQgetvalue(of->page, of->row, number),
							   .size = (size_t)PQgetlength(of->page, of->row, number)};
}

static bool is_before(const cursor *a, const cursor *b) {
	aidb_client_bytes left = column(a, 0), right = column(b, 0);
	int order = memcmp(left.data, right.data, left.size < right.size ? left.size : right.size);

	return order < 0 || (order == 0 && left.size < right.size);
}

/* That with the least key at hand. NULL: none has a row. *fetch_first: one may have more, but none at hand. */
static cursor *find_least(const scan *self, bool *fetch_first) {
	cursor *least = NULL;

	*fetch_first = false;
	for (size_t i = 0; i < self->count; i++) {
		cursor *of = &self->cursors[i];

		if (wants_page(of)) {
			*fetch_first = true;
		} else if (of->row < PQntuples(of->page) && (least == NULL || is_before(of, least))) {
			least = of;
		}
	}
	return least;
}

/* The row is handed on: a scan that has to ask anew goes on behind it. */
static bool note_last(scan *self, aidb_client_bytes key) {
	if (self->last == NULL || key.size > self->last_capacity) {
		char *larger = realloc(self->last, 2 * key.size + 1);

		if (larger == NULL) {
			return false;
		}
		self->last = larger;
		self->last_capacity = 2 * key.size + 1;
	}
	memcpy(self->last, key.data, key.size);
	self->last_size = key.size;
	return true;
}

static aidb_client_status merge(scan *self, aidb_client_row row, void *argument) {
	aidb_client_status status = AIDB_CLIENT_OK;
	bool fetch_first = true, more = true;

	while (more && status == AIDB_CLIENT_OK) {
		cursor *least = self->count == 0 ? NULL : find_least(self, &fetch_first);

		if (fetch_first) {
			status = fetch(self);
		} else if (least == NULL) {
			break;
		} else if (!note_last(self, column(least, 0))) {
			status = aidb_client_fail(AIDB_CLIENT_NO_MEMORY, "out of memory");
		} else {
			more = row(argument, column(least, 0), column(least, 1)) && self->limit != 1;
			self->limit -= self->limit > 0 ? 1 : 0;
			least->row++;
		}
	}
	return status;
}

aidb_client_status aidb_client_scan(aidb_client_space *space, aidb_client_bytes lower, aidb_client_bytes upper,
									uint64_t limit, aidb_client_row row, void *argument) {
	scan self = {.space = space, .lower = lower, .upper = upper, .limit = limit};
	aidb_client_status status;

	if (space == NULL || row == NULL || (lower.data == NULL && lower.size > 0)) {
		return aidb_client_fail(AIDB_CLIENT_INVALID, "a scan needs a key space and a function that takes its rows");
	}
	status = merge(&self, row, argument);
	close_cursors(&self);
	free(self.last);
	return status;
}
