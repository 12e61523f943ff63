#include "query/select.h"

#include <math.h>
#include <stdbool.h>

float select_log_sum(const float *logits, int n) {
    float max = -INFINITY;
    for (int i = 0; i < n; i++) max = logits[i] > max ? logits[i] : max;
    if (max == -INFINITY) return -INFINITY;
    double sum = 0;
    for (int i = 0; i < n; i++) sum += exp((double)logits[i] - (double)max);
    return (float)((double)max + log(sum));
}

/* The 5 largest of a stream of values, falling. */
typedef struct {
    float v[SELECT_TOP];
} top_t;

static void top_clear(top_t *t) {
    for (int i = 0; i < SELECT_TOP; i++) t->v[i] = 0;
}
static void top_add(top_t *t, float x) {
    for (int i = 0; i < SELECT_TOP; i++)
        if (x > t->v[i]) {
            float y = t->v[i];
            t->v[i] = x;
            x = y;
        }
}
static float top_sum(const top_t *t) {
    float sum = 0;
    for (int i = 0; i < SELECT_TOP; i++) sum += t->v[i];
    return sum;
}

/* Marks the k largest of score[0..n): each time the first largest that is not yet taken. */
static void mark_best(const float *score, int64_t n, int64_t k, float *taken) {
    for (int64_t g = 0; g < n; g++) taken[g] = 0;
    for (int64_t i = 0; i < k && i < n; i++) {
        int64_t best = -1;
        for (int64_t g = 0; g < n; g++)
            if (taken[g] == 0 && (best < 0 || score[g] > score[best])) best = g;
        taken[best] = 1;
    }
}

void select_pieces(aggregate_t agg, int64_t k, int64_t n_piece, int64_t n_row, int n_head, int64_t row0, int64_t n, const float *score,
                   const float *log_total, uint8_t *keep, float *scratch) {
    bool over_heads = agg == AGG_HEAD || agg == AGG_BOTH, over_rows = agg == AGG_TOKEN || agg == AGG_BOTH;
    int64_t row_step = over_rows ? n : 1, plane = n_row * n_head;
    int head_step = over_heads ? n_head : 1;
    float *sum = scratch, *taken = scratch + n_piece;
    for (int64_t t0 = row0; t0 < row0 + n; t0 += row_step)
        for (int h0 = 0; h0 < n_head; h0 += head_step) {
            for (int64_t g = 0; g < n_piece; g++) {
                top_t top;
                top_clear(&top);
                for (int64_t t = t0; t < t0 + row_step; t++)
                    for (int h = h0; h < h0 + head_step; h++) {
                        int64_t at = t * n_head + h;
                        top_add(&top, expf(score[g * plane + at] - log_total[at]));
                    }
                /* one value per choice: compare logarithms, which do not underflow */
                sum[g] = agg == AGG_NONE ? score[g * plane + t0 * n_head + h0] : top_sum(&top);
            }
            mark_best(sum, n_piece, k, taken);
            for (int64_t g = 0; g < n_piece; g++)
                for (int64_t t = t0; t < t0 + row_step; t++)
                    for (int h = h0; h < h0 + head_step; h++) keep[g * plane + t * n_head + h] = taken[g] != 0;
        }
}
