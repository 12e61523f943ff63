/* Products with the next step folded in (linear_glu, linear_qkv), and products of many rows: against the oracle, and a row alone against
 * the same row among many, bit by bit. */
#ifndef TESTS_OPS_FUSED_H
#define TESTS_OPS_FUSED_H

#include "ops/ops_rows.h"

static inline void *ops_glu_run(backend_t *be, linear_shape_t s, const void *w, int64_t slab, int64_t n, const void *x) {
    size_t y_bytes = (size_t)(n * s.n_out / 2) * dtype_bytes(be->act);
    ops_linear_t p = ops_linear_make(be, s, DT_F32, w, slab);
    void *dx = ops_in(be, x, (size_t)(n * s.n_in) * dtype_bytes(be->act)), *wide = ops_out(be, (size_t)(n * s.n_out) * 4),
         *dy = ops_out(be, y_bytes);
    OPS_OK(be->ops->linear_glu(be, p.l, n, dx, wide, dy));
    free(ops_fetch(be, wide, (size_t)(n * s.n_out) * 4));
    be->ops->free(be, dx);
    ops_linear_drop(be, p);
    return ops_fetch(be, dy, y_bytes);
}

static inline void ops_glu(ops_t *o, int64_t n_out, int64_t n_in, int64_t n, bool alone) {
    linear_shape_t s = {n_out, n_in, true};
    dtype_t act = o->be->act;
    size_t row = (size_t)n_in * dtype_bytes(act), y_row = (size_t)(n_out / 2) * dtype_bytes(act);
    float *w = ops_random(&o->rng, DT_F32, (size_t)(n_out * n_in), 0.1f);
    void *x = ops_random(&o->rng, act, (size_t)(n * n_in), 1.0f);
    char *got = ops_glu_run(o->be, s, w, 64, n, x), *want = ops_glu_run(o->ref, s, w, n_out, n, x);
    double tol = 0x1p-23 * (2.4 * (double)n_in + 64); /* gate and up are both off, and multiply */
    ops_close(o, "linear_glu", act, got, want, (size_t)(n * n_out / 2), &tol, false);
    for (int64_t r = 0; alone && r < n; r += n - 1) {
        char *one = ops_glu_run(o->be, s, w, n_out, 1, (char *)x + (size_t)r * row);
        ops_same("linear_glu of a row alone", one, got + (size_t)r * y_row, y_row);
        free(one);
    }
    free(w), free(x), free(got), free(want);
}

typedef struct {
    qkv_case_t c;
    int64_t n_in, n_row;
    float *w, *bias, *norm, *cs;
} ops_project_t;

/* Rows first .. first+n-1 of x; they keep their angles. out: q, K pool, V pool (one layer, one pool, all rows kept but every seventh). */
static inline void ops_project_run(backend_t *be, const ops_project_t *p, int64_t first, int64_t n, const char *x, void *out[3],
                                   size_t bytes[3]) {
    const qkv_case_t *c = &p->c;
    int64_t heads = c->n_head + 2 * c->n_kv_head, d = c->d_head, stride = d + 8;
    linear_shape_t s = {heads * d, p->n_in, false};
    ops_linear_t l = ops_linear_make(be, s, DT_F32, p->w, s.n_out);
    dtype_t act = be->act;
    bytes[0] = (size_t)(n * c->n_head * d) * dtype_bytes(act);
    bytes[1] = bytes[2] = (size_t)(c->n_kv_head * n * stride) * dtype_bytes(act);
    void *dq = ops_out(be, bytes[0]), *dk = ops_out(be, bytes[1]), *dv = ops_out(be, bytes[2]),
         *wide = ops_out(be, (size_t)(n * s.n_out) * 4);
    void *dx = ops_in(be, x + (size_t)(first * p->n_in) * dtype_bytes(act), (size_t)(n * p->n_in) * dtype_bytes(act)),
         *db = ops_in(be, p->bias, (size_t)s.n_out * 4), *dn = ops_in(be, p->norm, (size_t)d * 4),
         *dc = ops_in(be, p->cs + first * c->d_rot, (size_t)(n * c->d_rot) * 4);
    kv_pool_t pool = {dk, dv, act, n, stride, stride * n, 0, 0};
    run_t runs[3] = {{0, n / 3, 0, 0, 0, 0}, {n / 3, n / 7, 0, -1, 0, 0}, {n / 3 + n / 7, n - n / 3 - n / 7, n / 3 + n / 7, 0, 0, 0}};
    qkv_args_t a = {.n_row = n,
                    .n_head = c->n_head,
                    .n_kv_head = c->n_kv_head,
                    .d_head = (int)d,
                    .d_rot = c->d_rot,
                    .bias = c->bias ? db : NULL,
                    .q_norm = c->norm ? dn : NULL,
                    .k_norm = c->norm ? dn : NULL,
                    .norm_eps = 1e-6f,
                    .cos_sin = dc,
                    .q = dq,
                    .n_pool = 1,
                    .n_run = 3,
                    .pools = &pool,
                    .runs = runs};
    OPS_OK(be->ops->linear_qkv(be, l.l, dx, wide, &a));
    free(ops_fetch(be, wide, (size_t)(n * s.n_out) * 4));
    void *in[] = {dx, db, dn, dc};
    for (int i = 0; i < 4; i++) be->ops->free(be, in[i]);
    void *from[3] = {dq, dk, dv};
    for (int i = 0; i < 3; i++) out[i] = ops_fetch(be, from[i], bytes[i]);
    ops_linear_drop(be, l);
}

