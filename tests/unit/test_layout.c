/* Spans against the row-by-row predicate of methods.md section 3, written from the rule alone:
 *     c <= q and (set(q) != set(c) or piece(q) == piece(c)),   prefix, pieces and query being three sets. */
#include "unit.h"

#include "base/mem.h"
#include "base/rng.h"
#include "layout/window.h"

enum { SINK = 0, OWN = 1, FIRST = 2, MAX_PIECE = 9 };

typedef struct {
    int set, piece;
    int64_t order, pool, index;
} row_t; /* set: 0 prefix, 1 pieces, 2 query; order: place in the whole sequence */

static bool pce_sees(row_t q, row_t c) { return c.order <= q.order && (q.set != c.set || q.piece == c.piece); }

static bool spans_see(const layout_t *l, const run_t *run, int64_t i, int64_t pool, int64_t index) {
    int hits = 0;
    for (int s = run->span; s < run->span + run->n_span; s++) {
        const span_t *sp = &l->spans[s];
        if (sp->pool == pool && index >= span_lo(sp, i) && index < span_hi(sp, i)) hits++;
    }
    CU_ASSERT(hits <= 1); /* a key counted twice would be a wrong softmax */
    return hits == 1;
}

static void check_pce(rng_t *r) {
    int64_t S = rng_below(r, 6), P = rng_below(r, MAX_PIECE), Q = 1 + rng_below(r, 9), len[MAX_PIECE];
    row_t rows[400];
    int n = 0;
    for (int64_t i = 0; i < S; i++, n++) rows[n] = (row_t){0, 0, n, SINK, i};
    for (int64_t p = 0; p < P; p++) {
        len[p] = rng_below(r, 20); /* empty pieces too */
        for (int64_t i = 0; i < len[p]; i++, n++) rows[n] = (row_t){1, (int)p, n, FIRST + p, i};
    }
    for (int64_t i = 0; i < Q; i++, n++) rows[n] = (row_t){2, 0, n, OWN, i};

    layout_t l = {0};
    if (S) CU_ASSERT_EQUAL(layout_sink(&l, SINK, 0, S), ST_OK);
    for (int64_t p = 0; p < P; p++) { /* each piece in two calls, as chunks are */
        int64_t cut = len[p] ? rng_below(r, len[p] + 1) : 0;
        if (cut) CU_ASSERT_EQUAL(layout_segment(&l, SINK, S, (int32_t)(FIRST + p), 0, cut, 0), ST_OK);
        if (len[p] - cut) CU_ASSERT_EQUAL(layout_segment(&l, SINK, S, (int32_t)(FIRST + p), cut, len[p] - cut, 0), ST_OK);
    }
    CU_ASSERT_EQUAL(layout_query(&l, SINK, S, OWN, 0, Q, FIRST, len, (int)P), ST_OK);
    CU_ASSERT_EQUAL(l.n_row, n);

    for (int k = 0; k < l.n_run; k++)
        for (int64_t t = 0; t < l.runs[k].n; t++) {
            const run_t *run = &l.runs[k];
            row_t q = rows[run->row + t];
            CU_ASSERT(q.pool == run->pool && q.index == run->index + t);
            for (int c = 0; c < n; c++)
                CU_ASSERT_EQUAL(spans_see(&l, run, run->index + t, rows[c].pool, rows[c].index), pce_sees(q, rows[c]));
        }
    layout_free(&l);
}

static void test_pce(void) {
    rng_t r = {1};
    for (int i = 0; i < 300; i++) check_pce(&r);
}

static void test_window(void) { /* sliding window: the last w rows of the segment, and the whole sink */
    layout_t l = {0};
    CU_ASSERT_EQUAL(layout_segment(&l, SINK, 3, FIRST, 5, 20, 4), ST_OK);
    for (int64_t i = 5; i < 25; i++) {
        for (int64_t c = 0; c < 3; c++) CU_ASSERT(spans_see(&l, l.runs, i, SINK, c));
        for (int64_t c = 0; c < 25; c++) CU_ASSERT_EQUAL(spans_see(&l, l.runs, i, FIRST, c), c <= i && i - c < 4);
    }
    layout_free(&l);
}

/* The model's window over pools at any alignment, against positions compared one by one. */
static void test_window_places(void) {
    rng_t r = {11};
    for (int round = 0; round < 2000; round++) {
        place_t p[2];
        for (int k = 0; k < 2; k++)
            p[k] = (place_t){(align_t)rng_below(&r, 4), rng_below(&r, 4), 1 + rng_below(&r, 30), 1 + rng_below(&r, 40), rng_below(&r, 20)};
        int64_t n = p[0].length, window = 1 + rng_below(&r, 40), i = rng_below(&r, p[1].length);
        bool line = place_steps(&p[0]) && place_steps(&p[1]);
        span_t s = span_window(0, 0, n, &p[0], &p[1], i, window), all = span_window(0, 0, n, &p[0], &p[1], i, 0);
        CU_ASSERT(span_lo(&all, i) == 0 && span_hi(&all, i) == n);
        for (int64_t q = i; q < (line ? p[1].length : i + 1); q++)
            for (int64_t c = 0; c < n; c++)
                CU_ASSERT_EQUAL(c >= span_lo(&s, q) && c < span_hi(&s, q), place_at(&p[1], q) - place_at(&p[0], c) < window);
    }
}

