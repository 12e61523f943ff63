/* Rates of the CPU backend's operations against measured ceilings of this machine, for the shapes of SmolLM2-135M (d 576, 9/3 heads of 64,
 * ff 1536).
 *
 *     bench_ops [threads [repeats]]
 *
 * Each figure is timed `repeats` times; the best and the median are printed, since a shared machine makes single figures meaningless. "%"
 * is the best rate over the ceiling: the best rate of the matrix product at 2048 x 1536 x 576 of the same type, measured in the same run.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/cpu.h"
#include "base/clock.h"
#include "base/mem.h"
#include "base/rng.h"

enum { D = 576, HEADS = 9, KV = 3, DH = 64, FF = 1536, MAX_REPEATS = 101 };

static int repeats = 9;
static double ceiling; /* GF/s */
static bool own_time;  /* CPU time of this thread instead of the clock */

static double now_s(void) {
    if (!own_time) return clock_s();
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void must(status_t st) {
    if (!st) return;
    fprintf(stderr, "bench_ops: %s\n", status_message());
    exit(1);
}

typedef struct {
    void (*run)(void *ctx);
    void *ctx;
} work_t;

static int by_value(const void *a, const void *b) {
    return *(const double *)a < *(const double *)b ? -1 : *(const double *)a > *(const double *)b;
}

/* Seconds of one run: best and median. Short runs are repeated within a measurement. */
static void measure(work_t w, double *best, double *median) {
    double s[MAX_REPEATS], once = now_s();
    w.run(w.ctx);
    once = now_s() - once;
    int inner = once < 2e-3 ? (int)(4e-3 / (once + 1e-6)) + 1 : 1;
    for (int i = 0; i < repeats; i++) {
        double t = now_s();
        for (int k = 0; k < inner; k++) w.run(w.ctx);
        s[i] = (now_s() - t) / inner;
    }
    qsort(s, (size_t)repeats, sizeof *s, by_value);
    *best = s[0];
    *median = s[repeats / 2];
}

static double report(const char *name, double amount, const char *unit, double of, work_t w) {
    double best, median;
    measure(w, &best, &median);
    printf("  %-34s %10.3f %10.3f ms %9.1f %9.1f %s", name, best * 1e3, median * 1e3, amount / best * 1e-9, amount / median * 1e-9, unit);
    if (of > 0) printf(" %5.0f %%", amount / best * 1e-9 / of * 100);
    printf("\n");
    fflush(stdout);
    return amount / best * 1e-9;
}

static void *buffer(backend_t *be, size_t n, dtype_t t) {
    static rng_t rng = {7};
    void *p;
    must(be->ops->alloc(be, n * dtype_bytes(t), "bench", &p));
    for (size_t i = 0; i < n; i++) cpu_store(t, p, (int64_t)i, (float)(rng_uniform(&rng) - 0.5));
    return p;
}

/* ---- matrix products --------------------------------------------------------------------------------------------------- */
typedef struct {
    backend_t *be;
    linear_t *l;
    int64_t m;
    const void *x;
    float *y;
    bool add;
} gemm_t;

static void gemm_run(void *ctx) {
    gemm_t *g = ctx;
    must(g->be->ops->linear(g->be, g->l, g->m, g->x, g->y, g->add));
}

static double bench_gemm(backend_t *be, int64_t m, int64_t n, int64_t k, double of) {
    linear_shape_t s = {n, k};
    void *w = buffer(be, (size_t)(n * k), DT_F32), *packed;
    must(be->ops->alloc(be, be->ops->linear_bytes(be, s), "bench", &packed));
    must(be->ops->linear_pack(be, s, packed, 0, n, DT_F32, w));
    gemm_t g = {be, NULL, m, buffer(be, (size_t)(m * k), be->act), buffer(be, (size_t)(m * n), DT_F32), false};
    must(be->ops->linear_open(be, s, packed, &g.l));
    char name[64];
    snprintf(name, sizeof name, "linear %lld x %lld x %lld", (long long)m, (long long)n, (long long)k);
    double rate = report(name, 2.0 * (double)m * (double)n * (double)k, "GF/s", of, (work_t){gemm_run, &g});
    be->ops->linear_close(be, g.l);
    be->ops->free(be, w), be->ops->free(be, packed), be->ops->free(be, (void *)g.x), be->ops->free(be, g.y);
    return rate;
}

/* ---- attention --------------------------------------------------------------------------------------------------------- */
typedef struct {
    backend_t *be;
    attn_args_t a;
    kv_pool_t pool;
    run_t run;
    span_t span;
} attn_t;

static void attn_run(void *ctx) {
    attn_t *b = ctx;
    must(b->be->ops->attention(b->be, &b->a));
}

/* `rows` rows at the end of `keys` keys, causal. */
static void bench_attn(backend_t *be, const char *what, int64_t rows, int64_t keys, int n_head, int n_kv, int d, bool stats) {
    attn_t b = {.be = be};
    size_t kv_n = (size_t)(keys * n_kv * d), q_n = (size_t)(rows * n_head * d);
    b.pool = (kv_pool_t){buffer(be, kv_n, be->act), buffer(be, kv_n, be->act), be->act, keys, n_kv * d, d, 0, 0};
    b.run = (run_t){0, rows, keys - rows, -1, 0, 1};
    b.span = (span_t){0, 0, 0, keys, edge_const(0), edge_step(1, 1, 0, 1)};
    b.a = (attn_args_t){.n_head = n_head,
                        .n_kv_head = n_kv,
                        .d_head = d,
                        .scale = 0.125f,
                        .n_row = rows,
                        .n_pool = 1,
                        .n_run = 1,
                        .n_span = 1,
                        .n_block = 1,
                        .pools = &b.pool,
                        .runs = &b.run,
                        .spans = &b.span,
                        .o_type = be->act};
    b.a.q = buffer(be, q_n, be->act), b.a.o = buffer(be, q_n, be->act);
    float *lse = buffer(be, (size_t)(rows * n_head), DT_F32), *m = buffer(be, (size_t)(rows * n_head), DT_F32),
          *top = buffer(be, (size_t)(rows * n_head * ATTN_TOP), DT_F32);
    if (stats) b.a.lse = lse, b.a.m = m, b.a.top = top;
    double visible = (double)rows * (double)(keys - rows) + 0.5 * (double)rows * (double)(rows + 1);
    report(what, 4.0 * visible * n_head * d, "GF/s", ceiling, (work_t){attn_run, &b});
    void *all[] = {b.pool.k, b.pool.v, (void *)b.a.q, b.a.o, lse, m, top};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) be->ops->free(be, all[i]);
}

