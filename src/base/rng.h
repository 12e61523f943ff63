/* splitmix64: the one random generator, the same numbers everywhere for a seed. */
#ifndef BASE_RNG_H
#define BASE_RNG_H

#include <stdint.h>

typedef struct {
    uint64_t s;
} rng_t;

static inline uint64_t rng_next(rng_t *r) {
    uint64_t z = (r->s += 0x9e3779b97f4a7c15u);
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}
static inline double rng_uniform(rng_t *r) { return (double)(rng_next(r) >> 11) * 0x1p-53; }          /* [0, 1) */
static inline int64_t rng_below(rng_t *r, int64_t n) { return (int64_t)(rng_next(r) % (uint64_t)n); } /* [0, n) */

#endif
