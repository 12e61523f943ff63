#include "layout/rule.h"

#include "base/mem.h"

bool rule_sees(row_set_t q_set, int64_t q_piece, int64_t q_order, row_set_t c_set, int64_t c_piece, int64_t c_order) {
    return c_order <= q_order && (q_set != c_set || q_piece == c_piece);
}

/* One span per stretch of visible rows of a pool. */
static status_t stretches(layout_t *l, const rule_pool_t *own, int64_t i, const rule_pool_t *p, int64_t window) {
    int64_t order = own->order + i;
    for (int64_t c = 0; c < p->n_row;) {
        int64_t from = c;
        while (c < p->n_row && rule_sees(own->set, own->piece, order, p->set, p->piece, p->order + c) &&
               !(window > 0 && p->set != SET_PREFIX && place_at(&own->place, i) - place_at(&p->place, c) >= window))
            c++;
        if (c > from) {
            status_t st = layout_add_span(
                l, (span_t){.pool = p->pool, .block = p->block, .begin = from, .end = c, .lo = edge_const(from), .hi = edge_const(c)});
            if (st) return st;
        } else {
            c++;
        }
    }
    return ST_OK;
}

status_t layout_by_rule(layout_t *l, const rule_pool_t *own, int64_t index, int64_t n, const rule_pool_t *pools, int n_pool,
                        int64_t window) {
    for (int64_t i = index; i < index + n; i++) {
        status_t st = layout_add_run(l, own->pool, i, 1);
        for (int p = 0; p < n_pool && !st; p++) st = stretches(l, own, i, &pools[p], window);
        if (st) return st;
    }
    return ST_OK;
}

typedef struct {
    const gist_spec_t *g;
    row_kind_t kind;
    int64_t row, n_raw;
} asker_t;

/* Stretches of rows begin .. end-1 of a kind, which lie in `pool` from its row 0 on. */
static status_t gist_stretches(layout_t *l, const asker_t *q, row_kind_t kind, int64_t begin, int64_t end, int32_t pool) {
    for (int64_t c = begin; c < end;) {
        int64_t from = c;
        while (c < end && gist_sees(q->g, q->kind, q->row, kind, c, q->n_raw)) c++;
        if (c > from) {
            span_t s = {.pool = pool, .begin = from - begin, .end = c - begin, .lo = edge_const(from - begin), .hi = edge_const(c - begin)};
            status_t st = layout_add_span(l, s);
            if (st) return st;
        } else {
            c++;
        }
    }
    return ST_OK;
}

status_t layout_gist_by_rule(layout_t *l, const gist_spec_t *g, const pages_t *pages, int32_t gist_pool, row_kind_t kind, int64_t from,
                             int64_t upto, int64_t n_raw, int64_t raw_end, int64_t gist_end, const shared_t *shared) {
    status_t st = ST_OK;
    for (int64_t i = from; i < upto && !st; i++) {
        asker_t q = {g, kind, i, n_raw};
        int64_t own = i / pages->page;
        st = kind == KIND_GIST ? layout_add_run(l, gist_pool, i, 1)
                               : layout_add_run(l, pages->pools[own - pages->first], i - own * pages->page, 1);
        for (int p = 0; p < shared->n && !st; p++)
            if (shared->rows[p]) st = layout_add_span(l, span_all(shared->pools[p], 0, shared->rows[p]));
        for (int64_t P = pages->first; P < pages->first + pages->n && !st; P++)
            st = gist_stretches(l, &q, KIND_RAW, P * pages->page, i64_min((P + 1) * pages->page, raw_end), pages->pools[P - pages->first]);
        if (!st) st = gist_stretches(l, &q, KIND_GIST, 0, gist_end, gist_pool);
    }
    return st;
}
