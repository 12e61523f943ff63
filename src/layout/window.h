/* Sliding windows: a model with window w was trained so that a row sees the keys less than w positions back. Positions count, not rows:
 * pieces re-use the same range, so the start of every piece leaves a query's window together. The sink stays visible, as it does while
 * encoding.
 *
 * Where both pools' rows stand one position apart (all alignments but a stretched "even"), the window's edge is a line and spans carry it;
 * where they do not, every row is a run of its own, with the edge looked up.
 */
#ifndef LAYOUT_WINDOW_H
#define LAYOUT_WINDOW_H

#include "layout/layout.h"

/* Where the rows of a pool stand: row c at layout_position(align, n_sink, c, length, reserve, before), which never falls as c grows. */
typedef struct {
    align_t align;
    int64_t n_sink, length, reserve, before;
} place_t;

static inline int64_t place_at(const place_t *p, int64_t c) {
    return layout_position(p->align, p->n_sink, c, p->length, p->reserve, p->before);
}
/* Does every row stand one position behind the row before it? */
static inline bool place_steps(const place_t *p) { return p->align != ALIGN_EVEN || p->length == p->reserve; }

/* Rows [0, n) of a pool whose rows stand at c, seen through the window by a run that begins with row i of rows that stand at q. The run
 * must be one row long unless both steps. window 0: all rows. */
span_t span_window(int32_t pool, int32_t block, int64_t n, const place_t *c, const place_t *q, int64_t i, int64_t window);

#endif
