#include "layout/gist.h"

#include "base/mem.h"

bool gist_step(const gist_spec_t *g, int64_t n_raw, int64_t raw, int64_t gist, int64_t space, int64_t *raw_n, int64_t *gist_n) {
    int64_t r = g->ratio, left = n_raw - raw, all = gist_count(g, n_raw);
    *raw_n = *gist_n = 0;
    if (g->at_end || !r) {
        *raw_n = i64_min(left, space);
        if (raw + *raw_n == n_raw) *gist_n = i64_min(all - gist, space - *raw_n);
    } else {
        *raw_n = left + (all - gist) <= space ? left : space / (r + 1) * r; /* whole units until the end fits */
        *gist_n = (raw + *raw_n) / r - gist;
    }
    return *raw_n + *gist_n > 0;
}

static status_t add_shared(layout_t *l, const shared_t *s) {
    status_t st = ST_OK;
    for (int i = 0; i < s->n && !st; i++)
        if (s->rows[i]) st = layout_add_span(l, span_all(s->pools[i], 0, s->rows[i]));
    return st;
}

status_t layout_gist_raw(layout_t *l, const gist_spec_t *g, int32_t raw_pool, int32_t gist_pool, int64_t from, int64_t n, int64_t n_gist,
                         const shared_t *shared) {
    int64_t r = g->ratio;
    span_t raw = span_causal(raw_pool, 0, from + n, 0);
    span_t gist = {.pool = gist_pool, .end = n_gist, .lo = edge_const(0), .hi = edge_step(i64_max(r, 1), 1, 0, 0)};
    if (r && g->window >= 0 && !g->at_end) raw.lo = edge_step(r, r, 0, -g->window);
    status_t st = layout_add_run(l, raw_pool, from, n);
    if (!st) st = add_shared(l, shared);
    if (!st) st = layout_add_span(l, raw);
    return st || g->at_end || !n_gist ? st : layout_add_span(l, gist);
}

status_t layout_gist_rows(layout_t *l, const gist_spec_t *g, int32_t raw_pool, int32_t gist_pool, int64_t from, int64_t upto, int64_t n_raw,
                          const shared_t *shared) {
    int64_t r = g->ratio, k = g->window / r;
    span_t raw = {.pool = raw_pool, .end = n_raw, .lo = edge_const(0), .hi = g->at_end ? edge_const(n_raw) : edge_step(1, r, 1, 0)};
    if (g->window >= 0 && !g->at_end) raw.lo = edge_step(1, r, -k, 0);
    status_t st = layout_add_run(l, gist_pool, from, upto - from);
    if (!st) st = add_shared(l, shared);
    if (!st) st = layout_add_span(l, raw);
    return st ? st : layout_add_span(l, span_causal(gist_pool, 0, upto, 0));
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
