/* The reference switch: visibility by the paper's rule, row by row and key by key, sharing nothing with the closed-form spans (methods.md
 * section 1, last paragraph).
 *
 * The rule of parallel context encoding (section 3), prefix, pieces and query being three sets:
 *     c <= q  and  (set(q) != set(c)  or  piece(q) == piece(c))
 * --mask builds every pass from it: one run per row, one span per stretch of visible keys. Slow, and the same answer.
 */
#ifndef LAYOUT_RULE_H
#define LAYOUT_RULE_H

#include "layout/gist.h"
#include "layout/window.h"

typedef enum { SET_PREFIX, SET_PIECES, SET_QUERY } row_set_t;

/* Where the rows of a pool stand in the whole sequence: row i of the pool has order `order + i`, and position place_at(place, i). */
typedef struct {
    row_set_t set;
    int64_t piece, order, n_row;
    int32_t pool, block;
    place_t place;
} rule_pool_t;

bool rule_sees(row_set_t q_set, int64_t q_piece, int64_t q_order, row_set_t c_set, int64_t c_piece, int64_t c_order);

/* Rows index .. index+n-1 of `own` (-1 as own->pool: their K/V go nowhere) as runs of one row each, which see what the rule shows them of
 * the pools, in the order given. own->n_row counts rows that exist when the pass ends. window > 0: rows that many positions back or more
 * are not seen, but for those of the prefix. */
status_t layout_by_rule(layout_t *l, const rule_pool_t *own, int64_t index, int64_t n, const rule_pool_t *pools, int n_pool,
                        int64_t window);
/* The same for rows from .. upto-1 (raw rows, or gists) of a segment with gists, by gist_sees; shared pools are seen whole. raw_end and
 * gist_end: rows of the segment that exist when the pass ends. */
status_t layout_gist_by_rule(layout_t *l, const gist_spec_t *g, const pages_t *pages, int32_t gist_pool, row_kind_t kind, int64_t from,
                             int64_t upto, int64_t n_raw, int64_t raw_end, int64_t gist_end, const shared_t *shared);

#endif
