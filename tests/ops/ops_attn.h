/* Cases of attention over spans. Keys that no row sees are NaN in every case. */
#ifndef TESTS_OPS_ATTN_H
#define TESTS_OPS_ATTN_H

#include "ops/ops_frame.h"

enum { OPS_POOLS = 8, OPS_RUNS = 8, OPS_SPANS = 32, OPS_LAYERS = 2, OPS_LAYER = 1 };

/* A call in host memory. */
typedef struct {
    int n_head, n_kv_head, d_head, n_pool, n_run, n_span, n_block;
    int64_t n_row;
    float scale;
    dtype_t kv_type[OPS_POOLS], o_type;
    void *q, *k[OPS_POOLS], *v[OPS_POOLS];
    size_t kv_n[OPS_POOLS]; /* elements of a pool's side */
    kv_pool_t pools[OPS_POOLS];
    run_t runs[OPS_RUNS];
    span_t spans[OPS_SPANS];
    bool stats;
} attn_case_t;

typedef struct {
    void *o;
    float *lse, *m, *top;
    size_t o_n, n; /* elements of o; of lse */
} attn_out_t;

static inline void attn_drop(attn_case_t *c) {
    free(c->q);
    for (int p = 0; p < c->n_pool; p++) free(c->k[p]), free(c->v[p]);
}
static inline void attn_out_drop(attn_out_t *r) { free(r->o), free(r->lse), free(r->m), free(r->top); }

/* Pool strides: padded, heads inside rows or rows inside heads by turns. */
static inline void attn_add_pool(attn_case_t *c, int64_t rows, dtype_t type) {
    kv_pool_t *p = &c->pools[c->n_pool];
    c->kv_type[c->n_pool] = p->type = type;
    p->n_row = rows;
    if (c->n_pool % 2) {
        p->row_stride = c->d_head * c->n_kv_head + 8, p->head_stride = c->d_head;
        p->layer_stride = p->row_stride * rows + 24;
    } else {
        p->row_stride = c->d_head + 4, p->head_stride = p->row_stride * rows + 12;
        p->layer_stride = p->head_stride * c->n_kv_head + 4;
    }
    c->kv_n[c->n_pool++] = (size_t)(p->layer_stride * OPS_LAYERS);
}

static inline run_t *attn_add_run(attn_case_t *c, int64_t n, int64_t index, int32_t pool) {
    c->runs[c->n_run] = (run_t){c->n_row, n, index, pool, c->n_span, 0};
    c->n_row += n;
    return &c->runs[c->n_run++];
}

static inline void attn_add_span(attn_case_t *c, int pool, int block, int64_t begin, int64_t end, edge_t lo, edge_t hi) {
    c->spans[c->n_span++] = (span_t){pool, block, begin, end, lo, hi};
    c->runs[c->n_run - 1].n_span++;
    if (block >= c->n_block) c->n_block = block + 1;
}

static inline int64_t attn_at(const kv_pool_t *p, int head, int64_t row, int i) {
    return OPS_LAYER * p->layer_stride + head * p->head_stride + row * p->row_stride + i;
}

