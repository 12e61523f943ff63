/* Determinism: a row's bits do not depend on its company, on the number of threads, or on what it cannot see. And identities of attention
 * and merge. */
#ifndef TESTS_OPS_BITS_H
#define TESTS_OPS_BITS_H

#include "ops/ops_attn.h"
#include "ops/ops_rows.h"

/* Makes a backend like o->be with another number of threads. */
typedef backend_t *(*ops_remake_t)(const ops_t *o, int n_threads);

/* ---- linear: rows alike for every M and thread count -------------------------------------------------------------------- */
static inline void ops_linear_bits(ops_t *o, ops_remake_t remake) {
    static const linear_shape_t shapes[] = {{960, 576, false}, {576, 1536, false}, {33, 48, false}, {130, 258, false}, {128, 2048, false}};
    static const int64_t rows[] = {1, 2, 3, 17, 64, 300, 512};
    static const int threads[] = {1, 2, 16};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        linear_shape_t s = shapes[i];
        float *w = ops_random(&o->rng, DT_F32, (size_t)(s.n_out * s.n_in), 0.1f),
              *y0 = ops_random(&o->rng, DT_F32, (size_t)(512 * s.n_out), 1.0f);
        void *x = ops_random(&o->rng, o->be->act, (size_t)(512 * s.n_in), 1.0f);
        ops_linear_t p = ops_linear_make(o->be, s, DT_F32, w, s.n_out);
        float *want[2] = {ops_linear_run(o->be, p, s, 512, x, y0, false), ops_linear_run(o->be, p, s, 512, x, y0, true)};
        ops_linear_drop(o->be, p);
        for (size_t t = 0; t < sizeof threads / sizeof *threads; t++) {
            backend_t *be = remake(o, threads[t]);
            ops_linear_t q = ops_linear_make(be, s, DT_F32, w, 64);
            for (size_t r = 0; r < sizeof rows / sizeof *rows; r++)
                for (int add = 0; add < 2; add++) {
                    int64_t first = rows[r] < 512 ? rows[r] : 0; /* rows from the middle of the batch */
                    if (first + rows[r] > 512) first = 512 - rows[r];
                    const char *from = (const char *)x + (size_t)(first * s.n_in) * dtype_bytes(be->act);
                    float *got = ops_linear_run(be, q, s, rows[r], from, y0 + first * s.n_out, add);
                    ops_same("linear in another batch", got, want[add] + first * s.n_out, (size_t)(rows[r] * s.n_out) * 4);
                    free(got);
                }
            ops_linear_drop(be, q);
            be->ops->destroy(be);
        }
        free(w), free(x), free(y0), free(want[0]), free(want[1]);
    }
}

/* ---- attention -------------------------------------------------------------------------------------------------------------- */

/* Row `row` of every block of `a` against row `other` of `b`. */
static inline void attn_same_row(const char *what, const attn_case_t *c, const attn_out_t *a, int64_t row, const attn_case_t *d,
                                 const attn_out_t *b, int64_t other) {
    size_t o_bytes = (size_t)(c->n_head * c->d_head) * dtype_bytes(c->o_type), h = (size_t)c->n_head;
    for (int k = 0; k < c->n_block && k < d->n_block; k++) {
        size_t i = (size_t)(k * c->n_row + row), j = (size_t)(k * d->n_row + other);
        ops_same(what, (char *)a->o + i * o_bytes, (char *)b->o + j * o_bytes, o_bytes);
        ops_same(what, a->lse + i * h, b->lse + j * h, h * 4);
        ops_same(what, a->m + i * h, b->m + j * h, h * 4);
        ops_same(what, a->top + i * h * ATTN_TOP, b->top + j * h * ATTN_TOP, h * ATTN_TOP * 4);
    }
}

/* The same rows in runs of at most `most`. Only for a case of one run. */
static inline attn_case_t attn_cut(const attn_case_t *c, int64_t most) {
    attn_case_t d = *c;
    d.n_run = 0;
    for (int64_t at = 0; at < c->n_row && d.n_run < OPS_RUNS; at += most, d.n_run++) {
        d.runs[d.n_run] = c->runs[0];
        d.runs[d.n_run].row = at;
        d.runs[d.n_run].index = c->runs[0].index + at;
        d.runs[d.n_run].n = i64_min(most, c->n_row - at);
    }
    return d;
}

