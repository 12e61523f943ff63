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

/* By several threads: each sums blocks of bytes, in any order, and one goes through the sums (hash_chain.c). Sums are zero at first. For
 * more than HASH_SHORT bytes, a multiple of HASH_STRIPE. */
enum { HASH_STRIPE = 64, HASH_BLOCK = 1024, HASH_LANES = 8, HASH_SHORT = 240 };
typedef struct {
    uint64_t lane[HASH_LANES];
} hash_sum_t;
typedef struct {
    hash_sum_t at;
} hash_chain_t;
/* Adds n bytes that stand at byte `at` behind the start of sums[0]'s block, both multiples of HASH_STRIPE; not the last stripe of all. */
void hash_sum(hash_sum_t *sums, size_t at, const void *data, size_t n);
void hash_chain_begin(hash_chain_t *c);
void hash_chain_add(hash_chain_t *c, const hash_sum_t *sums, size_t n); /* the next n blocks, but for that with the last stripe */
/* rest: the sum of the last stripe's block without it. */
hash_t hash_chain_end(const hash_chain_t *c, const hash_sum_t *rest, const void *stripe, size_t bytes);

static inline bool hash_equal(hash_t a, hash_t b) { return a.lo == b.lo && a.hi == b.hi; }
static inline int hash_compare(hash_t a, hash_t b) {
    return a.hi != b.hi ? (a.hi < b.hi ? -1 : 1) : a.lo != b.lo ? (a.lo < b.lo ? -1 : 1) : 0;
}
enum { HASH_HEX = 33 }; /* 32 digits and the NUL */
void hash_hex(hash_t h, char out[HASH_HEX]);
bool hash_parse(const char *hex, hash_t *out); /* exactly 32 hex digits */

#endif
