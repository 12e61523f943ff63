/* Spans of gist layouts against the rule, for random sizes: odd tails, n < r, windows larger than the text, segments in any passes. */
#include "unit.h"

#include "base/mem.h"
#include "base/rng.h"
#include "encode/encoder_impl.h"
#include "layout/gist.h"

enum { SINK, RAW, GIST, PAGE };

static bool spans_see(const layout_t *l, const run_t *run, int64_t i, int32_t pool, int64_t c) {
    int hits = 0;
    for (int s = run->span; s < run->span + run->n_span; s++) {
        const span_t *sp = &l->spans[s];
        if (sp->pool == pool && c >= span_lo(sp, i) && c < span_hi(sp, i)) hits++;
    }
    CU_ASSERT(hits <= 1);
    return hits == 1;
}

static void check_segment(rng_t *rnd) {
    int64_t r = 1 + rng_below(rnd, 7), n = 1 + rng_below(rnd, 60), n_sink = rng_below(rnd, 4), covered_raw = 0, covered_gist = 0;
    gist_spec_t g = {.ratio = r, .window = rng_below(rnd, 3) ? rng_below(rnd, 5) * r : -1, .at_end = rng_below(rnd, 4) == 0};
    g.single = g.at_end && rng_below(rnd, 2); /* an edit: one gist, whatever the ratio */
    int32_t sink_pool = SINK;
    shared_t shared = {&sink_pool, &n_sink, 1};
    layout_t l = {0};
    int64_t raw = 0, gist = 0, raw_n, gist_n, space = r + 1 + rng_below(rnd, 20);
    while (gist_step(&g, n, raw, gist, space, &raw_n, &gist_n)) {
        CU_ASSERT(raw_n + gist_n <= space);
        if (raw_n) CU_ASSERT_EQUAL(layout_gist_raw(&l, &g, RAW, GIST, raw, raw_n, gist + gist_n, &shared), ST_OK);
        if (gist_n) CU_ASSERT_EQUAL(layout_gist_rows(&l, &g, RAW, GIST, gist, gist + gist_n, n, &shared), ST_OK);
        raw += raw_n;
        gist += gist_n;
    }
    for (int k = 0; k < l.n_run; k++)
        for (int64_t t = 0; t < l.runs[k].n; t++) {
            const run_t *run = &l.runs[k];
            int64_t q = run->index + t;
            row_kind_t kind = run->pool == RAW ? KIND_RAW : KIND_GIST;
            CU_ASSERT_EQUAL(q, kind == KIND_RAW ? covered_raw++ : covered_gist++); /* every row once, in order */
            for (int64_t c = 0; c < n_sink; c++) CU_ASSERT(spans_see(&l, run, q, SINK, c));
            for (int64_t c = 0; c < n; c++) CU_ASSERT_EQUAL(spans_see(&l, run, q, RAW, c), gist_sees(&g, kind, q, KIND_RAW, c, n));
            for (int64_t c = 0; c < gist_count(&g, n); c++)
                CU_ASSERT_EQUAL(spans_see(&l, run, q, GIST, c), gist_sees(&g, kind, q, KIND_GIST, c, n));
        }
    CU_ASSERT_EQUAL(covered_raw, n);
    CU_ASSERT_EQUAL(covered_gist, gist_count(&g, n));
    layout_free(&l);
}

