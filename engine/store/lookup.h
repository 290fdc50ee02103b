/*
 * lookup.h: the search for one key at one moment, carried from source to source, newest first, until one decides.
 */
#ifndef LSM_LOOKUP_H
#define LSM_LOOKUP_H

#include "format/key.h"

/* Who sees what; part of a lookup and of an iterator. */
typedef struct lsm_view {
	aidb_sequence sequence;
	aidb_tag_visible tag_visible; /* NULL: tagged versions are not seen */
	void *tag_argument;
	aidb_tag_unseen unseen; /* NULL: nobody wants to know of what is not seen */
	void *unseen_argument;
} lsm_view;

static inline lsm_view lsm_view_of(const aidb_read_options *options) {
	return (lsm_view){.sequence = options->sequence,
					  .tag_visible = options->tag_visible,
					  .tag_argument = options->tag_argument,
					  .unseen = options->unseen,
					  .unseen_argument = options->unseen_argument};
}

/* The trailer to search a key from: versions that are too new matter only to who wants to know of them. */
static inline uint64_t lsm_view_start(const lsm_view *view) {
	return lsm_seek_trailer(view->unseen != NULL ? AIDB_SEQUENCE_LATEST : view->sequence);
}

/* To be called for each version passed that the view does not see. */
static inline void lsm_view_pass(const lsm_view *view, const lsm_entry *entry) {
	if (view->unseen != NULL && lsm_is_tagged(entry->trailer)) {
		view->unseen(view->unseen_argument, lsm_tag_of(entry));
	}
}

static inline bool lsm_view_sees(const lsm_view *view, const lsm_entry *entry) {
	if (lsm_sequence_of(entry->trailer) > view->sequence) {
		return false;
	}
	return !lsm_is_tagged(entry->trailer) ||
		   (view->tag_visible != NULL && view->tag_visible(view->tag_argument, lsm_tag_of(entry)));
}

typedef struct lsm_lookup {
	lsm_view view;
	aidb_slice key;
	uint64_t hash;      /* lsm_filter_hash of the key */
	aidb_buffer *value; /* gets the value, or a deletion's note; may be NULL */

	bool decided; /* a visible version was found; the next two say which */
	bool deleted;
	aidb_sequence version;
} lsm_lookup;

/* Offers a version of the key, each source's from the newest on. The value is copied. */
static inline aidb_status lsm_lookup_offer(lsm_lookup *lookup, const lsm_entry *entry) {
	if (!lsm_view_sees(&lookup->view, entry)) {
		lsm_view_pass(&lookup->view, entry);
		return AIDB_OK;
	}
	lookup->decided = true;
	lookup->deleted = lsm_is_delete(entry->trailer);
	lookup->version = lsm_sequence_of(entry->trailer);
	if (lookup->value == NULL) {
		return AIDB_OK;
	}
	return aidb_buffer_set(lookup->value, lsm_user_value(entry));
}

#endif
