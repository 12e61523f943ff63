/* The operations of a decoder layer, one by one, at a model's shapes: each is checked against the CPU in f32 on fewer rows of the same
 * numbers (enough for the kernels that many rows take), then timed. */
#include <math.h>
#include <stdio.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/mem.h"
#include "bench/bench.h"
#include "model/kv.h"

enum { CHECK_ROWS = 640, INNER = 8, MAX_REPEATS = 64 };
enum { FEW = 8, VOCAB = 4096, PARTS = 16, PART_ROWS = 64 }; /* rows of a query; of embed's table; what a merge merges */

typedef struct {
    backend_t *be;
    const model_config_t *c;
    int64_t n;
    linear_t *l[4]; /* qkv, o, gate and up, down */
    void *packed[4], *x, *q, *o, *gated, *wide, *res, *norm, *cos_sin, *table, *parts, *parts_lse;
    float *m, *top; /* statistics of FEW rows */
    int32_t *tokens;
    kv_pool_t pool;
} side_t;

static int64_t qkv_width(const model_config_t *c) { return (c->n_head + 2 * c->n_kv_head) * c->d_head; }
static linear_shape_t shape_of(const model_config_t *c, int i) {
    const linear_shape_t s[] = {{qkv_width(c), c->d_model, false},
                                {c->d_model, c->n_head * c->d_head, false},
                                {2 * c->d_ff, c->d_model, true},
                                {c->d_model, c->d_ff, false}};
    return s[i];
}

static void side_close(side_t *s) {
    for (int i = 0; i < 4; i++) {
        if (s->l[i]) s->be->ops->linear_close(s->be, s->l[i]);
        s->be->ops->free(s->be, s->packed[i]);
    }
    void *each[] = {s->x, s->q, s->o, s->gated, s->wide, s->res, s->norm, s->cos_sin, s->table, s->parts, s->parts_lse, s->m, s->top};
    for (size_t i = 0; i < sizeof each / sizeof *each; i++) s->be->ops->free(s->be, each[i]);
    mem_free(s->tokens);
    kv_free(s->be, &s->pool);
}

/* Memory of n numbers of act, filled; as f32 when `wide`. */
static status_t numbers(backend_t *be, uint64_t seed, float scale, int64_t n, bool wide, void *out_pp) {
    void **out = out_pp, *narrow = NULL;
    status_t st = be->ops->alloc(be, (size_t)n * (wide ? 4 : dtype_bytes(be->act)), "bench", out);
    if (!st && (!wide || be->act == DT_F32)) return be->ops->fill(be, seed, 0, scale, (size_t)n, *out);
    if (!st) st = be->ops->alloc(be, (size_t)n * 2, "bench", &narrow);
    if (!st) st = be->ops->fill(be, seed, 0, scale, (size_t)n, narrow);
    if (!st) st = be->ops->convert(be, (size_t)n, DT_F32, *out, be->act, narrow);
    if (!st) st = be->ops->sync(be);
    be->ops->free(be, narrow);
    return st;
}

static status_t weight_make(side_t *s, int i) {
    linear_shape_t shape = shape_of(s->c, i);
    void *w = NULL;
    status_t st = numbers(s->be, 20 + (uint64_t)i, (float)sqrt(1 / (double)shape.n_in), shape.n_out * shape.n_in, false, &w);
    if (!st) st = s->be->ops->alloc(s->be, s->be->ops->linear_bytes(s->be, shape), "bench", &s->packed[i]);
    if (!st) st = s->be->ops->linear_pack(s->be, shape, s->packed[i], 0, shape.n_out, s->be->act, w);
    if (!st) st = s->be->ops->linear_open(s->be, shape, s->packed[i], &s->l[i]);
    s->be->ops->free(s->be, w);
    return st;
}

