/* Assignments against what must hold for any of them, against brute force where that is small, and at cluster size. */
#include "layout/assign.h"

#include <math.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/mem.h"
#include "base/rng.h"
#include "unit.h"

static double sum_of(const double *v, int64_t n) {
    double s = 0;
    for (int64_t i = 0; i < n; i++) s += v[i];
    return s;
}
static double max_of(const double *v, int64_t n) {
    double m = 0;
    for (int64_t i = 0; i < n; i++) m = fmax(m, v[i]);
    return m;
}

/* Each item once, lists ascending, loads right. */
static void check_segments(const assign_t *a, const double *cost, int64_t n, int size) {
    unsigned char *seen;
    CU_ASSERT_EQUAL(mem_zalloc(&seen, (size_t)n + 1, 1, "test"), ST_OK);
    int64_t wrong = 0;
    double max = 0;
    CU_ASSERT_EQUAL(a->begin[0], 0);
    CU_ASSERT_EQUAL(a->begin[size], n);
    for (int r = 0; r < size; r++) {
        double load = 0;
        for (int64_t i = a->begin[r]; i < a->begin[r + 1]; i++) {
            int64_t item = a->item[i];
            wrong += item < 0 || item >= n || seen[item]++ || (i > a->begin[r] && item <= a->item[i - 1]);
            load += cost[item];
        }
        wrong += fabs(load - a->load[r]) > 1e-9 * (load + 1);
        max = fmax(max, load);
    }
    for (int64_t i = 0; i < n; i++) wrong += !seen[i];
    CU_ASSERT_EQUAL(wrong, 0);
    CU_ASSERT(fabs(max - a->max_load) <= 1e-9 * (max + 1));
    mem_free(seen);
}

static void test_segment_cases(void) {
    assign_t a;
    static const double cost[] = {3, 3, 2, 2, 2}; /* Graham's example: LPT gives 7, the best is 6 */
    CU_ASSERT_EQUAL(assign_segments(cost, 5, 2, &a), ST_OK);
    check_segments(&a, cost, 5, 2);
    CU_ASSERT_EQUAL(a.max_load, 7);
    CU_ASSERT_EQUAL(a.mean_load, 6);
    assign_free(&a);

    static const double same[] = {1, 1, 1, 1, 1, 1, 1}; /* ties: dealt like cards, rank 0 first */
    CU_ASSERT_EQUAL(assign_segments(same, 7, 3, &a), ST_OK);
    check_segments(&a, same, 7, 3);
    for (int64_t i = 0; i < 3; i++) CU_ASSERT_EQUAL(a.item[i], 3 * i);
    CU_ASSERT_EQUAL(a.begin[1], 3);
    CU_ASSERT_EQUAL(a.begin[2], 5);
    assign_free(&a);

    CU_ASSERT_EQUAL(assign_segments(cost, 2, 5, &a), ST_OK); /* more ranks than segments */
    check_segments(&a, cost, 2, 5);
    CU_ASSERT_EQUAL(a.begin[2] - a.begin[1], 1);
    CU_ASSERT_EQUAL(a.begin[5] - a.begin[2], 0);
    assign_free(&a);

    CU_ASSERT_EQUAL(assign_segments(NULL, 0, 4, &a), ST_OK);
    CU_ASSERT_EQUAL(a.begin[4], 0);
    CU_ASSERT_EQUAL(a.max_load, 0);
    assign_free(&a);

    static const double zeros[4] = {0};
    CU_ASSERT_EQUAL(assign_segments(zeros, 4, 2, &a), ST_OK);
    check_segments(&a, zeros, 4, 2);
    assign_free(&a);
}

