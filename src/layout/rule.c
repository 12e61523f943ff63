#include "layout/rule.h"

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
