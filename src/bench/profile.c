/* A table of operations that calls another one and keeps time. One backend at a time, from the thread that drives it. */
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "bench/bench.h"

enum { LINEAR, GLU, QKV_LINEAR, EMBED, ROPE, RMSNORM, ATTENTION, MERGE, GATHER, COPY_IN, COPY_OUT, N_OP };
static const char *const names[N_OP] = {"linear",    "linear + gate", "linear + rotate + keep",
                                        "embed",     "rope",          "rmsnorm",
                                        "attention", "merge",         "gather rows",
                                        "copy in",   "copy out"};

static const backend_ops_t *real;
static backend_ops_t shim;
static profile_line_t lines_now[N_OP];
static int depth; /* operations that call others count as one */

static double begin(backend_t *be) {
    if (depth++ == 0) real->sync(be);
    return clock_s();
}
static status_t end(backend_t *be, int op, double from, status_t st) {
    if (--depth > 0) return st;
    if (!st) st = real->sync(be);
    lines_now[op].seconds += clock_s() - from;
    lines_now[op].calls++;
    return st;
}

static status_t t_linear(backend_t *be, const linear_t *l, int64_t n, const void *x, float *y, bool add) {
    double t = begin(be);
    return end(be, LINEAR, t, real->linear(be, l, n, x, y, add));
}
static status_t t_glu(backend_t *be, const linear_t *l, int64_t n, const void *x, float *wide, void *y) {
    double t = begin(be);
    return end(be, GLU, t, real->linear_glu(be, l, n, x, wide, y));
}
static status_t t_qkv(backend_t *be, const linear_t *l, const void *x, float *wide, const qkv_args_t *a) {
    double t = begin(be);
    return end(be, QKV_LINEAR, t, real->linear_qkv(be, l, x, wide, a));
}
static status_t t_embed(backend_t *be, int64_t n, int64_t d, const int32_t *tokens, dtype_t type, const void *table, float *x) {
    double t = begin(be);
    return end(be, EMBED, t, real->embed(be, n, d, tokens, type, table, x));
}
static status_t t_rope(backend_t *be, int64_t n, int64_t d, const double *positions, const double *freq, double scale, float *cos_sin) {
    double t = begin(be);
    return end(be, ROPE, t, real->rope(be, n, d, positions, freq, scale, cos_sin));
}
static status_t t_rmsnorm(backend_t *be, int64_t n, int64_t d, const float *x, const float *w, float eps, void *y) {
    double t = begin(be);
    return end(be, RMSNORM, t, real->rmsnorm(be, n, d, x, w, eps, y));
}
static status_t t_attention(backend_t *be, const attn_args_t *a) {
    double t = begin(be);
    return end(be, ATTENTION, t, real->attention(be, a));
}
static status_t t_merge(backend_t *be, const merge_args_t *a) {
    double t = begin(be);
    return end(be, MERGE, t, real->merge(be, a));
}
static status_t t_gather(backend_t *be, int64_t n, int64_t d, const int64_t *idx, const float *src, float *dst) {
    double t = begin(be);
    return end(be, GATHER, t, real->gather_rows(be, n, d, idx, src, dst));
}
static status_t t_in(backend_t *be, void *dst, const void *src, size_t bytes) {
    double t = begin(be);
    return end(be, COPY_IN, t, real->copy_in(be, dst, src, bytes));
}
static status_t t_out(backend_t *be, void *dst, const void *src, size_t bytes) {
    double t = begin(be);
    return end(be, COPY_OUT, t, real->copy_out(be, dst, src, bytes));
}

void bench_profile_begin(backend_t *be) {
    for (int i = 0; i < N_OP; i++) lines_now[i] = (profile_line_t){.name = names[i]};
    depth = 0;
    real = be->ops;
    shim = *real;
    shim.linear = t_linear;
    shim.linear_glu = t_glu;
    shim.linear_qkv = t_qkv;
    shim.embed = t_embed;
    shim.rope = t_rope;
    shim.rmsnorm = t_rmsnorm;
    shim.attention = t_attention;
    shim.merge = t_merge;
    shim.gather_rows = t_gather;
    shim.copy_in = t_in;
    shim.copy_out = t_out;
    be->ops = &shim;
}

static int by_time(const void *a, const void *b) {
    double x = ((const profile_line_t *)a)->seconds, y = ((const profile_line_t *)b)->seconds;
    return x > y ? -1 : x < y;
}

int bench_profile_end(backend_t *be, profile_line_t *lines) {
    int n = 0;
    be->ops = real;
    for (int i = 0; i < N_OP; i++)
        if (lines_now[i].calls) lines[n++] = lines_now[i];
    qsort(lines, (size_t)n, sizeof *lines, by_time);
    return n;
}