/* Random q, K and V where some row looks, NaN elsewhere. */
static inline void attn_fill(ops_t *o, attn_case_t *c) {
    c->q = ops_random(&o->rng, o->be->act, (size_t)(c->n_row * c->n_head * c->d_head), 1.0f);
    for (int p = 0; p < c->n_pool; p++) {
        size_t bytes = c->kv_n[p] * dtype_bytes(c->kv_type[p]);
        void *rk = ops_random(&o->rng, c->kv_type[p], c->kv_n[p], 2.0f), *rv = ops_random(&o->rng, c->kv_type[p], c->kv_n[p], 1.0f);
        c->k[p] = ops_host(bytes), c->v[p] = ops_host(bytes);
        memset(c->k[p], OPS_POISON, bytes), memset(c->v[p], OPS_POISON, bytes);
        const kv_pool_t *pool = &c->pools[p];
        for (int64_t row = 0; row < pool->n_row; row++) {
            bool seen = false;
            for (int r = 0; r < c->n_run; r++)
                for (int s = c->runs[r].span; s < c->runs[r].span + c->runs[r].n_span; s++)
                    for (int64_t i = 0; i < c->runs[r].n && !seen; i++)
                        seen = c->spans[s].pool == p && row >= span_lo(&c->spans[s], c->runs[r].index + i) &&
                               row < span_hi(&c->spans[s], c->runs[r].index + i);
            size_t row_bytes = (size_t)c->d_head * dtype_bytes(c->kv_type[p]);
            for (int h = 0; seen && h < c->n_kv_head; h++) {
                size_t at = (size_t)attn_at(pool, h, row, 0) * dtype_bytes(c->kv_type[p]);
                memcpy((char *)c->k[p] + at, (char *)rk + at, row_bytes);
                memcpy((char *)c->v[p] + at, (char *)rv + at, row_bytes);
            }
        }
        free(rk), free(rv);
    }
}

static inline attn_out_t attn_run(backend_t *be, const attn_case_t *c) {
    attn_out_t r = {.n = (size_t)(c->n_block * c->n_row * c->n_head)};
    r.o_n = r.n * (size_t)c->d_head;
    kv_pool_t pools[OPS_POOLS];
    for (int p = 0; p < c->n_pool; p++) {
        size_t bytes = c->kv_n[p] * dtype_bytes(c->kv_type[p]);
        pools[p] = c->pools[p];
        pools[p].k = ops_in(be, c->k[p], bytes), pools[p].v = ops_in(be, c->v[p], bytes);
    }
    attn_args_t a = {.layer = OPS_LAYER,
                     .n_head = c->n_head,
                     .n_kv_head = c->n_kv_head,
                     .d_head = c->d_head,
                     .scale = c->scale,
                     .n_row = c->n_row,
                     .n_pool = c->n_pool,
                     .n_run = c->n_run,
                     .n_span = c->n_span,
                     .n_block = c->n_block,
                     .pools = pools,
                     .runs = c->runs,
                     .spans = c->spans,
                     .o_type = c->o_type};
    void *q = ops_in(be, c->q, (size_t)(c->n_row * c->n_head * c->d_head) * dtype_bytes(be->act));
    a.q = q;
    a.o = ops_out(be, r.o_n * dtype_bytes(c->o_type));
    if (c->stats) a.lse = ops_out(be, r.n * 4), a.m = ops_out(be, r.n * 4), a.top = ops_out(be, r.n * 4 * ATTN_TOP);
    OPS_OK(be->ops->attention(be, &a));
    r.o = ops_fetch(be, a.o, r.o_n * dtype_bytes(c->o_type));
    if (c->stats)
        r.lse = ops_fetch(be, a.lse, r.n * 4), r.m = ops_fetch(be, a.m, r.n * 4), r.top = ops_fetch(be, a.top, r.n * 4 * ATTN_TOP);
    be->ops->free(be, q);
    for (int p = 0; p < c->n_pool; p++) be->ops->free(be, pools[p].k), be->ops->free(be, pools[p].v);
    return r;
}

/* The largest |q| |k| scale: what a logit's error is measured by. */
static inline double attn_logit_bound(const attn_case_t *c, dtype_t act) {
    double q = 0, k = 0;
    for (int64_t i = 0; i < c->n_row * c->n_head; i++) {
        double s = 0;
        for (int e = 0; e < c->d_head; e++) s += pow(ops_load(act, c->q, (size_t)(i * c->d_head + e)), 2);
        q = s > q ? s : q;
    }
    for (int p = 0; p < c->n_pool; p++)
        for (int64_t row = 0; row < c->pools[p].n_row; row++)
            for (int h = 0; h < c->n_kv_head; h++) {
                double s = 0;
                for (int e = 0; e < c->d_head; e++) s += pow(ops_load(c->kv_type[p], c->k[p], (size_t)attn_at(&c->pools[p], h, row, e)), 2);
                k = s > k ? s : k; /* false for NaN */
            }
    return sqrt(q * k) * c->scale;
}

