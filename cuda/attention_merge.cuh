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

// Part k of the pair is partial row from + k * step. Weights are made 32 parts at a time, one per lane; values are on their way 8 parts at
// a time, the first before anything else is known; the sums run in the order of the parts. An empty part has o = 0 and weight 0 and leaves
// no trace, so the number of parts does not matter. Parts may have been written by other multiprocessors in this very launch, so they are
// read from L2.
template <int D>
__device__ __forceinline__ void merge_pair(const attn_part_t &part, int64_t from, int64_t step, int n_part, int64_t to,
                                           const merged_t &out) {
    constexpr int E = D / 32, AHEAD = 8;
    typedef typename lanes_t<E>::type vec;
    int lane = threadIdx.x & 31;
    float mx = -INFINITY, sum = 0, mm = 0, acc[E], best[ATTN_TOP];
    vec v[AHEAD];
    auto fetch = [&](int k0) {
#pragma unroll
        for (int i = 0; i < AHEAD; i++)
            if (k0 + i < n_part) v[i] = __ldcg((const vec *)(part.o + (from + (k0 + i) * step) * D) + lane);
    };
    fetch(0);
    float lse = lane < n_part ? __ldcg(part.lse + from + lane * step) : -INFINITY; // of part k0 + lane
    for (int k = lane; k < n_part; k += 32) mx = fmaxf(mx, k == lane ? lse : __ldcg(part.lse + from + k * step));
#pragma unroll
    for (int s = 16; s; s >>= 1) mx = fmaxf(mx, __shfl_xor_sync(~0u, mx, s));
#pragma unroll
    for (int e = 0; e < E; e++) acc[e] = 0;
#pragma unroll
    for (int e = 0; e < ATTN_TOP; e++) best[e] = -INFINITY;
    float w = 0, ml = 0;
    for (int k0 = 0; k0 < n_part; k0 += AHEAD) {
        if (k0) fetch(k0);
        if (k0 % 32 == 0) {
            int k = k0 + lane;
            if (k0 && k < n_part) lse = __ldcg(part.lse + from + k * step);
            w = k < n_part && mx != -INFINITY ? expf(lse - mx) : 0.f;
            if (out.m) ml = k < n_part && w > 0 ? w * __ldcg(part.m + from + k * step) : 0.f;
            if (out.top && k < n_part)
#pragma unroll
                for (int e = 0; e < ATTN_TOP; e++) keep_top(best, __ldcg(part.top + (from + k * step) * ATTN_TOP + e));
        }
#pragma unroll
        for (int i = 0; i < AHEAD; i++) {
            if (k0 + i >= n_part) break;
            float wk = __shfl_sync(~0u, w, (k0 + i) & 31);
            sum += wk;
            mm += __shfl_sync(~0u, ml, (k0 + i) & 31);
#pragma unroll
            for (int e = 0; e < E; e++) acc[e] = fmaf(wk, ((const float *)&v[i])[e], acc[e]);
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
