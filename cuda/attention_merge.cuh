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

// Part k of the pair is partial row from + k * step. Weights are made 32 parts at a time, one per lane; values are on their way 16 parts
// at a time (in `v`), before anything else is known, and are summed in the order of the parts. An empty part has o = 0 and weight 0 and
// leaves no trace, so the number of parts does not matter. Parts may have been written by other multiprocessors in this very launch, so
// they are read from L2. Short code: a block that merges does so once in a launch, and waits for every instruction to come.
enum { MERGE_AHEAD = 16 };
template <int D, int N>
__device__ __forceinline__ void merge_pair(const attn_part_t &part, int64_t from, int64_t step, int n_part, int64_t to, const merged_t &out,
                                           float (&v)[N]) {
    constexpr int E = D / 32;
    static_assert(MERGE_AHEAD * E <= N, "room for the values");
    typedef typename lanes_t<E>::type vec;
    const int lane = threadIdx.x & 31;
    const vec *next = (const vec *)(part.o + from * D) + lane;
    const float lse0 = lane < n_part ? __ldcg(part.lse + from + lane * step) : -INFINITY;
    float mx = lse0, w = 0, wm = 0, sum = 0, mm = 0, acc[E], best[ATTN_TOP];
#pragma unroll
    for (int e = 0; e < E; e++) acc[e] = 0;
    top_clear(best);
#pragma unroll 1
    for (int k0 = 0; k0 < n_part; k0 += MERGE_AHEAD) {
#pragma unroll
        for (int i = 0; i < MERGE_AHEAD; i++) { // beyond the last: that again, with weight 0
            const vec x = __ldcg(next);
            if (k0 + i + 1 < n_part) next += step * 32;
#pragma unroll
            for (int e = 0; e < E; e++) v[E * i + e] = ((const float *)&x)[e];
        }
        if (k0 == 0) {
#pragma unroll 1
            for (int k = lane + 32; k < n_part; k += 32) mx = fmaxf(mx, __ldcg(part.lse + from + k * step));
#pragma unroll
            for (int x = 16; x; x >>= 1) mx = fmaxf(mx, __shfl_xor_sync(~0u, mx, x));
        }
        if (k0 % 32 == 0) {
            const int k = k0 + lane;
            const int64_t at = from + k * step;
            w = k < n_part && mx != -INFINITY ? expf((k0 ? __ldcg(part.lse + at) : lse0) - mx) : 0.f;
            wm = out.m && w > 0 ? w * __ldcg(part.m + at) : 0.f;
            if (out.top && k < n_part) {
                float more[ATTN_TOP];
#pragma unroll
                for (int e = 0; e < ATTN_TOP; e++) more[e] = __ldcg(part.top + at * ATTN_TOP + e);
                top_merge(best, more);
            }
        }
#pragma unroll
        for (int i = 0; i < MERGE_AHEAD; i++) {
            const float wk = __shfl_sync(~0u, w, (k0 + i) & 31);
            sum += wk;
            mm += __shfl_sync(~0u, wm, (k0 + i) & 31);
#pragma unroll
            for (int e = 0; e < E; e++) acc[e] = fmaf(wk, v[E * i + e], acc[e]);
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
#pragma unroll 1
    for (int x = 16; x; x >>= 1) top_merge_lanes(best, x);
    if (lane == 0)
#pragma unroll
        for (int e = 0; e < ATTN_TOP; e++) out.top[to * ATTN_TOP + e] = best[e];
}

#endif
