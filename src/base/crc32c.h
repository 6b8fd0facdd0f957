/* SPDX-License-Identifier: BSD-3-Clause
 * CRC32C as iSCSI digests use it (RFC 7143 13.1: Castagnoli, initial all ones, inverted at the end).
 * The value in and out is the finished CRC, so pieces chain: crc32c(0, ab) == crc32c(crc32c(0, a), b).
 * On the wire the digest is this value, least significant byte first. Any thread. */
#ifndef LUNETTE_BASE_CRC32C_H
#define LUNETTE_BASE_CRC32C_H

#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

/* crc: 0 to begin, else the value of what came before. n: bytes. */
uint32_t crc32c(uint32_t crc, const void *p, size_t n);
/* Over len bytes of the vector after its first skip bytes; stops at the vector's end. */
uint32_t crc32c_iov(uint32_t crc, const struct iovec *iov, int niov, size_t skip, size_t len);
/* The table-driven form that a CPU without the instruction uses; for tests. */
uint32_t crc32c_table(uint32_t crc, const void *p, size_t n);

#endif