/* Row `row` of a case of one run, alone in a call. */
static inline attn_case_t attn_alone(const ops_t *o, const attn_case_t *c, int64_t row) {
    attn_case_t d = *c;
    d.q = (char *)c->q + (size_t)(row * c->n_head * c->d_head) * dtype_bytes(o->be->act);
    d.n_row = 1;
    d.runs[0].n = 1;
    d.runs[0].index = c->runs[0].index + row;
    return d;
}

static inline void attn_bits(ops_t *o, attn_case_t *c, ops_remake_t remake) {
    attn_fill(o, c);
    attn_out_t whole = attn_run(o->be, c);
    static const int threads[] = {1, 3};
    for (size_t t = 0; t < sizeof threads / sizeof *threads; t++) {
        backend_t *be = remake(o, threads[t]);
        attn_out_t got = attn_run(be, c);
        for (int64_t i = 0; i < c->n_row; i++) attn_same_row("attention on other threads", c, &whole, i, c, &got, i);
        for (int64_t i = 0; i < c->n_row; i += 1 + c->n_row / 7) {
            attn_case_t one = attn_alone(o, c, i);
            attn_out_t alone = attn_run(be, &one);
            attn_same_row("attention, a row alone", c, &whole, i, &one, &alone, 0);
            attn_out_drop(&alone);
        }
        attn_out_drop(&got);
        be->ops->destroy(be);
    }
    for (int64_t most = c->n_row / (OPS_RUNS - 1) + 1; most < c->n_row; most += 37) {
        attn_case_t cut = attn_cut(c, most);
        attn_out_t got = attn_run(o->be, &cut);
        for (int64_t i = 0; i < c->n_row; i++) attn_same_row("attention in shorter runs", c, &whole, i, &cut, &got, i);
        attn_out_drop(&got);
    }
    attn_out_drop(&whole);
}

/* One V row (then K row) turns to NaN or infinity: rows that do not see it keep their bits, rows that do see a NaN show it. */
static inline void attn_nan(ops_t *o, attn_case_t *c, int pool, int64_t bad) {
    attn_fill(o, c);
    attn_out_t clean = attn_run(o->be, c);
    for (int side = 0; side < 2; side++)
        for (int inf = 0; inf < 2; inf++) {
            attn_case_t d = *c;
            size_t bytes = c->kv_n[pool] * dtype_bytes(c->kv_type[pool]);
            void *hurt = ops_host(bytes);
            memcpy(hurt, side ? c->k[pool] : c->v[pool], bytes);
            for (int h = 0; h < c->n_kv_head; h++)
                ops_store(c->kv_type[pool], hurt, (size_t)attn_at(&c->pools[pool], h, bad, c->d_head / 2), inf ? INFINITY : NAN);
            if (side)
                d.k[pool] = hurt;
            else
                d.v[pool] = hurt;
            attn_out_t got = attn_run(o->be, &d);
            for (int r = 0; r < c->n_run; r++)
                for (int64_t i = 0; i < c->runs[r].n; i++) {
                    bool sees = false;
                    for (int s = c->runs[r].span; s < c->runs[r].span + c->runs[r].n_span; s++)
                        sees |= c->spans[s].pool == pool && bad >= span_lo(&c->spans[s], c->runs[r].index + i) &&
                                bad < span_hi(&c->spans[s], c->runs[r].index + i);
                    int64_t row = c->runs[r].row + i;
                    if (!sees)
                        attn_same_row("attention beside NaN", c, &clean, row, &d, &got, row);
                    else if (!inf) {
                        float shown = ops_load(c->o_type, got.o, (size_t)(row * c->n_head * c->d_head + c->d_head / 2));
                        CU_ASSERT(isnan(shown));
                    }
                }
            attn_out_drop(&got);
            free(hurt);
        }
    attn_out_drop(&clean);
    attn_drop(c);
}

/* Pools whose strides suit every kernel. `near_rows`: how far from a row that sees NaN one must stand to be safe from it; 1 where only
 * seeing it counts. */