static inline void attn_check(ops_t *o, const char *name, attn_case_t *c) {
    attn_out_t got = attn_run(o->be, c), want = attn_run(o->ref, c);
    double bound = attn_logit_bound(c, o->be->act), dl = 0x1p-21 * (1 + bound), vmax = 5;
    double tol_o = vmax * (2 * dl + (o->be->act == DT_BF16 ? 0x1p-8 : 0x1p-20)), tol_lse = 2 * dl, tol_m = 2 * dl * (2 + bound);
    char what[96];
    snprintf(what, sizeof what, "attention %s %d/%d x %d: o", name, c->n_head, c->n_kv_head, c->d_head);
    ops_close(o, what, c->o_type, got.o, want.o, got.o_n, &tol_o, false);
    if (c->stats) {
        strcpy(strrchr(what, ':'), ": lse");
        ops_close(o, what, DT_F32, got.lse, want.lse, got.n, &tol_lse, false);
        strcpy(strrchr(what, ':'), ": m");
        ops_close(o, what, DT_F32, got.m, want.m, got.n, &tol_m, false);
        strcpy(strrchr(what, ':'), ": top");
        ops_close(o, what, DT_F32, got.top, want.top, got.n * ATTN_TOP, &dl, false);
    }
    attn_out_drop(&got), attn_out_drop(&want);
}

/* ---- builders: each adds pools, runs and spans ----------------------------------------------------------------------- */

static const edge_t ops_causal = {1, 1, 0, 1};

static inline attn_case_t attn_new(int n_head, int n_kv_head, int d_head, dtype_t o_type) {
    return (attn_case_t){
        .n_head = n_head, .n_kv_head = n_kv_head, .d_head = d_head, .scale = (float)(1 / sqrt(d_head)), .o_type = o_type, .stats = true};
}
/* A sink, then rows first .. first+n of a sequence, each seeing the sink and (within `window` when > 0) the rows up to itself. */
static inline void attn_causal(attn_case_t *c, dtype_t kv, int64_t sink, int64_t first, int64_t n, int64_t window) {
    int at = c->n_pool;
    if (sink) attn_add_pool(c, sink + 3, kv);
    attn_add_pool(c, first + n + 5, kv);
    attn_add_run(c, n, first, at + (sink > 0));
    if (sink) attn_add_span(c, at, 0, 0, sink, edge_const(0), edge_const(sink));
    attn_add_span(c, at + (sink > 0), 0, 0, first + n, window ? edge_step(1, 1, 0, 1 - window) : edge_const(0), ops_causal);
}
/* UniGist over n raw rows: a run of raw rows and a run of gists; pools sink, raw, gist. */
static inline void attn_unigist(attn_case_t *c, dtype_t kv, int64_t sink, int64_t n, int64_t r, int64_t k) {
    attn_add_pool(c, sink, kv), attn_add_pool(c, n, kv), attn_add_pool(c, n / r, kv);
    attn_add_run(c, n, 0, 1);
    attn_add_span(c, 0, 0, 0, sink, edge_const(0), edge_const(sink));
    attn_add_span(c, 1, 0, 0, n, edge_step(r, r, 0, -k * r), ops_causal);
    attn_add_span(c, 2, 0, 0, n / r, edge_const(0), edge_step(r, 1, 0, 0));
    attn_add_run(c, n / r, 0, 2);
    attn_add_span(c, 0, 0, 0, sink, edge_const(0), edge_const(sink));
    attn_add_span(c, 1, 0, 0, n, edge_step(1, r, -k, 0), edge_step(1, r, 1, 0));
    attn_add_span(c, 2, 0, 0, n / r, edge_const(0), ops_causal);
}
/* A query over segments: block 0 = sink and own rows, then one block per segment, one of them empty, one not named. */
static inline void attn_query(attn_case_t *c, dtype_t kv, int64_t n, int64_t first) {
    static const int64_t seg[3] = {100, 0, 1500};
    attn_add_pool(c, 14, kv), attn_add_pool(c, first + n, kv);
    for (int s = 0; s < 3; s++) attn_add_pool(c, seg[s] + 1, kv);
    attn_add_run(c, n, first, 1);
    attn_add_span(c, 0, 0, 0, 14, edge_const(0), edge_const(14));
    attn_add_span(c, 1, 0, 0, first + n, edge_const(0), ops_causal);
    for (int s = 0; s < 3; s++) attn_add_span(c, 2 + s, 1 + s + (s > 1), 0, seg[s], edge_const(0), edge_const(seg[s]));
    c->n_block++; /* a last block that nothing names */
}