/* ---- rows, and a whole layer -------------------------------------------------------------------------------------------- */
typedef struct {
    backend_t *be;
    int64_t n;
    float *x, *norm, *qkv, *gu, *cs;
    void *h, *q, *o, *ff;
    linear_t *w[4];
    attn_args_t attn;
    qkv_args_t qa;
    kv_pool_t pool;
    run_t run;
    span_t span;
} layer_t;

static const linear_shape_t layer_shapes[4] = {{(HEADS + 2 * KV) * DH, D}, {D, HEADS *DH}, {2 * FF, D}, {D, FF}};

static void run_norm(void *ctx) {
    layer_t *l = ctx;
    must(l->be->ops->rmsnorm(l->be, l->n, D, l->x, l->norm, 1e-5f, l->h));
}
static void run_silu(void *ctx) {
    layer_t *l = ctx;
    must(l->be->ops->silu_mul(l->be, l->n, FF, l->gu, l->ff));
}
static void run_qkv(void *ctx) {
    layer_t *l = ctx;
    must(l->be->ops->qkv(l->be, &l->qa));
}
static void run_layer(void *ctx) {
    layer_t *l = ctx;
    const backend_ops_t *ops = l->be->ops;
    run_norm(l);
    must(ops->linear(l->be, l->w[0], l->n, l->h, l->qkv, false));
    run_qkv(l);
    must(ops->attention(l->be, &l->attn));
    must(ops->linear(l->be, l->w[1], l->n, l->o, l->x, true));
    run_norm(l);
    must(ops->linear(l->be, l->w[2], l->n, l->h, l->gu, false));
    run_silu(l);
    must(ops->linear(l->be, l->w[3], l->n, l->ff, l->x, true));
}