/* The same with raw rows in pages, of which only those that the pass still sees are there. */
static void check_paged(rng_t *rnd) {
    int64_t r = 1 + rng_below(rnd, 7), n = 1 + rng_below(rnd, 90), n_sink = rng_below(rnd, 4), page = 1 + rng_below(rnd, 20);
    gist_spec_t g = {.ratio = r, .window = rng_below(rnd, 5) * r};
    int32_t sink_pool = SINK, pools[100];
    shared_t shared = {&sink_pool, &n_sink, 1};
    int64_t raw = 0, gist = 0, raw_n, gist_n, space = r + 1 + rng_below(rnd, 20);
    for (int i = 0; i < 100; i++) pools[i] = PAGE + i;
    while (gist_step(&g, n, raw, gist, space, &raw_n, &gist_n)) {
        int64_t first = gist_oldest(&g, raw_n ? raw : gist * r) / page;
        pages_t pages = {.pools = pools + first, .first = first, .n = 100 - first, .page = page};
        layout_t l = {0};
        if (raw_n) CU_ASSERT_EQUAL(layout_gist_raw_paged(&l, &g, &pages, GIST, raw, raw_n, gist + gist_n, &shared), ST_OK);
        if (gist_n) CU_ASSERT_EQUAL(layout_gist_rows_paged(&l, &g, &pages, GIST, gist, gist + gist_n, n, &shared), ST_OK);
        CU_ASSERT_EQUAL(l.n_row, raw_n + gist_n);
        for (int k = 0; k < l.n_run; k++)
            for (int64_t t = 0; t < l.runs[k].n; t++) {
                const run_t *run = &l.runs[k];
                row_kind_t kind = run->pool == GIST ? KIND_GIST : KIND_RAW;
                int64_t i = run->index + t, q = kind == KIND_RAW ? i + (run->pool - PAGE) * page : i;
                CU_ASSERT_EQUAL(q, kind == KIND_RAW ? raw + run->row + t : gist + run->row + t - raw_n);
                for (int64_t c = 0; c < n; c++)
                    CU_ASSERT_EQUAL(spans_see(&l, run, i, (int32_t)(PAGE + c / page), c % page), gist_sees(&g, kind, q, KIND_RAW, c, n));
                for (int64_t c = 0; c < gist_count(&g, n); c++)
                    CU_ASSERT_EQUAL(spans_see(&l, run, i, GIST, c), gist_sees(&g, kind, q, KIND_GIST, c, n));
            }
        raw += raw_n;
        gist += gist_n;
        layout_free(&l);
    }
    CU_ASSERT(raw == n && gist == gist_count(&g, n));
}

static void test_paged(void) {
    rng_t r = {12};
    for (int i = 0; i < 400; i++) check_paged(&r);
}

static void test_random(void) {
    rng_t r = {11};
    for (int i = 0; i < 400; i++) check_segment(&r);
}

/* Streaming: of the pool that holds the sink once for each row, a row sees its own copies and nothing else, whatever rows the pass holds.
 */
static void test_near(void) {
    rng_t r = {13};
    for (int round = 0; round < 300; round++) {
        encoder_t e = {.n_sink = 1 + rng_below(&r, 9)};
        int64_t raw = rng_below(&r, 500), n = 1 + rng_below(&r, 60), E = 1, base = raw - raw % 64;
        while (E < e.n_sink) E *= 2;
        span_t s = near_span(&e, 3, raw, n);
        CU_ASSERT(s.pool == 3 && s.block == 0 && s.end <= (64 + n) * E);
        for (int64_t i = raw; i < raw + n; i++)
            for (int64_t c = 0; c < (64 + n) * E; c++)
                CU_ASSERT_EQUAL(c >= span_lo(&s, i) && c < span_hi(&s, i), base + c / E == i && c % E < e.n_sink);
    }
}

static void test_table(void) { /* r = 4: raw 0 1 2 3, gist 4, raw 4 5 6 7, gist 8 (methods.md section 5) */
    gist_spec_t g = {.ratio = 4, .window = 4};
    CU_ASSERT_EQUAL(gist_position(&g, 0, 10), 4);
    CU_ASSERT_EQUAL(gist_position(&g, 1, 10), 8);
    CU_ASSERT_EQUAL(gist_count(&g, 10), 2);
    CU_ASSERT(gist_sees(&g, KIND_RAW, 8, KIND_RAW, 4, 10) &&
              !gist_sees(&g, KIND_RAW, 8, KIND_RAW, 3, 10)); /* the unit before, not the one before that */
    CU_ASSERT(gist_sees(&g, KIND_RAW, 8, KIND_GIST, 0, 10) && gist_sees(&g, KIND_RAW, 8, KIND_GIST, 1, 10));
    CU_ASSERT(gist_sees(&g, KIND_GIST, 0, KIND_RAW, 3, 10) && !gist_sees(&g, KIND_GIST, 0, KIND_RAW, 4, 10));
    CU_ASSERT(!gist_sees(&g, KIND_RAW, 3, KIND_GIST, 0, 10) && gist_sees(&g, KIND_RAW, 4, KIND_GIST, 0, 10));
}

UNIT_MAIN("gist", {"random", test_random}, {"pages", test_paged}, {"near", test_near}, {"table", test_table})