static inline void ops_attention(ops_t *o) {
    static const struct {
        int n_head, n_kv_head, d_head;
    } dims[] = {{9, 3, 64}, {4, 4, 80}, {8, 1, 128}, {2, 1, 256}, {6, 2, 96}, {3, 3, 10}, {200, 1, 16}};
    dtype_t act = o->be->act;
    for (size_t i = 0; i < sizeof dims / sizeof *dims; i++) {
        dtype_t o_type = i % 2 ? DT_F32 : act, kv = act == DT_BF16 || i % 3 == 1 ? DT_BF16 : DT_F32;
#define OPS_ATTN(name, build)                                                                                                              \
    do {                                                                                                                                   \
        attn_case_t c = attn_new(dims[i].n_head, dims[i].n_kv_head, dims[i].d_head, o_type);                                               \
        build;                                                                                                                             \
        attn_fill(o, &c);                                                                                                                  \
        attn_check(o, name, &c);                                                                                                           \
        attn_drop(&c);                                                                                                                     \
    } while (0)
        OPS_ATTN("causal 1", attn_causal(&c, kv, 0, 0, 1, 0));
        OPS_ATTN("causal 67", attn_causal(&c, kv, 0, 0, 67, 0));
        OPS_ATTN("sink+causal", attn_causal(&c, kv, 14, 0, 130, 0));
        OPS_ATTN("window", attn_causal(&c, kv, 5, 60, 90, 33));
        OPS_ATTN("window 1", attn_causal(&c, kv, 0, 0, 20, 1));
        OPS_ATTN("decode", attn_causal(&c, kv, 3, 2100, 1, 0));
        OPS_ATTN("unigist r4", attn_unigist(&c, kv, 7, 96, 4, 5));
        OPS_ATTN("unigist r8", attn_unigist(&c, kv, 1, 64, 8, 0));
        OPS_ATTN("query", attn_query(&c, kv, 5, 20));
        OPS_ATTN("no stats", (attn_causal(&c, kv, 14, 0, 40, 0), c.stats = false));
        OPS_ATTN("batch", (attn_causal(&c, kv, 2, 0, 40, 0), attn_causal(&c, kv, 0, 10, 3, 4), attn_causal(&c, kv, 0, 70, 1, 0)));
        OPS_ATTN("empty spans", (attn_causal(&c, kv, 0, 0, 30, 0), attn_add_span(&c, 0, 1, 0, 30, edge_const(20), edge_step(1, 1, 0, -15)),
                                 attn_add_span(&c, 0, 2, 5, 5, edge_const(0), edge_const(9))));
    }
}

/* A pool whose strides suit every kernel; only_head as in kv_pool_t. */
static inline void attn_add_even_pool(attn_case_t *c, int64_t rows, dtype_t type, int only_head) {
    kv_pool_t *p = &c->pools[c->n_pool];
    int64_t heads = only_head ? 1 : c->n_kv_head;
    c->kv_type[c->n_pool] = type;
    *p = (kv_pool_t){.type = type,
                     .n_row = rows,
                     .row_stride = c->d_head,
                     .head_stride = only_head ? 0 : rows * c->d_head,
                     .layer_stride = heads * rows * c->d_head,
                     .only_head = only_head};
    c->kv_n[c->n_pool++] = (size_t)(p->layer_stride * OPS_LAYERS);
}