static status_t side_open(side_t *s) {
    const model_config_t *c = s->c;
    int64_t n = s->n, dq = c->n_head * c->d_head, widest = i64_max(i64_max(c->d_model, dq), c->d_ff);
    size_t kv = kv_bytes(c, s->be->act, n) / dtype_bytes(s->be->act);
    status_t st = ST_OK;
    for (int i = 0; i < 4 && !st; i++) st = weight_make(s, i);
    if (!st) st = numbers(s->be, 1, 1, n * widest, false, &s->x);
    if (!st) st = numbers(s->be, 2, 1, n * dq, false, &s->q);
    if (!st) st = numbers(s->be, 3, 1, n * dq, true, &s->o);
    if (!st) st = numbers(s->be, 4, 1, n * c->d_ff, false, &s->gated);
    if (!st) st = numbers(s->be, 5, 1, i64_max(n, PART_ROWS) * i64_max(qkv_width(c), 2 * c->d_ff), true, &s->wide);
    if (!st) st = numbers(s->be, 6, 1, n * c->d_model, true, &s->res);
    if (!st) st = numbers(s->be, 7, 1, c->d_model, true, &s->norm);
    if (!st) st = numbers(s->be, 8, 1, n * c->d_rot, true, &s->cos_sin);
    if (!st) st = numbers(s->be, 11, 1, VOCAB * c->d_model, false, &s->table);
    if (!st) st = numbers(s->be, 12, 1, PARTS * PART_ROWS * dq, true, &s->parts);
    if (!st) st = numbers(s->be, 13, 4, PARTS * PART_ROWS * c->n_head, true, &s->parts_lse);
    if (!st) st = s->be->ops->alloc(s->be, (size_t)(FEW * c->n_head) * sizeof(float), "bench", &s->m);
    if (!st) st = s->be->ops->alloc(s->be, (size_t)(FEW * c->n_head * ATTN_TOP) * sizeof(float), "bench", &s->top);
    if (!st) st = mem_alloc(&s->tokens, (size_t)n, sizeof *s->tokens, "tokens");
    for (int64_t i = 0; i < n && !st; i++) s->tokens[i] = (int32_t)(i * 7919 % VOCAB);
    if (!st) st = kv_alloc(s->be, c, s->be->act, n, "bench", &s->pool);
    if (!st) st = s->be->ops->fill(s->be, 9, 0, 1, kv, s->pool.k);
    return st ? st : s->be->ops->fill(s->be, 10, 0, 1, kv, s->pool.v);
}

/* ---- the operations: each runs once and says where its result lies --------------------------------------------------------- */
typedef struct {
    void *p;
    dtype_t type;
    int64_t n;
} result_t;

