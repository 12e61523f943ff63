// Everything of a decoder block that is neither a matrix product nor attention. All of it is bound by memory: 16-byte accesses where the
// shape allows, one pass. A row is reduced by one thread block in a fixed order, so its bits depend on nothing but the row.
#include "at_rest.cuh"
#include "gemm.cuh"

enum { THREADS = 256 };
static unsigned grid_for(int64_t n, int per) { return (unsigned)((n + per - 1) / per); }

// ---- embed, gather --------------------------------------------------------------------------------------------------
template <class T> __global__ void embed_kernel(int64_t d, const int32_t *tokens, const T *table, float *x) {
    const T *from = table + (int64_t)tokens[blockIdx.x] * d;
    for (int64_t j = threadIdx.x; j < d; j += blockDim.x) x[blockIdx.x * d + j] = to_f32<T>(from[j]);
}

status_t embed_cuda(backend_t *bb, int64_t n_row, int64_t d, const int32_t *tokens, dtype_t type, const void *table, float *x) {
    cuda_backend_t *b = cuda_of(bb);
    if (!n_row) return ST_OK;
    int32_t *t;
    ST_TRY(cuda_upload(b, tokens, sizeof *tokens * (size_t)n_row, &t));
    if (type == DT_F32)
        embed_kernel<float><<<(unsigned)n_row, THREADS, 0, b->stream>>>(d, t, (const float *)table, x);
    else
        embed_kernel<bf16><<<(unsigned)n_row, THREADS, 0, b->stream>>>(d, t, (const bf16 *)table, x);
    CUDA_LAUNCHED("embed");
    return ST_OK;
}

__global__ void gather_kernel(int64_t d, const int64_t *idx, const float *src, float *dst) {
    const float *from = src + idx[blockIdx.x] * d;
    for (int64_t j = threadIdx.x; j < d; j += blockDim.x) dst[blockIdx.x * d + j] = from[j];
}

status_t gather_rows_cuda(backend_t *bb, int64_t n, int64_t d, const int64_t *idx, const float *src, float *dst) {
    cuda_backend_t *b = cuda_of(bb);
    if (!n) return ST_OK;
    int64_t *at;
    ST_TRY(cuda_upload(b, idx, sizeof *idx * (size_t)n, &at));
    gather_kernel<<<(unsigned)n, THREADS, 0, b->stream>>>(d, at, src, dst);
    CUDA_LAUNCHED("gather_rows");
    none_at_rest(b);
    return ST_OK;
}

// ---- rmsnorm --------------------------------------------------------------------------------------------------------
template <class T> __device__ __forceinline__ void store4(T *y, float4 v);
template <> __device__ __forceinline__ void store4(float *y, float4 v) { *(float4 *)y = v; }
template <> __device__ __forceinline__ void store4(bf16 *y, float4 v) {
    __nv_bfloat162 p[2] = {__floats2bfloat162_rn(v.x, v.y), __floats2bfloat162_rn(v.z, v.w)};
    *(uint2 *)y = *(uint2 *)p;
}

__device__ float block_sum(float s) {
    __shared__ float part[THREADS / 32];
    s = warp_sum(s);
    if (!(threadIdx.x & 31)) part[threadIdx.x >> 5] = s;
    __syncthreads();
    s = 0;
    for (int w = 0; w < THREADS / 32; w++) s += part[w];
    return s;
}

// Rows of any length: one block each, read twice (the second time from a cache).
template <class T> __global__ void __launch_bounds__(THREADS) rmsnorm_kernel(int64_t d, const float *x, const float *w, float eps, T *y) {
    pdl_go();
    pdl_wait();
    x += blockIdx.x * d;
    y += blockIdx.x * d;
    float s = 0;
    for (int64_t j = threadIdx.x; j < d; j += THREADS) s += x[j] * x[j];
    float r = rsqrtf(block_sum(s) / (float)d + eps);
    for (int64_t j = threadIdx.x; j < d; j += THREADS) y[j] = from_f32<T>(w[j] * (x[j] * r));
}

