/* Segments: longest processing time first (R. L. Graham, Bounds on Multiprocessing Timing Anomalies, 1969) with a binary heap of ranks.
 * Ranges: the least possible largest weight is found by bisection; each boundary then lies between two limits, and is put nearest to its
 * equal share:
 *
 *     groups   |--|--|--|--|--|--|--|--|--|
 *                 ^need        ^share   ^far          need: further left, and the ranks to the right could not take the rest
 *                                                     far: further right, and this rank would carry too much
 */
#include "layout/assign.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/bisect.h"
#include "base/mem.h"

double assign_cost(const assign_cost_t *c, int64_t n) {
    double rows = (double)n, sink = (double)c->n_sink, w = (double)c->window;
    double own = c->window > 0 && n > c->window ? w * (w + 1) / 2 + (rows - w) * w : rows * (rows + 1) / 2;
    return rows * c->row + c->key * (rows * sink + own);
}

/* ---- segments --------------------------------------------------------------------------------------------------- */

typedef struct {
    double cost;
    int64_t item;
} job_t;

static int job_compare(const void *pa, const void *pb) {
    const job_t *a = pa, *b = pb;
    if (a->cost != b->cost) return a->cost > b->cost ? -1 : 1;
    return a->item < b->item ? -1 : a->item > b->item;
}

/* heap[0] is the rank with the least load. */
static bool lighter(const double *load, int a, int b) { return load[a] != load[b] ? load[a] < load[b] : a < b; }

static void heap_sink(int *heap, int size, const double *load) {
    int at = 0, rank = heap[0];
    for (int child; (child = 2 * at + 1) < size; at = child) {
        if (child + 1 < size && lighter(load, heap[child + 1], heap[child])) child++;
        if (!lighter(load, heap[child], rank)) break;
        heap[at] = heap[child];
    }
    heap[at] = rank;
}

/* The rank that would be done with one more item first. */
static int quickest(const double *load, const double *speed, int size, double cost) {
    int best = 0;
    for (int r = 1; r < size; r++)
        if ((load[r] + cost) / speed[r] < (load[best] + cost) / speed[best]) best = r;
    return best;
}

/* owner[i] for every item, loads, and begin[r + 1] = items of rank r. */
static void deal(const job_t *jobs, const double *speed, int64_t n, int size, int *heap, int32_t *owner, assign_t *a) {
    for (int r = 0; r < size; r++) heap[r] = r; /* equal loads in order of rank: already a heap */
    for (int64_t j = 0; j < n; j++) {
        int r = speed ? quickest(a->load, speed, size, jobs[j].cost) : heap[0];
        owner[jobs[j].item] = r;
        a->load[r] += jobs[j].cost;
        a->begin[r + 1]++;
        if (!speed) heap_sink(heap, size, a->load);
    }
}

status_t assign_segments(const double *cost, int64_t n, int size, assign_t *out) {
    return assign_segments_by_speed(cost, NULL, n, size, out);
}

status_t assign_segments_by_speed(const double *cost, const double *speed, int64_t n, int size, assign_t *out) {
    job_t *jobs = NULL;
    int *heap = NULL;
    int32_t *owner = NULL;
    int64_t *next = NULL;
    *out = (assign_t){0};
    if (n < 0 || size < 1) return status_fail(ST_FAIL, "assigning %lld segments to %d ranks: not possible", (long long)n, size);
    for (int64_t i = 0; i < n; i++)
        if (!(cost[i] >= 0) || isinf(cost[i]))
            return status_fail(ST_FAIL, "segment %lld: cost %g is no cost; use smaller segments", (long long)i, cost[i]);
    for (int r = 0; speed && r < size; r++)
        if (!(speed[r] > 0) || isinf(speed[r])) return status_fail(ST_FAIL, "rank %d: speed %g is no speed; give --speed", r, speed[r]);
    status_t st = mem_zalloc(&out->begin, (size_t)size + 1, sizeof *out->begin, "an assignment");
    if (!st) st = mem_zalloc(&out->load, (size_t)size, sizeof *out->load, "an assignment");
    if (!st) st = mem_alloc(&out->item, (size_t)n, sizeof *out->item, "an assignment");
    if (!st) st = mem_alloc(&jobs, (size_t)n, sizeof *jobs, "an assignment");
    if (!st) st = mem_alloc(&heap, (size_t)size, sizeof *heap, "an assignment");
    if (!st) st = mem_alloc(&owner, (size_t)n, sizeof *owner, "an assignment");
    if (!st) st = mem_alloc(&next, (size_t)size, sizeof *next, "an assignment");
    if (st) goto out;
    for (int64_t i = 0; i < n; i++) jobs[i] = (job_t){cost[i], i};
    if (n > 1) qsort(jobs, (size_t)n, sizeof *jobs, job_compare);
    deal(jobs, speed, n, size, heap, owner, out);
    for (int r = 0; r < size; r++) {
        next[r] = out->begin[r];
        out->begin[r + 1] += out->begin[r];
        out->max_load = fmax(out->max_load, out->load[r]);
        out->mean_load += out->load[r] / size;
    }
    for (int64_t i = 0; i < n; i++) out->item[next[owner[i]]++] = i; /* corpus order within each rank */
out:
    mem_free(jobs);
    mem_free(heap);
    mem_free(owner);
    mem_free(next);
    if (st) assign_free(out);
    return st;
}

