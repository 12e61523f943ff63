#include "encode/expect.h"

#include <math.h>
#include <string.h>

#include "base/mem.h"

struct expect {
    const model_config_t *config;
    int64_t count;  /* rows added to the first layer, as to all others in the end */
    double *sum;    /* [n_layer][n_head][d_head] */
    double *square; /* [n_layer][n_head][d_head][d_head] sums of products, lower triangles */
};

static size_t cells(const model_config_t *c) { return (size_t)(c->n_layer * c->n_head * c->d_head); }

size_t expect_bytes(const model_config_t *c) { return cells(c) * ((size_t)c->d_head + 1) * sizeof(double); }

status_t expect_create(const model_config_t *c, expect_t **out) {
    expect_t *e = NULL;
    status_t st = mem_zalloc(&e, 1, sizeof *e, "queries to come");
    *out = NULL;
    if (st) return st;
    e->config = c;
    st = mem_alloc(&e->sum, cells(c), sizeof *e->sum, "queries to come");
    if (!st) st = mem_alloc(&e->square, cells(c) * (size_t)c->d_head, sizeof *e->square, "queries to come");
    if (st)
        expect_free(e);
    else
        *out = e;
    return st;
}

void expect_free(expect_t *e) {
    if (!e) return;
    mem_free(e->sum);
    mem_free(e->square);
    mem_free(e);
}

void expect_begin(expect_t *e) {
    e->count = 0;
    memset(e->sum, 0, cells(e->config) * sizeof *e->sum);
    memset(e->square, 0, cells(e->config) * (size_t)e->config->d_head * sizeof *e->square);
}

/* A head's row turned back: out = R(-angle) x. Elements behind d_rot stay. */
static void turn_back(const model_config_t *c, const float *x, const float *cos_sin, float *out) {
    int64_t half = c->d_rot / 2;
    memcpy(out, x, (size_t)c->d_head * sizeof *out);
    for (int64_t j = 0; j < half; j++) {
        float cos = cos_sin[j], sin = cos_sin[half + j];
        out[j] = x[j] * cos + x[j + half] * sin;
        out[j + half] = x[j + half] * cos - x[j] * sin;
    }
}

void expect_add(expect_t *e, int64_t layer, int64_t n, const float *q, const float *cos_sin) {
    const model_config_t *c = e->config;
    int64_t d = c->d_head;
    if (layer == 0) e->count += n;
#pragma omp parallel for schedule(static)
    for (int64_t h = 0; h < c->n_head; h++) {
        double *sum = e->sum + (layer * c->n_head + h) * d, *square = e->square + (layer * c->n_head + h) * d * d;
        float x[MAX_HEAD_DIM];
        for (int64_t i = 0; i < n; i++) {
            turn_back(c, q + (i * c->n_head + h) * d, cos_sin + i * c->d_rot, x);
            for (int64_t a = 0; a < d; a++) {
                sum[a] += (double)x[a];
                for (int64_t b = 0; b <= a; b++) square[a * d + b] += (double)x[a] * (double)x[b];
            }
        }
    }
}

/* The mean rotation of the positions to come: as if of one position, but cosines and sines are means. */
static void mean_turn(const model_config_t *c, const float *turns, float *out) {
    for (int64_t j = 0; j < c->d_rot; j++) {
        double sum = 0;
        for (int i = 0; i < EXPECT_POSITIONS; i++) sum += (double)turns[i * c->d_rot + j];
        out[j] = (float)(sum / EXPECT_POSITIONS);
    }
}

/* Logits that query head h is expected to give: y.mu / sqrt(d) + y' Sigma y / 2d; y [n][d] are keys turned back. */
static void head_logits(const expect_t *e, int64_t at, int64_t n, const float *y, double *logit) {
    int64_t d = e->config->d_head;
    const double *sum = e->sum + at * d, *square = e->square + at * d * d;
    double inv = 1 / (double)(e->count > 0 ? e->count : 1);
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < n; i++) {
        double mean = 0, spread = 0;
        for (int64_t a = 0; a < d; a++) {
            double row = 0, x = (double)y[i * d + a];
            for (int64_t b = 0; b < a; b++) row += square[a * d + b] * (double)y[i * d + b];
            spread += x * (2 * row + square[a * d + a] * x);
            mean += x * sum[a];
        }
        mean *= inv;
        logit[i] = mean / sqrt((double)d) + (spread * inv - mean * mean) / (2 * (double)d);
    }
}

/* Adds softmax(logit) / group to score. */
static void softmax_add(const double *logit, int64_t n, int64_t group, float *score) {
    double max = logit[0], sum = 0;
    for (int64_t i = 1; i < n; i++) max = fmax(max, logit[i]);
    for (int64_t i = 0; i < n; i++) sum += exp(logit[i] - max);
    for (int64_t i = 0; i < n; i++) score[i] += (float)(exp(logit[i] - max) / sum / (double)group);
}

status_t expect_score(expect_t *e, int64_t layer, int64_t head, int64_t n, const float *keys, const float *lengths, const float *turns,
                      float *score) {
    const model_config_t *c = e->config;
    int64_t d = c->d_head, group = c->n_head / c->n_kv_head;
    float turn[MAX_HEAD_DIM], *y = NULL;
    double *logit = NULL;
    status_t st = mem_alloc(&y, (size_t)(n * d), sizeof *y, "keys turned back");
    if (!st) st = mem_alloc(&logit, (size_t)n, sizeof *logit, "expected logits");
    if (st || !n) goto out;
    mean_turn(c, turns, turn);
    for (int64_t i = 0; i < n; i++) turn_back(c, keys + i * d, turn, y + i * d);
    memset(score, 0, (size_t)n * sizeof *score);
    for (int64_t h = head * group; h < (head + 1) * group; h++) {
        head_logits(e, layer * c->n_head + h, n, y, logit);
        softmax_add(logit, n, group, score);
    }
    for (int64_t i = 0; i < n; i++) score[i] *= lengths[i];
out:
    mem_free(y);
    mem_free(logit);
    return st;
}
