/* Spans: who sees whom, in closed form. Pure arithmetic; shared by every backend (also included from CUDA C).
 *
 * K/V rows live in pools (the sink's, a segment's raw rows, a segment's gists, a query's own rows). Query rows come in runs: `n` rows whose
 * indices in their own pool are consecutive. What a run sees is a short list of spans; for the row with index i a span shows the rows
 *
 *     [ lo(i), hi(i) )  of span.pool,     lo(i) = clip(edge(span.lo, i)),  hi(i) = clip(edge(span.hi, i)),  clip to [begin, end]
 *
 * Both edges never fall as i grows, so for a tile of rows a..b the keys to visit are [lo(a), hi(b)), and those in [lo(b), hi(a)) are seen
 * by every row of the tile: masks are evaluated outside that interior only. Examples (r = ratio, k = window in units, w = sliding window):
 *
 *     everything          lo = 0                hi = rows          edge_const
 *     causal              lo = 0                hi = i + 1         edge_step(1, 1, 0, 1)
 *     sliding window      lo = i - w + 1        hi = i + 1
 *     UniGist raw->raw    lo = (i/r - k) * r    hi = i + 1         lo: edge_step(r, r, 0, -k*r)
 *     UniGist raw->gist   lo = 0                hi = i / r         edge_step(r, 1, 0, 0)
 *     UniGist gist->raw   lo = (i - k) * r      hi = (i + 1) * r   edge_step(1, r, -k, 0) and edge_step(1, r, 1, 0)
 *
 * (methods.md section 1, and the table of section 5.)
 */
#ifndef LAYOUT_SPAN_H
#define LAYOUT_SPAN_H

#include <stdint.h>

#ifdef __CUDACC__
#define SPAN_FN static inline __host__ __device__
#else
#define SPAN_FN static inline
#endif

typedef struct {
    int64_t div, mul, add, off;
} edge_t; /* edge(i) = floor((i + add) / div) * mul + off; div >= 1, mul >= 0 */

typedef struct {
    int32_t pool;       /* index into the pool table of the call */
    int32_t block;      /* which partial result it adds to: 0 .. n_block-1 */
    int64_t begin, end; /* rows of the pool that can be seen at all */
    edge_t lo, hi;
} span_t;

typedef struct {
    int64_t row;          /* first row in the call's q (and x) buffers */
    int64_t n;            /* rows */
    int64_t index;        /* index of the first row in its own pool: what edges are evaluated at */
    int32_t pool;         /* the pool its own K/V go to, at rows index .. index+n-1; -1: nowhere */
    int32_t span, n_span; /* spans[span .. span+n_span); blocks never fall along the list */
} run_t;

SPAN_FN edge_t edge_step(int64_t div, int64_t mul, int64_t add, int64_t off) {
    edge_t e;
    e.div = div;
    e.mul = mul;
    e.add = add;
    e.off = off;
    return e;
}
SPAN_FN edge_t edge_const(int64_t value) { return edge_step(1, 0, 0, value); }

SPAN_FN int64_t edge_at(edge_t e, int64_t i) {
    int64_t a = i + e.add, q = a / e.div;
    if (a % e.div < 0) q--; /* floor, also below zero */
    return q * e.mul + e.off;
}
SPAN_FN int64_t span_clip(const span_t *s, int64_t x) { return x < s->begin ? s->begin : x > s->end ? s->end : x; }
/* First row seen, and one past the last, by the row with index i (empty when lo >= hi). */
SPAN_FN int64_t span_lo(const span_t *s, int64_t i) { return span_clip(s, edge_at(s->lo, i)); }
SPAN_FN int64_t span_hi(const span_t *s, int64_t i) { return span_clip(s, edge_at(s->hi, i)); }

#endif