void assign_free(assign_t *a) {
    mem_free(a->begin);
    mem_free(a->item);
    mem_free(a->load);
    *a = (assign_t){0};
}

/* ---- ranges ----------------------------------------------------------------------------------------------------- */

/* sum[g]: weight of the groups before g; sum[n_group] is the total. Everything below asks it by binary search. */

static int64_t limit_of(int64_t sum, int64_t cap) { return sum > INT64_MAX - cap ? INT64_MAX : sum + cap; }

static bool cap_suffices(const int64_t *sum, int64_t n_group, int size, int64_t cap) {
    int64_t g = 0;
    for (int r = 0; r < size && g < n_group; r++) g = bisect_last(sum, g, n_group, limit_of(sum[g], cap));
    return g == n_group;
}

static int64_t least_cap(const int64_t *sum, int64_t n_group, int size) {
    int64_t lo = 0, hi = sum[n_group];
    while (lo < hi) {
        int64_t mid = lo + (hi - lo) / 2;
        if (cap_suffices(sum, n_group, size, mid))
            hi = mid;
        else
            lo = mid + 1;
    }
    return lo;
}

static void place_boundaries(const int64_t *sum, int64_t n_group, int size, int64_t *begin) {
    int64_t total = sum[n_group], cap = least_cap(sum, n_group, size);
    begin[size] = n_group;
    for (int r = size - 1; r > 0; r--) begin[r] = bisect_first(sum, begin[r + 1], sum[begin[r + 1]] - cap); /* need */
    begin[0] = 0;
    for (int r = 1; r < size; r++) {
        int64_t share = total / size * r + total % size * r / size;
        int64_t far = bisect_last(sum, begin[r - 1], n_group, limit_of(sum[begin[r - 1]], cap));
        int64_t g = bisect_first(sum, n_group, share);
        if (g > 0 && share - sum[g - 1] < sum[g] - share) g--;
        begin[r] = i64_max(i64_max(begin[r], begin[r - 1]), i64_min(g, far));
    }
}

status_t assign_ranges(const int64_t *weight, int64_t n, int64_t group, int size, int64_t *begin) {
    if (n < 0 || group < 1 || size < 1)
        return status_fail(ST_FAIL, "%lld items in groups of %lld for %d ranks: not possible", (long long)n, (long long)group, size);
    int64_t n_group = n / group + (n % group != 0), *sum;
    status_t st = mem_zalloc(&sum, (size_t)n_group + 1, sizeof *sum, "ranges");
    if (st) return st;
    for (int64_t g = 0, i = 0; g < n_group; g++) {
        sum[g + 1] = sum[g];
        for (int64_t end = n - i < group ? n : i + group; i < end; i++) {
            if (weight[i] >= 0 && !__builtin_add_overflow(sum[g + 1], weight[i], &sum[g + 1])) continue;
            st = status_fail(ST_FAIL, "item %lld: weight %lld cannot be balanced; use fewer or smaller segments", (long long)i,
                             (long long)weight[i]);
            goto out;
        }
    }
    place_boundaries(sum, n_group, size, begin);
    for (int r = 1; r <= size; r++) begin[r] = begin[r] == n_group ? n : begin[r] * group;
out:
    mem_free(sum);
    return st;
}
