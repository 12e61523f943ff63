/* The table of kernels for one instruction set, that of the file which includes this and has named the table CPU_TABLE: all templates, and
 * what goes where. */
#ifndef BACKEND_CPU_TABLE_H
#define BACKEND_CPU_TABLE_H

#include "backend/cpu_attn.h"
#include "backend/cpu_gemm.h"
#include "backend/cpu_rows.h"

const cpu_kernels_t CPU_TABLE = {
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

#endif
