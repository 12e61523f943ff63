/* Inputs of rows that have no token: gists and sink rows without text. */
#include <string.h>

#include "base/mem.h"
#include "encode/encoder_impl.h"
#include "model/adapter.h"
#include "model/embedding.h"

enum { STRETCHES = 16 }; /* of a pass's gists, by threads; each has an embedding of its own to work with */

status_t inputs_setup(encoder_t *e) {
    size_t rows = (size_t)e->spec.max_row, d = (size_t)e->config->d_model;
    status_t st = mem_alloc(&e->mean, d, sizeof *e->mean, "the mean embedding");
    if (!st) st = mem_alloc(&e->unit, STRETCHES * d, sizeof *e->unit, "embeddings");
    if (!st) st = mem_alloc(&e->input, rows * d, sizeof *e->input, "gist inputs");
    if (!st) st = mem_alloc(&e->given, rows, sizeof *e->given, "gist inputs");
    if (!st) st = mem_alloc(&e->gists, rows, sizeof *e->gists, "gist rows");
    bool mean = e->spec.gist_init == GIST_MEAN || (e->spec.gist_init != GIST_TOKEN && e->spec.n_blank);
    return st || !mean ? st : model_mean_embedding(e->model, e->mean);
}

static void give(encoder_t *e, int64_t row, int64_t n) {
    e->given[e->n_given++] = (given_t){.row = row, .n = n, .input = e->input + row * e->config->d_model};
}

static void give_mean(encoder_t *e, int64_t row, int64_t n) {
    e->given[e->n_given++] = (given_t){.row = row, .n = n, .input = e->mean, .alike = true};
}

status_t inputs_blank(encoder_t *e, int64_t row, int64_t at, int64_t n) {
    const adapter_t *ad = model_adapter(e->model);
    int64_t d = e->config->d_model;
    bool own = adapter_n_sink(ad) > 0, token = !own && e->spec.gist_init == GIST_TOKEN;
    if (own && at + n > adapter_n_sink(ad))
        return status_fail(ST_INPUT, "%s: has %lld sink rows, but %lld are wanted; use --sinks %lld", adapter_path(ad),
                           (long long)adapter_n_sink(ad), (long long)e->spec.n_blank, (long long)adapter_n_sink(ad));
    for (int64_t i = 0; i < n; i++) {
        e->tokens[row + i] = token ? e->spec.gist_token : 0;
        if (own) memcpy(e->input + (row + i) * d, adapter_sink(ad, at + i), (size_t)d * sizeof(float));
    }
    if (n && own) give(e, row, n);
    if (n && !own && !token) give_mean(e, row, n);
    return ST_OK;
}

static status_t unit_mean(const encoder_t *e, const int32_t *tokens, int64_t r, float *embedding, float *to) {
    int64_t d = e->config->d_model;
    memset(to, 0, (size_t)d * sizeof *to);
    for (int64_t i = 0; i < r; i++) {
        status_t st = model_embedding(e->model, tokens[i], embedding);
        if (st) return st;
        for (int64_t c = 0; c < d; c++) to[c] += embedding[c] / (float)r;
    }
    return ST_OK;
}

/* The input of gist g of the piece where each has its own; embedding: [d_model] work space. */
static status_t gist_input(const encoder_t *e, const piece_t *p, int64_t g, float *embedding, float *to) {
    int64_t d = e->config->d_model, r = e->spec.gist.single ? p->n : e->spec.gist.ratio;
    const adapter_t *ad = e->spec.gist_init == GIST_ADAPTER ? model_adapter(e->model) : NULL;
    const float *vector = ad ? adapter_gist(ad, g % adapter_n_gist(ad)) : NULL;
    memset(to, 0, (size_t)d * sizeof *to);
    status_t st = !ad || adapter_adds_unit(ad) ? unit_mean(e, p->tokens + g * r, r, embedding, to) : ST_OK;
    for (int64_t c = 0; vector && c < d; c++) to[c] += vector[c];
    return st;
}

status_t inputs_gist(encoder_t *e, const piece_t *p, int64_t row, int64_t from, int64_t n) {
    int64_t d = e->config->d_model;
    status_first_t failed = {0};
    for (int64_t i = 0; i < n; i++) e->tokens[row + i] = e->spec.gist_init == GIST_TOKEN ? e->spec.gist_token : 0;
    if (e->spec.gist_init == GIST_TOKEN) return ST_OK; /* its token is its input */
    if (e->spec.gist_init == GIST_MEAN) {
        give_mean(e, row, n);
        return ST_OK;
    }
#pragma omp parallel for schedule(static) if (n > STRETCHES) /* of the first pass a device waits for them */
    for (int64_t s = 0; s < STRETCHES; s++) {
        status_t st = ST_OK;
        for (int64_t g = n * s / STRETCHES; g < n * (s + 1) / STRETCHES && !st; g++)
            st = gist_input(e, p, from + g, e->unit + s * d, e->input + (row + g) * d);
        status_first(&failed, st);
    }
    give(e, row, n);
    return status_first_tell(&failed);
}
