// Matrix products on Hopper with what follows them folded in (gemm_sm90.cu), and the arithmetic that the folded and the separate kernels
// share: both must give the same bits, since many rows take the one and few rows the other.
#ifndef CUDA_GEMM_CUH
#define CUDA_GEMM_CUH

#include "common.cuh"

// Gate and up rows stand interleaved in a packed weight, so that a thread which holds one gate holds its up as well.
enum { GLU_GROUP = 8 };

typedef enum { GEMM_SET, GEMM_ADD, GEMM_GLU, GEMM_QKV } gemm_out_t;
typedef struct {
    gemm_out_t out;
    linear_shape_t shape;
    int64_t n_row;
    const void *x, *w;     // bf16 [n_row][n_in], [n_out][n_in]
    void *y;               // SET, ADD: f32 [n_row][n_out]; GLU: bf16 [n_row][n_out / 2]
    const qkv_args_t *qkv; // QKV: where rows go; pools and runs on the host
} gemm_args_t;

// *done = false: not for this card, shape or call; nothing was launched.
status_t gemm_sm90(cuda_backend_t *b, const gemm_args_t *g, bool *done);
// The same for one row, bound by reading W; no QKV.
status_t gemm_thin(cuda_backend_t *b, const gemm_args_t *g, bool *done);
bool gemm_sm90_serves(const cuda_backend_t *b, linear_shape_t s);

#ifdef __CUDACC__
// silu(g) * u; exponential and reciprocal are the card's own, a few units in the last place.
__device__ __forceinline__ float silu_times(float g, float u) {
    float e, r;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(e) : "f"(__fmul_rn(g, -1.4426950408889634f)));
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(__fadd_rn(1.f, e)));
    return __fmul_rn(__fmul_rn(g, r), u);
}
// The pair (a, b) of a head turned by an angle.
__device__ __forceinline__ float turn_low(float a, float b, float c, float s) { return __fmaf_rn(a, c, -__fmul_rn(b, s)); }
__device__ __forceinline__ float turn_high(float a, float b, float c, float s) { return __fmaf_rn(b, c, __fmul_rn(a, s)); }
#endif
#endif