static void test_segment_refusals(void) {
    assign_t a;
    static const double bad[][2] = {{1, NAN}, {1, INFINITY}, {-1, 1}};
    for (int i = 0; i < 3; i++) CU_ASSERT_EQUAL(assign_segments(bad[i], 2, 2, &a), ST_FAIL);
    CU_ASSERT_EQUAL(assign_segments(bad[0], 1, 0, &a), ST_FAIL);
    CU_ASSERT_EQUAL(assign_segments(bad[0], -1, 1, &a), ST_FAIL);
    CU_ASSERT_PTR_NULL(a.begin);
    static const double cost[3] = {1, 2, 3};
    size_t before = mem_now_bytes();
    for (int n = 1; n <= 7; n++) {
        mem_fail_at(n);
        CU_ASSERT_EQUAL(assign_segments(cost, 3, 2, &a), ST_FAIL);
        CU_ASSERT_EQUAL(mem_now_bytes(), before);
    }
    mem_fail_at(0);
}

/* The best possible largest load, by trying everything. */
static double best_load(const double *cost, int n, int size) {
    double best = INFINITY;
    int64_t ways = 1;
    for (int i = 0; i < n; i++) ways *= size;
    for (int64_t w = 0; w < ways; w++) {
        double load[4] = {0}, max = 0;
        for (int64_t i = 0, x = w; i < n; i++, x /= size) load[x % size] += cost[i];
        for (int r = 0; r < size; r++) max = fmax(max, load[r]);
        best = fmin(best, max);
    }
    return best;
}

static void test_segments_near_best(void) {
    rng_t rng = {1};
    for (int round = 0; round < 60; round++) {
        int n = 1 + (int)rng_below(&rng, 8), size = 1 + (int)rng_below(&rng, 3);
        double cost[8];
        for (int i = 0; i < n; i++) cost[i] = (double)(1 + rng_below(&rng, 20));
        assign_t a;
        CU_ASSERT_EQUAL(assign_segments(cost, n, size, &a), ST_OK);
        check_segments(&a, cost, n, size);
        CU_ASSERT(a.max_load <= 4.0 / 3 * best_load(cost, n, size) + 1e-12);
        assign_free(&a);
    }
}

static void check_large(int64_t n, int size, uint64_t seed, const assign_cost_t *c) {
    double *cost;
    assign_t a, again;
    rng_t rng = {seed};
    CU_ASSERT_EQUAL(mem_alloc(&cost, (size_t)n, sizeof *cost, "test"), ST_OK);
    for (int64_t i = 0; i < n; i++)
        cost[i] = assign_cost(c, rng_below(&rng, 4) ? 4096 : 1 + rng_below(&rng, 4096)); /* mostly full segments */
    double begin = clock_s();
    CU_ASSERT_EQUAL(assign_segments(cost, n, size, &a), ST_OK);
    CU_ASSERT(clock_s() - begin < 5);
    check_segments(&a, cost, n, size);
    double ideal = fmax(sum_of(cost, n) / size, max_of(cost, n));
    CU_ASSERT(a.max_load <= 4.0 / 3 * ideal);
    CU_ASSERT(fabs(a.mean_load - sum_of(cost, n) / size) <= 1e-9 * a.mean_load);
    if (n / size > 100) CU_ASSERT(a.max_load <= 1.001 * ideal);
    CU_ASSERT_EQUAL(assign_segments(cost, n, size, &again), ST_OK);
    CU_ASSERT_EQUAL(memcmp(a.item, again.item, (size_t)n * sizeof *a.item), 0);
    assign_free(&a);
    assign_free(&again);
    mem_free(cost);
}