static status_t op_qkv(side_t *s, result_t *r) {
    const model_config_t *c = s->c;
    run_t run = {.n = s->n};
    qkv_args_t a = {.n_row = s->n,
                    .n_head = (int)c->n_head,
                    .n_kv_head = (int)c->n_kv_head,
                    .d_head = (int)c->d_head,
                    .d_rot = (int)c->d_rot,
                    .cos_sin = s->cos_sin,
                    .q = s->q,
                    .n_pool = 1,
                    .n_run = 1,
                    .pools = &s->pool,
                    .runs = &run};
    *r = (result_t){s->q, s->be->act, s->n * c->n_head * c->d_head};
    return s->be->ops->linear_qkv(s->be, s->l[0], s->x, s->wide, &a);
}
static status_t op_o(side_t *s, result_t *r) {
    *r = (result_t){s->res, DT_F32, s->n * s->c->d_model};
    return s->be->ops->linear(s->be, s->l[1], s->n, s->x, s->res, true);
}
static status_t op_glu(side_t *s, result_t *r) {
    *r = (result_t){s->gated, s->be->act, s->n * s->c->d_ff};
    return s->be->ops->linear_glu(s->be, s->l[2], s->n, s->x, s->wide, s->gated);
}
static status_t op_down(side_t *s, result_t *r) {
    *r = (result_t){s->res, DT_F32, s->n * s->c->d_model};
    return s->be->ops->linear(s->be, s->l[3], s->n, s->x, s->res, true);
}
static status_t op_one_row(side_t *s, result_t *r) {
    *r = (result_t){s->res, DT_F32, s->c->d_model};
    return s->be->ops->linear(s->be, s->l[3], 1, s->x, s->res, true);
}
static status_t op_norm(side_t *s, result_t *r) {
    *r = (result_t){s->gated, s->be->act, s->n * i64_min(s->c->d_model, s->c->d_ff)};
    return s->be->ops->rmsnorm(s->be, s->n, i64_min(s->c->d_model, s->c->d_ff), s->res, s->norm, 1e-5f, s->gated);
}
static status_t op_embed(side_t *s, result_t *r) {
    *r = (result_t){s->res, DT_F32, s->n * s->c->d_model};
    return s->be->ops->embed(s->be, s->n, s->c->d_model, s->tokens, s->be->act, s->table, s->res);
}
static status_t op_merge(side_t *s, result_t *r) {
    merge_args_t a = {.n_row = PART_ROWS,
                      .n_head = (int)s->c->n_head,
                      .d_head = (int)s->c->d_head,
                      .n_block = PARTS,
                      .o = s->parts,
                      .lse = s->parts_lse,
                      .o_out_type = s->be->act,
                      .o_out = s->wide};
    *r = (result_t){s->wide, s->be->act, PART_ROWS * s->c->n_head * s->c->d_head};
    return s->be->ops->merge(s->be, &a);
}
static status_t attention(side_t *s, int64_t n, dtype_t o_type, bool stats) {
    const model_config_t *c = s->c;
    run_t run = {.n = n, .index = s->n - n, .pool = -1, .n_span = 1};
    span_t span = {.end = s->n, .lo = edge_const(0), .hi = edge_step(1, 1, 0, 1)};
    attn_args_t a = {.n_head = (int)c->n_head,
                     .n_kv_head = (int)c->n_kv_head,
                     .d_head = (int)c->d_head,
                     .scale = 1 / sqrtf((float)c->d_head),
                     .n_row = n,
                     .q = s->q,
                     .n_pool = 1,
                     .n_run = 1,
                     .n_span = 1,
                     .n_block = 1,
                     .pools = &s->pool,
                     .runs = &run,
                     .spans = &span,
                     .o_type = o_type,
                     .o = s->o,
                     .m = stats ? s->m : NULL,
                     .top = stats ? s->top : NULL};
    return s->be->ops->attention(s->be, &a);
}
static status_t op_attention(side_t *s, result_t *r) {
    *r = (result_t){s->o, s->be->act, s->n * s->c->n_head * s->c->d_head};
    return attention(s, s->n, s->be->act, false);
}
/* The last rows as a query's, with what the selection of segments and entropy want on request: then that is what is checked. */
static status_t query(side_t *s, int64_t n, bool stats, result_t *r) {
    n = i64_min(n, s->n);
    if (stats)
        *r = (result_t){s->top, DT_F32, n * s->c->n_head * ATTN_TOP};
    else
        *r = (result_t){s->o, DT_F32, n * s->c->n_head * s->c->d_head};
    return attention(s, n, DT_F32, stats);
}
static status_t op_query_1(side_t *s, result_t *r) { return query(s, 1, false, r); }
static status_t op_query_1s(side_t *s, result_t *r) { return query(s, 1, true, r); }
static status_t op_query_few(side_t *s, result_t *r) { return query(s, FEW, false, r); }
static status_t op_query_few_s(side_t *s, result_t *r) { return query(s, FEW, true, r); }

static const struct {
    const char *name;
    status_t (*run)(side_t *, result_t *);
    int weight;   /* whose product it is; -1: none */
    int64_t rows; /* 0: all */
} ops[] = {{"embed", op_embed, -1, 0},
           {"rmsnorm", op_norm, -1, 0},
           {"linear + rotate + keep", op_qkv, 0, 0},
           {"attention, causal", op_attention, -1, 0},
           {"linear, added (o)", op_o, 1, 0},
           {"linear + gate", op_glu, 2, 0},
           {"linear, added (down)", op_down, 3, 0},
           {"linear, one row", op_one_row, 3, 1},
           {"attention, one row", op_query_1, -1, 1},
           {"  with statistics", op_query_1s, -1, 1},
           {"attention, few rows", op_query_few, -1, FEW},
           {"  with statistics", op_query_few_s, -1, FEW},
           {"merge", op_merge, -1, PART_ROWS}};