static void bench_layer(backend_t *be, int64_t n) {
    layer_t l = {.be = be, .n = n};
    void *packed[4];
    for (int i = 0; i < 4; i++) {
        linear_shape_t s = layer_shapes[i];
        void *w = buffer(be, (size_t)(s.n_out * s.n_in), DT_F32);
        must(be->ops->alloc(be, be->ops->linear_bytes(be, s), "bench", &packed[i]));
        must(be->ops->linear_pack(be, s, packed[i], 0, s.n_out, DT_F32, w));
        must(be->ops->linear_open(be, s, packed[i], &l.w[i]));
        be->ops->free(be, w);
    }
    size_t r = (size_t)n;
    l.x = buffer(be, r * D, DT_F32), l.norm = buffer(be, D, DT_F32), l.qkv = buffer(be, r * (HEADS + 2 * KV) * DH, DT_F32);
    l.gu = buffer(be, r * 2 * FF, DT_F32), l.cs = buffer(be, r * DH, DT_F32);
    l.h = buffer(be, r * D, be->act), l.q = buffer(be, r * D, be->act), l.o = buffer(be, r * D, be->act),
    l.ff = buffer(be, r * FF, be->act);
    l.pool = (kv_pool_t){buffer(be, r * KV * DH, be->act), buffer(be, r * KV * DH, be->act), be->act, n, KV * DH, DH, 0, 0};
    l.run = (run_t){0, n, 0, 0, 0, 1};
    l.span = (span_t){0, 0, 0, n, edge_const(0), edge_step(1, 1, 0, 1)};
    l.attn = (attn_args_t){.n_head = HEADS,
                           .n_kv_head = KV,
                           .d_head = DH,
                           .scale = 0.125f,
                           .n_row = n,
                           .q = l.q,
                           .n_pool = 1,
                           .n_run = 1,
                           .n_span = 1,
                           .n_block = 1,
                           .pools = &l.pool,
                           .runs = &l.run,
                           .spans = &l.span,
                           .o_type = be->act,
                           .o = l.o};
    l.qa = (qkv_args_t){.n_row = n,
                        .n_head = HEADS,
                        .n_kv_head = KV,
                        .d_head = DH,
                        .d_rot = DH,
                        .qkv = l.qkv,
                        .cos_sin = l.cs,
                        .q = l.q,
                        .n_pool = 1,
                        .n_run = 1,
                        .pools = &l.pool,
                        .runs = &l.run};
    double act = (double)dtype_bytes(be->act), rows = (double)n;
    report("rmsnorm, 576", rows * D * (4 + act), "GB/s", 0, (work_t){run_norm, &l});
    report("silu_mul, 1536", rows * FF * (8 + act), "GB/s", 0, (work_t){run_silu, &l});
    report("qkv, 9/3 heads of 64", rows * (HEADS + 2 * KV) * DH * (4 + act), "GB/s", 0, (work_t){run_qkv, &l});
    double flops = 2.0 * rows * (rows + 1) * HEADS * DH;
    for (int i = 0; i < 4; i++) flops += 2.0 * rows * (double)layer_shapes[i].n_out * (double)layer_shapes[i].n_in;
    double rate = report("one layer", flops, "GF/s", ceiling, (work_t){run_layer, &l});
    printf("  30 such layers: %.0f tokens/s\n", rows / (flops / rate * 1e-9 * 30));
    for (int i = 0; i < 4; i++) be->ops->linear_close(be, l.w[i]), be->ops->free(be, packed[i]);
    void *all[] = {l.x, l.norm, l.qkv, l.gu, l.cs, l.h, l.q, l.o, l.ff, l.pool.k, l.pool.v};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) be->ops->free(be, all[i]);
}

