/* XXH3-128 (xxHash library): checksums of stored bytes and content addresses. Not for use against an adversary. */
#ifndef BASE_HASH_H
#define BASE_HASH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct {
    uint64_t lo, hi;
} hash_t;
typedef struct hash_state hash_state_t;

hash_t hash_bytes(const void *p, size_t n);
/* Streaming: create, add any number of times, finish (which frees). create returns NULL when memory is out. */
hash_state_t *hash_create(void);
void hash_add(hash_state_t *h, const void *p, size_t n);
hash_t hash_finish(hash_state_t *h);

static inline bool hash_equal(hash_t a, hash_t b) { return a.lo == b.lo && a.hi == b.hi; }
static inline int hash_compare(hash_t a, hash_t b) {
    return a.hi != b.hi ? (a.hi < b.hi ? -1 : 1) : a.lo != b.lo ? (a.lo < b.lo ? -1 : 1) : 0;
}
enum { HASH_HEX = 33 }; /* 32 digits and the NUL */
void hash_hex(hash_t h, char out[HASH_HEX]);
bool hash_parse(const char *hex, hash_t *out); /* exactly 32 hex digits */

#endif
