/* SPDX-License-Identifier: BSD-3-Clause
 * The drivers and filters that registry.c lists. */
#ifndef LUNETTE_BLOCK_DRIVER_DRIVER_H
#define LUNETTE_BLOCK_DRIVER_DRIVER_H

#include "block/blk.h"

extern const struct blk_ops blk_ram, blk_null, blk_file, blk_block;

#endif
