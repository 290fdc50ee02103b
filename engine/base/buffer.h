/*
 * buffer.h: the growing side of aidb_buffer.
 */
#ifndef LSM_BUFFER_H
#define LSM_BUFFER_H

#include "aidb.h"

/* Makes room for `size` bytes in all; AIDB_NO_MEMORY leaves the buffer as it was. */
aidb_status lsm_buffer_reserve(aidb_buffer *buffer, size_t size);
/* Replaces the contents. */
aidb_status lsm_buffer_set(aidb_buffer *buffer, const void *data, size_t size);
aidb_status lsm_buffer_append(aidb_buffer *buffer, const void *data, size_t size);

#endif
