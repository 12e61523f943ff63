#include "layout/gist.h"

#include "base/mem.h"

void gist_range(const gist_spec_t *g, int64_t from, int64_t n, int64_t n_raw, int64_t *begin, int64_t *end) {
    int64_t all = gist_count(g, n_raw);
    *begin = *end = 0;
    if (!all) return;
    if (g->at_end) { /* with the last raw rows, all at once */
        *end = from + n == n_raw ? all : 0;
        return;
    }
    *begin = from / g->ratio;
    *end = (from + n) / g->ratio;
}

static status_t add_shared(layout_t *l, const int32_t *shared, const int64_t *shared_rows, int n_shared) {
    status_t st = ST_OK;
    for (int i = 0; i < n_shared && !st; i++)
        if (shared_rows[i]) st = layout_add_span(l, span_all(shared[i], 0, shared_rows[i]));
    return st;
}

static status_t raw_run(layout_t *l, const gist_spec_t *g, int32_t raw_pool, int32_t gist_pool, int64_t from, int64_t n, int64_t n_gist,
                        const int32_t *shared, const int64_t *shared_rows, int n_shared) {
    int64_t r = g->ratio;
    span_t raw = span_causal(raw_pool, 0, from + n, 0);
    span_t gist = {.pool = gist_pool, .end = n_gist, .lo = edge_const(0), .hi = edge_step(i64_max(r, 1), 1, 0, 0)};
    if (r && g->window >= 0 && !g->at_end) raw.lo = edge_step(r, r, 0, -g->window);
    status_t st = layout_add_run(l, raw_pool, from, n);
    if (!st) st = add_shared(l, shared, shared_rows, n_shared);
    if (!st) st = layout_add_span(l, raw);
    return st || g->at_end || !n_gist ? st : layout_add_span(l, gist);
}

static status_t gist_run(layout_t *l, const gist_spec_t *g, int32_t raw_pool, int32_t gist_pool, int64_t from, int64_t upto, int64_t n_raw,
                         const int32_t *shared, const int64_t *shared_rows, int n_shared) {
    int64_t r = g->ratio, k = g->window / r;
    span_t raw = {.pool = raw_pool, .end = n_raw, .lo = edge_const(0), .hi = g->at_end ? edge_const(n_raw) : edge_step(1, r, 1, 0)};
    if (g->window >= 0 && !g->at_end) raw.lo = edge_step(1, r, -k, 0);
    status_t st = layout_add_run(l, gist_pool, from, upto - from);
    if (!st) st = add_shared(l, shared, shared_rows, n_shared);
    if (!st) st = layout_add_span(l, raw);
    return st ? st : layout_add_span(l, span_causal(gist_pool, 0, upto, 0));
}

status_t layout_gist_segment(layout_t *l, const gist_spec_t *g, int32_t raw_pool, int32_t gist_pool, int64_t from, int64_t n, int64_t n_raw,
                             const int32_t *shared, const int64_t *shared_rows, int n_shared) {
    int64_t begin, end;
    gist_range(g, from, n, n_raw, &begin, &end);
    status_t st = raw_run(l, g, raw_pool, gist_pool, from, n, g->at_end ? 0 : end, shared, shared_rows, n_shared);
    return st || begin == end ? st : gist_run(l, g, raw_pool, gist_pool, begin, end, n_raw, shared, shared_rows, n_shared);
}

bool gist_sees(const gist_spec_t *g, row_kind_t q_kind, int64_t q, row_kind_t c_kind, int64_t c, int64_t n_raw) {
    /* order in the interleaved sequence: raw i at i plus the gists before it, gist u right behind raw (u+1)*r - 1 */
    int64_t r = g->ratio, q_order, c_order;
    if (g->at_end) {
        q_order = q_kind == KIND_RAW ? q : n_raw + q;
        c_order = c_kind == KIND_RAW ? c : n_raw + c;
        return c_order <= q_order;
    }
    q_order = q_kind == KIND_RAW ? q + q / r : (q + 1) * r + q;
    c_order = c_kind == KIND_RAW ? c + c / r : (c + 1) * r + c;
    if (c_order > q_order) return false;
    if (c_kind == KIND_GIST || g->window < 0) return true;
    int64_t q_unit = q_kind == KIND_RAW ? q / r : q;
    return q_unit - c / r <= g->window / r;
}
