#include "layout/window.h"

/* The first of n rows that stands at `position` or behind it; n when there is none. */
static int64_t first_at(const place_t *p, int64_t n, int64_t position) {
    int64_t from = 0, upto = n;
    while (from < upto) {
        int64_t mid = from + (upto - from) / 2;
        if (place_at(p, mid) >= position)
            upto = mid;
        else
            from = mid + 1;
    }
    return from;
}

span_t span_window(int32_t pool, int32_t block, int64_t n, const place_t *c, const place_t *q, int64_t i, int64_t window) {
    span_t s = span_all(pool, block, n);
    if (window <= 0) return s;
    if (place_steps(c) && place_steps(q))
        s.lo = edge_step(1, 1, 0, place_at(q, 0) - place_at(c, 0) - window + 1);
    else
        s.lo = edge_const(first_at(c, n, place_at(q, i) - window + 1));
    return s;
}
