/*
 * repository.h: what lies where in a repository, which has the backups of one group of servers.
 *
 *   objects/ab/abcdef...            a file of a store, by its SHA-256
 *   backups/LABEL                   a manifest, see manifest.h; labels are times, 20261127T055046Z
 *   log/STORE/FROM-UPTO-CLOCK       a piece of the log of a store, see segment.h; 16 hexadecimal digits each
 *   points/NAME                     a restore point: "STORE SEQUENCE CLOCK", of which the name has no slash
 *   locks/KIND-HOST-PROCESS         who changes something: its time, seconds since 1970
 *
 * A backup writes objects, then its manifest. Expiring removes manifests, then objects that none names. The two would be in each
 * other's way, so each writes its lock and then looks for the other's.
 */
#ifndef AIDB_BACKUP_REPOSITORY_H
#define AIDB_BACKUP_REPOSITORY_H

#include <stdbool.h>

#include "backup/manifest.h"
#include "backup/segment.h"
#include "object_store/storage.h"

typedef struct aidb_repository {
	aidb_storage *storage;
	char lock[AIDB_OBJECT_NAME_BYTES]; /* empty: none is held */
} aidb_repository;

aidb_status aidb_repository_open(const char *address, aidb_repository *repository);
void aidb_repository_close(aidb_repository *repository); /* gives its lock back */

/* -- backups -- */

typedef struct aidb_labels {
	char (*labels)[AIDB_LABEL_BYTES]; /* oldest first */
	uint32_t count;
} aidb_labels;

/* Release with free(labels->labels). */
aidb_status aidb_repository_labels(aidb_repository *repository, aidb_labels *labels);
aidb_status aidb_repository_load(aidb_repository *repository, const char *label, aidb_manifest *manifest);
aidb_status aidb_repository_put_manifest(aidb_repository *repository, const aidb_manifest *manifest);
void aidb_object_name(const char *hash, char name[AIDB_OBJECT_NAME_BYTES]);
void aidb_manifest_name(const char *label, char name[AIDB_OBJECT_NAME_BYTES]);

/* -- objects -- */

typedef struct aidb_object {
	char hash[AIDB_HASH_TEXT];
	uint64_t bytes;
} aidb_object;

typedef struct aidb_objects {
	aidb_object *objects; /* in the order of their hashes */
	uint32_t count;
} aidb_objects;

/* All there are; release with free(objects->objects). */
aidb_status aidb_repository_objects(aidb_repository *repository, aidb_objects *objects);
/* NULL: there is none. */
const aidb_object *aidb_objects_find(const aidb_objects *objects, const char *hash);

/* -- the log -- */

typedef struct aidb_piece {
	uint64_t store;
	uint64_t from;
	uint64_t upto;
	uint64_t clock_us; /* the server's, at its end, since 2000 */
	uint64_t bytes;    /* stored */
} aidb_piece;

typedef struct aidb_pieces {
	aidb_piece *pieces; /* by store, then by their place */
	uint32_t count;
} aidb_pieces;

/* Of one store, or of all (0); release with free(pieces->pieces). */
aidb_status aidb_repository_pieces(aidb_repository *repository, uint64_t store, aidb_pieces *pieces);
void aidb_piece_name(const aidb_piece *piece, char name[AIDB_OBJECT_NAME_BYTES]);
/* Into *segment, which was set to zeroes before its first use. AIDB_CORRUPT when it is another than its name says. */
aidb_status aidb_repository_read_piece(aidb_repository *repository, const aidb_piece *piece, aidb_segment *segment);
aidb_status aidb_repository_put_segment(aidb_repository *repository, const aidb_segment *segment, uint64_t *bytes);
/* How far the log goes on without a gap from `sequence`, which is `sequence` itself when nothing follows. Pieces of one store. */
uint64_t aidb_pieces_reach(const aidb_pieces *pieces, uint64_t store, uint64_t sequence);

/* -- restore points -- */

#define AIDB_POINT_NAME_BYTES 64 /* with a final zero byte */

typedef struct aidb_point {
	char name[AIDB_POINT_NAME_BYTES];
	uint64_t store;
	uint64_t sequence;
	uint64_t clock_us; /* since 2000 */
} aidb_point;

typedef struct aidb_points {
	aidb_point *points; /* by name */
	uint32_t count;
} aidb_points;

aidb_status aidb_repository_put_point(aidb_repository *repository, const aidb_point *point);
/* AIDB_NOT_FOUND. */
aidb_status aidb_repository_find_point(aidb_repository *repository, const char *name, aidb_point *point);
/* All; release with free(points->points). */
aidb_status aidb_repository_points(aidb_repository *repository, aidb_points *points);
void aidb_point_name(const char *point, char name[AIDB_OBJECT_NAME_BYTES]);

/* -- locks -- */

/* AIDB_IN_USE when somebody has a lock of the other kind. Kinds are "backup" and "expire". A lock of a day ago is not minded. */
aidb_status aidb_repository_lock(aidb_repository *repository, const char *kind, const char *other);

#endif
