/* Cases of the linear layers and of the operations on rows. */
#ifndef TESTS_OPS_ROWS_H
#define TESTS_OPS_ROWS_H

#include "ops/ops_frame.h"

/* Weights packed by a backend, and the layer opened on them. */
typedef struct {
    void *packed;
    linear_t *l;
} ops_linear_t;

static inline ops_linear_t ops_linear_make(backend_t *be, linear_shape_t s, dtype_t w_type, const void *w, int64_t slab) {
    ops_linear_t p;
    OPS_OK(be->ops->alloc(be, be->ops->linear_bytes(be, s), "a weight", &p.packed));
    for (int64_t r = 0; r < s.n_out; r += slab) {
        int64_t n = i64_min(slab, s.n_out - r);
        const char *rows = (const char *)w + (size_t)(r * s.n_in) * dtype_bytes(w_type);
        OPS_OK(be->ops->linear_pack(be, s, p.packed, r, n, w_type, rows));
    }
    OPS_OK(be->ops->linear_open(be, s, p.packed, &p.l));
    return p;
}

static inline void ops_linear_drop(backend_t *be, ops_linear_t p) {
    be->ops->linear_close(be, p.l);
    be->ops->free(be, p.packed);
}

/* y of one product; y0 is what y holds before. Host memory in and out. */
static inline float *ops_linear_run(backend_t *be, ops_linear_t p, linear_shape_t s, int64_t n_row, const void *x, const float *y0,
                                    bool add) {
    size_t y_bytes = (size_t)(n_row * s.n_out) * 4;
    void *dx = ops_in(be, x, (size_t)(n_row * s.n_in) * dtype_bytes(be->act)), *dy = ops_out(be, y_bytes);
    if (add) OPS_OK(be->ops->copy_in(be, dy, y0, y_bytes));
    OPS_OK(be->ops->linear(be, p.l, n_row, dx, dy, add));
    be->ops->free(be, dx);
    return ops_fetch(be, dy, y_bytes);
}

static inline void ops_linear(ops_t *o, linear_shape_t s, int64_t n_row, dtype_t w_type, int64_t slab, bool add) {
    dtype_t act = o->be->act;
    void *w = ops_random(&o->rng, w_type, (size_t)(s.n_out * s.n_in), 0.1f);
    void *x = ops_random(&o->rng, act, (size_t)(n_row * s.n_in), 1.0f);
    float *y0 = ops_random(&o->rng, DT_F32, (size_t)(n_row * s.n_out), 1.0f);
    ops_linear_t pb = ops_linear_make(o->be, s, w_type, w, slab), pr = ops_linear_make(o->ref, s, w_type, w, s.n_out);
    float *got = ops_linear_run(o->be, pb, s, n_row, x, y0, add), *want = ops_linear_run(o->ref, pr, s, n_row, x, y0, add);
    /* a sum of n products of size 0.1: rounding grows like the square root of n, and n bounds it */
    double tol = 0x1p-23 * (0.3 * (double)s.n_in + 4);
    char what[96];
    snprintf(what, sizeof what, "linear %lldx%lldx%lld w %s%s", (long long)n_row, (long long)s.n_out, (long long)s.n_in, dtype_name(w_type),
             add ? " add" : "");
    ops_close(o, what, DT_F32, got, want, (size_t)(n_row * s.n_out), &tol, false);
    ops_linear_drop(o->be, pb);
    ops_linear_drop(o->ref, pr);
    free(w), free(x), free(y0), free(got), free(want);
}

static inline void ops_linears(ops_t *o) {
    static const linear_shape_t shapes[] = {{320, 192, false}, {192, 576, false}, {64, 64, false},   {1, 16, false},
                                            {33, 48, false},   {100, 7, false},   {130, 258, false}, {64, 1024, false}};
    static const int64_t rows[] = {1, 2, 3, 13, 64, 97};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (size_t r = 0; r < sizeof rows / sizeof *rows; r++)
            ops_linear(o, shapes[i], rows[r], (i + r) % 2 ? DT_F32 : DT_BF16, r % 2 ? 64 : shapes[i].n_out, r % 3 == 1);
}

