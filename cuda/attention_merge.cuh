// The merge of split sums (attention_plan.cuh): the parts of one (row, head), in their order, by one warp. A kernel of its own does it for
// many rows; for few, the block that finishes a row's last part. Both call this function, so the bits do not depend on who does it.
#ifndef CUDA_ATTENTION_MERGE_CUH
#define CUDA_ATTENTION_MERGE_CUH

#include "attention_plan.cuh"
#include "top.cuh"

typedef struct { // where merged results go; m and top may be NULL, lse too
    float *o, *lse, *m, *top;
} merged_t;

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
    auto fetch_top = [&](int k, float (&top)[ATTN_TOP]) {
#pragma unroll
        for (int e = 0; e < ATTN_TOP; e++) top[e] = __ldcg(part.top + (from + k * step) * ATTN_TOP + e);
    };
    fetch(0);
    top_clear(best);
    float lse = lane < n_part ? __ldcg(part.lse + from + lane * step) : -INFINITY, m = 0; // of part k0 + lane
    if (out.m && lane < n_part) m = __ldcg(part.m + from + lane * step);
    if (out.top && lane < n_part) fetch_top(lane, best);
    for (int k = lane; k < n_part; k += 32) mx = fmaxf(mx, k == lane ? lse : __ldcg(part.lse + from + k * step));
#pragma unroll
    for (int s = 16; s; s >>= 1) mx = fmaxf(mx, __shfl_xor_sync(~0u, mx, s));
#pragma unroll
    for (int e = 0; e < E; e++) acc[e] = 0;
    float w = 0, ml = 0;
    for (int k0 = 0; k0 < n_part; k0 += AHEAD) {
        if (k0) fetch(k0);
        if (k0 % 32 == 0) {
            int k = k0 + lane;
            if (k0 && k < n_part) {
                lse = __ldcg(part.lse + from + k * step);
                if (out.m) m = __ldcg(part.m + from + k * step);
                if (out.top) {
                    float more[ATTN_TOP];
                    fetch_top(k, more);
                    top_merge(best, more);
                }
            }
            w = k < n_part && mx != -INFINITY ? expf(lse - mx) : 0.f;
            ml = w > 0 ? w * m : 0.f;
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
    for (int x = 16; x; x >>= 1) top_merge_lanes(best, x);
    if (lane == 0)
#pragma unroll
        for (int e = 0; e < ATTN_TOP; e++) out.top[to * ATTN_TOP + e] = best[e];
}

#endif