/* Ranks of unlike speed end together: a rank that is ten times as fast takes ten times as much. */
static void test_segments_by_speed(void) {
    enum { ITEMS = 300, RANKS = 4 };
    static const double speed[RANKS] = {10, 1, 1, 0.001}, bad[RANKS] = {1, 1, 0, 1};
    double cost[ITEMS];
    assign_t a;
    for (int i = 0; i < ITEMS; i++) cost[i] = 1 + i % 3;
    CU_ASSERT_EQUAL(assign_segments_by_speed(cost, speed, ITEMS, RANKS, &a), ST_OK);
    check_segments(&a, cost, ITEMS, RANKS);
    for (int r = 0; r < 3; r++) CU_ASSERT(fabs(a.load[r] / sum_of(cost, ITEMS) - speed[r] / 12.001) < 0.01);
    CU_ASSERT_EQUAL(a.load[3], 0); /* it would be done last with any of them */
    assign_free(&a);
    assign_t same, plain;
    static const double alike[RANKS] = {3, 3, 3, 3};
    CU_ASSERT_EQUAL(assign_segments_by_speed(cost, alike, ITEMS, RANKS, &same), ST_OK);
    CU_ASSERT_EQUAL(assign_segments(cost, ITEMS, RANKS, &plain), ST_OK);
    CU_ASSERT_EQUAL(memcmp(same.item, plain.item, ITEMS * sizeof *same.item), 0);
    assign_free(&same);
    assign_free(&plain);
    CU_ASSERT_EQUAL(assign_segments_by_speed(cost, bad, ITEMS, RANKS, &a), ST_FAIL);
}

static void test_segments_of_a_cluster(void) {
    static const assign_cost_t c = {.row = 106e6, .key = 2 * 30 * 9 * 64, .n_sink = 16};
    check_large(1000000, 4096, 7, &c);
    check_large(5000, 4096, 8, &c);
    check_large(4095, 4096, 9, &c);
    check_large(100000, 1, 10, &c);
}

static void test_cost(void) {
    assign_cost_t c = {.row = 10, .key = 2, .n_sink = 3};
    CU_ASSERT_EQUAL(assign_cost(&c, 0), 0);
    for (int64_t window = 0; window < 9; window++) {
        c.window = window;
        for (int64_t n = 0; n < 12; n++) {
            double want = 10.0 * (double)n;
            for (int64_t i = 0; i < n; i++) want += 2.0 * (double)(3 + (window && i + 1 > window ? window : i + 1));
            CU_ASSERT_EQUAL(assign_cost(&c, n), want);
        }
    }
}

/* ---- ranges ----------------------------------------------------------------------------------------------------- */

static int64_t range_weight(const int64_t *w, int64_t from, int64_t to) {
    int64_t s = 0;
    for (int64_t i = from; i < to; i++) s += w[i];
    return s;
}

static int64_t check_ranges(const int64_t *w, int64_t n, int64_t group, int size, const int64_t *begin) {
    int64_t max = 0;
    CU_ASSERT_EQUAL(begin[0], 0);
    CU_ASSERT_EQUAL(begin[size], n);
    for (int r = 0; r < size; r++) {
        CU_ASSERT(begin[r] <= begin[r + 1]);
        CU_ASSERT(begin[r] % group == 0 || begin[r] == n);
        max = i64_max(max, range_weight(w, begin[r], begin[r + 1]));
    }
    return max;
}

/* The least largest weight, by the textbook recurrence over ranks and groups. */
static int64_t best_ranges(const int64_t *w, int64_t n, int64_t group, int size) {
    int64_t best[2][32], n_group = i64_ceil_div(n, group);
    for (int64_t g = 0; g <= n_group; g++) best[0][g] = g == 0 ? 0 : INT64_MAX;
    for (int r = 1; r <= size; r++) {
        for (int64_t g = 0; g <= n_group; g++) {
            best[r & 1][g] = INT64_MAX;
            for (int64_t h = 0; h <= g; h++)
                if (best[~r & 1][h] < INT64_MAX)
                    best[r & 1][g] = i64_min(best[r & 1][g], i64_max(best[~r & 1][h], range_weight(w, h * group, i64_min(g * group, n))));
        }
    }
    return best[size & 1][n_group];
}

