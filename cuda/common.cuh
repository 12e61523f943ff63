// What the files of cuda/ share: the backend's state, error checks, uploads of small host arrays, conversions.
#ifndef CUDA_COMMON_CUH
#define CUDA_COMMON_CUH

#include <cublasLt.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <stdint.h>
#include <string.h>

extern "C" {
#include "base/dtype.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/status.h"
}
#include "backend/backend.h"

typedef __nv_bfloat16 bf16;

struct gemm_plan;  // linear.cu
struct attn_cache; // attention_plan.cu
enum { N_TICKET = 16 };
// Work counters of persistent kernels: each kernel leaves its own at 0. Products take turns at two, so that one may begin to take work
// while the one before it ends.
enum { COUNT_ATTENTION, COUNT_GEMM, COUNT_BUILT = COUNT_GEMM + 2, N_COUNTER = 64 };

// K/V rows that kernels under way may still be writing when the next one begins (at_rest.cuh).
enum { MAX_FRESH = 64 };
struct fresh_t {
    int n; // more than MAX_FRESH: too many ranges to keep
    struct {
        uintptr_t from, to;
    } range[MAX_FRESH];
};

typedef struct {
    backend_t base;
    int device, cc, n_sm_all, n_sm; // n_sm: those that kernels which fill the GPU take
    size_t l2_bytes;
    int attn_family; // 0 plain, 80 mma.sync, 90 wgmma
    bool gemm_sm90;  // matrix products by our own kernel (gemm.cuh)
    cudaStream_t stream;
    cublasLtHandle_t lt;
    void *work; // cuBLASLt workspace
    size_t work_bytes;
    char *ring_host, *ring_dev; // small host arrays on their way to the device (pinned; see cuda_upload)
    char *old_host, *old_dev;   // the ring before it grew: what the present operation uploaded may lie there
    size_t ring_at, ring_bytes;
    char *pass_host, *pass_dev; // pools and runs of the present pass
    size_t pass_bytes, pass_cap;
    void *scratch; // grows; contents live for one operation
    size_t scratch_bytes;
    gemm_plan *plans;
    attn_cache *attn;
    unsigned *counter; // [N_COUNTER]
    int gemm_turn;     // which of its counters the next product takes
    struct fresh_t fresh;
    bool behind_copy;    // a copy, or a wait for one, stands before the next launch: that overlaps with nothing, whoever carries copies out
    cudaStream_t copies; // copies out and in beside the operations
    cudaEvent_t *marks;  // [cap_mark] made so far: n_mark
    int64_t n_mark, cap_mark;
    cudaEvent_t issued, copied[N_TICKET];
    int64_t ticket; // of the last copy
} cuda_backend_t;

static inline cuda_backend_t *cuda_of(backend_t *b) { return (cuda_backend_t *)b; }

