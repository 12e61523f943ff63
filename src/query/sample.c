/* Greedy and nucleus sampling. Sums run in a fixed order, so a seed gives the same text everywhere. */
#include <math.h>

#include "query/generate.h"

static int32_t argmax(const float *x, int64_t n) {
    int64_t best = 0;
    for (int64_t i = 1; i < n; i++)
        if (x[i] > x[best]) best = i;
    return (int32_t)best;
}

/* Max-heap of token ids by probability, ties to the smaller id: only as many are taken out as top_p needs. */
static bool before(const float *prob, int32_t a, int32_t b) { return prob[a] > prob[b] || (prob[a] == prob[b] && a < b); }

static void sift(const float *prob, int32_t *heap, int64_t n, int64_t i) {
    for (;;) {
        int64_t c = 2 * i + 1;
        if (c >= n) return;
        if (c + 1 < n && before(prob, heap[c + 1], heap[c])) c++;
        if (!before(prob, heap[c], heap[i])) return;
        int32_t t = heap[i];
        heap[i] = heap[c];
        heap[c] = t;
        i = c;
    }
}

bool token_ends(const int32_t *ends, int n_end, int32_t id) {
    for (int i = 0; i < n_end; i++)
        if (ends[i] == id) return true;
    return false;
}

int32_t sample_token(const float *logits, int64_t n, double temperature, double top_p, rng_t *rng, float *prob, int32_t *order) {
    int32_t best = argmax(logits, n);
    if (temperature <= 0) return best;
    double total = 0, taken = 0, draw = rng_uniform(rng);
    for (int64_t i = 0; i < n; i++) {
        prob[i] = (float)exp(((double)logits[i] - (double)logits[best]) / temperature);
        total += (double)prob[i];
        order[i] = (int32_t)i;
    }
    for (int64_t i = n / 2 - 1; i >= 0; i--) sift(prob, order, n, i);
    /* the nucleus, kept behind the shrinking heap: largest last */
    int64_t left = n;
    while (left > 0 && (taken < top_p * total || left == n)) {
        int32_t t = order[0];
        order[0] = order[--left];
        order[left] = t;
        taken += (double)prob[t];
        sift(prob, order, left, 0);
    }
    double target = draw * taken, sum = 0;
    for (int64_t i = n - 1; i >= left; i--) {
        sum += (double)prob[order[i]];
        if (sum > target) return order[i];
    }
    return order[left];
}
