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

static pages_t one_page(const int32_t *pool) { return (pages_t){.pools = pool, .n = 1, .page = INT64_C(1) << 40}; }

/* Raw rows in a page that a run of raw rows sees, whose first lies in page `own` (index i of a run counts from the start of its page). */
static status_t raw_to_raw(layout_t *l, const gist_spec_t *g, const pages_t *p, int64_t own, int64_t from, int64_t upto) {
    int64_t r = g->ratio, oldest = g->at_end ? 0 : gist_oldest(g, from);
    status_t st = ST_OK;
    for (int64_t P = i64_max(p->first, oldest / p->page); P <= own && !st; P++) {
        span_t s = span_all(p->pools[P - p->first], 0, i64_min(p->page, upto - P * p->page));
        if (P == own) s.hi = edge_step(1, 1, 0, 1);
        if (r && g->window >= 0 && !g->at_end) s.lo = edge_step(r, r, own * p->page, -g->window - P * p->page);
        st = layout_add_span(l, s);
    }
    return st;
}

status_t layout_gist_raw_paged(layout_t *l, const gist_spec_t *g, const pages_t *p, int32_t gist_pool, int64_t from, int64_t n,
                               int64_t n_gist, const shared_t *shared) {
    status_t st = ST_OK;
    for (int64_t upto = from + n; from < upto && !st;) {
        int64_t own = from / p->page, end = i64_min(upto, (own + 1) * p->page);
        span_t gist = {.pool = gist_pool, .end = n_gist, .lo = edge_const(0), .hi = edge_step(i64_max(g->ratio, 1), 1, own * p->page, 0)};
        st = layout_add_run(l, p->pools[own - p->first], from - own * p->page, end - from);
        if (!st) st = add_shared(l, shared);
        if (!st) st = raw_to_raw(l, g, p, own, from, end);
        if (!st && !g->at_end && n_gist) st = layout_add_span(l, gist);
        from = end;
    }
    return st;
}

status_t layout_gist_rows_paged(layout_t *l, const gist_spec_t *g, const pages_t *p, int32_t gist_pool, int64_t from, int64_t upto,
                                int64_t n_raw, const shared_t *shared) {
    int64_t r = g->ratio, k = g->window / r, seen = g->at_end ? n_raw : upto * r, oldest = g->at_end ? 0 : gist_oldest(g, from * r);
    status_t st = layout_add_run(l, gist_pool, from, upto - from);
    if (!st) st = add_shared(l, shared);
    for (int64_t P = i64_max(p->first, oldest / p->page); P * p->page < seen && !st; P++) {
        span_t raw = span_all(p->pools[P - p->first], 0, i64_min(p->page, n_raw - P * p->page));
        if (!g->at_end) raw.hi = edge_step(1, r, 1, -P * p->page);
        if (g->window >= 0 && !g->at_end) raw.lo = edge_step(1, r, -k, -P * p->page);
        st = layout_add_span(l, raw);
    }
    return st ? st : layout_add_span(l, span_causal(gist_pool, 0, upto, 0));
}

status_t layout_gist_raw(layout_t *l, const gist_spec_t *g, int32_t raw_pool, int32_t gist_pool, int64_t from, int64_t n, int64_t n_gist,
                         const shared_t *shared) {
    pages_t p = one_page(&raw_pool);
    return layout_gist_raw_paged(l, g, &p, gist_pool, from, n, n_gist, shared);
}

status_t layout_gist_rows(layout_t *l, const gist_spec_t *g, int32_t raw_pool, int32_t gist_pool, int64_t from, int64_t upto, int64_t n_raw,
                          const shared_t *shared) {
    pages_t p = one_page(&raw_pool);
    return layout_gist_rows_paged(l, g, &p, gist_pool, from, upto, n_raw, shared);
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
