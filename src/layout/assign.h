/* Who encodes what: segments to ranks by cost, and ranges of items to ranks for queries. Pure arithmetic: a plan for 4096 ranks is made on
 * a laptop.
 *
 *     assign_t a;
 *     st = assign_segments(cost, n, comm->size, &a);
 *     for (int64_t i = a.begin[rank]; i < a.begin[rank + 1]; i++) encode(a.item[i]);     // in corpus order
 *     assign_free(&a);
 *
 * Every rank computes the same answer from the same input, so nothing is sent.
 */
#ifndef LAYOUT_ASSIGN_H
#define LAYOUT_ASSIGN_H

#include <stdint.h>

#include "base/status.h"

/* Multiply-adds of a segment of n rows behind a sink of n_sink rows: projections and feed-forward grow with n, attention with what each row
 * sees, itself included: n_sink + (n + 1) / 2 on average. A sliding `window` > 0 bounds what a row sees of the segment. */
typedef struct {
    double row; /* multiply-adds per row outside attention: the model's matrix elements that a row meets */
    double key; /* per (row, key) pair: 2 * n_layer * n_head * d_head */
    int64_t n_sink, window;
} assign_cost_t;
double assign_cost(const assign_cost_t *c, int64_t n);

typedef struct {
    int64_t *begin; /* [size + 1]: rank r has item[begin[r] .. begin[r + 1]) */
    int64_t *item;  /* [n], ascending for each rank */
    double *load;   /* [size] sum of costs */
    double max_load, mean_load;
} assign_t;

/* Longest processing time first: items by falling cost (ties: lower index), each to the rank with the least load (ties: lower rank). The
 * largest load is at most 4/3 of the best possible. O(n log n + n log size). Costs must be finite and >= 0. n may be 0, size larger than n.
 */
status_t assign_segments(const double *cost, int64_t n, int size, assign_t *out);
/* The same for ranks of unlike speed: each item to the rank that would be done with it first. speed: [size], in any unit, above 0; NULL:
 * all alike. Loads stay sums of costs. O(n log n + n size) when speeds are given. */
status_t assign_segments_by_speed(const double *cost, const double *speed, int64_t n, int size, assign_t *out);
void assign_free(assign_t *a); /* takes a zeroed one */

/* Contiguous ranges: begin[0] = 0 <= .. <= begin[size] = n, rank r takes items [begin[r], begin[r + 1]). Inner boundaries are multiples of
 * `group` (>= 1) items, so a group is never split. The largest range weight is the least that contiguous ranges of whole groups can have;
 * within that, boundaries lie as near as they can to equal shares. Weights >= 0, their sum within int64; begin has room for size + 1. */
status_t assign_ranges(const int64_t *weight, int64_t n, int64_t group, int size, int64_t *begin);

#endif
