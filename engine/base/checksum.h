/*
 * checksum.h: CRC32C for log records, XXH3 for everything else.
 */
#ifndef LSM_CHECKSUM_H
#define LSM_CHECKSUM_H

#include <stddef.h>
#include <stdint.h>

/* CRC-32C (Castagnoli) of `data`, continuing from `crc`; start with 0. Uses the processor's instruction where there
 * is one. */
uint32_t lsm_crc32c(uint32_t crc, const void *data, size_t size);
/* The portable version, for comparison. */
uint32_t lsm_crc32c_portable(uint32_t crc, const void *data, size_t size);

/* XXH3, 64 bits, seeded. */
uint64_t lsm_hash64(const void *data, size_t size, uint64_t seed);

#endif