static inline void ops_rmsnorm(ops_t *o, int64_t n, int64_t d) {
    float *x = ops_random(&o->rng, DT_F32, (size_t)(n * d), 3.0f), *w = ops_random(&o->rng, DT_F32, (size_t)d, 1.0f);
    size_t bytes = (size_t)(n * d) * dtype_bytes(o->be->act);
    void *y[2];
    for (int k = 0; k < 2; k++) {
        backend_t *be = k ? o->ref : o->be;
        void *dx = ops_in(be, x, (size_t)(n * d) * 4), *dw = ops_in(be, w, (size_t)d * 4), *dy = ops_out(be, bytes);
        OPS_OK(be->ops->rmsnorm(be, n, d, dx, dw, 1e-5f, dy));
        y[k] = ops_fetch(be, dy, bytes);
        be->ops->free(be, dx), be->ops->free(be, dw);
    }
    double tol = 0x1p-20;
    ops_close(o, "rmsnorm", o->be->act, y[0], y[1], (size_t)(n * d), &tol, false);
    free(x), free(w), free(y[0]), free(y[1]);
}

static inline void ops_silu_mul(ops_t *o, int64_t n, int64_t d, float scale) {
    float *gu = ops_random(&o->rng, DT_F32, (size_t)(n * 2 * d), scale);
    size_t bytes = (size_t)(n * d) * dtype_bytes(o->be->act);
    void *y[2];
    for (int k = 0; k < 2; k++) {
        backend_t *be = k ? o->ref : o->be;
        void *dg = ops_in(be, gu, (size_t)(n * 2 * d) * 4), *dy = ops_out(be, bytes);
        OPS_OK(be->ops->silu_mul(be, n, d, dg, dy));
        y[k] = ops_fetch(be, dy, bytes);
        be->ops->free(be, dg);
    }
    double tol = 0x1p-22 * scale * scale;
    ops_close(o, "silu_mul", o->be->act, y[0], y[1], (size_t)(n * d), &tol, false);
    free(gu), free(y[0]), free(y[1]);
}

static inline void ops_embed(ops_t *o, int64_t n, int64_t d, dtype_t type) {
    enum { VOCAB = 37 };
    void *table = ops_random(&o->rng, type, (size_t)(VOCAB * d), 1.0f);
    int32_t *tokens = ops_host((size_t)n * 4);
    for (int64_t i = 0; i < n; i++) tokens[i] = (int32_t)rng_below(&o->rng, VOCAB);
    float *x[2];
    for (int k = 0; k < 2; k++) {
        backend_t *be = k ? o->ref : o->be;
        void *dt = ops_in(be, table, (size_t)(VOCAB * d) * dtype_bytes(type)), *dx = ops_out(be, (size_t)(n * d) * 4);
        OPS_OK(be->ops->embed(be, n, d, tokens, type, dt, dx));
        x[k] = ops_fetch(be, dx, (size_t)(n * d) * 4);
        be->ops->free(be, dt);
    }
    ops_same("embed", x[0], x[1], (size_t)(n * d) * 4);
    free(table), free(tokens), free(x[0]), free(x[1]);
}

static inline void ops_gather(ops_t *o, int64_t n, int64_t d) {
    float *src = ops_random(&o->rng, DT_F32, (size_t)(50 * d), 1.0f);
    int64_t *idx = ops_host((size_t)n * 8);
    for (int64_t i = 0; i < n; i++) idx[i] = rng_below(&o->rng, 50);
    void *ds = ops_in(o->be, src, (size_t)(50 * d) * 4), *dd = ops_out(o->be, (size_t)(n * d) * 4);
    OPS_OK(o->be->ops->gather_rows(o->be, n, d, idx, ds, dd));
    float *got = ops_fetch(o->be, dd, (size_t)(n * d) * 4);
    for (int64_t i = 0; i < n; i++) ops_same("gather_rows", got + i * d, src + idx[i] * d, (size_t)d * 4);
    o->be->ops->free(o->be, ds);
    free(src), free(idx), free(got);
}

static inline void ops_convert(ops_t *o, size_t n, dtype_t to, dtype_t from) {
    void *src = ops_random(&o->rng, from, n, 2.0f), *want = ops_host(n * dtype_bytes(to));
    dtype_convert(to, want, from, src, n);
    void *ds = ops_in(o->be, src, n * dtype_bytes(from)), *dd = ops_out(o->be, n * dtype_bytes(to));
    OPS_OK(o->be->ops->convert(o->be, n, to, dd, from, ds));
    void *got = ops_fetch(o->be, dd, n * dtype_bytes(to));
    ops_same("convert", got, want, n * dtype_bytes(to));
    o->be->ops->free(o->be, ds);
    free(src), free(want), free(got);
}