// N groups of 4 elements a thread, kept in registers; W warps a row (1: several rows a block).
template <int W, int N, class T>
__global__ void __launch_bounds__(THREADS) rmsnorm_wide_kernel(int64_t n_row, int64_t d, const float *x, const float *w, float eps, T *y) {
    int thread = W == 1 ? (int)threadIdx.x & 31 : (int)threadIdx.x;
    int64_t row = W == 1 ? (int64_t)blockIdx.x * (THREADS / 32) + threadIdx.x / 32 : blockIdx.x;
    pdl_go();
    float4 g[N], v[N];
#pragma unroll
    for (int i = 0; i < N; i++) { // the weights are constant
        int64_t j = ((int64_t)i * 32 * W + thread) * 4;
        g[i] = j < d ? *(const float4 *)(w + j) : make_float4(0, 0, 0, 0);
    }
    pdl_wait();
    if (row >= n_row) return;
    float s = 0;
#pragma unroll
    for (int i = 0; i < N; i++) {
        int64_t j = ((int64_t)i * 32 * W + thread) * 4;
        v[i] = j < d ? *(const float4 *)(x + row * d + j) : make_float4(0, 0, 0, 0);
    }
#pragma unroll
    for (int i = 0; i < N; i++) s += v[i].x * v[i].x + v[i].y * v[i].y + v[i].z * v[i].z + v[i].w * v[i].w;
    float r = rsqrtf((W == 1 ? warp_sum(s) : block_sum(s)) / (float)d + eps);
#pragma unroll
    for (int i = 0; i < N; i++) {
        int64_t j = ((int64_t)i * 32 * W + thread) * 4;
        if (j < d)
            store4<T>(y + row * d + j,
                      make_float4(g[i].x * (v[i].x * r), g[i].y * (v[i].y * r), g[i].z * (v[i].z * r), g[i].w * (v[i].w * r)));
    }
}

template <class T> static status_t rmsnorm_any(cuda_backend_t *b, int64_t n, int64_t d, const float *x, const float *w, float eps, T *y) {
    unsigned rows = grid_for(n, THREADS / 32);
    if (d % 4 == 0 && d <= 640) return pdl_launch(b, rmsnorm_wide_kernel<1, 5, T>, dim3(rows), THREADS, 0, "rmsnorm", n, d, x, w, eps, y);
    if (d % 4 == 0 && d <= 1024) return pdl_launch(b, rmsnorm_wide_kernel<1, 8, T>, dim3(rows), THREADS, 0, "rmsnorm", n, d, x, w, eps, y);
    if (d % 4 == 0 && d <= 2048)
        return pdl_launch(b, rmsnorm_wide_kernel<8, 2, T>, dim3((unsigned)n), THREADS, 0, "rmsnorm", n, d, x, w, eps, y);
    if (d % 4 == 0 && d <= 4096)
        return pdl_launch(b, rmsnorm_wide_kernel<8, 4, T>, dim3((unsigned)n), THREADS, 0, "rmsnorm", n, d, x, w, eps, y);
    return pdl_launch(b, rmsnorm_kernel<T>, dim3((unsigned)n), THREADS, 0, "rmsnorm", d, x, w, eps, y);
}

status_t rmsnorm_cuda(backend_t *bb, int64_t n_row, int64_t d, const float *x, const float *w, float eps, void *y) {
    if (!n_row) return ST_OK;
    if (bb->act == DT_F32) return rmsnorm_any(cuda_of(bb), n_row, d, x, w, eps, (float *)y);
    return rmsnorm_any(cuda_of(bb), n_row, d, x, w, eps, (bf16 *)y);
}

// ---- silu_mul -------------------------------------------------------------------------------------------------------
// gu rows: d gates, then d ups; or (apart < d) groups of `apart` gates and their ups in turn.
template <class T> __global__ void silu_mul_kernel(int64_t n, int64_t d, int64_t apart, const float *gu, T *y) {
    pdl_go();
    pdl_wait();
    int64_t at = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) * 4;
    if (at >= n) return;
    int64_t row = at / d, j = at - row * d;
    const float *g = gu + row * 2 * d + j / apart * 2 * apart + j % apart;
    if (d % 4 == 0) {
        float4 a = *(const float4 *)g, u = *(const float4 *)(g + apart);
        store4<T>(y + at, make_float4(silu_times(a.x, u.x), silu_times(a.y, u.y), silu_times(a.z, u.z), silu_times(a.w, u.w)));
        return;
    }
    for (int64_t e = at; e < n && e < at + 4; e++) { // never interleaved: those have groups of whole fours
        row = e / d;
        g = gu + row * 2 * d + (e - row * d);
        y[e] = from_f32<T>(silu_times(g[0], g[d]));
    }
}

