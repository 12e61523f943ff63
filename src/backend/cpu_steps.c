/* Operations that the CPU backends make of others, and what measurements need: both alike for the oracle and the fast backend. */
#include <math.h>
#include <string.h>

#include "backend/cpu.h"
#include "base/clock.h"
#include "base/mem.h"

status_t cpu_linear_glu(backend_t *be, const linear_t *l, int64_t n_row, const void *x, float *wide, void *y) {
    status_t st = be->ops->linear(be, l, n_row, x, wide, false);
    return st ? st : be->ops->silu_mul(be, n_row, linear_shape(l).n_out / 2, wide, y);
}

status_t cpu_linear_qkv(backend_t *be, const linear_t *l, const void *x, float *wide, const qkv_args_t *a) {
    qkv_args_t after = *a;
    after.qkv = wide;
    status_t st = be->ops->linear(be, l, a->n_row, x, wide, false);
    return st ? st : be->ops->qkv(be, &after);
}

void backend_rope(int64_t n_row, int64_t d_rot, const double *positions, const double *inv_freq, double scale, float *cos_sin) {
    int64_t half = d_rot / 2;
    for (int64_t t = 0; t < n_row; t++, cos_sin += d_rot)
        for (int64_t j = 0; j < half; j++) {
            double angle = positions[t] * inv_freq[j];
            cos_sin[j] = (float)(scale * cos(angle));
            cos_sin[half + j] = (float)(scale * sin(angle));
        }
}

status_t cpu_rope(backend_t *be, int64_t n_row, int64_t d_rot, const double *positions, const double *inv_freq, double scale,
                  float *cos_sin) {
    enum { ROWS = 16 };
#pragma omp parallel for schedule(static) num_threads(be->n_threads) if (n_row > ROWS)
    for (int64_t t = 0; t < n_row; t += ROWS)
        backend_rope(i64_min(ROWS, n_row - t), d_rot, positions + t, inv_freq, scale, cos_sin + t * d_rot);
    return ST_OK;
}

status_t cpu_fill(backend_t *be, uint64_t seed, size_t first, float scale, size_t n, void *dst) {
    enum { PIECE = 1 << 14 };
    int64_t n_piece = (int64_t)((n + PIECE - 1) / PIECE);
#pragma omp parallel for schedule(static) num_threads(be->n_threads)
    for (int64_t p = 0; p < n_piece; p++)
        for (size_t i = (size_t)p * PIECE; i < n && i < (size_t)(p + 1) * PIECE; i++)
            cpu_store(be->act, dst, (int64_t)i, backend_random(seed, first + i) * scale);
    return ST_OK;
}

/* Operations are done when they return: a mark is the time, in nanoseconds. */
status_t cpu_mark(backend_t *be, int64_t *mark) {
    (void)be;
    *mark = (int64_t)(clock_s() * 1e9);
    return ST_OK;
}
status_t cpu_mark_seconds(backend_t *be, int64_t from, int64_t to, double *seconds) {
    (void)be;
    *seconds = (double)(to - from) * 1e-9;
    return ST_OK;
}

/* ---- ceilings ------------------------------------------------------------------------------------------------------------- */
enum { SIDE = 1536, TRIES = 5 };
static const size_t COPY_BYTES = (size_t)256 << 20;

void cpu_leave(backend_t *be, int n) {
    (void)be;
    (void)n;
}

status_t cpu_ceilings(backend_t *be, double *flops, double *bytes) {
    char *from = NULL, *to = NULL;
    *flops = *bytes = 0;
    status_t st = backend_product_rate(be, SIDE, TRIES, flops);
    if (!st) st = mem_alloc(&from, COPY_BYTES, 1, "a copy");
    if (!st) st = mem_alloc(&to, COPY_BYTES, 1, "a copy");
    if (!st) memset(from, 1, COPY_BYTES);
    for (int i = 0; i < TRIES && !st; i++) {
        double t = clock_s();
        int n = be->n_threads;
#pragma omp parallel for schedule(static) num_threads(n)
        for (int p = 0; p < n; p++) {
            size_t a = COPY_BYTES / (size_t)n * (size_t)p, b = p + 1 == n ? COPY_BYTES : COPY_BYTES / (size_t)n * (size_t)(p + 1);
            memcpy(to + a, from + a, b - a);
        }
        if (i) *bytes = fmax(*bytes, 2 * (double)COPY_BYTES / (clock_s() - t)); /* the first one meets fresh pages */
    }
    mem_free(from);
    mem_free(to);
    return st;
}