/* n stretches of so many bytes; nothing else is touched. */
static inline void ops_copy_rows(ops_t *o, size_t bytes, size_t from, size_t to, int64_t n) {
    size_t here = (size_t)n * from, there = (size_t)n * to;
    unsigned char *src = ops_host(here), *want = ops_host(there);
    for (size_t i = 0; i < here; i++) src[i] = (unsigned char)rng_below(&o->rng, 256);
    memset(want, OPS_POISON, there);
    for (size_t i = 0; i < (size_t)n; i++) memcpy(want + i * to, src + i * from, bytes);
    void *ds = ops_in(o->be, src, here), *dd = ops_out(o->be, there);
    OPS_OK(o->be->ops->copy_rows(o->be, dd, to, ds, from, bytes, n));
    void *got = ops_fetch(o->be, dd, there);
    ops_same("copy_rows", got, want, there);
    o->be->ops->free(o->be, ds);
    free(src), free(want), free(got);
}

static inline void ops_rows(ops_t *o) {
    static const int64_t rows[] = {1, 5, 40}, dims[] = {64, 576, 1000, 33, 7};
    for (size_t r = 0; r < 3; r++)
        for (size_t i = 0; i < 5; i++) {
            ops_rmsnorm(o, rows[r], dims[i]);
            ops_silu_mul(o, rows[r], dims[i], r == 2 ? 50.0f : 2.0f);
            ops_embed(o, rows[r], dims[i], i % 2 ? DT_BF16 : DT_F32);
            ops_gather(o, rows[r], dims[i]);
        }
    ops_copy_rows(o, 96, 160, 256, 37), ops_copy_rows(o, 200, 200, 512, 3), ops_copy_rows(o, 7, 9, 7, 5), ops_copy_rows(o, 64, 64, 64, 1);
    for (size_t n = 0; n < 70; n += 23) {
        ops_convert(o, n, DT_BF16, DT_F32), ops_convert(o, n, DT_F32, DT_BF16), ops_convert(o, n, DT_F16, DT_F32);
        ops_convert(o, n, DT_F32, DT_F32);
    }
    ops_convert(o, 100003, DT_BF16, DT_F32);
}

/* ---- qkv: heads finished and put into two pools with padded strides, some rows dropped ------------------------------ */
typedef struct {
    int n_head, n_kv_head, d_head, d_rot;
    bool bias, norm;
    dtype_t kv_type;
} qkv_case_t;

static inline void ops_qkv_one(backend_t *be, const qkv_case_t *c, int64_t n_row, const float *qkv, const float *bias, const float *qn,
                               const float *kn, const float *cs, void *out[3], const size_t bytes[3], int64_t kv_rows) {
    int d = c->d_head, heads = c->n_head + 2 * c->n_kv_head;
    int64_t row_stride = d + 8, head_stride = row_stride * kv_rows + 16, layer_stride = head_stride * c->n_kv_head + 32;
    kv_pool_t pools[2];
    void *dk = ops_out(be, bytes[1]), *dv = ops_out(be, bytes[2]), *dq = ops_out(be, bytes[0]);
    size_t half = (size_t)(2 * layer_stride) * dtype_bytes(c->kv_type);
    for (int p = 0; p < 2; p++)
        pools[p] = (kv_pool_t){(char *)dk + p * half, (char *)dv + p * half, c->kv_type, kv_rows, row_stride, head_stride, layer_stride, 0};
    run_t runs[3] = {{0, n_row / 3, 2, 0, 0, 0}, {n_row / 3, 1, 0, -1, 0, 0}, {n_row / 3 + 1, n_row - n_row / 3 - 1, 0, 1, 0, 0}};
    void *dx = ops_in(be, qkv, (size_t)(n_row * heads * d) * 4), *db = ops_in(be, bias, (size_t)(heads * d) * 4),
         *dqn = ops_in(be, qn, (size_t)d * 4), *dkn = ops_in(be, kn, (size_t)d * 4), *dcs = ops_in(be, cs, (size_t)(n_row * c->d_rot) * 4);
    qkv_args_t a = {.layer = 1,
                    .n_row = n_row,
                    .n_head = c->n_head,
                    .n_kv_head = c->n_kv_head,
                    .d_head = d,
                    .d_rot = c->d_rot,
                    .qkv = dx,
                    .bias = c->bias ? db : NULL,
                    .q_norm = c->norm ? dqn : NULL,
                    .k_norm = c->norm ? dkn : NULL,
                    .norm_eps = 1e-6f,
                    .cos_sin = dcs,
                    .q = dq,
                    .n_pool = 2,
                    .n_run = 3,
                    .pools = pools,
                    .runs = runs};
    OPS_OK(be->ops->qkv(be, &a));
    void *in[] = {dx, db, dqn, dkn, dcs};
    for (int i = 0; i < 5; i++) be->ops->free(be, in[i]);
    out[0] = ops_fetch(be, dq, bytes[0]), out[1] = ops_fetch(be, dk, bytes[1]), out[2] = ops_fetch(be, dv, bytes[2]);
}