status_t cuda_failed(cudaError_t e, const char *what);
#define CUDA_TRY(call)                                                                                                                     \
    do {                                                                                                                                   \
        cudaError_t cuda_try_e = (call);                                                                                                   \
        if (cuda_try_e != cudaSuccess) return cuda_failed(cuda_try_e, #call);                                                              \
    } while (0)
#define CUDA_LAUNCHED(what)                                                                                                                \
    do {                                                                                                                                   \
        cudaError_t cuda_try_e = cudaGetLastError();                                                                                       \
        if (cuda_try_e != cudaSuccess) return cuda_failed(cuda_try_e, what);                                                               \
    } while (0)
#define ST_TRY(call)                                                                                                                       \
    do {                                                                                                                                   \
        status_t st_try = (call);                                                                                                          \
        if (st_try) return st_try;                                                                                                         \
    } while (0)

// Device copy of `bytes` host bytes for operations issued from now on; *out stays good until ring_bytes more were uploaded.
status_t cuda_upload(cuda_backend_t *b, const void *src, size_t bytes, void *out_pp);
// The same for pools and runs of a pass, which its layers share: sent once, as long as they stay the same.
status_t cuda_upload_pass(cuda_backend_t *b, const kv_pool_t *pools, int n_pool, const run_t *runs, int n_run, const kv_pool_t **pools_out,
                          const run_t **runs_out);
// Device memory that lives until the next call of this function.
status_t cuda_scratch(cuda_backend_t *b, size_t bytes, void *out_pp);

// Operations, one file per family.
size_t linear_bytes_cuda(backend_t *, linear_shape_t);
status_t linear_pack_cuda(backend_t *, linear_shape_t, void *packed, int64_t row0, int64_t n_row, dtype_t w_type, const void *w);
status_t linear_open_cuda(backend_t *, linear_shape_t, const void *packed, linear_t **out);
void linear_close_cuda(backend_t *, linear_t *);
status_t linear_cuda(backend_t *, const linear_t *, int64_t n_row, const void *x, float *y, bool add);
status_t linear_glu_cuda(backend_t *, const linear_t *, int64_t n_row, const void *x, float *wide, void *y);
status_t linear_qkv_cuda(backend_t *, const linear_t *, const void *x, float *wide, const qkv_args_t *);
void linear_free_plans(cuda_backend_t *b);
status_t fill_cuda(backend_t *, uint64_t seed, size_t first, float scale, size_t n, void *dst);
status_t ceilings_cuda(backend_t *, double *flops, double *bytes);
status_t rope_cuda(backend_t *, int64_t n_row, int64_t d_rot, const double *positions, const double *inv_freq, double scale,
                   float *cos_sin);
// silu(gate) * up of f32 rows [gates][ups], or of both interleaved in groups of GLU_GROUP.
status_t gate_cuda(cuda_backend_t *, int64_t n_row, int64_t d, const float *gu, void *y, bool interleaved);
status_t embed_cuda(backend_t *, int64_t n_row, int64_t d, const int32_t *tokens, dtype_t table_type, const void *table, float *x);
status_t rmsnorm_cuda(backend_t *, int64_t n_row, int64_t d, const float *x, const float *w, float eps, void *y);
status_t silu_mul_cuda(backend_t *, int64_t n_row, int64_t d, const float *gu, void *y);
status_t qkv_cuda(backend_t *, const qkv_args_t *);
status_t merge_cuda(backend_t *, const merge_args_t *);
status_t gather_rows_cuda(backend_t *, int64_t n, int64_t d, const int64_t *idx, const float *src, float *dst);
status_t convert_cuda(backend_t *, size_t n, dtype_t dst_type, void *dst, dtype_t src_type, const void *src);
status_t attention_cuda(backend_t *, const attn_args_t *);
status_t attention_ref_cuda(cuda_backend_t *, const attn_args_t *);
void attention_free_cache(cuda_backend_t *b);
bool attention_sm90_built(cuda_backend_t *b); // was this program built for sm_90a, and does that code run here?

#ifdef __CUDACC__
// Kernels of a step follow each other closely: one may begin while the one before ends (sm_90), does what depends on nothing, and waits
// before it touches what others made or read. Launched so, a kernel must wait before anything else that is not constant.
__device__ __forceinline__ void pdl_wait() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
__device__ __forceinline__ void pdl_go() { // the next kernel may begin
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
template <class... P, class... A>
static status_t pdl_launch(cuda_backend_t *b, void (*kernel)(P...), dim3 grid, unsigned threads, size_t smem, const char *what, A... args) {
    cudaLaunchConfig_t c = {};
    cudaLaunchAttribute at[1];
    at[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    at[0].val.programmaticStreamSerializationAllowed = 1;
    c.gridDim = grid;
    c.blockDim = dim3(threads);
    c.dynamicSmemBytes = smem;
    c.stream = b->stream;
    c.attrs = at;
    c.numAttrs = b->cc >= 90 && !b->behind_copy ? 1 : 0;
    b->behind_copy = false;
    cudaError_t e = cudaLaunchKernelEx(&c, kernel, P(args)...);
    return e == cudaSuccess ? ST_OK : cuda_failed(e, what);
}
template <class T> __device__ __forceinline__ float to_f32(T x);
template <> __device__ __forceinline__ float to_f32(float x) { return x; }
template <> __device__ __forceinline__ float to_f32(bf16 x) { return __bfloat162float(x); }
template <> __device__ __forceinline__ float to_f32(__half x) { return __half2float(x); }
template <class T> __device__ __forceinline__ T from_f32(float x);
template <> __device__ __forceinline__ float from_f32(float x) { return x; }
template <> __device__ __forceinline__ bf16 from_f32(float x) { return __float2bfloat16_rn(x); }
template <> __device__ __forceinline__ __half from_f32(float x) { return __float2half_rn(x); }
__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
    for (int o = 16; o; o >>= 1) x += __shfl_xor_sync(~0u, x, o);
    return x;
}
#endif
#endif