status_t gate_cuda(cuda_backend_t *b, int64_t n_row, int64_t d, const float *gu, void *y, bool interleaved) {
    int64_t n = n_row * d, apart = interleaved ? (int64_t)GLU_GROUP : d;
    if (!n) return ST_OK;
    if (b->base.act == DT_F32)
        return pdl_launch(b, silu_mul_kernel<float>, dim3(grid_for(n, 4 * THREADS)), THREADS, 0, "silu_mul", n, d, apart, gu, (float *)y);
    return pdl_launch(b, silu_mul_kernel<bf16>, dim3(grid_for(n, 4 * THREADS)), THREADS, 0, "silu_mul", n, d, apart, gu, (bf16 *)y);
}
status_t silu_mul_cuda(backend_t *bb, int64_t n_row, int64_t d, const float *gu, void *y) {
    return gate_cuda(cuda_of(bb), n_row, d, gu, y, false);
}

// ---- rope -----------------------------------------------------------------------------------------------------------
__global__ void rope_kernel(int64_t n, int half, const double *positions, const double *inv_freq, double scale, float *cos_sin) {
    int64_t at = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= n) return;
    int64_t row = at / half, j = at - row * half;
    double s, c;
    sincos(positions[row] * inv_freq[j], &s, &c);
    cos_sin[row * 2 * half + j] = (float)(scale * c);
    cos_sin[row * 2 * half + half + j] = (float)(scale * s);
}

status_t rope_cuda(backend_t *bb, int64_t n_row, int64_t d_rot, const double *positions, const double *inv_freq, double scale,
                   float *cos_sin) {
    cuda_backend_t *b = cuda_of(bb);
    int64_t half = d_rot / 2, n = n_row * half;
    double *p, *f;
    if (!n) return ST_OK;
    ST_TRY(cuda_upload(b, positions, sizeof *positions * (size_t)n_row, &p));
    ST_TRY(cuda_upload(b, inv_freq, sizeof *inv_freq * (size_t)half, &f));
    rope_kernel<<<grid_for(n, THREADS), THREADS, 0, b->stream>>>(n, (int)half, p, f, scale, cos_sin);
    CUDA_LAUNCHED("rope");
    return ST_OK;
}

// ---- qkv: bias, norms, rotation, rows into their pools --------------------------------------------------------------
// A thread block per row, one warp per head in turn; of few rows several blocks, so that every head has a warp of its own. The head waits
// in shared memory so that pairs (j, j + d_rot/2) can meet. Whatever a head reads is asked for at once: one latency, not one for each
// value.
enum { QKV_WARPS = 8, QKV_MAX_D = 256 };

// Where the row's K and V go: runs and pools come by copies, which no kernel overlaps.
struct qkv_place_t {
    kv_pool_t pool;
    int64_t at; // element of K/V head 0
    bool kept;
};
static __device__ __forceinline__ qkv_place_t qkv_place(const qkv_args_t &a, int64_t row) {
    __shared__ int run_at;
    if (threadIdx.x == 0) run_at = -1;
    __syncthreads();
    for (int r = threadIdx.x; r < a.n_run; r += blockDim.x)
        if (row >= a.runs[r].row && row < a.runs[r].row + a.runs[r].n) run_at = r;
    __syncthreads();
    qkv_place_t p;
    p.kept = run_at >= 0 && a.runs[run_at].pool >= 0;
    if (!p.kept) return p;
    const run_t &run = a.runs[run_at];
    p.pool = a.pools[run.pool];
    p.at = a.layer * p.pool.layer_stride + (run.index + row - run.row) * p.pool.row_stride;
    return p;
}