/* Compares what either side wrote; untouched elements are poison (NaN) on both. */
static inline void ops_close_poisoned(ops_t *o, const char *what, dtype_t t, void *got, void *want, size_t n, double tol) {
    size_t mixed = 0;
    for (size_t i = 0; i < n; i++)
        if (isnan(ops_load(t, got, i)) || isnan(ops_load(t, want, i))) {
            mixed += memcmp((char *)got + i * dtype_bytes(t), (char *)want + i * dtype_bytes(t), dtype_bytes(t)) != 0;
            memset((char *)got + i * dtype_bytes(t), 0, dtype_bytes(t));
            memset((char *)want + i * dtype_bytes(t), 0, dtype_bytes(t));
        }
    CU_ASSERT_EQUAL(mixed, 0);
    ops_close(o, what, t, got, want, n, &tol, false);
}

static inline void ops_qkv(ops_t *o, const qkv_case_t *c, int64_t n_row) {
    int d = c->d_head, heads = c->n_head + 2 * c->n_kv_head;
    int64_t kv_rows = n_row + 2;
    size_t kv_n = (size_t)(4 * (((d + 8) * kv_rows + 16) * c->n_kv_head + 32));
    size_t bytes[3] = {(size_t)(n_row * c->n_head * d) * dtype_bytes(o->be->act), kv_n * dtype_bytes(c->kv_type),
                       kv_n * dtype_bytes(c->kv_type)};
    float *x = ops_random(&o->rng, DT_F32, (size_t)(n_row * heads * d), 1.0f),
          *bias = ops_random(&o->rng, DT_F32, (size_t)(heads * d), 1.0f), *qn = ops_random(&o->rng, DT_F32, (size_t)d, 1.0f),
          *kn = ops_random(&o->rng, DT_F32, (size_t)d, 1.0f), *cs = ops_random(&o->rng, DT_F32, (size_t)(n_row * c->d_rot), 1.0f);
    for (int64_t t = 0; t < n_row; t++)
        for (int j = 0; j < c->d_rot / 2; j++) {
            double angle = (double)t * pow(100.0, -2.0 * j / c->d_rot);
            cs[t * c->d_rot + j] = (float)cos(angle), cs[t * c->d_rot + c->d_rot / 2 + j] = (float)sin(angle);
        }
    void *got[3], *want[3];
    ops_qkv_one(o->be, c, n_row, x, bias, qn, kn, cs, got, bytes, kv_rows);
    ops_qkv_one(o->ref, c, n_row, x, bias, qn, kn, cs, want, bytes, kv_rows);
    static const char *const what[3] = {"qkv: q", "qkv: k", "qkv: v"};
    for (int i = 0; i < 3; i++) {
        dtype_t t = i ? c->kv_type : o->be->act;
        ops_close_poisoned(o, what[i], t, got[i], want[i], bytes[i] / dtype_bytes(t), 0x1p-19 + (t == DT_BF16 ? 0x1p-12 : 0));
        free(got[i]), free(want[i]);
    }
    free(x), free(bias), free(qn), free(kn), free(cs);
}

static inline void ops_qkvs(ops_t *o) {
    static const qkv_case_t cases[] = {{9, 3, 64, 64, false, false, DT_F32},
                                       {4, 4, 80, 32, true, false, DT_F32},
                                       {8, 1, 128, 128, false, true, DT_F32},
                                       {2, 2, 10, 6, true, true, DT_F32},
                                       {14, 2, 96, 96, true, false, DT_BF16}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        qkv_case_t c = cases[i];
        if (o->be->act == DT_BF16) c.kv_type = DT_BF16;
        ops_qkv(o, &c, 7);
        ops_qkv(o, &c, 50);
    }
}

#endif
