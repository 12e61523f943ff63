/* The inner kernels of the CPU backend: one table per instruction set, filled by cpu_kernels_*.c from the same templates. Drivers (cpu.c,
 * cpu_linear.c, cpu_attn.c) are compiled once, for any CPU, and do the threading. */
#ifndef BACKEND_CPU_KERNELS_H
#define BACKEND_CPU_KERNELS_H

#include "backend/backend.h"
#include "backend/cpu.h"

typedef struct cpu_kernels {
    /* rows of elementwise operations; d and n in elements, `act` the type of y */
    void (*rmsnorm)(int64_t n_row, int64_t d, const float *x, const float *w, float eps, dtype_t act, void *y);
    void (*silu_mul)(int64_t n_row, int64_t d, const float *gu, dtype_t act, void *y);
    void (*qkv_rows)(const qkv_args_t *a, dtype_t act, const run_t *run, int64_t first, int64_t n, float *head /*[d_head]*/);
    void (*merge_heads)(const merge_args_t *a, int64_t first, int64_t n, float *o /*[d_head]*/);
    void (*convert)(size_t n, dtype_t dst_type, void *dst, dtype_t src_type, const void *src); /* F32 and BF16 */

    /* y[m][n_col] (+)= x[m][n_in] times one packed panel of GEMM_COLS columns; m <= GEMM_ROWS. gemm_f32: x f32, panel f32. gemm_bf16: panel
     * of bf16 pairs; x is bf16 pairs when bf16_dot, else f32 with an even row length. ld* in elements of their own type. */
    bool bf16_dot;
    void (*gemm_f32)(int64_t n_in, int m, const void *x, int64_t ldx, const void *panel, float *y, int64_t ldy, int n_col, bool add);
    void (*gemm_bf16)(int64_t n_in, int m, const void *x, int64_t ldx, const void *panel, float *y, int64_t ldy, int n_col, bool add);
} cpu_kernels_t;

enum { GEMM_COLS = 32, GEMM_ROWS = 96 };

extern const cpu_kernels_t cpu_kernels_plain;
#if defined(__x86_64__)
extern const cpu_kernels_t cpu_kernels_avx2, cpu_kernels_avx512, cpu_kernels_avx512bf16;
#endif

#endif
