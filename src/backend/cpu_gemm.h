/* Template: our own matrix product, for CPUs where oneDNN is missing or would let a row's bits depend on its batch. Included once by each
 * cpu_kernels_*.c.
 *
 *     panel: 32 columns of W^T, step by step of k        y[r][c] = one chain of multiply-adds over k = 0 .. K-1, whatever m is
 *
 *         f32    [K][32] f32                             acc[r][c] += x[r][k] * w[k][c]
 *         bf16   [K/2][32] pairs (k, k+1) of bf16        acc[r][c] += x[r][2k] w.. then x[r][2k+1] w..  (or one dot-product instruction for
 * both)
 */
#ifndef BACKEND_CPU_GEMM_H
#define BACKEND_CPU_GEMM_H

#include "backend/cpu_kernels.h"
#include "backend/cpu_vec.h"

#if defined(__AVX512F__)
enum { GEMM_MR = 12, GEMM_NV = 2 };
#else
enum { GEMM_MR = 6, GEMM_NV = 2 };
#endif

enum { PANEL_F32, PANEL_WIDEN, PANEL_DOT };

/* mr x (GEMM_NV vectors) of y; `mr` and `kind` are constants where it is called, so that the accumulators stay in registers. */
V_FN void gemm_tile(int kind, int mr, int64_t steps, const float *x, int64_t ldx, const float *panel, float *y, int64_t ldy, bool add) {
    vf acc[GEMM_MR][GEMM_NV];
#pragma GCC unroll 12
    for (int r = 0; r < mr; r++)
#pragma GCC unroll 2
        for (int v = 0; v < GEMM_NV; v++) acc[r][v] = v_set(0);
    for (int64_t k = 0; k < steps; k++) {
        vf w[GEMM_NV];
#pragma GCC unroll 2
        for (int v = 0; v < GEMM_NV; v++) w[v] = v_load(panel + k * GEMM_COLS + v * VW);
#pragma GCC unroll 12
        for (int r = 0; r < mr; r++)
#pragma GCC unroll 2
            for (int v = 0; v < GEMM_NV; v++) {
                if (kind == PANEL_F32)
                    acc[r][v] = v_fma(v_set(x[r * ldx + k]), w[v], acc[r][v]);
                else if (kind == PANEL_DOT)
                    acc[r][v] = v_dot(acc[r][v], v_set(x[r * ldx + k]), w[v]);
                else
                    acc[r][v] =
                        v_fma(v_set(x[r * ldx + 2 * k + 1]), v_cell_hi(w[v]), v_fma(v_set(x[r * ldx + 2 * k]), v_cell_lo(w[v]), acc[r][v]));
            }
    }
#pragma GCC unroll 12
    for (int r = 0; r < mr; r++)
#pragma GCC unroll 2
        for (int v = 0; v < GEMM_NV; v++) {
            float *to = y + r * ldy + v * VW;
            if (add) acc[r][v] = v_load(to) + acc[r][v];
            v_store(to, acc[r][v]);
        }
}

/* A tile of m <= GEMM_MR rows over all 32 columns. */
V_FN void gemm_strip(int kind, int m, int64_t steps, const float *x, int64_t ldx, const float *panel, float *y, int64_t ldy, bool add) {
#define TILE(n)                                                                                                                            \
    case n:                                                                                                                                \
        gemm_tile(kind, n, steps, x, ldx, panel + c, y + c, ldy, add);                                                                     \
        break
    for (int c = 0; c < GEMM_COLS; c += GEMM_NV * VW) {
        switch (m) {
            TILE(1);
            TILE(2);
            TILE(3);
            TILE(4);
            TILE(5);
            TILE(6);
#if defined(__AVX512F__)
            TILE(7);
            TILE(8);
            TILE(9);
            TILE(10);
            TILE(11);
            TILE(12);
#endif
        }
    }
#undef TILE
}

V_FN void gemm_rows(int kind, int64_t steps, int m, const float *x, int64_t ldx, const float *panel, float *y, int64_t ldy, int n_col,
                    bool add) {
    for (int r = 0; r < m; r += GEMM_MR) {
        int mr = m - r < GEMM_MR ? m - r : GEMM_MR;
        if (n_col == GEMM_COLS) {
            gemm_strip(kind, mr, steps, x + r * ldx, ldx, panel, y + r * ldy, ldy, add);
            continue;
        }
        float edge[GEMM_MR * GEMM_COLS]; /* the last, narrow panel */
        gemm_strip(kind, mr, steps, x + r * ldx, ldx, panel, edge, GEMM_COLS, false);
        for (int i = 0; i < mr; i++)
            for (int c = 0; c < n_col; c++) {
                float *to = &y[(r + i) * ldy + c];
                *to = add ? *to + edge[i * GEMM_COLS + c] : edge[i * GEMM_COLS + c];
            }
    }
}

static void gemm_f32(int64_t n_in, int m, const void *x, int64_t ldx, const void *panel, float *y, int64_t ldy, int n_col, bool add) {
    gemm_rows(PANEL_F32, n_in, m, x, ldx, panel, y, ldy, n_col, add);
}

static void gemm_bf16(int64_t n_in, int m, const void *x, int64_t ldx, const void *panel, float *y, int64_t ldy, int n_col, bool add) {
    int64_t steps = (n_in + 1) / 2;
    if (V_DOT)
        gemm_rows(PANEL_DOT, steps, m, x, ldx / 2, panel, y, ldy, n_col, add);
    else
        gemm_rows(PANEL_WIDEN, steps, m, x, ldx, panel, y, ldy, n_col, add);
}

#endif
