// The merge of split sums (attention_plan.cuh): the parts of one (row, head), in their order, by one warp. A kernel of its own does it for
// many rows; for few, the block that finishes a row's last part. Both call this function, so the bits do not depend on who does it.
#ifndef CUDA_ATTENTION_MERGE_CUH
#define CUDA_ATTENTION_MERGE_CUH

#include "attention_plan.cuh"

typedef struct { // where merged results go; m and top may be NULL, lse too
    float *o, *lse, *m, *top;
} merged_t;

__device__ __forceinline__ void keep_top(float (&best)[ATTN_TOP], float v) {
#pragma unroll
    for (int e = 0; e < ATTN_TOP; e++) {
        float hi = fmaxf(best[e], v);
        v = fminf(best[e], v);
        best[e] = hi;
    }
}

template <int N> struct lanes_t; // a lane's elements of a head
template <> struct lanes_t<2> { typedef float2 type; };
template <> struct lanes_t<4> { typedef float4 type; };

// Part k of the pair is partial row from + k * step. Weights are made 32 parts at a time, one per lane; loads run 16 parts ahead, the sums
// run in the order of the parts. An empty part has o = 0 and weight 0 and leaves no trace, so the number of parts does not matter. Parts
// may have been written by other multiprocessors in this very launch, so they are read from L2.
template <int D>
__device__ __forceinline__ void merge_pair(const attn_part_t &part, int64_t from, int64_t step, int n_part, int64_t to,
                                           const merged_t &out) {
    constexpr int E = D / 32, AHEAD = 8;
    typedef typename lanes_t<E>::type vec;
    int lane = threadIdx.x & 31;
    float mx = -INFINITY, sum = 0, mm = 0, acc[E], best[ATTN_TOP];
    for (int k = lane; k < n_part; k += 32) mx = fmaxf(mx, __ldcg(part.lse + from + k * step));
#pragma unroll
    for (int s = 16; s; s >>= 1) mx = fmaxf(mx, __shfl_xor_sync(~0u, mx, s));
#pragma unroll
    for (int e = 0; e < E; e++) acc[e] = 0;
#pragma unroll
    for (int e = 0; e < ATTN_TOP; e++) best[e] = -INFINITY;
    for (int k0 = 0; k0 < n_part; k0 += 32) {
        int n = min(32, n_part - k0);
        float w = 0, ml = 0;
        if (lane < n && mx != -INFINITY) {
            w = expf(__ldcg(part.lse + from + (k0 + lane) * step) - mx);
            if (out.m) ml = w * __ldcg(part.m + from + (k0 + lane) * step);
        }
        if (out.top && lane < n)
#pragma unroll
            for (int e = 0; e < ATTN_TOP; e++) keep_top(best, __ldcg(part.top + (from + (k0 + lane) * step) * ATTN_TOP + e));
        for (int k1 = 0; k1 < n; k1 += AHEAD) {
            vec v[AHEAD];
#pragma unroll
            for (int i = 0; i < AHEAD; i++)
                if (k1 + i < n) v[i] = __ldcg((const vec *)(part.o + (from + (k0 + k1 + i) * step) * D) + lane);
#pragma unroll
            for (int i = 0; i < AHEAD; i++) {
                if (k1 + i >= n) break;
                float wk = __shfl_sync(~0u, w, k1 + i);
                sum += wk;
                mm += __shfl_sync(~0u, ml, k1 + i);
#pragma unroll
                for (int e = 0; e < E; e++) acc[e] = fmaf(wk, ((const float *)&v[i])[e], acc[e]);
            }
        }
    }
    float inv = sum > 0 ? 1 / sum : 0;
    vec y;
#pragma unroll
    for (int e = 0; e < E; e++) ((float *)&y)[e] = acc[e] * inv;
    ((vec *)(out.o + to * D))[lane] = y;
    if (lane == 0 && out.lse) out.lse[to] = sum > 0 ? mx + logf(sum) : -INFINITY;
    if (lane == 0 && out.m) out.m[to] = mm * inv;
    if (!out.top) return;
#pragma unroll
    for (int s = 16; s; s >>= 1) {
        float other[ATTN_TOP];
#pragma unroll
        for (int e = 0; e < ATTN_TOP; e++) other[e] = __shfl_xor_sync(~0u, best[e], s);
#pragma unroll
        for (int e = 0; e < ATTN_TOP; e++) keep_top(best, other[e]);
    }
    if (lane == 0)
#pragma unroll
        for (int e = 0; e < ATTN_TOP; e++) out.top[to * ATTN_TOP + e] = best[e];
}

#endif
