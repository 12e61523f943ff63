/* A model of the fixtures (or any other), loaded on a backend, with one K/V pool: rows are fed in order, each seeing itself and those
 * before. */
#ifndef TESTS_GOLDEN_TINY_H
#define TESTS_GOLDEN_TINY_H

#include <math.h>
#include <stdlib.h>

#include "base/mem.h"
#include "golden/backends.h"
#include "io/safetensors.h"
#include "layout/layout.h"
#include "model/model.h"

typedef struct {
    model_file_t *file;
    backend_t *be;
    comm_t *own; /* NULL: the caller's is used */
    model_t *model;
    forward_ws_t *ws;
    kv_pool_t pool;
    int64_t n_row; /* in the pool */
} tiny_t;

/* comm NULL: one rank of its own. rope_length 0: as the model comes. */
static inline status_t tiny_open_length(tiny_t *t, comm_t *comm, const char *path, backend_create_t create, dtype_t act, int n_threads,
                                        int64_t max_row, int64_t rope_length) {
    status_t st;
    *t = (tiny_t){0};
    if (!comm && (st = comm_self_create(&t->own))) return st;
    if ((st = model_file_open(path, &t->file)) || (rope_length && (st = model_file_rope_length(t->file, rope_length))) ||
        (st = create(act, n_threads, &t->be)) || (st = model_load(t->file, t->be, comm ? comm : t->own, &t->model)) ||
        (st = forward_ws_create(t->model, max_row, &t->ws)))
        return st;
    const model_config_t *c = model_config(t->model);
    int64_t row = c->d_head, head = row * max_row, layer = head * c->n_kv_head;
    size_t bytes = (size_t)(layer * c->n_layer) * dtype_bytes(act);
    t->pool = (kv_pool_t){.type = act, .n_row = max_row, .row_stride = row, .head_stride = head, .layer_stride = layer};
    if ((st = t->be->ops->alloc(t->be, bytes, "keys", &t->pool.k)) || (st = t->be->ops->alloc(t->be, bytes, "values", &t->pool.v)))
        return st;
    st = memory_poison(t->be, t->pool.k, bytes); /* rows that are not there yet must not be looked at */
    return st ? st : memory_poison(t->be, t->pool.v, bytes);
}

static inline status_t tiny_open_on(tiny_t *t, comm_t *comm, const char *path, backend_create_t create, dtype_t act, int n_threads,
                                    int64_t max_row) {
    return tiny_open_length(t, comm, path, create, act, n_threads, max_row, 0);
}

static inline status_t tiny_open(tiny_t *t, const char *path, backend_create_t create, dtype_t act, int n_threads, int64_t max_row) {
    return tiny_open_on(t, NULL, path, create, act, n_threads, max_row);
}

static inline void tiny_close(tiny_t *t) {
    if (t->be) {
        t->be->ops->free(t->be, t->pool.k);
        t->be->ops->free(t->be, t->pool.v);
    }
    forward_ws_free(t->ws);
    model_free(t->model);
    if (t->own) t->own->ops->close(t->own);
    if (t->be) t->be->ops->destroy(t->be);
    model_file_close(t->file);
}

/* Largest difference over the largest |value| between rows first .. first+n-1 of a golden tensor and got [n][stride]; INFINITY when there
 * are none such, and for a NaN. */
static inline double tiny_error(const tensor_t *want, int64_t first, int64_t n, const float *got, int64_t stride) {
    double worst = 0, largest = 0;
    if (!want || n < 1 || first < 0 || first + n > want->dims[0] || want->dims[1] > stride) return (double)INFINITY;
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < want->dims[1]; j++) {
            float w;
            memcpy(&w, want->data + 4 * ((first + i) * want->dims[1] + j), 4);
            double d = fabs((double)w - (double)got[i * stride + j]);
            if (!(d <= worst)) worst = d; /* takes NaN, too */
            if (fabs((double)w) > largest) largest = fabs((double)w);
        }
    return worst <= INFINITY && largest > 0 ? worst / largest : (double)INFINITY;
}

/* The next n rows; logits[n][n_vocab] of all of them, or NULL. */
static inline status_t tiny_feed(tiny_t *t, const int32_t *tokens, int64_t n, float *logits) {
    double *positions = malloc((size_t)(n ? n : 1) * sizeof *positions);
    int64_t *rows = malloc((size_t)(n ? n : 1) * sizeof *rows);
    for (int64_t i = 0; i < n; i++) {
        positions[i] = (double)(t->n_row + i);
        rows[i] = i;
    }
    run_t run = {.n = n, .index = t->n_row, .pool = 0, .span = 0, .n_span = 1};
    span_t span = span_causal(0, 0, t->n_row + n, model_config(t->model)->window);
    batch_t b = {.n_row = n,
                 .tokens = tokens,
                 .positions = positions,
                 .n_pool = 1,
                 .n_run = 1,
                 .n_span = 1,
                 .pools = &t->pool,
                 .runs = &run,
                 .spans = &span,
                 .n_out = logits ? n : 0,
                 .out_rows = rows,
                 .logits = logits};
    status_t st = forward(t->model, t->ws, &b);
    t->n_row += n;
    free(positions);
    free(rows);
    return st;
}

/* Logits by rows, as sequence_logits and ppl_run give them: tiny_rows_take puts each into its place and counts it. */
enum { TINY_ROWS = 1536 };
typedef struct {
    float *to;              /* [room][width] */
    int64_t room, width, n; /* n rows came */
    int seen[TINY_ROWS];
} tiny_rows_t;

static inline status_t tiny_rows_take(void *ctx, int64_t at, int64_t n, const float *logits) {
    tiny_rows_t *r = ctx;
    if (at < 0 || at + n > r->room || at + n > TINY_ROWS)
        return status_fail(ST_FAIL, "row %lld of %lld", (long long)(at + n), (long long)r->room);
    for (int64_t i = 0; i < n; i++) r->seen[at + i]++;
    memcpy(r->to + at * r->width, logits, (size_t)(n * r->width) * sizeof *logits);
    r->n += n;
    return ST_OK;
}

/* Rows 0 .. n-1 came, `times` each. */
static inline bool tiny_rows_came(const tiny_rows_t *r, int64_t n, int times) {
    for (int64_t i = 0; i < n; i++)
        if (r->seen[i] != times) return false;
    return r->n == n * times;
}

/* The model again, changed by an adapter; rows of work space as many as wanted. */
static inline status_t tiny_adapt(tiny_t *t, const adapter_t *a, int64_t max_row) {
    forward_ws_free(t->ws);
    model_free(t->model);
    t->ws = NULL;
    t->model = NULL;
    status_t st = model_load_adapted(t->file, a, t->be, t->own, &t->model);
    return st ? st : forward_ws_create(t->model, max_row, &t->ws);
}

#endif