static inline void ops_attention_near_nan(ops_t *o, int64_t near_rows) {
    enum { ROWS = 600, BAD = 300 };
    for (int i = 0; i < 4; i++) {
        attn_case_t c = attn_new(i < 2 ? 6 : 4, 2, i < 2 ? 64 : 128, i % 2 ? DT_F32 : o->be->act);
        attn_add_even_pool(&c, ROWS, o->be->act, 0);
        attn_add_run(&c, ROWS, 0, 0);
        attn_add_span(&c, 0, 0, 0, ROWS, edge_const(0), ops_causal);
        attn_fill(o, &c);
        attn_out_t clean = attn_run(o->be, &c);
        for (int h = 0; h < c.n_kv_head; h++) ops_store(c.kv_type[0], c.v[0], (size_t)attn_at(&c.pools[0], h, BAD, c.d_head / 2), NAN);
        attn_out_t got = attn_run(o->be, &c);
        for (int64_t r = 0; r < ROWS; r++) {
            if (r <= BAD - near_rows) attn_same_row("attention near NaN", &c, &clean, r, &c, &got, r);
            if (r < BAD) continue;
            for (int h = 0; h < c.n_head; h++)
                CU_ASSERT(isnan(ops_load(c.o_type, got.o, (size_t)((r * c.n_head + h) * c.d_head + c.d_head / 2))));
        }
        attn_out_drop(&clean);
        attn_out_drop(&got);
        attn_drop(&c);
    }
}

static inline void ops_attention_bits(ops_t *o, ops_remake_t remake) {
    dtype_t kv = o->be->act;
    static const struct { int n_head, n_kv_head, d_head; } dims[] = {{9, 3, 64}, {2, 2, 80}, {4, 1, 128}};
    for (size_t i = 0; i < sizeof dims / sizeof *dims; i++) {
        attn_case_t c = attn_new(dims[i].n_head, dims[i].n_kv_head, dims[i].d_head, i % 2 ? DT_F32 : o->be->act);
        attn_causal(&c, kv, 14, 0, 150, 0);
        attn_bits(o, &c, remake);
        attn_drop(&c);
        c = attn_new(dims[i].n_head, dims[i].n_kv_head, dims[i].d_head, DT_F32);
        attn_causal(&c, kv, 3, 2000, 70, 1100);
        attn_bits(o, &c, remake);
        attn_drop(&c);
        c = attn_new(dims[i].n_head, dims[i].n_kv_head, dims[i].d_head, DT_F32);
        attn_query(&c, kv, 40, 3);
        attn_bits(o, &c, remake);
        attn_drop(&c);
        static const int64_t bad[] = {0, 29, 63, 64, 99};
        for (size_t b = 0; b < sizeof bad / sizeof *bad; b++) {
            c = attn_new(dims[i].n_head, dims[i].n_kv_head, dims[i].d_head, DT_F32);
            attn_causal(&c, kv, 14, 0, 100, 40);
            attn_nan(o, &c, 1, bad[b]);
            c = attn_new(dims[i].n_head, dims[i].n_kv_head, dims[i].d_head, o->be->act);
            attn_unigist(&c, kv, 5, 128, 4, 6);
            attn_nan(o, &c, 1, bad[b]);
        }
    }
}

/* A run's bits when other runs are in the call. */
static inline void ops_attention_company(ops_t *o) {
    attn_case_t c = attn_new(6, 2, 64, DT_F32);
    attn_causal(&c, o->be->act, 7, 0, 45, 0);
    attn_causal(&c, o->be->act, 0, 1500, 1, 0);
    attn_causal(&c, o->be->act, 0, 10, 90, 20);
    attn_fill(o, &c);
    attn_out_t all = attn_run(o->be, &c);
    for (int r = 0; r < c.n_run; r++) {
        attn_case_t d = c;
        d.runs[0] = c.runs[r];
        d.n_run = 1;
        attn_out_t one = attn_run(o->be, &d);
        for (int64_t i = 0; i < c.runs[r].n; i++)
            attn_same_row("attention in company", &c, &all, c.runs[r].row + i, &d, &one, c.runs[r].row + i);
        attn_out_drop(&one);
    }
    attn_out_drop(&all);
    attn_drop(&c);
}

/* ---- merge ------------------------------------------------------------------------------------------------------------------- */

typedef struct {
    void *o;
    float *lse, *m;
} merge_out_t;