static void test_ranges_are_best(void) {
    rng_t rng = {5};
    int64_t w[30], begin[13];
    for (int round = 0; round < 500; round++) {
        int64_t n = rng_below(&rng, 31), group = 1 + rng_below(&rng, 4);
        int size = 1 + (int)rng_below(&rng, 12);
        for (int64_t i = 0; i < n; i++) w[i] = rng_below(&rng, 3) ? rng_below(&rng, 10) : rng_below(&rng, 100);
        CU_ASSERT_EQUAL(assign_ranges(w, n, group, size, begin), ST_OK);
        CU_ASSERT_EQUAL(check_ranges(w, n, group, size, begin), best_ranges(w, n, group, size));
    }
}

static void test_range_cases(void) {
    static const int64_t ones[10] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
    int64_t begin[9];
    CU_ASSERT_EQUAL(assign_ranges(ones, 10, 1, 4, begin), ST_OK); /* even, not 3 3 3 1 */
    for (int r = 0; r < 4; r++) CU_ASSERT(begin[r + 1] - begin[r] == 2 || begin[r + 1] - begin[r] == 3);
    CU_ASSERT_EQUAL(assign_ranges(ones, 10, 1, 1, begin), ST_OK);
    CU_ASSERT_EQUAL(begin[1], 10);
    CU_ASSERT_EQUAL(assign_ranges(ones, 10, 100, 3, begin), ST_OK); /* one group: one rank has it */
    check_ranges(ones, 10, 100, 3, begin);
    CU_ASSERT_EQUAL(assign_ranges(NULL, 0, 4, 8, begin), ST_OK);
    for (int r = 0; r <= 8; r++) CU_ASSERT_EQUAL(begin[r], 0);
    CU_ASSERT_EQUAL(assign_ranges(ones, 3, 1, 8, begin), ST_OK); /* more ranks than items */
    CU_ASSERT_EQUAL(check_ranges(ones, 3, 1, 8, begin), 1);

    static const int64_t huge[2] = {INT64_MAX, 1}, full[2] = {INT64_MAX - 1, 1}, negative[1] = {-1};
    CU_ASSERT_EQUAL(assign_ranges(huge, 2, 1, 2, begin), ST_FAIL);
    CU_ASSERT_EQUAL(assign_ranges(negative, 1, 1, 2, begin), ST_FAIL);
    CU_ASSERT_EQUAL(assign_ranges(full, 2, 1, 2, begin), ST_OK);
    CU_ASSERT_EQUAL(begin[1], 1);
    CU_ASSERT_EQUAL(assign_ranges(full, 2, 1, 8, begin), ST_OK);
    CU_ASSERT_EQUAL(assign_ranges(ones, 4, 0, 2, begin), ST_FAIL);
    CU_ASSERT_EQUAL(assign_ranges(ones, 4, 1, 0, begin), ST_FAIL);
}

static void test_ranges_of_a_cluster(void) {
    enum { N = 1000000, SIZE = 4096 };
    int64_t *w, *begin, total = 0;
    rng_t rng = {6};
    CU_ASSERT_EQUAL(mem_alloc(&w, N, sizeof *w, "test"), ST_OK);
    CU_ASSERT_EQUAL(mem_alloc(&begin, SIZE + 1, sizeof *begin, "test"), ST_OK);
    for (int i = 0; i < N; i++) total += w[i] = rng_below(&rng, 4097);
    double start = clock_s();
    CU_ASSERT_EQUAL(assign_ranges(w, N, 8, SIZE, begin), ST_OK);
    CU_ASSERT(clock_s() - start < 2);
    CU_ASSERT(check_ranges(w, N, 8, SIZE, begin) <= total / SIZE + 8 * 4096);
    mem_free(w);
    mem_free(begin);
}

UNIT_MAIN("assign", {"cost", test_cost}, {"segment_cases", test_segment_cases}, {"segment_refusals", test_segment_refusals},
          {"segments_near_best", test_segments_near_best}, {"segments_by_speed", test_segments_by_speed},
          {"segments_of_a_cluster", test_segments_of_a_cluster}, {"ranges_are_best", test_ranges_are_best},
          {"range_cases", test_range_cases}, {"ranges_of_a_cluster", test_ranges_of_a_cluster})