// A lane has elements lane + 32 e of a head, e < E.
template <class T, int E> __global__ void __launch_bounds__(32 * QKV_WARPS) qkv_kernel(qkv_args_t a) {
    __shared__ float head[QKV_WARPS][32 * E];
    pdl_go();
    int64_t row = blockIdx.x;
    int lane = threadIdx.x & 31, d = a.d_head, half = a.d_rot / 2, n_all = a.n_head + 2 * a.n_kv_head;
    const qkv_place_t place = qkv_place(a, row);
    float *x = head[threadIdx.x >> 5];
    const float *cs = a.cos_sin + row * a.d_rot;
    pdl_wait();
    for (int h = (int)(blockIdx.y * QKV_WARPS + (threadIdx.x >> 5)); h < n_all; h += (int)gridDim.y * QKV_WARPS) {
        bool is_q = h < a.n_head, is_k = !is_q && h < a.n_head + a.n_kv_head, turns = is_q || is_k;
        if (!is_q && !place.kept) continue;
        const float *from = a.qkv + (row * n_all + h) * d, *w = is_q ? a.q_norm : is_k ? a.k_norm : NULL;
        float v[E], c[E], sn[E], s = 0;
#pragma unroll
        for (int e = 0; e < E; e++) {
            int j = lane + 32 * e, pair = j < half ? j : j - half;
            v[e] = j < d ? from[j] : 0.f;
            c[e] = turns && j < 2 * half ? cs[pair] : 0.f;
            sn[e] = turns && j < 2 * half ? cs[half + pair] : 0.f;
        }
#pragma unroll
        for (int e = 0; e < E; e++) {
            int j = lane + 32 * e;
            if (j < d && a.bias) v[e] = __fadd_rn(v[e], a.bias[h * d + j]);
            s += v[e] * v[e];
        }
        float r = w ? rsqrtf(warp_sum(s) / (float)d + a.norm_eps) : 1.f;
#pragma unroll
        for (int e = 0; e < E; e++) {
            int j = lane + 32 * e;
            if (j < d && w) v[e] = w[j] * (v[e] * r);
            if (j < d) x[j] = v[e];
        }
        __syncwarp();
        const kv_pool_t &p = place.pool;
        int64_t at = place.at + (h - a.n_head - (is_k ? 0 : a.n_kv_head)) * p.head_stride;
        void *to = is_k ? p.k : p.v;
#pragma unroll
        for (int e = 0; e < E; e++) {
            int j = lane + 32 * e;
            float y = v[e];
            if (j >= d) break;
            if (turns && j < 2 * half) y = j < half ? turn_low(y, x[j + half], c[e], sn[e]) : turn_high(x[j - half], y, c[e], sn[e]);
            if (is_q)
                ((T *)a.q)[(row * a.n_head + h) * d + j] = from_f32<T>(y);
            else if (p.type == DT_F32)
                ((float *)to)[at + j] = y;
            else
                ((bf16 *)to)[at + j] = __float2bfloat16_rn(y);
        }
        __syncwarp();
    }
}

status_t qkv_cuda(backend_t *bb, const qkv_args_t *x) {
    cuda_backend_t *b = cuda_of(bb);
    if (!x->n_row) return ST_OK;
    if (x->d_head > QKV_MAX_D)
        return status_fail(ST_FAIL, "qkv: heads of %d elements, the GPU backend takes up to %d; use --backend cpu", x->d_head, QKV_MAX_D);
    qkv_args_t a = *x;
    ST_TRY(cuda_upload_pass(b, x->pools, x->n_pool, x->runs, x->n_run, &a.pools, &a.runs));
    const int64_t turns = (x->n_head + 2 * x->n_kv_head + QKV_WARPS - 1) / QKV_WARPS, fill = i64_max(1, 2 * b->n_sm / x->n_row);
    dim3 grid((unsigned)a.n_row, (unsigned)i64_min(turns, fill));
    auto kernel = x->d_head <= 128 ? (b->base.act == DT_F32 ? qkv_kernel<float, 4> : qkv_kernel<bf16, 4>)
                                   : (b->base.act == DT_F32 ? qkv_kernel<float, QKV_MAX_D / 32> : qkv_kernel<bf16, QKV_MAX_D / 32>);
    ST_TRY(pdl_launch(b, kernel, grid, 32 * QKV_WARPS, 0, "qkv", a));
    note_fresh(b, x);
    return ST_OK;
}

