/* SPDX-License-Identifier: BSD-3-Clause
 * What a fuzz target gives. Linked with libFuzzer (clang, -Dfuzz=true) or with replay.c, which runs the corpus
 * and seeded mutations of it as a test. A target aborts when its property does not hold. */
#ifndef LUNETTE_FUZZ_H
#define LUNETTE_FUZZ_H

#include <stddef.h>
#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#endif