/* The edge forms that gists will need, against the rule of methods.md section 5: c <= q and (kind in {SINK, GIST} or unit(q) - unit(c) <=
 * k). */
static void test_unigist_edges(void) {
    rng_t rnd = {7};
    for (int round = 0; round < 200; round++) {
        int64_t r = 1 + rng_below(&rnd, 6), k = rng_below(&rnd, 4), U = 1 + rng_below(&rnd, 7), n = U * r;
        span_t raw_raw = {.end = n, .lo = edge_step(r, r, 0, -k * r), .hi = edge_step(1, 1, 0, 1)};
        span_t raw_gist = {.end = U, .lo = edge_const(0), .hi = edge_step(r, 1, 0, 0)};
        span_t gist_raw = {.end = n, .lo = edge_step(1, r, -k, 0), .hi = edge_step(1, r, 1, 0)};
        span_t gist_gist = {.end = U, .lo = edge_const(0), .hi = edge_step(1, 1, 0, 1)};
        for (int64_t q = 0; q < n; q++) {
            for (int64_t c = 0; c < n; c++)
                CU_ASSERT_EQUAL(c >= span_lo(&raw_raw, q) && c < span_hi(&raw_raw, q), c <= q && q / r - c / r <= k);
            for (int64_t g = 0; g < U; g++) CU_ASSERT_EQUAL(g >= span_lo(&raw_gist, q) && g < span_hi(&raw_gist, q), g < q / r);
        }
        for (int64_t q = 0; q < U; q++) {
            for (int64_t c = 0; c < n; c++)
                CU_ASSERT_EQUAL(c >= span_lo(&gist_raw, q) && c < span_hi(&gist_raw, q), c / r <= q && q - c / r <= k);
            for (int64_t g = 0; g < U; g++) CU_ASSERT_EQUAL(g >= span_lo(&gist_gist, q) && g < span_hi(&gist_gist, q), g <= q);
        }
    }
}

static void test_positions(void) {
    for (int64_t i = 0; i < 10; i++) { /* equal pieces: even = left = right */
        CU_ASSERT_EQUAL(layout_position(ALIGN_EVEN, 3, i, 10, 10, 0), 3 + i);
        CU_ASSERT_EQUAL(layout_position(ALIGN_LEFT, 3, i, 10, 10, 0), 3 + i);
        CU_ASSERT_EQUAL(layout_position(ALIGN_RIGHT, 3, i, 10, 10, 0), 3 + i);
    }
    static const int64_t even[7] = {2, 3, 4, 6, 7, 9, 10}; /* trunc(2 + i * 10 / 7) */
    for (int64_t i = 0; i < 7; i++) CU_ASSERT_EQUAL(layout_position(ALIGN_EVEN, 2, i, 7, 10, 0), even[i]);
    CU_ASSERT_EQUAL(layout_position(ALIGN_RIGHT, 2, 6, 7, 10, 0), 11);
    CU_ASSERT_EQUAL(layout_position(ALIGN_SEQUENTIAL, 2, 6, 7, 10, 30), 38);
    static const int64_t lengths[] = {4, 12, 0, 6};
    CU_ASSERT_EQUAL(layout_reserve(RESERVE_MAX, lengths, 4), 12);
    CU_ASSERT_EQUAL(layout_reserve(RESERVE_MEAN, lengths, 4), 7);
    CU_ASSERT_EQUAL(layout_reserve(RESERVE_HARMONIC, lengths, 4), 6);
    CU_ASSERT_EQUAL(layout_reserve(RESERVE_MAX, lengths, 0), 0);
}

static void test_splits(void) {
    rng_t r = {3};
    for (int round = 0; round < 200; round++) {
        int64_t n = rng_below(&r, 50), P = 1 + rng_below(&r, 9), b, e, at = 0, items = 0;
        for (int64_t p = 0; p < P; p++) {
            split_even(n, P, p, &b, &e);
            CU_ASSERT(b == at && e >= b && e - b <= i64_ceil_div(n, P));
            at = e;
            split_items(n, P, p, &b, &e);
            CU_ASSERT(b == items && e - b == n / P + (p < n % P));
            items = e;
        }
        CU_ASSERT(at == n && items == n);
    }
}

UNIT_MAIN("layout", {"pce", test_pce}, {"window", test_window}, {"window places", test_window_places},
          {"unigist edges", test_unigist_edges}, {"positions", test_positions}, {"splits", test_splits})
