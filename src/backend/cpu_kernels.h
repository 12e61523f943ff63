/* The inner kernels of the CPU backend: one table per instruction set, filled by cpu_kernels_*.c from the same templates. Drivers (cpu.c,
 * cpu_linear.c, cpu_attn.c) are compiled once, for any CPU, and do the threading. */
#ifndef BACKEND_CPU_KERNELS_H
#define BACKEND_CPU_KERNELS_H

#include "backend/backend.h"
#include "backend/cpu.h"

/* ---- attention ------------------------------------------------------------------------------------------------
 * A tile is some rows of a run and the query heads that share one K/V head: `lines` = rows x heads query vectors, row by row. Its state
 * over a set of keys: [lines][d_pad] o (not yet divided by l), then [lines][ATTN_STAT] {mx, l, u, top[5]}: with raw logits s = q.k (scale
 * is applied at the end) mx = the largest s, l = sum exp(scale (s - mx)), u = sum exp(scale (s - mx)) s, and the largest s. */
enum { ATTN_LINES = 192, ATTN_STAT = 8, ATTN_KEYS = 64, ATTN_MR = 6 };
enum { STAT_MAX, STAT_L, STAT_U, STAT_TOP };

typedef struct {
    const attn_args_t *a;
    dtype_t act;
    bool dot;  /* bf16 dot products: q, K, V and probabilities in bf16 pairs; else everything in f32 */
    int d_pad; /* d_head rounded up to 16 */
    int max_rows, max_lines;
} attn_job_t;

typedef struct {
    const run_t *run;
    int64_t first; /* row of the run */
    int rows, kv_head, head, heads;
    int64_t first_part; /* in the driver's list, when there is one */
} attn_tile_t;

/* Work space of one thread, made by cpu_attn.c. Cells are 32 bits: an f32 or a pair of bf16. */
typedef struct {
    float *q;          /* cells [lines][d cells] */
    float *k;          /* cells [d cells][ATTN_KEYS] */
    float *v;          /* cells [ATTN_KEYS cells][d_pad] */
    float *s, *p;      /* [ATTN_MR][ATTN_KEYS], cells [ATTN_MR][keys] */
    float *l, *u;      /* [lines][16] sums by lane */
    int64_t *lo, *hi;  /* [rows] visible keys */
    float *part, *acc; /* states */
} attn_work_t;

static inline size_t attn_state_floats(const attn_job_t *j, int lines) { return (size_t)lines * (size_t)(j->d_pad + ATTN_STAT); }
static inline float *attn_stat(const attn_job_t *j, const attn_tile_t *t, float *state) {
    return state + (size_t)(t->rows * t->heads) * (size_t)j->d_pad;
}

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

    /* q of the tile into w->q; a part (keys begin..end of a span, within one split) into a fresh state; two states into one; a state to the
     * outputs */
    void (*attn_query)(const attn_job_t *j, const attn_tile_t *t, attn_work_t *w);
    void (*attn_part)(const attn_job_t *j, const attn_tile_t *t, attn_work_t *w, const span_t *span, int64_t begin, int64_t end,
                      float *state);
    void (*attn_clear)(const attn_job_t *j, const attn_tile_t *t, float *state);
    void (*attn_fold)(const attn_job_t *j, const attn_tile_t *t, float *acc, float *part);
    void (*attn_finish)(const attn_job_t *j, const attn_tile_t *t, int block, float *acc);
} cpu_kernels_t;

enum { GEMM_COLS = 32, GEMM_ROWS = 96 };

extern const cpu_kernels_t cpu_kernels_plain;
#if defined(__x86_64__)
extern const cpu_kernels_t cpu_kernels_avx2, cpu_kernels_avx512, cpu_kernels_avx512bf16;
#endif

#endif