/* Pools that one K/V head sees, of different lengths, beside one that all see. */
static inline void ops_attention_heads(ops_t *o) {
    for (int i = 0; i < 4; i++) {
        dtype_t act = o->be->act;
        attn_case_t c = attn_new(i < 2 ? 9 : 8, i < 2 ? 3 : 2, i < 2 ? 64 : 128, i % 2 ? DT_F32 : act);
        attn_add_even_pool(&c, 20, act, 0);
        for (int h = 0; h < c.n_kv_head; h++) attn_add_even_pool(&c, 40 + 700 * h, act, h + 1);
        attn_add_run(&c, 70, 0, -1);
        attn_add_span(&c, 0, 0, 0, 20, edge_const(0), edge_step(1, 1, 0, 1));
        for (int h = 0; h < c.n_kv_head; h++) attn_add_span(&c, 1 + h, 0, 0, 40 + 700 * h, edge_const(0), edge_const(40 + 700 * h));
        attn_add_span(&c, 2, 1, 0, 740, edge_const(3), edge_step(1, 10, 0, 1)); /* block 1: head 1 alone */
        attn_fill(o, &c);
        attn_check(o, "pools of one head", &c);
        attn_drop(&c);
    }
}

/* What a row sees, and so its bits, stay the same when the pool has more rows behind. */
static inline void ops_attention_far(ops_t *o) {
    enum { SEEN = 36000, ALL = 70000 };
    attn_case_t c = attn_new(4, 1, 64, DT_F32);
    attn_add_even_pool(&c, ALL, o->be->act, 0);
    attn_add_run(&c, 2, 0, -1);
    attn_add_span(&c, 0, 0, 0, SEEN, edge_const(0), edge_const(SEEN));
    attn_fill(o, &c);
    attn_check(o, "far rows", &c);
    attn_out_t all = attn_run(o->be, &c);
    c.pools[0].n_row = SEEN;
    attn_out_t some = attn_run(o->be, &c);
    ops_same("a pool that reaches further: o", all.o, some.o, all.o_n * 4);
    ops_same("a pool that reaches further: lse", all.lse, some.lse, all.n * 4);
    attn_out_drop(&all), attn_out_drop(&some);
    attn_drop(&c);
}

/* Random spans with odd divisors and offsets. */
static inline void ops_attention_random(ops_t *o) {
    for (int round = 0; round < 12; round++) {
        attn_case_t c = attn_new(4, 2, 32, DT_F32);
        int n_pool = 1 + (int)rng_below(&o->rng, 3);
        for (int p = 0; p < n_pool; p++) attn_add_pool(&c, 1 + rng_below(&o->rng, 1300), o->be->act);
        int n_run = 1 + (int)rng_below(&o->rng, 3);
        for (int r = 0; r < n_run; r++) {
            attn_add_run(&c, 1 + rng_below(&o->rng, 120), rng_below(&o->rng, 900), -1);
            int block = 0;
            for (int s = 0; s < 4; s++) {
                int p = (int)rng_below(&o->rng, n_pool);
                int64_t rows = c.pools[p].n_row, begin = rng_below(&o->rng, rows + 1), end = begin + rng_below(&o->rng, rows + 1 - begin);
                edge_t lo =
                    edge_step(1 + rng_below(&o->rng, 9), rng_below(&o->rng, 4), rng_below(&o->rng, 20) - 10, rng_below(&o->rng, 300) - 250);
                edge_t hi =
                    edge_step(1 + rng_below(&o->rng, 9), rng_below(&o->rng, 9), rng_below(&o->rng, 20) - 10, rng_below(&o->rng, 600) - 50);
                block += (int)rng_below(&o->rng, 2);
                attn_add_span(&c, p, block, begin, end, lo, hi);
            }
        }
        attn_fill(o, &c);
        attn_check(o, "random", &c);
        attn_drop(&c);
    }
}

#endif