static void costs(const side_t *s, size_t i, bench_op_t *op) {
    const model_config_t *c = s->c;
    int64_t rows = ops[i].rows ? i64_min(ops[i].rows, s->n) : s->n;
    double n = (double)s->n, act = (double)dtype_bytes(s->be->act), head = (double)(c->n_head * c->d_head),
           kv = (double)(2 * c->n_kv_head * c->d_head);
    if (ops[i].weight >= 0) {
        linear_shape_t w = shape_of(c, ops[i].weight);
        op->flops = 2 * (double)w.n_out * (double)w.n_in * (double)rows;
        op->bytes = ops[i].rows ? (double)w.n_out * (double)w.n_in * act : 0;
        snprintf(op->shape, sizeof op->shape, "%lld x %lld x %lld", (long long)rows, (long long)w.n_out, (long long)w.n_in);
    } else if (ops[i].run == op_norm || ops[i].run == op_embed) {
        op->bytes = n * (double)c->d_model * (4 + act);
        snprintf(op->shape, sizeof op->shape, "%lld x %lld", (long long)s->n, (long long)c->d_model);
    } else if (ops[i].run == op_merge) {
        op->bytes = PART_ROWS * (PARTS * (4 * head + 4 * (double)c->n_head) + act * head);
        snprintf(op->shape, sizeof op->shape, "%d parts of %d rows", PARTS, PART_ROWS);
    } else {
        op->flops = ops[i].rows ? 0 : 4 * head * n * (n + 1) / 2;
        op->bytes = ops[i].rows ? n * kv * act : 0;
        snprintf(op->shape, sizeof op->shape, "%lld rows over %lld", (long long)rows, (long long)s->n);
    }
}

/* The same operation on both sides, results compared. */
static status_t check(side_t *small, side_t *plain, size_t i, double *error) {
    result_t got, want;
    void *a = NULL, *b = NULL;
    status_t st = ops[i].run(small, &got);
    if (!st) st = ops[i].run(plain, &want);
    if (!st) st = mem_alloc(&a, (size_t)got.n, dtype_bytes(got.type), "results");
    if (!st) st = mem_alloc(&b, (size_t)want.n, dtype_bytes(want.type), "results");
    if (!st) st = small->be->ops->copy_out(small->be, a, got.p, (size_t)got.n * dtype_bytes(got.type));
    if (!st) st = plain->be->ops->copy_out(plain->be, b, want.p, (size_t)want.n * dtype_bytes(want.type));
    if (!st) *error = bench_distance(got.type, a, want.type, b, (size_t)got.n);
    mem_free(a);
    mem_free(b);
    return st;
}

static status_t measure(side_t *s, size_t i, int repeats, double *median) {
    double seconds[MAX_REPEATS];
    result_t r;
    status_t st = ops[i].run(s, &r);
    for (int k = 0; k < repeats && !st; k++) {
        if ((st = s->be->ops->sync(s->be))) break;
        double t = clock_s();
        for (int x = 0; x < INNER && !st; x++) st = ops[i].run(s, &r);
        if (!st) st = s->be->ops->sync(s->be);
        seconds[k] = (clock_s() - t) / INNER;
    }
    if (!st) *median = bench_median(seconds, repeats);
    return st;
}

status_t bench_ops(const model_config_t *c, backend_t *be, int64_t rows, int repeats, bench_op_fn each, void *ctx) {
    long cpus = sysconf(_SC_NPROCESSORS_ONLN);
    side_t big = {.be = be, .c = c, .n = rows}, small = {.be = be, .c = c, .n = CHECK_ROWS}, plain = {.c = c, .n = CHECK_ROWS};
    model_config_t one = *c; /* pools of one layer */
    one.n_layer = 1;
    big.c = small.c = plain.c = &one;
    if (repeats > MAX_REPEATS) repeats = MAX_REPEATS;
    status_t st = backend_create_cpu(DT_F32, be->host_memory ? be->n_threads : (int)i64_max(1, cpus), &plain.be);
    if (st) return st;
    st = side_open(&small);
    if (!st) st = side_open(&plain);
    double errors[sizeof ops / sizeof *ops] = {0};
    for (size_t i = 0; i < sizeof ops / sizeof *ops && !st; i++) st = check(&small, &plain, i, &errors[i]);
    side_close(&small);
    side_close(&plain);
    plain.be->ops->destroy(plain.be);
    if (!st) st = side_open(&big);
    for (size_t i = 0; i < sizeof ops / sizeof *ops && !st; i++) {
        bench_op_t op = {.error = errors[i], .limit = bench_limit(be->act)};
        snprintf(op.name, sizeof op.name, "%s", ops[i].name);
        costs(&big, i, &op);
        st = measure(&big, i, repeats, &op.median_s);
        if (!st) st = each(ctx, &op);
    }
    side_close(&big);
    return st;
}
