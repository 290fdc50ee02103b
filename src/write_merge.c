#include "write_merge.h"

#include "lib/binaryheap.h"

struct aipg_write_merge {
	bool backwards;
	binaryheap *heap; /* of readers; the first is on top */
};

/* Positive when a's write comes before b's. */
static int compare_readers(Datum a, Datum b, void *argument) {
	const aipg_write_merge *merge = argument;
	const aipg_write *left = aipg_write_reader_at((aipg_write_reader *)DatumGetPointer(a));
	const aipg_write *right = aipg_write_reader_at((aipg_write_reader *)DatumGetPointer(b));
	int order = aipg_compare_keys(left->key, right->key);

	if (order == 0) {
		order = (left->ordinal < right->ordinal) - (left->ordinal > right->ordinal);
	}
	return merge->backwards ? order : -order;
}

aipg_write_merge *aipg_write_merge_create(int capacity, bool backwards) {
	aipg_write_merge *merge = palloc(sizeof(*merge));

	merge->backwards = backwards;
	merge->heap = binaryheap_allocate(capacity, compare_readers, merge);
	return merge;
}

void aipg_write_merge_add(aipg_write_merge *merge, aipg_write_reader *reader) {
	if (aipg_write_reader_at(reader) != NULL) {
		binaryheap_add(merge->heap, PointerGetDatum(reader));
	}
}

aipg_write_reader *aipg_write_merge_first(const aipg_write_merge *merge) {
	return binaryheap_empty(merge->heap) ? NULL : (aipg_write_reader *)DatumGetPointer(binaryheap_first(merge->heap));
}

void aipg_write_merge_next(aipg_write_merge *merge) {
	aipg_write_reader *reader = aipg_write_merge_first(merge);

	if (merge->backwards) {
		aipg_write_reader_prev(reader);
	} else {
		aipg_write_reader_next(reader);
	}
	if (aipg_write_reader_at(reader) != NULL) {
		binaryheap_replace_first(merge->heap, PointerGetDatum(reader));
	} else {
		binaryheap_remove_first(merge->heap);
	}
}
