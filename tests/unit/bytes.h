/* A growing buffer for tests that build files by hand. */
#ifndef TESTS_UNIT_BYTES_H
#define TESTS_UNIT_BYTES_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    uint8_t data[1 << 18];
    size_t n;
} bytes_t;

static inline void put(bytes_t *b, const void *p, size_t n) {
    if (b->n + n > sizeof b->data) abort();
    if (n) memcpy(b->data + b->n, p, n);
    b->n += n;
}
static inline void put_u8(bytes_t *b, uint8_t v) { put(b, &v, 1); }
static inline void put_u32(bytes_t *b, uint32_t v) { put(b, &v, 4); }
static inline void put_u64(bytes_t *b, uint64_t v) { put(b, &v, 8); }
static inline void put_str(bytes_t *b, const char *s) { /* as GGUF writes one */
    put_u64(b, strlen(s));
    put(b, s, strlen(s));
}
static inline void pad(bytes_t *b, size_t to) {
    while (b->n % to) put_u8(b, 0);
}

/* Whether a verdict on a file, "" when it is good, holds the words that are wanted and names the file; tells when it does not. */
static inline bool verdict_is(const char *verdict, const char *words, const char *name) {
    bool ok = *words ? strstr(verdict, words) && strstr(verdict, name) : !*verdict;
    if (!ok) fprintf(stderr, "expected \"%s\", got \"%s\"\n", words, verdict);
    return ok;
}

#endif
