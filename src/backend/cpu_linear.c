/* Linear layers: oneDNN where it keeps a row's bits independent of its batch, our own panels (cpu_gemm.h) elsewhere. Which of the two is
 * decided by shape, so it is the same when a weight is packed, opened and used. */
#include <assert.h>
#include <string.h>

#include "backend/cpu.h"
#include "backend/cpu_dnnl.h"
#include "backend/cpu_kernels.h"
#include "base/mem.h"

struct linear {
    linear_shape_t shape;
    const void *packed;
    bool dnnl;
};

static bool takes_dnnl(cpu_t *c, linear_shape_t s) { return c->dnnl && cpu_dnnl_bytes(c->dnnl, s) > 0; }

/* 32-bit steps of a panel column: one f32, or a pair of bf16. */
static int64_t panel_steps(const cpu_t *c, int64_t n_in) { return c->base.act == DT_BF16 ? (n_in + 1) / 2 : n_in; }
static int64_t panel_cells(const cpu_t *c, int64_t n_in) { return panel_steps(c, n_in) * GEMM_COLS; }

size_t cpu_linear_bytes(backend_t *be, linear_shape_t s) {
    cpu_t *c = (cpu_t *)be;
    if (takes_dnnl(c, s)) return cpu_dnnl_bytes(c->dnnl, s);
    return (size_t)(i64_ceil_div(s.n_out, GEMM_COLS) * panel_cells(c, s.n_in)) * 4;
}

/* Column `col` of a panel from a row of W. */
static void column_pack(dtype_t act, int64_t n_in, const void *w, int col, void *panel) {
    if (act == DT_F32) {
        for (int64_t k = 0; k < n_in; k++) ((float *)panel)[k * GEMM_COLS + col] = ((const float *)w)[k];
        return;
    }
    for (int64_t k = 0; k < n_in + (n_in & 1); k++)
        ((uint16_t *)panel)[(k / 2 * GEMM_COLS + col) * 2 + k % 2] = k < n_in ? ((const uint16_t *)w)[k] : 0;
}

static void panels_pack(cpu_t *c, linear_shape_t s, void *packed, int64_t row0, int64_t n_row, const void *w) {
    size_t row_bytes = (size_t)s.n_in * dtype_bytes(c->base.act), panel_bytes = (size_t)panel_cells(c, s.n_in) * 4;
    int64_t first = row0 / GEMM_COLS, last = i64_ceil_div(row0 + n_row, GEMM_COLS);
#pragma omp parallel for schedule(static) num_threads(c->base.n_threads)
    for (int64_t p = first; p < last; p++) {
        char *panel = (char *)packed + (size_t)p * panel_bytes;
        if ((p + 1) * GEMM_COLS > s.n_out) memset(panel, 0, panel_bytes);
        for (int64_t r = i64_max(row0, p * GEMM_COLS); r < i64_min(row0 + n_row, (p + 1) * GEMM_COLS); r++)
            column_pack(c->base.act, s.n_in, (const char *)w + (size_t)(r - row0) * row_bytes, (int)(r % GEMM_COLS), panel);
    }
}

status_t cpu_linear_pack(backend_t *be, linear_shape_t s, void *packed, int64_t row0, int64_t n_row, dtype_t w_type, const void *w) {
    cpu_t *c = (cpu_t *)be;
    assert(row0 % 64 == 0 && row0 + n_row <= s.n_out && (n_row % 64 == 0 || row0 + n_row == s.n_out));
    if (n_row == 0) return ST_OK;
    void *same = NULL; /* memory of the call's own: other threads may be packing other weights */
    status_t st = ST_OK;
    if (w_type != be->act) {
        size_t n = (size_t)n_row * (size_t)s.n_in;
        st = mem_alloc(&same, n, dtype_bytes(be->act), "rows of weights");
        if (st) return st;
        c->k->convert(n, be->act, same, w_type, w);
        w = same;
    }
    if (takes_dnnl(c, s))
        st = cpu_dnnl_pack(c->dnnl, s, packed, row0, n_row, w);
    else
        panels_pack(c, s, packed, row0, n_row, w);
    mem_free(same);
    return st;
}

status_t cpu_linear_open(backend_t *be, linear_shape_t s, const void *packed, linear_t **out) {
    status_t st = mem_alloc(out, 1, sizeof **out, "a linear layer");
    if (!st) **out = (linear_t){s, packed, takes_dnnl((cpu_t *)be, s)};
    return st;
}

void cpu_linear_close(backend_t *be, linear_t *l) {
    (void)be;
    mem_free(l);
}

/* x as the bf16 kernel wants it, with an even row length: widened to f32 where there are no dot products. *x stays when it is right
 * already. */
static status_t x_prepare(cpu_t *c, int64_t n_row, int64_t n_in, const void **x, int64_t *ldx) {
    *ldx = n_in + (c->base.act == DT_BF16 ? n_in & 1 : 0);
    if (c->base.act == DT_F32 || (c->k->bf16_dot && *ldx == n_in)) return ST_OK;
    dtype_t type = c->k->bf16_dot ? DT_BF16 : DT_F32;
    size_t from_row = (size_t)n_in * 2, to_row = (size_t)*ldx * dtype_bytes(type);
    char *to;
    status_t st = cpu_scratch(c, (size_t)n_row * to_row, &to);
    if (st) return st;
    const char *from = *x;
#pragma omp parallel for schedule(static) num_threads(c->base.n_threads) if (n_row > 16)
    for (int64_t t = 0; t < n_row; t++) {
        c->k->convert((size_t)n_in, type, to + (size_t)t * to_row, DT_BF16, from + (size_t)t * from_row);
        if (*ldx > n_in) memset(to + (size_t)(t + 1) * to_row - dtype_bytes(type), 0, dtype_bytes(type));
    }
    *x = to;
    return ST_OK;
}

static status_t panels_linear(cpu_t *c, const linear_t *l, int64_t n_row, const void *x, float *y, bool add) {
    int64_t n_in = l->shape.n_in, n_out = l->shape.n_out, ldx;
    status_t st = x_prepare(c, n_row, n_in, &x, &ldx);
    if (st) return st;
    bool bf16 = c->base.act == DT_BF16;
    size_t x_bytes = bf16 && c->k->bf16_dot ? 2 : 4;
    int64_t n_panel = i64_ceil_div(n_out, GEMM_COLS), n_block = i64_ceil_div(n_row, GEMM_ROWS);
#pragma omp parallel for schedule(static) num_threads(c->base.n_threads)
    for (int64_t task = 0; task < n_panel * n_block; task++) {
        int64_t r = task / n_panel * GEMM_ROWS, col = task % n_panel * GEMM_COLS;
        const char *panel = (const char *)l->packed + (size_t)(task % n_panel * panel_cells(c, n_in)) * 4;
        (bf16 ? c->k->gemm_bf16 : c->k->gemm_f32)(n_in, (int)i64_min(GEMM_ROWS, n_row - r), (const char *)x + (size_t)(r * ldx) * x_bytes,
                                                  ldx, panel, y + r * n_out + col, n_out, (int)i64_min(GEMM_COLS, n_out - col), add);
    }
    return ST_OK;
}

status_t cpu_linear(backend_t *be, const linear_t *l, int64_t n_row, const void *x, float *y, bool add) {
    cpu_t *c = (cpu_t *)be;
    if (n_row == 0) return ST_OK;
    if (l->dnnl) return cpu_dnnl_linear(c->dnnl, l->shape, l->packed, n_row, x, y, add);
    return panels_linear(c, l, n_row, x, y, add);
}