static inline void ops_project(ops_t *o, qkv_case_t c, int64_t n_in, int64_t n) {
    int64_t heads = c.n_head + 2 * c.n_kv_head, d = c.d_head;
    dtype_t act = o->be->act;
    size_t size = dtype_bytes(act), bytes[3];
    ops_project_t p = {c,
                       n_in,
                       n,
                       ops_random(&o->rng, DT_F32, (size_t)(heads * d * n_in), 0.1f),
                       ops_random(&o->rng, DT_F32, (size_t)(heads * d), 1.0f),
                       ops_random(&o->rng, DT_F32, (size_t)d, 1.0f),
                       ops_random(&o->rng, DT_F32, (size_t)(n * c.d_rot), 1.0f)};
    void *x = ops_random(&o->rng, act, (size_t)(n * n_in), 1.0f), *got[3], *want[3], *one[3];
    ops_project_run(o->be, &p, 0, n, x, got, bytes);
    ops_project_run(o->ref, &p, 0, n, x, want, bytes);
    char *copy[3]; /* the comparison clears what is poisoned */
    for (int i = 0; i < 3; i++) memcpy(copy[i] = ops_host(bytes[i]), got[i], bytes[i]);
    for (int i = 0; i < 3; i++)
        ops_close_poisoned(o, "linear_qkv", act, got[i], want[i], bytes[i] / size, 0x1p-23 * (0.6 * (double)n_in + 64) * (c.norm ? 8 : 1));
    for (int64_t r = 0; r < n && n > 1; r += n - 1) {
        ops_project_run(o->be, &p, r, 1, x, one, bytes);
        ops_same("linear_qkv of a row alone: q", one[0], copy[0] + (size_t)(r * c.n_head * d) * size, (size_t)(c.n_head * d) * size);
        for (int i = 1; i < 3; i++)
            for (int h = 0; h < c.n_kv_head; h++)
                ops_same("linear_qkv of a row alone: K/V", (char *)one[i] + (size_t)(h * (d + 8)) * size,
                         copy[i] + (size_t)((h * n + r) * (d + 8)) * size, (size_t)d * size);
        for (int i = 0; i < 3; i++) free(one[i]);
    }
    for (int i = 0; i < 3; i++) free(got[i]), free(want[i]), free(copy[i]);
    free(p.w), free(p.bias), free(p.norm), free(p.cs), free(x);
}

static inline void ops_fused(ops_t *o) {
    static const int64_t rows[] = {1, 13, 70};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        ops_glu(o, 384, 192, rows[i], false);
        ops_glu(o, 40, 48, rows[i], false);
        ops_glu(o, 132, 64, rows[i], false); /* halves of 66 rows: no whole groups of 8 */
        ops_project(o, (qkv_case_t){9, 3, 64, 64, false, false, DT_F32}, 96, rows[i]);
        ops_project(o, (qkv_case_t){4, 2, 128, 128, true, false, DT_F32}, 64, rows[i]);
        ops_project(o, (qkv_case_t){4, 2, 64, 32, true, true, DT_F32}, 64, rows[i]);
    }
}

/* Enough rows for the kernels that fold. Long and short sums take different ones. */
static inline void ops_fused_many(ops_t *o) {
    ops_glu(o, 768, 576, 700, true);
    ops_glu(o, 272, 2112, 600, true);
    ops_project(o, (qkv_case_t){9, 3, 64, 64, true, false, DT_F32}, 576, 650);
    ops_project(o, (qkv_case_t){4, 2, 128, 128, true, false, DT_F32}, 192, 600);
    ops_project(o, (qkv_case_t){2, 1, 64, 64, false, false, DT_F32}, 2112, 600);
    ops_project(o, (qkv_case_t){2, 1, 128, 128, false, true, DT_F32}, 64, 600); /* with norms: two kernels */
    ops_linear(o, (linear_shape_t){576, 192, false}, 700, DT_F32, 64, true);
    ops_linear(o, (linear_shape_t){264, 2112, false}, 600, DT_F32, 264, false);
    ops_linear(o, (linear_shape_t){264, 2112, false}, 600, DT_F32, 264, true);
}

/* A row among many against the row alone, and in another batch. */
static inline void ops_many_bits(ops_t *o) {
    static const linear_shape_t shapes[] = {{960, 576, false}, {576, 1536, false}, {512, 4096, false}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        linear_shape_t s = shapes[i];
        int64_t n = 1100;
        float *w = ops_random(&o->rng, DT_F32, (size_t)(s.n_out * s.n_in), 0.1f),
              *y0 = ops_random(&o->rng, DT_F32, (size_t)(n * s.n_out), 1.0f);
        void *x = ops_random(&o->rng, o->be->act, (size_t)(n * s.n_in), 1.0f);
        ops_linear_t p = ops_linear_make(o->be, s, DT_F32, w, s.n_out);
        for (int add = 0; add < 2; add++) {
            float *want = ops_linear_run(o->be, p, s, n, x, y0, add);
            static const int64_t part[][2] = {{0, 1}, {1099, 1}, {130, 3}, {400, 17}, {3, 64}, {511, 200}, {77, 512}, {1, 1099}};
            for (size_t r = 0; r < sizeof part / sizeof *part; r++) {
                int64_t first = part[r][0];
                const char *from = (const char *)x + (size_t)(first * s.n_in) * dtype_bytes(o->be->act);
                float *got = ops_linear_run(o->be, p, s, part[r][1], from, y0 + first * s.n_out, add);
                ops_same("linear in another batch of many", got, want + first * s.n_out, (size_t)(part[r][1] * s.n_out) * 4);
                free(got);
            }
            free(want);
        }
        ops_linear_drop(o->be, p);
        free(w), free(x), free(y0);
    }
}

#endif