/* ---- the program ---------------------------------------------------------------------------------------------------------- */
typedef struct {
    char *to, *from;
    size_t bytes;
    int n_threads;
} copy_t;

static void copy_run(void *ctx) {
    copy_t *c = ctx;
    size_t share = c->bytes / (size_t)c->n_threads;
#pragma omp parallel for num_threads(c->n_threads)
    for (int i = 0; i < c->n_threads; i++) memcpy(c->to + (size_t)i * share, c->from + (size_t)i * share, share);
}

static void print_machine(void) {
    char line[256], model[256] = "unknown CPU\n";
    FILE *f = fopen("/proc/cpuinfo", "r");
    while (f && fgets(line, sizeof line, f))
        if (!strncmp(line, "model name", 10) && strchr(line, ':')) {
            strcpy(model, strchr(line, ':') + 2);
            break;
        }
    if (f) fclose(f);
    printf("# machine: %s", model);
}

static void bench_type(dtype_t act, int n_threads, bool own) {
    backend_t *be;
    must(own ? cpu_create_forced(act, n_threads, cpu_isa_best(), true, &be) : backend_create_cpu(act, n_threads, &be));
    printf("\n# %s; %d threads\n  %-34s %10s %13s %9s %9s\n", be->detail, n_threads, "", "best", "median", "best", "median");
    double rate = bench_gemm(be, 2048, 1536, 576, own ? ceiling : 0);
    if (!own) ceiling = rate;
    static const int64_t rows[] = {2048, 512, 64, 1};
    for (size_t r = 0; r < (own ? 1 : sizeof rows / sizeof *rows); r++)
        for (int i = 0; i < 4; i++) bench_gemm(be, rows[r], layer_shapes[i].n_out, layer_shapes[i].n_in, ceiling);
    if (!own) {
        bench_attn(be, "attention causal 512", 512, 512, HEADS, KV, DH, false);
        bench_attn(be, "attention causal 2048", 2048, 2048, HEADS, KV, DH, false);
        bench_attn(be, "attention causal 2048, statistics", 2048, 2048, HEADS, KV, DH, true);
        bench_attn(be, "attention causal 8192", 8192, 8192, HEADS, KV, DH, false);
        bench_attn(be, "attention causal 2048, 8/2 x 128", 2048, 2048, 8, 2, 128, false);
        bench_attn(be, "attention causal 2048, 8/8 x 80", 2048, 2048, 8, 8, 80, false);
        bench_attn(be, "attention decode, 1 row x 8K", 1, 8192, HEADS, KV, DH, false);
        bench_attn(be, "attention query, 16 rows x 8K, st.", 16, 8192, HEADS, KV, DH, true);
        bench_layer(be, 2048);
    }
    be->ops->destroy(be);
}

int main(int argc, char **argv) {
    int n_threads = argc > 1 ? atoi(argv[1]) : 2;
    if (argc > 2) repeats = atoi(argv[2]);
    if (n_threads < 1 || repeats < 1 || repeats > MAX_REPEATS) {
        fprintf(stderr, "bench_ops: use: bench_ops [threads [repeats 1..%d]]\n", MAX_REPEATS);
        return 2;
    }
    own_time = n_threads == 1;
    print_machine();
    printf("# time: %s\n", own_time ? "CPU time of the one thread" : "wall clock");
    copy_t c = {.bytes = (size_t)128 << 20, .n_threads = n_threads};
    must(mem_zalloc(&c.to, c.bytes, 1, "bench"));
    must(mem_zalloc(&c.from, c.bytes, 1, "bench"));
    report("copy, 128 MiB", 2.0 * (double)c.bytes, "GB/s", 0, (work_t){copy_run, &c});
    mem_free(c.to), mem_free(c.from);
    if (backend_cpu_has_bf16()) {
        bench_type(DT_BF16, n_threads, false);
        bench_type(DT_BF16, n_threads, true);
    }
    bench_type(DT_F32, n_threads, false);
    bench_type(DT_F32, n_threads, true);
    return 0;
}
