/* The kernels for AVX-512 with bf16 dot products. */
#if defined(__x86_64__)
#include "backend/cpu_attn.h"
#include "backend/cpu_gemm.h"
#include "backend/cpu_rows.h"

const cpu_kernels_t cpu_kernels_avx512bf16 = {
    .rmsnorm = rows_rmsnorm,
    .silu_mul = rows_silu_mul,
    .qkv_rows = rows_qkv,
    .merge_heads = rows_merge,
    .convert = rows_convert,
    .bf16_dot = V_DOT,
    .gemm_f32 = gemm_f32,
    .gemm_bf16 = gemm_bf16,
    .attn_query = attn_query,
    .attn_part = attn_part,
    .attn_clear = attn_clear,
    .attn_fold = attn_fold,
    .attn_finish = attn_finish,
};
#else
typedef int cpu_kernels_avx512bf16_unused; /* a file must declare something */
#endif
