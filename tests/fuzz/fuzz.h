/* What the harnesses share: a failed check aborts, which libFuzzer and the replay both report as a crash. */
#ifndef TESTS_FUZZ_H
#define TESTS_FUZZ_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/status.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

#define FUZZ_CHECK(what)                                                                                                                   \
    do {                                                                                                                                   \
        if (!(what)) {                                                                                                                     \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #what);                                                             \
            abort();                                                                                                                       \
        }                                                                                                                                  \
    } while (0)

/* Bad input is ST_INPUT with words; running out of memory would mean that a count in the file was believed. */
static inline void fuzz_check_status(status_t st) { FUZZ_CHECK(st == ST_OK || (st == ST_INPUT && *status_message())); }

/* Reads every byte, so that a sanitizer sees one that is not there. */
static inline void fuzz_touch(const void *p, size_t n) {
    const uint8_t *b = p;
    uint8_t sum = 0;
    for (size_t i = 0; i < n; i++) sum ^= b[i];
    __asm__ volatile("" : : "r"(sum)); /* the sum is "used" */
}

#endif