static inline merge_out_t merge_run(backend_t *be, int64_t n_row, int n_head, int d, int n_block, const attn_out_t *in, const uint8_t *keep,
                                    dtype_t type) {
    size_t th = (size_t)(n_row * n_head), n = th * (size_t)n_block;
    merge_args_t a = {.n_row = n_row, .n_head = n_head, .d_head = d, .n_block = n_block, .o_out_type = type};
    void *o = ops_in(be, in->o, n * (size_t)d * 4), *lse = ops_in(be, in->lse, n * 4), *m = ops_in(be, in->m, n * 4),
         *k = keep ? ops_in(be, keep, n) : NULL;
    a.o = o, a.lse = lse, a.m = m, a.keep = k;
    a.o_out = ops_out(be, th * (size_t)d * dtype_bytes(type)), a.lse_out = ops_out(be, th * 4), a.m_out = ops_out(be, th * 4);
    OPS_OK(be->ops->merge(be, &a));
    void *in_[] = {o, lse, m, k};
    for (int i = 0; i < 4; i++) be->ops->free(be, in_[i]);
    return (merge_out_t){ops_fetch(be, a.o_out, th * (size_t)d * dtype_bytes(type)), ops_fetch(be, a.lse_out, th * 4),
                         ops_fetch(be, a.m_out, th * 4)};
}

/* Blocks merged = everything in one block; entropy between 0 and ln(visible); merge against the oracle with blocks left out. */
static inline void ops_merge(ops_t *o) {
    attn_case_t c = attn_new(6, 2, 48, DT_F32);
    attn_query(&c, o->be->act, 11, 9);
    attn_fill(o, &c);
    attn_out_t parts = attn_run(o->be, &c);
    attn_case_t d = c;
    for (int s = 0; s < d.n_span; s++) d.spans[s].block = 0;
    d.n_block = 1;
    attn_out_t whole = attn_run(o->be, &d);
    merge_out_t got = merge_run(o->be, c.n_row, c.n_head, c.d_head, c.n_block, &parts, NULL, DT_F32);
    double tol = 5 * (o->be->act == DT_BF16 ? 0x1p-8 : 0x1p-18), fine = 0x1p-17;
    ops_close(o, "merged o", DT_F32, got.o, whole.o, whole.o_n, &tol, false);
    ops_close(o, "merged lse", DT_F32, got.lse, whole.lse, whole.n, &fine, false);
    ops_close(o, "merged m", DT_F32, got.m, whole.m, whole.n, &fine, false);
    for (int64_t i = 0; i < c.n_row; i++)
        for (int h = 0; h < c.n_head; h++) {
            double entropy = got.lse[i * c.n_head + h] - got.m[i * c.n_head + h], most = log(14 + 9 + 100 + 1500 + 1 + (double)i);
            CU_ASSERT(entropy > -1e-5 && entropy < most + 1e-5);
        }
    size_t n = (size_t)(c.n_block * c.n_row * c.n_head), th = (size_t)(c.n_row * c.n_head);
    uint8_t *keep = ops_host(n);
    for (size_t i = 0; i < n; i++) keep[i] = (uint8_t)(rng_below(&o->rng, 3) > 0 && i % th > 1); /* nothing is kept for two heads */
    for (int t = 0; t < 2; t++) {
        dtype_t type = t ? o->be->act : DT_F32;
        merge_out_t a = merge_run(o->be, c.n_row, c.n_head, c.d_head, c.n_block, &parts, keep, type);
        merge_out_t b = merge_run(o->ref, c.n_row, c.n_head, c.d_head, c.n_block, &parts, keep, type);
        double exact = 0x1p-19;
        ops_close(o, "merge: o", type, a.o, b.o, whole.o_n, &exact, false);
        ops_close(o, "merge: lse", DT_F32, a.lse, b.lse, th, &exact, false);
        ops_close(o, "merge: m", DT_F32, a.m, b.m, th, &exact, false);
        free(a.o), free(a.lse), free(a.m), free(b.o), free(b.lse), free(b.m);
    }
    free(keep), free(got.o), free(got.lse), free(got.m);
    attn_out_drop(&parts), attn_out_drop(&whole);
    attn_drop(&c);
}

#endif