// ---- merge of partial results ---------------------------------------------------------------------------------------
template <class T> __global__ void merge_kernel(merge_args_t a) {
    pdl_go();
    pdl_wait();
    int lane = threadIdx.x & 31;
    int64_t n = a.n_row * a.n_head, at = (int64_t)blockIdx.x * (blockDim.x >> 5) + (threadIdx.x >> 5);
    if (at >= n) return;
    float mx = -INFINITY, sum = 0;
    for (int k = 0; k < a.n_block; k++)
        if (!a.keep || a.keep[k * n + at]) mx = fmaxf(mx, a.lse[k * n + at]);
    bool none = mx == -INFINITY;
    for (int k = 0; !none && k < a.n_block; k++)
        if (!a.keep || a.keep[k * n + at]) sum += expf(a.lse[k * n + at] - mx);
    float inv = none ? 0.f : 1.f / sum, m = 0;
    for (int j = lane; j < a.d_head; j += 32) {
        float o = 0;
        for (int k = 0; !none && k < a.n_block; k++) {
            float l = a.lse[k * n + at];
            if ((a.keep && !a.keep[k * n + at]) || l == -INFINITY) continue;
            o += expf(l - mx) * a.o[(k * n + at) * a.d_head + j];
        }
        ((T *)a.o_out)[at * a.d_head + j] = from_f32<T>(o * inv);
    }
    if (lane) return;
    for (int k = 0; a.m && !none && k < a.n_block; k++)
        if ((!a.keep || a.keep[k * n + at]) && a.lse[k * n + at] != -INFINITY) m += expf(a.lse[k * n + at] - mx) * a.m[k * n + at];
    if (a.lse_out) a.lse_out[at] = none ? -INFINITY : mx + logf(sum);
    if (a.m_out) a.m_out[at] = m * inv;
}

status_t merge_cuda(backend_t *bb, const merge_args_t *a) {
    cuda_backend_t *b = cuda_of(bb);
    int64_t n = a->n_row * a->n_head;
    if (!n) return ST_OK;
    if (a->o_out_type == DT_F32) return pdl_launch(b, merge_kernel<float>, dim3(grid_for(n, THREADS / 32)), THREADS, 0, "merge", *a);
    return pdl_launch(b, merge_kernel<bf16>, dim3(grid_for(n, THREADS / 32)), THREADS, 0, "merge", *a);
}

// ---- convert --------------------------------------------------------------------------------------------------------
template <class D, class S> __global__ void convert_kernel(size_t n, D *dst, const S *src) {
    for (size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (size_t)gridDim.x * blockDim.x)
        dst[i] = from_f32<D>(to_f32<S>(src[i]));
}
template <class D> static void convert_from(cuda_backend_t *b, size_t n, D *dst, dtype_t type, const void *src) {
    unsigned grid = (unsigned)(n / 1024 + 1 < 4096 ? n / 1024 + 1 : 4096);
    if (type == DT_F32)
        convert_kernel<<<grid, THREADS, 0, b->stream>>>(n, dst, (const float *)src);
    else if (type == DT_BF16)
        convert_kernel<<<grid, THREADS, 0, b->stream>>>(n, dst, (const bf16 *)src);
    else
        convert_kernel<<<grid, THREADS, 0, b->stream>>>(n, dst, (const __half *)src);
}

status_t convert_cuda(backend_t *bb, size_t n, dtype_t dst_type, void *dst, dtype_t src_type, const void *src) {
    cuda_backend_t *b = cuda_of(bb);
    if (!n) return ST_OK;
    if (dst_type == DT_F32)
        convert_from(b, n, (float *)dst, src_type, src);
    else if (dst_type == DT_BF16)
        convert_from(b, n, (bf16 *)dst, src_type, src);
    else
        convert_from(b, n, (__half *)dst, src_type, src);
    CUDA_LAUNCHED("convert");
    none_at_rest(b);
    return ST_OK;
}
